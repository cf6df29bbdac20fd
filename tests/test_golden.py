"""Every shipped event in every language, rendered with its example, is what somebody has read and found right.

After a change of texts or of the frame, `make golden` writes the files anew; read their diff before you commit it.
"""

import difflib
import os
import re
import sys
from collections.abc import Callable
from functools import cache

import pytest

from tests.conftest import ROOT
from worker.events import get_events
from worker.render import Rendered, langs, render

FOLDER = ROOT / "tests" / "golden"
#: Nothing of the machine's own settings shows in a golden file.
SETTINGS = {
    "CONFIG_DIR": str(ROOT / "config"),
    "TEMPLATES_DIR": str(ROOT / "templates"),
    "DEFAULT_LANG": "en",
    "BRAND_NAME": "Example Library",
    "BRAND_COLOR": "#1f5fa8",
    "BRAND_LOGO_URL": "",
    "BRAND_FOOTER": "Example Library, 1 Main Street",
}
#: Not UTC, so that a moment shown in the wrong zone is seen.
TIMEZONE = "Europe/Berlin"
#: The frame in full, as sent; once per direction of writing.
FRAMES = {"en": "_layout/en.html", "ar": "_layout/ar.html"}


def rendered(name: str, lang: str) -> Rendered:
    return render(name, lang, get_events()[name].example, timezone=TIMEZONE)


def as_golden(parts: Rendered) -> str:
    """All parts under headings; of the HTML what the frame holds, without the styles, which are the frame's."""
    html = re.sub(r' style="[^"]*"', "", parts.email_html)
    tag, content = (
        re.search(r"<html (.*?)>", html),
        re.search(r'"content">\n(.*)\n</td></tr>\n<tr><td class="f', html, re.S),
    )
    assert tag
    assert content
    named = {"title": parts.title, "subject": parts.subject, "text": parts.text, "email text": parts.email_text}
    sections = {**named, f"email html, {tag[1]}": content[1].strip()}
    return "\n\n".join(f"=== {name} ===\n{text}" for name, text in sections.items()) + "\n"


@cache
def goldens() -> dict[str, str]:
    """What the files should hold, by their paths in the folder."""
    texts = {f"{name}/{lang}.txt": as_golden(rendered(name, lang)) for name in get_events() for lang in langs(name)}
    return texts | {path: rendered("system_notice", lang).email_html for lang, path in FRAMES.items()}


@pytest.fixture
def expected(configure: Callable[..., None]) -> dict[str, str]:
    configure(**SETTINGS)
    return goldens()


def test_shipped_texts_are_as_reviewed(expected: dict[str, str]) -> None:
    """Each event and language renders, character for character, what its golden file holds."""
    diff: list[str] = []
    for path, text in expected.items():
        kept = (FOLDER / path).read_text(encoding="utf-8") if (FOLDER / path).is_file() else ""
        diff += difflib.unified_diff(
            kept.splitlines(), text.splitlines(), f"golden/{path}", "rendered now", lineterm=""
        )
        assert kept == text or diff, path
    assert not diff, "\n".join(["not as reviewed; if it is right, `make golden`:", *diff])


def test_no_golden_file_is_left_over(expected: dict[str, str]) -> None:
    """A golden file whose event or language is gone goes too."""
    assert set(expected) == {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}


def test_no_text_shows_a_blank_or_a_placeholder(expected: dict[str, str]) -> None:
    """No part is empty, and nothing of a template or of Python shows in one."""
    for path, text in expected.items():
        assert not re.search(r"===\n\s*\n===|\{\{|\{%|\bNone\b|\bUndefined\b|\(\)|“”|„“|„”|«»|« »", text), path


def test_every_link_of_the_html_is_in_its_text_twin(expected: dict[str, str]) -> None:
    """Whoever reads the mail as text can follow the same links."""
    for path, text in expected.items():
        twin, _, html = text.partition("=== email html")
        assert [link for link in re.findall(r'href="([^"]*)"', html) if link not in twin] == [], path


def write_goldens() -> None:
    """Write every file anew, and remove those of events and languages that are gone."""
    os.environ.update(SETTINGS)
    current = goldens()
    for old in [path for path in FOLDER.rglob("*") if path.is_file()]:
        if old.relative_to(FOLDER).as_posix() not in current:
            old.unlink()
    for path, text in current.items():
        (FOLDER / path).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit("golden files are not rewritten in CI") if os.environ.get("CI") else write_goldens()
