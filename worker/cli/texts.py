"""Commands for authors and translators: preview and lint."""

import sys
from pathlib import Path
from typing import Any

import click

from worker.cli.shared import console, echo_json
from worker.preview import as_dict, make_preview, read_context, show
from worker.preview.gallery import write_gallery
from worker.render import langs
from worker.settings import get_settings


@click.command()
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
        echo_json([as_dict(each) for each in previews])
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


@click.command()
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
        echo_json([finding.as_dict() for finding in report.findings])
    else:
        for finding in report.findings:
            click.echo(finding)
    click.echo(report.summary(), err=True)
    sys.exit(1 if report.findings else 0)
