"""The live signal, on a Redis of the test's own."""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from sqlalchemy import Engine

from tests.servers import Process, RedisTestServer, free_port, wait_until
from tests.store import ask, counted, create, enqueue, put, take, undone
from worker import create as creating
from worker import inbox, recipients, signal
from worker.database import get_engine, transaction, utcnow
from worker.settings import Settings

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("catalogue")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisTestServer]:
    """One Redis for all of these tests."""
    with RedisTestServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def on(
    engine: Engine, configure: Callable[..., None], server: RedisTestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signals are published."""
    monkeypatch.setattr(signal, "_quiet_until", 0.0)
    configure(SIGNAL="on", SIGNAL_URL=server.url)


class Listener:
    """One who listens to some inboxes."""

    def __init__(self, url: str, *who: str) -> None:
        client: Any = redis.Redis.from_url(url)
        self._client, self._pubsub = client, client.pubsub()
        self._pubsub.subscribe(*map(signal.channel, who))
        for _ in who:
            assert (self._pubsub.get_message(timeout=5) or {})["type"] == "subscribe"

    def heard(self, count: int) -> list[dict[str, Any]]:
        """The next `count` signals, and that there are no more so far."""
        found = [self._pubsub.get_message(timeout=5) for _ in range(count)]
        assert self._pubsub.get_message(timeout=0.1) is None
        return [json.loads((one or {})["data"]) for one in found]

    def close(self) -> None:
        self._pubsub.close()
        self._client.close()


@pytest.fixture
def listen(server: RedisTestServer) -> Iterator[Callable[..., Listener]]:
    """Listen to inboxes, until the test's end."""
    made: list[Listener] = []

    def start(*who: str) -> Listener:
        made.append(Listener(server.url, *who))
        return made[-1]

    yield start
    for one in made:
        one.close()


Listen = Callable[..., Listener]


def create_now(*asked: Any) -> None:
    create(*asked, now=utcnow())


@pytest.mark.usefixtures("on")
def test_a_creation_is_told_in_numbers(listen: Listen) -> None:
    """The id, whose, how many: the whole message; of another inbox nothing is heard."""
    paul = listen("paul")
    create_now(ask(["paul", "chani"]))
    with transaction() as session:
        [row] = inbox.list(session, "paul").items
    assert [{"id": str(row.id), "recipient_id": "paul", "total": 1, "unseen": 1}] == paul.heard(1)


@pytest.mark.usefixtures("on")
def test_one_signal_per_inbox_and_transaction(listen: Listen) -> None:
    """However many notifications it made."""
    both = listen("paul", "chani")
    create_now(ask(["paul", "chani"]), ask("paul"), ask("paul"))
    found = {one["recipient_id"]: one["total"] for one in both.heard(2)}
    assert {"paul": 3, "chani": 1} == found


@pytest.mark.usefixtures("on")
def test_nothing_is_told_before_the_commit_or_after_a_rollback(listen: Listen) -> None:
    """A savepoint's end is no commit."""
    paul = listen("paul")
    with undone() as session:
        creating.create(session, [ask("paul")], now=utcnow())
    with transaction() as session:
        creating.create(session, [ask("paul")], now=utcnow())
        session.begin_nested().commit()
        assert [] == paul.heard(0)
    assert [1] == [one["total"] for one in paul.heard(1)]


@pytest.mark.usefixtures("on")
def test_what_was_noted_is_told(listen: Listen) -> None:
    """For changes of many rows the id is null; the counts are those after the commit."""
    paul = listen("paul")
    create_now(ask("paul"))
    with transaction() as session:
        assert 1 == inbox.mark_all_seen(session, "paul")
        signal.note(session, {"paul": None})
    assert {"id": None, "recipient_id": "paul", "total": 1, "unseen": 0} == paul.heard(2)[-1]


@pytest.mark.usefixtures("on")
def test_the_counts_are_those_of_the_inbox(listen: Listen) -> None:
    """Seen, unseen, expired, not yet there: as `worker.inbox.counts` counts them."""
    now, hour = utcnow(), timedelta(hours=1)
    put("paul", now - hour)
    put("paul", now - hour, seen_at=now)
    put("paul", now - 2 * hour, expire_at=now - hour)
    put("paul", now - hour, expire_at=now + hour)
    put("paul", now + hour)
    paul = listen("paul")
    assert 1 == signal.publish(get_engine(), {"paul": None})
    with transaction() as session:
        counts = inbox.counts(session, "paul")
    [heard] = paul.heard(1)
    assert (3, 2) == (counts.total, counts.unseen) == (heard["total"], heard["unseen"])


@pytest.mark.usefixtures("on")
def test_nobody_listens_nothing_is_counted(listen: Listen) -> None:
    """Then there is no query; and for a thousand who listen there is one."""
    many: dict[str, UUID | None] = {f"r{n}": uuid4() for n in range(1000)}
    with counted() as statements:
        assert 0 == signal.publish(get_engine(), many)
    assert [] == statements
    crowd = listen(*many)
    with counted() as statements:
        assert 1000 == signal.publish(get_engine(), many)
    assert 1 == len([one for one in statements if "count" in one])
    assert set(many) == {one["recipient_id"] for one in crowd.heard(1000)}


@pytest.mark.parametrize(("setting", "expected"), [("on", 0), ("all", 3), ("off", 0)])
def test_pages_of_a_fan_out(
    on: None, configure: Callable[..., None], listen: Listen, setting: str, expected: int
) -> None:
    """Only where the setting says so."""
    configure(SIGNAL=setting, CREATE_BATCH=2)
    with transaction() as session:
        recipients.set_group(session, "fremen", ["paul", "chani", "stilgar"])
    crowd = listen("paul", "chani", "stilgar")
    enqueue(ask({"group": "fremen"}))
    take()
    take(bulk=True)
    take(bulk=True)
    assert expected == len(crowd.heard(expected))


def test_a_redis_that_is_away_harms_nothing(
    on: None, configure: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, without names, and left alone for a while; the notifications are there."""
    configure(SIGNAL_URL=f"redis://127.0.0.1:{free_port()}/0")
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        create_now(ask("paul"))
        create_now(ask("paul"))
    assert time.monotonic() - started < 5
    assert ["inboxes that changed could not be signalled (ConnectionError)"] == [one.message for one in caplog.records]
    with transaction() as session:
        assert 2 == inbox.counts(session, "paul").total


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"broker_url": "redis://one/0"}, "redis://one/0"),
        ({"broker_url": "redis://one/0", "signal_url": "rediss://two/1"}, "rediss://two/1"),
        ({"broker_url": "amqp://one", "signal_url": "redis://two/1"}, "redis://two/1"),
        ({"broker_url": "redis+socket:///tmp/r.sock?virtual_host=2"}, "unix:///tmp/r.sock?db=2"),
        ({"broker_url": "amqp://one"}, None),
        ({"broker_url": "redis://one/0", "signal": "off"}, None),
    ],
)
def test_where_signals_go(settings: dict[str, Any], expected: str | None) -> None:
    """The broker where it is Redis, unless told otherwise; elsewhere nothing is published."""
    assert expected == signal.signal_url(Settings(**{"signal": "on", **settings}))


def test_by_a_socket(on: None, configure: Callable[..., None], server: RedisTestServer, listen: Listen) -> None:
    """As the embedded Redis is reached."""
    configure(SIGNAL_URL=server.socket_url)
    paul = listen("paul")
    create_now(ask("paul"))
    assert 1 == len(paul.heard(1))


def test_the_example_shows_what_changes(on: None, database_url: str, server: RedisTestServer, tmp_path: Path) -> None:
    """It prints the counts of its one inbox at the start and after a creation."""
    command = [sys.executable, str(ROOT / "examples" / "live_inbox.py"), "paul"]
    env = {"DATABASE_URL": database_url, "SIGNAL_URL": server.url, "PYTHONPATH": str(ROOT)}
    with Process(command, tmp_path / "example.log", env=env, cwd=ROOT) as example:
        wait_until(lambda: "0 unseen of 0" in example.log_text(), 20, "the example listens")
        create_now(ask("paul"))
        wait_until(lambda: "1 unseen of 1; changed: " in example.log_text(), 10, "the example hears")


@pytest.mark.usefixtures("on")
def test_marking_and_removing_is_signalled(listen: Callable[..., Listener]) -> None:
    """Each change that the recipient makes tells their other screens the new counts, once it is committed."""
    first, second = (put("r1", utcnow() - timedelta(minutes=1)) for _ in range(2))
    ears = listen("r1", "r2")
    with transaction() as session:
        inbox.mark_seen(session, "r1", first)
        assert [] == ears.heard(0)
    assert [{"id": str(first), "recipient_id": "r1", "total": 2, "unseen": 1}] == ears.heard(1)
    with transaction() as session:
        inbox.mark_all_seen(session, "r1")
    assert [{"id": None, "recipient_id": "r1", "total": 2, "unseen": 0}] == ears.heard(1)
    with transaction() as session:
        inbox.delete(session, "r1", second)
    assert [{"id": str(second), "recipient_id": "r1", "total": 1, "unseen": 0}] == ears.heard(1)
    with transaction() as session:
        inbox.delete_seen(session, "r1")
    assert [{"id": None, "recipient_id": "r1", "total": 0, "unseen": 0}] == ears.heard(1)
