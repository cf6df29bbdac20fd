"""One event turns into another: the same row, new words, unseen again."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, update

from tests.store import LATER, NOW, ask, create, rows, together
from worker.create import Created
from worker.database import transaction
from worker.models import Delivery, Notification
from worker.request import NotificationRequest

pytestmark = pytest.mark.usefixtures("catalogue")

READER = {"id": "paul", "email": "paul@example.org"}
ABOUT = {"sender_id": "chani", "object_type": "user", "object_id": "chani"}


def event(name: str, **fields: Any) -> NotificationRequest:
    return ask(READER, name, **{"context": {"who": "Chani"}, **ABOUT, **fields})


def statuses() -> list[tuple[str, str | None]]:
    return sorted((row.status, row.reason) for row in rows(Delivery))


def test_the_row_turns_into_the_new_event(engine: Engine) -> None:
    """Its id and creation stay; text, event and request are new; it is unseen; the old mail is not sent any more."""
    asked = event("follow_request")
    create(asked)
    [old] = rows(Notification)
    with transaction() as session:
        session.execute(update(Notification).values(seen_at=NOW))
    approved = event("follow")
    done = create(approved, now=LATER)
    [new] = rows(Notification)
    assert (old.id, NOW, "follow", "Chani follows you", None) == (
        *(new.id, new.created_at, new.event_config_name, new.title, new.seen_at),
    )
    assert (approved.id, LATER) == (new.request_id, new.updated_at)
    assert [("pending", None), ("skipped", "superseded")] == statuses()
    [pending] = [row.id for row in rows(Delivery) if row.status == "pending"]
    assert ([pending], 1) == (done.due[1], done.notifications)


def test_without_an_older_row_a_new_one_is_made(engine: Engine) -> None:
    """As for any event."""
    assert 1 == create(event("follow")).notifications
    assert [("follow", "Chani follows you")] == [(row.event_config_name, row.title) for row in rows(Notification)]
    assert [("pending", None)] == statuses()


@pytest.mark.parametrize("change", [{"sender_id": "irulan"}, {"object_id": "irulan"}, {"object_type": "page"}])
def test_another_sender_or_object_is_another_notification(engine: Engine, change: dict[str, str]) -> None:
    """Only the same recipient's, by the same sender and about the same object, turns."""
    create(event("follow_request"))
    create(event("follow", **change), now=LATER)
    assert ["follow", "follow_request"] == sorted(row.event_config_name or "" for row in rows(Notification))


def test_told_once_even_after_it_turned(engine: Engine) -> None:
    """The same event again adds nothing, whether its row was made for it or turned into it."""
    create(event("follow_request"))
    create(event("follow"), now=LATER)
    create(event("follow"), now=LATER)
    assert ["follow"] == [row.event_config_name for row in rows(Notification)]
    assert [("pending", None), ("skipped", "superseded")] == statuses()


def test_what_was_superseded_can_happen_again(engine: Engine) -> None:
    """A second follow request after the first has turned is a notification of its own, with its mail."""
    create(event("follow_request"))
    create(event("follow"), now=LATER)
    create(event("follow_request"), now=LATER)
    assert ["follow", "follow_request"] == sorted(row.event_config_name or "" for row in rows(Notification))
    assert [("pending", None), ("pending", None), ("skipped", "superseded")] == statuses()


def test_what_shows_later_leaves_the_present_row_alone(engine: Engine) -> None:
    """An event with a send_at is not shown before, so it cannot take over a row that is shown now."""
    create(event("follow_request"))
    create(event("follow", send_at=NOW + timedelta(days=1)))
    assert ["follow", "follow_request"] == sorted(row.event_config_name or "" for row in rows(Notification))


def test_both_in_one_transaction(engine: Engine) -> None:
    """Several requests of one message behave as one after the other."""
    create(event("follow_request"), event("follow_request", object_id="irulan"))
    create(event("follow"), event("follow", object_id="irulan"), now=LATER)
    assert ["follow", "follow"] == [row.event_config_name for row in rows(Notification)]


def test_two_approvals_at_once_are_one(engine: Engine) -> None:
    """Of two workers, one turns the row, the other finds that it is told."""
    create(event("follow_request"))

    def approve() -> Created:
        return create(event("follow"), now=LATER)

    together(approve, approve, approve)
    assert ["follow"] == [row.event_config_name for row in rows(Notification)]
    assert [("pending", None), ("skipped", "superseded")] == statuses()
