"""Requests that kill the process which creates them, in real processes; and batches that break."""

import os
import signal
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from tests import deadly
from tests.catalogue import write_catalogue
from tests.store import NOW, ask, by_recipient, enqueue, rows
from worker import create as creating
from worker import intake, pending, under_way, waiting
from worker.create import Created
from worker.database import transaction
from worker.errors import Poisoned
from worker.models import Request, UnderWay
from worker.request import NotificationRequest

Configure = Callable[..., None]

# From Python 3.12 on: there are other threads, such as those of the test runner. The child touches none of theirs.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


class OutOfTime(Exception):
    """What Celery's time limit is to the real task."""


@pytest.fixture(autouse=True)
def store(engine: Engine, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either store with a catalogue in which `fragile` may kill; SQLite's patience with a live worker cut short."""
    settings = write_catalogue(tmp_path / "catalogue")
    deadly.add_event(tmp_path / "catalogue")
    configure(**settings, DATABASE_URL=engine.url.render_as_string(hide_password=False), SIGNAL="off", POISON_TRIES=2)
    monkeypatch.setattr(under_way, "SQLITE_BUSY_SECONDS", 0)


def fragile(to: str, title: str) -> NotificationRequest:
    return ask(to, "fragile", context={"title": title})


def take(limit: int = 100) -> int:
    """One wake-up's work; gives how many were taken."""
    return sum(count for count, *_ in intake.take_waiting(transaction, limit=limit, bulk=False, ends=(OutOfTime,)))


def message(asked: Sequence[NotificationRequest], *, redelivered: bool = True) -> Created:
    def create(session: Session, some: Sequence[NotificationRequest]) -> Created:
        return creating.create(session, some, now=NOW)

    return intake.take_messages(transaction, create, asked, redelivered=redelivered, ends=(OutOfTime,))


def dies(work: Callable[[], Any]) -> bool:
    """Do it in a child of this process; tells whether that was killed on the way."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def failed() -> dict[str, str]:
    return {
        (row.payload or {})["to"][0]: (row.error or "").partition(":")[0]
        for row in rows(Request)
        if row.status == "failed"
    }


def test_waiting_requests_that_kill_are_stopped() -> None:
    """After two deaths each they are failed, with what was asked; all others are created, once, meanwhile."""
    others = [ask(f"r{n}") for n in range(4)]
    enqueue(others[0], fragile("one", deadly.POISON), others[1], fragile("two", deadly.POISON), others[2])
    assert dies(take)
    enqueue(others[3])
    assert [True, True] == [dies(take) for _ in range(2)]
    assert "r3" in by_recipient(), "what was asked later does not wait for them"
    assert not dies(take)
    assert {"one": Poisoned.__name__, "two": Poisoned.__name__} == failed()
    assert {f"r{n}" for n in range(4)} == set(by_recipient())
    assert ([], (False, False)) == (rows(UnderWay), _waits())


def _waits() -> tuple[bool, bool]:
    with transaction() as session:
        return waiting.has_pending(session, bulk=False), waiting.has_pending(session, bulk=True)


def test_a_message_that_kills_is_stopped() -> None:
    """The first death is known by the redelivery, the second by its line; the others beside it are created."""
    asked = [ask("a"), fragile("poison", deadly.POISON), ask("b")]
    assert dies(lambda: message(asked, redelivered=False))
    assert dies(lambda: message(asked))
    assert [asked[1].id] == list(message(asked).refused)
    assert {"a", "b"} == set(by_recipient())
    assert [] == rows(UnderWay)


def test_a_redelivered_message_that_lives_leaves_nothing() -> None:
    """Most redelivered messages are those of a worker that was merely killed."""
    assert 2 == message([ask("a"), ask("b")]).notifications
    assert [] == rows(UnderWay)


def test_a_worker_that_lives_is_no_death(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the database fails in a batch, and in how many workers, nothing is given up for it."""
    enqueue(ask("a"), ask("b"))
    away = OperationalError("SELECT", {}, Exception("server closed the connection"))
    with monkeypatch.context() as patch:
        patch.setattr(pending, "create_taken", _raises(away))
        for _ in range(4):
            with pytest.raises(OperationalError):
                take()
            under_way._survived.clear()  # the next one is another process
    with monkeypatch.context() as patch:
        patch.setattr(creating, "write", _raises(away))
        for _ in range(4):
            with pytest.raises(OperationalError):
                message([ask("c")])
            under_way._survived.clear()
    assert 2 == take()
    assert ({"a", "b"}, {}) == (set(by_recipient()), failed())
    assert [] == rows(UnderWay)


def _raises(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def test_one_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit leaves the worker alive, yet it counts: else the batch would begin anew for ever."""
    write = creating.write

    def slow(session: Session, fresh: Any, *arguments: Any, **options: Any) -> None:
        if any(one.request.to[0].id == "endless" for one in fresh):
            raise OutOfTime
        write(session, fresh, *arguments, **options)

    monkeypatch.setattr(creating, "write", slow)
    enqueue(ask("a"), ask("endless"), ask("b"))
    for _ in range(2):
        with pytest.raises(OutOfTime):
            take()
    take()
    assert ({"a", "b"}, {"endless": "Poisoned"}) == (set(by_recipient()), failed())


def test_a_programming_error_fails_one_waiting_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is created one by one; the one that broke it is failed, by the error's type and place."""
    write = creating.write

    def broken(session: Session, fresh: Any, *arguments: Any, **options: Any) -> None:
        if any(one.request.to[0].id == "CANARY" for one in fresh):
            raise LookupError("CANARY")
        write(session, fresh, *arguments, **options)

    monkeypatch.setattr(creating, "write", broken)
    enqueue(ask("a"), ask("CANARY"), ask("b"))
    take()
    assert ({"a", "b"}, {"CANARY": "UnexpectedError"}) == (set(by_recipient()), failed())
    assert "CANARY" not in "".join(row.error or "" for row in rows(Request))


def test_an_ordinary_batch_leaves_nothing() -> None:
    """Its line is gone with its commit."""
    enqueue(*(ask(f"r{n}") for n in range(5)))
    assert (3, 2, 0) == (take(3), take(3), take(3))
    assert ([], 5) == (rows(UnderWay), len(by_recipient()))
