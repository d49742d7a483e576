"""Reads the SQL that psycopg2 writes for a value, and writes constants."""

from __future__ import annotations

import re
from typing import NamedTuple

#: A string constant, with a type if one is named. Unambiguous, so that it cannot backtrack
#: exponentially.
#: psycopg2 writes one space at most, before a negative number and between elements.
_STRING = r"(?:'(?:[^']++|'')*+'|E'(?:[^'\\]++|''|\\\\)*+')"
_TYPED = re.compile(rf" ?({_STRING})(?:::([a-z_]\w*+(?:\[\])?))?", re.ASCII)
_NUMBER = re.compile(r" ?(-?\d++)(\.\d*+)?(e[+-]?\d++)?", re.ASCII | re.IGNORECASE)
_WORD = re.compile(r" ?(true|false|NULL)\b", re.ASCII)
_ARRAY = re.compile(r"\A ?ARRAY\[(.*)\]", re.DOTALL)
_COMMA = re.compile(r" ?(?:,|\Z)")

#: What is doubled inside a string constant.
_DOUBLED = re.compile(r"''|\\\\")

#: The type of a value for which the server infers one.
UNTYPED = "unknown"

#: The type of a list of strings, unless it is cast to another.
STRINGS = "text[]"

#: The types of whole numbers, each with the first value that is too large for it.
WHOLE = (("integer", 2**31), ("bigint", 2**63))

#: Types of numbers, the narrowest first: an array has that of its widest element.
NUMBERS = ("integer", "bigint", "numeric")


class Literal(NamedTuple):
    """What the SQL for a value holds, None for NULL, and the type that it has there."""

    value: str | None
    type: str


def read_literal(text: str, *, standard: bool) -> Literal | None:
    """Return what the SQL for one value holds, None if it is more than a constant or a list.

    `standard` tells that a backslash in a string constant without E stands for itself; if it does
    not, such a constant is not read.
    """
    found = _constant(text, 0, standard=standard)
    if found is not None and found[1] == len(text):
        return found[0]
    array = _ARRAY.fullmatch(text)
    return None if array is None else _array(array[1], standard=standard)


def written_anew(text: str) -> str:
    """Return the SQL for one value, as `constant` writes it if it is a string with a backslash.

    The text is read as under `standard_conforming_strings = on`.
    """
    match = _TYPED.fullmatch(text) if "\\" in text else None
    if match is None:
        return text
    # E must not become part of the word before it.
    return " " + constant(_content(match[1])) + text[match.end(1) :]


def constant(value: object) -> str:
    """Return a value of PlanWatch's own commands as SQL; raises TypeError.

    It means the same under each value of `standard_conforming_strings`, `backslash_quote` and
    `escape_string_warning`, and whatever the driver believes of these.
    """
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "E'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        return f"ARRAY[{', '.join(map(constant, value))}]" if value else "'{}'"
    raise TypeError(type(value).__name__)


def _constant(text: str, start: int, *, standard: bool) -> tuple[Literal, int] | None:
    """Return the constant that begins at `start`, and where it ends."""
    if match := _TYPED.match(text, start):
        if not standard and match[1][0] != "E" and "\\" in match[1]:
            return None
        return Literal(_content(match[1]), match[2] or UNTYPED), match.end()
    if match := _NUMBER.match(text, start):
        return Literal(match[0].strip(), _type_of(match)), match.end()
    if match := _WORD.match(text, start):
        known = None if match[1] == "NULL" else match[1]
        return Literal(known, UNTYPED if known is None else "boolean"), match.end()
    return None


def _content(string: str) -> str:
    """Return what a string constant holds."""
    if string[0] == "E":
        return _DOUBLED.sub(lambda match: match[0][0], string[2:-1])
    return string[1:-1].replace("''", "'")


def _type_of(number: re.Match[str]) -> str:
    if number[2] is None and number[3] is None and len(number[1]) < 21:
        value = int(number[1])
        for name, limit in WHOLE:
            if -limit <= value < limit:
                return name
    return "numeric"


def _array(text: str, *, standard: bool) -> Literal | None:
    """Return an array of constants in the array's own notation; None if they are not alike."""
    elements: list[Literal] = []
    position = 0
    while position < len(text):
        found = _constant(text, position, standard=standard)
        comma = found and _COMMA.match(text, found[1])
        if not found or not comma:
            return None
        elements.append(found[0])
        position = comma.end()
    types = {element.type for element in elements if element.value is not None}
    if types <= set(NUMBERS):
        types = {max(types, key=NUMBERS.index)} if types else set()
    if len(types) != 1:
        return None
    (kind,) = types
    items = ",".join(quoted_item(element.value) for element in elements)
    # The server takes strings without a type for text here.
    return Literal("{" + items + "}", STRINGS if kind == UNTYPED else f"{kind}[]")


def quoted_item(value: str | None) -> str:
    """Return an element of an array, or a key or a value of an hstore, in the notation of these."""
    if value is None:
        return "NULL"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
