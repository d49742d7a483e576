"""Makes sure that a text is one statement, before psycopg2 sends it.

Its protocol runs all statements of a message. The other drivers can use the protocol that takes one
statement only.
"""

from __future__ import annotations

from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType

from ..plan.predicate import tokenize


def is_single(text: str) -> bool:
    """Whether a text is one statement for sure: only a semicolon can separate two."""
    return ";" not in text


def without_end(text: str) -> str:
    """Return a text without a semicolon at its end, and without the comments after that.

    If it is read wrongly, the server refuses what is left.
    """
    if is_single(text):
        return text
    try:
        tokens = list(tokenize(text).tokens)
    except SqlglotError:
        return text
    end = len(text)
    while tokens and tokens[-1].token_type is TokenType.SEMICOLON:
        end = tokens.pop().start
    return text[:end]


def in_brackets(text: str) -> str:
    """Return a statement that the server takes only if `text` is one statement itself.

    Between the brackets, a semicolon is an error of syntax, for which the server refuses the whole
    message. It holds for a text whose own brackets are in pairs.
    """
    # The line's end closes a comment.
    return f"WITH planwatch AS (\n{text}\n) SELECT 1"
