"""Use case: requests become rows, in one transaction. Whatever is wrong shows before any row exists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from worker import signal
from worker.errors import BellhopError, IdempotencyConflict
from worker.models import AttachmentContent, Delivery, Notification, Request
from worker.prepare import Prepared, prepare
from worker.request import NotificationRequest
from worker.rows import insert_new, is_hidden
from worker.supersede import turn


@dataclass(slots=True)
class Created:
    """What a call to `create` did."""

    notifications: int = 0
    """With those that were there before, where an event tells only once."""
    deliveries: int = 0
    pages: int = 0
    """Pages of recipients that wait as rows, where an audience is large."""
    left_out: int = 0
    """Recipients without a row: they turned the event off, or it was for their email alone, and none is asked for."""
    repeated: int = 0
    """Requests that had been created before."""
    due: dict[int, list[UUID]] = field(default_factory=dict)
    """Deliveries to hand over now, by urgency."""
    refused: dict[UUID, BellhopError] = field(default_factory=dict)
    """What is wrong with the requests that were not created, by the request's id."""

    def add(self, other: "Created") -> None:
        """Take in what another transaction did."""
        for name in ("notifications", "deliveries", "pages", "repeated"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for urgency, ids in other.due.items():
            self.due.setdefault(urgency, []).extend(ids)
        self.refused |= other.refused


def create(session: Session, requests: Sequence[NotificationRequest], *, now: datetime) -> Created:
    """Create the notifications of these requests, and their deliveries, inside the caller's transaction.

    A request that was created before (same id, or same idempotency key) adds nothing. One that is wrong is named in
    `refused` and leaves no row; the others are created.
    """
    result = Created()
    prepared = prepare(session, requests, result.refused, now)
    fresh = record(session, [one.request for one in prepared], result, now)
    write(session, [one for id, one in {one.request.id: one for one in prepared}.items() if id in fresh], result, now)
    return result


def record(
    session: Session,
    requests: Sequence[NotificationRequest],
    result: Created,
    now: datetime,
    status: Literal["created", "pending"] = "created",
) -> set[UUID]:
    """Write the requests down; gives the ids of those that are new, and judges the others by what was asked before.

    Waits for a transaction that is just writing the same id or key.
    """
    by_id: dict[UUID, NotificationRequest] = {}
    for request in requests:
        if by_id.setdefault(request.id, request).fingerprint() != request.fingerprint():
            result.refused[request.id] = IdempotencyConflict()
    # In one order everywhere, as two transactions must not wait for each other; of equal keys the first asked is first.
    ordered = sorted(by_id.values(), key=lambda one: one.idempotency_key or one.id.hex)
    rows = [request_row(request, now, status) for request in ordered if request.id not in result.refused]
    statement = insert_new(session, Request).returning(Request.id)
    inserted = set(session.scalars(statement, rows)) if rows else set()
    for request in requests:
        if request.id in inserted or request.id in result.refused:
            continue
        if _was_asked(session, request):
            result.repeated += 1
        else:
            result.refused[request.id] = IdempotencyConflict()
    return inserted


def request_row(request: NotificationRequest, now: datetime, status: str) -> dict[str, Any]:
    """The row of a request; only one that is still pending keeps what was asked."""
    return {
        "id": request.id,
        "idempotency_key": request.idempotency_key,
        "fingerprint": request.fingerprint(),
        "status": status,
        "payload": request.to_wire() if status == "pending" else None,
        "bulk": False,
        "error": None,
        "created_at": now,
    }


def _was_asked(session: Session, request: NotificationRequest) -> bool:
    same = [Request.id == request.id]
    if request.idempotency_key is not None:
        same.append(Request.idempotency_key == request.idempotency_key)
    fingerprints = set(session.scalars(select(Request.fingerprint).where(or_(*same))))
    # Cancelled before it came: there, nobody knows what it was to be.
    return fingerprints <= {request.fingerprint(), ""}


def write(
    session: Session, fresh: Sequence[Prepared], result: Created, now: datetime, *, announce: bool = True
) -> None:
    """Insert the prepared rows, many in one statement; rows that are there already stay as they are.

    `announce`: signal the inboxes that changed, once the transaction has committed.
    """
    asked = [row for one in fresh for row in one.notifications]
    notifications, became = turn(session, asked, now)
    deliveries = [row for one in fresh for given in one.deliveries for row in _of(given, became)]
    for model, rows in ((Notification, notifications), (Delivery, deliveries)):
        if rows:
            session.execute(insert_new(session, model), sorted(rows, key=lambda row: row["id"]))
    _keep_files(session, {sha256: row for one in fresh for sha256, row in one.files.items()})
    result.notifications, result.deliveries = len(asked), len(deliveries)
    result.left_out = sum(one.left_out for one in fresh)
    for row in deliveries:
        if row["status"] == "pending" and row["due_at"] <= now:
            result.due.setdefault(row["urgency"], []).append(row["id"])
    if announce:
        shown = {
            row["recipient_id"]: became.get(row["id"], {}).get("notification_id", row["id"])
            for row in asked
            if not is_hidden(row)
        }
        signal.note(session, shown)


def _of(delivery: dict[str, Any], became: Mapping[UUID, Mapping[str, UUID]]) -> list[dict[str, Any]]:
    """A delivery as its notification came out: none where the recipient had been told already."""
    if delivery["notification_id"] not in became:
        return [delivery]
    now_of = became[delivery["notification_id"]]
    if not now_of:
        return []
    return [{**delivery, "id": now_of["delivery_id"], "notification_id": now_of["notification_id"]}]


def _keep_files(session: Session, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep the bytes once for all mails, as long as the latest of them may need."""
    if not files:
        return
    session.execute(insert_new(session, AttachmentContent), [dict(files[sha256]) for sha256 in sorted(files)])
    for sha256, row in sorted(files.items()):
        late = AttachmentContent.keep_until < row["keep_until"]
        later = update(AttachmentContent).where(AttachmentContent.sha256 == sha256, late)
        session.execute(later.values(keep_until=row["keep_until"]))
