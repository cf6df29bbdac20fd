"""What is done daily to partitioned tables: months to come are made, months that are over are dropped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

from psycopg.errors import LockNotAvailable, QueryCanceled
from sqlalchemy import Select, Uuid, column, func, insert, select, table, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from worker.database import Transaction
from worker.partitions.dividing import analyze
from worker.partitions.months import AHEAD, REFERENCES, TABLES, Month, add_month, is_partitioned, lock, months, run

#: Seconds that somebody's transaction is waited for, and everybody who comes meanwhile with it. Less than
#: PostgreSQL's `deadlock_timeout`, so that of two who wait for each other it is never the other one that gives up.
LOCK_SECONDS = 0.5

#: Seconds that a statement may take that keeps everybody from the tables; then it is given up, and nothing has changed.
HELD_SECONDS = 5.0

#: Rows that may have to stay of a month that is dropped; they are copied while nobody can use the tables.
MOST_KEPT = 20_000

#: Selects the ids of the notifications to keep from those of a range of ids.
Kept = Callable[[UUID, UUID], Select[UUID]]


class _TooMany(Exception):
    """More rows would have to be moved than others should wait for."""


def tend(begin: Transaction, *, now: datetime, cutoff: datetime, kept: Kept) -> int:
    """Make the months to come, and drop those that were over at the cutoff and of which little is kept.

    Gives how many notifications went. Nothing is done to tables that are not partitioned. A month whose tables
    somebody holds, or of which much is kept, stays as it is.
    """
    with begin() as session:
        if not is_partitioned(session, TABLES[0]):
            return 0
        have, over = months(session), min(cutoff, Month.of(now).start)
        left = months(session, attached=False)
    _make(begin, [month for ahead in range(AHEAD + 1) if (month := Month.of(now).later(ahead)) not in have])
    removed = sum(_finish(begin, month) for month in left)
    for month in have:
        if month.later(1).start <= over and _detached(begin, month, kept):
            removed += _finish(begin, month)
    return removed


def _make(begin: Transaction, missing: list[Month]) -> None:
    for month in missing:
        with _unless_in_the_way(), begin() as session:
            lock(session, LOCK_SECONDS)
            if month not in months(session):
                _add_between(session, month)
    if missing:
        analyze(begin)


def _add_between(session: Session, month: Month) -> None:
    """Make a month's tables, where some of its rows may lie with the rest."""
    run(session, f"SET LOCAL statement_timeout = {int(HELD_SECONDS * 1000)}")
    within = f"WHERE id >= '{month.low}' AND id < '{month.high}'"
    for name in TABLES:
        if run(session, f"CREATE TEMP TABLE moved_{name} ON COMMIT DROP AS SELECT * FROM {name} {within}") > MOST_KEPT:
            raise _TooMany
        run(session, f"DELETE FROM {name}_rest {within}")
    add_month(session, month)
    for name in TABLES:
        run(session, f"INSERT INTO {name} SELECT * FROM moved_{name}")


def _detached(begin: Transaction, month: Month, kept: Kept) -> bool:
    """Take a month out of the tables, without those of its rows that are kept; says whether that was done."""
    wanted = kept(month.low, month.high)
    with begin() as session:
        # First while nobody waits.
        if (session.scalar(select(func.count()).select_from(wanted.limit(MOST_KEPT + 1).subquery())) or 0) > MOST_KEPT:
            return False
    with _unless_in_the_way(), begin() as session:
        lock(session, LOCK_SECONDS)
        if month not in months(session):
            return False
        _take_out(session, month, wanted)
        return True
    return False


def _take_out(session: Session, month: Month, wanted: Select[UUID]) -> None:
    run(session, f"SET LOCAL statement_timeout = {int(HELD_SECONDS * 1000)}")
    run(session, "CREATE TEMP TABLE kept (id uuid PRIMARY KEY) ON COMMIT DROP")
    session.execute(insert(table("kept", column("id", Uuid))).from_select(["id"], wanted))
    run(session, "ANALYZE kept")
    of_month = f"notification_id >= '{month.low}' AND notification_id < '{month.high}'"
    theirs = {
        "notifications": "id IN (SELECT id FROM kept)",
        "deliveries": "notification_id IN (SELECT id FROM kept)",
    }
    for name, condition in theirs.items():
        run(
            session,
            f"CREATE TEMP TABLE kept_{name} ON COMMIT DROP AS SELECT * FROM {month.table(name)} WHERE {condition}",
        )
    # Of a notification that was not made in the same month.
    run(session, f"INSERT INTO kept_deliveries SELECT * FROM {month.table('deliveries')} WHERE NOT ({of_month})")
    for name in TABLES:
        if run(session, f"DELETE FROM {month.table(name)} WHERE id IN (SELECT id FROM kept_{name})") > MOST_KEPT:
            raise _TooMany
        run(session, f"ALTER TABLE {name} DETACH PARTITION {month.table(name)}")
    run(session, f"DELETE FROM deliveries WHERE {of_month} AND notification_id NOT IN (SELECT id FROM kept)")
    for name in TABLES:
        run(session, f"INSERT INTO {name} SELECT * FROM kept_{name}")


def _finish(begin: Transaction, month: Month) -> int:
    """Drop the tables of a month that was taken out; gives how many notifications were in it."""
    with begin() as session:
        run(session, "SELECT pg_advisory_xact_lock(hashtext('bellhop partitions'))")
        if month not in months(session, attached=False):
            return 0
        for child, key, parent, _constraint in REFERENCES:
            if child not in TABLES:
                gone = f"SELECT id FROM {month.table(parent)}"
                run(session, f"DELETE FROM {child} WHERE {key} IN ({gone})")
        count = session.scalar(text(f"SELECT count(*) FROM {month.table(TABLES[0])}"))
        run(session, f"DROP TABLE {', '.join(month.table(name) for name in TABLES)}")
        return count or 0


@contextmanager
def _unless_in_the_way() -> Iterator[None]:
    """Undo it, for another time, where others would have to wait too long."""
    try:
        yield
    except _TooMany:
        pass
    except OperationalError as error:
        if not isinstance(error.orig, LockNotAvailable | QueryCanceled):
            raise
