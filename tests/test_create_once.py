"""What is asked twice is created once: ids, idempotency keys, dedupe, and callers at the same time."""

from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import update

from tests.store import NOW, ask, by_recipient, create, filled, put, rows, together, undone
from worker import create as creating
from worker import inbox
from worker.create import Created
from worker.database import transaction
from worker.errors import IdempotencyConflict
from worker.models import Delivery, Notification, Request
from worker.request import NotificationRequest

pytestmark = pytest.mark.usefixtures("catalogue", "engine")

READERS = [{"id": f"r{n}", "email": f"r{n}@example.org"} for n in range(3)]


def again(request: NotificationRequest, **changes: object) -> NotificationRequest:
    """The same request, as a producer would publish it again, with changes."""
    return NotificationRequest.parse({**request.to_wire(), **changes})


def about(number: int) -> dict[str, str]:
    return {"sender_id": "paul", "object_type": "comment", "object_id": str(number)}


def test_the_same_request_twice_is_created_once() -> None:
    """A message that is delivered again adds no row and hands nothing over."""
    request = ask(READERS)
    first, second = create(request), create(again(request))
    assert (3, 3, 0) == (first.notifications, first.deliveries, first.repeated)
    assert (0, 0, 1, {}, {}) == (second.notifications, second.deliveries, second.repeated, second.due, second.refused)
    assert (3, 3, 1) == (len(by_recipient()), len(rows(Delivery)), len(rows(Request)))


def test_the_same_request_twice_in_one_batch_is_created_once() -> None:
    """Twice in one message, too."""
    request = ask(READERS)
    done = create(request, again(request))
    assert (3, 3, {}) == (done.notifications, done.deliveries, done.refused)
    assert (3, 3) == (len(by_recipient()), len(rows(Delivery)))


@pytest.mark.parametrize("callers", [2, 3])
def test_the_same_request_at_the_same_time_is_created_once(callers: int) -> None:
    """Workers with sessions of their own: one creates, the others find it created."""
    for _round in range(5):
        request = ask(READERS, idempotency_key=f"round-{_round}")
        done = together(*[partial(create, request)] * callers)
        assert [0] * (callers - 1) + [3] == sorted(one.notifications for one in done)
        assert callers - 1 == sum(one.repeated for one in done)
        assert not any(one.refused for one in done)
    assert (15, 15, 5) == (len(rows(Notification)), len(rows(Delivery)), len(rows(Request)))


def test_a_caller_waits_for_one_who_is_just_creating_it_and_fails() -> None:
    """The first is rolled back after its insert: the second must create, not count on it."""
    request = ask(READERS)

    def failing() -> Created:
        with undone() as session:
            creating.create(session, [request], now=NOW)
        return Created()

    together(failing, partial(create, request))
    assert 3 == len(by_recipient())


def test_batches_in_opposite_order_do_not_wait_for_each_other_for_ever() -> None:
    """Two messages with the same requests, the one in the reverse order of the other, at the same time."""
    for _round in range(3):
        batch = [ask(f"r{n}", "mention", context={"who": "Paul"}, **about(_round * 100 + n)) for n in range(100)]
        done = together(partial(create, *batch), partial(create, *reversed(batch)))
        assert [0, 100] == sorted(one.repeated for one in done)
    assert 300 == len(rows(Notification))


def test_deduped_recipients_in_opposite_order_do_not_wait_for_each_other_for_ever() -> None:
    """Different requests that make the same notifications, in reverse order, at the same time."""
    for _round in range(3):
        to = [f"r{n}" for n in range(200)]
        one, other = (ask(who, "mention", context={"who": "Paul"}, **about(_round)) for who in (to, to[::-1]))
        together(partial(create, one), partial(create, other))
    assert 600 == len(rows(Notification))


def test_the_same_id_with_other_content_is_a_conflict() -> None:
    """The first stays as it is; the message of the error shows nothing of either."""
    request = ask("paul")
    create(request)
    done = create(again(request, context={"title": "CANARY"}))
    assert IdempotencyConflict is type(done.refused[request.id])
    assert "CANARY" not in str(done.refused[request.id])
    assert ["Dune is here"] == [row.title for row in rows(Notification)]


def test_the_same_id_with_other_content_in_one_batch_creates_neither() -> None:
    """Which of them was meant is unknown."""
    request, innocent = ask("paul"), ask("chani")
    done = create(request, innocent, again(request, context={"title": "Emma"}))
    assert {request.id: IdempotencyConflict} == {id: type(error) for id, error in done.refused.items()}
    assert ["chani"] == [row.recipient_id for row in rows(Notification)]


def test_a_key_names_one_request() -> None:
    """The same key with the same request, under another id, is a repetition; with another text a conflict."""
    create(ask("paul", idempotency_key="loan-1"))
    same = create(ask("paul", idempotency_key="loan-1"))
    assert (1, 0, {}) == (same.repeated, same.notifications, same.refused)
    other = ask("paul", idempotency_key="loan-1", context={"title": "Emma"})
    done = create(other)
    assert (0, 0, {other.id: IdempotencyConflict}) == (
        done.repeated,
        done.notifications,
        {id: type(error) for id, error in done.refused.items()},
    )
    assert (1, 1) == (len(rows(Notification)), len(rows(Request)))


def test_a_key_within_one_batch() -> None:
    """One is created, the repetition is counted, the other text is refused."""
    first, same = ask("paul", idempotency_key="loan-1"), ask("paul", idempotency_key="loan-1")
    other = ask("paul", idempotency_key="loan-1", context={"title": "Emma"})
    done = create(first, same, other)
    assert (1, 1, {other.id}) == (done.notifications, done.repeated, set(done.refused))
    assert ["Dune is here"] == [row.title for row in rows(Notification)]


def test_a_key_at_the_same_time() -> None:
    """Three producers with one key, each with an id of its own: one notification."""
    asked = [ask("paul", idempotency_key="loan-1") for _ in range(3)]
    done = together(*[partial(create, one) for one in asked])
    assert ([0, 0, 1], 2) == (sorted(one.notifications for one in done), sum(one.repeated for one in done))
    assert 1 == len(rows(Notification))


def test_an_id_and_a_key_of_two_different_requests_are_a_conflict() -> None:
    """The id was used for one request, the key for another: a third one with both is neither."""
    first, second = ask("paul"), ask("chani", idempotency_key="loan-1")
    create(first, second)
    for third in (again(first, idempotency_key="loan-1"), again(second, id=str(first.id))):
        assert {first.id} == set(create(third).refused)


def test_without_a_key_the_same_text_may_be_sent_again() -> None:
    """Only ids and keys tell a repetition from a second event of the same kind."""
    assert 2 == create(ask("paul"), ask("paul")).notifications
    assert 2 == len(rows(Notification))


def test_dedupe_tells_once_per_sender_object_and_recipient() -> None:
    """Where the event says so, a second request about the same adds nothing; any difference is another matter."""
    create(ask(READERS[:2], "mention", context={"who": "Paul"}, **about(1)))
    create(ask(READERS, "mention", context={"who": "Paul"}, **about(1)), now=NOW + timedelta(days=1))
    assert {"r0": NOW, "r1": NOW, "r2": NOW + timedelta(days=1)} == {
        who: row.created_at for who, row in by_recipient().items()
    }
    assert 3 == len(rows(Delivery))
    create(ask("r0", "mention", context={"who": "Paul"}, **about(2)))
    create(ask("r0", "mention", context={"who": "Paul"}, **{**about(1), "sender_id": "chani"}))
    create(ask("r0", "mention", context={"who": "Paul"}, **{**about(1), "object_type": "post"}))
    assert 6 == len(rows(Notification))


def test_dedupe_leaves_what_was_there_as_it_is() -> None:
    """A second request changes neither text nor address, and a mail that was sent stays sent."""
    create(ask(READERS[0], "mention", context={"who": "Paul"}, **about(1)))
    with transaction() as session:
        session.execute(update(Delivery).values(status="sent", parts=None))
    create(ask({"id": "r0", "email": "new@example.org"}, "mention", context={"who": "Chani"}, **about(1)))
    assert ["Paul mentions you"] == [row.title for row in rows(Notification)]
    assert [("sent", "r0@example.org", None)] == [(row.status, row.address, row.parts) for row in rows(Delivery)]


def test_dedupe_needs_an_object() -> None:
    """Without an object each request is its own."""
    create(*(ask("r0", "mention", context={"who": "Paul"}, sender_id="paul") for _ in range(2)))
    assert 2 == len(rows(Notification))


def test_dedupe_in_one_batch_and_at_the_same_time() -> None:
    """Neither the batch nor the moment matters."""
    asked = [ask(READERS, "mention", context={"who": "Paul"}, **about(1)) for _ in range(4)]
    together(partial(create, *asked[:2]), partial(create, asked[2]), partial(create, asked[3]))
    assert (3, 3, 4) == (len(by_recipient()), len(rows(Delivery)), len(rows(Request)))


def test_dedupe_allows_a_new_one_after_the_first_was_deleted() -> None:
    """The recipient removed it; what happens again may be told again."""
    asked = [ask("r0", "mention", context={"who": "Paul"}, **about(1)) for _ in range(2)]
    create(asked[0])
    with transaction() as session:
        assert inbox.delete(session, "r0", rows(Notification)[0].id)
    create(asked[1])
    assert 1 == len(rows(Notification))


def test_a_repeated_request_leaves_a_read_row_alone() -> None:
    """Seen stays seen, and a deleted notification stays deleted."""
    request = ask(["r0", "r1"])
    create(request, now=NOW)
    with transaction() as session:
        ids = {row.recipient_id: row.id for row in rows(Notification)}
        inbox.mark_seen(session, "r0", ids["r0"])
        inbox.delete(session, "r1", ids["r1"])
    create(again(request))
    assert [("r0", True)] == [(row.recipient_id, row.seen_at is not None) for row in rows(Notification)]


def test_nobody_to_tell_is_no_error() -> None:
    """The sender alone is named: the request is recorded, and nothing else."""
    done = create(ask("paul", "mention", context={"who": "Paul"}, **about(1)))
    assert (0, {}, {"requests"}) == (done.notifications, done.refused, filled())


def test_an_empty_batch_is_no_error() -> None:
    """Nothing asked, nothing done, with rows of others in the tables."""
    put("paul", NOW)
    assert (0, 0, {}) == ((done := create()).notifications, done.deliveries, done.refused)
