"""Samples of a process by py-spy, and of what PostgreSQL's sessions are about; chapters of what they tell."""

import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

#: Samples per second.
RATE = 250

#: Seconds between two looks at what sessions are about.
EVERY = 0.002

#: Signs of frames, and what they are counted as.
Groups = Sequence[tuple[str, str]]


@contextmanager
def recording(spy: str, pid: int, target: Path) -> Iterator[None]:
    """Sample the process meanwhile; its stacks are in `target` afterwards."""
    command = [spy, "record", "--nonblocking", "-r", str(RATE), "-f", "raw", "-d", "600", "-o", str(target)]
    recorder = subprocess.Popen(
        [*command, "--pid", str(pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )  # fmt: skip
    time.sleep(1)
    try:
        yield
    finally:
        recorder.send_signal(signal.SIGINT)
        recorder.wait(60)


def shares(raw: str, groups: Groups) -> Counter[str]:
    """What the samples of py-spy's raw format are of: the first group in the innermost frame that has any."""
    found = Counter[str]()
    for line in raw.splitlines():
        stack, _, samples = line.rpartition(" ")
        if not samples.isdigit():  # a line that was torn when the recording ended
            continue
        found[_group(stack.split(";"), groups)] += int(samples)
    return found


def _group(frames: Sequence[str], groups: Groups) -> str:
    for frame in reversed(frames):
        for sign, group in groups:
            if sign in frame:
                return group
    return "the rest"


@contextmanager
def waits(connection: psycopg.Connection[Any], active: str) -> Iterator[Counter[tuple[str, str]]]:
    """Ask again and again by `active`, which gives who, and what they wait for or that they run; then close."""
    found, ended = Counter[tuple[str, str]](), threading.Event()

    def sample() -> None:
        while not ended.wait(EVERY):
            found.update((who, what) for who, what in connection.execute(active.encode()))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
        connection.close()


def shares_of(who: str, found: Counter[tuple[str, str]]) -> list[str]:
    """Lines of a table: what these were about, most of it first."""
    own = Counter({what: n for (name, what), n in found.items() if name == who})
    whole = sum(own.values()) or 1
    return [f"| {who}: {what} | {100 * n / whole:.0f} % |" for what, n in own.most_common() if 100 * n >= whole]


def chapter(
    title: str, count: int, seconds: float, spent: Counter[str], samples: Counter[str], whose: str, each: str
) -> str:
    """How many per second, the CPU time of each, and what a process did with its own."""
    micro = {kind: 1e6 * used / count for kind, used in spent.most_common()}
    costs = ", ".join(f"{kind} {cost:,.0f}" for kind, cost in micro.items() if cost >= 1)
    return (
        f"## {title[0].upper()}{title[1:]}\n\n{count / seconds:,.0f} per second. "
        f"CPU, in µs per {each}: {costs}; together {sum(micro.values()):,.0f}.\n\n{table(samples, whose)}"
    )


def table(samples: Counter[str], whose: str) -> str:
    """What a process did, most of it first."""
    whole = sum(samples.values()) or 1
    rows = [f"| {group} | {100 * n / whole:.0f} % |" for group, n in samples.most_common() if 100 * n >= whole]
    return f"| {whose} | share of its samples |\n| --- | ---: |\n" + "\n".join(rows) + "\n"
