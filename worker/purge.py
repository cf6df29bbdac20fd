"""Use case: remove seen notifications past the cutoff, in batches short enough that nobody waits for them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, bindparam, delete, func, or_, select, union_all
from sqlalchemy.orm import Session

from worker import partitions, under_way
from worker.database import Transaction
from worker.events import get_events
from worker.ids import uuid7
from worker.models import AttachmentContent, Content, Delivery, Notification, PurgeRun, Request
from worker.rows import is_chosen
from worker.settings import get_settings

#: Seconds that a batch should take: so long does whoever wants one of its rows wait.
BATCH_SECONDS = 0.01

#: Rows, the fewest of a batch, however slow the store.
SMALLEST = 200

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


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
    cutoffs = _Cutoffs(cutoff, {} if older_than else _own_cutoffs(now))
    past = _past(cutoffs)
    if dry_run:
        with begin() as session:
            count = session.scalar(select(func.count()).select_from(Notification).where(past))
        return Purged(count or 0, True, cutoff)
    started, size, removal = time.monotonic(), settings.purge_batch, _Removal(past)
    removed = partitions.tend(begin, now=now, cutoff=cutoff, kept=partial(_kept, cutoffs))
    reached: datetime | None = _BEGINNING
    while reached:
        began = time.monotonic()
        with begin() as session:
            gone, reached = _remove_batch(session, removal, reached, size)
        removed += gone
        now_is = time.monotonic()
        if now_is - started > settings.purge_budget_seconds:
            break
        size = _next_size(size, now_is - began, settings.purge_batch)
    purged = Purged(removed, reached is None, cutoff)
    with begin() as session:
        session.add(_ledger_row(purged, now, time.monotonic() - started))
    return purged


@dataclass(frozen=True, slots=True)
class _Cutoffs:
    general: datetime
    own: Mapping[str, datetime]
    """Of events with a retention of their own, by event config name."""

    @property
    def latest(self) -> datetime:
        return max(self.general, *self.own.values()) if self.own else self.general

    @property
    def earliest(self) -> datetime:
        return min(self.general, *self.own.values()) if self.own else self.general


def _own_cutoffs(now: datetime) -> dict[str, datetime]:
    events = get_events().values()
    return {e.name: now - timedelta(days=e.retention_days) for e in events if e.retention_days is not None}


def _past(cutoffs: _Cutoffs) -> ColumnElement[bool]:
    named, modified = Notification.event_config_name, Notification.updated_at
    by_event = [and_(named == name, modified < moment) for name, moment in cutoffs.own.items()]
    others = modified < cutoffs.general
    if cutoffs.own:
        others = and_(others, or_(named.is_(None), named.not_in(cutoffs.own)))
    mails = select(Delivery.id).where(
        Delivery.notification_id == Notification.id, Delivery.status.in_(["pending", "sending"])
    )
    # The offset keeps PostgreSQL from making a join of it, and from reading the whole table for each batch.
    under_way = mails.offset(0).exists()
    # The latest is said once more, so that an index scan ends there.
    return and_(Notification.seen_at.is_not(None), modified < cutoffs.latest, or_(others, *by_event), ~under_way)


def _kept(cutoffs: _Cutoffs, low: UUID, high: UUID) -> Select[UUID]:
    """The ids from `low` to below `high` of which `_past` is not true, some of them twice.

    Each reason alone, as each has an index.
    """
    within, notified = and_(Notification.id >= low, Notification.id < high), Delivery.notification_id
    recent = and_(Notification.seen_at.is_not(None), Notification.updated_at >= cutoffs.earliest)
    under_way = or_(Delivery.status == "pending", Delivery.status == "sending")
    found = union_all(
        select(Notification.id).where(within, Notification.seen_at.is_(None)),
        select(Notification.id).where(within, recent, _past(cutoffs).is_not(True)),
        select(notified).where(notified >= low, notified < high, under_way),
    ).subquery()
    return select(found.c.id)


class _Removal:
    """The statement that removes a batch, built once for all of them."""

    def __init__(self, past: ColumnElement[bool]) -> None:
        ordered = select(Notification.id).where(past, Notification.updated_at >= bindparam("reached"))
        batch = ordered.order_by(Notification.updated_at).limit(bindparam("size")).with_for_update(skip_locked=True)
        self.plain, gone = (
            delete(Notification)
            .where(is_chosen(Notification.id, batch, postgres=postgres))
            .returning(Notification.updated_at)
            for postgres in (False, True)
        )
        removed = gone.cte().c.updated_at
        # What a crash of the server undoes is removed again: no need to wait for the disk, nor to have others wait.
        hurry = func.set_config("synchronous_commit", "off", True)
        self.postgres = select(func.count(removed), func.max(removed), hurry)


def _remove_batch(session: Session, removal: _Removal, reached: datetime, size: int) -> tuple[int, datetime | None]:
    """Remove up to `size` rows, the longest unmodified first; gives how many, and how far that went: None at the end.

    To begin where the last batch ended spares the database the index entries of all that is gone already.
    """
    values = {"reached": reached, "size": size}
    if session.get_bind().dialect.name == "postgresql":
        # One statement, and its own transaction: one round trip.
        alone = session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        removed, latest, _ = alone.execute(removal.postgres, values).one()
    else:
        moments = session.connection().execute(removal.plain, values).scalars().all()
        removed, latest = len(moments), max(moments, default=None)
    # A row that somebody changes at the same time may be missing in a batch that is not the last.
    return removed, latest if 2 * removed > size else None


def _next_size(size: int, took_seconds: float, most: int) -> int:
    """Rows of the next batch, so that whoever wants to change one of them waits for `BATCH_SECONDS` or so."""
    fitting = size * BATCH_SECONDS / max(took_seconds, BATCH_SECONDS / 2)
    return min(max(int(fitting), SMALLEST), most)


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
    """Forget requests, with their idempotency keys, that were created before `REQUEST_RETENTION_DAYS` ago.

    Those that failed are kept for `FAILED_RETENTION_DAYS`; those that wait are never forgotten.
    """
    settings = get_settings()
    cutoff, failed_cutoff = (
        now - timedelta(days=days) for days in (settings.request_retention_days, settings.failed_retention_days)
    )
    with begin() as session:
        # What no email can need any more.
        for model in (Content, AttachmentContent):
            session.execute(delete(model).where(model.keep_until < now))
        under_way.purge(session, now=now)
    settled = and_(Request.status.in_(["created", "cancelled"]), Request.created_at < cutoff)
    given_up = and_(Request.status == "failed", Request.created_at < failed_cutoff)
    old = select(Request.id).where(or_(settled, given_up))
    removed, last = 0, settings.purge_batch
    while last == settings.purge_batch:
        with begin() as session:
            ids = session.scalars(old.limit(settings.purge_batch).with_for_update(skip_locked=True)).all()
            session.execute(delete(Request).where(Request.id.in_(ids)))
        last = len(ids)
        removed += last
    return removed
