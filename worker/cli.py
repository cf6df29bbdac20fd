"""The `bellhop` command. Exit codes: 0 done, 1 a finding or failure, 2 wrong usage."""

import json
import re
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from worker import inbox as inboxes
from worker import purge as purging
from worker.client import PublishError, connect, notify
from worker.database import check_schema, get_engine, head, transaction, upgrade
from worker.errors import BellhopError
from worker.events import get_events
from worker.models import Delivery
from worker.preview import as_dict, make_preview, read_context, show
from worker.preview.gallery import write_gallery
from worker.render import langs
from worker.settings import get_settings

console = Console()


class Moment(click.ParamType[datetime]):
    """`90d` (so many days ago) or an ISO 8601 date or time; without an offset it is UTC."""

    name = "90d|DATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read the moment, or end with a usage error."""
        days = re.fullmatch(r"(\d{1,6})d", str(value))
        try:
            if days:
                return datetime.now(UTC) - timedelta(days=int(days[1]))
            moment = datetime.fromisoformat(str(value))
        except (ValueError, OverflowError):
            self.fail("a number of days such as 90d, or a date such as 2026-01-31", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bellhop-worker")
def cli() -> None:
    """Bellhop delivers notifications: rendered, into inboxes, by email, once."""


@cli.command("init-db")
def init_db() -> None:
    """Create the tables, or migrate them to this version."""
    upgrade(get_engine())
    console.print(
        f"The schema of {get_engine().url.render_as_string(hide_password=True)} is at version {head()}.", markup=False
    )


@cli.command()
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


@cli.command()
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
        click.echo(json.dumps(inboxes.page_as_dict(page), ensure_ascii=False, indent=2))
        return
    table = _table("when (UTC)", "event", "lang", "title", "text", "email", "seen")
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


def _table(*columns: str) -> Table:
    """A table that folds what is too long: names are there to be copied."""
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def events(as_json: bool) -> None:
    """List the event configs and the languages they have templates in."""
    configs = sorted(get_events().values(), key=lambda event: event.name)
    if as_json:
        rows = [{**event.model_dump(mode="json"), "langs": langs(event.name)} for event in configs]
        click.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    table = _table("event", "active", "email", "required", "optional", "langs")
    for event in configs:
        active, email = ("yes" if value else "no" for value in (event.active, event.email))
        required, optional = ", ".join(event.required), ", ".join(event.optional)
        table.add_row(event.name, active, email, required, optional, " ".join(langs(event.name)))
    console.print(table)


@cli.command()
@click.argument("event", required=False)
@click.option("--lang", help="The reader's language; else the default one.")
@click.option("--all", "every", is_flag=True, help="Every language the event has.")
@click.option("--context", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON; else the example.")
@click.option("--timezone", default="UTC", show_default=True, help="The reader's time zone.")
@click.option("--html", type=click.File("w", encoding="utf-8", lazy=True), help="Write the HTML mail to this file.")
@click.option("--json", "as_json", is_flag=True, help="For programs: a list.")
@click.option("--gallery", type=click.Path(file_okay=False, path_type=Path), help="Write pages of every language here.")
def preview(event: str | None, context: Path | None, timezone: str, gallery: Path | None, **chosen: Any) -> None:
    """Show an event as readers get it, or make a gallery of it, or without EVENT of all events."""
    values = read_context(context) if context else None
    if gallery and not any(chosen.values()):
        _write_gallery(gallery, [event] if event else [], values, timezone)
    elif event and not gallery and not (chosen["every"] and (chosen["lang"] or chosen["html"])):
        _show_previews(event, values, timezone, **chosen)
    else:
        raise click.UsageError("EVENT with --lang (and --html) or --all, or --gallery without any of these")


def _show_previews(
    event: str, values: dict[str, Any] | None, timezone: str, *, lang: str | None, every: bool, html: Any, as_json: bool
) -> None:
    asked = langs(event) if every else []
    tags = asked or [lang or get_settings().default_lang]
    previews = [make_preview(event, tag, values, timezone=timezone) for tag in tags]
    if html:
        html.write(previews[0].rendered.email_html)
    if as_json:
        click.echo(json.dumps([as_dict(each) for each in previews], ensure_ascii=False, indent=2))
        return
    for each in previews:
        show(console, each)


def _write_gallery(folder: Path, names: list[str], values: dict[str, Any] | None, timezone: str) -> None:
    try:
        failures = write_gallery(folder, names, values, timezone=timezone)
    except OSError as error:
        raise click.ClickException(f"{folder}: {error.strerror}") from None
    for failure in failures:
        click.echo(failure, err=True)
    click.echo(f"Open {folder / 'index.html'}")
    sys.exit(1 if failures else 0)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="For programs: a list.")
@click.option("--rules", "list_rules", is_flag=True, help="List the rules, and check nothing.")
def lint(as_json: bool, list_rules: bool) -> None:
    """Check the templates of every event in every language; exit code 1 if anything is found.

    A comment in the file, or in the event's table of events.toml, lets a rule pass:
    {# lint: allow RULE because REASON #}
    """
    from worker.lint import RULES
    from worker.lint import lint as look

    if list_rules:
        click.echo("\n".join(f"{rule}: {words}" for rule, words in RULES.items()))
        return
    report = look()
    if as_json:
        click.echo(json.dumps([finding.as_dict() for finding in report.findings], ensure_ascii=False, indent=2))
    else:
        for finding in report.findings:
            click.echo(finding)
    click.echo(report.summary(), err=True)
    sys.exit(1 if report.findings else 0)


@cli.command()
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


@cli.command()
@click.option("--keep", is_flag=True, help="Stay up until Ctrl-C.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where data, mails and logs go; else a new one.")
def demo(keep: bool, folder: Path | None) -> None:
    """Start everything here, send example notifications, show what arrived, purge, and check it all."""
    from worker.demo import run_demo

    sys.exit(run_demo(console, folder=folder, keep=keep))


@cli.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path(".bellhop"), show_default=True)
@click.option("--flower-port", default=5555, show_default=True)
def up(folder: Path, flower_port: int) -> None:
    """Run worker, beat, Flower, Redis and a mail catcher here, until Ctrl-C."""
    from worker.demo import run_up

    run_up(console, folder=folder, flower_port=flower_port)


def main() -> None:
    """Entry point; what goes wrong is said in one line, without a traceback."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        cli()
    except BellhopError as error:
        sys.exit(f"bellhop: {error}")
    except OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        sys.exit(f"bellhop: the database cannot be used ({reason}); see DATABASE_URL")
    except PublishError:
        sys.exit("bellhop: the broker could not be reached, nothing was asked; see BROKER_URL")


if __name__ == "__main__":
    main()
