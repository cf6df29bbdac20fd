"""Every task's arguments, through the real task functions, on a real database: done, or a named error; never half."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select

from tests.channel import Configure
from tests.fuzz.hostile import MESSAGES, REQUESTS, check_named, examples, mutated
from worker import handover, tasks
from worker.celery import app
from worker.database import transaction
from worker.errors import BellhopError, PartlyRefused
from worker.models import Delivery, GroupMember, Notification, Request
from worker.tables import Base

pytestmark = pytest.mark.usefixtures("catalogue")

#: What an error may leave behind: what was asked, for the operator.
KEPT = {"requests"}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, configure: Configure, engine: Engine) -> None:
    """No broker and no mail server: what would be published stays unpublished."""
    configure(SMTP_URL="smtp://127.0.0.1:1?tls=none", SMTP_TIMEOUT_SECONDS=1)
    app.loader.import_default_modules()
    monkeypatch.setattr(tasks, "publish", lambda *_, **__: True)
    monkeypatch.setattr(handover, "_waiting", lambda _queue: 0)
    monkeypatch.setattr(handover, "publish", lambda *_, **__: True)
    with transaction() as session:
        session.add_all(GroupMember(name="admins", recipient_id=f"user-{number}") for number in range(3))


def counted() -> dict[str, int]:
    """How many rows each table has."""
    tables = [table for table in Base.metadata.sorted_tables if table.name not in KEPT]
    with transaction() as session:
        numbers = [select(func.count()).select_from(table).scalar_subquery() for table in tables]
        return dict(zip((table.name for table in tables), session.execute(select(*numbers)).one(), strict=True))


def run(name: str, kwargs: dict[str, Any]) -> None:
    """As a worker would; an error changes nothing but what is kept of it."""
    before = counted()
    try:
        app.tasks[name](**kwargs)
    except PartlyRefused as error:
        check_named(error)
    except BellhopError as error:
        check_named(error)
        assert before == counted()


def check_whole() -> None:
    """Each notification belongs to a request that is done, and has its delivery or says why there is none."""
    has_delivery = select(Delivery.id).where(Delivery.notification_id == Notification.id).exists()
    asked = select(Request.id).where(Request.id == Notification.request_id, Request.status == "created").exists()
    with transaction() as session:
        torn = select(func.count()).select_from(Notification).where(~has_delivery, Notification.email_reason.is_(None))
        assert 0 == session.scalar(torn)
        assert 0 == session.scalar(select(func.count()).select_from(Notification).where(~asked))
        empty = select(func.count()).select_from(Request).where(Request.status == "pending", Request.payload.is_(None))
        assert 0 == session.scalar(empty)
        assert session.scalar(select(func.count()).select_from(Notification))


def kwargs_of(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """The valid messages of a task, mutated; a create has requests of all kinds."""
    if name == "notifications.create":
        return mutated([{"request": one} for one in REQUESTS])
    return mutated(MESSAGES[name])


def test_every_tasks_arguments() -> None:
    """The same chance for every task, and every second message creates something."""
    others = sorted(set(MESSAGES) - {"notifications.create"})
    names = st.one_of(st.just("notifications.create"), st.sampled_from(others))
    messages = names.flatmap(lambda name: kwargs_of(name).map(lambda kwargs: (name, kwargs)))

    @examples(250, 10_000)
    @given(messages)
    def check(message: tuple[str, dict[str, Any]]) -> None:
        run(*message)

    for valid in REQUESTS:
        run("notifications.create", {"request": valid})
    check()
    check_whole()
