"""Take the other messages of a task that already wait in its queue, so that one run does the work of many, safely.

Only plain first deliveries are gathered; whatever differs is left to the ordinary way, and nothing less urgent
overtakes it. Until `ack`, a gathered message is recorded as taken, so that a killed process loses none: they come back
after the visibility time-out as redelivered, and then run one by one.
"""

import json
import logging
import os
import threading
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import time
from typing import Any, Protocol
from uuid import uuid4

from kombu.exceptions import OperationalError
from pydantic_core import from_json

from worker import signing
from worker.redis_transport import Channel as RedisChannel

logger = logging.getLogger(__name__)

#: Most messages of one gathering, whatever is asked for: Redis' scripts pass on some thousand values at once.
MOST = 1000

#: Bytes of messages, as they lie in Redis, at which a gathering ends.
MOST_BYTES = 1_000_000

#: What every message that may be gathered has in it, as kombu writes it, and what it must not have. Inside a JSON
#: string the quotes would be escaped, so no value can pass for these; what is nested in another object is found by
#: `_read`.
NEEDED = ('"eta": null', '"expires": null', '"retries": 0', '"content-type": "application/json"')
REDELIVERED = '"redelivered": true'

#: How such a message is written: content type, encoding, and the body's own.
PLAIN = ("application/json", "utf-8", "base64")

#: What reading something else than such a message raises.
UNREADABLE = (AttributeError, KeyError, TypeError, ValueError)

#: Record, then remove. KEYS: `unacked`, `unacked_index`, then the list of each priority step. ARGV: time, tag prefix,
#: most messages, most bytes, what ends a record, what must not be in a message, then what must. Gives messages, of
#: which the n-th is recorded as <tag prefix><n>. The end of a list is its front. Run again, it gives nothing: the
#: answer to the first run was lost, and its records stand.
GATHER = """
local now, prefix, room, bytes = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local found, scores, records, taken = {}, {}, {}, {}
local function wanted(item)
  if not item or #found >= room or #item > bytes or string.find(item, ARGV[6], 1, true) then return false end
  for each = 7, #ARGV do
    if not string.find(item, ARGV[each], 1, true) then return false end
  end
  return true
end
if redis.call('HEXISTS', KEYS[1], prefix .. '1') == 1 then return found end
for key = 3, #KEYS do
  local place = 1
  local item = redis.call('LINDEX', KEYS[key], -place)
  while wanted(item) do
    found[#found + 1], bytes = item, bytes - #item
    scores[#scores + 1], records[#records + 1] = now, prefix .. #found
    scores[#scores + 1], records[#records + 1] = prefix .. #found, '[' .. item .. ARGV[5]
    place = place + 1
    item = redis.call('LINDEX', KEYS[key], -place)
  end
  taken[key] = place - 1
  if item then break end
end
if #found > 0 then
  redis.call('ZADD', KEYS[2], unpack(scores))
  redis.call('HSET', KEYS[1], unpack(records))
  for key, count in pairs(taken) do
    if count > 0 then redis.call('LTRIM', KEYS[key], 0, -1 - count) end
  end
end
return found
"""


@dataclass(frozen=True)
class TaskMessage:
    """A task that waited: its id, and its keyword arguments as the producer sent them, unchecked."""

    id: str
    kwargs: dict[str, Any]


class _Source(Protocol):
    """Where messages were taken from. What it is given is the tag under which each is known there."""

    def ack(self, tags: Sequence[str]) -> None: ...

    def give_back(self, tags: Sequence[str]) -> None: ...


class Gathered:
    """Messages in the order in which they waited, which nobody else has; to be acknowledged or given back."""

    def __init__(self, source: _Source | None = None, taken: Sequence[tuple[str, TaskMessage]] = ()) -> None:
        self._source = source
        self._tags = {id(message): tag for tag, message in taken}
        self.messages = [message for _, message in taken]

    def ack(self) -> None:
        """All that are still in `messages` are done. A broker that is away gives them again, later."""
        self._settle("ack", self.messages)

    def give_back(self, *messages: TaskMessage) -> None:
        """Put these, or all, back to the front of their queue, marked as redelivered: each will run by itself.

        A broker that is away gives them again, later.
        """
        self._settle("give_back", messages or self.messages)

    def _settle(self, how: str, messages: Sequence[TaskMessage]) -> None:
        tags = [self._tags.pop(id(message)) for message in messages]
        self.messages = [message for message in self.messages if id(message) in self._tags]
        if self._source and tags:
            with _broker_may_be_away(f"{len(tags)} gathered messages come back later"):
                getattr(self._source, how)(tags)


def gather(app: Any, queue: str, task_name: str, limit: int) -> Gathered:
    """Take up to `limit` messages of this task that wait in this queue now, without waiting for any.

    `app`: the Celery app, on whose broker this process (and thread) keeps a connection of its own. Gives nothing
    where the broker is away, or is not Redis with our transport.
    """
    with _broker_may_be_away("nothing is gathered"):
        channel = _channel(app)
        if isinstance(channel, RedisChannel):
            return _gather_redis(channel, queue, task_name, min(limit, MOST))
    return Gathered()


class _Redis:
    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def ack(self, tags: Sequence[str]) -> None:
        channel = self._channel
        with channel.conn_or_acquire() as client:
            client.pipeline().hdel(channel.unacked_key, *tags).zrem(channel.unacked_index_key, *tags).execute()

    def give_back(self, tags: Sequence[str]) -> None:
        for tag in reversed(tags):  # the oldest last, so that it is the next to be taken
            self._channel.qos.restore_by_tag(tag)


def _gather_redis(channel: Any, queue: str, task_name: str, limit: int) -> Gathered:
    names = (channel.unacked_key, channel.unacked_index_key)
    lists = [channel._q_for_pri(queue, step) for step in channel.priority_steps]
    keys = [channel.global_keyprefix + name for name in (*names, *lists)]
    prefix = f"{uuid4()}:"
    ending = f',"",{json.dumps(queue)}]'
    signs = (REDELIVERED, f'"task": {json.dumps(task_name)}', *NEEDED)
    with channel.conn_or_acquire() as client:
        command = ("EVAL", GATHER, len(keys), *keys, time(), prefix, limit, MOST_BYTES, ending, *signs)
        items = client.execute_command(*command)
    source, taken, others = _Redis(channel), [], []
    for place, item in enumerate(items, 1):
        message = _read(item, task_name)
        if message:
            taken.append((f"{prefix}{place}", message))
        else:
            others.append(f"{prefix}{place}")
    source.give_back(others)
    return Gathered(source, taken)


def _read(item: bytes, task_name: str) -> TaskMessage | None:
    """The message, or None where it is not a plain one of this task; one that must not run is refused by itself."""
    try:
        message = from_json(item)
        headers, properties = message["headers"], message["properties"]
        kinds = message["content-type"], message["content-encoding"], properties.get("body_encoding")
        body = b64decode(message["body"])
        if signing.refusal(headers["task"], headers["id"], body, headers):
            return None
        # Compressed, or with values of kombu's own types, it is for Celery to read.
        if kinds != PLAIN or headers.get("compression") or b'"__type__"' in body:
            return None
        arguments, kwargs, embedded = from_json(body)
        plain = task_name == headers["task"] and not any(headers[name] for name in ("eta", "expires", "retries"))
        if plain and not arguments and not any(embedded.values()) and isinstance(kwargs, dict):
            return TaskMessage(str(headers["id"]), kwargs)
    except UNREADABLE:
        pass
    return None


class _Own(threading.local):
    """This thread's connection to the broker."""

    key: tuple[int, int] | None = None
    connection: Any = None
    channel: Any = None


_own = _Own()


def _channel(app: Any) -> Any:
    key = (os.getpid(), id(app))
    if _own.channel is None or _own.key != key:  # after a fork, the parent's is not ours
        _own.key, _own.connection = key, app.connection_for_write()
        _own.channel = _own.connection.channel()
    return _own.channel


@contextmanager
def _broker_may_be_away(consequence: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        connection, _own.channel = _own.connection, None
        if not isinstance(error, (*connection.connection_errors, *connection.channel_errors, OperationalError)):
            raise
        logger.warning("The broker is away: %s (%s)", consequence, type(error).__name__)
        connection.collect()
