"""What Python callers pass: text or the thing itself; anything else is refused by name, before any statement."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from tests.store import NOW, counted, put, rows
from worker import inbox, inbox_tasks, recipients
from worker.arguments import moment, uuid
from worker.database import transaction
from worker.errors import BellhopError, InvalidRequest, InvalidTimezone
from worker.models import GroupMember, Recipient, Request
from worker.retract import cancel, retract

pytestmark = pytest.mark.usefixtures("catalogue")

Call = Callable[..., Any]

IDS: list[Any] = ["canary", "", 42, b"canary", "01890a5d-ac96-774b-bcce-b302099a805", [uuid4()]]
MOMENTS: list[Any] = [
    *("canary", "now", "", "2020-01-01", "2020-01-01T12:00:00", "1577880000", 42, datetime(2020, 1, 1)),
    *(date(2020, 1, 1), datetime(1, 1, 1, tzinfo=UTC), "9999-12-31T23:59:59-12:00"),
]
WHO: list[Any] = [42, None, uuid4(), b"canary", ["canary"], "canary\0", "canary\ud800"]
NUMBERS: list[Any] = ["2", 2.0, True, -1, 10**30, "canary"]
FLAGS: list[Any] = ["false", "canary", 2, []]

#: Function, its arguments, the one that is wrong, and values of it that are.
WRONG: list[tuple[Call, dict[str, Any], str, list[Any]]] = [
    *((call, {"recipient_id": "paul"}, "id", [*IDS, None]) for call in (inbox.get, inbox.mark_seen, inbox.delete)),
    *((call, {"id": uuid4()}, "recipient_id", WHO) for call in (inbox.get, inbox.mark_seen, inbox.delete)),
    (inbox.mark_seen, {"recipient_id": "paul", "id": uuid4()}, "seen", FLAGS),
    *(
        case
        for call in (inbox.list, inbox.counts, inbox.unseen_count, inbox.has_unseen, inbox.event_types,
                     inbox.mark_all_seen, inbox.delete_seen)
        for case in (
            (call, {}, "recipient_id", WHO),
            *((call, {"recipient_id": "paul"}, name, IDS) for name in ("parent_id", "thread_id")),
            *((call, {"recipient_id": "paul"}, name, MOMENTS) for name in ("since", "until")),
            *((call, {"recipient_id": "paul"}, name, [42, b"canary", uuid4()]) for name in ("scope", "search")),
            (call, {"recipient_id": "paul"}, "event_config_name", [42, b"canary", [42], {"canary": 1}]),
        )
    ),
    *((call, {"recipient_id": "paul"}, "seen", FLAGS) for call in (inbox.list, inbox.event_types)),
    *((inbox.list, {"recipient_id": "paul"}, name, NUMBERS) for name in ("page", "offset", "per_page")),
    (inbox.list, {"recipient_id": "paul"}, "cursor", ["canary", 42, b"canary"]),
    (inbox.list, {"recipient_id": "paul"}, "query", [42, b"canary"]),
    (inbox.mark_all_seen, {"recipient_id": "paul"}, "before", MOMENTS),
    (inbox.delete_seen, {"recipient_id": "paul"}, "older_than", MOMENTS),
    *((retract, {"object_type": "book", "object_id": "7", "sender_id": "paul"}, name, [42, "canary\0"])
      for name in ("object_type", "object_id", "sender_id", "event_config_name")),
    (cancel, {"now": NOW}, "id", IDS),
    (cancel, {"now": NOW}, "idempotency_key", [42, "canary\0", "canary" * 50]),
    (cancel, {"id": uuid4()}, "now", MOMENTS),
    *((call, {}, "recipient_id", WHO) for call in (recipients.get, recipients.delete, recipients.export)),
    (recipients.groups, {}, "recipient_id", [who for who in WHO if who is not None]),
    (recipients.preferences, {}, "recipient_id", WHO),
    (recipients.find, {}, "username", WHO),
    (recipients.erase, {"now": NOW}, "recipient_id", WHO),
    (recipients.erase, {"recipient_id": "paul"}, "now", MOMENTS),
    (recipients.members, {}, "group", WHO),
    *(
        case
        for call in (recipients.set_group, recipients.add_members, recipients.remove_members)
        for case in (
            (call, {"recipient_ids": ["paul"]}, "group", WHO),
            (call, {"group": "fremen"}, "recipient_ids", ["canary", b"canary", 42, None]),
            (call, {"group": "fremen"}, "recipient_ids.1", [["paul", who] for who in (*WHO, "", "canary" * 50)]),
        )
    ),
    (recipients.add_members, {"recipient_ids": ["paul"]}, "group", ["", "canary" * 50]),
    (recipients.set_preference, {"event_config_name": "mention", "enabled": False}, "recipient_id",
     [*WHO, "", "canary" * 50]),
    (recipients.set_preference, {"recipient_id": "paul", "enabled": False}, "event_config_name", [42, ["mention"]]),
    (recipients.set_preference, {"recipient_id": "paul", "event_config_name": "mention"}, "enabled", FLAGS),
    (recipients.set_preference, {"recipient_id": "paul", "event_config_name": "mention", "enabled": False}, "channel",
     ["sms", "canary" * 50, "", None, []]),
    (recipients.preferences, {"recipient_id": "paul"}, "channel", ["sms", "", None, []]),
    (recipients.suppress, {"reason": "asked", "now": NOW}, "address",
     ["canary", "canary <a@b.c>", "", 42, f"{'x' * 320}@example.org", "\u0130" * 160 + "@example.org"]),
    (recipients.suppress, {"address": "a@b.c", "now": NOW}, "reason", ["canary" * 80, "", 42, "canary\0", "canary\n"]),
    (recipients.suppress, {"address": "a@b.c", "reason": "asked"}, "now", MOMENTS),
    (recipients.suppress, {"address": "a@b.c", "reason": "asked", "now": NOW}, "channel", ["inbox", "sms", None, []]),
    *((call, {}, "address", [42, None, "canary\0"]) for call in (recipients.unsuppress, recipients.is_suppressed)),
    *((call, {"address": "a@b.c"}, "channel", ["inbox", "sms", None])
      for call in (recipients.unsuppress, recipients.is_suppressed)),
]  # fmt: skip


def refused(session: Session, call: Call, *arguments: Any, **named: Any) -> str:
    """What the error says; no statement was sent, and the transaction is as good as before."""
    before = session.scalar(text("SELECT 1"))
    with counted() as statements, pytest.raises(BellhopError) as caught:
        call(session, *arguments, **named)
    assert [] == statements
    assert before == session.scalar(text("SELECT 1"))
    assert "canary" not in str(caught.value)
    return f"{type(caught.value).__name__}: {caught.value}"


def test_wrong_arguments_are_refused_before_any_statement(engine: Engine) -> None:
    """By name and rule, with the package's own error, and the caller's transaction goes on."""
    with transaction() as session:
        for call, others, named, values in WRONG:
            for value in values:
                shown = refused(session, call, **{**others, named.partition(".")[0]: value})
                assert shown.startswith(f"InvalidRequest: {named}: "), (call, named, value, shown)
                assert len(shown) > len(f"InvalidRequest: {named}: "), (call, named, value)


@pytest.mark.parametrize("form", [str, lambda id: id.hex, lambda id: id.urn, lambda id: str(id).upper(), lambda id: id])
def test_an_id_is_a_uuid_or_its_text(engine: Engine, form: Callable[[UUID], Any]) -> None:
    """In every form that the tasks take it in."""
    id = put("paul", NOW)
    answer = put("paul", NOW, parent_id=id, thread_id=id)
    with transaction() as session:
        found = inbox.get(session, "paul", form(id))
        marked = inbox.mark_seen(session, "paul", form(id))
        assert (id, id, True) == (found and found.id, marked and marked.id, bool(marked and marked.seen_at))
        assert 1 == inbox.unseen_count(session, "paul", parent_id=form(id))
        assert {id, answer} == {one.id for one in inbox.list(session, "paul", thread_id=form(id)).items}
        assert 1 == inbox.mark_all_seen(session, "paul", thread_id=form(id))
        assert [True, False] == [inbox.delete(session, "paul", form(id)) for _ in range(2)]
        cancel(session, id=form(id), now=NOW)
    assert [(id, "cancelled")] == [(row.id, row.status) for row in rows(Request)]


@pytest.mark.parametrize(
    "noon", [NOW, NOW.isoformat(), "2026-01-05T12:00:00Z", "2026-01-05T14:00:00+02:00",
             NOW.astimezone(timezone(-timedelta(hours=11)))],
)  # fmt: skip
def test_a_moment_has_its_offset_and_may_be_text(engine: Engine, noon: Any) -> None:
    """In the forms that the tasks take it in."""
    for minute in range(3):
        put("paul", NOW + timedelta(minutes=minute - 1), title=str(minute))
    with transaction() as session:
        assert ["2", "1"] == [one.title for one in inbox.list(session, "paul", since=noon).items]
        assert 1 == inbox.unseen_count(session, "paul", until=noon)
        assert 1 == inbox.mark_all_seen(session, "paul", before=noon)
        inbox.mark_all_seen(session, "paul")
        assert 0 == inbox.delete_seen(session, "paul", older_than=noon)  # all were just marked
        recipients.suppress(session, "paul@example.org", "asked", noon)
        cancel(session, idempotency_key="k", now=noon)
        recipients.erase(session, "paul", now=noon)
    assert [NOW] == [row.created_at for row in rows(Request)]


@pytest.mark.parametrize("name", ["event_config_name", "not_sender_id"])
def test_several_are_any_collection(engine: Engine, name: str) -> None:
    """Not a list alone."""
    put("paul", NOW, event_config_name="mention", sender_id="irulan")
    with transaction() as session:
        several: list[Any] = [
            ["mention", "x"],
            ("mention", "x"),
            {"mention", "x"},
            dict.fromkeys(["mention", "x"]).keys(),
        ]
        assert [1] * 4 == [inbox.unseen_count(session, "paul", **{name: some}) for some in several]


def test_tasks_refuse_by_the_same_rules(engine: Engine) -> None:
    """An id or moment among the filters is text there."""
    for name, value in (("thread_id", "canary"), ("since", "canary"), ("since", "2020-01-01T00:00:00"), ("until", "")):
        with pytest.raises(InvalidRequest, match=rf"\b{name}: ") as caught:
            inbox_tasks.list_(recipient_id="paul", **{name: value})
        assert "canary" not in str(caught.value)


def test_a_groups_members_stay_where_the_new_ones_are_refused(engine: Engine) -> None:
    """One id as text is not its letters."""
    with transaction() as session:
        recipients.set_group(session, "fremen", (name for name in ("paul", "chani")))
        assert "recipient_ids: a list of ids" in refused(session, recipients.set_group, "fremen", "user-42")
    assert ["chani", "paul"] == sorted(row.recipient_id for row in rows(GroupMember))


def test_an_entry_of_the_directory_is_named_by_its_own_place(engine: Engine) -> None:
    """Its place in the list, and the field that it has; nothing is written."""
    good = {"id": "paul", "email": "paul@example.org"}
    cases: list[tuple[Any, str]] = [
        ({"id": "chani", "email": "canary"}, "InvalidRequest: recipient.email: one bare address"),
        ([good, {"id": "chani", "email": "canary"}], "InvalidRequest: recipients.1.email: one bare address"),
        ([good, {"id": "chani", "username": "canary\n"}], "InvalidRequest: recipients.1.username: one line only"),
        ([good, {"id": 42}], "InvalidRequest: recipients.1.id: "),
        ([good, {"email": "a@b.c"}], "InvalidRequest: recipients.1.id: Field required"),
        ([good, {"id": "chani", "group": "g"}], "InvalidRequest: recipients.1: an unknown field `group`"),
        ([good, {"id": "chani", "context": {}}], "InvalidRequest: recipients.1: an unknown field `context`"),
        ([good, "canary"], "InvalidRequest: recipients.1: an object with an id"),
        ([good, {"id": "chani", "timezone": "Europe/Canary"}], "InvalidTimezone: recipients.1.timezone: not a name"),
        ({"id": "chani", "timezone": "Europe/Canary"}, "InvalidTimezone: recipient.timezone: not a name"),
        ("canary", "InvalidRequest: recipients: an object with an id, or a list of such"),
        (42, "InvalidRequest: recipients: an object with an id, or a list of such"),
    ]
    with transaction() as session:
        for given, expected in cases:
            assert refused(session, recipients.upsert, given).startswith(expected), given
        assert 1 == recipients.upsert(session, [{**good, "username": None, "lang": "de-de"}])
    assert [("paul", None, "de-DE")] == [(row.id, row.username, row.lang) for row in rows(Recipient)]
    assert issubclass(InvalidTimezone, BellhopError)


def test_what_is_right_is_given_back_as_it_is() -> None:
    """No copy is made: hot paths ask for every call."""
    id, at = uuid4(), datetime.now(UTC)
    assert uuid("id", id) is id
    assert moment("since", at) is at
