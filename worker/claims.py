"""Claiming deliveries: of two workers that want the same one, only one gets it, until its lease ends."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from pydantic_core import from_json
from sqlalchemy import Select, Text, Update, bindparam, cast, func, select, true, update
from sqlalchemy.orm import Session
from sqlalchemy.types import NULLTYPE

from worker import contents, control
from worker.attachments import File
from worker.channels import Parcel
from worker.events import get_events
from worker.models import AttachmentContent, Delivery, Notification
from worker.recipients import suppressed
from worker.rows import IS_PENDING, bound, is_in, is_in_bound, lock_deliveries
from worker.threads import references

Parts = Mapping[str, Any]

#: The reason of a delivery whose last worker died, or fell silent, while it had it.
ABANDONED = "abandoned"

#: The tables themselves, and on the connection: by way of the classes, or of the session for what names one of these,
#: statements cost several times as much.
_rows, _told = (Delivery.metadata.tables[model.__tablename__] for model in (Delivery, Notification))


class Claimed(NamedTuple):
    """A delivery that is ours until the lease ends; `attempts` tells our claim from a later one."""

    id: UUID
    channel: str
    attempts: int
    parcel: Parcel
    urgency: int
    give_up_at: datetime


class _Alike(NamedTuple):
    """Claimed rows that have all this in common; the fields are named as the columns."""

    channel: str
    content_id: UUID | None
    urgency: int
    attempts: int
    due_at: datetime
    expire_at: datetime | None
    give_up_at: datetime | None
    lang: str
    event_config_name: str | None
    created_at: datetime
    parent_id: UUID | None
    thread_id: UUID | None
    each: Sequence[tuple[UUID, UUID, str | None]]
    """Delivery, notification, address."""


_SHARED = [_rows.c[name] if name in _rows.c else _told.c[name] for name in _Alike._fields[:-1]]
_EACH = [_rows.c.id, _rows.c.notification_id, _rows.c.address]


def claim(
    session: Session, delivery_ids: Sequence[UUID], now: datetime, lease_until: datetime, *, probing: bool = False
) -> tuple[list[Claimed], int]:
    """Take what is pending and due, urgent and oldest first; what must not be sent is skipped or failed, with why.

    Nothing of a channel that is held back, unless `probing`. Of several, none whose last worker died: lest it take the
    others along, each of these is claimed alone, see `suspects`. Gives what is ours now, and how many were skipped.
    """
    taken = _take(session, delivery_ids, now, lease_until, probing)
    common = contents.load(session, (some.content_id for some in taken))
    own = _parts(session, [id for some in taken if some.content_id is None for id, _, _ in some.each])
    files = _contents(session, [*common.values(), *own.values()])
    refused = suppressed(session, [address for some in taken for _, _, address in some.each if address])
    above = references(session, {id: some for some in taken if some.parent_id for _, id, _ in some.each})
    claimed, too_late, skipped = [], list[UUID](), defaultdict[str, list[UUID]](list)
    for some in taken:
        expired, inactive = some.expire_at is not None and some.expire_at <= now, _is_inactive(some)
        give_up_at = some.give_up_at or control.give_up_at(some.urgency, some.created_at)
        for id, notification_id, address in some.each:
            parts = common.get(some.content_id) if some.content_id else own.get(id, {})
            reason = "expired" if expired else _why_not(address, refused, parts, files)
            if reason or inactive:
                skipped[reason or "event_inactive"].append(id)
            elif give_up_at <= now:
                too_late.append(id)
            else:
                parcel = _parcel(some, id, address, parts or {}, files, above.get(notification_id, ()))
                claimed.append(Claimed(id, some.channel, some.attempts, parcel, some.urgency, give_up_at))
    for why, ids in skipped.items():
        values = {"status": "skipped", "reason": why, "parts": None}
        session.execute(update(Delivery).where(is_in(session, Delivery.id, ids)).values(values))
    if too_late:
        words = func.coalesce(Delivery.last_error, "not tried in time")
        failed = update(Delivery).values(status="failed", reason="too_late", last_error=words)
        session.execute(failed.values(attempts=Delivery.attempts - 1).where(is_in(session, Delivery.id, too_late)))
    return claimed, sum(map(len, skipped.values()))


def _take(
    session: Session, delivery_ids: Sequence[UUID], now: datetime, lease_until: datetime, probing: bool
) -> list[_Alike]:
    alone = len(delivery_ids) == 1
    values = {"ids": bound(session, delivery_ids), "now": now, "until": lease_until}
    if session.get_bind().dialect.name == "postgresql":
        alike = session.connection().execute(_claim_and_read(probing, alone), values)
        taken = [_Alike._make([*row[: len(_SHARED)], [*zip(*row[len(_SHARED) :], strict=True)]]) for row in alike]
    else:
        ids = session.execute(_claim(False, probing, alone).returning(_rows.c.id), values).scalars().all()
        found = session.execute(_read(), {"ids": bound(session, ids)})
        taken = [_Alike._make([*row[: len(_SHARED)], [row[len(_SHARED) :]]]) for row in found]
    return sorted(taken, key=lambda some: (some.urgency, some.due_at))


@lru_cache
def _claim(postgres: bool, probing: bool, alone: bool) -> Update:
    """Mark as ours what may be sent now. Built once: that takes longer than to run it for a few rows."""
    open_ones = (
        select(_rows.c.id)
        .where(is_in_bound(_rows.c.id, "ids", postgres=postgres))
        .where(IS_PENDING, _rows.c.due_at <= bindparam("now"))
        .where(true() if probing else control.is_open())
        .where(true() if alone else _rows.c.reason.is_distinct_from(ABANDONED))
        .with_for_update(skip_locked=True)
    )
    values = {"status": "sending", "attempts": _rows.c.attempts + 1, "lease_until": bindparam("until")}
    return update(_rows).where(_rows.c.id.in_(open_ones.scalar_subquery())).values(values)


def suspects(session: Session, delivery_ids: Sequence[UUID], now: datetime) -> Sequence[UUID]:
    """Those of them to be claimed alone, whichever of them their workers died of; the least tried first."""
    waiting = (IS_PENDING, Delivery.due_at <= now, Delivery.reason == ABANDONED)
    found = select(Delivery.id).where(is_in(session, Delivery.id, delivery_ids), *waiting)
    return session.scalars(found.order_by(Delivery.attempts, Delivery.due_at, Delivery.id)).all()


@lru_cache
def _claim_and_read(probing: bool, alone: bool) -> Select[Any]:
    """Both in one statement; what is in common comes once, the rest in lists, which are read far faster than rows."""
    own = [column for column in _SHARED if column.table is _rows]
    taken = _claim(True, probing, alone).returning(*own, *_EACH).cte("taken")
    shared = [taken.c[column.name] if column.table is _rows else column for column in _SHARED]
    lists = [func.array_agg(taken.c[column.name], type_=NULLTYPE) for column in _EACH]
    both = taken.join(_told, _told.c.id == taken.c.notification_id)
    return select(*shared, *lists).select_from(both).group_by(*shared)


@lru_cache
def _read() -> Select[Any]:
    both = _rows.join(_told, _told.c.id == _rows.c.notification_id)
    these = is_in_bound(_rows.c.id, "ids", postgres=False)
    return select(*_SHARED, *_EACH).select_from(both).where(these).order_by(_rows.c.id)


@lru_cache
def _own_parts(postgres: bool) -> Select[Any]:
    these = is_in_bound(_rows.c.id, "ids", postgres=postgres)
    parts = cast(_rows.c.parts, Text) if postgres else _rows.c.parts
    return select(_rows.c.id, parts).where(these, _rows.c.parts.is_not(None))


def _parts(session: Session, ids: Sequence[UUID]) -> dict[UUID, Parts]:
    """Of deliveries whose parts are in themselves; not in the claim's lists, where texts so long are slow to read."""
    if not ids:
        return {}
    postgres = session.get_bind().dialect.name == "postgresql"
    found = session.connection().execute(_own_parts(postgres), {"ids": bound(session, ids)})
    return {id: from_json(parts) if postgres else parts for id, parts in found}


def _contents(session: Session, parts: Iterable[Parts | None]) -> dict[str, bytes]:
    wanted = {sha256 for some in parts for _, _, sha256, _ in _files(some)}
    if not wanted:
        return {}
    statement = select(AttachmentContent.sha256, AttachmentContent.content)
    kept = session.execute(statement.where(AttachmentContent.sha256.in_(wanted)))
    return {sha256: content for sha256, content in kept}


def _files(parts: Parts | None) -> list[tuple[str, str, str, str | None]]:
    files: list[tuple[str, str, str, str | None]] = (parts or {}).get("files", [])
    return files


def _is_inactive(some: _Alike) -> bool:
    event = get_events().get(some.event_config_name or "")
    return event is not None and not event.active


def _why_not(address: str | None, refused: set[str], parts: Parts | None, files: Mapping[str, bytes]) -> str | None:
    """What has changed since the delivery was written."""
    if refused and (address or "").lower() in refused:
        return "suppressed"
    if parts is None:
        return "content_gone"
    return "attachment_gone" if any(sha256 not in files for _, _, sha256, _ in _files(parts)) else None


def _parcel(
    some: _Alike, id: UUID, address: str | None, parts: Parts, contents: Mapping[str, bytes], above: tuple[UUID, ...]
) -> Parcel:
    files = tuple([File(name, kind, contents[sha256], cid) for name, kind, sha256, cid in _files(parts)])
    return Parcel(id, address or "", some.lang, parts, some.created_at, files, above, some.content_id)


def give_back(session: Session, claimed: Sequence[Claimed], now: datetime) -> None:
    """Return claimed deliveries that were not tried, for anyone to take at once."""
    lock_deliveries(session, [one.id for one in claimed])
    by_attempts = defaultdict(list)
    for one in claimed:
        by_attempts[one.attempts].append(one.id)
    for attempts, ids in by_attempts.items():
        session.execute(
            update(Delivery)
            .where(is_in(session, Delivery.id, ids), Delivery.status == "sending", Delivery.attempts == attempts)
            .values(status="pending", attempts=attempts - 1, lease_until=now)
        )


def let_go(session: Session, delivery_ids: Sequence[UUID], now: datetime) -> None:
    """Return deliveries that were handed over and not claimed, to be handed over again at once."""
    lock_deliveries(session, delivery_ids)
    handed = (is_in(session, Delivery.id, delivery_ids), IS_PENDING, Delivery.due_at <= now)
    session.execute(update(Delivery).where(*handed).values(lease_until=now))
