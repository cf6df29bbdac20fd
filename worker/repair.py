"""Use case: look through deliveries and requests, and put those that failed back in their queue."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, update
from sqlalchemy.orm import Session

from worker import attempts, contents, control, pending
from worker.database import Transaction, transaction
from worker.errors import BellhopError, describe
from worker.models import URGENCY, Delivery, Notification, Request
from worker.request import NotificationRequest

#: Rows put back in one transaction.
BATCH = 1_000
#: Stands in the history of attempts where an operator put a delivery back.
REPLAYED = "replayed"
#: What a delivery may be put back from; the others were sent, or are on their way.
DELIVERIES_BACK = ("failed", "unknown", "skipped")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows; what is not given does not matter."""

    statuses: Sequence[str] = ()
    reason: str | None = None
    event: str | None = None
    recipient_id: str | None = None
    ids: Sequence[UUID] = ()
    since: datetime | None = None
    """Deliveries: due since then; requests: asked, or failed, since then."""
    before: datetime | None = None


@dataclass(slots=True)
class Replayed:
    """What was put back, or would be."""

    back: int = 0
    gone: int = 0
    """What they are to be made of is no longer there."""
    done: int = 0
    """Requests that have been created meanwhile."""
    unknown: Sequence[UUID] = ()
    """Ids that were asked for, and that nothing has which could be put back."""
    refused: dict[UUID, str] = field(default_factory=dict)
    """Requests that are still no good, and why."""
    bulk: bool = False
    """Whether pages of a fan-out are among them."""


def deliveries(session: Session, wanted: Wanted, limit: int) -> Sequence[Any]:
    """Deliveries with their event and recipient; the newest first, those that wait the most urgent first."""
    columns = select(Delivery, Notification.event_config_name, Notification.recipient_id)
    statement = columns.join(Notification, Notification.id == Delivery.notification_id).where(*_which(wanted))
    order = [Delivery.due_at.desc(), Delivery.id]
    if tuple(wanted.statuses) == ("pending",):
        order = [Delivery.urgency, Delivery.due_at, Delivery.id]
    return session.execute(statement.order_by(*order).limit(limit)).all()


def _which(wanted: Wanted) -> list[ColumnElement[bool]]:
    """Conditions on deliveries; those on the notification need it joined, or looked up."""
    about = [Notification.event_config_name == wanted.event] if wanted.event is not None else []
    if wanted.recipient_id is not None:
        about.append(Notification.recipient_id == wanted.recipient_id)
    conditions = [*_in_time(Delivery.due_at, wanted)]
    if wanted.statuses:
        conditions.append(Delivery.status.in_(wanted.statuses))
    if wanted.reason is not None:
        conditions.append(Delivery.reason == wanted.reason)
    if wanted.ids:
        conditions.append(or_(Delivery.id.in_(wanted.ids), Delivery.notification_id.in_(wanted.ids)))
    if about:
        conditions.append(Delivery.notification_id.in_(select(Notification.id).where(*about)))
    return conditions


def _in_time(column: Any, wanted: Wanted) -> list[ColumnElement[bool]]:
    since = [column >= wanted.since] if wanted.since else []
    return since + ([column < wanted.before] if wanted.before else [])


def requests(session: Session, wanted: Wanted, limit: int) -> Sequence[Request]:
    """Requests, the newest first; those that wait the oldest first."""
    order = [Request.created_at.desc(), Request.id]
    if tuple(wanted.statuses) == ("pending",):
        order = [Request.created_at, Request.id]
    return session.scalars(_requests(wanted).order_by(*order).limit(limit)).all()


def _requests(wanted: Wanted) -> Select[Request]:
    conditions = _in_time(Request.created_at, wanted)
    if wanted.statuses:
        conditions.append(Request.status.in_(wanted.statuses))
    if wanted.ids:
        conditions.append(or_(Request.id.in_(wanted.ids), Request.request_id.in_(wanted.ids)))
    if wanted.event is not None:
        conditions.append(Request.payload["event_config_name"].as_string() == wanted.event)
    return select(Request).where(*conditions)


def count_deliveries(session: Session, wanted: Wanted) -> tuple[int, int]:
    """How many could be put back, and how many not: their mail is no longer there."""
    which = and_(*_which(wanted), Delivery.status.in_(DELIVERIES_BACK))
    whole = contents.kept(session)
    rows = session.execute(select(whole, func.count()).where(which).group_by(whole))
    found = {bool(there): number for there, number in rows}
    return found.get(True, 0), found.get(False, 0)


def count_requests(session: Session, wanted: Wanted) -> tuple[int, int]:
    """How many could be put back, and how many not: what was asked is no longer there."""
    which = _requests(wanted).where(Request.status == "failed").subquery()
    there = session.scalar(select(func.count()).select_from(which).where(which.c.payload.is_not(None))) or 0
    return there, (session.scalar(select(func.count()).select_from(which)) or 0) - there


@contextmanager
def rehearsal() -> Iterator[Transaction]:
    """Transactions of which nothing stays: what is done in them is told, and has not happened."""
    with transaction() as session:

        @contextmanager
        def begin() -> Iterator[Session]:
            with session.begin_nested():
                yield session

        yield begin
        session.rollback()


def replay_deliveries(begin: Transaction, wanted: Wanted, *, now: datetime) -> Replayed:
    """Put failed, unknown or skipped deliveries back, due now, as if never tried; never one that was sent.

    Each keeps its id, so its mail keeps its Message-ID.
    """
    result = Replayed()
    with begin() as session:
        _back, result.gone = count_deliveries(session, wanted)
        failed = and_(*_which(wanted), Delivery.status.in_(DELIVERIES_BACK))
        which = and_(failed, contents.kept(session))
        result.unknown = _unknown(session, wanted, select(Delivery.id, Delivery.notification_id).where(failed))
    last = BATCH
    while last == BATCH:
        with begin() as session:
            last = _put_back(session, which, now)
        result.back += last
    return result


def _unknown(session: Session, wanted: Wanted, known: Select[Any, Any]) -> list[UUID]:
    """Those of the ids asked for that are neither of the two which are selected."""
    found = {id for ids in session.execute(known) for id in ids} if wanted.ids else set()
    return [id for id in wanted.ids if id not in found]


def _put_back(session: Session, which: ColumnElement[bool], now: datetime) -> int:
    some = (
        select(Delivery.id, Delivery.attempts, Delivery.urgency)
        .where(which)
        .order_by(Delivery.due_at, Delivery.id)
        .limit(BATCH)
    )
    found = session.execute(some.with_for_update(skip_locked=True)).all()
    for id, number, _urgency in found:
        attempts.note(session, id, number, REPLAYED, "", now)
    fresh = {"status": "pending", "attempts": 0, "due_at": now, "lease_until": now, "reason": None, "last_error": None}
    for urgency in URGENCY.values():
        ids = [one.id for one in found if one.urgency == urgency]
        again = (
            update(Delivery).where(Delivery.id.in_(ids)).values(**fresh, give_up_at=control.give_up_at(urgency, now))
        )
        session.execute(again.execution_options(synchronize_session=False))
    return len(found)


def replay_requests(begin: Transaction, wanted: Wanted, *, payload: dict[str, Any] | None = None) -> Replayed:
    """Have failed requests created after all; one that is still no request stays failed, with its error.

    Each stays asked at the time at which it was.

    `payload`: what is asked instead, of one that had to be mended; its id and, if the new one names none, key stay.
    """
    result, last = Replayed(), UUID(int=0)
    failed = _requests(wanted).where(Request.status == "failed")
    some = failed.order_by(Request.id).limit(BATCH)
    with begin() as session:
        result.unknown = _unknown(session, wanted, failed.with_only_columns(Request.id, Request.request_id))
    while True:
        with begin() as session:
            rows = session.scalars(some.where(Request.id > last).with_for_update(skip_locked=True)).all()
            for row in rows:
                _ask_again(session, row, payload, result)
        if not rows:
            return result
        last = rows[-1].id


def _ask_again(session: Session, row: Request, mended: dict[str, Any] | None, result: Replayed) -> None:
    if row.payload is None and mended is None:
        result.gone += 1
        return
    try:
        request = _whole(row, mended)
        if row.request_id is None:
            row.status, row.error, row.payload = "pending", None, request.to_wire()
            row.fingerprint = request.fingerprint() if mended else row.fingerprint
            result.back, result.bulk = result.back + 1, result.bulk or row.bulk
            return
        pending.enqueue(session, request, now=row.created_at)
    except BellhopError as error:
        row.error = describe(error)
        result.refused[row.request_id or row.id] = row.error
        return
    there = session.get(Request, request.id, populate_existing=True)
    waits = there is not None and there.status == "pending"
    result.back, result.done = result.back + waits, result.done + (not waits)
    session.delete(row)


def _whole(row: Request, mended: dict[str, Any] | None) -> NotificationRequest:
    asked = dict(mended or row.payload or {})
    if not row.bulk:
        asked["id"] = str(row.request_id or row.id)
    elif mended:
        asked["id"] = (row.payload or {}).get("id")
    if row.idempotency_key:
        asked.setdefault("idempotency_key", row.idempotency_key)
    return NotificationRequest.parse(asked)
