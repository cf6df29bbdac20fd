"""What is recorded after an attempt, when the next one is due, and what beat hands over."""

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from tests.rows import ago, change_delivery, get_delivery, put_deliveries
from tests.smtp_servers import Act, Script, ScriptedSmtp
from tests.store import rows, together
from worker import claims, dispatch, outcomes
from worker import deliver as delivering
from worker.channels import Outcome, Verdict
from worker.claims import Claimed
from worker.database import get_engine, transaction, utcnow
from worker.deliver import Delivered
from worker.models import Attempt, Delivery
from worker.outcomes import backoff
from worker.settings import Settings, get_settings

Configure = Callable[..., None]

pytestmark = pytest.mark.usefixtures("catalogue", "engine")

TRANSIENT = {"rcpt": "451 4.3.0 come back"}
THROTTLED = {"mail": "421 4.7.0 too many"}
MISCONFIGURED = {"mail": "550 5.7.1 you may not send as this"}
PERMANENT = {"rcpt": "550 5.1.1 unknown mailbox"}
UNKNOWN: Script = {"content": Act.CUT}


def attempt(id: UUID, script: Script, configure: Configure, **settings: object) -> Delivery:
    """Try once against a server of this script; gives the row after it."""
    with ScriptedSmtp(script) as server:
        configure(SMTP_URL=server.url + "?tls=none", **settings)
        delivering.deliver(transaction, [id])
    return get_delivery(id)


def claim(id: UUID, now: datetime | None = None) -> Claimed:
    """Claim one delivery for five minutes."""
    now = now or utcnow()
    with transaction() as session:
        [one], _ = claims.claim(session, [id], now, now + timedelta(minutes=5))
        return one


def record(one: Claimed, verdict: Verdict, now: datetime | None = None) -> Delivery:
    """Record a verdict; gives the row after it."""
    with transaction() as session:
        outcomes.record(session, [(one, Outcome(one.id, verdict, "words"))], now or utcnow())
    return get_delivery(one.id)


def take(now: datetime, limit: int = 100) -> dict[int, list[UUID]]:
    """What beat would hand over at this moment."""
    with transaction() as session:
        return dispatch.take_due(session, now, limit)


@pytest.mark.parametrize(
    ("script", "reason", "words"),
    [(TRANSIENT, "transient", "come back"), (THROTTLED, "throttled", "too many"), (UNKNOWN, "unknown", "end of DATA")],
)
def test_what_may_work_later_waits(script: Script, reason: str, words: str, configure: Configure) -> None:
    """The row is pending again, says why in the server's words, keeps its content, and is due after a backoff."""
    [id] = put_deliveries()
    before = utcnow()
    row = attempt(id, script, configure, RETRY_BASE_SECONDS=100)

    assert ("pending", reason, 1) == (row.status, row.reason, row.attempts)
    assert words in (row.last_error or "")
    assert row.parts
    assert before + timedelta(seconds=50) <= row.due_at <= utcnow() + timedelta(seconds=100)
    assert row.lease_until == row.due_at


def test_what_we_must_mend_waits_the_longest(configure: Configure) -> None:
    """A refusal of our own sender or login is not tried again and again, but the delivery stays open."""
    [id] = put_deliveries()
    before = utcnow()
    row = attempt(id, MISCONFIGURED, configure, RETRY_BASE_SECONDS=1, RETRY_MAX_SECONDS=1000)

    assert ("pending", "misconfigured") == (row.status, row.reason)
    assert before + timedelta(seconds=500) <= row.due_at <= utcnow() + timedelta(seconds=1000)


def test_what_never_works_fails_at_once(configure: Configure) -> None:
    """A refused address fails at the first attempt; the row keeps its content for the operator, not the address."""
    [id] = put_deliveries()
    row = attempt(id, PERMANENT, configure)

    assert ("failed", "permanent", 1) == (row.status, row.reason, row.attempts)
    assert "unknown mailbox" in (row.last_error or "")
    assert row.parts


@pytest.mark.parametrize("script", [TRANSIENT, THROTTLED, MISCONFIGURED, UNKNOWN])
def test_used_up_attempts_fail(script: Script, configure: Configure) -> None:
    """The last attempt that may be made decides, whatever the reason."""
    [id] = put_deliveries(attempts=2)
    row = attempt(id, script, configure, MAX_ATTEMPTS=3)
    assert ("failed", 3) == (row.status, row.attempts)


def test_unknown_is_held_where_the_policy_says_so(configure: Configure) -> None:
    """With `hold` a mail that may have been taken is left to the operator, and not handed over again."""
    [id] = put_deliveries()
    row = attempt(id, UNKNOWN, configure, UNKNOWN_POLICY="hold")

    assert ("unknown", "unknown", 1) == (row.status, row.reason, row.attempts)
    assert {} == take(utcnow() + timedelta(days=1))


def test_a_resend_has_the_same_message_id(configure: Configure) -> None:
    """With `resend` the same mail goes out again under the same Message-ID, so that the reader's side can tell."""
    [id] = put_deliveries()
    with ScriptedSmtp({"content": [Act.CUT, "250 taken"]}) as server:
        configure(SMTP_URL=server.url + "?tls=none")
        delivering.deliver(transaction, [id])
        change_delivery(id, due_at=ago(seconds=1))
        assert Delivered(sent=1) == delivering.deliver(transaction, [id])
        ids = [line for content in server.contents for line in content.splitlines() if line.startswith(b"Message-ID")]
    assert 2 == len(ids)
    assert 1 == len(set(ids))
    row = get_delivery(id)
    assert ("sent", None, None) == (row.status, row.reason, row.last_error)


def test_backoff_doubles_within_its_bounds() -> None:
    """Each delay is between half of the doubled base and all of it, and never above the maximum."""
    settings = Settings(retry_base_seconds=10, retry_max_seconds=300)
    for attempts in range(1, 40):
        longest = min(300, 10 * 2 ** (attempts - 1))
        delays = [backoff(Verdict.TRANSIENT, attempts, settings) for _ in range(50)]
        assert longest / 2 <= min(delays) < max(delays) <= longest
    assert 150 <= backoff(Verdict.MISCONFIGURED, 1, settings) <= 300


def test_backoff_survives_any_number_of_attempts() -> None:
    """A delivery that an operator lets be tried for ever does not overflow."""
    assert backoff(Verdict.THROTTLED, 100_000, Settings()) <= Settings().retry_max_seconds


def test_each_wait_is_longer_than_the_one_before() -> None:
    """The recorded due times grow with the attempts, until the maximum."""
    [id] = put_deliveries()
    now, waits = utcnow(), []
    for _ in range(6):
        row = record(claim(id, now), Verdict.TRANSIENT, now)
        waits.append(row.due_at - now)
        now = row.due_at
    assert waits == sorted(waits)
    assert waits[5] > 8 * waits[0]


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict is not Verdict.SENT])
def test_a_late_record_leaves_a_newer_claim_alone(verdict: Verdict) -> None:
    """A worker that comes back after its lease does not disturb the one that took over."""
    [id] = put_deliveries()
    old = claim(id)
    change_delivery(id, status="pending")
    new = claim(id)
    row = record(old, verdict)

    assert ("sending", 2, None) == (row.status, row.attempts, row.reason)
    assert "sent" == record(new, Verdict.SENT).status


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict is not Verdict.SENT])
def test_sent_is_sent_whoever_holds_the_row(verdict: Verdict) -> None:
    """A late SENT wins over a newer claim, and what the newer one says after that changes nothing."""
    [id] = put_deliveries()
    old = claim(id)
    change_delivery(id, status="pending")
    new = claim(id)
    first = record(old, Verdict.SENT)

    assert ("sent", None) == (first.status, first.parts)
    again = record(new, verdict)
    assert ("sent", first.sent_at, None) == (again.status, again.sent_at, again.last_error)


def test_a_late_give_back_leaves_a_newer_claim_alone() -> None:
    """A worker that gives back what is not its own any more takes nothing from the one that has it."""
    [id] = put_deliveries()
    old = claim(id)
    change_delivery(id, status="pending")
    claim(id)
    with transaction() as session:
        claims.give_back(session, [old], utcnow())
    assert ("sending", 2) == (get_delivery(id).status, get_delivery(id).attempts)


def test_urgent_and_oldest_are_taken_first() -> None:
    """Deliveries come by urgency, the longest waiting first, and no more than asked for."""
    newer, older = put_deliveries(due_at=ago(seconds=10))[0], put_deliveries(due_at=ago(seconds=20))[0]
    urgent = put_deliveries(due_at=ago(seconds=5), urgency=0)[0]

    assert {0: [urgent], 1: [older]} == take(utcnow(), limit=2)
    assert {1: [newer]} == take(utcnow(), limit=2)
    assert {} == take(utcnow(), limit=2)


@pytest.mark.parametrize("known", [1, 1000])
def test_never_more_than_the_limit_is_taken(known: int) -> None:
    """Whatever plan the database makes of what it knows of the table, stale statistics included, the limit holds."""
    put_deliveries(known, status="sent")
    if get_engine().dialect.name == "postgresql":
        with transaction() as session:
            session.execute(text("ANALYZE deliveries"))
    put_deliveries(20)
    assert [3] * 3 == [len(take(utcnow(), limit=3)[1]) for _ in range(3)]


def test_due_ones_are_handed_over_once_per_period() -> None:
    """What was handed over and not claimed is handed over again after the period, not before."""
    put_deliveries(3)
    now, period = utcnow(), timedelta(seconds=get_settings().handover_seconds)

    assert [3] == [len(ids) for ids in take(now).values()]
    assert {} == take(now + period - timedelta(milliseconds=1))
    assert [3] == [len(ids) for ids in take(now + period).values()]


def test_two_beats_hand_over_each_once() -> None:
    """Several dispatchers at the same time share what is due."""
    ids = put_deliveries(200)
    now = utcnow()
    shares = together(*[lambda: [id for part in take(now).values() for id in part]] * 4)
    # One may look while another has rows locked and pass over them; what is left then is taken by the next look.
    taken = [id for share in shares for id in share] + [id for part in take(now, 200).values() for id in part]
    assert sorted(ids) == sorted(taken)


def test_what_is_not_due_or_in_hand_is_not_taken() -> None:
    """Deliveries of the future, under a lease, or no longer pending stay."""
    put_deliveries(due_at=utcnow() + timedelta(hours=1), lease_until=ago(hours=1))
    put_deliveries(lease_until=utcnow() + timedelta(hours=1))
    put_deliveries(status="sending", lease_until=utcnow() + timedelta(hours=1))
    for status in ("sent", "failed", "unknown", "skipped"):
        put_deliveries(status=status)
    assert {} == take(utcnow() + timedelta(minutes=1))


def test_abandoned_ones_are_taken_again(configure: Configure) -> None:
    """A claim whose lease ran out is given to another worker; the attempt it had counts."""
    [id] = put_deliveries(attempts=1, status="sending", lease_until=ago(seconds=1))
    assert {1: [id]} == take(utcnow())
    row = get_delivery(id)
    assert ("pending", 1, "abandoned") == (row.status, row.attempts, row.reason)
    assert [(id, 1, "abandoned")] == [(one.delivery_id, one.number, one.verdict) for one in rows(Attempt)]
    assert 2 == claim(id).attempts


def test_a_delivery_that_kills_its_workers_is_given_up(configure: Configure) -> None:
    """After the last attempt an abandoned delivery fails instead of going round for ever."""
    configure(MAX_ATTEMPTS=3)
    [id] = put_deliveries(attempts=3, status="sending", lease_until=ago(seconds=1))
    assert {} == take(utcnow())
    row = get_delivery(id)
    assert ("failed", "abandoned") == (row.status, row.reason)
    assert row.last_error


def test_abandoned_ones_are_held_where_the_policy_says_so(configure: Configure) -> None:
    """With `hold` an abandoned mail, which may have been taken, waits for the operator."""
    configure(UNKNOWN_POLICY="hold")
    [id] = put_deliveries(attempts=1, status="sending", lease_until=ago(seconds=1))
    assert {} == take(utcnow())
    assert ("unknown", "abandoned") == (get_delivery(id).status, get_delivery(id).reason)


def test_hold_claims_one_mail_at_a_time(configure: Configure) -> None:
    """With `hold` a worker that dies leaves at most the one mail it was sending for the operator, not its batch."""
    ids = put_deliveries(3)
    seen = []
    with ScriptedSmtp() as server:
        configure(SMTP_URL=server.url + "?tls=none", UNKNOWN_POLICY="hold")
        original = claims.claim

        def watched(*args: object, **options: bool) -> tuple[list[Claimed], int]:
            claimed = original(*args, **options)  # type: ignore[arg-type]
            seen.append(len(claimed[0]))
            return claimed

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(delivering, "claim", watched)
            assert Delivered(sent=3) == delivering.deliver(transaction, ids)
    assert [1, 1, 1] == seen
    assert {"sent"} == {row.status for row in rows(Delivery)}
