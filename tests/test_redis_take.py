"""How messages are taken, and how a consumer waits for them."""

from typing import Any

import pytest
from kombu import Queue
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.kombu_inbox import OURS, STOCK, Connect, Inbox, both, publish, waiting
from tests.servers import RedisTestServer, wait_until
from worker import redis_take


@pytest.mark.parametrize("strategy", ["round_robin", "sorted", "priority"])
def test_messages_come_in_the_order_of_stock(connect: Connect, redis: Any, strategy: str) -> None:
    """Over three queues and four priorities, with batches, each strategy gives the order that BRPOP gives."""
    orders = []
    for transport in (STOCK, OURS):
        connection = connect(transport, queue_order_strategy=strategy)
        for number in range(60):
            queue = "cba"[number * 7 % 5 % 3]
            publish(connection, number, queue=queue, priority=number * 5 % 11)
        inbox = Inbox(connection, "b", "a", "c", prefetch=20)
        for number in range(60):
            inbox.drain(number + 1).messages[-1].ack()
        orders.append(inbox.bodies())
        connection.release()
    assert sorted(orders[0]) == list(range(60))
    assert orders[0] == orders[1]


def test_a_take_records_what_it_removes(connect: Connect, redis: Any) -> None:
    """Taken messages are in `unacked`, in kombu's form, and a stock sweep puts them where they were."""
    publish(connect(), *range(40), priority=9)
    list_before = redis.lrange("work\x06\x169", 0, -1)
    inbox = Inbox(connect(), prefetch=10).drain(1)
    taken = redis.hlen("unacked")
    assert 1 < taken == redis.zcard("unacked_index") == 40 - redis.llen("work\x06\x169")
    stock = connect(STOCK, visibility_timeout=-1, unacked_restore_throttle=1).default_channel
    stock.qos.restore_visible()
    assert (0, 0, 40) == (redis.hlen("unacked"), redis.zcard("unacked_index"), redis.llen("work\x06\x169"))
    tags = [stock_payload(item)["properties"]["delivery_tag"] for item in redis.lrange("work\x06\x169", 0, -1)]
    assert sorted(tags) == sorted(stock_payload(item)["properties"]["delivery_tag"] for item in list_before)
    assert inbox.bodies() == [0]


def test_the_only_message_is_known_as_such(connect: Connect, redis: Any) -> None:
    """No other waits, in whichever queue, and none is in hand: only then need nobody look for more."""
    sender = connect()
    inbox = Inbox(connect(), "a", "b", prefetch=10)
    publish(sender, 1, queue="a")
    assert inbox.drain(1).channel.only_one
    publish(sender, 2, queue="a")
    assert not inbox.drain(2).channel.only_one, "the first is in hand"
    for message in inbox.messages:
        message.ack()
    publish(sender, 3, queue="a")
    publish(sender, 4, queue="b", priority=9)
    assert not inbox.drain(3).channel.only_one, "another waits"
    inbox.drain(4)
    inbox.messages[2].ack()
    inbox.messages[3].ack()
    publish(sender, 5, queue="b")
    assert inbox.drain(5).channel.only_one


def stock_payload(item: bytes) -> Any:
    """A message as it lies in a queue."""
    return redis_take.Taken("work", None, item).payload()


def waits(inbox: Inbox, redis: Any) -> bool:
    """Whether it has found nothing, and Redis is to tell it."""
    inbox.idle()
    return waiting(redis) == 1


def test_an_idle_consumer_is_woken_at_once(connect: Connect, redis: Any) -> None:
    """Each of its queues and priorities wakes it, without the look that ends a wait in any case."""
    inbox = Inbox(connect(), "a", "b")
    inbox.channel.brpop_timeout = 3600
    sender = connect()
    publish(sender, "warm", queue="a")
    inbox.drain(1)
    for number, (queue, priority) in enumerate([("a", 0), ("b", 0), ("a", 3), ("b", 9)], 2):
        wait_until(lambda: waits(inbox, redis), 5, "it waits for notice")
        publish(sender, number, queue=queue, priority=priority)
        inbox.drain(number)
    assert 0 == waiting(redis), "nothing is told to a consumer that works"


def test_waiting_without_notices(connect: Connect, redis: Any, redis_server: RedisTestServer) -> None:
    """A Redis that refuses CLIENT TRACKING: the consumer looks each second, and says so."""
    redis.execute_command("ACL", "SETUSER", "plain", "on", ">secret", "~*", "&*", "+@all", "-client")
    inbox = Inbox(connect(url=redis_server.url.replace("://", "://plain:secret@")))
    inbox.idle()
    publish(connect(), "late")
    inbox.drain(1)
    redis.execute_command("ACL", "DELUSER", "plain")


def test_a_new_queue_is_watched(connect: Connect, redis: Any) -> None:
    """A queue that is added while the consumer waits."""
    inbox = Inbox(connect(), "a")
    inbox.idle()
    inbox.add_queue(Queue("b"))
    inbox.consume()
    inbox.idle()
    publish(connect(), "hello", queue="b")
    inbox.drain(1)


def test_prefetch_is_kept(connect: Connect, redis: Any) -> None:
    """No more is taken than the prefetch count allows, whatever it changes to; zero means no limit of ours but one."""
    publish(connect(), *range(1000))
    inbox = Inbox(connect(), prefetch=3).drain(3)
    inbox.idle()
    assert 3 == redis.hlen("unacked")
    inbox.qos(prefetch_count=5)
    inbox.drain(5).idle()
    assert 5 == redis.hlen("unacked")
    inbox.qos(prefetch_count=2)
    inbox.messages[0].ack()
    inbox.idle()
    assert 4 == redis.hlen("unacked")
    unlimited = Inbox(connect(), prefetch=0).drain(1)
    assert redis.hlen("unacked") <= 4 + redis_take.BATCH
    assert 1 == len(unlimited.messages)


def test_a_burst_is_shared(connect: Connect, redis: Any) -> None:
    """One consumer does not take what others, idle, may take: one in sixteen of what waits, rounded up."""
    publish(connect(), *range(32))
    Inbox(connect(), prefetch=100).drain(1)
    assert 2 == redis.hlen("unacked")


def test_a_take_ends_by_size(connect: Connect, redis: Any) -> None:
    """Large messages come in smaller takes."""
    publish(connect(), *["x" * 600_000] * 40)
    Inbox(connect(), prefetch=100).drain(1)
    assert 2 == redis.hlen("unacked")


def test_worker_disable_prefetch(connect: Connect, redis: Any) -> None:
    """Celery replaces `can_consume` for it; takes are of one message then."""
    publish(connect(), *range(100))
    inbox = Inbox(connect(), prefetch=50)
    inbox.channel.qos.can_consume = lambda: len(inbox.messages) < 3
    inbox.drain(3).idle()
    assert 3 == redis.hlen("unacked")


@both
def test_no_ack(connect: Connect, redis: Any, transport: str) -> None:
    """Who does not acknowledge leaves no records, and takes one at a time."""
    publish(connect(), *range(40))
    inbox = Inbox(connect(transport), no_ack=True).drain(2)
    assert [0, 1] == inbox.bodies()
    assert 0 == redis.hlen("unacked")
    inbox.cancel()
    inbox.connection.release()
    assert 38 == redis.llen("work")


def test_without_acknowledgement_emulation(connect: Connect, redis: Any) -> None:
    """`ack_emulation: False` leaves no records."""
    publish(connect(), "one")
    Inbox(connect(ack_emulation=False)).drain(1).messages[0].ack()
    assert not list(redis.scan_iter("*unacked*"))


@both
def test_basic_get(connect: Connect, redis: Any, transport: str) -> None:
    """One message at a time, acknowledged or put back."""
    channel = connect(transport).default_channel
    publish(connect(), 1, 2)
    first, second = channel.basic_get("work"), channel.basic_get("work")
    assert [1, 2, None] == [first.payload, second.payload, channel.basic_get("work")]
    assert 2 == redis.hlen("unacked")
    channel.basic_ack(first.delivery_tag)
    channel.basic_reject(second.delivery_tag, requeue=True)
    assert (0, 1) == (redis.hlen("unacked"), redis.llen("work"))
    assert 2 == channel.basic_get("work", no_ack=True).payload
    assert 0 == redis.hlen("unacked")


def test_cancelling_gives_back(connect: Connect, redis: Any) -> None:
    """What was taken and not handed over goes back when the consumer stops; what it holds, when it closes."""
    publish(connect(), *range(160))
    before = redis.lrange("work", 0, -1)
    inbox = Inbox(connect(), prefetch=50).drain(1)
    assert 10 == redis.hlen("unacked")
    inbox.cancel()
    assert (1, 159) == (redis.hlen("unacked"), redis.llen("work"))
    tags = [
        [stock_payload(item)["properties"]["delivery_tag"] for item in items]
        for items in (before, redis.lrange("work", 0, -1))
    ]
    assert tags[0][:-1] == tags[1], "in the order they had"
    inbox.connection.release()
    assert (0, 160) == (redis.hlen("unacked"), redis.llen("work"))


def test_a_take_under_way_is_given_back(connect: Connect, redis: Any) -> None:
    """The consumer stops between asking and reading."""
    inbox = Inbox(connect()).drain(0)
    channel = inbox.channel
    inbox.idle()
    channel._in_poll = channel._talk.waiting_since = None
    publish(connect(), *range(40))
    channel.connection.cycle.on_poll_start()
    wait_until(lambda: redis.hlen("unacked") == 3, 5, "the take")
    inbox.cancel()
    assert (0, 40) == (redis.hlen("unacked"), redis.llen("work"))


@both
def test_a_key_prefix(connect: Connect, redis: Any, transport: str) -> None:
    """`global_keyprefix` is in front of all keys of either transport, which share the queues."""
    options = {"global_keyprefix": "mine:"}
    publish(connect(STOCK, **options), *range(20))
    inbox = Inbox(connect(transport, **options), prefetch=5).drain(5)
    inbox.messages[0].ack()
    inbox.messages[1].reject(requeue=True)
    assert redis.hlen("mine:unacked") == redis.zcard("mine:unacked_index") == 3
    inbox.connection.release()
    assert 19 == redis.llen("mine:work")
    assert all(key.startswith(b"mine:") for key in redis.scan_iter())


def test_a_take_that_cannot_be_recorded_takes_nothing(connect: Connect, redis: Any) -> None:
    """`unacked` is something else than a hash: all goes back in order, and the error is a connection error."""
    publish(connect(), *range(40))
    before = redis.lrange("work", 0, -1)
    redis.set("unacked", "text")
    inbox = Inbox(connect(), prefetch=10)
    with pytest.raises(RedisConnectionError, match="WRONGTYPE"):
        inbox.drain(1)
    assert before == redis.lrange("work", 0, -1)


def test_redis_does_not_keep_watchers_that_are_gone(connect: Connect, redis: Any) -> None:
    """Redis remembers who watched a key until the key changes; consumers that died must not add up there."""
    for _ in range(4):
        inbox = Inbox(connect(), "a", "b")
        inbox.idle()
        inbox.channel.client.connection.disconnect()
    assert redis.info("stats")["tracking_total_items"] <= 8, "those of one consumer"
    last = Inbox(connect(), "a", "b")
    last.idle()
    last.connection.release()
    assert 0 == redis.info("stats")["tracking_total_keys"]
