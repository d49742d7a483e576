"""Shortens long lists of values in a statement before anything reads it token by token.

A list of values is most of a long text, and none of it is needed. One linear pass finds the lists
and takes their middle out. It passes over what is in quotes and in comments. Where PostgreSQL may
read a text otherwise, it leaves all of it as it is.
"""

from __future__ import annotations

import re

from ..runtime.pause import give_way
from .folding import MAX_SIDE_BY_SIDE

# Every group is possessive, and no two alternatives share more than a beginning of fixed length: no
# text takes longer than its length.
_NUMBER = r"-?(?:\d++(?:\.\d++)?+|\.\d++)(?:[eE][+-]?\d++)?+(?![\w.])"
_STRING = r"(?:[eEnNbBxX]|[uU]&)?+'(?:[^'\\]++|'')*+'"
_PARAMETER = r"%s\b|%\(\w++\)s\b|\?"
_CONSTANT = r"(?i:null|true|false|default)\b"
_CAST = r"(?:::[a-zA-Z_]\w*+(?:\[\])?+)?+"
_VALUE = rf"(?:{_NUMBER}|{_STRING}|{_PARAMETER}|{_CONSTANT}){_CAST}"
_NEXT = rf"(?:\s*+,\s*+{_VALUE})"
_ROW = rf"\(\s*+{_VALUE}{_NEXT}*+\s*+\)"
_NEXT_ROW = rf"(?:\s*+,\s*+{_ROW})"


def reading(side_by_side: int) -> re.Pattern[str]:
    """Return what a text consists of, as far as that matters; all else is single characters.

    `unsure`: a backslash, a dollar sign or a brace outside quotes, or a quote without an end, may
    mean several things. The group `rest` of each list is not needed. In IN (...) and ARRAY[...]
    that is all but two values. Another list may begin or end with a part of something else, as in
    `1, 2, 3 AS three`: there the last value and `side_by_side` others stay.
    """
    return re.compile(
        rf"""
          (?P<list> (?: (?i:in) \s*+ (?P<round> \( ) | (?i:array) \s*+ \[ )
            \s*+ {_VALUE}{_NEXT} (?P<list_rest> {_NEXT}++ ) (?= \s*+ (?(round) \) | \]) ) )
        | (?P<rows> {_ROW}{_NEXT_ROW}{{1,2}}+
            (?P<rows_rest> (?:{_NEXT_ROW}(?=\s*+,))*+ ) {_NEXT_ROW}?+ )
        | (?P<values> {_VALUE}{_NEXT}{{0,{side_by_side + 1}}}+
            (?P<values_rest> (?:{_NEXT}(?=\s*+,))*+ ) {_NEXT}?+ )
        | (?P<joint> , | (?i:and|or|union|select|when)\b )
        | \d[\w.]*+ | [^\W\d][\w$]*+ | "[^"]*+"
        | --[^\r\n]*+(?!\r(?!\n)) | /\*(?!\+)(?:[^*/]++|\*(?!/)|/(?!\*))*+\*/
        | (?P<unsure> ['"\\${{`] | -- | /\* )
        """,
        re.VERBOSE,
    )


_READING = reading(MAX_SIDE_BY_SIDE)

#: A shorter text is read as it is: that takes less than a millisecond.
MIN_LENGTH = 200

#: A text is read in parts of about so many characters, with a pause after each: some 0.5 ms.
PART = 600


def shortened(text: str) -> list[str]:
    """Return the text in parts that can be read alone, without the middle of its long lists."""
    if len(text) < MIN_LENGTH:
        return [text]
    parts: list[str] = []
    part, length, position = list[str](), 0, 0
    for match in _READING.finditer(text):
        kind = match.lastgroup
        if kind == "unsure":
            return [text]
        if kind == "joint":
            if length + match.start() - position >= PART:
                parts.append("".join([*part, text[position : match.start()]]))
                part, length, position = [], 0, match.start()
                give_way()
        elif kind is not None:
            start, end = match.span(f"{kind}_rest")
            if start < end:
                part.append(text[position:start])
                length += start - position
                position = end
    return [*parts, "".join([*part, text[position:]])]
