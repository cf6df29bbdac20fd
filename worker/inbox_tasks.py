"""Celery shells around the inbox, for callers without database access. These keep their result."""

from typing import Any, Literal, Unpack
from uuid import UUID

from worker import inbox
from worker.celery import task
from worker.database import transaction
from worker.inbox import Filters, Where
from worker.request import Id, Moment


@task("inbox.list", keep_result=True)
def list_(
    *,
    recipient_id: Id,
    order: Literal["desc", "asc"] = "desc",
    page: int | None = None,
    offset: int | None = None,
    per_page: int = 10,
    cursor: str | None = None,
    query: str | None = None,
    depth: inbox.Depth = "detail",
    **filters: Unpack[Filters],
) -> dict[str, Any]:
    """As `worker.inbox.list`; the items as JSON objects, with as much of each as `depth` says."""
    with transaction() as session:
        paging: Any = {"order": order, "page": page, "offset": offset, "per_page": per_page, "cursor": cursor}
        found = inbox.list(session, recipient_id, query=query, **paging, **filters)
        return inbox.page_as_dict(found, depth)


@task("inbox.get", keep_result=True)
def get(*, recipient_id: Id, id: UUID, depth: inbox.Depth = "detail") -> dict[str, Any] | None:
    """As `worker.inbox.get`."""
    with transaction() as session:
        row = inbox.get(session, recipient_id, id)
        return None if row is None else inbox.as_dict(row, depth)


@task("inbox.counts", keep_result=True)
def counts(*, recipient_id: Id, by_event: bool = False, **where: Unpack[Where]) -> dict[str, Any]:
    """As `worker.inbox.counts`."""
    with transaction() as session:
        return inbox.counts_as_dict(inbox.counts(session, recipient_id, by_event=by_event, **where))


@task("inbox.unseen_count", keep_result=True)
def unseen_count(*, recipient_id: Id, **where: Unpack[Where]) -> int:
    """As `worker.inbox.unseen_count`."""
    with transaction() as session:
        return inbox.unseen_count(session, recipient_id, **where)


@task("inbox.has_unseen", keep_result=True)
def has_unseen(*, recipient_id: Id, **where: Unpack[Where]) -> bool:
    """As `worker.inbox.has_unseen`."""
    with transaction() as session:
        return inbox.has_unseen(session, recipient_id, **where)


@task("inbox.mark_seen", keep_result=True)
def mark_seen(*, recipient_id: Id, id: UUID, seen: bool = True) -> dict[str, Any] | None:
    """As `worker.inbox.mark_seen`."""
    with transaction() as session:
        row = inbox.mark_seen(session, recipient_id, id, seen)
        return None if row is None else inbox.as_dict(row)


@task("inbox.mark_all_seen", keep_result=True)
def mark_all_seen(*, recipient_id: Id, before: Moment | None = None, **where: Unpack[Where]) -> int:
    """As `worker.inbox.mark_all_seen`."""
    with transaction() as session:
        return inbox.mark_all_seen(session, recipient_id, before=before, **where)


@task("inbox.delete", keep_result=True)
def delete(*, recipient_id: Id, id: UUID) -> bool:
    """As `worker.inbox.delete`."""
    with transaction() as session:
        return inbox.delete(session, recipient_id, id)


@task("inbox.delete_seen", keep_result=True)
def delete_seen(*, recipient_id: Id, older_than: Moment | None = None, **where: Unpack[Where]) -> int:
    """As `worker.inbox.delete_seen`."""
    with transaction() as session:
        return inbox.delete_seen(session, recipient_id, older_than=older_than, **where)


@task("inbox.event_types", keep_result=True)
def event_types(*, recipient_id: Id, **filters: Unpack[Filters]) -> list[str]:
    """As `worker.inbox.event_types`."""
    with transaction() as session:
        return [*inbox.event_types(session, recipient_id, **filters)]
