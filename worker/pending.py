"""Use case: requests that wait as rows. A durable enqueue writes one; a fan-out is one, and one per page of it.

Whatever waits here is committed: nothing but its creation takes it away.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, event, update
from sqlalchemy.orm import Session

from worker import create as creating
from worker import fan_out
from worker.create import Created
from worker.errors import BellhopError, describe
from worker.models import Request
from worker.prepare import prepare
from worker.recipients import Asked, audiences
from worker.request import NotificationRequest
from worker.rows import chunks
from worker.settings import get_settings
from worker.waiting import mark_created, take

log = logging.getLogger(__name__)

#: Requests enqueued in one statement.
ENQUEUE_BATCH = 1_000

#: Where a session's `info` keeps the wake-up until its transaction has committed.
_WAKE = "bellhop_wake"

#: Where it keeps the requests that wait for its next flush, each with the object that stands for it there.
_UNWRITTEN = "bellhop_unwritten"


def enqueue(session: Session, *requests: NotificationRequest, now: datetime) -> None:
    """Write the requests into the caller's transaction: they are asked if and when that commits.

    The same request again adds nothing. Raises IdempotencyConflict; then none of them is written.
    """
    with session.begin_nested() if len(requests) > 1 else nullcontext():
        for start in range(0, len(requests), ENQUEUE_BATCH):
            result = Created()
            creating.record(session, requests[start : start + ENQUEUE_BATCH], result, now, status="pending")
            for error in result.refused.values():
                raise error


def enqueue_durably(session: Session, requests: Sequence[NotificationRequest], wake: Callable[[], None]) -> None:
    """Enqueue, and call `wake` once the caller's transaction has committed; once for all that it enqueued.

    A single request that cannot have been asked before, as it was given neither id nor key, is written when the
    session flushes, in one statement with the others that wait for that; any other at once, for the conflict's sake.
    A wake-up that fails, or comes too late, harms nothing: beat looks for waiting requests.
    """
    only = requests[0] if len(requests) == 1 else None
    # A session on a connection may leave the commit to that: nobody would flush.
    if only and only.model_fields_set.isdisjoint(("id", "idempotency_key")) and isinstance(session.get_bind(), Engine):
        row = Request(id=only.id)
        session.add(row)
        session.info.setdefault(_UNWRITTEN, []).append((row, only))
    else:
        enqueue(session, *requests, now=datetime.now(UTC))
    session.info[_WAKE] = wake


@event.listens_for(Session, "before_flush")
def _write_unwritten(session: Session, _context: object, _instances: object) -> None:
    """What SQLAlchemy would write row by row; what a rollback, or the end of a savepoint, took out of it is gone."""
    if _UNWRITTEN not in session.info:
        return
    new = session.new
    unwritten = [(row, request) for row, request in session.info[_UNWRITTEN] if row in new]
    for some in chunks(unwritten):
        creating.record(session, [request for _, request in some], Created(), datetime.now(UTC), status="pending")
    del session.info[_UNWRITTEN]
    for row, _ in unwritten:
        session.expunge(row)


# On the class: a listener of one session could not be taken away again, and a scoped_session has none of its own.
@event.listens_for(Session, "after_commit")
def _call_wake(session: Session) -> None:
    """SQLAlchemy calls this for the end of a savepoint too, when nobody else can see the row yet."""
    if session.in_nested_transaction() or _WAKE not in session.info:
        return
    try:
        session.info.pop(_WAKE)()
    except Exception as error:
        log.warning("a waiting request's wake-up failed (%s); beat will find it", type(error).__name__)


def create_pending(session: Session, *, now: datetime, limit: int, bulk: bool = False) -> tuple[int, Created]:
    """Create up to `limit` waiting requests, the oldest first, inside the caller's transaction.

    Gives how many were taken, and what became of them. One with a large audience is left for the bulk queue, which
    cuts it into pages that wait in turn. One that is wrong is marked failed with its error and stays, with what was
    asked, for the operator.
    """
    rows, _ = take(session, limit, bulk)
    return len(rows), create_taken(session, rows, now=now, bulk=bulk)


def create_taken(session: Session, rows: Sequence[Any], *, now: datetime, bulk: bool) -> Created:
    """Create these waiting requests, which the caller's transaction has locked; gives what became of them."""
    result = Created()
    asked: dict[UUID, Asked] = {}
    failed: dict[UUID, BellhopError] = {}
    for row in rows:
        try:
            if row.cursor is not None:
                result.pages += fan_out.step(session, row.id, now=now)
            else:
                asked[row.id] = _asked(row.payload, bulk)
        except BellhopError as error:
            failed[row.id] = error
    for id in () if bulk else _large(session, asked):
        try:
            fan_out.wait(session, asked.pop(id).request)
            result.fan_outs += 1
        except BellhopError as error:
            failed[id] = error
    prepared = prepare(session, list(asked.values()), result.refused, now)
    failed |= {id: result.refused[one.request.id] for id, one in asked.items() if one.request.id in result.refused}
    settle(session, [id for id in asked if id not in failed], failed)
    creating.write(session, prepared, result, now, announce=not bulk or get_settings().signal == "all")
    return result


def _asked(payload: Any, bulk: bool) -> Asked:
    """A page of mere ids holds what the directory gave: there, they need no further look."""
    to = payload.get("to") if bulk and isinstance(payload, dict) else None
    if to and all(isinstance(entry, str) for entry in to):
        return Asked(NotificationRequest.parse({**payload, "to": to[:1]}), to)
    return Asked(NotificationRequest.parse(payload))


def _large(session: Session, asked: Mapping[UUID, Asked]) -> list[UUID]:
    sizes = audiences(session, [one.request for one in asked.values()])
    return [id for id, size in zip(asked, sizes, strict=True) if size > get_settings().create_batch]


def settle(session: Session, created: Sequence[UUID], failed: Mapping[UUID, Exception]) -> None:
    """Mark waiting requests as created, or as failed with their errors; only the latter keep what was asked."""
    mark_created(session, created)
    for id, error in failed.items():
        reason = describe(error)
        session.execute(update(Request).where(Request.id == id).values(status="failed", error=reason))
        log.warning("request %s is refused: %s", id, reason)


def create_or_fan_out(session: Session, requests: Sequence[NotificationRequest], *, now: datetime) -> Created:
    """As `worker.create.create`, but a request with a large audience waits to be cut into pages."""
    small: list[NotificationRequest] = []
    large: list[NotificationRequest] = []
    for request, size in zip(requests, audiences(session, requests), strict=True):
        (small if size <= get_settings().create_batch else large).append(request)
    result = creating.create(session, small, now=now)
    for request in large:
        try:
            with session.begin_nested():
                new = fan_out.begin(session, request, now=now)
        except BellhopError as error:
            result.refused[request.id] = error
        else:
            result.fan_outs += new
            result.repeated += not new
    return result
