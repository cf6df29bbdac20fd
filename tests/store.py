"""What the tests of the store share: asking, looking at rows, counting statements, doing things at the same time."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import event, func, select
from sqlalchemy.orm import Session

from worker import create as creating
from worker import inbox, pending, waiting
from worker.create import Created
from worker.database import get_engine, transaction
from worker.ids import uuid7
from worker.inbox import Page
from worker.models import Notification
from worker.request import NotificationRequest
from worker.tables import Base

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)

Row = TypeVar("Row", bound=Base)
T = TypeVar("T")


def ask(to: Any, event_config_name: str | None = "book_available", **fields: Any) -> NotificationRequest:
    """A request; about a book unless told otherwise."""
    if event_config_name == "book_available":
        fields.setdefault("context", {"title": "Dune"})
    if event_config_name is not None:
        fields["event_config_name"] = event_config_name
    return NotificationRequest.parse({"to": to, **fields})


def create(*requests: NotificationRequest, now: datetime = NOW) -> Created:
    """Create the requests in one transaction of its own."""
    with transaction() as session:
        return creating.create(session, requests, now=now)


@contextmanager
def undone() -> Iterator[Session]:
    """A transaction whose last act is an error."""
    with suppress(ZeroDivisionError), transaction() as session:
        yield session
        raise ZeroDivisionError


def enqueue(*requests: NotificationRequest) -> None:
    """Write the requests down, to wait."""
    with transaction() as session:
        for request in requests:
            pending.enqueue(session, request, now=NOW)


def take(limit: int = 100, *, bulk: bool = False) -> tuple[int, Created]:
    """Create waiting requests a minute later; gives how many were taken, and what became of them."""
    with transaction() as session:
        return pending.create_pending(session, now=LATER, limit=limit, bulk=bulk)


def waits() -> tuple[bool, bool]:
    """Whether any small request waits, and whether any page of a fan-out does."""
    with transaction() as session:
        return waiting.has_pending(session, bulk=False), waiting.has_pending(session, bulk=True)


def listed(recipient_id: str = "paul", **asked: Any) -> Page:
    """A page of the inbox, as a caller with a session of its own gets it."""
    with transaction() as session:
        return inbox.list(session, recipient_id, **asked)


def rows(model: type[Row]) -> list[Row]:
    """All rows of a table, in the order of their keys."""
    with transaction() as session:
        return list(session.scalars(select(model).order_by(*model.__table__.primary_key)))


def by_recipient() -> dict[str, Notification]:
    """The notifications of everyone who was told once; fails where somebody was told twice."""
    found = rows(Notification)
    result = {row.recipient_id: row for row in found}
    assert len(found) == len(result)
    return result


def filled() -> set[str]:
    """The names of the tables that hold any row."""
    with transaction() as session:
        tables = Base.metadata.sorted_tables
        return {table.name for table in tables if session.scalar(select(func.count()).select_from(table))}


def put(recipient_id: str, created_at: datetime, **values: Any) -> UUID:
    """Write one notification straight into the inbox, and give its id."""
    row = {
        "id": uuid7(),
        "request_id": uuid7(),
        "recipient_id": recipient_id,
        "lang": "en",
        "lang_asked": "en",
        "title": "Dune is here",
        "text": "Pick up Dune.",
        "created_at": created_at,
        "updated_at": created_at,
        **values,
    }
    with transaction() as session:
        session.add(Notification(**row))
    id: UUID = row["id"]
    return id


@contextmanager
def counted() -> Iterator[list[str]]:
    """The statements that this process sends to its database during the block."""
    engine, seen = get_engine(), list[str]()

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


def together(*calls: Callable[[], T]) -> list[T]:
    """Run all at the same time, each in a thread of its own; gives their results, or raises the first error."""
    barrier = Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        barrier.wait(timeout=30)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))
