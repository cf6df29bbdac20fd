"""Who a `to` means: the directory, groups, preferences, suppressions.

How the directory is kept is in `worker.directory` and `worker.erasure`; their public names are names of this module.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session
from sqlalchemy.types import NULLTYPE

from worker import lookups
from worker.contexts import PlainJson
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
from worker.events import EventConfig, get_events
from worker.formats import zone as check_zone
from worker.lookups import suppressed
from worker.models import GroupMember, Recipient
from worker.request import NotificationRequest
from worker.request import Recipient as Entry
from worker.rows import is_in

__all__ = [
    "Addressee", "Alike", "Asked", "Directory", "add_members", "as_dict", "audiences", "delete", "erase", "export",
    "find", "get", "groups", "is_suppressed", "members", "preferences", "remove_members", "set_group",
    "set_preference", "suppress", "suppressed", "unsuppress", "upsert", "why_not_asked",
]  # fmt: skip


class Addressee(NamedTuple):
    """One recipient of one request, with everything that is known of them."""

    id: str
    lang: str
    timezone: str
    email: str | None
    context: PlainJson | None = None
    """Of their own."""


@dataclass(eq=False, slots=True)
class Asked:
    """A request, and the ids of those whom it means here, where a fan-out has found them before."""

    request: NotificationRequest
    ids: Sequence[str] | None = None


@dataclass(slots=True)
class Alike:
    """Recipients of one request who read the same language in the same time zone; the rest in the same order."""

    ids: list[str] = field(default_factory=list)
    emails: list[str | None] = field(default_factory=list)
    contexts: list[PlainJson | None] = field(default_factory=list)
    """Of their own; empty where nobody has one."""

    def only(self, places: Sequence[int]) -> "Alike":
        """Those at these places."""
        contexts = [self.contexts[place] for place in places] if self.contexts else []
        return Alike([self.ids[place] for place in places], [self.emails[place] for place in places], contexts)


@dataclass(slots=True)
class Directory:
    """What the directory says about everyone that some requests name: loaded at once, then asked in memory."""

    by_id: dict[str, lookups.Known] = field(default_factory=dict)
    pages: dict[Asked, dict[tuple[str | None, str | None], Alike]] = field(default_factory=dict)
    """Of pages, the recipients by their own language and time zone."""
    id_by_username: dict[str, str] = field(default_factory=dict)
    members: dict[str, list[str]] = field(default_factory=dict)
    refusals: set[tuple[str, str, str]] = field(default_factory=set)
    """(recipient id, event config name, channel) that are turned off; the inbox is a channel here."""
    suppressed: set[str] = field(default_factory=set)
    """Email addresses in lower case."""

    @classmethod
    def load(cls, session: Session, asked: Sequence[Asked]) -> "Directory":
        """Read all that the requests need in a handful of statements, however many recipients they have."""
        self = cls()
        self.pages = {one: _alike(session, one.ids) for one in asked if one.ids is not None}
        entries = [entry for one in asked if one.ids is None for entry in one.request.to]
        ids = {entry.id for entry in entries if entry.id}
        if groups := {entry.group for entry in entries if entry.group}:
            ids |= self._load_members(session, sorted(groups))
        if names := {entry.username for entry in entries if entry.username}:
            named = select(Recipient.username, Recipient.id).where(is_in(session, Recipient.username, sorted(names)))
            self.id_by_username = {name: id for name, id in session.execute(named) if name}
            ids |= set(self.id_by_username.values())
        events = sorted({one.request.event_config_name or "" for one in asked if _may_refuse(one.request)})
        if ids:
            self.by_id, self.refusals = lookups.known(session, ids, events)
        of_pages = [alike for page in self.pages.values() for alike in page.values()]
        if events and (others := {id for alike in of_pages for id in alike.ids} - ids):
            self.refusals |= lookups.refusals(session, others, events)
        if any(_may_email(one.request) for one in asked):
            addresses = {entry.email for entry in entries} | {email for email, _lang, _zone in self.by_id.values()}
            addresses.update(*(alike.emails for alike in of_pages))
            self.suppressed = suppressed(session, filter(None, addresses))
        return self

    def _load_members(self, session: Session, groups: Sequence[str]) -> set[str]:
        statement = select(GroupMember.name, GroupMember.recipient_id).where(is_in(session, GroupMember.name, groups))
        for name, member in session.execute(statement.order_by(GroupMember.name, GroupMember.recipient_id)):
            self.members.setdefault(name, []).append(member)
        return {member for members in self.members.values() for member in members}

    def groups(self, asked: Asked, default_lang: str) -> dict[tuple[str, str], Alike]:
        """Everyone the request means, each once, by language and time zone. Raises as `addressees` does."""
        groups: dict[tuple[str, str], Alike] = {}
        for (own, zone), alike in self.pages.get(asked, {}).items():
            check_zone(zone or "UTC")
            into = groups.setdefault((asked.request.lang or own or default_lang, zone or "UTC"), Alike())
            into.ids += alike.ids
            into.emails += alike.emails
        each = asked.request.has_own_contexts
        for who in self.addressees(asked.request, default_lang) if asked.ids is None else ():
            into = groups.setdefault((who.lang, who.timezone), Alike())
            into.ids.append(who.id)
            into.emails.append(who.email)
            if each:
                into.contexts.append(who.context)
        return groups

    def addressees(self, request: NotificationRequest, default_lang: str) -> list[Addressee]:
        """Everyone the request's `to` means, each once; values given in the request win over the directory.

        Raises UnknownRecipient, EmptyGroup or InvalidTimezone naming the place in `to`.
        """
        found: dict[str, Addressee] = {}
        for position, entry in enumerate(request.to):
            for recipient_id in self._ids(position, entry):
                if recipient_id not in found or entry.has_own_values:
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
        email, own_lang, own_zone = self.by_id.get(recipient_id, (None, None, None))
        zone = entry.timezone or own_zone or "UTC"
        check_zone(zone)
        spoken = entry.lang or lang or own_lang or default_lang
        return Addressee(recipient_id, spoken, zone, entry.email or email, entry.context)

    def email_decision(self, id: str, email: str | None, should_email: bool | None, event: EventConfig | None) -> str:
        """Why no email is sent to this recipient, of a request that asks for some; "" to send it.

        `should_email` true passes preferences, never a suppression; absent: the event's default, then the
        recipient's preference (on, where none is recorded).
        """
        if should_email is None and self._turned_off(id, event, "email"):
            return "preference"
        if not email:
            return "no_address"
        return "suppressed" if email.lower() in self.suppressed else ""

    def by_inbox(self, told: Alike, inbox: bool | None, event: EventConfig | None) -> tuple[Alike, Alike]:
        """Those whose inbox shows it, and the others: it is for the email alone (`inbox` false), or they turned the
        event off there.
        """
        if inbox is False:
            return Alike(), told
        if not self.refusals:
            return told, Alike()
        hidden = [place for place, id in enumerate(told.ids) if self._turned_off(id, event, "inbox")]
        if not hidden:
            return told, Alike()
        return told.only(sorted({*range(len(told.ids))}.difference(hidden))), told.only(hidden)

    def _turned_off(self, id: str, event: EventConfig | None, channel: str) -> bool:
        return event is not None and event.preference and (id, event.name, channel) in self.refusals


def _alike(session: Session, ids: Sequence[str]) -> dict[tuple[str | None, str | None], Alike]:
    """Those who have these ids, each once, by their own language and time zone; the ids in order."""
    found: dict[tuple[str | None, str | None], Alike] = {}
    unknown = set(ids)
    for own, zone, known in _known(session, ids):
        known.sort()
        found[own, zone] = Alike([id for id, _email in known], [email for _id, email in known])
        unknown.difference_update(found[own, zone].ids)
    if unknown:
        nobody = found.setdefault((None, None), Alike())
        nobody.ids += sorted(unknown)
        nobody.emails += [None] * len(unknown)
    return found


def _known(
    session: Session, ids: Sequence[str]
) -> Iterator[tuple[str | None, str | None, list[tuple[str, str | None]]]]:
    """Language, time zone, and who has them with which address."""
    these = is_in(session, Recipient.id, ids)
    if session.get_bind().dialect.name == "postgresql":
        # Gathered there: a row for each would take longer to read than all else.
        every, where = (func.array_agg(column, type_=NULLTYPE) for column in (Recipient.id, Recipient.email))
        alike = select(Recipient.lang, Recipient.timezone, every, where).where(these)
        rows: Iterable[Any] = session.execute(alike.group_by(Recipient.lang, Recipient.timezone))
        for own, zone, some, emails in rows:
            yield own, zone, list(zip(some, emails, strict=True))
        return
    found = defaultdict[tuple[str | None, str | None], list[tuple[str, str | None]]](list)
    for row in session.execute(select(Recipient.id, Recipient.email, Recipient.lang, Recipient.timezone).where(these)):
        found[row.lang, row.timezone].append((row.id, row.email))
    for (own, zone), some in found.items():
        yield own, zone, some


def _may_email(request: NotificationRequest) -> bool:
    event = get_events().get(request.event_config_name or "")
    return why_not_asked(request.should_email, event) is None


def _may_refuse(request: NotificationRequest) -> bool:
    event = get_events().get(request.event_config_name or "")
    return event is not None and event.preference


def why_not_asked(should_email: bool | None, event: EventConfig | None) -> str | None:
    """Why no email is asked for, whoever the recipient is; None where one is, and a delivery row tells the rest."""
    if should_email is not None:
        return None if should_email else "asked_not"
    if event is None:
        return "no_event"
    return None if event.email else "event_default"


def audiences(session: Session, requests: Sequence[NotificationRequest]) -> list[int]:
    """How many recipients each request may mean at most; cheap, for deciding whether to fan out."""
    groups = {entry.group for request in requests for entry in request.to if entry.group}
    sizes: dict[str, int] = {}
    if groups:
        statement = select(GroupMember.name, func.count()).where(is_in(session, GroupMember.name, sorted(groups)))
        sizes = {name: count for name, count in session.execute(statement.group_by(GroupMember.name))}
    return [sum(sizes.get(entry.group, 0) if entry.group else 1 for entry in request.to) for request in requests]
