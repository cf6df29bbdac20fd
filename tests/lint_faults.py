"""A small catalogue without a fault, and every fault that `bellhop lint` finds, each planted by an edit of its own."""

import shutil
from pathlib import Path
from typing import NamedTuple, TypeAlias

Edit: TypeAlias = str | bytes | tuple[str, str] | None
"""A file's new text, None to remove it, or what is replaced in it by what."""

TOML = "config/events.toml"
LOAN = "templates/loan/en"
TITLE, TEXT, HTML = f"{LOAN}/title.txt", f"{LOAN}/text.txt", f"{LOAN}/email.html"
POLISH = "templates/loan/pl"
NOTE = "templates/note/en/text.txt"
SHARED = "templates/_shared"
FRAME = "templates/_layout/email.html"

ENGLISH = {
    "title.txt": """{%- set books = titles | length -%}
{{ books | plural(one="A book is", other="# books are") }} due
""",
    "text.txt": """{%- set last = titles | last -%}
{{ titles | map("isolate") | list }}, by {{ due | date("long") }}
{%- if reader is defined and reader %}, {{ reader }}{% endif %}.{{ last[:0] }}
""",
    "email.html": """{%- from "_shared/macros.html" import button with context -%}
<ul>
{%- for title in titles %}
<li>{{ title }} {{ loop.index }}</li>
{%- endfor %}
</ul>
{%- if reader is defined and reader %}<p>{{ reader }}, {{ due | date("long") }}</p>{% endif %}
{%- if link is defined and link %}{{ button(link, "See your loans") }}{% endif %}
""",
}
FORMS = 'one="Książka", few="# książki", many="# książek", other="# książki"'

GOOD: dict[str, str] = {
    TOML: """[loan]
email = true
required = ["loan_id", "titles", "due"]
optional = ["reader", "link"]
data = ["loan_id"]
kinds = { loan_id = "number", titles = "list", due = "date", reader = "text", link = "link" }

[loan.example]
loan_id = 7
titles = ["Dune", "Emma"]
due = "2026-03-21"
reader = "Jane"
link = "https://library.example.org/loans"

[note]
active = false
required = ["message"]
example = { message = "Closed on Sunday" }
""",
    FRAME: """<!DOCTYPE html><html lang="{{ lang }}" dir="{{ dir }}"><head><title>{{ subject }}</title></head>
<body><img src="{{ brand.logo_url }}" alt=""><h1>{{ title }}</h1>{{ body }}</body></html>
""",
    "templates/_layout/email.txt": "{{ body }}\n",
    f"{SHARED}/macros.html": """{%- macro button(target, words) -%}
<p class="action"><a href="{{ target | link }}">{{ words }}</a></p>
{%- endmacro -%}
""",
    **{f"{LOAN}/{name}": text for name, text in ENGLISH.items()},
    **{f"{POLISH}/{name}": text for name, text in ENGLISH.items()},
    f"{POLISH}/title.txt": ENGLISH["title.txt"].replace('one="A book is", other="# books are"', FORMS),
    "templates/note/en/title.txt": "Notice\n",
    NOTE: "{{ message }}\n",
    "templates/note/pl/title.txt": "Ogłoszenie\n",
    "templates/note/pl/text.txt": "{{ message }}\n",
}


class Fault(NamedTuple):
    """What is planted, and the one finding that must come of it."""

    rule: str
    file: str
    line: int
    edits: dict[str, Edit]


def here(rule: str, file: str, line: int, old: str, new: str) -> Fault:
    """A fault made by one replacement in the file where it is found."""
    return Fault(rule, file, line, {file: (old, new)})


def added(rule: str, file: str, text: str | bytes | None) -> Fault:
    """A fault that a new file makes on its first line, or that its absence makes."""
    return Fault(rule, file, 1, {file: text})


def linked(href: str) -> Fault:
    """A link in the English mail that must be refused."""
    return here("unsafe-link", HTML, 6, "</ul>", f"</ul><a {href}>")


BUTTON = '{%- if link is defined and link %}{{ button(link, "See your loans") }}{% endif %}'
INCLUDE = ".{{ last[:0] }}"
FAULTS: dict[str, Fault] = {
    "no TOML": here("invalid-event", TOML, 2, "email = true", "email = = true"),
    "unknown field": here("invalid-event", TOML, 15, "active =", "colour ="),
    "data that is secret": here("invalid-event", TOML, 1, "data =", 'secret = ["loan_id"]\ndata ='),
    "folder of no event": Fault("unknown-event", "templates/lone", 1, {"templates/lone/en/title.txt": "Lone"}),
    "event without folder": here("missing-templates", TOML, 1, "[loan]\n", "[lone]\n[loan]\n"),
    "language in no known form": Fault(
        "invalid-lang", "templates/note/pt_BR", 1, {"templates/note/pt_BR/title.txt": "Aviso"}
    ),
    "event without a language": Fault(
        "missing-lang", TOML, 15, {"templates/note/pl/title.txt": None, "templates/note/pl/text.txt": None}
    ),
    "no title": added("missing-part", f"{POLISH}/title.txt", None),
    "no text": added("missing-part", f"{POLISH}/text.txt", None),
    "no frame": added("missing-part", "templates/_layout/email.txt", None),
    "no HTML in one language": added("part-parity", f"{POLISH}/email.html", None),
    "a subject in one language": Fault(
        "part-parity", f"{POLISH}/subject.txt", 1, {f"{LOAN}/subject.txt": "Books are due"}
    ),
    "a misspelt part": added("unknown-file", f"{LOAN}/emial.txt", "Text"),
    "a part outside its language": added("unknown-file", "templates/note/text.txt", "Text"),
    "block without end": here("syntax", TEXT, 3, "{% endif %}", ""),
    "tag that does not exist": here("syntax", TEXT, 3, INCLUDE, "{% put %}"),
    "not UTF-8": added("syntax", TEXT, "é".encode("latin-1")),
    "broken macro": here("syntax", f"{SHARED}/macros.html", 3, "endmacro", "end"),
    "unknown filter": here("unknown-filter", TEXT, 2, "| date(", "| dates("),
    "unknown filter in a branch": here("unknown-filter", TEXT, 3, ", {{ reader }}", ", {{ reader | loud }}"),
    "unknown filter for map": here("unknown-filter", TEXT, 2, 'map("isolate")', 'map("isolated")'),
    "unknown test": here("unknown-filter", TEXT, 3, "reader is defined", "reader is there"),
    "undeclared name": here("undeclared-name", TEXT, 3, INCLUDE, "{{ nobody }}"),
    "undeclared name in an untaken branch": here("undeclared-name", TEXT, 3, INCLUDE, "{% if 0 %}{{ you }}{% endif %}"),
    "undeclared name in an include": Fault(
        "undeclared-name",
        f"{SHARED}/end.txt",
        2,
        {TEXT: (INCLUDE, '{% include "_shared/end.txt" %}'), f"{SHARED}/end.txt": "Yours,\n{{ house }}"},
    ),
    "undeclared name in the frame": here("undeclared-name", FRAME, 2, "{{ title }}", "{{ message }}"),
    "unused required name": Fault("unused-name", TOML, 3, {TOML: ('data = ["loan_id"]\n', "")}),
    "unused optional name": here(
        "unused-name", TOML, 18, '["message"]\nexample = {', '["message"]\noptional = ["to"]\nexample = { to = 1,'
    ),
    "data that is shown": here("shown-data", TOML, 5, '["loan_id"]', '["loan_id", "reader"]'),
    "name used in the other language": here(
        "name-parity", f"{POLISH}/text.txt", 1, "{%- if reader is defined and reader %}, {{ reader }}{% endif %}", ""
    ),
    "plural without a form": here("missing-plural-form", f"{POLISH}/title.txt", 2, ' few="# książki",', ""),
    "ordinal without a form": here(
        "missing-plural-form", TEXT, 3, INCLUDE, '{{ titles | length | ordinal(one="#st", few="#rd", other="#th") }}'
    ),
    "plural without a form in an include": Fault(
        "missing-plural-form",
        f"{SHARED}/count.txt",
        1,
        {
            f"{POLISH}/text.txt": (INCLUDE, '{% include "_shared/count.txt" %}'),
            f"{SHARED}/count.txt": '{{ titles | length | plural(one="#", other="#") }}',
        },
    ),
    "plural with an unknown form": here("unknown-plural-form", TITLE, 2, 'other="', 'some="#", other="'),
    "title of two lines": here("line-break", TITLE, 2, "}} due", "}} due\nsoon"),
    "subject of two lines": Fault(
        "line-break",
        f"{LOAN}/subject.txt",
        1,
        {f"{LOAN}/subject.txt": "Books\n{{ due }}", f"{POLISH}/subject.txt": "{{ due }}"},
    ),
    "safe": here("markup-filter", HTML, 4, "{{ title }}", "{{ title | safe }}"),
    "tojson": here("markup-filter", TEXT, 3, "{{ reader }}", "{{ reader | tojson }}"),
    "entities in text": here("markup-filter", TEXT, 3, "{{ reader }}", "{{ reader | e }}"),
    "autoescape block": here(
        "autoescape", HTML, 4, "{{ title }}", "{% autoescape false %}{{ title }}{% endautoescape %}"
    ),
    "value as attributes": here("unescaped", HTML, 7, "<p>{{ reader }}", "<p {{ reader }}>"),
    "text included in HTML": Fault(
        "unescaped",
        HTML,
        7,
        {HTML: ("<p>{{ reader }}", '<p>{% include "_shared/who.txt" %}'), f"{SHARED}/who.txt": "{{ reader }}"},
    ),
    "name in the frame as attributes": here("unescaped", FRAME, 2, "<h1>{{ title }}", "<h1 {{ title }}>"),
    "unfiltered link": linked('href="{{ titles[0] }}"'),
    "unfiltered picture": linked('src="{{ titles[0] }}"'),
    "unfiltered host": linked('href="https://{{ due }}/loans"'),
    "one branch unfiltered": linked(
        'href="{% if titles %}{{ "https://example.org" | link }}{% else %}{{ due }}{% endif %}"'
    ),
    "script": linked('href="javascript:alert(1)"'),
    "relative link": linked("href=/loans"),
    "frame without direction": here("frame-lang", FRAME, 1, ' dir="{{ dir }}"', ""),
    "frame without language": here("frame-lang", FRAME, 1, 'lang="{{ lang }}"', 'lang=""'),
    "no example": here("example-missing", TOML, 15, 'example = { message = "Closed on Sunday" }', ""),
    "example without an optional name": here("example-missing", TOML, 8, 'reader = "Jane"\n', ""),
    "example of another kind": here("example-mismatch", TOML, 11, '"2026-03-21"', '"soon"'),
    "missing attribute": here("example-fails", TEXT, 3, INCLUDE, "{{ due.day }}"),
    "filter that refuses": here("example-fails", TEXT, 3, INCLUDE, "{{ titles | number }}"),
    "missing include": here("example-fails", TEXT, 3, INCLUDE, '{% include "_shared/gone.txt" %}'),
    "frame that fails": here("example-fails", FRAME, 2, "{{ title }}", "{{ title.words }}"),
    "unguarded optional name": here("optional-fails", HTML, 8, BUTTON, "{{ link | link }}"),
    "guarded by another name": here("optional-fails", HTML, 7, "{{ reader }},", "{{ reader }} {{ link }},"),
    "null is shown": here("null-differs", TEXT, 3, "reader is defined and reader", "reader is defined"),
    "null fails": here("null-differs", HTML, 8, "link is defined and link", "link is defined"),
    "empty text fails": here("hostile-fails", NOTE, 1, "{{ message }}", "{{ message[0] }} {{ message }}"),
    "long text fails": here("hostile-fails", NOTE, 1, "{{ message }}", "{{ message * 30 }}"),
    "allowed without reason": here("allow-without-reason", TEXT, 3, INCLUDE, "{# lint: allow syntax #}"),
    "allowed in an unknown form": here("allow-without-reason", TEXT, 3, INCLUDE, "{# lint: ignore this #}"),
    "allowed in vain": here("unused-allow", TEXT, 3, INCLUDE, "{# lint: allow syntax because of old #}"),
    "allowed in vain in TOML": here(
        "unused-allow", TOML, 1, "[loan]", "[loan]    # lint: allow missing-lang because it is new"
    ),
    "unknown rule allowed": here("unused-allow", TEXT, 3, INCLUDE, "{# lint: allow all because I can #}"),
}


def write(folder: Path, edits: dict[str, Edit]) -> None:
    """Write the catalogue with the edits made, in place of what an earlier call wrote."""
    for name in ("config", "templates"):
        shutil.rmtree(folder / name, ignore_errors=True)
    files: dict[str, str | bytes | None] = {**GOOD}
    for name, edit in edits.items():
        if isinstance(edit, tuple):
            old, new = edit
            assert old in GOOD[name], f"{name} does not hold {old!r}"
            files[name] = GOOD[name].replace(old, new, 1)
        else:
            files[name] = edit
    for name, text in files.items():
        if text is not None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
