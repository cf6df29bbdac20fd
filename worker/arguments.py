"""What callers of Python functions pass, as the tasks take it, checked before any statement is sent.

A value that the database itself refuses breaks the caller's transaction, with an error of the driver's.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from pydantic import ConfigDict, TypeAdapter, ValidationError

from worker.errors import InvalidRequest
from worker.moments import parse_moment
from worker.request import Id, complaints

#: An id, and a moment with its offset from UTC: as such, or as text.
AnyId = UUID | str
AnyMoment = datetime | str

T = TypeVar("T")

#: Bytes are no text.
STRICT = ConfigDict(strict=True)

ID = TypeAdapter[str](Id, config=STRICT)
_IDS = TypeAdapter[list[str]](list[Id], config=STRICT)
_UUID = TypeAdapter(UUID)


def text(name: str, value: Any) -> str:
    """Text to compare with. Raises InvalidRequest for what no database could hold."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name}: text")
    if "\0" in value or (not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value)):
        raise InvalidRequest(f"{name}: no NUL character and no lone surrogate")
    return value


def uuid(name: str, value: Any) -> UUID:
    """An id, given as such or as text. Raises InvalidRequest."""
    if isinstance(value, UUID):
        return value
    try:
        if isinstance(value, str):
            return _UUID.validate_python(value)
    except ValidationError:
        pass
    raise InvalidRequest(f"{name}: a UUID, as such or as text")


def moment(name: str, value: Any) -> datetime:
    """A moment with its offset, given as such or as ISO 8601. Raises InvalidRequest."""
    try:
        at = parse_moment(value) if isinstance(value, str) else value
    except ValueError:
        at = None
    if not isinstance(at, datetime) or at.utcoffset() is None:
        raise InvalidRequest(f"{name}: a time with its offset from UTC, such as 2026-01-31T08:00:00+01:00")
    if not datetime.min.year < at.year < datetime.max.year:
        raise InvalidRequest(f"{name}: outside the calendar in UTC")
    return at


def flag(name: str, value: Any) -> bool:
    """Raises InvalidRequest: the text `false` would count as true."""
    if not isinstance(value, int) or value not in (0, 1):
        raise InvalidRequest(f"{name}: true or false")
    return bool(value)


def ids(name: str, values: Any) -> list[str]:
    """Ids to be kept. Raises InvalidRequest, for a single text too: its letters would be the ids."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidRequest(f"{name}: a list of ids")
    return checked(_IDS, name, [*values])


def checked(rule: TypeAdapter[T], name: str, value: Any) -> T:
    """The value by its rule. Raises InvalidRequest naming the argument, the place in it and the rule."""
    try:
        return rule.validate_python(value)
    except ValidationError as error:
        raise InvalidRequest(complaints(error, name)) from None
