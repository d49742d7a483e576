"""What a statement writes, which its cost does not have: the rows, and entries of new indexes.

An index on a column that an UPDATE sets finds the rows faster, but has to take an entry of each.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlglot.errors import SqlglotError
from sqlglot.tokens import Token, TokenType

from ..plan.predicate import Tokens, tokenize
from ..plan.tree import Node, Plan
from .candidate import Candidate, mentions

#: What it costs to write a row, or an entry of an index. Measured on PostgreSQL 15 and 18 with
#: updates of 1000 to 30 000 of 100 000 rows: an entry took 8 to 27 µs and a row as long, while the
#: scan took 7 to 20 µs for each unit of its cost.
COST_PER_WRITE = 1.0

#: What ends the assignments of an UPDATE.
_ENDS = frozenset({TokenType.WHERE, TokenType.FROM, TokenType.RETURNING})


def cost_of_writes(text: str, plan: Plan, indexes: Iterable[Candidate] = ()) -> float:
    """Return what a plan of a statement writes to tables and to these new indexes, as cost.

    `text` is that of the statement. What it deletes needs no new entries.
    """
    writes = 0.0
    for node in plan.nodes:
        if node.operation in {"Insert", "Update"}:
            entries = sum(_is_written(index, node, text) for index in indexes)
            rows = sum(child.rows for child in node.children if child.subplan is None)
            writes += rows * (1 + entries) * COST_PER_WRITE
    return writes


def _is_written(index: Candidate, node: Node, text: str) -> bool:
    """Whether a step that writes rows has to write their entries of an index as well."""
    if index.relation.key != node.qualified_relation:
        return False
    if node.operation == "Insert":
        return True
    written = map(index.relation.quoted_column, updated_columns(text))
    held = (*index.expressions, *index.included)
    return any(mentions(term, column) for column in written for term in held)


def updated_columns(text: str) -> frozenset[str]:
    """Return the columns that an UPDATE sets, unquoted; none if it is no UPDATE.

    An UPDATE inside a WITH query is not read.
    """
    try:
        reading = tokenize(text)
    except SqlglotError:
        return frozenset()
    return frozenset(_assigned(reading))


def _assigned(reading: Tokens) -> Iterable[str]:
    """Yield the names in front of each `=` of SET, alone or in parentheses."""
    begins, inside, listed = False, False, -1
    for position, (token, around) in enumerate(zip(reading.tokens, reading.around, strict=True)):
        kind = token.token_type
        if around < 0:
            listed = position if begins and kind is TokenType.L_PAREN else listed
            if inside and kind in _ENDS:
                return
            if inside and begins and kind is not TokenType.L_PAREN:
                yield _name(token)
            inside = inside or kind is TokenType.SET
            begins = kind is TokenType.SET or (inside and kind is TokenType.COMMA)
        elif around == listed and inside and kind not in {TokenType.COMMA, TokenType.R_PAREN}:
            yield _name(token)


def _name(token: Token) -> str:
    return token.text if token.token_type is TokenType.IDENTIFIER else token.text.lower()
