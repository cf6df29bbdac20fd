"""Who a `to` means, and whether they get an email."""

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Engine, select

from tests.store import NOW, ask, counted, create, rows
from worker import recipients
from worker.database import transaction
from worker.errors import BellhopError, EmptyGroup, InvalidRequest, InvalidTimezone, UnknownRecipient
from worker.events import EventConfig
from worker.models import GroupMember, Notification, Preference, Recipient, Suppression
from worker.recipients import Addressee, Asked, Directory, why_not_asked
from worker.request import NotificationRequest

PAUL = {"id": "paul", "username": "muaddib", "email": "paul@example.org", "lang": "de", "timezone": "Europe/Berlin"}
EVENT = EventConfig(name="book_available", email=True)


@pytest.fixture
def directory(engine: Engine) -> None:
    """Paul with everything, Chani with an id alone, both fremen."""
    with transaction() as session:
        recipients.upsert(session, [PAUL, {"id": "chani"}])
        recipients.set_group(session, "fremen", ["paul", "chani", "stilgar"])


def meant(to: Any, **fields: Any) -> list[Addressee]:
    request = ask(to, **fields)
    with transaction() as session:
        return Directory.load(session, [Asked(request)]).addressees(request, "en")


def decide(who: str, should_email: bool | None, event: EventConfig | None) -> str | None:
    request = ask(who, should_email=should_email)
    if why_not_asked(should_email, event):
        return ""
    with transaction() as session:
        loaded = Directory.load(session, [Asked(request)])
    [found] = loaded.addressees(request, "en")
    return loaded.email_decision(found.id, found.email, should_email, event) or None


PAUL_MEANT = Addressee("paul", "de", "Europe/Berlin", "paul@example.org")


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("paul", [PAUL_MEANT]),
        ({"id": "paul"}, [PAUL_MEANT]),
        ({"username": "muaddib"}, [PAUL_MEANT]),
        ("nobody-we-know", [Addressee("nobody-we-know", "en", "UTC", None)]),
        (["paul", "chani"], [PAUL_MEANT, Addressee("chani", "en", "UTC", None)]),
        ({"id": "paul", "email": "p@example.net"}, [Addressee("paul", "de", "Europe/Berlin", "p@example.net")]),
        ({"id": "paul", "lang": "PT_br"}, [Addressee("paul", "pt-BR", "Europe/Berlin", "paul@example.org")]),
        ({"id": "paul", "timezone": "Asia/Tokyo"}, [Addressee("paul", "de", "Asia/Tokyo", "paul@example.org")]),
    ],
)
def test_whom_an_entry_means(to: Any, expected: Sequence[Addressee]) -> None:
    """An id, a username or a list of them; what the request gives wins over the directory, field by field."""
    assert expected == meant(to)


@pytest.mark.usefixtures("directory")
def test_a_group_means_its_members_known_or_not() -> None:
    """Members are found in the directory; one who is not in it is told in the default language."""
    found = {who.id: who for who in meant({"group": "fremen"})}
    assert {"paul", "chani", "stilgar"} == set(found)
    assert (PAUL_MEANT, Addressee("stilgar", "en", "UTC", None)) == (found["paul"], found["stilgar"])


@pytest.mark.usefixtures("directory")
def test_who_is_named_twice_is_meant_once() -> None:
    """The same recipient by id, by username and through a group."""
    found = meant(["paul", {"username": "muaddib"}, {"group": "fremen"}, {"group": "fremen"}, "paul"])
    assert ["chani", "paul", "stilgar"] == sorted(who.id for who in found)


INLINE = {"id": "paul", "email": "p@example.net", "lang": "fr"}


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize("other", ["paul", {"username": "muaddib"}, {"group": "fremen"}], ids=["id", "name", "group"])
@pytest.mark.parametrize("inline_first", [True, False])
def test_values_of_the_request_win_wherever_they_stand(other: Any, inline_first: bool) -> None:
    """Naming the recipient a second time, without values, takes nothing away."""
    found = {who.id: who for who in meant([INLINE, other] if inline_first else [other, INLINE])}
    assert Addressee("paul", "fr", "Europe/Berlin", "p@example.net") == found["paul"]


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize(
    ("to", "lang", "expected"),
    [
        ({"id": "paul", "lang": "fr"}, "pt", "fr"),
        ("paul", "pt", "pt"),
        ("paul", None, "de"),
        ("chani", None, "en"),
    ],
)
def test_language_order(to: Any, lang: str | None, expected: str) -> None:
    """The entry's own, then the request's, then the recipient's, then the default."""
    assert expected == meant(to, lang=lang)[0].lang


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize(
    ("to", "error", "message"),
    [
        ({"username": "CANARY"}, UnknownRecipient, "to.1: no recipient has this username"),
        ({"group": "CANARY"}, EmptyGroup, "to.1: the group has no members"),
        ({"id": "paul", "timezone": "Mars/Canary"}, InvalidTimezone, "IANA"),
    ],
)
def test_errors_name_the_place_and_no_value(to: Any, error: type[BellhopError], message: str) -> None:
    """The message leads to the entry of `to` without repeating what stands there."""
    with pytest.raises(error, match=message) as caught:
        meant(["chani", to])
    assert "canary" not in str(caught.value).lower()


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize(
    ("should_email", "event", "expected"),
    [
        (None, EVENT, None),
        (None, EventConfig(name="book_available"), ""),
        (None, None, ""),
        (True, EventConfig(name="book_available"), None),
        (True, None, None),
        (False, EVENT, ""),
    ],
)
def test_should_email_wins_over_the_events_default(
    should_email: bool | None, event: EventConfig | None, expected: str | None
) -> None:
    """True and false decide; absent, the event's default does; without an event, none."""
    assert expected == decide("paul", should_email, event)


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize(
    ("should_email", "may_be_turned_off", "expected"),
    [(None, True, "preference"), (None, False, None), (True, True, None), (False, True, "")],
)
def test_preferences(should_email: bool | None, may_be_turned_off: bool, expected: str | None) -> None:
    """Turned off means no email, unless the request insists or the event may not be turned off."""
    with transaction() as session:
        recipients.set_preference(session, "paul", "book_available", enabled=False)
        recipients.set_preference(session, "chani", "book_available", enabled=False)
    event = EventConfig(name="book_available", email=True, preference=may_be_turned_off)
    assert expected == decide("paul", should_email, event)


@pytest.mark.usefixtures("directory")
def test_a_preference_is_of_one_event_and_can_be_turned_on_again() -> None:
    """Turning another event off, or this one off and on, leaves this one on."""
    with transaction() as session:
        recipients.set_preference(session, "paul", "mention", enabled=False)
        recipients.set_preference(session, "paul", "book_available", enabled=False)
        recipients.set_preference(session, "paul", "book_available", enabled=True)
    assert decide("paul", None, EVENT) is None


@pytest.mark.usefixtures("directory")
def test_a_suppression_wins_over_everything_in_any_case_of_letters() -> None:
    """Not even `should_email` passes it; upper and lower case are the same address."""
    with transaction() as session:
        recipients.suppress(session, "PAUL@Example.ORG", "bounced", NOW)
        recipients.suppress(session, "paul@example.org", "complained", NOW)
        recipients.upsert(session, [{**PAUL, "email": "Paul@EXAMPLE.org"}])
    assert "suppressed" == decide("paul", True, EVENT)
    assert [("paul@example.org", "complained")] == [(row.address, row.reason) for row in rows(Suppression)]


@pytest.mark.usefixtures("directory")
def test_without_an_address_the_reason_is_recorded() -> None:
    """An email was wanted, but there is nowhere to send it."""
    assert "no_address" == decide("chani", None, EVENT)


def test_audience_counts_members(engine: Engine) -> None:
    """At least as many as will be told; groups count by their members."""
    with transaction() as session:
        recipients.set_group(session, "fremen", [f"r{n}" for n in range(30)])
        asked = [ask(["paul", "chani", {"group": "fremen"}]), ask("paul"), ask({"group": "nobody"})]
        assert [32, 1, 0] == recipients.audiences(session, asked)


def test_upsert_replaces_and_says_how_many(engine: Engine) -> None:
    """A second upsert of the same id replaces the row; fields not given become empty."""
    with transaction() as session:
        assert 2 == recipients.upsert(session, [PAUL, {"id": "chani", "lang": "fr"}])
        assert 1 == recipients.upsert(session, [{"id": "paul", "email": "p@example.net"}])
        assert 0 == recipients.upsert(session, [])
    kept = {row.id: (row.username, row.email, row.lang, row.timezone) for row in rows(Recipient)}
    assert {"paul": (None, "p@example.net", None, None), "chani": (None, None, "fr", None)} == kept


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ({"email": "canary@example.org"}, InvalidRequest),
        ({"id": "canary", "email": "not an address"}, InvalidRequest),
        ({"id": "canary", "lang": "no such tag"}, InvalidRequest),
        ({"id": "canary", "timezone": "Mars/Canary"}, InvalidTimezone),
        ({"id": "canary", "username": "two\nlines"}, InvalidRequest),
        ({"id": "canary", "group": "admins"}, InvalidRequest),
        ({"id": "canary", "nickname": "c"}, InvalidRequest),
        ({"id": "canary", "username": "muaddib"}, InvalidRequest),
    ],
)
def test_a_wrong_upsert_writes_nothing(engine: Engine, entry: Any, error: type[BellhopError]) -> None:
    """Even where the caller catches the error and goes on; the message shows no value."""
    with transaction() as session:
        recipients.upsert(session, [PAUL])
    with transaction() as session:
        with pytest.raises(error) as caught:
            recipients.upsert(session, [{"id": "chani"}, entry])
        assert "paul" == session.scalar(select(Recipient.id))
    assert ["paul"] == [row.id for row in rows(Recipient)]
    assert not {"canary", "muaddib"} & set(str(caught.value).lower().replace("'", " ").split())


def test_upsert_statements_do_not_grow_with_the_rows(engine: Engine) -> None:
    """A thousand recipients, of whom every other has no address, are as many statements as ten."""
    counts = []
    for size in (10, 1000):
        entries = [{"id": f"{size}-{n}", "email": f"r{n}@example.org" if n % 2 else None} for n in range(size)]
        with counted() as statements, transaction() as session:
            recipients.upsert(session, entries)
        counts.append(len(statements))
    assert counts[0] == counts[1]


@pytest.mark.usefixtures("directory", "catalogue")
def test_delete_forgets_the_recipient_and_keeps_their_notifications(engine: Engine) -> None:
    """Directory, groups and preferences forget them; the inbox stays; the second time nothing is there."""
    with transaction() as session:
        recipients.set_preference(session, "paul", "book_available", enabled=False)
    create(ask("paul"))
    with transaction() as session:
        assert [True, False] == [recipients.delete(session, "paul"), recipients.delete(session, "paul")]
    assert ["chani"] == [row.id for row in rows(Recipient)]
    assert ["chani", "stilgar"] == [row.recipient_id for row in rows(GroupMember)]
    assert ([], 1) == (rows(Preference), len(rows(Notification)))


@pytest.mark.usefixtures("directory")
def test_set_group_replaces_the_members() -> None:
    """Those listed are in, the others out; twice listed is once in; other groups stay as they are."""
    with transaction() as session:
        recipients.set_group(session, "admins", ["paul"])
        recipients.set_group(session, "fremen", ["jessica", "chani", "jessica"])
    kept = [(row.name, row.recipient_id) for row in rows(GroupMember)]
    assert [("admins", "paul"), ("fremen", "chani"), ("fremen", "jessica")] == kept
    with transaction() as session:
        recipients.set_group(session, "fremen", [])
    assert [("admins", "paul")] == [(row.name, row.recipient_id) for row in rows(GroupMember)]


def test_the_directory_is_read_in_as_many_statements_for_ten_as_for_a_thousand(engine: Engine) -> None:
    """Loading asks per kind of fact, never per recipient."""
    counts = []
    for size in (10, 1000):
        with transaction() as session:
            recipients.set_group(session, "crowd", [f"member-{n}" for n in range(size)])
        named = [{"id": f"r{n}", "email": f"r{n}@example.org"} for n in range(size)]
        request: NotificationRequest = ask([*named, {"group": "crowd"}, *({"username": f"u{n}"} for n in range(size))])
        with transaction() as session, counted() as statements:
            Directory.load(session, [Asked(request)])
        counts.append(len(statements))
    assert counts[0] == counts[1]
