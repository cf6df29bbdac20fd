"""Row locks, which PostgreSQL has and SQLite has not: nobody waits for a row that another has in hand."""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import cycle
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, delete, select, text, update
from sqlalchemy.orm import Session

from tests.rows import THEN, put_deliveries, put_notifications
from tests.servers import wait_until
from tests.store import LATER, ask, by_recipient, enqueue, put, rows
from worker import control, inbox, pending, recipients, retract
from worker.channels import Outcome, Verdict
from worker.claims import Claimed, claim, give_back, let_go
from worker.database import UNAVAILABLE, transaction, utcnow
from worker.deliver import _persist
from worker.ids import uuid7
from worker.models import Delivery, Notification
from worker.outcomes import record
from worker.purge import Purged, purge_seen

#: Some ninety days after THEN: the default retention has just ended.
NOW = THEN + timedelta(days=90, microseconds=1)

#: Tries at the same time to have a removal and the record of its emails wait for each other.
ROUNDS = 3

pytestmark = pytest.mark.usefixtures("catalogue", "postgres_engine")


def purge(now: datetime) -> Purged:
    return purge_seen(transaction, now=now)


def left() -> set[UUID]:
    return {row.id for row in rows(Notification)}


def somebody_waits() -> bool:
    """Whether any session waits for a lock."""
    with transaction() as session:
        return session.scalar(text("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted")) or False


def free_meanwhile(
    change: Callable[[Session], Any], model: type[Notification] | type[Delivery], ids: list[UUID], other: Session
) -> tuple[int, Any]:
    """How many of the rows nobody has locked while the change waits for one that `other` has; and what it then gave."""

    def changed() -> Any:
        with transaction() as session:
            return change(session)

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(changed)
        wait_until(somebody_waits, 10, "it waits for the first row")
        free = other.scalars(select(model.id).where(model.id.in_(ids)).with_for_update(nowait=True)).all()
        other.rollback()
        return len(free), result.result(10)


def test_a_claim_reads_no_backlog() -> None:
    """Whatever the statistics say: they may be of a moment when nothing was pending."""
    with transaction() as session:
        session.execute(text("ANALYZE deliveries"))
    ids = put_deliveries(5000)
    with transaction() as session:
        claimed, _ = claim(session, [*ids[:5], uuid7()], utcnow(), LATER)
        control.take_probe(session, ids[:5], utcnow())
        let_go(session, ids[5:10], utcnow())
        read = session.scalar(
            text("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'deliveries'")
        )
    assert 5 == len(claimed)
    assert read < 100


@pytest.fixture
def other_session(postgres_engine: Engine) -> Iterator[Session]:
    """Somebody else's transaction, on PostgreSQL: SQLite locks the whole file."""
    with Session(postgres_engine) as session:
        yield session


def test_locked_rows_are_skipped(other_session: Session) -> None:
    """A row that somebody is just changing is left to the next run; nobody waits."""
    ids = put_notifications(3)
    other_session.execute(select(Notification.id).where(Notification.id == ids[1]).with_for_update())

    assert Purged(2, True, NOW - timedelta(days=90)) == purge(NOW)
    assert {ids[1]} == left()
    other_session.rollback()
    assert 1 == purge(NOW).removed


def test_what_becomes_unseen_meanwhile_stays(other_session: Session) -> None:
    """Marked unseen in a transaction that commits before the purge gets to the row, it stays."""
    [id] = put_notifications()
    inbox.mark_seen(other_session, "reader", id, False)
    assert 0 == purge(NOW).removed
    other_session.commit()
    assert 0 == purge(NOW + timedelta(days=9_000)).removed
    assert {id} == left()


def seen_by_all(session: Session) -> int:
    return inbox.mark_all_seen(session, "reader")


MANY: dict[str, tuple[Callable[[Session], Any], Any]] = {
    "mark all": (seen_by_all, None),
    "delete seen": (lambda session: inbox.delete_seen(session, "reader"), THEN),
    "retract": (lambda session: retract.retract(session, "book", "7"), None),
    "cancel": (
        lambda session: retract.cancel(session, id=UUID(int=9), now=THEN - timedelta(days=1)).notifications,
        None,
    ),
    "erase": (lambda session: recipients.erase(session, "reader", now=NOW)["notifications"], None),
}


@pytest.mark.parametrize("name", MANY)
def test_many_are_locked_in_one_order(name: str, other_session: Session) -> None:
    """By id, wherever they lie: who waits for the first has none of the others, so that no two wait for each other."""
    call, seen_at = MANY[name]
    ids = sorted(uuid7() for _ in range(4))
    about = {"object_type": "book", "object_id": "7", "request_id": UUID(int=9), "seen_at": seen_at}
    for minute, id in enumerate(reversed(ids)):
        put("reader", THEN + timedelta(minutes=minute), id=id, **about)
    other_session.execute(select(Notification.id).where(Notification.id == ids[0]).with_for_update())

    assert (3, 4) == free_meanwhile(call, Notification, ids[1:], other_session)


def claimed_of(ids: Sequence[UUID]) -> list[Claimed]:
    """Claimed by a worker, in another order than that of their ids."""
    with transaction() as session:
        claimed, _skipped = claim(session, ids, utcnow(), utcnow() + timedelta(minutes=5))
    return sorted(claimed, key=lambda one: one.id, reverse=True)


def outcomes(claimed: Sequence[Claimed], *verdicts: Verdict) -> list[tuple[Claimed, Outcome]]:
    return [(one, Outcome(one.id, verdict, "told")) for one, verdict in zip(claimed, cycle(verdicts), strict=False)]


TOGETHER: dict[str, Callable[[Session, Sequence[Claimed]], object]] = {
    "delete seen": lambda session, _claimed: inbox.delete_seen(session, "reader"),
    "retract": lambda session, _claimed: retract.retract(session, "book", "7"),
    "cancel": lambda session, _claimed: retract.cancel(session, id=UUID(int=9), now=THEN - timedelta(days=1)),
    "erase": lambda session, _claimed: recipients.erase(session, "reader", now=NOW),
    "record sent": lambda session, claimed: record(session, outcomes(claimed, Verdict.SENT), utcnow()),
    "record": lambda session, claimed: record(session, outcomes(claimed, Verdict.SENT, Verdict.PERMANENT), utcnow()),
    "give back": lambda session, claimed: give_back(session, claimed, utcnow()),
}


def emails_about_one_book(count: int) -> list[Claimed]:
    """Claimed deliveries of seen notifications, which lie in the table in the order opposite to that of their ids."""
    ids = put_deliveries(count, give_up_at=utcnow() + timedelta(days=1))
    about = {"object_type": "book", "object_id": "7", "request_id": UUID(int=9), "seen_at": THEN, "created_at": THEN}
    with transaction() as session:
        for id in reversed(ids):
            session.execute(update(Delivery).where(Delivery.id == id).values(last_error="moved"))
            mine = select(Delivery.notification_id).where(Delivery.id == id).scalar_subquery()
            session.execute(update(Notification).where(Notification.id == mine).values(**about))
    return claimed_of(ids)


@pytest.mark.parametrize("name", TOGETHER)
def test_deliveries_are_locked_in_one_order(name: str, other_session: Session) -> None:
    """By who removes them with their notifications, and by workers: who waits for the first has none of the others."""
    claimed = emails_about_one_book(4)
    ids = sorted(one.id for one in claimed)
    other_session.execute(select(Delivery.id).where(Delivery.id == ids[0]).with_for_update())

    free, _ = free_meanwhile(lambda session: TOGETHER[name](session, claimed), Delivery, ids[1:], other_session)
    assert 3 == free


REMOVALS = ("delete seen", "retract", "cancel", "erase")


@pytest.mark.parametrize("name", REMOVALS)
def test_who_removes_what_workers_record_is_never_refused(name: str) -> None:
    """An application tries nothing again: no removal of its own may end as the victim of a deadlock."""
    for _round in range(ROUNDS):
        claimed = emails_about_one_book(60)
        shuffled = [random.sample(claimed, len(claimed)) for _ in range(3)]
        ready = Barrier(len(shuffled) + 1)

        def work(some: Sequence[Claimed], ready: Barrier = ready) -> None:
            ready.wait()
            with suppress(*UNAVAILABLE), transaction() as session:  # a worker would try again
                record(session, outcomes(some, Verdict.PERMANENT, Verdict.SENT), utcnow())

        with ThreadPoolExecutor(len(shuffled)) as pool:
            workers = [pool.submit(work, some) for some in shuffled]
            ready.wait()
            with transaction() as session:
                TOGETHER[name](session, claimed)
            for worker in workers:
                worker.result(30)


def test_a_taker_passes_over_what_another_has_in_hand() -> None:
    """Of two that create waiting requests, the second takes the next ones at once."""
    enqueue(*(ask(f"r{n}") for n in range(4)))
    with transaction() as first, transaction() as second:
        second.execute(text("SET LOCAL lock_timeout = '5s'"))
        taken = [pending.create_pending(one, now=LATER, limit=3)[0] for one in (first, second)]
    assert ([3, 1], 4) == (taken, len(by_recipient()))


def test_a_record_and_a_removal_that_wait_for_each_other_both_end() -> None:
    """Emails are recorded in the order of their outcomes, removed in that of their notifications: one tries again."""
    ids = put_deliveries(2)
    with transaction() as session:
        claimed, _skipped = claim(session, ids, utcnow(), utcnow() + timedelta(minutes=5))
    by_place = {one.id: one for one in claimed}
    last, first = by_place[ids[1]], by_place[ids[0]]
    about = [row.notification_id for row in rows(Delivery)]
    tries: list[str] = []

    def write(session: Session) -> None:
        record(session, [(last, Outcome(last.id, Verdict.PERMANENT, "550"))], utcnow())
        tries.append("record")
        if len(tries) == 1:
            wait_until(somebody_waits, 10, "the removal has the other one, and waits for this one")
        record(session, [(first, Outcome(first.id, Verdict.PERMANENT, "550"))], utcnow())

    def remove() -> None:
        with transaction() as session:
            session.execute(delete(Notification).where(Notification.id.in_(about)))

    def remove_as_a_task() -> None:
        try:
            remove()
        except UNAVAILABLE:
            remove()

    with ThreadPoolExecutor(2) as pool:
        recorded = pool.submit(_persist, transaction, write, utcnow() + timedelta(minutes=5))
        wait_until(lambda: bool(tries), 10, "the record has the last one")
        removed = pool.submit(remove_as_a_task)
        recorded.result(30), removed.result(30)
    assert ([], set()) == (rows(Delivery), left())
