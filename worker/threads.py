"""Threads: a notification that answers another one of the same recipient.

`parent_id` is a notification of the recipient, or the request that told many: then each recipient's own notification
of it is meant, so that one request can answer a whole fan-out.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from worker.errors import UnknownParent
from worker.ids import derive
from worker.models import Notification, Request
from worker.rows import chunks

#: Ancestors that a mail names, besides the one its thread began with.
MAX_CHAIN = 8

Row = dict[str, Any]


class Threads:
    """The parents that some requests name: loaded at once, then asked in memory, request by request."""

    def __init__(self, session: Session, rows: Iterable[Row]) -> None:
        answers = [row for row in rows if row["parent_id"]]
        given = sorted({row["parent_id"] for row in answers})
        self._by_id: dict[tuple[UUID, str], Any] = {}
        self._by_request: dict[tuple[UUID, str], Any] = {}
        self._requests: set[UUID] = set()
        columns = select(Notification.id, Notification.request_id, Notification.recipient_id, Notification.thread_id)
        for ids in chunks(given):
            told = Request.status.in_(["created", "pending"])
            self._requests.update(session.scalars(select(Request.id).where(Request.id.in_(ids), told)))
            for row in session.execute(columns.where(Notification.id.in_(ids))):
                self._by_id[row.id, row.recipient_id] = row
        for recipients in chunks(sorted({row["recipient_id"] for row in answers})):
            for ids in chunks(given):
                own = columns.where(Notification.request_id.in_(ids), Notification.recipient_id.in_(recipients))
                for row in session.execute(own):
                    self._by_request[row.request_id, row.recipient_id] = row

    def join(self, request_id: UUID, rows: Sequence[Row]) -> None:
        """Give each row of a request its recipient's own parent, and the thread. Later requests may answer these.

        Raises UnknownParent.
        """
        for row in rows:
            if row["parent_id"]:
                row["parent_id"], row["thread_id"] = self._place(row["parent_id"], row["recipient_id"])
        self._requests.add(request_id)
        for row in rows:
            kept = _Kept(row["id"], row["thread_id"])
            self._by_id[row["id"], row["recipient_id"]] = self._by_request[request_id, row["recipient_id"]] = kept

    def _place(self, given: UUID, recipient_id: str) -> tuple[UUID, UUID]:
        parent = self._by_id.get((given, recipient_id)) or self._by_request.get((given, recipient_id))
        if parent:
            return parent.id, parent.thread_id or parent.id
        if given not in self._requests:
            raise UnknownParent(
                "parent_id: neither a notification of every recipient of this request, nor a request that was created"
            )
        # Deleted since, or the page of the fan-out that tells this recipient still waits.
        own = derive(given, recipient_id)
        return own, own


class _Kept:
    """A notification that is about to be written."""

    def __init__(self, id: UUID, thread_id: UUID | None) -> None:
        self.id, self.thread_id = id, thread_id


def check_request(session: Session, parent_id: UUID | None) -> None:
    """Raise UnknownParent unless a large audience can answer it: only a request tells so many."""
    told = Request.status.in_(["created", "pending"])
    if parent_id and session.scalar(select(Request.id).where(Request.id == parent_id, told)) is None:
        raise UnknownParent("parent_id: a large audience can answer only a request that was created")


def references(session: Session, notifications: Mapping[UUID, Any]) -> dict[UUID, tuple[UUID, ...]]:
    """The deliveries that a notification's mail refers to (RFC 5322, 3.6.4), the thread's first one first.

    Named whether they were mailed or not: mail programs keep together what refers to the same one.
    """
    above: dict[UUID, UUID | None] = {}
    ask = {row.parent_id for row in notifications.values() if row.parent_id}
    for _ in range(MAX_CHAIN):
        if not ask:
            break
        statement = select(Notification.id, Notification.parent_id).where(Notification.id.in_(ask))
        found = {id: parent for id, parent in session.execute(statement)}
        above |= found
        ask = {parent for parent in found.values() if parent and parent not in above}
    return {id: _chain(row, above) for id, row in notifications.items() if row.parent_id}


def _chain(row: Any, above: Mapping[UUID, UUID | None]) -> tuple[UUID, ...]:
    chain: list[UUID] = []
    parent = row.parent_id
    while parent and len(chain) < MAX_CHAIN:
        chain.insert(0, parent)
        parent = above.get(parent)
    if row.thread_id and row.thread_id not in chain:
        chain.insert(0, row.thread_id)
    return tuple(derive(id, "email") for id in chain)
