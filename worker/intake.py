"""Use case: take requests in, in batches; where a batch broke or its worker died, each of them alone.

So one bad request harms no other, and one that kills its worker is stopped after `POISON_TRIES`. It ends as failed,
with what was asked, like one that is refused.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from worker import pending, under_way, waiting
from worker.create import Created
from worker.database import UNAVAILABLE, Transaction, get_engine, utcnow
from worker.errors import BellhopError, Poisoned, UnexpectedError, describe, type_and_place
from worker.request import NotificationRequest
from worker.settings import get_settings

log = logging.getLogger(__name__)

Ends = tuple[type[Exception], ...]
"""Errors that end the task rather than the request, such as its time limit."""

Create = Callable[[Session, Sequence[NotificationRequest]], Created]


def take_messages(
    begin: Transaction, create: Create, asked: Sequence[NotificationRequest], *, redelivered: bool, ends: Ends
) -> Created:
    """Create what one message asks for, in one transaction, or each alone.

    `redelivered`: an earlier worker may have died of it. Errors of the database, and `ends`, pass through.
    """
    passing: Ends = (*UNAVAILABLE, *ends)
    if not redelivered:
        try:
            with begin() as session:
                return create(session, asked)
        except BellhopError:
            raise
        except passing:
            raise
        except Exception as error:
            if len(asked) == 1:
                raise
            log.warning("a batch of %d requests broke (%s): each is created alone", len(asked), describe(error))
    result = Created()
    for request in asked:
        try:
            if redelivered:
                result.add(_alone(begin, create, request, ends))
            else:
                with begin() as session:
                    result.add(create(session, [request]))
        except passing:
            raise
        except BellhopError as error:
            result.refused[request.id] = error
        except Exception as error:
            result.refused[request.id] = UnexpectedError(type_and_place(error))
    return result


def _alone(begin: Transaction, create: Create, request: NotificationRequest, ends: Ends) -> Created:
    with begin() as session:
        # The first death is told by the redelivery: before it, nothing was written down.
        died = 1 + under_way.deaths(session, [request.id])[request.id]
    if died >= get_settings().poison_tries:
        _cross_out(begin, request.id)
        raise Poisoned
    line = under_way.announce(begin, [request.id], now=utcnow())
    try:
        with begin() as session:
            created = create(session, [request])
    except ends:
        raise
    except UNAVAILABLE:
        under_way.survive(begin, line)
        raise
    except Exception:
        _cross_out(begin, request.id)
        raise
    _cross_out(begin, request.id)
    return created


def _cross_out(begin: Transaction, id: UUID) -> None:
    with begin() as session:
        under_way.cross_out(session, [id])


def take_waiting(begin: Transaction, *, limit: int, bulk: bool, ends: Ends) -> Iterator[tuple[int, Created, bool]]:
    """Create up to `limit` waiting requests: those that nobody died of in one transaction, then the others, each alone.

    Gives, for each transaction once it is committed, how many were taken, what became of them, and whether others
    were waiting already.
    """
    batch = _Batch()
    passing: Ends = (*UNAVAILABLE, *ends)
    try:
        with _held(begin, lambda session: _choose(session, batch, limit, bulk), ends) as (session, rows):
            created = pending.create_taken(session, rows, now=utcnow(), bulk=bulk)
        done = len(rows), created
    except passing:
        raise
    except Exception as error:
        if not batch.ids:
            raise
        log.warning("a batch of %d requests broke (%s): each is created alone", len(batch.ids), describe(error))
        batch.suspects += batch.ids
        done = 0, Created()
    yield *done, batch.more
    for id in batch.suspects:
        yield 1, _one_waiting(begin, id, bulk, ends), batch.more
    if batch.suspects:
        with begin() as session:
            named = under_way.beside(session, batch.suspects)
            under_way.cross_out(session, named - waiting.still_waiting(session, named))


@dataclass(slots=True)
class _Batch:
    ids: list[UUID] = field(default_factory=list)
    suspects: list[UUID] = field(default_factory=list)
    """Requests whose last worker died."""
    more: bool = False


def _choose(session: Session, batch: _Batch, limit: int, bulk: bool) -> Sequence[Any]:
    rows, batch.more = waiting.take(session, limit, bulk, under_way.in_other_hands(session, now=utcnow()))
    if not rows:
        return rows
    died = under_way.deaths(session, [row.id for row in rows])
    batch.suspects = [row.id for row in rows if died[row.id]]
    batch.ids = [row.id for row in rows if not died[row.id]]
    return [row for row in rows if not died[row.id]]


def _one_waiting(begin: Transaction, id: UUID, bulk: bool, ends: Ends) -> Created:
    passing: Ends = (*UNAVAILABLE, *ends)
    try:
        with _held(begin, lambda session: _unless_poison(session, id), ends) as (session, rows):
            return pending.create_taken(session, rows, now=utcnow(), bulk=bulk)
    except passing:
        raise
    except Exception as error:
        with begin() as session:
            for row in waiting.take_these(session, [id]):
                pending.settle(session, [], {row.id: UnexpectedError(type_and_place(error))})
        return Created()


def _unless_poison(session: Session, id: UUID) -> Sequence[Any]:
    rows = waiting.take_these(session, [id])
    if rows and under_way.deaths(session, [id])[id] >= get_settings().poison_tries:
        pending.settle(session, [], {id: Poisoned()})
        return []
    return rows


@contextmanager
def _held(
    begin: Transaction, choose: Callable[[Session], Sequence[Any]], ends: Ends
) -> Iterator[tuple[Session, Sequence[Any]]]:
    """A transaction that has locked the chosen requests, with their line written down by another that has ended.

    The line stays where the process dies, or is ended, in between.
    """
    line, rows = None, None
    if get_engine().dialect.name != "postgresql":
        # There, another transaction would have to wait for the one with the locks: the line is written before it.
        with begin() as session:
            rows = [row.id for row in choose(session)]
        line = under_way.announce(begin, rows, now=utcnow()) if rows else None
    try:
        with begin() as session:
            locked = choose(session) if rows is None else waiting.take_these(session, rows)
            if locked and line is None:
                line = under_way.announce(begin, [row.id for row in locked], now=utcnow())
            yield session, locked
            if line:
                under_way.end(session, line)
    except ends:
        raise
    except Exception:
        if line:
            under_way.survive(begin, line)
        raise
