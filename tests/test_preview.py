import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.catalogue import write_catalogue
from worker.cli import main
from worker.render import render

Run = Callable[..., tuple[int, str, str]]

EVENTS = """
[book_available]
required = ["title"]
optional = ["pickup_location"]
[book_available.example]
title = "Dune"

[dated]
required = ["start"]
[dated.example]
start = "2026-03-14T23:30:00Z"

[off]
active = false
"""
DATED = {"dated/en/title.txt": "{{ start | date }}", "dated/en/text.txt": "{{ start | datetime('short') }}"}
HOSTILE = {"title": '</style><script>alert(1)</script><img src="https://evil.example/x">\x1b[2J"\'&'}


@pytest.fixture
def folder(configure: Callable[..., None], tmp_path: Path) -> Path:
    """A folder with the tests' catalogue, two events of which have an example; the process is set to it."""
    variables = write_catalogue(tmp_path)
    (tmp_path / "config" / "events.toml").write_text(EVENTS)
    for name, text in DATED.items():
        (tmp_path / "templates" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "templates" / name).write_text(text)
    configure(**variables, DEFAULT_LANG="en")
    return tmp_path


@pytest.fixture
def bellhop(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run the command in this process: exit code, output, errors."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bellhop", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        said = ended.value.code
        return (said, out, err) if isinstance(said, int) else (1, out, f"{err}{said}")

    yield run
    signal.signal(signal.SIGTERM, before)


def context(folder: Path, values: Any) -> Path:
    path = folder / "context.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_parts_are_shown_with_their_names_and_languages(bellhop: Run) -> None:
    """All parts but the HTML, and which language was asked and which was used."""
    code, out, _ = bellhop("preview", "book_available", "--lang", "pt-BR")
    assert code == 0
    assert "book_available: asked pt-BR, used pt" in out
    lines = [line.strip() for line in out.splitlines()]
    for part, text in {
        "title": "Dune chegou",
        "subject": "Livro: Dune",
        "text": "Dune está disponível.",
        "email text": "Dune está disponível.",
    }.items():
        assert lines[lines.index(part) + 1] == text


def test_default_language_is_shown_unless_all_are_asked(bellhop: Run) -> None:
    """Without --lang the default language, with --all each that has texts."""
    _, one, _ = bellhop("preview", "book_available", "--json")
    _, every, _ = bellhop("preview", "book_available", "--all", "--json")
    assert [preview["lang"] for preview in json.loads(one)] == ["en"]
    assert [preview["lang"] for preview in json.loads(every)] == ["de", "en", "pt"]


def test_json_holds_what_rendering_gives(bellhop: Run) -> None:
    """Programs get every part as rendered, the HTML mail too."""
    _, out, _ = bellhop("preview", "book_available", "--lang", "de-AT", "--json")
    expected = asdict(render("book_available", "de-AT", {"title": "Dune"}))
    del expected["images"]
    assert json.loads(out) == [{"event": "book_available", "asked": "de-AT", **expected}]


def test_html_file_is_the_mail(bellhop: Run, folder: Path) -> None:
    """--html writes what a delivery would carry, character for character."""
    code, _, _ = bellhop("preview", "book_available", "--lang", "de", "--html", folder / "mail.html")
    assert code == 0
    expected = render("book_available", "de", {"title": "Dune"}).email_html
    assert expected == (folder / "mail.html").read_text(encoding="utf-8")


def test_context_file_replaces_the_example(bellhop: Run, folder: Path) -> None:
    """The values of the file are used instead of the example's."""
    path = context(folder, {"title": "Emma", "pickup_location": "Main Library"})
    _, out, _ = bellhop("preview", "book_available", "--context", path)
    assert "Pick up Emma at Main Library." in out
    assert "Dune" not in out


def test_dates_are_shown_in_the_given_zone(bellhop: Run) -> None:
    """--timezone is the reader's, UTC where it is absent."""
    assert "March 14, 2026" in bellhop("preview", "dated")[1]
    assert "March 15, 2026" in bellhop("preview", "dated", "--timezone", "Europe/Berlin")[1]


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("{", "context.json: not JSON in UTF-8"),
        ("\xff", "context.json: not JSON in UTF-8"),
        ("[" * 200_000, "context.json: not JSON in UTF-8"),
        ('["title"]', "context.json: not a JSON object"),
        ('{"titel": "Dune"}', "context of book_available: missing: title; not declared: titel"),
    ],
)
def test_wrong_context_is_a_finding(bellhop: Run, folder: Path, written: str, complaint: str) -> None:
    """A context that is no JSON object, or not the event's, ends with one line and exit code 1."""
    (folder / "context.json").write_text(written, encoding="latin-1")
    code, out, err = bellhop("preview", "book_available", "--context", folder / "context.json")
    assert (code, out) == (1, "")
    assert err.endswith(complaint)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nothing"], "'nothing'"),
        (["off"], "switched off"),
        (["book_available", "--lang", "no language"], "BCP 47"),
        (["dated", "--timezone", "Atlantis"], "time zone"),
    ],
)
def test_what_cannot_be_rendered_is_a_finding(bellhop: Run, arguments: list[str], complaint: str) -> None:
    """The renderer's own complaint is shown, with exit code 1."""
    code, _, err = bellhop("preview", *arguments)
    assert code == 1
    assert complaint in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["book_available", "--context", "no/such/file.json"],
        ["book_available", "--all", "--lang", "de"],
        ["book_available", "--all", "--html", "mail.html"],
        ["--gallery", "pages", "--lang", "de"],
        ["--gallery", "pages", "--json"],
    ],
)
def test_wrong_usage(bellhop: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    """A missing file, and options that contradict each other, are wrong usage: exit code 2, and nothing is written."""
    monkeypatch.chdir(folder)
    assert bellhop("preview", *arguments)[0] == 2
    assert not (folder / "pages").exists()
    assert not (folder / "mail.html").exists()


def test_text_cannot_steer_the_terminal(bellhop: Run, folder: Path) -> None:
    """Control characters of a value are left out; markup of the terminal library is shown as it is."""
    path = context(folder, {"title": "\x1b[31m[bold]red\x9b\x07"})
    assert "[31m[bold]red is here" in bellhop("preview", "book_available", "--context", path)[1]
    assert "\x1b[31m" not in bellhop("preview", "book_available", "--context", path)[1]


class Page(HTMLParser):
    """What of a page matters: its tags with their attributes, its text, and that every element is closed."""

    VOID = frozenset({"meta", "input", "br", "img", "link"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, tag: str, attribute: str) -> list[str]:
        return [value for name, attrs in self.tags if name == tag and (value := attrs.get(attribute)) is not None]


@pytest.fixture
def gallery(bellhop: Run, folder: Path) -> Page:
    assert bellhop("preview", "--gallery", folder / "pages")[0] == 0
    return Page(folder / "pages" / "index.html")


def test_gallery_has_every_event_in_every_language(gallery: Page, folder: Path) -> None:
    """A row per active event, a column per language, each mail in a file of its own."""
    mails = ["mails/book_available.de.html", "mails/book_available.en.html", "mails/book_available.pt.html"]
    assert gallery.values("section", "id") == ["book_available", "dated"]
    assert gallery.values("iframe", "src") == [*mails, "mails/dated.en.html"]
    assert len(gallery.values("article", "aria-label")) == 2 * 3
    expected = render("book_available", "pt", {"title": "Dune"})
    assert (folder / "pages" / mails[2]).read_text(encoding="utf-8") == expected.email_html
    for text in (expected.title, expected.subject, expected.text):
        assert text in gallery.text


def test_gallery_says_what_readers_get_where_texts_are_missing(gallery: Page) -> None:
    """A language that an event lacks is shown with the one that takes its place; that is no failure."""
    assert "no texts in de: readers get en" in gallery.text


def test_gallery_stands_alone(gallery: Page, folder: Path) -> None:
    """No script, no style sheet, picture or page from elsewhere, and every mail is held in a sandbox."""
    names = {tag for tag, _ in gallery.tags}
    assert not names & {"script", "link", "img", "object", "embed", "base"}
    assert not [name for _, attrs in gallery.tags for name in attrs if name.startswith("on")]
    assert "://" not in gallery.source
    assert "url(" not in gallery.source
    assert "@import" not in gallery.source
    assert all("sandbox" in attrs for tag, attrs in gallery.tags if tag == "iframe")
    for target in [*gallery.values("iframe", "src"), *gallery.values("a", "href")]:
        assert target.startswith("#") or (folder / "pages" / target).is_file()


def test_gallery_can_be_used_without_eyes_or_mouse(gallery: Page) -> None:
    """Language, direction and a name for every part that needs one; the rows can be scrolled by key."""
    assert all(attrs.get("title") for tag, attrs in gallery.tags if tag == "iframe")
    assert all(attrs.get("lang") and attrs.get("dir") for tag, attrs in gallery.tags if tag in ("dd", "pre"))
    assert all(attrs.get("tabindex") == "0" for _, attrs in gallery.tags if attrs.get("class") == "langs")
    inputs = [attrs for tag, attrs in gallery.tags if tag == "input"]
    assert len(inputs) == sum(tag == "label" for tag, _ in gallery.tags) == 5
    ids = [attrs["id"] for _, attrs in gallery.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_hostile_context_is_shown_as_text(bellhop: Run, folder: Path) -> None:
    """Markup in a value stands on the gallery's page and in the mail as text, never as markup."""
    code, _, _ = bellhop("preview", "book_available", "--gallery", folder / "p", "--context", context(folder, HOSTILE))
    index = Page(folder / "p" / "index.html")
    mail = (folder / "p" / "mails" / "book_available.en.html").read_text(encoding="utf-8")
    assert code == 0
    assert HOSTILE["title"] in index.text
    for source in (index.source, mail):
        assert "<script" not in source
        assert "<img" not in source


def test_gallery_shows_what_fails_and_goes_on(bellhop: Run, folder: Path) -> None:
    """A template that cannot be rendered is named on the page and on the terminal, and the exit code is 1."""
    (folder / "templates" / "book_available" / "de" / "text.txt").write_text("{{ titel }}")
    code, _, err = bellhop("preview", "--gallery", folder / "pages")
    page = Page(folder / "pages" / "index.html")
    assert code == 1
    assert err == "book_available/de: book_available/de/text.txt:1: 'titel' is undefined\n"
    assert "book_available/de/text.txt:1: 'titel' is undefined" in page.text
    assert "mails/book_available.en.html" in page.values("iframe", "src")


def test_gallery_that_cannot_be_written(bellhop: Run, folder: Path) -> None:
    """A folder that cannot be made ends with one line."""
    (folder / "file").write_text("")
    code, _, err = bellhop("preview", "--gallery", folder / "file" / "pages")
    assert code == 1
    assert err == f"Error: {folder / 'file' / 'pages'}: Not a directory\n"
