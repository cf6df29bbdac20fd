"""Use case: requests become rows, in one transaction. Whatever is wrong shows before any row exists."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from worker import contents, signal
from worker.errors import BellhopError, IdempotencyConflict
from worker.models import AttachmentContent, Content, Delivery, Notification, Request
from worker.prepare import Prepared, prepare
from worker.recipients import Asked
from worker.request import NotificationRequest
from worker.rows import Block, as_uuid, insert_blocks, is_hidden, is_in
from worker.settings import get_settings
from worker.supersede import may_turn, turn


@dataclass(slots=True)
class Created:
    """What a call to `create` did."""

    notifications: int = 0
    """With those that were there before, where an event tells only once."""
    deliveries: int = 0
    fan_outs: int = 0
    """Requests with a large audience, which wait to be cut into pages."""
    pages: int = 0
    """Pages of recipients that were cut, and wait."""
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
        for name in ("notifications", "deliveries", "fan_outs", "pages", "left_out", "repeated"):
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
    prepared = prepare(session, [Asked(request) for request in requests], result.refused, now)
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
    fingerprints = {id(request): request.fingerprint() for request in requests}
    for request in requests:
        if fingerprints[id(by_id.setdefault(request.id, request))] != fingerprints[id(request)]:
            result.refused[request.id] = IdempotencyConflict()
    # In one order everywhere, as two transactions must not wait for each other; of equal keys the first asked is first.
    ordered = sorted(by_id.values(), key=lambda one: one.idempotency_key or one.id.hex)
    asked = [one for one in ordered if one.id not in result.refused]
    there = insert_blocks(session, Request, _written_down(asked, fingerprints, now, status), existing=True)
    others = [one for one in requests if one.id in there and one.id not in result.refused]
    before = _fingerprints(session, others)
    for request in others:
        # Cancelled before it came: there, nobody knows what it was to be.
        if before[request.id] | before[request.idempotency_key] <= {fingerprints[id(request)], ""}:
            result.repeated += 1
        else:
            result.refused[request.id] = IdempotencyConflict()
    return {one.id for one in asked} - there


def _written_down(
    requests: Sequence[NotificationRequest],
    fingerprints: Mapping[int, str],
    now: datetime,
    status: Literal["created", "pending"],
) -> list[Block]:
    """Their rows; only a request that is still pending keeps what was asked."""
    shared = {"status": status, "payload": None, "bulk": False, "cursor": None, "error": None, "created_at": now}
    each: dict[str, list[Any]] = {
        "id": [one.id for one in requests],
        "idempotency_key": [one.idempotency_key for one in requests],
        "fingerprint": [fingerprints[id(one)] for one in requests],
    }
    if status == "pending":
        each["payload"] = [one.to_wire() for one in requests]
    return [Block(shared, each)] if requests else []


def _fingerprints(session: Session, requests: Sequence[NotificationRequest]) -> Mapping[UUID | str | None, set[str]]:
    """What was asked before under the requests' ids and keys."""
    found = defaultdict[UUID | str | None, set[str]](set)
    if requests:
        known = select(Request.id, Request.idempotency_key, Request.fingerprint)
        keys = sorted({one.idempotency_key for one in requests if one.idempotency_key})
        same = or_(
            is_in(session, Request.id, [one.id for one in requests]), is_in(session, Request.idempotency_key, keys)
        )
        for id, key, fingerprint in session.execute(known.where(same)):
            found[id].add(fingerprint)
            if key:
                found[key].add(fingerprint)
    return found


def write(
    session: Session, fresh: Sequence[Prepared], result: Created, now: datetime, *, announce: bool = True
) -> None:
    """Insert the prepared rows, many in one statement; rows that are there already stay as they are.

    `announce`: signal the inboxes that changed, once the transaction has committed.
    """
    notifications = [block for one in fresh for block in one.notifications]
    deliveries = [block for one in fresh for block in one.deliveries]
    became: dict[Any, dict[str, Any]] = {}
    result.notifications = sum(map(len, notifications))
    shown = _shown(notifications) if announce and get_settings().signal != "off" else {}
    if any((one.event and one.event.dedupe) or may_turn(one.event) for one in fresh):
        # Other requests may make or turn the same rows: in one order, as transactions must not wait for each other.
        rows, became = turn(session, _rows(notifications), now)
        notifications = _blocks(rows)
        deliveries = _blocks(row for given in _rows(deliveries) for row in _of(given, became))
    insert_blocks(session, Notification, notifications)
    contents.keep(session, Content, {id: row for one in fresh for id, row in one.contents.items()}.values())
    contents.keep(session, AttachmentContent, {id: row for one in fresh for id, row in one.files.items()}.values())
    insert_blocks(session, Delivery, deliveries)
    result.deliveries = sum(map(len, deliveries))
    result.left_out = sum(one.left_out for one in fresh)
    for block in deliveries:
        if block.shared["status"] == "pending" and block.shared["due_at"] <= now:
            result.due.setdefault(block.shared["urgency"], []).extend(map(as_uuid, block.each["id"]))
    if shown:
        signal.note(session, _as_became(shown, became) if became else shown)


def _shown(notifications: Iterable[Block]) -> dict[str, UUID | str]:
    """By recipient, the notification that changed last; its id as it is in the block."""
    return {
        who: id
        for block in notifications
        if not is_hidden(block.shared)
        for who, id in zip(block.column("recipient_id"), block.each["id"], strict=True)
    }


def _as_became(shown: Mapping[str, UUID | str], became: Mapping[UUID, dict[str, Any]]) -> dict[str, UUID | str]:
    return {who: became.get(as_uuid(id), {}).get("notification_id", id) for who, id in shown.items()}


def _rows(blocks: Iterable[Block]) -> list[dict[str, Any]]:
    return [row for block in blocks for row in block.rows()]


def _blocks(rows: Iterable[dict[str, Any]]) -> list[Block]:
    return [Block.of(row) for row in sorted(rows, key=lambda row: row["id"])]


def _of(delivery: dict[str, Any], became: Mapping[UUID, Mapping[str, UUID]]) -> list[dict[str, Any]]:
    """A delivery as its notification came out: none where the recipient had been told already."""
    if delivery["notification_id"] not in became:
        return [delivery]
    now_of = became[delivery["notification_id"]]
    if not now_of:
        return []
    return [{**delivery, "id": now_of["delivery_id"], "notification_id": now_of["notification_id"]}]
