"""A whole Bellhop on real servers: worker, beat and Flower as processes, as an operator starts them by hand."""

import base64
import contextlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from sqlalchemy import Engine, create_engine, text

from tests.catalogue import write_catalogue
from tests.flow.pages import FLOWER_LOGIN, flower_page
from tests.rabbit import RabbitServer
from tests.servers import Process, RedisTestServer, free_port, wait_until
from worker.embedded.smtp import MailCatcher


class System:
    """Servers that are running, and the processes that were started on them."""

    def __init__(
        self,
        folder: Path,
        database_url: str,
        broker: RedisTestServer | RabbitServer,
        catcher: MailCatcher,
        **settings: object,
    ) -> None:
        self.folder = folder
        self.broker = broker
        self.catcher = catcher
        self.flower_port = free_port()
        self.environment = {
            "DATABASE_URL": database_url,
            "BROKER_URL": broker.url,
            "SMTP_URL": catcher.url,
            "EMAIL_FROM": "Library <library@example.org>",
            "DISPATCH_EVERY_SECONDS": "1",
            "FLOWER_BASIC_AUTH": FLOWER_LOGIN,
            **write_catalogue(folder / "catalogue"),
            **{name: str(value) for name, value in settings.items()},
        }
        # The application's own database user would do; it needs nothing of Bellhop.
        self.engine: Engine = create_engine(database_url)
        self.processes: dict[str, Process] = {}
        # An application's own Celery app: another name, its own defaults, nothing of Bellhop imported.
        results = "rpc://" if broker.url.startswith("amqp") else broker.url
        self.application = Celery("application", broker=broker.url, backend=results, set_as_current=False)
        if broker.url.startswith("amqp"):  # as docs/rabbitmq.md says
            self.application.conf.task_create_missing_queue_type = "quorum"
            self.application.conf.broker_transport_options = {"confirm_publish": True}

    def start(self, *names: str) -> None:
        """Start worker, beat or flower with the README's command."""
        more = {
            "worker": ["--concurrency=2", "--loglevel=INFO"],
            "beat": [f"--schedule={self.folder / 'beat-schedule'}", "--pidfile=", "--loglevel=INFO"],
            "flower": [f"--port={self.flower_port}", "--address=127.0.0.1"],
        }
        for name in names:
            command = [str(Path(sys.executable).parent / "celery"), "-A", "worker", name, *more[name]]
            log = self.folder / f"{name}.log"
            self.processes[name] = Process(command, log, env=self.environment)

    def wait_worker(self) -> None:
        """Wait until the worker takes messages."""
        worker = self.processes["worker"]
        wait_until(lambda: " ready." in worker.log_text(), 60, "the worker is ready")

    def stop(self) -> None:
        """End every process that is still there."""
        for process in self.processes.values():
            process.terminate(15)
        self.engine.dispose()
        if self.broker.url.startswith("amqp"):
            with contextlib.suppress(OSError):
                self.application.backend.result_consumer.stop()
        self.application.close()

    def send(self, name: str, **kwargs: Any) -> Any:
        """Publish a task the plain way."""
        queue = {"inbox": "inbox", "recipients": "inbox"}.get(name.partition(".")[0], "notifications")
        return self.application.send_task(name, kwargs=kwargs, queue=queue)

    def rows(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        """Ask the database."""
        with self.engine.begin() as connection:
            result = connection.execute(text(sql), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    def count(self, sql: str, **values: Any) -> int:
        """Ask the database for a number."""
        return int(self.rows(sql, **values)[0][0])

    def flower(self, path: str, login: str = FLOWER_LOGIN) -> tuple[int, str]:
        """Ask Flower for a page; gives the HTTP status and the body."""
        return flower_page(self.flower_port, path, login)

    def flower_tasks(self) -> dict[str, Any]:
        """Give what Flower knows of tasks, by id."""
        status, body = self.flower("/api/tasks?limit=10000")
        tasks: dict[str, Any] = json.loads(body) if status == 200 else {}
        return tasks

    def broker_is_idle(self) -> bool:
        """Tell whether no message waits or is unacknowledged, but for beat's own ticks."""
        with redis.Redis.from_url(self.broker.url) as client:
            lengths = [client.llen(name) for name in ("notifications", "bulk", "email_high", "email", "inbox")]
            return not any(lengths) and not client.hlen("unacked")

    def broker_holds(self, canary: str) -> list[str]:
        """Give the keys of the broker whose value has the canary in it, in clear or in base64."""
        with redis.Redis.from_url(self.broker.url) as client:
            return [key.decode() for key in client.scan_iter() if canary in _readable(str(_value(client, key)))]

    @contextmanager
    def watch_broker(self, canary: str) -> Iterator[list[str]]:
        """Collect every command to the broker, events and results included, that carries the canary."""
        found: list[str] = []
        seen = threading.Event()
        client = redis.Redis.from_url(self.broker.url)

        def listen(monitor: Any) -> None:
            for command in monitor.listen():
                if "end-of-watch" in command["command"]:
                    seen.set()
                    return
                if canary in _readable(command["command"]):
                    found.append(command["command"])

        with client.monitor() as monitor:  # type: ignore[no-untyped-call]
            thread = threading.Thread(target=listen, args=(monitor,), daemon=True)
            thread.start()
            yield found
            with redis.Redis.from_url(self.broker.url) as other:
                other.echo("end-of-watch")
            assert seen.wait(10), "the broker's monitor came to its end"
        client.close()


def _value(client: Any, key: bytes) -> Any:
    kind = client.type(key)
    readers = {
        b"list": lambda: client.lrange(key, 0, -1),
        b"hash": lambda: client.hgetall(key),
        b"zset": lambda: client.zrange(key, 0, -1),
        b"set": lambda: client.smembers(key),
        b"string": lambda: client.get(key),
    }
    return readers[kind]() if kind in readers else ""


def _readable(content: str) -> str:
    """The content, and after it whatever in it is base64, decoded: kombu packs bodies so."""
    decoded = [content]
    for piece in re.findall(r"[A-Za-z0-9+/]{24,}={0,2}", content):
        try:
            decoded.append(base64.b64decode(piece + "=" * (-len(piece) % 4)).decode("utf-8", "replace"))
        except ValueError:
            continue
    return "\n".join(decoded)
