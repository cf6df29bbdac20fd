"""Commands of every day: the tables, enqueueing, an inbox, the events, the purge."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click
from rich.text import Text
from sqlalchemy import select
from sqlalchemy.orm import Session

from worker import inbox as inboxes
from worker import partitions
from worker import purge as purging
from worker.cli.shared import Moment, console, echo_json, make_table
from worker.client import connect, notify
from worker.database import check_schema, get_engine, head, transaction, upgrade, utcnow
from worker.events import get_events
from worker.models import Delivery
from worker.render import langs
from worker.settings import get_settings


@click.command("init-db")
def init_db() -> None:
    """Create the tables, or migrate them to this version."""
    upgrade(get_engine())
    console.print(
        f"The schema of {get_engine().url.render_as_string(hide_password=True)} is at version {head()}.", markup=False
    )


@click.command()
def partition() -> None:
    """Divide the big tables into months, so that the purge can drop them; PostgreSQL only.

    Whoever wants them waits until it is done: for more than some seconds, stop the workers first.
    """
    check_schema(get_engine())
    done = partitions.convert(transaction, now=utcnow())
    said = "are now" if done.changed else "were already"
    console.print(f"The tables {said} divided into months; {done.months} have tables of their own.", markup=False)


@click.command()
@click.argument("event")
@click.option("--to", "to", required=True, multiple=True, help="A recipient's id; repeat for several.")
@click.option("--lang", help="Language for every recipient; else each one's own.")
@click.option("--context", default="{}", help="The event's context, a JSON object.")
@click.option("--address", help="The recipient's email address, where the directory has none.")
@click.option("--email/--no-email", "should_email", default=None, help="Else the event's default decides.")
@click.option("--key", "idempotency_key", help="Idempotency key: the same request again adds nothing.")
def send(event: str, to: tuple[str, ...], context: str, address: str | None, **optional: Any) -> None:
    """Enqueue a notification and print its request's id, which is its task's id in Flower too."""
    try:
        values = json.loads(context)
    except ValueError as error:
        raise click.UsageError(f'--context: not JSON ({error}); for instance \'{{"title": "Dune"}}\'') from None
    if address and len(to) > 1:
        raise click.UsageError("--address goes with one --to")
    recipients = [{"id": to[0], "email": address}] if address else list(to)
    given = {name: value for name, value in optional.items() if value is not None}
    app = connect(get_settings().broker_url.get_secret_value())
    click.echo(notify(event, to=recipients, app=app, context=values, **given))


@click.command()
@click.argument("recipient")
@click.option("--unseen", is_flag=True, help="Only what was not seen yet.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, inboxes.MAX_PER_PAGE))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def inbox(recipient: str, unseen: bool, limit: int, as_json: bool) -> None:
    """Show a recipient's notifications, newest first."""
    check_schema(get_engine())
    with transaction() as session:
        page = inboxes.list(session, recipient, seen=False if unseen else None, per_page=limit)
        counts = inboxes.counts(session, recipient)
        emails = _emails(session, [row.id for row in page.items])
    if as_json:
        echo_json(inboxes.page_as_dict(page))
        return
    table = make_table("when (UTC)", "event", "lang", "title", "text", "email", "seen")
    for row in page.items:
        when, seen = f"{row.created_at:%Y-%m-%d %H:%M}", f"{row.seen_at:%Y-%m-%d %H:%M}" if row.seen_at else "no"
        table.add_row(
            when,
            row.event_config_name or "",
            row.lang,
            Text(row.title),
            Text(row.text),
            emails.get(row.id, "none"),
            seen,
        )
    console.print(table)
    console.print(f"{counts.total} in all, {counts.unseen} unseen")


def _emails(session: Session, ids: Sequence[UUID]) -> dict[UUID, str]:
    rows = session.execute(
        select(Delivery.notification_id, Delivery.status, Delivery.reason).where(Delivery.notification_id.in_(ids))
    )
    return {id: f"{status}: {reason}" if reason else status for id, status, reason in rows}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def events(as_json: bool) -> None:
    """List the event configs and the languages they have templates in."""
    configs = sorted(get_events().values(), key=lambda event: event.name)
    if as_json:
        rows = [{**event.model_dump(mode="json"), "langs": langs(event.name)} for event in configs]
        echo_json(rows)
        return
    table = make_table("event", "active", "email", "required", "optional", "langs")
    for event in configs:
        active, email = ("yes" if value else "no" for value in (event.active, event.email))
        required, optional = ", ".join(event.required), ", ".join(event.optional)
        table.add_row(event.name, active, email, required, optional, " ".join(langs(event.name)))
    console.print(table)


@click.command()
@click.option("--older-than", type=Moment(), help="The cutoff; else each event's retention.")
@click.option("--dry-run", is_flag=True, help="Say how many would go.")
def purge(older_than: datetime | None, dry_run: bool) -> None:
    """Remove notifications seen, and not modified since, before the cutoff."""
    check_schema(get_engine())
    removed = 0
    while True:
        purged = purging.purge_seen(transaction, now=datetime.now(UTC), older_than=older_than, dry_run=dry_run)
        removed += purged.removed
        if purged.finished:
            break
    console.print(
        f"{removed} {'would be removed' if dry_run else 'removed'} (cutoff {purged.cutoff:%Y-%m-%d %H:%M} UTC)"
    )
