"""Workers on stock kombu or on our transport, whose every message can be accounted for, and ways to hurt them."""

import contextlib
import json
import os
import selectors
import socket
import sys
import threading
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from celery import Celery
from kombu import Queue

from tests.servers import Process, RedisTestServer, wait_until

ROOT = Path(__file__).parent.parent
QUEUES = ("work", "more")

APP = """
import os, signal, sys, time
sys.path.insert(0, os.environ["CHAOS_ROOT"])
from kombu import Queue
from kombu.transport import TRANSPORT_ALIASES
if os.environ["CHAOS_TRANSPORT"] == "ours":
    TRANSPORT_ALIASES["redis"] = "worker.redis_transport:Transport"
from celery import Celery
app = Celery("chaos", broker=os.environ["CHAOS_BROKER"], set_as_current=False)
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    task_queues=[Queue("work"), Queue("more")],
    worker_prefetch_multiplier=int(os.environ["CHAOS_PREFETCH"]),
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_cancel_long_running_tasks_on_connection_loss=True,
    broker_transport_options={
        "visibility_timeout": float(os.environ["CHAOS_VISIBILITY"]),
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "health_check_interval": 1,
        "socket_timeout": 1,
    },
)
done = os.open("done", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
@app.task(name="mark")
def mark(number, seconds=0):
    time.sleep(seconds)
    os.write(done, b"%d\\n" % number)
"""


class Chaos:
    """A private Redis that keeps what it confirmed, an app, and the account of all messages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "chaos.py").write_text(APP)
        (folder / "done").touch()
        self.redis = RedisTestServer(folder / "redis", extra=("--appendfsync", "always"))
        self.published = 0
        self.workers = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.redis)
        self.client: Any = self.redis.server.client()
        self.app = Celery("producer", broker=self.redis.url, set_as_current=False)
        self.app.conf.update(task_queues=[Queue(name) for name in QUEUES])
        return self

    def __exit__(self, *exc: object) -> None:
        self.app.close()
        self.client.close()
        self._stack.close()

    def publish(self, count: int, *, seconds: float = 0, priorities: Iterable[int] = (0,)) -> None:
        """Send numbered messages as any Celery producer does, over both queues and these priorities."""
        levels = list(priorities)
        with self.app.producer_pool.acquire() as producer, producer.batch(max_size=1000):
            for number in range(self.published, self.published + count):
                level, queue = levels[number % len(levels)], QUEUES[number // len(levels) % 2]
                self.app.send_task("mark", (number, seconds), queue=queue, priority=level, producer=producer)
        self.published += count

    def start(
        self, transport: str, *options: str, prefetch: int = 4, visibility: float = 300, url: str = ""
    ) -> Process:
        """Start a worker on stock kombu ("stock") or on our transport ("ours")."""
        self.workers += 1
        env = {
            "CHAOS_ROOT": str(ROOT),
            "CHAOS_TRANSPORT": transport,
            "CHAOS_BROKER": url or self.redis.url,
            "CHAOS_PREFETCH": str(prefetch),
            "CHAOS_VISIBILITY": str(visibility),
        }
        name = f"{transport}{self.workers}@chaos"
        command = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "chaos", "worker", "-l", "WARNING", "-n", name]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        log = self.folder / f"{name}.log"
        return self._stack.enter_context(Process([*command, *quiet, *options], log, env=env, cwd=self.folder))

    def done(self) -> Counter[int]:
        """How often each message has run to its end."""
        return Counter(int(line) for line in (self.folder / "done").read_text().split())

    def waiting(self) -> Counter[int]:
        """Messages in the queues."""
        keys = [key for key in self.client.keys("*") if key.split(b"\x06\x16")[0].decode() in QUEUES]
        return Counter(number_of(json.loads(item)) for key in keys for item in self.client.lrange(key, 0, -1))

    def unacked(self) -> Counter[int]:
        """Messages that some worker has taken and not acknowledged."""
        return Counter(number_of(json.loads(item)[0]) for item in self.client.hvals("unacked"))

    def lost(self) -> set[int]:
        """Messages that are nowhere. Only for when nothing moves."""
        return set(range(self.published)) - set(self.done()) - set(self.waiting()) - set(self.unacked())

    def wait_done(self, deadline_seconds: float, *workers: Process) -> None:
        """Wait until every message has run at least once."""
        wait_until(
            lambda: len(self.done()) >= self.published,
            deadline_seconds,
            f"all {self.published} run; {len(self.done())=} {sum(self.waiting().values())=} "
            + "\n".join(worker.log_text()[-1500:] for worker in workers),
        )


def number_of(message: dict[str, Any]) -> int:
    """The number of a message as it lies in Redis."""
    number: int = json.loads(b64decode(message["body"]))[0][0]
    return number


def hurried(record: bytes) -> str:
    """The same record of a message, whose task does not wait."""
    message, exchange, routing_key = json.loads(record)
    arguments, *rest = json.loads(b64decode(message["body"]))
    message["body"] = b64encode(json.dumps([[arguments[0], 0], *rest]).encode()).decode()
    return json.dumps([message, exchange, routing_key])


class Proxy:
    """A TCP proxy that can black-hole its connections: they stay open, and nothing goes through any more."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._frozen: list[socket.socket] = []
        self._freeze, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def freeze(self) -> None:
        """Black-hole the connections there are; new ones work."""
        self._freeze.set()
        wait_until(lambda: not self._freeze.is_set(), 5, "the proxy has frozen its connections")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(5)
        for each in (self._listener, *self._pairs, *self._frozen):
            each.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._selector.select(0.02):
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._pairs:
                    self._forward(key.fileobj)
            if self._freeze.is_set():
                for each in self._pairs:
                    self._selector.unregister(each)
                self._frozen += self._pairs
                self._pairs.clear()
                self._freeze.clear()

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._target))
        for one, other in ((near, far), (far, near)):
            self._pairs[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, source: socket.socket) -> None:
        target, data = self._pairs[source], b""
        with contextlib.suppress(OSError):
            data = source.recv(65536)
            target.sendall(data)
        if not data:
            for each in (source, target):
                self._selector.unregister(each)
                del self._pairs[each]
                each.close()


@contextmanager
def silent_port() -> Iterator[int]:
    """A port of a host that accepts connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()[1]


ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "0"))
"""How often the loaded workers are killed, four each time, and by how much longer the slow tests go on; by hand."""
