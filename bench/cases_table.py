"""What is read from a large table, and what rendering costs: `bench.inbox` and `bench.render`, in this run."""

import statistics

from bench import cases_purge, inbox, render
from bench.inbox_rows import fill
from bench.measure import FLOOR, OURS, Book, Result, Size
from bench.servers import Stand
from worker.events import get_events

PSYCOPG, ORM, FIRST = "psycopg", "ORM", "its first page"


def measure_table(stand: Stand, size: Size, book: Book) -> None:
    """Fill the table once; read it, then purge copies of it."""
    url = stand.migrated(cases_purge.FILLED)
    fill(url.replace("+psycopg", ""), size.table)
    _inbox(url, size, book)
    cases_purge.measure(stand, size, book)
    stand.postgres.drop_database(cases_purge.FILLED)


def _inbox(url: str, size: Size, book: Book) -> None:
    bench = inbox.Bench(url)
    for case in bench.all():
        name, ours, p99, psycopg, orm, *_ = inbox.measure(case)
        result = Result(f"inbox/{name}", f"{name}, {size.table:,} rows", "ms", "less")
        for contender, value in ((OURS, ours), (PSYCOPG, psycopg), (ORM, orm)):
            if value:
                result.values[contender] = [float(value)]
        result.notes.append(f"p99 {p99} ms")
        book.add(result)
    far, first = bench.deep_beside_first(inbox.HEAVY)
    beside = Result("inbox/turns", "the deep page of a heavy inbox, and its first, by turns", "ms", "less")
    beside.values = {OURS: [far], FIRST: [first]}
    book.add(beside)
    bench.session.close()
    bench.engine.dispose()
    bench.raw.close()


def measure_render(stand: Stand, size: Size, book: Book) -> None:
    """All parts of each event, and the same by bare Jinja."""
    result = Result("render", "render all parts of an event, median of all events", "µs", "less")
    for _ in range(size.rounds):
        pairs = []
        for name, event in sorted(get_events().items()):
            floor = render.bare(name, event.example)
            floor()
            ours = render.microseconds(
                lambda name=name, event=event: render.render.render(name, render.LANG, event.example)
            )  # type: ignore[misc]
            pairs.append((ours, render.microseconds(floor)))
        for contender, values in zip((OURS, FLOOR), zip(*pairs, strict=True), strict=True):
            result.values.setdefault(contender, []).append(statistics.median(values))
    result.notes.append("the floor is bare Jinja with held templates")
    book.add(result)
