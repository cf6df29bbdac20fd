"""Fixtures: private servers, a migrated database per test on both stores, settings of the test's own."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.catalogue import write_catalogue
from tests.servers import PostgresServer
from worker import database, deliver, events, render, settings
from worker.channels.email import EmailChannel

Configure = Callable[..., None]
ROOT = Path(__file__).parent.parent


def forget() -> None:
    """Drop whatever the process has read or opened, as a new process would."""
    for engine in database._engines.values():
        engine.dispose()
    database._engines.clear()
    for channel in deliver._channels.values():
        if isinstance(channel, EmailChannel):
            channel.close()
    deliver._channels.clear()
    for cached in (
        settings.get_settings,
        events.get_events,
        render.nearest_lang,
        render._environment,
        render._template,
        render._paragraph_tags,
    ):
        cached.cache_clear()


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


@pytest.fixture
def new_postgres_url(postgres: PostgresServer) -> Iterator[Callable[[], str]]:
    """Make migrated PostgreSQL databases, dropped after the test."""
    names: list[str] = []

    def make() -> str:
        names.append(f"test_{len(names)}")
        return postgres.create_database(names[-1], template="migrated")

    yield make
    forget()
    for name in names:
        postgres.drop_database(name)


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
    configure(DATABASE_URL=database_url, SIGNAL="off")
    return database.get_engine()


@pytest.fixture
def catalogue(configure: Callable[..., None], tmp_path: Path) -> None:
    """The tests' own events and templates."""
    configure(**write_catalogue(tmp_path / "catalogue"))


@pytest.fixture
def postgres_engine(new_postgres_url: Callable[[], str], configure: Configure) -> Engine:
    """The process's engine on PostgreSQL, for what SQLite does not have."""
    configure(DATABASE_URL=new_postgres_url(), SIGNAL="off")
    return database.get_engine()
