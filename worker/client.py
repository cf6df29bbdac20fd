"""What applications import: enqueue notifications. Needs celery and pydantic; no database unless a session is given."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4
from weakref import WeakKeyDictionary

from celery import Celery, current_app
from celery import exceptions as celery_exceptions
from celery.local import Proxy
from kombu import Exchange, Queue, pools
from kombu.exceptions import BatchPublishError
from kombu.utils.compat import register_after_fork
from pydantic_core import from_json

from worker import express, signing, wake
from worker.errors import InvalidRequest, NoBroker
from worker.request import NotificationRequest

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

#: What `notify` raises when the broker cannot be reached: kombu's OperationalError.
PublishError = celery_exceptions.OperationalError

#: Requests in one message of `notify_many`.
CHUNK = 100

#: Bytes at which a message of `notify_many` ends, however few requests these are; one larger request is one message.
MESSAGE_BYTES = 4 * 1024 * 1024

#: Messages that `notify_many` sends in one go, and bytes at which that ends.
BATCH = 100
BATCH_BYTES = 32 * 1024 * 1024

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

    Without `session` the request goes to the broker and is as safe as the broker; where Redis did not answer it may be
    there twice, with the same ids, and is one notification (`worker.express`). With it, the request is a row in
    the caller's own transaction, written when the session flushes: it is asked if and when that commits, and a worker
    is woken then, by a thread that the caller does not wait for. With an `AsyncSession`:
    `await session.run_sync(lambda s: notify(..., session=s))`.

    Raises InvalidRequest naming field and rule; with a session IdempotencyConflict; without one NoBroker, or when the
    broker cannot be reached or does not answer PublishError. It may have the message then: who asks again gives the
    same `id` both times, or an `idempotency_key`, and it stays one notification. Whether the event is known and its
    context is right is for the worker to find.
    """
    request = _request(event_config_name, to, fields)
    if session is None:
        # The task's id is the request's, so that what became of it is found in Flower and logs.
        _publish(_known(app), "notifications.create", [(str(request.id), b'{"request":%b}' % request.to_json())])
    else:
        from worker.pending import enqueue_durably

        enqueue_durably(session, [request], lambda: _wake(app))
    return request.id


def _wake(app: Celery | None) -> None:
    known = _known(app)
    wake.soon(known, lambda: _publish(known, "notifications.create_pending", [(str(uuid4()), b"{}")]))


def notify_many(
    requests: Iterable[Mapping[str, Any] | NotificationRequest],
    *,
    app: Celery | None = None,
    session: "Session | None" = None,
    chunk: int = CHUNK,
) -> Sequence[UUID]:
    """Ask for many at once; gives their ids. With `session` in the caller's transaction, as `notify` does.

    Without it they are published, up to `chunk` to a message, each message one transaction. All are checked before the
    first is written or published. Raises as `notify` does; after a PublishError some may have been published: the
    same requests, with the same ids, can be published again.
    """
    if chunk < 1:
        raise InvalidRequest("chunk: at least 1")
    checked = (one if isinstance(one, NotificationRequest) else NotificationRequest.parse(one) for one in requests)
    if session is None:
        # Not the requests themselves: the garbage collector would go through all of them again and again.
        ids, texts = list[UUID](), list[bytes]()
        for request in checked:
            ids.append(request.id)
            texts.append(request.to_json())
        known = _known(app)
        messages = (b'{"requests":[%b]}' % b",".join(part) for part in _parts(texts, chunk, MESSAGE_BYTES))
        for batch in _parts(messages, BATCH, BATCH_BYTES):
            _publish(known, "notifications.create_many", [(str(uuid4()), text) for text in batch])
        return ids
    if held := list(checked):
        from worker.pending import enqueue_durably

        enqueue_durably(session, held, lambda: _wake(app))
    return [request.id for request in held]


def _parts(texts: Iterable[bytes], most: int, most_bytes: int) -> Iterator[list[bytes]]:
    """Up to so many at a time, and no more of them than so many bytes, but always one."""
    part, size = list[bytes](), 0
    for text in texts:
        if part and (len(part) == most or size + len(text) > most_bytes):
            yield part
            part, size = [], 0
        part.append(text)
        size += len(text)
    if part:
        yield part


def _request(event_config_name: str | None, to: Any, fields: Mapping[str, Any]) -> NotificationRequest:
    named = {} if event_config_name is None else {"event_config_name": event_config_name}
    return NotificationRequest.parse({"to": to, **named, **fields})


def _known(app: Celery | None) -> Celery:
    """The app given, or the application's own; never the one that Celery makes up, which publishes to nowhere."""
    given = app or current_app
    found: Celery = given._get_current_object() if isinstance(given, Proxy) else given
    if given is not found and found.main == "default" and not found.conf.broker_url:
        raise NoBroker
    return found


def _publish(app: Celery, name: str, tasks: Sequence[tuple[str, bytes]]) -> None:
    """One task, or many in one go where the broker can; of each its id and its keyword arguments, which are JSON."""
    signing.start_once()
    way = express.find(app, name)
    done = way.send(app, tasks) if way else 0
    if done < len(tasks):
        with _acquired(app) as producer:
            if way:  # what became of its connection has become of this one: not to be waited for again
                producer.connection.collect()
            _publish_by_celery(app, producer, name, tasks[done:])


def _publish_by_celery(app: Celery, producer: Any, name: str, tasks: Sequence[tuple[str, bytes]]) -> None:
    try:
        with producer.batch(BATCH) if len(tasks) > 1 else nullcontext():
            for id, text in tasks:
                kwargs = from_json(text, cache_strings="keys")
                with express.learning(app, name, id, kwargs):
                    _send(app, producer, name, kwargs, id)
    except BatchPublishError as error:
        raise PublishError(str(error)) from error


def _send(app: Celery, producer: Any, name: str, kwargs: dict[str, Any], task_id: str) -> None:
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
