"""Worker, beat and Flower as children of one command, and the whole no-server stack around them."""

import http.client
import importlib.util
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from worker.embedded.child import Child
from worker.embedded.place import HOST, free_port, is_free, private_folder
from worker.embedded.redis import RedisServer
from worker.errors import BellhopError

NODE = "bellhop@localhost"
"""The worker's node name: the only one on its broker, so it need not tell the machine's name."""
FLOWER_USER = "bellhop"
WORKER_STOP_SECONDS = 30
"""A worker asked to end first finishes what it sends; longer sends are taken up again after their lease."""
STOP_SECONDS = 5
PING_SECONDS = 10
INIT_DB = ("-m", "worker.cli", "init-db")


class Stack:
    """One worker (two processes), one beat and one Flower, each logging to `<name>.log` in the folder.

    Made for one machine and a person who watches: nothing is restarted, a child that dies is reported. When we are
    killed ourselves (Linux), the worker still finishes the tasks it runs, then ends.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str],
        *,
        app: str = "worker",
        flower_port: int = 0,
        flower_password: str | None = None,
    ) -> None:
        """`settings`: variables the children get on top of our environment. `flower_port` 0: a free one.

        Without a password a random one is made. Raises BellhopError when it is empty or holds a comma, which
        separates accounts in Flower.
        """
        if flower_password is not None and (not flower_password or "," in flower_password):
            raise BellhopError("Flower's password must not be empty and must not hold a comma")
        if flower_port and not is_free(flower_port):
            raise BellhopError(f"port {flower_port} is taken; choose another for Flower, as in --flower-port 5655")
        self.folder = private_folder(folder)
        self.app = app
        self.flower_port = flower_port or free_port()
        self.flower_url = f"http://{HOST}:{self.flower_port}"
        self.flower_user = FLOWER_USER
        self.flower_password = flower_password or secrets.token_urlsafe(12)
        self._environment = child_environment(settings)
        self._children: dict[str, Child] = {}

    @property
    def pids(self) -> dict[str, int]:
        """Give each child's process id, which is its process group too."""
        return {name: child.pid for name, child in self._children.items()}

    def start(self) -> Self:
        """Start the three, without waiting for them."""
        beat = (f"--schedule={self.folder / 'beat-schedule'}", "--pidfile=")
        flower = (f"--address={HOST}", f"--port={self.flower_port}", "--persistent=False")
        # In the environment and not on the command line, which everybody on the machine can read.
        login = {"FLOWER_BASIC_AUTH": f"{self.flower_user}:{self.flower_password}"}
        self._spawn("worker", "worker", "--concurrency=2", f"--hostname={NODE}", "--loglevel=INFO")
        self._spawn("beat", "beat", *beat, "--loglevel=INFO")
        self._spawn("flower", "flower", *flower, extra=login)
        return self

    def wait_ready(self, deadline_seconds: float = 30) -> None:
        """Wait until the worker answers a ping and Flower a request.

        Raises BellhopError, with the last log lines, when one of them ends or the time is over.
        """
        deadline = time.monotonic() + deadline_seconds
        for name, is_ready in (("flower", self._flower_answers), ("worker", self._worker_answers)):
            while not is_ready():
                self.check()
                if time.monotonic() > deadline:
                    raise BellhopError(f"{name} is not ready after {deadline_seconds} s; {self._report(name)}")
                time.sleep(0.05)
        self.check()

    def check(self) -> None:
        """Raise BellhopError, with the last log lines, when one of the three has ended by itself."""
        for name, child in self._children.items():
            if (code := child.ended()) is not None:
                raise BellhopError(f"{name} ended with code {code}; {self._report(name)}")

    def stop(self) -> None:
        """End beat, then the worker, which may finish what it does, then Flower; whatever is left by SIGKILL.

        Interrupted (a second Ctrl-C), it ends all at once and lets the interruption pass.
        """
        patience = {"beat": STOP_SECONDS, "worker": WORKER_STOP_SECONDS, "flower": STOP_SECONDS}
        try:
            for name, seconds in patience.items():
                if child := self._children.get(name):
                    child.stop(seconds)
        finally:
            for child in self._children.values():
                child.kill()
            self._children.clear()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _celery(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "celery", "-A", self.app, *arguments]

    def _spawn(self, name: str, *arguments: str, extra: Mapping[str, str] | None = None) -> None:
        environment = self._environment | dict(extra or {})
        self._children[name] = Child(self._celery(*arguments), self.folder / f"{name}.log", env=environment)

    def _report(self, name: str) -> str:
        child = self._children[name]
        return f"{child.log}:\n{child.log_tail()}"

    def _flower_answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.flower_port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status in (200, 401)
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _worker_answers(self) -> bool:
        # A process of its own: only the app's configuration knows the broker's key prefix.
        ping = self._celery("inspect", "ping", f"--destination={NODE}", "--timeout=1")
        try:
            done = subprocess.run(ping, env=self._environment, capture_output=True, timeout=PING_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


def child_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Give our environment with the settings on top.

    Celery's own overrides are left out: CELERY_BROKER_URL or CELERY_RESULT_BACKEND would lead past the settings.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CELERY_")}
    return inherited | dict(settings)


@dataclass(frozen=True)
class Embedded:
    """A running no-server stack and where to find its parts."""

    folder: Path
    mail_folder: Path
    """The caught mails, one .eml file each."""
    settings: dict[str, str]
    """The environment variables that lead a client of this stack to it."""
    flower_url: str
    flower_user: str
    flower_password: str = field(repr=False)
    redis: RedisServer = field(repr=False)
    stack: Stack = field(repr=False)

    def check(self) -> None:
        """Raise BellhopError, with the last log lines, when a part has ended by itself."""
        self.redis.check()
        self.stack.check()


@contextmanager
def embedded_stack(
    folder: Path,
    *,
    flower_port: int = 0,
    flower_password: str | None = None,
    app: str = "worker",
    prepare: Sequence[str] = INIT_DB,
    extra: Mapping[str, str] | None = None,
    deadline_seconds: float = 60,
) -> Iterator[Embedded]:
    """Run Redis, a mail catcher, the worker, beat and Flower on one folder, ready to use; all end with the block.

    Everything kept is in the folder: data, mails, logs. `prepare`: arguments of the Python command that readies the
    database. `extra`: more settings. Raises BellhopError when something is not installed or does not start.
    """
    _require_extra()
    from worker.embedded.smtp import MailCatcher

    folder = private_folder(folder)
    with ExitStack() as parts:
        redis = parts.enter_context(RedisServer(folder / "redis"))
        catcher = parts.enter_context(MailCatcher(folder / "mail"))
        settings = {
            "DATABASE_URL": f"sqlite:///{folder / 'bellhop.db'}",
            "BROKER_URL": redis.url,
            "RESULT_BACKEND": redis.url,
            "SMTP_URL": catcher.url,
            "EMAIL_FROM": "Bellhop <bellhop@localhost>",
            **(extra or {}),
        }
        stack = Stack(folder, settings, app=app, flower_port=flower_port, flower_password=flower_password)
        _prepare(prepare, settings)
        parts.enter_context(stack).wait_ready(deadline_seconds)
        account = (stack.flower_user, stack.flower_password)
        yield Embedded(folder, catcher.folder, settings, stack.flower_url, *account, redis, stack)


def _require_extra() -> None:
    if importlib.util.find_spec("aiosmtpd") is None:
        raise BellhopError("aiosmtpd, the mail catcher, is not installed. Run: pip install 'bellhop-worker[embedded]'")


def _prepare(arguments: Sequence[str], settings: Mapping[str, str]) -> None:
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, env=child_environment(settings), capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise BellhopError(f"Preparing the database failed with code {done.returncode}:\n{tail}")
