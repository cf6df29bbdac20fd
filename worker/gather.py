"""Take the other messages of a task that already wait in its queue, so that one run does the work of many, safely.

Only plain first deliveries are gathered; whatever differs is left to the ordinary way, and nothing less urgent
overtakes it. Until `ack`, a gathered message is recorded as taken, so that a killed process loses none: they come back
after the visibility time-out as redelivered, and then run one by one.
"""

import json
import logging
import os
import threading
from binascii import a2b_base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from time import time
from typing import Any, NamedTuple, Protocol
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
#: `_read`. The task's name comes after the first.
NEEDED = ('"content-type": "application/json"', '"eta": null', '"expires": null', '"retries": 0')
REDELIVERED = '"redelivered": true'

#: How such a message is written: content type, encoding, and the body's own.
PLAIN = ("application/json", "utf-8", "base64")

#: What reading something else than such a message raises.
UNREADABLE = (AttributeError, KeyError, TypeError, ValueError)

#: Record, then remove. KEYS: `unacked`, `unacked_index`, then the list of each priority step. ARGV: time, tag prefix,
#: most messages, most bytes, what ends a record, what must not be in a message, then what must, best in the order in
#: which kombu writes it: each is looked for behind the one before it. Gives messages, of which the n-th is recorded as
#: <tag prefix><n>. The end of a list is its front. Run again, it gives nothing: the answer to the first run was lost,
#: and its records stand.
GATHER = """
local now, prefix, room, bytes = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local found, scores, records, taken = {}, {}, {}, {}
local function wanted(item)
  if not item or #found >= room or #item > bytes then return false end
  local place = 1
  for each = 7, #ARGV do
    place = string.find(item, ARGV[each], place, true) or string.find(item, ARGV[each], 1, true)
    if not place then return false end
  end
  return not string.find(item, ARGV[6], place, true)
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

#: Remove records. KEYS: `unacked`, `unacked_index`. ARGV: tag prefix, then first and last number of each run of them.
ACK = """
for run = 2, #ARGV, 2 do
  local tags = {}
  for number = ARGV[run], ARGV[run + 1] do tags[#tags + 1] = ARGV[1] .. number end
  redis.call('HDEL', KEYS[1], unpack(tags))
  redis.call('ZREM', KEYS[2], unpack(tags))
end
"""


class TaskMessage(NamedTuple):
    """A task that waited: its id, and its keyword arguments as the producer sent them, unchecked."""

    id: str
    kwargs: dict[str, Any]


class _Source(Protocol):
    """Where messages were taken from. What it is given is their places in the gathering, in rising order."""

    def ack(self, places: Sequence[int]) -> None: ...

    def give_back(self, places: Sequence[int]) -> None: ...


class Gathered:
    """Messages in the order in which they waited, which nobody else has; to be acknowledged or given back."""

    def __init__(self, source: _Source | None = None, taken: Sequence[tuple[int, TaskMessage]] = ()) -> None:
        self._source = source
        self._places = {id(message): place for place, message in taken}
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
        places = sorted(self._places.pop(id(message)) for message in messages)
        self.messages = [message for message in self.messages if id(message) in self._places]
        if self._source and places:
            with _broker_may_be_away(f"{len(places)} gathered messages come back later"):
                getattr(self._source, how)(places)


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
    def __init__(self, channel: Any, prefix: str) -> None:
        self._channel, self._prefix = channel, prefix

    def ack(self, places: Sequence[int]) -> None:
        keys = self._channel.keys(self._channel.unacked_key, self._channel.unacked_index_key)
        with self._channel.conn_or_acquire() as client:
            client.execute_command("EVAL", ACK, len(keys), *keys, self._prefix, *_runs(places))

    def give_back(self, places: Sequence[int]) -> None:
        for place in reversed(places):  # the oldest last, so that it is the next to be taken
            self._channel.qos.restore_by_tag(f"{self._prefix}{place}")


def _runs(places: Sequence[int]) -> list[int]:
    """First and last, first and last ... of the numbers that follow each other."""
    ends = [place for place, after in pairwise(places) if after != place + 1]
    begins = [after for place, after in pairwise(places) if after != place + 1]
    return [end for run in zip([places[0], *begins], [*ends, places[-1]], strict=True) for end in run]


def _gather_redis(channel: Any, queue: str, task_name: str, limit: int) -> Gathered:
    names = (channel.unacked_key, channel.unacked_index_key)
    lists = [channel._q_for_pri(queue, step) for step in channel.priority_steps]
    keys = channel.keys(*names, *lists)
    prefix = f"{uuid4()}:"
    ending = f',"",{json.dumps(queue)}]'
    signs = (REDELIVERED, NEEDED[0], f'"task": {json.dumps(task_name)}', *NEEDED[1:])
    with channel.conn_or_acquire() as client:
        command = ("EVAL", GATHER, len(keys), *keys, time(), prefix, limit, MOST_BYTES, ending, *signs)
        items = client.execute_command(*command)
    source = _Redis(channel, prefix)
    read = [(place, _read(item, task_name)) for place, item in enumerate(items, 1)]
    source.give_back([place for place, message in read if message is None])
    return Gathered(source, [(place, message) for place, message in read if message])


def _read(item: bytes, task_name: str) -> TaskMessage | None:
    """The message, or None where it is not a plain one of this task; one that must not run is refused by itself."""
    try:
        message = from_json(item, cache_strings="keys")
        headers, properties = message["headers"], message["properties"]
        kinds = message["content-type"], message["content-encoding"], properties.get("body_encoding")
        body = a2b_base64(message["body"])
        if signing.refusal(headers["task"], headers["id"], body, headers):
            return None
        # Compressed, or with values of kombu's own types, it is for Celery to read.
        if kinds != PLAIN or headers.get("compression") or b'"__type__"' in body:
            return None
        arguments, kwargs, embedded = from_json(body, cache_strings="keys")
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
