"""What was taken and not acknowledged: none of it is lost, whoever is killed or sweeps; ours beside stock kombu."""

import contextlib
import json
import signal
from typing import Any

import pytest
from kombu import Exchange, Producer, Queue
from kombu.transport import redis as kombu_redis

from tests.kombu_inbox import OURS, STOCK, Connect, Inbox, die, forked, kinds, publish
from worker import redis_qos, redis_take, redis_transport
from worker.transport import hide_bodies


def test_a_sweep_of_ours_restores_what_stock_held(connect: Connect, redis: Any) -> None:
    """The other way round."""
    stock = connect(STOCK)
    publish(stock, "one", priority=3)
    Inbox(stock, prefetch=1).drain(1)
    assert (1, 0) == (redis.hlen("unacked"), redis.llen("work\x06\x163"))
    connect(visibility_timeout=-1).default_channel.qos.restore_visible()
    assert (0, 1) == (redis.hlen("unacked"), redis.llen("work\x06\x163"))


@kinds("kept", 0, 1)
def test_a_sweep_keeps_what_it_cannot_route(connect: Connect, redis: Any, transport: str, kept: int) -> None:
    """A stock worker held it through an exchange that the sweeping one does not know; a stock sweep removes it."""
    stock, exchange = connect(STOCK), Exchange("news", "topic")
    Queue("work", exchange, routing_key="a.#").bind(stock.default_channel).declare()
    Producer(stock, exchange).publish("one", routing_key="a.b")
    Inbox(stock, prefetch=1).drain(1)
    connect(transport, visibility_timeout=-1).default_channel.qos.restore_visible()
    assert 0 == redis.llen("work")
    assert kept == redis.hlen("unacked") == redis.zcard("unacked_index")


@kinds("restored", 0, 1)
def test_a_sweep_comes_past_what_is_no_message(
    connect: Connect, redis: Any, caplog: pytest.LogCaptureFixture, transport: str, restored: int
) -> None:
    """A killed worker had taken garbage: stock raises at each sweep, and what is behind it never comes back."""
    publish(connect(), "one")
    Inbox(connect(STOCK), prefetch=1).drain(1)
    for number, record in enumerate(["1", '[{},"","work"]', '[{not json,"","work"]']):
        redis.hset("unacked", f"secret{number}", record)
        redis.zadd("unacked_index", {f"secret{number}": redis.time()[0] + 10})
    with contextlib.nullcontext() if restored else pytest.raises(ValueError, match="line 1"):
        connect(transport, visibility_timeout=-20).default_channel.qos.restore_visible()
    assert restored == redis.llen("work")
    assert restored == (redis.hlen("unacked") == 0)


def test_what_cannot_be_restored_is_not_shown(
    connect: Connect, redis: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kombu logs the whole message; it stays recorded."""
    hide_bodies()
    inbox = Inbox(connect(), prefetch=1)
    publish(connect(), "secret")
    message = inbox.drain(1).messages[0]
    record = json.loads(redis.hget("unacked", message.delivery_tag))
    record[0]["properties"] = "secret"
    redis.hset("unacked", message.delivery_tag, json.dumps(record))
    message.requeue()
    assert "could not be put back" in caplog.text
    assert "secret" not in caplog.text
    assert record[0]["body"] not in caplog.text
    assert 1 == redis.hlen("unacked")


def test_a_repeated_script_loses_nothing(connect: Connect, redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `retry_on_timeout`, redis-py sends a take again whose answer was lost: the first one's record stands."""
    publish(connect(), 1, 2)
    channel = connect().default_channel
    assert 1 == channel.basic_get("work").payload
    channel._takes = 0
    assert channel.basic_get("work") is None
    assert (1, 1) == (redis.hlen("unacked"), redis.llen("work"))


@kinds("queues", ["one", "two"], ["one"])
def test_a_message_goes_back_to_its_own_queue_alone(
    connect: Connect, redis: Any, transport: str, queues: list[str]
) -> None:
    """Stock routes a restored message anew, to all queues of the exchange; ours goes back to where it was taken."""
    connection, exchange = connect(transport), Exchange("news", "topic")
    for name in ("one", "two"):
        Queue(name, exchange, routing_key="a").bind(connection.default_channel).declare()
    Producer(connection, exchange).publish("news", routing_key="a")
    redis.delete("two")
    inbox = Inbox(connection, "one").drain(1)
    inbox.messages[0].reject(requeue=True)
    inbox.cancel()
    assert queues == [name for name in ("one", "two") if redis.llen(name)]


@kinds("left", 0, 1)
def test_a_late_acknowledgement_does_not_remove_the_next_record(
    connect: Connect, redis: Any, transport: str, left: int
) -> None:
    """The message was restored and is in another worker's hands; stock's late acknowledgement takes its record away."""
    publish(connect(), "slow")
    slow = Inbox(connect(transport), prefetch=1).drain(1)
    connect(STOCK, visibility_timeout=-1).default_channel.qos.restore_visible()
    heir = Inbox(connect(transport), prefetch=1).drain(1)
    slow.messages[0].ack()
    assert left == redis.hlen("unacked")
    heir.messages[0].ack()
    assert 0 == redis.hlen("unacked")


@kinds("attempts", 20, 1)
def test_restoring_beside_busy_workers(
    connect: Connect, redis: Any, monkeypatch: pytest.MonkeyPatch, transport: str, attempts: int
) -> None:
    """Stock starts over whenever anybody touches `unacked`, without end; ours restores at the first attempt."""
    inbox = Inbox(connect(transport), prefetch=1)
    publish(connect(), "held")
    channel = inbox.drain(1).channel
    tried: list[int] = []
    restore = channel._do_restore_message

    def beside_a_busy_worker(*args: Any) -> None:
        tried.append(redis.hset("unacked", "busy", len(tried)))
        if len(tried) == 20:
            raise ConnectionError("enough")
        restore(*args)

    monkeypatch.setattr(channel, "_do_restore_message", beside_a_busy_worker)
    with contextlib.suppress(ConnectionError):
        inbox.messages[0].reject(requeue=True)
    assert attempts == len(tried)


PLACES = {
    STOCK: [(kombu_redis.QoS, "append"), (kombu_redis.Channel, "_brpop_read")],
    OURS: [
        (redis_qos.QoS, "append"),
        (redis_transport.Channel, "_brpop_read"),
        (redis_take.Talk, "answer"),
        (redis_take.Take, "read"),
        (redis_transport.Channel, "_hand_over"),
        (redis_transport.Channel, "_deliver"),
        (redis_qos.QoS, "ack"),
    ],
}


@kinds("left", 2, 3)
def test_killed_at_the_worst_moment(connect: Connect, redis: Any, transport: str, left: int) -> None:
    """Stock loses the message between BRPOP and its record in `unacked`; with an atomic take there is no between."""
    for owner, name in PLACES[transport]:
        redis.flushall()
        publish(connect(STOCK), 1, 2, 3)

        def consume(owner: Any = owner, name: str = name) -> None:
            setattr(owner, name, die)
            Inbox(connect(transport), prefetch=10).drain(1).messages[0].ack()

        assert -signal.SIGKILL == forked(consume)
        assert left == redis.llen("work") + redis.hlen("unacked"), name
