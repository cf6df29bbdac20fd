"""A short way for messages to Redis: what Celery made of the first one, with what differs put in.

The first message of an app and a task goes the ordinary way, through Celery and kombu, and is noted as it is pushed:
the list's key and its text. Later ones are that text with their own id, arguments, delivery tag and signature, pushed
over a connection that is kept: the same message for a fraction of the time. Whatever is not as it was, or not as usual,
or goes wrong, is left to the ordinary way. A message whose push was not answered is then published again, with the same
ids: one notification.
"""

import os
import sys
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from operator import is_
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary, ref

import celery.app.amqp
import celery.app.base
import kombu.messaging
import kombu.transport.virtual.base
from celery import Celery, signals
from celery._state import get_current_worker_task
from kombu.utils.json import dumps

from worker import signing

#: Connections that are kept for an app, if its `broker_pool_limit` allows for so many.
MOST = 10

#: Settings with which Celery does more for a message than publish it as it published the first.
_SETTINGS = ("task_routes", "task_send_sent_event", "task_always_eager", "task_compression")

# Looked up once: after each wait for Redis, every step takes several times as long as in a loop.
_Producer, _Channel = kombu.messaging.Producer, kombu.transport.virtual.base.Channel
_BEFORE, _AFTER, _SENT = signals.before_task_publish, signals.after_task_publish, signals.task_sent

#: All that a message has. One with anything else is made by what is not known here.
_PARTS = {"body", "content-encoding", "content-type", "headers", "properties"}
_HEADERS = {
    *("lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit", "root_id"),
    *("parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting", "stamped_headers"),
    "stamps",
}
_PROPERTIES = {
    *("correlation_id", "reply_to", "argsrepr", "kwargsrepr", "delivery_mode", "delivery_info", "priority"),
    *("body_encoding", "delivery_tag"),
}

#: How often each of what differs stands in a message.
_TIMES = {b"id": 3, b"reply_to": 1, b"tag": 1, b"body": 1, b"signature": 1}

#: What making a way of something else than such a message raises.
_UNUSUAL = (AttributeError, KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class Noted:
    """A message that was pushed."""

    channel: Any
    queue: str
    message: Mapping[str, Any]


_noted: ContextVar[list[Noted] | None] = ContextVar("noted", default=None)


def note(channel: Any, queue: str, message: Mapping[str, Any]) -> None:
    """For our transport to call: this was pushed."""
    noted = _noted.get()
    if noted is not None:
        noted.append(Noted(channel, queue, message))


@dataclass(frozen=True, slots=True)
class Way:
    """How an app publishes a task to Redis."""

    task: str
    #: The command up to the message's length, and the message, with `%(id)b` and so on for what differs.
    head: bytes
    text: bytes
    #: What stands before and after the keyword arguments in the body.
    before: bytes
    after: bytes
    #: Makes a connection, which connects when it is used.
    connect: Callable[[], Any]
    client: type[Any]
    errors: tuple[type[Exception], ...]
    #: What publishes in Celery and kombu: unless somebody put something in its place, nothing is missed.
    steps: tuple[Any, ...]
    sender: Any
    most: int
    connections: deque[Any] = field(default_factory=deque)

    def send(self, app: Celery, tasks: Sequence[tuple[str, bytes]]) -> int:
        """Push tasks, of each its id and its keyword arguments, which are JSON, in one round trip.

        Gives how many, from the first on, are there for sure.
        """
        try:
            commands = [self._command(app, id, kwargs) for id, kwargs in tasks]
        except KeyError:  # another thread has just ended the signing
            return 0
        done = self._push(commands)
        if done < len(tasks):  # the broker may have moved: the next message tells
            _ways.pop(app, None)
        return done

    def _command(self, app: Celery, id: str, kwargs: bytes) -> bytes:
        text = self.text % _values(app, self.task, id, _tag(), b"%b%b%b" % (self.before, kwargs, self.after))
        return b"%b$%d\r\n%b\r\n" % (self.head, len(text), text)

    def _push(self, commands: Sequence[bytes]) -> int:
        try:
            connection = self.connections.pop()
        except IndexError:
            connection = self.connect()
        done = 0
        try:
            connection.send_packed_command(commands)
            for _ in commands:
                answer = connection.read_response()
                if not isinstance(answer, int):
                    break
                done += 1
        except self.errors:
            pass
        finally:  # also where a time-out of the application's own ended the wait: answers may still come
            if done < len(commands) or len(self.connections) >= self.most:
                connection.disconnect()
            else:
                self.connections.append(connection)
        return done


def _tag() -> str:
    """A random UUID (RFC 9562, version 4), as a delivery tag; a third of the time that `uuid4` takes."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


#: By app, then by task and whether messages are signed; None where no way could be made.
_ways: WeakKeyDictionary[Celery, dict[tuple[str, bool], Way | None]] = WeakKeyDictionary()
# A child has connections of its own, and says so in its messages.
os.register_at_fork(after_in_child=_ways.clear)


def find(app: Celery, task: str) -> Way | None:
    """The short way for this task, now; None where only the ordinary way will do."""
    ways = _ways.get(app)
    way = ways.get((task, signing.is_on())) if ways else None
    return way if way and _is_usual(app, task) and _is_unchanged(app, way) else None


def _is_usual(app: Celery, task: str) -> bool:
    """Whether publishing does no more than publish: nobody listens, no setting asks for more, no task is running."""
    changes, before = getattr(app.conf, "changes", None), _BEFORE.receivers
    return not (
        changes is None
        or any(map(changes.get, _SETTINGS))
        or _AFTER.receivers
        or _SENT.receivers
        or (before and (len(before) > 1 or before[0][0][0] != signing.RECEIVER))
        or task in app._tasks  # its options would hold for the message
        or "send_task" in app.__dict__
        or get_current_worker_task()
    )


def _is_unchanged(app: Celery, way: Way) -> bool:
    # By identity: what instruments libraries says that it is equal to what it wraps.
    return all(map(is_, way.steps, _steps(app, way.client))) and way.sender() is _sender(app)


def _steps(app: Celery, client: type[Any]) -> tuple[Any, ...]:
    channel = _Channel.basic_publish
    return (type(app).send_task, _Producer.publish, _Producer._publish, channel, client.execute_command)


def _sender(app: Celery) -> Any:
    """What `app.amqp.send_task_message` gives, in less time; the app itself where that was never asked for."""
    return app.__dict__.get("amqp", app).__dict__.get("send_task_message", app)


@contextmanager
def learning(app: Celery, task: str, id: str, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """While the task is published the ordinary way: see how, and make a way of it where that is possible."""
    kind = (task, signing.is_on())
    if not _is_to_learn(app, kind):
        yield
        return
    noted: list[Noted] = []
    token = _noted.set(noted)
    try:
        yield
    finally:
        _noted.reset(token)
    if len(noted) == 1:
        try:
            way = _make(app, task, id, kwargs, noted[0])
        except _UNUSUAL:
            way = None
        _ways.setdefault(app, {})[kind] = way


def _is_to_learn(app: Celery, kind: tuple[str, bool]) -> bool:
    if not _is_usual(app, kind[0]) or any(map(app.conf.get, _SETTINGS)):
        return False
    ways = _ways.get(app, {})
    known = ways.get(kind)
    return not _is_unchanged(app, known) if known else kind not in ways


def _make(app: Celery, task: str, id: str, kwargs: Mapping[str, Any], noted: Noted) -> Way:
    """Raises one of `_UNUSUAL` where that cannot be done."""
    before, after = _around(kwargs, noted.message)
    pool = noted.channel.pool
    if noted.queue in noted.channel._expires or "credential_provider" in pool.connection_kwargs:
        raise ValueError("more than a push")
    from redis import Redis, RedisError  # not for who has another broker

    priority = noted.channel._get_message_priority(noted.message, reverse=False)
    (key,) = noted.channel.keys(noted.channel._q_for_pri(noted.queue, priority))
    return Way(
        task=task,
        head=b"*3\r\n$5\r\nLPUSH\r\n$%d\r\n%b\r\n" % (len(key.encode()), key.encode()),
        text=_blank(app, task, id, noted.message),
        before=before,
        after=after,
        connect=lambda: pool.connection_class(**pool.connection_kwargs),
        errors=(RedisError, OSError, ValueError),
        client=Redis,
        steps=_own_steps(app, Redis),
        sender=ref(_sender(app)),
        most=min(MOST, app.conf.broker_pool_limit or 0),
    )


def _own_steps(app: Celery, client: type[Any]) -> tuple[Any, ...]:
    """Raises ValueError where one of them is not the library's own."""
    base, messaging, virtual = celery.app.base, kombu.messaging, kombu.transport.virtual.base
    homes = (base, messaging, messaging, virtual, sys.modules[client.__module__], celery.app.amqp)
    steps = _steps(app, client)
    for step, home in zip((*steps, _sender(app)), homes, strict=True):
        if type(step) is not FunctionType or step.__code__.co_filename != home.__file__:
            raise ValueError("something else publishes")
    return steps


def _around(kwargs: Mapping[str, Any], message: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """What stands before and after the keyword arguments in the body."""
    before, found, after = b64decode(message["body"], validate=True).partition(dumps(kwargs).encode())
    if before != b"[[], " or not found:
        raise ValueError("not Celery's body")
    return before, after


def _values(app: Celery, task: str, id: str, tag: str, body: bytes) -> dict[bytes, bytes]:
    """What differs from message to message."""
    values = {b"id": id.encode(), b"reply_to": app.thread_oid.encode(), b"tag": tag.encode(), b"body": b64encode(body)}
    signature = signing.signature(task, id, body)
    return {**values, b"signature": signature.encode()} if signature else values


def _blank(app: Celery, task: str, id: str, message: Mapping[str, Any]) -> bytes:
    """The message's text, to be filled in."""
    headers, properties = message["headers"], message["properties"]
    known = {*_HEADERS, signing.HEADER} if signing.is_on() else _HEADERS
    if (set(message), set(headers), set(properties)) != (_PARTS, known, _PROPERTIES):
        raise ValueError("not Celery's message")
    if headers["eta"] or headers["expires"]:
        raise ValueError("moments of its own")
    text: bytes = dumps(message).encode()
    blank = text.replace(b"%", b"%%")
    values = _values(app, task, id, properties["delivery_tag"], b64decode(message["body"]))
    for name, value in values.items():
        if blank.count(value) != _TIMES[name]:
            raise ValueError(f"{name!r} stands elsewhere")
        blank = blank.replace(value, b"%%(%b)b" % name)
    if blank % values != text:
        raise ValueError("not the same")
    return blank
