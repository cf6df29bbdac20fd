"""Templates of one event, `e`, written by a test for itself."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

Write: TypeAlias = Callable[..., None]

EVENTS = """
[e]
optional = ["a", "b", "items", "o"]
[off]
active = false
[needs]
required = ["a"]
"""
LAYOUT = {
    "_layout/email.txt": "{{ body }}\n--\n{{ brand.name }}",
    "_layout/email.html": '<html lang="{{ lang }}" dir="{{ dir }}"><head><title>{{ subject }}</title></head>'
    "<body><h1>{{ title }}</h1>{{ body }}</body></html>",
}


def writer(folder: Path, configure: Callable[..., None]) -> Write:
    """Gives a function that writes templates by their path and makes the process start afresh with them."""
    (folder / "events.toml").write_text(EVENTS)

    def write(templates: dict[str, str | bytes], **settings: object) -> None:
        for name, text in {**LAYOUT, **templates}.items():
            path = folder / "templates" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        configure(CONFIG_DIR=folder, TEMPLATES_DIR=folder / "templates", **settings)

    return write


def event(lang: str = "en", **parts: str) -> dict[str, str | bytes]:
    """The templates of event `e` in one language: title and text at least."""
    named = {"title.txt": "Title", "text.txt": "Text", **{name.replace("_", "."): text for name, text in parts.items()}}
    return {f"e/{lang}/{name}": text for name, text in named.items()}
