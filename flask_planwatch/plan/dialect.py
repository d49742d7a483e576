"""SQL as PostgreSQL prints it: how sqlglot reads it and writes it again."""

from __future__ import annotations

import threading
from typing import ClassVar, TypeAlias, cast

from sqlglot import Tokenizer
from sqlglot import expressions as sql
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import ParseError
from sqlglot.tokens import TokenType

#: An expression's structure, or a part of it.
Structure: TypeAlias = sql.Expr

#: The tokenizer of each thread: to make one takes longer than to read most texts.
_OWN = threading.local()


class PrintedSQL(Postgres):
    """PostgreSQL's dialect, but every function keeps the name that the server printed.

    The parser is sqlglot's own: where that is compiled, as `sqlglot[c]` is, nothing may inherit
    from it.
    """

    NORMALIZE_FUNCTIONS = False

    class Tokenizer(Postgres.Tokenizer):
        """Reads `show`, `call` and the like as names: no condition starts a command."""

        COMMANDS: ClassVar[set[TokenType]] = set()


def tokenizer() -> Tokenizer:
    """Return this thread's tokenizer."""
    made = getattr(_OWN, "tokenizer", None)
    if made is None:
        made = _OWN.tokenizer = PrintedSQL().tokenizer()
    return cast(Tokenizer, made)


def read_statement(text: str) -> Structure:
    """Return the structure of one statement, with each call as that of an unknown function.

    Raises SqlglotError, or RecursionError for one that is nested too deeply.
    """
    tokens = tokenizer().tokenize(text)
    for token in tokens:
        if token.token_type is TokenType.R_PAREN:
            # With this comment, sqlglot reads any call as that of a function it does not know.
            token.comments.append(sql.SQLGLOT_ANONYMOUS)
    read = PrintedSQL().parser().parse(tokens, text)
    # A comment after a semicolon is a statement to sqlglot.
    statements = [found for found in read if found and not isinstance(found, sql.Semicolon)]
    if len(statements) != 1:
        raise ParseError("not one statement")
    return statements[0]


def write(structure: Structure) -> str:
    """Return a structure as text, for the planner; never the text that it was read from."""
    return structure.sql(dialect=PrintedSQL, comments=False)
