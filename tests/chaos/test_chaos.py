"""A short form of `make chaos`: several hurts at once, and what the table counts as a broken promise."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos import hurts
from tests.chaos.hurts import Hurt
from tests.chaos.ledger import Row, run
from tests.chaos.stage import Stage
from tests.conftest import ROOT


def several(stage: Stage) -> None:
    """Everything dies or refuses within seconds, while requests come in."""
    worker = stage.processes["worker2"]
    stage.broker.kill()
    stage.broker.start()
    stage.wait_accepted(5)
    assert worker.returncode() is None, "a worker survives a restart of Redis"
    stage.processes["worker1"].kill_group()
    stage.postgres.kill()
    stage.postgres.start()
    stage.processes["mail"].kill_group(signal.SIGKILL)
    time.sleep(0.5)
    stage.start_mail()
    stage.wait_accepted(5)


@pytest.mark.timeout(300)  # half a minute alone
def test_whatever_dies_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """Redis, PostgreSQL, a worker and the mail server are killed under load; all is there once, and mailed."""
    monkeypatch.chdir(ROOT)
    row = run(tmp_path / "stage", "bellhop", Hurt("several at once", several), before=20, after=10)
    record_property("mails sent again", row.doubles)
    assert [] == row.broken(), row
    assert row.mails - row.doubles == sum(row.accepted.values())
    assert row.restarts >= 1


KEPT = {"broker": 0, "durable": 0}


@pytest.mark.parametrize(
    ("numbers", "promise"),
    [
        ({}, None),
        ({"doubles": 3}, None),
        ({"explained": 3}, None),
        ({"lost": {"broker": 0, "durable": 1}}, "a durable request was lost"),
        ({"lost": {"broker": 1, "durable": 0}}, "a request was lost that the broker kept"),
        ({"twice": 1}, "a request was stored twice"),
        ({"unmailed": 1}, "a mail is missing, and nothing says why"),
        ({"strangers": 1}, "a second mail has another Message-ID"),
        ({"rest_seconds": None}, "it never came to rest"),
        ({"seen_in": ["worker1.log"]}, "personal data is seen"),
    ],
)
def test_the_table_names_broken_promises(numbers: dict[str, object], promise: str | None) -> None:
    """Each number that must be 0 has its own complaint; mails sent again with the same id have none."""
    row = Row("bellhop", Hurt("nothing", hurts.nothing), **{"lost": KEPT, "rest_seconds": 1.0, **numbers})  # type: ignore[arg-type]
    assert ([promise] if promise else []) == row.broken()


def test_an_emptied_broker_is_no_broken_promise_for_what_it_alone_held() -> None:
    """The broker forgot it, not Bellhop; a durable request is promised all the same."""
    emptied = Hurt("emptied", hurts.empty_broker, broker_forgets=True)
    lost = {"broker": 5, "durable": 1}
    row = Row("bellhop", emptied, lost=lost, rest_seconds=1.0)
    assert ["a durable request was lost"] == row.broken()
