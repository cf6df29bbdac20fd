"""Celery shells around the inbox and the directory, for callers without database access. These keep their result."""

from dataclasses import asdict
from typing import Any, Literal
from uuid import UUID

from pydantic import AwareDatetime

from worker import inbox, recipients
from worker.celery import task
from worker.database import transaction, utcnow

Events = str | list[str] | None


@task("inbox.list", keep_result=True)
def list_(
    *,
    recipient_id: str,
    seen: bool | None = None,
    event_config_name: Events = None,
    scope: str | None = None,
    order: Literal["desc", "asc"] = "desc",
    page: int | None = None,
    per_page: int = 10,
    cursor: str | None = None,
    query: str | None = None,
) -> dict[str, Any]:
    """As `worker.inbox.list`; the items as JSON objects."""
    with transaction() as session:
        found = inbox.list(
            session,
            recipient_id,
            seen=seen,
            event_config_name=event_config_name,
            scope=scope,
            order=order,
            page=page,
            per_page=per_page,
            cursor=cursor,
            query=query,
        )
        return inbox.page_as_dict(found)


@task("inbox.get", keep_result=True)
def get(*, recipient_id: str, id: UUID) -> dict[str, Any] | None:
    """As `worker.inbox.get`."""
    with transaction() as session:
        row = inbox.get(session, recipient_id, id)
        return None if row is None else inbox.as_dict(row)


@task("inbox.counts", keep_result=True)
def counts(*, recipient_id: str) -> dict[str, int]:
    """As `worker.inbox.counts`."""
    with transaction() as session:
        return asdict(inbox.counts(session, recipient_id))


@task("inbox.mark_seen", keep_result=True)
def mark_seen(*, recipient_id: str, id: UUID, seen: bool = True) -> dict[str, Any] | None:
    """As `worker.inbox.mark_seen`."""
    with transaction() as session:
        row = inbox.mark_seen(session, recipient_id, id, seen)
        return None if row is None else inbox.as_dict(row)


@task("inbox.mark_all_seen", keep_result=True)
def mark_all_seen(
    *,
    recipient_id: str,
    event_config_name: Events = None,
    scope: str | None = None,
    before: AwareDatetime | None = None,
) -> int:
    """As `worker.inbox.mark_all_seen`."""
    with transaction() as session:
        return inbox.mark_all_seen(
            session, recipient_id, event_config_name=event_config_name, scope=scope, before=before
        )


@task("inbox.delete", keep_result=True)
def delete(*, recipient_id: str, id: UUID) -> bool:
    """As `worker.inbox.delete`."""
    with transaction() as session:
        return inbox.delete(session, recipient_id, id)


@task("inbox.delete_seen", keep_result=True)
def delete_seen(*, recipient_id: str, older_than: AwareDatetime | None = None) -> int:
    """As `worker.inbox.delete_seen`."""
    with transaction() as session:
        return inbox.delete_seen(session, recipient_id, older_than=older_than)


@task("inbox.event_types", keep_result=True)
def event_types(*, recipient_id: str, seen: bool | None = None) -> list[str]:
    """As `worker.inbox.event_types`."""
    with transaction() as session:
        return [*inbox.event_types(session, recipient_id, seen=seen)]


@task("recipients.upsert", keep_result=True)
def upsert(*, entries: list[dict[str, Any]]) -> int:
    """As `worker.recipients.upsert`."""
    with transaction() as session:
        return recipients.upsert(session, entries)


@task("recipients.delete", keep_result=True)
def remove(*, recipient_id: str) -> bool:
    """As `worker.recipients.delete`."""
    with transaction() as session:
        return recipients.delete(session, recipient_id)


@task("recipients.set_group", keep_result=True)
def set_group(*, group: str, recipient_ids: list[str]) -> None:
    """As `worker.recipients.set_group`."""
    with transaction() as session:
        recipients.set_group(session, group, recipient_ids)


@task("recipients.set_preference", keep_result=True)
def set_preference(*, recipient_id: str, event_config_name: str, enabled: bool, channel: str = "email") -> None:
    """As `worker.recipients.set_preference`."""
    with transaction() as session:
        recipients.set_preference(session, recipient_id, event_config_name, enabled, channel)


@task("recipients.suppress", keep_result=True)
def suppress(*, address: str, reason: str = "asked", channel: str = "email") -> None:
    """As `worker.recipients.suppress`."""
    with transaction() as session:
        recipients.suppress(session, address, reason, utcnow(), channel)
