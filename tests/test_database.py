"""Engines, sessions and migrations, on both stores."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from tests.conftest import ROOT, forget
from tests.servers import PostgresServer, Process
from tests.store import NOW, ask, create, put, rows, undone
from worker import database
from worker.database import VERSION_TABLE, make_engine, transaction, upgrade
from worker.errors import InvalidSettings, SchemaOutdated
from worker.models import Notification, Recipient
from worker.tables import Base

EmptyUrls = Callable[[], str]


@pytest.fixture(params=["postgresql", "sqlite"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmptyUrls]:
    """Makes databases without any table, on each store in turn."""
    made = list[str]()

    def sqlite() -> str:
        made.append(f"empty_{len(made)}")
        return f"sqlite:///{tmp_path / made[-1]}.db"

    if request.param == "sqlite":
        yield sqlite
        return
    server: PostgresServer = request.getfixturevalue("postgres")

    def postgresql() -> str:
        made.append(f"empty_{len(made)}")
        return server.create_database(made[-1])

    yield postgresql
    forget()
    for name in made:
        server.drop_database(name)


@pytest.fixture
def empty(empty_url: EmptyUrls) -> Iterator[Engine]:
    engine = make_engine(empty_url())
    yield engine
    engine.dispose()


def downgrade(engine: Engine) -> None:
    with engine.begin() as connection:
        command.downgrade(database._alembic(connection), "base")


def set_version(engine: Engine, revision: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = :revision"), {"revision": revision})


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def schema(engine: Engine) -> dict[str, Any]:
    """Columns, keys and indexes of every table; of indexes the whole definition, with its condition."""
    if engine.dialect.name == "sqlite":
        indexes = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    else:
        indexes = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    with engine.connect() as connection:
        found: dict[str, Any] = {
            name: sql for name, sql in connection.execute(text(indexes)) if VERSION_TABLE not in name
        }
        about = inspect(connection)
        for table in Base.metadata.tables:
            found[table] = [{**column, "type": repr(column["type"])} for column in about.get_columns(table)]
            found[f"{table} keys"] = [
                about.get_pk_constraint(table),
                about.get_foreign_keys(table),
                about.get_unique_constraints(table),
            ]
    return found


def test_migrations_lead_to_the_models(engine: Engine) -> None:
    """Alembic finds no difference between the migrated schema and the tables in the code."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert [] == compare_metadata(context, Base.metadata)


def test_migrations_make_what_the_models_would(empty_url: EmptyUrls) -> None:
    """Also where Alembic does not look: the conditions of partial indexes, cascades, lengths, the order of columns."""
    migrated, made = engines = [make_engine(empty_url()) for _ in range(2)]
    upgrade(migrated)
    Base.metadata.create_all(made)
    assert schema(made) == schema(migrated)
    for engine in engines:
        engine.dispose()


def test_upgrade_twice_is_harmless(empty: Engine) -> None:
    """The second time nothing changes, and what is in the tables stays."""
    upgrade(empty)
    with Session(empty) as session, session.begin():
        session.add(Recipient(id="paul"))
    before = schema(empty)
    upgrade(empty)
    database.check_schema(empty)
    assert before == schema(empty)
    with Session(empty) as session:
        assert "paul" == session.scalar(select(Recipient.id))


def test_upgrades_at_the_same_time_are_harmless(empty_url: EmptyUrls, tmp_path: Path) -> None:
    """Four processes that start together on an empty database all end well, on one schema."""
    url = empty_url()
    code = "from worker import database; database.upgrade(database.get_engine())"
    processes = [
        Process([sys.executable, "-c", code], tmp_path / f"{number}.log", env={"DATABASE_URL": url}, cwd=ROOT)
        for number in range(4)
    ]
    codes = [(process.wait(60), process.log_text()) for process in processes]
    assert [(0, "")] * 4 == codes
    engine = make_engine(url)
    database.check_schema(engine)
    assert {*Base.metadata.tables, VERSION_TABLE} == tables(engine)
    engine.dispose()


def test_downgrade_and_upgrade_again(empty: Engine) -> None:
    """Down to nothing and back gives the same schema."""
    upgrade(empty)
    before = schema(empty)
    downgrade(empty)
    assert {VERSION_TABLE} == tables(empty)
    upgrade(empty)
    assert before == schema(empty)


def test_an_applications_own_migrations_stay_apart(empty: Engine) -> None:
    """Its Alembic table in the same database is neither used nor touched."""
    with empty.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('theirs')"))
    upgrade(empty)
    downgrade(empty)
    with empty.connect() as connection:
        assert "theirs" == connection.scalar(text("SELECT version_num FROM alembic_version"))


def test_an_unmigrated_database_is_refused(empty: Engine) -> None:
    """The message says what to do."""
    with pytest.raises(SchemaOutdated, match=r"no version.*bellhop init-db"):
        database.check_schema(empty)
    assert set() == tables(empty)


def test_an_older_schema_is_refused(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code with a further migration will not run on today's schema."""
    database.check_schema(engine)
    versions = Path(database.__file__).parent / "migrations" / "versions"
    later = tmp_path / "migrations" / "versions"
    later.mkdir(parents=True)
    for script in versions.glob("*.py"):
        (later / script.name).write_text(script.read_text())
    head = max(versions.glob("[0-9]*.py")).name[:4]
    (later / "9999_later.py").write_text(f'"""later"""\n\nrevision = "9999"\ndown_revision = "{head}"\n')
    monkeypatch.setattr(database, "__file__", str(tmp_path / "database.py"))
    with pytest.raises(SchemaOutdated, match=f"is at {head}, this worker needs 9999"):
        database.check_schema(engine)


def test_a_newer_schema_passes(engine: Engine) -> None:
    """During a rolling update the old code goes on with the new schema."""
    set_version(engine, "9999")
    database.check_schema(engine)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://bellhop:CANARY@localhost/bellhop",
        "oracle://CANARY",
        "CANARY",
        "",
        "postgresql://bellhop:pass@word:CANARY/1@localhost/bellhop",
        "postgresql://localhost:CANARY/bellhop",
        "no-such-database://CANARY",
        "://CANARY",
    ],
)
def test_other_urls_are_refused_without_showing_them(url: str) -> None:
    """A password may stand anywhere in what was meant to be a URL."""
    with pytest.raises(InvalidSettings, match="DATABASE_URL") as caught:
        make_engine(url)
    assert "CANARY" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_a_new_sqlite_file_gets_its_folder(tmp_path: Path) -> None:
    """`bellhop up` in an empty folder needs no preparation; a path that is wrong further up is told, not made."""
    wrong = make_engine(f"sqlite:///{tmp_path}/no/such/bellhop.db")
    with pytest.raises(InvalidSettings, match="DATABASE_URL: there is no folder"):
        upgrade(wrong)
    with pytest.raises(SchemaOutdated, match="there is no file"):
        database.check_schema(wrong)
    assert [] == list(tmp_path.iterdir())
    engine = make_engine(f"sqlite:///{tmp_path}/new/bellhop.db")
    upgrade(engine)
    database.check_schema(engine)
    engine.dispose()


def test_a_transaction_commits_or_rolls_back(engine: Engine) -> None:
    """At its end, or by an error."""
    with transaction() as session:
        session.add(Recipient(id="paul"))
    with undone() as session:
        session.add(Recipient(id="chani"))
        session.flush()
    assert ["paul"] == [row.id for row in rows(Recipient)]


def test_foreign_keys_hold(engine: Engine, catalogue: None) -> None:
    """On SQLite too, where they must be asked for: deleting a notification deletes its deliveries."""
    create(ask({"id": "paul", "email": "paul@example.org"}))
    with transaction() as session:
        session.execute(text("DELETE FROM notifications"))
        assert 0 == session.scalar(text("SELECT count(*) FROM deliveries"))


def test_times_are_aware_and_utc(engine: Engine) -> None:
    """To the microsecond; a naive time is refused by its rule."""
    moment = NOW.replace(microsecond=123456)
    put("paul", moment)
    (row,) = rows(Notification)
    assert (moment, "UTC") == (row.created_at, str(row.created_at.tzinfo))
    with pytest.raises(Exception, match="naive"):
        put("paul", moment.replace(tzinfo=None))


@pytest.mark.parametrize(
    "fail",
    [
        lambda session: session.execute(text("SELECT nothing FROM nowhere WHERE a = :a"), {"a": "CANARY"}),
        lambda session: session.execute(select(Recipient).where(text("nothing = :a")), {"a": "CANARY"}),
        lambda session: session.execute(
            text("INSERT INTO recipients (id, nothing) VALUES (:a, :a)"), [{"a": "CANARY"}, {"a": "CANARY"}]
        ),
    ],
)
def test_statement_errors_hide_their_values(engine: Engine, fail: Callable[[Session], object]) -> None:
    """Whatever a statement was given, its error does not show it."""
    with pytest.raises(DBAPIError) as caught, transaction() as session:
        fail(session)
    assert "CANARY" not in f"{caught.value} {caught.value!r}"


FORKING = """
import json, os
from sqlalchemy import text
from worker import database

def ask(engine):
    with engine.connect() as connection:
        who = "pg_backend_pid()" if engine.dialect.name == "postgresql" else "0"
        return tuple(connection.execute(text(f"SELECT {who}, count(*) FROM recipients")).one())

engine = database.get_engine()
before, read, write = ask(engine), *os.pipe()
child = os.fork()
if child == 0:
    own = database.get_engine()
    again = database.get_engine()
    os.write(write, json.dumps([own is again, own is engine, ask(own)]).encode())
    os._exit(0)
os.close(write)
told = json.loads(os.read(read, 10_000))
os.waitpid(child, 0)
same = database.get_engine() is engine
print(json.dumps({"child": told, "same": same, "before": before, "after": ask(engine)}))
engine.dispose()
"""


def test_a_forked_child_has_an_engine_of_its_own(database_url: str, tmp_path: Path) -> None:
    """It shares no connection with its parent, and leaves the parent's as it was."""
    with Process(
        [sys.executable, "-c", FORKING], tmp_path / "log", env={"DATABASE_URL": database_url}, cwd=ROOT
    ) as run:
        assert 0 == run.wait(60), run.log_text()
        told = json.loads(run.log_text())
    own_twice, is_parents, answer = told["child"]
    assert (True, False, True, told["before"]) == (own_twice, is_parents, told["same"], told["after"])
    assert (0, database_url.startswith("postgresql")) == (answer[1], answer[0] != told["before"][0])


def test_a_connection_that_was_lost_while_it_rested_is_replaced(
    postgres_engine: Engine, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked before it is given out, but not when it was used just now: then its loss is an error, once."""

    def backend() -> int:
        with postgres_engine.connect() as connection:
            return int(connection.scalar(text("SELECT pg_backend_pid()")) or 0)

    def cut() -> int:
        with postgres.connect() as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", [was := backend()])
        return was

    monkeypatch.setattr(database, "FRESH_SECONDS", 3600.0)
    was = cut()
    with pytest.raises(OperationalError):
        backend()
    assert was != backend() == backend()
    monkeypatch.setattr(database, "FRESH_SECONDS", 0.0)
    assert cut() != backend() == backend()
