"""Requests become rows: who gets which text, which email, and what is refused before any row exists."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.store import NOW, ask, by_recipient, create, filled, rows, undone
from worker import create as creating
from worker import recipients
from worker.database import transaction
from worker.errors import (
    BellhopError,
    EmptyGroup,
    InactiveEvent,
    InvalidContext,
    InvalidTimezone,
    TemplateFailed,
    UnknownEvent,
    UnknownRecipient,
)
from worker.ids import derive
from worker.models import URGENCY, Delivery, Notification, Preference, Request

pytestmark = pytest.mark.usefixtures("catalogue")

HOUR = timedelta(hours=1)


@pytest.fixture
def directory(catalogue: None, engine: Engine) -> None:
    """Three readers of three languages; Chani has no address."""
    with transaction() as session:
        recipients.upsert(
            session,
            [
                {"id": "paul", "username": "muaddib", "email": "paul@example.org", "lang": "de"},
                {"id": "chani", "lang": "pt-BR"},
                {"id": "stilgar", "email": "stilgar@example.org"},
            ],
        )
        recipients.set_group(session, "fremen", ["paul", "chani", "stilgar"])


@pytest.mark.usefixtures("directory")
def test_each_reads_in_their_own_language() -> None:
    """One request, three languages; the row tells the language used and the one asked for."""
    done = create(ask({"group": "fremen"}))
    assert (3, 3, 0, {}) == (done.notifications, done.deliveries, done.repeated, done.refused)
    told = {who: (row.lang_asked, row.lang, row.title) for who, row in by_recipient().items()}
    assert told == {
        "paul": ("de", "de", "Dune ist da"),
        "chani": ("pt-BR", "pt", "Dune chegou"),
        "stilgar": ("en", "en", "Dune is here"),
    }


@pytest.mark.usefixtures("directory")
def test_a_row_holds_what_was_asked() -> None:
    """Every field of the request that belongs to the notification, with its times."""
    first = ask("paul")
    create(first)
    about = {"sender_id": "jessica", "link": "/books/1", "scope": "arrakis", "object_type": "book", "object_id": "1"}
    request = ask("stilgar", parent_id=first.id, should_email=False, **about)
    create(request)
    row = by_recipient()["stilgar"]
    assert about == {name: getattr(row, name) for name in about}
    parent = derive(first.id, "stilgar")
    assert (parent, request.id, "book_available") == (row.parent_id, row.request_id, row.event_config_name)
    assert ("Dune is here", "Pick up Dune.", {"title": "Dune"}) == (row.title, row.text, row.context)
    assert (NOW, NOW, None, None) == (row.created_at, row.updated_at, row.seen_at, row.expire_at)
    [record] = [row for row in rows(Request) if row.id == request.id]
    assert (request.id, "created", None) == (record.id, record.status, record.payload)


@pytest.mark.usefixtures("directory")
def test_literal_text_needs_no_event() -> None:
    """Title and text of the request itself; an email only if it is asked for."""
    create(ask("paul", None, title="Hello", text="No template here."), ask("paul", None, title="Hi", should_email=True))
    kept = sorted((row.title, row.text, row.lang) for row in rows(Notification))
    assert [("Hello", "No template here.", "de"), ("Hi", "", "de")] == kept
    assert {(None, None)} == {(row.event_config_name, row.context) for row in rows(Notification)}
    (delivery,) = rows(Delivery)
    assert delivery.parts is not None
    assert ("Hi", "Hi") == (delivery.parts["subject"], delivery.parts["text"].strip())


@pytest.mark.usefixtures("directory")
def test_a_delivery_holds_the_rendered_mail() -> None:
    """Address and parts are written with the notification, and the delivery is ready to hand over."""
    done = create(ask("stilgar"))
    (row,) = rows(Delivery)
    assert row.parts is not None
    assert {"subject", "text", "html"} <= set(row.parts)
    assert ("Dune is here", "Pick up Dune.") == (row.parts["subject"], row.parts["text"].strip())
    assert "Pick up <b>Dune</b>." in row.parts["html"]
    assert ("email", "stilgar@example.org", "pending", None) == (row.channel, row.address, row.status, row.reason)
    assert (0, NOW, URGENCY["normal"]) == (row.attempts, row.due_at, row.urgency)
    assert row.lease_until > NOW
    assert {URGENCY["normal"]: [row.id]} == done.due


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize(
    ("to", "event", "should_email", "expected"),
    [
        ("stilgar", "book_available", None, ("pending", None)),
        ("stilgar", "book_available", True, ("pending", None)),
        ("stilgar", "book_available", False, None),
        ("stilgar", "quiet", None, None),
        ("stilgar", "quiet", True, ("pending", None)),
        ("chani", "book_available", None, ("skipped", "no_address")),
        ("chani", "quiet", None, None),
        ({"id": "chani", "email": "c@example.org"}, "book_available", None, ("pending", None)),
        ("paul", "book_available", None, ("skipped", "preference")),
        ("paul", "book_available", True, ("pending", None)),
        ("paul", "password_reset", None, ("pending", None)),
        ({"id": "paul", "email": "Lost@Example.org"}, "password_reset", None, ("skipped", "suppressed")),
        ({"id": "paul", "email": "LOST@example.org"}, "book_available", True, ("skipped", "suppressed")),
        ({"id": "nobody-we-know"}, "book_available", None, ("skipped", "no_address")),
    ],
)
def test_whether_there_is_an_email_and_why_not(
    to: Any, event: str, should_email: bool | None, expected: tuple[str, str | None] | None
) -> None:
    """Whatever becomes of the email, the notification is there, and an email that was not sent says why."""
    with transaction() as session:
        recipients.set_preference(session, "paul", "book_available", enabled=False)
        # Set before the event's config made it mandatory.
        session.add(Preference(recipient_id="paul", event_config_name="password_reset", channel="email", enabled=False))
        recipients.suppress(session, "lost@EXAMPLE.org", "bounced", NOW)
    context = {"link": "https://example.org/r"} if event == "password_reset" else {"title": "Dune"}
    done = create(ask(to, event, should_email=should_email, context=context))
    assert 1 == len(rows(Notification))
    assert ([expected] if expected else []) == [(row.status, row.reason) for row in rows(Delivery)]
    assert [row.status == "pending" for row in rows(Delivery)] == ([bool(done.due)] if expected else [])
    assert all((row.parts is None) == (row.status == "skipped") for row in rows(Delivery))


@pytest.mark.usefixtures("directory")
def test_urgent_deliveries_are_handed_over_apart() -> None:
    """A mail of high priority is due under its own urgency."""
    done = create(ask("paul"), ask("paul", "password_reset", context={"link": "https://example.org/r"}))
    assert {URGENCY["high"]: 1, URGENCY["normal"]: 1} == {urgency: len(ids) for urgency, ids in done.due.items()}


@pytest.mark.usefixtures("directory")
def test_secrets_are_mailed_but_not_kept() -> None:
    """A secret context name is in the mail, and neither in the context nor anywhere else in the notification."""
    create(ask("stilgar", "password_reset", context={"link": "https://example.org/CANARY"}))
    (row,), (delivery,), (record,) = rows(Notification), rows(Delivery), rows(Request)
    assert row.context is None
    assert not [column for column in Notification.__table__.columns if "CANARY" in str(getattr(row, column.key))]
    assert "CANARY" in str(delivery.parts)
    assert record.payload is None


@pytest.mark.usefixtures("directory")
def test_send_at_comes_into_being_later() -> None:
    """Notification and email are due at that moment; nothing is handed over now."""
    done = create(ask("stilgar", send_at=NOW + HOUR))
    (row,), (delivery,) = rows(Notification), rows(Delivery)
    assert [NOW + HOUR] * 3 == [row.created_at, delivery.due_at, delivery.lease_until]
    assert ({}, "pending") == (done.due, delivery.status)


@pytest.mark.usefixtures("directory")
def test_send_at_in_the_past_is_now() -> None:
    """A request that waited longer than it meant to is due at once, and not dated back."""
    done = create(ask("stilgar", send_at=NOW - HOUR))
    (row,) = rows(Notification)
    assert (NOW, 1) == (row.created_at, len(done.due))


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize(
    ("expire_at", "expected"),
    [(NOW + HOUR, ("pending", None)), (NOW, ("skipped", "expired")), (NOW - HOUR, ("skipped", "expired"))],
)
def test_expire_at(expire_at: Any, expected: tuple[str, str | None]) -> None:
    """It is written to both rows; an email that is too late already is never pending."""
    done = create(ask("stilgar", expire_at=expire_at))
    (row,), (delivery,) = rows(Notification), rows(Delivery)
    assert (expire_at, expire_at) == (row.expire_at, delivery.expire_at)
    assert expected == (delivery.status, delivery.reason)
    assert bool(done.due) == (expected[0] == "pending")


@pytest.mark.usefixtures("directory")
def test_the_sender_is_not_told_of_their_own_doing() -> None:
    """Neither by a notification nor by email; the others are."""
    create(ask({"group": "fremen"}, "mention", sender_id="paul", context={"who": "Paul"}))
    assert {"chani", "stilgar"} == set(by_recipient())
    assert 2 == len(rows(Delivery))


@pytest.mark.usefixtures("directory")
def test_an_event_may_tell_the_sender_too(configure: Callable[..., None], tmp_path: Path) -> None:
    """With `to_self` the sender is a recipient like the others."""
    events = tmp_path / "catalogue" / "config" / "events.toml"
    events.write_text(events.read_text().replace("to_self = false", "to_self = true"))
    configure()
    create(ask({"group": "fremen"}, "mention", sender_id="paul", context={"who": "Paul"}))
    assert {"chani", "paul", "stilgar"} == set(by_recipient())


WRONG: Mapping[str, tuple[type[BellhopError], dict[str, Any]]] = {
    "unknown event": (UnknownEvent, {"to": "paul", "event_config_name": "nothing", "context": {}}),
    "inactive event": (InactiveEvent, {"to": "paul", "event_config_name": "off", "context": {}}),
    "missing context": (InvalidContext, {"to": "paul", "context": {"pickup_location": "CANARY"}}),
    "undeclared context": (InvalidContext, {"to": "paul", "context": {"title": "CANARY", "author": "CANARY"}}),
    "wrong kind": (InvalidContext, {"to": "paul", "context": {"title": ["CANARY"]}}),
    "unknown username": (UnknownRecipient, {"to": ["paul", {"username": "CANARY"}]}),
    "empty group": (EmptyGroup, {"to": ["paul", {"group": "CANARY"}]}),
    "bad zone": (InvalidTimezone, {"to": ["paul", {"id": "chani", "timezone": "Mars/CANARY"}]}),
    "template failure": (TemplateFailed, {"to": "paul", "event_config_name": "quiet", "context": {"title": "CANARY"}}),
}


@pytest.fixture
def broken_template(catalogue: None, configure: Callable[..., None], tmp_path: Path) -> None:
    """The last line of a text cannot be rendered."""
    path = tmp_path / "catalogue" / "templates" / "quiet" / "en" / "text.txt"
    path.write_text("{{ title }}{{ title.no.such.thing }}")
    configure()


@pytest.mark.usefixtures("directory", "broken_template")
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_leaves_no_row(name: str) -> None:
    """It is named in `refused` with its error, which shows no value; no table has a row for it."""
    error, fields = WRONG[name]
    request = ask(**fields)
    done = create(request)
    assert ({request.id}, 0, 0, {}) == (set(done.refused), done.notifications, done.deliveries, done.due)
    assert error is type(done.refused[request.id])
    assert "CANARY" not in str(done.refused[request.id])
    assert {"recipients", "recipient_groups"} == filled()


@pytest.mark.usefixtures("directory", "broken_template")
def test_the_others_of_the_batch_are_created() -> None:
    """Wrong requests between right ones take nothing away from them."""
    wrong = [ask(**fields) for _error, fields in WRONG.values()]
    right = [ask(f"reader-{n}") for n in range(len(wrong))]
    done = create(*(request for pair in zip(wrong, right, strict=True) for request in pair))
    assert {one.id for one in wrong} == set(done.refused)
    assert {f"reader-{n}" for n in range(len(right))} == set(by_recipient())
    assert {one.id for one in right} == {row.id for row in rows(Request)}


@pytest.mark.usefixtures("directory")
def test_a_request_that_was_wrong_can_be_asked_again(configure: Callable[..., None], tmp_path: Path) -> None:
    """What was refused is not remembered: mended, the same request is created."""
    path = tmp_path / "catalogue" / "templates" / "book_available" / "de" / "text.txt"
    good = path.read_text()
    request = ask("paul", idempotency_key="once")
    path.write_text("{{ nothing }}")
    configure()
    assert {request.id} == set(create(request).refused)
    path.write_text(good)
    configure()
    assert 1 == create(request).notifications


@pytest.mark.usefixtures("directory")
def test_an_error_of_the_transaction_takes_everything_back() -> None:
    """Creation is part of the caller's transaction: with it, it is undone."""
    with undone() as session:
        assert 1 == creating.create(session, [ask("paul")], now=NOW).notifications
    assert {"recipients", "recipient_groups"} == filled()
