"""Endurain: its functions, its fields and its rules."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.parity.document import adapter, answers, plain_templates, write_events
from tests.servers import RedisTestServer, wait_until
from tests.store import LATER, NOW, ask, by_recipient, create, filled, listed, put, rows, undone
from worker import create as creating
from worker import inbox, recipients
from worker.database import transaction
from worker.errors import InvalidContext, InvalidRequest
from worker.events import load_events
from worker.models import Delivery, Notification
from worker.purge import purge_seen
from worker.request import NotificationRequest
from worker.retract import retract
from worker.settings import get_settings

Configure = Callable[..., None]

EVENTS = """
[new_activity]
required = ["activity_id"]
kinds = { activity_id = "number" }
[duplicate_activity]
required = ["activity_id"]
[new_follower_request]
required = ["user_id", "user_name", "user_username"]
[new_follower_request_accepted]
required = ["user_id", "user_name", "user_username"]
[admin_new_sign_up_approval_request]
email = true
required = ["user_id", "user_name", "user_username"]
[password_reset]
email = true
required = ["link"]
secret = ["link"]
"""
NAMES = ("new_activity", "duplicate_activity", "new_follower_request", "new_follower_request_accepted")
TEMPLATES = plain_templates(*NAMES, "admin_new_sign_up_approval_request", "password_reset") | {
    "new_follower_request/en/text.txt": "{{ user_name }} asks to follow you",
    "new_follower_request/pt/title.txt": "Novo pedido",
    "new_follower_request/pt/text.txt": "{{ user_name }} quer seguir você",
    "password_reset/de/title.txt": "Neues Passwort",
    "password_reset/de/text.txt": "Wir haben dir einen Link geschickt",
    "password_reset/de/email.txt": "Hier: {{ link }}",
    "password_reset/de/email.html": "<a href='{{ link }}'>Hier</a>",
}
JOHN = {"user_id": 12, "user_name": "John Doe", "user_username": "johndoe"}


@pytest.fixture(autouse=True)
def _events(engine: object, configure: Configure, tmp_path: Path) -> None:
    configure(**write_events(tmp_path, EVENTS, TEMPLATES))


def activity(to: Any = "42", event: str = "new_activity", number: int = 4711, **fields: Any) -> NotificationRequest:
    """An activity's notification."""
    return ask(to, event, context={"activity_id": number}, **fields)


def test_document_examples() -> None:
    """Endurain: NotificationRead, and what each function of the page answers."""
    with transaction() as session:
        found = json.loads(json.dumps(answers("Endurain", session)))
    shown = {"id": 7, "user_id": 42, "type": 11, "options": JOHN, "read": False, "created_at": "2025-03-14"}
    assert found == {
        "get_user_notification_by_id": shown,
        "get_user_notifications": [shown],
        "get_user_notifications_count": 1,
        "get_user_notifications_with_pagination": [shown],
        "mark_notification_as_read": {**shown, "read": True},
        "of another user": None,
    }


def test_type_enum() -> None:
    """Endurain: NotificationType; the five are shipped events, and a family of them is one filter."""
    types = adapter("Endurain").TYPES
    shipped = load_events(Path(__file__).parents[2] / "config" / "events.toml")
    assert sorted(types) == [1, 2, 11, 12, 101]
    assert set(types.values()) <= set(shipped)

    create(activity(), ask("42", "new_follower_request", context=JOHN))
    with transaction() as session:
        assert inbox.counts(session, "42", event_config_name=[types[1], types[2]]).total == 1


def test_fields() -> None:
    """Endurain: the fields; a user who is deleted takes theirs along, as by its cascade."""
    create(activity(), activity("43"))
    [row] = listed("42").items
    assert (row.recipient_id, row.event_config_name, row.context) == ("42", "new_activity", {"activity_id": 4711})
    assert (row.created_at, row.seen_at) == (NOW, None)

    with transaction() as session:
        recipients.erase(session, "42", now=LATER)
    assert list(by_recipient()) == ["43"]


@pytest.mark.parametrize("wrong", [{"to": 42}, {"title": "a second text"}, {"user_id": 42}, {"context": "x"}])
def test_schemas(wrong: dict[str, Any]) -> None:
    """Endurain: NotificationBase and NotificationCreate are strict; so is a request, which also knows its fields."""
    with pytest.raises(InvalidRequest):
        NotificationRequest.parse({"to": "42", "event_config_name": "new_activity", "context": {}} | wrong)


def test_options_payloads() -> None:
    """Endurain: options is a snapshot of ids and names; here names that are missing or too many are refused."""
    create(ask("42", "new_follower_request", context=JOHN))
    assert JOHN == listed("42").items[0].context

    wrong = ask("42", "new_follower_request", context={"user_id": 12, "surprise": 1})
    refused = create(wrong).refused[wrong.id]
    assert isinstance(refused, InvalidContext)
    assert "missing: user_name" in str(refused)


def test_get_user_notification_by_id() -> None:
    """Endurain: get_user_notification_by_id; another user's looks absent."""
    id = put("42", NOW)
    with transaction() as session:
        assert inbox.get(session, "42", id) is not None
        assert inbox.get(session, "43", id) is None


def test_get_user_notifications() -> None:
    """Endurain: get_user_notifications gives all; here more than a page of them, newest first."""
    ids = [put("42", NOW + timedelta(seconds=n)) for n in range(inbox.MAX_PER_PAGE + 3)]
    with transaction() as session:
        assert [row.id for row in adapter("Endurain").everything(session, "42")] == ids[::-1]


def test_get_user_notifications_count() -> None:
    """Endurain: get_user_notifications_count is of all; here what is unseen comes with it."""
    put("42", NOW)
    put("42", NOW, seen_at=LATER)
    with transaction() as session:
        assert inbox.counts(session, "42") == inbox.Counts(total=2, unseen=1)


def test_get_user_notifications_with_pagination() -> None:
    """Endurain: get_user_notifications_with_pagination, five to a page and the newest first."""
    ids = [put("42", NOW + timedelta(seconds=n)) for n in range(7)]
    assert [row.id for row in listed("42", page=1, per_page=5).items] == ids[:1:-1]
    assert [row.id for row in listed("42", page=2, per_page=5).items] == [ids[1], ids[0]]
    assert listed("42", page=3, per_page=5).items == []


def test_create_notification() -> None:
    """Endurain: create_notification makes it unread; what fails leaves no row."""
    with undone() as session:
        creating.create(session, [activity()], now=NOW)
    assert filled() == set()
    create(activity())
    [row] = listed("42").items
    assert row.seen_at is None


def test_mark_notification_as_read() -> None:
    """Endurain: mark_notification_as_read is of one's own and harmless twice; here it can also be undone."""
    id = put("42", NOW)
    with transaction() as session:
        assert inbox.mark_seen(session, "43", id) is None
        first = inbox.mark_seen(session, "42", id)
        at = first and first.seen_at
        again = inbox.mark_seen(session, "42", id)
        assert at is not None
        assert again is not None
        assert again.seen_at == at
        undone = inbox.mark_seen(session, "42", id, seen=False)
        assert undone is not None
        assert undone.seen_at is None


@pytest.mark.parametrize("wrong", [{"page": 0}, {"page": -1}, {"per_page": 0}])
def test_http_limits(wrong: dict[str, int]) -> None:
    """Endurain: HTTP wants page and size above 0; the rest of HTTP is the application's."""
    with pytest.raises(InvalidRequest):
        listed("42", **{"page": 1, **wrong})


def test_creator_new_activity() -> None:
    """Endurain: create_new_activity_notification."""
    create(activity(link="/activity/4711"))
    [row] = listed("42").items
    assert (row.event_config_name, row.link) == ("new_activity", "/activity/4711")


def test_creator_duplicate_start_time() -> None:
    """Endurain: create_new_duplicate_start_time_activity_notification, instead of the other."""
    create(activity(event="duplicate_activity", number=4712))
    [row] = listed("42").items
    assert (row.event_config_name, row.context) == ("duplicate_activity", {"activity_id": 4712})


def test_creator_follower_request() -> None:
    """Endurain: create_new_follower_request_notification goes to the target, with the requester's names."""
    create(ask("15", "new_follower_request", sender_id="12", context=JOHN))
    [row] = rows(Notification)
    assert (row.recipient_id, row.sender_id, row.context) == ("15", "12", JOHN)


def test_creator_accepted_follower_request() -> None:
    """Endurain: create_accepted_follower_request_notification goes to the requester, with the accepter's names."""
    jane = {"user_id": 15, "user_name": "Jane Smith", "user_username": "janesmith"}
    create(ask("12", "new_follower_request_accepted", sender_id="15", context=jane))
    [row] = rows(Notification)
    assert (row.recipient_id, row.sender_id, row.context) == ("12", "15", jane)


def test_creator_admin_sign_up() -> None:
    """Endurain: create_admin_new_sign_up_approval_request_notification to all admins; here to all or to none."""
    with transaction() as session:
        recipients.set_group(session, "admins", ["1", "2", "3"])
    create(ask({"group": "admins"}, "admin_new_sign_up_approval_request", context=JOHN))
    assert set(by_recipient()) == {"1", "2", "3"}

    wrong = ask([{"group": "admins"}, {"username": "nobody"}], "admin_new_sign_up_approval_request", context=JOHN)
    assert wrong.id in create(wrong).refused
    assert len(rows(Notification)) == 3


def test_push(configure: Configure, tmp_path: Path) -> None:
    """Endurain: the push names the notification; here it reaches every listener of the recipient, and no other."""
    with RedisTestServer(tmp_path / "redis") as server, redis.Redis(port=server.port) as client:
        configure(SIGNAL="on", SIGNAL_URL=f"redis://127.0.0.1:{server.port}/0")
        tabs = [client.pubsub(ignore_subscribe_messages=True) for _ in range(2)]
        for tab in tabs:
            tab.subscribe("bellhop:inbox:12", "bellhop:inbox:15")
        wait_until(lambda: client.pubsub_numsub("bellhop:inbox:15")[0][1] == 2, 10, "both listen")

        create(ask("12", "new_follower_request_accepted", sender_id="15", context=JOHN))
        [row] = rows(Notification)
        for tab in tabs:
            heard = wait_until(lambda tab=tab: tab.get_message(timeout=0.1), 10, "the signal")  # type: ignore[misc]
            told = {"id": str(row.id), "recipient_id": "12", "total": 1, "unseen": 1}
            assert json.loads(heard["data"]) == told
            assert tab.get_message(timeout=0.1) is None
            tab.close()


def test_client() -> None:
    """Endurain: the client pages by 25, counts a badge and localises; here the badge is of all pages, the text made."""
    for n in range(30):
        put("42", NOW + timedelta(seconds=n))
    page = listed("42", page=1, per_page=25)
    assert (len(page.items), page.pages) == (25, 2)
    with transaction() as session:
        assert inbox.unseen_count(session, "42") == 30

    create(ask([{"id": "1", "lang": "pt-BR"}, {"id": "2", "lang": "fr"}], "new_follower_request", context=JOHN))
    texts = [listed(name).items[0].text for name in ("1", "2")]
    assert texts == ["John Doe quer seguir você", "John Doe asks to follow you"]


def test_email() -> None:
    """Endurain: password reset mail, English html alone; here in the reader's language with both parts, and queued."""
    context = {"link": "https://app.example.org/reset/7Q2X"}
    created = create(ask({"id": "42", "email": "ada@example.org", "lang": "de"}, "password_reset", context=context))
    [mail] = rows(Delivery)
    assert created.due[mail.urgency] == [mail.id]
    assert mail.parts is not None
    assert mail.parts["subject"] == "Neues Passwort"
    assert context["link"] in mail.parts["text"]
    assert context["link"] in mail.parts["html"]
    assert rows(Notification)[0].context is None


def test_absent() -> None:
    """Endurain: what it has not - delete, mark all, filters, unseen count, preferences, purge, dedupe, scheduling."""
    ids = [put("42", NOW, event_config_name=NAMES[n % 2], sender_id="7") for n in range(4)]
    with transaction() as session:
        assert inbox.delete(session, "42", ids[0])
        assert inbox.mark_all_seen(session, "42", event_config_name=NAMES[1]) == 2
        assert [row.id for row in inbox.list(session, "42", seen=False).items] == [ids[2]]
        recipients.set_preference(session, "42", "admin_new_sign_up_approval_request", enabled=False)
        assert inbox.delete_seen(session, "42", older_than=NOW) == 0

    later = NOW + timedelta(days=get_settings().seen_retention_days + 1000)
    assert purge_seen(transaction, now=later).removed == 2
    key: dict[str, Any] = {"idempotency_key": "once", "object_type": "activity", "object_id": "4711"}
    assert [create(activity(**key)).repeated for _ in range(2)] == [0, 1]
    create(ask({"id": "42", "email": "a@example.org"}, "admin_new_sign_up_approval_request", context=JOHN))
    assert [row.reason for row in rows(Delivery)] == ["preference"]
    with transaction() as session:
        assert retract(session, "activity", "4711") == 1
        assert inbox.delete_seen(session, "42") == 0

    create(activity("9", send_at=NOW + timedelta(days=36500)))
    assert listed("9").items == []
