"""Use case: remove seen notifications past the cutoff, in batches short enough that nobody waits for them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, delete, func, or_, select
from sqlalchemy.orm import Session

from worker.database import Transaction
from worker.events import get_events
from worker.ids import uuid7
from worker.models import AttachmentContent, Delivery, Notification, PurgeRun, Request
from worker.settings import get_settings


@dataclass(frozen=True, slots=True)
class Purged:
    """What one run removed, or would remove."""

    removed: int
    finished: bool
    """False where the time budget ended first."""
    cutoff: datetime


def purge_seen(
    begin: Transaction, *, now: datetime, older_than: datetime | None = None, dry_run: bool = False
) -> Purged:
    """Remove notifications that were seen, and not modified since, strictly before the cutoff.

    The cutoff is `older_than` for every event, or else `SEEN_RETENTION_DAYS` ago, and for an event with
    `retention_days` so many days ago. Unseen notifications, and those with an email still on its way, stay.
    """
    settings = get_settings()
    cutoff = older_than or now - timedelta(days=settings.seen_retention_days)
    past = _past(now, cutoff, per_event=older_than is None)
    if dry_run:
        with begin() as session:
            count = session.scalar(select(func.count()).select_from(Notification).where(past))
        return Purged(count or 0, True, cutoff)
    started, removed = time.monotonic(), 0
    while True:
        with begin() as session:
            last = _remove_batch(session, past, settings.purge_batch)
        removed += last
        if last < settings.purge_batch or time.monotonic() - started > settings.purge_budget_seconds:
            break
    purged = Purged(removed, last < settings.purge_batch, cutoff)
    with begin() as session:
        session.add(_ledger_row(purged, now, time.monotonic() - started))
    return purged


def _past(now: datetime, cutoff: datetime, *, per_event: bool) -> ColumnElement[bool]:
    own = {e.name: e.retention_days for e in get_events().values() if e.retention_days is not None and per_event}
    by_event = [
        and_(Notification.event_config_name == name, Notification.updated_at < now - timedelta(days=days))
        for name, days in own.items()
    ]
    others = Notification.updated_at < cutoff
    if own:
        named = Notification.event_config_name
        others = and_(others, or_(named.is_(None), named.not_in(own)))
    under_way = (
        select(Delivery.id)
        .where(Delivery.notification_id == Notification.id, Delivery.status.in_(["pending", "sending"]))
        .exists()
    )
    return and_(Notification.seen_at.is_not(None), or_(others, *by_event), ~under_way)


def _remove_batch(session: Session, past: ColumnElement[bool], size: int) -> int:
    batch = select(Notification.id).where(past).limit(size).with_for_update(skip_locked=True)
    ids: Sequence[object] = session.scalars(batch).all()
    session.execute(delete(Notification).where(Notification.id.in_(ids)))
    return len(ids)


def _ledger_row(purged: Purged, now: datetime, took_seconds: float) -> PurgeRun:
    return PurgeRun(
        id=uuid7(),
        started_at=now,
        cutoff=purged.cutoff,
        removed=purged.removed,
        took_seconds=took_seconds,
        finished=purged.finished,
    )


def purge_requests(begin: Transaction, *, now: datetime) -> int:
    """Forget requests, with their idempotency keys, that were created before `REQUEST_RETENTION_DAYS` ago."""
    settings = get_settings()
    cutoff = now - timedelta(days=settings.request_retention_days)
    with begin() as session:
        # Files that no email can need any more.
        session.execute(delete(AttachmentContent).where(AttachmentContent.keep_until < now))
    old = select(Request.id).where(Request.status.in_(["created", "cancelled"]), Request.created_at < cutoff)
    removed, last = 0, settings.purge_batch
    while last == settings.purge_batch:
        with begin() as session:
            ids = session.scalars(old.limit(settings.purge_batch).with_for_update(skip_locked=True)).all()
            session.execute(delete(Request).where(Request.id.in_(ids)))
        last = len(ids)
        removed += last
    return removed
