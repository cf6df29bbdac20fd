"""Whose clock is believed: leases and due times mean the same to every worker, whatever its host's clock says."""

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.conftest import ROOT
from tests.rows import ago, put_deliveries, put_notifications
from tests.servers import Process, wait_until
from tests.slow_smtp import SlowSmtp
from tests.store import rows
from worker import database
from worker.models import Delivery


@pytest.mark.usefixtures("catalogue")
def test_a_mad_clock_sends_nothing_twice_and_holds_nothing_up(tmp_path: Path, postgres_engine: Engine) -> None:
    """Of two workers one has a clock that jumps by twenty minutes, more than any lease, all the time."""
    with SlowSmtp(0.1) as server:
        env = {
            "DATABASE_URL": postgres_engine.url.render_as_string(hide_password=False),
            "SMTP_URL": server.url + "?tls=none",
            "SIGNAL": "off",
        }
        command = [sys.executable, "-m", "tests.sender"]
        with (
            Process(command, tmp_path / "sound.log", env=env, cwd=ROOT) as sound,
            Process([*command, "jumping"], tmp_path / "jumping.log", env=env, cwd=ROOT) as jumping,
        ):
            wait_until(lambda: "ready" in sound.log_text() and "ready" in jumping.log_text(), 30, "both work")
            long_ago = ago(hours=1)
            put_deliveries(60, due_at=long_ago, lease_until=long_ago)
            wait_until(lambda: {"sent"} == {row.status for row in rows(Delivery)}, 60, "all is sent")
    assert 60 == len(server.contents)
    assert {1} == {row.attempts for row in rows(Delivery)}


@pytest.mark.usefixtures("postgres_engine")
def test_the_present_moment_is_the_databases(configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the host says; also while the database cannot be asked, when time just goes on."""

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Wrong":
            return cls(2001, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(database, "datetime", Wrong)
    monkeypatch.setattr(database, "_clock", None)
    assert abs(database.utcnow() - datetime.now(UTC)) < timedelta(seconds=5)

    monkeypatch.setattr(database, "CLOCK_EVERY", 0)
    configure(DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    first, second = database.utcnow(), database.utcnow()
    assert timedelta(0) < second - first < timedelta(seconds=5)
    assert abs(second - datetime.now(UTC)) < timedelta(seconds=5)


WRONG = """
import sys
from datetime import UTC, datetime
from types import ModuleType

class Wrong(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2001, 1, 1, tzinfo=UTC)

from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from worker import inbox, signal, tables
for module in [one for name, one in sys.modules.items() if name.startswith("worker.")]:
    if getattr(module, "datetime", None) is datetime:
        module.datetime = Wrong
engine = create_engine(sys.argv[1])
with Session(engine) as session, session.begin():
    assert inbox.counts(session, "reader") == inbox.Counts(3, 3)
    found = [one.id for one in inbox.list(session, "reader", page=1).items]
    assert inbox.get(session, "reader", found[0]), "one of them"
    assert inbox.unseen_count(session, "reader", only=tables.Base.metadata.tables["notifications"].c.lang == "en") == 3
    assert inbox.mark_seen(session, "reader", found[0]).seen_at.year > 2001
    assert inbox.mark_all_seen(session, "reader") == 2
    assert {one.seen_at.year > 2001 for one in inbox.list(session, "reader").items} == {True}
    assert inbox.delete(session, "reader", found[0])
assert signal._counts(engine, ["reader"]) == {"reader": (2, 0)}
"""


def test_an_inbox_is_read_and_marked_by_the_databases_clock(postgres_engine: Engine) -> None:
    """Whatever that of the application's host says."""
    put_notifications(3, seen_at=None, created_at=database.utcnow())
    put_notifications(seen_at=None, created_at=database.utcnow() + timedelta(hours=1))
    url = postgres_engine.url.render_as_string(hide_password=False)
    subprocess.run([sys.executable, "-c", WRONG, url], check=True, timeout=60, cwd=ROOT)
