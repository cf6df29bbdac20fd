"""What lies between Celery and us: which Redis transport is used, and what operators may see of a task.

Whoever may watch Flower or read a log must not learn who was told what. Celery's `argsrepr` alone does not keep that:
remote control commands show raw arguments. So every request and every result of our tasks is masked at its source.
"""

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from billiard.exceptions import Terminated
from celery.concurrency.base import BasePool
from celery.exceptions import InvalidTaskError
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from kombu.exceptions import DecodeError
from kombu.transport import TRANSPORT_ALIASES
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import object_hook

from worker import signing
from worker.pool import hear_out

#: Shown wherever arguments or private results would be.
HIDDEN = "<hidden>"

#: What a task's request says where its message must not run: why, see `worker.signing`.
REFUSAL = "bellhop_refusal"
#: What it says where its message is the only one: no other waited when it was taken, and none was under way here.
ONLY_ONE = "bellhop_only_one"
#: Where a message has its body that Celery could not read.
_READ = "bellhop_body"
#: Seconds for which a worker collects events before it sends them.
EVENTS_SECONDS = 0.01
#: All that is left of the headers of such a message.
_LEFT = ("id", "task", "ignore_result")


def install() -> None:
    """Use `worker.redis_transport` for redis:// and rediss:// in this process; call before the first connection."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "worker.redis_transport:Transport"


class PlainConsumer(Consumer):
    """Celery's, without its delayed delivery for quorum queues: 28 more queues on RabbitMQ for tasks with a countdown.

    Ours wait in the database; a retry while that is away waits, for seconds, in the worker.

    Events, as Flower shows them, are sent some milliseconds later, together: not before a task comes to its process.
    """

    _flush: Any = None
    """The timer's entry of the sending to come."""

    class Blueprint(Consumer.Blueprint):
        """The steps of a worker's start."""

        default_steps = tuple(step for step in Consumer.Blueprint.default_steps if "delayed_delivery" not in step)

    def on_close(self) -> None:
        """Celery's, which forgets what no process has accepted; a stopping worker knows of all it handed over."""
        hear_out(getattr(self.pool, "_pool", None), self.hub)
        super().on_close()

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Celery's, but a message that it stumbles over is dropped: the error would end every worker in turn."""
        handle = super().create_task_handler(*args, **kwargs)

        def careful(message: Any) -> Any:
            _read(message)
            try:
                return handle(message)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                reason = InvalidTaskError(f"not a task message ({type(error).__name__})")
                return self.on_invalid_task(None, message, reason)

        return careful

    def on_send_event_buffered(self) -> None:
        """Celery's sends them at once, and waits for the broker while the pool has nothing to do."""
        if self.hub and (self._flush is None or self._flush.canceled):  # canceled: the connection was lost
            self._flush = self.hub.call_later(EVENTS_SECONDS, self._flush_events)

    def _flush_events(self) -> None:
        self._flush = None
        super()._flush_events()

    def shutdown(self) -> None:
        """Celery's, and no event of the last tasks stays behind."""
        with suppress(*self.connection_errors):
            self._flush_events()
        super().shutdown()


class MaskedRequest(Request):
    """A task as the worker sees it: no event, log line or remote control command shows its arguments.

    Of a message that must not run, neither the arguments nor what Celery was to call next goes any further.
    """

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        try:
            headers = kwargs.get("headers") or message.headers
            refusal = _refusal(message, headers, already_read=kwargs.get("decoded", False))
            if refusal:
                left = {name: headers[name] for name in _LEFT if name in headers}
                kwargs |= {"headers": left, "body": ((), {}, {}), "decoded": True}
            elif (body := getattr(message, _READ, None)) and not kwargs.get("decoded"):
                kwargs |= {"body": body, "decoded": True}
            super().__init__(message, *args, **kwargs)
            self._request_dict[REFUSAL] = refusal
            self._request_dict[ONLY_ONE] = getattr(getattr(message, "channel", None), "only_one", False)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # Celery drops an invalid task; any other error here would end the worker, and the next one too.
            raise InvalidTaskError(f"not a task message ({type(error).__name__})") from None
        self._argsrepr = self._kwargsrepr = HIDDEN
        self._request_dict.update(argsrepr=HIDDEN, kwargsrepr=HIDDEN)

    def cancel(self, pool: Any, *args: Any, **kwargs: Any) -> None:
        """Celery's; a task in the worker's own process cannot be cut off, and is not made to fail by the attempt."""
        if getattr(pool.terminate_job, "__func__", None) is not BasePool.terminate_job:
            super().cancel(pool, *args, **kwargs)

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """Celery's, but a task that the worker itself cut off, as its broker was away, is not done: it comes again.

        Celery 5.7 takes it for revoked, and acknowledges its message, when the result backend was away as well.
        """
        if isinstance(getattr(exc_info.exception, "exc", exc_info.exception), Terminated):
            self._already_cancelled = True
        return super().on_failure(exc_info, *args, **kwargs)

    def info(self, safe: bool = False) -> dict[str, Any]:
        """What `celery inspect` and Flower's worker page get."""
        return {**super().info(safe=True), "args": HIDDEN, "kwargs": HIDDEN}


def _read(message: Any) -> None:
    """Decode the message, as Celery does next, but for values that look packed by kombu (`__type__`), and are not.

    Celery would drop it. Such a value stays as it came, so that the request is refused by its rule, and kept, and the
    others in the message go on.
    """
    try:
        message.payload  # noqa: B018, it is kept
    except DecodeError:
        with suppress(ValueError, RecursionError):
            body = json.loads(bytes_to_str(message.body), object_hook=_unpacked)
            message._decoded_cache = body
            setattr(message, _READ, body)
    except Exception:
        return  # for Celery to find


def _unpacked(value: dict[str, Any]) -> Any:
    try:
        return object_hook(value)
    except Exception:  # whatever its decoder stumbles over
        return value


def _refusal(message: Any, headers: Any, *, already_read: bool) -> str | None:
    """Celery's old protocol, which it reads itself, has no place for a signature."""
    return signing.refusal(headers["task"], headers["id"], message.body, {} if already_read else headers)


class Private:
    """A result for the caller alone: JSON to the result backend, nothing to events and logs."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __json__(self) -> Any:
        return self._value

    def __repr__(self) -> str:
        return HIDDEN


#: How messages of other people's loggers begin that show a whole message, and what is logged in their place.
_SHOWING = {
    "celery.worker.consumer.consumer": (
        "body",
        "A message was dropped: not a task of this worker, or not readable (%s). Its body is not shown.",
    ),
    "kombu.transport.redis": (
        "could not restore message",
        "A message could not be put back into its queue (%s). It is not shown.",
    ),
}


class HideBodies(logging.Filter):
    """Celery and kombu log the whole of a message they cannot read or place; this keeps the reason's type alone."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, without a message's body."""
        sign, instead = _SHOWING[record.name]
        if sign in str(record.msg).lower() and record.args:
            record.msg, record.args = instead, (_why(record),)
            record.exc_info = record.exc_text = None
        return True


def _why(record: logging.LogRecord) -> str:
    first = record.args[0] if isinstance(record.args, tuple) else None
    error = first if isinstance(first, BaseException) else (record.exc_info or (None, None))[1]
    return type(error).__name__ if error else "no reason given"


def hide_bodies() -> None:
    """Install the filter; harmless when done twice."""
    for name in _SHOWING:
        logger = logging.getLogger(name)
        if not any(isinstance(present, HideBodies) for present in logger.filters):
            logger.addFilter(HideBodies())
