"""Where a single notification's time goes when nothing else is asked: the way to its task, and the task's work."""

import os
import subprocess
import sys

from bench.cases_broker import EMPTY, HARDENED, PROCESSES
from bench.servers import ROOT, Stand
from bench.transport import SHAPES, Case

COUNT = 300


def measure(stand: Stand, _spy: str) -> list[str]:
    """One chapter; medians of both ways and of both works."""
    redis, shape = stand.broker.removesuffix("/0") + "/2", SHAPES[f"prefork -c{PROCESSES}"]
    ways = [
        (f"from publishing to running: {case.name}", case.latency(COUNT, *shape)[0])
        for case in (Case(HARDENED, redis, "ours"), Case(EMPTY, redis, "stock"))
    ]
    works = [
        (f"the task's work, in one process: {title}", _alone(stand, who))
        for title, who in (("Bellhop", "ours"), ("hand-written", "naive"))
    ]
    rows = "\n".join(f"| {what} | {milliseconds:.2f} |" for what, milliseconds in (*ways, *works))
    chapter = f"## A single notification when idle\n\n| median of {COUNT} | ms |\n| --- | ---: |\n{rows}\n"
    print(chapter, flush=True)
    return [chapter]


def _alone(stand: Stand, who: str) -> float:
    command = [sys.executable, "-m", "bench.alone", who, str(COUNT)]
    environment = {**os.environ, **stand.environment()}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)
