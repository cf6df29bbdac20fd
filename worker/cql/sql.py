"""A query as SQL: one condition and its sort keys, with bound values only, for PostgreSQL and SQLite."""

import operator
import re
from functools import cache
from typing import Any

from sqlalchemy import Boolean, ColumnElement, UnaryExpression, and_, false, func, not_, or_, true
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import Grouping
from sqlalchemy.sql.functions import FunctionElement

from worker.cql.tree import (
    BREAKS,
    BREAKS_SET,
    Comparison,
    Kind,
    Mask,
    Node,
    Not,
    Query,
    SortKey,
    Span,
    Wild,
    is_break,
)

#: Unicode has letters of two cases below this code point only.
MAX_CASED = 0x20000

#: A regular expression, and a GLOB pattern of the same meaning.
Pattern = tuple[str, str]

_ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def compile(query: Query) -> tuple[ColumnElement[bool], list[UnaryExpression[Any]]]:
    """The query's condition, in parentheses of its own, and what to order by; the caller ANDs whose rows it may see.

    A condition is true or false and never NULL, so that `not` is the exact contrary.
    """
    return Grouping(_condition(query.where)), [_sort(key) for key in query.sort]


def _condition(node: Node, negated: bool = False) -> ColumnElement[bool]:
    if isinstance(node, Not):
        return _condition(node.part, not negated)
    if isinstance(node, Comparison):
        return _comparison(node, negated)
    join = and_ if (node.operator == "and") != negated else or_
    # The deepest first: SQLite's parser keeps at most 100 symbols waiting, and this way only parentheses wait.
    parts = sorted(node.parts, key=lambda part: part.depth, reverse=True)
    return join(*[_condition(part, negated) for part in parts])


def _comparison(node: Comparison, negated: bool) -> ColumnElement[bool]:
    column = node.field.column
    if node.field.kind is Kind.EVERYTHING:
        return false() if negated else true()
    if node.field.kind is Kind.FLAG:
        wanted = (node.value is True) ^ (node.relation == "<>") ^ negated
        return column.is_not(None) if wanted else column.is_(None)
    if node.value is None:
        return column.is_(None) if negated else column.is_not(None)
    holds = _holds(node)
    if not column.nullable:
        return not_(holds) if negated else holds
    return or_(column.is_(None), not_(holds)) if negated else and_(column.is_not(None), holds)


def _holds(node: Comparison) -> ColumnElement[bool]:
    """The comparison where the column has a value."""
    column: ColumnElement[Any] = node.field.column.expression
    if node.relation in _ORDER:
        return _ordered(node, column)
    if isinstance(node.value, tuple):
        words = node.field.kind is Kind.TEXT and node.relation == "="
        equal: ColumnElement[bool] = _words(column, node.value) if words else _fits(column, node.value, node.field.kind)
    elif isinstance(node.value, Span) and node.value.end is not None:
        equal = and_(column >= node.value.start, column < node.value.end)
    else:
        equal = column == (node.value.start if isinstance(node.value, Span) else node.value)
    return not_(equal) if node.relation == "<>" else equal


def _ordered(node: Comparison, column: ColumnElement[Any]) -> ColumnElement[bool]:
    value: Any = node.value.start if isinstance(node.value, Span) else node.value
    if node.field.kind is Kind.TEXT:
        column, value = func.lower(column), func.lower(value)
    result: ColumnElement[bool] = _ORDER[node.relation](column, value)
    return result


def _sort(key: SortKey) -> UnaryExpression[Any]:
    column: ColumnElement[Any] = key.field.column.expression
    if key.field.kind is Kind.TEXT:
        column = func.lower(column)
    elif key.field.kind is Kind.FLAG:
        column = column.is_not(None)
    return (column.desc() if key.descending else column.asc()).nulls_last()


class Fits(FunctionElement[bool]):
    """Whether a text fits a pattern; its arguments are the text, and the two of a `Pattern`.

    Both know sets, and so letters of either case whatever the database's locale; both take linear time.
    """

    name = "fits"
    type = Boolean()
    inherit_cache = True


@compiles(Fits, "postgresql")
def _postgresql(element: Fits, compiler: SQLCompiler, **kw: Any) -> str:
    text, regex, _ = element.clauses
    return f"(({compiler.process(text, **kw)}) ~ {compiler.process(regex, **kw)})"


@compiles(Fits, "sqlite")
def _sqlite(element: Fits, compiler: SQLCompiler, **kw: Any) -> str:
    text, _, glob = element.clauses
    return f"(({compiler.process(text, **kw)}) GLOB {compiler.process(glob, **kw)})"


def containing(word: str) -> Pattern:
    """What fits a text that has this word, or a longer one around it, without regard to case."""
    return _pattern((Wild.ANY, *word, Wild.ANY), Kind.TEXT)


def _fits(text: ColumnElement[Any], mask: Mask, kind: Kind) -> ColumnElement[bool]:
    return Fits(text, *_pattern(mask, kind))


def _pattern(mask: Mask, kind: Kind) -> Pattern:
    sets = [part if isinstance(part, Wild) else _set(part, kind) for part in mask]
    regex = f"^{''.join(map(_in_regex, sets))}$"
    # What fits anything at either end is quicker left out, with its anchor.
    return regex.removeprefix("^.*").removesuffix(".*$"), "".join(map(_in_glob, sets))


def _words(text: ColumnElement[Any], mask: Mask) -> ColumnElement[bool]:
    inside = (Wild.BREAK if is_break(part) else part for part in mask)
    return _fits(" " + text + " ", (Wild.ANY, Wild.BREAK, *inside, Wild.BREAK, Wild.ANY), Kind.TEXT)


def _set(character: str, kind: Kind) -> str:
    """The character, or for text whatever is the same without regard to case."""
    return _cases().get(character, character) if kind is Kind.TEXT else character


@cache
def _cases() -> dict[str, str]:
    groups: dict[str, str] = {}
    for character in map(chr, range(MAX_CASED)):
        folded = character.casefold()
        groups[folded] = groups.get(folded, "") + character
    return {character: group for group in groups.values() if len(group) > 1 for character in group}


def _in_regex(part: str | Wild) -> str:
    if isinstance(part, Wild):
        return {Wild.ANY: ".*", Wild.ONE: ".", Wild.BREAK: BREAKS_SET}[part]
    return f"[{part}]" if len(part) > 1 else re.sub(r"[.^$*+?()\[\]{}|\\]", r"\\\g<0>", part)


def _in_glob(part: str | Wild) -> str:
    if isinstance(part, Wild):
        return {Wild.ANY: "*", Wild.ONE: "?", Wild.BREAK: f"[{BREAKS}]"}[part]
    return f"[{part}]" if len(part) > 1 or part in "*?[" else part
