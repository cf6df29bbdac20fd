"""Use case: keep what was asked and could not be created, for an operator to mend and ask again.

A waiting request that fails keeps its row; what came as a message gets one here. That row has an id of its own and no
idempotency key, so that it is in nobody's way who asks the same again.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from worker.errors import describe
from worker.ids import derive
from worker.models import Request
from worker.rows import upsert_rows

log = logging.getLogger(__name__)

#: Bytes of a message, as JSON, that are kept; a whole request with its attachments is smaller.
MAX_KEPT_BYTES = 12 * 1024 * 1024
#: Where the arguments of a message that is no request lie in the payload.
ARGUMENTS = "arguments"


@dataclass(frozen=True, slots=True)
class Failure:
    """What was asked and why it was not created."""

    payload: Any
    """As it came from the wire."""
    error: Exception
    """One of our own is told in its words, any other by its type and place alone."""
    task_id: str | None = None
    """Names the request where its payload has no id."""


def keep(session: Session, failures: Sequence[Failure], *, now: datetime) -> None:
    """Write these down as failed, inside the caller's transaction.

    The same one again is the same row, which keeps the time of the first.
    """
    rows = [_row(failure, now) for failure in failures]
    for row in rows:
        log.warning("request %s is refused: %s", row["request_id"], row["error"])
    upsert_rows(session, Request, list({row["id"]: row for row in rows}.values()), ["id"], ["created_at"])


def _row(failure: Failure, now: datetime) -> dict[str, Any]:
    payload, digest = _kept(failure.payload)
    request_id = asked_id(failure.payload, failure.task_id) or derive(UUID(int=0), digest)
    words = describe(failure.error)
    return {
        "id": derive(request_id, "failed", digest),
        "request_id": request_id,
        "idempotency_key": None,
        "fingerprint": digest,
        "status": "failed",
        "payload": payload,
        "bulk": False,
        "error": words if payload else f"{words} (what was asked is too large, or no JSON, to be kept)",
        "created_at": now,
    }


def asked_id(payload: Any, task_id: str | None) -> UUID | None:
    """The id that a request was asked under: its own, else its task's."""
    own = payload.get("id") if isinstance(payload, dict) else None
    for text in (own, task_id):
        try:
            return UUID(str(text))
        except ValueError:
            continue
    return None


def _kept(payload: Any) -> tuple[dict[str, Any] | None, str]:
    """The payload as a JSON object that both stores can hold, and its hash; none of what is too large or too deep."""
    whole = payload if isinstance(payload, dict) else {ARGUMENTS: payload}
    try:
        text = json.dumps(_storable(whole), sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return None, hashlib.sha256(repr(type(payload)).encode()).hexdigest()
    digest = hashlib.sha256(text.encode()).hexdigest()
    return (json.loads(text) if len(text) <= MAX_KEPT_BYTES else None), digest


def _storable(value: Any) -> Any:
    """PostgreSQL has no text with NUL characters or lone surrogates in it, and JSON no NaN."""
    if isinstance(value, str):
        text = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_storable(str(name)): _storable(one) for name, one in value.items()}
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return [_storable(one) for one in value] if isinstance(value, list | tuple) else value
