"""What a request's rows will be: recipients found, emails decided, texts rendered. Nothing is written here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from worker.attachments import File
from worker.contents import content_row, keep_until
from worker.contexts import PlainJson, merged
from worker.errors import BellhopError, InvalidContext, TemplateFailed
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
        mail = _Mail(files, directory, common and not told.contexts) if by_email else None
        for some, is_hidden in ((shown, False), (hidden, True)):
            if some.ids:
                rendered = render_each(request, some.contexts, lang, timezone, files, email=by_email)
                _add(one, _Told(some, rendered), _notification(request, event, rendered[0], lang, now), mail, is_hidden)
    return one


@dataclass(frozen=True, slots=True)
class _Told:
    """Some recipients, and what they read: each their own where they have contexts, else all the same."""

    who: Alike
    rendered: Sequence[Rendered]


@dataclass(frozen=True, slots=True)
class _Mail:
    """What the emails of some recipients have in common."""

    files: Sequence[File]
    directory: Directory
    common: bool
    """Their parts are kept once for all of them."""


def _add(one: Prepared, told: _Told, row: Row, mail: _Mail | None, is_hidden: bool) -> None:
    ids = _ids(one.request, one.event, told.who.ids)
    each: dict[str, list[Any]] = {"id": ids, "recipient_id": told.who.ids}
    if told.who.contexts:
        shared = one.request.context
        each["title"], each["text"] = [text.title for text in told.rendered], [text.text for text in told.rendered]
        each["context"] = [_kept(merged(shared, own), one.event) for own in told.who.contexts]
    one.notifications.append(Block(hide(row) if is_hidden else row, each))
    if mail:
        _add_emails(one, told, ids, row, mail)


def _add_emails(one: Prepared, told: _Told, ids: Sequence[str], row: Row, mail: _Mail) -> None:
    due = row["created_at"]
    for skip, places in _decided(one, row, told.who, mail.directory):
        some = [ids[place] for place in places]
        each: dict[str, list[Any]] = {"id": [derive_all(id, ["email"])[0] for id in some], "notification_id": some}
        each["address"] = [told.who.emails[place] for place in places]
        outcome: Row = {"parts": None, "content_id": None, "status": "skipped", "reason": skip}
        if not skip:
            outcome |= {"status": "pending", "reason": None}
            if told.who.contexts:
                each["parts"] = [_parts(one, told.rendered[place], mail.files, due) for place in places]
            elif mail.common:
                outcome["content_id"] = _common(one, _parts(one, told.rendered[0], mail.files, due), due)
            else:
                outcome["parts"] = _parts(one, told.rendered[0], mail.files, due)
        one.deliveries.append(Block(_delivery(row, one.event) | outcome, each))


def render_each(
    request: NotificationRequest,
    contexts: Sequence[PlainJson | None],
    lang: str,
    timezone: str,
    files: Sequence[File],
    *,
    email: bool,
) -> list[Rendered]:
    """What recipients with these contexts of their own read; where there are none, what all read.

    Raises what `render` raises; what is wrong with somebody's own context names its place in `to`.
    """
    name = request.event_config_name
    if not name:
        return [render_literal(request.title or "", request.text or "", lang, email=email)]
    found: dict[str, Rendered] = {}
    for own in contexts or [None]:
        key = own.text if own else ""
        if key not in found:
            context = merged(request.context, own)
            try:
                found[key] = render(name, lang, context, timezone=timezone, files=files, email=email)
            except (InvalidContext, TemplateFailed) as error:
                raise type(error)(f"{_place(request, own)}{error}") from None
    return [found[own.text if own else ""] for own in contexts or [None]]


def check_each(request: NotificationRequest, contexts: Sequence[PlainJson | None], lang: str, timezone: str) -> None:
    """Render what these recipients read, for the errors alone; raises what `render` raises."""
    event = get_event(request.event_config_name) if request.event_config_name else None
    files = [attachment.as_file() for attachment in request.attachments]
    by_email = why_not_asked(request.should_email, event) is None
    render_each(request, contexts, lang, timezone, files, email=by_email)


def _place(request: NotificationRequest, own: PlainJson | None) -> str:
    places = (place for place, entry in enumerate(request.to) if entry.context is own)
    return f"to.{next(places)}.context: " if own is not None else ""


def _leave_out(sender_id: str, groups: dict[tuple[str, str], Alike]) -> None:
    """The sender is not told of their own doing."""
    for key, told in list(groups.items()):
        if sender_id in told.ids:
            position = told.ids.index(sender_id)
            del told.ids[position], told.emails[position], told.contexts[position : position + 1]
            if not told.ids:
                del groups[key]


def _notification(
    request: NotificationRequest, event: EventConfig | None, rendered: Rendered, lang: str, now: datetime
) -> Row:
    return {
        "request_id": request.id,
        "sender_id": request.sender_id,
        "event_config_name": request.event_config_name,
        "lang": rendered.lang,
        "lang_asked": lang,
        "title": rendered.title,
        "text": rendered.text,
        "link": request.link,
        "context": _kept(request.context, event),
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


def _kept(context: Mapping[str, Any], event: EventConfig | None) -> Mapping[str, Any] | None:
    """Without what is secret."""
    if event and event.secret:
        context = {name: value for name, value in context.items() if name not in event.secret}
    return context or None


def _ids(request: NotificationRequest, event: EventConfig | None, told: Sequence[str]) -> list[str]:
    """Where the event says so, the same sender, object and recipient give the same id, whoever asks (FitTrackee)."""
    if event and event.dedupe and request.object_type and request.object_id:
        about = "\0".join((event.name, request.sender_id or "", request.object_type, request.object_id, ""))
        return derive_all(UUID(int=0).hex, [about + id for id in told])
    return derive_all(request.id.hex, told)


def _decided(
    one: Prepared, notification: Mapping[str, Any], told: Alike, directory: Directory
) -> list[tuple[str, list[int]]]:
    """The recipients' places by why no email is sent to them; "" where one is."""
    late = notification["expire_at"] is not None and notification["expire_at"] <= notification["updated_at"]
    decided: dict[str, list[int]] = {}
    for place, (who, email) in enumerate(zip(told.ids, told.emails, strict=True)):
        skip = "expired" if late else directory.email_decision(who, email, one.request.should_email, one.event)
        decided.setdefault(skip, []).append(place)
    return sorted(decided.items())


def _parts(one: Prepared, rendered: Rendered, files: Sequence[File], due: datetime) -> Row:
    files = (*files, *rendered.images)
    for file in files:
        one.files[file.sha256] = {"sha256": file.sha256, "content": file.content, "keep_until": keep_until(due)}
    return {
        "subject": rendered.subject,
        "text": rendered.email_text,
        "html": rendered.email_html,
        "files": [[file.name, file.content_type, file.sha256, file.cid] for file in files],
    }


def _common(one: Prepared, parts: Row, due: datetime) -> UUID:
    """Keep the parts once for many; gives their id."""
    content = content_row(one.request.id, parts, due)
    one.contents[content["id"]] = content
    id: UUID = content["id"]
    return id


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
