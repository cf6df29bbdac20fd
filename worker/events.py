"""The event configs: one table per event config name in config/events.toml."""

import tomllib
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, model_validator

from worker.errors import InactiveEvent, InvalidContext, InvalidEventConfig, UnknownEvent
from worker.moments import parse_moment
from worker.request import EventConfigName, complaints
from worker.settings import get_settings, shipped

Kind = Literal["text", "number", "date", "link", "list", "object"]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)]


#: What the renderer itself gives every template.
RESERVED = {"lang", "dir", "brand", "timezone"}


class EventConfig(BaseModel):
    """What is true of every notification of one event."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: EventConfigName
    active: StrictBool = True
    email: StrictBool = False
    """Whether an email is sent when the request's `should_email` is absent."""
    required: tuple[Name, ...] = ()
    optional: tuple[Name, ...] = ()
    kinds: dict[Name, Kind] = Field(default_factory=dict)
    priority: Literal["high", "normal"] = "normal"
    retention_days: Annotated[int, Field(ge=0, strict=True)] | None = None
    preference: StrictBool = True
    """Whether the recipient may turn it off, its email or its place in the inbox."""
    dedupe: StrictBool = False
    """At most one notification per recipient, sender and object."""
    supersedes: tuple[EventConfigName, ...] = ()
    """Events whose notification, of the same recipient, sender and object, turns into this one."""
    to_self: StrictBool = False
    """Whether the sender is told of their own doing."""
    secret: tuple[Name, ...] = ()
    """Context names that are not kept with the notification, such as a password reset's link."""
    data: tuple[Name, ...] = ()
    """Context names that are kept with the notification and shown in no text, such as an id to link by."""
    example: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        twice = set(self.required) & set(self.optional)
        if twice:
            raise ValueError(f"both required and optional: {', '.join(sorted(twice))}")
        declared = {*self.required, *self.optional}
        if taken := declared & RESERVED:
            raise ValueError(f"names that every template has already: {', '.join(sorted(taken))}")
        if undeclared := {*self.kinds, *self.example, *self.secret, *self.data} - declared:
            raise ValueError(f"in kinds, example, secret or data, but not declared: {', '.join(sorted(undeclared))}")
        if self.name in self.supersedes:
            raise ValueError("supersedes: other events than itself")
        if unkept := set(self.data) & set(self.secret):
            raise ValueError(f"both data, which is kept, and secret, which is not: {', '.join(sorted(unkept))}")
        return self

    @cached_property
    def declared(self) -> frozenset[str]:
        """The names that a context may have."""
        return frozenset((*self.required, *self.optional))

    def check_context(self, context: Mapping[str, Any]) -> None:
        """Raise InvalidContext listing every missing, undeclared and wrongly typed name; never a value."""
        wrong = [f"missing: {name}" for name in self.required if name not in context]
        if undeclared := context.keys() - self.declared:
            names = sorted(filter(_is_plain, undeclared))[:10]
            wrong.append(f"not declared: {', '.join(names) or f'{len(undeclared)} names'}")
        wrong += [
            f"{name}: not of kind {kind}"
            for name, kind in self.kinds.items()
            if name in context and not _is_kind(kind, context[name], name in self.optional)
        ]
        if wrong:
            raise InvalidContext(f"context of {self.name}: {'; '.join(wrong)}")


#: What a kind is in JSON, where that says enough; `bool` is an `int` that is meant by none.
_TYPES: dict[Kind, Any] = {"text": str | int, "link": str, "list": list, "object": dict}


def _is_plain(name: str) -> bool:
    return name.isidentifier() and len(name) <= 40


def _is_kind(kind: Kind, value: Any, optional: bool) -> bool:
    if value is None:
        return optional
    if kind == "date":
        return isinstance(value, str) and _is_date(value)
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, _TYPES[kind]) and not isinstance(value, bool)


def _is_date(value: str) -> bool:
    try:
        parse_moment(value)
    except ValueError:
        return False
    return True


def load_events(path: Path) -> dict[str, EventConfig]:
    """Read and check the event configs.

    Raises InvalidEventConfig naming the file, the event and the field.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidEventConfig(f"{path}: no such file; set CONFIG_DIR to the folder that holds events.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidEventConfig(f"{path}: {error}") from None
    events = {name: _load_event(path, name, table) for name, table in tables.items()}
    for event in events.values():
        if unknown := set(event.supersedes) - set(events):
            raise InvalidEventConfig(f"{path}: {event.name}: supersedes: no such event: {', '.join(sorted(unknown))}")
    return events


def _load_event(path: Path, name: str, table: Any) -> EventConfig:
    if not isinstance(table, dict) or "name" in table:
        raise InvalidEventConfig(f"{path}: {name}: a table without a field `name`")
    try:
        return EventConfig(name=name, **table)
    except ValidationError as error:
        wrong = complaints(error).replace("request: ", "")
        raise InvalidEventConfig(f"{path}: {name}: {wrong}") from None


@lru_cache(maxsize=1)
def get_events() -> dict[str, EventConfig]:
    """The event configs of this process, read once. Raises InvalidEventConfig."""
    return load_events(events_file())


def events_file() -> Path:
    """Where the event configs are: in CONFIG_DIR, else in the working directory, else in the package."""
    if given := get_settings().config_dir:
        return given / "events.toml"
    own = Path.cwd() / "config" / "events.toml"
    return own if own.exists() else shipped("config") / "events.toml"


def get_event(name: str) -> EventConfig:
    """Raises UnknownEvent or InactiveEvent."""
    event = get_events().get(name)
    if event is None:
        raise UnknownEvent(f"event {name!r} is not in config/events.toml")
    if not event.active:
        raise InactiveEvent(f"event {name!r} is switched off in config/events.toml")
    return event
