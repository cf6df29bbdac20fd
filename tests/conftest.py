"""Fixtures: private servers, a migrated database per test on both stores, settings of the test's own."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu.transport import memory
from sqlalchemy import Engine

from tests import real_smtp
from tests.catalogue import write_catalogue
from tests.databases import Databases
from tests.kombu_inbox import Connect, connections, emptied
from tests.servers import PostgresServer, RedisTestServer
from worker import database, deliver, events, folders, render, settings
from worker.channels.email import EmailChannel

Configure = Callable[..., None]
ROOT = Path(__file__).parent.parent

_engines: dict[str, Engine] = {}


def pytest_xdist_auto_num_workers() -> int:
    """One more than cores: while a test of whole systems waits for their clocks, another runs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + 1


def pytest_report_header() -> str:
    """Say which programs the tests run against."""
    return real_smtp.report()


def forget() -> None:
    """Drop whatever the process has read or opened, as a new process would."""
    for engine in {*database._engines.values(), *_engines.values()}:
        engine.dispose()
    database._engines.clear()
    for channel in deliver._channels.values():
        if isinstance(channel, EmailChannel):
            channel.close()
    deliver._channels.clear()
    for cached in (
        settings.get_settings,
        events.get_events,
        folders.texts,
        render.nearest_lang,
        render._environment,
        render._template,
        render._parts,
        render._paragraph_tags,
    ):
        cached.cache_clear()


def use(url: str, configure: Configure) -> Engine:
    """Make it the process's database. Engines of databases that come again stay: they know the statements already."""
    configure(DATABASE_URL=url, SIGNAL="off")
    if url.startswith("postgresql"):
        _engines[url] = database._engines[os.getpid()] = _engines.get(url) or database.make_engine(url)
    return database.get_engine()


@pytest.fixture(autouse=True)
def _memory_is_empty() -> Iterator[None]:
    """A broker in memory is the whole process's: what one test leaves in its queues must not reach the next."""
    yield
    memory.Channel.queues.clear()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A private PostgreSQL server for the whole run."""
    with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        engine = database.make_engine(server.create_database("migrated"))
        database.upgrade(engine)
        engine.dispose()
        yield server


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty migrated SQLite file, to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    engine = database.make_engine(f"sqlite:///{path}")
    database.upgrade(engine)
    engine.dispose()
    return path


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Set settings for this test: `configure(DEFAULT_LANG="de")`."""

    def change(**variables: object) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        forget()

    monkeypatch.chdir(ROOT)
    forget()
    yield change
    forget()


@pytest.fixture(scope="session")
def databases(postgres: PostgresServer) -> Databases:
    """Migrated PostgreSQL databases to take and give back."""
    return Databases(postgres)


@pytest.fixture
def new_postgres_url(postgres: PostgresServer, databases: Databases) -> Iterator[Callable[[], str]]:
    """Give migrated, empty PostgreSQL databases of the test's own."""
    names: list[str] = []

    def make() -> str:
        names.append(databases.take())
        return postgres.url_of(names[-1])

    yield make
    forget()
    for name in names:
        databases.give_back(name)


@pytest.fixture(params=["postgresql", "sqlite"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated, empty database of its own, on each store in turn."""
    if request.param == "postgresql":
        make: Callable[[], str] = request.getfixturevalue("new_postgres_url")
        return make()
    return f"sqlite:///{shutil.copy(request.getfixturevalue('migrated_sqlite'), tmp_path / 'test.db')}"


@pytest.fixture
def engine(database_url: str, configure: Callable[..., None]) -> Engine:
    """The process's engine, on the test's own database."""
    return use(database_url, configure)


@pytest.fixture
def catalogue(configure: Callable[..., None], tmp_path: Path) -> None:
    """The tests' own events and templates."""
    configure(**write_catalogue(tmp_path / "catalogue"))


@pytest.fixture
def postgres_engine(new_postgres_url: Callable[[], str], configure: Configure) -> Engine:
    """The process's engine on PostgreSQL, for what SQLite does not have."""
    return use(new_postgres_url(), configure)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisTestServer]:
    """A private Redis for the tests of a file."""
    with RedisTestServer(tmp_path_factory.mktemp("redis"), appendonly=False) as server:
        yield server


@pytest.fixture
def redis(redis_server: RedisTestServer) -> Iterator[Any]:
    """A client of the empty Redis."""
    with emptied(redis_server) as client:
        yield client


@pytest.fixture
def connect(redis_server: RedisTestServer, redis: Any) -> Iterator[Connect]:
    """Connections on either transport."""
    with connections(redis_server) as connect:
        yield connect
