"""One system on servers of its own, with load on it: started, hurt by others, brought to rest."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import create_engine, text

from tests.catalogue import write_catalogue
from tests.chaos import handwritten
from tests.chaos.brokers import Broker, make_broker
from tests.chaos.load import Asked, read_ledger
from tests.chaos.mail import Mail
from tests.chaos.mail import read_ledger as read_mails
from tests.chaos.proxy import Proxy
from tests.flow.pages import FLOWER_LOGIN, flower_page
from tests.servers import PostgresServer, Process, free_port, wait_until
from worker import database
from worker.embedded.place import HOST

ROOT = Path(__file__).parents[2]
LEASE_SECONDS = 6
#: Short, so that what a dead worker held is soon taken up.
TIMES = {
    "LEASE_SECONDS": LEASE_SECONDS,
    "HANDOVER_SECONDS": 3,
    "TASK_TIME_LIMIT_SECONDS": 4,
    "VISIBILITY_TIMEOUT_SECONDS": 6,
    "DISPATCH_EVERY_SECONDS": 1,
    "RETRY_BASE_SECONDS": 1,
    "RETRY_MAX_SECONDS": 2,
    "MAX_ATTEMPTS": 50,
    "SMTP_TIMEOUT_SECONDS": 2,
    "SMTP_DATA_TIMEOUT_SECONDS": 2,
}
WAYS = ("broker", "durable")
WORKERS = ("worker1", "worker2")
APPS = {"bellhop": "worker", "handwritten": "tests.chaos.handwritten"}
#: What a supervisor waits before it starts a process that has ended.
RESTART_SECONDS = 1
#: How long nothing may be on its way before all is at rest.
REST_SECONDS = 1.5
#: The most that is waited for rest.
PATIENCE_SECONDS = 90


#: Alembic keeps its place in global variables.
_ALEMBIC = threading.Lock()


class Stage:
    """Two workers, Flower, and for Bellhop beat, which are started again when they end, as a supervisor does."""

    def __init__(self, folder: Path, system: str, broker: str, *, small_disk: bool = False, proxied: bool = False):
        self.folder = folder
        self.system = system
        self.folder.mkdir(parents=True)
        self.processes: dict[str, Process] = {}
        self.restarts = 0
        self._small_disk, self._proxied = small_disk, proxied
        self._stack = ExitStack()
        self._producers: list[Process] = []
        self._over = threading.Event()
        self._mail_port, self.flower_port = free_port(), free_port()
        self.mood = folder / "mood"
        self.postgres = PostgresServer(folder, durable=True, extra=("min_wal_size=32MB", "max_wal_size=64MB"))
        self.broker: Broker = make_broker(broker, folder / "broker")
        self.proxy: Proxy | None = None
        self.environment: dict[str, str] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self._small_disk:
                stack.enter_context(tmpfs(self.postgres))
            self.broker = stack.enter_context(self.broker)
            stack.enter_context(self.postgres)
            if self._proxied:
                self.proxy = stack.enter_context(Proxy(self.broker.port))
            self.environment = self._settings()
            self._make_tables()
            stack.callback(self._end)
            self.start_mail()
            self._supervise()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def start_mail(self) -> None:
        """Start the mail server on its port, in a good mood."""
        self.mood.write_text("")
        command = [sys.executable, "-m", "tests.chaos.mail", str(self._mail_port)]
        files = [str(self.folder / "mails"), str(self.mood)]
        server = self.processes["mail"] = Process([*command, *files], self.folder / "mail.log", cwd=ROOT)
        wait_until(lambda: "listening" in server.log_text(), 20, "the mail server listens")

    def produce(self) -> None:
        """Start both producers."""
        for way in WAYS:
            command = [sys.executable, "-m", "tests.chaos.load", self.system, way, str(self._asked(way))]
            log = self.folder / f"producer-{way}.log"
            self._producers.append(Process(command, log, env=self.environment, cwd=ROOT))

    def wait_accepted(self, more: int, deadline_seconds: float = 30) -> None:
        """Wait until each producer had so many more accepted, or the deadline: one that waits for a dead server."""
        goals = {way: len(self.asked(way).accepted) + more for way in WAYS}
        deadline = time.monotonic() + deadline_seconds
        while time.monotonic() < deadline and any(len(self.asked(way).accepted) < goals[way] for way in WAYS):
            time.sleep(0.05)

    def stop_producers(self) -> None:
        """Have each finish its call."""
        for producer in self._producers:
            producer.terminate(30)
        self._producers = []

    def asked(self, way: str) -> Asked:
        """Give what a producer asked for so far."""
        return read_ledger(self._asked(way))

    def mails(self) -> list[Mail]:
        """Give every mail that the server accepted."""
        return read_mails(self.folder / "mails")

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the database."""
        engine = create_engine(self.postgres.url, hide_parameters=True)
        try:
            with engine.begin() as connection:
                result = connection.execute(text(sql))
                return [tuple(row) for row in result] if result.returns_rows else []
        finally:
            engine.dispose()

    def flower(self, path: str) -> str:
        """Give Flower's page; empty where there is none."""
        return flower_page(self.flower_port, path)[1]

    def settle(self) -> float | None:
        """Wait until nothing is on its way any more; gives the seconds that took, None when it never came to rest."""
        started = since = time.monotonic()
        while time.monotonic() < started + PATIENCE_SECONDS:
            if not self._at_rest():
                since = time.monotonic() + 0.2
            elif time.monotonic() - since > REST_SECONDS:
                return since - started
            time.sleep(0.2)
        return None

    def _at_rest(self) -> bool:
        waiting = {
            "bellhop": """SELECT (SELECT count(*) FROM deliveries WHERE status IN ('pending', 'sending'))
                          + (SELECT count(*) FROM requests WHERE status = 'pending')""",
            "handwritten": "SELECT 0",
        }
        return not self.rows(waiting[self.system])[0][0] and self.broker.is_idle()

    def _asked(self, way: str) -> Path:
        return self.folder / f"asked-{way}"

    def _settings(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.postgres.url,
            "BROKER_URL": self.broker.url_at(self.proxy.port if self.proxy else self.broker.port),
            "SMTP_URL": f"smtp://{HOST}:{self._mail_port}?tls=none",
            "FLOWER_BASIC_AUTH": FLOWER_LOGIN,
            "PYTHONPATH": str(ROOT),
            **write_catalogue(self.folder / "catalogue"),
            **{name: str(value) for name, value in TIMES.items()},
        }

    def _make_tables(self) -> None:
        engine = database.make_engine(self.postgres.url)
        if self.system == "bellhop":
            with _ALEMBIC:
                database.upgrade(engine)
        else:
            handwritten.Base.metadata.create_all(engine)
        engine.dispose()

    def _supervise(self) -> None:
        names = [*WORKERS, "flower", *(["beat"] if self.system == "bellhop" else [])]
        ready = threading.Event()

        # In a thread that lasts: a process ends with the thread that started it.
        def watch() -> None:
            for name in names:
                self._start(name)
            ready.set()
            while not self._over.wait(0.1):
                for name in names:
                    if self.processes[name].returncode() is not None and not self._over.wait(RESTART_SECONDS):
                        self._start(name)
                        self.restarts += 1

        thread = threading.Thread(target=watch)
        self._watch = thread
        thread.start()
        assert ready.wait(20)
        for name in WORKERS:
            wait_until(lambda name=name: " ready." in self.processes[name].log_text(), 60, f"{name} is ready")  # type: ignore[misc]
        wait_until(lambda: self.flower("/healthcheck"), 60, "Flower answers")

    def _start(self, name: str) -> None:
        celery = [sys.executable, "-m", "celery", "-A", APPS[self.system]]
        command = {
            "beat": [*celery, "beat", f"--schedule={self.folder / 'schedule'}", "--pidfile="],
            "flower": [*celery, "flower", f"--port={self.flower_port}", f"--address={HOST}"],
        }.get(name, [*celery, "worker", "-c", "2", "-l", "INFO", "-n", f"{name}@chaos"])
        log = self.folder / f"{name}.log"
        self.processes[name] = Process(command, log, env=self.environment, cwd=ROOT)

    def _end(self) -> None:
        self._over.set()
        if hasattr(self, "_watch"):
            self._watch.join(20)
        for process in [*self._producers, *self.processes.values()]:
            process.kill_group()


class NotPermitted(RuntimeError):
    """This account may not mount a file system."""


@contextmanager
def tmpfs(postgres: PostgresServer, megabytes: int = 160) -> Iterator[None]:
    """Put the server's folder on a small disk of its own. Raises NotPermitted."""
    owner = postgres.home.stat()
    options = f"size={megabytes}m,mode=0700,uid={owner.st_uid},gid={owner.st_gid}"
    command = ["mount", "-t", "tmpfs", "-o", options, "bellhop-chaos", str(postgres.home)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        raise NotPermitted("this account may not mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(postgres.home)], check=False)
