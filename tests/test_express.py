"""worker.express: the short way publishes what Celery would, and is taken only where nothing is missed by it."""

import gc
import itertools
import json
import logging
import os
import signal
import threading
import weakref
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import kombu
import pytest
import redis as redis_py
from celery import Celery, signals
from celery._state import _task_stack
from celery.app.amqp import AMQP
from redis.connection import AbstractConnection

from tests.kombu_inbox import STOCK, Connect, Inbox, forked
from tests.servers import RedisTestServer, wait_until
from tests.signed import key, signed
from tests.test_attachments import file
from tests.test_gather import QUEUE, TASK, forget, make_app, take
from worker import client, express, signing, wake
from worker.client import PublishError, connect, notify, notify_many
from worker.request import NotificationRequest

EVENT = "book_available"
MANY = "notifications.create_many"


def shop(url: str, **options: Any) -> Celery:
    """An application's own Celery app."""
    app = Celery("shop", broker=url, set_as_current=False)
    app.conf.broker_transport_options = options
    return app


@pytest.fixture(autouse=True)
def unsigned() -> Iterator[None]:
    with signed(""):
        yield


@pytest.fixture
def app(redis_server: RedisTestServer, redis: Any) -> Iterator[Celery]:
    """An application that has a short way, and an empty queue."""
    with closing(shop(redis_server.url)) as app:
        learn(app)
        redis.flushall()
        yield app


def learn(app: Celery) -> express.Way:
    """The short way that the first message shows."""
    notify(to="first", title="first", app=app)
    way = express.find(app, TASK)
    assert way
    return way


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of what goes by the short way."""
    ids: list[str] = []
    send = express.Way.send

    def spy(way: express.Way, app: Celery, tasks: Sequence[tuple[str, bytes]]) -> int:
        done = send(way, app, tasks)
        ids.extend(id for id, _ in tasks[:done])
        return done

    monkeypatch.setattr(express.Way, "send", spy)
    return ids


def titles(redis: Any) -> list[str]:
    """Of all requests in the queue, in order."""
    bodies = [json.loads(b64decode(json.loads(item)["body"])) for item in reversed(redis.lrange(QUEUE, 0, -1))]
    return [body[1]["request"]["title"] for body in bodies]


def opened(item: bytes) -> tuple[str, Any, dict[str, str]]:
    """A message's text without what differs each time, its body, and that."""
    message = json.loads(item)
    own = {"body": message["body"], "tag": message["properties"]["delivery_tag"]}
    own["signature"] = message["headers"].get(signing.HEADER, "<none>")
    text = item.decode()
    for name, value in own.items():
        text = text.replace(value, f"<{name}>")
    return text, json.loads(b64decode(message["body"])), own


FULL: dict[str, Any] = {
    "to": [{"id": "u1", "email": "ü@example.org", "lang": "pt-BR", "context": {"own": [1, {"id": "x"}]}}, "u2"],
    "event_config_name": EVENT,
    "context": {"title": 'Дюна \u2028 % %(id)s \\ "', "float": 1e22, "big": 2**70, "deep": {"a": [None, True]}},
    "send_at": "2030-01-31T08:00:00+01:00",
    "should_email": False,
    "link": "/a?b=%20",
}
REQUESTS = {
    "plain": {"to": "u1", "event_config_name": EVENT},
    "unicode": {"to": 'ü"\\}]', "title": "Grüße 👋", "text": "a\nb"},
    "full": FULL,
    "files": {"to": {"id": "u1"}, "event_config_name": EVENT, "attachments": [file(), file("b.pdf", b"\xff\0")]},
}


@pytest.mark.parametrize("options", [{}, {"global_keyprefix": "mine:%s"}], ids=["", "prefix"])
@pytest.mark.parametrize("keys", ["", key(1)], ids=["", "signed"])
@pytest.mark.parametrize("asked", REQUESTS.values(), ids=REQUESTS)
def test_the_message_is_celerys(
    redis_server: RedisTestServer,
    redis: Any,
    monkeypatch: pytest.MonkeyPatch,
    quick: list[str],
    asked: dict[str, Any],
    keys: str,
    options: dict[str, str],
) -> None:
    """In the same list, to the letter, but for the delivery tag and how the body's JSON is spaced."""
    id = UUID(int=7 << 76 | 4711)
    name = options.get("global_keyprefix", "") + QUEUE
    with signed(keys), closing(shop(redis_server.url[:-1] + "3", **options)) as app:
        learn(app)
        redis.select(3)
        redis.delete(name)
        assert id == notify(**asked, id=id, app=app)
        assert [str(id)] == quick
        monkeypatch.setattr(express, "find", lambda *_: None)
        assert id == notify(**asked, id=id, app=app)
        assert [str(id)] == quick
        items = redis.lrange(name, 0, -1)
        (text, body, own), (celerys_text, celerys_body, celerys_own) = map(opened, items)
        assert (celerys_text, celerys_body) == (text, body)
        assert 3 == text.count(str(id))
        assert {"request"} == set(body[1])
        for each in (own, celerys_own):
            assert each["tag"] == str(UUID(each["tag"]))
            assert bool(keys) is (each["signature"] != "<none>")
            assert not keys or signing.signature(TASK, str(id), b64decode(each["body"])) == each["signature"]
        assert own["tag"] != celerys_own["tag"]


@pytest.mark.parametrize("keys", ["", key(1)], ids=["", "signed"])
def test_workers_take_it(
    redis_server: RedisTestServer, redis: Any, connect: Connect, quick: list[str], keys: str
) -> None:
    """Ours, which gathers what waits, and any consumer on stock kombu."""
    with signed(keys), closing(shop(redis_server.url)) as app, make_app(redis_server.url) as worker:
        learn(app)
        asked = [notify(to="ü", title=f"{number}", app=app) for number in range(3)]
        assert [str(id) for id in asked] == quick
        gathered = take(worker)
        assert ["first", "0", "1", "2"] == [message.kwargs["request"]["title"] for message in gathered.messages]
        gathered.ack()
        forget()
        notify(to="ü", title="stock", app=app)
        (message,) = Inbox(connect(STOCK), QUEUE).drain(1).messages
        assert ["ü"] == message.payload[1]["request"]["to"]
        message.ack()
        assert (0, 0) == (redis.llen(QUEUE), redis.hlen("unacked"))


def test_a_child_publishes_on_its_own_connection(app: Celery, redis: Any, quick: list[str]) -> None:
    """The parent's is left as it is; the child's messages say that they are its own."""

    def publish() -> None:
        assert express.find(app, TASK) is None
        notify(to="u1", title="child", app=app)
        notify(to="u1", title="quick child", app=app)
        assert 2 == len(quick)
        app.close()

    notify(to="u1", title="parent", app=app)
    (connection,) = express._ways[app][TASK, False].connections  # type: ignore[union-attr]
    socket = connection._sock
    assert 1 == forked(publish)
    notify(to="u1", title="parent again", app=app)
    assert 2 == len(quick)
    assert connection._sock is socket
    assert ["parent", "child", "quick child", "parent again"] == titles(redis)
    origins = [json.loads(item)["headers"]["origin"] for item in redis.lrange(QUEUE, 0, -1)]
    assert origins[0] == origins[3] != origins[1] == origins[2]
    assert f"gen{os.getpid()}@" in origins[0]


@pytest.mark.parametrize("most", [0, 2])
def test_threads_do_not_share_a_connection(
    redis_server: RedisTestServer, redis: Any, quick: list[str], app: Celery, most: int
) -> None:
    """Nothing is mixed up or lost, and no more connections are kept than the application allows."""
    with closing(shop(redis_server.url)) as limited:
        limited.conf.broker_pool_limit = most
        _publish_by_threads(limited, redis, quick, most)


def _publish_by_threads(app: Celery, redis: Any, quick: list[str], most: int) -> None:
    learn(app)
    redis.delete(QUEUE)
    ready, reply_to = threading.Barrier(4), set[str]()

    def publish(thread: int) -> None:
        ready.wait(10)
        for number in range(50):
            notify(to="u1", title=f"{thread}.{number}", app=app)
        reply_to.add(app.thread_oid)

    threads = [threading.Thread(target=publish, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {f"{thread}.{number}" for thread in range(4) for number in range(50)} == set(titles(redis))
    assert 200 == len(quick) == redis.llen(QUEUE)
    assert reply_to == {json.loads(item)["properties"]["reply_to"] for item in redis.lrange(QUEUE, 0, -1)}
    assert 4 == len(reply_to)
    way = express.find(app, TASK)
    assert way
    assert min(most, 1) <= len(way.connections) <= most


def test_a_restart_of_redis_goes_unnoticed(tmp_path: Path, quick: list[str]) -> None:
    """The connection is gone, the message is not; and the next one goes the short way again."""
    with RedisTestServer(tmp_path / "redis") as server, closing(shop(server.url)) as app:
        learn(app)
        notify(to="u1", title="before", app=app)
        server.stop()
        server.start()
        notify(to="u1", title="after", app=app)
        assert 1 == len(quick)
        notify(to="u1", title="again", app=app)
        assert 2 == len(quick)
        with server.server.client() as redis:
            assert ["first", "before", "after", "again"] == titles(redis)
        server.stop()
        for _ in range(2):
            with pytest.raises(PublishError):
                notify(to="u1", title="lost", app=app)
        server.start()
        notify(to="u1", title="back", app=app)
        with server.server.client() as redis:
            assert ["first", "before", "after", "again", "back"] == titles(redis)


def test_a_silent_broker_is_waited_for_no_longer_than_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many time-outs pass as without the short way, until it is given up."""
    monkeypatch.setitem(client.TIME_OUTS, "socket_timeout", 0.1)
    counts: list[int] = []
    for find in (express.find, lambda *_: None):
        with RedisTestServer(tmp_path / f"redis{len(counts)}") as server, closing(shop(server.url)) as app:
            learn(app)
            waits: list[int] = []
            read = AbstractConnection.read_response

            def counted(*args: Any, read: Any = read, waits: list[int] = waits, **options: Any) -> Any:
                try:
                    return read(*args, **options)
                except redis_py.TimeoutError:
                    waits.append(1)
                    raise

            with silenced(server), pytest.MonkeyPatch.context() as patch:
                patch.setattr(AbstractConnection, "read_response", counted)
                patch.setattr(express, "find", find)
                with pytest.raises(PublishError):
                    notify(to="u1", title="lost", app=app)
            counts.append(len(waits))
    quick, ordinary = counts
    assert 0 < quick <= ordinary


@contextmanager
def silenced(server: RedisTestServer) -> Iterator[None]:
    """Its host takes connections, and nothing answers."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_what_redis_refuses_is_told_as_before(app: Celery, redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Celery's error."""
    redis.set(QUEUE, "no list")
    with pytest.raises(Exception, match="WRONGTYPE") as caught:
        notify(to="u1", title="x", app=app)
    monkeypatch.setattr(express, "find", lambda *_: None)
    with pytest.raises(Exception, match="WRONGTYPE") as celerys:
        notify(to="u1", title="x", app=app)
    assert celerys.type is caught.type


def test_a_wait_that_the_application_ends_leaves_no_answer_behind(
    app: Celery, redis: Any, monkeypatch: pytest.MonkeyPatch, quick: list[str]
) -> None:
    """Its own time-out, at any moment: the connection is not used for another message."""
    way = express.find(app, TASK)
    assert way
    notify(to="u1", title="before", app=app)

    def interrupted(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AbstractConnection, "read_response", interrupted)
        with pytest.raises(KeyboardInterrupt):
            notify(to="u1", title="during", app=app)
    assert not way.connections
    notify(to="u1", title="after", app=app)
    assert {"before", "after"} <= set(titles(redis))


def test_signing_may_begin_and_keys_may_change(app: Celery, redis: Any, quick: list[str]) -> None:
    """Each message is signed by the keys of its moment."""

    def key_ids() -> list[str | None]:
        items = [json.loads(item) for item in redis.lrange(QUEUE, 0, -1)]
        signatures = [item["headers"].get(signing.HEADER) for item in items]
        for item, signature in zip(items, signatures, strict=True):
            assert signature in (None, signing.signature(TASK, item["headers"]["id"], b64decode(item["body"])))
        redis.delete(QUEUE)
        return [signature and signature[:3] for signature in signatures]

    notify(to="u1", title="x", app=app)
    assert [None] == key_ids()
    for number in (1, 2):
        connect("memory://", signing_keys=key(number)).close()
        for _ in range(2):
            notify(to="u1", title="x", app=app)
        assert [f"k{number}:"] * 2 == key_ids()
    assert 4 == len(quick)
    signing.start("")
    notify(to="u1", title="x", app=app)
    assert [None] == key_ids()
    assert 5 == len(quick)


def test_signing_may_end_meanwhile(app: Celery, redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at how messages are made, and the making: nobody sees an error, and the message is there."""
    connect("memory://", signing_keys=key(1)).close()
    learn(app)
    redis.delete(QUEUE)
    find = express.find

    def found(app: Celery, task: str) -> Any:
        way = find(app, task)
        signing.start("")
        return way

    monkeypatch.setattr(express, "find", found)
    notify(to="u1", title="x", app=app)
    assert ["x"] == titles(redis)


def receiving(hook: Any) -> Callable[[Celery], AbstractContextManager[Any]]:
    """Somebody who wants to know of each message."""

    @contextmanager
    def receive(_app: Celery) -> Iterator[list[str]]:
        calls: list[str] = []

        def call(sender: str, **_: Any) -> None:
            calls.append(sender)

        hook.connect(call)
        try:
            yield calls
        finally:
            hook.disconnect(call)

    return receive


def setting(name: str, value: Any) -> Callable[[Celery], AbstractContextManager[Any]]:
    @contextmanager
    def set(app: Celery) -> Iterator[None]:
        app.conf[name] = value
        yield

    return set


@contextmanager
def in_a_task(_app: Celery) -> Iterator[None]:
    request = SimpleNamespace(called_directly=False, root_id="root", id="parent", delivery_info={})
    _task_stack.push(SimpleNamespace(request=request, add_trail=lambda _result: None, name="task"))
    try:
        yield
    finally:
        _task_stack.pop()


def wrapping(find: Callable[[Celery], Any], name: str) -> Callable[[Celery], AbstractContextManager[Any]]:
    """What instruments libraries puts its own function in the place of theirs."""

    @contextmanager
    def wrap(app: Celery) -> Iterator[list[str]]:
        owner, calls = find(app), list[str]()
        original = getattr(owner, name)

        def wrapper(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return original(*args, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, wrapper)
            yield calls

    return wrap


@contextmanager
def known(app: Celery) -> Iterator[None]:
    def create(request: Any) -> None: ...

    app.task(name=TASK, time_limit=7, shared=False, lazy=False)(create)
    yield


REASONS: dict[str, Callable[[Celery], AbstractContextManager[Any]]] = {
    "before_task_publish": receiving(signals.before_task_publish),
    "after_task_publish": receiving(signals.after_task_publish),
    "task_sent": receiving(signals.task_sent),
    "sent events": setting("task_send_sent_event", True),
    "routes": setting("task_routes", {"other.*": "other"}),
    "compression": setting("task_compression", "gzip"),
    "a running task": in_a_task,
    "the app's send_task": wrapping(lambda app: app, "send_task"),
    "Celery.send_task": wrapping(lambda _: Celery, "send_task"),
    "Producer.publish": wrapping(lambda _: kombu.Producer, "publish"),
    "Producer._publish": wrapping(lambda _: kombu.Producer, "_publish"),
    "the sender": wrapping(lambda app: app.amqp, "send_task_message"),
    "basic_publish": wrapping(lambda _: kombu.transport.virtual.base.Channel, "basic_publish"),
    "Redis": wrapping(lambda _: redis_py.Redis, "execute_command"),
    "a task of the app": known,
}


@pytest.mark.parametrize("first", [True, False], ids=["from the first", "later"])
@pytest.mark.parametrize("reason", REASONS.values(), ids=REASONS)
def test_the_ordinary_way_is_taken_where_something_would_be_missed(
    redis_server: RedisTestServer, redis: Any, quick: list[str], reason: Any, first: bool
) -> None:
    """For each message, not just the first."""
    with ExitStack() as stack:
        app = stack.enter_context(closing(shop(redis_server.url)))
        if not first:
            learn(app)
        calls = stack.enter_context(reason(app))
        for number in range(3):
            notify(to="u1", title=f"{number}", app=app)
        assert [] == quick
        assert calls is None or 3 <= len(calls)
        items = redis.lrange(QUEUE, 0, -1) + redis.lrange(f"{QUEUE}\x06\x163", 0, -1)
        assert 3 + (not first) == len(items)


def test_always_eager_warns_as_before(app: Celery, quick: list[str]) -> None:
    """Celery says that it has no effect."""
    app.conf.task_always_eager = True
    with pytest.warns(Warning, match="task_always_eager"):
        notify(to="u1", title="x", app=app)
    assert [] == quick


def test_another_celery_is_left_to_itself(redis_server: RedisTestServer, redis: Any, quick: list[str]) -> None:
    """Who changes how messages are made has them made that way."""

    class Own(Celery):  # type: ignore[misc]
        def send_task(self, *args: Any, **options: Any) -> Any:
            return super().send_task(*args, **options, headers={"tenant": "t1"})

    with closing(Own("own", broker=redis_server.url, set_as_current=False)) as app:
        for _ in range(3):
            notify(to="u1", title="x", app=app)
    assert [] == quick
    assert ["t1"] * 3 == [json.loads(item)["headers"]["tenant"] for item in redis.lrange(QUEUE, 0, -1)]


class OwnAMQP(AMQP):  # type: ignore[misc]
    def as_task_v2(self, *args: Any, **options: Any) -> Any:
        message = super().as_task_v2(*args, **options)
        message.headers["tenant"] = next(TENANTS)
        return message


TENANTS = itertools.count()


def test_headers_that_are_not_celerys_are_made_each_time(
    redis_server: RedisTestServer, redis: Any, quick: list[str]
) -> None:
    """Who knows what they hold."""
    with closing(Celery("own", broker=redis_server.url, set_as_current=False, amqp=OwnAMQP)) as app:
        for _ in range(3):
            notify(to="u1", title="x", app=app)
    assert [] == quick
    assert 3 == len({json.loads(item)["headers"]["tenant"] for item in redis.lrange(QUEUE, 0, -1)})


def test_settings_that_are_an_applications_defaults_count(
    redis_server: RedisTestServer, redis: Any, quick: list[str]
) -> None:
    """As those that it sets."""
    with closing(shop(redis_server.url)) as app:
        app.add_defaults({"task_send_sent_event": True})
        for _ in range(3):
            notify(to="u1", title="x", app=app)
    assert [] == quick
    assert 3 == redis.llen(QUEUE)


def test_what_python_would_format_is_text(
    redis_server: RedisTestServer, redis: Any, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it stands in a message."""
    monkeypatch.setattr(client, "_HIDDEN", "100% %(id)b")
    with closing(shop(redis_server.url)) as app:
        learn(app)
        notify(to="u1", title="x", app=app)
    assert 1 == len(quick)
    assert ["100% %(id)b"] * 2 == [json.loads(item)["headers"]["argsrepr"] for item in redis.lrange(QUEUE, 0, -1)]


def test_a_broker_that_has_moved_is_followed(tmp_path: Path) -> None:
    """To the next of several addresses: the connection to the first one is not tried for each message."""
    with RedisTestServer(tmp_path / "one") as one, RedisTestServer(tmp_path / "two") as two:
        with closing(shop(f"{one.url};{two.url}")) as app:
            first = learn(app)
            one.stop()
            for number in range(3):
                notify(to="u1", title=f"{number}", app=app)
                assert express.find(app, TASK) is not first
        with two.server.client() as redis:
            assert ["0", "1", "2"] == titles(redis)


def many(redis: Any) -> list[list[str]]:
    """Titles in each message of many requests, in order."""
    bodies = [json.loads(b64decode(json.loads(item)["body"])) for item in reversed(redis.lrange(QUEUE, 0, -1))]
    return [[request["title"] for request in body[1]["requests"]] for body in bodies]


def ask(count: int) -> list[dict[str, str]]:
    return [{"to": f"u{number}", "title": f"{number}"} for number in range(count)]


@pytest.fixture
def batches_of_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BATCH", 3)


def test_many_go_the_short_way(
    app: Celery, redis: Any, quick: list[str], batches_of_3: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first go; each message is Celery's, in order."""
    notify_many(ask(15), app=app, chunk=2)
    assert [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"], ["8", "9"], ["10", "11"], ["12", "13"], ["14"]] == many(
        redis
    )
    assert 5 == len(quick) == len(set(quick))
    request = NotificationRequest.parse(FULL)
    redis.delete(QUEUE)
    notify_many([request, request], app=app)
    monkeypatch.setattr(express, "find", lambda *_: None)
    notify_many([request, request], app=app)
    assert 6 == len(quick)
    (text, body, _), (celerys_text, celerys_body, _) = map(opened, redis.lrange(QUEUE, 0, -1))
    id, celerys_id = (json.loads(item)["headers"]["id"] for item in (text, celerys_text))
    assert id != celerys_id
    assert (celerys_text.replace(celerys_id, id), celerys_body) == (text, body)
    assert [request.to_wire()] * 2 == body[1]["requests"]


def test_many_whose_connection_is_lost_on_the_way(
    app: Celery, redis: Any, quick: list[str], batches_of_3: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not answered is published again; what was, is not."""
    for _ in range(2):
        notify_many(ask(1), app=app, chunk=1)
    assert 1 == len(quick)
    redis.delete(QUEUE)
    read, answers = AbstractConnection.read_response, itertools.count(1)

    def lost(*args: Any, **options: Any) -> Any:
        if next(answers) == 5:
            raise ConnectionError("lost")
        return read(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(AbstractConnection, "read_response", lost)
        notify_many(ask(7), app=app, chunk=1)
    found = Counter(title for (title,) in many(redis))
    assert {f"{number}" for number in range(7)} == set(found)
    assert {"0", "1", "2", "3", "6"} <= {title for title, times in found.items() if times == 1}
    assert 1 + 3 + 1 + 1 == len(quick)


def test_another_broker_has_no_short_way() -> None:
    """Only what is pushed to a list of Redis can be."""
    with closing(Celery("other", broker="memory://", set_as_current=False)) as app:
        notify(to="u1", title="x", app=app)
        assert express.find(app, TASK) is None


def test_a_wake_up_goes_the_short_way(app: Celery, redis: Any, quick: list[str]) -> None:
    """Once the first has shown how."""
    for count in (1, 2):
        client._wake(app)
        assert wake.idle(10)
        wait_until(lambda count=count: redis.llen(QUEUE) == count, 10, "the wake-up is published")  # type: ignore[misc]
    assert 1 == len(quick)
    newest, oldest = (opened(item) for item in redis.lrange(QUEUE, 0, -1))
    assert newest[1] == oldest[1]
    assert [[], {}] == newest[1][:2]


def test_an_app_that_is_gone_is_forgotten(redis_server: RedisTestServer, redis: Any) -> None:
    """With its connections: the short way does not hold it."""
    app = shop(redis_server.url)
    learn(app)
    notify(to="u1", title="x", app=app)
    way = express.find(app, TASK)
    assert way
    gone = [weakref.ref(app), weakref.ref(way.connections[0])]
    app.close()
    del app, way
    gc.collect()
    gc.collect()  # what the first has set free
    assert [None, None] == [each() for each in gone]


def test_nothing_of_a_request_is_logged(app: Celery, redis: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong on the short way."""
    caplog.set_level(logging.DEBUG)
    redis.client_kill_filter(_type="normal", skipme=True)
    notify(to="canary-4711", title="canary-4711", app=app)
    assert ["canary-4711"] == titles(redis)
    assert "canary-4711" not in caplog.text
