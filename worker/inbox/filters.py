"""Which of a recipient's notifications: whatever lists, counts or changes them asks here, so that all of them agree."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import with_config
from sqlalchemy import BindParameter, ColumnElement, and_, bindparam, or_
from typing_extensions import TypedDict  # pydantic reads typing's from Python 3.12 on only

from worker import cql
from worker.arguments import AnyId, AnyMoment, flag, moment, text, uuid
from worker.errors import InvalidRequest
from worker.models import Notification
from worker.tables import Present

#: Characters of a text search, and words in it.
MAX_SEARCH = 200
MAX_SEARCH_WORDS = 20


@with_config(extra="forbid")
class Where(TypedDict, total=False):
    """What narrows an inbox down; None is no filter. All of them must hold."""

    event_config_name: str | Sequence[str] | None
    """Of this event, or of one of these."""
    sender_id: str | None
    not_sender_id: str | Sequence[str] | None
    """Not by this sender, or by none of these: those whom the recipient blocked. What has no sender stays."""
    object_type: str | None
    object_id: str | None
    """Only with `object_type`: objects of two types may have the same id."""
    scope: str | None
    parent_id: AnyId | None
    """The answers to this one."""
    thread_id: AnyId | None
    """The whole thread that began with this one, itself too."""
    since: AnyMoment | None
    """Created at this moment or later."""
    until: AnyMoment | None
    """Created before this moment."""
    search: str | None
    """Every one of these words stands somewhere in the title or the text, also inside longer words, without regard to
    case. At most 200 characters and 20 words."""


@with_config(extra="forbid")
class Filters(Where, total=False):
    """The same, and whether it was seen."""

    seen: bool | None


def visible(recipient_id: str | BindParameter[str]) -> ColumnElement[bool]:
    """What a recipient may see: their own, from its moment on, until it expires. Raises InvalidRequest."""
    if not isinstance(recipient_id, BindParameter):
        text("recipient_id", recipient_id)
    alive = or_(Notification.expire_at.is_(None), Notification.expire_at > Present())
    return (Notification.recipient_id == recipient_id) & (Notification.created_at <= Present()) & alive


def _of_thread(id: Any) -> ColumnElement[bool]:
    # The index of threads holds what has a parent.
    answers = Notification.parent_id.is_not(None) & (Notification.thread_id == id)
    return or_(answers, Notification.id == id)


_CONDITIONS: dict[str, Callable[[Any], ColumnElement[bool]]] = {
    "seen": lambda seen: Notification.seen_at.is_not(None) if seen else Notification.seen_at.is_(None),
    "event_config_name": lambda name: Notification.event_config_name == name,
    "event_config_name_in": lambda names: Notification.event_config_name.in_(names),
    "sender_id": lambda id: Notification.sender_id == id,
    "not_sender_id": lambda id: or_(Notification.sender_id.is_(None), Notification.sender_id != id),
    "not_sender_id_in": lambda ids: or_(Notification.sender_id.is_(None), Notification.sender_id.not_in(ids)),
    "object_type": lambda name: Notification.object_type == name,
    "object_id": lambda id: Notification.object_id == id,
    "scope": lambda scope: Notification.scope == scope,
    "parent_id": lambda id: Notification.parent_id == id,
    "thread_id": _of_thread,
    "since": lambda moment: Notification.created_at >= moment,
    "until": lambda moment: Notification.created_at < moment,
}
#: Filters that take one value or several. Several have a name of their own: comparing with one is quicker.
_SEVERAL = ("event_config_name", "not_sender_id")

#: Whether it was seen, the names of the filters that are given, and how many words are searched for.
Shape = tuple[bool | None, frozenset[str], int]


@dataclass(frozen=True, slots=True)
class Narrowed:
    """A recipient's notifications, or some of them."""

    recipient_id: str
    seen: bool | None
    given: dict[str, Any]
    """The filters that are given, but for `seen` and `search`."""
    words: Sequence[cql.Pattern] = ()
    """That are searched for."""

    @property
    def shape(self) -> Shape:
        """What conditions have in common that differ in their values alone."""
        return self.seen, frozenset(self.given), len(self.words)

    @property
    def values(self) -> dict[str, Any]:
        """The values of `condition_of(shape)`."""
        words = {name: part for n, word in enumerate(self.words) for name, part in zip(_names(n), word, strict=True)}
        return {"recipient_id": self.recipient_id, **self.given, **words}

    def condition(self) -> ColumnElement[bool]:
        """The whole condition, with its values."""
        parts = [_CONDITIONS[name](value) for name, value in self.given.items()]
        parts += [] if self.seen is None else [_CONDITIONS["seen"](self.seen)]
        return and_(visible(self.recipient_id), *parts, *[_found(*word) for word in self.words])


@cache
def condition_of(shape: Shape) -> ColumnElement[bool]:
    """The condition without its values: making it anew for each query takes longer than a small query runs."""
    seen, given, words = shape
    parts = [_CONDITIONS[name](bindparam(name, expanding=name.endswith("_in"))) for name in sorted(given)]
    parts += [] if seen is None else [_CONDITIONS["seen"](seen)]
    return and_(visible(bindparam("recipient_id")), *parts, *[_found(*map(bindparam, _names(n))) for n in range(words)])


def narrow(
    recipient_id: str,
    *,
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
    text("recipient_id", recipient_id)
    given = {name: _CHECKS[name](name, value) for name, value in where.items() if value is not None}
    if "object_id" in given and "object_type" not in given:
        raise InvalidRequest("object_id: only with object_type")
    for name in _SEVERAL:
        if name in given and not isinstance(given[name], str):
            values = given.pop(name)
            given |= {name: values[0]} if len(values) == 1 else {f"{name}_in": values}
    words = () if search is None else _words(search)
    return Narrowed(recipient_id, None if seen is None else flag("seen", seen), given, words)


def _one_or_several(name: str, value: Any) -> str | list[str]:
    if isinstance(value, bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidRequest(f"{name}: text, or a list of texts")
    return text(name, value) if isinstance(value, str) else [text(name, one) for one in value]


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(Where.__annotations__, text),
    **dict.fromkeys(_SEVERAL, _one_or_several),
    **dict.fromkeys(("parent_id", "thread_id"), uuid),
    **dict.fromkeys(("since", "until"), moment),
}


def _words(search: str) -> Sequence[cql.Pattern]:
    words = text("search", search).split()
    if len(search) > MAX_SEARCH or len(words) > MAX_SEARCH_WORDS:
        raise InvalidRequest(f"search: at most {MAX_SEARCH} characters and {MAX_SEARCH_WORDS} words")
    return [cql.containing(word) for word in words]


def _names(number: int) -> tuple[str, str]:
    return f"regex_{number}", f"glob_{number}"


def _found(regex: Any, glob: Any) -> ColumnElement[bool]:
    return or_(*[cql.Fits(column.expression, regex, glob) for column in (Notification.title, Notification.text)])
