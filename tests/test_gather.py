"""Messages of one task taken together: which are, in which order, and that none is lost or taken by two."""

import json
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.transport import _transport_cache

from tests.chaos_transport import silent_port
from tests.kombu_inbox import die, forked
from tests.servers import RedisTestServer
from worker import gather as module
from worker import transport
from worker.gather import Gathered, gather

TASK, QUEUE = "notifications.create", "notifications"


def make_app(url: str, **options: Any) -> Celery:
    """An app on our transport."""
    transport.install()
    _transport_cache.pop("redis", None)  # of another test's stock transport
    app = Celery("tests", broker=url, set_as_current=False)
    app.conf.broker_transport_options = options
    return app


@pytest.fixture
def app(redis_server: RedisTestServer, redis: Any) -> Iterator[Celery]:
    """An app on the empty Redis."""
    with make_app(redis_server.url) as app:
        yield app
        forget()


def forget() -> None:
    """Close this thread's own connection, as the end of the process would."""
    if module._own.connection:
        module._own.connection.release()
    module._own.channel = module._own.connection = module._own.key = None


def send(app: Celery, *numbers: Any, name: str = TASK, **options: Any) -> None:
    """Publish as any Celery producer does."""
    for number in numbers:
        app.send_task(name, kwargs={"request": number}, queue=QUEUE, **options)


def take(app: Celery, limit: int = 100) -> Gathered:
    return gather(app, QUEUE, TASK, limit)


def requests(gathered: Gathered) -> list[Any]:
    return [message.kwargs["request"] for message in gathered.messages]


def lengths(redis: Any, prefix: str = "") -> tuple[int, int, int]:
    """Waiting, recorded, and in the index."""
    names = [f"{prefix}{QUEUE}{step}" for step in ("", "\x06\x163", "\x06\x166", "\x06\x169")]
    waiting = sum(redis.llen(name) for name in names)
    return waiting, redis.hlen(f"{prefix}unacked"), redis.zcard(f"{prefix}unacked_index")


def test_gathers_in_order_up_to_the_limit(app: Celery, redis: Any) -> None:
    """The oldest first; they are recorded until they are acknowledged, and the rest waits."""
    send(app, *range(10))
    gathered = take(app, 7)
    assert list(range(7)) == requests(gathered)
    assert all(len(message.id) == 36 for message in gathered.messages)
    assert (3, 7, 7) == lengths(redis)
    gathered.ack()
    assert (3, 0, 0) == lengths(redis)
    assert [] == gathered.messages
    gathered.ack()
    assert [7, 8, 9] == requests(take(app))
    assert [] == take(app).messages


def test_the_most_urgent_first(app: Celery, redis: Any) -> None:
    """Over the priority steps, as the worker would take them."""
    for number, priority in enumerate([9, 0, 3, 0, 6, 9]):
        send(app, number, priority=priority)
    assert [1, 3, 2, 4, 0] == requests(take(app, 5))


LATER = datetime.now(UTC) + timedelta(hours=1)
OTHERS: dict[str, dict[str, Any]] = {
    "another task": {"name": "notifications.create_many"},
    "a longer name": {"name": f"{TASK}_"},
    "a countdown": {"countdown": 60},
    "an expiry": {"expires": LATER},
    "a retry": {"retries": 1},
    "positional arguments": {"args": (1,)},
    "a callback": {"link": Celery(set_as_current=False).signature("x")},
    "the name in a stamp": {"name": "x", "stamped_headers": ["task"], "task": TASK},
}


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_what_differs_is_left_and_ends_the_gathering(app: Celery, redis: Any, options: dict[str, Any]) -> None:
    """Whatever is not a plain first delivery stays for the ordinary way, and nothing behind it overtakes it."""
    send(app, 1)
    send(app, 2, **options)
    send(app, 3)
    send(app, 4, priority=9)
    gathered = take(app)
    assert 1 == requests(gathered)[0]
    assert 2 not in requests(gathered)
    gathered.ack()
    before = lengths(redis)
    assert 0 == before[1] == before[2]
    assert 2 not in requests(take(app))


@pytest.mark.parametrize("item", ["no json", "{}", "[1]"])
def test_what_is_no_message_is_left(app: Celery, redis: Any, item: str) -> None:
    """It stays in its queue."""
    redis.lpush(QUEUE, item)
    send(app, 1)
    assert [] == take(app).messages
    assert (2, 0, 0) == lengths(redis)


def test_an_unreadable_body_is_given_back(app: Celery, redis: Any) -> None:
    """It looks right from outside: it goes back, marked, so that it is not gathered again."""
    send(app, 1, 2)
    broken = json.loads(redis.lindex(QUEUE, -1)) | {"body": "bm8ganNvbg=="}
    redis.lset(QUEUE, -1, json.dumps(broken))
    assert [2] == requests(take(app))
    assert (1, 1, 1) == lengths(redis)
    assert [] == take(app).messages


def test_a_gathering_ends_by_size(app: Celery, redis: Any) -> None:
    """Large messages come in smaller gatherings, and too large ones not at all."""
    send(app, *["x" * 300_000] * 4)
    assert 2 == len(take(app).messages)
    redis.flushall()
    send(app, "x" * 900_000)
    assert [] == take(app).messages


def test_given_back_in_order_and_run_one_by_one(app: Celery, redis: Any) -> None:
    """All or some: they are the next of their queue, in their order, marked as redelivered and never gathered again."""
    send(app, *range(6))
    gathered = take(app, 5)
    gathered.give_back(*gathered.messages[1:3])
    assert [0, 3, 4] == requests(gathered)
    assert (3, 3, 3) == lengths(redis)
    gathered.give_back()
    assert (6, 0, 0) == lengths(redis)
    assert [] == take(app).messages
    with app.connection_for_read() as connection:
        channel = connection.channel()
        found = [channel.basic_get(QUEUE, no_ack=True) for _ in range(6)]
    assert [0, 3, 4, 1, 2, 5] == [message.decode()[1]["request"] for message in found]
    assert [True] * 5 == [message.headers.get("redelivered") for message in found[:5]]


def test_only_those_that_are_done_are_forgotten(app: Celery, redis: Any) -> None:
    """Those between them, which could not be given back, stay recorded."""
    send(app, *range(7))
    source: Any = take(app)._source
    source.ack([1, 2, 4, 7])
    left = {tag.rpartition(b":")[2] for tag in redis.hkeys("unacked")}
    assert {b"3", b"5", b"6"} == left == {tag.rpartition(b":")[2] for tag in redis.zrange("unacked_index", 0, -1)}


def test_a_key_prefix(redis_server: RedisTestServer, redis: Any) -> None:
    """`global_keyprefix` is in front of every key."""
    with make_app(redis_server.url, global_keyprefix="mine:") as app:
        send(app, 1, 2, 3)
        gathered = take(app, 2)
        assert (1, 2, 2) == lengths(redis, "mine:")
        gathered.give_back(gathered.messages[1])
        gathered.ack()
        assert (2, 0, 0) == lengths(redis, "mine:")
        assert all(key.startswith(b"mine:") for key in redis.scan_iter())
        forget()


def test_a_repeated_script_loses_nothing(app: Celery, redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer was lost and the client sent the script again: the records of the first run stand."""
    monkeypatch.setattr(module, "uuid4", lambda: "same")
    send(app, *range(4))
    take(app, 2)
    assert [] == take(app, 2).messages
    assert (2, 2, 2) == lengths(redis)


def test_a_full_redis_takes_nothing(app: Celery, redis: Any) -> None:
    """Memory is at its limit: what cannot be recorded stays where it is."""
    send(app, 1)
    redis.config_set("maxmemory", 1)
    try:
        assert [] == take(app).messages
    finally:
        redis.config_set("maxmemory", 0)
    assert (1, 0, 0) == lengths(redis)


def test_killed_between_taking_and_acknowledging(app: Celery, redis: Any, redis_server: RedisTestServer) -> None:
    """Everything comes back after the visibility time-out, by stock kombu's sweep too, and is not gathered again."""
    send(app, *range(20))
    assert -signal.SIGKILL == forked(lambda: die(take(app)))
    assert (0, 20, 20) == lengths(redis)
    options = {"visibility_timeout": -1}
    with app.connection_for_read(transport="kombu.transport.redis:Transport", transport_options=options) as connection:
        connection.channel().qos.restore_visible(num=None)
    assert (20, 0, 0) == lengths(redis)
    assert [] == take(app).messages


def test_redis_goes_away_and_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is raised; what was taken stays recorded, and gathering goes on when Redis is back."""
    with RedisTestServer(tmp_path / "redis") as server, make_app(server.url) as app:
        send(app, 1, 2)
        gathered = take(app, 1)
        server.kill()
        assert [] == take(app).messages
        gathered.ack()
        assert "gathered messages come back later" in caplog.text
        server.start()
        with server.server.client() as client:
            assert (1, 1, 1) == lengths(client)
        assert [2] == requests(take(app))
        forget()


def test_a_silent_redis_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host takes the connection and says nothing."""
    with silent_port() as port, make_app(f"redis://127.0.0.1:{port}", socket_timeout=0.2) as app:
        assert [] == take(app).messages
        forget()


def test_a_child_has_a_connection_of_its_own(app: Celery, redis: Any) -> None:
    """What the parent had open before the fork is not used by the child."""
    send(app, 1, 2)
    take(app, 1)
    parents = module._own.connection

    def take_another() -> None:
        os._exit(0 if [2] == requests(take(app)) and parents is not module._own.connection else 2)

    assert 0 == forked(take_another)
    send(app, 3)
    assert [3] == requests(take(app))


def test_another_broker_gathers_nothing() -> None:
    """The messages stay for the ordinary way."""
    with make_app("memory://") as app:
        send(app, 1)
        gathered = take(app)
        assert [] == gathered.messages
        gathered.ack()
        gathered.give_back()
        forget()
