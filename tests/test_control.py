"""What holds a channel back: the operator's pause and the circuit breaker."""

from datetime import timedelta

import pytest

from tests.channel import Configure, hold, send, state, take
from tests.rows import ago, change_delivery, get_delivery, put_deliveries
from tests.smtp_servers import Act, Script, ScriptedSmtp
from tests.store import rows, together
from worker import control
from worker import deliver as delivering
from worker.channels import Outcome, Verdict
from worker.claims import claim
from worker.database import transaction, utcnow
from worker.deliver import Delivered
from worker.ids import uuid7
from worker.models import ChannelState, Delivery
from worker.settings import get_settings

#: The breaker opens at the second failure, for so long that no test waits it out.
BREAKER = {"BREAKER_FAILURES": 2, "RETRY_BASE_SECONDS": 100, "BREAKER_MAX_SECONDS": 1000}
DOWN: Script = {"greeting": "554 5.3.2 no service"}

pytestmark = pytest.mark.usefixtures("catalogue", "engine")


@pytest.fixture(autouse=True)
def fresh_process() -> None:
    """This process has noted nothing yet."""
    control._noted.clear()
    control._worked.clear()


def test_a_paused_channel_is_left_alone(configure: Configure) -> None:
    """Nothing is handed over, claimed or counted; resumed, all goes out at its first attempt."""
    ids = put_deliveries(3)
    with transaction() as session:
        control.pause(session, "email", "the provider moves", utcnow())
    assert [] == take()
    assert (Delivered(), 0) == send(ids, {}, configure)
    assert {("pending", 0, None)} == {(row.status, row.attempts, row.reason) for row in rows(Delivery)}

    with transaction() as session:
        control.resume(session, "email")
    assert sorted(ids) == sorted(take())
    assert Delivered(sent=3) == send(ids, {}, configure)[0]
    assert {("sent", 1)} == {(row.status, row.attempts) for row in rows(Delivery)}


def test_what_is_claimed_when_the_pause_comes_is_finished(configure: Configure) -> None:
    """A pause stops claims, not mails under way: a drained channel has none in hand."""
    ids = put_deliveries(2)
    now = utcnow()
    with transaction() as session:
        claim(session, ids[:1], now, now + timedelta(minutes=5))
        control.pause(session, "email", None, now)
    with transaction() as session:
        assert 1 == control.claimed(session, "email")
        assert ([], 0) == claim(session, ids[1:], now, now + timedelta(minutes=5))
    change_delivery(ids[0], status="sent")
    with transaction() as session:
        assert 0 == control.claimed(session, "email")


def test_a_second_pause_keeps_the_first_moment() -> None:
    """Pausing what is paused changes the reason alone; resuming what is not paused changes nothing."""
    with transaction() as session:
        control.pause(session, "email", "first", ago(hours=1))
        control.pause(session, "email", "second", utcnow())
    assert ("second", True) == (state().pause_reason, (state().paused_at or utcnow()) < ago(minutes=59))
    for _ in range(2):
        with transaction() as session:
            control.resume(session, "email")
        assert (None, None) == (state().paused_at, state().pause_reason)


@pytest.mark.parametrize(
    "script",
    [DOWN, {"greeting": Act.CUT}, {"ehlo": "250-x\r\n250 AUTH PLAIN", "auth": "535 5.7.8 no"}, {"mail": Act.CUT}],
    ids=["greeting", "cut", "login", "cut at MAIL"],
)
def test_a_server_that_is_down_costs_no_attempts(script: Script, configure: Configure) -> None:
    """One connection is tried per batch; after the set number of them nothing is tried, whatever is handed over."""
    ids = put_deliveries(6)
    user = {"SMTP_URL": ""}
    with ScriptedSmtp(script) as server:
        login = "user:secret@" if "auth" in script else ""
        user["SMTP_URL"] = f"smtp://{login}{server.url.removeprefix('smtp://')}?tls=none"
        configure(**user, **BREAKER)
        for _ in range(4):
            delivering.deliver(transaction, ids)
        # A kept connection that proves dead is replaced once.
        assert server.connections <= 2 * 2
    assert {("pending", 0)} == {(row.status, row.attempts) for row in rows(Delivery)}
    # Two batches; a pipelined connection that is cut takes two emails with it.
    assert 2 <= sum(row.last_error is not None for row in rows(Delivery)) <= 4
    assert ago(seconds=0) < (state().open_until or ago(days=1)) <= utcnow() + timedelta(seconds=100)
    assert [] == take()


def test_a_probe_is_one_delivery_and_closes_the_breaker(configure: Configure) -> None:
    """When its time is over, beat hands over one; it alone is sent, then all."""
    ids = put_deliveries(3, lease_until=ago(hours=1))
    hold(failures=2, opened=1, open_until=ago(seconds=1))
    assert 1 == len(take())
    done, connections = send(ids, {}, configure, **BREAKER)
    assert (Delivered(sent=1), 1) == (done, connections)
    assert (0, 0, None) == (state().failures, state().opened, state().open_until)
    assert Delivered(sent=2) == send(ids, {}, configure)[0]


def test_a_failed_probe_opens_for_longer(configure: Configure) -> None:
    """Each failed probe doubles the time up to the maximum; half of it is drawn by lot."""
    [id] = put_deliveries()
    for opened, longest in [(1, 200), (2, 400), (3, 800), (4, 1000), (60, 1000)]:
        hold(failures=2, opened=opened, open_until=ago(seconds=1))
        change_delivery(id, due_at=ago(seconds=1))
        assert 1 == send([id], DOWN, configure, **BREAKER)[0].later
        left = ((state().open_until or ago(days=1)) - utcnow()).total_seconds()
        assert longest / 2 - 5 < left <= longest
    assert ("pending", 0) == (get_delivery(id).status, get_delivery(id).attempts)


def test_only_one_of_many_probes(configure: Configure) -> None:
    """Of several workers that find the time over, one tries; if it falls silent, another may after the lease."""
    ids = put_deliveries(8)
    hold(failures=2, opened=1, open_until=ago(seconds=1))

    def probe() -> control.Probe | None:
        with transaction() as session:
            return control.take_probe(session, ids, utcnow())

    assert 1 == sum(found is not None for found in together(*[probe] * 4))
    assert probe() is None
    hold(open_until=ago(seconds=1))
    assert probe() is not None


def test_a_probe_that_tells_nothing_lets_the_next_try(configure: Configure) -> None:
    """An address that is refused says nothing about the server; neither does one that must not be sent at all."""
    expired, refused, good = put_deliveries(expire_at=ago(seconds=1), due_at=ago(hours=2)) + put_deliveries(2)
    hold(failures=2, opened=1, open_until=ago(seconds=1))
    assert Delivered(skipped=1) == send([expired, good], {}, configure)[0]
    change_delivery(good, due_at=ago(seconds=1))
    assert Delivered(failed=1) == send([refused, good], {"rcpt": "550 5.1.1 who?"}, configure)[0]
    assert Delivered(sent=1) == send([good], {}, configure)[0]


def test_a_probe_that_is_not_tried_lets_the_next_try(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a rate without a free slot nor a stopping worker keeps the channel cut off for as long as a lease."""
    [id] = put_deliveries()
    configure(EMAIL_RATE_PER_SECOND=10)
    ahead = get_settings().dispatch_every_seconds + control.AHEAD + control.URGENT_AHEAD
    hold(failures=2, opened=1, open_until=ago(seconds=1), next_free_at=utcnow() + timedelta(seconds=ahead))
    assert Delivered(given_back=1) == send([id], {}, configure)[0]
    assert (state().open_until or utcnow()) <= utcnow()

    configure(EMAIL_RATE_PER_SECOND=0)
    answers = iter([False])
    monkeypatch.setattr(delivering, "stopping", lambda: next(answers, True))
    assert Delivered(given_back=1) == send([id], {}, configure)[0]
    assert (state().open_until or utcnow()) <= utcnow()
    assert ("pending", 0) == (get_delivery(id).status, get_delivery(id).attempts)


def test_failures_that_are_not_in_a_row_do_not_open(configure: Configure) -> None:
    """A success between two failures begins the count anew, also one that was not worth a statement."""
    for _ in range(4):
        assert Delivered(sent=1) == send(put_deliveries(), {}, configure, **BREAKER)[0]
        assert Delivered(later=1) == send(put_deliveries(), DOWN, configure, **BREAKER)[0]
    assert (1, None) == (state().failures, state().open_until)


def test_a_late_failure_does_not_lengthen(configure: Configure) -> None:
    """Workers that were under way when the breaker opened all report the same trouble: it counts once."""
    until = utcnow() + timedelta(seconds=50)
    hold(failures=2, opened=1, open_until=until)
    with transaction() as session:
        control.note(session, "email", [Outcome(uuid7(), Verdict.TRANSIENT, "connect: no", reached=False)], utcnow())
    assert (1, until) == (state().opened, state().open_until)


def test_being_asked_for_less_pauses_shortly(configure: Configure) -> None:
    """THROTTLED answers count as attempts of their deliveries, and open the breaker for its own, constant time."""
    ids = put_deliveries(4)
    throttled: Script = {"mail": "421 4.7.0 too many"}
    send(ids, throttled, configure, **BREAKER, THROTTLED_PAUSE_SECONDS=20)
    assert utcnow() < (state().open_until or ago(days=1)) <= utcnow() + timedelta(seconds=20)
    hold(open_until=ago(seconds=1), opened=9)
    change_delivery(ids[0], due_at=ago(seconds=1), status="pending")
    send(ids[:1], throttled, configure)
    assert utcnow() < (state().open_until or ago(days=1)) <= utcnow() + timedelta(seconds=20)
    assert get_delivery(ids[0]).attempts == 2


def test_an_ordinary_delivery_asks_nothing_of_the_channels_table(configure: Configure) -> None:
    """Without pause, rate and trouble no row is written, and its state is looked at by the claim alone."""
    assert Delivered(sent=30) == send(put_deliveries(30), {}, configure)[0]
    assert [] == rows(ChannelState)
