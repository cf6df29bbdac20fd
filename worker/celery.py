"""Composition root: the app, its queues, routes and beat schedule. `celery -A worker worker|beat|flower` finds it."""

import gc
import inspect
import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from threading import Timer
from typing import Any, NoReturn

from celery import Celery, Task
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from celery.signals import worker_init, worker_process_init, worker_shutting_down
from pydantic import ValidationError, validate_call
from sqlalchemy.exc import OperationalError

from worker import failed, signing, stopping, transport
from worker.celery_settings import checked_backend, checked_crontab
from worker.client import make_queue
from worker.database import UNAVAILABLE, check_schema, get_engine, transaction, utcnow, why_unavailable
from worker.errors import (
    BellhopError,
    InvalidRequest,
    PartlyRefused,
    StoreUnavailable,
    UnexpectedError,
    Unsigned,
    type_and_place,
)
from worker.events import get_events
from worker.failed import Failure
from worker.folders import texts
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
    keeps_request = False
    """Whether what was asked is kept where the task fails for good."""

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run; whatever goes wrong leaves as one of our own errors, or as a retry.

        What is not signed is not kept: else whoever may write to the broker could have an operator replay it.
        """
        if refusal := getattr(self.request, transport.REFUSAL, None):
            raise Unsigned(refusal)
        try:
            return self._attempt(args, kwargs)
        except PartlyRefused:
            raise
        except BellhopError as error:
            if self.keeps_request:
                self._keep(args, kwargs, error)
            raise

    def _attempt(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            raise InvalidRequest(f"{self.name}: keyword arguments only")
        if "self" in kwargs:  # Celery's and pydantic's calls have a parameter of that name
            raise InvalidRequest("request: an unknown field `self`")
        try:
            return super().__call__(**kwargs)
        except (BellhopError, Retry, Ignore, Reject):
            raise
        except UNAVAILABLE as error:
            self._wait_for_store(error)
        except SoftTimeLimitExceeded:
            self._later(UnexpectedError(f"{self.name}: longer than its time limit"), TIME_LIMIT_RETRIES)
        except Exception as error:
            raise UnexpectedError(type_and_place(error)) from None

    def _keep(self, args: tuple[Any, ...], kwargs: dict[str, Any], error: BellhopError) -> None:
        """Write what was asked down as failed; while the database is away, the whole task is tried again."""
        try:
            with transaction() as session:
                failures = [Failure(asked, error, self.request.id) for asked in _asked(args, kwargs)]
                failed.keep(session, failures, now=utcnow())
        except UNAVAILABLE as away:
            self._wait_for_store(away)

    def _wait_for_store(self, error: Exception) -> NoReturn:
        # None would stand for Celery's default of three.
        self._later(StoreUnavailable(why_unavailable(error)), sys.maxsize)

    def _later(self, reason: BellhopError, most: int) -> NoReturn:
        delay = min(2**self.request.retries, STORE_RETRY_MAX)
        try:
            raise self.retry(exc=reason, countdown=delay, max_retries=most) from None
        except Reject:
            # The broker is away too. Celery would drop the message; back on its queue, it waits for both.
            raise Reject(reason, requeue=True) from None


def _asked(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The requests among a task's arguments, or where they are none, all of them as one."""
    one, many = kwargs.get("request"), kwargs.get("requests")
    if args or len(kwargs) != 1 or (one is None and not isinstance(many, list)):
        return [{failed.ARGUMENTS: {"args": list(args), "kwargs": kwargs}}]
    return list(many) if isinstance(many, list) else [one]


#: A message whose worker dies, or is killed at its time limit, goes back to its queue; `worker.intake` counts that.
_KEEPS = {
    "keeps_request": True,
    "reject_on_worker_lost": True,
    "retry_on_worker_lost": False,
    "acks_on_timeout": False,
}


def task(
    name: str, *, keep_result: bool = False, keep_request: bool = False, internal: bool = False
) -> Callable[[Callable[..., Any]], Task]:
    """Register a function as a task of our app. Its keyword arguments are checked; a wrong one is named, not shown.

    A kept result is for the caller alone: neither events nor logs show it. A request is kept where the task fails. An
    internal task is published by Bellhop itself, perhaps by a newer version: an argument that it does not know is
    passed over, not refused.
    """
    options = _KEEPS if keep_request else {}

    def register(function: Callable[..., Any]) -> Task:
        checked = validate_call(function)
        known = inspect.signature(function).parameters

        @wraps(function)
        def run(**kwargs: Any) -> Any:
            if internal:
                kwargs = {name: value for name, value in kwargs.items() if name in known}
            try:
                result = checked(**kwargs)
            except ValidationError as error:
                raise InvalidRequest(complaints(error)) from None
            return transport.Private(result) if keep_result else result

        registered: Task = app.task(name=name, ignore_result=not keep_result, **options)(run)
        return registered

    return register


def make_app(settings: Settings) -> Celery:
    """The Celery app for these settings. Raises InvalidSettings for what only Celery can tell of them."""
    transport.install()
    transport.hide_bodies()
    signing.start(settings.signing_keys.get_secret_value(), required=settings.signing_required)
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
        "unacked_mutex_expire": 30,  # a worker killed while it gives back overdue messages holds up the others so long
        "health_check_interval": 25,
        "max_connections": 50,
    }
    if not scheme.endswith("socket"):
        options |= {"socket_timeout": 5, "socket_connect_timeout": 2, "socket_keepalive": True}
    return options


def _result_backend(settings: Settings) -> str | None:
    if settings.result_backend:
        return checked_backend(settings.result_backend.get_secret_value())
    url = settings.broker_url.get_secret_value()
    if url.startswith("amqp"):
        return "rpc://"
    return url if url.startswith("redis") else None


def _beat_schedule(settings: Settings) -> dict[str, Any]:
    # A tick that nobody took before the next one is dropped, so that ticks do not pile up while workers are away.
    every = settings.dispatch_every_seconds
    purge_at = checked_crontab(settings.purge_cron)
    return {
        "dispatch-due": {
            "task": "notifications.dispatch_due",
            "schedule": every,
            "options": {"expires": max(every, 1)},
        },
        "purge-seen": {"task": "notifications.purge_seen", "schedule": purge_at, "options": {"expires": 3600}},
        "purge-requests": {"task": "notifications.purge_requests", "schedule": purge_at, "options": {"expires": 3600}},
    }


@worker_init.connect
def refuse_to_start(**_: Any) -> None:
    """A worker with wrong event configs or on an older schema says so and ends, before it takes any message."""
    try:
        get_events()
        texts()  # now, so that all its processes have the same
        check_schema(get_engine())
        get_engine().dispose()
    except BellhopError as error:
        raise SystemExit(f"bellhop: {error}") from None
    except OperationalError as error:
        raise SystemExit(f"bellhop: {why_unavailable(error)}; see DATABASE_URL") from None


@worker_shutting_down.connect
def begin_nothing_more(how: str, **_: Any) -> None:
    """A stopping worker ends its deliveries after the one under way; what then still runs is cut off in time."""
    if how == "Warm" and not stopping.stopping():
        # To the cold shutdown, as by a second signal of the operator's.
        cut_off = Timer(get_settings().stop_seconds, os.kill, (os.getpid(), signal.SIGQUIT))
        cut_off.daemon = True
        cut_off.start()
    stopping.stop()


@worker_init.connect
@worker_process_init.connect
def spare_what_stays(**_: Any) -> None:
    """What is loaded by now stays for good: the garbage collector need not look at it again and again.

    It does so while a batch is created, since that makes many objects: a third of the time of small notifications.
    """
    gc.collect()
    gc.freeze()


app = make_app(get_settings())
