"""Whether, and how fast, a channel may send: the operator's pause, the circuit breaker, the send rate.

All of it is in one row per channel, made when it is first needed. A channel without a row may send as it likes, and
costs nothing to ask about: the claim's own statement does.
"""

import logging
import math
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Session

from worker.channels import Outcome, Verdict
from worker.models import URGENCY, ChannelState, Delivery
from worker.rows import IS_PENDING, insert_new, is_in
from worker.settings import Settings, get_settings

log = logging.getLogger(__name__)

#: Seconds of the send rate that may be reserved ahead, beyond the time between two looks of beat.
AHEAD = 2
#: Seconds that urgent deliveries may reserve further ahead than the others: they pass all that has no slot yet.
URGENT_AHEAD = 3
#: Seconds between two successes of one process that are noted in the database.
NOTE_EVERY = 1

_noted: dict[str, float] = {}
"""When this process last noted a success, by channel and its own monotonic clock."""
_worked: set[str] = set()
"""Channels on which this process had a success since its last failure: the failures were not in a row."""


def is_open() -> ColumnElement[bool]:
    """The condition, for statements about deliveries, that the channel is neither paused nor cut off by the breaker."""
    held = or_(ChannelState.paused_at.is_not(None), ChannelState.open_until.is_not(None))
    return Delivery.channel.not_in(select(ChannelState.name).where(held))


def states(session: Session) -> dict[str, ChannelState]:
    """The channels that anything was ever noted of, by name."""
    return {state.name: state for state in session.scalars(select(ChannelState).order_by(ChannelState.name))}


@dataclass(frozen=True, slots=True)
class Hold:
    """What keeps a channel from sending."""

    channel: str
    state: Literal["paused", "cut off", "probing"]
    """By an operator; by the breaker; by the breaker until the next delivery, which tries the server."""
    since: datetime | None
    """When it was paused."""
    until: datetime | None
    """Cut off until then."""
    failures: int
    """How often in a row its server could not be used."""

    @property
    def words(self) -> str:
        """As it is told; times are in UTC."""
        if self.state == "paused":
            return f"{self.channel} is paused by an operator since {self.since:%Y-%m-%d %H:%M:%S} UTC"
        cut_off = f"{self.channel} is cut off by its circuit breaker (failures of its server in a row: {self.failures})"
        tries = "by the next delivery" if self.state == "probing" else f"at {self.until:%Y-%m-%d %H:%M:%S} UTC"
        return f"{cut_off}; the next try is {tries}"


def hold_of(state: ChannelState, now: datetime) -> Hold | None:
    """What keeps the channel from sending; None where nothing does."""
    if state.paused_at:
        return Hold(state.name, "paused", state.paused_at, state.open_until, state.failures)
    if state.open_until:
        kind: Literal["cut off", "probing"] = "cut off" if state.open_until > now else "probing"
        return Hold(state.name, kind, None, state.open_until, state.failures)
    return None


def holds(session: Session, now: datetime) -> dict[str, Hold]:
    """What keeps channels from sending, by their names."""
    found = (hold_of(state, now) for state in states(session).values())
    return {hold.channel: hold for hold in found if hold}


# --- The operator's pause ---


def pause(session: Session, channel: str, reason: str | None, now: datetime) -> None:
    """Let nothing more of the channel be claimed; what is claimed is finished. Again: only the reason changes."""
    state = _locked(session, channel)
    state.paused_at, state.pause_reason = state.paused_at or now, reason


def resume(session: Session, channel: str) -> None:
    """Let the channel go on, with the breaker closed and a fresh count of failures."""
    state = _locked(session, channel)
    state.paused_at = state.pause_reason = None
    _close(state)


def claimed(session: Session, channel: str) -> int:
    """How many deliveries of the channel are in the hands of workers; 0 on a paused one means that it is drained."""
    statement = select(func.count()).select_from(Delivery)
    return session.scalar(statement.where(Delivery.status == "sending", Delivery.channel == channel)) or 0


def waiting(session: Session, channel: str, now: datetime) -> tuple[int, datetime | None]:
    """How many deliveries of the channel are due and not in any worker's hands, and since when the oldest is."""
    statement = select(func.count(), func.min(Delivery.due_at))
    pending = (Delivery.status == "pending", Delivery.channel == channel, Delivery.due_at <= now)
    count, oldest = session.execute(statement.where(*pending)).one()
    return count, oldest


# --- The circuit breaker ---


@dataclass(frozen=True, slots=True)
class Probe:
    """The one delivery that a cut-off channel is tried with."""

    id: UUID
    channel: str


def take_probe(session: Session, delivery_ids: Sequence[UUID], now: datetime) -> Probe | None:
    """The one of these deliveries that the caller alone is to try its cut-off channel with; usually none."""
    ready = (ChannelState.paused_at.is_(None), ChannelState.open_until <= now)
    candidate = session.execute(
        select(Delivery.id, ChannelState.name)
        .join(ChannelState, ChannelState.name == Delivery.channel)
        .where(is_in(session, Delivery.id, delivery_ids), IS_PENDING, Delivery.due_at <= now, *ready)
        .order_by(Delivery.urgency, Delivery.due_at)
        .limit(1)
    ).first()
    if candidate is None:
        return None
    # For as long as a worker may be silent, nobody else tries.
    until = now + timedelta(seconds=get_settings().lease_seconds)
    taken = update(ChannelState).where(ChannelState.name == candidate.name, *ready).values(open_until=until)
    mine = session.scalar(taken.returning(ChannelState.name).execution_options(synchronize_session=False))
    return Probe(candidate.id, candidate.name) if mine else None


def release_probe(session: Session, channel: str, now: datetime) -> None:
    """Let somebody else try: the probe told nothing about the server."""
    state = _locked(session, channel)
    if state.open_until:
        state.open_until = now


def note(session: Session, channel: str, outcomes: Sequence[Outcome], now: datetime, *, probing: bool = False) -> None:
    """Count what the outcomes of one moment tell about the channel's server: one success, or one failure, of all."""
    bad = [one for one in outcomes if not one.reached or one.verdict in (Verdict.THROTTLED, Verdict.MISCONFIGURED)]
    if any(one.verdict is Verdict.SENT for one in outcomes):
        _note_success(session, channel, probing=probing)
    elif bad:
        _note_failure(session, channel, bad[-1], now, probing=probing)
    elif probing:
        release_probe(session, channel, now)


def _note_success(session: Session, channel: str, *, probing: bool) -> None:
    _worked.add(channel)
    if not probing and time.monotonic() - _noted.get(channel, -math.inf) < NOTE_EVERY:
        return
    _noted[channel] = time.monotonic()
    troubled = or_(ChannelState.failures > 0, ChannelState.open_until.is_not(None))
    state = session.scalar(select(ChannelState).where(ChannelState.name == channel, troubled).with_for_update())
    if state:
        if state.open_until:
            log.warning("channel %s: its server works again", channel)
        _close(state)


def _note_failure(session: Session, channel: str, outcome: Outcome, now: datetime, *, probing: bool) -> None:
    settings = get_settings()
    state = _locked(session, channel)
    if state.open_until and not probing:
        return  # begun before it opened
    state.failures = 1 if channel in _worked else state.failures + 1
    _worked.discard(channel)
    state.last_error = outcome.detail
    if not probing and state.failures < settings.breaker_failures:
        return
    state.opened += 1
    seconds = _cut_off_seconds(outcome.verdict, state.opened, settings)
    state.open_until = now + timedelta(seconds=seconds)
    log.warning("channel %s: nothing is sent for %.0f s, %s", channel, seconds, outcome.detail)


def _cut_off_seconds(verdict: Verdict, opened: int, settings: Settings) -> float:
    """Doubled each time up to the maximum; always the same where the server only asks for less. Half of it by lot."""
    longest = settings.breaker_max_seconds
    if verdict is Verdict.THROTTLED:
        seconds = min(longest, settings.throttled_pause_seconds)
    else:
        seconds = min(longest, settings.retry_base_seconds * 2 ** min(opened - 1, 30))
    return seconds * random.uniform(0.5, 1.0)


def _close(state: ChannelState) -> None:
    state.failures, state.opened, state.open_until, state.last_error = 0, 0, None, None


# --- The send rate ---


def rate_of(channel: str) -> float:
    """Deliveries per second that the channel may begin, all workers together; 0: as many as there are."""
    return get_settings().email_rate_per_second if channel == "email" else 0


def slots(session: Session, channel: str, wanted: int, urgency: int, now: datetime) -> list[float] | None:
    """Reserve moments to send at: seconds from now, at most `wanted`, none further than a few seconds ahead.

    None where the channel has no rate. What gets no slot goes back, and is handed over when there are free ones.
    """
    rate = rate_of(channel)
    if not rate:
        return None
    state = _locked(session, channel)
    start = _first_free(state, rate, now)
    count = min(wanted, _free(start, rate, urgency, now))
    state.next_free_at = start + timedelta(seconds=count / rate)
    first = (start - now).total_seconds()
    return [first + number / rate for number in range(count)]


def room(channel: str, known: Mapping[str, ChannelState], urgency: int, now: datetime) -> int:
    """How many due deliveries of the channel it makes sense to hand over now."""
    state, rate = known.get(channel), rate_of(channel)
    if state and (state.paused_at or (state.open_until and state.open_until > now)):
        return 0
    if state and state.open_until:
        return 1
    return _free(_first_free(state, rate, now), rate, urgency, now) if rate else sys.maxsize


def _first_free(state: ChannelState | None, rate: float, now: datetime) -> datetime:
    furthest = now + timedelta(seconds=_horizon(URGENCY["high"]) + 1 / rate)
    reserved = state.next_free_at if state else None
    # Further ahead than anybody reserves: the clock was set back, or the rate was raised.
    return now if reserved is None or reserved > furthest else max(reserved, now)


def _free(start: datetime, rate: float, urgency: int, now: datetime) -> int:
    ahead = (now - start).total_seconds() + _horizon(urgency)
    return max(0, math.ceil(ahead * rate))


def _horizon(urgency: int) -> float:
    more = URGENT_AHEAD if urgency == URGENCY["high"] else 0
    return get_settings().dispatch_every_seconds + AHEAD + more


# --- Giving up ---


def give_up_at(urgency: int, since: datetime) -> datetime:
    """The moment from which a delivery that is due since then is tried no more."""
    settings = get_settings()
    high = urgency == URGENCY["high"]
    seconds = settings.give_up_high_seconds if high else settings.give_up_normal_seconds
    return since + timedelta(seconds=seconds)


def _locked(session: Session, channel: str) -> ChannelState:
    """The channel's row, ours until the transaction ends; made if there is none."""
    statement = select(ChannelState).where(ChannelState.name == channel).with_for_update()
    state = session.scalar(statement.execution_options(populate_existing=True))
    if state is None:
        session.execute(insert_new(session, ChannelState), {"name": channel, "failures": 0, "opened": 0})
        state = session.scalars(statement).one()
    return state
