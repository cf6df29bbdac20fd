"""Lists of a recipient's notifications, page by page."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, Unpack
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, bindparam, func, literal_column, or_, select
from sqlalchemy.orm import Session

from worker import cql
from worker.errors import InvalidRequest
from worker.inbox.filters import Filters, Narrowed, condition_of, narrow, visible
from worker.inbox.pages import Page, check_paging, decode, encode
from worker.models import Notification

Order = Literal["desc", "asc"]

#: Filters that PostgreSQL's indexes decide without a look at the rows.
_IN_INDEX = frozenset({"event_config_name", "scope", "since", "until"})
Shape = tuple[bool | None, frozenset[str]]


def list(
    session: Session,
    recipient_id: str,
    *,
    order: Order = "desc",
    page: int | None = None,
    per_page: int = 10,
    cursor: str | None = None,
    query: str | None = None,
    **filters: Unpack[Filters],
) -> Page:
    """A page of notifications, newest first (or oldest first with `order="asc"`).

    Go on with `cursor` (quick at any depth; nothing comes twice or is left out, whatever arrives meanwhile), or jump
    with `page` (counts, as FitTrackee's pagination does). Endurain and FitTrackee show 5 per page, FOLIO and Labii 10.
    `query` narrows the list further, in the language of `worker.cql`. Where it sorts, `order` only decides between
    equals, and one goes on with `page` alone, from 1.
    Raises InvalidRequest for a filter, page, size, order or cursor that is none, and InvalidQuery.
    """
    check_paging(order, page, per_page, cursor)
    narrowed = narrow(recipient_id, **filters)
    extra, sort = (None, ()) if query is None else cql.compile(cql.parse(query))
    if sort and cursor is not None:
        raise InvalidRequest("cursor: not where the query sorts; use page")
    page = 1 if sort and page is None else page
    wanted = [part for part in (narrowed.search, extra) if part is not None]
    # A page has one row more than it shows: that row tells that there is a next page.
    values = narrowed.values | {"skipped": ((page or 1) - 1) * per_page}
    if cursor is not None:
        values["at"], values["beside"] = decode(cursor)
    make = _made if wanted or sort else _kept
    statement = make(
        narrowed.shape, order, cursor is not None, (page or 1) > 1, per_page + 1, *wanted, sort=tuple(sort)
    )
    items = [*session.scalars(statement, values)]
    following = encode(items[per_page - 1]) if len(items) > per_page and not sort else None
    total = None if page is None else _total(session, narrowed, wanted)
    return Page(items[:per_page], following, page, per_page, total)


def _total(session: Session, narrowed: Narrowed, wanted: Sequence[ColumnElement[bool]]) -> int:
    statement = select(func.count()).select_from(Notification).where(condition_of(narrowed.shape), *wanted)
    return session.scalar(statement, narrowed.values) or 0


def _made(
    shape: Shape,
    order: Order,
    after: bool,
    deep: bool,
    rows: int,
    *wanted: ColumnElement[bool],
    sort: Sequence[ColumnElement[Any]] = (),
) -> Select[Notification]:
    where = and_(condition_of(shape), *wanted)
    if after:
        where &= _following(order)
    place = (*sort, *_place(order))
    # Written out: with a limit it does not know PostgreSQL would plan for a tenth of all rows.
    limit: Any = literal_column(str(rows))
    if not (_worth_a_detour(shape, deep) and not wanted and not sort):
        found = select(Notification).where(where).order_by(*place)
        return found.limit(limit).offset(bindparam("skipped")) if deep else found.limit(limit)
    ids = select(Notification.id).where(where).order_by(*place).limit(limit).offset(bindparam("skipped"))
    return select(Notification).where(Notification.id.in_(ids)).order_by(*place)


_kept = lru_cache(maxsize=512)(_made)


def _worth_a_detour(shape: Shape, deep: bool) -> bool:
    """Whether to find the ids in the index first, since many rows are passed over on the way to the page's."""
    seen, given = shape
    return seen is not True and given <= _IN_INDEX and (deep or bool(given & {"event_config_name", "scope"}))


def _following(order: Order) -> ColumnElement[bool]:
    # A bound and a tie-break: PostgreSQL goes straight to the place in the index. With OR alone it would read up to it.
    at: Any = bindparam("at", type_=Notification.created_at.type)
    beside: Any = bindparam("beside", type_=Notification.id.type)
    moment, id = Notification.created_at, Notification.id
    if order == "desc":
        return and_(moment <= at, or_(moment < at, id < beside))
    return and_(moment >= at, or_(moment > at, id > beside))


def _place(order: Order) -> Sequence[ColumnElement[Any]]:
    columns = (Notification.created_at, Notification.id)
    return [column.desc() if order == "desc" else column.asc() for column in columns]


def get(session: Session, recipient_id: str, id: UUID) -> Notification | None:
    """One notification, or None where the recipient has none of that id."""
    return session.scalar(select(Notification).where(visible(recipient_id), Notification.id == id))
