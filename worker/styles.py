"""Styles written into the elements, for mail clients that drop <style>: once, when a template is compiled.

The frame holds the rules. Jinja's own parts are put aside while the rules are applied, and put back afterwards, so that
a rendering costs nothing more. Inside a tag, a style or a comment a part is held by a character of Unicode's private
use; elsewhere a block is held by a comment, which a parser leaves in its place even between the rows of a table.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import css_inline
from jinja2 import BaseLoader, Environment, TemplateNotFound

from worker.errors import InvalidSettings

FRAME = "_layout/email.html"
FRAMES = (FRAME, "_layout/email.txt")
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


def read_files(folder: Path) -> dict[str, bytes]:
    """Every file below a templates folder, by its path there: what a process has read stays as it is.

    Folders may be links, as Kubernetes makes them, but not to one that they are in; what begins with a dot is left
    out. Raises InvalidSettings naming a file that may not be read, or where there is no such folder.
    """
    if not folder.is_dir():
        raise InvalidSettings("TEMPLATES_DIR: no such folder")
    found = {}
    for path, folders, names in os.walk(folder, followlinks=True):
        here = Path(path).resolve()
        folders[:] = [name for name in folders if not name.startswith(".") and not _leads_back(here / name)]
        for name in names:
            file = Path(path, name)
            if not name.startswith(".") and file.is_file():
                relative = file.relative_to(folder).as_posix()
                try:
                    found[relative] = file.read_bytes()
                except OSError as error:
                    raise InvalidSettings(f"TEMPLATES_DIR: {relative}: {type(error).__name__}") from None
    return found


def _leads_back(folder: Path) -> bool:
    """A link to a folder that it is in would be walked for ever."""
    return folder.is_symlink() and folder.parent.is_relative_to(folder.resolve())


class StyledLoader(BaseLoader):
    """Loads templates from what `read_files` gave; `.html` ones come with the frame's rules in their elements."""

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        self._folder, self._files = folder, files

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        """As any loader's."""
        source = _PARAGRAPH_SOURCE if template == PARAGRAPH else self._text(template)
        path = PARAGRAPH if template == PARAGRAPH else str(self._folder / template)
        if template.endswith(".html"):
            source = styled(source, None) if template == FRAME else styled(self._text(FRAME), source)
        return source, path, lambda: True

    def _text(self, name: str) -> str:
        if name not in self._files:
            raise TemplateNotFound(name)
        return self._files[name].decode().replace("\r\n", "\n").replace("\r", "\n")


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
