"""Any sequence of what may happen to some inboxes agrees with a plain model of them, on both stores."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import Session

from tests.store import NOW, ask, put
from worker import inbox
from worker.create import create
from worker.database import transaction, utcnow
from worker.inbox import Counts
from worker.models import Notification, PurgeRun, Request
from worker.purge import purge_seen
from worker.retract import retract

WHO = ("paul", "chani", "stilgar")
EVENTS = ("book_available", "mention", "quiet")
MINUTE = timedelta(minutes=1)

who = st.sampled_from(WHO)
event = st.sampled_from(EVENTS)
events = st.none() | event | st.lists(event, max_size=2)
moment = st.integers(0, 6).map(lambda minutes: NOW + minutes * MINUTE)
state = st.sampled_from(["", "", "", "later", "over"])
item = st.tuples(st.sampled_from(["book", "film"]), st.sampled_from("12"))


@dataclass(frozen=True)
class Entry:
    """What the model knows of a notification."""

    id: UUID
    recipient_id: str
    event: str | None
    item: tuple[str, str] | None
    created_at: datetime
    visible: bool = True
    seen: bool = False


def fits(entry: Entry, of: str | list[str] | None) -> bool:
    return of is None or entry.event in ([of] if isinstance(of, str) else of)


class Inboxes(RuleBasedStateMachine):
    """The store beside the model."""

    known = Bundle("known")
    walks = Bundle("walks")

    @initialize()
    def empty(self) -> None:
        self.model: dict[UUID, Entry] = {}
        with transaction() as session:
            for table in (Notification, Request, PurgeRun):
                session.execute(delete(table))

    def of(self, recipient_id: str, *, seen: bool | None = None, events: Any = None) -> list[Entry]:
        """The model's list, newest first."""
        theirs = [entry for entry in self.model.values() if entry.recipient_id == recipient_id and entry.visible]
        found = [entry for entry in theirs if seen in (None, entry.seen) and fits(entry, events)]
        return sorted(found, key=lambda entry: (entry.created_at, entry.id), reverse=True)

    def change(self, entries: list[Entry], **values: Any) -> int:
        self.model |= {entry.id: replace(entry, **values) for entry in entries}
        return len(entries)

    def drop(self, entries: list[Entry]) -> int:
        for entry in entries:
            del self.model[entry.id]
        return len(entries)

    @rule(target=known, to=who, event=st.none() | event, item=st.none() | item, at=moment, state=state)
    def arrive(self, to: str, event: str | None, item: tuple[str, str] | None, at: datetime, state: str) -> UUID:
        """A row written directly: some not yet visible, some no more."""
        about = {"object_type": item[0], "object_id": item[1]} if item else {}
        created_at = utcnow() + timedelta(days=9) if state == "later" else at
        expires = {"expire_at": NOW} if state == "over" else {}
        id = put(to, created_at, event_config_name=event, **about, **expires)
        self.model[id] = Entry(id, to, event, item, created_at, visible=not state)
        return id

    @rule(to=st.sets(who, min_size=1), item=st.none() | item, at=moment)
    def ask_for(self, to: set[str], item: tuple[str, str] | None, at: datetime) -> None:
        """Some by the way that applications take."""
        about = {"object_type": item[0], "object_id": item[1]} if item else {}
        request = ask(sorted(to), **about)
        with transaction() as session:
            create(session, [request], now=at)
        with transaction() as session:
            found = [*session.scalars(select(Notification).where(Notification.request_id == request.id))]
        assert sorted(to) == sorted(row.recipient_id for row in found)
        for row in found:
            self.model[row.id] = Entry(row.id, row.recipient_id, "book_available", item, at)

    @rule(whose=who, id=known | st.uuids(version=4), seen=st.booleans())
    def mark(self, whose: str, id: UUID, seen: bool) -> None:
        """One of theirs, or of another's, which changes nothing."""
        mine = [entry for entry in self.of(whose) if entry.id == id]
        with transaction() as session:
            row = inbox.mark_seen(session, whose, id, seen)
            assert [entry.id for entry in mine] == ([] if row is None else [row.id])
        self.change(mine, seen=seen)

    @rule(whose=who, events=events, before=st.none() | moment)
    def mark_all(self, whose: str, events: Any, before: datetime | None) -> None:
        """By event and until a moment, or all of theirs."""
        fresh = self.of(whose, seen=False, events=events)
        marked = self.change([entry for entry in fresh if before is None or entry.created_at < before], seen=True)
        with transaction() as session:
            assert marked == inbox.mark_all_seen(session, whose, event_config_name=events, before=before)

    @rule(whose=who, id=consumes(known))
    def remove(self, whose: str, id: UUID) -> None:
        """One of theirs, or of another's, which stays."""
        mine = [entry for entry in self.of(whose) if entry.id == id]
        with transaction() as session:
            assert bool(mine) is inbox.delete(session, whose, id)
        self.drop(mine)

    @rule(whose=who)
    def remove_seen(self, whose: str) -> None:
        """Their own seen ones."""
        with transaction() as session:
            assert self.drop(self.of(whose, seen=True)) == inbox.delete_seen(session, whose)

    @rule()
    def purge(self) -> None:
        """Everybody's seen ones."""
        seen = [entry for entry in self.model.values() if entry.seen]
        now = utcnow()
        assert self.drop(seen) == purge_seen(transaction, now=now, older_than=now + MINUTE).removed

    @rule(item=item, event=st.none() | event)
    def take_back(self, item: tuple[str, str], event: str | None) -> None:
        """What is about an object, whoever has it and whether visible or not."""
        about = [entry for entry in self.model.values() if entry.item == item and event in (None, entry.event)]
        with transaction() as session:
            assert self.drop(about) == retract(session, *item, event)

    @rule(target=walks, whose=who, order=st.sampled_from(["desc", "asc"]), per_page=st.integers(1, 4))
    def begin(self, whose: str, order: str, per_page: int) -> "Walk":
        """Begin to page through an inbox, to go on while things happen."""
        return Walk(whose, order, per_page, {entry.id for entry in self.of(whose)})

    @rule(walk=walks)
    def go_on(self, walk: "Walk") -> None:
        """Nothing comes twice, and at the end nothing that was there all the time is missing."""
        if walk.ended:
            return
        with transaction() as session:
            page = inbox.list(session, walk.whose, order=walk.order, per_page=walk.per_page, cursor=walk.cursor)  # type: ignore[arg-type]
        found = [row.id for row in page.items]
        assert not {*found} & walk.found
        walk.found |= {*found}
        walk.cursor, walk.ended = page.next_cursor, page.next_cursor is None
        if walk.ended:
            assert walk.at_first & {entry.id for entry in self.of(walk.whose)} <= walk.found

    @rule(whose=who)
    def look(self, whose: str) -> None:
        """Lists, pages, counts and events are the model's."""
        with transaction() as session:
            self.compare(session, whose)

    def teardown(self) -> None:
        """At the end everybody looks."""
        with transaction() as session:
            for whose in WHO:
                self.compare(session, whose)

    def compare(self, session: Session, whose: str) -> None:
        mine, fresh = self.of(whose), self.of(whose, seen=False)
        assert [entry.id for entry in mine] == [row.id for row in inbox.list(session, whose, per_page=200).items]
        last = max(1, -(-len(mine) // 3))
        page = inbox.list(session, whose, page=last, per_page=3, order="asc")
        assert [entry.id for entry in mine[::-1][3 * last - 3 :]] == [row.id for row in page.items]
        assert (len(mine), False, last > 1) == (page.total, page.has_next, page.has_prev)
        named = {
            name: Counts(len(self.of(whose, events=name)), len(self.of(whose, events=name, seen=False)))
            for name in EVENTS
            if self.of(whose, events=name)
        }
        assert Counts(len(mine), len(fresh), named) == inbox.counts(session, whose, by_event=True)
        assert (len(fresh), bool(fresh)) == (inbox.unseen_count(session, whose), inbox.has_unseen(session, whose))
        for seen in (True, False):
            expected = {entry.event for entry in self.of(whose, seen=seen)} - {None}
            assert expected == {*inbox.event_types(session, whose, seen=seen)}


@dataclass
class Walk:
    """Somebody's way through the pages."""

    whose: str
    order: str
    per_page: int
    at_first: set[UUID]
    cursor: str | None = None
    ended: bool = False

    def __post_init__(self) -> None:
        self.found: set[UUID] = set()


@pytest.mark.usefixtures("catalogue")
def test_inboxes_agree_with_a_plain_model(engine: Engine) -> None:
    """Arrivals, marks, removals, purges and retractions in any order: the store has what the model has."""
    run_state_machine_as_test(
        Inboxes,
        settings=settings(
            max_examples=20,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[*HealthCheck],
        ),
    )
