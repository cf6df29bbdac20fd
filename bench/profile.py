"""Where the workers' time goes: `--profile CASE` runs py-spy beside the case (`pip install py-spy`; often as root)."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import servers
from bench.servers import Stand, Workers

#: Samples per second.
RATE = 200


@contextmanager
def recording(stand: Stand, case: str | None, out: Path) -> Iterator[None]:
    """Record each contender's workers, children included, until they end; one flame graph for each."""
    if case is None:
        yield
        return
    found = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not found:
        raise SystemExit("py-spy is not installed: pip install py-spy")
    out.mkdir(parents=True, exist_ok=True)
    made, recorders = Workers.__init__, []

    def record(self: Workers, *args: object, **kwargs: object) -> None:
        made(self, *args, **kwargs)  # type: ignore[arg-type]
        for worker in self.workers:
            target = out / f"{case}-{worker.log.stem}.svg"
            command = [
                found,
                "record",
                "--subprocesses",
                "--rate",
                str(RATE),
                "--pid",
                str(worker.pid),
                "-o",
                str(target),
            ]
            recorders.append((subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), target))
        time.sleep(1)

    servers.Workers.__init__ = record  # type: ignore[method-assign]
    try:
        yield
    finally:
        servers.Workers.__init__ = made  # type: ignore[method-assign]
        for process, target in recorders:
            process.wait(60)
            print(f"profile: {target}")
