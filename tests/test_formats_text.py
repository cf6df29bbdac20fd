"""Lists, names, links and isolated names in templates."""

import pytest
from jinja2 import StrictUndefined, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from worker.errors import TemplateFailed
from worker.formats import filters


def show(expression: str, lang: str = "en", *, autoescape: bool = False, **values: object) -> str:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=autoescape)
    environment.filters.update(filters(lang))
    return environment.from_string("{{ " + expression + " }}").render(values)


@pytest.mark.parametrize(
    ("lang", "style", "items", "text"),
    [
        ("en", "standard", ["a", "b", "c"], "a, b, and c"),
        ("en", "or", ["a", "b", "c"], "a, b, or c"),
        ("de", "standard", ["a", "b", "c"], "a, b und c"),
        ("de", "or", ("a", "b"), "a oder b"),
        ("en", "unit", ["3 ft", "7 in"], "3 ft, 7 in"),
        ("de", "unit", ["3 m", "7 cm", "2 mm"], "3 m, 7 cm und 2 mm"),
        ("ja", "standard", ["a", "b"], "a、b"),
        ("en", "standard", [1, 2], "1 and 2"),
        ("en", "standard", ["a"], "a"),
        ("en", "standard", [], ""),
        ("en", "standard", ["{0}", "{1}", "{"], "{0}, {1}, and {"),
    ],
)
def test_lists(lang: str, style: str, items: object, text: str) -> None:
    """Items are joined with the language's own words; braces in an item mean nothing."""
    assert show(f"items|list('{style}')", lang, items=items) == text


def test_lists_take_what_filters_yield() -> None:
    """Jinja's own map gives a generator, which is a list as well."""
    assert show("books|map(attribute='title')|list", books=[{"title": "A"}, {"title": "B"}]) == "A and B"


def test_lists_are_escaped_once() -> None:
    """In HTML each item is escaped unless it is markup already; in text nothing is escaped."""
    mixed = ["<i>", Markup("<b>b</b>"), "a & b", 1]
    assert show("i|list", autoescape=True, i=["<i>", "a & b"]) == "&lt;i&gt; and a &amp; b"
    assert show("i|list", autoescape=True, i=mixed) == "&lt;i&gt;, <b>b</b>, a &amp; b, and 1"
    assert show("i|list", autoescape=True, i=[Markup("<b>b</b>")]) == "<b>b</b>"
    assert show("i|list", i=mixed) == "<i>, <b>b</b>, a & b, and 1"


@pytest.mark.parametrize("items", ["abc", {"a": 1}, 5, None, ["a", None], ["a", True], [["a"]]])
def test_what_is_no_list_is_refused(items: object) -> None:
    """A text is not a list of letters, and only texts and whole numbers can be listed."""
    with pytest.raises(TemplateFailed, match=r"^list: needs "):
        show("items|list", items=items)


def test_unknown_list_style_is_refused() -> None:
    """The list styles are three."""
    with pytest.raises(TemplateFailed, match=r"^list: the style must be one of standard, or, unit$"):
        show("['a']|list('and')")


@pytest.mark.parametrize(
    ("name", "lang", "value", "text"),
    [
        ("language_name", "en", "de", "German"),
        ("language_name", "en", "pt_br", "Brazilian Portuguese"),
        ("language_name", "de", "de-CH", "Schweizer Hochdeutsch"),
        ("language_name", "de", "pt-BR", "Portugiesisch (Brasilien)"),
        ("language_name", "en", "zh-Hant-TW", "Chinese (Traditional, Taiwan)"),
        ("territory_name", "en", "DE", "Germany"),
        ("territory_name", "fr", "us", "États-Unis"),
        ("territory_name", "es", "419", "Latinoamérica"),
    ],
)
def test_names(name: str, lang: str, value: str, text: str) -> None:
    """Languages and territories are named in the reader's language."""
    assert show(f"v|{name}", lang, v=value) == text


@pytest.mark.parametrize("name", ["language_name", "territory_name"])
@pytest.mark.parametrize("value", ["", "qq", "../de", None, 5, []])
def test_unknown_names_are_refused(name: str, value: object) -> None:
    """A code that CLDR does not know has no name."""
    with pytest.raises(TemplateFailed, match=f"^{name}: needs "):
        show(f"v|{name}", v=value)


SAFE = [
    *("https://example.org/a?b=1&c=2#d", "HTTP://example.org", "http://[::1]:8080/", "https://bücher.example/ä"),
    *("mailto:reader@example.org", "MailTo:reader@example.org?subject=Hi", "https://example.org:443"),
]


@pytest.mark.parametrize("url", SAFE)
def test_links_are_returned_unchanged(url: str) -> None:
    """A web or mail address passes, and escaping is Jinja's."""
    assert show("u|link", u=url) == url
    assert show("u|link", autoescape=True, u=url) == url.replace("&", "&amp;")


HOSTILE: list[object] = [
    *("javascript:alert(1)", "JaVaScRiPt:alert(1)", "java\nscript:x", "java\tscript:x", "\x01javascript:x"),
    *(" https://example.org", "https://example.org ", "https://exa mple.org", "https://example.org/\r\nX: y"),
    *("https://example.org/\u2028", "https://example.org/\u202egpj", "https://exam\u200bple.org", "\u00a0https://a"),
    *("data:text/html,x", "vbscript:x", "file:///etc/passwd", "ftp://example.org", "blob:https://example.org/x"),
    *("//evil.example", "/path", "path", "", "?q", "#f", "https:", "https://", "https:///evil.example", "http:evil"),
    *("https://:443", "https://user@", "https://[::1", "https://example.org:99999", "https://example.org:x", "mailto:"),
    *("https:\\\\evil.example", "https://good.example\\@evil.example", "https://a\x00b", "https://a\x7fb", "\ud800"),
    *(None, 5, b"https://example.org", ["https://example.org"]),
]


@pytest.mark.parametrize("url", HOSTILE, ids=ascii)
def test_hostile_links_are_refused(url: object) -> None:
    """What a browser might run, or read as another host, is refused, and never repeated in the error."""
    with pytest.raises(TemplateFailed, match=r"^link: ") as caught:
        show("u|link", u=url)
    assert len(str(url)) < 8 or str(url) not in str(caught.value)


def test_isolated_names() -> None:
    """A name is fenced off, cannot break out of the fence, and is escaped as ever."""
    assert show("n|isolate", "ar", n="Bücher & Co.") == "\u2068Bücher & Co.\u2069"
    assert show("n|isolate", "ar", n="a\u2069\u202eb") == "\u2068ab\u2069"
    assert show("n|isolate", "ar", autoescape=True, n="<b>") == "\u2068&lt;b&gt;\u2069"
    assert show("n|isolate", "ar", autoescape=True, n=Markup("<b>x</b>")) == "\u2068<b>x</b>\u2069"
    assert show("n|isolate", "ar", n=42) == "\u206842\u2069"
    with pytest.raises(TemplateFailed, match=r"^isolate: needs "):
        show("n|isolate", n=None)


@pytest.mark.parametrize(
    "call",
    [
        *("gone|list", "['a', gone]|list", "['a']|list(gone)", "gone|language_name", "gone|territory_name"),
        *("gone|link", "gone|isolate"),
    ],
)
def test_missing_variables_name_themselves(call: str) -> None:
    """A variable that is not in the context is reported by Jinja, wherever it stands."""
    with pytest.raises(UndefinedError, match=r"'gone' is undefined"):
        show(call)
