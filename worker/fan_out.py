"""Use case: a large audience is cut into pages of recipients, which wait as rows.

The request itself waits as a row that knows how far it is cut. Each step writes some pages and the new place in one
transaction, so that it may be killed anywhere, and pages are created while later ones are still to be cut.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Text, func, select, update
from sqlalchemy.orm import Session

from worker import create as creating
from worker.create import Created
from worker.errors import EmptyGroup
from worker.ids import uuid7
from worker.models import GroupMember, Request
from worker.prepare import check_each
from worker.recipients import Asked, Directory
from worker.render import check_all_langs
from worker.request import NotificationRequest
from worker.rows import Block, insert_blocks
from worker.settings import get_settings
from worker.threads import check_request

#: Pages written in one step.
STEP = 50


def begin(session: Session, request: NotificationRequest, *, now: datetime) -> bool:
    """Write a request down, to be cut into pages; False where the same was asked before.

    Raises what `create` would raise for the request, before any row exists that would tell anybody.
    """
    result = Created()
    if not creating.record(session, [request], result, now, status="pending"):
        for error in result.refused.values():
            raise error
        return False
    wait(session, request)
    return True


def wait(session: Session, request: NotificationRequest) -> None:
    """Have a request that waits cut into pages. Raises as `begin` does.

    What all read is rendered in every language first, and what one reads in theirs: a page must not fail where another
    succeeds.
    """
    if request.event_config_name and not all(entry.context for entry in request.to):
        files = [attachment.as_file() for attachment in request.attachments]
        check_all_langs(request.event_config_name, request.context, files)
    check_request(session, request.parent_id)
    named = tuple(entry for entry in request.to if not entry.group)
    if named:
        alone = Asked(request.model_copy(update={"to": named}))
        for (lang, timezone), told in (
            Directory.load(session, [alone]).groups(alone, get_settings().default_lang).items()
        ):
            if told.contexts:
                check_each(request, told.contexts, lang, timezone)
    for position, entry in enumerate(request.to):
        if entry.group and not _members(session, entry.group, "", 1):
            raise EmptyGroup(f"to.{position}: the group has no members")
    session.execute(update(Request).where(Request.id == request.id).values(bulk=True, cursor=""))


def step(session: Session, id: UUID, *, now: datetime) -> int:
    """Write the next pages of a fan-out that the caller has locked; gives how many."""
    row = session.execute(select(Request.payload, Request.cursor, Request.fingerprint).where(Request.id == id)).one()
    payload: dict[str, Any] = row.payload
    groups = [entry for entry in payload["to"] if _is_group(entry)]
    pages = list(_slices([entry for entry in payload["to"] if not _is_group(entry)]))
    cursor = row.cursor
    while groups and len(pages) < STEP:
        room = (STEP - len(pages)) * get_settings().create_batch
        members = _members(session, groups[0]["group"], cursor, room)
        left_out = set(groups[0].get("without", ()))
        pages += _slices([member for member in members if member not in left_out])
        cursor = members[-1] if len(members) == room else ""
        if not cursor:
            del groups[0]
    written = [{**payload, "to": page} for page in pages]
    insert_blocks(session, Request, [_page(one, row.fingerprint, now) for one in written])
    rest = {"payload": {**payload, "to": groups}} if groups else {"payload": None, "status": "created"}
    session.execute(update(Request).where(Request.id == id).values(cursor=cursor, **rest))
    return len(pages)


def _is_group(entry: Any) -> bool:
    return isinstance(entry, dict) and "group" in entry


def _slices(ids: Sequence[Any]) -> Iterator[Sequence[Any]]:
    size = get_settings().create_batch
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def _members(session: Session, group: str, after: str, limit: int) -> Sequence[str]:
    own = select(GroupMember.recipient_id).where(GroupMember.name == group, GroupMember.recipient_id > after)
    page = own.order_by(GroupMember.recipient_id).limit(limit)
    if session.get_bind().dialect.name == "postgresql":
        # In one value: tens of thousands of rows would take longer to read than all else.
        whole: Sequence[str] = session.scalar(select(func.array(page.scalar_subquery(), type_=ARRAY(Text)))) or []
        return whole
    return session.scalars(page).all()


def _page(payload: dict[str, Any], fingerprint: str, now: datetime) -> Block:
    """All pages share the request's id, from which the notifications' ids are made.

    So a recipient who is in two groups, or moves between pages, is still told once.
    """
    shared = {"idempotency_key": None, "fingerprint": fingerprint, "status": "pending", "bulk": True, "cursor": None}
    return Block({**shared, "error": None, "created_at": now}, {"id": [uuid7()], "payload": [payload]})
