"""Notifications as JSON."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from worker.inbox.counting import Counts
from worker.inbox.items import Item
from worker.inbox.pages import Page
from worker.models import Notification

#: How much of a notification: what a menu shows, what a list shows, everything.
Depth = Literal["name", "list", "detail"]

_NAME = ("id", "title")
_LIST = (
    *(*_NAME, "link", "sender_id", "event_config_name", "object_type", "object_id", "scope", "parent_id"),
    *("lang", "created_at", "seen", "seen_at"),
)
_FIELDS: dict[Depth, tuple[str, ...]] = {
    "name": _NAME,
    "list": _LIST,
    "detail": (*Item._fields, "seen"),
}
_ABOUT = ("next_cursor", "has_next", "has_prev", "page", "pages", "offset", "per_page", "total")


def as_dict(row: Item | Notification, depth: Depth = "detail") -> dict[str, Any]:
    """A notification as JSON: full UTC timestamps with Z, ids as text, `seen` beside `seen_at`.

    `name`: id and title. `list`: with where it comes from and whether it was seen, without its text. `detail`: all.
    """
    return {name: row.seen_at is not None if name == "seen" else _plain(getattr(row, name)) for name in _FIELDS[depth]}


def page_as_dict(page: Page, depth: Depth = "detail") -> dict[str, Any]:
    """A page as JSON."""
    about = {name: getattr(page, name) for name in _ABOUT}
    return {"items": [as_dict(row, depth) for row in page.items], **about}


def counts_as_dict(counts: Counts) -> dict[str, Any]:
    """Counts as JSON; `by_event` only where it was asked for."""
    whole: dict[str, Any] = {"total": counts.total, "unseen": counts.unseen}
    if counts.by_event is not None:
        whole["by_event"] = {name: counts_as_dict(its) for name, its in counts.by_event.items()}
    return whole


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return str(value) if isinstance(value, UUID) else value
