"""Removing a fifth of a large table while rows are inserted and updated: how long, and who waits."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import psycopg
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from bench.counting import Wrong
from bench.measure import FLOOR, OURS, Book, Result, Size, percentile
from bench.servers import ROOT, Stand
from worker import purge
from worker.database import utcnow
from worker.models import Notification

ORM, CALM = "ORM load and delete", "without a purge"
#: The database that the rows are in, made by `cases_table`, and its copy for one purge.
FILLED, COPY = "filled", "purged"
PAST = "seen_at IS NOT NULL AND updated_at < %s"
#: What the ORM removes in its one round: it would need minutes for all.
ORM_SHARE = 20


def measure(stand: Stand, size: Size, book: Book) -> None:
    """A copy of the table for each purge."""
    whole, part = (cutoff(stand, size.table // 5 // share) for share in (1, ORM_SHARE))
    speed = Result("purge/speed", f"purge of {size.table // 5:,} of {size.table:,}", "rows per second")
    inserts = Result("purge/inserts", "inserts meanwhile, p99", "ms", "less")
    waits = Result("purge/waits", "longest wait of an update meanwhile", "ms", "less")
    bloat = Result("purge/bloat", "size after it and a VACUUM, of that before", "share", "less")
    ways: dict[str, tuple[Callable[[str, datetime], None], datetime]] = {
        OURS: (ours, whole), FLOOR: (one_delete, whole), CALM: (nothing, part), ORM: (orm, part),
    }  # fmt: skip
    for turn in range(size.rounds):
        for name, (way, before) in ways.items():
            if name != ORM or not turn:
                _round(stand, name, way, before, (speed, inserts, waits, bloat))
    speed.notes.append(f"the floor is one DELETE; the ORM removed {size.table // 5 // ORM_SHARE:,} rows, once")
    for result in (speed, inserts, waits, bloat):
        book.add(result)


def cutoff(stand: Stand, rows: int) -> datetime:
    """The moment before which so many rows were seen."""
    with psycopg.connect(stand.postgres.url_of(FILLED).replace("+psycopg", "")) as connection:
        found = connection.execute(
            "SELECT updated_at FROM notifications WHERE seen_at IS NOT NULL ORDER BY updated_at OFFSET %s LIMIT 1",
            (rows,),
        ).fetchone()
    assert found
    return found[0]


def _round(stand: Stand, name: str, way: Callable[[str, datetime], None], before: datetime, into: Any) -> None:
    url = copy(stand)
    speed, inserts, waits, bloat = into
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:

        def ask(statement: str, *values: object) -> int:
            return int(connection.execute(statement.encode(), values).fetchone()[0])  # type: ignore[index]

        old, kept = (ask(f"SELECT count(*) FROM notifications WHERE {word} ({PAST})", before) for word in ("", "NOT"))
        pages = ask("SELECT pg_total_relation_size('notifications')")
        with beside(url, before) as took:
            began = time.perf_counter()
            way(url, before)
            seconds = time.perf_counter() - began
        left = ask(f"SELECT count(*) FROM notifications WHERE {PAST}", before)
        stayed = ask("SELECT count(*) FROM notifications WHERE NOT recipient_id LIKE 'r-%%'") - left
        # A row that is locked at that moment may be left to the next purge.
        if stayed != kept or (name != CALM and left > 20):
            raise Wrong(f"purge by {name}: {kept - stayed:,} too many removed, {left:,} left")
        inserts.values.setdefault(name, []).append(percentile(took["insert"], 0.99))
        waits.values.setdefault(name, []).append(max(took["update"]))
        if name != CALM:
            speed.values.setdefault(name, []).append((old - left) / seconds)
            connection.execute("VACUUM notifications")
            bloat.values.setdefault(name, []).append(ask("SELECT pg_total_relation_size('notifications')") / pages)
    stand.postgres.drop_database(COPY)


def copy(stand: Stand) -> str:
    """A copy of the table's database, file by file where PostgreSQL (15) can: else all of it would go to the log."""
    stand.postgres.drop_database(COPY)
    files = " STRATEGY file_copy" if stand.db.info.server_version >= 150000 else ""
    stand.db.execute(f"CREATE DATABASE {COPY} TEMPLATE {FILLED}{files}".encode())
    stand.db.execute("CHECKPOINT")
    os.sync()  # what the copying and the dropping left to write would hold up all that follows
    return stand.postgres.url_of(COPY)


@contextmanager
def beside(url: str, before: datetime) -> Iterator[dict[str, list[float]]]:
    """Inserts and updates during the block; how long they took is there after it."""
    took: dict[str, list[float]] = {}
    command = [sys.executable, "-m", "bench.beside", url.replace("+psycopg", ""), before.isoformat()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        yield took
        process.stdin.close()
        took |= json.loads(process.stdout.readline())


def ours(url: str, before: datetime) -> None:
    """As the task does, again until it is done."""
    engine = create_engine(url)

    @contextmanager
    def begin() -> Iterator[Session]:
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    while not purge.purge_seen(begin, now=utcnow(), older_than=before).finished:
        pass
    engine.dispose()


def one_delete(url: str, before: datetime) -> None:
    """One statement."""
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute(f"DELETE FROM notifications WHERE {PAST}".encode(), (before,))


def orm(url: str, before: datetime) -> None:
    """As it is written in an afternoon."""
    engine = create_engine(url)
    with Session(engine) as session:
        for row in session.query(Notification).where(
            Notification.seen_at.is_not(None), Notification.updated_at < before
        ):
            session.delete(row)
        session.commit()
    engine.dispose()


def nothing(_url: str, _before: datetime) -> None:
    """The inserts alone, for as long as a purge takes."""
    time.sleep(5)
