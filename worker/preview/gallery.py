"""A folder of static pages that shows every event in every language side by side; open its index.html."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from worker.errors import BellhopError
from worker.events import get_event, get_events
from worker.formats import direction
from worker.preview import make_preview
from worker.render import Rendered, langs, nearest_lang

_pages = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)


@dataclass(frozen=True, slots=True)
class Cell:
    """One event in one language: what was rendered, or why not."""

    lang: str
    dir: str
    rendered: Rendered | None = None
    mail: str = ""
    """The HTML mail's file, from the folder of the gallery."""
    note: str = ""
    failed: bool = False


def write_gallery(
    folder: Path,
    names: Iterable[str] = (),
    context: Mapping[str, Any] | None = None,
    *,
    timezone: str = "UTC",
) -> list[str]:
    """Write index.html and one file per mail; return `event/lang: reason` for each that could not be rendered.

    Without `names` every active event is shown. Files of the same names are replaced, others are left alone.
    Raises UnknownEvent, InactiveEvent and OSError.
    """
    chosen = list(names) or sorted(name for name, event in get_events().items() if event.active)
    for name in chosen:
        get_event(name)
    columns = sorted({lang for name in chosen for lang in langs(name)})
    (folder / "mails").mkdir(parents=True, exist_ok=True)
    rows = [(name, [_cell(folder, name, lang, context, timezone) for lang in columns]) for name in chosen]
    page = _pages.get_template("gallery.html").render(rows=rows, timezone=timezone)
    (folder / "index.html").write_text(page, encoding="utf-8")
    return [f"{name}/{cell.lang}: {cell.note}" for name, cells in rows for cell in cells if cell.failed]


def _cell(folder: Path, name: str, lang: str, context: Mapping[str, Any] | None, timezone: str) -> Cell:
    try:
        if lang not in langs(name):
            return Cell(lang, "ltr", note=f"no texts in {lang}: readers get {nearest_lang(name, lang)}")
        rendered = make_preview(name, lang, context, timezone=timezone).rendered
    except BellhopError as error:
        return Cell(lang, "ltr", note=str(error), failed=True)
    mail = f"mails/{name}.{lang}.html"
    (folder / mail).write_text(rendered.email_html, encoding="utf-8")
    return Cell(lang, direction(rendered.lang), rendered, mail)
