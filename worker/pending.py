"""Use case: requests that wait as rows. A durable enqueue writes one; a fan-out writes one per page of recipients.

Whatever waits here is committed: nothing but its creation takes it away.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import event, select
from sqlalchemy.orm import Session

from worker import create as creating
from worker.create import Created
from worker.errors import BellhopError, EmptyGroup, describe
from worker.ids import derive
from worker.models import Request
from worker.prepare import prepare
from worker.recipients import Directory, audience, member_pages
from worker.render import check_all_langs
from worker.request import NotificationRequest, Recipient
from worker.rows import insert_new
from worker.settings import get_settings
from worker.threads import check_request

log = logging.getLogger(__name__)

#: Where a session's `info` keeps the wake-up until its transaction has committed.
_WAKE = "bellhop_wake"


def enqueue(session: Session, request: NotificationRequest, *, now: datetime) -> None:
    """Write the request into the caller's transaction: it is asked if and when that commits.

    The same request again adds nothing. Raises IdempotencyConflict.
    """
    result = Created()
    creating.record(session, [request], result, now, status="pending")
    for error in result.refused.values():
        raise error


def enqueue_durably(session: Session, request: NotificationRequest, wake: Callable[[], None]) -> None:
    """Enqueue, and call `wake` once the caller's transaction has committed; once for all that it enqueued.

    A wake-up that fails, or comes too late, harms nothing: beat looks for waiting requests.
    """
    enqueue(session, request, now=datetime.now(UTC))
    session.info[_WAKE] = wake


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

    Gives how many were taken, and what became of them. One with a large audience is cut into pages that wait in turn.
    One that is wrong is marked failed with its error and stays, with what was asked, for the operator.
    """
    rows = take(session, limit, bulk)
    return len(rows), create_taken(session, rows, now=now, bulk=bulk)


def create_taken(session: Session, rows: Sequence[Request], *, now: datetime, bulk: bool) -> Created:
    """Create these waiting requests, which the caller's transaction has locked; gives what became of them."""
    result = Created()
    small = []
    for row in rows:
        try:
            request = NotificationRequest.parse(row.payload)
            if bulk or audience(session, request) <= get_settings().create_batch:
                small.append((row, request))
                continue
            with session.begin_nested():
                _write_pages(session, request, now)
            settle(row, None)
        except BellhopError as error:
            settle(row, error)
    prepared = prepare(session, [request for _row, request in small], result.refused, now)
    for row, request in small:
        settle(row, result.refused.get(request.id))
    creating.write(session, prepared, result, now, announce=not bulk or get_settings().signal == "all")
    return result


def settle(row: Request, error: Exception | None) -> None:
    """Mark a waiting request as created, or as failed with its error; only the latter keeps what was asked."""
    if error:
        row.status, row.error = "failed", describe(error)
        log.warning("request %s is refused: %s", row.id, row.error)
    else:
        row.status, row.payload = "created", None


def take(session: Session, limit: int, bulk: bool, but: Collection[UUID] = ()) -> Sequence[Request]:
    """Up to `limit` waiting requests, the oldest first, locked; others than those named."""
    waiting = (
        select(Request)
        .where(Request.status == "pending", Request.bulk.is_(bulk), Request.id.not_in(but))
        .order_by(Request.created_at, Request.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return session.scalars(waiting).all()


def take_these(session: Session, ids: Sequence[UUID]) -> list[Request]:
    """Those of them that wait and are in no other hands, locked."""
    waiting = select(Request).where(Request.id.in_(ids), Request.status == "pending")
    return list(session.scalars(waiting.order_by(Request.created_at, Request.id).with_for_update(skip_locked=True)))


def still_waiting(session: Session, ids: Collection[UUID]) -> set[UUID]:
    """Those of them that wait."""
    return set(session.scalars(select(Request.id).where(Request.id.in_(ids), Request.status == "pending")))


def create_or_fan_out(session: Session, requests: Sequence[NotificationRequest], *, now: datetime) -> Created:
    """As `worker.create.create`, but a request with a large audience is cut into pages, in the same transaction."""
    small: list[NotificationRequest] = []
    large: list[NotificationRequest] = []
    for request in requests:
        (small if audience(session, request) <= get_settings().create_batch else large).append(request)
    result = creating.create(session, small, now=now)
    for request in large:
        try:
            with session.begin_nested():
                pages = fan_out(session, request, now=now)
        except BellhopError as error:
            result.refused[request.id] = error
        else:
            result.pages += pages
            result.repeated += not pages
    return result


def fan_out(session: Session, request: NotificationRequest, *, now: datetime) -> int:
    """Cut a large audience into pages of `CREATE_BATCH` recipients that wait as rows, all in one transaction.

    Gives the number of pages; 0 where the same request was fanned out before.
    Raises what `create` would raise for the request, before any row exists.
    """
    result = Created()
    if not creating.record(session, [request], result, now):
        for error in result.refused.values():
            raise error
        return 0
    return _write_pages(session, request, now)


def _write_pages(session: Session, request: NotificationRequest, now: datetime) -> int:
    """Every language is rendered first: a page must not fail where another succeeds."""
    if request.event_config_name:
        check_all_langs(request.event_config_name, request.context)
    check_request(session, request.parent_id)
    count = 0
    for count, page in enumerate(_pages(session, request), start=1):
        row = creating.request_row(page, now, "pending")
        # All pages share the request's id, from which the notifications' ids are made: a recipient who is in two
        # groups, or moves between pages, is still told once.
        row |= {"id": derive(request.id, "page", str(count)), "idempotency_key": None, "bulk": True}
        session.execute(insert_new(session, Request), [row])
    return count


def _pages(session: Session, request: NotificationRequest) -> Iterator[NotificationRequest]:
    size = get_settings().create_batch
    single = tuple(entry for entry in request.to if not entry.group)
    if single:
        named = request.model_copy(update={"to": single})
        Directory.load(session, [named]).addressees(named, get_settings().default_lang)
    for start in range(0, len(single), size):
        yield request.model_copy(update={"to": single[start : start + size]})
    for position, entry in enumerate(request.to):
        empty = True
        for ids in member_pages(session, entry.group, size) if entry.group else ():
            empty = False
            if told := tuple(Recipient(id=id) for id in ids if id not in (entry.without or ())):
                yield request.model_copy(update={"to": told})
        if entry.group and empty:
            raise EmptyGroup(f"to.{position}: the group has no members")
