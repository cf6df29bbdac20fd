from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.exc import OperationalError

from tests.rows import ago
from tests.store import NOW, ask, create, rows
from worker import create as creating
from worker import failed, handover, purge, recipients, tasks
from worker.database import transaction
from worker.errors import (
    IdempotencyConflict,
    InvalidContext,
    InvalidRequest,
    PartlyRefused,
    StoreUnavailable,
    UnexpectedError,
    UnknownEvent,
    UnknownRecipient,
)
from worker.failed import Failure
from worker.ids import uuid7
from worker.models import Notification, Request
from worker.settings import get_settings

pytestmark = pytest.mark.usefixtures("catalogue", "engine")

BROKEN = "BROKEN CANARY"


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is handed over: what is due waits for beat."""
    monkeypatch.setattr(handover, "publish", lambda *_, **__: False)


@pytest.fixture
def bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """Creating anything with this title fails by a programming error, whose message holds the title."""
    write = creating.write

    def broken(session: Any, fresh: Any, *arguments: Any, **options: Any) -> None:
        for one in fresh:
            if one.request.title == BROKEN:
                raise LookupError(one.request.title)
        write(session, fresh, *arguments, **options)

    monkeypatch.setattr(creating, "write", broken)


def wire(to: Any = "reader", **fields: Any) -> dict[str, Any]:
    book = {"event_config_name": "book_available", "context": {"title": "Dune"}}
    return {"id": str(uuid7()), "to": to, **({} if "title" in fields else book), **fields}


def letters() -> list[Request]:
    return [row for row in rows(Request) if row.status == "failed"]


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (wire(event_config_name="nothing"), UnknownEvent),
        (wire(context={"CANARY x": 1}), InvalidContext),
        (wire(title="Without a text", nonsense=1), InvalidRequest),
        (wire([]), InvalidRequest),
        ({"id": "CANARY"}, InvalidRequest),
        (["CANARY"], InvalidRequest),
        ("text", InvalidRequest),
    ],
)
def test_a_refused_request_is_kept(request_: Any, error: type[Exception]) -> None:
    """The task fails by name and creates nothing; what was asked stays, once, however often it comes."""
    for _ in range(2):
        with pytest.raises(error):
            tasks.create(request=request_)
    [row] = letters()
    assert (request_ if isinstance(request_, dict) else {"arguments": request_}) == row.payload
    assert (row.error or "").startswith(f"{error.__name__}: ")
    assert "CANARY" not in (row.error or "")
    if isinstance(request_, dict) and len(request_) > 1:
        assert UUID(request_["id"]) == row.request_id
    assert [] == rows(Notification)


def test_what_is_refused_again_was_asked_the_first_time() -> None:
    """Its error is the last one's."""
    request, first = wire({"username": "muaddib"}), ago(days=3)
    for moment, error in ((first, UnknownRecipient("to.0: unknown")), (ago(), InvalidContext("context: wrong"))):
        with transaction() as session:
            failed.keep(session, [Failure(request, error)], now=moment)
    assert [(first, "InvalidContext: context: wrong")] == [(row.created_at, row.error) for row in letters()]


@pytest.mark.parametrize("arguments", [{"requst": {"to": "a"}}, {"request": 1, "more": 2}, {"requests": "a"}, {}])
def test_arguments_that_are_none_are_kept(arguments: dict[str, Any]) -> None:
    """A message that a mistaken producer sent is kept as it came."""
    task = tasks.create_many if "requests" in arguments else tasks.create
    with pytest.raises(InvalidRequest):
        task(**arguments)
    assert [{"arguments": {"args": [], "kwargs": arguments}}] == [row.payload for row in letters()]


@pytest.mark.parametrize(
    ("payload", "kept"),
    [
        ({"title": "a\0b \ud800 c", "x": [float("nan"), float("inf")]}, {"title": "a�b � c", "x": ["nan", "inf"]}),
        ({"title": "x" * failed.MAX_KEPT_BYTES}, None),
    ],
)
def test_what_no_store_can_hold_is_mended_or_dropped(payload: Any, kept: Any) -> None:
    """NUL characters and the like are replaced; what is too large leaves its error alone."""
    with transaction() as session:
        failed.keep(session, [Failure(payload, InvalidRequest("title: too long"), str(uuid7()))], now=NOW)
    [row] = letters()
    assert kept == row.payload
    assert (kept is None) == ("to be kept" in (row.error or ""))


def test_a_deep_message_leaves_its_error() -> None:
    """So deep that walking it would be an error of its own."""
    deep: Any = []
    for _ in range(5_000):
        deep = [deep]
    with transaction() as session:
        failed.keep(session, [Failure(deep, InvalidRequest("to: nested"))], now=NOW)
    assert [None] == [row.payload for row in letters()]


@pytest.mark.usefixtures("bug")
def test_a_programming_error_keeps_the_request(caplog: pytest.LogCaptureFixture) -> None:
    """Its type and place are told, its words are not; the same request is created once the bug is mended."""
    request = wire(title=BROKEN)
    with pytest.raises(UnexpectedError):
        tasks.create(request=request)
    [row] = letters()
    assert request == row.payload
    assert (row.error or "").startswith("UnexpectedError: LookupError at test_failed.py:")
    assert "CANARY" not in (row.error or "") + caplog.text


@pytest.mark.usefixtures("bug")
def test_a_programming_error_takes_no_other_request_with_it() -> None:
    """In a message of many, the others are created, each alone."""
    with pytest.raises(PartlyRefused, match="1 of 3 requests refused"):
        tasks.create_many(requests=[wire("a"), wire("b", title=BROKEN), wire("c")])
    assert {"a", "c"} == {row.recipient_id for row in rows(Notification)}
    assert [BROKEN] == [(row.payload or {})["title"] for row in letters()]


def test_a_conflict_keeps_both() -> None:
    """The other request under the same id, or key, is kept beside the one that was created."""
    asked = wire(idempotency_key="loan-1")
    tasks.create(request=asked)
    for other in ({**asked, "to": "other"}, {**wire("third"), "idempotency_key": "loan-1"}):
        with pytest.raises(IdempotencyConflict):
            tasks.create(request=other)
    assert {"other", "third"} == {(row.payload or {})["to"] for row in letters()}
    assert [None, None] == [row.idempotency_key for row in letters()]


def test_what_failed_may_be_asked_again() -> None:
    """A producer that repeats its request after the mistake was mended is not told that it was asked before."""
    request = wire({"username": "muaddib"})
    with pytest.raises(Exception, match="username"):
        tasks.create(request=request)
    with transaction() as session:
        recipients.upsert(session, [{"id": "paul", "username": "muaddib"}])
    assert 1 == tasks.create(request=request)["notifications"]


def test_a_request_without_an_id_is_known_by_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its message may come again: then it adds nothing."""
    request, id = wire("a"), str(uuid7())
    del request["id"]
    for _ in range(2):
        tasks.create.apply(kwargs={"request": request}, task_id=id)
        tasks.create_many.apply(kwargs={"requests": [request, request]}, task_id=id.replace("7", "8"))
    assert 3 == len(rows(Notification))


def test_while_the_database_is_away_the_task_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeping the request is part of the task: it is tried again as a whole."""

    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("INSERT", {}, Exception("server closed the connection"))

    monkeypatch.setattr(failed, "keep", away)
    with pytest.raises(StoreUnavailable):
        tasks.create(request=wire(event_config_name="nothing"))


def test_failed_requests_outlive_the_others() -> None:
    """They are forgotten after a time of their own; what was asked goes with them."""
    create(ask("reader"), now=ago(days=31))
    for days in (31, 91):
        with transaction() as session:
            failed.keep(session, [Failure(wire(to=str(days)), UnknownEvent())], now=ago(days=days))
    assert 2 == purge.purge_requests(transaction, now=ago())
    assert ["31"] == [(row.payload or {})["to"] for row in rows(Request)]
    assert timedelta(days=90) == timedelta(days=get_settings().failed_retention_days)


def test_erasure_reaches_what_failed() -> None:
    """Whatever form `to` has in it; a message that is no request harms nobody else's erasure."""
    payloads = ["paul", ["paul", "chani"], {"id": "paul"}, {"id": ["paul"]}, [["paul"], 7], None, {"group": "g"}]
    for to in payloads:
        with transaction() as session:
            failed.keep(session, [Failure({"to": to}, InvalidRequest("to: wrong"))], now=NOW)
    with transaction() as session:
        failed.keep(session, [Failure(["paul"], InvalidRequest("request: no object"))], now=NOW)
        assert 3 == recipients.erase(session, "paul", now=NOW)["requests"]
    assert [["chani"]] == [row.payload["to"] for row in letters() if row.payload and "chani" in str(row.payload)]
    assert 2 == len([row for row in rows(Request) if row.status == "cancelled"])
