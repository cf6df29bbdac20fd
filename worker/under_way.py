"""Which requests workers are just creating, so that one that kills its worker is noticed and stopped.

A line names the requests of a batch. It is committed before the batch begins, and deleted in the batch's own
transaction: a line that stays is that of a worker which died.
"""

import json
from collections import Counter
from collections.abc import Collection
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import bindparam, delete, select, text
from sqlalchemy.orm import Session

from worker.database import SQLITE_BUSY_SECONDS, UNAVAILABLE, Transaction
from worker.ids import uuid7
from worker.models import UnderWay

# Built once: one of each is run for every page of a fan-out and every few durable requests.
_LINES = select(UnderWay.__table__.c.id, UnderWay.__table__.c.request_ids)
_END = delete(UnderWay.__table__).where(UnderWay.__table__.c.id == bindparam("line"))  # type: ignore[arg-type]

#: A line, in one round trip. It is to survive our own death, not that of the server: no need to wait for the disk.
_ANNOUNCE = text(
    "WITH hurry AS (SELECT set_config('synchronous_commit', 'off', true)) INSERT INTO under_way (id, request_ids, "
    "created_at) SELECT CAST(:id AS uuid), CAST(:ids AS jsonb), CAST(:now AS timestamptz) FROM hurry"
)

#: After this long a line tells nothing any more.
FORGET_AFTER = timedelta(days=1)

#: Lines of this process's batches that broke when the database was away; deleted with the next one that is written.
_survived: set[UUID] = set()


def announce(begin: Transaction, ids: Collection[UUID], *, now: datetime) -> UUID:
    """Write a line, in a transaction of its own; gives its id."""
    line, over, names = uuid7(), list(_survived), [str(id) for id in ids]
    with begin() as session:
        if session.get_bind().dialect.name == "postgresql" and not over:
            alone = session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
            alone.execute(_ANNOUNCE, {"id": line.hex, "ids": json.dumps(names), "now": now.isoformat()})
        else:
            session.execute(delete(UnderWay).where(UnderWay.id.in_(over)))
            session.add(UnderWay(id=line, request_ids=names, created_at=now))
    _survived.difference_update(over)
    return line


def end(session: Session, line: UUID) -> None:
    """Delete a line, in the transaction of what it stood for."""
    session.connection().execute(_END, {"line": line})


def survive(begin: Transaction, line: UUID) -> None:
    """A batch was rolled back while its worker lives: its line goes, for other workers would take it for a death.

    Where the database is away, it goes with the next one that is written.
    """
    try:
        with begin() as session:
            end(session, line)
    except UNAVAILABLE:
        _survived.add(line)


def deaths(session: Session, ids: Collection[UUID], *, but: UUID | None = None) -> Counter[UUID]:
    """How many workers died of batches with these requests; exact for those whose rows the caller has locked."""
    wanted, found = {str(id): id for id in ids}, Counter[UUID]()
    for line, names in session.connection().execute(_LINES):
        if line != but and line not in _survived:
            found.update(wanted[name] for name in names if name in wanted)
    return found


def in_other_hands(session: Session, *, now: datetime) -> set[UUID]:
    """On SQLite, which has no row locks: requests whose line is so young that its worker may be alive."""
    if session.get_bind().dialect.name == "postgresql":
        return set()
    young = select(UnderWay.id, UnderWay.request_ids).where(
        UnderWay.created_at > now - timedelta(seconds=SQLITE_BUSY_SECONDS)
    )
    return {UUID(name) for line, names in session.execute(young) if line not in _survived for name in names}


def beside(session: Session, ids: Collection[UUID]) -> set[UUID]:
    """The requests on the lines that name any of these."""
    wanted = {str(id) for id in ids}
    lines = session.scalars(select(UnderWay.request_ids))
    return {UUID(name) for names in lines if wanted & set(names) for name in names}


def cross_out(session: Session, ids: Collection[UUID]) -> None:
    """Take requests that are settled off every line."""
    settled = {str(id) for id in ids}
    for line in session.scalars(select(UnderWay).order_by(UnderWay.id).with_for_update()):
        rest = [name for name in line.request_ids if name not in settled]
        if not rest:
            session.delete(line)
        elif len(rest) < len(line.request_ids):
            line.request_ids = rest


def purge(session: Session, *, now: datetime) -> None:
    """Forget lines of long ago."""
    session.execute(delete(UnderWay).where(UnderWay.created_at < now - FORGET_AFTER))
