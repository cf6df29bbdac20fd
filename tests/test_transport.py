"""What operators may see of tasks, with a real worker; and that it outlives Redis."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from sqlalchemy import Engine, create_engine, text

from tests.servers import PostgresServer, Process, RedisTestServer, wait_until
from tests.smtp_servers import Act, Script, ScriptedSmtp
from tests.workers import READY, foreign_app, running_worker
from worker import transport

#: Whatever must not be seen; each message has its own number behind it.
CANARY = "Quetzalcoatl"

STALLS: Script = {"content": Act.STALL}


@dataclass
class Watched:
    """A worker on PostgreSQL, and all that may be seen of it from outside."""

    app: Celery
    worker: Process
    engine: Engine
    postgres: PostgresServer
    events: list[dict[str, Any]] = field(default_factory=list)

    def send(self, name: str, *args: Any, queue: str = "notifications", **kwargs: Any) -> str:
        """Publish as anybody may, without hiding anything."""
        return str(self.app.send_task(name, args=args, kwargs=kwargs, queue=queue).id)

    def create(self, number: str, **fields: Any) -> str:
        """Ask for a notification whose title, address and recipient are canaries."""
        to = {"id": f"{CANARY}-{number}", "email": f"{CANARY}@example.com"}
        request = {"id": str(uuid4()), "to": to, "title": f"{CANARY} {number}", "text": CANARY, **fields}
        return self.send("notifications.create", request=request)

    def outcome(self, id: str, *kinds: str) -> dict[str, Any]:
        """Wait for the task's event of one of these kinds."""
        return wait_until(
            lambda: next((one for one in self.events if one.get("uuid") == id and one["type"] in kinds), {}),
            10,
            f"{kinds} of {id}; log: {self.worker.log_text()[-2000:]}",
        )

    def inspect(self, ids: list[str]) -> dict[str, Any]:
        """Everything that `celery inspect` and Flower's worker page get."""
        look = self.app.control.inspect(timeout=1, limit=1)
        names = ("active", "reserved", "scheduled")
        return {**{name: getattr(look, name)() for name in names}, "query_task": look.query_task(ids)}

    def sql(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(statement))

    @contextmanager
    def database_away(self) -> Iterator[None]:
        """The database takes no connection, and those it had are cut."""
        name = self.engine.url.database
        with self.postgres.connect() as admin:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            try:
                yield
            finally:
                admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


@contextmanager
def captured(app: Celery) -> Iterator[list[dict[str, Any]]]:
    """All events of the broker, as Flower gets them."""
    seen: list[dict[str, Any]] = []
    ready = threading.Event()
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": seen.append})
        receiver.on_consume_ready = lambda *_args, **_options: ready.set()
        thread = threading.Thread(target=receiver.capture)
        thread.start()
        try:
            assert ready.wait(10)
            yield seen
        finally:
            receiver.should_stop = True
            thread.join(10)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Iterator[Watched]:
    """One worker for all tests of what is shown; it fetches more than it can run, so that some wait in it."""
    folder = tmp_path_factory.mktemp("watched")
    url = postgres.create_database("watched", template="migrated")
    engine = create_engine(url)
    with RedisTestServer(folder / "redis") as redis, foreign_app(redis.url, results=True) as app, captured(app) as seen:
        # Nothing is gathered: what waits in the worker is to be looked at there.
        settings = {"DATABASE_URL": url, "BROKER_URL": redis.url, "CREATE_GATHER": "0"}
        with running_worker(folder, settings, "--prefetch-multiplier", "4") as worker:
            yield Watched(app, worker, engine, postgres, seen)
    engine.dispose()
    postgres.drop_database("watched")


@pytest.fixture(autouse=True)
def nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test with the worker: no log line and no event so far shows a canary."""
    yield
    if "watched" in request.fixturenames:
        watched: Watched = request.getfixturevalue("watched")
        assert CANARY not in watched.worker.log_text()
        assert CANARY not in json.dumps(watched.events, default=repr)


def test_success_shows_no_argument(watched: Watched) -> None:
    """A created notification: the events tell name and numbers, not who or what."""
    id = watched.create("success")
    assert "'notifications': 1" in watched.outcome(id, "task-succeeded")["result"]
    received = watched.outcome(id, "task-received")
    assert [transport.HIDDEN] * 2 == [received["args"], received["kwargs"]]
    assert watched.worker.log_text().count(id) >= 2, "the log is there, and tells of the task by its id"


def test_kept_results_are_for_the_caller_alone(watched: Watched) -> None:
    """The caller gets the inbox as JSON; event and log show that there was a result."""
    watched.outcome(watched.create("kept"), "task-succeeded")
    answer = watched.app.send_task("inbox.list", kwargs={"recipient_id": f"{CANARY}-kept"}, queue="inbox")
    assert [f"{CANARY} kept"] == [item["title"] for item in answer.get(timeout=10)["items"]]
    assert transport.HIDDEN == watched.outcome(answer.id, "task-succeeded")["result"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"lang": f"{CANARY} is no language"}, "lang"),
        ({"event_config_name": "book_available", "context": {"title": [CANARY]}, "title": None, "text": None}, "title"),
        ({"send_at": CANARY}, "send_at"),
        ({f"{CANARY} {CANARY}": 1}, "unknown field"),
    ],
)
def test_a_refused_request_names_the_field_only(watched: Watched, fields: dict[str, Any], named: str) -> None:
    """A wrong request fails by name: the field and the rule, not the value."""
    failed = watched.outcome(watched.create("refused", **fields), "task-failed")
    assert named in failed["exception"]
    assert CANARY not in failed["traceback"]


def test_an_unexpected_error_tells_its_type_and_place_only(watched: Watched) -> None:
    """The database refuses a row with its values in the message: the error says where, never what."""
    watched.sql("ALTER TABLE notifications ADD CONSTRAINT no_such_title CHECK (title NOT LIKE '%unexpected')")
    failed = watched.outcome(watched.create("unexpected"), "task-failed")
    assert "UnexpectedError" in failed["exception"]
    assert "CheckViolation at " in failed["exception"]
    assert CANARY not in failed["traceback"]


def test_an_unexpected_error_of_a_kept_result_is_stored_without_values(watched: Watched) -> None:
    """What the caller's result backend keeps of a failure has no value in it either."""
    watched.sql("ALTER TABLE preferences ADD CONSTRAINT nobody CHECK (recipient_id NOT LIKE '%unexpected')")
    wish = {"recipient_id": f"{CANARY}-unexpected", "event_config_name": "quiet", "enabled": False}
    answer = watched.app.send_task("recipients.set_preference", kwargs=wish, queue="inbox")
    watched.outcome(answer.id, "task-failed")
    stored = wait_until(lambda: watched.app.backend.client.get(f"celery-task-meta-{answer.id}"), 5, "the result")
    assert b"UnexpectedError" in stored
    assert CANARY.encode() not in stored


def test_positional_arguments_are_refused_unseen(watched: Watched) -> None:
    """Arguments without names break the contract, and are shown no more than the others."""
    failed = watched.outcome(watched.send("notifications.create", {"title": CANARY}), "task-failed")
    assert "keyword arguments only" in failed["exception"]


def test_unreadable_messages_are_dropped_unseen(watched: Watched) -> None:
    """An unknown task, a body that is no JSON, pickle, and a message that is no task: none is shown, none stops it."""
    unknown = watched.send("no.such_task", CANARY, secret=CANARY)
    task = {"id": str(uuid4()), "task": "notifications.create", "argsrepr": CANARY, "kwargsrepr": CANARY}
    bodies = [
        (f'{{"{CANARY}', "application/json", task),
        (f"\x80{CANARY}", "application/x-python-serialize", task),
        (json.dumps(CANARY), "application/json", task),
        (json.dumps({CANARY: CANARY}), "application/json", {}),
        (CANARY, "text/plain", {}),
        (f'{{"{CANARY}', "application/json", {}),
    ]
    with watched.app.producer_pool.acquire() as producer:
        for body, kind, headers in bodies:
            given = {"content_type": kind, "content_encoding": "utf-8", "headers": headers}
            producer.publish(body, routing_key="notifications", exchange="", serializer=None, **given)

    assert "NotRegistered" in watched.outcome(unknown, "task-failed")["exception"]
    watched.outcome(watched.create("after the unreadable"), "task-succeeded")
    assert "not a task of this worker" in watched.worker.log_text()


def test_values_that_look_packed_by_kombu_lose_nothing(watched: Watched) -> None:
    """Celery drops the whole message. Here its other requests are created, and the one is refused by name, and kept."""
    good, bad = ({"id": str(uuid4()), "to": "u1", "title": CANARY} for _ in range(2))
    bad["context"] = {"at": {"__type__": "datetime", "__value__": CANARY}}  # type: ignore[assignment]
    good["send_at"] = {"__type__": "datetime", "__value__": "2020-01-31T08:00:00+01:00"}  # type: ignore[assignment]
    for wrong in (bad, {**bad, "id": str(uuid4()), "context": {"__type__": CANARY, "__value__": {"a": 1}}}):
        requests = [{**good, "id": str(uuid4())}, wrong, {**good, "id": str(uuid4())}]
        watched.outcome(watched.send("notifications.create_many", requests=requests), "task-failed")
        with watched.engine.connect() as connection:
            found = connection.execute(
                text("SELECT coalesce(request_id, id)::text AS asked, status, payload, error FROM requests")
            ).all()
        created = {row.asked for row in found if row.status == "created"}
        (kept,) = [row for row in found if row.asked == wrong["id"]]
        assert {requests[0]["id"], requests[2]["id"]} <= created
        assert ("failed", wrong["context"]) == (kept.status, kept.payload["context"])
        assert "context: no object of `__type__` and `__value__` alone" in kept.error


def test_remote_control_shows_no_argument(watched: Watched) -> None:
    """Running, waiting and scheduled tasks: `inspect` and `query_task` tell of each, with its arguments hidden."""
    with watched.engine.begin() as connection:
        connection.execute(text("LOCK TABLE requests IN ACCESS EXCLUSIVE MODE"))
        ids = [watched.create(f"running {number}") for number in range(5)]
        later = watched.app.send_task("notifications.create", args=(CANARY,), queue="bulk", countdown=60).id
        look: dict[str, Any] = {}

        def all_are_there() -> bool:
            look.update(watched.inspect([*ids, later]))
            names = ("active", "reserved", "scheduled", "query_task")
            return [2, 3, 1, 6] == [len((look[name] or {}).get("worker@tests", [])) for name in names]

        wait_until(all_are_there, 30, "all six tasks are in the worker's hands")
    shown = json.dumps(look)
    assert CANARY not in shown
    assert all(id in shown for id in [*ids, later])
    assert shown.count(transport.HIDDEN) >= 12
    for id in ids:
        watched.outcome(id, "task-succeeded")


def test_a_task_waits_for_the_database_unseen(watched: Watched) -> None:
    """The database is away: the task is retried as StoreUnavailable, however often it was before, then succeeds."""
    with watched.database_away():
        id = watched.create("retried")
        old = watched.app.send_task(
            "notifications.create",
            kwargs={"request": {"to": f"{CANARY}-old", "title": CANARY}},
            queue="notifications",
            retries=1000,
        ).id
        for each in (id, old):
            retried = watched.outcome(each, "task-retried", "task-failed")
            assert "task-retried" == retried["type"]
            assert "StoreUnavailable" in retried["exception"]
            assert CANARY not in retried["traceback"]
        scheduled = watched.inspect([id, old])
        assert CANARY not in json.dumps(scheduled)
    watched.outcome(id, "task-succeeded")


def test_the_worker_outlives_redis(tmp_path: Path, migrated_sqlite: Path) -> None:
    """Redis is killed in the middle of a delivery, and comes back: the same worker process goes on by itself."""
    database = tmp_path / "bellhop.db"
    database.write_bytes(migrated_sqlite.read_bytes())
    with RedisTestServer(tmp_path / "redis") as redis, foreign_app(redis.url) as app, ScriptedSmtp(STALLS) as smtp:
        settings = {
            "DATABASE_URL": f"sqlite:///{database}",
            "BROKER_URL": redis.url,
            "SMTP_URL": f"{smtp.url}?tls=none",
        }
        with running_worker(tmp_path, settings) as worker, redis.server.client() as client:
            request = {"to": {"id": CANARY, "email": f"{CANARY}@example.com"}, "title": CANARY, "should_email": True}
            app.send_task("notifications.create", kwargs={"request": request}, queue="notifications")
            # Held by the worker until its time comes: its message, unlike the delivery's, has personal data.
            app.send_task("notifications.create", kwargs={"request": request}, queue="bulk", countdown=100)
            wait_until(lambda: smtp.contents and client.hlen("unacked") == 2, 15, "two messages are unacknowledged")
            redis.kill()
            redis.start()
            task = app.send_task("notifications.purge_seen", queue="maintenance")
            done = f"notifications.purge_seen[{task.id}] succeeded"
            wait_until(lambda: done in worker.log_text() or worker.returncode() is not None, 30, "the worker goes on")
            assert worker.returncode() is None, worker.log_text()
            assert 1 == worker.log_text().count(READY)
            assert CANARY not in worker.log_text()


@pytest.mark.parametrize("url", ["redis://h", "rediss://h", "redis+socket:///tmp/redis.sock"])
def test_every_redis_url_leads_to_our_transport(url: str) -> None:
    """In a process that installs it before its first connection; a second time harms nothing."""
    script = (
        "from celery import Celery; from worker import redis_transport, transport\n"
        "transport.install(); transport.install()\n"
        f"print(Celery(broker={url!r}).connection_for_write().get_transport_cls() is redis_transport.Transport)"
    )
    assert "True" == subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip()
