"""FOLIO mod-notify and its companions: operations, fields and rules."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.parity.document import adapter, answers, write_events
from tests.smtp_servers import ScriptedSmtp
from tests.store import LATER, NOW, ask, create, filled, listed, put, rows
from worker import deliver as delivering
from worker import inbox, recipients
from worker.database import transaction, utcnow
from worker.embedded.smtp import MailCatcher
from worker.errors import (
    InactiveEvent,
    InvalidContext,
    InvalidEventConfig,
    InvalidRequest,
    TemplateMissing,
    UnknownEvent,
    UnknownRecipient,
)
from worker.events import get_events, load_events
from worker.ids import derive, uuid7
from worker.models import Delivery, Notification, PurgeRun
from worker.purge import purge_seen
from worker.render import render
from worker.request import NotificationRequest

Configure = Callable[..., None]

EVENTS = """
[book_available]
email = true
required = ["title"]
[due]
required = ["due_date"]
kinds = { due_date = "date" }
[switched_off]
active = false
[brief]
retention_days = 7
[bare]
"""
TEMPLATES = {
    "book_available/en/title.txt": "{{ title }} is here",
    "book_available/en/text.txt": "The book is now available for you",
    "book_available/en/email.html": "<p>The book is <b>here</b></p>",
    "book_available/de/title.txt": "{{ title }} ist da",
    "book_available/de/text.txt": "Das Buch liegt bereit",
    "due/en/title.txt": "Due",
    "due/en/text.txt": 'Due on {{ due_date | date("long") }}, {{ due_date | time("short") }}',
    "due/de/title.txt": "Fällig",
    "due/de/text.txt": 'Fällig am {{ due_date | date("long") }}, {{ due_date | time("short") }}',
    "brief/en/title.txt": "Brief",
    "brief/en/text.txt": "Brief",
}
ME, LIBRARY = "77777777-7777-7777-7777-777777777777", "88888888-8888-4888-8888-888888888888"
ITEM = {
    "id": "12345",
    "recipientId": ME,
    "text": "The book is now available for you",
    "link": "items/23456",
}
MAILED = {"id": ME, "email": "reader@example.org"}


@pytest.fixture(autouse=True)
def _events(engine: object, configure: Configure, tmp_path: Path) -> None:
    configure(**write_events(tmp_path, EVENTS, TEMPLATES))


def refused(request: NotificationRequest) -> Exception | None:
    """Why a request was not created; fails if it left any row."""
    error = create(request).refused.get(request.id)
    assert filled() <= {"recipients"}
    return error


def test_document_examples() -> None:
    """FOLIO: the notify item, and the collection with totalRecords; the item's metadata as its schema has it."""
    with transaction() as session:
        found = json.loads(json.dumps(answers("FOLIO", session)))
    at = "2025-03-14T07:30:00.000+00:00"
    metadata = {"createdDate": at, "createdByUserId": LIBRARY, "updatedDate": at, "updatedByUserId": LIBRARY}
    assert found == {
        "GET /notify": {"notifications": [], "totalRecords": 0},
        "GET /notify/{id}": ITEM,
        "whole": {**ITEM, "senderId": LIBRARY, "lang": "en", "seen": False, "metadata": metadata},
    }


def test_fields() -> None:
    """FOLIO: every field of an item that was created here; metadata tells who changed it last."""
    create(ask(ME, sender_id=LIBRARY, link="items/23456", lang="de"))
    [row] = rows(Notification)
    with transaction() as session:
        item = adapter("FOLIO").notify_item(inbox.mark_seen(session, ME, row.id))
    about = {"eventConfigName": "book_available", "lang": "de", "context": {"title": "Dune"}, "seen": True}
    written = {"recipientId": ME, "senderId": LIBRARY, "text": "Das Buch liegt bereit", "link": "items/23456"}
    assert {name: item[name] for name in (*about, *written)} == {**about, **written}
    assert (item["metadata"]["createdByUserId"], item["metadata"]["updatedByUserId"]) == (LIBRARY, ME)


@pytest.mark.parametrize("wrong", [{"to": []}, {"to": ME, "id": "12345"}, {"to": ME, "text": "no title"}])
def test_create_refused(wrong: dict[str, Any]) -> None:
    """FOLIO: no recipient or a malformed id is its 422."""
    with pytest.raises(InvalidRequest):
        NotificationRequest.parse({"event_config_name": "book_available", **wrong})


def test_create() -> None:
    """FOLIO: with or without an event, with an id of the client's own; here a repeat adds nothing."""
    id = uuid7()
    request = ask(ME, None, title="News", text="Open late", link="items/1", id=id)
    assert [create(request).repeated for _ in range(2)] == [0, 1]
    create(ask(ME), now=LATER)
    assert [row.id for row in rows(Notification) if row.event_config_name is None] == [derive(id, ME)]
    assert [row.text for row in listed(ME).items] == ["The book is now available for you", "Open late"]


def test_create_whole_or_not() -> None:
    """FOLIO: an unknown event is its 400, after it saved the row; here nothing is saved, nor of a switched-off one."""
    assert isinstance(refused(ask(ME, "CREATE_PASSWORD")), UnknownEvent)
    assert isinstance(refused(ask(ME, "switched_off")), InactiveEvent)
    assert isinstance(refused(ask(ME, "due")), InvalidContext)


def test_list() -> None:
    """FOLIO: query, offset and limit with totalRecords; one's own alone by `_self`, ten unless said otherwise."""
    ids = [str(put(ME, NOW + timedelta(seconds=n), link=f"items/{n % 2}")) for n in range(15)]
    put("other", NOW)
    page = adapter("FOLIO").collection
    with transaction() as session:
        own = page(session, recipient_id=ME)
        assert ([one["id"] for one in own["notifications"]], own["totalRecords"]) == (ids[:4:-1], 15)
        assert page(session)["totalRecords"] == 16
        odd = page(session, 'link=="items/1" sortby createdDate', offset=5, limit=10, recipient_id=ME)
        assert ([one["id"] for one in odd["notifications"]], odd["totalRecords"]) == ([ids[11], ids[13]], 7)
        assert page(session, limit=0, recipient_id=ME) == {"notifications": [], "totalRecords": 15}
        same = inbox.list(session, ME, query='link=="items/1" sortby createdDate', offset=5, per_page=10)
        assert ([str(row.id) for row in same.items], same.total) == ([ids[11], ids[13]], 7)


def test_by_username() -> None:
    """FOLIO: `_username` looks the user up; here any character of a name is only a character."""
    name = 'o"neil* or cql.allRecords=1'
    with transaction() as session:
        recipients.upsert(session, [{"id": ME, "username": name}, {"id": "other", "username": "plain"}])
    assert isinstance(refused(ask({"username": "nobody"})), UnknownRecipient)
    create(ask({"username": name}))
    assert [row.recipient_id for row in rows(Notification)] == [ME]


def test_update() -> None:
    """FOLIO: PUT, 404 for what is not there; here it purges nothing by the way and does not rewrite what was shown."""
    id = put(ME, NOW)
    old = put(ME, NOW - timedelta(days=800), seen_at=NOW - timedelta(days=800))
    ours = adapter("FOLIO")
    with transaction() as session:
        assert ours.put(session, ME, str(id), True)
        assert not ours.put(session, ME, str(uuid7()), True)
        assert not ours.put(session, "other", str(id), False)
        assert inbox.get(session, ME, old) is not None


def test_housekeeping() -> None:
    """FOLIO: seen rows go after 365 days, at a PUT; here by a run of its own, after an event's own days."""
    then = utcnow() - timedelta(days=8)
    for values in ({"event_config_name": "brief"}, {"event_config_name": "due"}):
        put(ME, then, seen_at=then, **values)
    put(ME, then, event_config_name="brief")
    assert purge_seen(transaction, now=utcnow()).removed == 1
    assert [run.removed for run in rows(PurgeRun)] == [1]


def test_delete() -> None:
    """FOLIO: DELETE of one, 404 for none."""
    id = put(ME, NOW)
    with transaction() as session:
        assert [inbox.delete(session, ME, id) for _ in range(2)] == [True, False]


def test_purge_own_seen() -> None:
    """FOLIO: `_self?olderthan` removes one's own seen rows before that, or all; here none is no 404."""
    for n, seen_at in enumerate([NOW, NOW, None]):
        put(ME, NOW + timedelta(minutes=n), seen_at=seen_at)
    put("other", NOW, seen_at=NOW)
    ours = adapter("FOLIO")
    with transaction() as session:
        found = [ours.purge_own(session, ME, cutoff) for cutoff in (NOW, NOW + timedelta(seconds=1), None, None)]
    assert found == [0, 1, 1, 0]
    assert len(rows(Notification)) == 2


def test_patron_notice(configure: Configure, tmp_path: Path) -> None:
    """FOLIO: /patron-notice sends to a patron at once, whatever they prefer, and their inbox has nothing of it."""
    with MailCatcher(tmp_path / "mails") as server:
        configure(SMTP_URL=server.url)
        with transaction() as session:
            recipients.set_preference(session, ME, "book_available", enabled=False)
        due = create(ask(MAILED, should_email=True, inbox=False), now=utcnow()).due
        delivering.deliver(transaction, due[1])
        [mail] = server.messages()
    assert (mail["Subject"], listed(ME).items) == ("Dune is here", [])
    assert [(row.status, row.attempts) for row in rows(Delivery)] == [("sent", 1)]


def test_event_config(tmp_path: Path) -> None:
    """FOLIO: unique names, `active`, templates; here with the context that each event needs, checked."""
    assert get_events()["book_available"].required == ("title",)
    assert not get_events()["switched_off"].active
    path = tmp_path / "events.toml"
    path.write_text("[twice]\n[twice]\n", encoding="utf-8")
    with pytest.raises(InvalidEventConfig):
        load_events(path)


def test_template_engine() -> None:
    """FOLIO: dates by locale and zone; an unknown language is its 400, here it falls back."""
    values = {"due_date": "2026-03-14T22:30:00Z"}
    assert render("due", "de", values, timezone="Europe/Berlin").text == "Fällig am 14. März 2026, 23:30"
    assert render("due", "de-AT", values, timezone="Europe/Berlin").lang == "de"
    assert render("due", "sv", values).lang == "en"
    with pytest.raises(TemplateMissing):
        render("bare", "en", {})


def test_sender_checks_first() -> None:
    """FOLIO: mod-sender checks first, then fires and forgets; here each mail is a row that says what became of it."""
    assert isinstance(refused(ask([MAILED, {"username": "nobody"}])), UnknownRecipient)
    create(ask([MAILED, "without address"]))
    assert sorted((row.status, row.reason) for row in rows(Delivery)) == [("pending", None), ("skipped", "no_address")]


@pytest.mark.parametrize(
    ("answer", "status", "attempts"),
    [("451 4.3.0 come back", "pending", 1), ("550 5.1.1 unknown mailbox", "failed", 1), (None, "sent", 1)],
)
def test_mod_email(configure: Configure, answer: str | None, status: str, attempts: int) -> None:
    """FOLIO: status and attemptCount; here a permanent failure is not retried, and the log leads back."""
    with ScriptedSmtp({"rcpt": answer} if answer else {}) as server:
        configure(SMTP_URL=server.url + "?tls=none")
        due = create(ask(MAILED), now=utcnow()).due
        delivering.deliver(transaction, due[1])
    with transaction() as session:
        joined = select(Delivery, Notification).join(Notification, Notification.id == Delivery.notification_id)
        [(mail, about)] = session.execute(joined)
        assert (mail.status, mail.attempts, about.recipient_id) == (status, attempts, ME)
        assert (mail.due_at > utcnow()) == (status == "pending")


def test_mod_email_parts() -> None:
    """FOLIO: one part, html or text; here both."""
    create(ask(MAILED))
    [mail] = rows(Delivery)
    assert mail.parts is not None
    assert "The book is now available for you" in mail.parts["text"]
    assert "<b>here</b>" in mail.parts["html"]


def test_ids() -> None:
    """FOLIO: a client's id leads to its notification."""
    id = uuid7()
    create(ask(ME, id=id))
    with transaction() as session:
        row = inbox.get(session, ME, derive(id, ME))
        assert row is not None
        assert row.request_id == id
