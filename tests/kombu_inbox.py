"""Consumers on stock kombu or on our transport, in this process, and a Redis for them."""

import contextlib
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kombu import Connection, Consumer, Producer, Queue

from tests.servers import RedisTestServer

OURS, STOCK = "worker.redis_transport:Transport", "kombu.transport.redis:Transport"
Connect = Callable[..., Any]
consumer: Any = Consumer  # without types


@contextmanager
def emptied(server: RedisTestServer) -> Iterator[Any]:
    """A client of the server, which is empty."""
    with server.server.client() as client:
        client.flushall()
        yield client


@contextmanager
def connections(server: RedisTestServer) -> Iterator[Connect]:
    """Connections on either transport, with these transport options."""
    with contextlib.ExitStack() as stack:

        def connect(transport: str = OURS, url: str = "", **options: Any) -> Connection:
            connection = Connection(url or server.url, transport=transport, transport_options=options)
            stack.callback(connection.release)
            return connection

        yield connect


def publish(connection: Connection, *bodies: Any, queue: str = "work", priority: int = 0) -> None:
    """Send bodies to a queue."""
    producer = Producer(connection)
    for body in bodies:
        producer.publish(body, routing_key=queue, priority=priority)


class Inbox(consumer):  # type: ignore[misc]
    """A consumer that keeps what it gets."""

    def __init__(self, connection: Connection, *queues: str, prefetch: int = 0, no_ack: bool = False) -> None:
        self.messages: list[Any] = []
        super().__init__(
            connection, [Queue(name) for name in queues or ("work",)], on_message=self.messages.append, no_ack=no_ack
        )
        if prefetch:
            self.qos(prefetch_count=prefetch)
        self.consume()

    def drain(self, count: int) -> "Inbox":
        """Wait until there are so many messages."""
        while len(self.messages) < count:
            self.connection.drain_events(timeout=3)
        return self

    def idle(self) -> None:
        """See that nothing more comes."""
        count = len(self.messages)
        with contextlib.suppress(TimeoutError):
            while True:
                self.connection.drain_events(timeout=0.1)
        assert count == len(self.messages)

    def bodies(self) -> list[Any]:
        """What has come, in order."""
        return [message.payload for message in self.messages]


def kinds(name: str, stock: Any, ours: Any) -> pytest.MarkDecorator:
    """Run the test on stock and on ours, with what is expected of each as the argument `name`."""
    return pytest.mark.parametrize(("transport", name), [(STOCK, stock), (OURS, ours)])


both = pytest.mark.parametrize("transport", [STOCK, OURS])


def waiting(redis: Any) -> int:
    """How many connections Redis gives notice to."""
    return sum("t" in client["flags"] for client in redis.client_list())


def forked(run: Callable[[], object]) -> int:
    """Run this in a child of this process, and give its exit code: 1 where it came to its end."""
    with warnings.catch_warnings():  # Python 3.12 and later warn of threads, which the child does not use
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        try:
            run()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die(*args: object, **kwargs: object) -> None:
    """Stands in for the function at which a process is killed."""
    os.kill(os.getpid(), signal.SIGKILL)
