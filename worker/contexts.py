"""The values that templates get: plain JSON, checked once, with its text, so that nobody encodes it again."""

import json
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from pydantic import PlainValidator
from pydantic_core import to_json

#: Bytes of a context as JSON.
MAX_CONTEXT_BYTES = 64 * 1024
#: Levels of objects and lists in a context.
MAX_CONTEXT_DEPTH = 16
#: Bytes of the contexts of a request that has one for each recipient, each with the request's own.
MAX_CONTEXTS_BYTES = 8 * 1024 * 1024

#: The names of an object in which kombu packs a value that JSON has not: a message with another such one has no reader.
_PACKED = {"__type__", "__value__"}
#: What stands in JSON as it is, with nothing in it, and is always something that JSON has.
_FLAT, _NAMES = frozenset({str, int, bool, type(None)}), frozenset({str})
#: Characters of JSON in which no number has more digits than Python reads.
_SHORT = 4_000


class PlainJson(dict[str, Any]):
    """An object as JSON holds it, with that JSON; not to be changed."""

    __slots__ = ("size", "text")

    def __init__(self, values: Mapping[str, Any] | None = None, text: str = "{}", size: int = 2) -> None:
        super().__init__(values or {})
        self.text, self.size = text, size


def plain_json(value: Any) -> PlainJson:
    """The value as JSON holds it: dates become ISO 8601 text, decimals text, tuples lists. Raises ValueError.

    Walked level by level, so that deep nesting is refused before anything recurses into it.
    """
    if type(value) is PlainJson:
        return value
    simple = _simple(value)
    if simple is not None:
        return simple
    level, depth = [value], 0
    while level := [item for item in level if isinstance(item, Mapping | list | tuple)]:
        depth += 1
        if depth > MAX_CONTEXT_DEPTH:
            raise ValueError(f"nested deeper than {MAX_CONTEXT_DEPTH} levels")
        level = [child for item in level for child in _children(item)]
    try:
        text = _encode(value)
        size = len(text.encode())
    except (TypeError, ValueError):
        raise ValueError("JSON values only: no NaN or infinity, no lone surrogates, object keys are text") from None
    if size > MAX_CONTEXT_BYTES:
        raise ValueError(f"at most {MAX_CONTEXT_BYTES} bytes as JSON")
    if "\\u0000" in text and _holds_nul(value):
        raise ValueError("no NUL characters")
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("Input should be a valid dictionary")
    return PlainJson(values, text, size)


def _simple(value: Any) -> PlainJson | None:
    """The usual context, short and with nothing nested; None of one that needs a closer look."""
    if type(value) is not dict or not _FLAT.issuperset(map(type, value.values())):
        return None
    if not _NAMES.issuperset(map(type, value)) or "__type__" in value:
        return None
    try:
        text = to_json(value).decode()
    except ValueError:
        return None
    if len(text) > _SHORT or "\\u0000" in text:
        return None
    return PlainJson(value, text, len(text) if text.isascii() else len(text.encode()))


def merged(shared: Mapping[str, Any], own: PlainJson | None) -> Mapping[str, Any]:
    """What a template gets of a recipient who has values of their own: these win."""
    return {**shared, **own} if shared and own else own or shared


def _children(item: Any) -> Iterator[Any]:
    if isinstance(item, Mapping):
        if not all(isinstance(key, str) for key in item):
            raise ValueError("object keys are text")
        if item.keys() == _PACKED:
            raise ValueError("no object of `__type__` and `__value__` alone, which Celery takes for a value of its own")
        yield from item.values()
    elif isinstance(item, list | tuple):
        yield from item


def _holds_nul(item: Any) -> bool:
    if isinstance(item, str):
        return "\0" in item
    return any(map(_holds_nul, _children(item))) or (isinstance(item, Mapping) and any("\0" in key for key in item))


def _as_text(value: object) -> str:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal | UUID):
        return str(value)
    raise TypeError


_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False, default=_as_text).encode
#: JSON in ASCII with sorted names: equal for equal values.
sorted_text = json.JSONEncoder(sort_keys=True).encode

Context = Annotated[PlainJson, PlainValidator(plain_json)]
