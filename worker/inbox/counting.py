"""How many there are in an inbox, and of which events."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Unpack

from sqlalchemy import ColumnElement, Select, func, literal_column, select
from sqlalchemy.orm import Session

from worker.inbox import quick
from worker.inbox.filters import Filters, Narrowed, Shape, Where, condition_of, narrow
from worker.models import Notification

#: Makes a statement of a condition.
Make = Callable[[ColumnElement[bool]], Any]


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is in an inbox."""

    total: int
    unseen: int
    by_event: Mapping[str, "Counts"] | None = None
    """By event config name, where it was asked for; what has none is in the whole alone."""


def unseen_count(
    session: Session, recipient_id: str, *, only: ColumnElement[bool] | None = None, **where: Unpack[Where]
) -> int:
    """How many are unseen: one query, of PostgreSQL's index of what is unseen alone. `only` as in `list`."""
    [[found]] = _rows(session, narrow(recipient_id, seen=False, **where), _count, only)
    return int(found)


def has_unseen(
    session: Session, recipient_id: str, *, only: ColumnElement[bool] | None = None, **where: Unpack[Where]
) -> bool:
    """Whether anything is unseen: it stops at the first one. `only` as in `list`."""
    return bool(_rows(session, narrow(recipient_id, seen=False, **where), _any, only))


def counts(session: Session, recipient_id: str, *, by_event: bool = False, **where: Unpack[Where]) -> Counts:
    """How many notifications there are, and how many of them are unseen; of each event too where that is asked for."""
    narrowed = narrow(recipient_id, **where)
    if not by_event:
        return Counts(*_rows(session, narrowed, _total_and_unseen)[0])
    totals, fresh = (_by_event(session, each) for each in (narrowed, replace(narrowed, seen=False)))
    named = {name: Counts(total, fresh.get(name, 0)) for name, total in totals.items() if name is not None}
    return Counts(sum(totals.values()), sum(fresh.values()), named)


def event_types(session: Session, recipient_id: str, **filters: Unpack[Filters]) -> Sequence[str]:
    """The event config names the recipient has notifications of, in alphabetical order."""
    return sorted(name for name in _by_event(session, narrow(recipient_id, **filters)) if name is not None)


def _count(condition: ColumnElement[bool]) -> Select[Any]:
    return select(func.count()).select_from(Notification).where(condition)


def _any(condition: ColumnElement[bool]) -> Select[Any]:
    return select(literal_column("1")).select_from(Notification).where(condition).limit(literal_column("1"))


def _total_and_unseen(condition: ColumnElement[bool]) -> Select[Any]:
    # Two counts, each of its own index alone: one with a FILTER would look at every row.
    unseen = condition & Notification.seen_at.is_(None)
    return select(*(_count(each).scalar_subquery() for each in (condition, unseen)))


def _groups(condition: ColumnElement[bool]) -> Select[str | None, int]:
    name = Notification.event_config_name
    return select(name, func.count()).where(condition).group_by(name)


def _by_event(session: Session, narrowed: Narrowed) -> dict[str | None, int]:
    return {name: count for name, count in _rows(session, narrowed, _groups)}


def _rows(session: Session, narrowed: Narrowed, make: Make, only: ColumnElement[bool] | None = None) -> Sequence[Any]:
    if only is not None:
        return session.execute(make(condition_of(narrowed.shape) & only), narrowed.values).all()
    return quick.rows(session, _kept(make, narrowed.shape), narrowed.values)


@lru_cache(maxsize=512)
def _kept(make: Make, shape: Shape) -> Any:
    return make(condition_of(shape))
