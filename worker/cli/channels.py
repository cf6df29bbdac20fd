"""Commands that hold channels back, and say what holds them."""

import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime

import click

from worker import control
from worker.channels import CHANNELS
from worker.cli.shared import console, echo_json, make_table
from worker.database import check_schema, get_engine, transaction, utcnow
from worker.models import ChannelState

#: Seconds between two looks of a drain.
LOOK_EVERY = 0.5

_CHANNEL = click.argument("channel", type=click.Choice(sorted(CHANNELS)), default="email")
_REASON = click.option("--reason", help="For whoever looks at `bellhop status`.")


@dataclass(frozen=True, slots=True)
class _Status:
    channel: str
    state: str
    """open, paused, cut off, or probing: the next delivery tries the server."""
    since: datetime | None
    """When it was paused."""
    until: datetime | None
    """Cut off until then."""
    reason: str | None
    failures: int
    """How often in a row its server could not be used."""
    rate_per_second: float
    """0: none."""
    due: int
    claimed: int
    oldest_due_at: datetime | None


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs: a list.")
@click.argument("channel", type=click.Choice(sorted(CHANNELS)), required=False)
def status(channel: str | None, as_json: bool) -> None:
    """Say whether channels send, what holds them back, and what waits."""
    check_schema(get_engine())
    found = [_status(name) for name in ([channel] if channel else sorted(CHANNELS))]
    if as_json:
        echo_json([asdict(one) for one in found])
        return
    table = make_table("channel", "state", "why", "rate", "due", "claimed", "oldest due (UTC)")
    for one in found:
        rate, oldest = f"{one.rate_per_second:g}/s" if one.rate_per_second else "", one.oldest_due_at
        when = f"{oldest:%Y-%m-%d %H:%M:%S}" if oldest else ""
        table.add_row(one.channel, _words(one), one.reason or "", rate, str(one.due), str(one.claimed), when)
    console.print(table)


def _status(channel: str) -> _Status:
    now = utcnow()
    with transaction() as session:
        known = control.states(session).get(channel) or ChannelState(name=channel, failures=0, opened=0)
        due, oldest = control.waiting(session, channel, now)
        return _Status(
            channel,
            hold.state if (hold := control.hold_of(known, now)) else "open",
            known.paused_at,
            known.open_until,
            known.pause_reason if known.paused_at else known.last_error,
            known.failures,
            control.rate_of(channel),
            due,
            control.claimed(session, channel),
            oldest,
        )


def _words(one: _Status) -> str:
    moment = one.since or one.until
    link = "since" if one.since else "until"
    return f"{one.state} {link} {moment:%Y-%m-%d %H:%M:%S}" if moment else one.state


@click.command()
@_CHANNEL
@_REASON
def pause(channel: str, reason: str | None) -> None:
    """Send nothing more through a channel; what is due waits, and what is being sent is finished."""
    _pause(channel, reason)
    console.print(f"{channel} is paused; `bellhop resume {channel}` lets it go on.", markup=False)


@click.command()
@_CHANNEL
@_REASON
@click.option(
    "--timeout",
    default=300.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds to wait for what is in hand, 0 for not at all; then exit code 1.",
)
def drain(channel: str, reason: str | None, timeout: float) -> None:
    """Pause a channel, and wait until no worker has any of its deliveries in hand."""
    _pause(channel, reason)
    deadline, clear = time.monotonic() + timeout, 0
    # Twice: a claim that had begun before the pause shows at the second look.
    while clear < 2:
        with transaction() as session:
            in_hand = control.claimed(session, channel)
        clear = 0 if in_hand else clear + 1
        if in_hand and time.monotonic() >= deadline:
            click.echo(f"{channel} is paused; still in the hands of workers: {in_hand}", err=True)
            sys.exit(1)
        time.sleep(LOOK_EVERY)
    console.print(f"{channel} is paused, and no worker has any of it in hand.", markup=False)


def _pause(channel: str, reason: str | None) -> None:
    check_schema(get_engine())
    with transaction() as session:
        control.pause(session, channel, reason, utcnow())


@click.command()
@_CHANNEL
def resume(channel: str) -> None:
    """Let a channel go on, also one that was cut off because its server could not be used."""
    check_schema(get_engine())
    with transaction() as session:
        control.resume(session, channel)
    console.print(f"{channel} goes on.", markup=False)
