"""Which deliveries are handed over: what is due, and what was abandoned."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import and_, or_, select, update
from sqlalchemy.orm import Session

from worker import attempts, control
from worker.channels import CHANNELS
from worker.claims import ABANDONED
from worker.models import URGENCY, Delivery
from worker.rows import is_in
from worker.settings import Settings, get_settings

#: A delivery whose workers fell silent this often, and the last time again, is what ends them.
DEADLY = 12


def take_due(
    session: Session, now: datetime, limit: int, urgencies: Iterable[int] = tuple(URGENCY.values())
) -> dict[int, list[UUID]]:
    """Up to `limit` deliveries by urgency that nobody has in hand: due ones, and those of a worker that fell silent.

    They are marked as handed over, so that the next look passes over them. Urgent and oldest first. Of a channel that
    is held back, or has a rate, only what it can take.
    """
    settings = get_settings()
    _recover(session, now, settings)
    known, of_channel = control.states(session), Counter[str]()
    taken: dict[int, list[UUID]] = {}
    for urgency in sorted(urgencies):
        for channel in CHANNELS:
            most = min(limit, control.room(channel, known, urgency, now) - of_channel[channel])
            until = now + timedelta(seconds=settings.handover_seconds)
            found = _take(session, channel, urgency, now, until, most) if most > 0 else []
            limit -= len(found)
            of_channel[channel] += len(found)
            if found:
                taken.setdefault(urgency, []).extend(found)
    return taken


def _take(session: Session, channel: str, urgency: int, now: datetime, until: datetime, limit: int) -> list[UUID]:
    free = (
        select(Delivery.id)
        .where(Delivery.status == "pending", Delivery.channel == channel, Delivery.urgency == urgency)
        .where(Delivery.due_at <= now, Delivery.lease_until <= now)
        .order_by(Delivery.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte()  # as a subquery PostgreSQL may run it again for each row, and the limit would not hold
    )
    statement = (
        update(Delivery)
        .where(Delivery.id.in_(select(free.c.id)))
        .values(lease_until=until)
        .returning(Delivery.due_at, Delivery.id)
        .execution_options(synchronize_session=False)
    )
    return [id for _due, id in sorted((due, id) for due, id in session.execute(statement))]


def _recover(session: Session, now: datetime, settings: Settings) -> None:
    """Deliveries whose lease ran out: the worker died between the claim and the record."""
    silent = update(Delivery).where(
        is_in(session, Delivery.id, attempts.note_silent(session, now)), Delivery.status == "sending"
    )
    spent = {"status": "failed", "reason": ABANDONED, "last_error": "every worker that claimed it fell silent"}
    deadly = and_(Delivery.reason == ABANDONED, Delivery.attempts >= DEADLY)
    session.execute(silent.where(or_(Delivery.attempts >= settings.max_attempts, deadly)).values(spent))
    status = "unknown" if settings.unknown_policy == "hold" else "pending"
    session.execute(
        silent.values(status=status, reason=ABANDONED, last_error="the worker that claimed it fell silent"),
    )
