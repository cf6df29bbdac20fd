"""Messages and waiting requests that kill the process which runs them, with a real worker and a real broker."""

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from tests import deadly
from tests.catalogue import write_catalogue
from tests.conftest import Configure
from tests.databases import Databases
from tests.servers import PostgresServer, Process, RedisTestServer, wait_until
from tests.workers import foreign_app, running_worker
from worker import pending
from worker.database import utcnow
from worker.embedded.smtp import MailCatcher
from worker.ids import uuid7
from worker.models import Delivery, Notification
from worker.request import NotificationRequest

#: Seconds after which a task is asked to end; soon after it, its process is killed.
LIMIT = 2


@pytest.fixture
def engine(postgres: PostgresServer, databases: Databases) -> Iterator[Engine]:
    name = databases.take()
    engine = create_engine(postgres.url_of(name))
    yield engine
    engine.dispose()
    databases.give_back(name)


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Celery]:
    with RedisTestServer(tmp_path / "redis") as redis, foreign_app(redis.url) as app:
        yield app


@pytest.fixture
def worker(engine: Engine, application: Celery, tmp_path: Path) -> Iterator[Process]:
    settings = write_catalogue(tmp_path / "fragile")
    deadly.add_event(tmp_path / "fragile")
    limits = {"POISON_TRIES": "2", "TASK_TIME_LIMIT_SECONDS": str(LIMIT), "SIGNAL": "off"}
    servers = {"DATABASE_URL": engine.url.render_as_string(), "BROKER_URL": application.conf.broker_url}
    with running_worker(tmp_path, {**settings, **limits, **servers}, "--include", "tests.deadly") as process:
        yield process


def wire(to: str, title: str) -> dict[str, Any]:
    return {"id": str(uuid4()), "to": to, "event_config_name": "fragile", "context": {"title": title}}


def test_what_kills_workers_is_stopped_and_kept(engine: Engine, application: Celery, worker: Process) -> None:
    """By a signal or by running past its time limit, alone, in a message of many, or waiting as a row.

    Each is kept as failed; everything else is created, and the worker goes on.
    """

    def ask(name: str, **kwargs: Any) -> None:
        application.send_task(f"notifications.{name}", kwargs=kwargs, queue="notifications")

    with Session(engine) as session, session.begin():
        for request in (wire("a", "Dune"), wire("row", deadly.POISON), wire("b", "Emma")):
            pending.enqueue(session, NotificationRequest.parse(request), now=utcnow())
    ask("create", request=wire("message", deadly.POISON))
    ask("create", request=wire("endless", deadly.ENDLESS))
    ask("create_many", requests=[wire("c", "Dune"), wire("many", deadly.POISON), wire("d", "Emma")])
    ask("create", request=wire("e", "Dune"))

    def failed() -> dict[str, str]:
        sql = "SELECT payload->'to'->>0, payload->>'to', error FROM requests WHERE status = 'failed'"
        with engine.connect() as connection:
            return {first or to: error.partition(":")[0] for first, to, error in connection.execute(text(sql))}

    def given_up(names: set[str]) -> bool:
        # In place of beat, which wakes the creation of what still waits.
        ask("create_pending")
        time.sleep(0.5)
        return set(failed()) == names

    wait_until(lambda: given_up({"row", "message", "endless", "many"}), 60, "all four are given up")
    assert {"Poisoned"} == set(failed().values())
    with engine.connect() as connection:
        told = connection.scalars(text("SELECT recipient_id FROM notifications ORDER BY 1")).all()
        assert ["a", "b", "c", "d", "e"] == told
    assert worker.returncode() is None


def put_emails(engine: Engine, *subjects: str) -> None:
    """Deliveries that are due, in this order."""
    now = utcnow()
    with Session(engine) as session, session.begin():
        for place, subject in enumerate(subjects):
            about, due = uuid7(), now - timedelta(seconds=60 - place)
            row = {"request_id": about, "lang": "en", "lang_asked": "en", "title": subject, "text": ""}
            session.add(Notification(id=about, recipient_id=subject, created_at=now, updated_at=now, **row))
            session.flush()
            email = {"channel": "email", "address": "reader@example.org", "status": "pending", "due_at": due}
            parts = {"subject": subject, "text": "", "html": None}
            session.add(Delivery(id=uuid7(), notification_id=about, parts=parts, lease_until=due, **email))


def test_an_email_that_kills_workers_takes_no_other_along(
    engine: Engine, application: Celery, tmp_path: Path, configure: Configure
) -> None:
    """It dies alone from its second attempt on; those that were claimed with it lose one attempt, and are sent once."""
    mates = [f"mate {number}" for number in range(8)]
    servers = {"DATABASE_URL": engine.url.render_as_string(), "BROKER_URL": application.conf.broker_url}
    soon = {"LEASE_SECONDS": "2", "HANDOVER_SECONDS": "1", "MAX_ATTEMPTS": "4", "SIGNAL": "off"}
    configure(**servers)
    put_emails(engine, deadly.MAILED_POISON, *mates)

    def state() -> dict[str, tuple[str, int]]:
        application.send_task("notifications.dispatch_due", queue="maintenance")  # in place of beat
        time.sleep(0.3)
        sql = "SELECT recipient_id, status, attempts FROM deliveries JOIN notifications n ON n.id = notification_id"
        with engine.connect() as connection:
            return {who: (status, attempts) for who, status, attempts in connection.execute(text(sql))}

    with (
        MailCatcher(tmp_path / "mail") as catcher,
        running_worker(
            tmp_path, {**servers, **soon, "SMTP_URL": catcher.url}, "-c", "1", "--include", "tests.deadly"
        ) as worker,
    ):
        wait_until(lambda: state()[deadly.MAILED_POISON] == ("failed", 4), 60, "it is given up")
        wait_until(lambda: all(state()[mate] == ("sent", 2) for mate in mates), 20, f"the others are sent: {state()}")
        assert sorted(mates) == sorted(str(mail["Subject"]) for mail in catcher.messages())
        assert worker.returncode() is None
