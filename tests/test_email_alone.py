"""What no inbox shows: an event turned off there, or a request for the email alone."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.store import LATER, NOW, ask, create, listed, rows
from worker import inbox, recipients
from worker.database import transaction
from worker.errors import InvalidRequest
from worker.inbox import Counts
from worker.models import Delivery, Notification, Preference
from worker.purge import purge_seen
from worker.request import NotificationRequest

PAUL = {"id": "paul", "email": "paul@example.org"}
CHANI = {"id": "chani", "email": "chani@example.org"}
FOLLOWS = {"sender_id": "chani", "object_type": "user", "object_id": "chani", "context": {"who": "Chani"}}

pytestmark = pytest.mark.usefixtures("engine", "catalogue")


def turn_off(event: str, enabled: bool = False) -> None:
    with transaction() as session:
        recipients.set_preference(session, "paul", event, enabled, channel="inbox")


def shown() -> list[tuple[str, str | None]]:
    return [(who, item.event_config_name) for who in ("chani", "paul") for item in listed(who).items]


def test_an_event_turned_off_in_the_inbox() -> None:
    """Neither shown nor counted there; others are told, and its email goes, by the rules of emails alone."""
    turn_off("book_available")
    done = create(ask([PAUL, CHANI], should_email=True))
    assert [("chani", "book_available")] == shown()
    assert (2, 2, 0) == (len(done.due[1]), done.notifications, done.left_out)
    with transaction() as session:
        assert Counts(0, 0) == inbox.counts(session, "paul")
        assert {row["id"] for row in recipients.export(session, "paul")["notifications"]}
    sent = {row.address: (row.status, row.expire_at) for row in rows(Delivery)}
    assert {"paul@example.org": ("pending", None), "chani@example.org": ("pending", None)} == sent
    turn_off("book_available", enabled=True)
    create(ask(PAUL))
    assert [("chani", "book_available"), ("paul", "book_available")] == shown()


def test_without_an_email_there_is_no_row() -> None:
    """It is only said how many are left out."""
    turn_off("book_available")
    done = create(ask([PAUL, CHANI], should_email=False))
    assert (["chani"], 1, 1) == ([row.recipient_id for row in rows(Notification)], done.notifications, done.left_out)


def test_an_email_that_is_skipped_is_recorded() -> None:
    """Why there was none can be seen, as for any other."""
    turn_off("book_available")
    create(ask("paul", should_email=True))
    assert ([], [("skipped", "no_address")]) == (shown(), [(row.status, row.reason) for row in rows(Delivery)])


def test_a_mandatory_event_is_always_shown(engine: Engine) -> None:
    """Even where it could be turned off before."""
    with transaction() as session:
        names = {"recipient_id": "paul", "event_config_name": "password_reset", "channel": "inbox", "enabled": False}
        session.add(Preference(**names))
    create(ask(PAUL, "password_reset", context={"link": "https://example.org/r"}))
    assert [("paul", "password_reset")] == shown()


@pytest.mark.parametrize(
    "fields", [{}, {"should_email": True}, {"send_at": LATER, "expire_at": LATER + timedelta(days=9)}]
)
def test_a_request_for_the_email_alone(fields: dict[str, Any]) -> None:
    """FOLIO's patron notice: the row only keeps the record of the mail; it can be read by nobody, now or later."""
    asked = ask(PAUL, inbox=False, **fields)
    assert asked == NotificationRequest.parse(asked.to_wire())
    create(asked)
    [row], [mail] = rows(Notification), rows(Delivery)
    assert (fields.get("expire_at"), "pending") == (mail.expire_at, mail.status)
    assert row.created_at == row.expire_at == row.seen_at == mail.due_at
    with transaction() as session:
        assert inbox.get(session, "paul", row.id) is None
        assert inbox.mark_seen(session, "paul", row.id, seen=False) is None


def test_the_email_alone_and_no_email_is_nothing() -> None:
    """Refused by its fields."""
    with pytest.raises(InvalidRequest, match="should_email"):
        ask(PAUL, inbox=False, should_email=False)
    done = create(ask(PAUL, "quiet", inbox=False))  # this event has none by default
    assert ([], 1) == (rows(Notification), done.left_out)


def test_the_purge_takes_the_record_once_the_mail_has_gone() -> None:
    """As one that was seen when it came: it does not pile up."""
    create(ask(PAUL, inbox=False))
    late = NOW + timedelta(days=91)
    assert 0 == purge_seen(transaction, now=late).removed
    with transaction() as session:
        session.get_one(Delivery, rows(Delivery)[0].id).status = "sent"
    assert (1, []) == (purge_seen(transaction, now=late).removed, rows(Notification))


@pytest.mark.parametrize("off", ["follow", "follow_request"])
def test_what_is_hidden_supersedes_nothing(off: str) -> None:
    """FitTrackee: with `follow` off the request stays as it is; with the request off, `follow` is a new row."""
    turn_off(off)
    create(ask(PAUL, "follow_request", **FOLLOWS))
    create(ask(PAUL, "follow", **FOLLOWS), now=LATER)
    kept = {"follow": ("follow_request", NOW), "follow_request": ("follow", LATER)}[off]
    assert [kept] == [(item.event_config_name, item.created_at) for item in listed().items]
    assert 2 == len(rows(Notification))
