"""Any event in any language with its example context: on the terminal, for programs, or as pages to look at."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from worker.errors import InvalidContext
from worker.events import get_event
from worker.formats import zone
from worker.render import Rendered, render

_CONTROLS = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)))
"""Control characters but tab and line feed: a text must not be able to steer the terminal."""


@dataclass(frozen=True, slots=True)
class Preview:
    """One event as a reader of one language gets it."""

    event: str
    asked: str
    """The language asked for; `rendered.lang` is the one that was used."""
    rendered: Rendered


def read_context(path: Path) -> dict[str, Any]:
    """The context in a JSON file. Raises InvalidContext where it is not a JSON object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise InvalidContext(f"{path}: not JSON in UTF-8") from None
    if not isinstance(values, dict):
        raise InvalidContext(f"{path}: not a JSON object")
    return values


def make_preview(
    event_config_name: str, asked: str, context: Mapping[str, Any] | None = None, *, timezone: str = "UTC"
) -> Preview:
    """Render with the given context, else with the event's example; raises what `render` raises, InvalidTimezone."""
    zone(timezone)
    values = get_event(event_config_name).example if context is None else context
    return Preview(event_config_name, asked, render(event_config_name, asked, values, timezone=timezone))


def as_dict(preview: Preview) -> dict[str, str]:
    """Event, asked language, and every rendered part by name, as JSON takes it."""
    parts = {name: value for name, value in asdict(preview.rendered).items() if name != "images"}
    return {"event": preview.event, "asked": preview.asked, **parts}


def show(console: Console, preview: Preview) -> None:
    """Print all parts but the HTML mail. The frame has no sides: they would break where terminals turn text around."""
    rendered = preview.rendered
    parts = [("title", rendered.title), ("subject", rendered.subject), ("text", rendered.text)]
    blocks = [_block(name, text) for name, text in [*parts, ("email text", rendered.email_text)]]
    title = Text(f"{preview.event}: asked {preview.asked}, used {rendered.lang}", style="bold")
    console.print(Panel(Group(*blocks), box=box.HORIZONTALS, title=title, title_align="left", padding=(0, 1)))


def _block(name: str, text: str) -> Text:
    return Text.assemble((f"{name}\n", "dim"), text.translate(_CONTROLS), "\n", overflow="fold")
