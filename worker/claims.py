"""Claiming deliveries: of two workers that want the same one, only one gets it, until its lease ends."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, select, true, update
from sqlalchemy.orm import Session

from worker import contents, control
from worker.attachments import File
from worker.channels import Parcel
from worker.events import get_events
from worker.models import AttachmentContent, Delivery, Notification
from worker.recipients import suppressed
from worker.rows import is_in, lock_deliveries
from worker.threads import references

Parts = Mapping[str, Any]

#: The reason of a delivery whose last worker died, or fell silent, while it had it.
ABANDONED = "abandoned"

_CLAIMED = (
    Delivery.id,
    Delivery.notification_id,
    Delivery.channel,
    Delivery.address,
    Delivery.parts,
    Delivery.content_id,
    Delivery.urgency,
    Delivery.attempts,
    Delivery.due_at,
    Delivery.expire_at,
    Delivery.give_up_at,
)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that is ours until the lease ends; `attempts` tells our claim from a later one."""

    id: UUID
    channel: str
    attempts: int
    parcel: Parcel
    urgency: int
    give_up_at: datetime


def claim(
    session: Session, delivery_ids: Sequence[UUID], now: datetime, lease_until: datetime, *, probing: bool = False
) -> tuple[list[Claimed], int]:
    """Take what is pending and due, urgent and oldest first; what must not be sent is skipped or failed, with why.

    Nothing of a channel that is held back, unless `probing`. Of several, none whose last worker died: lest it take the
    others along, each of these is claimed alone, see `suspects`. Gives what is ours now, and how many were skipped.
    """
    rows = _take(session, delivery_ids, now, lease_until, true() if probing else control.is_open())
    about = _notifications(session, [row.notification_id for row in rows])
    parts = _parts(session, rows)
    files = _contents(session, parts.values())
    above = references(session, about)
    refused = suppressed(session, [row.address for row in rows if row.address])
    claimed, too_late, skipped = [], [], defaultdict(list)
    for row in rows:
        notification = about[row.notification_id]
        give_up_at = row.give_up_at or control.give_up_at(row.urgency, notification.created_at)
        if reason := _why_not(row, notification, refused, parts[row.id], files, now):
            skipped[reason].append(row.id)
        elif give_up_at <= now:
            too_late.append(row.id)
        else:
            parcel = _parcel(row, notification, parts[row.id] or {}, files, above.get(notification.id, ()))
            claimed.append(Claimed(row.id, row.channel, row.attempts, parcel, row.urgency, give_up_at))
    for reason, ids in skipped.items():
        values = {"status": "skipped", "reason": reason, "parts": None}
        session.execute(update(Delivery).where(is_in(session, Delivery.id, ids)).values(values))
    if too_late:
        words = func.coalesce(Delivery.last_error, "not tried in time")
        failed = update(Delivery).values(status="failed", reason="too_late", last_error=words)
        session.execute(failed.values(attempts=Delivery.attempts - 1).where(is_in(session, Delivery.id, too_late)))
    return claimed, sum(map(len, skipped.values()))


def _take(
    session: Session, delivery_ids: Sequence[UUID], now: datetime, lease_until: datetime, allowed: ColumnElement[bool]
) -> list[Any]:
    if len(delivery_ids) > 1:
        allowed = and_(allowed, Delivery.reason.is_distinct_from(ABANDONED))
    open_ones = (
        select(Delivery.id)
        .where(is_in(session, Delivery.id, delivery_ids), Delivery.status == "pending", Delivery.due_at <= now, allowed)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(Delivery)
        .where(Delivery.id.in_(open_ones.scalar_subquery()))
        .values(status="sending", attempts=Delivery.attempts + 1, lease_until=lease_until)
        .returning(*_CLAIMED)
        .execution_options(synchronize_session=False)
    )
    return sorted(session.execute(statement), key=lambda row: (row.urgency, row.due_at, row.id))


def suspects(session: Session, delivery_ids: Sequence[UUID], now: datetime) -> Sequence[UUID]:
    """Those of them to be claimed alone, whichever of them their workers died of; the least tried first."""
    waiting = (Delivery.status == "pending", Delivery.due_at <= now, Delivery.reason == ABANDONED)
    found = select(Delivery.id).where(is_in(session, Delivery.id, delivery_ids), *waiting)
    return session.scalars(found.order_by(Delivery.attempts, Delivery.due_at, Delivery.id)).all()


def _notifications(session: Session, ids: Sequence[UUID]) -> dict[UUID, Any]:
    about = select(Notification.id, Notification.lang, Notification.event_config_name, Notification.created_at)
    statement = about.add_columns(Notification.parent_id, Notification.thread_id)
    return {row.id: row for row in session.execute(statement.where(is_in(session, Notification.id, ids)))}


def _parts(session: Session, rows: Sequence[Any]) -> dict[UUID, Parts | None]:
    """By delivery; None where the content that it has in common with others is gone."""
    common = contents.load(session, (row.content_id for row in rows))
    return {row.id: common.get(row.content_id) if row.content_id else row.parts or {} for row in rows}


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


def _why_not(
    row: Any, notification: Any, refused: set[str], parts: Parts | None, files: Mapping[str, bytes], now: datetime
) -> str | None:
    """What has changed since the delivery was written."""
    event = get_events().get(notification.event_config_name)
    if row.expire_at and row.expire_at <= now:
        return "expired"
    if (row.address or "").lower() in refused:
        return "suppressed"
    if parts is None:
        return "content_gone"
    if any(sha256 not in files for _, _, sha256, _ in _files(parts)):
        return "attachment_gone"
    return "event_inactive" if event and not event.active else None


def _parcel(
    row: Any, notification: Any, parts: Parts, contents: Mapping[str, bytes], above: tuple[UUID, ...]
) -> Parcel:
    files = tuple(File(name, kind, contents[sha256], cid) for name, kind, sha256, cid in _files(parts))
    created_at = notification.created_at
    address = row.address or ""
    return Parcel(row.id, address, notification.lang, parts, created_at, files, above, row.content_id)


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
    handed = (is_in(session, Delivery.id, delivery_ids), Delivery.status == "pending", Delivery.due_at <= now)
    session.execute(update(Delivery).where(*handed).values(lease_until=now))
