from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import update

from tests.rows import THEN, put_notifications
from tests.store import rows, together
from worker import inbox
from worker.database import transaction
from worker.ids import uuid7
from worker.models import Delivery, Notification, PurgeRun, Request
from worker.purge import Purged, purge_requests, purge_seen

Configure = Callable[..., None]

#: Some ninety days after THEN: the default retention has just ended.
NOW = THEN + timedelta(days=90, microseconds=1)

pytestmark = pytest.mark.usefixtures("catalogue", "engine")


def purge(now: datetime = NOW, older_than: datetime | None = None, *, dry_run: bool = False) -> Purged:
    return purge_seen(transaction, now=now, older_than=older_than, dry_run=dry_run)


def left() -> set[UUID]:
    return {row.id for row in rows(Notification)}


def put_delivery(about: UUID, status: str) -> None:
    moments = {"due_at": THEN, "lease_until": THEN}
    with transaction() as session:
        session.add(Delivery(id=uuid7(), notification_id=about, channel="email", status=status, **moments))


def test_the_cutoff_is_strict() -> None:
    """A row modified exactly at the cutoff stays; a microsecond older it goes."""
    [at], [before] = put_notifications(updated_at=THEN), put_notifications(updated_at=THEN - timedelta(microseconds=1))

    purged = purge(THEN + timedelta(days=90))
    assert Purged(removed=1, finished=True, cutoff=THEN) == purged
    assert {at} == left()
    assert before not in left()


def test_unseen_is_never_removed() -> None:
    """However old, what nobody saw stays."""
    ids = put_notifications(3, seen_at=None)
    assert 0 == purge(NOW + timedelta(days=10_000)).removed
    assert 0 == purge(older_than=NOW + timedelta(days=10_000)).removed
    assert set(ids) == left()


def test_unseen_again_stays() -> None:
    """Marked seen by mistake and unseen again, it counts as unseen."""
    again, seen = put_notifications(2)
    with transaction() as session:
        inbox.mark_seen(session, "reader", again, False)
        session.execute(update(Notification).where(Notification.id == again).values(updated_at=THEN))
    assert 1 == purge().removed
    assert {again} == left()
    assert seen not in left()


def test_seen_counts_from_the_last_change() -> None:
    """Seen now, though created long ago, a notification lives for the whole retention from now on."""
    [id] = put_notifications(seen_at=None)
    with transaction() as session:
        inbox.mark_seen(session, "reader", id)
    assert 0 == purge().removed
    with transaction() as session:
        seen_at = session.get_one(Notification, id).updated_at
    assert 0 == purge(seen_at + timedelta(days=90)).removed
    assert 1 == purge(seen_at + timedelta(days=90, microseconds=1)).removed


def test_an_event_has_its_own_retention() -> None:
    """`retention_days` of the event wins over the setting, both ways; literal and removed events have the setting's."""
    now = THEN + timedelta(days=7, microseconds=1)
    short = put_notifications(event_config_name="password_reset")
    others = [put_notifications(event_config_name=name)[0] for name in ("book_available", "long_gone", None)]

    assert 1 == purge(now).removed
    assert set(others) == left()
    assert not {*short} & left()
    assert 3 == purge(NOW).removed


def test_retention_of_no_days(configure: Configure) -> None:
    """With SEEN_RETENTION_DAYS=0 whatever was seen before this moment goes."""
    configure(SEEN_RETENTION_DAYS=0)
    [id] = put_notifications(updated_at=NOW)
    put_notifications(2)
    assert Purged(2, True, NOW) == purge(NOW)
    assert {id} == left()


def test_older_than_is_for_every_event() -> None:
    """A cutoff given by hand overrides the setting and the events' own retentions, both ways."""
    cutoff = THEN + timedelta(seconds=1)
    [younger] = put_notifications(event_config_name="password_reset", updated_at=cutoff)
    put_notifications(event_config_name="password_reset")
    put_notifications(event_config_name="book_available")

    assert Purged(2, True, cutoff) == purge(NOW, older_than=cutoff)
    assert {younger} == left()


def test_batches_go_on_until_nothing_is_left(configure: Configure) -> None:
    """More rows than one batch holds, a full last batch included, are all removed by one run."""
    configure(PURGE_BATCH=5)
    put_notifications(15)
    assert Purged(15, True, NOW - timedelta(days=90)) == purge()
    put_notifications(13)
    assert 13 == purge().removed
    assert set() == left()


def test_the_next_run_goes_on_where_the_budget_ended(configure: Configure) -> None:
    """A run whose time is up has removed a batch at least, and says that it has not finished."""
    configure(PURGE_BATCH=5, PURGE_BUDGET_SECONDS="0.000000001")
    put_notifications(12)
    assert [(5, False), (5, False), (2, True)] == [(one.removed, one.finished) for one in (purge(), purge(), purge())]
    assert set() == left()
    assert [(5, False), (5, False), (2, True)] == [(row.removed, row.finished) for row in rows(PurgeRun)]


def test_a_dry_run_changes_nothing() -> None:
    """It tells what a real run then removes, and leaves no trace, not even in the ledger."""
    put_notifications(3)
    put_notifications(seen_at=None)
    before = left()

    told = purge(dry_run=True)
    assert Purged(3, True, NOW - timedelta(days=90)) == told
    assert before == left()
    assert [] == rows(PurgeRun)
    assert told == purge()


def test_every_run_is_in_the_ledger() -> None:
    """One row per run: when, up to where, how many, how long, whether it finished."""
    put_notifications(2)
    purge()
    [row] = rows(PurgeRun)
    expected = (NOW, NOW - timedelta(days=90), 2, True)
    assert expected == (row.started_at, row.cutoff, row.removed, row.finished)
    assert 0 <= row.took_seconds < 30


@pytest.mark.parametrize(
    ("status", "stays"),
    [("pending", True), ("sending", True), ("sent", False), ("failed", False), ("unknown", False), ("skipped", False)],
)
def test_what_has_an_email_on_its_way_stays(status: str, stays: bool) -> None:
    """A notification seen in the app is kept until its email has gone out, or never will; then the email goes too."""
    [id] = put_notifications()
    put_delivery(id, status)
    assert (0 if stays else 1) == purge(dry_run=True).removed == purge().removed
    assert stays == bool(left()) == bool(rows(Delivery))


def test_two_purgers_remove_each_row_once(configure: Configure) -> None:
    """Two at the same time harm nothing: what both say they removed adds up to what was there."""
    configure(PURGE_BATCH=7)
    put_notifications(150)
    runs = together(purge, purge, purge)
    # One that met only rows another was just removing ends early; the next run takes what is left.
    total = sum(one.removed for one in runs) + purge().removed
    assert 150 == total == sum(row.removed for row in rows(PurgeRun))
    assert set() == left()


def test_nothing_to_remove_is_success() -> None:
    """An empty inbox, or one without anything old, is purged with 0."""
    assert Purged(0, True, NOW - timedelta(days=90)) == purge()
    put_notifications(updated_at=NOW)
    assert 0 == purge().removed
    assert [0, 0] == [row.removed for row in rows(PurgeRun)]


def put_request(status: str, created_at: datetime) -> UUID:
    id = uuid7()
    with transaction() as session:
        session.add(Request(id=id, fingerprint="0" * 64, status=status, created_at=created_at))
    return id


def test_old_requests_are_forgotten(configure: Configure) -> None:
    """Created ones strictly past REQUEST_RETENTION_DAYS go, in batches; those that wait or failed stay."""
    configure(REQUEST_RETENTION_DAYS=10, PURGE_BATCH=2)
    now = THEN + timedelta(days=10)
    kept = {
        put_request("created", THEN),
        *(put_request(status, THEN - timedelta(1)) for status in ("pending", "failed")),
    }
    for _ in range(5):
        put_request("created", THEN - timedelta(microseconds=1))

    assert 5 == purge_requests(transaction, now=now)
    assert kept == {row.id for row in rows(Request)}
    assert 0 == purge_requests(transaction, now=now)


def test_purging_a_notification_keeps_its_request_known() -> None:
    """A request repeated after its notification was purged is still known, so it is not told a second time."""
    id = put_request("created", NOW)
    put_notifications()
    assert 1 == purge().removed
    assert [id] == [row.id for row in rows(Request)]
