"""Who a `to` means: the directory, groups, preferences, suppressions.

How the directory is kept is in `worker.directory` and `worker.erasure`; their public names are names of this module.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from worker.directory import (
    add_members,
    as_dict,
    delete,
    find,
    get,
    groups,
    is_suppressed,
    members,
    preferences,
    remove_members,
    set_group,
    set_preference,
    suppress,
    unsuppress,
    upsert,
)
from worker.erasure import erase, export
from worker.errors import EmptyGroup, UnknownRecipient
from worker.events import EventConfig
from worker.formats import zone as check_zone
from worker.models import GroupMember, Preference, Recipient, Suppression
from worker.request import NotificationRequest
from worker.request import Recipient as Entry
from worker.rows import chunks, is_in

__all__ = [
    "Addressee", "Directory", "add_members", "as_dict", "audience", "delete", "erase", "export", "find", "get",
    "groups", "is_suppressed", "member_pages", "members", "preferences", "remove_members", "set_group",
    "set_preference", "suppress", "suppressed", "unsuppress", "upsert", "why_not_asked",
]  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Addressee:
    """One recipient of one request, with everything that is known of them."""

    id: str
    lang: str
    timezone: str
    email: str | None


@dataclass(slots=True)
class Directory:
    """What the directory says about everyone that some requests name: loaded at once, then asked in memory."""

    by_id: dict[str, Recipient] = field(default_factory=dict)
    id_by_username: dict[str, str] = field(default_factory=dict)
    members: dict[str, list[str]] = field(default_factory=dict)
    refusals: set[tuple[str, str, str]] = field(default_factory=set)
    """(recipient id, event config name, channel) that are turned off; the inbox is a channel here."""
    suppressed: set[str] = field(default_factory=set)
    """Email addresses in lower case."""

    @classmethod
    def load(cls, session: Session, requests: Sequence[NotificationRequest]) -> "Directory":
        """Read all that `requests` need in a handful of statements, however many recipients they have."""
        self = cls()
        entries = [entry for request in requests for entry in request.to]
        for name, member in _select_in(
            session, GroupMember, GroupMember.name, {e.group for e in entries if e.group}, GroupMember.recipient_id
        ):
            self.members.setdefault(name, []).append(member)
        rows = _rows_in(session, Recipient, Recipient.username, {e.username for e in entries if e.username})
        self.id_by_username = {row.username: row.id for row in rows if row.username}
        ids = {e.id for e in entries if e.id} | {m for members in self.members.values() for m in members}
        rows += _rows_in(session, Recipient, Recipient.id, ids - {row.id for row in rows})
        self.by_id = {row.id: row for row in rows}
        self._load_refusals(session, ids | set(self.by_id), {r.event_config_name for r in requests})
        addresses = {e.email for e in entries if e.email} | {row.email for row in rows if row.email}
        self.suppressed = suppressed(session, addresses)
        return self

    def _load_refusals(self, session: Session, ids: set[str], events: set[str | None]) -> None:
        for chunk in chunks(sorted(ids)):
            columns = (Preference.recipient_id, Preference.event_config_name, Preference.channel)
            statement = select(*columns).where(
                Preference.recipient_id.in_(chunk),
                Preference.event_config_name.in_([name for name in events if name]),
                Preference.channel.in_(["email", "inbox"]),
                Preference.enabled.is_(False),
            )
            self.refusals.update((id, event, channel) for id, event, channel in session.execute(statement))

    def addressees(self, request: NotificationRequest, default_lang: str) -> list[Addressee]:
        """Everyone the request means, each once; values given in the request win over the directory.

        Raises UnknownRecipient, EmptyGroup or InvalidTimezone naming the place in `to`.
        """
        found: dict[str, Addressee] = {}
        for position, entry in enumerate(request.to):
            for recipient_id in self._ids(position, entry):
                if recipient_id not in found or entry.email or entry.lang or entry.timezone:
                    found[recipient_id] = self._addressee(recipient_id, entry, request.lang, default_lang)
        return list(found.values())

    def _ids(self, position: int, entry: Entry) -> Sequence[str]:
        if entry.id:
            return [entry.id]
        if entry.username:
            if entry.username not in self.id_by_username:
                raise UnknownRecipient(f"to.{position}: no recipient has this username")
            return [self.id_by_username[entry.username]]
        if not self.members.get(entry.group or ""):
            raise EmptyGroup(f"to.{position}: the group has no members")
        left_out = set(entry.without or ())
        return [member for member in self.members[entry.group or ""] if member not in left_out]

    def _addressee(self, recipient_id: str, entry: Entry, lang: str | None, default_lang: str) -> Addressee:
        row = self.by_id.get(recipient_id)
        zone = entry.timezone or (row.timezone if row else None) or "UTC"
        check_zone(zone)
        return Addressee(
            id=recipient_id,
            lang=entry.lang or lang or (row.lang if row else None) or default_lang,
            timezone=zone,
            email=entry.email or (row.email if row else None),
        )

    def email_decision(self, who: Addressee, should_email: bool | None, event: EventConfig | None) -> str | None:
        """Whether this recipient gets an email: "" for none asked, None to send, else the reason to skip it.

        `should_email` true passes preferences, never a suppression; false wins over everything; absent: the event's
        default, then the recipient's preference (on, where none is recorded).
        """
        if why_not_asked(should_email, event):
            return ""
        if should_email is None and self._turned_off(who, event, "email"):
            return "preference"
        if not who.email:
            return "no_address"
        return "suppressed" if who.email.lower() in self.suppressed else None

    def is_shown(self, who: Addressee, inbox: bool | None, event: EventConfig | None) -> bool:
        """Whether this recipient's inbox shows it: not where the request is for the email alone (`inbox` false), nor
        where they turned the event off there.
        """
        return inbox is not False and not self._turned_off(who, event, "inbox")

    def _turned_off(self, who: Addressee, event: EventConfig | None, channel: str) -> bool:
        return event is not None and event.preference and (who.id, event.name, channel) in self.refusals


def why_not_asked(should_email: bool | None, event: EventConfig | None) -> str | None:
    """Why no email is asked for, whoever the recipient is; None where one is, and a delivery row tells the rest."""
    if should_email is not None:
        return None if should_email else "asked_not"
    if event is None:
        return "no_event"
    return None if event.email else "event_default"


def audience(session: Session, request: NotificationRequest) -> int:
    """How many recipients a request may mean at most; cheap, for deciding whether to fan out."""
    if len(request.to) == 1 and not request.to[0].group:
        return 1
    groups = {entry.group for entry in request.to if entry.group}
    statement = select(func.count()).select_from(GroupMember).where(GroupMember.name.in_(groups))
    members = session.scalar(statement) if groups else 0
    return len(request.to) - len(groups) + (members or 0)


def member_pages(session: Session, group: str, size: int) -> Iterator[list[str]]:
    """A group's members in pages of `size`, by keyset."""
    last = ""
    while True:
        statement = (
            select(GroupMember.recipient_id)
            .where(GroupMember.name == group, GroupMember.recipient_id > last)
            .order_by(GroupMember.recipient_id)
            .limit(size)
        )
        page = list(session.scalars(statement))
        if not page:
            return
        yield page
        last = page[-1]


def suppressed(session: Session, addresses: Iterable[str]) -> set[str]:
    """Those of the addresses (in lower case) that no email may go to."""
    wanted = sorted({address.lower() for address in addresses})
    found: set[str] = set()
    for chunk in chunks(wanted):
        statement = select(Suppression.address).where(Suppression.channel == "email")
        found.update(session.scalars(statement.where(is_in(session, Suppression.address, chunk))))
    return found


def _rows_in(session: Session, model: type[T], column: Any, values: set[str]) -> list[T]:
    rows: list[T] = []
    for chunk in chunks(sorted(values)):
        rows += session.scalars(select(model).where(column.in_(chunk)))
    return rows


def _select_in(session: Session, model: Any, column: Any, values: set[str], other: Any) -> Iterator[tuple[str, str]]:
    for chunk in chunks(sorted(values)):
        statement = select(column, other).where(column.in_(chunk)).order_by(column, other)
        yield from session.execute(statement)
