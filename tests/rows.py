"""Rows written past the use cases, for tests that need them in a state that takes time or accidents to get into."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update

from worker.database import transaction, utcnow
from worker.ids import uuid7
from worker.models import Delivery, Notification
from worker.tables import Base

#: Some moment long past.
THEN = datetime(2026, 1, 31, 12, tzinfo=UTC)


def ago(**units: float) -> datetime:
    """The moment so long before now."""
    return utcnow() - timedelta(**units)


def put_notifications(count: int = 1, **values: Any) -> list[UUID]:
    """Write notifications, seen and last modified at `THEN` unless said otherwise; gives their ids."""
    row = {
        "recipient_id": "reader",
        "event_config_name": "book_available",
        "lang": "en",
        "lang_asked": "en",
        "title": "Dune is here",
        "text": "Pick up Dune.",
        "created_at": THEN,
        "updated_at": THEN,
        "seen_at": THEN,
    } | values
    ids = [uuid7() for _ in range(count)]
    with transaction() as session:
        session.add_all([Notification(id=id, request_id=id, **row) for id in ids])
    return ids


def put_deliveries(count: int = 1, *, event: str | None = "book_available", **values: Any) -> list[UUID]:
    """Write deliveries, pending and due unless said otherwise, each of an unseen notification; gives their ids."""
    notifications = put_notifications(count, event_config_name=event, seen_at=None, created_at=utcnow())
    row = {
        "channel": "email",
        "address": "reader@example.com",
        "parts": {"subject": "Dune is here", "text": "Pick up Dune.\n", "html": None},
        "status": "pending",
        "urgency": 1,
        "due_at": ago(seconds=60),
        "lease_until": ago(seconds=60),
    } | values
    ids = [uuid7() for _ in range(count)]
    with transaction() as session:
        session.add_all(
            [Delivery(id=id, notification_id=about, **row) for id, about in zip(ids, notifications, strict=True)]
        )
    return ids


def get_delivery(id: UUID) -> Delivery:
    """The row as it is now."""
    with transaction() as session:
        return session.get_one(Delivery, id)


def change_delivery(id: UUID, **values: Any) -> None:
    """Change the row, whatever its state."""
    with transaction() as session:
        session.execute(update(Delivery).where(Delivery.id == id).values(**values))


def count(model: type[Base]) -> int:
    """How many rows the table has."""
    with transaction() as session:
        return session.scalar(select(func.count()).select_from(model)) or 0
