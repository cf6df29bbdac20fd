"""Use case: claim due deliveries, hand them to their channel, record what happened.

Claiming, sending and recording are separate: no transaction is open while the other side is slow.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from worker.channels import CHANNELS, Channel, Outcome, Parcel
from worker.claims import Claimed, claim, give_back
from worker.database import Transaction, utcnow
from worker.outcomes import record
from worker.settings import Settings, get_settings

#: Answers of the other side that sending one parcel may have to wait for.
PHASES = 8

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

    try:
        for outcomes in channel.send(under_lease()):
            _record(begin, [(under_way.pop(outcome.delivery_id), outcome) for outcome in outcomes], result)
    finally:
        # What was under way when something broke may have been sent: it stays claimed until its lease ends.
        if waiting:
            with begin() as session:
                give_back(session, list(waiting.values()), utcnow())
            result.given_back += len(waiting)


def _record(begin: Transaction, told: Sequence[tuple[Claimed, Outcome]], result: Delivered) -> None:
    with begin() as session:
        counts = record(session, told, utcnow())
    result.sent += counts["sent"]
    result.later += counts["pending"]
    result.failed += counts["failed"] + counts["unknown"]


def _last_moment(lease_until: datetime, settings: Settings) -> datetime:
    """When to begin no further parcel: the lease, and the task's time, must be enough for a slow server's answers."""
    slowest = min(PHASES * settings.smtp_timeout_seconds, settings.lease_seconds / 2)
    task_half = lease_until - timedelta(seconds=settings.lease_seconds - settings.task_time_limit_seconds / 2)
    return min(lease_until - timedelta(seconds=slowest), task_half)
