"""Use case: requests become rows, in one transaction. Whatever is wrong shows before any row exists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from worker.attachments import File
from worker.errors import BellhopError, IdempotencyConflict
from worker.events import EventConfig, get_event
from worker.ids import derive
from worker.models import URGENCY, AttachmentContent, Base, Delivery, Notification, Request
from worker.recipients import Addressee, Directory
from worker.render import Rendered, reload_changed, render, render_literal
from worker.request import NotificationRequest
from worker.settings import Settings, get_settings


@dataclass(slots=True)
class Created:
    """What a call to `create` did."""

    notifications: int = 0
    """With those that were there before, where an event tells only once."""
    deliveries: int = 0
    pages: int = 0
    """Pages of recipients that wait as rows, where an audience is large."""
    repeated: int = 0
    """Requests that had been created before."""
    due: dict[int, list[UUID]] = field(default_factory=dict)
    """Deliveries to hand over now, by urgency."""
    refused: dict[UUID, BellhopError] = field(default_factory=dict)
    """What is wrong with the requests that were not created, by the request's id."""


@dataclass(slots=True)
class Prepared:
    """A request whose recipients are found and whose texts are rendered: only the writing is left."""

    request: NotificationRequest
    notifications: list[dict[str, Any]] = field(default_factory=list)
    deliveries: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The bytes that its emails carry, by their hash."""


def create(session: Session, requests: Sequence[NotificationRequest], *, now: datetime) -> Created:
    """Create the notifications of these requests, and their deliveries, inside the caller's transaction.

    A request that was created before (same id, or same idempotency key) adds nothing. One that is wrong is named in
    `refused` and leaves no row; the others are created.
    """
    result = Created()
    prepared = prepare(session, requests, result, now)
    fresh = record(session, [one.request for one in prepared], result, now)
    write(session, [one for id, one in {one.request.id: one for one in prepared}.items() if id in fresh], result, now)
    return result


def prepare(
    session: Session, requests: Sequence[NotificationRequest], result: Created, now: datetime
) -> list[Prepared]:
    """Find the recipients, decide, render; what is wrong goes to `result.refused`. Writes nothing."""
    if get_settings().templates_reload:
        reload_changed()
    directory = Directory.load(session, requests)
    prepared = []
    for request in requests:
        try:
            prepared.append(_prepare(request, directory, now))
        except BellhopError as error:
            result.refused[request.id] = error
    return prepared


def _prepare(request: NotificationRequest, directory: Directory, now: datetime) -> Prepared:
    event = get_event(request.event_config_name) if request.event_config_name else None
    settings = get_settings()
    one = Prepared(request)
    files = [attachment.as_file() for attachment in request.attachments]
    rendered: dict[tuple[str, str], Rendered] = {}
    for who in directory.addressees(request, settings.default_lang):
        if event and who.id == request.sender_id and not event.to_self:
            continue
        key = (who.lang, who.timezone)
        if key not in rendered:
            rendered[key] = _render(request, who, files)
        row = _notification(request, who, rendered[key], event, now)
        one.notifications.append(row)
        decision = directory.email_decision(who, request.should_email, event)
        if decision != "":
            skip = "expired" if row["expire_at"] and row["expire_at"] <= now else decision
            carried = () if skip else (*files, *rendered[key].images)
            one.deliveries.append(_delivery(row, who, rendered[key], skip, event, settings, carried))
            for file in carried:
                keep_until = row["created_at"] + timedelta(days=settings.request_retention_days)
                one.files[file.sha256] = {"sha256": file.sha256, "content": file.content, "keep_until": keep_until}
    return one


def _render(request: NotificationRequest, who: Addressee, files: Sequence[File]) -> Rendered:
    if request.event_config_name:
        return render(request.event_config_name, who.lang, request.context, timezone=who.timezone, files=files)
    return render_literal(request.title or "", request.text or "", who.lang)


def _notification(
    request: NotificationRequest, who: Addressee, rendered: Rendered, event: EventConfig | None, now: datetime
) -> dict[str, Any]:
    secret = event.secret if event else ()
    return {
        "id": _notification_id(request, who, event),
        "request_id": request.id,
        "recipient_id": who.id,
        "sender_id": request.sender_id,
        "event_config_name": request.event_config_name,
        "lang": rendered.lang,
        "lang_asked": who.lang,
        "title": rendered.title,
        "text": rendered.text,
        "link": request.link,
        "context": {name: value for name, value in request.context.items() if name not in secret} or None,
        "object_type": request.object_type,
        "object_id": request.object_id,
        "scope": request.scope,
        "parent_id": request.parent_id,
        "created_at": max(now, request.send_at or now),
        "expire_at": request.expire_at,
        "updated_at": now,
        "seen_at": None,
    }


def _notification_id(request: NotificationRequest, who: Addressee, event: EventConfig | None) -> UUID:
    """Where the event says so, the same sender, object and recipient give the same id, whoever asks (FitTrackee)."""
    if event and event.dedupe and request.object_type and request.object_id:
        about = (event.name, request.sender_id or "", request.object_type, request.object_id, who.id)
        return derive(UUID(int=0), *about)
    return derive(request.id, who.id)


def _delivery(
    row: Mapping[str, Any],
    who: Addressee,
    rendered: Rendered,
    skip: str | None,
    event: EventConfig | None,
    settings: Settings,
    files: Sequence[File],
) -> dict[str, Any]:
    due = row["created_at"]
    parts: dict[str, Any] = {
        "subject": rendered.subject,
        "text": rendered.email_text,
        "html": rendered.email_html,
        "files": [[file.name, file.content_type, file.sha256, file.cid] for file in files],
    }
    scheduled = due > row["updated_at"]
    return {
        "id": derive(row["id"], "email"),
        "notification_id": row["id"],
        "channel": "email",
        "address": who.email,
        "parts": None if skip else parts,
        "status": "skipped" if skip else "pending",
        "reason": skip,
        "urgency": URGENCY[event.priority if event else "normal"],
        "attempts": 0,
        "due_at": due,
        "lease_until": due if scheduled else due + timedelta(seconds=settings.handover_seconds),
        "expire_at": row["expire_at"],
    }


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
    return fingerprints == {request.fingerprint()}


def write(session: Session, fresh: Sequence[Prepared], result: Created, now: datetime) -> None:
    """Insert the prepared rows, many in one statement; rows that are there already stay as they are."""
    notifications = [row for one in fresh for row in one.notifications]
    deliveries = [row for one in fresh for row in one.deliveries]
    for model, rows in ((Notification, notifications), (Delivery, deliveries)):
        if rows:
            session.execute(insert_new(session, model), sorted(rows, key=lambda row: row["id"]))
    _keep_files(session, {sha256: row for one in fresh for sha256, row in one.files.items()})
    result.notifications, result.deliveries = len(notifications), len(deliveries)
    for row in deliveries:
        if row["status"] == "pending" and row["due_at"] <= now:
            result.due.setdefault(row["urgency"], []).append(row["id"])


def _keep_files(session: Session, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep the bytes once for all mails, as long as the latest of them may need."""
    if not files:
        return
    session.execute(insert_new(session, AttachmentContent), [dict(files[sha256]) for sha256 in sorted(files)])
    for sha256, row in sorted(files.items()):
        late = AttachmentContent.keep_until < row["keep_until"]
        later = update(AttachmentContent).where(AttachmentContent.sha256 == sha256, late)
        session.execute(later.values(keep_until=row["keep_until"]))


def insert_new(session: Session, model: type[Base]) -> Insert:
    """An insert that passes over rows that are there: whatever is made twice has the same ids."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement: Insert = dialect.insert(model).on_conflict_do_nothing()
    # Without it, rows with nulls in different columns each take a statement of their own.
    return statement.execution_options(render_nulls=True)
