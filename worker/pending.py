"""Use case: requests that wait as rows. A durable enqueue writes one; a fan-out is one, and one per page of it.

Whatever waits here is committed: nothing but its creation takes it away.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, event, func, select, update
from sqlalchemy.orm import Session

from worker import create as creating
from worker import fan_out
from worker.create import Created
from worker.errors import BellhopError, describe
from worker.models import Request
from worker.prepare import prepare
from worker.recipients import Asked, audiences
from worker.request import NotificationRequest
from worker.rows import chunks, is_in
from worker.settings import get_settings

log = logging.getLogger(__name__)

#: Bytes of payloads, as the store keeps them, created in one transaction.
MOST_BYTES = 8 * 1024 * 1024

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


def has_pending(session: Session, *, bulk: bool) -> bool:
    """Whether any request waits."""
    statement = select(Request.id).where(Request.status == "pending", Request.bulk.is_(bulk)).limit(1)
    return session.scalar(statement) is not None


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
    if created:
        those = update(Request).where(is_in(session, Request.id, created))
        session.execute(those.values(status="created", payload=None), execution_options={"synchronize_session": False})
    for id, error in failed.items():
        reason = describe(error)
        session.execute(update(Request).where(Request.id == id).values(status="failed", error=reason))
        log.warning("request %s is refused: %s", id, reason)


def take(session: Session, limit: int, bulk: bool, but: Collection[UUID] = ()) -> tuple[Sequence[Any], bool]:
    """Up to `limit` waiting requests, the oldest first, locked; others than those named.

    No more than fit into memory, but always one. Gives their ids, payloads and cursors, and whether there may be more.
    """
    size = func.pg_column_size if session.get_bind().dialect.name == "postgresql" else func.length
    waiting = (
        select(Request.id, func.coalesce(size(Request.payload), 0))
        .where(Request.status == "pending", Request.bulk.is_(bulk), Request.id.not_in(but))
        .order_by(Request.created_at, Request.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids, total = list[UUID](), 0
    found = session.execute(waiting).all()
    for id, bytes_ in found:
        total += bytes_
        if ids and total > MOST_BYTES:
            break
        ids.append(id)
    more = len(found) == limit or len(ids) < len(found)
    return session.execute(_these(session, ids)).all() if ids else [], more


def _these(session: Session, ids: Sequence[UUID]) -> Any:
    chosen = select(Request.id, Request.payload, Request.cursor).where(is_in(session, Request.id, ids))
    return chosen.order_by(Request.created_at, Request.id)


def take_these(session: Session, ids: Sequence[UUID]) -> Sequence[Any]:
    """Those of them that wait and are in no other hands, locked; as `take` gives them."""
    waiting = _these(session, ids).where(Request.status == "pending").with_for_update(skip_locked=True)
    return session.execute(waiting).all() if ids else []


def still_waiting(session: Session, ids: Collection[UUID]) -> set[UUID]:
    """Those of them that wait."""
    return set(session.scalars(select(Request.id).where(Request.id.in_(ids), Request.status == "pending")))


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
