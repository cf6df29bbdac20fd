"""Use cases that take back: what is about an object, and what a request asked for."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, and_, delete, or_, select, update
from sqlalchemy.orm import Session

from worker.arguments import ID, AnyId, AnyMoment, checked, moment, text, uuid
from worker.errors import InvalidRequest
from worker.ids import uuid7
from worker.models import Delivery, Notification, Request
from worker.rows import insert_new, lock_whole


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a cancellation took back; nothing is no error."""

    requests: int
    """That waited, with the waiting pages of a fan-out."""
    notifications: int
    """That were not yet visible."""
    emails: int
    """That were not yet sent."""


def retract(
    session: Session,
    object_type: str | None = None,
    object_id: str | None = None,
    event_config_name: str | None = None,
    sender_id: str | None = None,
) -> int:
    """Remove the notifications about an object, or all that a sender caused, and with them the emails not yet sent.

    Of one event or of all; about an object, by one sender or by all. Without an object the whole table is read.
    Raises InvalidRequest where neither an object nor a sender is given.
    """
    if (object_type is None) != (object_id is None) or (object_type is None and sender_id is None):
        raise InvalidRequest("object_type and object_id, or sender_id, or all three")
    given = {"object_type": object_type, "object_id": object_id, "sender_id": sender_id}
    given["event_config_name"] = event_config_name
    about = [getattr(Notification, name) == text(name, value) for name, value in given.items() if value is not None]
    gone = delete(Notification).where(lock_whole(session, *about)).returning(Notification.id)
    return len(session.execute(gone).all())


def cancel_unsent(session: Session, notifications: Select[Any], reason: str) -> int:
    """Have the emails of these notifications skipped, where they are not sent; gives how many.

    One that is just being sent is not stopped, but if that fails it is not tried again.
    """
    statement = (
        update(Delivery)
        .where(Delivery.notification_id.in_(notifications), Delivery.status.in_(["pending", "sending"]))
        .values(status="skipped", reason=reason, parts=None)
        .returning(Delivery.id)
        .execution_options(synchronize_session=False)
    )
    return len(session.execute(statement).all())


def cancel(
    session: Session, *, id: AnyId | None = None, idempotency_key: str | None = None, now: AnyMoment
) -> Cancelled:
    """Take a request back, as far as it has not happened: what waits, is not yet visible or not yet sent goes away.

    Its id and key stay used; where the request has not come yet, it adds nothing when it comes.
    Raises InvalidRequest unless exactly one of the two is given.
    """
    now = moment("now", now)
    row = _request(session, id, idempotency_key, now)
    waiting = 0
    if row.status in ("pending", "failed"):
        waiting += row.status == "pending"
        row.status, row.payload, row.error = "cancelled", None, None
    waiting += _cancel_pages(session, row.id)
    asked = Notification.request_id == row.id
    lock_whole(session, asked)
    emails = cancel_unsent(session, select(Notification.id).where(asked), "cancelled")
    unseen_yet = delete(Notification).where(asked, Notification.created_at > now).returning(Notification.id)
    return Cancelled(waiting, len(session.execute(unseen_yet).all()), emails)


def _request(session: Session, id: AnyId | None, key: str | None, now: datetime) -> Request:
    """The request's row, locked; made where there is none, so that a request that comes late finds it."""
    if (id is None) == (key is None) or key == "":
        raise InvalidRequest("id, idempotency_key: exactly one of the two")
    id = None if id is None else uuid("id", id)
    key = None if key is None else checked(ID, "idempotency_key", key)
    row = {"id": id or uuid7(), "idempotency_key": key, "fingerprint": "", "status": "cancelled", "bulk": False}
    session.execute(insert_new(session, Request), [{**row, "created_at": now}])
    same = Request.id == id if id else Request.idempotency_key == key
    return session.scalars(
        select(Request).where(same).with_for_update().execution_options(populate_existing=True)
    ).one()


def _cancel_pages(session: Session, request_id: UUID) -> int:
    """Its pages, and what is kept of its message where that failed."""
    pages = and_(Request.bulk.is_(True), Request.payload["id"].as_string() == str(request_id))
    statement = (
        update(Request)
        .where(Request.status.in_(["pending", "failed"]), or_(pages, Request.request_id == request_id))
        .values(status="cancelled", payload=None, error=None)
        .returning(Request.id)
        .execution_options(synchronize_session=False)
    )
    return len(session.execute(statement).all())
