"""What a request's rows will be: recipients found, emails decided, texts rendered. Nothing is written here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from worker.attachments import File
from worker.contents import content_row, keep_until
from worker.errors import BellhopError
from worker.events import EventConfig, get_event
from worker.ids import derive_all
from worker.models import URGENCY
from worker.recipients import Alike, Asked, Directory, why_not_asked
from worker.render import Rendered, reload_changed, render, render_literal
from worker.request import NotificationRequest
from worker.rows import Block, hide
from worker.settings import get_settings
from worker.threads import Threads

Row = dict[str, Any]


@dataclass(slots=True)
class Prepared:
    """A request whose recipients are found and whose texts are rendered: only the writing is left."""

    request: NotificationRequest
    event: EventConfig | None
    notifications: list[Block] = field(default_factory=list)
    deliveries: list[Block] = field(default_factory=list)
    contents: dict[UUID, Row] = field(default_factory=dict)
    """What many of its emails have in common."""
    files: dict[str, Row] = field(default_factory=dict)
    """The bytes that its emails carry, by their hash."""
    left_out: int = 0
    """Recipients of whom there is no row: no email is asked for, and their inbox is not to show it."""


def prepare(
    session: Session, asked: Sequence[Asked], refused: dict[UUID, BellhopError], now: datetime
) -> list[Prepared]:
    """Find the recipients, decide, render; what is wrong goes to `refused`. Writes nothing."""
    if get_settings().templates_reload:
        reload_changed()
    directory = Directory.load(session, asked)
    prepared = []
    for one in asked:
        try:
            prepared.append(_prepare(one, directory, now))
        except BellhopError as error:
            refused[one.request.id] = error
    return _joined(session, prepared, refused)


def _joined(session: Session, prepared: list[Prepared], refused: dict[UUID, BellhopError]) -> list[Prepared]:
    """Those whose parents are found; the usual ones have none."""
    if not any(one.request.parent_id for one in prepared):
        return prepared
    written = [[row for block in one.notifications for row in block.rows()] for one in prepared]
    threads, joined = Threads(session, (row for rows in written for row in rows)), []
    for one, rows in zip(prepared, written, strict=True):
        try:
            threads.join(one.request.id, rows)
        except BellhopError as error:
            refused[one.request.id] = error
            continue
        if one.request.parent_id:
            one.notifications = [Block.of(row) for row in rows]
        joined.append(one)
    return joined


def _prepare(asked: Asked, directory: Directory, now: datetime) -> Prepared:
    request = asked.request
    event = get_event(request.event_config_name) if request.event_config_name else None
    one = Prepared(request, event)
    files = [attachment.as_file() for attachment in request.attachments]
    by_email = why_not_asked(request.should_email, event) is None
    groups = directory.groups(asked, get_settings().default_lang)
    if event and not event.to_self and request.sender_id:
        _leave_out(request.sender_id, groups)
    # A secret is not kept for longer than the mail that needs it.
    common = (asked.ids is not None or sum(len(told.ids) for told in groups.values()) > 1) and not (
        event and event.secret
    )
    # In one order everywhere, as two transactions must not wait for each other.
    for (lang, timezone), told in sorted(groups.items(), key=lambda group: group[0]):
        shown, hidden = directory.by_inbox(told, request.inbox, event)
        if not by_email:
            one.left_out += len(hidden.ids)
            hidden = Alike()
        if not shown.ids and not hidden.ids:
            continue
        rendered = _render(request, lang, timezone, files, by_email)
        shared = _notification(request, event, rendered, lang, now)
        mail = _Mail(rendered, files, shared, common) if by_email else None
        if shown.ids:
            _add(one, shown, shared, directory, mail)
        if hidden.ids:
            _add(one, hidden, hide(shared), directory, mail)
    return one


@dataclass(frozen=True, slots=True)
class _Mail:
    """What the emails of some recipients have in common."""

    rendered: Rendered
    files: Sequence[File]
    notification: Row
    common: bool
    """Their parts are kept once for all of them."""


def _add(one: Prepared, told: Alike, row: Row, directory: Directory, mail: _Mail | None) -> None:
    ids = _ids(one.request, one.event, told.ids)
    one.notifications.append(Block(row, {"id": ids, "recipient_id": told.ids}))
    if mail:
        carried, due = (*mail.files, *mail.rendered.images), mail.notification["created_at"]
        for skip, some in _decided(one, mail.notification, told, ids, directory):
            outcome = _skipped(skip) if skip else _sent(one, mail.rendered, carried, due, mail.common)
            one.deliveries.append(Block(_delivery(mail.notification, one.event) | outcome, some))


def _leave_out(sender_id: str, groups: dict[tuple[str, str], Alike]) -> None:
    """The sender is not told of their own doing."""
    for key, told in list(groups.items()):
        if sender_id in told.ids:
            position = told.ids.index(sender_id)
            del told.ids[position], told.emails[position]
            if not told.ids:
                del groups[key]


def _render(request: NotificationRequest, lang: str, timezone: str, files: Sequence[File], by_email: bool) -> Rendered:
    if not request.event_config_name:
        return render_literal(request.title or "", request.text or "", lang, email=by_email)
    context = request.context
    return render(request.event_config_name, lang, context, timezone=timezone, files=files, email=by_email)


def _notification(
    request: NotificationRequest, event: EventConfig | None, rendered: Rendered, lang: str, now: datetime
) -> Row:
    secret = event.secret if event else ()
    return {
        "request_id": request.id,
        "sender_id": request.sender_id,
        "event_config_name": request.event_config_name,
        "lang": rendered.lang,
        "lang_asked": lang,
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


def _ids(request: NotificationRequest, event: EventConfig | None, told: Sequence[str]) -> list[str]:
    """Where the event says so, the same sender, object and recipient give the same id, whoever asks (FitTrackee)."""
    if event and event.dedupe and request.object_type and request.object_id:
        about = "\0".join((event.name, request.sender_id or "", request.object_type, request.object_id, ""))
        return derive_all(UUID(int=0).hex, [about + id for id in told])
    return derive_all(request.id.hex, told)


def _decided(
    one: Prepared, notification: Mapping[str, Any], told: Alike, ids: Sequence[str], directory: Directory
) -> list[tuple[str, dict[str, list[Any]]]]:
    """The deliveries' own columns, by why no email is sent for them; "" where one is."""
    late = notification["expire_at"] is not None and notification["expire_at"] <= notification["updated_at"]
    decided: dict[str, list[tuple[str, str | None]]] = {}
    for id, who, email in zip(ids, told.ids, told.emails, strict=True):
        skip = "expired" if late else directory.email_decision(who, email, one.request.should_email, one.event)
        decided.setdefault(skip, []).append((id, email))
    return [
        (
            skip,
            {
                "id": [derive_all(id, ["email"])[0] for id, _email in some],
                "notification_id": [id for id, _email in some],
                "address": [email for _id, email in some],
            },
        )
        for skip, some in sorted(decided.items())
    ]


def _skipped(reason: str) -> Row:
    return {"parts": None, "content_id": None, "status": "skipped", "reason": reason}


def _sent(one: Prepared, rendered: Rendered, files: Sequence[File], due: datetime, common: bool) -> Row:
    """With its parts in itself, or once for many."""
    for file in files:
        one.files[file.sha256] = {"sha256": file.sha256, "content": file.content, "keep_until": keep_until(due)}
    row: Row = {"parts": _parts(rendered, files), "content_id": None, "status": "pending", "reason": None}
    if common:
        content = content_row(one.request.id, row["parts"], due)
        one.contents[content["id"]] = content
        row |= {"parts": None, "content_id": content["id"]}
    return row


def _parts(rendered: Rendered, files: Sequence[File]) -> Row:
    return {
        "subject": rendered.subject,
        "text": rendered.email_text,
        "html": rendered.email_html,
        "files": [[file.name, file.content_type, file.sha256, file.cid] for file in files],
    }


def _delivery(notification: Mapping[str, Any], event: EventConfig | None) -> Row:
    due = notification["created_at"]
    scheduled = due > notification["updated_at"]
    return {
        "channel": "email",
        "urgency": URGENCY[event.priority if event else "normal"],
        "attempts": 0,
        "due_at": due,
        "lease_until": due if scheduled else due + timedelta(seconds=get_settings().handover_seconds),
        "expire_at": notification["expire_at"],
    }
