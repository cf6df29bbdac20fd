r"""A query language for inbox lists: what FOLIO's `query` parameters use of CQL 1.2 (Contextual Query Language).

    title = "Harry Potter" and createdDate >= 2026-01-31 not seen = true sortby createdDate/sort.descending title

A comparison is `field relation value`. `and`, `or` and `not` have equal precedence and apply from left to right, as CQL
says: `a or b and c` is `(a or b) and c`. `a not b` is a without b; a `not` in front, which CQL has not, negates the one
comparison or the parentheses after it. Names and keywords may have any case. `cql.allRecords=1` is every notification.

A value without spaces and without ( ) = < > / " needs no quotes. `*` stands for any characters, `?` for exactly one;
a backslash takes their meaning from * ? ^ " and itself. Bare `^` (CQL's anchor) is refused.

Fields, with what the relations mean on them:

- title, text: `=` the value's words stand in the text together, in this order, as whole words (`Dune*` where they need
  not end); a space or punctuation mark in the value fits any one space or punctuation mark. `==` the whole text, `<>`
  another text. All without regard to case. Accents count. `<`, `<=`, `>`, `>=` compare in lower case.
- recipientId, senderId, link, eventConfigName, lang, objectType, objectId, scope: `=` and `==` the whole, exactly;
  `*` and `?` with `=`, `==` and `<>`.
- id, parentId: UUIDs.
- createdDate, updatedDate, seenDate: ISO 8601; without an offset UTC. A date alone is the start of that day in UTC,
  and with `=`, `==` and `<>` the whole day.
- seen: true or false.

`senderId = ""` holds where there is a sender. Where a field has no value every comparison is false, `<>` too, and its
`not` is true (as in FOLIO). Sorting puts them last, and text without regard to case.

The same rows come from PostgreSQL and SQLite, letters beyond ASCII included (letters are the same
whose Unicode case folding is; Unicode's composed and decomposed forms differ). Only `<`, `>` and sorting of text depend
on the database: PostgreSQL uses its collation and lower-cases by it, SQLite compares code points and lower-cases ASCII.
"""

from worker.cql.parser import parse
from worker.cql.sql import Fits, Pattern, compile, containing
from worker.cql.tree import Query

__all__ = ["Fits", "Pattern", "Query", "compile", "containing", "parse"]
