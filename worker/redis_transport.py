"""kombu's Redis transport, safe against SIGKILL and outages of Redis, and with fewer round trips.

Keys and messages in Redis stay kombu's, so stock producers and stock workers may share the queues. Each replaced part
tells what kombu 5.7 does and why that is replaced; the tests show that stock kombu still does it.

`worker.redis_take` has the two things that matter: how messages are taken, and how a consumer waits.
"""

from collections import deque
from collections.abc import Sequence
from queue import Empty
from threading import get_ident
from time import monotonic
from typing import Any
from uuid import uuid4

from kombu.log import get_logger
from kombu.transport import redis as kombu_redis
from kombu.utils.scheduling import round_robin_cycle
from redis.exceptions import ConnectionError as RedisConnectionError

from worker import express
from worker.redis_qos import QoS, refusals
from worker.redis_take import BATCH, UNREADABLE, Packed, Take, Taken, Talk

logger = get_logger(__name__)
stock: Any = kombu_redis  # mostly without types

#: Seconds for which tasks may run in the event loop's thread (solo pool) before the loop has its turn.
TURN_SECONDS = 0.005


class Poller(stock.MultiChannelPoller):  # type: ignore[misc]
    """kombu's poller, for channels that may wait for a notice or owe acknowledgements."""

    #: The thread of the event loop; None where `drain_events` is called instead.
    thread: int | None = None

    def on_poll_start(self) -> None:
        """Stock: send BRPOP where none is under way. Ours may end a wait before, and acknowledge afterwards."""
        for channel in list(self._channels):
            channel.look_again()
        super().on_poll_start()
        for channel in list(self._channels):
            channel.pay()

    def get(self, callback: Any, timeout: float | None = None) -> None:
        """Stock: wait; BRPOP's time-out ends that after a second. Nothing ends our wait, so it has to be short."""
        super().get(callback, timeout=1 if timeout is None else min(timeout, 1))


class Channel(stock.Channel):  # type: ignore[misc]
    """kombu's Redis channel with an atomic take in place of BRPOP; see the module."""

    QoS = QoS

    #: Seconds. Stock: none, so that a publisher waits for ever for a host that does not answer.
    socket_timeout: float | None = 5
    socket_connect_timeout: float | None = 2

    _brpop_sent_at: float | None = None
    _shared_client: Any = None

    #: Whether the message that is just handed over is the only one: no other waited, and none is in hand.
    only_one = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: Begins our delivery tags. A message gets a new one with each take, so that an acknowledgement that comes
        #: late, after the visibility time-out, does not remove the record of the next worker that has the message.
        self.tag = f"{uuid4()}:"
        self._takes = 0
        self._talk = Talk()
        self._taken: deque[Taken] = deque()
        self._owed: list[str] = []
        self._unrecorded: set[str] = set()
        self._same: dict[tuple[Any, ...], Packed] = {}
        super().__init__(*args, **kwargs)

    def _connparams(self, asynchronous: bool = False) -> Any:
        """Stock: AttributeError when the connection was lost, which ends the worker. A connection error does not."""
        if self.connection is None or self.connection.client is None:
            raise RedisConnectionError("the channel was closed when its connection was lost")
        params = super()._connparams(asynchronous)
        return {**params, "protocol": 3} if asynchronous else params  # notices need RESP3

    def _create_client(self, asynchronous: bool = False) -> Any:
        """Stock: a new client for each command, a fifth of a worker's time. One per pool; clients are thread-safe."""
        if asynchronous:
            return super()._create_client(asynchronous=True)
        pool, client = self.pool, self._shared_client
        if client is None or client.connection_pool is not pool:
            client = self._shared_client = super()._create_client()
        return client

    def _on_connection_disconnect(self, connection: Any) -> None:
        """Stock: forget BRPOP. Ours: the take, or the wait."""
        if connection is getattr(self.__dict__.get("client"), "connection", None):
            self._talk.forget()
        super()._on_connection_disconnect(connection)

    def _new_take(self, queues: Sequence[str], room: int) -> Take:
        self._takes += 1
        unrecorded = frozenset(self._unrecorded if self.ack_emulation else queues)
        return Take(f"{self.tag}{self._takes}.", queues, unrecorded, room)

    def _command(self, take: Take) -> tuple[Any, ...]:
        keys = self.keys(self.unacked_key, self.unacked_index_key, *self._lists(take.queues))
        return take.command(keys, fair=type(self._queue_cycle) is round_robin_cycle)

    def _packed(self, take: Take) -> bytes:
        """The take's command with the acknowledgements that are due."""
        acked, self._owed = self._owed, []
        kind = (*take.queues, take.unrecorded)
        if kind not in self._same:
            self._same[kind] = Packed.of(self._command(take))
        return take.packed(self._same[kind], acked)

    def _lists(self, queues: Sequence[str]) -> list[str]:
        return [self._q_for_pri(queue, step) for step in self.priority_steps for queue in queues]

    def keys(self, *names: str) -> list[str]:
        """Keys as Redis has them."""
        return [self.global_keyprefix + name for name in names]

    def _room(self) -> int:
        if self._taken:  # nothing more now: the answer gives the loop its turn, and continues the handing over
            return 0
        if "can_consume" in vars(self.qos):  # worker_disable_prefetch replaces it, and knows of one message only
            return 1
        room = self.qos.can_consume_max_estimate()
        return BATCH if room is None else min(room, BATCH)

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Stock: send BRPOP, which removes a message before anybody has recorded it. Ours: `TAKE`."""
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        take = self._new_take(list(queues), self._room())
        self._in_poll, self._brpop_sent_at = self.client.connection, monotonic()
        self._talk.ask(self._in_poll, take, self._packed(take))

    def _brpop_read(self, **options: Any) -> bool:
        """Stock: read the message of BRPOP. Ours: a take was answered, or there is something to take, or the end."""
        if self._talk.take is None:
            self._brpop_start()
        if self._talk.take is None:  # no queues any more
            self.client.connection.read_response(push_request=True)
            raise Empty
        self._read_answer()
        self._flush_brpop_reauth()
        if not self._taken:
            connection = self.client.connection
            if self._talk.wait(connection, self.keys(*self._lists(self.active_queues))):
                self._in_poll, self._brpop_sent_at = connection, None
            raise Empty
        self._hand_over()
        return True

    def _read_answer(self) -> None:
        try:
            found = self._talk.answer(self.client.connection)
        except self.connection_errors:
            self.client.connection.disconnect()
            raise
        finally:
            self._in_poll = None
        self._taken += found
        in_hand = len(self.qos._delivered) - len(self.qos._dirty)
        self.only_one = len(found) == 1 and found[0].alone and not in_hand
        for taken in found:
            self._queue_cycle.rotate(taken.queue)

    def look_again(self) -> None:
        """End a wait that has lasted as long as a BRPOP."""
        since = self._talk.waiting_since
        if since is not None and monotonic() - since >= self.brpop_timeout and self.qos.can_consume():
            self._in_poll = self._talk.waiting_since = None

    def _hand_over(self) -> None:
        """Give taken messages to their consumers: one where `drain_events` is called, some more where a loop runs."""
        looping, began = self.connection.cycle.thread is not None, monotonic()
        self._deliver(self._taken.popleft())
        while self._taken and looping and monotonic() - began < TURN_SECONDS:
            self._deliver(self._taken.popleft())

    def _deliver(self, taken: Taken) -> None:
        """Stock: what is no message (not JSON, no properties) ends the worker, and is lost. Ours: it is dropped."""
        try:
            self.connection._deliver(taken.payload(), taken.queue)
        except UNREADABLE as error:
            try:
                self.Message(taken.payload(), channel=self)
            except UNREADABLE:
                logger.error("Dropped from %s what is no message: %s", taken.queue, type(error).__name__)
                self.qos._remove_from_indices(taken.tag or "").execute()
            else:
                raise

    def owe(self, tag: str) -> bool:
        """Take over an acknowledgement; False when it has to be made at once: only the event loop comes back to it."""
        if not self._active_queues or self.connection.cycle.thread != get_ident():
            return False
        self._owed.append(tag)
        if len(self._owed) >= BATCH:
            self.pay(wait=False)
        return True

    def pay(self, *, wait: bool = True) -> None:
        """Acknowledge what is due; `wait`: unless a take is under way, after which the next one does it."""
        if not self._owed or (wait and self._talk.take and self.qos.can_consume()):
            return
        owed, self._owed = self._owed, []
        with self.conn_or_acquire() as client, refusals():
            client.pipeline().hdel(self.unacked_key, *owed).zrem(self.unacked_index_key, *owed).execute()

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        """Stock, and tell who wants to know how."""
        super()._put(queue, message, **kwargs)
        express.note(self, queue, message)

    def _queue_bind(self, *args: Any) -> None:
        """Stock; a Redis that refuses writes is away."""
        with refusals():
            super()._queue_bind(*args)

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Stock, and note whether messages of the queue will be acknowledged."""
        (self._unrecorded.add if no_ack else self._unrecorded.discard)(queue)
        if self._talk.waiting_since is not None:
            self._talk.waiting_since = float("-inf")  # the new queue is not among those watched
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Stock: RPOP, then record; a SIGKILL in between loses the message. Ours: a take."""
        if no_ack or not self.ack_emulation or queue in self._unrecorded:
            return super().basic_get(queue, no_ack, **kwargs)
        take = self._new_take([queue], 1)
        with self.conn_or_acquire() as client:
            self._maybe_update_queues_expire(client, queue)
            for taken in take.read(client.execute_command(*self._command(take))):
                message = self.Message(taken.payload(), channel=self)
                self.qos.append(message, message.delivery_tag)
                return message
        return None

    def _basic_cancel(self, consumer_tag: str) -> None:
        """Stock: what BRPOP still brings waits in the socket until the channel closes. Ours: it goes back at once."""
        super()._basic_cancel(consumer_tag)
        if not self.active_queues:
            self._settle()

    def close(self) -> None:
        """Stock: wait for BRPOP, up to a second, and hand its message to a consumer that ends. Ours: give it back."""
        if not self.closed:
            self._settle()
        super().close()

    def _settle(self) -> None:
        """Acknowledge what is due, and give back what was taken but not handed over."""
        try:
            if self._talk.take:
                self._read_answer()
            self.pay()
            self._talk.end(self.client.connection)
            for taken in reversed(self._taken):  # the oldest last, so that it is the next to be taken
                if taken.tag:
                    self.qos.restore_by_tag(taken.tag)
                else:
                    self._put(taken.queue, taken.payload())
        except (*self.connection_errors, *UNREADABLE) as error:
            self.report_left(len(self._taken), error)
        self._taken.clear()
        self._talk.forget()
        self._in_poll = None

    def report_left(self, count: int, error: Exception) -> None:
        """Log that messages could not be given back."""
        if count:
            logger.warning("%d messages come back after the visibility time-out: %s", count, type(error).__name__)


class Transport(stock.Transport):  # type: ignore[misc]
    """Still `redis://`, so that Flower and everything else know it."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Stock, and remember the loop's thread, the only one that may put things off."""
        self.cycle.thread = get_ident()
        super().register_with_event_loop(connection, loop)
