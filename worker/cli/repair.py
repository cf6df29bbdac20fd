"""Commands that look through deliveries and requests, and put back those that failed."""

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click
from rich.padding import Padding
from rich.text import Text

from worker import control, repair
from worker.cli.shared import Moment, console, echo_json, when
from worker.control import Hold
from worker.database import check_schema, get_engine, transaction, utcnow
from worker.repair import Replayed, Wanted
from worker.story import mask

#: More than this many are put back only after a question.
ASK_ABOVE = 100

DELIVERY_STATUSES = ("pending", "sending", "sent", "failed", "unknown", "skipped")
REQUEST_STATUSES = ("pending", "created", "failed", "cancelled")
BACK_STATUSES = ("failed", "unknown", "skipped")

Command = TypeVar("Command", bound=Callable[..., Any])


def _filters(*statuses: str) -> Callable[[Command], Command]:
    """The options that choose rows, alike in every command."""
    options = [
        click.option("--status", "statuses", multiple=True, type=click.Choice(statuses), help="Repeat for several."),
        click.option("--event", help="Of this event only."),
        click.option("--id", "ids", multiple=True, type=click.UUID, help="This one only; repeat for several."),
        click.option("--since", type=Moment(), help="Not what was due, or asked, before."),
        click.option("--before", type=Moment(), help="Only what was due, or asked, before."),
    ]

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_listing = click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 100_000))
_json = click.option("--json", "as_json", is_flag=True, help="For programs: a list.")
_recipient = click.option("--recipient", "recipient_id", help="To this recipient only.")


@click.command()
@_filters(*DELIVERY_STATUSES)
@_recipient
@click.option("--reason", help="With this reason only, such as no_address.")
@_listing
@click.option("--show-addresses", is_flag=True, help="In full; else a***@example.org.")
@_json
def deliveries(limit: int, show_addresses: bool, as_json: bool, **chosen: Any) -> None:
    """List deliveries, the newest first; those that wait the most urgent first. Times are in UTC."""
    check_schema(get_engine())
    with transaction() as session:
        found = repair.deliveries(session, Wanted(**chosen), limit)
        holds = control.holds(session, utcnow())
    shown = [_of_delivery(*row, holds=holds, show_addresses=show_addresses) for row in found]
    if as_json:
        echo_json(shown)
        return
    for one in shown:
        status = _named(one["status"], ": ", one["reason"])
        about = f"{one['event_config_name'] or 'a text'} to {one['recipient_id']}"
        tries = f"{one['attempts']} {'try' if one['attempts'] == 1 else 'tries'}"
        _show(one["id"], status, one["sent_at"] or one["due_at"])
        _tell(_named(about, " ", one["address"]) + _named(f", {tries}", ": ", one["last_error"]))
        if one["held"]:
            _tell(Hold(**one["held"]).words)
    _say_rest(len(shown), limit)


def _named(words: str, between: str, more: str | None) -> str:
    return f"{words}{between}{more}" if more else words


def _show(id: UUID, status: str, moment: datetime) -> None:
    """The first line of a row, short enough for a narrow terminal: the id is there to be copied."""
    console.print(Text(f"{id}  {status:<20}  {when(moment)}"), soft_wrap=True)


def _tell(words: str) -> None:
    console.print(Padding(Text(words), (0, 0, 0, 4), expand=False))


def _of_delivery(
    row: Any, event: str | None, recipient_id: str, *, holds: Mapping[str, Hold], show_addresses: bool
) -> dict[str, Any]:
    names = ("id", "notification_id", "channel", "status", "reason", "attempts", "due_at", "sent_at", "last_error")
    told = {name: getattr(row, name) for name in names}
    address = row.address if show_addresses else mask(row.address)
    hold = holds.get(row.channel) if row.status == "pending" else None
    about = {"event_config_name": event, "recipient_id": recipient_id, "address": address}
    return {**told, **about, "held": hold and asdict(hold)}


def _say_rest(shown: int, limit: int) -> None:
    console.print(f"{shown} shown" + ("; there may be more, see --limit" if shown == limit else ""))


@click.command()
@_filters(*REQUEST_STATUSES)
@_listing
@click.option("--payload", "show_payload", is_flag=True, help="With what was asked, where it is kept; implies --json.")
@_json
def requests(limit: int, show_payload: bool, as_json: bool, **chosen: Any) -> None:
    """List requests, the newest first; those that wait the oldest first. Times are in UTC."""
    check_schema(get_engine())
    with transaction() as session:
        found = repair.requests(session, Wanted(**chosen), limit)
    shown = [_of_request(row, show_payload=show_payload) for row in found]
    if as_json or show_payload:
        echo_json(shown)
        return
    for one in shown:
        _show(one["id"], one["status"], one["created_at"])
        if one["error"]:
            _tell(_named(one["event_config_name"] or "", ": " if one["event_config_name"] else "", one["error"]))
    _say_rest(len(shown), limit)


def _of_request(row: Any, *, show_payload: bool) -> dict[str, Any]:
    payload = row.payload or {}
    event = payload.get("event_config_name")
    told = {
        "id": row.request_id or row.id,
        "status": row.status,
        "event_config_name": event if isinstance(event, str) else None,
        "idempotency_key": row.idempotency_key,
        "bulk": row.bulk,
        "created_at": row.created_at,
        "error": row.error,
        "kept": row.payload is not None,
    }
    return {**told, "payload": row.payload} if show_payload else told


@click.command()
@_filters(*BACK_STATUSES)
@_recipient
@click.option("--reason", help="With this reason only; needed with --status skipped.")
@click.option("--requests", "of_requests", is_flag=True, help="Failed requests instead of deliveries.")
@click.option(
    "--payload",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON: ask this instead, of one request.",
)
@click.option("--dry-run", is_flag=True, help="Say what it would do; with the same exit code.")
@click.option("--yes", is_flag=True, help=f"Do not ask, however many; else above {ASK_ABOVE}.")
def replay(of_requests: bool, payload: Path | None, dry_run: bool, yes: bool, **chosen: Any) -> None:
    """Put failed deliveries back, due now, or with --requests failed requests; exit code 1 if some could not be.

    Never what was sent. A mail keeps its Message-ID.
    """
    wanted = _checked(of_requests, payload, chosen)
    check_schema(get_engine())
    mended = _read(payload) if payload else None
    if not (dry_run or yes):
        _ask_if_many(of_requests, wanted)
    with repair.rehearsal() if dry_run else nullcontext(transaction) as begin:
        if of_requests:
            done = repair.replay_requests(begin, wanted, payload=mended)
        else:
            done = repair.replay_deliveries(begin, wanted, now=utcnow())
    if not dry_run:
        _wake(done, of_requests)
    _say(done, wanted, of_requests, "would be put back" if dry_run else "put back")


def _ask_if_many(of_requests: bool, wanted: Wanted) -> None:
    count = repair.count_requests if of_requests else repair.count_deliveries
    with transaction() as session:
        back, _gone = count(session, wanted)
    if back > ASK_ABOVE:
        click.confirm(f"Put {back} {'requests' if of_requests else 'deliveries'} back?", abort=True)


_GONE = {
    True: "what they asked for is not kept any more",
    False: "their text or a file is not kept any more; ask for the notification again",
}


def _checked(of_requests: bool, payload: Path | None, chosen: dict[str, Any]) -> Wanted:
    statuses = chosen["statuses"] or ("failed",)
    if of_requests and (statuses != ("failed",) or chosen["recipient_id"] or chosen["reason"]):
        raise click.UsageError("--requests goes with --event, --id, --since and --before")
    if payload and not (of_requests and len(chosen["ids"]) == 1):
        raise click.UsageError("--payload goes with --requests and one --id")
    if "skipped" in statuses and not chosen["reason"]:
        raise click.UsageError("--status skipped goes with --reason: say which of them are meant")
    return Wanted(**{**chosen, "statuses": statuses})


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise click.UsageError(f"--payload: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise click.UsageError("--payload: a JSON object")
    return value


def _wake(done: Replayed, of_requests: bool) -> None:
    """Have it done at once; where the broker is away, beat finds it."""
    from worker import handover

    if done.back and not of_requests:
        handover.publish("notifications.dispatch_due")
    if done.back and of_requests:
        handover.wake_pending(bulk=False)
    if done.bulk:
        handover.wake_pending(bulk=True)


def _say(done: Replayed, wanted: Wanted, of_requests: bool, words: str) -> None:
    click.echo(f"{done.back} {words}")
    if done.done:
        click.echo(f"{done.done} had been created meanwhile")
    for id, why in done.refused.items():
        click.echo(f"{id} is still refused: {why}", err=True)
    if done.gone:
        click.echo(f"{done.gone} could not be put back: {_GONE[of_requests]}", err=True)
    for id in done.unknown:
        of = "request" if of_requests else "delivery"
        click.echo(f"{id}: there is no such {of} that is {' or '.join(wanted.statuses)}", err=True)
    if done.refused or done.gone or done.unknown:
        raise SystemExit(1)
