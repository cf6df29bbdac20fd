"""Styles written into the elements, for mail clients that drop <style>: once, when a template is compiled.

The frame holds the rules. Jinja's own parts are put aside while the rules are applied, and put back afterwards, so that
a rendering costs nothing more. Inside a tag, a style or a comment a part is held by a character of Unicode's private
use; elsewhere a block is held by a comment, which a parser leaves in its place even between the rows of a table.
"""

import re
from collections.abc import Callable
from pathlib import Path

import css_inline
from jinja2 import Environment, FileSystemLoader, TemplateNotFound

FRAME = "_layout/email.html"
PARAGRAPH = "_paragraph.html"
"""A template of our own: one paragraph of plain text."""

_PARAGRAPH_SOURCE = "<p>{{ text }}</p>"
_JINJA = re.compile(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", re.DOTALL)
_OPAQUE = re.compile(r"<!--.*?-->|<style\b.*?</style>|<title\b.*?</title>|<[a-zA-Z/!][^>]*>", re.DOTALL)
_BODY = re.compile(r"\{\{-?\s*body\s*-?\}\}")
_HELD = re.compile("<!--\ue000([0-9]+)\ue001-->|\ue000([0-9]+)\ue001")
_VALUELESS = re.compile('(\ue000[0-9]+\ue001)=""')
"""A part that stood among a tag's attributes; the parser took it for one without a value."""
_NEWLINE = "\n"
_START, _END = "<!--\ue002-->", "<!--\ue003-->"

_inliner = css_inline.CSSInliner(keep_style_tags=True, load_remote_stylesheets=False)


class StyledLoader(FileSystemLoader):
    """Loads templates; `.html` ones come with the frame's rules in their elements."""

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        """As any loader's."""
        if template == PARAGRAPH:
            source, path, is_fresh = _PARAGRAPH_SOURCE, PARAGRAPH, lambda: True
        else:
            source, path, is_fresh = super().get_source(environment, template)
        if not template.endswith(".html"):
            return source, path, is_fresh
        frame = source if template == FRAME else self._frame()
        return styled(frame, None if template == FRAME else source), path, is_fresh

    def _frame(self) -> str:
        path = Path(self.searchpath[0]) / FRAME
        if not path.is_file():
            raise TemplateNotFound(FRAME)
        return path.read_text(encoding=self.encoding)


def styled(frame: str, fragment: str | None) -> str:
    """The frame's template, or the fragment's as it will stand in the frame's body, with the rules in its elements."""
    if fragment is None:
        held, parts = _hold(frame)
        return _put_back(_inliner.inline(held), parts)
    before, _, after = frame.partition((_BODY.search(frame) or ["{{ body }}"])[0])
    held, parts = _hold(f"{before}{_START}{fragment}{_END}{after}", first_line=1 - before.count("\n"))
    inlined = _inliner.inline(held)
    return _put_back(inlined.partition(_START)[2].partition(_END)[0], parts)


def _hold(source: str, first_line: int = 1) -> tuple[str, list[tuple[str, int]]]:
    """The source with its Jinja parts put aside, and the parts with the lines that they stand on."""
    parts: list[tuple[str, int]] = []

    def hold(match: re.Match[str]) -> str:
        parts.append((match[0], first_line + source.count("\n", 0, match.start())))
        return f"\ue000{len(parts) - 1}\ue001"

    held = _JINJA.sub(hold, source)
    pieces, last = [], 0
    for opaque in _OPAQUE.finditer(held):
        pieces += [_as_comments(held[last : opaque.start()], parts), opaque[0]]
        last = opaque.end()
    return "".join([*pieces, _as_comments(held[last:], parts)]), parts


def _as_comments(text: str, parts: list[tuple[str, int]]) -> str:
    def comment(match: re.Match[str]) -> str:
        return match[0] if parts[int(match[2])][0].startswith("{{") else f"<!--{match[0]}-->"

    return _HELD.sub(comment, text)


def _put_back(text: str, parts: list[tuple[str, int]]) -> str:
    """Each part goes back on the line it came from, so that errors name the right one: a comment makes up the lines."""
    done: list[str] = []
    line, last = 1, 0
    text = _VALUELESS.sub(r"\1", text)
    for match in _HELD.finditer(text):
        before = text[last : match.start()]
        part, wanted = parts[int(match[1] or match[2])]
        line += before.count("\n")
        trim = "-" if part[2:3] == "-" else ""
        padding = f"{{#{trim}{_NEWLINE * (wanted - line)}#}}" if wanted > line else ""
        done += [before, padding, part]
        line = max(line, wanted) + part.count("\n")
        last = match.end()
    return "".join([*done, text[last:]])
