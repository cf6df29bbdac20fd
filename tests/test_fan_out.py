"""A large audience: cut into pages that wait as rows, each told once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, update

from tests.store import LATER, NOW, ask, by_recipient, create, enqueue, rows, take, together, undone, waits
from worker import fan_out as fanning
from worker import pending, recipients
from worker.database import transaction
from worker.errors import BellhopError, EmptyGroup, IdempotencyConflict, InvalidContext, TemplateFailed, UnknownEvent
from worker.models import Delivery, Notification, Request
from worker.request import NotificationRequest

CROWD = [f"r{n:04}" for n in range(2500)]


@pytest.fixture
def crowd(catalogue: None, engine: Engine, configure: Callable[..., None]) -> NotificationRequest:
    """A request to a group of 2,500, of whom one has an address, and to one of them by id."""
    configure(CREATE_BATCH=1000)
    with transaction() as session:
        recipients.set_group(session, "crowd", CROWD)
        recipients.upsert(session, [{"id": "r0007", "email": "r7@example.org", "lang": "de"}])
    return ask([{"group": "crowd"}, "r0001"])


def fan_out(request: NotificationRequest) -> bool:
    with transaction() as session:
        return fanning.begin(session, request, now=NOW)


def create_pages(limit: int = 1) -> None:
    while take(limit, bulk=True)[0]:
        pass


def assert_all_told_once() -> None:
    found = by_recipient()
    assert CROWD == sorted(found)
    assert ("Dune ist da", "Dune is here") == (found["r0007"].title, found["r0001"].title)
    assert 2500 == len(rows(Delivery))
    assert {"created"} == {row.status for row in rows(Request)}
    assert {None} == {row.payload for row in rows(Request)}


def test_a_large_audience_is_told_page_by_page(crowd: NotificationRequest) -> None:
    """No page holds more than CREATE_BATCH recipients, and waits apart from the small requests."""
    assert fan_out(crowd)
    assert ([("pending", "")], (False, True)) == ([(row.status, row.cursor) for row in rows(Request)], waits())
    assert 4 == take(1, bulk=True)[1].pages
    pages = [row for row in rows(Request) if row.cursor is None]
    assert [1, 500, 1000, 1000] == sorted(len(row.payload["to"]) for row in pages if row.payload)
    assert ((False, True), []) == (waits(), rows(Notification))
    create_pages()
    assert_all_told_once()


@pytest.mark.parametrize("at_once", [True, False])
def test_a_fan_out_that_runs_twice_tells_once(crowd: NotificationRequest, at_once: bool) -> None:
    """The task is delivered again, or at the same time, or after the pages were created."""
    new = together(*[lambda: fan_out(crowd)] * 3) if at_once else [fan_out(crowd), fan_out(crowd)]
    assert 1 == sum(new)
    create_pages()
    assert not fan_out(crowd)
    assert (0, 1) == (take(bulk=True)[0], create(crowd).repeated)
    assert_all_told_once()


def test_a_page_that_is_created_twice_tells_once(crowd: NotificationRequest) -> None:
    """As if its first creation were not recorded."""
    fan_out(crowd)
    take(1, bulk=True)
    payloads = {row.id: row.payload for row in rows(Request) if row.cursor is None}
    create_pages()
    with transaction() as session:
        for id, payload in payloads.items():
            session.execute(update(Request).where(Request.id == id).values(status="pending", payload=payload))
    create_pages()
    assert_all_told_once()


def test_pages_are_created_by_many_workers(crowd: NotificationRequest) -> None:
    """At the same time, each page by one of them."""
    fan_out(crowd)
    together(*[create_pages] * 4)
    assert_all_told_once()


def test_a_membership_that_changes_meanwhile(crowd: NotificationRequest) -> None:
    """Who was a member when their page was cut is told once; who moves on a page, or comes and goes, not again."""
    fan_out(crowd)
    take(1, bulk=True)
    take(1, bulk=True)
    with transaction() as session:
        recipients.set_group(session, "crowd", ["a-newcomer", *CROWD[100:]])
    assert not fan_out(crowd)
    create_pages()
    assert_all_told_once()


def test_a_durable_request_to_a_crowd_becomes_pages(crowd: NotificationRequest) -> None:
    """The small queue only checks it; the bulk queue cuts it, and creates the pages."""
    enqueue(crowd, ask("paul", None, title="Hi"))
    taken, done = take()
    assert (2, 1, 1, (False, True)) == (taken, done.notifications, done.fan_outs, waits())
    create_pages(limit=10)
    assert {*CROWD, "paul"} == set(by_recipient())


def test_two_groups_with_common_members_tell_once(crowd: NotificationRequest) -> None:
    """A recipient on two pages is told by one of them."""
    with transaction() as session:
        recipients.set_group(session, "others", [*CROWD[::2], "stilgar"])
    fan_out(ask([{"group": "crowd"}, {"group": "others"}, "r0001", "stilgar"]))
    create_pages()
    assert {*CROWD, "stilgar"} == set(by_recipient())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"event_config_name": "nothing"}, UnknownEvent),
        ({"context": {}}, InvalidContext),
        ({"to": [{"group": "crowd"}, {"group": "CANARY"}]}, EmptyGroup),
        ({"to": [{"group": "crowd"}, {"username": "CANARY"}]}, BellhopError),
        ({"to": [{"group": "crowd"}, {"id": "x", "timezone": "Mars/CANARY"}]}, BellhopError),
    ],
)
@pytest.mark.parametrize("durable", [True, False])
def test_a_wrong_fan_out_leaves_no_page(
    crowd: NotificationRequest, changes: dict[str, Any], error: type[BellhopError], durable: bool
) -> None:
    """Whatever is wrong shows before anybody is told."""
    request = NotificationRequest.parse({**crowd.to_wire(), **changes})
    if durable:
        enqueue(request)
        take()
        (row,) = rows(Request)
        assert ("failed", False) == (row.status, "CANARY" in (row.error or ""))
        assert request.to_wire() == row.payload
    else:
        with pytest.raises(error) as caught:
            fan_out(request)
        assert "CANARY" not in str(caught.value)
        assert [] == rows(Request)
    assert (False, False) == waits()


def test_a_language_that_fails_shows_before_any_page(
    crowd: NotificationRequest, configure: Callable[..., None], tmp_path: Path
) -> None:
    """Only German readers would meet the broken template: nobody is told."""
    (tmp_path / "catalogue" / "templates" / "book_available" / "de" / "text.txt").write_text("{{ nothing }}")
    configure()
    with pytest.raises(TemplateFailed):
        fan_out(crowd)
    assert [] == rows(Request)


def test_a_cut_that_is_killed_at_any_step_goes_on(crowd: NotificationRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is whole or has not been; pages are created, and acknowledged, while others are still to be cut."""
    monkeypatch.setattr(fanning, "STEP", 1)
    with transaction() as session:
        recipients.set_group(session, "others", [*CROWD[::500], "stilgar"])
    request = ask([{"group": "crowd", "without": CROWD[:3]}, {"group": "others"}, "r0001", "r0002"])
    fan_out(request)
    for _ in range(20):
        with undone() as session:
            pending.create_pending(session, now=LATER, limit=2, bulk=True)
        take(2, bulk=True)
    assert ((False, False), {*CROWD, "stilgar"}) == (waits(), set(by_recipient()))
    assert {"created"} == {row.status for row in rows(Request)}


def test_pages_give_everyone_once_whatever_the_ids_look_like(engine: Engine, configure: Callable[..., None]) -> None:
    """The store's order of letters is not Python's."""
    configure(CREATE_BATCH=2)
    members = ["Zoë", "a", "B", "ä", "10", "9", "_x", "-y", "z\\z", 'q"', "{NULL}", "null", "a,b"]
    with transaction() as session:
        recipients.set_group(session, "mixed", members)
        recipients.set_group(session, "other", ["somebody"])
    fan_out(ask({"group": "mixed"}, None, title='A "title", {with} \\ everything\'s letters: %s :x'))
    create_pages()
    assert sorted(members) == sorted(by_recipient())
    assert {'A "title", {with} \\ everything\'s letters: %s :x'} == {row.title for row in rows(Notification)}


def test_another_fan_out_of_the_same_id_is_a_conflict(crowd: NotificationRequest) -> None:
    """The first one's pages stay."""
    fan_out(crowd)
    with pytest.raises(IdempotencyConflict):
        fan_out(NotificationRequest.parse({**crowd.to_wire(), "context": {"title": "Emma"}}))
    create_pages()
    assert_all_told_once()
