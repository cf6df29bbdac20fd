"""What months cost and save: reading inboxes with and without them, and a month purged by a drop and by batches.

`python -m bench.partitions [ROWS]`, on a PostgreSQL of its own; rows of one year.
"""

import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import cycle, product
from pathlib import Path

import psycopg
from sqlalchemy.orm import Session, sessionmaker

from bench.inbox_rows import fill
from tests.servers import PostgresServer
from worker import create as creating
from worker import inbox, partitions
from worker.database import Transaction, make_engine, upgrade
from worker.partitions.months import Month, add_month
from worker.purge import purge_seen
from worker.request import NotificationRequest

YEAR_END = datetime(2025, 1, 1, tzinfo=UTC)
FEBRUARY = datetime(2024, 2, 1, tzinfo=UTC)
TIMES = 200

DELIVERIES = """
INSERT INTO deliveries (id, notification_id, channel, status, urgency, attempts, due_at, lease_until)
SELECT (left(id::text, 14) || '8' || right(id::text, 21))::uuid, id, 'email', 'sent', 1, 1, created_at, created_at
FROM notifications WHERE seen_at IS NOT NULL;
ANALYZE
"""


def compare(
    what: str,
    call: Callable[[Transaction, str], None],
    begins: dict[str, Transaction],
    recipients: list[str],
    times: int,
) -> None:
    """Take turns, five times each, and print the medians."""
    took: dict[str, list[float]] = {name: [] for name in begins}
    for name, begin in [*begins.items()] * 5:
        for _, recipient in zip(range(times), cycle(recipients), strict=False):
            began = time.perf_counter()
            call(begin, recipient)
            took[name].append(time.perf_counter() - began)
    whole, months = (1000 * statistics.median(took[name]) for name in begins)
    print(f"{what}: whole {whole:.2f} ms, months {months:.2f} ms ({months / whole:.2f}x)", flush=True)


def first_page(begin: Transaction, recipient: str) -> None:
    with begin() as session:
        inbox.list(session, recipient)


def unseen(begin: Transaction, recipient: str) -> None:
    with begin() as session:
        inbox.unseen_count(session, recipient)


def create(begin: Transaction, _recipient: str) -> None:
    """A thousand notifications with emails, in one transaction."""
    to = [{"id": f"new-{number}", "email": f"new-{number}@example.org"} for number in range(1000)]
    request = NotificationRequest.parse({"to": to, "event_config_name": "book_available", "context": {"title": "Dune"}})
    with begin() as session:
        creating.create(session, [request], now=datetime.now(UTC))


def purge(begin: Transaction) -> tuple[int, float, float]:
    """Purge January; gives how many went, the seconds it took, and the longest that a reader's mark took meanwhile."""
    waits, done = [0.0], threading.Event()

    def mark() -> None:
        while not done.is_set():
            began = time.perf_counter()
            with begin() as session:
                inbox.mark_all_seen(session, "reader-7")
            waits.append(time.perf_counter() - began)

    reader = threading.Thread(target=mark)
    reader.start()
    began, removed, finished = time.perf_counter(), 0, False
    while not finished:
        purged = purge_seen(begin, now=YEAR_END, older_than=FEBRUARY)
        removed, finished = removed + purged.removed, purged.finished
    took = time.perf_counter() - began
    done.set()
    reader.join()
    return removed, took, max(waits)


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder, PostgresServer(Path(folder)) as server:
        url = server.create_database("plain")
        os.environ |= {"DATABASE_URL": url, "SIGNAL": "off"}
        upgrade(engine := make_engine(url))
        engine.dispose()
        fill(url.replace("+psycopg", ""), rows, processes=1)
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(DELIVERIES)
        begins = {
            name: sessionmaker(make_engine(server.create_database(name, template="plain")), class_=Session).begin
            for name in ("whole", "months")
        }
        began = time.perf_counter()
        made = partitions.convert(begins["months"], now=YEAR_END).months
        # A month that has room for what is created now.
        with begins["months"]() as session:
            add_month(session, Month.of(datetime.now(UTC)))
        print(f"{rows} notifications divided into {made} months in {time.perf_counter() - began:.1f} s")
        who = {"one heavy inbox": ["heavy-1"], "small inboxes": [f"reader-{number}" for number in range(50)]}
        for (what, call), (whose, recipients) in product(READS.items(), who.items()):
            compare(f"{what}, {whose}", call, begins, recipients, TIMES)
        compare("create 1000 with emails", create, begins, [""], 4)
        for name, begin in begins.items():
            removed, seconds, wait = purge(begin)
            print(
                f"January, {name}: {removed} removed in {seconds:.2f} s; longest wait of a reader {1000 * wait:.0f} ms"
            )


READS = {"first page": first_page, "unseen count": unseen}

if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 1_000_000)
