"""Runs the Python of docs/coming-from.md, and writes the events that a system has."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy.orm import Session

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "coming-from.md"

LAYOUT = {"email.html": "<html><body>{{ body }}</body></html>", "email.txt": "{{ body }}\n"}


def blocks(title: str) -> list[str]:
    """The Python blocks of one section of the page."""
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        if section.startswith(f"{title}\n"):
            return re.findall(r"^```python\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    raise LookupError(title)


def adapter(system: str) -> Any:
    """What the page says to write for this system, as a namespace."""
    return SimpleNamespace(**_run([*blocks("Old ids and old rows"), blocks(system)[0]], {}))


def answers(system: str, session: Session) -> dict[str, Any]:
    """What the page answers to the system's own examples."""
    [what_to_write, examples] = blocks(system)
    names = _run([*blocks("Old ids and old rows"), what_to_write, examples], {"session": session})
    found: dict[str, Any] = names["answers"]
    return found


def _run(sources: list[str], names: dict[str, Any]) -> dict[str, Any]:
    for source in sources:
        exec(compile(source, str(PAGE), "exec"), names)
    return names


def write_events(folder: Path, events: str, templates: Mapping[str, str]) -> dict[str, str]:
    """Write events.toml, and templates by their path below the folder; gives the settings that lead to them."""
    layout = {f"_layout/{name}": text for name, text in LAYOUT.items()}
    files = {f"templates/{name}": text for name, text in (layout | dict(templates)).items()}
    for name, text in {"config/events.toml": events, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return {"CONFIG_DIR": str(folder / "config"), "TEMPLATES_DIR": str(folder / "templates")}


def plain_templates(*events: str, lang: str = "en") -> dict[str, str]:
    """A title and a text for each event that say its name alone."""
    return {f"{event}/{lang}/{part}.txt": event for event in events for part in ("title", "text")}
