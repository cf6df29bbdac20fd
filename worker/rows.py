"""Many rows in one statement, on both stores."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast
from uuid import UUID

from sqlalchemy import ColumnElement, Insert, Select, any_, bindparam, false, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from worker.models import Base, Notification

#: Values bound in one IN list; SQLite's limit is 32,766 variables.
CHUNK = 10_000

T = TypeVar("T")


def insert_new(session: Session, model: type[Base]) -> Insert:
    """An insert that passes over rows that are there: whatever is made twice has the same ids."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement: Insert = dialect.insert(model).on_conflict_do_nothing()
    # Without it, rows with nulls in different columns each take a statement of their own.
    return statement.execution_options(render_nulls=True)


def upsert_rows(session: Session, model: type[Base], rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    """Insert many rows in one statement; where a row with the same keys is there, replace its other values."""
    if not rows:
        return
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(model)
    others = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    if others:
        statement = statement.on_conflict_do_update(index_elements=keys, set_=others)
    else:
        statement = statement.on_conflict_do_nothing()
    session.execute(statement.execution_options(render_nulls=True), [dict(row) for row in rows])


def is_in(session: Session, column: Any, values: Collection[Any]) -> ColumnElement[bool]:
    """Whether a column has one of many values. On PostgreSQL they are one parameter: the statement is always the same,
    and neither driver nor server has to parse thousands of places for values.
    """
    if session.get_bind().dialect.name == "postgresql":
        given = bindparam(None, list(values), type_=postgresql.ARRAY(column.type), unique=True)
        return cast("ColumnElement[bool]", column == any_(given))
    return cast("ColumnElement[bool]", column.in_(values))


#: Notifications that no inbox shows, ever: they expire as they begin, and count as seen, so that the purge takes them.
HIDDEN = func.coalesce(Notification.expire_at == Notification.created_at, false())


def hide(row: dict[str, Any]) -> None:
    """Make a notification that is to be written one that only keeps the record of its email."""
    row["expire_at"] = row["seen_at"] = row["created_at"]


def is_hidden(row: Mapping[str, Any]) -> bool:
    """As `HIDDEN`, of a row that is to be written."""
    return bool(row["expire_at"] == row["created_at"])


def locked(*conditions: ColumnElement[bool]) -> Select[UUID]:
    """The ids of the notifications, their rows locked one after the other by id, to be changed or removed by.

    Whatever changes many notifications locks them by this, or by the same order, and whatever changes deliveries and
    notifications too locks the notifications first: else two who do so at once could wait for each other for ever.
    """
    return select(Notification.id).where(*conditions).order_by(Notification.id).with_for_update()


def chunks(values: list[T]) -> Iterator[list[T]]:
    """The values in lists short enough for an IN."""
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]
