"""The wire contract: any JSON is a request that says the same again, or InvalidRequest."""

import json
from typing import Any

from hypothesis import given

from tests.fuzz.hostile import REQUESTS, anything, check_named, examples, mutated
from worker.errors import InvalidRequest
from worker.request import NotificationRequest


def parse(wire: Any) -> None:
    """As from the wire."""
    try:
        request = NotificationRequest.parse(wire)
    except InvalidRequest as error:
        check_named(error)
        return
    again = json.loads(json.dumps(request.to_wire(), allow_nan=False))
    assert request.fingerprint() == NotificationRequest.parse(again).fingerprint()
    line = " ".join(filter(None, (request.title, request.idempotency_key, *(to.email for to in request.to))))
    assert not set(line) & set("\r\n\0\x1b\u2028")
    assert all(part.isalnum() for part in (request.lang or "en").split("-"))


@examples(600)
@given(mutated(REQUESTS))
def test_a_mutated_request_is_parsed_or_refused(wire: dict[str, Any]) -> None:
    """Whatever passes has one-line headers, a plain language and the same meaning after a round trip."""
    parse(wire)


@examples(100, 10_000)
@given(anything)
def test_anything_is_parsed_or_refused(wire: Any) -> None:
    """Also what is no object at all."""
    parse(wire)
