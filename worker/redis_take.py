"""How a consumer takes messages from kombu's lists in Redis, and how it waits for one.

A take is one script: there is no moment at which only a process or the network holds a message. Waiting removes
nothing: Redis tells of changes of the empty lists (CLIENT TRACKING, in RESP3), which wakes every consumer, and one
gets the message. Who waits looks again after a second anyway: a lost notice costs time, never a message.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, time
from typing import Any

from kombu.log import get_logger
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

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
#: Gives number of queue, message, number of queue, message ... The n-th message is recorded as <tag prefix><n>.
TAKE = """
local now, prefix, room, bytes, fair = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[6] == '1'
local queues, backlog, length, order, found = tonumber(ARGV[7]), 0, {}, {}, {}
if #ARGV > 7 + queues then
  redis.call('HDEL', KEYS[1], unpack(ARGV, 8 + queues))
  redis.call('ZREM', KEYS[2], unpack(ARGV, 8 + queues))
end
if room == 0 then return found end
for key = 3, #KEYS do
  length[key] = redis.call('LLEN', KEYS[key])
  backlog = backlog + length[key]
end
room = math.min(room, math.ceil(backlog / ARGV[5]))
for queue = 1, queues do order[queue] = queue end
local function record(tag, item, ending)
  redis.call('ZADD', KEYS[2], now, tag)
  redis.call('HSET', KEYS[1], tag, '[' .. item .. ending)
end
for step = 2, #KEYS - queues, queues do
  local place = 1
  while place <= queues and room > 0 do
    local queue = order[place]
    local key, ending = step + queue, ARGV[7 + queue]
    if length[key] == 0 then
      place = place + 1
    else
      local item = redis.call('RPOP', KEYS[key])
      local done, why = true, nil
      if ending ~= '' and string.byte(item) == 123 then
        done, why = pcall(record, prefix .. (#found / 2 + 1), item, ending)
      end
      if not done then
        redis.call('RPUSH', KEYS[key], item)
        if #found == 0 then return redis.error_reply(type(why) == 'table' and why.err or why) end
        return found
      end
      found[#found + 1] = queue
      found[#found + 1] = item
      length[key], room, bytes = length[key] - 1, room - 1, bytes - #item
      if bytes <= 0 or ending == '' then room = 0 end
      if fair then table.insert(order, table.remove(order, place)) end
    end
  end
end
return found
"""


@dataclass(frozen=True)
class Taken:
    """A message as it lay in its queue; `tag` is the delivery tag under which it is recorded, None when it is not."""

    queue: str
    tag: str | None
    item: bytes

    def payload(self) -> Any:
        """The message as kombu knows it, with its delivery tag. Raises one of UNREADABLE when it is none."""
        payload = loads(bytes_to_str(self.item))
        if self.tag:
            payload["properties"]["delivery_tag"] = self.tag
        return payload


@dataclass(frozen=True)
class Take:
    """One run of the script: who asks for how many messages of which queues."""

    prefix: str
    queues: Sequence[str]
    #: Queues whose messages nobody will acknowledge.
    unrecorded: frozenset[str]
    room: int

    def command(self, keys: Sequence[str], *, fair: bool, acked: Sequence[str]) -> tuple[Any, ...]:
        """The Redis command. `keys`: see the script. Whole text, not EVALSHA: a Redis that restarted has no scripts."""
        # The exchange is left empty and the queue named, so that a message goes back to where it was taken from, alone.
        endings = ["" if queue in self.unrecorded else f',"",{dumps(queue)}]' for queue in self.queues]
        limits = (self.room, TAKE_BYTES, SHARE, int(fair), len(self.queues))
        return ("EVAL", TAKE, len(keys), *keys, time(), self.prefix, *limits, *endings, *acked)

    def read(self, reply: Sequence[Any]) -> list[Taken]:
        """What the script gave."""
        names = [self.queues[int(number) - 1] for number in reply[::2]]
        tags = [None if name in self.unrecorded else f"{self.prefix}{place}" for place, name in enumerate(names, 1)]
        return [Taken(*each) for each in zip(names, tags, reply[1::2], strict=True)]


@contextmanager
def refusals() -> Iterator[None]:
    """A Redis that takes no writes (disk full, replica, no replicas) is away: Celery tries again by itself."""
    try:
        yield
    except ResponseError as error:
        raise RedisConnectionError(f"Redis refused: {error}") from error


class Talk:
    """What the consuming connection is about: a take under way, a wait for notice, or nothing."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, on a connection without past."""
        self.take: Take | None = None
        self.tracking = False
        self.waiting_since: float | None = None

    def ask(self, connection: Any, take: Take, command: tuple[Any, ...]) -> None:
        """Send a take; its answer is to be read when the socket is readable."""
        self.take, self.waiting_since = take, None
        # Notices that are on their way come before the answer to this, so the connection is clean after it.
        off = [("CLIENT", "TRACKING", "OFF")] if self.tracking else []
        connection.send_packed_command(connection.pack_commands([*off, command]))

    def answer(self, connection: Any) -> list[Taken]:
        """Read what the take has brought."""
        take, tracking = self.take, self.tracking
        self.forget()
        with refusals():
            if tracking:
                connection.read_response()
            reply = connection.read_response()
        return take.read(reply) if take else []

    def wait(self, connection: Any, lists: Sequence[str]) -> bool:
        """Ask for notice of any change of these lists; False when one of them has something already.

        Redis looks and begins to watch in one step, so nothing is missed in between.
        """
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
        self.forget()
