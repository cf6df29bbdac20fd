"""Marking and removing a recipient's notifications."""

from typing import Unpack

from sqlalchemy import and_, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.orm import Session

from worker import signal
from worker.arguments import AnyId, AnyMoment, flag, moment, uuid
from worker.errors import InvalidRequest
from worker.inbox.filters import Where, narrow, visible
from worker.inbox.items import COLUMNS, Item
from worker.inbox.lists import get
from worker.models import Notification
from worker.rows import lock_whole, locked
from worker.tables import Present


def mark_seen(session: Session, recipient_id: str, id: AnyId, seen: bool = True) -> Item | None:
    """Mark one notification seen, or unseen again. `seen_at` keeps the first time; None where there is no such row."""
    id = uuid("id", id)
    one = and_(visible(recipient_id), Notification.id == id)
    changes = Notification.seen_at.is_(None) if flag("seen", seen) else Notification.seen_at.is_not(None)
    marked = update(Notification).where(one, changes).values(seen_at=Present() if seen else None, updated_at=Present())
    row = session.execute(marked.returning(*COLUMNS)).first()
    if row is None:  # it is so already, or there is none
        return get(session, recipient_id, id)
    signal.note(session, {recipient_id: id})
    return Item._make(row)


def mark_all_seen(
    session: Session, recipient_id: str, *, before: AnyMoment | None = None, **where: Unpack[Where]
) -> int:
    """Mark every unseen notification seen, or of them those that the filters leave, and say how many.

    With `before`, those that arrived since then stay unseen: pass the time of the list the recipient looked at.
    """
    if before is not None:
        if where.get("until") is not None:
            raise InvalidRequest("before, until: one of the two")
        where["until"] = moment("before", before)
    condition = narrow(recipient_id, seen=False, **where).condition()
    those = update(Notification).where(Notification.id.in_(locked(condition)))
    statement = those.values(seen_at=Present(), updated_at=Present())
    signal.note(session, {recipient_id: None})
    return len(session.execute(statement.returning(Notification.id)).all())


def delete(session: Session, recipient_id: str, id: AnyId) -> bool:
    """Remove one notification; an email not yet sent goes with it. False where there is no such row."""
    id = uuid("id", id)
    statement = sql_delete(Notification).where(visible(recipient_id), Notification.id == id)
    signal.note(session, {recipient_id: id})
    return session.execute(statement.returning(Notification.id)).first() is not None


def delete_seen(
    session: Session, recipient_id: str, *, older_than: AnyMoment | None = None, **where: Unpack[Where]
) -> int:
    """Remove the recipient's seen notifications, or of them those not modified since `older_than`; says how many.

    None is no error (in FOLIO it is).
    """
    condition = narrow(recipient_id, seen=True, **where).condition()
    if older_than is not None:
        condition &= Notification.updated_at < moment("older_than", older_than)
    signal.note(session, {recipient_id: None})
    statement = sql_delete(Notification).where(lock_whole(session, condition))
    return len(session.execute(statement.returning(Notification.id)).all())
