"""Use case: read and update one recipient's notifications.

Another recipient's row looks absent in each of them; a read changes nothing.

Every function takes the caller's own SQLAlchemy session and leaves the commit to the caller.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, or_, select, true, tuple_, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.orm import Session

from worker import cql
from worker.errors import InvalidRequest
from worker.models import Notification

#: The most that one page may hold.
MAX_PER_PAGE = 200


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a recipient's notifications."""

    items: list[Notification]
    next_cursor: str | None
    """Give it back as `cursor` for the following page; None at the end, and where a query sorts."""
    page: int | None = None
    per_page: int = 10
    total: int | None = None
    """Counted only where page numbers are asked for."""

    @property
    def pages(self) -> int | None:
        """How many pages there are, where they were counted."""
        return None if self.total is None else -(-self.total // self.per_page)

    @property
    def has_next(self) -> bool:
        """Whether more follows."""
        return self.next_cursor is not None or (self.page or 0) < (self.pages or 0)

    @property
    def has_prev(self) -> bool:
        """Whether a numbered page comes before this one."""
        return self.page is not None and self.page > 1


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is in an inbox."""

    total: int
    unseen: int


def visible(recipient_id: str, now: datetime | None = None) -> ColumnElement[bool]:
    """What a recipient may see: their own, from its moment on, until it expires."""
    now = now or datetime.now(UTC)
    alive = or_(Notification.expire_at.is_(None), Notification.expire_at > now)
    return (Notification.recipient_id == recipient_id) & (Notification.created_at <= now) & alive


def _filtered(
    recipient_id: str,
    seen: bool | None = None,
    event_config_name: str | Sequence[str] | None = None,
    scope: str | None = None,
) -> ColumnElement[bool]:
    condition = visible(recipient_id)
    if seen is not None:
        condition &= Notification.seen_at.is_not(None) if seen else Notification.seen_at.is_(None)
    if isinstance(event_config_name, str):
        condition &= Notification.event_config_name == event_config_name
    elif event_config_name is not None:
        condition &= Notification.event_config_name.in_(event_config_name)
    if scope is not None:
        condition &= Notification.scope == scope
    return condition


def list(
    session: Session,
    recipient_id: str,
    *,
    seen: bool | None = None,
    event_config_name: str | Sequence[str] | None = None,
    scope: str | None = None,
    order: Literal["desc", "asc"] = "desc",
    page: int | None = None,
    per_page: int = 10,
    cursor: str | None = None,
    query: str | None = None,
) -> Page:
    """A page of notifications, newest first (or oldest first with `order="asc"`).

    Go on with `cursor` (quick at any depth), or jump with `page` (counts, as FitTrackee's pagination does).
    `query` narrows the list further, in the language of `worker.cql`. Where it sorts, `order` only decides between
    equals, and one goes on with `page` alone, from 1.
    Raises InvalidRequest for a page, size, order or cursor that is none, and InvalidQuery.
    """
    _check_paging(order, page, per_page, cursor)
    condition = _filtered(recipient_id, seen, event_config_name, scope)
    matches, sort = (true(), []) if query is None else cql.compile(cql.parse(query))
    if sort and cursor is not None:
        raise InvalidRequest("cursor: not where the query sorts; use page")
    if sort and page is None:
        page = 1
    condition &= matches
    statement = _ordered(select(Notification).where(condition).order_by(*sort), order)
    if cursor is not None:
        place = tuple_(Notification.created_at, Notification.id)
        at = _decode(cursor)
        statement = statement.where(place < at if order == "desc" else place > at)
    if page is not None:
        statement = statement.offset((page - 1) * per_page)
    items = [*session.scalars(statement.limit(per_page + 1))]
    following = _encode(items[per_page - 1]) if len(items) > per_page and not sort else None
    total = None if page is None else session.scalar(select(func.count()).select_from(Notification).where(condition))
    return Page(items[:per_page], following, page, per_page, total)


def _check_paging(order: str, page: int | None, per_page: int, cursor: str | None) -> None:
    if order not in ("asc", "desc"):
        raise InvalidRequest("order: asc or desc")
    if page is not None and (page < 1 or page > 1_000_000):
        raise InvalidRequest("page: a number from 1")
    if page is not None and cursor is not None:
        raise InvalidRequest("page, cursor: one of the two")
    if not 1 <= per_page <= MAX_PER_PAGE:
        raise InvalidRequest(f"per_page: a number from 1 to {MAX_PER_PAGE}")


def _ordered(statement: Select[Any], order: str) -> Select[Any]:
    columns = (Notification.created_at, Notification.id)
    return statement.order_by(*(column.desc() if order == "desc" else column.asc() for column in columns))


def _encode(last: Notification) -> str:
    place = json.dumps([last.created_at.isoformat(), last.id.hex])
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def _decode(cursor: str) -> tuple[datetime, UUID]:
    try:
        moment, id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        return datetime.fromisoformat(moment).astimezone(UTC), UUID(id)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise InvalidRequest("cursor: not one that a page gave") from None


def get(session: Session, recipient_id: str, id: UUID) -> Notification | None:
    """One notification, or None where the recipient has none of that id."""
    return session.scalar(select(Notification).where(visible(recipient_id), Notification.id == id))


def counts(session: Session, recipient_id: str) -> Counts:
    """How many notifications there are, and how many of them are unseen."""
    total, unseen = session.execute(
        select(func.count(), func.count().filter(Notification.seen_at.is_(None))).where(visible(recipient_id))
    ).one()
    return Counts(total, unseen)


def mark_seen(session: Session, recipient_id: str, id: UUID, seen: bool = True) -> Notification | None:
    """Mark one notification seen, or unseen again. `seen_at` keeps the first time; None where there is no such row."""
    now = datetime.now(UTC)
    changes = Notification.seen_at.is_(None) if seen else Notification.seen_at.is_not(None)
    session.execute(
        update(Notification)
        .where(visible(recipient_id, now), Notification.id == id, changes)
        .values(seen_at=now if seen else None, updated_at=now)
    )
    row = get(session, recipient_id, id)
    if row is not None:
        session.refresh(row)
    return row


def mark_all_seen(
    session: Session,
    recipient_id: str,
    *,
    event_config_name: str | Sequence[str] | None = None,
    scope: str | None = None,
    before: datetime | None = None,
) -> int:
    """Mark every unseen notification seen, and say how many.

    With `before`, those that arrived since then stay unseen: pass the time of the list the recipient looked at.
    """
    now = datetime.now(UTC)
    condition = _filtered(recipient_id, False, event_config_name, scope)
    if before is not None:
        condition &= Notification.created_at < before
    statement = update(Notification).where(condition).values(seen_at=now, updated_at=now)
    return len(session.execute(statement.returning(Notification.id)).all())


def delete(session: Session, recipient_id: str, id: UUID) -> bool:
    """Remove one notification; an email not yet sent goes with it. False where there is no such row."""
    statement = sql_delete(Notification).where(visible(recipient_id), Notification.id == id)
    return session.execute(statement.returning(Notification.id)).first() is not None


def delete_seen(session: Session, recipient_id: str, *, older_than: datetime | None = None) -> int:
    """Remove the recipient's seen notifications, or of them those not modified since `older_than`; says how many.

    None is no error (in FOLIO it is).
    """
    condition = visible(recipient_id) & Notification.seen_at.is_not(None)
    if older_than is not None:
        condition &= Notification.updated_at < older_than
    return len(session.execute(sql_delete(Notification).where(condition).returning(Notification.id)).all())


def event_types(session: Session, recipient_id: str, *, seen: bool | None = None) -> Sequence[str]:
    """The event config names the recipient has notifications of, in alphabetical order."""
    column = Notification.event_config_name
    statement = select(column).where(_filtered(recipient_id, seen), column.is_not(None)).distinct().order_by(column)
    return [name for name in session.scalars(statement) if name]


def as_dict(row: Notification) -> dict[str, Any]:
    """A notification as JSON: full UTC timestamps, ids as text."""
    return {column.key: _plain(getattr(row, column.key)) for column in Notification.__table__.columns}


def page_as_dict(page: Page) -> dict[str, Any]:
    """A page as JSON."""
    about = {name: getattr(page, name) for name in ("next_cursor", "has_next", "has_prev", "page", "pages", "total")}
    return {"items": [as_dict(row) for row in page.items], **about}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return str(value) if isinstance(value, UUID) else value
