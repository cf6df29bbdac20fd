"""What is handed over to tasks once it is committed: due deliveries, and requests that wait.

What the broker does not take, beat finds.
"""

import logging
from typing import Any
from uuid import UUID

from celery.exceptions import OperationalError as PublishError

from worker import dispatch
from worker.celery import app
from worker.client import CONFIRM_SECONDS
from worker.database import transaction, utcnow
from worker.models import URGENCY
from worker.settings import get_settings

log = logging.getLogger(__name__)

#: Messages that may wait in an email queue before due deliveries stay in the database instead.
DISPATCH_AHEAD = 16
#: Batches that what is handed over at once is cut into, so that several workers share it, as far as it is worth it.
SHARES = 4
LEAST_BATCH = 50
#: Email queue by urgency.
EMAIL_QUEUES = {URGENCY["high"]: "email_high", URGENCY["normal"]: "email"}
#: Wake-ups published for each step of a fan-out, so that so many workers create its pages at once.
FAN_OUT_WAKES = 8


def hand_over(due: dict[int, list[UUID]]) -> None:
    """Publish deliveries in batches that several workers share, urgent ones to their own queue.

    If the broker is away, beat finds them.
    """
    most = get_settings().deliver_batch
    for urgency, ids in sorted(due.items()):
        size = min(most, max(LEAST_BATCH, len(ids) // SHARES))
        for start in range(0, len(ids), size):
            batch = [str(id) for id in ids[start : start + size]]
            if not publish("notifications.deliver", queue=EMAIL_QUEUES[urgency], delivery_ids=batch):
                return


def hand_over_due() -> int:
    """Hand over what is due, as far as the workers are not behind with what they have."""
    room = {urgency: DISPATCH_AHEAD - _waiting(queue) for urgency, queue in EMAIL_QUEUES.items()}
    due: dict[int, list[UUID]] = {}
    with transaction() as session:
        for urgency, messages in room.items():
            due |= dispatch.take_due(session, utcnow(), messages * get_settings().deliver_batch, [urgency])
    hand_over(due)
    return sum(map(len, due.values()))


def _waiting(queue: str) -> int:
    """How many messages wait in a queue; where the broker does not tell, as many as may."""
    with app.connection_or_acquire() as connection:
        try:
            with connection.channel() as channel:
                return int(app.amqp.queues[queue].bind(channel).queue_declare(passive=True).message_count)
        except connection.channel_errors:
            return 0  # Redis has no empty lists
        except connection.connection_errors:
            return DISPATCH_AHEAD


def wake_bulk(steps: int) -> None:
    """Have fan-outs cut by somebody, and their pages created by as many as there are."""
    for _ in range(min(steps, FAN_OUT_WAKES)):
        wake_pending(bulk=True)


def wake_pending(*, bulk: bool) -> None:
    """Have waiting requests created soon; beat does the same for a wake-up that gets lost."""
    publish("notifications.create_pending", queue="bulk" if bulk else None, bulk=bulk)


def publish(name: str, queue: str | None = None, **kwargs: Any) -> bool:
    """Publish a task that goes on with committed work; says whether the broker took it. If not, beat finds the work."""
    try:
        # Without `ignore_result` Celery would subscribe to a result that nobody stores.
        app.send_task(name, kwargs=kwargs, queue=queue, ignore_result=True, confirm_timeout=CONFIRM_SECONDS)
    except PublishError:
        log.warning("the broker could not be reached; what is due waits for beat")
        return False
    return True
