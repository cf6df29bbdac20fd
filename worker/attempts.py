"""The history of attempts that did not succeed. A delivery that succeeds at once leaves nothing here."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from worker.ids import uuid7
from worker.models import Attempt, Delivery


def note(session: Session, delivery_id: UUID, number: int, verdict: str, detail: str, now: datetime) -> None:
    """Write one down, in the transaction that records its outcome. `detail` holds no address."""
    session.add(Attempt(id=uuid7(), delivery_id=delivery_id, number=number, at=now, verdict=verdict, detail=detail))


def note_silent(session: Session, now: datetime) -> Sequence[UUID]:
    """Write down the attempts of workers that fell silent, before their deliveries are taken from them.

    Gives the deliveries, which are locked now; one that somebody else has locked is not among them.
    """
    silent = select(Delivery.id, Delivery.attempts).where(Delivery.status == "sending", Delivery.lease_until <= now)
    found = session.execute(silent.with_for_update(skip_locked=True)).all()
    for id, number in found:
        note(session, id, number, "abandoned", "the worker that claimed it fell silent", now)
    return [id for id, _number in found]
