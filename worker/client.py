"""What applications import: enqueue notifications. Needs celery and pydantic; no database unless a session is given."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID
from weakref import WeakKeyDictionary

from celery import Celery, current_app
from celery import exceptions as celery_exceptions
from kombu import Exchange, Queue, pools
from kombu.exceptions import BatchPublishError
from kombu.utils.compat import register_after_fork
from pydantic_core import from_json

from worker import signing, wake
from worker.errors import NoBroker
from worker.request import NotificationRequest, short

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

#: What `notify` raises when the broker cannot be reached: kombu's OperationalError.
PublishError = celery_exceptions.OperationalError

#: Requests in one message of `notify_many`.
CHUNK = 100

#: Messages that `notify_many` sends in one go.
BATCH = 100

#: Seconds after which a Redis that does not answer counts as away. Celery's default is to wait for ever.
TIME_OUTS: dict[str, Any] = {"socket_timeout": 5, "socket_connect_timeout": 2}

#: What holds for a broker where the application's own options do not say: on RabbitMQ, confirmation of each message.
OPTIONS: dict[str, dict[str, Any]] = {"redis": TIME_OUTS, "amqp": {"confirm_publish": True}}

#: Publishes what kombu's would; that makes a new client for each message, a third of what publishing costs.
OUR_REDIS = "worker.redis_transport:Transport"

#: Seconds to wait for another thread's connection.
ACQUIRE_SECONDS = 5

#: Seconds within which RabbitMQ must confirm a message.
CONFIRM_SECONDS = 10

#: What a message shows of itself where Celery would print its arguments.
_HIDDEN = "<hidden>"


def make_queue(name: str) -> Queue:
    """A queue as every side must declare it: RabbitMQ refuses one that is there with other arguments.

    There it is a quorum queue, which is on disk before a message is confirmed; Redis does not read the arguments.
    """
    return Queue(name, Exchange(""), name, queue_arguments={"x-queue-type": "quorum"})


#: Where requests go.
NOTIFICATIONS = make_queue("notifications")


def connect(broker_url: str, *, signing_keys: str | None = None) -> Celery:
    """A Celery app for applications that have none; publishing gives up after seconds, not hours.

    An application that has one passes it to `notify`, or lets it be found as Celery's current app. `signing_keys`, else
    those of the environment's `SIGNING_KEYS`, sign what this process publishes: see `worker.signing.start`.
    """
    signing.start(signing_keys) if signing_keys else signing.start_once()
    app = Celery("bellhop-client", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        task_ignore_result=True,
        broker_pool_acquire_timeout=5,
        broker_connection_timeout=2,
        task_create_missing_queue_type="quorum",
    )
    for scheme, options in OPTIONS.items():
        if broker_url.startswith((f"{scheme}://", f"{scheme}s://")):
            app.conf.broker_transport_options = dict(options)
    return app


def notify(
    event_config_name: str | None = None,
    *,
    to: Any,
    app: Celery | None = None,
    session: "Session | None" = None,
    **fields: Any,
) -> UUID:
    """Tell `to` that something happened; gives the request's id. The other fields are those of the request.

    Without `session` the request goes to the broker and is as safe as the broker. With it, the request is a row in
    the caller's own transaction, written when the session flushes: it is asked if and when that commits, and a worker
    is woken then, by a thread that the caller does not wait for. With an `AsyncSession`:
    `await session.run_sync(lambda s: notify(..., session=s))`.

    Raises InvalidRequest naming field and rule; with a session IdempotencyConflict; without one NoBroker, or when the
    broker cannot be reached PublishError: then nothing was asked. Whether the event is known and its context is right
    is for the worker to find.
    """
    request = _request(event_config_name, to, fields)
    if session is None:
        # The task's id is the request's, so that what became of it is found in Flower and logs.
        _publish(_known(app), "notifications.create", {"request": request.to_wire()}, str(request.id))
    else:
        from worker.pending import enqueue_durably

        enqueue_durably(session, [request], lambda: _wake(app))
    return request.id


def _wake(app: Celery | None) -> None:
    known = _known(app)
    wake.soon(known, lambda: _publish(known, "notifications.create_pending", {}))


def notify_many(
    requests: Iterable[Mapping[str, Any] | NotificationRequest],
    *,
    app: Celery | None = None,
    session: "Session | None" = None,
    chunk: int = CHUNK,
) -> Sequence[UUID]:
    """Ask for many at once; gives their ids. With `session` in the caller's transaction, as `notify` does.

    Without it they are published, `chunk` to a message, each message one transaction. All are checked before the
    first is written or published. Raises as `notify` does; after a PublishError some may have been published: the
    same requests, with the same ids, can be published again.
    """
    checked = (one if isinstance(one, NotificationRequest) else NotificationRequest.parse(one) for one in requests)
    if session is None:
        # Not the requests themselves: the garbage collector would go through all of them again and again.
        ids, texts = list[UUID](), list[str]()
        for request in checked:
            ids.append(request.id)
            texts.append(_text(request))
        _publish_many(_known(app), texts, chunk)
        return ids
    if held := list(checked):
        from worker.pending import enqueue_durably

        enqueue_durably(session, held, lambda: _wake(app))
    return [request.id for request in held]


def _publish_many(app: Celery, requests: Sequence[str], chunk: int) -> None:
    """Many messages in one go, where the broker can."""
    try:
        with _acquired(app) as producer, producer.batch(BATCH):
            for start in range(0, len(requests), chunk):
                wire = _wires(requests[start : start + chunk])
                _send(app, producer, "notifications.create_many", {"requests": wire})
    except BatchPublishError as error:
        raise PublishError(str(error)) from error


def _text(request: NotificationRequest) -> str:
    return request.model_dump_json(exclude=None if request.attachments else {"attachments"}, exclude_none=True)


def _wires(texts: Sequence[str]) -> list[dict[str, Any]]:
    """What `to_wire` gives, of the texts of many."""
    wires: list[dict[str, Any]] = from_json(f"[{','.join(texts)}]", cache_strings="keys")
    for wire in wires:
        wire["to"] = short(wire["to"])
    return wires


def _request(event_config_name: str | None, to: Any, fields: Mapping[str, Any]) -> NotificationRequest:
    named = {} if event_config_name is None else {"event_config_name": event_config_name}
    return NotificationRequest.parse({"to": to, **named, **fields})


def _known(app: Celery | None) -> Celery:
    """The app given, or the application's own; never the one that Celery makes up, which publishes to nowhere."""
    found: Celery = app or current_app._get_current_object()
    if app is None and found.main == "default" and not found.conf.broker_url:
        raise NoBroker
    return found


def _publish(app: Celery, name: str, kwargs: dict[str, Any], task_id: str | None = None) -> None:
    with _acquired(app) as producer:
        _send(app, producer, name, kwargs, task_id)


def _send(app: Celery, producer: Any, name: str, kwargs: dict[str, Any], task_id: str | None = None) -> None:
    signing.start_once()
    app.send_task(
        name,
        kwargs=kwargs,
        task_id=task_id,
        queue=NOTIFICATIONS,
        declare=[] if producer.connection.transport_cls == OUR_REDIS else None,  # a list is there by being pushed to
        producer=producer,
        confirm_timeout=CONFIRM_SECONDS,
        serializer="json",
        argsrepr=_HIDDEN,
        kwargsrepr=_HIDDEN,
        ignore_result=True,  # else an application with a result backend subscribes to results that nobody stores
    )


def _acquired(app: Celery) -> Any:
    return _producers(app).acquire(block=True, timeout=ACQUIRE_SECONDS)


_pools: WeakKeyDictionary[Celery, Any] = WeakKeyDictionary()
register_after_fork(_pools, WeakKeyDictionary.clear)


def _producers(app: Celery) -> Any:
    """Producers for the app's broker: Celery's own, unless its options leave out what `OPTIONS` has."""
    if app not in _pools:
        connection = app.connection_for_write()
        transport = connection.get_transport_cls()
        if f"{transport.__module__}:{transport.__qualname__}" in ("kombu.transport.redis:Transport", OUR_REDIS):
            connection.transport_cls = OUR_REDIS
        options = OPTIONS.get(transport.driver_type, {})
        connection.transport_options = {**options, **connection.transport_options}
        _pools[app] = pools.producers[connection]
    return _pools[app]
