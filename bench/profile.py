"""Where the time goes: `python -m bench.profile [--out FILE]`, with py-spy (`pip install py-spy`; often as root).

For each kind of work: how many per second, the CPU time per notification by kind of process, and what one pool process
of the workers, and the first publisher where it has more to do than one call, does with its own, sampled by py-spy.
Only one thing happens at a time, so the rates are those of `bench` without its turns. Then the parts of a single
notification's time, empty tasks, what PostgreSQL counts and waits for as its table grows, and what statements wait for
beside a purge.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import profile_empty, profile_growth, profile_latency, profile_purge
from bench.cases_fan_out import fill_directory
from bench.cases_single import PUBLISHERS, Single
from bench.cpu_time import cpu
from bench.measure import OURS
from bench.publishers import Publishers
from bench.sampling import chapter, recording, shares, table
from bench.servers import ROOT, Stand, Workers

PROCESSES = 4

#: What stands before the chapters in a document that has a text of its own.
MARK = "<!-- what follows, `python -m bench.profile --out bench/profile.md` wrote -->"


@dataclass(frozen=True)
class Work:
    """What is published how, and how much of it."""

    title: str
    kind: str
    count: int
    email: bool = False
    publishers: int = 1


WORK = (
    Work("single notifications, already queued, in-app", "queue", 60_000),
    Work("the same, with mail", "queue", 15_000, email=True),
    Work(f"single notifications, {PUBLISHERS} publishers running, in-app", "one", 15_000, publishers=PUBLISHERS),
    Work("the same, durable, each in its own transaction", "durable", 8_000, publishers=PUBLISHERS),
    Work("the same, durable, 100 per transaction", "durable_many", 30_000, publishers=PUBLISHERS),
    Work("many distinct requests by notify_many, in-app", "many", 100_000),
    Work("fan-out, shared context, in-app", "group", 200_000),
    Work("fan-out, own contexts, in-app", "each", 100_000),
    Work("fan-out, shared context, with mail", "group", 60_000, email=True),
)

#: Kinds with which a publisher is at work all the time.
ASKING = ("one", "durable", "durable_many", "many")

#: What a stack is counted as: the first of these in its innermost frame that has any. Waiting comes first.
GROUPS = (
    ("wait (psycopg/", "PostgreSQL: waiting"),
    ("select (selectors.py", "mail server: waiting"),
    ("psycopg/", "psycopg"),
    ("sqlalchemy/", "SQLAlchemy"),
    ("redis/", "redis-py"),
    ("jinja2/", "rendering"),
    ("worker/render", "rendering"),
    ("worker/channels/", "SMTP and MIME"),
    ("worker/gather", "reading messages"),
    ("worker/request", "checking requests"),
    ("worker/contexts", "checking requests"),
    ("pydantic/", "checking requests"),
    ("worker/prepare", "preparing rows"),
    ("worker/rows", "preparing rows"),
    ("worker/create", "preparing rows"),
    ("worker/pending", "preparing rows"),
    ("worker/express", "publishing"),
    ("worker/client", "publishing"),
    ("worker/wake", "publishing"),
    ("worker/handover", "publishing"),
    ("worker/ids", "preparing rows"),
    ("worker/claims", "claiming and recording"),
    ("worker/outcomes", "claiming and recording"),
    ("worker/deliver", "claiming and recording"),
    ("worker/", "the rest of Bellhop"),
    ("kombu/", "Celery"),
    ("celery/", "Celery"),
    ("billiard/", "Celery"),
)


def measure(stand: Stand, spy: str, work: Work) -> str:
    """A warm-up, then what is measured; gives a chapter."""
    pool, publisher = stand.folder / "pool.raw", stand.folder / "publisher.raw"
    with Publishers(stand, work.publishers) as publishers, Workers(stand, "worker", PROCESSES, beat=True) as workers:
        if work.kind == "group":
            fill_directory(stand, (work.count,))
        single = Single(stand, publishers)
        _once(single, workers, work)
        with ExitStack() as stack:
            stack.enter_context(recording(spy, workers.pids()[1], pool))
            if work.kind in ASKING:
                stack.enter_context(recording(spy, publishers.processes[0].pid, publisher))
            seconds, spent = _once(single, workers, work)
    samples = shares(pool.read_text(), GROUPS)
    found = chapter(work.title, work.count, seconds, spent, samples, "a pool process", "notification")
    return found + (f"\n{table(shares(publisher.read_text(), GROUPS), 'a publisher')}" if work.kind in ASKING else "")


def _once(single: Single, workers: Workers, work: Work) -> tuple[float, Counter[str]]:
    """The seconds that it took, and the CPU time; nothing of what came before."""
    single.prepare()
    if work.kind == "queue":
        workers.pause()
        single.publishers.publish(work.kind, work.count, email=work.email)
        before = cpu()
        began = workers.resume()
    else:
        before = cpu()
        began, _ = single.publishers.publish(work.kind, work.count, email=work.email)
    return single.done(OURS, work.count, work.email) - began, cpu() - before


def _work(stand: Stand, spy: str) -> list[str]:
    chapters = []
    for work in WORK:
        chapters.append(measure(stand, spy, work))
        print(chapters[-1], flush=True)
    return chapters


PARTS: dict[str, Callable[[Stand, str], list[str]]] = {
    "work": _work,
    "latency": profile_latency.measure,
    "empty": profile_empty.measure,
    "growth": profile_growth.measure,
    "purge": profile_purge.measure,
}


def main(arguments: Sequence[str]) -> None:
    """Print each chapter when it is done."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS], help="some parts")
    parser.add_argument("--out", type=Path, help="a file for the chapters; bench/profile.md keeps its text")
    asked = parser.parse_args(arguments)
    spy = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not spy:
        raise SystemExit("py-spy is not installed: pip install py-spy")
    os.chdir(ROOT)
    chapters = []
    with tempfile.TemporaryDirectory(prefix="bellhop-profile-") as folder, Stand(Path(folder)) as stand:
        for part in asked.only:
            chapters += PARTS[part](stand, spy)
    if asked.out:
        before = asked.out.read_text().partition(MARK)[0] if asked.out.exists() else ""
        asked.out.write_text(f"{before}{MARK}\n\n" + "\n".join(chapters))


if __name__ == "__main__":
    main(sys.argv[1:])
