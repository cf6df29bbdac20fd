"""The mail servers that the mails go to, behind one face: Postfix's smtp-sink where it is installed, else our own."""

import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from tests.servers import Process, free_port, wait_until

#: Processes of our own sink that share its port.
SHARE = 2
#: Where smtp-sink writes mails down.
SHARED = ("/dev/shm", "/tmp")


def find(name: str) -> str | None:
    """smtp-sink or smtp-source; Debian's postfix has them where PATH does not look for everybody."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/lib/postfix/sbin")


class OwnSink:
    """`bench.sink`: knows for whom and when each mail came; `delay` is a round trip in seconds."""

    name = f"bench/sink.py, {SHARE} processes"
    #: Seconds between two counts: each costs it something.
    pause = 0.3

    def __init__(self, folder: Path, delay: float = 0, processes: int = SHARE) -> None:
        self.port = free_port()
        self.url = f"smtp://127.0.0.1:{self.port}?tls=none"
        self.folder = folder
        folder.mkdir()
        command = [sys.executable, "-m", "bench.sink", str(self.port), str(delay), str(folder)]
        self.processes = [Process(command, folder / f"{number}.log") for number in range(processes)]
        wait_until(lambda: len([*folder.glob("*.ready")]) == processes, 20, "the sink listens")

    def mails(self) -> list[tuple[float, str]]:
        """When (seconds since the epoch) and for whom each mail came."""
        for file in self.folder.glob("*.mails"):
            file.unlink()
        for process in self.processes:
            process.tell(signal.SIGUSR1)
        wait_until(lambda: len([*self.folder.glob("*.mails")]) == len(self.processes), 60, "the sink tells")
        lines = [line.split(" ", 1) for file in self.folder.glob("*.mails") for line in file.read_text().splitlines()]
        return [(float(moment), address) for moment, address in lines]

    def count(self) -> int:
        """How many mails came."""
        return len(self.mails())

    def last(self) -> float:
        """When the last mail came."""
        return max(moment for moment, _ in self.mails())

    def addresses(self) -> list[str]:
        """For whom they were."""
        return [address for _, address in self.mails()]

    def reset(self, *, identities: bool = False) -> None:
        """Forget what came."""
        for process in self.processes:
            process.tell(signal.SIGUSR2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self.processes:
            process.terminate(2)


class SmtpSink:
    """Postfix's smtp-sink. It counts mails; it also writes them down, at some cost, where `identities` are asked."""

    pause = 0.005

    def __init__(self, folder: Path) -> None:
        self.program = find("smtp-sink")
        self.name = f"smtp-sink ({self.program})"
        self.port = free_port()
        self.url = f"smtp://127.0.0.1:{self.port}?tls=none"
        folder.mkdir()
        self.folder, self.process = folder, None
        # As root it runs as nobody, who cannot see into our folder; and a file system in memory costs it least.
        self.dumps = Path(tempfile.mkdtemp(prefix="bellhop-sink-", dir=next(filter(os.path.isdir, SHARED))))
        self.dumps.chmod(0o777)
        self.dump = self.dumps / "mails"
        self.starts = 0
        self.reset()

    def reset(self, *, identities: bool = False) -> None:
        """Start anew on the same port."""
        self.close()
        self.dump.unlink(missing_ok=True)
        self.starts += 1
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        dump = ["-D", str(self.dump)] if identities else []
        command = [str(self.program), *user, "-c", *dump, "-m", "1000", f"127.0.0.1:{self.port}", "500"]
        self.process = Process(command, self.folder / f"{self.starts}.log")
        wait_until(lambda: _listens(self.port), 10, "smtp-sink listens")

    def count(self) -> int:
        """How many mails came."""
        with self.process.log.open("rb") as log:
            log.seek(max(log.seek(0, os.SEEK_END) - 300, 0))
            seen = re.findall(rb"mesg=(\d+)\b(?=.)", log.read(), re.DOTALL)
        return int(seen[-1]) if seen else 0

    def last(self) -> float:
        """When the last mail came: just now, as somebody counts all the time."""
        return time.time()

    def addresses(self) -> list[str]:
        """For whom they were, where identities were asked for."""
        time.sleep(0.2)
        with self.dump.open() as dump:
            return [line[len("X-Rcpt-Args: <") : -2] for line in dump if line.startswith("X-Rcpt-Args: ")]

    def __enter__(self) -> Self:
        return self

    def close(self) -> None:
        """End the process."""
        if self.process:
            self.process.terminate(2)
            self.process.log.unlink(missing_ok=True)

    def __exit__(self, *exc: object) -> None:
        self.close()
        shutil.rmtree(self.dumps, ignore_errors=True)


def _listens(port: int) -> bool:
    # Not by connecting: that would count as a session.
    wanted = f"0100007F:{port:04X} 00000000:0000 0A"
    return wanted in Path("/proc/net/tcp").read_text()


def make_sink(folder: Path) -> SmtpSink | OwnSink:
    """The fastest there is."""
    return SmtpSink(folder) if find("smtp-sink") else OwnSink(folder)
