"""Bellhop, a worker written by hand, and the floors of the machine, measured in one run: `make bench`.

Starts its own PostgreSQL, Redis and mail sink on free ports and stops them. Every case counts what is really there at
its end, and fails where a row or a mail is missing or double. Prints each case when it is done, then the goals; writes
JSON and, for a full run, `bench/README.md` with its picture.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import (
    cases_broker,
    cases_enqueue,
    cases_fan_out,
    cases_growth,
    cases_latency,
    cases_mail,
    cases_single,
    cases_table,
    report,
)
from bench.measure import Book, Size
from bench.servers import ROOT, Stand

SECTIONS: dict[str, Callable[[Stand, Size, Book], None]] = {
    "enqueue": cases_enqueue.measure,
    "single": cases_single.measure,
    "broker": cases_broker.measure,
    "latency": cases_latency.measure,
    "fan-out": cases_fan_out.measure,
    "mail": cases_mail.measure,
    "render": cases_table.measure_render,
    "events": cases_growth.measure_events,
    "memory": cases_growth.measure_memory,
    "backlog": cases_growth.measure_backlog,
    "table": cases_table.measure_table,
    "growth": cases_growth.measure,
}
FULL = Size(500, 3, 1.5, (1, 1_000, 100_000, 1_000_000), (1, 2, 4), 5_000_000, (100_000, 1_000_000, 10_000_000))
SMALL = Size(200, 3, 0.5, (1, 1_000, 10_000), (1, 4), 200_000, (20_000, 200_000))
QUICK = Size(100, 1, 0.1, (1, 1_000), (4,), 50_000, (5_000, 50_000))
#: Whether it works at all.
TINY = Size(10, 1, 0.05, (1, 50), (2,), 100_000, (1_000, 2_000))
#: What the quick run takes part of: neither what needs a large table nor latencies, which take their time.
QUICK_SECTIONS = ("enqueue", "single", "fan-out", "mail", "render")


def options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute: small sizes, two rounds, no large table")
    parser.add_argument("--small", action="store_true", help="every case with small sizes")
    parser.add_argument("--tiny", action="store_true", help="every case, only to see that it works")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="CASE", help=f"some of: {', '.join(SECTIONS)}")
    parser.add_argument("--out", type=Path, default=ROOT / ".benchmarks", help="folder for a partial run's report")
    return parser.parse_args(arguments)


def keep_logs(folder: Path, out: Path) -> None:
    """For whoever looks for the reason of a failure."""
    out.mkdir(parents=True, exist_ok=True)
    for log in folder.glob("*.log"):
        shutil.copy(log, out)


def main(arguments: Sequence[str]) -> int:
    """Give exit code 1 where a case failed."""
    asked = options(arguments)
    size = QUICK if asked.quick else SMALL if asked.small else TINY if asked.tiny else FULL
    names = asked.only or (QUICK_SECTIONS if asked.quick else [*SECTIONS])
    full = size is FULL and len(names) == len(SECTIONS)
    os.chdir(ROOT)
    # A polite end stops the servers too, and begins no other section.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began, book, failed = time.monotonic(), Book(report.show), []
    with tempfile.TemporaryDirectory(prefix="bellhop-bench-") as folder, Stand(Path(folder)) as stand:
        facts = stand.facts()
        print(
            f"{facts['cores']} cores of {facts['cpu']}, load {facts['load before']}; {facts['mail sink']}", flush=True
        )
        for name in names:
            try:
                SECTIONS[name](stand, size, book)
            except (Exception, SystemExit) as error:
                failed.append(f"{name}: {type(error).__name__}: {error}")
                keep_logs(Path(folder), asked.out / f"logs-{name}")
                print(f"FAILED {failed[-1]}", flush=True)
        facts["took minutes"] = round((time.monotonic() - began) / 60, 1)
    report.write(book, facts, failed, ROOT / "bench" if full and not failed else asked.out)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
