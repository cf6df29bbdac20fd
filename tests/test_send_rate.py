"""How many deliveries a channel begins in a second, all workers together."""

import itertools
import sys
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.channel import Configure, hold, send, state, take
from tests.conftest import ROOT
from tests.rows import get_delivery, put_deliveries
from tests.servers import Process, wait_until
from tests.slow_smtp import SlowSmtp
from tests.store import together
from worker import control
from worker.database import transaction, utcnow
from worker.deliver import Delivered

pytestmark = pytest.mark.usefixtures("catalogue", "engine")


def slots(count: int, now: datetime, urgency: int = 1) -> list[float]:
    with transaction() as session:
        found = control.slots(session, "email", count, urgency, now)
    assert found is not None
    return found


def test_slots_follow_each_other_whoever_reserves(configure: Configure) -> None:
    """All slots of all callers are 1/rate apart; none is further ahead than beat's next look and a little."""
    configure(EMAIL_RATE_PER_SECOND=8, DISPATCH_EVERY_SECONDS=1)
    now = utcnow()
    found = list(itertools.chain.from_iterable(together(*[lambda: slots(5, now)] * 8)))
    assert [number / 8 for number in range(24)] == sorted(found)
    assert [] == slots(1, now)
    assert [3.0, 3.125] == slots(2, now, urgency=0), "urgent ones may reserve further ahead"
    assert [2.75, 2.875] == slots(2, now + timedelta(seconds=0.5), urgency=0)


def test_idle_time_is_no_credit_and_a_clock_set_back_no_debt(configure: Configure) -> None:
    """After a silence the rate is the same; a reservation of a wrong clock's future is forgotten."""
    configure(EMAIL_RATE_PER_SECOND=0.5, DISPATCH_EVERY_SECONDS=1)
    now = utcnow()
    assert [0.0, 2.0] == slots(9, now)
    assert [0.0, 2.0] == slots(9, now + timedelta(hours=1))
    assert [0.0, 2.0] == slots(9, now)


def test_no_rate_no_slots() -> None:
    """0 is no limit."""
    with transaction() as session:
        assert control.slots(session, "email", 5, 1, utcnow()) is None


def test_beat_hands_over_what_the_rate_can_carry(configure: Configure) -> None:
    """No more than has free slots, urgent ones first; what a worker then finds no slot for is free at once."""
    configure(EMAIL_RATE_PER_SECOND=1, DISPATCH_EVERY_SECONDS=1)
    ids = put_deliveries(20)
    urgent = put_deliveries(2, urgency=0)
    taken = take()
    assert set(urgent) == set(taken[:2])
    assert 3 + control.URGENT_AHEAD >= len(taken) >= 3
    hold(next_free_at=utcnow() + timedelta(seconds=6))
    assert Delivered(given_back=1) == send(ids[:1], {}, configure)[0]
    row = get_delivery(ids[0])
    assert ("pending", 0) == (row.status, row.attempts)
    assert row.lease_until <= utcnow()


def test_two_processes_share_one_rate(tmp_path: Path, engine: Engine) -> None:
    """Two workers begin each mail at a slot of its own; all slots together are as long as the rate says."""
    rate, count = 20, 60
    put_deliveries(count)
    started = utcnow()
    with SlowSmtp() as server, ExitStack() as workers:
        env = {
            "DATABASE_URL": engine.url.render_as_string(hide_password=False),
            "SMTP_URL": server.url + "?tls=none",
            "EMAIL_RATE_PER_SECOND": str(rate),
            "DISPATCH_EVERY_SECONDS": "1",
            "SIGNAL": "off",
        }
        for number in range(2):
            command = [sys.executable, "-m", "tests.sender"]
            workers.enter_context(Process(command, tmp_path / f"{number}.log", env=env, cwd=ROOT))
        wait_until(lambda: len(server.begun) >= count, 60, "all are sent")
    moments = sorted(server.begun)
    assert count == len(moments)
    assert (state().next_free_at or started) - started >= timedelta(seconds=count / rate)
    # Slack for a machine that lets a process wait: what is late then catches up, within what was reserved.
    assert all(moment - moments[0] >= number / rate - 1.5 for number, moment in enumerate(moments))
