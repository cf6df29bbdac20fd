"""Event config name + lang + context -> the text a recipient gets. No database, no I/O but the templates."""

import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, UndefinedError
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from worker.attachments import File
from worker.errors import BellhopError, TemplateFailed, TemplateMissing
from worker.events import events_file, get_event, get_events
from worker.folders import templates_dir, texts
from worker.formats import direction, filters
from worker.images import Images, image_filters
from worker.lang import fallback_chain
from worker.settings import get_settings
from worker.styles import FRAME, PARAGRAPH, StyledLoader

#: Characters of a title or subject; what is longer is cut.
MAX_LINE = 500
#: Characters of any rendered part.
MAX_PART = 500_000

_stamp = 0.0


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
    images: tuple[File, ...] = ()
    """Inline images that the templates made."""


def render(
    event_config_name: str,
    lang: str,
    context: Mapping[str, Any],
    *,
    timezone: str = "UTC",
    files: Sequence[File] = (),
    email: bool = True,
) -> Rendered:
    """Render every part of an event in the nearest language that has it.

    All parts come from one language of the chain `pt-BR`, `pt`, default. `timezone` (IANA name) is the zone in which
    dates are shown; `files` are those of the request, of which html parts may show the inline ones. Without `email`
    the parts that only an email has are left empty.

    Raises UnknownEvent, InactiveEvent, InvalidContext, InvalidLanguage, TemplateMissing or TemplateFailed.
    """
    get_event(event_config_name).check_context(context)
    parts = _parts(event_config_name, lang, email)
    images = Images(files)
    values = {**parts.values, **context, "timezone": timezone, Images.NAME: images}
    title, text = _line(_run(parts.title, values)), _run(parts.text, values).strip()
    if not email:
        return Rendered(parts.lang, title, text, "", "", "")
    subject = _line(_run(parts.subject, values)) if parts.subject else title
    html = Markup(_run(parts.email_html, values)) if parts.email_html else None
    email_text = _run(parts.email_text, values) if parts.email_text else text
    return _framed(parts.lang, title, text, subject or title, email_text or text, html, tuple(images.made.values()))


def render_literal(title: str, text: str, lang: str, *, email: bool = True) -> Rendered:
    """The parts of a notification whose text was given in the request, framed for email where there is one."""
    if not email:
        return Rendered(lang, _line(title), text, "", "", "")
    return _framed(lang, _line(title), text, _line(title), text or title, None)


@dataclass(frozen=True, slots=True)
class _Parts:
    """An event's templates in one language."""

    lang: str
    values: Mapping[str, Any]
    """What the language's environment gives every template."""
    title: Template
    text: Template
    subject: Template | None
    email_text: Template | None
    email_html: Template | None


@lru_cache(maxsize=4096)
def _parts(event_config_name: str, lang: str, email: bool) -> _Parts:
    """Those of the nearest language that has them; without `email`, not those that only an email has.

    Raises TemplateMissing, InvalidLanguage or TemplateFailed.
    """
    used = nearest_lang(event_config_name, lang)

    def part(name: str) -> Template | None:
        return _template(used, f"{event_config_name}/{used}/{name}")

    title, text = part("title.txt"), part("text.txt")
    if title is None or text is None:
        raise TemplateMissing(f"event {event_config_name!r} has lost its title.txt or text.txt in {used}")
    others = [part(name) if email else None for name in ("subject.txt", "email.txt", "email.html")]
    return _Parts(used, title.globals, title, text, *others)


def render_file(name: str, lang: str, values: Mapping[str, Any]) -> str | None:
    """Render one template, by its path below the templates folder; None where there is none. Raises TemplateFailed."""
    template = _template(lang, name)
    return None if template is None else _run(template, {**template.globals, **values})


def check_all_langs(event_config_name: str, context: Mapping[str, Any], files: Sequence[File] = ()) -> None:
    """Render the event in every language it has, for the errors alone; raises what `render` raises."""
    get_event(event_config_name).check_context(context)
    for lang in langs(event_config_name):
        render(event_config_name, lang, context, files=files)


def langs(event_config_name: str) -> list[str]:
    """The languages that have a title and a text of the event, in alphabetical order."""
    paths = [path.split("/") for path in texts()]
    found = {path[1] for path in paths if len(path) == 3 and path[0] == event_config_name}
    return sorted(lang for lang in found if _has_lang(event_config_name, lang))


def _has_lang(event_config_name: str, lang: str) -> bool:
    return all(f"{event_config_name}/{lang}/{name}" in texts() for name in ("title.txt", "text.txt"))


def reload_changed() -> None:
    """Forget compiled templates and event configs if any file of theirs has changed since the last call."""
    global _stamp
    folders = (templates_dir(), events_file().parent)
    stamp = max((path.stat().st_mtime for folder in folders for path in folder.rglob("*")), default=0.0)
    if stamp != _stamp:
        for cached in (texts, nearest_lang, _parts, _environment, _template, _paragraph_tags, get_events):
            cached.cache_clear()
    _stamp = stamp


@lru_cache(maxsize=4096)
def nearest_lang(event_config_name: str, lang: str) -> str:
    """The first language of the fallback chain in which the event has a title and a text.

    Raises TemplateMissing, or InvalidLanguage for a malformed tag.
    """
    chain = fallback_chain(lang, get_settings().default_lang)
    for candidate in chain:
        if _has_lang(event_config_name, candidate):
            return candidate
    raise TemplateMissing(f"event {event_config_name!r} has title.txt and text.txt in none of: {', '.join(chain)}")


@lru_cache(maxsize=256)
def _environment(lang: str) -> ImmutableSandboxedEnvironment:
    """A language has its own environment, so that threads that render different languages never mix them."""
    environment = ImmutableSandboxedEnvironment(
        loader=StyledLoader(templates_dir(), texts()),
        undefined=StrictUndefined,
        autoescape=lambda name: name is not None and name.endswith(".html"),
        auto_reload=False,
        cache_size=-1,
        keep_trailing_newline=False,
    )
    settings = get_settings()
    environment.filters.update(filters(lang) | image_filters())
    environment.globals.update(
        lang=lang,
        dir=direction(lang),
        brand=SimpleNamespace(
            name=settings.brand_name,
            color=settings.brand_color,
            ink=_ink(settings.brand_color),
            logo_url=settings.brand_logo_url,
            footer=settings.brand_footer,
        ),
    )
    return environment


def _ink(color: str) -> str:
    """Black or white, whichever is readable on the colour (by the W3C's formula of perceived brightness)."""
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return "#000000" if red * 299 + green * 587 + blue * 114 > 125_000 else "#ffffff"


@lru_cache(maxsize=16384)
def _template(lang: str, name: str) -> Template | None:
    """The compiled template, or None where the folder has no such file."""
    if name != PARAGRAPH and name not in texts():
        return None
    try:
        template = _environment(lang).get_template(name)
        # Jinja chains the environment's after the template's own, and walks the chain at each rendering.
        template.globals = dict(template.globals)
        return template
    except TemplateError as error:
        raise TemplateFailed(f"{name}:{getattr(error, 'lineno', 0)}: {error.message}") from None
    except Exception as error:  # not UTF-8, or nested deeper than Python compiles
        raise TemplateFailed(f"{name}:0: {type(error).__name__}") from None


def _run(template: Template, values: dict[str, Any]) -> str:
    """Render with these values and no others; any failure becomes TemplateFailed with the place and the rule.

    What `Template.render` does, but for its copy of the environment's values at each rendering.
    """
    try:
        try:
            result = "".join(template.root_render_func(template.new_context(values, shared=True)))
        except Exception:
            template.environment.handle_exception()
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


def _framed(
    lang: str, title: str, text: str, subject: str, body: str, html: Markup | None, images: tuple[File, ...] = ()
) -> Rendered:
    if html is None:
        html = _paragraphs(lang, body)
    values = {"title": title, "subject": subject}
    email_text = _frame(lang, "_layout/email.txt", {**values, "body": body.strip()})
    return Rendered(lang, title, text, subject, email_text, _frame(lang, FRAME, {**values, "body": html}), images)


def _frame(lang: str, name: str, values: Mapping[str, Any]) -> str:
    rendered = render_file(name, lang, values)
    if rendered is None:
        raise TemplateMissing(f"templates/{name} is missing")
    return rendered


def _paragraphs(lang: str, text: str) -> Markup:
    """Plain text as HTML: blank lines part its paragraphs, each line ends in a break."""
    before, after = _paragraph_tags(lang)
    blocks = [block for block in re.split(r"\n\s*\n", text.strip()) if block]
    lines = (Markup("<br>\n").join(line.strip() for line in block.splitlines()) for block in blocks)
    return Markup("").join(before + block + after + "\n" for block in lines)


@lru_cache(maxsize=256)
def _paragraph_tags(lang: str) -> tuple[Markup, Markup]:
    """What stands around a paragraph, with the frame's styles in it."""
    before, _, after = _frame(lang, PARAGRAPH, {"text": "\ue000"}).partition("\ue000")
    return Markup(before), Markup(after)
