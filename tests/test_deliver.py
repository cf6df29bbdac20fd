"""Claiming, skipping, sending; what is recorded after each attempt is in test_deliver_outcomes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from tests.catalogue import EVENTS
from tests.rows import ago, change_delivery, get_delivery, put_deliveries
from tests.servers import free_port
from tests.store import ask, create, rows, together
from worker import claims, dispatch, recipients
from worker import deliver as delivering
from worker.channels import CHANNELS, Outcome, Parcel, Verdict
from worker.channels.mime import message_id
from worker.claims import Claimed
from worker.database import transaction, utcnow
from worker.deliver import Delivered
from worker.embedded.smtp import MailCatcher
from worker.ids import uuid7
from worker.models import Delivery, Notification

Configure = Callable[..., None]

SENDER = "Library <library@example.org>"

pytestmark = pytest.mark.usefixtures("catalogue", "engine")


@pytest.fixture
def catcher(tmp_path: Path, configure: Configure) -> Iterator[MailCatcher]:
    """A real SMTP server that SMTP_URL leads to."""
    with MailCatcher(tmp_path / "mails") as server:
        configure(SMTP_URL=server.url, EMAIL_FROM=SENDER)
        yield server


class Accidents:
    """A channel that sends all, with something happening before it tells about a parcel."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, happen: Callable[[int], None]) -> None:
        self.happen = happen
        self.carried: list[UUID] = []
        monkeypatch.setitem(CHANNELS, "email", lambda: self)

    def send(self, parcels: Iterable[Parcel]) -> Iterator[Sequence[Outcome]]:
        for parcel in parcels:
            self.carried.append(parcel.delivery_id)
            self.happen(len(self.carried))
            yield [Outcome(parcel.delivery_id, Verdict.SENT)]


def claim(ids: list[UUID], now: datetime | None = None) -> list[Claimed]:
    """Claim in a transaction of its own, for five minutes."""
    now = now or utcnow()
    with transaction() as session:
        return claims.claim(session, ids, now, now + timedelta(minutes=5))[0]


def test_a_notification_arrives_by_email(catcher: MailCatcher) -> None:
    """From the request to the mail, by SMTP; the row says sent, and keeps no content."""
    entry = {"id": "reader", "email": "reader@example.com", "lang": "de"}
    due = create(ask(entry), now=utcnow()).due
    assert Delivered(sent=1) == delivering.deliver(transaction, due[1])

    [mail] = catcher.messages()
    [row] = rows(Delivery)
    assert ("reader@example.com", "Dune ist da") == (mail["To"], mail["Subject"])
    assert "Dune liegt bereit." in mail.as_string()
    assert message_id(row.id, SENDER) == mail["Message-ID"]
    assert ("sent", 1, None, None, None) == (row.status, row.attempts, row.parts, row.reason, row.last_error)
    assert row.sent_at is not None
    assert ago(seconds=60) < row.sent_at <= utcnow()


def test_sent_twice_is_sent_once(catcher: MailCatcher) -> None:
    """The same message again, as brokers do, sends nothing and changes nothing."""
    ids = put_deliveries(3)
    first = [delivering.deliver(transaction, ids), [row.sent_at for row in rows(Delivery)]]
    again = [delivering.deliver(transaction, ids * 2), [row.sent_at for row in rows(Delivery)]]

    assert [Delivered(sent=3), Delivered()] == [first[0], again[0]]
    assert first[1] == again[1]
    assert 3 == len(catcher.messages())


def test_many_threads_claim_each_delivery_once() -> None:
    """Of eight callers that claim the same forty, each delivery goes to exactly one, with one attempt counted."""
    ids = put_deliveries(40)
    taken = together(*[lambda: [one.id for one in claim(ids)]] * 8)

    assert sorted(ids) == sorted(id for part in taken for id in part)
    assert {("sending", 1)} == {(row.status, row.attempts) for row in rows(Delivery)}


def test_many_callers_send_each_mail_once(catcher: MailCatcher) -> None:
    """Eight workers with the same message: every mail goes out once."""
    ids = put_deliveries(16)
    done = together(*[lambda: delivering.deliver(transaction, ids)] * 8)

    assert 16 == sum(one.sent for one in done)
    assert 16 == len({mail["Message-ID"] for mail in catcher.messages()}) == len(catcher.messages())


def test_nothing_goes_before_its_time() -> None:
    """What is due later stays as it is; at its very moment it can be claimed."""
    due = utcnow() + timedelta(hours=1)
    [id] = put_deliveries(due_at=due)

    assert [] == claim([id], due - timedelta(microseconds=1))
    assert ("pending", 0) == (get_delivery(id).status, get_delivery(id).attempts)
    assert [id] == [one.id for one in claim([id], due)]


@pytest.mark.parametrize("status", ["sending", "sent", "failed", "unknown", "skipped"])
def test_only_pending_ones_are_claimed(status: str) -> None:
    """Whatever else a delivery is, a message about it changes nothing."""
    [id] = put_deliveries(status=status)
    assert [] == claim([id])
    assert (status, 0) == (get_delivery(id).status, get_delivery(id).attempts)


def test_unknown_ids_are_passed_over(catcher: MailCatcher) -> None:
    """A delivery that was purged or retracted meanwhile is no error."""
    [id] = put_deliveries()
    assert Delivered(sent=1) == delivering.deliver(transaction, [uuid7(), id])
    assert Delivered() == delivering.deliver(transaction, [])


def test_expired_is_skipped() -> None:
    """From its `expire_at` on a delivery is not sent any more."""
    now = utcnow()
    over, not_yet = put_deliveries(expire_at=now)[0], put_deliveries(expire_at=now + timedelta(seconds=1))[0]

    assert [not_yet] == [one.id for one in claim([over, not_yet], now)]
    row = get_delivery(over)
    assert ("skipped", "expired", None) == (row.status, row.reason, row.parts)


def test_suppressed_since_is_skipped(catcher: MailCatcher) -> None:
    """An address that was suppressed after the delivery was written gets nothing, however its case is written."""
    [id] = put_deliveries(address="Reader@Example.COM")
    with transaction() as session:
        recipients.suppress(session, "reader@example.com", "bounced", utcnow())

    assert Delivered(skipped=1) == delivering.deliver(transaction, [id])
    assert ("skipped", "suppressed") == (get_delivery(id).status, get_delivery(id).reason)
    assert [] == catcher.messages()


def test_event_switched_off_since_is_skipped(catcher: MailCatcher, tmp_path: Path, configure: Configure) -> None:
    """Switching an event off stops what it has under way; other deliveries of the same message go out."""
    stopped = create(ask("reader", context={"title": "Dune"}, should_email=True), now=utcnow())
    assert not stopped.due, "without an address there is nothing to send"
    ids = [*put_deliveries(event="mention"), *put_deliveries(event="book_available"), *put_deliveries(event=None)]
    (tmp_path / "off").mkdir()
    (tmp_path / "off" / "events.toml").write_text(EVENTS.replace("[mention]", "[mention]\nactive = false"))
    configure(CONFIG_DIR=tmp_path / "off")

    assert Delivered(sent=2, skipped=1) == delivering.deliver(transaction, ids)
    assert ("skipped", "event_inactive") == (get_delivery(ids[0]).status, get_delivery(ids[0]).reason)


def test_event_removed_since_is_still_sent(catcher: MailCatcher) -> None:
    """What was accepted while the event was configured keeps its promise."""
    assert Delivered(sent=1) == delivering.deliver(transaction, put_deliveries(event="no_longer_configured"))


def test_urgent_and_oldest_go_first(catcher: MailCatcher) -> None:
    """Within one message urgency counts first, then who waits longest."""
    late, old, urgent = (
        put_deliveries(address=f"{name}@example.com", due_at=ago(seconds=seconds), urgency=urgency)[0]
        for name, seconds, urgency in (("late", 10, 1), ("old", 20, 1), ("urgent", 1, 0))
    )
    delivering.deliver(transaction, [late, old, urgent])
    assert ["urgent", "old", "late"] == [mail["To"].partition("@")[0] for mail in catcher.messages()]


def test_batches_are_claimed_one_by_one(
    catcher: MailCatcher, monkeypatch: pytest.MonkeyPatch, configure: Configure
) -> None:
    """No more than DELIVER_BATCH deliveries are in the hands of one worker at a time."""
    configure(DELIVER_BATCH=2)
    ids = put_deliveries(5)
    in_hand = []
    Accidents(monkeypatch, lambda _: in_hand.append(sum(row.status == "sending" for row in rows(Delivery))))

    assert Delivered(sent=5) == delivering.deliver(transaction, ids)
    assert [2, 1, 2, 1, 1] == in_hand


def test_a_lease_about_to_end_gives_the_rest_back(monkeypatch: pytest.MonkeyPatch, configure: Configure) -> None:
    """What cannot be sent under the lease is free for anyone at once, and no attempt of it is counted."""
    configure(LEASE_SECONDS=100, SMTP_TIMEOUT_SECONDS=5)
    clock = [utcnow()]
    monkeypatch.setattr(delivering, "utcnow", lambda: clock[0])

    def slow(_: int) -> None:
        clock[0] += timedelta(seconds=(100 - delivering.PHASES * 5) / 2)

    channel = Accidents(monkeypatch, slow)
    ids = put_deliveries(5)
    assert Delivered(sent=2, given_back=3) == delivering.deliver(transaction, ids)

    rest = [row for row in rows(Delivery) if row.id not in channel.carried]
    assert [("pending", 0)] * 3 == [(row.status, row.attempts) for row in rest]
    with transaction() as session:
        assert {1: [row.id for row in rest]} == dispatch.take_due(session, clock[0], 10)


def test_a_programming_error_frees_what_was_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error passes; what was sent is sent, what was under way stays claimed, the rest is given back."""

    def third_breaks(number: int) -> None:
        if number == 3:
            raise ZeroDivisionError

    channel = Accidents(monkeypatch, third_breaks)
    ids = put_deliveries(5)
    with pytest.raises(ZeroDivisionError):
        delivering.deliver(transaction, ids)

    states = {row.id: (row.status, row.attempts) for row in rows(Delivery)}
    assert [("sent", 1), ("sent", 1), ("sending", 1)] == [states.pop(id) for id in channel.carried]
    assert [("pending", 0)] * 2 == list(states.values())


def test_each_outcome_is_recorded_before_the_next_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies at any line has at most one mail sent that no row tells of."""
    sent = []
    Accidents(monkeypatch, lambda _: sent.append(sum(row.status == "sent" for row in rows(Delivery))))
    delivering.deliver(transaction, put_deliveries(4))
    assert [0, 1, 2, 3] == sent


def test_an_unreachable_server_takes_nothing_away(configure: Configure) -> None:
    """Nobody listens: every delivery waits with its content and no attempt counted; what was tried says why."""
    configure(SMTP_URL=f"smtp://127.0.0.1:{free_port()}?tls=none")
    assert Delivered(later=1, given_back=1) == delivering.deliver(transaction, put_deliveries(2))

    tried, free = sorted(rows(Delivery), key=lambda row: row.due_at, reverse=True)
    assert [("pending", 0)] * 2 == [(row.status, row.attempts) for row in (tried, free)]
    assert tried.parts
    assert free.parts
    assert tried.due_at > utcnow() > free.lease_until
    assert ("transient", "connect: connection refused") == (tried.reason, tried.last_error)
    assert (None, None) == (free.reason, free.last_error)


def test_a_purged_notification_takes_its_delivery_along() -> None:
    """A delivery never outlives what it tells of, so the channel never sees one without a notification."""
    [id] = put_deliveries()
    with transaction() as session:
        session.delete(session.get_one(Notification, session.get_one(Delivery, id).notification_id))
    assert [] == rows(Delivery)
    change_delivery(id, status="pending")
    assert [] == claim([id])
