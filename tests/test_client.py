"""What applications import: what reaches the broker and the database, and when."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from uuid import UUID

import kombu
import pytest
from celery import Celery, current_app
from kombu.exceptions import OperationalError
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from tests.chaos_transport import Proxy, silent_port
from tests.servers import RedisTestServer, free_port
from tests.store import counted
from worker import client, redis_transport, wake
from worker.client import CHUNK, PublishError, connect, notify, notify_many
from worker.errors import IdempotencyConflict, InvalidRequest
from worker.models import Request
from worker.request import NotificationRequest

CANARY = "canary-4711"


@pytest.fixture(scope="module")
def broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with RedisTestServer(tmp_path_factory.mktemp("redis"), appendonly=False) as server:
        yield server.url


@pytest.fixture(autouse=True)
def _not_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wake-ups are tried in each test, whatever failed in the one before."""
    monkeypatch.setattr(wake, "_quiet_until", {})


@pytest.fixture
def app(broker_url: str) -> Iterator[Celery]:
    """An application's connection, with an empty queue."""
    app = connect(broker_url)
    take(app)
    yield app
    assert wake.idle(20)
    app.close()


def take(app: Celery) -> list[kombu.Message]:
    """Take all messages from the queue of creations."""
    with app.connection_for_read() as connection:
        queue = kombu.Queue("notifications", channel=connection.default_channel)
        return list(iter(lambda: queue.get(no_ack=True), None))


def woken(app: Celery) -> list[tuple[str, Any]]:
    """As `calls`, once the thread that publishes wake-ups has nothing left to do."""
    assert wake.idle(20)
    return calls(app)


def calls(app: Celery) -> list[tuple[str, Any]]:
    """Name and keyword arguments of all messages in the queue."""
    return [(message.headers["task"], json.loads(message.body)[1]) for message in take(app)]


def rows(engine: Engine) -> list[Request]:
    with Session(engine) as session:
        return list(session.scalars(select(Request)))


def test_a_notification_is_one_json_message(app: Celery) -> None:
    """The message is what any process of any language may publish: a task name and one keyword argument, in JSON."""
    id = notify("book_available", to={"id": "u1", "lang": "PT_br"}, context={"title": "Dune"}, app=app)
    (message,) = take(app)
    assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
    assert message.headers["task"] == "notifications.create"
    args, kwargs, _ = json.loads(message.body)
    assert args == []
    request = {
        "id": str(id),
        "to": [{"id": "u1", "lang": "pt-BR"}],
        "event_config_name": "book_available",
        "context": {"title": "Dune"},
    }
    assert kwargs == {"request": request}


def test_headers_hold_no_arguments(app: Celery) -> None:
    """Where Celery prints a message's arguments, the message hides them."""
    notify(to=CANARY, title=CANARY, text=CANARY, app=app)
    notify_many([{"to": CANARY, "title": CANARY}], app=app)
    messages = take(app)
    assert len(messages) == 2
    for message in messages:
        assert (message.headers["argsrepr"], message.headers["kwargsrepr"]) == ("<hidden>", "<hidden>")
        assert CANARY not in repr((message.headers, message.properties))


def test_an_applications_own_serializer_does_not_matter(broker_url: str, app: Celery) -> None:
    """An application that publishes its own tasks otherwise still sends us JSON, to our queue, and awaits nothing."""
    with closing(Celery("shop", broker=broker_url, set_as_current=False)) as shop:
        shop.conf.update(task_serializer="pickle", task_default_queue="shop")
        notify("book_available", to="u1", app=shop)
    (message,) = take(app)
    assert message.content_type == "application/json"
    assert message.headers["ignore_result"] is True


def test_a_wrong_request_is_not_published(app: Celery) -> None:
    """The mistake shows where it was made, not in a worker."""
    with pytest.raises(InvalidRequest, match=r"^request: an unknown field `contxt`$"):
        notify("book_available", to="u1", contxt={"title": CANARY}, app=app)
    assert take(app) == []


def test_many_requests_go_in_chunks(app: Celery) -> None:
    """A message carries up to a chunk of requests, in order; ids come back in the same order."""
    ids = notify_many(({"to": f"u{number}", "title": "Hi"} for number in range(2 * CHUNK + 50)), app=app)
    sent = calls(app)
    assert [name for name, _ in sent] == ["notifications.create_many"] * 3
    assert [len(kwargs["requests"]) for _, kwargs in sent] == [CHUNK, CHUNK, 50]
    wires = [request for _, kwargs in sent for request in kwargs["requests"]]
    assert [UUID(wire["id"]) for wire in wires] == ids
    assert [wire["to"] for wire in wires] == [[f"u{number}"] for number in range(2 * CHUNK + 50)]


def test_requests_may_be_checked_before(app: Celery) -> None:
    """A request that is built already goes as it is, and the size of a chunk can be given."""
    request = NotificationRequest.parse({"to": "u1", "title": "Hi"})
    assert notify_many([request, {"to": "u2", "title": "Hi"}], app=app, chunk=1)[0] == request.id
    assert [kwargs["requests"][0]["to"] for _, kwargs in calls(app)] == [["u1"], ["u2"]]


def test_large_requests_are_fewer_to_a_message(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message, and what goes in one round trip, is bounded by bytes too; what is larger alone goes alone."""
    monkeypatch.setattr(client, "MESSAGE_BYTES", 1000)
    monkeypatch.setattr(client, "BATCH_BYTES", 2000)
    sizes = [1, 1, 900, 1, 5000, 1, 1]
    asked = [{"to": "u1", "title": f"{place}", "text": "x" * size} for place, size in enumerate(sizes)]
    assert 7 == len(set(notify_many(asked, app=app)))
    sent = [[int(one["title"]) for one in kwargs["requests"]] for _, kwargs in calls(app)]
    assert [[0, 1], [2], [3], [4], [5, 6]] == sent


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_holds_something(app: Celery, chunk: int) -> None:
    """Nothing is published."""
    with pytest.raises(InvalidRequest, match=r"^chunk: at least 1$"):
        notify_many([{"to": "u1", "title": "Hi"}], app=app, chunk=chunk)
    assert take(app) == []


def test_celerys_current_app_may_be_given(app: Celery) -> None:
    """It is not an app, but stands for one."""
    before = current_app._get_current_object()
    app.set_current()
    try:
        notify(to="u1", title="Hi", app=current_app)
        notify_many([{"to": "u1", "title": "Hi"}], app=current_app)
    finally:
        before.set_current()
    assert 2 == len(take(app))


def test_the_same_twice_goes_twice(app: Celery) -> None:
    """What to make of it is for the worker to say."""
    request = NotificationRequest.parse({"to": {"id": "u1", "lang": "de"}, "title": "Hi"})
    assert [request.id] * 2 == notify_many([request, request], app=app)
    assert [[request.to_wire()] * 2] == [kwargs["requests"] for _, kwargs in calls(app)]


def test_redis_is_published_to_by_our_transport(app: Celery, broker_url: str) -> None:
    """By an application's own app too; to another broker, by the transport that it has."""
    with closing(Celery(broker=broker_url, set_as_current=False)) as shop:
        for own in (app, shop):
            with client._acquired(own) as producer:
                assert redis_transport.Transport is type(producer.connection.transport)
    with closing(Celery(broker="memory://", set_as_current=False)) as other, client._acquired(other) as producer:
        assert "memory" == producer.connection.transport.driver_type


def test_all_are_checked_before_the_first_is_published(app: Celery) -> None:
    """One wrong request at the end of many keeps them all back."""
    wrong = [{"to": "u1", "title": "Hi"}] * (2 * CHUNK) + [{"to": "u1"}]
    with pytest.raises(InvalidRequest, match="event_config_name, or else title"):
        notify_many(wrong, app=app)
    assert take(app) == []


def test_nothing_to_say_publishes_nothing(app: Celery) -> None:
    """No requests, no message."""
    assert notify_many([], app=app) == []
    assert take(app) == []


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_an_unreachable_broker_is_told_within_seconds(scheme: str) -> None:
    """A refused connection raises kombu's error: nothing was asked."""
    started = time.monotonic()
    with closing(connect(f"{scheme}://127.0.0.1:{free_port()}/0")) as app, pytest.raises(OperationalError):
        notify("book_available", to="u1", app=app)
    assert time.monotonic() - started < 10


def shop(broker_url: str) -> Celery:
    """An application's own Celery app, which sets nothing."""
    return Celery("shop", broker=broker_url, set_as_current=False)


@pytest.mark.parametrize(("make", "scheme"), [(connect, "redis"), (connect, "amqp"), (shop, "redis")])
def test_a_broker_that_never_answers_is_given_up_within_seconds(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[str], Celery], scheme: str
) -> None:
    """A connection that is taken and then met with silence does not hold the application, whatever its Celery app."""
    assert client.TIME_OUTS["socket_timeout"] <= 5
    monkeypatch.setitem(client.TIME_OUTS, "socket_timeout", 0.5)
    started = time.monotonic()
    with silent_port() as port, closing(make(f"{scheme}://127.0.0.1:{port}/0")) as app, pytest.raises(PublishError):
        notify("book_available", to="u1", app=app)
    assert time.monotonic() - started < 10


def test_a_broker_that_falls_silent_is_connected_anew(
    broker_url: str, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network swallows what goes over the connection that an application has had for long."""
    monkeypatch.setitem(client.TIME_OUTS, "socket_timeout", 0.5)
    port = broker_url.rpartition(":")[2].partition("/")[0]
    with Proxy(int(port)) as proxy, closing(shop(f"redis://127.0.0.1:{proxy.port}/0")) as publisher:
        notify(to="u1", title="before", app=publisher)
        proxy.freeze()
        notify(to="u1", title="after", app=publisher)
    assert {"before", "after"} == {kwargs["request"]["title"] for _, kwargs in calls(app)}


def test_a_committed_request_waits_as_a_row_and_wakes_a_worker(engine: Engine, app: Celery) -> None:
    """The request is in the caller's transaction; the wake-up goes out when that has committed, and holds no data."""
    with Session(engine) as session:
        id = notify("quiet", to="u1", context={"title": CANARY}, session=session, app=app)
        assert woken(app) == []
        session.commit()
    assert woken(app) == [("notifications.create_pending", {})]
    (row,) = rows(engine)
    assert (row.id, row.status, row.bulk) == (id, "pending", False)
    assert row.payload is not None
    assert NotificationRequest.parse(row.payload).context == {"title": CANARY}


def test_a_rolled_back_request_was_never_asked(engine: Engine, app: Celery) -> None:
    """Neither a row nor a message is left of it."""
    with Session(engine) as session:
        notify("quiet", to="u1", context={"title": "Dune"}, session=session, app=app)
        session.rollback()
    assert rows(engine) == []
    assert woken(app) == []


def test_one_transaction_wakes_once(engine: Engine, app: Celery) -> None:
    """Many requests in a transaction need one wake-up; the session's next transaction has its own."""
    with Session(engine) as session:
        for expected in (3, 6):
            for _ in range(3):
                notify("quiet", to="u1", context={"title": "Dune"}, session=session, app=app)
            session.commit()
            assert len(woken(app)) == 1
            assert len(rows(engine)) == expected
        session.connection()
        session.commit()
        assert woken(app) == []


def test_the_end_of_a_savepoint_is_no_commit(engine: Engine, app: Celery) -> None:
    """Until the outer transaction commits no worker could see the row, so none is woken."""
    with Session(engine) as session:
        with session.begin():
            with session.begin_nested():
                notify("quiet", to="u1", context={"title": "Dune"}, session=session, app=app)
            with session.begin_nested():
                pass
            assert woken(app) == []
        assert len(woken(app)) == 1


def test_a_scoped_session_serves_as_well(engine: Engine, app: Celery) -> None:
    """Frameworks hand out sessions behind a registry; another thread's commit is not ours."""
    sessions = sessionmaker(engine)
    scoped = scoped_session(sessions)
    notify("quiet", to="u1", context={"title": "Dune"}, session=scoped, app=app)  # type: ignore[arg-type]
    with sessions() as other:
        other.commit()
    assert woken(app) == []
    scoped.commit()
    assert len(woken(app)) == 1
    scoped.remove()


def test_a_failing_wake_up_never_fails_the_caller(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """The row is committed: beat finds it, whether or not the broker is there."""
    caplog.set_level(logging.WARNING, logger="worker")
    with closing(connect(f"redis://127.0.0.1:{free_port()}/0")) as away, Session(engine) as session:
        notify("quiet", to=CANARY, context={"title": CANARY}, session=session, app=away)
        session.commit()
        assert wake.idle(20)
    assert [row.status for row in rows(engine)] == ["pending"]
    assert [record.getMessage() for record in caplog.records if record.name == "worker.wake"] == [
        "a waiting request's wake-up failed (OperationalError); beat will find it"
    ]
    assert CANARY not in caplog.text


def test_a_broker_that_is_away_silences_no_other(engine: Engine, app: Celery) -> None:
    """An application may have several."""
    with closing(connect(f"redis://127.0.0.1:{free_port()}/0")) as away, Session(engine) as session:
        for own in (away, app):
            notify("quiet", to="u1", context={"title": "Dune"}, session=session, app=own)
            session.commit()
            assert wake.idle(20)
    assert len(woken(app)) == 1


def test_the_same_key_asks_once(engine: Engine, app: Celery) -> None:
    """Same key and same request: nothing new. Same key, other text: a conflict, and the first stays as it was."""
    literal = {"to": "u1", "title": "Closed", "idempotency_key": "k1", "app": app}
    with Session(engine) as session:
        notify(**literal, session=session)
        session.commit()
        notify(**literal, session=session)
        session.commit()
        with pytest.raises(IdempotencyConflict):
            notify(**{**literal, "title": CANARY}, session=session)
        session.rollback()
    (row,) = rows(engine)
    assert row.payload is not None
    assert row.payload["title"] == "Closed"


def test_a_wrong_request_leaves_the_transaction_usable(engine: Engine, app: Celery) -> None:
    """The check comes before the database, so the caller may go on."""
    with Session(engine) as session:
        with pytest.raises(InvalidRequest):
            notify("quiet", to=[], session=session, app=app)
        notify("quiet", to="u1", session=session, app=app)
        session.commit()
    assert len(rows(engine)) == 1


def test_many_in_the_callers_transaction(engine: Engine, app: Celery) -> None:
    """A few statements for all, and one wake-up; a conflict leaves none of them, and the transaction usable."""
    asked = [{"to": f"u{n}", "title": "Hi", "idempotency_key": f"k{n}"} for n in range(1500)]
    with Session(engine) as session, counted() as statements:
        ids = notify_many(asked, session=session, app=app)
        session.commit()
    assert len(statements) < 10
    assert set(ids) == {row.id for row in rows(engine)}
    assert woken(app) == [("notifications.create_pending", {})]
    with Session(engine) as session:
        with pytest.raises(IdempotencyConflict):
            notify_many([{"to": "u9999", "title": "Hi"}, {**asked[7], "title": CANARY}], session=session, app=app)
        assert len(notify_many([{"to": "last", "title": "Hi"}, asked[3]], session=session, app=app)) == 2
        session.commit()
    assert len(rows(engine)) == 1501


def test_many_commits_wake_a_few_times_and_after_the_last(engine: Engine, app: Celery) -> None:
    """At most twenty a second; the last commit is followed by one."""
    started = time.monotonic()
    with Session(engine) as session:
        for number in range(60):
            notify("quiet", to=f"u{number}", context={"title": "Dune"}, session=session, app=app)
            session.commit()
        took = time.monotonic() - started
        first = woken(app)
        assert 1 <= len(first) <= took / wake.INTERVAL + 3
        notify("quiet", to="last", context={"title": "Dune"}, session=session, app=app)
        session.commit()
    assert woken(app)


def test_a_silent_broker_never_holds_up_a_commit(engine: Engine) -> None:
    """The thread waits for it, not the caller; after the failure none is tried for a while."""
    with silent_port() as port, closing(connect(f"redis://127.0.0.1:{port}/0")) as away, Session(engine) as session:
        started = time.monotonic()
        for number in range(20):
            notify("quiet", to=f"u{number}", context={"title": "Dune"}, session=session, app=away)
            session.commit()
        assert time.monotonic() - started < client.TIME_OUTS["socket_timeout"], "not one commit waited for it"
        assert wake.idle(20)
        notify("quiet", to="last", context={"title": "Dune"}, session=session, app=away)
        session.commit()
        assert wake.idle(0.1)
    assert len(rows(engine)) == 21


ASYNC = """
import asyncio, sys, time
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from worker.client import connect, notify

async def main(url, broker):
    engine, app = create_async_engine(url), connect(broker)
    async with AsyncSession(engine) as session:
        for name in ("rolled-back", "kept"):
            await session.run_sync(lambda s: notify("quiet", to=name, context={"title": "x"}, session=s, app=app))
            started = time.monotonic()
            await (session.commit() if name == "kept" else session.rollback())
            assert time.monotonic() - started < 1.5
    await engine.dispose()

asyncio.run(main(*sys.argv[1:]))
"""


def test_an_async_session_serves_as_well(postgres_engine: Engine, app: Celery, broker_url: str) -> None:
    """The request rides in its transaction; the wake-up follows the commit, and is out before the process ends."""
    url = postgres_engine.url.render_as_string(hide_password=False)
    subprocess.run([sys.executable, "-c", ASYNC, url, broker_url], check=True, timeout=60)
    assert [["kept"]] == [(row.payload or {})["to"] for row in rows(postgres_engine)]
    assert calls(app) == [("notifications.create_pending", {})]


SHOP = """
import sys
from celery import Celery
from worker.client import notify
app = Celery("shop", broker=sys.argv[1])
notify("book_available", to="u1")
app.close()
heavy = {"sqlalchemy", "alembic", "psycopg", "jinja2", "babel", "css_inline", "flower", "worker.celery", "worker.tasks"}
print(sorted(heavy & set(sys.modules)))
"""


def test_applications_load_no_worker(broker_url: str, app: Celery, configure: Callable[..., None]) -> None:
    """An application publishes through its own current Celery app, without database, template and worker modules."""
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    run = subprocess.run(
        [sys.executable, "-c", SHOP, broker_url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert (run.stdout, run.returncode) == ("[]\n", 0), run.stderr
    assert len(calls(app)) == 1


def test_without_any_app_nothing_goes_to_a_broker_that_celery_makes_up() -> None:
    """In a process without a Celery app, `notify` refuses by name; a durable request needs no broker."""
    script = (
        "from worker.client import notify, notify_many\n"
        "from worker.errors import NoBroker\n"
        "for call in (lambda: notify(to='r', title='t'), lambda: notify_many([{'to': 'r', 'title': 't'}])):\n"
        "    try:\n        call()\n    except NoBroker as error:\n        assert 'connect' in str(error)\n"
        "    else:\n        raise SystemExit('published to nowhere')\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CELERY_")}
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60, env=environment)
