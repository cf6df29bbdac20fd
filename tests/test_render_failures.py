"""Rendering that fails: what is told, to whom it helps, and what is never shown."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import forget
from tests.templates import Write, event, writer
from worker.errors import InactiveEvent, InvalidContext, InvalidLanguage, TemplateFailed, TemplateMissing, UnknownEvent
from worker.render import MAX_PART, check_all_langs, render

CANARY = "canary-4711"


@pytest.fixture
def write(tmp_path: Path, configure: Callable[..., None]) -> Write:
    return writer(tmp_path, configure)


def test_what_cannot_be_rendered_is_told_apart(write: Write) -> None:
    """Unknown and inactive events, contexts that do not match, languages that are none: an error of its own each."""
    write({**event(), "off/en/title.txt": "x", "off/en/text.txt": "x"})
    with pytest.raises(UnknownEvent):
        render("nope", "en", {})
    with pytest.raises(InactiveEvent):
        render("off", "en", {})
    with pytest.raises(InvalidContext, match="missing: a"):
        render("needs", "en", {})
    with pytest.raises(InvalidContext, match="not declared: timezone"):
        render("e", "en", {"timezone": CANARY})
    with pytest.raises(InvalidLanguage):
        render("e", "../en", {})


def test_missing_templates_are_named(write: Write, tmp_path: Path) -> None:
    """The error names the languages that were tried, or the part of the frame."""
    write({"e/en/title.txt": "no text", **event("de")})
    with pytest.raises(TemplateMissing, match=r"'e' has title.txt and text.txt in none of: pt-BR, pt, en$"):
        render("e", "pt-BR", {})
    (tmp_path / "templates" / "_layout" / "email.txt").unlink()
    forget()
    with pytest.raises(TemplateMissing, match=r"_layout/email\.txt is missing"):
        render("e", "de", {})


VALUES = {"a": CANARY, "b": 1, "items": [CANARY], "o": {CANARY: CANARY, "k": CANARY}}


def failure(write: Write, text: str | bytes, name: str = "e/en/text.txt") -> str:
    """The error of a template: it names the file and holds no value."""
    write({**event(), name: text})
    with pytest.raises(TemplateFailed) as caught:
        render("e", "en", VALUES)
    message = str(caught.value)
    assert CANARY not in message
    assert message.startswith(f"{name}:")
    return message.removeprefix(f"{name}:")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("one\n{{ nope }}", "2: 'nope' is undefined"),
        ("{% if nope %}{% endif %}", "1: 'nope' is undefined"),
        ("\n\n{{ o.nope }}", "3: an attribute or item that is not there"),
        ("{{ o[a + 'x'] }}", "1: an attribute or item that is not there"),
        ("{{ items[5] }}", "1: an attribute or item that is not there"),
        ("{{ a.x.y }}", "1: an attribute or item that is not there"),
        ("{{ items|map(attribute='x')|list }}", "1: an attribute or item that is not there"),
        ("{{ a + b }}", "1: TypeError"),
        ("{{ b / 0 }}", "1: ZeroDivisionError"),
        ("{{ a() }}", "1: TypeError"),
        ("{{ a|date }}", "1: date: "),
        ("{{ a|number }}", "1: number: "),
        ("{{ a|link }}", "1: link: "),
        ("{% include a %}", "1: TemplateNotFound"),
        ("{% include '../../events.toml' %}", "1: TemplateNotFound"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "1: RecursionError"),
        ("{% for i in range(10**9) %}{% endfor %}", "1: OverflowError"),
        ("{{ 'x' * 500_001 }}", f" longer than {MAX_PART} characters"),
        ("one\n{% if %}", "2: Expected an expression"),
        ("{{ a|nofilter }}", "1: No filter named 'nofilter'"),
        ("caf\xe9".encode("latin-1"), "0: UnicodeDecodeError"),
        ("{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}", "0: RecursionError"),
    ],
)
def test_every_failure_names_file_line_and_rule(write: Write, text: str | bytes, complaint: str) -> None:
    """Whatever goes wrong in a template is told to its author by place, and shows nobody's data."""
    assert failure(write, text).startswith(complaint)


@pytest.mark.parametrize(
    "text",
    [
        "{{ a.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ a|attr('__class__') }}",
        "{{ '{0.__class__}'.format(a) }}",
        "{{ '{k.__class__}'.format_map(o) }}",
        "{{ lipsum.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ brand.__dict__ }}",
        "{{ items.append(1) }}",
        "{{ o.update({'k': 1}) }}",
    ],
)
def test_the_sandbox_holds(write: Write, text: str) -> None:
    """A template reaches neither Python's insides nor changes the values that other parts are made of."""
    assert failure(write, text) == "1: refused by the sandbox"


def test_a_value_is_never_a_template(write: Write) -> None:
    """Template code in a context is text like any other."""
    write(event(text_txt="{{ a }}"))
    assert render("e", "en", {"a": "{{ 7*7 }}{% include 'x' %}"}).text == "{{ 7*7 }}{% include 'x' %}"


@pytest.mark.parametrize("name", ["e/en/title.txt", "e/en/subject.txt", "e/en/email.txt", "e/en/email.html"])
def test_every_part_is_guarded(write: Write, name: str) -> None:
    """The rules hold for each file of an event."""
    assert failure(write, "\n{{ o.nope }}", name) == "2: an attribute or item that is not there"
    assert failure(write, "{{ a.__class__ }}", name) == "1: refused by the sandbox"


def test_styles_that_are_no_css_are_a_failure_too(write: Write) -> None:
    """A style attribute that the rules cannot be joined with is told like any other fault."""
    text = "<style>p { color: red }</style><p style='color:;;{'>{{ a }}</p>"
    assert failure(write, text, "e/en/email.html") == "0: InlineError"


def test_all_languages_can_be_checked(write: Write) -> None:
    """A fault in any language is found before anything is written."""
    write({**event("en"), **event("pt", text_txt="{{ nope }}")})
    render("e", "en", {})
    with pytest.raises(TemplateFailed, match=r"^e/pt/text\.txt:1: 'nope' is undefined$"):
        check_all_langs("e", {})
