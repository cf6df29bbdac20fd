"""What a Redis channel has taken and not acknowledged: recorded in `unacked`, given back without losing it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kombu.log import get_logger
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

logger = get_logger(__name__)
stock: Any = kombu_redis  # mostly without types

#: Put a message back, once, whoever else tries or acknowledges it meanwhile. KEYS: `unacked`, `unacked_index`, lists.
#: ARGV: delivery tag, LPUSH or RPUSH, then the message for each list. It is pushed before its record goes.
GIVE_BACK = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  for place = 3, #KEYS do redis.call(ARGV[2], KEYS[place], ARGV[place]) end
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
"""


class Pushes:
    """Stands in for the pipeline that kombu fills when it restores a message."""

    def __init__(self) -> None:
        self.lists: list[str] = []
        self.texts: list[str] = []

    def rpush(self, key: str, text: str) -> None:
        """Note a message that goes back."""
        self.lists.append(key)
        self.texts.append(text)

    lpush = rpush


@contextmanager
def refusals() -> Iterator[None]:
    """A Redis that takes no writes (disk full, replica, no replicas) is away: Celery tries again by itself."""
    try:
        yield
    except ResponseError as error:
        raise RedisConnectionError(f"Redis refused: {error}") from error


def _parts(record: bytes) -> list[Any]:
    """The message, exchange and routing key of a record; nothing where a killed worker had taken what is no message.

    Stock raises, at every sweep, and never comes to the records behind it.
    """
    try:
        message, exchange, routing_key = loads(bytes_to_str(record))
        return [message, exchange, routing_key] if message["properties"] else []
    except (KeyError, TypeError, ValueError) as error:
        logger.error("Dropped from `unacked` what is no message: %s", type(error).__name__)
        return []


class QoS(stock.QoS):  # type: ignore[misc]
    """What a channel has taken and not yet acknowledged."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Stock: record the message in `unacked`, after BRPOP removed it; a SIGKILL in between loses it.

        A message that `TAKE` brought is recorded already.
        """
        if str(delivery_tag).startswith(self.channel.tag):
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Stock: a round trip per message. With an event loop, acknowledgements go with the next take."""
        if self.channel.owe(delivery_tag):
            virtual.QoS.ack(self, delivery_tag)
        else:
            with refusals():
                super().ack(delivery_tag)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Stock: a transaction that starts over when anybody touches `unacked`; beside busy workers it never ends."""
        pushes, channel = Pushes(), self.channel
        with channel.conn_or_acquire(client) as client, refusals():
            if (record := client.hget(self.unacked_key, tag)) and (parts := _parts(record)):
                channel._do_restore_message(*parts, pushes, leftmost)
                if not pushes.lists:  # recorded by stock, through an exchange unknown here; stock would remove it
                    return
            keys = channel.keys(self.unacked_key, self.unacked_index_key, *pushes.lists)
            end = "LPUSH" if leftmost else "RPUSH"
            client.execute_command("EVAL", GIVE_BACK, len(keys), *keys, tag, end, *pushes.texts)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Stock; a Redis that refuses writes is away."""
        with refusals():
            super().restore_visible(*args, **kwargs)

    def restore_unacked(self, client: Any = None) -> None:
        """Stock: an outage leaves the closing half done, and a second closing ends in an AssertionError.

        What cannot be given back now stays recorded, and comes back after the visibility time-out.
        """
        try:
            super().restore_unacked(client)
        except self.channel.connection_errors as error:
            self.channel.report_left(len(self._delivered), error)
            self._delivered.clear()
