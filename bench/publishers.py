"""Several publisher processes at once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from bench.servers import ROOT, Stand


class Publishers:
    """`count` processes that share what there is to enqueue."""

    def __init__(self, stand: Stand, count: int = 1) -> None:
        self.folder = stand.folder
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "bench.publisher"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
                env={**os.environ, **stand.environment()},
            )
            for _ in range(count)
        ]  # fmt: skip

    def publish(self, kind: str, count: int, *, first: int = 0, email: bool = False, **job: Any) -> tuple[float, float]:
        """Enqueue, each process its share; gives when the first began and the last ended, in seconds since the epoch.

        `rate` is that of all processes together.
        """
        answers = self.begin(kind, count, first=first, email=email, **job)
        return answers()

    def begin(
        self, kind: str, count: int, *, first: int = 0, email: bool = False, rate: float = 0, stamps: bool = False
    ):  # type: ignore[no-untyped-def]
        """As `publish`, but gives a function that waits for the end."""
        used = self.processes[: max(1, min(len(self.processes), count))]
        share, at = -(-count // len(used)), first
        for number, process in enumerate(used):
            job = {"kind": kind, "first": at, "count": min(share, first + count - at), "email": email}
            job |= {"rate": rate / len(used)} if rate else {}
            job |= {"stamps": str(self.stamps_file(number))} if stamps else {}
            print(json.dumps(job), file=process.stdin, flush=True)
            at += job["count"]

        def wait() -> tuple[float, float]:
            answers = []
            for process in used:
                line = process.stdout.readline()
                if not line:
                    raise SystemExit("a publisher ended; its error is above")
                answers.append(json.loads(line))
            return min(a["began"] for a in answers), max(a["ended"] for a in answers)

        return wait

    def stamps_file(self, number: int) -> Path:
        """Where a process writes when it began each."""
        return self.folder / f"stamps-{number}"

    def stamps(self) -> dict[str, float]:
        """When each was begun, by recipient."""
        lines = [line for file in self.folder.glob("stamps-*") for line in file.read_text().splitlines()]
        for file in self.folder.glob("stamps-*"):
            file.unlink()
        return {name: float(moment) for name, moment in (line.split() for line in lines)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self.processes:
            process.stdin.close()
        for process in self.processes:
            process.wait(20)
