"""Use case: the whole story of one notification, delivery or request, as JSON."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from worker import contents, control
from worker.channels.mime import message_id
from worker.database import utcnow
from worker.models import Attempt, Delivery, Notification, PurgeRun, Request, Suppression
from worker.settings import get_settings
from worker.tables import Base

#: Notifications of one request that are told in full.
SHOWN = 20

_OF_NOTIFICATION = (
    *("id", "request_id", "recipient_id", "sender_id", "event_config_name", "lang_asked", "lang", "title"),
    *("object_type", "object_id", "scope", "parent_id", "thread_id", "email_reason"),
    *("created_at", "expire_at", "updated_at", "seen_at"),
)
_OF_DELIVERY = (
    *("id", "channel", "address", "status", "reason", "urgency", "attempts"),
    *("due_at", "lease_until", "expire_at", "sent_at", "last_error"),
)
_OF_REQUEST = ("id", "idempotency_key", "status", "bulk", "created_at", "error")
_OF_ATTEMPT = ("number", "at", "verdict", "detail")


def explain(session: Session, name: str) -> dict[str, Any] | None:
    """All that is known about the id of a notification, a delivery or a request, or about an idempotency key.

    Addresses are masked. None where nothing is known.
    """
    id = _as_id(name)
    request_ids, only = _find(session, id) if id else (set[UUID](), None)
    asked = _requests(session, request_ids, name)
    request_ids |= {row.request_id or row.id for row in asked}
    if not asked and not request_ids:
        return None
    condition = Notification.id == only if only else Notification.request_id.in_(request_ids)
    total = session.scalar(select(func.count()).select_from(Notification).where(condition)) or 0
    rows = session.scalars(select(Notification).where(condition).order_by(Notification.id).limit(SHOWN)).all()
    return {
        "requests": [_request(row) for row in asked],
        "notifications": [_notification(session, row) for row in rows],
        "notifications_in_all": total,
        "last_purge": None if rows else _last_purge(session),
    }


def _as_id(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None


def _find(session: Session, id: UUID) -> tuple[set[UUID], UUID | None]:
    """The requests that an id leads to, and the one notification that it means, if it means one."""
    about = select(Notification.id, Notification.request_id)
    of_delivery = select(Delivery.notification_id).where(Delivery.id == id)
    one = session.execute(about.where(or_(Notification.id == id, Notification.id.in_(of_delivery)))).first()
    if one:
        return {one.request_id}, one.id
    some = session.execute(about.where(Notification.request_id == id).limit(1)).first()
    return ({id} if some else set()), None


def _requests(session: Session, ids: Iterable[UUID], name: str) -> Sequence[Request]:
    id = _as_id(name)
    known = {*ids, id} if id else {*ids}
    same = [Request.id.in_(known), Request.request_id.in_(known), Request.idempotency_key == name]
    return session.scalars(select(Request).where(or_(*same)).order_by(Request.created_at, Request.id)).all()


def _request(row: Request) -> dict[str, Any]:
    told = _columns(row, _OF_REQUEST) | {"id": row.request_id or row.id, "kept": row.payload is not None}
    if row.request_id:
        told["came_as"] = "message"
    elif row.bulk:
        told["came_as"] = "page of a fan-out"
    return told


def _notification(session: Session, row: Notification) -> dict[str, Any]:
    rows = session.scalars(select(Delivery).where(Delivery.notification_id == row.id).order_by(Delivery.id))
    return {**_columns(row, _OF_NOTIFICATION), "deliveries": [_delivery(session, one) for one in rows]}


def _delivery(session: Session, row: Delivery) -> dict[str, Any]:
    history = select(Attempt).where(Attempt.delivery_id == row.id).order_by(Attempt.at, Attempt.id)
    address = (row.address or "").lower()
    suppressed = session.get(Suppression, (row.channel, address))
    hold = control.holds(session, utcnow()).get(row.channel) if row.status == "pending" else None
    return _columns(row, _OF_DELIVERY) | {
        "address": mask(row.address),
        "kept": bool(session.scalar(select(contents.kept(session)).where(Delivery.id == row.id))),
        "message_id": message_id(row.id, get_settings().email_from) if row.channel == "email" else None,
        "suppressed": suppressed and _columns(suppressed, ("reason", "created_at")),
        "held": hold and asdict(hold),
        "history": [_columns(one, _OF_ATTEMPT) for one in session.scalars(history)],
    }


def _columns(row: Base, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}


def _last_purge(session: Session) -> dict[str, Any] | None:
    run = session.scalars(select(PurgeRun).order_by(PurgeRun.started_at.desc()).limit(1)).first()
    return _columns(run, ("started_at", "cutoff", "removed")) if run else None


def mask(address: str | None) -> str | None:
    """An address whose owner cannot be told from it: a***@example.org."""
    if not address:
        return None
    local, _, domain = address.rpartition("@")
    return f"{local[:1]}***@{domain}"
