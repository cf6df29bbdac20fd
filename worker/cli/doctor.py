"""The command that looks everything over."""

import sys

import click
from rich.text import Text

from worker.cli.shared import console, echo_json


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs: a list.")
def doctor(as_json: bool) -> None:
    """Look over settings, database, broker, workers, beat and mail server; exit code 1 if anything is found.

    Nothing is changed and no mail is sent.
    """
    from worker.doctor import examine

    checks = []
    for check in examine():
        checks.append(check)
        if not as_json:
            mark, style = ("!!", "bold red") if check.advice else ("ok", "green")
            console.print(Text(f"{mark}  ", style) + Text(f"{check.subject:<10}  {check.words}"), soft_wrap=True)
        if check.advice and not as_json:
            console.print(Text(f"                -> {check.advice}"), soft_wrap=True)
    if as_json:
        echo_json([check.as_dict() for check in checks])
    sys.exit(1 if any(check.advice for check in checks) else 0)
