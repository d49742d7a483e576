"""Reads the predicates that PostgreSQL prints in a plan.

PostgreSQL prints each operand in its own parentheses and each constant with its type, so a
condition can be cut at the level of its tokens, and every piece stays the server's own text. That
matters: an expression that was printed anew by a parser may name another function, and an index on
it would never be used. The parser is asked for structure only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, TypeAlias

import sqlglot.errors
from sqlglot import expressions as sql
from sqlglot import parse_one
from sqlglot.dialects.postgres import Postgres
from sqlglot.parsers.postgres import PostgresParser
from sqlglot.tokens import Token, TokenType

#: Comparisons that a btree index can answer.
BTREE_OPERATORS = frozenset({"=", "<", "<=", ">", ">=", "= ANY"})

#: Comparisons of which btree has no use, but that may be the condition of a partial index.
PARTIAL_OPERATORS = frozenset({"<>", "<> ALL"})

#: Comparisons with their sides exchanged.
FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "@>": "<@", "<@": "@>"}

#: Longer texts, in characters, are read anew each time: their tokens take a hundredfold.
MAX_REMEMBERED = 2000

#: What a type's name consists of, as in `numeric(10,2)` or `"Mood"[]`.
_TYPE_NAME = re.compile(r'[\w\s".,()\[\]]+')

_OPENING = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.CASE}
_CLOSING = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.END}
_SYMBOLS = set("+-*/<>=~!@#%^&|?")

#: An expression's structure, or a part of it.
Structure: TypeAlias = sql.Expr


class PrintedSQL(Postgres):
    """PostgreSQL's dialect, but every function keeps the name that the server printed."""

    NORMALIZE_FUNCTIONS = False

    class Tokenizer(Postgres.Tokenizer):
        """Reads `show`, `call` and the like as names: no condition starts a command."""

        COMMANDS: ClassVar[set[TokenType]] = set()

    class Parser(PostgresParser):
        """Reads each call as an anonymous function."""

        FUNCTIONS: ClassVar[dict[str, Any]] = {}


@dataclass(frozen=True)
class Operand:
    """One side of a comparison, as printed: with the alias before each column."""

    text: str
    columns: tuple[tuple[str, str], ...]

    @property
    def aliases(self) -> frozenset[str]:
        """The aliases of the relations that it reads."""
        return frozenset(alias for alias, _ in self.columns)

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns that it reads, each once, in order of appearance."""
        return tuple(dict.fromkeys(name for _, name in self.columns))

    @property
    def column(self) -> str | None:
        """The column's name if it is nothing but a column."""
        tokens = tokenize(bare(self.text)).tokens
        return tokens[2].text if len(tokens) == 3 and _is_column(tokens, 0) else None

    @property
    def cast_column(self) -> tuple[str, str] | None:
        """The column and the type if it is nothing but a column cast to a type."""
        text = bare(self.text)
        casts = tokenize(text).at_top_level(TokenType.DCOLON)
        if len(casts) != 1:
            return None
        column = Operand(text[: casts[0].start], self.columns).column
        type_name = text[casts[0].end + 1 :].strip()
        return (column, type_name) if column and _TYPE_NAME.fullmatch(type_name) else None

    @property
    def casts(self) -> tuple[str, tuple[str, ...]] | None:
        """The column and the types, innermost first, if it is nothing but a column in casts."""
        text, types = bare(self.text), list[str]()
        while casts := tokenize(text).at_top_level(TokenType.DCOLON):
            type_name = text[casts[-1].end + 1 :].strip()
            if not _TYPE_NAME.fullmatch(type_name):
                return None
            types.insert(0, type_name)
            text = bare(text[: casts[-1].start])
        column = Operand(text, self.columns).column
        return (column, tuple(types)) if column and types else None

    def without_alias(self) -> str:
        """The text as it would stand in CREATE INDEX: columns without the alias."""
        text = bare(self.text)
        tokens = tokenize(text).tokens
        pieces, position = [], 0
        for index in range(len(tokens) - 2):
            if _is_column(tokens, index):
                pieces.append(text[position : tokens[index].start])
                position = tokens[index + 2].start
        return "".join([*pieces, text[position:]])


@dataclass(frozen=True)
class Conjunct:
    """One of the predicates that a condition joins by AND.

    `operator` is the comparison at its top level, `= ANY` for IN lists, and empty if there is
    none; `left` and `right` are then the whole text and nothing.
    """

    text: str
    operator: str
    left: Operand
    right: Operand

    @property
    def sides(self) -> tuple[tuple[Operand, Operand], ...]:
        """Each operand with its opposite; of an IN list only the left one."""
        if self.operator == "= ANY":
            return ((self.left, self.right),)
        return ((self.left, self.right), (self.right, self.left))

    @property
    def alternatives(self) -> tuple[tuple[Conjunct, ...], ...]:
        """The predicates of each branch if OR joins several, else nothing."""
        cuts = tokenize(self.text).at_top_level(TokenType.OR)
        if not cuts:
            return ()
        return tuple(conjuncts(branch) for branch in _between(self.text, cuts))


@lru_cache(maxsize=1024)
def conjuncts(condition: str) -> tuple[Conjunct, ...]:
    """Return the predicates that `condition`, a Filter or Cond of a plan, joins by AND.

    What cannot be read yields nothing: a rule then has nothing to say.
    """
    try:
        text = bare(condition)
        cuts = tokenize(text).at_top_level(TokenType.AND)
        return tuple(_conjunct(bare(piece)) for piece in _between(text, cuts))
    except sqlglot.errors.SqlglotError:
        return ()


def _between(text: str, cuts: list[Token]) -> list[str]:
    """Return what stands before, between and after some tokens."""
    starts = [0, *(cut.end + 1 for cut in cuts)]
    ends = [*(cut.start for cut in cuts), len(text)]
    return [text[start:end] for start, end in zip(starts, ends, strict=True)]


def parse(text: str) -> Structure | None:
    """Return the structure of a printed expression, or None if it cannot be read.

    Names of functions are kept as printed; never print the result back as SQL to run.
    """
    try:
        # As a select item, so that a column named like a command is not taken for one.
        select = parse_one(f"SELECT {text}", dialect=PrintedSQL)
    except (sqlglot.errors.SqlglotError, RecursionError):
        return None
    items = select.expressions if isinstance(select, sql.Select) else []
    return items[0] if len(items) == 1 and isinstance(items[0], Structure) else None


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text, and how many parentheses, brackets and CASEs are open before each."""

    tokens: tuple[Token, ...]
    depths: tuple[int, ...]

    def at_top_level(self, kind: TokenType) -> list[Token]:
        """Return the tokens of this kind that stand in no parentheses."""
        pairs = zip(self.tokens, self.depths, strict=True)
        return [token for token, depth in pairs if depth == 0 and token.token_type is kind]


def tokenize(text: str) -> Tokens:
    """Return the tokens of `text`, each with its position; raises SqlglotError."""
    return _remembered_tokens(text) if len(text) <= MAX_REMEMBERED else _tokens(text)


def _tokens(text: str) -> Tokens:
    tokens, depths, depth = tuple(PrintedSQL().tokenize(text)), [], 0
    for token in tokens:
        depths.append(depth)
        if token.token_type in _OPENING:
            depth += 1
        elif token.token_type in _CLOSING:
            depth -= 1
    return Tokens(tokens, tuple(depths))


_remembered_tokens = lru_cache(maxsize=2048)(_tokens)


def bare(text: str) -> str:
    """Return the text without white space and parentheses around the whole of it."""
    text = text.strip()
    while text.startswith("("):
        reading = tokenize(text)
        closes = reading.tokens[-1].token_type is TokenType.R_PAREN
        if not closes or any(depth == 0 for depth in reading.depths[1:]):
            break
        text = text[1:-1].strip()
    return text


def _conjunct(text: str) -> Conjunct:
    start, end = _operator(text)
    operator = text[start:end]
    if not operator:
        return Conjunct(text, "", operand(text), operand(""))
    right = text[end:].strip()
    words = tokenize(right).tokens
    if operator == "=" and words and words[0].token_type is TokenType.ANY:
        operator, right = "= ANY", right[words[0].end + 1 :]
    return Conjunct(text, operator, operand(text[:start].strip()), operand(bare(right)))


def _operator(text: str) -> tuple[int, int]:
    """Return where the operator at the top level of a predicate starts and ends."""
    start = end = 0
    reading = tokenize(text)
    for token, depth in zip(reading.tokens, reading.depths, strict=True):
        symbol = depth == 0 and set(text[token.start : token.end + 1]) <= _SYMBOLS
        # The star of a whole row, as in `t.*`, is no operator.
        symbol = symbol and not text[: token.start].endswith(".")
        if symbol and (end == 0 or token.start == end):
            start = start if end else token.start
            end = token.end + 1
        elif end or (depth == 0 and token.token_type in (TokenType.OR, TokenType.IS)):
            break
    return start, end


def operand(text: str) -> Operand:
    """Return an expression as one side of a comparison; raises SqlglotError."""
    tokens = tokenize(text).tokens
    return Operand(
        text,
        tuple(
            (tokens[index].text, tokens[index + 2].text)
            for index in range(len(tokens) - 2)
            if _is_column(tokens, index)
        ),
    )


def _is_column(tokens: tuple[Token, ...], index: int) -> bool:
    """Whether `alias . column` starts at this token; `schema . function (` does not count."""
    alias, dot, name = tokens[index : index + 3]
    if dot.token_type is not TokenType.DOT or not (_is_word(alias) and _is_word(name)):
        return False
    # What follows `::` is the name of a type.
    if index and tokens[index - 1].token_type in (TokenType.DOT, TokenType.DCOLON):
        return False
    following = tokens[index + 3] if index + 3 < len(tokens) else None
    return following is None or following.token_type not in (TokenType.L_PAREN, TokenType.DOT)


def _is_word(token: Token) -> bool:
    quoted = token.token_type is TokenType.IDENTIFIER
    return quoted or token.text[:1].isalpha() or token.text[:1] == "_"
