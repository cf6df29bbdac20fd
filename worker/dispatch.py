"""Which deliveries are handed over: what is due, and what was abandoned."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from worker.models import URGENCY, Delivery
from worker.settings import Settings, get_settings


def take_due(
    session: Session, now: datetime, limit: int, urgencies: Iterable[int] = tuple(URGENCY.values())
) -> dict[int, list[UUID]]:
    """Up to `limit` deliveries by urgency that nobody has in hand: due ones, and those of a worker that fell silent.

    They are marked as handed over, so that the next look passes over them. Urgent and oldest first.
    """
    settings = get_settings()
    _recover(session, now, settings)
    taken: dict[int, list[UUID]] = {}
    for urgency in sorted(urgencies):
        if limit <= 0:
            break
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
    silent = update(Delivery).where(Delivery.status == "sending", Delivery.lease_until <= now)
    spent = {"status": "failed", "reason": "abandoned", "last_error": "every worker that claimed it fell silent"}
    session.execute(silent.where(Delivery.attempts >= settings.max_attempts).values(spent))
    status = "unknown" if settings.unknown_policy == "hold" else "pending"
    session.execute(
        silent.values(status=status, reason="abandoned", last_error="the worker that claimed it fell silent"),
    )
