"""Use case: claim due deliveries, hand them to their channel, record what happened.

Claiming, sending and recording are separate: no transaction is open while the other side is slow.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain
from typing import TypeVar
from uuid import UUID

from sqlalchemy.orm import Session

from worker import control
from worker.channels import CHANNELS, Channel, Outcome, Parcel
from worker.claims import Claimed, claim, give_back, let_go, suspects
from worker.database import UNAVAILABLE, Transaction, utcnow, why_unavailable
from worker.outcomes import record
from worker.settings import Settings, get_settings
from worker.stopping import stopping

#: Answers of the other side that sending one parcel may have to wait for.
PHASES = 8

#: Seconds, the longest wait before what became of mails is recorded again where the database was away.
RECORD_RETRY_MAX = 5

log = logging.getLogger(__name__)
T = TypeVar("T")
_channels: dict[str, Channel] = {}


@dataclass(slots=True)
class _Batch:
    """What one call of a channel gets to send."""

    channel: str
    claimed: list[Claimed]
    lease_until: datetime
    probing: bool = False
    """Whether it is the one delivery that tries a channel which was cut off."""
    slots: list[float] = field(default_factory=list)
    """When each may be sent, by the monotonic clock; empty where the channel has no rate."""


@dataclass(slots=True)
class Delivered:
    """What a call to `deliver` did."""

    sent: int = 0
    later: int = 0
    failed: int = 0
    skipped: int = 0
    given_back: int = 0
    """Claimed, but not to be sent now: the lease about to end, the server gone, the rate reached, a stopping worker."""


def deliver(begin: Transaction, delivery_ids: Sequence[UUID]) -> Delivered:
    """Send those of the deliveries that are pending and due; whatever else they are, they stay."""
    settings, result = get_settings(), Delivered()
    # Held mails must not include any that was merely claimed: there, one claim, one mail.
    size = 1 if settings.unknown_policy == "hold" else settings.deliver_batch
    todo = deque(delivery_ids[start : start + size] for start in range(0, len(delivery_ids), size))
    while todo:
        some = todo.popleft()
        with begin() as session:
            if stopping():
                let_go(session, [*some, *chain.from_iterable(todo)], utcnow())
                break
            batches = _claim(session, some, result)
            if len(some) > sum(len(batch.claimed) for batch in batches) and len(some) > 1:
                todo.extend([id] for id in suspects(session, some, utcnow()))
        for batch in batches:
            _send(begin, batch, result)
    return result


def _claim(session: Session, delivery_ids: Sequence[UUID], result: Delivered) -> list[_Batch]:
    now = utcnow()
    lease_until = now + timedelta(seconds=get_settings().lease_seconds)

    def take(ids: Sequence[UUID], *, probing: bool = False) -> list[Claimed]:
        claimed, skipped = claim(session, ids, now, lease_until, probing=probing)
        result.skipped += skipped
        return claimed

    claimed = take(delivery_ids)
    names = {one.channel for one in claimed}
    batches = [_Batch(name, [one for one in claimed if one.channel == name], lease_until) for name in names]
    if len(claimed) < len(delivery_ids) and (probe := control.take_probe(session, delivery_ids, now)):
        ones = take([probe.id], probing=True)
        batches += [_Batch(probe.channel, [one], lease_until, probing=True) for one in ones]
        if not ones:
            control.release_probe(session, probe.channel, now)
    for batch in batches:
        _keep_to_rate(session, batch, now, result)
    return batches


def _keep_to_rate(session: Session, batch: _Batch, now: datetime, result: Delivered) -> None:
    """Leave in the batch what may be sent within seconds, and give the rest back."""
    slots = control.slots(session, batch.channel, len(batch.claimed), batch.claimed[0].urgency, now)
    if slots is not None:
        started = time.monotonic()
        batch.slots = [started + seconds for seconds in slots]
        batch.claimed, later = batch.claimed[: len(slots)], batch.claimed[len(slots) :]
        _give_back(session, batch, later, now)
        result.given_back += len(later)


def _give_back(session: Session, batch: _Batch, untried: Sequence[Claimed], now: datetime) -> None:
    give_back(session, untried, now)
    if batch.probing and untried:
        control.release_probe(session, batch.channel, now)


def _channel(name: str) -> Channel:
    if name not in _channels:
        _channels[name] = CHANNELS[name]()
    return _channels[name]


def _send(begin: Transaction, batch: _Batch, result: Delivered) -> None:
    begun = 0
    under_way: dict[UUID, Claimed] = {}
    last_moment = _last_moment(batch.lease_until, get_settings())
    reached = True

    def may_begin() -> bool:
        return reached and not stopping() and utcnow() < last_moment

    def under_lease() -> Iterator[Parcel | None]:
        nonlocal begun
        for one in batch.claimed:
            while batch.slots and time.monotonic() < batch.slots[begun] and may_begin():
                yield None
            if not may_begin():
                return
            begun += 1
            under_way[one.id] = one
            yield one.parcel

    told: list[tuple[Claimed, Outcome]] = []
    try:
        for outcomes in _channel(batch.channel).send(under_lease()):
            reached = reached and all(outcome.reached for outcome in outcomes)
            told = [(under_way.pop(outcome.delivery_id), outcome) for outcome in outcomes]
            counts = _persist(begin, lambda session: _record(session, batch, told), batch.lease_until)  # noqa: B023
            told = []
            result.sent += counts["sent"]
            result.later += counts["pending"]
            result.failed += counts["failed"] + counts["unknown"]
        if rest := batch.claimed[begun:]:
            _persist(begin, lambda session: _give_back(session, batch, rest, utcnow()), batch.lease_until)
            result.given_back += len(rest)
    except BaseException:
        # What was under way when something broke may have been sent: it stays claimed until its lease ends.
        with suppress(*UNAVAILABLE):
            with begin() as session:
                record(session, told, utcnow())
            with begin() as session:
                _give_back(session, batch, batch.claimed[begun:], utcnow())
        raise


def _record(session: Session, batch: _Batch, told: Sequence[tuple[Claimed, Outcome]]) -> Counter[str]:
    now = utcnow()
    counts = record(session, told, now)
    control.note(session, batch.channel, [outcome for _, outcome in told], now, probing=batch.probing)
    return counts


def _persist(begin: Transaction, write: Callable[[Session], T], until: datetime) -> T:
    """Write in a transaction of its own; while the database is away, again and again until then.

    Given up too early, a mail that was accepted is sent again.
    """
    delay = 0.1
    while True:
        try:
            with begin() as session:
                return write(session)
        except UNAVAILABLE as error:
            if utcnow() >= until:
                raise
            log.warning("%s; what became of emails is kept and recorded later", why_unavailable(error))
        time.sleep(delay)
        delay = min(2 * delay, RECORD_RETRY_MAX)


def _last_moment(lease_until: datetime, settings: Settings) -> datetime:
    """When to begin no further parcel: the lease, and the task's time, must be enough for a slow server's answers."""
    slowest = min(PHASES * settings.smtp_timeout_seconds, settings.lease_seconds / 2)
    task_half = lease_until - timedelta(seconds=settings.lease_seconds - settings.task_time_limit_seconds / 2)
    return min(lease_until - timedelta(seconds=slowest), task_half)
