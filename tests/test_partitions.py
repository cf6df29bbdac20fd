"""On tables divided into months all goes on as before; a month that is over is dropped, and what must stay stays."""

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from inspect import signature
from itertools import product
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, delete, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from tests import test_cancel, test_create_once, test_deliver, test_erase, test_inbox, test_purge, test_supersede
from tests.conftest import use
from tests.databases import Databases
from tests.rows import count, put_notifications
from tests.servers import PostgresServer, wait_until
from tests.store import ask, create, listed, rows
from worker import partitions
from worker.cli import cli
from worker.database import Transaction, make_engine, transaction, utcnow
from worker.errors import InvalidSettings, TablesInUse
from worker.ids import derive, uuid7
from worker.models import Attempt, Delivery, Notification, PurgeRun
from worker.partitions import dividing, tending
from worker.partitions import months as locking
from worker.partitions.months import Month, months
from worker.purge import Purged, purge_seen

Configure = Callable[..., None]

#: When the tables are divided, in most tests: January, February and March get tables of their own.
JANUARY = datetime(2026, 1, 15, tzinfo=UTC)
#: When they are purged: with the usual retention, January and February are over.
JUNE = datetime(2026, 6, 10, tzinfo=UTC)
CUTOFF = JUNE - timedelta(days=90)
OLD, YOUNG = CUTOFF - timedelta(days=1), CUTOFF + timedelta(days=1)

pytestmark = pytest.mark.usefixtures("catalogue")

#: What must be as it is on plain tables.
BEHAVIOURS: list[Callable[..., None]] = [
    test_create_once.test_the_same_request_twice_is_created_once,
    test_create_once.test_the_same_request_twice_in_one_batch_is_created_once,
    test_create_once.test_dedupe_tells_once_per_sender_object_and_recipient,
    test_create_once.test_dedupe_in_one_batch_and_at_the_same_time,
    test_create_once.test_dedupe_allows_a_new_one_after_the_first_was_deleted,
    test_supersede.test_the_row_turns_into_the_new_event,
    test_deliver.test_many_threads_claim_each_delivery_once,
    test_deliver.test_a_purged_notification_takes_its_delivery_along,
    test_erase.test_mails_not_yet_sent_go_too,
    test_cancel.test_what_is_not_yet_visible_goes_away,
    test_cancel.test_retract_by_sender,
    test_inbox.test_a_deleted_notification_takes_its_email_along,
    test_inbox.test_delete_seen,
    test_inbox.test_counts_and_event_types,
    test_purge.test_batches_go_on_until_nothing_is_left,
    test_purge.test_two_purgers_remove_each_row_once,
]


@pytest.fixture(scope="session")
def divided(postgres: PostgresServer) -> Databases:
    """Databases whose tables have been divided as of now."""
    new = make_engine(postgres.create_database("divided", template="migrated"))
    partitions.convert(sessionmaker(new).begin, now=datetime.now(UTC))
    new.dispose()
    return Databases(postgres, "divided")


@pytest.fixture
def engine(divided: Databases, postgres: PostgresServer, configure: Configure) -> Iterator[Engine]:
    """The process's engine, on tables that are divided."""
    name = divided.take()
    yield use(postgres.url_of(name), configure)
    divided.give_back(name)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda behaviour: behaviour.__name__.removeprefix("test_"))
def test_as_on_plain_tables(behaviour: Callable[..., None], engine: Engine, request: pytest.FixtureRequest) -> None:
    """Creating twice, delivering, taking back, erasing, reading and purging do what they do elsewhere."""
    behaviour(**{name: request.getfixturevalue(name) for name in signature(behaviour).parameters})
    with transaction() as session:
        assert Month.of(utcnow()) in months(session)


def test_a_delivery_needs_its_notification(engine: Engine) -> None:
    """And an attempt its delivery, as the foreign keys had it: what is just being removed gets no new ones."""
    [id] = put_notifications()
    test_purge.put_delivery(id, "pending")
    [mail] = rows(Delivery)
    with transaction() as session:
        session.add(attempt(mail.id))
    with transaction() as session:
        session.execute(delete(Notification))
    assert (0, 0) == (count(Delivery), count(Attempt))
    with pytest.raises(IntegrityError):
        test_purge.put_delivery(id, "pending")
    with pytest.raises(IntegrityError), transaction() as session:
        session.add(attempt(mail.id))


def divide(now: datetime = JANUARY, begin: Transaction = transaction) -> None:
    assert partitions.convert(begin, now=now).changed


def known(begin: Transaction = transaction) -> list[int]:
    """The numbers of the months that have tables."""
    with begin() as session:
        return [month.number for month in months(session)]


def id_of(month: int) -> UUID:
    """An id made in that month of 2026."""
    at = int(datetime(2026, month, 11, tzinfo=UTC).timestamp() * 1000)
    return UUID(int=at << 80 | uuid7().int & ((1 << 80) - 1))


def notification(id: UUID, **values: Any) -> Notification:
    fixed = {"recipient_id": "reader", "lang": "en", "lang_asked": "en", "title": "Dune", "text": "Dune"}
    row = {"request_id": id, "created_at": JANUARY, "updated_at": OLD, "seen_at": OLD, **fixed, **values}
    return Notification(id=id, **row)


def delivery(id: UUID, about: UUID, status: str) -> Delivery:
    return Delivery(id=id, notification_id=about, channel="email", status=status, due_at=OLD, lease_until=OLD)


def attempt(about: UUID) -> Attempt:
    return Attempt(id=derive(about, "first"), delivery_id=about, number=1, at=OLD, verdict="transient")


def put(month: int, *, count: int = 1, status: str | None = None, **values: Any) -> list[UUID]:
    """Write notifications of a month, seen long ago unless told otherwise, each with an email where it has a status."""
    ids = [id_of(month) for _ in range(count)]
    with transaction() as session:
        session.add_all([notification(id, **values) for id in ids])
        session.flush()
        session.add_all([delivery(derive(id, "email"), id, status) for id in ids if status])
    return ids


def purge(now: datetime = JUNE, begin: Transaction = transaction) -> Purged:
    return purge_seen(begin, now=now)


def left() -> set[UUID]:
    return {row.id for row in rows(Notification)}


def everything(begin: Transaction) -> list[tuple[Any, ...]]:
    with begin() as session:
        tables = Notification.__table__, Delivery.__table__, Attempt.__table__
        return [tuple(row) for table in tables for row in session.execute(select(table).order_by(table.c.id))]


def test_an_empty_database_is_divided(postgres_engine: Engine) -> None:
    """By the command: this month and the next two get their tables; once more changes nothing."""
    first = CliRunner().invoke(cli, ["partition"], catch_exceptions=False)
    this = Month.of(utcnow())
    with transaction() as session:
        assert [this, this.later(1), this.later(2)] == months(session)
    assert "are now divided into months; 3 have" in first.output
    again = CliRunner().invoke(cli, ["partition"], catch_exceptions=False)
    assert "were already divided into months; 3 have" in again.output
    put_notifications()
    assert 1 == count(Notification)


def test_a_filled_database_is_divided(postgres_engine: Engine) -> None:
    """Every row is what it was, in the table of its month; indexes and rights are as they were; deleting cascades."""
    gone = put(1, status="sent") + put(2, status="pending")
    timeless = derive(UUID(int=0), "told once")
    with transaction() as session:
        session.add(notification(timeless))
        session.execute(text("GRANT SELECT ON notifications TO PUBLIC"))
    before, shape = everything(transaction), indexes_and_rights()
    divide(datetime(2026, 4, 1, tzinfo=UTC))
    assert [1, 2, 3, 4, 5, 6] == known()
    assert before == everything(transaction)
    assert shape == indexes_and_rights()
    with transaction() as session:
        where = select(text("tableoid::regclass::text")).select_from(Notification).order_by(Notification.id)
        assert ["notifications_timeless", "notifications_2026_01", "notifications_2026_02"] == [*session.scalars(where)]
        session.execute(delete(Notification).where(Notification.id.in_(gone)))
    assert ({timeless}, 0) == (left(), count(Delivery))


def indexes_and_rights() -> list[str]:
    indexes = "SELECT replace(pg_get_indexdef(indexrelid), 'ON ONLY', 'ON') FROM pg_index WHERE indrelid = "
    rights = "SELECT privilege_type FROM pg_class, aclexplode(relacl) WHERE grantee = 0 AND oid = "
    found = product((indexes, rights), ("notifications", "deliveries"))
    with transaction() as session:
        # Without the conditions, which PostgreSQL writes otherwise the second time.
        return sorted(
            line.partition(" WHERE ")[0]
            for what, table in found
            for line in session.scalars(text(f"{what}'{table}'::regclass"))
        )


def test_what_is_in_use_is_not_divided(postgres_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody is in the middle of something, nothing has changed after a while."""
    monkeypatch.setattr(dividing, "LOCK_SECONDS", 0.05)
    ids = put(1)
    with transaction() as other:
        other.get_one(Notification, ids[0])
        with pytest.raises(TablesInUse):
            divide()
    assert ([], {*ids}) == (known(), left())
    divide()


def test_what_refers_to_them_may_be_in_use_too(postgres_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds a table of what refers to the two is waited for no longer; nothing has changed."""
    monkeypatch.setattr(dividing, "LOCK_SECONDS", 0.05)
    with transaction() as other:
        other.scalars(select(Attempt)).all()
        with pytest.raises(TablesInUse):
            divide()
    assert [] == known()


def test_two_that_wait_for_each_other(postgres_engine: Engine) -> None:
    """A transaction that has emails and then wants notifications goes on where the tables are given up for it."""
    [id] = put(1, status="sent")
    held, refused = Event(), list[Exception]()

    def try_to_divide() -> None:
        held.wait(10)
        with pytest.raises(TablesInUse) as told:
            divide()
        refused.append(told.value)

    thread = Thread(target=try_to_divide)
    thread.start()
    with transaction() as session:
        session.execute(text("SET LOCAL deadlock_timeout = '60s'"))  # so that it is the other who gives up
        session.execute(update(Delivery).values(attempts=2))
        held.set()
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
        wait_until(lambda: others(waits) == 1, 10, "it waits for the emails")
        assert [id] == [row.id for row in session.scalars(select(Notification))]
    thread.join(10)
    assert ([TablesInUse], []) == ([type(error) for error in refused], known())


def others(question: str) -> int:
    """A number that another connection is told."""
    with transaction() as session:
        return int(session.scalar(text(question)) or 0)


def test_workers_that_are_up_wait(postgres_engine: Engine) -> None:
    """What they create and read meanwhile is done afterwards, on the divided tables, by the same connections."""
    asked, stop = list[UUID](), Event()

    def go_on() -> None:
        while not stop.is_set():
            create(request := ask({"id": "reader", "email": "reader@example.org"}), now=utcnow())
            asked.append(request.id)
            listed("reader")

    threads = [Thread(target=go_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(asked) > 20, 10, "something goes on")
    divide(utcnow())
    before = len(asked)
    wait_until(lambda: len(asked) > before + 20, 10, "it goes on")
    stop.set()
    for thread in threads:
        thread.join(10)
    assert sorted(asked) == sorted(row.request_id for row in rows(Notification))
    assert len(asked) == count(Delivery)


def test_sqlite_has_no_partitions(configure: Configure, migrated_sqlite: Path, tmp_path: Path) -> None:
    """It says so, and the purge goes its ordinary way."""
    use(f"sqlite:///{shutil.copy(migrated_sqlite, tmp_path / 'test.db')}", configure)
    with pytest.raises(InvalidSettings, match="only PostgreSQL has partitions"):
        divide()
    assert 0 == purge().removed


def test_plain_tables_stay_plain(postgres_engine: Engine) -> None:
    """Nobody's tables are divided who did not ask for it."""
    put(1, count=3)
    assert 3 == purge().removed
    assert [] == known()


def test_a_month_that_is_over_is_dropped(postgres_engine: Engine) -> None:
    """With its tables; what must stay stays, the ledger has the number, and months to come have their tables."""
    divide()
    put(1, count=5, status="sent")
    kept = {
        *put(1, seen_at=None, status="failed"),
        *put(1, updated_at=YOUNG),
        *put(1, status="pending"),
        *put(2, status="sending"),
        *put(3, seen_at=None),
    }
    put(2, count=2)
    assert Purged(7, True, CUTOFF) == purge()
    assert kept == left()
    assert ["failed", "pending", "sending"] == sorted(row.status for row in rows(Delivery))
    assert [3, 6, 7, 8] == known()
    assert [7] == [row.removed for row in rows(PurgeRun)]
    assert 0 == purge().removed


def mix(seed: int) -> tuple[list[dict[str, Any]], list[tuple[UUID, UUID, str]]]:
    """Rows of any kind, in months with tables and in the rest, some emails made in another month than they tell of."""
    random = Random(seed)
    told, emails = [], []
    for _ in range(150):
        id = derive(UUID(int=0), str(random.random())) if random.random() < 0.1 else id_of(random.randint(1, 4))
        event = random.choice(["book_available", "password_reset", None])
        seen_at, updated_at = random.choice([None, OLD]), random.choice([OLD, CUTOFF, YOUNG, JUNE - timedelta(days=6)])
        told.append({"id": id, "event_config_name": event, "seen_at": seen_at, "updated_at": updated_at})
        if random.random() < 0.6:
            own = derive(id, "email") if random.random() < 0.8 else id_of(random.randint(1, 4))
            emails.append((own, id, random.choice(["pending", "sending", "sent", "failed", "skipped"])))
    return told, emails


@pytest.mark.parametrize(("seed", "most_kept", "dropped"), [(1, 1000, {1, 2}), (2, 20, set()), (3, 0, set())])
def test_the_same_stays_as_without_partitions(
    seed: int,
    most_kept: int,
    dropped: set[int],
    new_postgres_url: Callable[[], str],
    configure: Configure,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever is in the tables, and whether months are dropped or too much of them stays: to the last value."""
    monkeypatch.setattr(tending, "MOST_KEPT", most_kept)
    told, emails = mix(seed)
    plain, months_made = (sessionmaker(use(new_postgres_url(), configure)).begin for _ in range(2))
    divide(begin=months_made)
    outcomes = []
    for begin in (plain, months_made):
        fill(begin, told, emails)
        outcomes.append((purge(begin=begin), everything(begin)))
    assert outcomes[0] == outcomes[1]
    assert 0 < outcomes[0][0].removed < 150
    assert dropped == {1, 2, 3} - {*known(months_made)}


def fill(begin: Transaction, told: list[dict[str, Any]], emails: list[tuple[UUID, UUID, str]]) -> None:
    with begin() as session:
        session.add_all([notification(**row) for row in told])
        session.flush()
        session.add_all([delivery(*email) for email in emails])
        session.flush()
        session.add_all([attempt(id) for id, _, _ in emails])


def test_a_month_in_use_stays_until_later(postgres_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for somebody's long transaction: the batches do what they can, and a later run drops the month."""
    monkeypatch.setattr(tending, "LOCK_SECONDS", 0.05)
    divide()
    [held, *others] = put(1, count=4)
    with transaction() as other:
        other.execute(select(Notification).where(Notification.id == held).with_for_update())
        assert len(others) == purge().removed
        assert ([1, 2, 3], {held}) == (known(), left())
    assert (1, set()) == (purge().removed, left())
    assert 1 not in known()


def test_what_is_seen_again_meanwhile_stays(postgres_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes between the first look and the lock counts as it then is."""
    divide()
    again, _ = put(1, count=2)

    def change_first(session: Session, wait_seconds: float) -> None:
        with transaction() as other:
            other.get_one(Notification, again).seen_at = None
        locking.lock(session, wait_seconds)

    with monkeypatch.context() as patched:
        patched.setattr(tending, "AHEAD", -1)
        patched.setattr(tending, "lock", change_first)
        assert 1 == purge().removed
    assert ({again}, [3]) == (left(), known())


def test_a_run_that_died_half_way_is_finished(postgres_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was taken out and not yet dropped is counted and dropped by the next."""
    divide()
    kept = {*put(1, seen_at=None)}
    put(1, count=3)
    with monkeypatch.context() as patched:
        patched.setattr(tending, "_finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            purge()
    assert (kept, 0) == (left(), len(rows(PurgeRun)))
    assert 3 == purge().removed
    with transaction() as session:
        assert [] == months(session, attached=False)
    assert kept == left()


@pytest.mark.parametrize(("most_kept", "made"), [(10, True), (1, False)])
def test_months_are_made_for_what_lies_in_the_rest(
    postgres_engine: Engine, monkeypatch: pytest.MonkeyPatch, most_kept: int, made: bool
) -> None:
    """Where beat had been away, the rows that came meanwhile move to the new table, unless they are too many."""
    monkeypatch.setattr(tending, "MOST_KEPT", most_kept)
    divide()
    put(6, count=2, updated_at=JUNE, status="pending")
    before = everything(transaction)
    assert 0 == purge().removed
    assert (before, made) == (everything(transaction), 6 in known())
    with transaction() as session:
        found = {*session.scalars(select(text("tableoid::regclass::text")).select_from(Delivery))}
    assert {"deliveries_2026_06" if made else "deliveries_rest"} == found
