"""Celery shells around the use cases: names, queues, what is handed over after the commit."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from celery.exceptions import OperationalError as PublishError
from pydantic import AwareDatetime

from worker import deliver as delivering
from worker import pending
from worker import purge as purging
from worker import retract as retracting
from worker.celery import app, task
from worker.client import CONFIRM_SECONDS
from worker.create import Created
from worker.database import transaction, utcnow
from worker.errors import InvalidRequest, PartlyRefused
from worker.models import URGENCY
from worker.request import NotificationRequest
from worker.settings import get_settings

log = logging.getLogger(__name__)

#: Waiting requests created by one wake-up, in one transaction.
PENDING_BATCH = 200
#: Deliveries handed over by one look of beat.
DISPATCH_BATCH = 5_000
#: Email queue by urgency.
EMAIL_QUEUES = {URGENCY["high"]: "email_high", URGENCY["normal"]: "email"}

#: Seconds after which a wake-up gives way to a new one, so that it never nears the time limit.
PENDING_BUDGET = 60
#: Wake-ups published for a fan-out, so that so many workers create its pages at once.
FAN_OUT_WAKES = 8


@task("notifications.create")
def create(*, request: Any) -> dict[str, int]:
    """Create one request's notifications and hand over its deliveries; a large audience is fanned out."""
    created = _create([NotificationRequest.parse(request)])
    for error in created.refused.values():
        raise error
    return _numbers(created)


@task("notifications.create_many")
def create_many(*, requests: list[Any]) -> dict[str, int]:
    """Create many small requests in one transaction; those that are wrong are named, the others are created."""
    asked, wrong = [], []
    for position, request in enumerate(requests):
        try:
            asked.append(NotificationRequest.parse(request))
        except InvalidRequest as error:
            wrong.append(f"requests.{position}: {error}")
    created = _create(asked)
    wrong += [f"{id}: {type(error).__name__}: {error}" for id, error in created.refused.items()]
    if wrong:
        raise PartlyRefused(f"{len(wrong)} of {len(requests)} requests refused: {'; '.join(wrong[:20])}")
    return _numbers(created)


def _create(asked: Sequence[NotificationRequest]) -> Created:
    with transaction() as session:
        created = pending.create_or_fan_out(session, asked, now=utcnow())
    hand_over(created.due)
    _wake_bulk(created.pages)
    return created


def _numbers(created: Created) -> dict[str, int]:
    numbers = {name: getattr(created, name) for name in ("notifications", "deliveries", "repeated")}
    return {**numbers, "pages": created.pages} if created.pages else numbers


@task("notifications.create_pending")
def create_pending(*, bulk: bool = False) -> dict[str, int]:
    """Create waiting requests until there are none, or its time is up: then go on in a new task."""
    done, limit, started = 0, 1 if bulk else PENDING_BATCH, time.monotonic()
    while True:
        with transaction() as session:
            taken, created = pending.create_pending(session, now=utcnow(), limit=limit, bulk=bulk)
        hand_over(created.due)
        done += taken
        if taken < limit:
            return {"requests": done}
        if time.monotonic() - started > PENDING_BUDGET:
            wake_pending(bulk=bulk)
            return {"requests": done}


@task("notifications.fan_out")
def fan_out(*, request: Any) -> dict[str, int]:
    """Cut a large audience into pages that wait as rows, and wake workers to create them."""
    asked = NotificationRequest.parse(request)
    with transaction() as session:
        pages = pending.fan_out(session, asked, now=utcnow())
    _wake_bulk(pages)
    return {"pages": pages}


def _wake_bulk(pages: int) -> None:
    for _ in range(min(pages, FAN_OUT_WAKES)):
        wake_pending(bulk=True)


def wake_pending(*, bulk: bool) -> None:
    """Have waiting requests created soon; beat does the same for a wake-up that gets lost."""
    publish("notifications.create_pending", queue="bulk" if bulk else None, bulk=bulk)


@task("notifications.deliver")
def deliver(*, delivery_ids: list[UUID]) -> dict[str, int]:
    """Claim these deliveries and send them."""
    done = delivering.deliver(transaction, delivery_ids)
    return {name: getattr(done, name) for name in ("sent", "later", "failed", "skipped", "given_back")}


@task("notifications.dispatch_due")
def dispatch_due() -> dict[str, int]:
    """Hand over what is due or was abandoned, and wake the creation of requests that nobody took."""
    with transaction() as session:
        due = delivering.take_due(session, utcnow(), DISPATCH_BATCH)
        waiting = [bulk for bulk in (False, True) if pending.has_pending(session, bulk=bulk)]
    hand_over(due)
    for bulk in waiting:
        wake_pending(bulk=bulk)
    return {"deliveries": sum(map(len, due.values()))}


@task("notifications.purge_seen")
def purge_seen(*, older_than: AwareDatetime | None = None) -> dict[str, Any]:
    """Purge until done or the time budget ends; then go on in a new task."""
    now = utcnow()
    purged = purging.purge_seen(transaction, now=now, older_than=older_than)
    if not purged.finished:
        publish("notifications.purge_seen", older_than=older_than and older_than.isoformat())
    return {"removed": purged.removed, "finished": purged.finished}


@task("notifications.purge_requests")
def purge_requests() -> dict[str, int]:
    """Forget the records of requests past their retention."""
    return {"removed": purging.purge_requests(transaction, now=utcnow())}


@task("notifications.retract")
def retract(
    *, object_type: str, object_id: str, event_config_name: str | None = None, sender_id: str | None = None
) -> dict[str, int]:
    """Remove the notifications about an object, and with them the emails not yet sent."""
    with transaction() as session:
        return {"removed": retracting.retract(session, object_type, object_id, event_config_name, sender_id)}


@task("notifications.cancel")
def cancel(*, id: UUID | None = None, idempotency_key: str | None = None) -> dict[str, int]:
    """Take a request back as far as it has not happened: what waits, is not yet visible or not yet sent."""
    with transaction() as session:
        return asdict(retracting.cancel(session, id=id, idempotency_key=idempotency_key, now=utcnow()))


def hand_over(due: dict[int, list[UUID]]) -> None:
    """Publish deliveries in batches, urgent ones to their own queue. If the broker is away, beat finds them."""
    size = get_settings().deliver_batch
    for urgency, ids in sorted(due.items()):
        for start in range(0, len(ids), size):
            batch = [str(id) for id in ids[start : start + size]]
            if not publish("notifications.deliver", queue=EMAIL_QUEUES[urgency], delivery_ids=batch):
                return


def publish(name: str, queue: str | None = None, **kwargs: Any) -> bool:
    """Publish a task that goes on with committed work; says whether the broker took it. If not, beat finds the work."""
    try:
        # Without `ignore_result` Celery would subscribe to a result that nobody stores.
        app.send_task(name, kwargs=kwargs, queue=queue, ignore_result=True, confirm_timeout=CONFIRM_SECONDS)
    except PublishError:
        log.warning("the broker could not be reached; what is due waits for beat")
        return False
    return True
