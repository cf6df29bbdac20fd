import json
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import inspect

from tests.rows import THEN, ago, put_notifications
from tests.servers import RedisTestServer, free_port
from tests.store import rows
from worker import database
from worker.cli import cli
from worker.models import Notification, PurgeRun

Configure = Callable[..., None]

ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> Result:
    """The command in this process; an error passes through."""
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def bellhop(*arguments: str, **settings: str) -> tuple[int, str, str]:
    """The command as its own process: exit code, output, errors."""
    command = [sys.executable, "-m", "worker.cli", *arguments]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def store(catalogue: None, engine: None) -> None:
    """The test's own catalogue and database."""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisTestServer]:
    with RedisTestServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


def test_init_db_makes_the_tables(tmp_path: Path, configure: Configure) -> None:
    """On an empty database, and again without harm; a folder that is missing is made."""
    path = tmp_path / "new" / "bellhop.db"
    configure(DATABASE_URL=f"sqlite:///{path}")
    assert ["is at version" in run("init-db").output for _ in range(2)] == [True, True]
    database.check_schema(database.get_engine())
    assert {"notifications", "deliveries"} <= set(inspect(database.get_engine()).get_table_names())


def test_init_db_hides_the_password(postgres: object, new_postgres_url: Callable[[], str]) -> None:
    """It says which database it means, without the secret in its URL."""
    url = new_postgres_url().replace("postgres@", "postgres:secret-password@")
    code, output, errors = bellhop("init-db", DATABASE_URL=url)
    assert (0, "") == (code, errors)
    assert "***" in output
    assert "secret-password" not in output


@pytest.mark.usefixtures("catalogue")
def test_send_enqueues_and_prints_the_id(redis: RedisTestServer, configure: Configure) -> None:
    """The request lies in the broker as given, under the id that was printed."""
    configure(BROKER_URL=redis.url)
    options = ["--to", "a", "--to", "b", "--lang", "de", "--context", '{"title": "Dune"}', "--no-email", "--key", "k"]
    result = run("send", "book_available", *options)
    assert 0 == result.exit_code
    with redis.server.client() as client:
        message = json.loads(client.lpop("notifications") or b"")
        assert 0 == client.llen("notifications")
    assert "notifications.create" == message["headers"]["task"]
    request = json.loads(b64decode(message["body"]))[1]["request"]
    assert str(UUID(result.output.strip())) == request.pop("id")
    expected = {
        "to": ["a", "b"],
        "event_config_name": "book_available",
        "lang": "de",
        "context": {"title": "Dune"},
        "should_email": False,
        "idempotency_key": "k",
    }
    assert expected == request


def test_send_says_when_the_broker_is_away() -> None:
    """Exit code 1 and one line, without a traceback or the broker's password."""
    url = f"redis://:secret-password@127.0.0.1:{free_port()}/0"
    code, output, errors = bellhop("send", "book_available", "--to", "a", BROKER_URL=url)
    assert (1, "") == (code, output)
    assert errors.startswith("bellhop: ")
    assert 1 == len(errors.splitlines())
    assert "broker" in errors
    assert "secret-password" not in errors


@pytest.mark.parametrize(
    "arguments",
    [
        ("send", "book_available"),
        ("send", "book_available", "--to", "a", "--context", "{no json"),
        ("inbox", "reader", "--limit", "0"),
        ("inbox",),
        ("purge", "--older-than", "soon"),
        ("purge", "--older-than", "90"),
        ("purge", "--older-than", "-3d"),
        ("purge", "--older-than", "2026-02-30"),
        ("purge", "--older-than", "999999d"),
        ("up", "--flower-port", "99999"),
        ("up", "--flower-port", "-1"),
        ("no-such-command",),
        ("events", "--no-such-option"),
    ],
)
def test_wrong_usage_is_2(arguments: tuple[str, ...]) -> None:
    """Whatever is wrong on the command line itself ends with 2, before anything is touched."""
    result = run(*arguments)
    assert 2 == result.exit_code
    assert "Error: " in result.output


def test_failures_are_1_in_one_line(tmp_path: Path) -> None:
    """A refused request, an older schema, an unreachable database: one line each, no traceback, no secret."""
    new = f"sqlite:///{tmp_path / 'new.db'}"
    away = "postgresql://name:secret-password@127.0.0.1:1/none"
    commands = [
        (("inbox", "reader"), {"DATABASE_URL": new}, "run `bellhop init-db`"),
        (("purge",), {"DATABASE_URL": away}, "see DATABASE_URL"),
        (("send", "no event", "--to", "secret-password"), {}, "event_config_name: "),
    ]
    for arguments, settings, words in commands:
        code, output, errors = bellhop(*arguments, **settings)
        assert (1, "") == (code, output), errors
        assert words in errors
        assert 1 == len(errors.strip().splitlines())
        assert "secret-password" not in errors


@pytest.mark.parametrize("command", ["demo", "up"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, command: str) -> None:
    """In one line, before anything is started."""
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        code, _, errors = bellhop(command, "--folder", str(folder))
        assert (1, 1) == (code, len(errors.strip().splitlines())), errors
        assert f"bellhop: {folder}: this folder cannot be made" in errors


@pytest.mark.usefixtures("store")
def test_inbox_shows_a_table() -> None:
    """For people: newest first, who has seen what, and the totals; nothing of others."""
    put_notifications(seen_at=None, title="Older", created_at=ago(days=2))
    put_notifications(title="Newer [/b]", created_at=ago(days=1))
    put_notifications(recipient_id="other", title="Foreign")
    output = run("inbox", "reader").output
    assert output.index("Newer") < output.index("Older")
    assert "2 in all, 1 unseen" in output
    assert "Foreign" not in output
    assert "[/b]" in output, "a title is shown as it is, not read as markup"
    assert "Newer" not in run("inbox", "reader", "--unseen").output


@pytest.mark.usefixtures("store")
def test_inbox_as_json() -> None:
    """For programs: one object, with every item as `inbox.list` gives it."""
    [id] = put_notifications(title="Größe 北京", created_at=ago(days=1))
    put_notifications(2, created_at=ago(days=2))
    page = json.loads(run("inbox", "reader", "--json", "--limit", "1").output)
    assert [(str(id), "Größe 北京")] == [(item["id"], item["title"]) for item in page["items"]]
    assert page["next_cursor"]
    assert [] == json.loads(run("inbox", "nobody", "--json").output)["items"]


@pytest.mark.usefixtures("catalogue")
def test_events_lists_configs_and_languages() -> None:
    """What can be sent, with which context, in which languages."""
    listed = {event["name"]: event for event in json.loads(run("events", "--json").output)}
    assert ["de", "en", "pt"] == sorted(listed["book_available"]["langs"])
    assert (["title"], False) == (listed["book_available"]["required"], listed["off"]["active"])
    assert list(listed) == sorted(listed)
    output = run("events").output
    assert all(name in output for name in ("quiet", "mention", "off"))


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("cutoff", "removed"),
    [
        ("90d", 2),
        ("0d", 3),
        ("2026-01-31", 0),
        ("2026-02-01", 2),
        ("2026-01-31T12:00:00.000001", 2),
        ("2026-01-31T12:00:00Z", 0),
        ("2026-01-31T12:00:01+01:00", 0),
    ],
)
def test_purge_older_than(cutoff: str, removed: int) -> None:
    """So many days ago, or a date or time, which is UTC unless it says otherwise; exclusive."""
    put_notifications(2, updated_at=THEN)
    put_notifications(updated_at=ago(days=1))
    put_notifications(seen_at=None)
    told = run("purge", "--older-than", cutoff, "--dry-run").output
    assert told.startswith(f"{removed} would be removed")
    assert [4, 0] == [len(rows(Notification)), len(rows(PurgeRun))]
    result = run("purge", "--older-than", cutoff)
    assert (0, 4 - removed) == (result.exit_code, len(rows(Notification)))
    assert result.output.startswith(f"{removed} removed (cutoff ")


@pytest.mark.usefixtures("store")
def test_purge_without_a_cutoff_follows_the_retention(configure: Configure) -> None:
    """And goes on, however small budget and batch are, until all is done."""
    configure(PURGE_BATCH=2, PURGE_BUDGET_SECONDS="0.000000001")
    put_notifications(5, updated_at=ago(days=91))
    put_notifications(updated_at=ago(days=89))
    before, result, after = datetime.now(UTC), run("purge"), datetime.now(UTC)
    cutoffs = [now - timedelta(days=90) for now in (before, after)]  # of two days, at midnight
    assert result.output.startswith(tuple(f"5 removed (cutoff {cutoff:%Y-%m-%d}" for cutoff in cutoffs))
    assert 1 == len(rows(Notification))
    assert 5 == sum(row.removed for row in rows(PurgeRun))
    assert 0 == run("purge").exit_code


def test_help_names_every_command() -> None:
    """`bellhop -h` is where people start."""
    output = run("-h").output
    assert all(
        name in output
        for name in ("init-db", "send", "inbox", "events", "preview", "purge", "explain", "replay", "doctor", "up")
    )
