"""One template as text, as a syntax tree, and as the text that it writes with every expression put aside."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.meta import find_undeclared_variables

from worker.events import RESERVED
from worker.formats import filters

SYNTAX = Environment(autoescape=True)
"""Parses and never renders. Templates use Jinja's usual marks, so any environment reads them alike."""
SYNTAX.filters.update(filters("en"))
SYNTAX.globals.update(dict.fromkeys(RESERVED))

_FIRST_STAND_IN = 0xF0000  # private use: no text holds it


@dataclass(frozen=True)
class Source:
    """A template that was read."""

    path: Path
    name: str
    """Below the templates folder, as Jinja names it."""
    text: str
    tree: nodes.Template
    """Empty where the template is broken."""
    error: tuple[int, str] | None = None
    """Line and words, where it is broken."""

    @cached_property
    def used(self) -> dict[str, int]:
        """The variables that it takes from the context, with the line of their first use."""
        first: dict[str, int] = {}
        for node in self.tree.find_all(nodes.Name):
            if node.ctx == "load":
                first[node.name] = min(node.lineno, first.get(node.name, node.lineno))
        return {name: line for name, line in first.items() if name in self._free}

    @cached_property
    def assigned(self) -> set[str]:
        """The variables that it sets somewhere: loop variables, `set`, parameters of macros."""
        return {node.name for node in self.tree.find_all(nodes.Name) if node.ctx != "load"}

    @cached_property
    def _free(self) -> set[str]:
        try:
            return find_undeclared_variables(self.tree)
        except TemplateSyntaxError:  # an unknown filter; found elsewhere
            loaded = {node.name for node in self.tree.find_all(nodes.Name) if node.ctx == "load"}
            return loaded - self.assigned - SYNTAX.globals.keys()


@dataclass(frozen=True)
class Written:
    """The text that a template writes, all branches in a row, one character standing in for each expression."""

    text: str
    lines: list[int]
    """The line in the template of each character."""
    expressions: dict[str, nodes.Expr]
    """By the character that stands in for them."""


def read(path: Path, name: str) -> Source:
    """Parse a template; a broken one comes with its error."""
    try:
        text = path.read_text(encoding="utf-8")
        return Source(path, name, text, SYNTAX.parse(text))
    except UnicodeDecodeError:
        return Source(path, name, "", _nothing(), (1, "not UTF-8"))
    except TemplateSyntaxError as error:
        return Source(path, name, text, _nothing(), (error.lineno, error.message or "not a Jinja template"))
    except RecursionError:
        return Source(path, name, text, _nothing(), (1, "nested too deeply"))


def references(tree: nodes.Template) -> Iterator[tuple[str, bool]]:
    """The templates that it names in so many words, and whether each sees its variables."""
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        for constant in [node.template, *node.template.find_all(nodes.Const)]:  # type: ignore[attr-defined]
            if isinstance(constant, nodes.Const):
                names = constant.value if isinstance(constant.value, tuple | list) else [constant.value]
                yield from ((str(name), bool(getattr(node, "with_context", True))) for name in names)


def written(source: Source) -> Written:
    """What the template writes; nothing, where it is broken."""
    text: list[str] = []
    lines: list[int] = []
    expressions: dict[str, nodes.Expr] = {}
    inside: list[str] | None = None
    for line, kind, value in [] if source.error else SYNTAX.lex(source.text):
        if kind == "variable_begin":
            inside = []
        elif kind == "variable_end":
            text.append(chr(_FIRST_STAND_IN + len(expressions)))
            lines.append(line)
            expressions[text[-1]] = _expression("".join(inside or []))
            inside = None
        elif kind == "data":
            text.append(value)
            lines += [line + value.count("\n", 0, place) for place in range(len(value))]
        elif inside is not None:
            inside.append(value)
    return Written("".join(text), lines, expressions)


def _expression(text: str) -> nodes.Expr:
    output = SYNTAX.parse("{{" + text + "}}").find(nodes.Output)
    assert output is not None
    return output.nodes[0]


def _nothing() -> nodes.Template:
    return nodes.Template([], lineno=1)
