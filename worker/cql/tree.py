"""The fields a query may name, and what a query is once it is understood."""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Literal
from uuid import UUID

from sqlalchemy.orm import InstrumentedAttribute

from worker.models import Notification


class Kind(Enum):
    """What a field holds, and so what its values are; the value says it in an error."""

    TEXT = "text"
    NAME = "a name"
    UUID = "a UUID"
    MOMENT = "an ISO 8601 date or time"
    FLAG = "true or false"
    EVERYTHING = "1"


@dataclass(frozen=True, slots=True)
class Field:
    """What may be compared, and what it is in the store."""

    column: InstrumentedAttribute[Any]
    kind: Kind


_DECLARED: tuple[tuple[str, InstrumentedAttribute[Any], Kind], ...] = (
    ("id", Notification.id, Kind.UUID),
    ("recipientId recipient_id", Notification.recipient_id, Kind.NAME),
    ("senderId sender_id", Notification.sender_id, Kind.NAME),
    ("title", Notification.title, Kind.TEXT),
    ("text", Notification.text, Kind.TEXT),
    ("link", Notification.link, Kind.NAME),
    ("eventConfigName event_config_name", Notification.event_config_name, Kind.NAME),
    ("lang", Notification.lang, Kind.NAME),
    ("seen", Notification.seen_at, Kind.FLAG),
    ("createdDate metadata.createdDate created_at", Notification.created_at, Kind.MOMENT),
    ("updatedDate metadata.updatedDate updated_at", Notification.updated_at, Kind.MOMENT),
    ("seenDate seen_at", Notification.seen_at, Kind.MOMENT),
    ("objectType object_type", Notification.object_type, Kind.NAME),
    ("objectId object_id", Notification.object_id, Kind.NAME),
    ("scope", Notification.scope, Kind.NAME),
    ("parentId parent_id", Notification.parent_id, Kind.UUID),
    ("cql.allRecords", Notification.id, Kind.EVERYTHING),
)

#: By name in lower case: FOLIO's names and the columns'.
FIELDS = {name.lower(): Field(column, kind) for names, column, kind in _DECLARED for name in names.split()}

#: For error messages: the first name of each.
FIELD_NAMES = tuple(names.split()[0] for names, _, _ in _DECLARED)


class Wild(Enum):
    """What stands for characters: any, exactly one, one that parts words."""

    ANY = "*"
    ONE = "?"
    BREAK = " "


#: A value, character by character.
Mask = tuple[str | Wild, ...]

#: What parts words: white space and punctuation, of ASCII, Latin-1, typography (U+20xx) and CJK (U+30xx, U+FFxx).
#: As ranges, because SQLite's GLOB and regular expressions both read them.
BREAKS = (
    "\x01-/:-@[-`{-\xa9\xab-\xb1\xb4\xb6-\xb8\xbb\xbf\u2000-\u206f\u3000-\u3004\u3008-\u3020\uff01-\uff0f\uff1a-\uff20"
)
#: The same as a regular expression's set, for Python's and PostgreSQL's.
BREAKS_SET = "[" + BREAKS.replace("[", r"\[") + "]"
_BREAK = re.compile(BREAKS_SET)


def is_break(character: str | Wild) -> bool:
    """Whether it parts words."""
    return character is Wild.BREAK or (isinstance(character, str) and _BREAK.fullmatch(character) is not None)


Relation = Literal["=", "==", "<>", "<", "<=", ">", ">="]


@dataclass(frozen=True, slots=True)
class Span:
    """A moment, or with an end the time from it until just before that."""

    start: datetime
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One field compared with one value. The value None: whether there is any."""

    field: Field
    relation: Relation
    value: str | Mask | UUID | Span | bool | None
    depth: int = 0
    terms: int = 1


@dataclass(frozen=True, slots=True)
class Not:
    """The contrary."""

    part: "Node"
    depth: int
    terms: int


@dataclass(frozen=True, slots=True)
class Combination:
    """All of the parts, or any of them."""

    operator: Literal["and", "or"]
    parts: tuple["Node", ...]
    depth: int
    terms: int


Node = Comparison | Not | Combination


@dataclass(frozen=True, slots=True)
class SortKey:
    """One field to sort by."""

    field: Field
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """A query that was understood: checked names, values of the fields' kinds."""

    where: Node
    sort: tuple[SortKey, ...] = ()
