"""What many emails have in common, kept once: the rendered parts of a request, and the bytes of files."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, func, literal, or_, select, update
from sqlalchemy.orm import Session

from worker.ids import derive
from worker.models import AttachmentContent, Content, Delivery, Notification, Request
from worker.rows import insert_new
from worker.settings import get_settings

Row = dict[str, Any]


def content_row(request_id: UUID, parts: Mapping[str, Any], due: datetime) -> Row:
    """The row of what some emails of a request, due at that moment, have in common: equal parts have the same id.

    Of one request only, so that it is soon told who else needs it.
    """
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return {"id": derive(request_id, "content", digest), "parts": parts, "keep_until": keep_until(due)}


def keep_until(due: datetime) -> datetime:
    """Until when to keep what an email due at that moment needs; the same all day, so that it is seldom put off.

    As long as its request is known it may be replayed, and then be tried until it is given up.
    """
    settings = get_settings()
    tried = timedelta(seconds=max(settings.give_up_high_seconds, settings.give_up_normal_seconds))
    later = due + timedelta(days=settings.request_retention_days + 1) + tried
    return later.replace(hour=0, minute=0, second=0, microsecond=0)


def keep(session: Session, model: type[Content] | type[AttachmentContent], rows: Iterable[Row]) -> None:
    """Write what is not there yet, and keep what is there as long as the latest email may need."""
    [key] = model.__table__.primary_key
    ordered = sorted(rows, key=lambda row: row[key.name])
    if not ordered:
        return
    session.execute(insert_new(session, model), ordered)
    for moment in sorted({row["keep_until"] for row in ordered}):
        those = [row[key.name] for row in ordered if row["keep_until"] == moment]
        session.execute(
            update(model).where(key.in_(those), model.keep_until < moment).values(keep_until=moment),
            execution_options={"synchronize_session": False},
        )


def load(session: Session, ids: Iterable[UUID | None]) -> dict[UUID, Row]:
    """The parts by content id; those that are gone are absent."""
    wanted = sorted({id for id in ids if id})
    if not wanted:
        return {}
    return {id: parts for id, parts in session.execute(select(Content.id, Content.parts).where(Content.id.in_(wanted)))}


def kept(session: Session) -> ColumnElement[bool]:
    """Whether a delivery's mail is still there, wherever its parts are, and its files; not that of a skipped one."""
    whole = select(Content.id).where(_files_kept(session, Content.parts))
    in_common = and_(Delivery.content_id.is_not(None), Delivery.content_id.in_(whole))  # false, never null
    common = and_(in_common, Delivery.status != "skipped")
    return or_(and_(Delivery.parts.is_not(None), _files_kept(session, Delivery.parts)), common)


def _files_kept(session: Session, parts: Any) -> ColumnElement[bool]:
    """Whether the bytes of all files are there that these parts name, each as its name, type, hash and Content-ID."""
    if session.get_bind().dialect.name == "postgresql":
        each = func.jsonb_array_elements(parts["files"]).table_valued("value")
        digest = func.jsonb_extract_path_text(each.c.value, "2")
    else:
        each = func.json_each(parts, "$.files").table_valued("value")
        digest = func.json_extract(each.c.value, "$[2]")
    gone = select(literal(1)).select_from(each).where(digest.not_in(select(AttachmentContent.sha256)))
    return ~gone.exists()


def of_recipient(session: Session, recipient_id: str) -> list[tuple[UUID, UUID]]:
    """The contents of one recipient's emails, each with its request's id."""
    own = select(Delivery.content_id, Notification.request_id).join(
        Notification, Notification.id == Delivery.notification_id
    )
    found = own.where(Notification.recipient_id == recipient_id, Delivery.content_id.is_not(None)).distinct()
    return sorted((content, request) for content, request in session.execute(found) if content)


def remove_unused(session: Session, candidates: Sequence[tuple[UUID, UUID]]) -> None:
    """Remove those contents that no email has any more, unless their request still waits to tell others."""
    for content_id, request_id in candidates:
        others = select(Delivery.id).join(Notification, Notification.id == Delivery.notification_id)
        waiting = select(Request.id).where(
            Request.status == "pending",
            Request.bulk.is_(True),
            or_(Request.id == request_id, Request.payload["id"].as_string() == str(request_id)),
        )
        used = others.where(Notification.request_id == request_id, Delivery.content_id == content_id)
        session.execute(delete(Content).where(Content.id == content_id, ~used.exists(), ~waiting.exists()))
