"""Writes an expression as PostgreSQL does in an index's definition, which SQLAlchemy reads back.

A plan has parentheses around each operation and each column that is cast; the definition, as
`pg_get_indexdef(..., true)` prints it, has only those that it needs. Alembic compares the texts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlglot import expressions as sql
from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType

from ..plan.predicate import Tokens, parse, tokenize

#: The operations whose precedence decides which parentheses PostgreSQL prints.
ARITHMETIC = (sql.Add, sql.Sub, sql.Mul, sql.Div, sql.Mod)

#: The precedence of the operators.
_PRECEDENCE = {
    TokenType.PLUS: 1,
    TokenType.DASH: 1,
    TokenType.STAR: 2,
    TokenType.SLASH: 2,
    TokenType.MOD: 2,
}

_NAMES = {TokenType.VAR, TokenType.IDENTIFIER}
_BEFORE = {None, TokenType.L_PAREN, TokenType.COMMA}
_AFTER = {None, TokenType.R_PAREN, TokenType.COMMA}


def as_defined(expression: str) -> str:
    """Return a printed expression without the parentheses that an index's definition omits."""
    try:
        reading = tokenize(expression)
    except SqlglotError:
        return expression
    operators = defaultdict(list)
    for token, start in zip(reading.tokens, reading.around, strict=True):
        if token.token_type in _PRECEDENCE:
            operators[start].append(token.token_type)
    pairs = [
        (start, end)
        for end, start in enumerate(reading.around)
        if start >= 0
        and reading.tokens[end].token_type is TokenType.R_PAREN
        and _is_omitted(reading, start, end, operators[start])
    ]
    cut = {reading.tokens[place].start for pair in pairs for place in pair}
    return "".join(letter for place, letter in enumerate(expression) if place not in cut)


def _is_omitted(reading: Tokens, start: int, end: int, operators: Sequence[TokenType]) -> bool:
    """Whether the definition has no parentheses where these tokens are a pair of them.

    `operators` are those of arithmetic between them, but for what is in further parentheses.
    """
    before, after = _kind(reading, start - 1), _kind(reading, end + 1)
    if before not in _BEFORE and before not in _PRECEDENCE:
        # They belong to a call, or to a construct of SQL.
        return False
    if after is TokenType.DCOLON:
        return end - start == 2 and reading.tokens[start + 1].token_type in {
            *_NAMES,
            TokenType.NUMBER,
        }
    tokens = reading.tokens
    text = reading.text[tokens[start].end + 1 : tokens[end].start]
    if len(operators) != 1 or not isinstance(parse(text), ARITHMETIC):
        return False
    own = _PRECEDENCE[operators[0]]
    if before in _BEFORE and after in _PRECEDENCE:
        return own >= _PRECEDENCE[after]
    # A sign has a higher precedence than all of them.
    is_sign = _kind(reading, start - 2) in _BEFORE | _PRECEDENCE.keys()
    if before in _PRECEDENCE and not is_sign and after in _AFTER:
        return own > _PRECEDENCE[before]
    return False


def _kind(reading: Tokens, place: int) -> TokenType | None:
    """Return the kind of a token; None before the first and after the last."""
    return reading.tokens[place].token_type if 0 <= place < len(reading.tokens) else None
