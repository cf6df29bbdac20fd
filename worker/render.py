"""Event config name + lang + context -> the text a recipient gets. No database, no I/O but the templates."""

import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import css_inline
from jinja2 import FileSystemLoader, StrictUndefined, Template, TemplateError, UndefinedError
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup, escape

from worker.errors import BellhopError, TemplateFailed, TemplateMissing
from worker.events import get_event
from worker.formats import direction, filters
from worker.lang import fallback_chain
from worker.settings import get_settings, shipped

#: Characters of a title or subject; what is longer is cut.
MAX_LINE = 500
#: Characters of any rendered part.
MAX_PART = 500_000

_inliner = css_inline.CSSInliner(keep_style_tags=True, load_remote_stylesheets=False)


@dataclass(frozen=True, slots=True)
class Rendered:
    """The parts of one notification in one language."""

    lang: str
    """The language that was used; another one than asked where the event has no templates in it."""
    title: str
    text: str
    subject: str
    email_text: str
    email_html: str


def render(event_config_name: str, lang: str, context: Mapping[str, Any], *, timezone: str = "UTC") -> Rendered:
    """Render every part of an event in the nearest language that has it.

    All parts come from one language of the chain `pt-BR`, `pt`, default. `timezone` (IANA name) is the zone in which
    dates are shown.

    Raises UnknownEvent, InactiveEvent, InvalidContext, InvalidLanguage, TemplateMissing or TemplateFailed.
    """
    get_event(event_config_name).check_context(context)
    used = nearest_lang(event_config_name, lang)
    values = {**context, "timezone": timezone}

    def part(name: str) -> str | None:
        template = _template(used, f"{event_config_name}/{used}/{name}")
        return None if template is None else _run(template, values)

    title, text = _line(part("title.txt") or ""), (part("text.txt") or "").strip()
    subject = _line(part("subject.txt") or title)
    html = part("email.html")
    return _framed(used, title, text, subject, part("email.txt") or text, None if html is None else Markup(html))


def render_literal(title: str, text: str, lang: str) -> Rendered:
    """The parts of a notification whose text was given in the request, framed for email."""
    return _framed(lang, _line(title), text, _line(title), text or title, None)


def check_all_langs(event_config_name: str, context: Mapping[str, Any]) -> None:
    """Render the event in every language it has, for the errors alone; raises what `render` raises."""
    get_event(event_config_name).check_context(context)
    for lang in langs(event_config_name):
        render(event_config_name, lang, context)


def langs(event_config_name: str) -> list[str]:
    """The languages that have a title and a text of the event, in alphabetical order."""
    folder = templates_dir() / event_config_name
    return sorted(path.parent.name for path in folder.glob("*/title.txt") if (path.parent / "text.txt").is_file())


@lru_cache(maxsize=4096)
def nearest_lang(event_config_name: str, lang: str) -> str:
    """The first language of the fallback chain in which the event has a title and a text.

    Raises TemplateMissing, or InvalidLanguage for a malformed tag.
    """
    chain = fallback_chain(lang, get_settings().default_lang)
    for candidate in chain:
        folder = templates_dir() / event_config_name / candidate
        if (folder / "title.txt").is_file() and (folder / "text.txt").is_file():
            return candidate
    raise TemplateMissing(f"event {event_config_name!r} has title.txt and text.txt in none of: {', '.join(chain)}")


def templates_dir() -> Path:
    """The folder that holds `_layout` and one folder per event."""
    return get_settings().templates_dir or shipped("templates", "_layout")


@lru_cache(maxsize=256)
def _environment(lang: str) -> ImmutableSandboxedEnvironment:
    """A language has its own environment, so that threads that render different languages never mix them."""
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(templates_dir()),
        undefined=StrictUndefined,
        autoescape=lambda name: name is not None and name.endswith(".html"),
        auto_reload=False,
        cache_size=-1,
        keep_trailing_newline=False,
    )
    settings = get_settings()
    environment.filters.update(filters(lang))
    environment.globals.update(
        lang=lang,
        dir=direction(lang),
        brand=SimpleNamespace(
            name=settings.brand_name,
            color=settings.brand_color,
            logo_url=settings.brand_logo_url,
            footer=settings.brand_footer,
        ),
    )
    return environment


@lru_cache(maxsize=16384)
def _template(lang: str, name: str) -> Template | None:
    """The compiled template, or None where the folder has no such file."""
    if not (templates_dir() / name).is_file():
        return None
    try:
        return _environment(lang).get_template(name)
    except TemplateError as error:
        raise TemplateFailed(f"{name}:{getattr(error, 'lineno', 0)}: {error.message}") from None
    except Exception as error:  # not UTF-8, or nested deeper than Python compiles
        raise TemplateFailed(f"{name}:0: {type(error).__name__}") from None


def _run(template: Template, values: Mapping[str, Any]) -> str:
    """Render; any failure becomes TemplateFailed with the place and the rule, never a value."""
    try:
        result = template.render(values)
    except Exception as error:
        raise TemplateFailed(f"{_place(template, error)}: {_rule(error)}") from None
    if len(result) > MAX_PART:
        raise TemplateFailed(f"{template.name}: longer than {MAX_PART} characters")
    return result


def _place(template: Template, error: Exception) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == template.filename]
    return f"{template.name}:{lines[-1] if lines else 0}"


def _rule(error: Exception) -> str:
    """What went wrong, without values: a key that was looked up, or a value that was formatted, may be the reader's."""
    if isinstance(error, BellhopError):
        return str(error)
    if isinstance(error, UndefinedError):
        name = re.fullmatch(r"'[A-Za-z_]\w*' is undefined", str(error))
        return name[0] if name else "an attribute or item that is not there"
    return "refused by the sandbox" if isinstance(error, SecurityError) else type(error).__name__


def _line(value: str) -> str:
    """On one line, as titles and header fields are; cut where it is far too long."""
    value = " ".join(value.split())
    return value if len(value) <= MAX_LINE else value[: MAX_LINE - 1] + "…"


def _framed(lang: str, title: str, text: str, subject: str, body: str, html: Markup | None) -> Rendered:
    values = {"title": title, "subject": subject}
    email_text = _frame(lang, "_layout/email.txt", {**values, "body": body.strip()})
    email_html = _frame(lang, "_layout/email.html", {**values, "body": _paragraphs(body) if html is None else html})
    return Rendered(lang, title, text, subject, email_text, _inlined(email_html))


def _inlined(html: str) -> str:
    try:
        return _inliner.inline(html)
    except css_inline.InlineError:
        raise TemplateFailed("email.html: a <style> element that is not CSS") from None


def _frame(lang: str, name: str, values: Mapping[str, Any]) -> str:
    template = _template(lang, name)
    if template is None:
        raise TemplateMissing(f"templates/{name} is missing")
    return _run(template, values)


def _paragraphs(text: str) -> Markup:
    """Plain text as HTML: a paragraph per blank line, a break per line."""
    paragraphs = [block for block in text.strip().split("\n\n") if block.strip()]
    return Markup("\n").join(
        Markup("<p>{}</p>").format(Markup("<br>\n").join(escape(line) for line in block.strip().splitlines()))
        for block in paragraphs
    )
