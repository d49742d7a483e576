"""Reads the predicates that PostgreSQL prints in a plan.

PostgreSQL prints each operand in its own parentheses and each constant with its type. So a
condition can be cut between its tokens, and every piece is the server's own text. That matters: an
expression that a parser prints may name another function, and an index on it would never be used.
The parser is asked for structure only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import sqlglot.errors
from sqlglot import expressions as sql
from sqlglot.tokens import Token, TokenType

from .dialect import Structure, read_statement, tokenizer
from .figures import SUB_QUERIES
from .memory import kept_for_plans, remembered
from .tree import Plan

#: Comparisons that a btree index can answer.
BTREE_OPERATORS = frozenset({"=", "<", "<=", ">", ">=", "= ANY"})

#: Comparisons that no btree index answers, but that may be the condition of a partial index.
PARTIAL_OPERATORS = frozenset({"<>", "<> ALL"})

#: Comparisons with their sides exchanged.
FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "@>": "<@", "<@": "@>"}
FLIPPED |= {"<<": ">>", ">>": "<<", "<<=": ">>=", ">>=": "<<="}

#: Bytes of all conditions together that each of the functions here remembers, with their parts. Of
#: an inspection of 26 ms, `parse` saves 3 ms, `conjuncts` 2.4 and `tokenize` 0.9.
MAX_READ_SIZE = 2_000_000

#: What a character of a condition takes once it is read, in bytes: measured, most of it in tokens.
PER_CHARACTER = 120

#: The longest condition that is read, in characters without its literals: some 200 tests by OR. To
#: read and judge a longer one takes more than 0.2 s of computing.
MAX_CONDITION = 6_000

_QUOTED = re.compile(r"'(?:[^']++|'')*+'")

#: What a type's name consists of, as in `numeric(10,2)` or `"Mood"[]`.
_TYPE_NAME = re.compile(r'[\w\s".,()\[\]]+')

#: What is in a text with a sub-query or a parameter.
_LATER = re.compile(r"\$\d|SubPlan|InitPlan")

_OPENING = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.CASE}
_CLOSING = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.END}
_SYMBOLS = set("+-*/<>=~!@#%^&|?")


@dataclass(frozen=True)
class Operand:
    """One side of a comparison, as printed: with the alias before each column.

    What several rules ask of it is kept, which saves 2.5 ms of an inspection of 26 ms.
    """

    text: str
    columns: tuple[tuple[str, str], ...]
    #: The piece that it was cut out of, if known, so that it need not be read again.
    _piece: _Piece | None = field(default=None, repr=False, compare=False)

    @cached_property
    def aliases(self) -> frozenset[str]:
        """The aliases of the relations that it reads."""
        return frozenset(alias for alias, _ in self.columns)

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """The columns that it reads, each once, in order of appearance."""
        return tuple(dict.fromkeys(name for _, name in self.columns))

    @cached_property
    def column(self) -> str | None:
        """The column's name if it is nothing but a column."""
        return self._bare.column

    @cached_property
    def cast_column(self) -> tuple[str, str] | None:
        """The column and the type if it is nothing but a column cast to a type."""
        if self.casts is None or len(self.casts[1]) != 1:
            return None
        return self.casts[0], self.casts[1][0]

    @cached_property
    def casts(self) -> tuple[str, tuple[str, ...]] | None:
        """The column and the types, innermost first, if it is nothing but a column in casts."""
        piece, types = self._bare, list[str]()
        while (cast := piece.last(TokenType.DCOLON)) is not None:
            type_name = piece.between(cast + 1, piece.end).text
            if not _TYPE_NAME.fullmatch(type_name):
                return None
            types.append(type_name)
            piece = piece.between(piece.start, cast).bare()
        column = piece.column
        return (column, tuple(reversed(types))) if column and types else None

    def without_alias(self) -> str:
        """Return the text as CREATE INDEX needs it: columns without the alias."""
        return self._without_alias

    @cached_property
    def _without_alias(self) -> str:
        text, tokens = self._bare.reading.text, self._bare.tokens
        position, end = self._bare.span
        pieces = []
        for index in range(len(tokens) - 2):
            if _is_column(tokens, index):
                pieces.append(text[position : tokens[index].start])
                position = tokens[index + 2].start
        return "".join([*pieces, text[position:end]]).strip()

    @property
    def _bare(self) -> _Piece:
        return (self._piece or _whole(self.text)).bare()


@dataclass(frozen=True)
class Conjunct:
    """One of the predicates that a condition joins by AND.

    `operator` is the comparison at its top level, `= ANY` for IN lists, and empty if there is
    none; `left` and `right` are then the whole text and nothing. What several rules ask of it is
    kept: of a hundred tests by OR, `alternatives` take 0.2 ms each time.
    """

    text: str
    operator: str
    left: Operand
    right: Operand
    #: The piece that it was cut out of, if known.
    _piece: _Piece | None = field(default=None, repr=False, compare=False)

    @cached_property
    def condition(self) -> str:
        """The text as the condition of a partial index would have it: without aliases."""
        return Operand(self.text, (), self._piece).without_alias()

    @cached_property
    def alternatives(self) -> tuple[tuple[Conjunct, ...], ...]:
        """The predicates of each branch if OR joins several, else nothing."""
        if self.operator:
            return ()
        branches = (self._piece or _whole(self.text)).split(TokenType.OR)
        return tuple(conjuncts(branch.text) for branch in branches) if len(branches) > 1 else ()


def is_too_long(condition: str) -> bool:
    """Whether a condition is longer than PlanWatch reads, its literals left aside."""
    return len(condition) > MAX_CONDITION and len(without_literals(condition)) > MAX_CONDITION


def without_literals(condition: str) -> str:
    """Return a condition without its literals, each of which is read as one word."""
    return _QUOTED.sub("", condition)


# Rules and fixes ask it of the same few plans: 0.7 ms.
@kept_for_plans(2)
def predicates(plan: Plan) -> Mapping[int, tuple[tuple[str, tuple[Conjunct, ...]], ...]]:
    """Return the conditions of each node, by its id(): the kind, and what it joins by AND."""
    return {
        id(node): tuple((kind, conjuncts(condition)) for kind, condition in node.conditions)
        for node in plan.nodes
    }


@remembered(MAX_READ_SIZE, PER_CHARACTER)
def conjuncts(condition: str) -> tuple[Conjunct, ...]:
    """Return the predicates that `condition`, a Filter or Cond of a plan, joins by AND.

    A condition that cannot be read yields nothing, so that no rule reports it.
    """
    try:
        pieces = _whole(condition).bare().split(TokenType.AND)
        return tuple(_conjunct(piece.bare()) for piece in pieces)
    except sqlglot.errors.SqlglotError:
        return ()


@remembered(MAX_READ_SIZE, PER_CHARACTER)
def parse(text: str) -> Structure | None:
    """Return the structure of a printed expression, or None if it cannot be read.

    Names of functions are kept as printed; never print the result back as SQL to run.
    """
    try:
        # As a select item, so that a column named like a command is not taken for one.
        select = read_statement(f"SELECT {text}")
    except (sqlglot.errors.SqlglotError, RecursionError):
        return None
    items = select.expressions if isinstance(select, sql.Select) else []
    return items[0] if len(items) == 1 and isinstance(items[0], Structure) else None


@dataclass(frozen=True)
class Tokens:
    """A text and its tokens.

    `around` has for each token the position of the token that opens the parentheses, brackets or
    CASE around it, or that it closes; -1 at the top level.
    """

    text: str
    tokens: tuple[Token, ...]
    around: tuple[int, ...]

    def at_top_level(self, kind: TokenType) -> list[Token]:
        """Return the tokens of this kind that are in no parentheses."""
        pairs = zip(self.tokens, self.around, strict=True)
        return [token for token, around in pairs if around < 0 and token.token_type is kind]


def parameters_in(text: str) -> frozenset[int]:
    """Return the numbers of the parameters in a printed text: 1 for `$1`.

    A `$1` inside a literal does not count. A text that cannot be read has none.
    """
    tokens = tokens_in(text) if "$" in text else ()
    return frozenset(
        int(number.text)
        for mark, number in pairwise(tokens)
        if mark.token_type is TokenType.PARAMETER and number.text.isdecimal()
    )


def waits_for_a_value(text: str) -> bool:
    """Whether a value in a printed text is known only while the statement runs.

    That is the value of a parameter or of a sub-query. A text that cannot be read may have either.
    """
    if not _LATER.search(text):
        return False
    tokens = tokens_in(text)
    names = {token.text for token in tokens if token.token_type is TokenType.VAR}
    return not tokens or not names.isdisjoint(SUB_QUERIES) or bool(parameters_in(text))


@remembered(MAX_READ_SIZE, PER_CHARACTER)
def tokenize(text: str) -> Tokens:
    """Return the tokens of `text`, each with its position; raises SqlglotError."""
    tokens, around, opened = tuple(tokenizer().tokenize(text)), [], [-1]
    for position, token in enumerate(tokens):
        around.append(opened[-1])
        if token.token_type in _OPENING:
            opened.append(position)
        elif token.token_type in _CLOSING and len(opened) > 1:
            opened.pop()
    return Tokens(text, tokens, tuple(around))


def tokens_in(text: str) -> tuple[Token, ...]:
    """Return the tokens of `text`, or nothing if it cannot be read."""
    try:
        return tokenize(text).tokens
    except sqlglot.errors.SqlglotError:
        return ()


@dataclass(frozen=True)
class _Piece:
    """A part of a text that was read once: its tokens from `start` to before `end`."""

    reading: Tokens
    start: int
    end: int

    @property
    def tokens(self) -> tuple[Token, ...]:
        return self.reading.tokens[self.start : self.end]

    @property
    def span(self) -> tuple[int, int]:
        """Where it starts and ends in the text, with the white space around it."""
        tokens = self.reading.tokens
        start = tokens[self.start - 1].end + 1 if self.start else 0
        end = tokens[self.end].start if self.end < len(tokens) else len(self.reading.text)
        return start, end

    @property
    def text(self) -> str:
        start, end = self.span
        return self.reading.text[start:end].strip()

    @property
    def column(self) -> str | None:
        """The column's name if it is nothing but a column."""
        tokens = self.tokens if self.end - self.start == 3 else ()
        return tokens[2].text if tokens and _is_column(tokens, 0) else None

    @property
    def at_top_level(self) -> Iterator[tuple[int, Token]]:
        """The tokens that are in no parentheses of the piece, each with its position."""
        tokens, around = self.reading.tokens, self.reading.around
        for position in range(self.start, self.end):
            if around[position] == around[self.start]:
                yield position, tokens[position]

    def last(self, kind: TokenType) -> int | None:
        """Return the position of the last token of this kind that is in no parentheses."""
        found = [position for position, token in self.at_top_level if token.token_type is kind]
        return found[-1] if found else None

    def between(self, start: int, end: int) -> _Piece:
        """Return the piece from one token up to another, which are named by their positions."""
        return _Piece(self.reading, start, end)

    def split(self, kind: TokenType) -> list[_Piece]:
        """Return what is before, between and after the tokens of a kind at the top level."""
        cuts = [position for position, token in self.at_top_level if token.token_type is kind]
        starts = [self.start, *(cut + 1 for cut in cuts)]
        return list(map(self.between, starts, [*cuts, self.end]))

    def bare(self) -> _Piece:
        """Return the piece without parentheses around the whole of it."""
        tokens, around = self.reading.tokens, self.reading.around
        start, end = self.start, self.end
        while (
            end - start > 1
            and tokens[start].token_type is TokenType.L_PAREN
            and tokens[end - 1].token_type is TokenType.R_PAREN
            and around[end - 1] == start
        ):
            start, end = start + 1, end - 1
        return self.between(start, end)


def _whole(text: str) -> _Piece:
    """Return a text as one piece; raises SqlglotError."""
    reading = tokenize(text)
    return _Piece(reading, 0, len(reading.tokens))


def bare(text: str) -> str:
    """Return the text without white space and parentheses around the whole of it, if readable."""
    text = text.strip()
    try:
        return _whole(text).bare().text if text.startswith("(") else text
    except sqlglot.errors.SqlglotError:
        return text


def _conjunct(piece: _Piece) -> Conjunct:
    start, end = _operator(piece)
    if start == end:
        return Conjunct(piece.text, "", _operand(piece), Operand("", ()), piece)
    tokens = piece.reading.tokens
    operator = piece.reading.text[tokens[start].start : tokens[end - 1].end + 1]
    if operator == "=" and end < piece.end and tokens[end].token_type is TokenType.ANY:
        operator, end = "= ANY", end + 1
    left, right = piece.between(piece.start, start), piece.between(end, piece.end)
    return Conjunct(piece.text, operator, _operand(left), _operand(right.bare()), piece)


def _operator(piece: _Piece) -> tuple[int, int]:
    """Return the positions where the operator at the top level of a predicate starts and ends."""
    text, tokens = piece.reading.text, piece.reading.tokens
    start = end = piece.start
    for position, token in piece.at_top_level:
        symbol = set(text[token.start : token.end + 1]) <= _SYMBOLS
        # The star of a whole row, as in `t.*`, is no operator.
        symbol = symbol and text[token.start - 1 : token.start] != "."
        if symbol and (start == end or token.start == tokens[end - 1].end + 1):
            start = start if start < end else position
            end = position + 1
        elif start < end or token.token_type in (TokenType.OR, TokenType.IS):
            break
    return start, end


def operand(text: str) -> Operand:
    """Return an expression as one side of a comparison; raises SqlglotError."""
    return _operand(_whole(text))


def _operand(piece: _Piece) -> Operand:
    tokens = piece.tokens
    return Operand(
        piece.text,
        tuple(
            (tokens[index].text, tokens[index + 2].text)
            for index in range(len(tokens) - 2)
            if _is_column(tokens, index)
        ),
        piece,
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
