"""FitTrackee: the rules of what is created, mailed, changed and taken back."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.parity.document import ROOT, adapter, write_events
from tests.parity.fittrackee import ALWAYS, EVENTS, PREFERENCES, TEMPLATES, following, social
from tests.store import LATER, NOW, ask, by_recipient, create, enqueue, put, rows, take, together, undone, waits
from worker import inbox, pending, recipients
from worker.channels.smtp_url import parse_smtp_url
from worker.claims import claim
from worker.database import transaction
from worker.errors import MandatoryEvent
from worker.models import Delivery, Notification
from worker.purge import purge_seen
from worker.render import render
from worker.retract import retract

Configure = Callable[..., None]


@pytest.fixture(autouse=True)
def _events(engine: object, configure: Configure, tmp_path: Path) -> None:
    configure(**write_events(tmp_path, EVENTS, TEMPLATES))


def test_creation_in_the_same_transaction() -> None:
    """FitTrackee: the notification comes with the domain's row, or not at all."""
    liked = social("workout_like", about="workout:5")
    with undone() as session:
        pending.enqueue(session, liked, now=NOW)
    assert waits() == (False, False)
    enqueue(liked)
    assert waits() == (True, False)
    assert take()[0] == 1
    assert list(by_recipient()) == ["2"]


@pytest.mark.parametrize("event", PREFERENCES)
def test_preferences(event: str) -> None:
    """FitTrackee: eight types can be turned off, each by itself, and are on at first; here it is their email."""
    to = {"id": "2", "email": "sam@example.org"}
    with transaction() as session:
        recipients.set_preference(session, "2", event, enabled=False)
        chosen = {one["event_config_name"]: one for one in recipients.preferences(session, "2")}
        assert {name for name, one in chosen.items() if not one["enabled"]} == {event}
        assert {name for name, one in chosen.items() if one["mandatory"]} == set(ALWAYS)
    create(ask(to, event), ask(to, "user_warning"))
    reasons = {row.reason for row in rows(Delivery)}
    assert reasons == {"preference", None}


def test_preferences_of_the_inbox() -> None:
    """FitTrackee: a type turned off makes no row, one that is always sent cannot be; here mail is asked for apart."""
    with transaction() as session:
        for event in PREFERENCES:
            recipients.set_preference(session, "2", event, enabled=False, channel="inbox")
        with pytest.raises(MandatoryEvent):
            recipients.set_preference(session, "2", ALWAYS[0], enabled=False, channel="inbox")
        turned_off = [one for one in recipients.preferences(session, "2", channel="inbox") if not one["enabled"]]
        assert {one["event_config_name"] for one in turned_off} == set(PREFERENCES)
        assert all(one["enabled"] for one in recipients.preferences(session, "2"))
    off = [ask("2", event, should_email=False) for event in PREFERENCES]
    assert create(*off, ask("2", ALWAYS[0]), ask("3", "mention")).left_out == len(PREFERENCES)
    assert {row.recipient_id: row.event_config_name for row in rows(Notification)} == {"2": ALWAYS[0], "3": "mention"}


def test_supersede() -> None:
    """FitTrackee: an approved request becomes `follow`: the same row, unread, at its time; and the follower is told."""
    create(following())
    [asked] = rows(Notification)
    with transaction() as session:
        inbox.mark_seen(session, "2", asked.id)
    create(following("follow"), ask("1", "follow_request_approved", sender_id="2"), now=LATER)
    found = by_recipient()
    assert (found["2"].id, found["2"].event_config_name) == (asked.id, "follow")
    assert (found["2"].created_at, found["2"].seen_at) == (NOW, None)
    assert found["1"].event_config_name == "follow_request_approved"


def test_supersede_as_shipped(configure: Configure) -> None:
    """FitTrackee: its two events are among the shipped ones."""
    configure(CONFIG_DIR=ROOT / "config", TEMPLATES_DIR=ROOT / "templates")
    asked: dict[str, Any] = {"to": {"id": "2", "lang": "de"}, "context": {"username": "admin"}}
    for event in ("follow_request", "follow"):
        create(following(event, **asked))
    [row] = rows(Notification)
    assert (row.event_config_name, row.text) == ("follow", "admin folgt dir jetzt.")


def test_supersede_without_a_request() -> None:
    """FitTrackee: where there is no request to turn, a new row is made."""
    create(following("follow"))
    assert [row.event_config_name for row in rows(Notification)] == ["follow"]


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ({"object_type": "workout", "object_id": "5"}, {"comment_like", "mention"}),
        ({"object_type": "workout", "object_id": "5", "event_config_name": "workout_like"}, None),
        ({"object_type": "workout", "object_id": "5", "sender_id": "3"}, {"workout_like", "comment_like", "mention"}),
        ({"object_type": "comment", "object_id": "5"}, {"workout_like", "workout_comment", "mention"}),
    ],
)
def test_retract(where: dict[str, str], left: set[str] | None) -> None:
    """FitTrackee: unlike, unfollow or a deletion takes its notifications back; here never another object's."""
    create(
        social("workout_like", about="workout:5"),
        social("workout_comment", by="3", about="workout:5"),
        social("comment_like", about="comment:5"),
        social("mention", about="comment:8"),
    )
    with transaction() as session:
        retract(session, **where)
    everything = {"workout_like", "workout_comment", "comment_like", "mention"}
    assert {row.event_config_name for row in rows(Notification)} == (left or everything - {"workout_like"})


def test_retract_of_a_role() -> None:
    """FitTrackee: who is no moderator any more loses what moderators were told, and is told no more."""
    with transaction() as session:
        recipients.set_group(session, "moderators", ["5", "6"])
    create(ask({"group": "moderators"}, "report"), ask("5", "mention"))
    with transaction() as session:
        recipients.remove_members(session, "moderators", ["5"])
        for row in adapter("FitTrackee").everything(session, "5", event_config_name=["report", "suspension_appeal"]):
            inbox.delete(session, "5", row.id)
    create(ask({"group": "moderators"}, "report"), now=LATER)
    told = [(row.recipient_id, row.event_config_name) for row in rows(Notification)]
    assert sorted(told) == [("5", "mention"), ("6", "report"), ("6", "report")]


def test_retract_of_a_user() -> None:
    """FitTrackee: a user who is deleted leaves nothing, neither told nor sent."""
    create(social("workout_like", about="workout:5"), social("workout_like", to="1", by="2", about="workout:6"))
    with transaction() as session:
        recipients.erase(session, "2", now=LATER)
        assert [row.sender_id for row in session.scalars(select(Notification))] == ["2"]
        assert retract(session, sender_id="2") == 1
    assert rows(Notification) == []


def test_fan_out() -> None:
    """FitTrackee: reports go to all moderators but their author."""
    with transaction() as session:
        recipients.set_group(session, "moderators", ["5", "6", "7"])
    create(ask({"group": "moderators", "without": ["6"]}, "report", sender_id="6"))
    assert set(by_recipient()) == {"5", "7"}


def test_email_queue_and_templates() -> None:
    """FitTrackee: mail goes by a queue, of subject, text and html in the user's language, else English."""
    to = [{"id": id, "email": f"{id}@example.org", "lang": lang} for id, lang in (("a", "fr"), ("b", "it"))]
    create(ask(to, "greeting", context={"name": "<Sam>"}))
    with transaction() as session:
        claimed, _skipped = claim(session, [row.id for row in rows(Delivery)], NOW, NOW)
    parts = {one.parcel.address: one.parcel.parts for one in claimed}
    assert parts["a@example.org"]["subject"] == "Bonjour"
    english = parts["b@example.org"]
    assert english["subject"] == "Hello <Sam>"
    assert "Dear <Sam>, in plain text" in english["text"]
    assert "Dear &lt;Sam&gt;" in english["html"]


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [("smtp://u:p@mail.example.org:587?tls=required", "mail.example.org", 587), ("smtps://mx.example.org", None, 465)],
)
def test_config(url: str, host: str | None, port: int) -> None:
    """FitTrackee: EMAIL_URL with its user, port and TLS is SMTP_URL."""
    server = parse_smtp_url(url)
    assert (server.host, server.port) == (host or "mx.example.org", port)


def test_operator() -> None:
    """FitTrackee: what is queued, by type; here a row for each mail, with its state."""
    create(ask({"id": "2", "email": "sam@example.org"}, "mention"), ask("3", "mention"))
    assert sorted((row.status, row.reason) for row in rows(Delivery)) == [("pending", None), ("skipped", "no_address")]


def test_absent() -> None:
    """FitTrackee: what it has not - deletion, purge, mail for any notification."""
    id = put("2", NOW, seen_at=NOW)
    put("2", NOW, seen_at=NOW)
    with transaction() as session:
        assert inbox.delete(session, "2", id)
    assert purge_seen(transaction, now=NOW + timedelta(days=400)).removed == 1
    assert create(ask({"id": "2", "email": "sam@example.org"}, "mention", should_email=True)).deliveries == 1


def test_defect_mixed_languages() -> None:
    """FitTrackee: threads share one environment and may mix languages; here they do not."""
    wanted = {"fr": "Bonjour Sam", "en": "Hello Sam"}

    def many(lang: str) -> set[str]:
        return {render("greeting", lang, {"name": "Sam"}).text for _ in range(200)}

    asked = [*wanted, *wanted]
    found = together(*[partial(many, lang) for lang in asked])
    assert found == [{wanted[lang]} for lang in asked]


def test_defect_untyped_objects() -> None:
    """FitTrackee: a task's end deletes other objects' notifications of equal id; here the type is asked for."""
    create(social("user_data_export", about="task:5"), social("workout_like", about="workout:5"))
    with transaction() as session:
        assert retract(session, "task", "5") == 1
    assert [row.event_config_name for row in rows(Notification)] == ["workout_like"]
