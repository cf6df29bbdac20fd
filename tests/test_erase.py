"""Everything about one recipient, handed out or erased."""

import json
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.store import LATER, NOW, ask, create, enqueue, filled, rows, take
from worker import claims, directory_tasks, recipients
from worker.database import transaction
from worker.models import Delivery, Erasure, Notification, Recipient, Request, Suppression
from worker.transport import Private

pytestmark = pytest.mark.usefixtures("catalogue")

PAUL = {"id": "paul", "username": "muaddib", "email": "Paul@example.org", "lang": "de", "timezone": None}
CHANI = {"id": "chani", "email": "chani@example.org"}


@pytest.fixture
def known(engine: Engine, catalogue: None) -> None:
    """Paul with something in every table, Chani beside him."""
    with transaction() as session:
        recipients.upsert(session, [PAUL, CHANI])
        recipients.set_group(session, "fremen", ["paul", "chani"])
        recipients.set_preference(session, "paul", "mention", enabled=False)
        recipients.suppress(session, "paul@example.org", "bounced", NOW)
        recipients.suppress(session, "chani@example.org", "bounced", NOW)
    create(ask({"group": "fremen"}))
    create(ask({"id": "paul", "email": "p@example.net"}))
    enqueue(ask("paul"), ask(["paul", "chani"]), ask({"username": "muaddib"}), ask("chani"))


def exported(recipient_id: str = "paul") -> Any:
    with transaction() as session:
        return json.loads(json.dumps(recipients.export(session, recipient_id)))


def erase(recipient_id: str = "paul") -> dict[str, int]:
    with transaction() as session:
        return recipients.erase(session, recipient_id, now=LATER)


@pytest.mark.usefixtures("known")
def test_export_gives_all_that_is_held() -> None:
    """As JSON, and nothing of anybody else."""
    found = exported()
    assert PAUL == found["recipient"]
    assert ["fremen"] == found["groups"]
    assert [("mention", False)] == [(one["event_config_name"], one["enabled"]) for one in found["preferences"]]
    assert ["paul@example.org"] == [one["address"] for one in found["suppressions"]]
    assert ["Dune ist da"] * 2 == [one["title"] for one in found["notifications"]]
    assert {("Paul@example.org", "skipped"), ("p@example.net", "pending")} == {
        (one["address"], one["status"]) for one in found["deliveries"]
    }
    assert [["paul"], ["paul"], [{"username": "muaddib"}]] == sorted((one["to"] for one in found["requests"]), key=str)
    assert "chani" not in json.dumps(found)


@pytest.mark.usefixtures("known")
def test_erase_leaves_nothing_of_one_and_everything_of_the_other() -> None:
    """Afterwards there is nothing left to export; the others' rows are as they were."""
    before = exported("chani")
    counts = erase()
    assert {
        "requests": 3, "suppressions": 1, "deliveries": 2, "notifications": 2, "preferences": 1, "groups": 1,
        "recipients": 1,
    } == counts  # fmt: skip
    assert exported() == {
        "recipient": None, "groups": [], "preferences": [], "suppressions": [], "notifications": [], "deliveries": [],
        "attempts": [], "requests": [],
    }  # fmt: skip
    assert before == exported("chani")


@pytest.mark.usefixtures("known")
def test_what_waits_goes_on_without_them() -> None:
    """A request that named others too is created for them; one that named nobody else never is."""
    erase()
    assert ["cancelled", "cancelled", "created", "created", "pending", "pending"] == sorted(
        row.status for row in rows(Request)
    )
    take()
    assert {"chani"} == {row.recipient_id for row in rows(Notification)}


@pytest.mark.usefixtures("known")
def test_the_ledger_names_nobody() -> None:
    """When, and how much; and that again, for an erasure that finds nothing."""
    counts = erase()
    again = erase()
    first, second = rows(Erasure)
    assert (LATER, counts, again) == (first.erased_at, first.counts, second.counts)
    assert {0} == set(again.values())


@pytest.mark.usefixtures("known")
def test_mails_not_yet_sent_go_too() -> None:
    """A delivery handed over before is no longer there to claim."""
    pending = [row.id for row in rows(Delivery) if row.status == "pending"]
    erase()
    with transaction() as session:
        assert ([], 0) == claims.claim(session, pending, LATER, LATER)


@pytest.mark.usefixtures("known")
def test_a_shared_address_stays_suppressed() -> None:
    """It still holds for the other one."""
    with transaction() as session:
        recipients.upsert(session, [{"id": "alia", "email": "PAUL@example.org"}])
    assert 0 == erase()["suppressions"]
    assert 2 == len(rows(Suppression))


@pytest.mark.parametrize("id", ['a"b\\c', "Zoë", "50%_", "用户", "x" * 255])
def test_ids_of_any_letters(engine: Engine, id: str) -> None:
    """What JSON writes in more than one way is found all the same."""
    with transaction() as session:
        recipients.upsert(session, [{"id": "other", "username": "u"}])
    enqueue(ask([id, "other"]), ask({"id": id, "lang": "de"}))
    assert 2 == len(exported(id)["requests"])
    assert 2 == erase(id)["requests"]
    take()
    assert ["other"] == [row.recipient_id for row in rows(Notification)]


def test_a_request_that_failed_is_not_kept_either(engine: Engine) -> None:
    """What is kept for the operator names people too."""
    enqueue(ask("paul", "no_such_event"))
    take()
    assert ["failed"] == [one["status"] for one in exported()["requests"]]
    erase()
    assert [("cancelled", None, None)] == [(row.status, row.payload, row.error) for row in rows(Request)]


def test_nothing_held_is_no_error(engine: Engine) -> None:
    """Nobody of that id: empty lists, zeros."""
    assert exported("nobody")["recipient"] is None
    assert {0} == set(erase("nobody").values())
    assert {"erasures"} == filled()


@pytest.mark.usefixtures("known")
def test_the_tasks_keep_their_results_private() -> None:
    """The caller gets them; logs and Flower do not."""
    result = directory_tasks.export(recipient_id="paul")
    assert isinstance(result, Private)
    assert "paul" not in repr(result)
    assert 2 == directory_tasks.erase(recipient_id="paul").__json__()["notifications"]
    assert ["chani"] == [row.id for row in rows(Recipient)]
