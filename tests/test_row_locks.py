"""Row locks, which PostgreSQL has and SQLite has not: nobody waits for a row that another has in hand."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from tests.rows import THEN, put_notifications
from tests.store import LATER, ask, by_recipient, enqueue, rows
from worker import inbox, pending
from worker.database import transaction
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


def test_a_taker_passes_over_what_another_has_in_hand() -> None:
    """Of two that create waiting requests, the second takes the next ones at once."""
    enqueue(*(ask(f"r{n}") for n in range(4)))
    with transaction() as first, transaction() as second:
        second.execute(text("SET LOCAL lock_timeout = '5s'"))
        taken = [pending.create_pending(one, now=LATER, limit=3)[0] for one in (first, second)]
    assert ([3, 1], 4) == (taken, len(by_recipient()))
