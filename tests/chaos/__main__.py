"""`python -m tests.chaos`: every hurt, on Bellhop and on a worker written by hand, as a table. `make chaos` runs it."""

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.hurts import HURTS, Hurt
from tests.chaos.ledger import Row, run

#: What stands before the tables in a document that has a text of its own.
MARK = "<!-- the tables, as `make chaos` wrote them -->"

HEAD = (
    "hurt",
    "broker: accepted",
    "lost",
    "durable: accepted",
    "lost",
    "mails",
    "twice, same id",
    "twice, other id",
    "not sent, says why",
    "not sent, silent",
    "at rest after s",
    "shows data",
)


def cells(row: Row) -> list[str]:
    """Give a row's numbers."""
    if row.note:
        return [row.hurt.name, row.note, *[""] * (len(HEAD) - 2)]
    forgotten = " (the broker forgot)" if row.hurt.broker_forgets and row.lost["broker"] else ""
    rest = "never" if row.rest_seconds is None else f"{row.rest_seconds:.0f}"
    numbers = [row.mails, row.doubles, row.strangers, row.explained, row.unmailed]
    ways = [row.accepted["broker"], f"{row.lost['broker']}{forgotten}", row.accepted["durable"], row.lost["durable"]]
    return [row.hurt.name, *map(str, ways + numbers), rest, ", ".join(row.seen_in) or "no"]


def table(rows: Sequence[Row]) -> str:
    """Give a Markdown table."""
    lines = [HEAD, ["---", *["---:"] * (len(HEAD) - 2), "---"], *map(cells, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is chosen; gives 1 when Bellhop broke a promise."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--only", default="", help="hurts whose name contains this")
    parser.add_argument("--system", choices=["bellhop", "handwritten"], help="one of the two; absent: both")
    parser.add_argument("--lanes", type=int, default=3, help="rows at the same time (3)")
    parser.add_argument("--write", type=Path, help="a file for the tables; docs/chaos.md keeps its text")
    parser.add_argument("--keep", action="store_true", help="keep the logs")
    chosen = parser.parse_args(arguments)
    systems = [chosen.system] if chosen.system else ["bellhop", "handwritten"]
    todo = [(system, hurt) for system in systems for hurt in HURTS if chosen.only in hurt.name]
    todo = [(system, hurt) for system, hurt in todo if system == "bellhop" or not hurt.bellhop_only]
    started, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="bellhop-chaos-"))
    rows = run_all(todo, folder, chosen.lanes)
    text = report([rows[pair] for pair in todo], time.monotonic() - started)
    print(text)
    if chosen.write:
        before = chosen.write.read_text().partition(MARK)[0] + f"{MARK}\n\n" if chosen.write.exists() else ""
        chosen.write.write_text(before + text)
    broken = [f"{row.hurt.name}: {what}" for row in rows.values() if row.system == "bellhop" for what in row.broken()]
    print("\n".join(broken) or "Bellhop kept every promise.")
    if chosen.keep or broken:
        print(f"logs: {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if broken else 0


def run_all(todo: Sequence[tuple[str, Hurt]], folder: Path, lanes: int) -> dict[tuple[str, Hurt], Row]:
    """Run them, `lanes` at a time."""
    rows = {}
    with ThreadPoolExecutor(lanes) as pool:
        futures = {pool.submit(run, folder / f"{n}", *pair): pair for n, pair in enumerate(todo)}
        for future in as_completed(futures):
            system, hurt = futures[future]
            rows[system, hurt] = _result(future, system, hurt)
            print(f"{system}: " + " | ".join(cells(rows[system, hurt])), file=sys.stderr, flush=True)
    return rows


def _result(future: Future[Row], system: str, hurt: Hurt) -> Row:
    try:
        return future.result()
    except Exception as error:
        traceback.print_exc()
        return Row(system, hurt, note=f"the harness failed: {type(error).__name__}")


def report(rows: Sequence[Row], seconds: float) -> str:
    """Give the tables of both systems."""
    parts = [f"Run on {datetime.now(UTC):%Y-%m-%d} with `make chaos`, in {seconds / 60:.0f} minutes.\n"]
    for system, title in (("bellhop", "Bellhop"), ("handwritten", "A worker written by hand")):
        of_it = [row for row in rows if row.system == system]
        parts += [f"### {title}\n\n{table(of_it)}\n"] if of_it else []
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
