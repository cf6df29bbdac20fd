"""The wire contract: one frozen, self-checking request. Light enough for every application to import."""

import hashlib
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import to_json

from worker.attachments import MAX_FILES, Attachment, check_files
from worker.contexts import MAX_CONTEXTS_BYTES, Context, PlainJson, sorted_text
from worker.errors import InvalidRequest
from worker.ids import uuid7
from worker.lang import lang_field

#: Recipients that one request may name; larger audiences are groups.
MAX_RECIPIENTS = 10_000
#: Members that a group's entry may leave out.
MAX_WITHOUT = 1_000
#: Faults that an error names; of more it gives the number.
MAX_COMPLAINTS = 40

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_LINE_BREAK = re.compile(r"[\n\r\t\u0085\u2028\u2029]")
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_ADDRESS = re.compile(r"^[^@\s<>,;:\"()\[\]\\]+@[^@\s<>,;:\"()\[\]\\]+$")


def _no_control(value: str) -> str:
    if not value.isprintable() and _CONTROL.search(value):
        raise ValueError("no control characters and no lone surrogates")
    return value


def _one_line(value: str) -> str:
    if value.isprintable():
        return value
    if _LINE_BREAK.search(value):
        raise ValueError("one line only")
    return _no_control(value)


def _safe_link(value: str) -> str:
    scheme = _SCHEME.match(value)
    if scheme and scheme[0].lower() not in ("http:", "https:", "mailto:"):
        raise ValueError("a relative link, or one that starts with http:, https: or mailto:")
    if re.search(r"\s", value):
        raise ValueError("no white space")
    return _no_control(value)


def _address(value: str) -> str:
    if not _ADDRESS.match(_one_line(value)):
        raise ValueError("one bare address of the form local@domain")
    return value


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("outside the calendar in UTC") from None


Id = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_one_line)]
Line = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_one_line)]
Text = Annotated[str, StringConstraints(max_length=20_000), AfterValidator(_no_control)]
Link = Annotated[str, StringConstraints(min_length=1, max_length=2_000), AfterValidator(_safe_link)]
Address = Annotated[str, StringConstraints(max_length=320), AfterValidator(_address)]
Lang = Annotated[str, StringConstraints(max_length=35), AfterValidator(lang_field)]
Timezone = Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_+/-]*$")]
EventConfigName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,99}$")]


def _moment(value: Any) -> Any:
    if not isinstance(value, datetime | str) or (isinstance(value, str) and not re.match(r"[0-9]{4}-", value)):
        raise ValueError("a moment in ISO 8601 with its offset, such as 2026-01-31T08:00:00+01:00")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_moment), AfterValidator(_utc)]

#: What a wire without files leaves out, and what a fingerprint does not take as it is written.
_NO_FILES = {"attachments"}
_APART = {"id", "context"}
_APART_EACH: Any = {"id": True, "context": True, "to": {"__all__": {"context"}}}

#: How the JSON of a request begins whose one recipient is an id and nothing more.
_ONE_ID = re.compile(rb'(\{"id":"[^"]+","to":\[)\{"id":("(?:[^"\\]|\\.)*")\}\]')

_FROZEN = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Recipient(BaseModel):
    """One entry of `to`: an id (with values that win over the directory), a username, or a group."""

    model_config = _FROZEN

    id: Id | None = None
    username: Id | None = None
    group: Id | None = None
    without: Annotated[tuple[Id, ...], Field(min_length=1, max_length=MAX_WITHOUT)] | None = None
    """Ids of members that the group does not mean here, such as the author's."""
    email: Address | None = None
    lang: Lang | None = None
    timezone: Timezone | None = None
    context: Context | None = None
    """Values of their own, which win over the request's."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.id is not None) + (self.username is not None) + (self.group is not None) != 1:
            raise ValueError("exactly one of id, username and group")
        if self.without and not self.group:
            raise ValueError("without goes with a group only")
        if self.id is None and (self.email or self.lang or self.timezone):
            raise ValueError("email, lang and timezone go with an id only")
        if self.group is not None and self.context is not None:
            raise ValueError("context goes with an id or a username: members of a group get the request's")
        return self

    @property
    def has_own_values(self) -> bool:
        """Whether more than who they are is said of them."""
        return bool(self.email or self.lang or self.timezone or self.context is not None)


#: What is said of a value that is none of these.
_FORMS = {Recipient.__name__: "text, or an object with id, username or group"}


def _as_list(value: Any) -> Any:
    if type(value) is dict:  # the usual one, in a quarter of the time
        return [value]
    entries = value if isinstance(value, list | tuple) else [value]
    if not entries:
        raise ValueError("at least one recipient")
    return [{"id": entry} if isinstance(entry, str) else entry for entry in entries]


class NotificationRequest(BaseModel):
    """Tell these recipients that this happened. Field by field as in the README's table.

    Build one with `parse`, whose errors name field and rule and never show a value.
    """

    model_config = _FROZEN

    id: UUID = Field(default_factory=uuid7)
    to: Annotated[tuple[Recipient, ...], Field(max_length=MAX_RECIPIENTS), BeforeValidator(_as_list)]
    event_config_name: EventConfigName | None = None
    title: Line | None = None
    text: Text | None = None
    lang: Lang | None = None
    context: Context = Field(default_factory=PlainJson)
    should_email: StrictBool | None = None
    inbox: StrictBool | None = None
    """False: the email alone; no inbox shows it, and a row that expires as it begins keeps the record."""
    attachments: Annotated[tuple[Attachment, ...], Field(max_length=MAX_FILES), AfterValidator(check_files)] = ()
    sender_id: Id | None = None
    link: Link | None = None
    parent_id: UUID | None = None
    scope: Id | None = None
    object_type: Annotated[Id, StringConstraints(max_length=100)] | None = None
    object_id: Id | None = None
    send_at: Moment | None = None
    expire_at: Moment | None = None
    idempotency_key: Id | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.event_config_name and (self.title is not None or self.text is not None):
            raise ValueError("title and text are given only without event_config_name")
        if not self.event_config_name and self.title is None:
            raise ValueError("event_config_name, or else title")
        own = [entry.context for entry in self.to if entry.context is not None]
        if not self.event_config_name and (self.context or own):
            raise ValueError("context is given only with event_config_name")
        if own and sum(each.size + self.context.size for each in own) > MAX_CONTEXTS_BYTES:
            raise ValueError(f"contexts of recipients, each with the request's: at most {MAX_CONTEXTS_BYTES} bytes")
        if self.object_id is not None and self.object_type is None:
            raise ValueError("object_id needs object_type: an id alone could be another object's")
        if self.inbox is False and self.should_email is False:
            raise ValueError("inbox false leaves the email alone: should_email is not false too")
        if self.send_at and self.expire_at and self.expire_at <= self.send_at:
            raise ValueError("expire_at is later than send_at")
        return self

    @classmethod
    def parse(cls, values: Any) -> Self:
        """Check a request from the wire or from keyword arguments.

        Raises InvalidRequest naming every wrong field and its rule, without any value.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InvalidRequest(complaints(error)) from None

    @property
    def has_own_contexts(self) -> bool:
        """Whether any recipient has a context of their own."""
        return any(entry.context is not None for entry in self.to)

    def to_wire(self) -> dict[str, Any]:
        """The request as a JSON object, without absent fields; a recipient of whom only the id is given is that id."""
        wire = self.model_dump(mode="json", exclude=None if self.attachments else _NO_FILES, exclude_none=True)
        wire["to"] = short(wire["to"])
        return wire

    def to_json(self) -> bytes:
        """`to_wire` as JSON."""
        if len(self.to) > 1:
            return to_json(self.to_wire())
        text = self.__pydantic_serializer__.to_json(
            self, exclude=None if self.attachments else _NO_FILES, exclude_none=True
        )
        found = _ONE_ID.match(text)
        return b"%b%b]%b" % (found[1], found[2], text[found.end() :]) if found else text

    def fingerprint(self) -> str:
        """What was asked, as a hash: equal for two requests that differ in their id alone."""
        own = self.has_own_contexts
        hash = hashlib.sha256(self.model_dump_json(exclude=_APART_EACH if own else _APART, exclude_none=True).encode())
        hash.update(sorted_text(self.context).encode())
        if own:
            hash.update(sorted_text([entry.context for entry in self.to]).encode())
        return hash.hexdigest()


def short(entries: list[dict[str, Any]]) -> list[Any]:
    """Entries of `to`; one of whom only the id is given is that id."""
    return [entry["id"] if len(entry) == 1 and "id" in entry else entry for entry in entries]


def complaints(error: ValidationError, *within: str) -> str:
    """Pydantic's account as one line of `field: rule`, without the values; the fields are `within` this place."""
    found = sorted({_complaint(one, within) for one in error.errors(include_input=False, include_url=False)})
    more = [f"and {len(found) - MAX_COMPLAINTS} more"] if len(found) > MAX_COMPLAINTS else []
    return "; ".join([*found[:MAX_COMPLAINTS], *more])


def _complaint(one: Any, within: tuple[str, ...]) -> str:
    loc = (*within, *one["loc"])
    if one["type"] in ("extra_forbidden", "unexpected_keyword_argument", "invalid_key"):
        return f"{_place(loc[:-1])}: an unknown field{_named(loc[-1])}"
    if one["type"] == "uuid_parsing":  # pydantic's words quote a character of the value
        return f"{_place(loc)}: Input should be a valid UUID"
    if one["type"] == "model_type":  # pydantic's name a class of ours
        return f"{_place(loc)}: {_FORMS.get(one['ctx']['class_name'], 'an object')}"
    return f"{_place(loc)}: {str(one['msg']).removeprefix('Value error, ')}"


def _place(loc: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in loc) or "request"


def _named(name: Any) -> str:
    """An unknown field's name, unless it could itself be somebody's data."""
    return f" `{name}`" if isinstance(name, str) and re.fullmatch(r"[a-zA-Z][a-zA-Z_]{0,39}", name) else ""
