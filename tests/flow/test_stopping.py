"""A worker that is told to stop: by SIGTERM, by what follows it, and while its mail server is slow or silent."""

import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, text

from tests.rows import put_deliveries
from tests.servers import Process, RedisTestServer, wait_until
from tests.slow_smtp import SlowSmtp
from tests.smtp_servers import Act, ScriptedSmtp
from tests.store import rows
from tests.workers import foreign_app, running_worker
from worker import deliver as delivering
from worker.database import transaction, utcnow
from worker.models import Delivery, Request

Configure = Callable[..., None]

pytestmark = pytest.mark.usefixtures("catalogue")


def hand_over(broker: RedisTestServer, ids: list[UUID]) -> None:
    with foreign_app(broker.url) as app:
        app.send_task("notifications.deliver", kwargs={"delivery_ids": [str(id) for id in ids]}, queue="email")


def settings(broker: RedisTestServer, server: ScriptedSmtp, engine: Engine, **more: object) -> dict[str, str]:
    return {
        "DATABASE_URL": engine.url.render_as_string(hide_password=False),
        "BROKER_URL": broker.url,
        "SMTP_URL": server.url + "?tls=none",
        "SIGNAL": "off",
        **{name: str(value) for name, value in more.items()},
    }


def stop(worker: Process, number: signal.Signals) -> float:
    """Tell the worker to stop; gives the seconds it took."""
    started = time.monotonic()
    worker.tell(number)
    worker.wait(20)
    return time.monotonic() - started


def states() -> Counter[tuple[str, int]]:
    return Counter((row.status, row.attempts) for row in rows(Delivery))


def test_sigterm_finishes_what_is_under_way_and_gives_back_the_rest(
    tmp_path: Path, postgres_engine: Engine, configure: Configure
) -> None:
    """The mails under way are finished and recorded; all others are free at once, and go out once, later."""
    ids = put_deliveries(40)
    with RedisTestServer(tmp_path / "redis") as broker, SlowSmtp(0.25) as server:
        with running_worker(tmp_path, settings(broker, server, postgres_engine)) as worker:
            hand_over(broker, ids)
            wait_until(lambda: len(server.contents) >= 2, 20, "the worker is in the middle of it")
            assert stop(worker, signal.SIGTERM) < 8
            assert 0 == worker.returncode()
        sent = len(server.contents)
        assert {("sent", 1): sent, ("pending", 0): 40 - sent} == states()
        assert sent < 40
        assert all(row.lease_until <= utcnow() for row in rows(Delivery) if row.status == "pending")

        server.seconds = 0
        configure(SMTP_URL=server.url + "?tls=none")
        delivering.deliver(transaction, ids)
        assert {("sent", 1): 40} == states()
        assert 40 == len({mail.partition(b"Message-ID")[2][:80] for mail in server.contents}) == len(server.contents)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_what_does_not_end_in_time_is_cut_off(tmp_path: Path, postgres_engine: Engine, number: signal.Signals) -> None:
    """A silent mail server holds up nothing: STOP_SECONDS after SIGTERM, or at once by SIGQUIT, the worker is gone.

    The mail it was waiting for stays claimed until its lease ends, as it may have been taken; the others are free.
    """
    ids = put_deliveries(5)
    with RedisTestServer(tmp_path / "redis") as broker, ScriptedSmtp({"content": Act.STALL}) as server:
        known = settings(broker, server, postgres_engine, STOP_SECONDS=1)
        with running_worker(tmp_path, known) as worker:
            hand_over(broker, ids)
            wait_until(lambda: server.contents, 20, "the worker waits for the answer")
            assert stop(worker, number) < 10
    found = states()
    under_way = found.pop(("sending", 1))
    # Of a pipelined connection the next email, too.
    assert len(server.contents) <= under_way <= 2 * len(server.contents)
    assert {("pending", 0): 5 - under_way} == found


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_task_that_cannot_be_cut_off_is_finished(tmp_path: Path, postgres_engine: Engine, pool: str) -> None:
    """In a worker without processes, SIGQUIT makes no task fail that it cannot end: what was asked is there."""
    ids = [str(uuid4()) for _ in range(3)]
    with RedisTestServer(tmp_path / "redis") as broker, ScriptedSmtp() as server, foreign_app(broker.url) as app:
        with running_worker(tmp_path, settings(broker, server, postgres_engine), "-P", pool) as worker:
            with postgres_engine.begin() as connection:
                connection.execute(text("LOCK TABLE requests IN ACCESS EXCLUSIVE MODE"))
                asked = {"requests": [{"id": id, "to": "u1", "title": "x"} for id in ids]}
                app.send_task("notifications.create_many", kwargs=asked, queue="notifications")
                wait_until(lambda: waiting(connection), 20, "the task waits for the table")
                worker.tell(signal.SIGQUIT)
                wait_until(
                    lambda: "Hitting Ctrl+C again" in worker.log_text(), 10, "the worker knows that it is to stop"
                )
            worker.wait(20)
            assert 0 == worker.returncode(), worker.log_text()
        assert {(id, "created") for id in ids} == {(str(row.id), row.status) for row in rows(Request)}


def waiting(connection: Connection) -> int:
    """How many sessions wait for a lock."""
    count: int = connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")) or 0
    return count
