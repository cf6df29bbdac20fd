"""Lists of a recipient's notifications, page by page."""

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, Literal, Unpack

from sqlalchemy import ColumnElement, Select, and_, bindparam, func, literal_column, select, tuple_
from sqlalchemy.orm import Session

from worker import cql
from worker.arguments import AnyId, text, uuid
from worker.inbox import quick
from worker.inbox.filters import Filters, Narrowed, Shape, condition_of, narrow
from worker.inbox.items import COLUMNS, Item
from worker.inbox.pages import Page, decode, encode, passed_over
from worker.models import Notification
from worker.tables import UtcDateTime

Order = Literal["desc", "asc"]

#: Filters that PostgreSQL's indexes decide without a look at the rows.
_IN_INDEX = frozenset({"event_config_name", "event_config_name_in", "scope", "since", "until"})


def list(
    session: Session,
    recipient_id: str,
    *,
    order: Order = "desc",
    page: int | None = None,
    offset: int | None = None,
    per_page: int = 10,
    cursor: str | None = None,
    query: str | None = None,
    only: ColumnElement[bool] | None = None,
    **filters: Unpack[Filters],
) -> Page:
    """A page of notifications, newest first (or oldest first with `order="asc"`).

    Go on with `cursor` (quick at any depth; nothing comes twice or is left out, whatever arrives meanwhile), or jump
    with `page` (counts, as FitTrackee's pagination does) or `offset` (counts, as FOLIO's does). Endurain and FitTrackee
    show 5 per page, FOLIO and Labii 10. `query` narrows the list further, in the language of `worker.cql`. Where it
    sorts, `order` only decides between equals, and one goes on with `page` or `offset`, from the start. `only` narrows
    it by a condition of your own on `worker.models.Notification`, such as what your own tables let the recipient see.
    Raises InvalidRequest for a filter, page, offset, size, order or cursor that is none, and InvalidQuery.
    """
    narrowed = narrow(recipient_id, **filters)
    asked, sort = (None, ()) if query is None else cql.compile(cql.parse(text("query", query)))
    wanted = [part for part in (asked, only) if part is not None]
    skipped = passed_over(order, page, offset, per_page, cursor, sorts=bool(sort))
    values: dict[str, Any] = {**narrowed.values, "skipped": skipped or 0}
    if cursor is not None:
        values["at"], values["beside"] = decode(cursor)
    # A page has one row more than it shows: that row tells that there is a next page.
    form = (narrowed.shape, order, cursor is not None, bool(skipped), per_page + 1)
    if wanted:
        found = session.execute(_made(*form, wanted=wanted, sort=tuple(sort)), values).all()
    else:
        found = quick.rows(session, _kept(*form), values)
    items = [Item._make(row) for row in found[:per_page]]
    following = encode(items[-1]) if len(found) > per_page and not sort else None
    total = None if skipped is None else _total(session, narrowed, wanted)
    return Page(items, following, skipped, per_page, total)


def _total(session: Session, narrowed: Narrowed, wanted: Sequence[ColumnElement[bool]]) -> int:
    if wanted:
        return session.scalar(_count(narrowed.shape).where(*wanted), narrowed.values) or 0
    return int(quick.rows(session, _count(narrowed.shape), narrowed.values)[0][0])


@lru_cache(maxsize=512)
def _count(shape: Shape) -> Select[Any]:
    return select(func.count()).select_from(Notification).where(condition_of(shape))


def _made(
    shape: Shape,
    order: Order,
    after: bool,
    deep: bool,
    rows: int,
    *,
    wanted: Sequence[ColumnElement[bool]] = (),
    sort: Sequence[ColumnElement[Any]] = (),
) -> Select[Any]:
    where = and_(condition_of(shape), *wanted)
    if after:
        where &= _following(order)
    place = (*sort, *_place(order))
    # Written out: with a limit it does not know PostgreSQL would plan for a tenth of all rows.
    limit: Any = literal_column(str(rows))
    if wanted or not _worth_a_detour(shape, deep):
        found = select(*COLUMNS).where(where).order_by(*place)
        return found.limit(limit).offset(bindparam("skipped")) if deep else found.limit(limit)
    ids = select(Notification.id).where(where).order_by(*place).limit(limit).offset(bindparam("skipped"))
    return select(*COLUMNS).where(Notification.id.in_(ids)).order_by(*place)


_kept = lru_cache(maxsize=512)(_made)


def _worth_a_detour(shape: Shape, deep: bool) -> bool:
    """Whether to find the ids in the index first, since many rows are passed over on the way to the page's."""
    seen, given, words = shape
    named = not given.isdisjoint({"event_config_name", "event_config_name_in", "scope"})
    return seen is not True and not words and given <= _IN_INDEX and (deep or named)


def _following(order: Order) -> ColumnElement[bool]:
    # Compared as a pair: PostgreSQL goes straight to the place in the index, with a plan that it keeps.
    here = tuple_(Notification.created_at, Notification.id)
    at = bindparam("at", type_=UtcDateTime())
    there: Any = tuple_(at, bindparam("beside", type_=Notification.id.type))
    following: ColumnElement[bool] = here < there if order == "desc" else here > there
    return following


def _place(order: Order) -> Sequence[ColumnElement[Any]]:
    columns = (Notification.created_at, Notification.id)
    return [column.desc() if order == "desc" else column.asc() for column in columns]


def get(session: Session, recipient_id: str, id: AnyId) -> Item | None:
    """One notification, or None where the recipient has none of that id."""
    values = {"recipient_id": text("recipient_id", recipient_id), "id": uuid("id", id)}
    found = quick.rows(session, _one(), values)
    return Item._make(found[0]) if found else None


@cache
def _one() -> Select[Any]:
    its: Any = bindparam("id", type_=Notification.id.type)
    return select(*COLUMNS).where(condition_of((None, frozenset(), 0)), Notification.id == its)
