"""One thing that comes to be another: a follow request, accepted, is a follower (FitTrackee).

The recipient's notification turns into the new event and is unseen again, at its old place in the inbox.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from worker.events import EventConfig, get_events
from worker.ids import derive
from worker.models import Notification
from worker.retract import cancel_unsent
from worker.rows import HIDDEN, is_hidden

Row = dict[str, Any]

#: Rows looked for in one statement.
AT_ONCE = 1_000
#: What a notification that turns into another keeps of its own.
_KEPT = {"id", "created_at"}


def turn(session: Session, rows: Sequence[Row], now: datetime) -> tuple[list[Row], dict[Any, Row]]:
    """Turn older notifications into those of the rows that supersede them.

    Gives the rows still to be inserted, and by a row's id what it has become where it is not that row itself: the
    ids `notification_id` and `delivery_id`, or nothing where the recipient had been told already.
    """
    concerned = [row for row in rows if _concerned(row, now)]
    if not concerned:
        return list(rows), {}
    older, became = _older(session, concerned), dict[Any, Row]()
    to_insert = [row for row in rows if not _concerned(row, now)]
    for row in concerned:
        event, was = get_events()[row["event_config_name"]], older.get(_key(row), [])
        if event.dedupe and any(one.event_config_name == event.name for one in was):
            became[row["id"]] = {}
        elif found := next((one for one in was if one.event_config_name in event.supersedes), None):
            became[row["id"]] = _turn(session, found, row, now)
        else:
            to_insert.append(_with_free_id(row, was, became))
    return to_insert, became


def may_turn(event: EventConfig | None) -> bool:
    """Whether notifications of this event may turn others into themselves, or be what others turn into."""
    return event is not None and (bool(event.supersedes) or (event.dedupe and _is_superseded(event)))


def _concerned(row: Row, now: datetime) -> bool:
    """What begins later only is a notification of its own: nothing may show before its time, or that is hidden."""
    event = get_events().get(row["event_config_name"])
    return row["object_id"] is not None and row["created_at"] <= now and not is_hidden(row) and may_turn(event)


def _is_superseded(event: EventConfig) -> bool:
    return any(event.name in other.supersedes for other in get_events().values())


def _key(row: Row) -> tuple[Any, ...]:
    return row["recipient_id"], row["sender_id"], row["object_type"], row["object_id"]


def _older(session: Session, rows: Sequence[Row]) -> dict[tuple[Any, ...], list[Notification]]:
    """Locked in one order. The event is looked at afterwards: another transaction may just have turned it."""
    found: dict[tuple[Any, ...], list[Notification]] = {}
    about = tuple_(Notification.object_type, Notification.object_id, Notification.recipient_id)
    wanted = sorted({(row["object_type"], row["object_id"], row["recipient_id"]) for row in rows})
    for start in range(0, len(wanted), AT_ONCE):
        some = select(Notification).where(about.in_(wanted[start : start + AT_ONCE]), ~HIDDEN)
        locked = some.order_by(Notification.id).with_for_update().execution_options(populate_existing=True)
        for one in session.scalars(locked):
            found.setdefault((one.recipient_id, one.sender_id, one.object_type, one.object_id), []).append(one)
    return found


def _turn(session: Session, found: Notification, row: Row, now: datetime) -> Row:
    cancel_unsent(session, select(Notification.id).where(Notification.id == found.id), "superseded")
    kept = _KEPT if row["parent_id"] else {*_KEPT, "parent_id", "thread_id"}
    for name, value in row.items():
        if name not in kept:
            setattr(found, name, value)
    found.updated_at, found.seen_at = now, None
    session.flush()
    delivery_id = derive(found.id, "email", str(row["request_id"]))
    return {"notification_id": found.id, "delivery_id": delivery_id}


def _with_free_id(row: Row, was: Sequence[Notification], became: dict[Any, Row]) -> Row:
    """An event told only once has an id of its own making, which one that has turned may still hold."""
    if all(one.id != row["id"] for one in was):
        return row
    id = derive(row["request_id"], row["recipient_id"])
    became[row["id"]] = {"notification_id": id, "delivery_id": derive(id, "email")}
    return {**row, "id": id}
