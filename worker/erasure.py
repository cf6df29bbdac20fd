"""Use case: hand out everything that is held about one recipient, or erase it."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Text, cast, delete, func, select
from sqlalchemy.orm import Session

from worker import contents
from worker.arguments import AnyMoment, moment, text
from worker.directory import as_dict, groups, is_table
from worker.ids import uuid7
from worker.models import (
    Attempt,
    Delivery,
    Erasure,
    GroupMember,
    Notification,
    Preference,
    Recipient,
    Request,
    Suppression,
)
from worker.rows import lock_whole
from worker.tables import Base

#: Waiting requests looked at in one go.
_AT_ONCE = 500

#: What is given of a waiting request: nothing of the others whom it also names.
_OF_REQUEST = ("event_config_name", "title", "text", "lang", "context", "link", "send_at", "expire_at")


def export(session: Session, recipient_id: str) -> dict[str, Any]:
    """Everything that is held about one recipient, as JSON; empty lists where nothing is."""
    row = session.get(Recipient, text("recipient_id", recipient_id))
    notifications = session.scalars(
        select(Notification).where(Notification.recipient_id == recipient_id).order_by(Notification.created_at)
    ).all()
    deliveries = session.scalars(_deliveries(recipient_id).order_by(Delivery.due_at)).all()
    common = contents.load(session, (one.content_id for one in deliveries))
    preferences = session.scalars(select(Preference).where(Preference.recipient_id == recipient_id)).all()
    suppressions = session.scalars(
        select(Suppression).where(Suppression.address.in_(_addresses(session, recipient_id)))
    )
    return {
        "recipient": row and as_dict(row),
        "groups": groups(session, recipient_id),
        "preferences": [_plain(one) for one in preferences],
        "suppressions": [_plain(one) for one in suppressions],
        "notifications": [_plain(one) for one in notifications],
        "deliveries": [_plain(one) | _parts(one, common) for one in deliveries],
        "attempts": [_plain(one) for one in session.scalars(_attempts(recipient_id))],
        "requests": [_asked(one, mine) for one, mine, _others in _naming(session, recipient_id)],
    }


def erase(session: Session, recipient_id: str, *, now: AnyMoment) -> dict[str, int]:
    """Remove everything that is held about one recipient; gives how much, and keeps that without the id.

    Emails not yet sent go too; one that is just being sent is not stopped. What it had in common with others' emails
    stays for them. A request that the broker still holds is created when it comes: stop asking first. A directory
    that is a view stays as the application has it.
    """
    now = moment("now", now)
    counts = {"requests": _leave_requests(session, text("recipient_id", recipient_id))}
    lock_whole(session, Notification.recipient_id == recipient_id)
    counts["suppressions"] = _unsuppress(session, recipient_id)
    counts["deliveries"] = session.scalar(select(func.count()).select_from(_deliveries(recipient_id).subquery())) or 0
    had = contents.of_recipient(session, recipient_id)
    for name, model in (("notifications", Notification), ("preferences", Preference), ("groups", GroupMember)):
        gone = delete(model).where(model.recipient_id == recipient_id)
        counts[name] = len(session.execute(gone.returning(model.recipient_id)).all())
    contents.remove_unused(session, had)
    counts["recipients"] = 0
    if is_table(session):
        row = delete(Recipient).where(Recipient.id == recipient_id).returning(Recipient.id)
        counts["recipients"] = len(session.execute(row).all())
    session.add(Erasure(id=uuid7(), erased_at=now, counts=counts))
    session.flush()
    return counts


def _deliveries(recipient_id: str) -> Any:
    own = select(Notification.id).where(Notification.recipient_id == recipient_id)
    return select(Delivery).where(Delivery.notification_id.in_(own))


def _attempts(recipient_id: str) -> Any:
    own = _deliveries(recipient_id).with_only_columns(Delivery.id)
    return select(Attempt).where(Attempt.delivery_id.in_(own)).order_by(Attempt.at)


def _addresses(session: Session, recipient_id: str) -> list[str]:
    """In lower case: the directory's, and those that something was to be sent to."""
    used = session.scalars(_deliveries(recipient_id).with_only_columns(Delivery.address).distinct())
    known = session.scalars(select(Recipient.email).where(Recipient.id == recipient_id))
    return sorted({address.lower() for address in (*used, *known) if address})


def _unsuppress(session: Session, recipient_id: str) -> int:
    """Except where somebody else has the same address: for them, it still holds."""
    addresses = _addresses(session, recipient_id)
    shared = select(func.lower(Recipient.email)).where(
        func.lower(Recipient.email).in_(addresses), Recipient.id != recipient_id
    )
    free = set(addresses) - set(session.scalars(shared))
    of_them = delete(Suppression).where(Suppression.address.in_(free)).returning(Suppression.address)
    return len(session.execute(of_them).all())


def _naming(
    session: Session, recipient_id: str, *, lock: bool = False
) -> Iterator[tuple[Request, list[Any], list[Any]]]:
    """Requests that wait or failed, with their entries of `to` that mean the recipient, and the others."""
    row, last = session.get(Recipient, recipient_id), UUID(int=0)
    username = row.username if row else None
    statement = select(Request).where(Request.payload.is_not(None)).order_by(Request.id).limit(_AT_ONCE)
    if recipient_id.isascii() and not username:
        # Not where JSON may write it in more than one way.
        statement = statement.where(cast(Request.payload, Text).contains(json.dumps(recipient_id), autoescape=True))
    if lock:
        statement = statement.with_for_update().execution_options(populate_existing=True)
    while page := session.scalars(statement.where(Request.id > last)).all():
        last = page[-1].id
        for one in page:
            entries = _entries(one.payload or {})
            mine = [entry for entry in entries if _means(entry, recipient_id, username)]
            if mine:
                yield one, mine, [entry for entry in entries if entry not in mine]


def _entries(payload: dict[str, Any]) -> list[Any]:
    """Of what failed, `to` may be anything."""
    to = payload.get("to", [])
    return to if isinstance(to, list) else [to]


def _means(entry: Any, recipient_id: str, username: str | None) -> bool:
    if not isinstance(entry, dict):
        return bool(entry == recipient_id)
    return entry.get("id") == recipient_id or (username is not None and entry.get("username") == username)


def _leave_requests(session: Session, recipient_id: str) -> int:
    """Take the recipient out of the requests that wait; one that names nobody else is cancelled."""
    count = 0
    for row, _mine, others in _naming(session, recipient_id, lock=True):
        count += 1
        if others:
            row.payload = {**(row.payload or {}), "to": others}
        else:
            row.status, row.payload, row.error = "cancelled", None, None
    session.flush()
    return count


def _asked(row: Request, mine: list[Any]) -> dict[str, Any]:
    payload = row.payload or {}
    about = {name: payload[name] for name in _OF_REQUEST if name in payload}
    return {"id": str(row.id), "status": row.status, "created_at": row.created_at.isoformat(), "to": mine, **about}


def _parts(row: Delivery, common: Mapping[UUID, Any]) -> dict[str, Any]:
    return {"parts": common.get(row.content_id)} if row.content_id and row.sent_at is None else {}


def _plain(row: Base) -> dict[str, Any]:
    values = {column.key: getattr(row, column.key) for column in row.__table__.columns}
    return {name: _as_json(value) for name, value in values.items()}


def _as_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else value
