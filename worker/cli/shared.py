"""What the commands share: the terminal, tables, moments, JSON."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from rich.console import Console
from rich.table import Table

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


def make_table(*columns: str) -> Table:
    """A table that folds what is too long: names are there to be copied."""
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def when(moment: datetime | None) -> str:
    """A moment as tables show it, in UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else ""


def echo_json(value: Any) -> None:
    """Print for programs; moments and ids as text."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=_as_text))


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
