"""bellhop status, pause, drain and resume."""

import json
from datetime import timedelta

import pytest
from click.testing import CliRunner, Result

from tests.channel import hold, take
from tests.rows import ago, change_delivery, put_deliveries
from worker.cli import channels, cli
from worker.database import utcnow

pytestmark = pytest.mark.usefixtures("catalogue", "engine")


def run(*arguments: str) -> Result:
    """The command in this process; an error passes through."""
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def status() -> dict[str, object]:
    """What `bellhop status --json` says of email."""
    [told] = json.loads(run("status", "email", "--json").output)
    return dict(told)


def test_pause_and_resume_by_command() -> None:
    """Status says since when and why, and what waits; resumed, it is as before."""
    put_deliveries(2)
    before = status()
    assert ("open", 2, 0, None) == tuple(before[key] for key in ("state", "due", "claimed", "reason"))
    assert "bellhop resume email" in run("pause", "email", "--reason", "the provider moves").output
    assert ("paused", "the provider moves") == (status()["state"], status()["reason"])
    assert "paused since" in run("status").output.replace("\n", " ")
    assert [] == take()
    run("resume", "email")
    assert before == status()


def test_status_tells_of_the_breaker() -> None:
    """Cut off until when and by what; then that the next one tries; a resume closes it."""
    until = utcnow() + timedelta(minutes=5)
    hold(failures=5, opened=1, open_until=until, last_error="connect: connection refused")
    assert ("cut off", until.isoformat(), 5) == tuple(status()[key] for key in ("state", "until", "failures"))
    assert "connect: connection refused" == status()["reason"]
    assert "cut off" in run("status").output
    hold(open_until=ago(seconds=1))
    assert "probing" == status()["state"]
    run("resume", "email")
    assert ("open", 0, None) == tuple(status()[key] for key in ("state", "failures", "until"))


def test_drain_waits_for_what_is_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends when no worker holds any; when its time is over first, it says how many, with exit code 1."""
    monkeypatch.setattr(channels, "LOOK_EVERY", 0.01)
    [id] = put_deliveries(status="sending", lease_until=utcnow() + timedelta(minutes=5))
    late = run("drain", "email", "--timeout", "0.05")
    assert (1, "paused") == (late.exit_code, status()["state"])
    assert "in the hands of workers: 1" in late.stderr
    assert 1 == run("drain", "email", "--timeout", "0").exit_code
    change_delivery(id, status="sent")
    for seconds in ("0", "5"):
        assert 0 == run("drain", "email", "--timeout", seconds).exit_code


def test_a_drain_that_waits_for_less_than_nothing_is_refused() -> None:
    """Before anything is changed."""
    assert 2 == run("drain", "email", "--timeout", "-1").exit_code
    assert "open" == status()["state"]


def test_a_channel_that_there_is_not_is_a_usage_error() -> None:
    """The names are those of the registry."""
    assert 2 == run("pause", "pigeon").exit_code
