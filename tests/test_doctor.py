"""`bellhop doctor` where something is wrong; tests/flow looks at a whole system where nothing is."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine

from tests.channel import hold
from tests.conftest import ROOT
from tests.rows import THEN, ago, change_delivery, put_deliveries
from tests.servers import RedisTestServer, free_port
from tests.smtp_servers import real_server
from tests.store import ask, enqueue, undone
from worker import celery as root
from worker import doctor, failed
from worker.celery import QUEUES, make_app
from worker.cli import cli
from worker.database import transaction, utcnow
from worker.errors import InvalidRequest
from worker.failed import Failure
from worker.models import Heartbeat
from worker.settings import Settings, get_settings

Configure = Callable[..., None]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisTestServer]:
    careless = ("--maxmemory-policy", "allkeys-lru")
    with RedisTestServer(tmp_path_factory.mktemp("redis"), appendonly=False, extra=careless) as server:
        yield server


@pytest.fixture(autouse=True)
def broker(redis: RedisTestServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A broker without any worker, which need not be waited for."""
    app = make_app(Settings(broker_url=redis.url))
    root.app.set_current()
    monkeypatch.setattr(root, "app", app)
    monkeypatch.setattr(doctor, "ANSWER", 0.2)
    yield app
    app.close()


def findings() -> dict[str, str]:
    """What `bellhop doctor` finds, by subject; each with what to do about it."""
    result = CliRunner().invoke(cli, ["doctor", "--json"], catch_exceptions=False)
    checks = json.loads(result.output)
    found = [check for check in checks if not check["ok"]]
    assert all(check["advice"] for check in found)
    assert (1 if found else 0) == result.exit_code
    return {
        subject: "; ".join(c["words"] for c in found if c["subject"] == subject)
        for subject in {c["subject"] for c in found}
    }


@pytest.mark.usefixtures("catalogue")
def test_what_is_away_is_found_without_a_secret(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Database, broker and mail server: each is told, none ends the round."""
    away = f"127.0.0.1:{free_port()}"
    app = make_app(Settings(broker_url=f"redis://:secret-word@{away}/0"))
    monkeypatch.setattr(root, "app", app)
    configure(DATABASE_URL=f"postgresql://name:secret-word@{away}/none", SMTP_URL=f"smtp://name:secret-word@{away}")
    found = findings()
    assert {"database", "broker", "mail"} == set(found)
    assert "secret-word" not in str(found)
    output = CliRunner().invoke(cli, ["doctor"]).output
    assert all(
        words in output for words in ("!!  database", "-> start the database, or correct DATABASE_URL", "ok  events")
    )
    app.close()


def test_wrong_settings_are_found(configure: Configure) -> None:
    """By name, and alone: nothing else can be looked at."""
    configure(LEASE_SECONDS="soon")
    assert {"settings"} == set(findings())


@pytest.mark.parametrize("url", ["hunter2", "mysql://hunter2@host/x"])
def test_a_database_url_that_is_none_is_found(configure: Configure, url: str) -> None:
    """The advice is to correct it: `init-db` could not help."""
    configure(DATABASE_URL=url, SMTP_URL=f"smtp://127.0.0.1:{free_port()}")
    [check] = [check for check in doctor.examine() if check.subject == "database"]
    assert ("correct DATABASE_URL", False) == (check.advice, "hunter2" in check.words)


@pytest.mark.usefixtures("catalogue")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"DEFAULT_LANG": "pt"}, "no templates in pt, the default language, for follow, follow_request, mention, "),
        ({"TEMPLATES_DIR": "/nowhere"}, "TEMPLATES_DIR: no such folder"),
    ],
)
def test_texts_that_are_not_there_are_found(configure: Configure, settings: dict[str, str], words: str) -> None:
    """In the language that every other falls back to, or altogether."""
    configure(**settings, SMTP_URL=f"smtp://127.0.0.1:{free_port()}")
    assert findings()["events"].startswith(words)


@pytest.mark.parametrize("setting", [{"RESULT_BACKEND": "foo://:hunter2@host"}, {"PURGE_CRON": "99 3 * * *"}])
def test_what_celery_refuses_is_found(tmp_path: Path, setting: dict[str, str]) -> None:
    """By the setting's name; the round goes on."""
    environment = os.environ | setting | {"SMTP_URL": f"smtp://127.0.0.1:{free_port()}", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "worker.cli", "doctor", "--json"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    found = {check["words"].partition(":")[0]: check["subject"] for check in json.loads(done.stdout)}
    assert (1, "settings") == (done.returncode, found[next(iter(setting))])
    assert "mail" in found.values()
    assert "hunter2" not in done.stdout + done.stderr


def test_an_old_schema_is_found(configure: Configure, tmp_path: Path) -> None:
    """With the command that mends it."""
    configure(DATABASE_URL=f"sqlite:///{tmp_path / 'new.db'}", SMTP_URL=f"smtp://127.0.0.1:{free_port()}")
    assert "no version" in findings()["database"]


@pytest.mark.usefixtures("catalogue")
def test_neglect_is_found(engine: Engine, configure: Configure, broker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A careless Redis, no worker, no beat, late and failed work; and when it is mended, no more."""
    put_deliveries(due_at=ago(hours=1))
    put_deliveries(status="unknown")
    put_deliveries(status="failed", reason="permanent")
    enqueue(ask("paul"))
    with transaction() as session:
        failed.keep(session, [Failure({}, InvalidRequest())], now=utcnow())
    with real_server() as mailbox:
        configure(DATABASE_URL=engine.url.render_as_string(hide_password=False), SMTP_URL=f"{mailbox.url}?tls=none")
        found = findings()
        assert {"beat", "deliveries", "failures", "requests", "broker", "workers"} == set(found)
        assert "appendonly is no" in found["broker"]
        assert "allkeys-lru" in found["broker"]
        assert "1 wait, the oldest due for 60 min" == found["deliveries"]
        assert "1 failed, 1 unknown, 1 of them lately and not for good" == found["failures"]

        with transaction() as session:
            session.add(Heartbeat(name="dispatch_due", at=utcnow()))
        some = {"w@a": [{"name": name} for name in QUEUES if name != "bulk"]}
        monkeypatch.setattr(broker.control, "inspect", lambda **_: SimpleNamespace(active_queues=lambda: some))
        found = findings()
        assert "nobody takes from bulk" == found["queues"]
        assert not {"beat", "workers", "mail"} & set(found)


def told() -> list[tuple[str, str]]:
    """What is said of the channel and of the deliveries, with what to do about it."""
    found = {check.subject: (check.words, check.advice) for check in doctor._database()}
    return [found["channel"], found["deliveries"]]


@pytest.mark.usefixtures("catalogue", "engine")
def test_a_channel_that_is_held_back_is_found() -> None:
    """By whom and how it goes on; what waits for it asks for no workers. One that only has to try is in order."""
    [id] = put_deliveries()
    assert [("email may send", ""), ("1 wait, the oldest due for 60 s", "")] == told()
    hold(paused_at=THEN)
    words, advice = told()[0]
    assert "email is paused by an operator since 2026-01-31 12:00:00 UTC" == words
    assert "`bellhop resume email` lets it go on" in advice
    assert ("1 wait, the oldest due for 60 s", "") == told()[1]
    change_delivery(id, due_at=ago(hours=2))
    assert "they wait until email may send, see above" == told()[1][1]

    hold(paused_at=None, failures=5, opened=1, open_until=THEN + timedelta(days=36500))
    words, advice = told()[0]
    assert "email is cut off by its circuit breaker (failures of its server in a row: 5)" in words
    assert "the next try is at 2126-01-07 12:00:00 UTC" in words
    assert "`bellhop resume email` tries at once" in advice
    assert "they wait until email may send, see above" == told()[1][1]

    hold(open_until=ago(hours=1))
    assert (True, "") == ("the next try is by the next delivery" in told()[0][0], told()[0][1])
    assert "start more workers" in told()[1][1]


def test_a_silent_beat_is_found(engine: Engine) -> None:
    """After a minute, or after some of its ticks where they are rarer."""
    with undone() as session:
        for age, silent in ((timedelta(seconds=50), False), (timedelta(seconds=70), True)):
            session.merge(Heartbeat(name="dispatch_due", at=utcnow() - age))
            assert silent == bool(doctor._beat(session, utcnow()).advice)
    assert 5 == get_settings().dispatch_every_seconds
