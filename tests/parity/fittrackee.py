"""FitTrackee's events, and requests for what its users do to each other."""

from typing import Any

from tests.parity.document import plain_templates
from tests.store import ask
from worker.request import NotificationRequest

PREFERENCES = (
    *("account_creation", "comment_like", "follow", "follow_request", "follow_request_approved", "mention"),
    *("workout_comment", "workout_like"),
)
ALWAYS = (
    *("report", "suspension_appeal", "user_warning_appeal", "comment_suspension", "comment_unsuspension"),
    *("user_data_export", "user_warning", "user_warning_lifting", "workouts_archive_upload"),
    *("workout_suspension", "workout_unsuspension"),
)
EVENTS = "\n".join(
    [f"[{name}]\ndedupe = true\nemail = true" for name in PREFERENCES if name != "follow"]
    + [f"[{name}]\nemail = true\npreference = false" for name in ALWAYS]
    + ['[follow]\ndedupe = true\nemail = true\nsupersedes = ["follow_request"]']
    + ['[greeting]\nemail = true\nrequired = ["name"]']
)
TEMPLATES = plain_templates(*PREFERENCES, *ALWAYS) | {
    "greeting/en/title.txt": "Hello",
    "greeting/en/subject.txt": "Hello {{ name }}",
    "greeting/en/text.txt": "Hello {{ name }}",
    "greeting/en/email.txt": "Dear {{ name }}, in plain text",
    "greeting/en/email.html": "<p>Dear {{ name }}</p>",
    "greeting/fr/title.txt": "Bonjour",
    "greeting/fr/text.txt": "Bonjour {{ name }}",
}


def social(event: str, to: Any = "2", by: str | None = "1", about: str | None = None, **more: Any) -> Any:
    """A request for what one user did to another's object, `type:id`."""
    kind, _, id = (about or "").partition(":")
    return ask(to, event, sender_id=by, object_type=kind or None, object_id=id or None, **more)


def following(event: str = "follow_request", **more: Any) -> NotificationRequest:
    """User 1 asks to follow user 2, or follows."""
    request: NotificationRequest = social(event, about="follower:1", **more)
    return request
