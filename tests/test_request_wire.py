"""The request's values: how they are kept, written as JSON and read again."""

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from worker.errors import InvalidRequest
from worker.request import NotificationRequest, Recipient

ID = "0197a3c4-0000-7000-8000-000000000001"
OTHER_ID = "0197a3c4-0000-7000-8000-000000000002"
EVENT: dict[str, Any] = {"to": "u1", "event_config_name": "book_available"}
LITERAL: dict[str, Any] = {"to": "u1", "title": "Closed today"}
FULL: dict[str, Any] = {
    **EVENT,
    "id": ID,
    "lang": "de",
    "context": {"title": "Dune"},
    "should_email": True,
    "inbox": True,
    "sender_id": "u2",
    "link": "/books/1",
    "parent_id": ID,
    "scope": "library",
    "object_type": "book",
    "object_id": "1",
    "send_at": "2026-05-01T10:00:00Z",
    "expire_at": "2026-05-02T10:00:00Z",
    "idempotency_key": "k1",
}
FIELDS = sorted(NotificationRequest.model_fields)
RECIPIENT_FIELDS = sorted(Recipient.model_fields)


def test_python_values_become_json() -> None:
    """Dates, decimals, UUIDs and tuples in a context turn into what JSON has for them."""
    context = {
        "moment": datetime(2026, 5, 1, 10, tzinfo=UTC),
        "day": date(2026, 5, 1),
        "price": Decimal("9.50"),
        "id": UUID(ID),
        "all": (1, 2),
    }
    expected = {"moment": "2026-05-01T10:00:00+00:00", "day": "2026-05-01", "price": "9.50", "id": ID, "all": [1, 2]}
    assert NotificationRequest.parse({**EVENT, "context": context}).context == expected


def test_the_request_does_not_share_the_callers_context() -> None:
    """What the caller does to the object afterwards does not change what was asked."""
    context = {"books": ["Dune"]}
    request = NotificationRequest.parse({**EVENT, "context": context})
    context["books"].append("Emma")
    assert request.context == {"books": ["Dune"]}


def test_moments_are_kept_in_utc() -> None:
    """An aware moment of any offset is the same moment in UTC."""
    there = timezone(timedelta(hours=-5))
    for given_moment in ("2026-05-01T10:00:00-05:00", datetime(2026, 5, 1, 10, tzinfo=there)):
        request = NotificationRequest.parse({**EVENT, "send_at": given_moment})
        assert request.send_at == datetime(2026, 5, 1, 15, tzinfo=UTC)
        assert request.to_wire()["send_at"] == "2026-05-01T15:00:00Z"


def test_each_request_has_an_id_of_its_own() -> None:
    """The producer makes the id unless it gives one."""
    assert NotificationRequest.parse(EVENT).id != NotificationRequest.parse(EVENT).id
    assert NotificationRequest.parse(FULL).id == UUID(ID)


@pytest.mark.parametrize("field", FIELDS)
def test_requests_and_recipients_are_frozen(field: str) -> None:
    """No field can be set after the check."""
    request = NotificationRequest.parse(FULL)
    with pytest.raises(ValidationError):
        setattr(request, field, getattr(request, field))
    with pytest.raises(ValidationError):
        request.to[0].id = "u2"


def test_absent_fields_are_not_on_the_wire() -> None:
    """The wire form is plain JSON of what was given, and absent and null mean the same."""
    wire = {**FULL, "to": ["u1"]}
    assert NotificationRequest.parse(FULL).to_wire() == wire
    assert NotificationRequest.parse({**EVENT, "id": ID, "scope": None}).to_wire() == {
        "id": ID,
        "to": ["u1"],
        "event_config_name": "book_available",
        "context": {},
    }


TO: dict[str, Any] = {
    "id": "u1",
    "id in an object": {"id": "u1", "lang": None},
    "odd id": 'a"}],"x":[{"id":"\\\\\u00fc\U0001f44b',
    "values": {"id": "u1", "lang": "de"},
    "username": {"username": "u1"},
    "group": {"group": "g", "without": ["u1"]},
    "own context": {"id": "u1", "context": {"to": [{"id": "u1"}]}},
    "many": ["u1", {"id": "u2"}, {"id": "u3", "email": "u3@example.org"}, {"group": "g"}],
}


@pytest.mark.parametrize("to", TO.values(), ids=TO)
def test_the_wire_as_json(to: Any) -> None:
    """The same object as the wire, whatever the recipients are."""
    context = {"to": [{"id": "u1"}], "number": 1e300, "big": 2**80, "text": "\u2028", "moment": datetime(2026, 1, 1)}
    request = NotificationRequest.parse({**EVENT, "id": ID, "to": to, "context": context, "sender_id": "u2"})
    assert json.loads(request.to_json()) == request.to_wire()


CHANGES: dict[str, Any] = {
    "to": ["u1", "u2"],
    "event_config_name": "quiet",
    "lang": "en",
    "context": {"title": "Emma"},
    "should_email": False,
    "inbox": False,
    "attachments": [{"name": "a.txt", "content_type": "text/plain", "content": "YQ=="}],
    "sender_id": "u3",
    "link": "/books/2",
    "parent_id": OTHER_ID,
    "scope": "archive",
    "object_type": "film",
    "object_id": "2",
    "send_at": "2026-05-01T10:00:00.000001Z",
    "expire_at": "2026-05-03T10:00:00Z",
    "idempotency_key": "k2",
}


def fingerprint(values: dict[str, Any]) -> str:
    return NotificationRequest.parse(values).fingerprint()


def test_the_fingerprint_tells_requests_apart() -> None:
    """It differs by every field but the id, and not by the way the same thing is written."""
    assert {*CHANGES, "id", "title", "text"} == set(FIELDS)
    changed = [fingerprint({**FULL, field: value}) for field, value in CHANGES.items()]
    changed += [fingerprint({**LITERAL, **more}) for more in ({}, {"title": "Open"}, {"text": "a"}, {"text": "b"})]
    assert len({fingerprint(FULL), *changed}) == len(changed) + 1
    same = {**FULL, "id": OTHER_ID, "to": [{"id": "u1"}], "lang": "DE", "send_at": "2026-05-01T12:00:00+02:00"}
    assert fingerprint(same) == fingerprint(FULL)


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
LINE = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats()
TELLING = st.sampled_from(["u1", "de", ID, "a@b.example", "/x", "9999-12-31T23:59:59-12:00", "2026-05-01T10:00:00Z"])


def json_of(scalars: st.SearchStrategy[Any], keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=15,
    )


KEYS = ANY_TEXT | st.sampled_from(FIELDS + RECIPIENT_FIELDS)
ANY_JSON = json_of(SCALARS | ANY_TEXT | TELLING, KEYS)
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.timezones())
CONTEXTS = st.dictionaries(LINE, json_of(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | LINE, LINE))
RECIPIENTS = st.one_of(
    LINE,
    st.builds(lambda **values: values, id=LINE, email=st.just("a@b.example"), lang=st.sampled_from(["de", "PT_br"])),
    st.fixed_dictionaries({"username": LINE}),
    st.fixed_dictionaries({"group": LINE}),
)
OPTIONAL = {
    **{name: LINE for name in ("sender_id", "scope", "object_type", "idempotency_key")},
    "parent_id": st.uuids(),
    "lang": st.sampled_from(["de", "zh_hant_TW"]),
    "should_email": st.booleans(),
    "link": st.sampled_from(["/x?y=é", "https://a.example/#b"]),
}
COMMON = {"to": st.lists(RECIPIENTS, min_size=1, max_size=4)}
VALID = st.one_of(
    st.fixed_dictionaries(
        {**COMMON, "event_config_name": st.just("e"), "context": CONTEXTS}, optional={**OPTIONAL, "send_at": MOMENTS}
    ),
    st.fixed_dictionaries({**COMMON, "title": LINE}, optional={**OPTIONAL, "text": LINE, "expire_at": MOMENTS}),
)


@given(ANY_JSON | st.dictionaries(st.sampled_from(FIELDS), ANY_JSON | TELLING) | VALID)
@settings(max_examples=100, deadline=None)
def test_any_json_is_a_request_or_refused(values: Any) -> None:
    """Nothing but InvalidRequest ever leaves the check."""
    try:
        request = NotificationRequest.parse(values)
    except InvalidRequest:
        return
    assert NotificationRequest.parse(request.to_wire()) == request


@given(VALID)
@settings(max_examples=100, deadline=None)
def test_a_valid_request_survives_the_wire(values: Any) -> None:
    """Written as JSON and read again, it is the same request with the same fingerprint."""
    request = NotificationRequest.parse(values)
    again = NotificationRequest.parse(json.loads(json.dumps(request.to_wire())))
    assert again == request
    assert again.fingerprint() == request.fingerprint()
