"""A page of a list, and the cursors that lead from one to the next."""

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from worker.errors import InvalidRequest
from worker.inbox.items import Item

#: The most that one page may hold.
MAX_PER_PAGE = 200
#: Pages that may be numbered.
MAX_PAGES = 1_000_000


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a recipient's notifications."""

    items: list[Item]
    next_cursor: str | None
    """Give it back as `cursor` for the following page; None at the end, and where a query sorts."""
    offset: int | None = None
    """How many come before this page; known, as `total` is, where a page number or an offset is asked for."""
    per_page: int = 10
    total: int | None = None

    @property
    def page(self) -> int | None:
        """The number of the page that it begins in, from 1."""
        return None if self.offset is None else self.offset // self.per_page + 1

    @property
    def pages(self) -> int | None:
        """How many pages there are, where they were counted."""
        return None if self.total is None else -(-self.total // self.per_page)

    @property
    def has_next(self) -> bool:
        """Whether more follows."""
        return self.next_cursor is not None or (self.offset or 0) + self.per_page < (self.total or 0)

    @property
    def has_prev(self) -> bool:
        """Whether there is a page before this one; not known of a page by cursor."""
        return bool(self.offset)


def passed_over(
    order: str, page: int | None, offset: int | None, per_page: int, cursor: str | None, *, sorts: bool
) -> int | None:
    """How many to pass over; None where neither page nor offset is asked for and the query does not sort.

    Raises InvalidRequest naming the argument that is wrong.
    """
    if order not in ("asc", "desc"):
        raise InvalidRequest("order: asc or desc")
    if not _is_number(per_page, 1, MAX_PER_PAGE):
        raise InvalidRequest(f"per_page: a number from 1 to {MAX_PER_PAGE}")
    if page is not None and not _is_number(page, 1, MAX_PAGES):
        raise InvalidRequest("page: a number from 1")
    if offset is not None and not _is_number(offset, 0, MAX_PAGES * MAX_PER_PAGE):
        raise InvalidRequest("offset: a number from 0")
    if sum(given is not None for given in (page, offset, cursor)) > 1:
        raise InvalidRequest("page, offset, cursor: one of the three")
    if sorts and cursor is not None:
        raise InvalidRequest("cursor: not where the query sorts; use page or offset")
    if offset is None and (page is not None or sorts):
        return ((page or 1) - 1) * per_page
    return offset


def _is_number(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def encode(last: Item) -> str:
    """The cursor that goes on after this one."""
    place = json.dumps([last.created_at.isoformat(), last.id.hex])
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def decode(cursor: str) -> tuple[datetime, UUID]:
    """The place of a cursor. Raises InvalidRequest."""
    try:
        moment, id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        return datetime.fromisoformat(moment).astimezone(UTC), UUID(id)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise InvalidRequest("cursor: not one that a page gave") from None
