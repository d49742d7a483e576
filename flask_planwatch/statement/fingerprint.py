"""The identity of a statement: the same for any values, and for any number of them in a list."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from sqlglot.errors import SqlglotError
from sqlglot.tokens import Token, TokenType

from ..plan.dialect import tokenizer
from ..plan.memory import remembered
from ..plan.scrub import LITERALS, MASK, UNREADABLE, literal_end
from ..runtime.pause import give_way
from .folding import fold
from .pieces import Piece
from .shortening import shortened

#: SQLAlchemy's mark for parameters that it expands at each execution, such as an IN list.
_POSTCOMPILE = re.compile(r"__\[POSTCOMPILE_\w++(?:~~.{0,200}?~~)?\]")

#: Its mark for a schema that `schema_translate_map` may replace.
_SCHEMA = re.compile(r"__\[SCHEMA_(\w+)\](\.?)")

#: A numbered parameter, and how sqlglot gets it: `$1,$` may begin a string for it.
_NUMBERED = re.compile(r"(?<![\w$])\$(\d+)")
_WRITTEN = re.compile(r"%\((\d+)\)s")

#: A parameter as a driver reads it.
_PLACEHOLDER = re.compile(r"%s\b|%\(\w+\)s\b|\?")

#: A number that may be the position of a column: a result has 1664 of them at most.
_POSITION = re.compile(r"[1-9]\d{0,3}")

#: What sqlglot reads first of it.
_BEFORE_PLACEHOLDER = {TokenType.MOD, TokenType.PLACEHOLDER}

#: After these, a minus is the sign of a number: there is nothing to subtract the number from.
_BEFORE_SIGN = frozenset("(,=<>[") | {
    *("BETWEEN", "AND", "OR", "LIMIT", "OFFSET", "THEN", "ELSE", "IN", "SELECT", "WHEN")
}

#: Bytes of all statements together that are remembered with their normalised text. An inspection
#: asks for it several times: without, it takes 1.6 ms longer (benchmarks/caches.py).
MAX_TEXTS_SIZE = 2_500_000

#: What a character of a text takes at most, in bytes.
_WIDEST = 4

#: Hex digits of a fingerprint: 64 bits tell apart all statements that one app can have.
_LENGTH = 16


@dataclass(frozen=True)
class _Reading:
    """A statement's text without values, and a digest of what identifies it."""

    text: str
    digest: str


def normalise(text: str) -> str:
    """Return the statement's text with `?` for each literal, and of each list its beginning.

    Comments are removed, because tools write request ids into them; white space is folded.
    """
    return _read(text).text


def fingerprint(text: str, database: str | None) -> str:
    """Return the identity of a statement on one database, as hex digits.

    `database` is a bind key, or what else tells an app's databases apart. `text` is the statement
    as compiled, or as given to the driver. A text that cannot be read is its own identity.
    """
    return _digest(f"{database or ''}\0{_read(text).digest}")[:_LENGTH]


@remembered(MAX_TEXTS_SIZE, _WIDEST)
def _read(text: str) -> _Reading:
    try:
        folded = fold(_pieces(shortened(_plain(text))))
    except SqlglotError:
        return _Reading(UNREADABLE, _digest(text))
    return _Reading(folded.text, _digest(folded.identity))


def _plain(text: str) -> str:
    """Return the text without the marks of SQLAlchemy, and with parameters of one form."""
    if "__[" in text:
        text = _SCHEMA.sub(_schema, _POSTCOMPILE.sub(MASK, text))
    text = text.replace("%%", "%")
    return _NUMBERED.sub(r"%(\1)s", text) if "$" in text else text


def _schema(mark: re.Match[str]) -> str:
    return "" if mark[1] == "_none" else mark[1] + mark[2]


def _pieces(texts: Iterable[str]) -> list[Piece]:
    """Return what a statement consists of, without literals; raises SqlglotError."""
    pieces: list[Piece] = []
    after_space = False
    for text in texts:
        position = 0
        for token in tokenizer().tokenize(text):
            if token.start < position:
                continue
            after_space = after_space or position < token.start
            piece, position = _piece(text, token, after_space)
            if token.token_type is TokenType.NUMBER and _is_signed(pieces):
                piece.spaced, piece.position = pieces.pop().spaced, ""
            pieces.append(piece)
            after_space = False
        after_space = after_space or position < len(text)
        give_way()
    while pieces and pieces[-1].type is TokenType.SEMICOLON:
        pieces.pop()
    return pieces


def _piece(text: str, token: Token, spaced: bool) -> tuple[Piece, int]:
    """Return a token as it is shown, and where it ends."""
    kind = token.token_type
    if kind in _BEFORE_PLACEHOLDER and (parameter := _PLACEHOLDER.match(text, token.start)):
        shown = _WRITTEN.sub(r"$\1", parameter[0])
        return Piece(shown, spaced, TokenType.PLACEHOLDER), parameter.end()
    end = literal_end(text, token)
    if kind in LITERALS:
        position = _POSITION.fullmatch(text, token.start, end)
        return Piece(MASK, spaced, TokenType.STRING, position[0] if position else ""), end
    return Piece(text[token.start : end], spaced, kind), end


def _is_signed(pieces: list[Piece]) -> bool:
    """Whether the last piece is the sign of the number that follows."""
    if len(pieces) < 2 or pieces[-1].type is not TokenType.DASH:
        return False
    before = pieces[-2].text
    return before[-1] in _BEFORE_SIGN or before.upper() in _BEFORE_SIGN


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
