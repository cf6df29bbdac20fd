"""Where the time of empty tasks goes: that of the worker's own process, which reads each message and hands it over."""

import tempfile
from pathlib import Path

from bench.cases_broker import EMPTY, HARDENED, PROCESSES
from bench.cpu_time import cpu
from bench.sampling import chapter, recording, shares
from bench.servers import Stand
from bench.transport import SHAPES, Case

#: Empty tasks; the stock transport takes several times as long.
COUNT, STOCK_COUNT = 30_000, 8_000

#: As in `bench.profile`, for Celery's own parts.
GROUPS = (
    ("bench/", "the task itself"),
    ("worker/redis_", "our transport"),
    ("kombu/transport/", "kombu's transport"),
    ("redis/", "redis-py"),
    ("kombu/asynchronous/", "the event loop"),
    ("kombu/", "kombu's messages"),
    ("celery/concurrency/", "handing to a process, hearing of it"),
    ("billiard/", "handing to a process, hearing of it"),
    ("celery/app/trace", "running the task"),
    ("celery/worker/", "Celery's request, and what it does with it"),
    ("celery/", "the rest of Celery"),
)


def measure(stand: Stand, spy: str) -> list[str]:
    """A chapter for each shape of a worker and each transport."""
    chapters = []
    redis = stand.broker.removesuffix("/0") + "/2"
    for shape in ("1 solo", f"prefork -c{PROCESSES}"):
        for case in (Case(HARDENED, redis, "ours"), Case(EMPTY, redis, "stock")):
            chapters.append(_measure(stand, spy, case, shape))
            print(chapters[-1], flush=True)
    return chapters


def _measure(stand: Stand, spy: str, case: Case, shape: str) -> str:
    count, target = STOCK_COUNT if case.name == EMPTY else COUNT, stand.folder / "profile.raw"
    with (
        tempfile.TemporaryDirectory() as name,
        case.full(Path(name), count, *SHAPES[shape]) as (boss, started),
        recording(spy, started[0].pid, target),
    ):
        before = cpu()
        seconds = case.run(Path(name), boss, count)
        spent = cpu() - before
    title = f"{case.name}, already queued, {shape}"
    samples = shares(target.read_text(), GROUPS)
    return chapter(title, count, seconds, spent, samples, "the worker's own process", "task")
