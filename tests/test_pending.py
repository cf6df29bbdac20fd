"""Requests that wait as rows: the durable way in."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from tests.store import LATER, NOW, ask, by_recipient, create, enqueue, filled, put, rows, take, together, undone, waits
from worker import pending, waiting
from worker.database import get_engine, transaction
from worker.errors import IdempotencyConflict
from worker.ids import uuid7
from worker.models import Notification, Request
from worker.request import NotificationRequest


@pytest.fixture(autouse=True)
def _store(catalogue: None, engine: Engine) -> None:
    """The tests' own events, and an empty database."""


def put_raw(payload: dict[str, Any]) -> None:
    """A waiting request as another version of this product might have written it."""
    with transaction() as session:
        row = Request(id=uuid7(), fingerprint="-", status="pending", payload=payload, bulk=False, created_at=NOW)
        session.add(row)


def test_an_enqueued_request_waits_until_it_is_created() -> None:
    """Written with what was asked; creating it writes the rest, marks it and empties the payload."""
    request = ask({"id": "paul", "email": "paul@example.org"})
    enqueue(request)
    (row,) = rows(Request)
    assert ("pending", request.to_wire(), False, NOW) == (row.status, row.payload, row.bulk, row.created_at)
    assert ((True, False), []) == (waits(), rows(Notification))
    taken, done = take()
    assert (1, 1, 1, {}) == (taken, done.notifications, sum(map(len, done.due.values())), done.refused)
    (row,) = rows(Request)
    assert ("created", None, None) == (row.status, row.payload, row.error)
    assert (LATER, (False, False)) == (by_recipient()["paul"].created_at, waits())
    assert (0, 0) == ((again := take())[0], again[1].notifications)


def test_a_rollback_asks_nothing_and_wakes_nobody() -> None:
    """The request lives and dies with the caller's transaction."""
    woken: list[str] = []
    with undone() as session:
        pending.enqueue_durably(session, [ask("paul")], lambda: woken.append("now"))
    assert (set(), []) == (filled(), woken)


def test_the_wake_up_comes_after_the_commit_and_once() -> None:
    """At that moment another session sees the request; later commits of the session wake nobody."""
    seen: list[tuple[bool, bool]] = []
    with Session(get_engine()) as session:
        with session.begin():
            pending.enqueue_durably(session, [ask("paul")], lambda: seen.append(waits()))
            session.flush()
            assert [] == seen
        with session.begin():
            assert 1 == len(session.scalars(select(Request)).all())
    assert [(True, False)] == seen


def test_a_savepoint_that_is_rolled_back_takes_its_request_along() -> None:
    """What was enqueued outside of it is asked; the end of a savepoint is not yet the commit."""
    woken: list[str] = []
    with transaction() as session:
        pending.enqueue_durably(session, [ask("paul")], lambda: woken.append("now"))
        savepoint = session.begin_nested()
        pending.enqueue_durably(session, [ask("chani")], lambda: woken.append("now"))
        savepoint.rollback()
        with session.begin_nested():
            pending.enqueue_durably(session, [ask("stilgar")], lambda: woken.append("now"))
        assert [] == woken
    assert ["now"] == woken
    take()
    assert {"paul", "stilgar"} == set(by_recipient())


def test_a_failed_wake_up_does_not_disturb_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    """The broker is away: the commit stands, the log says so without a value, the request waits."""

    def fail() -> None:
        raise ConnectionError("CANARY")

    with transaction() as session:
        pending.enqueue_durably(session, [ask("paul")], fail)
    assert "ConnectionError" in caplog.text
    assert "CANARY" not in caplog.text
    assert (True, False) == waits()


def test_enqueued_twice_is_created_once() -> None:
    """The same request again adds nothing, before its creation and after it, and by whichever way in."""
    request = ask("paul")
    enqueue(request, request)
    take()
    enqueue(request)
    assert (0, 1) == (take()[0], create(request).repeated)
    assert 1 == len(rows(Notification))


@pytest.mark.parametrize("created_first", [True, False])
def test_enqueueing_something_else_under_the_same_name_is_a_conflict(created_first: bool) -> None:
    """Same id or same key with other content; the caller's transaction is still good."""
    request = ask("paul", idempotency_key="loan-1")
    enqueue(request)
    if created_first:
        take()
    with transaction() as session:
        for other in (
            NotificationRequest.parse({**request.to_wire(), "context": {"title": "Emma"}}),
            ask("paul", idempotency_key="loan-1", context={"title": "Emma"}),
        ):
            with pytest.raises(IdempotencyConflict):
                pending.enqueue(session, other, now=NOW)
        pending.enqueue(session, ask("chani"), now=NOW)
    take()
    assert {"paul": "Dune is here", "chani": "Dune is here"} == {who: row.title for who, row in by_recipient().items()}


def test_the_oldest_are_taken_first_up_to_the_limit() -> None:
    """In the order in which they were asked."""
    with transaction() as session:
        for minute in (2, 4, 6, 1, 3, 5):
            pending.enqueue(session, ask(f"r{minute}"), now=NOW + timedelta(minutes=minute))
    assert (3, {"r1", "r2", "r3"}) == (take(3)[0], set(by_recipient()))
    assert (3, 6) == (take(4)[0], len(by_recipient()))


def test_a_wrong_one_fails_alone_and_says_why() -> None:
    """It stays with its error's name and what was asked, for the operator; the others are created."""
    wrong = {
        "UnknownEvent": ask("paul", "nothing", context={}),
        "InvalidContext": ask("paul", context={"CANARY x": "CANARY"}),
        "UnknownRecipient": ask({"username": "CANARY"}),
        "EmptyGroup": ask({"group": "CANARY"}),
        "InvalidTimezone": ask({"id": "paul", "timezone": "Mars/CANARY"}),
    }
    enqueue(*wrong.values(), ask("chani"))
    taken, done = take()
    assert (6, {one.id for one in wrong.values()}) == (taken, set(done.refused))
    failed = {row.id: row for row in rows(Request) if row.status == "failed"}
    assert {one.id: name for name, one in wrong.items()} == {
        id: (row.error or "").partition(":")[0] for id, row in failed.items()
    }
    assert "CANARY" not in "".join(row.error or "" for row in failed.values())
    assert {one.id: one.to_wire() for one in wrong.values()} == {id: row.payload for id, row in failed.items()}
    assert (["chani"], (False, False)) == (list(by_recipient()), waits())


@pytest.mark.parametrize("payload", [{"to": "paul", "title": "Hi", "CANARY": 1}, {"CANARY": "paul"}])
def test_a_row_that_is_no_request_does_not_stop_the_others(payload: dict[str, Any]) -> None:
    """Such as one with a field of a later version: it fails, with its error, and the queue goes on."""
    put_raw(payload)
    enqueue(ask("chani"))
    assert 2 == take()[0]
    assert ["chani"] == list(by_recipient())
    (failed,) = [row for row in rows(Request) if row.status == "failed"]
    assert ("InvalidRequest", payload) == ((failed.error or "").partition(":")[0], failed.payload)


def test_two_takers_at_the_same_time_never_both_create() -> None:
    """While one has taken requests and not yet committed, another gets none of them."""
    requests = [ask(f"r{n}") for n in range(20)]
    enqueue(*requests)
    done = together(*[lambda: take(10)] * 4)
    assert 20 == sum(taken for taken, _ in done) == sum(created.notifications for _, created in done)
    assert {f"r{n}" for n in range(20)} == set(by_recipient())
    assert {"created"} == {row.status for row in rows(Request)}


def test_a_taker_that_dies_gives_its_requests_back() -> None:
    """The creation is rolled back: the request waits as before."""
    enqueue(ask("paul"))
    with undone() as session:
        assert 1 == pending.create_pending(session, now=LATER, limit=10)[0]
    assert ((True, False), []) == (waits(), rows(Notification))
    take()
    assert ["paul"] == list(by_recipient())


def test_nothing_waits_in_an_empty_store() -> None:
    """Taking nothing is no error."""
    put("paul", NOW)
    assert ((False, False), 0, 0) == (waits(), take()[0], take(bulk=True)[0])


def test_one_take_holds_no_more_than_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """But always one; and it says whether there may be more, or its task would leave them to beat."""
    for number in range(3):
        enqueue(ask(f"reader-{number}"))
    assert taken(limit=9) == (3, False)
    assert taken(limit=3) == (3, True)
    monkeypatch.setattr(waiting, "MOST_BYTES", 1)
    assert taken(limit=9) == (1, True)


def taken(limit: int) -> tuple[int, bool]:
    with undone() as session:
        found, more = waiting.take(session, limit, bulk=False)
    return len(found), more
