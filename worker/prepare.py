"""What a request's rows will be: recipients found, emails decided, texts rendered. Nothing is written here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from worker.attachments import File
from worker.errors import BellhopError
from worker.events import EventConfig, get_event
from worker.ids import derive
from worker.models import URGENCY
from worker.recipients import Addressee, Directory, why_not_asked
from worker.render import Rendered, reload_changed, render, render_literal
from worker.request import NotificationRequest
from worker.rows import hide
from worker.settings import Settings, get_settings
from worker.threads import Threads


@dataclass(slots=True)
class Prepared:
    """A request whose recipients are found and whose texts are rendered: only the writing is left."""

    request: NotificationRequest
    notifications: list[dict[str, Any]] = field(default_factory=list)
    deliveries: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The bytes that its emails carry, by their hash."""
    left_out: int = 0
    """Recipients of whom there is no row: no email is asked for, and their inbox is not to show it."""


def prepare(
    session: Session, requests: Sequence[NotificationRequest], refused: dict[UUID, BellhopError], now: datetime
) -> list[Prepared]:
    """Find the recipients, decide, render; what is wrong goes to `refused`. Writes nothing."""
    if get_settings().templates_reload:
        reload_changed()
    directory = Directory.load(session, requests)
    prepared = []
    for request in requests:
        try:
            prepared.append(_prepare(request, directory, now))
        except BellhopError as error:
            refused[request.id] = error
    return _joined(session, prepared, refused)


def _joined(session: Session, prepared: list[Prepared], refused: dict[UUID, BellhopError]) -> list[Prepared]:
    """Those whose parents are found; the usual ones have none."""
    if not any(one.request.parent_id for one in prepared):
        return prepared
    threads, joined = Threads(session, (row for one in prepared for row in one.notifications)), []
    for one in prepared:
        try:
            threads.join(one.request.id, one.notifications)
            joined.append(one)
        except BellhopError as error:
            refused[one.request.id] = error
    return joined


def _prepare(request: NotificationRequest, directory: Directory, now: datetime) -> Prepared:
    event = get_event(request.event_config_name) if request.event_config_name else None
    settings = get_settings()
    one = Prepared(request)
    files = [attachment.as_file() for attachment in request.attachments]
    rendered: dict[tuple[str, str], Rendered] = {}
    for who in directory.addressees(request, settings.default_lang):
        if event and who.id == request.sender_id and not event.to_self:
            continue
        decision = directory.email_decision(who, request.should_email, event)
        shown = directory.is_shown(who, request.inbox, event)
        if not shown and decision == "":
            one.left_out += 1
            continue
        key = (who.lang, who.timezone)
        if key not in rendered:
            rendered[key] = _render(request, who, files)
        row = _notification(request, who, rendered[key], event, now)
        one.notifications.append(row)
        if decision != "":
            skip = "expired" if row["expire_at"] and row["expire_at"] <= now else decision
            carried = () if skip else (*files, *rendered[key].images)
            one.deliveries.append(_delivery(row, who, rendered[key], skip, event, settings, carried))
            for file in carried:
                keep_until = row["created_at"] + timedelta(days=settings.request_retention_days)
                one.files[file.sha256] = {"sha256": file.sha256, "content": file.content, "keep_until": keep_until}
        if not shown:
            hide(row)
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
        "thread_id": None,
        "email_reason": why_not_asked(request.should_email, event),
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
