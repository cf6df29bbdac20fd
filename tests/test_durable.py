"""A durable request is part of the caller's transaction, however that session is used."""

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from tests.store import counted
from worker import pending
from worker.errors import IdempotencyConflict
from worker.models import Recipient, Request
from worker.request import NotificationRequest


def ask(session: Session, *titles: str, **fields: str) -> None:
    """Each by a call of its own."""
    for title in titles:
        asked = NotificationRequest.parse({"to": "paul", "title": title, **fields})
        pending.enqueue_durably(session, [asked], lambda: None)


def asked(session: Session) -> list[str]:
    """The titles of what waits, as this session sees it; in alphabetical order."""
    return sorted(payload["title"] for payload in session.scalars(select(Request.payload)) if payload)


def kept(engine: Engine) -> list[str]:
    """As everybody sees it."""
    with Session(engine) as session:
        return asked(session)


def test_many_calls_are_written_in_one_statement(engine: Engine) -> None:
    """And an application's own objects with them."""
    titles = [f"title {number:03}" for number in range(200)]
    with Session(engine) as session:
        with counted() as statements, session.begin():
            session.add(Recipient(id="paul"))
            ask(session, *titles)
        assert len(statements) <= 4
        with session.begin():
            ask(session, "another")
    assert kept(engine) == ["another", *titles]


def test_the_transaction_itself_sees_them(engine: Engine) -> None:
    """A query comes after what was asked before it."""
    with Session(engine) as session, session.begin():
        ask(session, "first")
        assert asked(session) == ["first"]
        ask(session, "second")
        assert asked(session) == ["first", "second"]


def test_without_autoflush_they_are_written_at_the_end(engine: Engine) -> None:
    with Session(engine, autoflush=False) as session, session.begin():
        ask(session, "first")
        assert asked(session) == []
    assert kept(engine) == ["first"]


def test_a_savepoint_takes_back_its_own_and_no_others(engine: Engine) -> None:
    """What was asked before it, after it, and in one that was released, stays."""
    with Session(engine) as session, session.begin():
        ask(session, "before")
        nested = session.begin_nested()
        ask(session, "within")
        nested.rollback()
        with session.begin_nested():
            ask(session, "released")
        ask(session, "after")
    assert kept(engine) == ["after", "before", "released"]


def test_a_rollback_leaves_nothing_for_the_next_transaction(engine: Engine) -> None:
    with Session(engine) as session:
        ask(session, "never")
        session.rollback()
        ask(session, "asked")
        session.commit()
    assert kept(engine) == ["asked"]


def test_on_a_connection_they_are_written_at_once(engine: Engine) -> None:
    """Its transaction may be committed without the session."""
    with engine.begin() as connection, Session(connection) as session:
        ask(session, "first")
    assert kept(engine) == ["first"]


def test_a_conflict_is_raised_by_the_call(engine: Engine) -> None:
    """The caller can go on, and what was asked before is kept."""
    with Session(engine) as session, session.begin():
        ask(session, "before")
        ask(session, "first", idempotency_key="k1")
        with pytest.raises(IdempotencyConflict):
            ask(session, "other", idempotency_key="k1")
        ask(session, "first", idempotency_key="k1")
    assert kept(engine) == ["before", "first"]
