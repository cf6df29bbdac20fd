"""One run of `notifications.create` takes along what else waits; nobody else's mistake is its own."""

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from tests.servers import RedisTestServer, wait_until
from tests.store import enqueue, rows
from tests.workers import foreign_app, running_worker
from worker import handover, pending, tasks, transport
from worker.errors import IdempotencyConflict, StoreUnavailable, UnknownEvent
from worker.gather import Gathered, TaskMessage
from worker.ids import uuid7
from worker.models import Notification, Request
from worker.request import NotificationRequest

pytestmark = pytest.mark.usefixtures("catalogue")


def wire(to: Any = "reader", **fields: Any) -> dict[str, Any]:
    book = {"event_config_name": "quiet", "context": {"title": "Dune"}}
    return {"id": str(uuid7()), "to": to, **book, **fields}


class Taken:
    """Where the messages came from: says what became of them."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *requests: Any, kwargs: Sequence[dict[str, Any]] | None = None
    ) -> None:
        self.done: dict[str, list[int]] = {"ack": [], "back": []}
        self.published: list[tuple[str, dict[str, Any]]] = []
        each = [{"request": request} for request in requests] if kwargs is None else kwargs
        messages = [(place, TaskMessage(str(uuid7()), values)) for place, values in enumerate(each)]
        monkeypatch.setattr(tasks, "_gather", lambda: Gathered(self, messages))
        monkeypatch.setattr(handover, "publish", self.publish)

    def publish(self, name: str, **more: Any) -> bool:
        self.published.append((name, more))
        return True

    def ack(self, places: Any) -> None:
        self.done["ack"] += places

    def give_back(self, places: Any) -> None:
        self.done["back"] += places


def told() -> list[str]:
    return sorted(row.recipient_id for row in rows(Notification))


def test_all_are_created_in_one_transaction(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, configure: Callable[..., None]
) -> None:
    """Requests of every shape, a large audience among them; a message without an id is named by its task's."""
    configure(CREATE_BATCH=2)
    nameless = wire("nameless")
    del nameless["id"]
    twice = wire("twice")
    taken = Taken(monkeypatch, wire(["a", "b"]), twice, twice, nameless, wire(["x", "y", "z"]))
    assert 1 == tasks.create(request=wire("own"))["fan_outs"]
    assert ({"ack": [0, 1, 2, 3, 4], "back": []}, ["a", "b", "nameless", "own", "twice"]) == (
        taken.done,
        told(),
    )
    tasks.create_pending(bulk=True)
    assert ["x", "y", "z"] == told()[-3:]


def test_a_wrong_one_goes_back_and_the_others_are_created(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It will run alone, and fail by its own name."""
    taken = Taken(monkeypatch, wire("a"), wire("b", event_config_name="nothing"), {"to": 1}, None, wire("c"))
    tasks.create(request=wire("own"))
    assert ({"ack": [0, 4], "back": [1, 2, 3]}, ["a", "c", "own"]) == (taken.done, told())
    assert {"created"} == {row.status for row in rows(Request)}


def test_our_own_mistake_is_not_the_others(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task fails as it would have alone."""
    taken = Taken(monkeypatch, wire("a"))
    with pytest.raises(UnknownEvent):
        tasks.create(request=wire("own", event_config_name="nothing"))
    assert ({"ack": [0], "back": []}, ["a"]) == (taken.done, told())


def test_of_two_under_one_id_the_first_is_created(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if they had run one after the other."""
    own = wire("own")
    taken = Taken(monkeypatch, {**own, "to": "other"})
    tasks.create(request=own)
    assert ([0], ["own"]) == (taken.done["back"], told())
    Taken(monkeypatch)
    with pytest.raises(IdempotencyConflict):
        tasks.create(request={**own, "to": "other"})


def test_when_the_transaction_breaks_each_runs_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All go back but our own, which is created by itself."""
    create = pending.create_or_fan_out

    def broken(session: Any, requests: Any, **more: Any) -> Any:
        done = create(session, requests, **more)
        if len(requests) > 1:
            raise ZeroDivisionError("CANARY")
        return done

    monkeypatch.setattr(pending, "create_or_fan_out", broken)
    taken = Taken(monkeypatch, wire("a"), wire("b"))
    with caplog.at_level(logging.WARNING):
        tasks.create(request=wire("own"))
    assert ({"ack": [], "back": [0, 1]}, ["own"]) == (taken.done, told())
    assert "ZeroDivisionError" in caplog.text
    assert "CANARY" not in caplog.text


def test_many_recipients_are_several_transactions(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed before one of them breaks is done, the rest goes back."""
    monkeypatch.setattr(tasks, "GATHERED_RECIPIENTS", 4)
    create, calls = pending.create_or_fan_out, list[int]()

    def third_breaks(session: Any, requests: Any, **more: Any) -> Any:
        calls.append(len(requests))
        if len(calls) == 3:
            raise ZeroDivisionError
        return create(session, requests, **more)

    monkeypatch.setattr(pending, "create_or_fan_out", third_breaks)
    taken = Taken(monkeypatch, *(wire([f"{n}-a", f"{n}-b"]) for n in range(5)))
    tasks.create(request=wire("own"))
    assert ([2, 2, 2], [0, 1, 2], [3, 4]) == (calls, taken.done["ack"], taken.done["back"])
    assert 7 == len(told())


def test_a_wake_up_takes_the_others_along(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """They tell of nothing else; one for the bulk queue is somebody else's."""
    enqueue(*(NotificationRequest.parse(wire(name)) for name in "abc"))
    taken = Taken(monkeypatch, kwargs=[{}, {"bulk": True}, {"bulk": False}])
    assert {"requests": 3} == tasks.create_pending()
    assert ({"ack": [0, 2], "back": [1]}, [], ["a", "b", "c"]) == (taken.done, taken.published, told())


@pytest.mark.parametrize(("others", "wakes"), [(2, 1), (0, 0)])
def test_for_much_that_waits_help_is_woken_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, others: int, wakes: int
) -> None:
    """The workers whose wake-ups were taken along would have shared the work."""
    monkeypatch.setattr(tasks, "PENDING_BATCH", 2)
    enqueue(*(NotificationRequest.parse(wire(str(number))) for number in range(7)))
    taken = Taken(monkeypatch, kwargs=[{}] * others)
    assert {"requests": 7} == tasks.create_pending()
    assert [("notifications.create_pending", {"queue": None, "bulk": False})] * wakes == taken.published
    assert 7 == len(told())


def test_a_wake_up_that_breaks_stands_for_those_it_took(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again itself: they need not come back one by one."""
    enqueue(NotificationRequest.parse(wire("a")))
    taken = Taken(monkeypatch, kwargs=[{}, {}])

    def away(*_: Any, **__: Any) -> Any:
        raise OperationalError("select", None, Exception("away"))

    with monkeypatch.context() as patch:
        patch.setattr(pending, "create_taken", away)
        with pytest.raises(StoreUnavailable):
            tasks.create_pending()
    assert ({"ack": [0, 1], "back": []}, []) == (taken.done, told())
    Taken(monkeypatch)
    assert {"requests": 1} == tasks.create_pending()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RedisTestServer]:
    with RedisTestServer(tmp_path / "redis") as server:
        yield server


def test_a_worker_takes_a_whole_queue_along(
    new_postgres_url: Callable[[], str], broker: RedisTestServer, tmp_path: Path
) -> None:
    """Far fewer runs than messages; each is created once, and a wrong one among them fails and is kept."""
    url, count = new_postgres_url(), 300
    wrong = wire("nobody", event_config_name="nothing")
    with foreign_app(broker.url) as app:
        for number in range(count):
            request = wrong if number == 150 else wire(f"reader-{number}")
            app.send_task("notifications.create", kwargs={"request": request}, queue="notifications")
    engine = create_engine(url)

    def state(sql: str) -> int:
        with engine.connect() as connection:
            return int(connection.execute(text(sql)).scalar_one())

    settings = {"DATABASE_URL": url, "BROKER_URL": broker.url, "SIGNAL": "off"}
    with running_worker(tmp_path, settings, "-c", "1", "-Q", "notifications") as worker:
        wait_until(lambda: state("SELECT count(*) FROM requests") == count, 30, "all are created or kept")
        wait_until(lambda: "UnknownEvent" in worker.log_text(), 20, "the wrong one failed by its name")
        runs = worker.log_text().count("notifications.create[") // 2
    assert (count - 1, 1) == (
        state("SELECT count(*) FROM notifications"),
        state("SELECT count(*) FROM requests WHERE status = 'failed'"),
    )
    assert runs < 20
    engine.dispose()


def test_a_worker_takes_waiting_wake_ups_along(
    new_postgres_url: Callable[[], str], broker: RedisTestServer, tmp_path: Path
) -> None:
    """A few runs for hundreds of them, and all that waits is created."""
    url = new_postgres_url()
    engine = create_engine(url)
    with Session(engine) as session, session.begin():
        pending.enqueue(session, *(NotificationRequest.parse(wire(str(n))) for n in range(50)), now=datetime.now(UTC))
    with foreign_app(broker.url) as app:
        for _ in range(200):
            app.send_task("notifications.create_pending", queue="notifications")

    def count(sql: str) -> int:
        with engine.connect() as connection:
            return int(connection.execute(text(sql)).scalar_one())

    settings = {"DATABASE_URL": url, "BROKER_URL": broker.url, "SIGNAL": "off"}
    with (
        running_worker(tmp_path, settings, "-c", "2", "-Q", "notifications") as worker,
        Redis.from_url(broker.url) as r,
    ):
        wait_until(lambda: count("SELECT count(*) FROM notifications") == 50, 30, "all are created")
        wait_until(lambda: not r.llen("notifications") and not r.hlen("unacked"), 20, "no wake-up is left")
        assert worker.log_text().count("succeeded in") < 20
    assert 0 == count("SELECT count(*) FROM requests WHERE status = 'pending'")
    engine.dispose()


def test_what_waits_is_not_looked_for_where_nothing_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was given the only message there was spares itself the question."""
    asked: list[str] = []

    def gather(_app: Any, queue: str, *_: Any) -> Gathered:
        asked.append(queue)
        return Gathered()

    monkeypatch.setattr(tasks, "gather", gather)
    for only_one in (True, False):
        delivery = {"routing_key": "notifications", "redelivered": False}
        tasks.create.push_request(called_directly=False, delivery_info=delivery, **{transport.ONLY_ONE: only_one})
        monkeypatch.setattr(tasks, "current_task", tasks.create)
        tasks._gather()
        tasks.create.pop_request()
    assert ["notifications"] == asked
