"""Row locks, which PostgreSQL has and SQLite has not: nobody waits for a row that another has in hand."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from tests.rows import THEN, put_notifications
from tests.servers import wait_until
from tests.store import LATER, ask, by_recipient, enqueue, put, rows
from worker import inbox, pending, recipients, retract
from worker.database import transaction
from worker.ids import uuid7
from worker.models import Notification
from worker.purge import Purged, purge_seen

#: Some ninety days after THEN: the default retention has just ended.
NOW = THEN + timedelta(days=90, microseconds=1)

pytestmark = pytest.mark.usefixtures("catalogue", "postgres_engine")


def purge(now: datetime) -> Purged:
    return purge_seen(transaction, now=now)


def left() -> set[UUID]:
    return {row.id for row in rows(Notification)}


@pytest.fixture
def other_session(postgres_engine: Engine) -> Iterator[Session]:
    """Somebody else's transaction, on PostgreSQL: SQLite locks the whole file."""
    with Session(postgres_engine) as session:
        yield session


def test_locked_rows_are_skipped(other_session: Session) -> None:
    """A row that somebody is just changing is left to the next run; nobody waits."""
    ids = put_notifications(3)
    other_session.execute(select(Notification.id).where(Notification.id == ids[1]).with_for_update())

    assert Purged(2, True, NOW - timedelta(days=90)) == purge(NOW)
    assert {ids[1]} == left()
    other_session.rollback()
    assert 1 == purge(NOW).removed


def test_what_becomes_unseen_meanwhile_stays(other_session: Session) -> None:
    """Marked unseen in a transaction that commits before the purge gets to the row, it stays."""
    [id] = put_notifications()
    inbox.mark_seen(other_session, "reader", id, False)
    assert 0 == purge(NOW).removed
    other_session.commit()
    assert 0 == purge(NOW + timedelta(days=9_000)).removed
    assert {id} == left()


def seen_by_all(session: Session) -> int:
    return inbox.mark_all_seen(session, "reader")


MANY: dict[str, tuple[Callable[[Session], Any], Any]] = {
    "mark all": (seen_by_all, None),
    "delete seen": (lambda session: inbox.delete_seen(session, "reader"), THEN),
    "retract": (lambda session: retract.retract(session, "book", "7"), None),
    "cancel": (
        lambda session: retract.cancel(session, id=UUID(int=9), now=THEN - timedelta(days=1)).notifications,
        None,
    ),
    "erase": (lambda session: recipients.erase(session, "reader", now=NOW)["notifications"], None),
}


@pytest.mark.parametrize("name", MANY)
def test_many_are_locked_in_one_order(name: str, other_session: Session, postgres_engine: Engine) -> None:
    """By id, wherever they lie: who waits for the first has none of the others, so that no two wait for each other."""
    call, seen_at = MANY[name]
    ids = sorted(uuid7() for _ in range(4))
    about = {"object_type": "book", "object_id": "7", "request_id": UUID(int=9), "seen_at": seen_at}
    for minute, id in enumerate(reversed(ids)):
        put("reader", THEN + timedelta(minutes=minute), id=id, **about)
    other_session.execute(select(Notification.id).where(Notification.id == ids[0]).with_for_update())

    def change() -> Any:
        with transaction() as session:
            return call(session)

    def waits() -> bool:
        with postgres_engine.connect() as connection:
            return connection.scalar(text("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted")) or False

    with ThreadPoolExecutor(1) as pool:
        changed = pool.submit(change)
        wait_until(waits, 10, "it waits for the first row")
        others = select(Notification.id).where(Notification.id.in_(ids[1:])).with_for_update(nowait=True)
        found = other_session.scalars(others).all()
        other_session.rollback()
        assert (3, 4) == (len(found), changed.result(10))


def test_a_taker_passes_over_what_another_has_in_hand() -> None:
    """Of two that create waiting requests, the second takes the next ones at once."""
    enqueue(*(ask(f"r{n}") for n in range(4)))
    with transaction() as first, transaction() as second:
        second.execute(text("SET LOCAL lock_timeout = '5s'"))
        taken = [pending.create_pending(one, now=LATER, limit=3)[0] for one in (first, second)]
    assert ([3, 1], 4) == (taken, len(by_recipient()))
