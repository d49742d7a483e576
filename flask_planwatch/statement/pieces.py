"""The pieces of a statement: its tokens without values, and what some of them mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from sqlglot.tokens import TokenType

from ..runtime.pause import give_way

#: Pieces, or terms, that are read between two pauses: some 0.5 ms.
STEP = 100

#: Words that begin a clause. No list goes on beyond one of them.
CLAUSES = frozenset(
    {TokenType.SELECT, TokenType.DISTINCT, TokenType.FROM, TokenType.WHERE, TokenType.GROUP_BY}
    | {TokenType.HAVING, TokenType.ORDER_BY, TokenType.LIMIT, TokenType.OFFSET, TokenType.FETCH}
    | {TokenType.VALUES, TokenType.SET, TokenType.ON, TokenType.USING, TokenType.RETURNING}
    | {TokenType.WHEN, TokenType.THEN, TokenType.ELSE, TokenType.WINDOW, TokenType.INTO}
    | {TokenType.WITH, TokenType.PARTITION_BY, TokenType.INSERT, TokenType.UPDATE, TokenType.FOR}
    | {TokenType.JOIN, TokenType.LEFT, TokenType.RIGHT, TokenType.FULL, TokenType.INNER}
    | {TokenType.OUTER, TokenType.CROSS, TokenType.NATURAL, TokenType.LATERAL}
)

#: Clauses in which a number alone is the position of a column, so that it is no value.
POSITIONS = frozenset({TokenType.ORDER_BY, TokenType.GROUP_BY})

#: Words after which a name is no alias: PostgreSQL's reserved words, and others that may come
#: before a name in a statement that is planned.
_BEFORE_NAMES = frozenset(
    (  # noqa: SIM905 - a line for each would take two pages
        "ALL ANALYSE ANALYZE AND ANY ARRAY AS ASYMMETRIC AUTHORIZATION BETWEEN BINARY BOTH BY "
        "CALL CASE CAST CHECK CLOSE COLLATE COLLATION COLUMN CONCURRENTLY CONSTRAINT CREATE CROSS "
        "CURSOR CYCLE DEALLOCATE DECLARE DEFERRABLE DISTINCT DO ELSE ESCAPE EXCEPT EXECUTE FETCH "
        "FOR FOREIGN FREEZE FROM FULL GRANT GROUP HAVING ILIKE IN INITIALLY INNER INTERSECT INTO "
        "IS JOIN LATERAL LEADING LEFT LIKE LIMIT NATURAL NOT OF OFFSET ON ONLY OR ORDER OUTER "
        "OVER OVERLAPS PASSING PLACING PREPARE PRIMARY RECURSIVE REFERENCES RELEASE RETURNING "
        "RIGHT SAVEPOINT SELECT SET SIMILAR SOME SYMMETRIC TABLE TABLESAMPLE THEN TO TRAILING "
        "UNION UNIQUE UPDATE USING VALUES VARIADIC VERBOSE WHEN WHERE WINDOW WITH ZONE"
    ).split()
)

#: The last characters of a word in quotes, of a value, and of what is in brackets.
_OPERANDS_END = frozenset('"?)]')

DIGITS = re.compile(r"\d+")

Item = TypeVar("Item")


@dataclass(slots=True)
class Piece:
    """A token of a statement as it is shown. `spaced`: white space or a comment is before it.

    The type of all masked literals is STRING, that of all parameters PLACEHOLDER. `position` is the
    number that a masked literal is, if it may be the position of a column.
    """

    text: str
    spaced: bool
    type: TokenType
    position: str = ""


def unmark_expressions(pieces: Sequence[Piece]) -> None:
    """Make plain words of those that begin no clause here, though they do elsewhere.

    As in `IS DISTINCT FROM`, in `timestamp with time zone` and in the function `left()`.
    """
    for position, piece in enumerate(pieces):
        if position % STEP == 0:
            give_way()
        kind, following = piece.type, item_at(pieces, position + 1)
        if following is None or kind not in CLAUSES:
            continue
        if kind is TokenType.DISTINCT and following.type is TokenType.FROM:
            before = pieces[position - 1].type if position else None
            words = [piece, following] if before in (TokenType.IS, TokenType.NOT) else []
        elif (kind is TokenType.WITH and following.text.lower() == "time") or (
            kind in (TokenType.LEFT, TokenType.RIGHT) and following.type is TokenType.L_PAREN
        ):
            words = [piece]
        else:
            continue
        for word in words:
            word.type = TokenType.VAR


def ends_operand(words: str) -> bool:
    """Whether an alias may follow these words without AS: they end with a name or a value."""
    if words[-1] in _OPERANDS_END:
        return True
    # sqlglot reads ORDER BY as one.
    word = words.split()[-1].upper()
    return (word[-1].isalnum() or word[-1] == "_") and word not in _BEFORE_NAMES


def item_at(items: Sequence[Item], position: int) -> Item | None:
    """Return an item, None if there is none at this position; -1 is the last one."""
    return items[position] if -len(items) <= position < len(items) else None
