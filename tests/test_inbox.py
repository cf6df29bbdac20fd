"""One recipient's notifications: reading, marking, deleting. What is not theirs, or not now, is absent."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from tests.store import ask, create, listed, put, rows, undone
from worker import inbox
from worker.database import transaction
from worker.inbox import Counts, Page
from worker.models import Delivery, Notification

pytestmark = pytest.mark.usefixtures("engine")

START = datetime(2020, 1, 1, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


def ids(page: Page) -> list[UUID]:
    return [row.id for row in page.items]


def row_of(id: UUID) -> Notification:
    return next(row for row in rows(Notification) if row.id == id)


def test_marking_works_both_ways_and_keeps_the_first_time() -> None:
    """Seen twice is seen at the first time; unseen again is unseen; only a change is a modification."""
    id = put("paul", START)

    def mark(seen: bool) -> tuple[datetime | None, datetime]:
        with transaction() as session:
            row = inbox.mark_seen(session, "paul", id, seen)
        assert row is not None
        assert (row.seen_at, row.updated_at) == (row_of(id).seen_at, row_of(id).updated_at)
        return row.seen_at, row.updated_at

    assert (None, START) == mark(False)
    before = datetime.now(UTC)
    first = mark(True)
    assert first[0] == first[1]
    assert first[1] >= before
    assert first == mark(True)
    unseen = mark(False)
    assert (None, True) == (unseen[0], unseen[1] > first[1])
    assert unseen == mark(False)


def test_marking_is_seen_by_a_session_that_holds_the_row() -> None:
    """An object of the caller's own session tells the new state; an item stays as it was read."""
    id = put("paul", START)
    with transaction() as session:
        row, item = session.get_one(Notification, id), inbox.get(session, "paul", id)
        assert inbox.mark_seen(session, "paul", id) == inbox.get(session, "paul", id) != item
        assert item is not None
        assert (item.seen_at, row.seen_at is None) == (None, False)
        assert 0 == inbox.mark_all_seen(session, "paul")
        assert inbox.counts(session, "paul") == Counts(1, 0)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "abcd"),
        ({"event_config_name": "mention"}, "cd"),
        ({"event_config_name": ["mention", "book_available"]}, "abcd"),
        ({"scope": "arrakis"}, "ac"),
        ({"before": START + 2 * MINUTE}, "ab"),
        ({"before": START}, ""),
        ({"event_config_name": "mention", "scope": "arrakis", "before": START + DAY}, "c"),
        ({"event_config_name": "nothing"}, ""),
    ],
)
def test_mark_all_seen(asked: dict[str, Any], expected: str) -> None:
    """Those it is asked for, and no others; it says how many were unseen before."""
    seen_before = put("paul", START, title="z", event_config_name="mention", scope="arrakis", seen_at=START)
    put("paul", START, title="a", event_config_name="book_available", scope="arrakis")
    put("paul", START + 1 * MINUTE, title="b", event_config_name="book_available")
    put("paul", START + 2 * MINUTE, title="c", event_config_name="mention", scope="arrakis")
    put("paul", START + 3 * MINUTE, title="d", event_config_name="mention")
    put("chani", START, title="x", event_config_name="mention", scope="arrakis")
    with transaction() as session:
        assert len(expected) == inbox.mark_all_seen(session, "paul", **asked)
        assert 0 == inbox.mark_all_seen(session, "paul", **asked)
    seen = [row for row in rows(Notification) if row.seen_at and row.id != seen_before]
    assert expected == "".join(sorted(row.title for row in seen))
    assert all(row.seen_at == row.updated_at for row in seen)
    assert (START, START) == (row_of(seen_before).seen_at, row_of(seen_before).updated_at)


@pytest.mark.usefixtures("catalogue")
def test_a_deleted_notification_takes_its_email_along() -> None:
    """The delivery goes with it; the second time there is nothing, which is no error."""
    create(*(ask({"id": who, "email": f"{who}@example.org"}) for who in ("paul", "chani")), now=START)
    (id,) = ids(listed())
    with transaction() as session:
        assert [True, False] == [inbox.delete(session, "paul", id) for _ in range(2)]
    assert (["chani"], ["chani@example.org"]) == (
        [row.recipient_id for row in rows(Notification)],
        [row.address for row in rows(Delivery)],
    )


def test_delete_seen() -> None:
    """The seen ones, strictly older than the cutoff where one is given; by their last change, not their beginning."""
    put("paul", START, title="unseen")
    put("paul", START, title="long ago", seen_at=START, updated_at=START + DAY - MINUTE)
    put("paul", START, title="at the cutoff", seen_at=START, updated_at=START + DAY)
    put("paul", START, title="lately", seen_at=START, updated_at=START + 2 * DAY)
    put("chani", START, title="hers", seen_at=START)
    with transaction() as session:
        assert [0, 1, 0] == [
            inbox.delete_seen(session, "paul", older_than=cutoff) for cutoff in (START, START + DAY, START + DAY)
        ]
        assert [2, 0] == [inbox.delete_seen(session, "paul") for _ in range(2)]
    assert {"unseen", "hers"} == {row.title for row in rows(Notification)}


def test_counts_and_event_types() -> None:
    """The whole inbox, and what is unseen of it; the names of its events, each once, in order."""
    for name, seen_at in (
        ("quiet", None),
        ("mention", START),
        ("mention", START),
        ("book_available", None),
        (None, None),
    ):
        put("paul", START, event_config_name=name, seen_at=seen_at)
    put("chani", START, event_config_name="password_reset")
    with transaction() as session:
        assert (Counts(5, 3), Counts(0, 0)) == (inbox.counts(session, "paul"), inbox.counts(session, "nobody"))
        assert ["book_available", "mention", "quiet"] == inbox.event_types(session, "paul")
        assert ["mention"] == inbox.event_types(session, "paul", seen=True)
        assert ["book_available", "quiet"] == inbox.event_types(session, "paul", seen=False)
        assert [] == inbox.event_types(session, "nobody")


EVERY: dict[str, tuple[Callable[[Session, str, UUID], Any], Any]] = {
    "list": (lambda session, who, id: inbox.list(session, who).items, []),
    "list page": (lambda session, who, id: inbox.list(session, who, page=1).total, 0),
    "get": (lambda session, who, id: inbox.get(session, who, id), None),
    "counts": (lambda session, who, id: inbox.counts(session, who), Counts(0, 0)),
    "mark seen": (lambda session, who, id: inbox.mark_seen(session, who, id), None),
    "mark unseen": (lambda session, who, id: inbox.mark_seen(session, who, id, seen=False), None),
    "mark all": (lambda session, who, id: inbox.mark_all_seen(session, who), 0),
    "delete": (lambda session, who, id: inbox.delete(session, who, id), False),
    "delete seen": (lambda session, who, id: inbox.delete_seen(session, who), 0),
    "event types": (lambda session, who, id: inbox.event_types(session, who), []),
}


@pytest.mark.parametrize("why", ["another's", "not yet", "no more", "another id"])
def test_what_is_not_there_for_them_looks_absent(why: str) -> None:
    """Another recipient's row, a scheduled one and an expired one look absent to every function, and stay untouched."""
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "another's": {"created_at": START},
        "not yet": {"created_at": now + DAY},
        "no more": {"created_at": START, "expire_at": now - MINUTE},
        "another id": {"created_at": START},
    }[why]
    owner = "chani" if why.startswith("another") else "paul"
    told: dict[str, Any] = {"event_config_name": "mention", "updated_at": START, **values}
    ids = {put(owner, **told, seen_at=seen_at): seen_at for seen_at in (None, START)}
    for name, (call, expected) in EVERY.items():
        for id in ids:
            with transaction() as session:
                assert expected == call(session, "paul", uuid4() if why == "another id" else id), name
        assert ids == {row.id: row.seen_at for row in rows(Notification) if row.updated_at == START}, name


def test_what_is_there_for_them_is_found_by_each() -> None:
    """The same calls, on rows of their own that have come and not yet expired, give something."""
    for name, (call, absent) in EVERY.items():
        seen_at = START if name in ("delete seen", "mark unseen") else None
        expire_at = datetime.now(UTC) + DAY
        id = put("paul", START, event_config_name="mention", expire_at=expire_at, seen_at=seen_at)
        with undone() as session:
            assert absent != call(session, "paul", id), name
        with transaction() as session:
            assert inbox.delete(session, "paul", id)


def test_reading_changes_nothing() -> None:
    """Not even `seen`: a transaction that may only read is enough."""
    id = put("paul", START)
    with transaction() as session:
        postgresql = session.get_bind().dialect.name == "postgresql"
        session.execute(text("SET TRANSACTION READ ONLY" if postgresql else "PRAGMA query_only = ON"))
        for name in ("list", "list page", "get", "counts", "event types"):
            EVERY[name][0](session, "paul", id)
        if not postgresql:
            session.execute(text("PRAGMA query_only = OFF"))  # of the connection, not of the transaction
    assert (None, START) == (row_of(id).seen_at, row_of(id).updated_at)


def test_the_commit_is_the_callers(engine: Engine) -> None:
    """What a caller rolls back did not happen."""
    id = put("paul", START)
    with Session(engine) as session:
        inbox.mark_seen(session, "paul", id)
        inbox.delete(session, "paul", id)
        session.rollback()
        assert session.scalar(select(Notification.seen_at).where(Notification.id == id)) is None
    assert 1 == len(rows(Notification))


def test_json_forms() -> None:
    """Text for ids, full UTC timestamps, null where nothing is; a page with all that is known of it."""
    parent = uuid4()
    id = put("paul", START, parent_id=parent, context={"title": "Dune"}, seen_at=START + MINUTE)
    page = inbox.page_as_dict(listed(page=1))
    assert json.loads(json.dumps(page)) == page
    (item,) = page.pop("items")
    assert {"next_cursor": None, "has_next": False, "has_prev": False} == {key: page.pop(key) for key in [*page][:3]}
    assert {"page": 1, "pages": 1, "offset": 0, "per_page": 10, "total": 1} == page
    assert {*Notification.__table__.columns.keys(), "seen"} == set(item)
    assert (str(id), str(parent), {"title": "Dune"}, None) == (
        item["id"],
        item["parent_id"],
        item["context"],
        item["link"],
    )
    assert ("2020-01-01T12:00:00Z", "2020-01-01T12:01:00Z") == (item["created_at"], item["seen_at"])
