"""Reads and marks of one inbox among millions of rows: medians, p99, and ratios to the ways around us.

Run from the repository's root: `python -m bench.inbox [--rows 5000000] [--quick]`. Starts its own PostgreSQL, with
durability on, and stops it. Each case runs through Bellhop, through psycopg with the same query prepared, and as an
ORM would usually be used; interleaved, each in a transaction held open. Fails where the results differ.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from bench.inbox_rows import fill
from tests.servers import PostgresServer
from worker import database, inbox
from worker.inbox import pages
from worker.models import Notification

HEAVY, LIGHT = "heavy-3", "reader-77"
DAY = {"since": datetime(2024, 3, 1, tzinfo=UTC), "until": datetime(2024, 3, 2, tzinfo=UTC)}
THREAD = UUID("00000000-0000-7000-8000-000000000001")
SEEN_BY = "recipient_id = %(who)s AND created_at <= %(now)s AND (expire_at IS NULL OR expire_at > %(now)s)"
NEWEST = "ORDER BY created_at DESC, id DESC LIMIT 11"

Run = Callable[[], Any]
chance = random.Random(1)


@dataclass
class Case:
    """One thing to measure, and the other ways to do it; each gives what can be compared."""

    name: str
    ours: Run
    psycopg: Run | None = None
    naive: Run | None = None
    times: int = 200


class Bench:
    """The connections, and a case for each query."""

    def __init__(self, url: str) -> None:
        self.engine = database.make_engine(url)
        self.session = Session(self.engine)
        self.raw = psycopg.connect(url.replace("+psycopg", ""))
        self.now = datetime.now(UTC)

    def prepared(self, what: str, who: str, condition: str = "TRUE", tail: str = "", **values: Any) -> Run:
        """The query, prepared by psycopg."""
        query = f"SELECT {what} FROM notifications WHERE {SEEN_BY} AND {condition} {tail}".encode()
        given = {"who": who, "now": self.now, **values}

        def run() -> Any:
            found = self.raw.execute(query, given, prepare=True).fetchall()
            return found[0][0] if what.startswith(("count", "EXISTS", "exists")) else [row[0] for row in found][:10]

        return run

    def naive(self, who: str, *conditions: Any) -> Any:
        """The query as an ORM user writes it."""
        alive = or_(Notification.expire_at.is_(None), Notification.expire_at > self.now)
        query = self.session.query(Notification).where(
            Notification.recipient_id == who, Notification.created_at <= self.now
        )
        return query.where(alive, *conditions).order_by(Notification.created_at.desc(), Notification.id.desc())

    def listed(self, who: str, **asked: Any) -> Run:
        """A page of ours."""
        return lambda: [row.id for row in inbox.list(self.session, who, **asked).items]

    def counts(self, who: str) -> list[Case]:
        """How many, of what."""
        unseen = Notification.seen_at.is_(None)
        return [
            Case(
                f"unseen count, {who}",
                lambda: inbox.unseen_count(self.session, who),
                self.prepared("count(*)", who, "seen_at IS NULL"),
                self.fresh(lambda: len(self.naive(who, unseen).all())),
            ),
            Case(
                f"has unseen, {who}",
                lambda: inbox.has_unseen(self.session, who),
                lambda: bool(self.prepared("1", who, "seen_at IS NULL", "LIMIT 1")()),
                self.fresh(lambda: bool(self.naive(who, unseen).all())),
            ),
            Case(
                f"total and unseen, {who}",
                lambda: inbox.counts(self.session, who).total,
                self.prepared("count(*)", who),
                lambda: self.naive(who).count(),
                times=40,
            ),
            Case(f"counts by event, {who}", lambda: inbox.counts(self.session, who, by_event=True).total, times=40),
            Case(f"event types, {who}", lambda: [*inbox.event_types(self.session, who)], times=40),
        ]

    def fresh(self, run: Run) -> Run:
        """As in a new request: nothing loaded before."""

        def anew() -> Any:
            self.session.expunge_all()
            return run()

        return anew

    def pages(self, who: str) -> list[Case]:
        """First and deep pages."""
        first = Case(
            f"first page of 10, {who}",
            self.fresh(self.listed(who)),
            self.prepared("id, notifications.*", who, tail=NEWEST),
            self.fresh(lambda: [row.id for row in self.naive(who).all()[:10]]),
        )
        if who == LIGHT:
            return [first]
        depth, before = self.deep(who)
        cursor = pages.encode(before)
        follow = "created_at <= %(at)s AND (created_at < %(at)s OR id < %(id)s)"
        deep = Case(
            f"page {depth:,} deep by cursor, {who}",
            self.fresh(self.listed(who, cursor=cursor)),
            self.prepared("id, notifications.*", who, follow, NEWEST, at=before.created_at, id=before.id),
            self.fresh(lambda: [row.id for row in self.naive(who).offset(depth).limit(10)]),
        )
        numbered = Case(
            f"the same by number, with its total, {who}",
            self.fresh(self.listed(who, page=depth // 10 + 1)),
            naive=self.fresh(
                lambda: (self.naive(who).count(), [row.id for row in self.naive(who).offset(depth).limit(10)])[1]
            ),
            times=40,
        )
        return [first, deep, numbered]

    def deep(self, who: str) -> tuple[int, Any]:
        """How many come before a page far down, and the last of them."""
        depth = min(10_000, self.naive(who).count() // 20 * 10)
        return depth, self.naive(who).offset(depth - 1).first()

    def deep_beside_first(self, who: str, times: int = 300) -> tuple[float, float]:
        """Milliseconds of our deep page and of our first, by turns: in the table each stands beside other ways."""
        _, before = self.deep(who)
        ways = [self.fresh(self.listed(who)), self.fresh(self.listed(who, cursor=pages.encode(before)))]
        taken: list[list[float]] = [[], []]
        for _ in range(times):
            for n in chance.sample(range(2), 2):
                taken[n].append(timed(ways[n]) * 1e3)
        first, far = map(statistics.median, taken)
        return far, first

    def filters(self, who: str) -> list[Case]:
        """A first page through each filter."""

        def case(name: str, condition: str, column: Any, **asked: Any) -> Case:
            values = {name: value for name, value in asked.items() if name != "search"}
            naive = self.fresh(lambda: [row.id for row in self.naive(who, *column).limit(10)])
            psycopg_ = self.prepared("id, notifications.*", who, condition, NEWEST, **values)
            return Case(f"{name}, {who}", self.fresh(self.listed(who, **asked)), psycopg_, naive, times=40)

        N = Notification
        return [
            case("unseen", "seen_at IS NULL", [N.seen_at.is_(None)], seen=False),
            case("seen", "seen_at IS NOT NULL", [N.seen_at.is_not(None)], seen=True),
            case("event", "event_config_name = %(event_config_name)s",
                 [N.event_config_name == "mention"], event_config_name="mention"),
            case("rare event", "event_config_name = %(event_config_name)s",
                 [N.event_config_name == "rare"], event_config_name="rare"),
            case("scope", "scope = %(scope)s", [N.scope == "scope-4"], scope="scope-4"),
            case("sender", "sender_id = %(sender_id)s", [N.sender_id == "sender-7"], sender_id="sender-7"),
            case("not by one sender", "(sender_id IS NULL OR sender_id <> %(not_sender_id)s)",
                 [or_(N.sender_id.is_(None), N.sender_id != "sender-7")], not_sender_id="sender-7"),
            case("object", "object_type = %(object_type)s AND object_id = %(object_id)s",
                 [N.object_type == "book", N.object_id == "999"], object_type="book", object_id="999"),
            case("answers", "parent_id = %(parent_id)s", [N.parent_id == THREAD], parent_id=THREAD),
            case("thread", "(parent_id IS NOT NULL AND thread_id = %(thread_id)s OR id = %(thread_id)s)",
                 [or_(N.thread_id == THREAD, N.id == THREAD)], thread_id=THREAD),
            case("a day", "created_at >= %(since)s AND created_at < %(until)s",
                 [N.created_at >= DAY["since"], N.created_at < DAY["until"]], **DAY),
            case("common word", "(title ILIKE '%%dune%%' OR text ILIKE '%%dune%%')",
                 [or_(N.title.icontains("dune"), N.text.icontains("dune"))], search="dune"),
            case("rare word", "(title ILIKE '%%hagfish%%' OR text ILIKE '%%hagfish%%')",
                 [or_(N.title.icontains("hagfish"), N.text.icontains("hagfish"))], search="hagfish"),
        ]  # fmt: skip

    def marks(self, who: str) -> list[Case]:
        """Each marks all and takes it back, so that the next one has as much to do."""
        update = f"UPDATE notifications SET seen_at = %(now)s, updated_at = %(now)s WHERE {SEEN_BY} AND seen_at IS NULL"

        def ours() -> int:
            with self.session.begin_nested() as nested:
                marked = inbox.mark_all_seen(self.session, who)
                nested.rollback()
            return marked

        def prepared() -> int:
            with self.raw.transaction(force_rollback=True):
                return self.raw.execute(update.encode(), {"who": who, "now": self.now}, prepare=True).rowcount

        def naive() -> int:
            with self.session.begin_nested() as nested:
                found = self.naive(who, Notification.seen_at.is_(None)).all()
                for row in found:
                    row.seen_at = row.updated_at = self.now
                self.session.flush()
                nested.rollback()
            return len(found)

        return [Case(f"mark all, {who}", ours, prepared, self.fresh(naive), times=8 if who == HEAVY else 40)]

    def all(self) -> list[Case]:
        """Every case."""
        both = (LIGHT, HEAVY)
        cases = [case for who in both for case in (*self.counts(who), *self.pages(who))]
        return [*cases, *self.filters(HEAVY), *(case for who in both for case in self.marks(who))]


def timed(run: Run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def measure(case: Case) -> list[str]:
    """Check that all ways give the same, then take turns; gives a row of the table."""
    ways = [case.ours, case.psycopg, case.naive]
    order = [0, 1, 2]
    results = {repr(way()) for way in ways if way}
    if len(results) > 1:
        raise SystemExit(f"{case.name}: different results: {results}")
    taken: list[list[float]] = [[], [], []]
    for turn in range(case.times + 10):
        # In another order each time: what follows an ORM's work finds a cold processor.
        chance.shuffle(order)
        for way, times in ((ways[n], taken[n]) for n in order):
            # What takes long is run less often: nobody needs two hundred of it.
            if way and (turn < 10 or (turn < case.times and sum(times) < 4)):
                times.append(timed(way))
    kept = [times[min(6, len(times) // 2) :] for times in taken]
    medians = [statistics.median(times) * 1e3 if times else None for times in kept]
    ours, best, naive = medians
    p99 = sorted(kept[0])[int(len(kept[0]) * 0.99)] * 1e3
    ratios = [f"{ours / best:.2f}" if best and ours else "", f"{naive / ours:.1f}" if naive and ours else ""]
    return [case.name, *(f"{ms:.2f}" if ms else "" for ms in (ours, p99, best, naive)), *ratios]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--quick", action="store_true", help="500,000 rows")
    options = parser.parse_args(arguments)
    rows = 500_000 if options.quick else options.rows
    with (
        tempfile.TemporaryDirectory() as folder,
        PostgresServer(Path(folder), durable=True, extra=("shared_buffers=2GB", "jit=off")) as server,
    ):
        url = server.create_database("bench")
        engine = database.make_engine(url)
        database.upgrade(engine)
        engine.dispose()
        began = time.perf_counter()
        fill(url.replace("+psycopg", ""), rows)
        print(f"{rows:,} rows in {time.perf_counter() - began:.0f} s", flush=True)
        bench = Bench(url)
        assert bench.session.scalar(select(func.count()).select_from(Notification)) == rows
        print("| case | ms | p99 | psycopg | ORM | ours / psycopg | ORM / ours |\n|---|---|---|---|---|---|---|")
        for case in bench.all():
            print(f"| {' | '.join(measure(case))} |", flush=True)
        far, first = bench.deep_beside_first(HEAVY)
        print(f"\nthe deep page and the first, by turns: {far:.2f} and {first:.2f} ms, {far / first:.2f} x")


if __name__ == "__main__":
    main(sys.argv[1:])
