"""FitTrackee: its operations and its fields; its rules are in test_fittrackee_rules."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, text

from tests.parity.document import adapter, answers, write_events
from tests.parity.fittrackee import ALWAYS, EVENTS, PREFERENCES, TEMPLATES, social
from tests.store import LATER, NOW, ask, create, put, rows
from worker import inbox
from worker.database import transaction
from worker.errors import UnknownEvent
from worker.models import Notification

Configure = Callable[..., None]

FROM = {
    "created_at": "Wed, 04 Dec 2024 09:07:08 GMT",
    "followers": 0,
    "following": 0,
    "follows": "pending",
    "is_followed_by": "false",
    "nb_workouts": 0,
    "picture": True,
    "role": "admin",
    "suspended_at": None,
    "username": "admin",
}
SHOWN = {
    "created_at": "Wed, 04 Dec 2024 10:06:35 GMT",
    "from": FROM,
    "id": "be26f35a-1239-44ff-a012-12fb835fa26c",
    "marked_as_read": False,
    "type": "follow_request",
}
NO_PAGES = {"has_next": False, "has_prev": False, "page": 1, "pages": 0, "total": 0}


@pytest.fixture(autouse=True)
def _events(engine: object, configure: Configure, tmp_path: Path) -> None:
    configure(**write_events(tmp_path, EVENTS, TEMPLATES))


def test_document_examples() -> None:
    """FitTrackee: each answer that its document shows."""
    with transaction() as session:
        found = json.loads(json.dumps(answers("FitTrackee", session)))
    assert found == {
        "GET /api/notifications": {
            "notifications": [SHOWN],
            "pagination": {**NO_PAGES, "pages": 1, "total": 1},
            "status": "success",
        },
        "GET /api/notifications, none": {"notifications": [], "pagination": NO_PAGES, "status": "success"},
        "PATCH /api/notifications/{id}": {"notification": {**SHOWN, "marked_as_read": True}, "status": "success"},
        "GET /api/notifications/unread": {"status": "success", "unread": False},
        "GET /api/notifications/types?status=unread": {"notification_types": ["mention"], "status": "success"},
        "POST /api/notifications/mark-all-as-read": {"status": "success"},
    }


def test_types() -> None:
    """FitTrackee: every type is an event; one that is none is refused."""
    requests = [ask("2", name) for name in (*PREFERENCES, *ALWAYS)]
    assert create(*requests).refused == {}
    with transaction() as session:
        assert inbox.event_types(session, "2") == sorted((*PREFERENCES, *ALWAYS))

    wrong = ask("2", "poke")
    assert isinstance(create(wrong).refused[wrong.id], UnknownEvent)


def test_fields() -> None:
    """FitTrackee: the fields of a row; here the object's id has its type."""
    create(social("workout_like", about="workout:5"))
    [row] = rows(Notification)
    assert (row.recipient_id, row.sender_id, row.created_at, row.seen_at) == ("2", "1", NOW, None)
    assert (row.event_config_name, row.object_type, row.object_id) == ("workout_like", "workout", "5")


def test_dedupe() -> None:
    """FitTrackee: one per sender, recipient, type and object; none to oneself; no mention beside the comment's own."""
    create(social("workout_like", about="workout:5"))
    create(social("workout_like", about="workout:5"), now=LATER)
    create(social("workout_like", about="workout:6"), social("workout_like", by="3", about="workout:5"))
    assert len(rows(Notification)) == 3
    create(social("workout_like", to="1", by="1", about="workout:5"))
    assert len(rows(Notification)) == 3

    create(social("workout_comment", about="comment:8"))
    with transaction() as session:
        told = inbox.counts(session, "2", event_config_name="workout_comment", object_type="comment", object_id="8")
    assert told.total == 1


def test_serialised() -> None:
    """FitTrackee: `from` is null where a moderator acted, that is without a sender; the rest comes from its rows."""
    create(social("user_warning", by=None))
    shown = adapter("FitTrackee").notification(rows(Notification)[0])
    assert shown["from"] is None
    assert shown["type"] == "user_warning"
    assert shown["created_at"] == "Mon, 05 Jan 2026 12:00:00 GMT"


def test_list() -> None:
    """FitTrackee: five to a page, order, status and type; a page past the end is empty."""
    ids = [put("2", NOW + timedelta(seconds=n), event_config_name="follow") for n in range(6)]
    seen = put("2", NOW - timedelta(days=1), event_config_name="mention", seen_at=LATER)
    listing = adapter("FitTrackee").list_notifications
    with transaction() as session:
        first, past = listing(session, "2"), listing(session, "2", page=3)
        assert [one["id"] for one in first["notifications"]] == [str(id) for id in ids[:0:-1]]
        assert first["pagination"] == {"has_next": True, "has_prev": False, "page": 1, "pages": 2, "total": 7}
        assert (past["notifications"], past["pagination"]["has_prev"]) == ([], True)
        assert listing(session, "2", order="asc")["notifications"][0]["id"] == str(seen)
        assert [one["id"] for one in listing(session, "2", status="read")["notifications"]] == [str(seen)]
        assert listing(session, "2", status="unread")["pagination"]["total"] == 6
        assert listing(session, "2", type="mention")["pagination"]["total"] == 1


def test_update() -> None:
    """FitTrackee: PATCH turns both ways; another user's is absent, its 404."""
    id, patch = str(put("2", NOW)), adapter("FitTrackee").patch
    with transaction() as session:
        marked = [patch(session, "2", id, status)["notification"]["marked_as_read"] for status in (True, False)]
        assert marked == [True, False]
        assert patch(session, "3", id, True) is None


def test_unread() -> None:
    """FitTrackee: whether anything is unread; here also how much."""
    with transaction() as session:
        assert not inbox.has_unseen(session, "2")
    put("2", NOW)
    with transaction() as session:
        assert inbox.has_unseen(session, "2")
        assert inbox.unseen_count(session, "2") == 1


def test_mark_all() -> None:
    """FitTrackee: mark all, or all of a type; here with their number."""
    for name in ("mention", "mention", "follow"):
        put("2", NOW, event_config_name=name)
    with transaction() as session:
        assert inbox.mark_all_seen(session, "2", event_config_name="mention") == 2
        assert inbox.mark_all_seen(session, "2") == 1


def test_list_of_types() -> None:
    """FitTrackee: the types a user has, by status."""
    put("2", NOW, event_config_name="mention")
    put("2", NOW, event_config_name="follow", seen_at=LATER)
    with transaction() as session:
        assert inbox.event_types(session, "2") == ["follow", "mention"]
        assert inbox.event_types(session, "2", seen=False) == ["mention"]


def test_read_time_visibility() -> None:
    """FitTrackee: what blocked or suspended users sent is neither listed nor unread, as long as they are."""
    put("2", NOW, sender_id="7")
    create(social("user_warning", by=None))
    ours = adapter("FitTrackee")
    with transaction() as session:
        assert ours.list_notifications(session, "2", hidden=["7"])["pagination"]["total"] == 1
        inbox.mark_all_seen(session, "2", event_config_name="user_warning")
        assert not ours.unread(session, "2", hidden=["7", "8"])["unread"]
        assert ours.unread(session, "2")["unread"]


def test_read_time_visibility_of_comments() -> None:
    """FitTrackee: shown where public, or for followers to a follower; not by who blocked the reader. All else is."""
    comments = {"1": ("5", "public"), "2": ("5", "followers_only"), "3": ("6", "followers_only"), "4": ("7", "public")}
    for id, (author, _) in {**comments, "private": ("5", "")}.items():
        put("2", NOW, event_config_name="workout_comment", sender_id=author, object_type="comment", object_id=id)
    put("2", NOW, event_config_name="comment_like", sender_id="7", object_type="comment", object_id="3")
    ours = adapter("FitTrackee")
    rows_of = {
        ours.COMMENTS: [{"id": id, "author": author, "visibility": to} for id, (author, to) in comments.items()],
        ours.FOLLOWS: [{"follower": "2", "followed": "5"}],
        ours.BLOCKS: [{"blocker": "7", "blocked": "2"}],
    }
    with transaction() as session:
        for table, values in rows_of.items():
            columns = ", ".join(f"{column.name} text" for column in table.c)
            session.execute(text(f"CREATE TEMPORARY TABLE {table.name} ({columns})"))
            session.execute(insert(table), values)
        asked = {"only": ours.may_see("2")}
        found = inbox.list(session, "2", page=1, **asked)
        shown = sorted((row.event_config_name, row.object_id) for row in found.items)
        assert shown == [("comment_like", "3"), ("workout_comment", "1"), ("workout_comment", "2")]
        assert (ours.list_notifications(session, "2", **asked)["pagination"]["total"], found.total) == (3, 3)
        inbox.mark_all_seen(session, "2", sender_id="5")
        assert ours.unread(session, "2", **asked)["unread"]
        assert not ours.unread(session, "2", hidden=["7"], **asked)["unread"]
