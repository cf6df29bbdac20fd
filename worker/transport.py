"""What lies between Celery and us: the guarded Redis transport, and what operators may see of a task.

Whoever may watch Flower or read a log must not learn who was told what. Celery's `argsrepr` alone does not keep that:
remote control commands show raw arguments. So every request and every result of our tasks is masked at its source.
"""

import logging
from typing import Any

import redis.exceptions
from celery.exceptions import InvalidTaskError
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel as RedisChannel
from kombu.transport.redis import Transport as RedisTransport

#: Shown wherever arguments or private results would be.
HIDDEN = "<hidden>"


class Channel(RedisChannel):
    """kombu's Redis channel, which must not end the worker when Redis goes away.

    kombu 5.7 closes a lost connection and then asks it for its host name: an AttributeError, which Celery does not
    take for a lost connection, and the worker exits. As a connection error, it reconnects.
    """

    def _connparams(self, asynchronous: bool = False) -> Any:
        if self.connection is None or self.connection.client is None:
            raise redis.exceptions.ConnectionError("the channel was closed when its connection was lost")
        return super()._connparams(asynchronous)  # type: ignore[no-untyped-call]


class Transport(RedisTransport):
    """Still `redis://`, so that Flower and everything else know it."""

    Channel = Channel


def install() -> None:
    """Use the guarded transport for redis:// and rediss:// in this process; call before the first connection."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "worker.transport:Transport"


class PlainConsumer(Consumer):
    """Celery's, without its delayed delivery for quorum queues: 28 more queues on RabbitMQ for tasks with a countdown.

    Ours wait in the database; a retry while that is away waits, for seconds, in the worker.
    """

    class Blueprint(Consumer.Blueprint):
        """The steps of a worker's start."""

        default_steps = tuple(step for step in Consumer.Blueprint.default_steps if "delayed_delivery" not in step)


class MaskedRequest(Request):
    """A task as the worker sees it, whose arguments no event, log line or remote control command shows."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # Celery drops an invalid task; any other error here would end the worker, and the next one too.
            raise InvalidTaskError(f"not a task message ({type(error).__name__})") from None
        self._argsrepr = self._kwargsrepr = HIDDEN
        self._request_dict.update(argsrepr=HIDDEN, kwargsrepr=HIDDEN)

    def info(self, safe: bool = False) -> dict[str, Any]:
        """What `celery inspect` and Flower's worker page get."""
        return {**super().info(safe=True), "args": HIDDEN, "kwargs": HIDDEN}


class Private:
    """A result for the caller alone: JSON to the result backend, nothing to events and logs."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __json__(self) -> Any:
        return self._value

    def __repr__(self) -> str:
        return HIDDEN


class HideBodies(logging.Filter):
    """Celery logs the whole body of a message it cannot read or has no task for; this keeps the reason's type alone."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, without a message's body."""
        if "body" in str(record.msg).lower() and record.args:
            record.msg = (
                "A message was dropped: not a task of this worker, or not readable (%s). Its body is not shown."
            )
            record.args = (_why(record.args),)
            record.exc_info = record.exc_text = None
        return True


def _why(args: Any) -> str:
    first = args[0] if isinstance(args, tuple) else None
    return type(first).__name__ if isinstance(first, BaseException) else "no reason given"


def hide_bodies() -> None:
    """Install the filter; harmless when done twice."""
    logger = logging.getLogger("celery.worker.consumer.consumer")
    if not any(isinstance(present, HideBodies) for present in logger.filters):
        logger.addFilter(HideBodies())
