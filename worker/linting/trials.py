"""Renders every template: with the event's example, with as little as may be given, and with odd and hostile values."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from typing import Any, TypeAlias

from markupsafe import Markup

from worker.errors import TemplateFailed
from worker.events import EventConfig
from worker.linting.catalogue import FRAME_NAMES, FRAMES, Catalogue
from worker.linting.findings import Finding
from worker.linting.templates import Source
from worker.render import render_file

#: The longest text that is tried; a request may hold a longer one in theory, a screen cannot.
LONG = 20_000
ODD = {
    "very long texts": "x" * LONG,
    "empty texts": "",
    "a right-to-left override": "\u202egnp.exe",
    "emoji": "\U0001f469\u200d\U0001f469\u200d\U0001f467\U0001f3fd \U0001f3f3\ufe0f\u200d\U0001f308",
    "line breaks": "one\ntwo\r\n\nthree\u2028four",
}
"""What a text may be, in words -> such a text."""
_PROBE = "bellhop-probe-"
_FAILED = re.compile(r"(?P<name>[^:]+):(?P<line>\d+): (?P<rule>.*)", re.DOTALL)
_LINK = re.compile(r"(https?://|mailto:)", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]|$)")

Fault: TypeAlias = tuple[int, str]
"""Line and words."""
Make: TypeAlias = Callable[[str, str], str]
"""From a context name and the example's value to another value."""


@dataclass(slots=True)
class Trials:
    """Renders the catalogue's templates and counts the renderings."""

    catalogue: Catalogue
    broken: set[str]
    """Names of templates that are known to fail."""
    count: int = 0

    def run(self, faulty: Iterable[str], langs: Iterable[str]) -> Iterator[Finding]:
        """Every rendering that goes wrong. `faulty`: events whose example cannot be used."""
        usable = {name: event for name, event in self.catalogue.events.items() if name not in set(faulty)}
        for name, lang, _, source in self.catalogue.every_part():
            if name in usable and not self._is_broken(source):
                yield from self._event(usable[name], source, lang)
        for name in FRAMES:
            source_of_frame = self.catalogue.source(name)
            if source_of_frame and not self._is_broken(source_of_frame):
                yield from self._frame(source_of_frame, langs)

    def _is_broken(self, source: Source) -> bool:
        return any(each.name in self.broken for each in self.catalogue.reach(source))

    def _event(self, event: EventConfig, source: Source, lang: str) -> Iterator[Finding]:
        found = self._fault(source, lang, event.example)
        if found:
            yield _finding(source, found, "example-fails", "with the example", event.name, lang)
            return
        for rule, words, context in attempts(event):
            if found := self._fault(source, lang, context):
                yield _finding(source, found, rule, words, event.name, lang)
                return
        yield from self._nulls(event, source, lang)
        yield from self._markup(source, lang, hostile(event, probe_text, probe_link), event.name)

    def _nulls(self, event: EventConfig, source: Source, lang: str) -> Iterator[Finding]:
        least = {name: event.example[name] for name in event.required}
        for name in event.optional:
            line = source.used.get(name, 1)
            if found := self._fault(source, lang, {**least, name: None}):
                yield _finding(source, found, "null-differs", f"with {name} = null", event.name, lang)
            elif self._output(source, lang, {**least, name: None}) != self._output(source, lang, least):
                words = f"{name} = null is shown; guard it with `{name} is defined and {name}`"
                yield Finding(source.path, line, "null-differs", words, event.name, lang)

    def _frame(self, source: Source, langs: Iterable[str]) -> Iterator[Finding]:
        body = Markup("<p>Text</p>")
        for lang in langs:
            found = self._fault(source, lang, {**dict.fromkeys(FRAME_NAMES, "Text"), "body": body})
            if found:
                yield _finding(source, found, "example-fails", "as the frame of an email", "", lang)
            else:
                values = {name: probe_text(name) for name in FRAME_NAMES}
                yield from self._markup(source, lang, {**values, "body": body}, "")

    def _markup(self, source: Source, lang: str, context: dict[str, Any], event: str) -> Iterator[Finding]:
        if not source.name.endswith(".html"):
            return
        if found := self._fault(source, lang, context):
            yield _finding(source, found, "hostile-fails", "with markup in the texts", event, lang)
            return
        for name in _escaped_from(self._output(source, lang, context)):
            using = next((each for each in self.catalogue.reach(source) if name in each.used), source)
            words = f"markup in {name} becomes part of the mail's own"
            yield Finding(using.path, using.used.get(name, 1), "unescaped", words, event, lang)

    def _output(self, source: Source, lang: str, context: dict[str, Any]) -> str:
        self.count += 1
        return render_file(source.name, lang, {**context, "timezone": "UTC"}) or ""

    def _fault(self, source: Source, lang: str, context: dict[str, Any]) -> Fault | None:
        try:
            self._output(source, lang, context)
        except TemplateFailed as error:
            match = _FAILED.fullmatch(str(error))
            return (max(1, int(match["line"])), match["rule"]) if match else (1, str(error))
        return None


def attempts(event: EventConfig) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Rule, words and context of every rendering of an event that must succeed, but the example itself."""
    least = {name: event.example[name] for name in event.required}
    yield "optional-fails", "with the required names alone", least
    for name in event.optional if len(event.optional) > 1 else ():
        yield "optional-fails", f"with {name} as the only optional name", {**least, name: event.example[name]}
    for words, text in ODD.items():
        yield "hostile-fails", f"with {words}", hostile(event, partial(_always, text))


def hostile(event: EventConfig, text: Make, link: Make = lambda _, value: value) -> dict[str, Any]:
    """The example with other texts and links; all kinds are kept: a link stays a link, a date a date.

    Inside lists and objects, and where no kind is declared, a value is of the kind that it looks like.
    """
    makes = {"text": text, "link": link}

    def replaced(value: Any, name: str, kind: str | None) -> Any:
        if isinstance(value, list):
            return [replaced(item, name, None) for item in value]
        if isinstance(value, dict):
            return {key: replaced(item, name, None) for key, item in value.items()}
        make = makes.get(kind or _kind(value)) if isinstance(value, str) else None
        return make(name, value) if make else value

    return {name: replaced(value, name, event.kinds.get(name)) for name, value in event.example.items()}


def probe_text(name: str, _: str = "") -> str:
    """A text that makes elements and attributes with a name of their own, if it is not escaped."""
    return f"x {_PROBE}{name}=1 '\"><{_PROBE}{name} {_PROBE}{name}=1>&lt;{_PROBE}{name}&gt;"


def probe_link(name: str, value: str) -> str:
    """The link with more in it that the filter `link` accepts, and that makes an element if it is not escaped."""
    return f"{value}?'\"><{_PROBE}{name}/>" if _LINK.match(value) else value


def _always(text: str, _name: str, _value: str) -> str:
    return text


def _kind(value: str) -> str:
    return "link" if _LINK.match(value) else "date" if _DATE.match(value) else "text"


def _finding(source: Source, fault: Fault, rule: str, words: str, event: str, lang: str) -> Finding:
    return Finding(source.path, fault[0], rule, f"{words}: {fault[1]}", event, lang)


def _escaped_from(html: str) -> list[str]:
    """The context names whose probes became elements or attributes."""
    parser = _Probes()
    parser.feed(html)
    parser.close()
    return sorted(parser.names)


class _Probes(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name in (tag, *(attribute for attribute, _ in attrs)):
            if name.startswith(_PROBE):
                self.names.add(name.removeprefix(_PROBE))
