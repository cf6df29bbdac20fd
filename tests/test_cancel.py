"""Taking a request back, as far as it has not happened; and retracting what is about an object."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, update

from tests.store import LATER, NOW, ask, create, enqueue, put, rows, take, waits
from worker import recipients
from worker.database import transaction
from worker.errors import IdempotencyConflict, InvalidRequest
from worker.models import Delivery, Notification, Request
from worker.retract import Cancelled, cancel, retract

pytestmark = pytest.mark.usefixtures("catalogue")

READER = {"id": "paul", "email": "paul@example.org"}


def take_back(**which: Any) -> Cancelled:
    with transaction() as session:
        return cancel(session, now=LATER, **which)


def test_what_is_not_yet_visible_goes_away(engine: Engine) -> None:
    """A scheduled notification and its mail; the record of the request stays."""
    request = ask(READER, send_at=NOW + timedelta(days=1))
    create(request)
    assert Cancelled(0, 1, 1) == take_back(id=request.id)
    assert ([], [], ["created"]) == (rows(Notification), rows(Delivery), [row.status for row in rows(Request)])
    assert 1 == create(request).repeated
    assert Cancelled(0, 0, 0) == take_back(id=request.id)


@pytest.mark.parametrize("status", ["pending", "sending"])
def test_what_is_visible_stays_and_its_mail_does_not_go(engine: Engine, status: str) -> None:
    """The recipient may have read it; the mail is skipped and says why, and is not tried again if it is under way."""
    create(ask(READER, idempotency_key="k"))
    with transaction() as session:
        session.execute(update(Delivery).values(status=status))
    assert Cancelled(0, 0, 1) == take_back(idempotency_key="k")
    assert [("skipped", "cancelled", None)] == [(row.status, row.reason, row.parts) for row in rows(Delivery)]
    assert 1 == len(rows(Notification))


def test_a_mail_that_was_sent_stays_sent(engine: Engine) -> None:
    """There is nothing to take back."""
    create(ask(READER, idempotency_key="k"))
    with transaction() as session:
        session.execute(update(Delivery).values(status="sent"))
    assert Cancelled(0, 0, 0) == take_back(idempotency_key="k")
    assert ["sent"] == [row.status for row in rows(Delivery)]


def test_a_request_that_waits_is_not_created(engine: Engine) -> None:
    """What was asked is forgotten, its id and key stay used."""
    request = ask(READER, idempotency_key="k")
    enqueue(request)
    assert Cancelled(1, 0, 0) == take_back(idempotency_key="k")
    assert ((False, False), 0) == (waits(), take()[0])
    assert [("cancelled", None)] == [(row.status, row.payload) for row in rows(Request)]
    assert 1 == create(request).repeated
    other = ask("chani", idempotency_key="k")
    assert IdempotencyConflict is type(create(other).refused[other.id])


@pytest.mark.parametrize("by_key", [True, False])
def test_a_request_that_comes_after_its_cancellation_adds_nothing(engine: Engine, by_key: bool) -> None:
    """It may still be with the broker when it is taken back."""
    request = ask(READER, idempotency_key="k")
    which = {"idempotency_key": "k"} if by_key else {"id": request.id}
    assert Cancelled(0, 0, 0) == take_back(**which) == take_back(**which)
    done = create(request)
    assert (1, {}, []) == (done.repeated, done.refused, rows(Notification))


def test_the_waiting_pages_of_a_fan_out(engine: Engine, configure: Callable[..., None]) -> None:
    """Pages that wait are not created, and another fan-out's are."""
    configure(CREATE_BATCH=2)
    with transaction() as session:
        recipients.set_group(session, "fremen", [f"r{n}" for n in range(6)])
    request, other = ask({"group": "fremen"}), ask({"group": "fremen"})
    enqueue(request, other)
    take()
    assert 6 == take(2, bulk=True)[1].pages
    assert 1 == take(1, bulk=True)[0]
    taken = {row.request_id for row in rows(Notification)}
    first = request.id in taken
    assert Cancelled(2 if first else 3, 0, 0) == take_back(id=request.id)
    take(bulk=True)
    told = [row.request_id for row in rows(Notification)]
    assert (6, 2 if first else 0) == (told.count(other.id), told.count(request.id))


@pytest.mark.parametrize("which", [{}, {"id": uuid4(), "idempotency_key": "k"}, {"idempotency_key": ""}])
def test_exactly_one_name(engine: Engine, which: dict[str, Any]) -> None:
    """By id, or by key."""
    with pytest.raises(InvalidRequest, match="exactly one of the two"):
        take_back(**which)


def test_retract_by_sender(engine: Engine) -> None:
    """Of what is about an object, only what that sender caused; the mail goes too."""
    about = {"object_type": "comment", "object_id": "7", "context": {"who": "x"}}
    for sender in ("chani", "irulan"):
        create(ask(READER, "mention", sender_id=sender, **about))
    with transaction() as session:
        assert 1 == retract(session, "comment", "7", sender_id="chani")
    assert ["irulan"] == [row.sender_id for row in rows(Notification)]
    assert 1 == len(rows(Delivery))


def test_retract_all_by_a_sender(engine: Engine) -> None:
    """Without an object: whatever they caused, of one event or of all; what they were told stays."""
    put("paul", NOW, event_config_name="mention", sender_id="chani", object_type="comment", object_id="7")
    for to, sender in (("paul", "chani"), ("paul", "irulan"), ("chani", None)):
        put(to, NOW, event_config_name="quiet", sender_id=sender)
    with transaction() as session:
        assert [1, 1, 0] == [retract(session, sender_id="chani", event_config_name=e) for e in ("quiet", None, None)]
    assert {("chani", None), ("paul", "irulan")} == {(row.recipient_id, row.sender_id) for row in rows(Notification)}


@pytest.mark.parametrize(
    "which", [{}, {"event_config_name": "quiet"}, {"object_type": "comment"}, {"object_id": "7", "sender_id": "chani"}]
)
def test_nothing_is_retracted_by_less(engine: Engine, which: dict[str, str]) -> None:
    """An event alone, or an id without its type, would take too much."""
    put("paul", NOW, event_config_name="quiet", sender_id="chani", object_type="comment", object_id="7")
    with transaction() as session, pytest.raises(InvalidRequest, match="object_type and object_id, or sender_id"):
        retract(session, **which)
    assert 1 == len(rows(Notification))
