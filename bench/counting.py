"""What is really there at the end, and when it came: counted in the database and at the mail server."""

import time
from collections.abc import Callable
from typing import Any

import psycopg

from bench.publisher import person
from bench.sinks import OwnSink, SmtpSink

#: Seconds without any progress after which a case has failed.
STUCK = 60


class Wrong(Exception):
    """Something is missing or double."""


def until(count: Callable[[], int], wanted: int, what: str, pause: float = 0.02) -> None:
    """Wait until so many are there. Raises Wrong where it stands still, or there are more."""
    last, moved = -1, time.monotonic()
    while True:
        began = time.monotonic()
        now = count()
        if now > wanted:
            raise Wrong(f"{what}: {now:,} of {wanted:,}, some are double")
        if now == wanted:
            return
        if now != last:
            last, moved = now, began
        elif time.monotonic() - moved > STUCK:
            raise Wrong(f"{what}: {now:,} of {wanted:,}, and no more in {STUCK} s")
        # Counting must not take part in what is measured.
        time.sleep(max(pause, 20 * (time.monotonic() - began)))


def counter(db: psycopg.Connection[Any], table: str, condition: str = "TRUE") -> Callable[[], int]:
    """Count a table's rows."""
    statement = f"SELECT count(*) FROM {table} WHERE {condition}".encode()
    return lambda: db.execute(statement).fetchone()[0]  # type: ignore[index]


#: Our own recipients, among others that a large table was filled with.
MINE = "recipient_id LIKE 'r-%'"


def rows(db: psycopg.Connection[Any], wanted: int, first: int = 0) -> float:
    """Wait for one notification for each of `wanted` recipients; gives the moment of the last commit. Raises Wrong."""
    until(counter(db, "notifications", MINE), wanted, "notifications")
    found = db.execute(
        "SELECT count(*), count(DISTINCT recipient_id), min(recipient_id), max(recipient_id), "
        f"extract(epoch FROM max(pg_xact_commit_timestamp(xmin))) FROM notifications WHERE {MINE}".encode()
    ).fetchone()
    assert found
    ids = (person(first)[0], person(first + wanted - 1)[0])
    if found[:4] != (wanted, wanted, *ids):
        raise Wrong(f"notifications: {found[:4]} instead of {wanted:,} recipients from {ids[0]} to {ids[1]}")
    return float(found[4])


def sent(db: psycopg.Connection[Any], wanted: int) -> float:
    """Wait until every delivery is recorded as sent; gives the moment of the last commit. Raises Wrong."""
    until(counter(db, "deliveries", "status = 'sent'"), wanted, "deliveries recorded as sent")
    found = db.execute(
        "SELECT count(*), count(DISTINCT notification_id), count(DISTINCT address), "
        "extract(epoch FROM max(pg_xact_commit_timestamp(xmin))) FROM deliveries"
    ).fetchone()
    assert found
    if found[:3] != (wanted,) * 3:
        raise Wrong(f"deliveries: {found[:3]} instead of {wanted:,}")
    return float(found[3])


def mails(sink: SmtpSink | OwnSink, wanted: int) -> float:
    """Wait for the mails; gives the moment at which the last one was seen. Raises Wrong."""
    until(sink.count, wanted, "mails", pause=sink.pause)
    return sink.last()


def addresses(sink: SmtpSink | OwnSink, wanted: int, first: int = 0) -> None:
    """Compare for whom the mails were. Raises Wrong."""
    found, expected = sink.addresses(), {person(number)[1] for number in range(first, first + wanted)}
    if len(found) != wanted or set(found) != expected:
        raise Wrong(f"mails: {len(found):,} for {len(set(found)):,} addresses instead of {wanted:,}")


def commits(db: psycopg.Connection[Any], column: str = "recipient_id") -> dict[str, float]:
    """When each recipient's row was committed."""
    statement = f"SELECT {column}, extract(epoch FROM pg_xact_commit_timestamp(xmin)) FROM notifications"
    return {name: float(moment) for name, moment in db.execute(statement.encode())}
