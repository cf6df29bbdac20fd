"""Celery shells around the use cases: the tasks' names, arguments and results."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from celery import current_task
from celery.exceptions import SoftTimeLimitExceeded
from sqlalchemy.orm import Session

from worker import deliver as delivering
from worker import failed, intake, pending, waiting
from worker import fan_out as fanning
from worker import purge as purging
from worker import retract as retracting
from worker.celery import app, task
from worker.create import Created
from worker.database import transaction, utcnow
from worker.errors import InvalidRequest, PartlyRefused, describe
from worker.failed import Failure
from worker.gather import Gathered, TaskMessage, gather
from worker.handover import hand_over, hand_over_due, publish, wake_bulk, wake_pending
from worker.ids import derive
from worker.models import Heartbeat
from worker.recipients import audiences
from worker.request import Id, Moment, NotificationRequest
from worker.rows import upsert_rows
from worker.settings import get_settings
from worker.transport import ONLY_ONE

log = logging.getLogger(__name__)

#: Waiting requests created by one wake-up, in one transaction.
PENDING_BATCH = 1_000
#: Recipients told in one transaction of gathered messages.
GATHERED_RECIPIENTS = 20_000
#: What ends a task, whatever request it has in hand.
ENDS = (SoftTimeLimitExceeded,)
#: Seconds after which a wake-up gives way to a new one, so that it never nears the time limit.
PENDING_BUDGET = 60


@task("notifications.create", keep_request=True)
def create(*, request: Any) -> dict[str, int]:
    """Create one request's notifications and hand over its deliveries; a large audience is fanned out.

    Other such messages that wait are taken along.
    """
    asked = _parse(request)
    gathered = _gather()
    created = _create_together(asked, gathered) if gathered.messages else _create([asked])
    for error in created.refused.values():
        raise error
    return _numbers(created)


def _gather() -> Gathered:
    """Not for a message that may have killed its worker: that one runs alone. Nor where no other waited just now."""
    limit = get_settings().create_gather
    message = current_task.request if current_task else None
    if not limit or not message or message.called_directly or message.is_eager or _redelivered():
        return Gathered()
    if getattr(message, ONLY_ONE, False):
        return Gathered()
    return gather(app, message.delivery_info["routing_key"], current_task.name, limit)


def _create_together(own: NotificationRequest, gathered: Gathered) -> Created:
    """Create what our own message asks for and what those ask that were taken along, in as few transactions as may be.

    Whichever is wrong, or was in a transaction that broke, goes back and runs alone, as does our own.
    """
    asked: list[tuple[NotificationRequest, TaskMessage | None]] = [(own, None)]
    back, result, done = [], Created(), 0
    for message in gathered.messages:
        try:
            wire = message.kwargs["request"] if set(message.kwargs) == {"request"} else None
            asked.append((_parse(wire, task_id=message.id), message))
        except InvalidRequest:
            back.append(message)
    try:
        for some in _portions([request for request, _message in asked]):
            with transaction() as session:
                created = pending.create_or_fan_out(session, some, now=utcnow())
            result.add(created)
            done += len(some)
            hand_over(created.due)
    except ENDS:
        raise
    except Exception as error:
        log.warning("a batch of %d requests broke (%s): each is created alone", len(asked) - done, describe(error))
    finally:
        back += [
            one for place, (request, one) in enumerate(asked) if one and (place >= done or request.id in result.refused)
        ]
        if back:
            gathered.give_back(*back)
        gathered.ack()
    wake_bulk(result.fan_outs + result.pages)
    if not done or own.id in result.refused:
        return _create([own])
    result.refused.clear()
    return result


def _portions(requests: Sequence[NotificationRequest]) -> Iterator[Sequence[NotificationRequest]]:
    """As many as have a bounded number of recipients; large audiences are not created here."""
    with transaction() as session:
        sizes = audiences(session, requests)
    start = total = 0
    for place, size in enumerate(sizes):
        if place > start and total + size > GATHERED_RECIPIENTS:
            yield requests[start:place]
            start, total = place, 0
        total += size if size <= get_settings().create_batch else 0
    yield requests[start:]


@task("notifications.create_many", keep_request=True)
def create_many(*, requests: list[Any]) -> dict[str, int]:
    """Create many small requests in one transaction; wrong ones are kept and named, the others are created."""
    asked, failures, wrong = [], [], []
    for position, request in enumerate(requests):
        try:
            asked.append((request, _parse(request, position)))
        except InvalidRequest as error:
            failures.append(Failure(request, error, _task_id()))
            wrong.append(f"requests.{position}: {error}")
    created = _create([request for _wire, request in asked])
    failures += [Failure(wire, created.refused[one.id]) for wire, one in asked if one.id in created.refused]
    wrong += [f"{id}: {type(error).__name__}: {error}" for id, error in created.refused.items()]
    if wrong:
        with transaction() as session:
            failed.keep(session, failures, now=utcnow())
        raise PartlyRefused(f"{len(wrong)} of {len(requests)} requests refused: {'; '.join(wrong[:20])}")
    return _numbers(created)


def _parse(request: Any, position: int = 0, task_id: str | None = None) -> NotificationRequest:
    """A request whose message may come again: where it has no id, its task's makes one."""
    own_id = task_id or _task_id()
    if isinstance(request, dict) and "id" not in request and (asked_id := failed.asked_id({}, own_id)):
        request = {**request, "id": derive(asked_id, "request", str(position))}
    return NotificationRequest.parse(request)


def _task_id() -> str | None:
    return current_task.request.id if current_task else None


def _redelivered() -> bool:
    """Whether an earlier worker had the message, and did not end its task."""
    return bool(current_task and (current_task.request.delivery_info or {}).get("redelivered"))


def _create(asked: Sequence[NotificationRequest]) -> Created:
    def once(session: Session, requests: Sequence[NotificationRequest]) -> Created:
        return pending.create_or_fan_out(session, requests, now=utcnow())

    created = intake.take_messages(transaction, once, asked, redelivered=_redelivered(), ends=ENDS)
    hand_over(created.due)
    wake_bulk(created.fan_outs + created.pages)
    return created


def _numbers(created: Created) -> dict[str, int]:
    numbers = {name: getattr(created, name) for name in ("notifications", "deliveries", "repeated")}
    return numbers | {name: number for name in ("fan_outs", "left_out") if (number := getattr(created, name))}


@task("notifications.create_pending", internal=True)
def create_pending(*, bulk: bool = False) -> dict[str, int]:
    """Create what waits now, until its time is up: then go on in a new task.

    Of what is committed meanwhile its own wake-up tells: by then there are many to be created together. Other wake-ups
    that wait already are taken along, as they tell of nothing else: this task's own, tried again, stands for them.
    """
    told = Gathered() if bulk else _wake_ups()
    helped, done, limit, started, more = not told.messages, 0, 1 if bulk else PENDING_BATCH, time.monotonic(), True
    try:
        while more:
            for count, created, more in intake.take_waiting(transaction, limit=limit, bulk=bulk, ends=ENDS):  # noqa: B007
                hand_over(created.due)
                wake_bulk(created.fan_outs + created.pages)
                done += count
            late = time.monotonic() - started > PENDING_BUDGET
            if more and (late or not helped):  # others were woken to do a part of it
                wake_pending(bulk=bulk)
                helped = True
            more = more and not late
    finally:
        told.ack()
    return {"requests": done}


def _wake_ups() -> Gathered:
    told = _gather()
    if others := [message for message in told.messages if message.kwargs not in ({}, {"bulk": False})]:
        told.give_back(*others)
    return told


@task("notifications.fan_out", keep_request=True)
def fan_out(*, request: Any) -> dict[str, int]:
    """Have a large audience cut into pages, which workers of the bulk queue create."""

    def begin(session: Session, requests: Sequence[NotificationRequest]) -> Created:
        return Created(fan_outs=sum(fanning.begin(session, one, now=utcnow()) for one in requests))

    created = intake.take_messages(transaction, begin, [_parse(request)], redelivered=_redelivered(), ends=ENDS)
    for error in created.refused.values():
        raise error
    wake_bulk(created.fan_outs + created.pages)
    return {"fan_outs": created.fan_outs}


@task("notifications.deliver", internal=True)
def deliver(*, delivery_ids: list[UUID]) -> dict[str, int]:
    """Claim these deliveries and send them."""
    done = delivering.deliver(transaction, delivery_ids)
    if len(delivery_ids) >= get_settings().deliver_batch:
        # There is a backlog: it goes on at the workers' pace, not at beat's.
        hand_over_due()
    return {name: getattr(done, name) for name in ("sent", "later", "failed", "skipped", "given_back")}


@task("notifications.dispatch_due", internal=True)
def dispatch_due() -> dict[str, int]:
    """Hand over what is due or was abandoned, and wake the creation of requests that nobody took."""
    deliveries = hand_over_due()
    with transaction() as session:
        kinds = [bulk for bulk in (False, True) if waiting.has_pending(session, bulk=bulk)]
    for bulk in kinds:
        wake_pending(bulk=bulk)
    with transaction() as session:
        upsert_rows(session, Heartbeat, [{"name": "dispatch_due", "at": utcnow()}], ["name"])
    return {"deliveries": deliveries}


@task("notifications.purge_seen")
def purge_seen(*, older_than: Moment | None = None) -> dict[str, Any]:
    """Purge until done or the time budget ends; then go on in a new task."""
    now = utcnow()
    purged = purging.purge_seen(transaction, now=now, older_than=older_than)
    if not purged.finished:
        publish("notifications.purge_seen", older_than=older_than and older_than.isoformat())
    return {"removed": purged.removed, "finished": purged.finished}


@task("notifications.purge_requests", internal=True)
def purge_requests() -> dict[str, int]:
    """Forget the records of requests past their retention."""
    return {"removed": purging.purge_requests(transaction, now=utcnow())}


@task("notifications.retract")
def retract(
    *,
    object_type: Id | None = None,
    object_id: Id | None = None,
    event_config_name: Id | None = None,
    sender_id: Id | None = None,
) -> dict[str, int]:
    """Remove the notifications about an object, or by a sender, and with them the emails not yet sent."""
    with transaction() as session:
        return {"removed": retracting.retract(session, object_type, object_id, event_config_name, sender_id)}


@task("notifications.cancel")
def cancel(*, id: UUID | None = None, idempotency_key: Id | None = None) -> dict[str, int]:
    """Take a request back as far as it has not happened: what waits, is not yet visible or not yet sent."""
    with transaction() as session:
        return asdict(retracting.cancel(session, id=id, idempotency_key=idempotency_key, now=utcnow()))
