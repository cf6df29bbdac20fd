"""The directory as it is kept: recipients, groups, preferences, suppressions. `worker.recipients` shows it all."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete as sql_delete
from sqlalchemy import inspect, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from worker.errors import DirectoryReadOnly, InvalidRequest, MandatoryEvent, UnknownEvent
from worker.events import get_events
from worker.formats import zone as check_zone
from worker.models import GroupMember, Preference, Recipient, Suppression
from worker.request import NotificationRequest
from worker.rows import chunks, upsert_rows


def get(session: Session, recipient_id: str) -> Recipient | None:
    """One recipient by id, or None."""
    return session.get(Recipient, recipient_id)


def find(session: Session, username: str) -> Recipient | None:
    """One recipient by username, in exactly these letters, or None."""
    return session.scalar(select(Recipient).where(Recipient.username == username))


def as_dict(row: Recipient) -> dict[str, Any]:
    """A recipient as JSON."""
    return {column.key: getattr(row, column.key) for column in Recipient.__table__.columns}


def upsert(session: Session, recipients: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> int:
    """Put one recipient or many into the directory, or change those that are there; fields not given become empty.

    Each is an object with `id` and, as wanted, `username`, `email`, `lang`, `timezone`. Returns how many.
    Raises InvalidRequest, InvalidTimezone or DirectoryReadOnly; then nothing is written.
    """
    rows = [_directory_row(one) for one in ([recipients] if isinstance(recipients, Mapping) else recipients)]
    check_writable(session)
    try:
        with session.begin_nested():
            upsert_rows(session, Recipient, rows, keys=["id"])
    except IntegrityError:
        raise InvalidRequest("recipient.username: another recipient has it") from None
    return len(rows)


def _directory_row(values: Mapping[str, Any]) -> dict[str, Any]:
    """Checked by the same rules as an entry of a request's `to`."""
    if not values.get("id"):
        raise InvalidRequest("recipient: an object with an id")
    entry = {key: value for key, value in values.items() if key != "username" and value is not None}
    checked = NotificationRequest.parse({"to": entry, "title": "-"}).to[0]
    if checked.timezone:
        check_zone(checked.timezone)
    username = values.get("username")
    if username is not None:
        NotificationRequest.parse({"to": {"username": username}, "title": "-"})
    return {**checked.model_dump(exclude={"group", "without", "context"}), "username": username}


def is_table(session: Session) -> bool:
    """Whether the recipients are kept here; else they are a view of the application's own table."""
    return Recipient.__tablename__ in inspect(session.connection()).get_table_names()


def check_writable(session: Session) -> None:
    """Raise DirectoryReadOnly. Asked first, as PostgreSQL would write through a simple view into the users' table."""
    if not is_table(session):
        raise DirectoryReadOnly


def delete(session: Session, recipient_id: str) -> bool:
    """Take a recipient out of the directory and all groups; their notifications stay. Raises DirectoryReadOnly."""
    check_writable(session)
    session.execute(sql_delete(GroupMember).where(GroupMember.recipient_id == recipient_id))
    session.execute(sql_delete(Preference).where(Preference.recipient_id == recipient_id))
    gone = session.execute(sql_delete(Recipient).where(Recipient.id == recipient_id).returning(Recipient.id))
    return gone.first() is not None


def set_group(session: Session, group: str, recipient_ids: Sequence[str]) -> None:
    """Make these the group's members, and no others."""
    session.execute(sql_delete(GroupMember).where(GroupMember.name == group))
    add_members(session, group, recipient_ids)


def add_members(session: Session, group: str, recipient_ids: Sequence[str]) -> None:
    """Add to the group; who is in it already stays."""
    rows = [{"name": group, "recipient_id": recipient_id} for recipient_id in dict.fromkeys(recipient_ids)]
    upsert_rows(session, GroupMember, rows, keys=["name", "recipient_id"])


def remove_members(session: Session, group: str, recipient_ids: Sequence[str]) -> int:
    """Take out of the group; gives how many were in it."""
    removed = 0
    for some in chunks(sorted(set(recipient_ids))):
        of_them = sql_delete(GroupMember).where(GroupMember.name == group, GroupMember.recipient_id.in_(some))
        removed += len(session.execute(of_them.returning(GroupMember.recipient_id)).all())
    return removed


def members(session: Session, group: str) -> list[str]:
    """The ids of a group's members, in order; none for a group that nobody is in."""
    statement = select(GroupMember.recipient_id).where(GroupMember.name == group).order_by(GroupMember.recipient_id)
    return list(session.scalars(statement))


def groups(session: Session, recipient_id: str | None = None) -> list[str]:
    """The names of all groups, or of those that the recipient is in."""
    statement = select(GroupMember.name).distinct().order_by(GroupMember.name)
    if recipient_id is not None:
        statement = statement.where(GroupMember.recipient_id == recipient_id)
    return list(session.scalars(statement))


def set_preference(
    session: Session, recipient_id: str, event_config_name: str, enabled: bool, channel: str = "email"
) -> None:
    """Turn one event on or off for one recipient on one channel, `email` or `inbox`. Without a row it is on.

    Raises UnknownEvent, and MandatoryEvent for turning off what may not be.
    """
    event = get_events().get(event_config_name)
    if event is None:
        raise UnknownEvent("event_config_name: no such event in config/events.toml")
    if not enabled and not event.preference:
        raise MandatoryEvent(f"event {event_config_name!r} cannot be turned off: its config says `preference = false`")
    row = {
        "recipient_id": recipient_id,
        "event_config_name": event_config_name,
        "channel": channel,
        "enabled": enabled,
    }
    upsert_rows(session, Preference, [row], keys=["recipient_id", "event_config_name", "channel"])


def preferences(session: Session, recipient_id: str, channel: str = "email") -> list[dict[str, Any]]:
    """What holds for a recipient, event by event: `event_config_name`, `enabled`, `mandatory`.

    Of every active event, set or not; a preference about an event that is gone is passed over.
    """
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


def suppress(session: Session, address: str, reason: str, now: datetime, channel: str = "email") -> None:
    """Send nothing to this address any more, whatever is asked. `reason` is one word, such as `bounced`."""
    row = {"channel": channel, "address": address.lower(), "reason": reason, "created_at": now}
    upsert_rows(session, Suppression, [row], keys=["channel", "address"])


def unsuppress(session: Session, address: str, channel: str = "email") -> bool:
    """Send to this address again; says whether it was suppressed. What was skipped meanwhile stays unsent."""
    of_it = sql_delete(Suppression).where(Suppression.channel == channel, Suppression.address == address.lower())
    return session.execute(of_it.returning(Suppression.address)).first() is not None


def is_suppressed(session: Session, address: str, channel: str = "email") -> bool:
    """Whether nothing is sent to this address."""
    return session.get(Suppression, (channel, address.lower())) is not None
