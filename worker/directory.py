"""The directory as it is kept: recipients, groups, preferences, suppressions. `worker.recipients` shows it all."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter
from sqlalchemy import delete as sql_delete
from sqlalchemy import inspect, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from worker.arguments import ID, STRICT, AnyMoment, checked, flag, ids, moment, text
from worker.errors import DirectoryReadOnly, InvalidRequest, InvalidTimezone, MandatoryEvent, UnknownEvent
from worker.events import get_events
from worker.formats import zone as check_zone
from worker.models import GroupMember, Preference, Recipient, Suppression
from worker.request import Address, Id, Lang, Line, Timezone
from worker.rows import chunks, upsert_rows

#: What a preference may be about, and what a suppression may: nothing reads those of another channel.
PreferenceChannel = Literal["email", "inbox"]
SuppressionChannel = Literal["email"]

Reason = Annotated[Line, StringConstraints(max_length=40)]


class _Entry(BaseModel):
    """One recipient, by the rules of an entry of a request's `to`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Id
    username: Id | None = None
    email: Address | None = None
    lang: Lang | None = None
    timezone: Timezone | None = None


_ENTRY = TypeAdapter(_Entry)
_ADDRESS = TypeAdapter[str](Address)
_REASON = TypeAdapter[str](Reason, config=STRICT)


def get(session: Session, recipient_id: str) -> Recipient | None:
    """One recipient by id, or None."""
    return session.get(Recipient, text("recipient_id", recipient_id))


def find(session: Session, username: str) -> Recipient | None:
    """One recipient by username, in exactly these letters, or None."""
    return session.scalar(select(Recipient).where(Recipient.username == text("username", username)))


def as_dict(row: Recipient) -> dict[str, Any]:
    """A recipient as JSON."""
    return {column.key: getattr(row, column.key) for column in Recipient.__table__.columns}


def upsert(session: Session, recipients: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> int:
    """Put one recipient or many into the directory, or change those that are there; fields not given become empty.

    Each is an object with `id` and, as wanted, `username`, `email`, `lang`, `timezone`. Returns how many.
    Raises InvalidRequest, InvalidTimezone or DirectoryReadOnly; then nothing is written.
    """
    rows = _directory_rows(recipients)
    check_writable(session)
    try:
        with session.begin_nested():
            upsert_rows(session, Recipient, rows, keys=["id"])
    except IntegrityError:
        raise InvalidRequest("recipient.username: another recipient has it") from None
    return len(rows)


def _directory_rows(recipients: Any) -> list[dict[str, Any]]:
    if isinstance(recipients, Mapping):
        return [_directory_row("recipient", recipients)]
    if isinstance(recipients, str | bytes) or not isinstance(recipients, Iterable):
        raise InvalidRequest("recipients: an object with an id, or a list of such")
    return [_directory_row(f"recipients.{place}", one) for place, one in enumerate(recipients)]


def _directory_row(place: str, values: Any) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise InvalidRequest(f"{place}: an object with an id")
    row = checked(_ENTRY, place, {key: value for key, value in values.items() if value is not None})
    try:
        check_zone(row.timezone or "UTC")
    except InvalidTimezone as error:
        raise InvalidTimezone(f"{place}.{error}") from None
    return row.model_dump()


def is_table(session: Session) -> bool:
    """Whether the recipients are kept here; else they are a view of the application's own table."""
    return Recipient.__tablename__ in inspect(session.connection()).get_table_names()


def check_writable(session: Session) -> None:
    """Raise DirectoryReadOnly. Asked first, as PostgreSQL would write through a simple view into the users' table."""
    if not is_table(session):
        raise DirectoryReadOnly


def delete(session: Session, recipient_id: str) -> bool:
    """Take a recipient out of the directory and all groups; their notifications stay. Raises DirectoryReadOnly."""
    text("recipient_id", recipient_id)
    check_writable(session)
    session.execute(sql_delete(GroupMember).where(GroupMember.recipient_id == recipient_id))
    session.execute(sql_delete(Preference).where(Preference.recipient_id == recipient_id))
    gone = session.execute(sql_delete(Recipient).where(Recipient.id == recipient_id).returning(Recipient.id))
    return gone.first() is not None


def set_group(session: Session, group: str, recipient_ids: Iterable[str]) -> None:
    """Make these the group's members, and no others. Raises InvalidRequest."""
    rows = _member_rows(group, recipient_ids)
    session.execute(sql_delete(GroupMember).where(GroupMember.name == group))
    upsert_rows(session, GroupMember, rows, keys=["name", "recipient_id"])


def add_members(session: Session, group: str, recipient_ids: Iterable[str]) -> None:
    """Add to the group; who is in it already stays. Raises InvalidRequest."""
    upsert_rows(session, GroupMember, _member_rows(group, recipient_ids), keys=["name", "recipient_id"])


def _member_rows(group: str, recipient_ids: Iterable[str]) -> list[dict[str, str]]:
    name = checked(ID, "group", group)
    return [{"name": name, "recipient_id": id} for id in dict.fromkeys(ids("recipient_ids", recipient_ids))]


def remove_members(session: Session, group: str, recipient_ids: Iterable[str]) -> int:
    """Take out of the group; gives how many were in it. Raises InvalidRequest."""
    text("group", group)
    removed = 0
    for some in chunks(sorted(set(ids("recipient_ids", recipient_ids)))):
        of_them = sql_delete(GroupMember).where(GroupMember.name == group, GroupMember.recipient_id.in_(some))
        removed += len(session.execute(of_them.returning(GroupMember.recipient_id)).all())
    return removed


def members(session: Session, group: str) -> list[str]:
    """The ids of a group's members, in order; none for a group that nobody is in."""
    of_it = GroupMember.name == text("group", group)
    return list(session.scalars(select(GroupMember.recipient_id).where(of_it).order_by(GroupMember.recipient_id)))


def groups(session: Session, recipient_id: str | None = None) -> list[str]:
    """The names of all groups, or of those that the recipient is in."""
    statement = select(GroupMember.name).distinct().order_by(GroupMember.name)
    if recipient_id is not None:
        statement = statement.where(GroupMember.recipient_id == text("recipient_id", recipient_id))
    return list(session.scalars(statement))


def set_preference(
    session: Session,
    recipient_id: str,
    event_config_name: str,
    enabled: bool,
    channel: PreferenceChannel = "email",
) -> None:
    """Turn one event on or off for one recipient on one channel, `email` or `inbox`. Without a row it is on.

    Raises InvalidRequest, UnknownEvent, and MandatoryEvent for turning off what may not be.
    """
    row = {
        "recipient_id": checked(ID, "recipient_id", recipient_id),
        "event_config_name": text("event_config_name", event_config_name),
        "channel": _channel(channel, PreferenceChannel),
        "enabled": flag("enabled", enabled),
    }
    event = get_events().get(event_config_name)
    if event is None:
        raise UnknownEvent("event_config_name: no such event in config/events.toml")
    if not enabled and not event.preference:
        raise MandatoryEvent(f"event {event_config_name!r} cannot be turned off: its config says `preference = false`")
    upsert_rows(session, Preference, [row], keys=["recipient_id", "event_config_name", "channel"])


def preferences(session: Session, recipient_id: str, channel: PreferenceChannel = "email") -> list[dict[str, Any]]:
    """What holds for a recipient, event by event: `event_config_name`, `enabled`, `mandatory`.

    Of every active event, set or not; a preference about an event that is gone is passed over.
    """
    text("recipient_id", recipient_id)
    _channel(channel, PreferenceChannel)
    asked = select(Preference.event_config_name, Preference.enabled)
    own = session.execute(asked.where(Preference.recipient_id == recipient_id, Preference.channel == channel))
    chosen = {name: enabled for name, enabled in own}
    return [
        {
            "event_config_name": event.name,
            "enabled": not event.preference or chosen.get(event.name, True),
            "mandatory": not event.preference,
        }
        for event in get_events().values()
        if event.active
    ]


def _channel(channel: Any, known: Any) -> str:
    if channel not in (names := get_args(known)):
        raise InvalidRequest(f"channel: {' or '.join(names)}")
    return str(channel)


def suppress(
    session: Session, address: str, reason: str, now: AnyMoment, channel: SuppressionChannel = "email"
) -> None:
    """Send nothing to this address any more, whatever is asked. `reason` is one word, such as `bounced`.

    Raises InvalidRequest.
    """
    lower = checked(_ADDRESS, "address", text("address", address).lower())
    why = checked(_REASON, "reason", reason)
    keep_suppression(session, lower, why, moment("now", now), _channel(channel, SuppressionChannel))


def keep_suppression(session: Session, address: str, reason: str, now: datetime, channel: str) -> None:
    """As `suppress`, of an address that something was sent to, whatever its form: a view may have any."""
    row = {"channel": channel, "address": address.lower(), "reason": reason, "created_at": now}
    upsert_rows(session, Suppression, [row], keys=["channel", "address"])


def unsuppress(session: Session, address: str, channel: SuppressionChannel = "email") -> bool:
    """Send to this address again; says whether it was suppressed. What was skipped meanwhile stays unsent."""
    where, lower = _channel(channel, SuppressionChannel), text("address", address).lower()
    of_it = sql_delete(Suppression).where(Suppression.channel == where, Suppression.address == lower)
    return session.execute(of_it.returning(Suppression.address)).first() is not None


def is_suppressed(session: Session, address: str, channel: SuppressionChannel = "email") -> bool:
    """Whether nothing is sent to this address."""
    key = (_channel(channel, SuppressionChannel), text("address", address).lower())
    return session.get(Suppression, key) is not None
