"""A private RabbitMQ for the tests: own node name, ports, cookie and folders, stopped by its own process id.

It takes some seconds to start, so share one. The machine's own node, and its port mapper (epmd), are never spoken to.
"""

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from kombu import Connection

from tests.servers import MissingServer, Process, wait_until
from worker.embedded.place import HOST, free_port

MISSING = (
    "No RabbitMQ server found: no rabbitmq-server on PATH, in /usr/sbin or in Homebrew's folders. Install one (Debian, "
    "Ubuntu: apt install rabbitmq-server; Fedora: dnf install rabbitmq-server; Homebrew: brew install rabbitmq)."
)
FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
START_SECONDS = 60
CTL_SECONDS = 180


def find_rabbitmq() -> Path:
    """Find the folder of rabbitmq-server and rabbitmqctl. Raises MissingServer."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *FOLDERS])
    found = shutil.which("rabbitmq-server", path=path)
    # What Debian has on PATH is a wrapper that changes to the system's own account and folders; the server is beside.
    folder = Path(found).resolve().parent if found else None
    if folder is None or not os.access(folder / "rabbitmq-server", os.X_OK):
        raise MissingServer(MISSING)
    return folder


class RabbitServer:
    """One RabbitMQ node without plugins; it can be killed and started again on the same data and ports."""

    def __init__(self, folder: Path) -> None:
        self.bin = find_rabbitmq()
        self.folder = folder
        self.port, self._mapper_port, self._node_port = free_port(), free_port(), free_port()
        self.url = f"amqp://guest:guest@{HOST}:{self.port}//"
        self.log = folder / "rabbitmq.log"
        self._server: Process | None = None
        self._mapper: Process | None = None
        self._env = self._prepare()

    @property
    def pid(self) -> int:
        """Give the running server's process id."""
        assert self._server, "RabbitMQ is not running"
        return self._server.pid

    def start(self) -> Self:
        """Start, and wait until it answers."""
        if self._mapper is None:
            mapper = ["epmd", "-address", HOST, "-port", str(self._mapper_port)]
            self._mapper = Process(mapper, self.folder / "epmd.log", env=self._env)
            wait_until(self._mapper_answers, 60, "epmd answers")
        self._server = Process([str(self.bin / "rabbitmq-server")], self.log, env=self._env, cwd=self.folder)
        wait_until(self._is_up, START_SECONDS, f"RabbitMQ answers; see {self.log}")
        return self

    def kill(self) -> None:
        """Stop by SIGKILL, as a crash would."""
        if self._server:
            self._server.kill_group()
            self._server = None

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl, which takes some seconds, on a busy machine more than a minute; give what it prints."""
        command = [str(self.bin / "rabbitmqctl"), "--quiet", *arguments]
        env = {**os.environ, **self._env}
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=CTL_SECONDS, cwd=self.folder, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def channel(self) -> Iterator[Any]:
        """Open a channel."""
        with Connection(self.url) as connection, connection.channel() as channel:
            yield channel

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *exc: object) -> None:
        self.kill()  # a stop in good order takes seconds, and nobody wants the data
        if self._mapper:
            self._mapper.terminate()
            self._mapper = None

    def _prepare(self) -> dict[str, str]:
        home = self.folder / "home"
        home.mkdir(parents=True)
        cookie = home / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(10))
        cookie.chmod(0o400)
        config = self.folder / "rabbitmq.conf"
        config.write_text(f"listeners.tcp.local = {HOST}:{self.port}\nlog.file = false\nlog.console = true\n")
        # Fresh counts of messages within a second instead of five.
        advanced = self.folder / "advanced.config"
        advanced.write_text("[{rabbit, [{quorum_tick_interval, 1000}]}].\n")
        plugins = self.folder / "enabled_plugins"
        plugins.write_text("[].\n")
        loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "HOME": str(home),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(self._mapper_port),
            "RABBITMQ_NODENAME": f"bellhop-{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._node_port),
            "RABBITMQ_CTL_ERL_ARGS": loopback,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{loopback} -start_epmd false",
            # The script then becomes the server, so that its process id is the server's.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(advanced),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_LOGS": "-",
        }

    def _is_up(self) -> bool:
        server = self._server
        assert server
        assert server.returncode() is None, server.log_text()[-3000:]
        return "Server startup complete" in server.log_text()

    def _mapper_answers(self) -> bool:
        with suppress(OSError):
            socket.create_connection((HOST, self._mapper_port), 1).close()
            return True
        return False
