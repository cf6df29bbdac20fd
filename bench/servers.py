"""What everything is measured on: private servers, databases of each contender, worker processes."""

import contextlib
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import psycopg
import redis

from bench import naive
from bench.sinks import OwnSink, SmtpSink, find, make_sink
from tests.servers import PostgresServer, Process, RedisTestServer, wait_until
from worker import database

ROOT = Path(__file__).parent.parent
CELERY = str(Path(sys.executable).parent / "celery")

#: On top of PostgreSQL's defaults, which keep fsync, synchronous_commit and full_page_writes on.
POSTGRES = (
    "shared_buffers=2GB",
    "max_wal_size=16GB",
    "min_wal_size=8GB",  # a server that has run for days finds its log's files there, and need not make them
    "checkpoint_timeout=15min",
    "maintenance_work_mem=512MB",
    "jit=off",
    "track_commit_timestamp=on",  # the moment of each row's commit is read from it
)
REDIS = "appendonly yes, appendfsync everysec"
QUEUES = ("notifications", "bulk", "email_high", "email", "maintenance", "inbox", "celery")


@dataclass(frozen=True)
class Place:
    """Where ours may have its tables and queues."""

    url: str
    broker: str
    db: psycopg.Connection[Any]


class Stand:
    """The servers. Each contender has its own database on one PostgreSQL, and its own database of one Redis."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._exit = contextlib.ExitStack()
        self._count = 0
        self.keep = False
        """Whether rows that a table was filled with stay at a reset."""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._exit.close()
            raise
        return self

    def _start(self) -> None:
        enter = self._exit.enter_context
        self.postgres = enter(PostgresServer(self.folder, durable=True, extra=POSTGRES))
        self.redis = enter(RedisTestServer(self.folder / "redis"))
        self.sink: SmtpSink | OwnSink = enter(make_sink(self.folder / "sink"))
        self.url, self.naive_url = self.migrated("bellhop"), self.postgres.create_database("naive")
        os.environ["NAIVE_DATABASE_URL"] = self.naive_url
        naive.Base.metadata.create_all(naive.engine())
        naive.engine().dispose()
        self.broker = self.redis.url
        self.naive_broker = self.broker.removesuffix("/0") + "/1"
        self.db, self.naive_db = (self.connect(url) for url in (self.url, self.naive_url))
        self.clients = {url: redis.Redis.from_url(url) for url in (self.broker, self.naive_broker)}

    def __exit__(self, *exc: object) -> None:
        self._exit.close()

    def connect(self, url: str) -> psycopg.Connection[Any]:
        """An autocommit connection, closed at the end."""
        return self._exit.enter_context(psycopg.connect(url.replace("+psycopg", ""), autocommit=True))

    @contextlib.contextmanager
    def on(self, broker: str) -> Iterator[None]:
        """Meanwhile, publishers and workers that start use this one broker."""
        before = self.broker, self.naive_broker
        self.broker = self.naive_broker = broker
        try:
            yield
        finally:
            self.broker, self.naive_broker = before

    @contextlib.contextmanager
    def at(self, place: "Place") -> Iterator[None]:
        """Meanwhile, ours has its tables and its queues there, and a reset leaves the rows that it was filled with."""
        before = self.url, self.broker, self.db, self.keep
        self.url, self.broker, self.db, self.keep = place.url, place.broker, place.db, True
        try:
            yield
        finally:
            self.url, self.broker, self.db, self.keep = before

    def place(self, name: str, number: int) -> "Place":
        """A database of its own, migrated, and a database of its own on the one Redis."""
        url, broker = self.migrated(name), f"{self.redis.url.removesuffix('/0')}/{number}"
        self.clients[broker] = redis.Redis.from_url(broker)
        return Place(url, broker, self.connect(url))

    def migrated(self, name: str) -> str:
        """A new database with our tables; gives its URL."""
        url = self.postgres.create_database(name)
        engine = database.make_engine(url)
        database.upgrade(engine)
        engine.dispose()
        return url

    def own_sink(self, delay: float = 0, processes: int = 1) -> OwnSink:
        """A sink that knows when each mail came; a context manager."""
        self._count += 1
        return OwnSink(self.folder / f"own-sink-{self._count}", delay, processes)

    def environment(self, sink: SmtpSink | OwnSink | None = None) -> dict[str, str]:
        """What an operator sets: where the servers are, and nothing else."""
        sink = sink or self.sink
        return {
            "DATABASE_URL": self.url,
            "BROKER_URL": self.broker,
            "SMTP_URL": sink.url,
            "EMAIL_FROM": "Library <library@example.org>",
            "NAIVE_DATABASE_URL": self.naive_url,
            "NAIVE_BROKER_URL": self.naive_broker,
            "NAIVE_SMTP_PORT": str(sink.port),
        }

    def process(self, name: str, *command: str, sink: SmtpSink | OwnSink | None = None) -> Process:
        """Start a process on these servers."""
        self._count += 1
        log = self.folder / f"{self._count}-{name}.log"
        environment = self.environment(sink)
        if name not in ("worker", "beat"):
            # Celery's command prefers this variable to what the app says.
            environment["BROKER_URL"] = self.naive_broker
        return Process(command, log, env=environment, cwd=ROOT)

    def queued(self, broker: str) -> int:
        """Messages that wait or are in a worker's hands."""
        client = self.clients[broker]
        with client.pipeline(transaction=False) as pipe:
            for queue in QUEUES:
                pipe.llen(queue)
            pipe.hlen("unacked")
            return sum(pipe.execute())

    def reset(self) -> None:
        """Empty tables and queues; a checkpoint, so that no contender pays for another one's writes."""
        if self.keep:
            self.db.execute("DELETE FROM notifications WHERE recipient_id LIKE 'r-%'")
            self.db.execute("TRUNCATE requests, contents")
            # A large table would not be vacuumed for so few rows, a small one would.
            self.db.execute("VACUUM (INDEX_CLEANUP ON) notifications")
        else:
            self.db.execute("TRUNCATE notifications, deliveries, requests, attachments, contents CASCADE")
        self.naive_db.execute("TRUNCATE notifications")
        for client in self.clients.values():
            client.delete(*QUEUES)
        self.db.execute("CHECKPOINT")

    def rest(self) -> None:
        """A table that has grown for months has been vacuumed, and is not just being written to disk."""
        self.db.execute("VACUUM (ANALYZE) notifications")
        self.db.execute("CHECKPOINT")
        vacuums = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'"
        wait_until(lambda: self.db.execute(vacuums).fetchone() == (0,), 300, "no vacuum is under way")

    def facts(self) -> dict[str, Any]:
        """Machine, versions and settings, for the report."""
        packages = ("celery", "kombu", "redis", "sqlalchemy", "psycopg", "jinja2", "flower")
        names = ("fsync", "synchronous_commit", "full_page_writes", "wal_level")
        settings = [f"{name}={self.db.execute(f'SHOW {name}'.encode()).fetchone()[0]}" for name in names]  # type: ignore[index]
        return {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)),
            "memory GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "load before": round(os.getloadavg()[0], 1),
            "system": platform.platform(),
            "Python": platform.python_version(),
            "packages": {name: version(name) for name in packages},
            "PostgreSQL": self.db.execute("SHOW server_version").fetchone()[0],  # type: ignore[index]
            "PostgreSQL settings": [*settings, *POSTGRES],
            "Redis": str(self.clients[self.broker].info("server")["redis_version"]),
            "Redis settings": REDIS,
            "mail sink": self.sink.name,
            "mail floor": find("smtp-source") or "smtp-source is not installed",
            "commit": _commit(),
        }


class Workers:
    """The workers of one contender: `instances` commands with `processes` pool processes each."""

    def __init__(
        self,
        stand: Stand,
        app: str,
        processes: int = 4,
        *,
        instances: int = 1,
        beat: bool = False,
        queue: str | None = None,
        sink: SmtpSink | OwnSink | None = None,
    ) -> None:
        name = app.rpartition(".")[2]
        command = [CELERY, "-A", app, "worker", "-c", str(processes), "-l", "INFO", *(["-Q", queue] if queue else [])]
        self.running = [
            stand.process(name, *command, "-n", f"{name}{number}@%h", sink=sink) for number in range(instances)
        ]
        self.workers = [*self.running]
        if beat:
            schedule = str(stand.folder / f"schedule-{time.monotonic_ns()}")
            beat_command = (CELERY, "-A", app, "beat", "--schedule", schedule, "--pidfile=")
            self.running.append(stand.process("beat", *beat_command, sink=sink))
        for worker in self.workers:
            wait_until(
                lambda w=worker: " ready." in w.log_text() or w.returncode() is not None, 60, "a worker is ready"
            )
            if worker.returncode() is not None:
                raise SystemExit(f"a worker ended:\n{worker.log_text()}")

    def pause(self) -> None:
        """Stop them where they are, so that messages can pile up."""
        for process in self.workers:
            process.kill_group(signal.SIGSTOP)

    def resume(self) -> float:
        """Let them go on; gives the moment."""
        moment = time.time()
        for process in self.workers:
            process.kill_group(signal.SIGCONT)
        return moment

    def memory(self) -> list[int]:
        """Bytes of resident memory of each process."""
        return [size for pid in self.pids() if (size := _resident_bytes(pid))]

    def pids(self) -> list[int]:
        """Every process of theirs."""
        return [pid for worker in self.workers for pid in _family(worker.pid)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self.running:
            process.kill_group(signal.SIGCONT)
            process.tell(signal.SIGTERM)
        for process in self.running:
            process.terminate(15)


def _family(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *(int(child) for child in children)]
    return []


def _resident_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        return os.sysconf("SC_PAGE_SIZE") * int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return 0


def _cpu() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor()


def _commit() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip()
