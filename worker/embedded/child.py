"""A child process with a log file and a process group of its own, which does not outlive its parent."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

TETHER = Path(__file__).with_name("tether.py")


class Child:
    """Starts at once. Ctrl-C in the terminal does not reach it: the parent decides when it ends.

    On Linux it gets SIGTERM when the thread that started it ends, so start it from one that lasts. Elsewhere it
    outlives a parent that was killed by SIGKILL.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """`env` is the whole environment; absent: the parent's. The log file is appended to, mode 0600."""
        self.log = log
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._log_start = os.fstat(output).st_size
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        finally:
            os.close(output)
        self.pid = self._process.pid

    def ended(self) -> int | None:
        """Give the exit code (minus the signal's number when killed), None while it runs."""
        return self._process.poll()

    def wait(self, deadline_seconds: float) -> int:
        """Wait for its end and give the exit code. Raises subprocess.TimeoutExpired."""
        return self._process.wait(deadline_seconds)

    def log_text(self) -> str:
        """Give what it has written since it was started."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def log_tail(self, lines: int = 20) -> str:
        """Give the last lines it has written."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    def signal_group(self, number: int) -> None:
        """Send a signal to the process and all its children; nothing happens when none is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def stop(self, deadline_seconds: float, number: int = signal.SIGTERM) -> None:
        """Ask the process alone to end, then end what is left of its group by SIGKILL after the deadline."""
        try:
            if self.ended() is None:
                os.kill(self.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.wait(deadline_seconds)
        finally:
            self.kill()

    def kill(self) -> None:
        """End the whole group by SIGKILL and reap the process."""
        self.signal_group(signal.SIGKILL)
        self._process.wait()
