"""Our Redis transport beside stock kombu: what stock does wrong, and what stays as it is."""

import contextlib
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection, Exchange, Producer, Queue
from kombu.exceptions import BatchPublishError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from tests.chaos_transport import silent_port
from tests.kombu_inbox import OURS, STOCK, Connect, Inbox, both, kinds, publish
from tests.servers import RedisTestServer
from worker import redis_transport


@kinds("error", AttributeError, RedisConnectionError)
def test_closing_after_an_outage(tmp_path: Path, transport: str, error: type[Exception]) -> None:
    """As Celery does it: collect, close, acknowledge. Stock raises what Celery does not know, and the worker ends."""
    with RedisTestServer(tmp_path / "redis") as server:
        connection = Connection(server.url, transport=transport)
        inbox = Inbox(connection, prefetch=2)
        Inbox(connection.channel(), "other")
        publish(connection, "held")
        inbox.drain(1).idle()
        server.kill()
        connection.collect(socket_timeout=1)
        raised: list[type[BaseException]] = []
        for step in (connection.close, inbox.messages[0].ack):
            try:
                step()
            except Exception as reason:
                raised.append(type(reason))
        server.start()
    assert {error} == set(raised)


PUBLISHER = """
import sys; sys.path.insert(0, ".")
from kombu import Connection
{patch}
try:
    once = {{"max_retries": 1, "interval_start": 0}}
    Connection("redis://127.0.0.1:{port}", transport={transport!r}, transport_options=once).default_channel
except Exception as error:
    print(type(error).__name__)
"""


def test_a_silent_broker_holds_no_publisher() -> None:
    """The host takes the connection and says nothing: stock waits for ever, ours as long as its time-out."""
    assert (5, 2) == (redis_transport.Channel.socket_timeout, redis_transport.Channel.socket_connect_timeout)
    patch = "import worker.redis_transport as t; t.Channel.socket_timeout = 0.3"
    with silent_port() as port:
        codes = [PUBLISHER.format(patch=patch, port=port, transport=transport) for transport in (STOCK, OURS)]
        stock, ours = (subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for code in codes)
        with stock, ours:
            answer, _ = ours.communicate(timeout=20)
            stock_waits = stock.poll() is None
            stock.kill()
        assert b"OperationalError\n" == answer
        assert stock_waits


def test_time_outs_may_be_set(connect: Connect) -> None:
    """Options win over our time-outs, also the option to have none."""
    params = connect(socket_timeout=None, socket_connect_timeout=7).default_channel.pool.connection_kwargs
    assert (None, 7) == (params["socket_timeout"], params["socket_connect_timeout"])


@kinds("same", False, True)
def test_one_client_per_channel(connect: Connect, transport: str, same: bool) -> None:
    """Stock makes a client for each command; ours one for as long as the pool lasts, and a new one for a new pool."""
    channel = connect(transport).default_channel
    with channel.conn_or_acquire() as first, channel.conn_or_acquire() as second:
        assert same is (first is second)
    channel._after_fork()
    with channel.conn_or_acquire() as third:
        assert third is not first
        assert third.ping()


def test_batch_publishing(connect: Connect, redis: Any) -> None:
    """`producer.batch` works, and tells when it could not be sent."""
    connection = connect()
    assert connection.default_channel.supports_batch_publish
    with Producer(connection) as producer:
        with producer.batch(max_size=10):
            for number in range(25):
                producer.publish(number, routing_key="work")
            assert 20 == redis.llen("work")
        assert 25 == redis.llen("work")
        redis.set("full", 1)
        with pytest.raises(BatchPublishError), producer.batch(max_size=10):
            producer.publish(1, routing_key="full")


@both
def test_sizes_and_purge(connect: Connect, transport: str) -> None:
    """`queue_declare` counts, `queue_purge` empties."""
    channel = connect(transport).default_channel
    publish(connect(STOCK), *range(7), priority=6)
    assert 7 == channel.queue_declare("work", passive=True).message_count
    assert 7 == channel.queue_purge("work")
    assert 0 == channel.queue_declare("work").message_count


@pytest.mark.parametrize("options", [{}, {"global_keyprefix": "mine:"}], ids=["", "prefix"])
@both
def test_fanout(connect: Connect, transport: str, options: dict[str, str]) -> None:
    """Remote control and events: every consumer gets a copy."""
    exchange = Exchange("all", "fanout")
    inboxes = []
    for name in ("ear", "other ear"):  # kombu keeps names of fanout queues for the whole process
        connection = connect(transport, **options)
        inbox = Inbox(connection, f"{name}.own")
        inbox.add_queue(Queue(name, exchange))
        inbox.consume()
        inbox.idle()
        inboxes.append(inbox)
    Producer(connect(STOCK, **options), exchange).publish("hear")
    assert ["hear"] * 2 == [inbox.drain(1).bodies()[0] for inbox in inboxes]


GARBAGE = [
    "no json",
    "{not json",
    "[1]",
    '"text"',
    "{}",
    '{"properties": 1}',
    '{"body": "x", "properties": {"body_encoding": "?", "delivery_tag": "t"}}',
]


@pytest.mark.parametrize("item", GARBAGE)
def test_what_is_no_message_is_dropped(
    connect: Connect, redis: Any, caplog: pytest.LogCaptureFixture, item: str
) -> None:
    """Stock raises, which ends a worker; ours says so without showing it, and goes on with the next message."""
    for transport in (STOCK, OURS):
        connection = connect(transport)
        redis.lpush("work", item)
        publish(connection, "next")
        inbox = Inbox(connection, prefetch=10)
        if transport == STOCK:
            with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
                inbox.drain(1)
            redis.flushall()
        else:
            assert ["next"] == inbox.drain(1).bodies()
            assert 1 == redis.hlen("unacked") == redis.zcard("unacked_index")
        connection.release()
    dropped = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(dropped) == 1
    assert item not in dropped[0].getMessage()


def test_an_error_of_the_consumer_drops_nothing(connect: Connect, redis: Any) -> None:
    """A KeyError out of a callback is the consumer's, and the message stays recorded; the others follow."""
    inbox = Inbox(connect(), prefetch=50)
    publish(connect(), *range(40))

    def fail(message: Any) -> None:
        raise KeyError("of the consumer")

    inbox.on_message = fail
    with pytest.raises(KeyError):
        inbox.drain(1)
    inbox.on_message = inbox.messages.append
    assert [1, 2] == inbox.drain(2).bodies()
    assert redis.hlen("unacked") == 3


@kinds("kept", False, True)
def test_a_full_redis(connect: Connect, redis: Any, transport: str, kept: bool) -> None:
    """Memory is at its limit: stock removes a message and cannot record it; ours is recorded, and can be worked off."""
    publish(connect(), "one")
    connection = connect(transport)
    inbox = Inbox(connection, prefetch=1)
    redis.config_set("maxmemory", 1)
    try:
        with contextlib.nullcontext() if kept else pytest.raises(ResponseError):
            inbox.drain(1)
    finally:
        redis.config_set("maxmemory", 0)
    assert kept is bool(redis.hlen("unacked") + redis.llen("work"))


def test_kombus_own_types_survive(connect: Connect) -> None:
    """Values that kombu writes with a type come back as what they were."""
    connection = connect()
    given = {"id": uuid4()}
    Producer(connection).publish("body", routing_key="work", headers=given)
    assert given == Inbox(connection).drain(1).messages[0].headers
