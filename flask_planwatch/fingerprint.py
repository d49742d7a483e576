"""One identity for all executions of a statement, whatever its values."""

from __future__ import annotations

import hashlib
import re

from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType

from .plan.memory import remembered
from .plan.predicate import tokenize
from .plan.scrub import LITERALS, MASK, UNREADABLE, literal_end

#: SQLAlchemy's mark for parameters that it expands at each execution, such as an IN list.
_POSTCOMPILE = re.compile(r"__\[POSTCOMPILE_\w+(?:~~.*?~~)?\]")

#: Its mark for a schema that `schema_translate_map` may replace.
_SCHEMA = re.compile(r"__\[SCHEMA_(\w+)\](\.?)")

#: A placeholder or masked literal, with the cast that a driver may give it.
_VALUE = r"(?:\?|%s|%\(\w+\)s|\$\d+)(?:::[\w ]+(?:\([?, ]+\))?(?:\[\])*)?"
_ROW = rf"\(\s*{_VALUE}(?:\s*,\s*{_VALUE})*\s*\)"

#: Lists of nothing but values or rows of them, as in `IN (?, ?, %s)` and `VALUES (?), (?)`.
_LIST = re.compile(rf"\bIN\s*\(\s*(?:{_VALUE}|{_ROW})(?:\s*,\s*(?:{_VALUE}|{_ROW}))*\s*\)", re.I)
_ROWS = re.compile(rf"\bVALUES\s+({_ROW})(?:\s*,\s*{_ROW})+", re.I)

#: The sign of a negative number: nothing is there to subtract it from.
_SIGN = re.compile(r"([(,=<>]|\b(?:BETWEEN|AND|OR|LIMIT|OFFSET|THEN|ELSE|IN)\b)(\s?)-\s?\?", re.I)

#: Numbered parameters count on after a list, however long that is.
_NUMBERED = re.compile(r"\$\d+")

#: Bytes of all statements together that are remembered with their normalised text.
MAX_REMEMBERED = 2_500_000

#: What a character of a text takes at most, in bytes.
_WIDEST = 4

#: Hex digits of a fingerprint: 64 bits tell apart all statements that one app can have.
_LENGTH = 16


def _schema(mark: re.Match[str]) -> str:
    return "" if mark[1] == "_none" else mark[1] + mark[2]


@remembered(MAX_REMEMBERED, _WIDEST)
def normalise(text: str) -> str:
    """Return the statement's text with each literal as `?` and each list of values as one.

    Comments go, because tools write request ids into them; white space is folded.
    """
    text = _SCHEMA.sub(_schema, _POSTCOMPILE.sub(MASK, text)).replace("%%", "%")
    try:
        tokens = tokenize(text).tokens
    except SqlglotError:
        return UNREADABLE
    pieces, position = [], 0
    for token in tokens:
        if token.start < position:
            continue
        if text[position : token.start].strip() or (position and position < token.start):
            pieces.append(" ")
        position = literal_end(text, token)
        numbered = token.token_type is TokenType.NUMBER and text[: token.start].endswith("$")
        masked = token.token_type in LITERALS and not numbered
        pieces.append(MASK if masked else text[token.start : position])
    folded = "".join(pieces).strip().rstrip(";").rstrip()
    folded = _SIGN.sub(r"\1\2?", folded)
    return _ROWS.sub(r"VALUES \1, ...", _LIST.sub("IN (...)", folded))


def fingerprint(text: str, database: str | None) -> str:
    """Return the identity of a statement on one database, as hex digits.

    `database` is a bind key, or what else tells an app's databases apart; `text` is the statement
    as compiled, or as given to the driver. What cannot be read is identified by its exact text.
    """
    normalised = normalise(text)
    identity = text if normalised == UNREADABLE else _NUMBERED.sub(MASK, normalised)
    return hashlib.sha256(f"{database or ''}\0{identity}".encode()).hexdigest()[:_LENGTH]
