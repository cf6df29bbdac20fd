"""Which of a recipient's notifications: whatever lists, counts or changes them asks here, so that all of them agree."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal
from uuid import UUID

from pydantic import with_config
from sqlalchemy import BindParameter, ColumnElement, and_, bindparam, or_, true
from typing_extensions import TypedDict  # pydantic reads typing's from Python 3.12 on only

from worker import cql
from worker.cql.tree import FIELDS, Combination, Comparison, Wild
from worker.errors import InvalidRequest
from worker.models import Notification, UtcDateTime

#: Characters of a text search, and words in it.
MAX_SEARCH = 200
MAX_SEARCH_WORDS = 20


@with_config(extra="forbid")
class Where(TypedDict, total=False):
    """What narrows an inbox down; None is no filter. All of them must hold."""

    event_config_name: str | Sequence[str] | None
    """Of this event, or of one of these."""
    sender_id: str | None
    object_type: str | None
    object_id: str | None
    """Only with `object_type`: objects of two types may have the same id."""
    scope: str | None
    parent_id: UUID | None
    """The answers to this one, that is a thread."""
    since: datetime | None
    """Created at this moment or later."""
    until: datetime | None
    """Created before this moment."""
    search: str | None
    """Every one of these words stands somewhere in the title or the text, also inside longer words, without regard to
    case. At most 200 characters and 20 words."""


@with_config(extra="forbid")
class Filters(Where, total=False):
    """The same, and whether it was seen."""

    seen: bool | None


def visible(
    recipient_id: str | BindParameter[str], now: datetime | BindParameter[datetime] | None = None
) -> ColumnElement[bool]:
    """What a recipient may see: their own, from its moment on, until it expires."""
    now = datetime.now(UTC) if now is None else now
    alive = or_(Notification.expire_at.is_(None), Notification.expire_at > now)
    return (Notification.recipient_id == recipient_id) & (Notification.created_at <= now) & alive


_CONDITIONS: dict[str, Callable[[Any], ColumnElement[bool]]] = {
    "seen": lambda seen: Notification.seen_at.is_not(None) if seen else Notification.seen_at.is_(None),
    "event_config_name": lambda names: Notification.event_config_name.in_(names),
    "sender_id": lambda id: Notification.sender_id == id,
    "object_type": lambda name: Notification.object_type == name,
    "object_id": lambda id: Notification.object_id == id,
    "scope": lambda scope: Notification.scope == scope,
    "parent_id": lambda id: Notification.parent_id == id,
    "since": lambda moment: Notification.created_at >= moment,
    "until": lambda moment: Notification.created_at < moment,
}


@dataclass(frozen=True, slots=True)
class Narrowed:
    """A recipient's notifications, or some of them."""

    recipient_id: str
    now: datetime
    seen: bool | None
    given: dict[str, Any]
    """The filters that are given, but for `seen` and `search`."""
    search: ColumnElement[bool] | None

    @property
    def shape(self) -> tuple[bool | None, frozenset[str]]:
        """What conditions have in common that differ in their values alone."""
        return self.seen, frozenset(self.given)

    @property
    def values(self) -> dict[str, Any]:
        """The values of `condition_of(shape)`."""
        return {"recipient_id": self.recipient_id, "now": self.now, **self.given}

    def condition(self) -> ColumnElement[bool]:
        """The whole condition, with its values."""
        parts = [_CONDITIONS[name](value) for name, value in self.given.items()]
        parts += [] if self.seen is None else [_CONDITIONS["seen"](self.seen)]
        parts += [] if self.search is None else [self.search]
        return and_(visible(self.recipient_id, self.now), *parts)


@cache
def condition_of(shape: tuple[bool | None, frozenset[str]]) -> ColumnElement[bool]:
    """The condition without its values: making it anew for each query takes longer than a small query runs."""
    seen, given = shape
    whole = visible(bindparam("recipient_id"), bindparam("now", type_=UtcDateTime()))
    parts = [_CONDITIONS[name](bindparam(name, expanding=name == "event_config_name")) for name in sorted(given)]
    return and_(whole, *parts, *([] if seen is None else [_CONDITIONS["seen"](seen)]))


def narrow(
    recipient_id: str,
    *,
    now: datetime | None = None,
    seen: bool | None = None,
    search: str | None = None,
    **where: Any,
) -> Narrowed:
    """Check the filters, and keep those that are given.

    Raises InvalidRequest naming the filter, and TypeError where there is no such filter.
    """
    unknown = where.keys() - Where.__annotations__.keys()
    if unknown:
        raise TypeError(f"no such filter: {min(unknown)}")
    given = {name: value for name, value in where.items() if value is not None}
    if (events := given.get("event_config_name")) is not None:
        given["event_config_name"] = [events] if isinstance(events, str) else [*events]
    _check(recipient_id, given)
    found = None if search is None else _found(search)
    return Narrowed(recipient_id, datetime.now(UTC) if now is None else now, seen, given, found)


def _check(recipient_id: str, given: dict[str, Any]) -> None:
    _check_text("recipient_id", recipient_id)
    if "object_id" in given and "object_type" not in given:
        raise InvalidRequest("object_id: only with object_type")
    for name, value in given.items():
        if isinstance(value, datetime) and value.tzinfo is None:
            raise InvalidRequest(f"{name}: a time with its offset from UTC")
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                _check_text(name, text)


def _check_text(name: str, text: str) -> None:
    if "\0" in text or (not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)):
        raise InvalidRequest(f"{name}: no NUL character and no lone surrogate")


def _found(search: str) -> ColumnElement[bool]:
    _check_text("search", search)
    words = search.split()
    if len(search) > MAX_SEARCH or len(words) > MAX_SEARCH_WORDS:
        raise InvalidRequest(f"search: at most {MAX_SEARCH} characters and {MAX_SEARCH_WORDS} words")
    if not words:
        return true()
    return cql.compile(cql.Query(_combined("and", [_contains(word) for word in words], depth=2)))[0]


def _contains(word: str) -> Combination:
    mask = (Wild.ANY, *word, Wild.ANY)
    return _combined("or", [Comparison(FIELDS[name], "==", mask) for name in ("title", "text")], depth=1)


def _combined(operator: Literal["and", "or"], parts: Sequence[Comparison | Combination], depth: int) -> Combination:
    return Combination(operator, tuple(parts), depth, sum(part.terms for part in parts))
