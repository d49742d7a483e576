"""Writes an expression as PostgreSQL does in an index's definition, which SQLAlchemy reads back.

A plan has parentheses around each operation and around all that is cast; the definition, as
`pg_get_indexdef(..., true)` prints it, has those that isSimpleNode() in
src/backend/utils/adt/ruleutils.c asks for. Alembic compares the texts.
"""

from __future__ import annotations

import re

from sqlglot import expressions as sql
from sqlglot.errors import SqlglotError
from sqlglot.tokens import Token, TokenType

from ..plan.dialect import Structure
from ..plan.predicate import Tokens, parse, tokenize

#: The operations whose precedence decides which parentheses PostgreSQL prints.
_ARITHMETIC = (sql.Add, sql.Sub, sql.Mul, sql.Div, sql.Mod)

#: The precedence of the operators.
_PRECEDENCE = {
    TokenType.PLUS: 1,
    TokenType.DASH: 1,
    TokenType.STAR: 2,
    TokenType.SLASH: 2,
    TokenType.MOD: 2,
}
_OPERATORS = {sql.Add: 1, sql.Sub: 1, sql.Mul: 2, sql.Div: 2, sql.Mod: 2}

#: Parts in which PostgreSQL breaks lines or follows further rules; SQLAlchemy reads no collation.
_UNKNOWN = (
    sql.Case, sql.Neg, sql.Not, sql.Between, sql.In, sql.Collate, sql.Connector,
)  # fmt: skip

_BEFORE = {None, TokenType.L_PAREN, TokenType.COMMA, TokenType.L_BRACKET}
_AFTER = {None, TokenType.R_PAREN, TokenType.COMMA, TokenType.R_BRACKET}

#: What stands between the arguments of a call that has a syntax of its own.
_OWN_SYNTAX = {"FROM", "FOR", "IN", "ZONE", "PLACING"}

_TYPE = sql.DataType.Type
_NUMBERS = {
    _TYPE.SMALLINT, _TYPE.INT, _TYPE.BIGINT, _TYPE.DECIMAL, _TYPE.FLOAT, _TYPE.DOUBLE,
}  # fmt: skip
_TIMES = {_TYPE.DATE, _TYPE.TIMESTAMP, _TYPE.TIMESTAMPTZ}
_OTHERS = {_TYPE.BOOLEAN, _TYPE.UUID}
_TEXTS = {_TYPE.TEXT, _TYPE.VARCHAR}

#: A cast behind what is cast, as PostgreSQL prints it.
CAST_TO = re.compile(
    r"""::(?:(?:"[^"]+"|\w+)\.)?(?:"[^"]+"|\w+(?:\ varying|\ precision)?)
    (?:\([\d,]+\))?(?:\ with(?:out)?\ time\ zone)?(?:\[\])*""",
    re.VERBOSE,
)


class _NotKnown(Exception):
    """It takes the server to tell how it prints the expression."""


def as_defined(expression: str) -> str | None:
    """Return a printed expression with the parentheses that an index's definition has.

    None if the text alone does not tell where they are.
    """
    structure = parse(expression)
    if structure is None or any(map(_is_unknown, structure.walk())):
        return None
    try:
        return _Definition(expression, tokenize(expression)).text()
    except (_NotKnown, SqlglotError):
        return None


def is_alike(one: str, other: str) -> bool:
    """Whether Alembic takes two texts of a key for the same: casts, quotes and blanks aside.

    As `_cleanup_index_expr` of alembic/ddl/postgresql.py does it.
    """
    return _compared(one) == _compared(other)


def _compared(text: str) -> str:
    bare = CAST_TO.sub("", text.lower().replace('"', "").replace("'", ""))
    while bare.startswith("(") and bare.endswith(")"):
        bare = bare[1:-1]
    return bare.replace(" ", "")


def printed_keys(definition: str) -> list[str]:
    """Return the keys of a CREATE INDEX that the server printed, without class and direction."""
    try:
        reading = tokenize(definition)
    except SqlglotError:
        return []
    tokens = reading.tokens
    opened = [position for position, around in enumerate(reading.around) if around < 0]
    # The first parentheses are around the keys; a table's name has none that are not quoted.
    start = next((at for at in opened if tokens[at].token_type is TokenType.L_PAREN), None)
    if start is None:
        return []
    keys, first = [], start + 1
    for position in range(start + 1, len(tokens)):
        ends = reading.around[position] == start
        if ends and tokens[position].token_type in {TokenType.COMMA, TokenType.R_PAREN}:
            keys.append(_without_ordering(reading, start, first, position))
            first = position + 1
            if tokens[position].token_type is TokenType.R_PAREN:
                break
    return keys


def _without_ordering(reading: Tokens, around: int, first: int, end: int) -> str:
    """Return the text of a key between two positions: up to its last parentheses, if any."""
    tokens = reading.tokens
    closing = [
        position
        for position in range(first, end)
        if tokens[position].token_type is TokenType.R_PAREN
        and reading.around[reading.around[position]] == around
    ]
    last = closing[0] if closing else first
    return reading.text[tokens[first].start : tokens[last].end + 1]


class _Definition:
    """The parentheses of one text: those to leave out, and those to add."""

    def __init__(self, expression: str, reading: Tokens) -> None:
        self._expression = expression
        self._reading = reading
        self._tokens = reading.tokens
        self._pairs = {
            start: end
            for end, start in enumerate(reading.around)
            if start >= 0
            and self._tokens[end].token_type is TokenType.R_PAREN
            and not self._is_call(start)
        }
        self._added: list[tuple[int, str]] = []

    def text(self) -> str:
        """Return the text; raises _NotKnown."""
        cut = {
            self._tokens[position].start
            for start, end in self._pairs.items()
            if self._is_omitted(start, end)
            for position in (start, end)
        }
        pieces = [(position, "") for position in cut] + self._added
        text = self._expression
        for position, added in sorted(pieces, reverse=True):
            text = text[:position] + added + text[position + (not added) :]
        return text

    def _is_call(self, start: int) -> bool:
        """Whether the parentheses are those of a call or a type."""
        before = self._token(start - 1)
        if before is None:
            return False
        word = self._word(before)
        return word not in _OWN_SYNTAX and re.search(r'[\w"]\Z', word) is not None

    def _is_omitted(self, start: int, end: int) -> bool:
        if self._pairs.get(start - 1) == end + 1:
            # An operation in the parentheses of a cast or a key has some of its own.
            return True
        before, after = self._token(start - 1), self._token(end + 1)
        first, last = _kind(before), _kind(after)
        if first is None and last is None:
            return False
        tokens = self._tokens
        content = parse(self._expression[tokens[start].end + 1 : tokens[end].start])
        if content is None:
            raise _NotKnown
        content = content.unnest()
        if isinstance(content, sql.AtTimeZone):
            return False
        if last is TokenType.DCOLON:
            return self._is_cast_without(start, end, content)
        if first in _BEFORE and last in _AFTER:
            return True
        if _is_operator(self._expression, before) or _is_operator(self._expression, after):
            return _is_simple(content) or self._binds_tighter(start, content, first, last)
        raise _NotKnown

    def _is_cast_without(self, start: int, end: int, content: Structure) -> bool:
        """Whether something is cast without parentheses; else the cast may get some as a whole."""
        if _is_simple(content):
            return True
        following = self._tokens[end + 1].start
        to = CAST_TO.match(self._expression, following)
        # The cast to a length comes after one to the type, which may have parentheses of its own.
        if to is None or "(" in to[0]:
            raise _NotKnown
        after = next((token for token in self._tokens if token.start >= to.end()), None)
        around = (self._token(start - 1), after)
        if any(self._word(token) in _OWN_SYNTAX for token in around):
            raise _NotKnown
        is_operand = any(_is_operator(self._expression, token) for token in around)
        if is_operand and not _is_simple(parse(self._expression[self._from(start) : to.end()])):
            self._added += [(self._from(start), "("), (to.end(), ")")]
        return False

    def _word(self, token: Token | None) -> str:
        return "" if token is None else self._expression[token.start : token.end + 1].upper()

    def _from(self, position: int) -> int:
        return self._tokens[position].start

    def _binds_tighter(
        self,
        start: int,
        content: Structure,
        before: TokenType | None,
        after: TokenType | None,
    ) -> bool:
        """Whether an operation needs no parentheses as an operand of arithmetic."""
        if not isinstance(content, _ARITHMETIC):
            return False
        own = _OPERATORS[type(content)]
        if before in _BEFORE and after in _PRECEDENCE:
            return own >= _PRECEDENCE[after]
        # A sign has a higher precedence than all of them.
        sign = _kind(self._token(start - 2))
        is_sign = sign in _BEFORE or sign in _PRECEDENCE
        if before in _PRECEDENCE and not is_sign and after in _AFTER:
            return own > _PRECEDENCE[before]
        return False

    def _token(self, position: int) -> Token | None:
        return self._tokens[position] if 0 <= position < len(self._tokens) else None


def _kind(token: Token | None) -> TokenType | None:
    return None if token is None else token.token_type


def _is_operator(expression: str, token: Token | None) -> bool:
    """Whether a token is an operator; of those that are words, IS is the only one."""
    if token is None or token.token_type in (_BEFORE | _AFTER):
        return False
    if token.token_type is TokenType.IS:
        return True
    return re.search(r"[\w'\"]", expression[token.start : token.end + 1]) is None


def _is_unknown(node: Structure) -> bool:
    """Whether PostgreSQL prints a part by rules that are not followed here, or never prints it."""
    if isinstance(node, _UNKNOWN):
        return True
    above = node.parent
    if not (_is_operation(node) and above is not None and _is_operation(above)):
        return False
    # The server prints operations without parentheses only in arithmetic.
    return not (isinstance(node, _ARITHMETIC) and isinstance(above, _ARITHMETIC))


def _is_operation(node: Structure) -> bool:
    return isinstance(node, sql.Binary) and not isinstance(node, sql.Dot)


def _is_simple(node: Structure | None) -> bool:
    """Whether PostgreSQL needs no parentheses around what is cast, or is an operand."""
    if node is None:
        raise _NotKnown
    node = node.unnest()
    if isinstance(node, sql.Cast):
        return _is_simple(node.this) or _calls_a_function(node)
    return not _is_operation(node)


def _calls_a_function(cast: sql.Cast) -> bool:
    """Whether a cast of an operation is a call, not a conversion to or from text.

    As https://www.postgresql.org/docs/current/catalog-pg-cast.html has it; raises _NotKnown.
    """
    of, to = cast.this.unnest(), cast.to
    if isinstance(of, sql.Cast) or to.expressions or not isinstance(to.this, _TYPE):
        raise _NotKnown
    if isinstance(of, sql.JSONExtractScalar | sql.JSONBExtractScalar):
        if to.this in _NUMBERS | _TIMES | _OTHERS | _TEXTS:
            return False
    elif isinstance(of, sql.JSONExtract):
        if to.this in _NUMBERS | _TEXTS | {_TYPE.BOOLEAN}:
            return to.this not in _TEXTS
    elif isinstance(of, _ARITHMETIC) and to.this in _NUMBERS | _TIMES | _TEXTS:
        return to.this not in _TEXTS
    raise _NotKnown
