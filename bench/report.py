"""The results as text: a line when a case is done, then the goals, then the page `bench/README.md`."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import picture
from bench.goals import GOALS
from bench.measure import OURS, Book, Result

INTRODUCTION = """# Benchmarks

`make bench` wrote this page: Bellhop, a worker written by hand in an afternoon, and what the machine itself can do,
measured in one run, taking turns, so that noise hits all alike. Every case counts the rows and mails that are really
there at its end, and fails where one is missing or double. Absolute figures are this machine's; the ratios are what
counts.

![The main cases, and how cost grows](results.svg)

- **Bellhop** runs as the README says: `celery -A worker worker` and beat, default settings but for the addresses.
- **hand-written** is [naive.py](naive.py): ORM insert and commit for each notification, templates compiled once, one
  SMTP connection per mail. The **hand-written fan-out** takes 500 recipients per task; the **decent fan-out** moreover
  writes them by `add_all` with one commit and sends over one connection. They retry nothing and record no mail.
- The **floor** is PostgreSQL's own `INSERT ... SELECT` into the same tables in as many sessions, mails by Postfix's
  smtp-source, LPUSH of the same bytes, one DELETE, or bare Jinja; a note says which where it is not plain.
"""
RUN = """## Run it

`make bench` takes half an hour and wants a quiet machine; `make bench-quick` takes a minute, leaves out the large
tables, RabbitMQ and latencies, and writes to `.benchmarks/`, as do `make bench ARGS="--small"` (every case, small) and
`ARGS="--only fan-out mail"` (some cases). Where the time goes, by process and by what a worker does, is in
[profile.md](profile.md), which
`python -m bench.profile` measures with py-spy.
Mails go to Postfix's `smtp-sink` where it is installed (Debian: the package `postfix`), else to [sink.py](sink.py),
which costs the machine more; `smtp-source` of the same package is the floor of mails.
"""

HEADINGS = {
    "enqueue": "Enqueue",
    "single": "Single notifications, end to end",
    "broker": "Brokers",
    "latency": "Latency",
    "fan-out": "Fan-out",
    "mail": "Mails",
    "render": "Render",
    "events": "Flower's events",
    "memory": "Memory",
    "backlog": "A backlog of mails",
    "inbox": "Inbox",
    "purge": "Purge",
    "growth": "Growth",
}


def number(value: float) -> str:
    """Three digits that count, or whole thousands."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def cell(result: Result, name: str) -> str:
    """Median, and spread where there were several rounds."""
    text = number(result.median(name) or 0)
    return f"{text} ± {result.spread(name) / 2:.0%}" if len(result.values[name]) > 1 else text


def ratios(result: Result) -> list[str]:
    """Against everybody else."""
    if OURS not in result.values:
        return []
    others = [name for name in result.values if not name.startswith(OURS)]
    return [f"{number(times)} x {name}" for name in others if (times := result.times(OURS, name)) is not None]


def show(result: Result) -> None:
    """One case on the terminal."""
    print(f"\n{result.title} ({result.unit})")
    for name in result.values:
        print(f"  {name:<38}{cell(result, name):>20}")
    for line in (*([f"Bellhop is {', '.join(ratios(result))}"] if ratios(result) else []), *result.notes):
        print(f"  {line}")
    print(end="", flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def goals(results: Mapping[str, Result]) -> list[list[str]]:
    """Goal, aim, measured, met."""
    rows = []
    for goal in GOALS:
        met = goal.met(results)
        if met is not None:
            aim = f"{'at most' if goal.at_most else 'at least'} {number(goal.limit)}"
            rows.append([goal.text, aim, number(goal.value(results) or 0), "yes" if met else "**no**"])
    return rows


def sections(results: Mapping[str, Result]) -> str:
    """A table for each kind of case: the part of its key before the first slash."""
    kinds: dict[str, list[Result]] = {}
    for key, result in results.items():
        kinds.setdefault(key.partition("/")[0], []).append(result)
    return "".join(section(HEADINGS.get(kind, kind), cases) for kind, cases in kinds.items())


def section(heading: str, cases: Sequence[Result]) -> str:
    """One table; contenders that take part in no case have no column, an empty cell says that one is left out."""
    names = [*dict.fromkeys(name for case in cases for name in case.values)]
    compared = OURS in names
    rows = []
    for case in cases:
        note = f"<br>{'; '.join(case.notes)}" if case.notes else ""
        cells = [cell(case, name) if name in case.values else "" for name in names]
        rows.append([f"{case.title}{note}", case.unit, *cells, *([", ".join(ratios(case))] if compared else [])])
    head = ["case", "unit", *names, *([f"{OURS} is"] if compared else [])]
    return f"\n### {heading}\n\n{table(head, rows)}"


def page(results: Mapping[str, Result], facts: Mapping[str, Any], failed: Sequence[str]) -> str:
    """The whole page."""
    machine = [
        [name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else _flat(value)]
        for name, value in facts.items()
    ]
    faults = f"\nFailed: {'; '.join(failed)}\n" if failed else ""
    return (
        f"{INTRODUCTION}\n## Goals\n\n{table(['goal', 'aim', 'measured', 'met'], goals(results))}"
        f"\n## Cases\n\nMedians, and half the distance between the least and the greatest of the rounds.\n{faults}"
        f"{sections(results)}\n## Machine and settings\n\n{table(['what', 'value'], machine)}\n{RUN}"
    )


def _flat(value: Any) -> str:
    return ", ".join(f"{name} {version}" for name, version in value.items()) if isinstance(value, dict) else str(value)


def write(book: Book, facts: Mapping[str, Any], failed: Sequence[str], folder: Path) -> None:
    """Goals on the terminal; README.md, results.svg and results.json into the folder."""
    reached = goals(book.results)
    width = max((len(row[0]) for row in reached), default=0)
    print()
    for text, aim, value, met in reached:
        print(f"{text:<{width}}  {aim:>15}  {value:>10}  {met.strip('*')}")
    folder.mkdir(parents=True, exist_ok=True)
    written = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": facts,
        "failed": failed,
        "goals": reached,
        "results": [asdict(result) for result in book.results.values()],
    }
    (folder / "results.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    draw(folder)
    print(f"\nwritten: {folder / 'README.md'}")


def draw(folder: Path) -> None:
    """Make the page and the picture of `results.json`: `python -m bench.report FOLDER`, without another run."""
    written = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    results = {result["key"]: Result(**result) for result in written["results"]}
    text = page(results, {"when": written["when"], **written["machine"]}, written["failed"])
    (folder / "README.md").write_text(text, encoding="utf-8")
    (folder / "results.svg").write_text(picture.draw(results), encoding="utf-8")


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
