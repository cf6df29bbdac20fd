"""Celery shells around the directory, for callers without database access. These keep their result."""

from typing import Annotated, Any

from pydantic import StringConstraints

from worker import recipients
from worker.celery import task
from worker.database import transaction, utcnow
from worker.directory import PreferenceChannel, Reason, SuppressionChannel
from worker.errors import InvalidRequest
from worker.request import Address, EventConfigName, Id, Line

AnyAddress = Annotated[Line, StringConstraints(max_length=320)]


@task("recipients.upsert", keep_result=True)
def upsert(*, entries: dict[str, Any] | list[dict[str, Any]]) -> int:
    """As `worker.recipients.upsert`."""
    with transaction() as session:
        return recipients.upsert(session, entries)


@task("recipients.get", keep_result=True)
def get(*, recipient_id: Id | None = None, username: Id | None = None) -> dict[str, Any] | None:
    """As `worker.recipients.get`, or with a username as `find`."""
    if (recipient_id is None) == (username is None):
        raise InvalidRequest("recipient_id, username: exactly one of the two")
    with transaction() as session:
        row = recipients.find(session, username) if username else recipients.get(session, recipient_id or "")
        return None if row is None else recipients.as_dict(row)


@task("recipients.delete", keep_result=True)
def remove(*, recipient_id: Id) -> bool:
    """As `worker.recipients.delete`."""
    with transaction() as session:
        return recipients.delete(session, recipient_id)


@task("recipients.set_group", keep_result=True)
def set_group(*, group: Id, recipient_ids: list[Id]) -> None:
    """As `worker.recipients.set_group`."""
    with transaction() as session:
        recipients.set_group(session, group, recipient_ids)


@task("recipients.add_members", keep_result=True)
def add_members(*, group: Id, recipient_ids: list[Id]) -> None:
    """As `worker.recipients.add_members`."""
    with transaction() as session:
        recipients.add_members(session, group, recipient_ids)


@task("recipients.remove_members", keep_result=True)
def remove_members(*, group: Id, recipient_ids: list[Id]) -> int:
    """As `worker.recipients.remove_members`."""
    with transaction() as session:
        return recipients.remove_members(session, group, recipient_ids)


@task("recipients.members", keep_result=True)
def members(*, group: Id) -> list[str]:
    """As `worker.recipients.members`."""
    with transaction() as session:
        return recipients.members(session, group)


@task("recipients.groups", keep_result=True)
def groups(*, recipient_id: Id | None = None) -> list[str]:
    """As `worker.recipients.groups`."""
    with transaction() as session:
        return recipients.groups(session, recipient_id)


@task("recipients.set_preference", keep_result=True)
def set_preference(
    *, recipient_id: Id, event_config_name: EventConfigName, enabled: bool, channel: PreferenceChannel = "email"
) -> None:
    """As `worker.recipients.set_preference`."""
    with transaction() as session:
        recipients.set_preference(session, recipient_id, event_config_name, enabled, channel)


@task("recipients.preferences", keep_result=True)
def preferences(*, recipient_id: Id, channel: PreferenceChannel = "email") -> list[dict[str, Any]]:
    """As `worker.recipients.preferences`."""
    with transaction() as session:
        return recipients.preferences(session, recipient_id, channel)


@task("recipients.suppress", keep_result=True)
def suppress(*, address: Address, reason: Reason = "asked", channel: SuppressionChannel = "email") -> None:
    """As `worker.recipients.suppress`."""
    with transaction() as session:
        recipients.suppress(session, address, reason, utcnow(), channel)


@task("recipients.unsuppress", keep_result=True)
def unsuppress(*, address: AnyAddress, channel: SuppressionChannel = "email") -> bool:
    """As `worker.recipients.unsuppress`."""
    with transaction() as session:
        return recipients.unsuppress(session, address, channel)


@task("recipients.is_suppressed", keep_result=True)
def is_suppressed(*, address: AnyAddress, channel: SuppressionChannel = "email") -> bool:
    """As `worker.recipients.is_suppressed`."""
    with transaction() as session:
        return recipients.is_suppressed(session, address, channel)


@task("recipients.export", keep_result=True)
def export(*, recipient_id: Id) -> dict[str, Any]:
    """As `worker.recipients.export`."""
    with transaction() as session:
        return recipients.export(session, recipient_id)


@task("recipients.erase", keep_result=True)
def erase(*, recipient_id: Id) -> dict[str, int]:
    """As `worker.recipients.erase`."""
    with transaction() as session:
        return recipients.erase(session, recipient_id, now=utcnow())
