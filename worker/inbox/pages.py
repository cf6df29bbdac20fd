"""A page of a list, and the cursors that lead from one to the next."""

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

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


def check_paging(order: str, page: int | None, per_page: int, cursor: str | None) -> None:
    """Raise InvalidRequest naming the argument that is wrong."""
    if order not in ("asc", "desc"):
        raise InvalidRequest("order: asc or desc")
    if page is not None and (page < 1 or page > 1_000_000):
        raise InvalidRequest("page: a number from 1")
    if page is not None and cursor is not None:
        raise InvalidRequest("page, cursor: one of the two")
    if not 1 <= per_page <= MAX_PER_PAGE:
        raise InvalidRequest(f"per_page: a number from 1 to {MAX_PER_PAGE}")


def encode(last: Notification) -> str:
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
