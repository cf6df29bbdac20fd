"""Rendering: from an event, a language and a context to the parts that a recipient gets."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import forget
from tests.templates import Write, event, writer
from worker.errors import InvalidSettings, TemplateFailed
from worker.folders import texts
from worker.render import MAX_LINE, langs, render, render_literal


@pytest.fixture
def write(tmp_path: Path, configure: Callable[..., None]) -> Write:
    return writer(tmp_path, configure)


class Parsed(HTMLParser):
    """Tags, texts and `title` attributes of a page, as a mail client sees them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.hints: list[str | None] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.hints += [value for name, value in attrs if name == "title"]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize(
    ("asked", "used"),
    [
        ("pt-BR", "pt-BR"),
        ("pt_br", "pt-BR"),
        ("pt-PT", "pt"),
        ("pt", "pt"),
        ("fr", "en"),
        ("zh-Hant-TW", "zh-Hant"),
        ("de-AT", "en"),
    ],
)
def test_the_nearest_language_is_used_and_recorded(write: Write, asked: str, used: str) -> None:
    """The chain goes from the asked language by its parents to the default, and the result says where it ended.

    German has a title only, so that it counts as not there.
    """
    texts: dict[str, str | bytes] = {}
    for lang in ("en", "pt", "pt-BR", "zh-Hant"):
        texts |= event(lang, title_txt=f"title {lang}", text_txt=f"text {lang}")
    write({**texts, "e/de/title.txt": "title de"})
    rendered = render("e", asked, {})
    assert (rendered.lang, rendered.title, rendered.text) == (used, f"title {used}", f"text {used}")
    assert langs("e") == ["en", "pt", "pt-BR", "zh-Hant"]


def test_the_default_language_is_a_setting(write: Write) -> None:
    """The chain ends with the default language, shortened in the same way."""
    write({**event("en"), **event("pt", title_txt="Título")}, DEFAULT_LANG="pt-BR")
    assert render("e", "fr", {}).title == "Título"


def test_parts_of_two_languages_are_never_mixed(write: Write) -> None:
    """An optional part that the used language lacks is made from that language's text, not taken from another one."""
    more = {"subject_txt": "subject en", "email_txt": "mail en", "email_html": "<p>html en</p>"}
    write({**event("en", **more), **event("pt", title_txt="título", text_txt="texto"), "e/pt-BR/title.txt": "BR"})
    rendered = render("e", "pt-BR", {})
    assert (rendered.lang, rendered.title, rendered.text, rendered.subject) == ("pt", "título", "texto", "título")
    assert "<p>texto</p>" in rendered.email_html
    assert rendered.email_text.startswith("texto\n")
    for part in (rendered.email_text, rendered.email_html):
        assert " en" not in part
        assert "BR" not in part


def test_every_part_has_its_file(write: Write) -> None:
    """Subject, email text and email body come from files of their own where there are such."""
    more = {"subject_txt": "S {{ a }}", "email_txt": "T {{ a }}\n", "email_html": "<p class=x>H {{ a }}</p>"}
    write(event(title_txt="Ti {{ a }}\n", text_txt="\nTe {{ a }}\n", **more), BRAND_NAME="Library")
    rendered = render("e", "en", {"a": "1"})
    assert (rendered.title, rendered.text, rendered.subject) == ("Ti 1", "Te 1", "S 1")
    assert rendered.email_text == "T 1\n--\nLibrary"
    assert '<h1>Ti 1</h1><p class="x">H 1</p>' in rendered.email_html
    assert "<title>S 1</title>" in rendered.email_html


def test_the_layout_wraps_the_text(write: Write) -> None:
    """Without email.html the text becomes paragraphs and line breaks, escaped; without email.txt it goes as it is."""
    write(event(text_txt="One {{ a }}\ntwo\n\nthree"))
    rendered = render("e", "en", {"a": '<b> & "c"'})
    assert rendered.subject == rendered.title == "Title"
    assert rendered.email_text == 'One <b> & "c"\ntwo\n\nthree\n--\nBellhop'
    paragraphs = rendered.email_html.partition("</h1>")[2]
    assert paragraphs.startswith("<p>One &lt;b&gt; &amp; ")
    assert "<br>\ntwo</p>\n<p>three</p>" in paragraphs


def test_only_html_is_escaped(write: Write) -> None:
    """The file's ending decides: a value is text in .txt, and never becomes markup in .html nor in the frame."""
    parts = dict.fromkeys(("title_txt", "text_txt", "subject_txt", "email_txt"), "{{ a }}")
    write(event(**parts, email_html="<p title='{{ a }}'>{{ a }}</p>"))
    attack = "<script>x</script>'\"&amp;"
    rendered = render("e", "en", {"a": attack})
    assert rendered.title == rendered.text == rendered.subject == attack
    assert rendered.email_text.startswith(attack)
    parsed = Parsed(rendered.email_html)
    assert parsed.tags == ["html", "head", "title", "body", "h1", "p"]
    assert parsed.texts == [attack] * 3, "title, heading and body"
    assert parsed.hints == [attack]


def test_the_frame_knows_the_direction(write: Write) -> None:
    """Language and direction of the frame are those of the language that was used."""
    write({**event("en"), **event("ar")})
    assert '<html lang="ar" dir="rtl">' in render("e", "ar-EG", {}).email_html
    assert '<html lang="en" dir="ltr">' in render("e", "he", {}).email_html


@pytest.mark.parametrize("part", ["title_txt", "subject_txt"])
@pytest.mark.parametrize("gap", ["\n", "\r\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\u2029", " \t "])
def test_a_value_cannot_break_a_title_or_subject(write: Write, part: str, gap: str) -> None:
    """Any break in a value becomes one space: it can neither add a header field nor a line to a list."""
    write(event(**{part: "New: {{ a }}"}))
    rendered = render("e", "en", {"a": f"x{gap}Bcc: y"})
    assert rendered.subject == "New: x Bcc: y"


def test_long_titles_are_cut(write: Write) -> None:
    """A title is cut to its limit with a sign that it was."""
    write(event(title_txt="{{ a }}"))
    assert render("e", "en", {"a": "x" * MAX_LINE}).title == "x" * MAX_LINE
    assert render("e", "en", {"a": "x" * 10_000}).title == "x" * (MAX_LINE - 1) + "…"


def test_literal_texts_are_not_templates(write: Write) -> None:
    """A title and a text that were given are shown as they stand, escaped in HTML, and framed."""
    write({})
    rendered = render_literal("{{ 7*7 }}\nnow", "a <b>\n\n{% x %}", "ar")
    assert (rendered.lang, rendered.title, rendered.subject) == ("ar", "{{ 7*7 }} now", "{{ 7*7 }} now")
    assert rendered.text == "a <b>\n\n{% x %}"
    assert rendered.email_text == "a <b>\n\n{% x %}\n--\nBellhop"
    assert "<p>a &lt;b&gt;</p>\n<p>{% x %}</p>" in rendered.email_html
    assert 'dir="rtl"' in rendered.email_html


def test_a_literal_title_alone_is_the_mails_text(write: Write) -> None:
    """A mail is never empty."""
    write({})
    assert render_literal("Closed", "", "en").email_text == "Closed\n--\nBellhop"


def test_dates_are_shown_in_the_recipients_zone(write: Write) -> None:
    """The same moment is another day elsewhere; an unknown zone is a failure of the template that needs it."""
    write({**event(text_txt="{{ a|date }}"), **event("de", text_txt="{{ a|date }}")})
    late = {"a": "2026-03-01T23:30:00Z"}
    assert render("e", "en", late).text == "March 1, 2026"
    assert render("e", "en", late, timezone="Europe/Berlin").text == "March 2, 2026"
    assert render("e", "de", late, timezone="America/New_York").text == "1. März 2026"
    with pytest.raises(TemplateFailed, match=r"^e/en/text\.txt:1: timezone: not a name of the IANA"):
        render("e", "en", late, timezone="Nowhere/Land")


def test_threads_never_mix_languages(write: Write) -> None:
    """Thousands of renderings in several languages and zones at once each get their own words, numbers and dates."""
    expected = {
        ("en", "UTC"): "en: 1,234.5, March 1, 2026",
        ("en", "Asia/Tokyo"): "en: 1,234.5, March 2, 2026",
        ("de", "UTC"): "de: 1.234,5, 1. März 2026",
        ("de", "Asia/Tokyo"): "de: 1.234,5, 2. März 2026",
        ("pt", "America/Sao_Paulo"): "pt: 1.234,5, 1 de março de 2026",
        ("ja", "Asia/Tokyo"): "ja: 1,234.5, 2026年3月2日",
    }
    text = "{{ lang }}: {{ b|number }}, {{ a|date }}"
    templates: dict[str, str | bytes] = {}
    for lang in ("en", "de", "pt", "ja"):
        templates |= event(lang, title_txt="{{ o.n }} {{ lang }}", text_txt=text, email_html="<p>" + text + "</p>")
    write(templates)

    def one(number: int) -> list[Any]:
        (lang, timezone), words = list(expected.items())[number % len(expected)]
        context = {"a": "2026-03-01T20:00:00Z", "b": 1234.5, "o": {"n": number}}
        rendered = render("e", lang, context, timezone=timezone)
        wrong = (rendered.lang, rendered.title, rendered.text) != (lang, f"{number} {lang}", words)
        return [rendered] if wrong or f"<p>{words}</p>" not in rendered.email_html else []

    with ThreadPoolExecutor(16) as threads:
        assert [wrong for some in threads.map(one, range(4_000)) for wrong in some] == []


def test_folders_may_be_links_as_kubernetes_makes_them(write: Write, tmp_path: Path) -> None:
    """A volume of a ConfigMap: what is seen are links to a hidden folder, which is exchanged as a whole."""
    write(event(text_txt="as it was"))
    folder = tmp_path / "templates"
    hidden = folder / "..data"
    hidden.mkdir()
    for each in ("e", "_layout"):
        (folder / each).rename(hidden / each)
        (folder / each).symlink_to(hidden / each)
    forget()
    assert ["en"] == langs("e")
    (hidden / "e/en/text.txt").write_text("changed")
    assert "as it was" == render("e", "en", {}).text, "what was read when the process began stays"


def test_a_link_to_its_own_folder_is_not_followed(write: Write, tmp_path: Path) -> None:
    """It would be walked until the system refuses, with all files once more at each step."""
    write(event())
    (tmp_path / "templates" / "e" / "again").symlink_to(tmp_path / "templates")
    forget()
    assert not [path for path in texts() if "again" in path]
    assert "Text" == render("e", "en", {}).text


def test_a_file_that_may_not_be_read_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its path in the folder, as a fault of the setting, before anything is rendered."""
    write(event())

    def denied(_self: Path) -> bytes:
        raise PermissionError

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(InvalidSettings, match=r"^TEMPLATES_DIR: \S+: PermissionError$"):
        texts()
