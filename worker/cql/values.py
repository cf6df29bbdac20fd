"""What a value means for a field of its kind."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import cast
from uuid import UUID

from lark import Token

from worker.cql.tree import Kind, Mask, Relation, Span, Wild, is_break

#: Characters of a value that is searched for, not only compared: the size of a pattern must stay bounded.
MAX_PATTERN = 500

_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.ASCII | re.IGNORECASE)

#: Makes the error of a position (from 0) and what was expected there.
Refuse = Callable[[int, str], Exception]


def read_value(kind: Kind, relation: Relation, token: Token, refuse: Refuse) -> str | Mask | UUID | Span | bool | None:
    """The value as its field's kind has it; None asks for any value. Raises what `refuse` makes."""
    at = cast(int, token.start_pos)
    mask = tuple(_read(token, at, refuse))
    if not mask and relation == "=" and kind not in (Kind.FLAG, Kind.EVERYTHING):
        return None
    if kind is Kind.TEXT and relation in ("=", "==", "<>"):
        return _pattern(_words(mask, at, refuse) if relation == "=" else mask, at, refuse)
    plain = "".join(part for part in mask if isinstance(part, str))
    if len(plain) != len(mask):
        if kind is Kind.NAME and relation in ("=", "==", "<>"):
            return _pattern(mask, at, refuse)
        raise refuse(at, r"a value without * and ? (or with \* and \?)")
    try:
        return _convert(kind, relation, plain)
    except (ValueError, OverflowError):
        raise refuse(at, kind.value) from None


def _read(token: Token, at: int, refuse: Refuse) -> Iterator[str | Wild]:
    text, start = (token[1:-1], at + 1) if token.type == "STRING" else (str(token), at)
    last: str | Wild = ""
    for match in re.finditer(r"\\?.", text, re.DOTALL):
        part = _character(match[0], start + match.start(), refuse)
        if part is not Wild.ANY or last is not Wild.ANY:  # ** is *
            yield part
        last = part


def _character(written: str, position: int, refuse: Refuse) -> str | Wild:
    if written == "^":
        raise refuse(position, r"\^ for the character ^")
    if len(written) == 2 and written[1] not in '*?^"\\':
        raise refuse(position, r'one of * ? ^ " \ after the backslash')
    return Wild(written) if written in ("*", "?") else written[-1]


def _pattern(mask: Mask, at: int, refuse: Refuse) -> Mask:
    if len(mask) > MAX_PATTERN:
        raise refuse(at, f"a value of at most {MAX_PATTERN} characters")
    return mask


def _words(mask: Mask, at: int, refuse: Refuse) -> Mask:
    inside = [place for place, part in enumerate(mask) if not is_break(part)]
    if not inside:
        raise refuse(at, "a word")
    return mask[inside[0] : inside[-1] + 1]


def _convert(kind: Kind, relation: Relation, plain: str) -> str | UUID | Span | bool:
    match kind, plain.lower():
        case Kind.UUID, text if _UUID.fullmatch(text):
            return UUID(text)
        case Kind.MOMENT, _:
            return _moment(plain, whole_day=relation in ("=", "==", "<>"))
        case (Kind.FLAG, "true" | "false" as text):
            return text == "true"
        case Kind.EVERYTHING, "1":
            return True
        case ((Kind.TEXT | Kind.NAME), _):
            return plain
    raise ValueError


def _moment(plain: str, whole_day: bool) -> Span:
    try:
        day = date.fromisoformat(plain)
    except ValueError:
        moment = datetime.fromisoformat(plain)
        return Span(moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC))
    start = datetime.combine(day, time.min, UTC)
    return Span(start, start + timedelta(days=1)) if whole_day else Span(start)
