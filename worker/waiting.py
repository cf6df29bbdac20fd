"""The requests that wait as rows: taken, looked at, marked. Statements that are built once, on the table itself.

One of them is run for every page of a fan-out and every few durable requests: built anew by way of the class, they took
as long as creating a dozen notifications.
"""

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    Update,
    bindparam,
    false,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.orm import Session

from worker.models import Request
from worker.rows import bound, is_in_bound

#: Bytes of payloads, as the store keeps them, created in one transaction.
MOST_BYTES = 8 * 1024 * 1024

_TABLE: FromClause = Request.__table__


def take(session: Session, limit: int, bulk: bool, but: Collection[UUID] = ()) -> tuple[Sequence[Any], bool]:
    """Up to `limit` waiting requests, the oldest first, locked; others than those named.

    No more than fit into memory, but always one. Gives their ids, payloads and cursors, and whether there may be more.
    """
    statement = _take(_is_postgres(session), bulk)
    rows = session.execute(
        statement, {"limit": limit, "but": bound(session, sorted(but, key=str)), "most_bytes": MOST_BYTES}
    ).all()
    return rows, bool(rows) and (rows[0].found == limit or len(rows) < rows[0].found)


def take_these(session: Session, ids: Sequence[UUID]) -> Sequence[Any]:
    """Those of them that wait and are in no other hands, locked; as `take` gives them."""
    return session.execute(_these(_is_postgres(session)), {"ids": bound(session, ids)}).all() if ids else []


def still_waiting(session: Session, ids: Collection[UUID]) -> set[UUID]:
    """Those of them that wait."""
    return set(session.scalars(select(Request.id).where(Request.id.in_(ids), Request.status == "pending")))


def mark_created(session: Session, ids: Sequence[UUID]) -> None:
    """They wait no more, and what was asked is forgotten."""
    if ids:
        session.connection().execute(_created(_is_postgres(session)), {"ids": bound(session, ids)})


def has_pending(session: Session, *, bulk: bool) -> bool:
    """Whether any request waits."""
    return session.scalar(select(_TABLE.c.id).where(*_waits(bulk)).limit(1)) is not None


def _is_postgres(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"


def _waits(bulk: bool) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Said plainly, not by parameters: else a plan that is kept for any of them could not use the index of these."""
    return _is_pending(), _TABLE.c.bulk.is_(true() if bulk else false())


def _is_pending() -> ColumnElement[bool]:
    pending: ColumnElement[bool] = _TABLE.c.status == literal_column("'pending'")
    return pending


@cache
def _take(postgres: bool, bulk: bool) -> Select[Any]:
    """Payloads come out of what locked the rows: they are of that moment, not of the statement's beginning."""
    c, size = _TABLE.c, func.pg_column_size if postgres else func.length
    place = (c.created_at, c.id)
    waiting = select(c.id, c.payload, c.cursor, c.created_at, func.coalesce(size(c.payload), 0).label("size"))
    waiting = waiting.where(*_waits(bulk), ~is_in_bound(c.id, "but", postgres=postgres)).order_by(*place)
    held = waiting.limit(bindparam("limit")).with_for_update(skip_locked=True).cte("held")
    upto = func.sum(held.c.size).over(order_by=(held.c.created_at, held.c.id))
    counted = select(held, upto.label("upto"), func.count().over().label("found")).cte("counted")
    fits = or_(counted.c.upto <= bindparam("most_bytes"), counted.c.upto == counted.c.size)
    chosen = select(counted.c.id, counted.c.payload, counted.c.cursor, counted.c.found).where(fits)
    return chosen.order_by(counted.c.created_at, counted.c.id)


@cache
def _these(postgres: bool) -> Select[Any]:
    c = _TABLE.c
    these = select(c.id, c.payload, c.cursor).where(is_in_bound(c.id, "ids", postgres=postgres), _is_pending())
    return these.order_by(c.created_at, c.id).with_for_update(skip_locked=True)


@cache
def _created(postgres: bool) -> Update:
    those = update(Request.__table__).where(is_in_bound(_TABLE.c.id, "ids", postgres=postgres))  # type: ignore[arg-type]
    return those.values(status=literal_column("'created'"), payload=null())
