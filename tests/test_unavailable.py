"""What is said of a database that could not do it: whether it was away, or what else stood in the way."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, text

from worker.database import UNAVAILABLE, make_engine, why_unavailable

AWAY = "the database could not be reached"
IN_THE_WAY = "another transaction was in the way"


@contextmanager
def said() -> Iterator[list[str]]:
    """Collect what is said of the error that ends the block."""
    words: list[str] = []
    with pytest.raises(UNAVAILABLE) as caught:
        yield words
    words.append(why_unavailable(caught.value))


@pytest.fixture
def two(postgres_engine: Engine) -> Iterator[tuple[Connection, Connection]]:
    """Two transactions beside a table of two rows."""
    with postgres_engine.begin() as connection:
        connection.execute(text("CREATE TABLE two AS SELECT generate_series(1, 2) AS n"))
    try:
        with postgres_engine.connect() as one, postgres_engine.connect() as other:
            yield one, other
    finally:
        with postgres_engine.begin() as connection:
            connection.execute(text("DROP TABLE two"))


def change(connection: Connection, n: int) -> Any:
    return connection.execute(text(f"UPDATE two SET n = n WHERE n = {n}"))


def test_a_deadlock(two: tuple[Connection, Connection]) -> None:
    """Two wait for each other: the one that the database ends was not cut off from it."""
    change(two[0], 1), change(two[1], 2)
    with said() as words, ThreadPoolExecutor(1) as pool:
        try:
            waits = pool.submit(change, two[0], 2)
            change(two[1], 1)
        finally:
            two[1].rollback()
        waits.result(20)
    assert [f"{IN_THE_WAY} (DeadlockDetected)"] == words


def test_a_lock_and_a_snapshot(two: tuple[Connection, Connection]) -> None:
    """A lock that is not given in time; a row that changed since a serialisable transaction began."""
    two[0].execute(text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
    two[0].execute(text("SELECT * FROM two"))
    change(two[1], 1)
    two[0].execute(text("SET lock_timeout = '50ms'"))
    with said() as words, two[0].begin_nested():
        change(two[0], 1)
    assert [f"{IN_THE_WAY} (LockNotAvailable)"] == words
    two[1].commit()
    with said() as words:
        change(two[0], 1)
    assert [f"{IN_THE_WAY} (SerializationFailure)"] == words


def test_a_statement_that_takes_too_long(postgres_engine: Engine) -> None:
    """By the limit of the account or the database."""
    with said() as words, postgres_engine.connect() as connection:
        connection.execute(text("SET statement_timeout = '50ms'"))
        connection.execute(text("SELECT pg_sleep(5)"))
    assert ["the database took longer than it is allowed to (QueryCanceled)"] == words


def test_away(postgres_engine: Engine, tmp_path: Path) -> None:
    """Nobody listens, the connection is cut, or a file cannot be opened."""
    with said() as words, make_engine("postgresql://127.0.0.1:1/x").connect():
        pass
    assert [f"{AWAY} (OperationalError)"] == words
    with said() as words, postgres_engine.connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert words[0].startswith(AWAY)
    with said() as words, make_engine(f"sqlite:///{tmp_path / 'no-such-folder' / 'x.db'}").connect():
        pass
    assert [f"{AWAY} (OperationalError)"] == words


def test_no_connection_is_free(tmp_path: Path) -> None:
    """Of the pool's own."""
    pool: dict[str, Any] = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.01}
    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}", **pool)
    with said() as words, engine.connect(), engine.connect():
        pass
    assert ["no connection to the database was free (TimeoutError)"] == words


def test_another_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's whole file is one lock."""
    monkeypatch.setattr("worker.database.SQLITE_BUSY_SECONDS", 0)
    begin: Callable[[], Any] = make_engine(f"sqlite:///{tmp_path / 'x.db'}").begin
    with said() as words, begin(), begin():
        pass
    assert [f"{IN_THE_WAY} (OperationalError)"] == words
