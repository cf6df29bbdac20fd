"""What can be said of one template by itself."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import takewhile

from jinja2 import nodes

from worker.formats import locale_for
from worker.linting.catalogue import FRAME_NAMES, FRAMES, Catalogue
from worker.linting.findings import Finding
from worker.linting.templates import SYNTAX, Source, Written, written
from worker.plurals import FORMS, needed_forms

_MARKUP = {"safe", "urlize", "xmlattr", "tojson"}
_ESCAPING = {"e", "escape", "forceescape"}
_LINKED = {"href", "src", "action", "formaction", "background", "poster", "cite", "data", "xlink:href"}
"""Attributes that hold a URL."""
_GOOD_START = re.compile(r"https?://[^/?#]+[/?#]|mailto:|#", re.IGNORECASE)
"""What must stand before an expression that is only a piece of a URL."""
_GOOD_LINK = re.compile(r"https?://[^/?#]|mailto:.|#", re.IGNORECASE)


def single(catalogue: Catalogue) -> Iterator[Finding]:
    """Every rule that needs one template alone, over all parts, the frame, and what they include."""
    for _, lang, part, source in catalogue.every_part():
        for each in catalogue.reach(source):
            yield from _plural_forms(each, lang)
        if part in ("title.txt", "subject.txt"):
            yield from _line_break(source)
    for name in FRAMES:
        if frame := catalogue.source(name):
            yield from _frame(frame)
            catalogue.reach(frame)  # reads what it includes
    for source in catalogue.sources():
        yield from _alone(source)


def _alone(source: Source) -> Iterator[Finding]:
    if source.error:
        yield Finding(source.path, source.error[0], "syntax", source.error[1])
    yield from _names_of_filters(source)
    yield from _markup(source)
    if source.name.endswith(".html"):
        yield from _links(source)


def _frame(source: Source) -> Iterator[Finding]:
    given = ", ".join(sorted(FRAME_NAMES))
    for name, line in source.used.items():
        if name not in FRAME_NAMES | source.assigned:
            yield Finding(source.path, line, "undeclared-name", f"{name}: the frame is given {given}")
    if source.name.endswith(".html") and not source.error:
        tags = [(line, attributes) for line, tag, attributes in _tags(written(source)) if tag == "html"]
        for line, attributes in tags or [(1, {})]:
            if missing := [name for name in ("lang", "dir") if not attributes.get(name)]:
                yield Finding(source.path, line, "frame-lang", f"<html> has no {' and no '.join(missing)}")


def calls(source: Source) -> Iterator[tuple[str, nodes.Filter]]:
    """The filters used, also those that `map` is given by name."""
    for node in source.tree.find_all(nodes.Filter):
        yield node.name, node
        if node.name == "map" and node.args and isinstance(node.args[0], nodes.Const):
            yield str(node.args[0].value), node


def _names_of_filters(source: Source) -> Iterator[Finding]:
    for name, node in calls(source):
        if name not in SYNTAX.filters:
            yield Finding(source.path, node.lineno, "unknown-filter", f"there is no filter {name}")
    for test in source.tree.find_all(nodes.Test):
        if test.name not in SYNTAX.tests:
            yield Finding(source.path, test.lineno, "unknown-filter", f"there is no test {test.name}")


def _plural_forms(source: Source, lang: str) -> Iterator[Finding]:
    for name, node in calls(source):
        if name not in ("plural", "ordinal") or node.dyn_kwargs:
            continue
        needed = needed_forms(locale_for(lang), ordinal=name == "ordinal")
        given = [str(keyword.key) for keyword in node.kwargs]
        if missing := [form for form in needed if form not in given]:
            words = f"{name} in {lang} needs {', '.join(needed)}; missing: {', '.join(missing)}"
            yield Finding(source.path, node.lineno, "missing-plural-form", words, lang=lang)
        if unknown := [form for form in given if form not in FORMS]:
            words = f"{name} has no form {', '.join(unknown)}; the forms are {', '.join(FORMS)}"
            yield Finding(source.path, node.lineno, "unknown-plural-form", words)


def _line_break(source: Source) -> Iterator[Finding]:
    text = written(source)
    start = len(text.text) - len(text.text.lstrip())
    if (place := text.text.rstrip().find("\n", start)) >= 0:
        yield Finding(source.path, text.lines[place], "line-break", "write it on one line; `-%}` swallows a break")


def _markup(source: Source) -> Iterator[Finding]:
    html = source.name.endswith(".html")
    for name, node in calls(source):
        if name in _MARKUP:
            words = f"{name} makes markup of what it is given; leave it out, the file's ending decides"
            yield Finding(source.path, node.lineno, "markup-filter", words)
        elif name in _ESCAPING and not html:
            words = f"{name}: .txt is not HTML, readers would see the entities"
            yield Finding(source.path, node.lineno, "markup-filter", words)
    for block in source.tree.find_all(nodes.ScopedEvalContextModifier):
        on = [isinstance(option.value, nodes.Const) and option.value.value is True for option in block.options]
        if not (html and all(on)):
            yield Finding(source.path, block.lineno, "autoescape", ".html is escaped and .txt is not, without a block")


def _links(source: Source) -> Iterator[Finding]:
    text = written(source)
    for line, tag, attributes in _tags(text):
        for name, value in attributes.items():
            if name in _LINKED and (words := _wrong_link(value.strip(), text)):
                yield Finding(source.path, line, "unsafe-link", f"{name} of <{tag}>: {words}")


def _wrong_link(value: str, text: Written) -> str:
    first = next((place for place, char in enumerate(value) if char in text.expressions), None)
    if first is None:
        return "" if _GOOD_LINK.match(value) else "write a whole URL with http:, https: or mailto:"
    begins = takewhile(lambda char: char in text.expressions, value)  # several, where branches write one each
    if _GOOD_START.match(value[:first]) or (first == 0 and all(_is_link(text.expressions[char]) for char in begins)):
        return ""
    return "pass the value through the filter link"


def _is_link(expression: nodes.Expr) -> bool:
    """Whether it ends in `| link`, or is the operator's own setting."""
    if isinstance(expression, nodes.CondExpr):
        return _is_link(expression.expr1) and (expression.expr2 is None or _is_link(expression.expr2))
    if isinstance(expression, nodes.Const):
        return bool(_GOOD_LINK.match(str(expression.value)))
    if isinstance(expression, nodes.Getattr):
        return isinstance(expression.node, nodes.Name) and expression.node.name == "brand"
    if not isinstance(expression, nodes.Filter):
        return False
    return expression.name == "link" or (
        expression.name in _ESCAPING and expression.node is not None and _is_link(expression.node)
    )


def _tags(text: Written) -> list[tuple[int, str, dict[str, str]]]:
    """Every start tag with its line and attributes."""
    parser = _Tags()
    parser.feed(text.text)
    parser.close()
    starts = [0, *(place + 1 for place, char in enumerate(text.text) if char == "\n")]
    return [(text.lines[starts[row - 1] + column], tag, attributes) for row, column, tag, attributes in parser.found]


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, int, str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((*self.getpos(), tag, {name: value or "" for name, value in attrs}))
