"""Composition root: the app, its queues, routes and beat schedule. `celery -A worker worker|beat|flower` finds it."""

import sys
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import PurePath
from typing import Any, NoReturn

from celery import Celery, Task
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from celery.schedules import crontab
from celery.signals import worker_init
from pydantic import ValidationError, validate_call
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from worker import transport
from worker.client import make_queue
from worker.database import check_schema, get_engine
from worker.errors import BellhopError, InvalidRequest, StoreUnavailable, UnexpectedError
from worker.events import get_events
from worker.request import complaints
from worker.settings import Settings, get_settings

#: A task is killed at so many times its time limit.
KILL_FACTOR = 1.125

#: Seconds, the most that a task waits before it tries an unreachable database again.
STORE_RETRY_MAX = 30

#: Seconds until a task is tried again whose process died; Celery's own three minutes would outlast most leases.
LOST_RETRY_SECONDS = 5

#: How often a task that ran into its time limit is tried again.
TIME_LIMIT_RETRIES = 5

ROUTES = {
    "notifications.fan_out": "bulk",
    "notifications.deliver": "email",
    "notifications.dispatch_due": "maintenance",
    "notifications.purge_seen": "maintenance",
    "notifications.purge_requests": "maintenance",
    "notifications.*": "notifications",
    "inbox.*": "inbox",
    "recipients.*": "inbox",
}
QUEUES = ("notifications", "bulk", "email_high", "email", "maintenance", "inbox")


class BellhopTask(Task):
    """Arguments and failures without personal data; an unreachable database is waited for."""

    abstract = True
    Request = "worker.transport:MaskedRequest"
    throws = (BellhopError,)
    default_retry_delay = LOST_RETRY_SECONDS

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run; whatever goes wrong leaves as one of our own errors, or as a retry."""
        if args:
            raise InvalidRequest(f"{self.name}: keyword arguments only")
        try:
            return super().__call__(**kwargs)
        except (BellhopError, Retry, Ignore, Reject):
            raise
        except (OperationalError, InterfaceError, PoolTimeout) as error:
            # None would stand for Celery's default of three.
            self._later(
                StoreUnavailable(f"the database could not be reached or did not answer ({_name(error)})"), sys.maxsize
            )
        except SoftTimeLimitExceeded:
            self._later(UnexpectedError(f"{self.name}: longer than its time limit"), TIME_LIMIT_RETRIES)
        except Exception as error:
            raise UnexpectedError(f"{_name(error)} at {_place(error)}") from None

    def _later(self, reason: BellhopError, most: int) -> NoReturn:
        delay = min(2**self.request.retries, STORE_RETRY_MAX)
        try:
            raise self.retry(exc=reason, countdown=delay, max_retries=most) from None
        except Reject:
            # The broker is away too. Celery would drop the message; back on its queue, it waits for both.
            raise Reject(reason, requeue=True) from None


def _name(error: Exception) -> str:
    original = error.orig if isinstance(error, DBAPIError) else error
    return type(original).__name__


def _place(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{PurePath(last.filename).name}:{last.lineno}"


def task(name: str, *, keep_result: bool = False) -> Callable[[Callable[..., Any]], Task]:
    """Register a function as a task of our app. Its keyword arguments are checked; a wrong one is named, not shown.

    A kept result is for the caller alone: neither events nor logs show it.
    """

    def register(function: Callable[..., Any]) -> Task:
        checked = validate_call(function)

        @wraps(function)
        def run(**kwargs: Any) -> Any:
            try:
                result = checked(**kwargs)
            except ValidationError as error:
                raise InvalidRequest(complaints(error)) from None
            return transport.Private(result) if keep_result else result

        registered: Task = app.task(name=name, ignore_result=not keep_result)(run)
        return registered

    return register


def make_app(settings: Settings) -> Celery:
    """The Celery app for these settings."""
    transport.install()
    transport.hide_bodies()
    app = Celery(
        "bellhop", task_cls=BellhopTask, include=["worker.tasks", "worker.inbox_tasks", "worker.directory_tasks"]
    )
    app.conf.update(
        broker_url=settings.broker_url.get_secret_value(),
        result_backend=_result_backend(settings),
        result_expires=600,
        task_ignore_result=True,
        task_acks_late=True,
        task_retry_on_worker_lost=True,
        task_soft_time_limit=settings.task_time_limit_seconds,
        task_time_limit=settings.task_time_limit_seconds * KILL_FACTOR,
        task_queues=[make_queue(name) for name in QUEUES],
        task_default_queue="notifications",
        task_routes=[{name: {"queue": queue} for name, queue in ROUTES.items()}],
        task_create_missing_queues=False,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        worker_consumer="worker.transport:PlainConsumer",
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        worker_send_task_events=True,
        worker_max_tasks_per_child=10_000,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_acquire_timeout=5,
        broker_heartbeat=30,
        broker_transport_options=_transport_options(settings),
        timezone="UTC",
        enable_utc=True,
        beat_schedule=_beat_schedule(settings),
    )
    return app


def _transport_options(settings: Settings) -> dict[str, Any]:
    scheme = settings.broker_url.get_secret_value().partition(":")[0]
    if scheme.startswith("amqp"):
        return {"confirm_publish": True}
    options: dict[str, Any] = {
        "visibility_timeout": settings.visibility_timeout_seconds,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "health_check_interval": 25,
        "max_connections": 50,
    }
    if not scheme.endswith("socket"):
        options |= {"socket_timeout": 5, "socket_connect_timeout": 2, "socket_keepalive": True}
    return options


def _result_backend(settings: Settings) -> str | None:
    if settings.result_backend:
        return settings.result_backend.get_secret_value()
    url = settings.broker_url.get_secret_value()
    if url.startswith("amqp"):
        return "rpc://"
    return url if url.startswith("redis") else None


def _beat_schedule(settings: Settings) -> dict[str, Any]:
    # A tick that nobody took before the next one is dropped, so that ticks do not pile up while workers are away.
    every = settings.dispatch_every_seconds
    # Not crontab(*fields): its parameters are in another order than the fields of a crontab line.
    purge_at = crontab.from_string(" ".join(settings.purge_cron.split()))
    return {
        "dispatch-due": {
            "task": "notifications.dispatch_due",
            "schedule": every,
            "options": {"expires": max(every, 1)},
        },
        "purge-seen": {
            "task": "notifications.purge_seen",
            "schedule": purge_at,
            "options": {"expires": 3600},
        },
        "purge-requests": {
            "task": "notifications.purge_requests",
            "schedule": purge_at,
            "options": {"expires": 3600},
        },
    }


@worker_init.connect
def refuse_to_start(**_: Any) -> None:
    """A worker with wrong event configs or on an older schema says so and ends, before it takes any message."""
    try:
        get_events()
        check_schema(get_engine())
        get_engine().dispose()
    except BellhopError as error:
        raise SystemExit(f"bellhop: {error}") from None
    except OperationalError as error:
        raise SystemExit(f"bellhop: the database cannot be reached ({_name(error)}); see DATABASE_URL") from None


app = make_app(get_settings())
