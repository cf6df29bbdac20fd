"""Labii: its operations, its fields and its rules."""

import json
from collections.abc import Callable
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from tests.parity.document import adapter, answers, write_events
from tests.store import LATER, NOW, ask, by_recipient, create, listed, put, rows
from worker import deliver as delivering
from worker import inbox, recipients
from worker.database import transaction, utcnow
from worker.embedded.smtp import MailCatcher
from worker.errors import UnknownParent
from worker.ids import uuid7
from worker.models import Delivery, Notification
from worker.purge import purge_seen

Configure = Callable[..., None]

EVENTS = """
[filter_digest]
email = true
required = ["filter_name", "date", "rows"]
kinds = { date = "date", rows = "list" }
"""
TEMPLATES = {
    "filter_digest/en/title.txt": "Filter digest for {{ filter_name }} on {{ date }}",
    "filter_digest/en/text.txt": "",
    "filter_digest/en/email.html": "<ul>{% for row in rows %}<li>{{ row.name }}</li>{% endfor %}</ul>",
}
DIGEST: dict[str, Any] = {
    "sid": "ILOR0a40x5dKPUZ50ej",
    "parent": None,
    "From": {"sid": "Labii", "name": "Labii"},
    "name": "Filter digest for My experiments on 2021-03-14",
    "body": "",
    "rows": [],
    "is_read": True,
    "updated_by": None,
    "date_updated": "2021-03-14T20:57:37.077810Z",
    "date_created": "2021-03-14T20:57:37.073960Z",
    "change_permission": True,
}
PAGE = {
    "page_size": 10,
    "page_number": 1,
    "page_count": 2,
    "count": 12,
    "next": 2,  # in Labii's example null, though there is a second page
    "previous": None,
    "add_permission": True,
}
NAME = {"sid": "adgj0a40xb7chmrwBGL", "name": "New version v5.0 released"}
LIST = {**NAME, "From": {"sid": "Labii", "name": "Labii"}, "is_read": False, "change_permission": True}


@pytest.fixture(autouse=True)
def _events(engine: object, configure: Configure, tmp_path: Path) -> None:
    configure(**write_events(tmp_path, EVENTS, TEMPLATES))


def message(to: Any, name: str = "Fridge", body: str = "It is warm", **fields: Any) -> Any:
    """A message from one member to others."""
    return ask(to, None, title=name, text=body, sender_id="bob", **fields)


def test_document_examples() -> None:
    """Labii: each serializer's page and first result, the detail, and the deletion; `next` is where it goes on."""
    with transaction() as session:
        found = json.loads(json.dumps(answers("Labii", session)))
    firsts = {name: found[name]["results"][0] for name in found if name.startswith("serializer")}
    assert firsts == {"serializer = detail": DIGEST, "serializer = name": NAME, "serializer = list": LIST}
    for name in firsts:
        assert len(found[name].pop("results")) == 10
        assert found[name] == PAGE
    assert (found["GET detail"], found["DELETE detail"]) == (DIGEST, {})


def test_list() -> None:
    """Labii: only what is addressed to you, of one organisation, ten to a page."""
    for n in range(12):
        put("ann", NOW + timedelta(seconds=n), scope="org")
    put("ann", NOW, scope="another")
    put("bob", NOW, scope="org")
    page = adapter("Labii").listed
    with transaction() as session:
        second = page(session, "ann", page=2, scope="org")
    assert (len(second["results"]), second["count"], second["page_count"]) == (2, 12, 2)
    assert (second["next"], second["previous"]) == (None, 1)


def test_serializers() -> None:
    """Labii: name, list and detail are the depths of our own JSON, too."""
    create(message("ann"))
    [row] = rows(Notification)
    shown = [inbox.as_dict(row, depth) for depth in ("name", "list", "detail")]
    assert shown[0] == {"id": str(row.id), "title": "Fridge"}
    assert shown[0].items() <= shown[1].items() <= shown[2].items()
    assert (shown[1]["sender_id"], shown[1]["seen"]) == ("bob", False)
    assert "text" not in shown[1]
    assert shown[2]["text"] == "It is warm"


def test_create() -> None:
    """Labii: POST to several, with subject and body."""
    create(message(["ann", "cleo"], scope="org"))
    found = by_recipient()
    assert set(found) == {"ann", "cleo"}
    ours = adapter("Labii")
    with transaction() as session:
        [shown] = ours.listed(session, "ann", "detail", scope="org")["results"]
    assert (shown["name"], shown["body"], shown["From"]["sid"]) == ("Fridge", "It is warm", "bob")


def test_create_with_parent() -> None:
    """Labii: `parent` is the notification that this one answers, each recipient's own; here one that exists."""
    first = message(["ann", "cleo"])
    create(first)
    create(message(["ann", "cleo"], name="Re: Fridge", parent_id=first.id), now=LATER)
    ours = adapter("Labii")
    with transaction() as session:
        for who in ("ann", "cleo"):
            answer, asked = ours.listed(session, who, "detail")["results"]
            assert answer["parent"] == {"sid": asked["sid"], "name": "Fridge"}
            assert [row.title for row in inbox.list(session, who, parent_id=asked_id(asked)).items] == ["Re: Fridge"]

    wrong = message("ann", parent_id=uuid7())
    assert isinstance(create(wrong).refused[wrong.id], UnknownParent)


def asked_id(shown: dict[str, Any]) -> Any:
    """Our id of what Labii's shape shows."""
    return adapter("Labii").new_id(shown["sid"])


def test_mails_of_a_thread(configure: Configure, tmp_path: Path) -> None:
    """Labii: the mail of an answer is shown beside the one that it answers."""
    ann = {"id": "ann", "email": "ann@example.org"}
    with MailCatcher(tmp_path / "mails") as server:
        configure(SMTP_URL=server.url)
        first = message(ann, should_email=True)
        for request in (first, message(ann, name="Re: Fridge", parent_id=first.id, should_email=True)):
            delivering.deliver(transaction, create(request, now=utcnow()).due[1])
        mails: dict[str, EmailMessage] = {mail["Subject"]: mail for mail in server.messages()}
    assert mails["Re: Fridge"]["References"] == mails["Fridge"]["Message-ID"]


def test_should_email() -> None:
    """Labii: `should_email` sends whatever the user's settings; here not to a suppressed address."""
    with transaction() as session:
        recipients.set_preference(session, "ann", "filter_digest", enabled=False)
        recipients.suppress(session, "bob@example.org", "bounced", NOW)
    to = [{"id": name, "email": f"{name}@example.org"} for name in ("ann", "bob")]
    context = {"filter_name": "Mine", "date": "2021-03-14", "rows": []}
    create(ask(to, "filter_digest", context=context, should_email=True))
    assert {row.address: row.reason for row in rows(Delivery)} == {
        "ann@example.org": None,
        "bob@example.org": "suppressed",
    }


def test_detail() -> None:
    """Labii: a GET of the detail marks it read; here reading changes nothing, and who shows it marks it."""
    id = put("ann", NOW)
    ours = adapter("Labii")
    with transaction() as session:
        row = inbox.get(session, "ann", id)
        assert row is not None
        assert not ours.detail(session, row)["is_read"]
        assert inbox.unseen_count(session, "ann") == 1
        assert ours.show(session, "ann", str(id))["is_read"]
        assert ours.show(session, "bob", str(id)) is None


def test_update_and_delete() -> None:
    """Labii: PATCH and DELETE of one's own."""
    id = put("ann", NOW)
    with transaction() as session:
        assert inbox.mark_seen(session, "bob", id) is None
        assert inbox.mark_seen(session, "ann", id) is not None
        assert [inbox.delete(session, who, id) for who in ("bob", "ann", "ann")] == [False, True, False]


def test_digest() -> None:
    """Labii: one notification of many rows, which it carries, and shows in its mail."""
    found = [{"name": "Buffer stability"}, {"name": "Control series"}]
    context = {"filter_name": "My experiments", "date": "2021-03-14", "rows": found}
    create(ask({"id": "ann", "email": "ann@example.org"}, "filter_digest", context=context, sender_id="Labii"))
    [row], [mail] = rows(Notification), rows(Delivery)
    with transaction() as session:
        shown = adapter("Labii").detail(session, row)
    assert (shown["name"], shown["body"], shown["rows"]) == (DIGEST["name"], "", found)
    assert mail.parts is not None
    assert "<li>Control series</li>" in mail.parts["html"]


def test_absent() -> None:
    """Labii: what it has not - mark all, filters, search, purge."""
    create(message("ann"), message("ann", name="Freezer", body="It is cold"), message("ann", name="Lid"))
    assert {row.title for row in listed("ann", search="cold").items} == {"Freezer"}
    assert len(listed("ann", sender_id="bob", seen=False, since=NOW).items) == 3
    with transaction() as session:
        assert inbox.mark_all_seen(session, "ann") == 3
    assert purge_seen(transaction, now=utcnow() + timedelta(days=400)).removed == 3
