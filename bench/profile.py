"""Where the time goes: `python -m bench.profile [--out FILE]`, with py-spy (`pip install py-spy`; often as root).

For each kind of work: how many per second, the CPU time per notification by kind of process, and what one pool process
of the workers does with its own, sampled by py-spy. Only one thing happens at a time, so the rates are those of
`bench` without its turns.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.cases_fan_out import fill_directory
from bench.cases_single import PUBLISHERS, Single
from bench.measure import OURS
from bench.publishers import Publishers
from bench.servers import ROOT, Stand, Workers

#: Samples per second.
RATE = 250
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
    Work("fan-out, shared context, in-app", "group", 200_000),
    Work("fan-out, own contexts, in-app", "each", 100_000),
    Work("fan-out, shared context, with mail", "group", 60_000, email=True),
)

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
    ("worker/ids", "preparing rows"),
    ("worker/claims", "claiming and recording"),
    ("worker/outcomes", "claiming and recording"),
    ("worker/deliver", "claiming and recording"),
    ("worker/", "the rest of Bellhop"),
    ("kombu/", "Celery"),
    ("celery/", "Celery"),
    ("billiard/", "Celery"),
)


def kind_of(pid: int) -> str:
    """What sort of process it is, by its command."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    for sign, kind in (
        ("postgres", "PostgreSQL"), ("redis-server", "Redis"), ("smtp-sink", "mail sink"), (" beat", "beat"),
        ("bench.publisher", "publishers"), (" worker ", "workers"),
    ):  # fmt: skip
        if sign in command:
            return kind
    return "others"


def cpu() -> Counter[str]:
    """Seconds of CPU time of our descendants, by kind of process; of the workers, the pool's apart."""
    parents, used = dict[int, int](), dict[int, float]()
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            pid = int(entry.name)
            parents[pid], used[pid] = int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    found: Counter[str] = Counter()
    for pid in used:
        above = pid
        while above in parents and above != os.getpid():
            above = parents[above]
        if above == os.getpid() != pid:
            with suppress(OSError):
                kind = kind_of(pid)
                found[f"{kind}' pool" if kind == "workers" and parents[pid] != os.getpid() else kind] += used[pid]
    return found


def shares(raw: str) -> Counter[str]:
    """What the samples of py-spy's raw format are of, by group."""
    found = Counter[str]()
    for line in raw.splitlines():
        stack, _, samples = line.rpartition(" ")
        found[_group(stack.split(";"))] += int(samples)
    return found


def _group(frames: Sequence[str]) -> str:
    for frame in reversed(frames):
        for sign, group in GROUPS:
            if sign in frame:
                return group
    return "the rest"


def measure(stand: Stand, spy: str, work: Work) -> str:
    """A warm-up, then what is measured; gives a chapter."""
    with Publishers(stand, work.publishers) as publishers, Workers(stand, "worker", PROCESSES, beat=True) as workers:
        if work.kind == "group":
            fill_directory(stand, (work.count,))
        single, target = Single(stand, publishers), stand.folder / "profile.raw"
        for turn in range(2):
            single.prepare()
            if work.kind == "queue":
                workers.pause()
                publishers.publish(work.kind, work.count, email=work.email)
            command = [spy, "record", "--nonblocking", "-r", str(RATE), "-f", "raw", "-d", "600", "-o", str(target)]
            recorder = subprocess.Popen(
                [*command, "--pid", str(workers.pids()[1])], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) if turn else None  # fmt: skip
            if recorder:
                time.sleep(1)
            before = cpu()
            if work.kind == "queue":
                began = workers.resume()
            else:
                began, _ = publishers.publish(work.kind, work.count, email=work.email)
            seconds = single.done(OURS, work.count, work.email) - began
            spent = cpu() - before
        assert recorder
        recorder.send_signal(2)
        recorder.wait(60)
    return chapter(work, seconds, spent, shares(target.read_text()))


def chapter(work: Work, seconds: float, spent: Counter[str], samples: Counter[str]) -> str:
    """The tables of one kind of work."""
    micro = {kind: 1e6 * used / work.count for kind, used in spent.most_common()}
    costs = ", ".join(f"{kind} {cost:,.0f}" for kind, cost in micro.items() if cost >= 1)
    whole = sum(samples.values()) or 1
    rows = [
        f"| {group} | {100 * count / whole:.0f} % |" for group, count in samples.most_common() if 100 * count >= whole
    ]
    return (
        f"## {work.title[0].upper()}{work.title[1:]}\n\n{work.count / seconds:,.0f} per second. "
        f"CPU, in µs per notification: {costs}; together {sum(micro.values()):,.0f}.\n\n"
        "| a pool process | share of its samples |\n| --- | ---: |\n" + "\n".join(rows) + "\n"
    )


def main(arguments: Sequence[str]) -> None:
    """Print each chapter when it is done."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--out", type=Path, help="a file for the chapters; bench/profile.md keeps its text")
    asked = parser.parse_args(arguments)
    spy = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not spy:
        raise SystemExit("py-spy is not installed: pip install py-spy")
    os.chdir(ROOT)
    chapters = []
    with tempfile.TemporaryDirectory(prefix="bellhop-profile-") as folder, Stand(Path(folder)) as stand:
        for work in WORK:
            chapters.append(measure(stand, spy, work))
            print(chapters[-1], flush=True)
    if asked.out:
        before = asked.out.read_text().partition(MARK)[0] if asked.out.exists() else ""
        asked.out.write_text(f"{before}{MARK}\n\n" + "\n".join(chapters))


if __name__ == "__main__":
    main(sys.argv[1:])
