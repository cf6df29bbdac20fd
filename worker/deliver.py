"""Use case: claim due deliveries, hand them to their channel, record what happened.

Claiming, sending and recording are separate: no transaction is open while the other side is slow.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from sqlalchemy.orm import Session

from worker.channels import CHANNELS, Channel, Outcome, Parcel
from worker.claims import Claimed, claim, give_back
from worker.database import UNAVAILABLE, Transaction, utcnow
from worker.outcomes import record
from worker.settings import Settings, get_settings

#: Answers of the other side that sending one parcel may have to wait for.
PHASES = 8

#: Seconds, the longest wait before what became of mails is recorded again where the database was away.
RECORD_RETRY_MAX = 5

log = logging.getLogger(__name__)
T = TypeVar("T")
_channels: dict[str, Channel] = {}


@dataclass(slots=True)
class Delivered:
    """What a call to `deliver` did."""

    sent: int = 0
    later: int = 0
    failed: int = 0
    skipped: int = 0
    given_back: int = 0
    """Claimed, but the lease was about to end before their turn."""


def deliver(begin: Transaction, delivery_ids: Sequence[UUID]) -> Delivered:
    """Send those of the deliveries that are pending and due; whatever else they are, they stay."""
    settings, result = get_settings(), Delivered()
    # Held mails must not include any that was merely claimed: there, one claim, one mail.
    size = 1 if settings.unknown_policy == "hold" else settings.deliver_batch
    for start in range(0, len(delivery_ids), size):
        lease_until = utcnow() + timedelta(seconds=settings.lease_seconds)
        with begin() as session:
            claimed, skipped = claim(session, delivery_ids[start : start + size], utcnow(), lease_until)
        result.skipped += skipped
        for name in {one.channel for one in claimed}:
            _send(begin, _channel(name), [one for one in claimed if one.channel == name], lease_until, result)
    return result


def _channel(name: str) -> Channel:
    if name not in _channels:
        _channels[name] = CHANNELS[name]()
    return _channels[name]


def _send(
    begin: Transaction, channel: Channel, claimed: Sequence[Claimed], lease_until: datetime, result: Delivered
) -> None:
    waiting = {one.id: one for one in claimed}
    under_way: dict[UUID, Claimed] = {}
    last_moment = _last_moment(lease_until, get_settings())

    def under_lease() -> Iterator[Parcel]:
        for one in claimed:
            if utcnow() >= last_moment:
                return
            under_way[one.id] = waiting.pop(one.id)
            yield one.parcel

    told: list[tuple[Claimed, Outcome]] = []
    try:
        for outcomes in channel.send(under_lease()):
            told = [(under_way.pop(outcome.delivery_id), outcome) for outcome in outcomes]
            counts = _persist(begin, lambda session: record(session, told, utcnow()), lease_until)  # noqa: B023
            told = []
            result.sent += counts["sent"]
            result.later += counts["pending"]
            result.failed += counts["failed"] + counts["unknown"]
        if waiting:
            _persist(begin, lambda session: give_back(session, list(waiting.values()), utcnow()), lease_until)
            result.given_back += len(waiting)
    except BaseException:
        # What was under way when something broke may have been sent: it stays claimed until its lease ends.
        with suppress(*UNAVAILABLE), begin() as session:
            record(session, told, utcnow())
            give_back(session, list(waiting.values()), utcnow())
        raise


def _persist(begin: Transaction, write: Callable[[Session], T], until: datetime) -> T:
    """Write in a transaction of its own; while the database is away, again and again until then.

    Given up too early, a mail that was accepted is sent again.
    """
    delay = 0.1
    while True:
        try:
            with begin() as session:
                return write(session)
        except UNAVAILABLE:
            if utcnow() >= until:
                raise
        log.warning("the database could not be reached; what became of emails is kept and recorded later")
        time.sleep(delay)
        delay = min(2 * delay, RECORD_RETRY_MAX)


def _last_moment(lease_until: datetime, settings: Settings) -> datetime:
    """When to begin no further parcel: the lease, and the task's time, must be enough for a slow server's answers."""
    slowest = min(PHASES * settings.smtp_timeout_seconds, settings.lease_seconds / 2)
    task_half = lease_until - timedelta(seconds=settings.lease_seconds - settings.task_time_limit_seconds / 2)
    return min(lease_until - timedelta(seconds=slowest), task_half)
