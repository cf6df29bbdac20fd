"""Both brokers as the chaos harness sees them: killed, emptied, started again, and asked whether anything waits."""

import json
import time
from pathlib import Path
from typing import Any, Protocol, Self

import redis

from tests.rabbit import RabbitServer
from tests.servers import RedisTestServer

#: Beat's ticks, which come and go whatever happens.
TICKS = "maintenance"
QUEUES = ("notifications", "bulk", "email_high", "email", "inbox", "handwritten")


class Broker(Protocol):
    """A private broker."""

    port: int

    def __enter__(self) -> Self:
        """Start."""
        ...

    def __exit__(self, *exc: object) -> None:
        """Stop."""
        ...

    def start(self) -> object:
        """Start again, on the same data."""
        ...

    def kill(self) -> None:
        """Stop by SIGKILL."""
        ...

    def url_at(self, port: int) -> str:
        """Give its URL behind this port."""
        ...

    def is_idle(self) -> bool:
        """Tell whether no message waits or is unacknowledged, but for beat's ticks."""
        ...

    def results(self) -> str:
        """Give every result that it holds."""
        ...

    def empty(self) -> None:
        """Throw away all that it holds."""
        ...


class RedisBroker(RedisTestServer):
    """Redis that writes every command to disk before it answers."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, extra=("--appendfsync", "always"))

    def url_at(self, port: int) -> str:
        """Give its URL behind this port."""
        return f"redis://127.0.0.1:{port}/0"

    def is_idle(self) -> bool:
        """Tell whether no message waits or is unacknowledged, but for beat's ticks."""
        with redis.Redis.from_url(self.url) as client:
            held = [json.loads(value)[2] for value in client.hvals("unacked")]
            return not any(client.llen(name) for name in QUEUES) and not [name for name in held if name != TICKS]

    def results(self) -> str:
        """Give every result that it holds."""
        with redis.Redis.from_url(self.url) as client:
            return "\n".join(str(client.get(key)) for key in client.scan_iter("celery-task-meta-*"))

    def empty(self) -> None:
        """Throw away all that it holds."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()


class RabbitBroker(RabbitServer):
    """RabbitMQ; asking it for its queues is slow, so an answer is kept for a moment."""

    _asked_at = 0.0
    _idle = False

    def url_at(self, port: int) -> str:
        """Give its URL behind this port."""
        return f"amqp://guest:guest@127.0.0.1:{port}//"

    def is_idle(self) -> bool:
        """Tell whether no message waits or is unacknowledged, but for beat's ticks."""
        if time.monotonic() - self._asked_at > 1:
            lines: list[Any] = [line.split() for line in self.ctl("list_queues", "name", "messages").splitlines()]
            self._idle = not any(int(line[1]) for line in lines if line[0] in QUEUES)
            self._asked_at = time.monotonic()
        return self._idle

    def results(self) -> str:
        """Nothing: results lie in their callers' queues."""
        return ""

    def empty(self) -> None:
        """Throw away all that it holds."""
        for name in QUEUES:
            with self.channel() as channel:
                channel.queue_purge(name)


def make_broker(kind: str, folder: Path) -> Broker:
    """Make a `redis` or a `rabbitmq`, not yet started."""
    return RabbitBroker(folder) if kind == "rabbitmq" else RedisBroker(folder)
