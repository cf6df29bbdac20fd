"""YCW staff notifications: its operations, its fields and its rules."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tests.parity.document import adapter, answers, write_events
from tests.store import LATER, NOW, ask, by_recipient, create, listed, put, rows
from worker import inbox, recipients
from worker.database import transaction
from worker.errors import UnknownEvent
from worker.models import Notification
from worker.purge import purge_seen
from worker.request import NotificationRequest
from worker.retract import retract

Configure = Callable[..., None]

EVENTS = """
[approval_request]
required = ["kind", "title", "who"]
[approval_approved]
required = ["kind", "title", "who"]
[approval_rejected]
required = ["kind", "title"]
optional = ["reason"]
[system_notice]
required = ["message"]
"""
KINDS = '{% set kinds = {"actions": "Action", "events": "Event", "news": "News Article"} %}'
REASON = "{% if reason is defined %} Reason: {{ reason }}{% endif %}"
TEMPLATES = {
    "approval_request/en/title.txt": KINDS + "Approval Request: {{ kinds[kind] }}",
    "approval_request/en/text.txt": '{{ who }} requested approval for "{{ title }}"',
    "approval_request/de/title.txt": "Bitte um Freigabe",
    "approval_request/de/text.txt": "{{ who }} bittet um Freigabe von „{{ title }}“",
    "approval_approved/en/title.txt": KINDS + "Approval Approved: {{ kinds[kind] }}",
    "approval_approved/en/text.txt": '"{{ title }}" has been approved by {{ who }}',
    "approval_rejected/en/title.txt": KINDS + "Approval Rejected: {{ kinds[kind] }}",
    "approval_rejected/en/text.txt": '"{{ title }}" has been rejected.' + REASON,
    "system_notice/en/title.txt": "System",
    "system_notice/en/text.txt": "{{ message }}",
}
ONE = {
    "id": 1,
    "type": "approval_request",
    "title": "Approval Request: Action",
    "message": 'John Doe requested approval for "SOL Music Events"',
    "contentType": "actions",
    "contentId": 5,
    "read": False,
    "createdAt": "2024-12-15T10:30:00.000Z",
    "readAt": None,
}
TWO = {
    "id": 2,
    "type": "approval_approved",
    "title": "Approval Approved: News Article",
    "message": '"New Event Announcement" has been approved by Jane Smith',
    "contentType": "news",
    "contentId": 12,
    "read": True,
    "createdAt": "2024-12-14T14:20:00.000Z",
    "readAt": "2024-12-14T15:00:00.000Z",
}
THREE = {
    "id": 3,
    "type": "approval_rejected",
    "title": "Approval Rejected: Event",
    "message": '"Summer Festival" has been rejected. Reason: Needs more details about location',
    "contentType": "events",
    "contentId": 8,
    "read": False,
    "createdAt": "2024-12-13T09:15:00.000Z",
    "readAt": None,
}


@pytest.fixture(autouse=True)
def _events(engine: object, configure: Configure, tmp_path: Path) -> None:
    configure(**write_events(tmp_path, EVENTS, TEMPLATES))


def approval(step: str, kind: str, title: str, id: int, **context: str) -> NotificationRequest:
    """The request for one step of an approval."""
    about = {"object_type": kind, "object_id": str(id)}
    to = {"group": "approvers"} if step == "request" else "9"
    return ask(to, f"approval_{step}", context={"kind": kind, "title": title, **context}, **about)


def test_document_examples() -> None:
    """YCW: each answer that its document shows."""
    with transaction() as session:
        found = json.loads(json.dumps(answers("YCW", session)))
    assert found == {
        "GET /api/staff/notifications": [ONE, TWO, THREE],
        "GET /api/staff/notifications?unreadOnly=true": [ONE, THREE],
        "POST /api/staff/notifications/read-all": {"success": True, "marked": 5},
        "POST /api/staff/notifications/:id/read": {"success": True},
        "DELETE /api/staff/notifications/:id": {"success": True},
    }


def test_list() -> None:
    """YCW: all in one array, newest first, or the unread ones."""
    ids = [str(put("9", NOW + timedelta(seconds=n), seen_at=LATER if n % 2 else None)) for n in range(250)]
    with transaction() as session:
        ours = adapter("YCW")
        assert [one["id"] for one in ours.list_items(session, "9")] == ids[::-1]
        assert [one["id"] for one in ours.list_items(session, "9", unread_only=True)] == ids[::2][::-1]


def test_fields() -> None:
    """YCW: the nine fields of a notification that was created here, by its words; readAt is null while unread."""
    create(approval("approved", "news", "New Event Announcement", 12, who="Jane Smith"))
    [row] = rows(Notification)
    ours = adapter("YCW")
    times = {"createdAt": "2026-01-05T12:00:00.000Z", "read": False, "readAt": None}
    assert ours.item(row) == {**TWO, "id": str(row.id), **times}


def test_read_one() -> None:
    """YCW: `:id/read` sets read and readAt; here again changes nothing, and another's is none."""
    id, ours = str(put("9", NOW)), adapter("YCW")
    with transaction() as session:
        assert ours.read(session, "9", id) == {"success": True}
        [first] = ours.list_items(session, "9")
        ours.read(session, "9", id)
        assert ours.list_items(session, "9") == [first]
        assert first["read"]
        assert first["readAt"] is not None
        assert ours.read(session, "8", id) == {"success": False}


def test_read_all() -> None:
    """YCW: read-all says how many it marked: those that were unread, of this user."""
    put("9", NOW)
    put("9", NOW, seen_at=NOW)
    put("8", NOW)
    ours = adapter("YCW")
    with transaction() as session:
        assert [ours.read_all(session, "9")["marked"] for _ in range(2)] == [1, 0]
        assert inbox.unseen_count(session, "8") == 1


def test_delete() -> None:
    """YCW: a deletion is for good; another's notification stays."""
    id, ours = str(put("9", NOW)), adapter("YCW")
    with transaction() as session:
        assert [ours.delete(session, who, id)["success"] for who in ("8", "9", "9")] == [False, True, False]
    assert rows(Notification) == []


def test_types() -> None:
    """YCW: requests go to all approvers, here in their languages; outcomes to the requester, with or without reason."""
    with transaction() as session:
        recipients.upsert(session, [{"id": "1"}, {"id": "2", "lang": "de"}])
        recipients.set_group(session, "approvers", ["1", "2"])
    create(approval("request", "actions", "SOL Music Events", 5, who="John Doe"))
    found = by_recipient()
    assert (found["1"].title, found["1"].text) == (ONE["title"], ONE["message"])
    assert found["2"].text == "John Doe bittet um Freigabe von „SOL Music Events“"

    why = {"reason": "Needs more details about location"}
    create(approval("rejected", "events", "Summer Festival", 8, **why), ask("7", None, title="System", text="Hello"))
    assert by_recipient()["9"].text == THREE["message"]
    create(approval("rejected", "events", "Fair", 9), now=LATER)
    assert listed("9").items[0].text == '"Fair" has been rejected.'
    create(ask("6", "system_notice", context={"message": "Closed on Sunday"}))
    assert listed("6").items[0].text == "Closed on Sunday"


def test_created_by_the_system() -> None:
    """YCW: only the system creates; what a client could make up is no event."""
    wrong = ask("9", "made_up")
    assert isinstance(create(wrong).refused[wrong.id], UnknownEvent)


def test_unread_count() -> None:
    """YCW: the badge is the length of the unread list; here it is a count."""
    for seen_at in (None, None, LATER):
        put("9", NOW, seen_at=seen_at)
    with transaction() as session:
        assert inbox.unseen_count(session, "9") == 2


def test_absent() -> None:
    """YCW: what it has not - pages, unread again, purge, retraction."""
    for n in range(3):
        put("9", NOW + timedelta(seconds=n), object_type="news", object_id=str(n), seen_at=NOW)
    page = listed("9", per_page=2)
    assert [len(page.items), len(listed("9", cursor=page.next_cursor).items)] == [2, 1]
    with transaction() as session:
        row = inbox.mark_seen(session, "9", page.items[0].id, seen=False)
        assert row is not None
        assert row.seen_at is None
        assert retract(session, "news", "1") == 1
    assert purge_seen(transaction, now=NOW + timedelta(days=400)).removed == 1
