"""One identity for all executions of a statement, whatever its values."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

from sqlglot.errors import SqlglotError

from .plan.predicate import tokenize
from .plan.scrub import LITERALS, MASK, UNREADABLE

#: SQLAlchemy's mark for parameters that it expands at each execution, such as an IN list.
_POSTCOMPILE = re.compile(r"__\[POSTCOMPILE_\w+(?:~~.*?~~)?\]")

#: A list of nothing but placeholders and masked literals, as in `IN (?, ?, %s)`.
_VALUE = r"(?:\?|%s|%\(\w+\)s|\$\d+)(?:::[\w ]+)?"
_VALUE_LIST = re.compile(rf"\bIN\s*\(\s*{_VALUE}(?:\s*,\s*{_VALUE})*\s*\)", re.IGNORECASE)
_ROW = rf"\(\s*{_VALUE}(?:\s*,\s*{_VALUE})*\s*\)"
_ROWS = re.compile(rf"\bVALUES\s+({_ROW})(?:\s*,\s*{_ROW})+", re.IGNORECASE)

#: Hex digits of a fingerprint: 64 bits tell apart all statements that one app can have.
_LENGTH = 16


@lru_cache(maxsize=4096)
def normalise(text: str) -> str:
    """Return the statement's text with each literal as `?` and each list of values as one.

    Comments go, because tools write request ids into them; white space is folded.
    """
    text = _POSTCOMPILE.sub(MASK, text).replace("%%", "%")
    try:
        tokens = tokenize(text).tokens
    except SqlglotError:
        return UNREADABLE
    pieces, position = [], 0
    for token in tokens:
        if text[position : token.start].strip() or (position and position < token.start):
            pieces.append(" ")
        masked = token.token_type in LITERALS and not text[: token.start].endswith("$")
        pieces.append(MASK if masked else text[token.start : token.end + 1])
        position = token.end + 1
    folded = "".join(pieces).strip().rstrip(";").rstrip()
    return _ROWS.sub(r"VALUES \1, ...", _VALUE_LIST.sub("IN (...)", folded))


def fingerprint(text: str, bind: str | None) -> str:
    """Return the identity of a statement on one bind, as hex digits.

    `text` is the statement as compiled, or as given to the driver. What cannot be read is
    identified by its exact text.
    """
    normalised = normalise(text)
    identity = text if normalised == UNREADABLE else normalised
    return hashlib.sha256(f"{bind or ''}\0{identity}".encode()).hexdigest()[:_LENGTH]
