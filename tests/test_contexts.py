"""What a context may hold, where each recipient has one: the rules are those of the request's own."""

import json
from datetime import date
from typing import Any

import pytest

from tests.store import ask
from worker.contexts import MAX_CONTEXT_BYTES, MAX_CONTEXTS_BYTES
from worker.errors import InvalidRequest
from worker.request import NotificationRequest

CANARY = "Quetz4lcoatl"


def test_they_come_back_from_the_wire() -> None:
    """Dates become text as in the request's own; an empty one is one."""
    asked = ask(
        [
            {"id": "paul", "lang": "de", "context": {"title": "Dune"}},
            {"id": "chani", "context": {}},
            {"username": "u", "context": {"a": date(2026, 1, 5)}},
        ]
    )
    wire = json.loads(json.dumps(asked.to_wire()))
    assert wire["to"] == [
        {"id": "paul", "lang": "de", "context": {"title": "Dune"}},
        {"id": "chani", "context": {}},
        {"username": "u", "context": {"a": "2026-01-05"}},
    ]
    assert asked == NotificationRequest.parse(wire)
    assert asked.fingerprint() == NotificationRequest.parse(wire).fingerprint()


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"context": [CANARY]}, "to.1.context: Input should be a valid dictionary"),
        ({"context": CANARY}, "to.1.context: Input should be a valid dictionary"),
        ({"context": {"a": float("nan")}}, "to.1.context: JSON values only"),
        ({"context": {"a": f"{CANARY}\0"}}, "to.1.context: no NUL characters"),
        ({"context": {"a": f"{CANARY}\ud800"}}, "to.1.context: JSON values only"),
        ({"context": {"a": CANARY * MAX_CONTEXT_BYTES}}, f"to.1.context: at most {MAX_CONTEXT_BYTES} bytes"),
        ({"context": {"a": 10**5_000}}, "to.1.context: JSON values only"),
        ({"context": {1: CANARY}}, "to.1.context: object keys are text"),
        ({"contexts": {"a": CANARY}}, "to.1: an unknown field `contexts`"),
    ],
)
def test_each_is_checked_as_the_requests_own(entry: dict[str, Any], complaint: str) -> None:
    """Named by its place, and never shown."""
    with pytest.raises(InvalidRequest) as caught:
        ask(["paul", {"id": "chani", **entry}])
    assert str(caught.value).startswith(complaint)
    assert CANARY not in str(caught.value)


def test_all_together_are_bounded() -> None:
    """Each counts with the request's, since each row holds both."""
    text = "x" * (MAX_CONTEXT_BYTES - 100)
    many = MAX_CONTEXTS_BYTES // MAX_CONTEXT_BYTES
    ask([{"id": f"r{n}", "context": {"title": text}} for n in range(many)], context={})
    for number, shared in ((many + 1, {}), (many, {"title": text})):
        with pytest.raises(InvalidRequest, match=r"^request: contexts of recipients"):
            ask([{"id": f"r{n}", "context": {"title": text}} for n in range(number)], context=shared)
