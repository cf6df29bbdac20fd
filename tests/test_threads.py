"""A notification answers another one of the same recipient, and its mail says so."""

from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine

from tests.store import LATER, ask, create, enqueue, rows, take
from worker import claims, recipients
from worker.create import Created
from worker.database import transaction
from worker.errors import UnknownParent
from worker.ids import derive
from worker.models import Delivery, Notification
from worker.request import NotificationRequest
from worker.threads import MAX_CHAIN

pytestmark = pytest.mark.usefixtures("catalogue")


def place(request: NotificationRequest, who: str = "paul") -> tuple[UUID | None, UUID | None]:
    [row] = [row for row in rows(Notification) if row.request_id == request.id and row.recipient_id == who]
    return row.parent_id, row.thread_id


def refusal(done: Created) -> type[Exception]:
    [error] = done.refused.values()
    return type(error)


def test_a_reply_to_a_notification(engine: Engine) -> None:
    """The parent is as given; the thread is the one it began, however deep the reply."""
    first = ask("paul")
    create(first)
    root = derive(first.id, "paul")
    reply = ask("paul", parent_id=root)
    create(reply)
    deeper = ask("paul", parent_id=derive(reply.id, "paul"))
    create(deeper)
    assert (None, None) == place(first)
    assert (root, root) == place(reply)
    assert (derive(reply.id, "paul"), root) == place(deeper)


def test_a_reply_to_a_fan_out_finds_each_recipients_own(engine: Engine) -> None:
    """Given the request, everyone's reply hangs below their own notification of it."""
    first = ask(["paul", "chani"])
    create(first)
    reply = ask(["paul", "chani"], parent_id=first.id)
    create(reply)
    assert [derive(first.id, who) for who in ("paul", "chani")] == [place(reply, who)[0] for who in ("paul", "chani")]


@pytest.mark.parametrize("to", ["chani", ["paul", "chani"]])
def test_somebody_elses_notification_is_no_parent(engine: Engine, to: str | list[str]) -> None:
    """Nobody is put below what another recipient was told; no row is written."""
    first = ask("paul")
    create(first)
    assert UnknownParent is refusal(create(ask(to, parent_id=derive(first.id, "paul"))))
    assert 1 == len(rows(Notification))


def test_an_unknown_parent_is_refused(engine: Engine) -> None:
    """Neither a notification nor a request."""
    assert UnknownParent is refusal(create(ask("paul", parent_id=uuid4())))
    assert [] == rows(Notification)


def test_a_reply_in_the_same_transaction(engine: Engine) -> None:
    """What answers a request of the same message finds it; one that answers a wrong request is refused with it."""
    first = ask("paul")
    reply = ask("paul", parent_id=first.id)
    wrong = ask("paul", "no_such_event")
    done = create(first, reply, wrong, ask("paul", parent_id=wrong.id))
    assert 2 == len(done.refused)
    assert derive(first.id, "paul") == place(reply)[0]


def test_who_was_never_told_the_parent_is_told_the_reply(engine: Engine) -> None:
    """A member who joined since, or deleted it, is no reason to refuse the others."""
    first = ask("paul")
    create(first)
    reply = ask(["paul", "chani"], parent_id=first.id)
    assert {} == create(reply).refused
    assert derive(first.id, "chani") == place(reply, "chani")[0]


def test_large_audiences_reply_too(engine: Engine, configure: object) -> None:
    """Pages of a fan-out find their parents; an unknown one fails the request before any page exists."""
    configure(CREATE_BATCH=2)  # type: ignore[operator]
    with transaction() as session:
        recipients.set_group(session, "fremen", ["paul", "chani", "stilgar"])
    first = ask({"group": "fremen"})
    reply = ask({"group": "fremen"}, parent_id=first.id)
    enqueue(first)
    take()
    assert [1, 2, 0] == [take(bulk=True)[0] for _ in range(3)]
    enqueue(reply, ask({"group": "fremen"}, parent_id=uuid4()))
    take()
    assert [1, 2, 0] == [take(bulk=True)[0] for _ in range(3)]
    assert 6 == len(rows(Notification))
    assert derive(first.id, "stilgar") == place(reply, "stilgar")[0]


def test_the_mail_refers_to_its_thread(engine: Engine) -> None:
    """The first of the thread, then what lies between as far as the bound goes, the parent last."""
    chain = [ask({"id": "paul", "email": "paul@example.org"})]
    create(chain[0])
    for _ in range(MAX_CHAIN + 3):
        chain.append(ask({"id": "paul", "email": "paul@example.org"}, parent_id=derive(chain[-1].id, "paul")))
        create(chain[-1])
    mails = [derive(derive(request.id, "paul"), "email") for request in chain]
    with transaction() as session:
        claimed, _ = claims.claim(session, mails, LATER, LATER)
    found = {one.id: one.parcel.references for one in claimed}
    assert () == found[mails[0]]
    assert (mails[0],) == found[mails[1]]
    assert (mails[0], mails[1]) == found[mails[2]]
    assert (mails[0], *mails[-1 - MAX_CHAIN : -1]) == found[mails[-1]]
    assert len(mails) == len(rows(Delivery))
