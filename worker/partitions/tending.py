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
    missing = [month for ahead in range(AHEAD + 1) if (month := Month.of(now).later(ahead)) not in have]
    if [month for month in missing if _made(begin, month)]:
        analyze(begin)
    removed = sum(_finish(begin, month) for month in left)
    for month in have:
        if month.later(1).start <= over and _taken_out(begin, month, kept):
            removed += _finish(begin, month)
    return removed


def _made(begin: Transaction, month: Month) -> bool:
    """Make a month's tables, and move what lies with the rest of it; says whether that was done."""
    lie = [select(table(f"{name}_rest", column("id", Uuid))).where(text(_within("id", month))) for name in TABLES]
    with _unless_in_the_way():
        for one in lie:
            _check_few(begin, one)
        with begin() as session:
            _hold(session)
            if month in months(session):
                return False
            for name in TABLES:
                _set_apart(session, name, f"SELECT * FROM {name}_rest WHERE {_within('id', month)}")
                run(session, f"DELETE FROM {name}_rest WHERE {_within('id', month)}")
            add_month(session, month)
            for name in TABLES:
                _put(session, name, month.table(name))
        return True
    return False


def _taken_out(begin: Transaction, month: Month, kept: Kept) -> bool:
    """Detach a month's tables, without those of its rows that are kept; says whether that was done."""
    wanted = kept(month.low, month.high)
    with _unless_in_the_way():
        _check_few(begin, wanted)
        with begin() as session:
            _hold(session)
            if month not in months(session):
                return False
            _take_out(session, month, wanted)
        return True
    return False


def _check_few(begin: Transaction, rows: Select[UUID]) -> None:
    """Raise _TooMany, before anybody has to wait."""
    with begin() as session:
        if (session.scalar(select(func.count()).select_from(rows.limit(MOST_KEPT + 1).subquery())) or 0) > MOST_KEPT:
            raise _TooMany


def _hold(session: Session) -> None:
    lock(session, LOCK_SECONDS)
    run(session, f"SET LOCAL statement_timeout = {int(HELD_SECONDS * 1000)}")


def _take_out(session: Session, month: Month, wanted: Select[UUID]) -> None:
    run(session, "CREATE TEMP TABLE kept (id uuid PRIMARY KEY) ON COMMIT DROP")
    session.execute(insert(table("kept", column("id", Uuid))).from_select(["id"], wanted.distinct()))
    run(session, "ANALYZE kept")
    emails, of_month = month.table("deliveries"), _within("notification_id", month)
    theirs = f"SELECT * FROM {emails} WHERE notification_id IN (SELECT id FROM kept)"
    # And of notifications that were not made in the same month.
    _set_apart(session, "deliveries", f"{theirs} UNION ALL SELECT * FROM {emails} WHERE NOT ({of_month})")
    _set_apart(
        session, "notifications", f"SELECT * FROM {month.table('notifications')} WHERE id IN (SELECT id FROM kept)"
    )
    for name in TABLES:
        run(session, f"ALTER TABLE {name} DETACH PARTITION {month.table(name)}")
    run(session, f"DELETE FROM deliveries WHERE {of_month} AND notification_id NOT IN (SELECT id FROM kept)")
    for name in TABLES:
        _put(session, name, f"{name}_rest")


def _set_apart(session: Session, name: str, query: str) -> None:
    if run(session, f"CREATE TEMP TABLE apart_{name} ON COMMIT DROP AS {query}") > MOST_KEPT:
        raise _TooMany


def _put(session: Session, name: str, where: str) -> None:
    # Into that table itself, past the triggers: what the rows refer to cannot have changed.
    run(session, f"INSERT INTO {where} SELECT * FROM apart_{name}")


def _within(key: str, month: Month) -> str:
    return f"{key} >= '{month.low}' AND {key} < '{month.high}'"


def _finish(begin: Transaction, month: Month) -> int:
    """Drop the tables of a month that was taken out; gives how many notifications went with them."""
    with begin() as session:
        run(session, "SELECT pg_advisory_xact_lock(hashtext('bellhop partitions'))")
        if month not in months(session, attached=False):
            return 0
        for child, key, parent, _constraint in REFERENCES:
            if child not in TABLES:
                run(session, f"DELETE FROM {child} WHERE {key} IN (SELECT id FROM {_gone(parent, month)})")
        count = session.scalar(text(f"SELECT count(*) FROM {_gone(TABLES[0], month)}"))
        run(session, f"DROP TABLE {', '.join(month.table(name) for name in TABLES)}")
        return count or 0


def _gone(name: str, month: Month) -> str:
    """Of the rows of a month that was taken out, those that do not lie with the rest now."""
    kept = f"SELECT FROM {name}_rest AS kept WHERE kept.id = gone.id AND {_within('kept.id', month)}"
    return f"{month.table(name)} AS gone WHERE NOT EXISTS ({kept})"


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
