"""The request: what it takes, what it refuses, and that a refusal never repeats a value."""

import json
import traceback
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from worker.contexts import MAX_CONTEXT_BYTES, MAX_CONTEXT_DEPTH
from worker.errors import InvalidRequest
from worker.request import MAX_RECIPIENTS, NotificationRequest, Recipient

EVENT: dict[str, Any] = {"to": "u1", "event_config_name": "book_available"}
LITERAL: dict[str, Any] = {"to": "u1", "title": "Closed today"}
DATED: dict[str, Any] = {**EVENT, "send_at": "2026-05-01T10:00:00Z", "expire_at": "2026-05-01T10:00:00Z"}
FIELDS = sorted(NotificationRequest.model_fields)
RECIPIENT_FIELDS = sorted(Recipient.model_fields)

# No part of it may show up in an error: not the words, not the tilde, which is in no rule.
CANARY = "~ canary 4711 jane@secret.example"


def refusal(values: Any) -> str:
    """The error's message; neither it nor the printed traceback holds a canary."""
    with pytest.raises(InvalidRequest) as caught:
        NotificationRequest.parse(values)
    shown = str(caught.value) + traceback.format_exception(caught.value)[-1]
    assert not [part for part in ("~", "canary", "4711", "jane", "secret") if part in shown]
    return str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("id", CANARY, "valid UUID"),
        ("to", [], "at least one recipient"),
        ("to", ["u"] * (MAX_RECIPIENTS + 1), "at most 10000 items"),
        ("to.0", [[CANARY]], "text, or an object with id, username or group"),
        ("to.0", None, "text, or an object with id, username or group"),
        ("to.0", 42, "text, or an object with id, username or group"),
        ("to.0", {}, "exactly one of id, username and group"),
        ("to.0", {"id": CANARY, "group": CANARY}, "exactly one of id, username and group"),
        ("to.0", {"id": CANARY, "username": CANARY}, "exactly one of id, username and group"),
        ("to.0", {"group": CANARY, "email": "jane@secret.example"}, "go with an id only"),
        ("to.0", {"username": CANARY, "lang": "de"}, "go with an id only"),
        ("to.0", {"group": CANARY, "timezone": "Europe/Berlin"}, "go with an id only"),
        ("to.0", {"id": "u1", CANARY: 1}, "an unknown field"),
        ("to.0", {"id": "u1", "phone": CANARY}, "an unknown field `phone`"),
        ("to.0", {"id": "u1", ("canary",): 1}, "an unknown field"),
        ("to.0.id", "", "at least 1 character"),
        ("to.0.id", f"{CANARY}\n", "one line only"),
        ("to.1.id", ["u1", {"id": CANARY * 10}], "at most 255 characters"),
        ("to.0.username", {"username": f"{CANARY}\x00"}, "no control characters"),
        ("to.0.group", {"group": [CANARY]}, "valid string"),
        ("to.0.email", {"id": "u1", "email": CANARY}, "one bare address of the form local@domain"),
        ("to.0.email", {"id": "u1", "email": "Jane <jane@secret.example>"}, "one bare address"),
        ("to.0.email", {"id": "u1", "email": "jane@secret.example, b@c"}, "one bare address"),
        ("to.0.email", {"id": "u1", "email": "jane@secret.example\nBcc: b@c"}, "one line only"),
        ("to.0.email", {"id": "u1", "email": ""}, "one bare address"),
        ("to.0.lang", {"id": "u1", "lang": CANARY}, "not a well-formed BCP 47 tag"),
        ("to.0.timezone", {"id": "u1", "timezone": CANARY}, "should match pattern"),
        ("event_config_name", CANARY, "should match pattern"),
        ("event_config_name", "../canary", "should match pattern"),
        ("event_config_name", "canary\n", "should match pattern"),
        ("event_config_name", "", "should match pattern"),
        ("lang", CANARY, "not a well-formed BCP 47 tag"),
        ("lang", "de-" * 12 + "de", "at most 35 characters"),
        ("context", CANARY, "valid dictionary"),
        ("context", [CANARY], "valid dictionary"),
        ("should_email", CANARY, "valid boolean"),
        ("should_email", 1, "valid boolean"),
        ("attachments", CANARY, "valid tuple"),
        ("attachments.0", [CANARY], "an object"),
        ("attachments.0.content", [{"name": "a", "content_type": "text/plain", "content": CANARY}], "base64"),
        ("attachments.0.name", [{"name": f"{CANARY}/", "content_type": "text/plain", "content": "YQ=="}], "file name"),
        ("attachments.0.content_type", [{"name": "a", "content_type": CANARY, "content": "YQ=="}], "match pattern"),
        ("sender_id", f"{CANARY}\u2028", "one line only"),
        ("link", f"javascript:{CANARY}", "a relative link, or one that starts with http:, https: or mailto:"),
        ("link", "JavaScript:canary", "a relative link"),
        ("link", "data:text/html,canary", "a relative link"),
        ("link", "java\tscript:canary", "no white space"),
        ("link", "\x01javascript:canary", "no control characters"),
        ("link", "", "at least 1 character"),
        ("parent_id", CANARY, "valid UUID"),
        ("scope", "", "at least 1 character"),
        ("scope", {"a": CANARY}, "valid string"),
        ("object_type", f"{CANARY}\t", "one line only"),
        ("object_id", f"{CANARY}\ud800", "valid string"),
        ("send_at", CANARY, "a moment in ISO 8601 with its offset"),
        ("send_at", "2026-05-01T10:00:00", "timezone"),
        ("send_at", datetime(2026, 5, 1), "timezone"),
        ("send_at", "9999-12-31T23:59:59-12:00", "outside the calendar in UTC"),
        ("send_at", 10**400, "a moment in ISO 8601 with its offset"),
        ("send_at", 1577880000, "a moment in ISO 8601 with its offset"),
        ("send_at", "1577880000", "a moment in ISO 8601 with its offset"),
        ("send_at", "2026-13-01T10:00:00Z", "valid datetime"),
        ("expire_at", "0001-01-01T00:00:00+12:00", "outside the calendar in UTC"),
        ("expire_at", float("nan"), "a moment in ISO 8601 with its offset"),
        ("idempotency_key", f"{CANARY}\r", "one line only"),
    ],
)
def test_a_refusal_names_field_and_rule_and_no_value(field: str, value: Any, rule: str) -> None:
    """A wrong value is named by its place and its rule, and never shown."""
    complaint = refusal({**EVENT, field.partition(".")[0]: value})
    assert complaint.startswith(f"{field}: ")
    assert rule in complaint
    assert ";" not in complaint, "one fault, one complaint"


def test_every_wrong_field_is_named_at_once() -> None:
    """One error lists all faults, so that a caller repairs them in one go; no value among them."""
    wrong = {**dict.fromkeys(FIELDS, f"{CANARY}\x00"), "to": {name: f"{CANARY}\x00" for name in RECIPIENT_FIELDS}}
    named = {complaint.partition(":")[0] for complaint in refusal(wrong).split("; ")}
    assert named == {*FIELDS, *(f"to.0.{name}" for name in RECIPIENT_FIELDS)} - {"to"}


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({**EVENT, "title": CANARY}, "title and text are given only without event_config_name"),
        ({**EVENT, "text": CANARY}, "title and text are given only without event_config_name"),
        ({"to": CANARY}, "event_config_name, or else title"),
        ({"to": CANARY, "text": CANARY}, "event_config_name, or else title"),
        ({**LITERAL, "context": {"canary": CANARY}}, "context is given only with event_config_name"),
        ({**EVENT, "object_id": CANARY}, "object_id needs object_type"),
        (DATED, "expire_at is later than send_at"),
        ({**EVENT, CANARY: 1}, "an unknown field"),
        ({**EVENT, "shoud_email": CANARY}, "an unknown field `shoud_email`"),
        ({4711: 1}, "an unknown field"),
        (CANARY, "request: an object"),
        ([EVENT], "request: an object"),
        (None, "request: an object"),
    ],
)
def test_rules_between_fields(values: Any, rule: str) -> None:
    """What concerns the request as a whole is said of the request."""
    complaint = refusal(values)
    assert complaint.startswith("request: ")
    assert rule in complaint


@pytest.mark.parametrize("field", ["title", "text"])
def test_literal_texts_are_checked(field: str) -> None:
    """A title is one line; a text may have several; neither holds control characters."""
    assert refusal({**LITERAL, field: f"{CANARY}\x1b"}).startswith(f"{field}: no control characters")
    assert NotificationRequest.parse({**LITERAL, "text": "one\n\ttwo"}).text == "one\n\ttwo"
    assert refusal({**LITERAL, "title": f"{CANARY}\n"}) == "title: one line only"


@pytest.mark.parametrize(
    ("base", "field", "longest"),
    [
        (EVENT, "event_config_name", "e" * 100),
        (EVENT, "sender_id", "é" * 255),
        (EVENT, "scope", "s" * 255),
        (EVENT, "object_type", "t" * 100),
        ({**EVENT, "object_type": "t"}, "object_id", "o" * 255),
        (EVENT, "idempotency_key", "k" * 255),
        (EVENT, "link", "/" * 2000),
        (EVENT, "to", "u" * 255),
        (LITERAL, "title", "t" * 500),
        (LITERAL, "text", "t" * 20_000),
    ],
)
def test_length_limits(base: dict[str, Any], field: str, longest: str) -> None:
    """The longest value passes, one character more is refused with the field's name."""
    NotificationRequest.parse({**base, field: longest})
    assert refusal({**base, field: longest + longest[-1]}).startswith(field)


@pytest.mark.parametrize(("field", "longest"), [("email", "a" * 316 + "@b.c"), ("timezone", "A" * 64)])
def test_length_limits_of_a_recipient(field: str, longest: str) -> None:
    """The same holds for the values given with a recipient's id."""
    NotificationRequest.parse({**EVENT, "to": {"id": "u1", field: longest}})
    assert refusal({**EVENT, "to": {"id": "u1", field: "a" + longest}}).startswith(f"to.0.{field}: ")


def test_the_most_recipients() -> None:
    """The largest audience of one request passes."""
    assert len(NotificationRequest.parse({**EVENT, "to": ["u"] * MAX_RECIPIENTS}).to) == MAX_RECIPIENTS


@pytest.mark.parametrize(
    ("to", "recipients", "wire"),
    [
        ("u1", [Recipient(id="u1")], ["u1"]),
        (["u1", "u2"], [Recipient(id="u1"), Recipient(id="u2")], ["u1", "u2"]),
        (("u1",), [Recipient(id="u1")], ["u1"]),
        ({"id": "u1"}, [Recipient(id="u1")], ["u1"]),
        ({"username": "jane"}, [Recipient(username="jane")], [{"username": "jane"}]),
        (["u1", {"group": "staff"}], [Recipient(id="u1"), Recipient(group="staff")], ["u1", {"group": "staff"}]),
        (
            {"id": "u1", "email": "a@b.example", "lang": "PT_br", "timezone": "America/Sao_Paulo"},
            [Recipient(id="u1", email="a@b.example", lang="pt-BR", timezone="America/Sao_Paulo")],
            [{"id": "u1", "email": "a@b.example", "lang": "pt-BR", "timezone": "America/Sao_Paulo"}],
        ),
    ],
)
def test_forms_of_to(to: Any, recipients: list[Recipient], wire: Any) -> None:
    """One recipient or a list; an id, an id with values, a username or a group; written in the shortest form."""
    request = NotificationRequest.parse({**EVENT, "to": to})
    assert list(request.to) == recipients
    assert request.to_wire()["to"] == wire


def nested(levels: int, leaf: Any) -> dict[str, Any]:
    value = leaf
    for _ in range(levels):
        value = {"a": value}
    assert isinstance(value, dict)
    return value


def ring() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["a"] = [value]
    return value


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: nested(10_000, CANARY), "nested deeper than 16 levels"),
        (lambda: nested(MAX_CONTEXT_DEPTH + 1, CANARY), "nested deeper than 16 levels"),
        (lambda: nested(MAX_CONTEXT_DEPTH, []), "nested deeper than 16 levels"),
        (ring, "nested deeper than 16 levels"),
        (lambda: {"a": CANARY * 30_000}, f"at most {MAX_CONTEXT_BYTES} bytes"),
        (lambda: {"a": [[]] * 500_000}, f"at most {MAX_CONTEXT_BYTES} bytes"),
        (lambda: {"a": "é" * (MAX_CONTEXT_BYTES // 2)}, f"at most {MAX_CONTEXT_BYTES} bytes"),
        (lambda: {CANARY: float("nan")}, "no NaN or infinity"),
        (lambda: {CANARY: json.loads("-1e999")}, "no NaN or infinity"),
        (lambda: {"a": f"{CANARY}\0"}, "no NUL characters"),
        (lambda: {"a": [{f"{CANARY}\0": 1}]}, "no NUL characters"),
        (lambda: {"a": f"{CANARY}\ud800"}, "no lone surrogates"),
        (lambda: {f"{CANARY}\udfff": 1}, "no lone surrogates"),
        (lambda: {"a": 10**5_000}, "JSON values only"),
        (lambda: {4711: 1}, "object keys are text"),
        (lambda: {"a": [{None: CANARY}]}, "object keys are text"),
        (lambda: {"__type__": CANARY, "__value__": 1}, "no object of `__type__` and `__value__` alone"),
        (lambda: {"__value__": [], "__type__": "uuid"}, "no object of `__type__` and `__value__` alone"),
        (lambda: {"a": [{"__type__": CANARY, "__value__": 1}]}, "no object of `__type__` and `__value__` alone"),
        (lambda: {"a": {CANARY}}, "JSON values only"),
        (lambda: {"a": CANARY.encode()}, "JSON values only"),
    ],
)
def test_hostile_contexts(make: Callable[[], Any], rule: str) -> None:
    """Whatever a context holds, it is refused by a rule, without its values and without exhausting the process."""
    complaint = refusal({**EVENT, "context": make()})
    assert complaint.startswith("context: ")
    assert rule in complaint


def test_contexts_up_to_the_limits() -> None:
    """The deepest and the largest context pass, and a backslash is no NUL."""
    largest = {"a": "x" * (MAX_CONTEXT_BYTES - len('{"a": ""}'))}
    for context in (nested(MAX_CONTEXT_DEPTH, 1), largest, {"a": 10**4_000}, {"a": "\\u0000"}):
        assert NotificationRequest.parse({**EVENT, "context": context}).context == context
