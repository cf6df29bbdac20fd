"""Use case: claim due deliveries, hand them to their channel, record what happened.

Claiming, sending and recording are separate: no transaction is open while the other side is slow.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from worker import attempts
from worker.attachments import File
from worker.channels import CHANNELS, Channel, Outcome, Parcel, Verdict
from worker.database import Transaction, utcnow
from worker.events import get_events
from worker.models import URGENCY, AttachmentContent, Delivery, Notification
from worker.recipients import suppressed
from worker.settings import Settings, get_settings
from worker.threads import references

#: Answers of the other side that sending one parcel may have to wait for.
PHASES = 8

_channels: dict[str, Channel] = {}


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that is ours until the lease ends; `attempts` tells our claim from a later one."""

    id: UUID
    channel: str
    attempts: int
    parcel: Parcel


@dataclass(slots=True)
class Delivered:
    """What a call to `deliver` did."""

    sent: int = 0
    later: int = 0
    failed: int = 0
    skipped: int = 0
    given_back: int = 0
    """Claimed, but the lease was about to end before their turn."""


def deliver(begin: Transaction, delivery_ids: Sequence[UUID]) -> Delivered:
    """Send those of the deliveries that are pending and due; whatever else they are, they stay.

    Each outcome is recorded, in its own transaction, before the next delivery is sent.
    """
    settings, result = get_settings(), Delivered()
    # Held mails must not include any that was merely claimed: there, one claim, one mail.
    size = 1 if settings.unknown_policy == "hold" else settings.deliver_batch
    for start in range(0, len(delivery_ids), size):
        lease_until = utcnow() + timedelta(seconds=settings.lease_seconds)
        with begin() as session:
            claimed = claim(session, delivery_ids[start : start + size], utcnow(), lease_until, result)
        for name in {one.channel for one in claimed}:
            _send(begin, _channel(name), [one for one in claimed if one.channel == name], lease_until, result)
    return result


def _channel(name: str) -> Channel:
    if name not in _channels:
        _channels[name] = CHANNELS[name]()
    return _channels[name]


def claim(
    session: Session, delivery_ids: Sequence[UUID], now: datetime, lease_until: datetime, result: Delivered
) -> list[Claimed]:
    """Take what is pending and due; of two callers only one gets each. What must not be sent is skipped, with why."""
    open_ones = (
        select(Delivery.id)
        .where(Delivery.id.in_(delivery_ids), Delivery.status == "pending", Delivery.due_at <= now)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(Delivery)
        .where(Delivery.id.in_(open_ones.scalar_subquery()))
        .values(status="sending", attempts=Delivery.attempts + 1, lease_until=lease_until)
        .returning(Delivery)
        .execution_options(synchronize_session=False)
    )
    rows = list(session.scalars(statement))
    about = _notifications(session, [row.notification_id for row in rows])
    contents = _contents(session, rows)
    above = references(session, about)
    refused = suppressed(session, [row.address for row in rows if row.address])
    claimed = []
    for row in sorted(rows, key=lambda row: (row.urgency, row.due_at, row.id)):
        notification = about[row.notification_id]
        reason = _why_not(row, notification, refused, contents, now)
        if reason:
            row.status, row.reason, row.parts = "skipped", reason, None
            result.skipped += 1
        else:
            parcel = _parcel(row, notification, contents, above.get(notification.id, ()))
            claimed.append(Claimed(row.id, row.channel, row.attempts, parcel))
    return claimed


def _notifications(session: Session, ids: Sequence[UUID]) -> dict[UUID, Any]:
    about = select(Notification.id, Notification.lang, Notification.event_config_name, Notification.created_at)
    statement = about.add_columns(Notification.parent_id, Notification.thread_id).where(Notification.id.in_(ids))
    return {row.id: row for row in session.execute(statement)}


def _contents(session: Session, rows: Sequence[Delivery]) -> dict[str, bytes]:
    wanted = {sha256 for row in rows for _, _, sha256, _ in _files(row)}
    if not wanted:
        return {}
    statement = select(AttachmentContent.sha256, AttachmentContent.content)
    kept = session.execute(statement.where(AttachmentContent.sha256.in_(wanted)))
    return {sha256: content for sha256, content in kept}


def _files(row: Delivery) -> list[tuple[str, str, str, str | None]]:
    files: list[tuple[str, str, str, str | None]] = (row.parts or {}).get("files", [])
    return files


def _why_not(
    row: Delivery, notification: Any, refused: set[str], contents: Mapping[str, bytes], now: datetime
) -> str | None:
    """What has changed since the delivery was written."""
    event = get_events().get(notification.event_config_name)
    if row.expire_at and row.expire_at <= now:
        return "expired"
    if (row.address or "").lower() in refused:
        return "suppressed"
    if any(sha256 not in contents for _, _, sha256, _ in _files(row)):
        return "attachment_gone"
    return "event_inactive" if event and not event.active else None


def _parcel(row: Delivery, notification: Any, contents: Mapping[str, bytes], above: tuple[UUID, ...]) -> Parcel:
    files = tuple(File(name, kind, contents[sha256], cid) for name, kind, sha256, cid in _files(row))
    created_at = notification.created_at
    return Parcel(row.id, row.address or "", notification.lang, row.parts or {}, created_at, files, above)


def _send(
    begin: Transaction, channel: Channel, claimed: Sequence[Claimed], lease_until: datetime, result: Delivered
) -> None:
    waiting = {one.id: one for one in claimed}
    under_way: dict[UUID, Claimed] = {}
    last_moment = _last_moment(lease_until, get_settings())

    def under_lease() -> Iterator[Parcel]:
        for one in claimed:
            if utcnow() >= last_moment:
                return
            under_way[one.id] = waiting.pop(one.id)
            yield one.parcel

    try:
        for outcome in channel.send(under_lease()):
            with begin() as session:
                record(session, under_way.pop(outcome.delivery_id), outcome, utcnow(), result)
    finally:
        # What was under way when something broke may have been sent: it stays claimed until its lease ends.
        if waiting:
            with begin() as session:
                give_back(session, list(waiting.values()), utcnow())
            result.given_back += len(waiting)


def _last_moment(lease_until: datetime, settings: Settings) -> datetime:
    """When to begin no further parcel: the lease, and the task's time, must be enough for a slow server's answers."""
    slowest = min(PHASES * settings.smtp_timeout_seconds, settings.lease_seconds / 2)
    task_half = lease_until - timedelta(seconds=settings.lease_seconds - settings.task_time_limit_seconds / 2)
    return min(lease_until - timedelta(seconds=slowest), task_half)


def record(session: Session, one: Claimed, outcome: Outcome, now: datetime, result: Delivered) -> None:
    """Write down what became of a claimed delivery; a later claim of the same row is left alone."""
    values = _consequence(one, outcome, now, get_settings())
    statement = update(Delivery).where(Delivery.id == one.id)
    if outcome.verdict is Verdict.SENT:
        # Sent is sent, whoever holds the row by now.
        statement = statement.where(Delivery.status != "sent")
    else:
        statement = statement.where(Delivery.status == "sending", Delivery.attempts == one.attempts)
    recorded = session.execute(statement.values(**values).returning(Delivery.id)).first()
    if recorded and outcome.verdict is not Verdict.SENT:
        attempts.note(session, one.id, one.attempts, outcome.verdict, outcome.detail, now)
    result.sent += values["status"] == "sent"
    result.later += values["status"] == "pending"
    result.failed += values["status"] in ("failed", "unknown")


def _consequence(one: Claimed, outcome: Outcome, now: datetime, settings: Settings) -> dict[str, Any]:
    verdict = outcome.verdict
    if verdict is Verdict.SENT:
        return {"status": "sent", "sent_at": now, "parts": None, "reason": None, "last_error": None}
    values = {"reason": verdict.value, "last_error": outcome.detail}
    if verdict is Verdict.PERMANENT:
        return {**values, "status": "failed"}
    if verdict is Verdict.UNKNOWN and settings.unknown_policy == "hold":
        return {**values, "status": "unknown"}
    if one.attempts >= settings.max_attempts:
        return {**values, "status": "failed"}
    due = now + timedelta(seconds=backoff(verdict, one.attempts, settings))
    return {**values, "status": "pending", "due_at": due, "lease_until": due}


def backoff(verdict: Verdict, attempts: int, settings: Settings) -> float:
    """Seconds until the next attempt: doubled each time up to the maximum, half of it drawn by lot.

    What our own side must mend first waits for the maximum at once.
    """
    longest = settings.retry_max_seconds
    exponent = min(attempts - 1, 30)
    delay = longest if verdict is Verdict.MISCONFIGURED else min(longest, settings.retry_base_seconds * 2**exponent)
    return delay * random.uniform(0.5, 1.0)


def give_back(session: Session, claimed: Sequence[Claimed], now: datetime) -> None:
    """Return claimed deliveries that were not tried, for anyone to take at once."""
    for one in claimed:
        session.execute(
            update(Delivery)
            .where(Delivery.id == one.id, Delivery.status == "sending", Delivery.attempts == one.attempts)
            .values(status="pending", attempts=one.attempts - 1, lease_until=now)
        )


def take_due(session: Session, now: datetime, limit: int) -> dict[int, list[UUID]]:
    """Up to `limit` deliveries by urgency that nobody has in hand: due ones, and those of a worker that fell silent.

    They are marked as handed over, so that the next look passes over them. Urgent and oldest first.
    """
    settings = get_settings()
    _recover(session, now, settings)
    taken: dict[int, list[UUID]] = {}
    for urgency in sorted(URGENCY.values()):
        free = (
            select(Delivery.id)
            .where(Delivery.status == "pending", Delivery.urgency == urgency)
            .where(Delivery.due_at <= now, Delivery.lease_until <= now)
            .order_by(Delivery.due_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte()  # as a subquery PostgreSQL may run it again for each row, and the limit would not hold
        )
        statement = (
            update(Delivery)
            .where(Delivery.id.in_(select(free.c.id)))
            .values(lease_until=now + timedelta(seconds=settings.handover_seconds))
            .returning(Delivery.due_at, Delivery.id)
            .execution_options(synchronize_session=False)
        )
        found = sorted((due, id) for due, id in session.execute(statement))
        limit -= len(found)
        if found:
            taken[urgency] = [id for _due, id in found]
    return taken


def _recover(session: Session, now: datetime, settings: Settings) -> None:
    """Deliveries whose lease ran out: the worker died between the claim and the record."""
    attempts.note_silent(session, now)
    silent = update(Delivery).where(Delivery.status == "sending", Delivery.lease_until <= now)
    spent = {"status": "failed", "reason": "abandoned", "last_error": "every worker that claimed it fell silent"}
    session.execute(silent.where(Delivery.attempts >= settings.max_attempts).values(spent))
    status = "unknown" if settings.unknown_policy == "hold" else "pending"
    session.execute(
        silent.values(status=status, reason="abandoned", last_error="the worker that claimed it fell silent"),
    )
