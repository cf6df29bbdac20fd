"""What the mails of one request have in common is kept once, and as long as any of them may need it."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete

from tests.store import LATER, NOW, ask, create, enqueue, rows, take
from worker import purge, recipients
from worker.claims import Claimed, claim
from worker.database import transaction
from worker.models import Content, Delivery, Notification

pytestmark = pytest.mark.usefixtures("catalogue", "engine")

READERS = [{"id": f"r{n}", "email": f"r{n}@example.org", "lang": "de" if n == 2 else "en"} for n in range(4)]
CAROL = {"id": "carol", "email": "carol@example.org", "lang": "pt"}


def claimed() -> tuple[list[Claimed], int]:
    with transaction() as session:
        return claim(session, [row.id for row in rows(Delivery)], LATER, LATER)


def erase(recipient_id: str) -> None:
    with transaction() as session:
        recipients.erase(session, recipient_id, now=LATER)


def test_many_mails_have_one_content_for_each_language() -> None:
    """No row has the parts; whoever claims the deliveries gets them, with an equal key where they are equal."""
    create(ask(READERS))
    assert ({None}, 2) == ({row.parts for row in rows(Delivery)}, len(rows(Content)))
    found, _skipped = claimed()
    subjects = {one.parcel.address: (one.parcel.parts["subject"], one.parcel.content_key) for one in found}
    assert ["Dune is here", "Dune is here", "Dune ist da", "Dune is here"] == [
        subjects[reader["email"]][0] for reader in READERS
    ]
    assert 2 == len({key for _subject, key in subjects.values()})


@pytest.mark.parametrize(
    ("to", "event", "context"),
    [
        ([CAROL], "book_available", {"title": "Dune"}),
        (READERS, "password_reset", {"link": "https://example.org/CANARY"}),
    ],
)
def test_a_single_mail_and_a_secret_one_keep_their_parts_until_they_are_sent(
    to: Any, event: str, context: dict[str, str]
) -> None:
    """What only one mail needs, or what must not outlive its mail, is in no content."""
    create(ask(to, event, context=context))
    assert [] == rows(Content)
    assert {True} == {bool(row.parts) for row in rows(Delivery)}


def test_a_mail_whose_content_is_gone_says_so() -> None:
    """It is skipped, not sent empty."""
    create(ask(READERS))
    with transaction() as session:
        session.execute(delete(Content))
    assert ([], 4) == claimed()
    assert {("skipped", "content_gone")} == {(row.status, row.reason) for row in rows(Delivery)}


def test_a_content_is_purged_once_no_mail_can_need_it() -> None:
    """Its time counts from the latest mail's: so long may one be replayed (30 days), and then be tried (5 days)."""
    create(ask(READERS), ask(READERS, send_at=NOW + timedelta(days=40)))
    purge.purge_requests(transaction, now=NOW + timedelta(days=34))
    assert 4 == len(rows(Content))
    purge.purge_requests(transaction, now=NOW + timedelta(days=37))
    assert 2 == len(rows(Content))


def test_a_content_of_the_erased_alone_goes_with_them() -> None:
    """What others have too stays theirs, and their mails go out."""
    create(ask([*READERS, CAROL]))
    with transaction() as session:
        exported = recipients.export(session, "carol")
    assert ["Livro: Dune"] == [one["parts"]["subject"] for one in exported["deliveries"]]
    for recipient_id in ("carol", "r0"):
        erase(recipient_id)
    assert ["Dune is here", "Dune ist da"] == sorted(row.parts["subject"] for row in rows(Content))
    assert 3 == len(claimed()[0])


def test_a_content_stays_while_pages_of_its_fan_out_wait(configure: Any) -> None:
    """Others may be about to need it; afterwards it is theirs, or nobody's."""
    configure(CREATE_BATCH=2)
    with transaction() as session:
        recipients.upsert(session, [CAROL, *READERS])
        recipients.set_group(session, "all", ["carol", *(reader["id"] for reader in READERS)])
    enqueue(ask({"group": "all"}))
    take()
    assert [1, 1] == [take(1, bulk=True)[0] for _ in range(2)]
    told, kept = {row.recipient_id for row in rows(Notification)}, [row.id for row in rows(Content)]
    assert kept
    for recipient_id in told:
        erase(recipient_id)
    assert kept == [row.id for row in rows(Content)]
    while take(1, bulk=True)[0]:
        pass
    found, skipped = claimed()
    assert (5 - len(told), 0) == (len(found), skipped)
    for one in found:
        erase(one.parcel.address.partition("@")[0])
    assert {row.id for row in rows(Content)} <= set(kept), "whose last page is created, and whose readers are gone"
