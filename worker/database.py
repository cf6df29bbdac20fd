"""Engine and sessions, built on first use in each process; migrations run from here."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any, Protocol

import psycopg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from worker.errors import InvalidSettings, SchemaOutdated
from worker.settings import get_settings

#: Not Alembic's default, so that an application's own migrations can live in the same database.
VERSION_TABLE = "bellhop_version"

#: What the driver, or the pool, raises where the database cannot be reached, or cannot do it now.
UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeout)

#: What that was, by the beginning of PostgreSQL's error code, where it did answer.
_WHY = {
    "40": "another transaction was in the way",
    "55P03": "another transaction was in the way",
    "53": "the database is out of space, memory or connections",
    "57014": "the database took longer than it is allowed to",
}

#: Seconds that SQLite waits for another process's write.
SQLITE_BUSY_SECONDS = 30


#: Seconds for which a connection to PostgreSQL counts as alive without being asked.
FRESH_SECONDS = 1.0

_USED = "bellhop_used"

#: Seconds after which a process looks at the database's clock again.
CLOCK_EVERY = 10


def why_unavailable(error: Exception) -> str:
    """What one of `UNAVAILABLE` means, with its type; none of its own words, which could hold values."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig else error
    state = getattr(original, "sqlstate", None) or ""
    words = next((words for code, words in _WHY.items() if state.startswith(code)), "the database could not be reached")
    if isinstance(error, PoolTimeout):
        words = "no connection to the database was free"
    elif getattr(original, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        words = _WHY["40"]
    return f"{words} ({type(original).__name__})"


class Transaction(Protocol):
    """Opens a session that commits at its end; `transaction` below is one."""

    def __call__(self) -> AbstractContextManager[Session]:
        """Begin."""
        ...


_engines: dict[int, Engine] = {}
_clock_lock = Lock()
_clock: tuple[float, datetime] | None = None
"""When we last asked PostgreSQL for the time, by the monotonic clock, and what it said."""


def utcnow() -> datetime:
    """The present moment, aware: of all that share a database by its clock, so that leases mean the same to all.

    PostgreSQL is asked every `CLOCK_EVERY` seconds, in between the monotonic clock counts; while it cannot be
    reached, too. With SQLite all are on one machine, whose clock it is.
    """
    global _clock
    if get_engine().dialect.name == "sqlite":
        return datetime.now(UTC)
    with _clock_lock:
        if _clock is None or monotonic() - _clock[0] >= CLOCK_EVERY:
            _clock = _ask_the_time(_clock)
        asked, answer = _clock
    return answer + timedelta(seconds=monotonic() - asked)


def _ask_the_time(before: tuple[float, datetime] | None) -> tuple[float, datetime]:
    try:
        with closing(get_engine().raw_connection()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute("SELECT clock_timestamp()")
            [(answer,)] = cursor.fetchall()
    except (*UNAVAILABLE, psycopg.Error):
        now = monotonic()
        return (now, before[1] + timedelta(seconds=now - before[0])) if before else (now, datetime.now(UTC))
    # Rather a little behind than ahead: what is created now is visible at once.
    return monotonic(), answer.astimezone(UTC)


def make_engine(url: str) -> Engine:
    """An engine for PostgreSQL (psycopg 3) or SQLite; statement values never reach logs or errors.

    Raises InvalidSettings for any other database.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise InvalidSettings("DATABASE_URL: not a database URL") from None
    if parsed.get_backend_name() == "postgresql":
        engine = create_engine(parsed.set(drivername="postgresql+psycopg"), hide_parameters=True)
        event.listen(engine, "checkin", _note_use)
        event.listen(engine, "checkout", _refuse_dead)
        return engine
    if parsed.get_backend_name() != "sqlite":
        raise InvalidSettings("DATABASE_URL: postgresql:// or sqlite:/// only")
    engine = create_engine(parsed, hide_parameters=True, connect_args={"timeout": SQLITE_BUSY_SECONDS})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _note_use(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info[_USED] = monotonic()


def _refuse_dead(connection: psycopg.Connection, record: ConnectionPoolEntry, _proxy: Any) -> None:
    """As SQLAlchemy's pre-ping, but not for a connection that was used just now: it costs a round trip."""
    if monotonic() - record.info.get(_USED, monotonic()) < FRESH_SECONDS:
        return
    try:
        connection.autocommit = True
        connection.execute(";")
        connection.autocommit = False
    except psycopg.Error as error:
        raise InvalidatePoolError("the connection was lost") from error


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # this module begins transactions itself, see _begin_sqlite
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that reads and then writes fails at once when another process wrote in between;
    # an immediate one waits its turn.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def get_engine() -> Engine:
    """This process's engine. A forked child builds its own: connections are not shared."""
    pid = os.getpid()
    if pid not in _engines:
        _engines.clear()
        _engines[pid] = make_engine(get_settings().database_url.get_secret_value())
    return _engines[pid]


@contextmanager
def transaction() -> Iterator[Session]:
    """A session whose work is committed at the end, or rolled back by an error."""
    with Session(get_engine(), expire_on_commit=False) as session, session.begin():
        yield session


def _alembic(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def _file_of(engine: Engine) -> Path | None:
    name = engine.url.database if engine.dialect.name == "sqlite" else None
    return None if name in (None, "", ":memory:") else Path(str(name))


def upgrade(engine: Engine) -> None:
    """Migrate the schema up to this version's; harmless when it is there, or when another process does the same."""
    if (file := _file_of(engine)) is not None:
        if not file.parent.parent.is_dir():
            raise InvalidSettings(f"DATABASE_URL: there is no folder {file.parent.parent}")
        file.parent.mkdir(exist_ok=True)
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('bellhop migrations'))")
        command.upgrade(_alembic(connection), "head")


def head() -> str:
    """The schema's version that this code needs."""
    return str(ScriptDirectory.from_config(_alembic()).get_current_head())


def check_schema(engine: Engine) -> None:
    """Raise SchemaOutdated if the schema is older than this code needs. A newer one (a rolling update) passes."""
    if (file := _file_of(engine)) is not None and not file.exists():
        raise SchemaOutdated(
            f"the database schema is at no version: there is no file {file}; see DATABASE_URL, or run `bellhop init-db`"
        )
    scripts = ScriptDirectory.from_config(_alembic())
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        current = context.get_current_revision()
    known = {script.revision for script in scripts.walk_revisions()}
    if current is None or (current in known and current != scripts.get_current_head()):
        raise SchemaOutdated(
            f"the database schema is at {current or 'no version'}, this worker needs "
            f"{scripts.get_current_head()}; run `bellhop init-db`"
        )
