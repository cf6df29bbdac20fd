"""How a consumer takes messages from kombu's lists in Redis, and how it waits for one.

A take is one script: there is no moment at which only a process or the network holds a message. Waiting removes
nothing: Redis tells of changes of the empty lists (CLIENT TRACKING, in RESP3), which wakes every consumer, and one
gets the message. Who waits looks again after a second anyway: a lost notice costs time, never a message.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, time
from typing import Any, Self

from kombu.log import get_logger
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from redis.exceptions import ResponseError

from worker.redis_qos import refusals

logger = get_logger(__name__)

#: Most messages of one take, and most acknowledgements that wait for one.
BATCH = 100

#: Bytes after which a take ends, so that no take holds up Redis for long.
TAKE_BYTES = 1_000_000

#: A take gets one in so many of the waiting messages, rounded up, so that a burst is shared among idle workers.
SHARE = 16

#: What reading something else than a message raises.
UNREADABLE = (AttributeError, KeyError, TypeError, ValueError)

#: Acknowledge, then take: the most urgent step first and round robin over the queues within a step, as BRPOP by BRPOP
#: would. KEYS: `unacked`, `unacked_index`, then for each priority step the list of each queue. ARGV: time, tag prefix,
#: most messages, most bytes, share, 1 for round robin, number of queues, then per queue what ends a record (empty:
#: messages are not acknowledged, so not recorded, and the take ends with the first one), then acknowledged tags.
#: Gives how many messages are left, then number of queue, message, number of queue, message ... The n-th message is
#: recorded as <tag prefix><n>.
#: What cannot be recorded goes back, all of it. What does not begin as a JSON object is no message, and not recorded.
#: Run again because its answer was lost, it takes nothing: it would write over the records of the first run.
TAKE = """
local now, prefix, room, bytes, fair = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[6] == '1'
local queues, backlog, length, order = tonumber(ARGV[7]), 0, {}, {}
local found, home, scores, records = {0}, {}, {}, {}
if #ARGV > 7 + queues then
  redis.call('HDEL', KEYS[1], unpack(ARGV, 8 + queues))
  redis.call('ZREM', KEYS[2], unpack(ARGV, 8 + queues))
end
if room == 0 or redis.call('HEXISTS', KEYS[1], prefix .. '1') == 1 then return found end
for key = 3, #KEYS do
  length[key] = redis.call('LLEN', KEYS[key])
  backlog = backlog + length[key]
end
room = math.min(room, math.ceil(backlog / ARGV[5]))
for queue = 1, queues do order[queue] = queue end
for step = 2, #KEYS - queues, queues do
  local place = 1
  while place <= queues and room > 0 do
    local queue = order[place]
    local key, ending = step + queue, ARGV[7 + queue]
    if length[key] == 0 then
      place = place + 1
    else
      local item = redis.call('RPOP', KEYS[key])
      home[#home + 1], found[#found + 1] = key, queue
      found[#found + 1] = item
      if ending ~= '' and string.byte(item) == 123 then
        local tag = prefix .. #home
        scores[#scores + 1], records[#records + 1] = now, tag
        scores[#scores + 1], records[#records + 1] = tag, '[' .. item .. ending
      end
      length[key], room, bytes = length[key] - 1, room - 1, bytes - #item
      if bytes <= 0 or ending == '' then room = 0 end
      if fair then table.insert(order, table.remove(order, place)) end
    end
  end
end
if #records > 0 then
  local done, why = pcall(redis.call, 'ZADD', KEYS[2], unpack(scores))
  if done then done, why = pcall(redis.call, 'HSET', KEYS[1], unpack(records)) end
  if not done then
    for place = #home, 1, -1 do redis.call('RPUSH', KEYS[home[place]], found[2 * place + 1]) end
    return redis.error_reply(type(why) == 'table' and why.err or why)
  end
end
found[1] = backlog - #home
return found
"""

#: Redis keeps who wanted notice of a key until the key changes, also for connections that are long gone. So change
#: the lists that are empty, leaving them empty; otherwise each start of a worker would cost a little memory for ever.
FORGET = """
for _, key in ipairs(KEYS) do
  if redis.call('EXISTS', key) == 0 then
    redis.call('RPUSH', key, '')
    redis.call('RPOP', key)
  end
end
"""


@dataclass(frozen=True)
class Taken:
    """A message as it lay in its queue; `tag` is the delivery tag under which it is recorded, None when it is not."""

    queue: str
    tag: str | None
    item: bytes
    alone: bool = False
    """Whether no other message waited, in any of the queues."""

    def payload(self) -> Any:
        """The message as kombu knows it, with its delivery tag. Raises one of UNREADABLE when it is none."""
        text = bytes_to_str(self.item)
        # The same, without a Python call for each object, unless there are kombu's own types to make.
        payload = loads(text) if '"__type__"' in text else json.loads(text)
        if self.tag:
            payload["properties"]["delivery_tag"] = self.tag
        return payload


def pack(*values: Any) -> bytes:
    """Values of a command as Redis reads them: bulk strings of RESP."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(text), text) for text in [str(value).encode() for value in values]])


@dataclass(frozen=True, slots=True)
class Packed:
    """What is the same in every take of the same queues."""

    count: int
    head: bytes
    tail: bytes

    @classmethod
    def of(cls, command: Sequence[Any]) -> Self:
        """Of a take's command: what comes before and after the time, the prefix and the room."""
        keys_end = 3 + int(command[2])
        return cls(len(command), pack(*command[:keys_end]), pack(*command[keys_end + 3 :]))


@dataclass(frozen=True)
class Take:
    """One run of the script: who asks for how many messages of which queues."""

    prefix: str
    queues: Sequence[str]
    #: Queues whose messages nobody will acknowledge.
    unrecorded: frozenset[str]
    room: int

    def packed(self, same: Packed, acked: Sequence[str]) -> bytes:
        """The command as it is sent, with acknowledgements; `same`: of the same queues."""
        own = pack(time(), self.prefix, self.room)
        return b"*%d\r\n%b%b%b%b" % (same.count + len(acked), same.head, own, same.tail, pack(*acked))

    def command(self, keys: Sequence[str], *, fair: bool) -> tuple[Any, ...]:
        """The Redis command. `keys`: see the script. Whole text, not EVALSHA: a Redis that restarted has no scripts."""
        # The exchange is left empty and the queue named, so that a message goes back to where it was taken from, alone.
        endings = ["" if queue in self.unrecorded else f',"",{dumps(queue)}]' for queue in self.queues]
        limits = (TAKE_BYTES, SHARE, int(fair), len(self.queues))
        return ("EVAL", TAKE, len(keys), *keys, time(), self.prefix, self.room, *limits, *endings)

    def read(self, reply: Sequence[Any]) -> list[Taken]:
        """What the script gave."""
        names = [self.queues[int(number) - 1] for number in reply[1::2]]
        tags = [None if name in self.unrecorded else f"{self.prefix}{place}" for place, name in enumerate(names, 1)]
        alone = len(names) == 1 and reply[0] == 0
        return [Taken(*each, alone) for each in zip(names, tags, reply[2::2], strict=True)]


_OFF = b"*3\r\n" + pack("CLIENT", "TRACKING", "OFF")


class Talk:
    """What the consuming connection is about: a take under way, a wait for notice, or nothing."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, on a connection without past."""
        self.take: Take | None = None
        self.tracking = False
        self.waiting_since: float | None = None
        self.watched: Sequence[str] = ()

    def ask(self, connection: Any, take: Take, command: bytes) -> None:
        """Send a take; its answer is to be read when the socket is readable."""
        self.take, self.waiting_since = take, None
        # Notices that are on their way come before the answer to this, so the connection is clean after it.
        connection.send_packed_command([_OFF, command] if self.tracking else [command])

    def answer(self, connection: Any) -> list[Taken]:
        """Read what the take has brought."""
        take, self.take = self.take, None
        with refusals():
            if self.tracking:
                self.tracking = False
                connection.read_response()
            reply = connection.read_response()
        return take.read(reply) if take else []

    def wait(self, connection: Any, lists: Sequence[str]) -> bool:
        """Ask for notice of any change of these lists; False when one of them has something already.

        Redis looks and begins to watch in one step, so nothing is missed in between.
        """
        if self.watched != lists:
            self._forget_watchers(connection, lists)
        commands = [("CLIENT", "TRACKING", "ON"), ("EXISTS", *lists)]
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        try:
            connection.read_response()
            self.tracking = True
        except ResponseError as error:
            logger.warning("Redis gives no notice of new messages; looking each second. %s", error)
        with refusals():
            filled = connection.read_response()
        if filled or connection.can_read(timeout=0):
            return False
        self.waiting_since = monotonic()
        return True

    def end(self, connection: Any) -> None:
        """Want no more notices."""
        if self.tracking:
            connection.send_command("CLIENT", "TRACKING", "OFF", check_health=False)
            connection.read_response()
        if self.watched:
            self._forget_watchers(connection, self.watched)
        self.forget()

    def _forget_watchers(self, connection: Any, lists: Sequence[str]) -> None:
        self.watched = lists
        connection.send_command("EVAL", FORGET, len(lists), *lists, check_health=False)
        with suppress(ResponseError):  # a Redis that is full or takes no writes forgets them another time
            connection.read_response()
