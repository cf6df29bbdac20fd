"""Text to a checked syntax tree, by an LALR grammar: no recursion, time linear in the length."""

import re
from functools import cache
from typing import Literal, cast

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedInput, UnexpectedToken, v_args

from worker.cql.tree import (
    FIELD_NAMES,
    FIELDS,
    Combination,
    Comparison,
    Field,
    Kind,
    Node,
    Not,
    Query,
    Relation,
    SortKey,
)
from worker.cql.values import read_value
from worker.errors import InvalidQuery

#: Characters of a query.
MAX_LENGTH = 4_000
#: Levels of `and`, `or` and `not` inside each other; a run of one of them is one level, parentheses alone are none.
#: SQLite's parser takes no 100.
MAX_NESTING = 50
#: Comparisons in a query.
MAX_TERMS = 100
#: Fields to sort by.
MAX_SORT_KEYS = 10

_GRAMMAR = r"""
start: clauses [sort]
?clauses: clause
    | clauses (AND | OR | NOT) clause -> combine
?clause: comparison
    | NOT clause -> negate
    | _LPAR clauses _RPAR
comparison: WORD RELATION (WORD | STRING)
sort: SORTBY key+
key: WORD [SORT_MODIFIER]

AND.2: /and(?![^\s()=<>"\/])/i
OR.2: /or(?![^\s()=<>"\/])/i
NOT.2: /not(?![^\s()=<>"\/])/i
SORTBY.2: /sortby(?![^\s()=<>"\/])/i
_LPAR: "("
_RPAR: ")"
RELATION: /==|<=|>=|<>|=|<|>/
SORT_MODIFIER: /\/\s*sort\.(ascending|descending)(?![^\s()=<>"\/])/i
STRING: /"(?:[^"\\]|\\.)*"/s
WORD: /(?:\\.|[^\s()=<>"\/\\])+/s
SPACE: /\s+/
%ignore SPACE
"""

#: Where not all of them mean something.
_RELATIONS = {Kind.FLAG: ("=", "==", "<>"), Kind.EVERYTHING: ("=", "==")}

_WORDS = {
    "WORD": "a field",
    "RELATION": "one of = == <> < <= > >=",
    "STRING": "a value (in quotes if it holds spaces or any of ( ) = < > /)",
    "SORT_MODIFIER": "/sort.ascending or /sort.descending",
    "_LPAR": "(",
    "NOT": "not",
    "AND": "and",
    "OR": "or",
    "SORTBY": "sortby",
    "_RPAR": ")",
    "$END": "the end",
}


def parse(query: str) -> Query:
    """The query's syntax tree.

    Raises InvalidQuery with the column (from 1) and what was expected there; it never shows the query itself.
    """
    if len(query) > MAX_LENGTH:
        raise _invalid(MAX_LENGTH, f"at most {MAX_LENGTH} characters")
    if unfit := re.search(r"[\0\ud800-\udfff]", query):
        raise _invalid(unfit.start(), "no NUL character and no lone surrogate")
    try:
        return cast(Query, _parser().parse(query))  # the parser's own transformer makes it one
    except UnexpectedInput as error:
        raise _unexpected(query, error) from None


@cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", transformer=_Build())


def _invalid(position: int, expected: str) -> InvalidQuery:
    return InvalidQuery(f"query: column {position + 1}: expected {expected}")


def _unexpected(query: str, error: UnexpectedInput) -> InvalidQuery:
    if isinstance(error, UnexpectedToken):
        names = set(error.accepts or error.expected)
        position = len(query) if error.token.type == "$END" else _start(error.token)
    else:
        names = set(error.allowed or ()) if isinstance(error, UnexpectedCharacters) else set()
        position = cast(int, error.pos_in_stream)
    if "STRING" in names and query.startswith('"', position):
        return _invalid(len(query), 'a closing "')
    if "STRING" in names:
        names = {"STRING"}
    return _invalid(position, ", ".join(word for name, word in _WORDS.items() if name in names))


def _start(token: Token) -> int:
    return cast(int, token.start_pos)


def _field(name: Token) -> Field:
    field = FIELDS.get(name.lower())
    if field is None:
        raise _invalid(_start(name), f"one of the fields {', '.join(FIELD_NAMES)}")
    return field


def _bounded(node: Node, at: Token) -> Node:
    if node.depth > MAX_NESTING:
        raise _invalid(_start(at), f"nesting of at most {MAX_NESTING} levels")
    if node.terms > MAX_TERMS:
        raise _invalid(_start(at), f"at most {MAX_TERMS} comparisons")
    return node


def _negation(node: Node) -> Node:
    return Not(node, node.depth + 1, node.terms)


@v_args(inline=True)
class _Build(Transformer[Token, Query]):
    """One method for each rule of the grammar; called as soon as the rule is complete."""

    def start(self, where: Node, sort: tuple[SortKey, ...] | None) -> Query:
        return Query(where, sort or ())

    def comparison(self, name: Token, relation: Token, value: Token) -> Node:
        field = _field(name)
        if relation not in _RELATIONS.get(field.kind, (relation,)):
            raise _invalid(_start(relation), f"one of {' '.join(_RELATIONS[field.kind])}")
        sign = cast(Relation, relation.value)
        return Comparison(field, sign, read_value(field.kind, sign, value, _invalid))

    def negate(self, at: Token, node: Node) -> Node:
        return _bounded(_negation(node), at)

    def combine(self, left: Node, operator: Token, right: Node) -> Node:
        kind: Literal["and", "or"] = "or" if operator.type == "OR" else "and"
        if operator.type == "NOT":
            right = _negation(right)
        parts: list[Node] = []
        for side in (left, right):
            parts += side.parts if isinstance(side, Combination) and side.operator == kind else [side]
        depth = 1 + max(part.depth for part in parts)
        return _bounded(Combination(kind, tuple(parts), depth, left.terms + right.terms), operator)

    def key(self, name: Token, modifier: Token | None) -> SortKey:
        field = _field(name)
        if field.kind is Kind.EVERYTHING:
            raise _invalid(_start(name), "a field to sort by")
        return SortKey(field, descending=modifier is not None and modifier.lower().endswith("descending"))

    def sort(self, at: Token, *keys: SortKey) -> tuple[SortKey, ...]:
        if len(keys) > MAX_SORT_KEYS:
            raise _invalid(_start(at), f"at most {MAX_SORT_KEYS} fields to sort by")
        return keys
