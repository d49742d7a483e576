"""What psycopg2 writes for a value, taken apart into a string and its type."""

from __future__ import annotations

import re
from typing import NamedTuple

#: A string constant, with a type if one is named. Each alternative can be read in one way only.
#: psycopg2 writes one space at most, before a negative number and between elements.
_STRING = r"(?:'(?:[^']++|'')*+'|E'(?:[^'\\]++|''|\\\\)*+')"
_TYPED = re.compile(rf" ?({_STRING})(?:::([a-z_]\w*+(?:\[\])?))?", re.ASCII)
_NUMBER = re.compile(r" ?(-?\d++)(\.\d*+)?(e[+-]?\d++)?", re.ASCII | re.IGNORECASE)
_WORD = re.compile(r" ?(true|false|NULL)\b", re.ASCII)
_ARRAY = re.compile(r"\A ?ARRAY\[(.*)\]", re.DOTALL)
_COMMA = re.compile(r" ?(?:,|\Z)")

#: What is doubled inside a string constant.
_DOUBLED = re.compile(r"''|\\\\")

#: The types of whole numbers with the first value that each has no room for.
_WHOLE = (("integer", 2**31), ("bigint", 2**63))

#: Types of numbers, the narrowest first: an array has that of its widest element.
_NUMBERS = ("integer", "bigint", "numeric")


class Literal(NamedTuple):
    """A value as a string constant of SQL, None for NULL, and the type that it has there."""

    string: str | None
    type: str


def read_literal(text: str) -> Literal | None:
    """Return what the SQL for one value holds, None if it is more than a constant or a list."""
    found = _constant(text, 0)
    if found is not None and found[1] == len(text):
        return found[0]
    array = _ARRAY.fullmatch(text)
    return None if array is None else _array(array[1])


def _constant(text: str, start: int) -> tuple[Literal, int] | None:
    """Return the constant that begins at a place, and where it ends."""
    if match := _TYPED.match(text, start):
        return Literal(match[1], match[2] or "unknown"), match.end()
    if match := _NUMBER.match(text, start):
        return Literal(f"'{match[0].strip()}'", _type_of(match)), match.end()
    if match := _WORD.match(text, start):
        known = None if match[1] == "NULL" else f"'{match[1]}'"
        return Literal(known, "unknown" if known is None else "boolean"), match.end()
    return None


def _type_of(number: re.Match[str]) -> str:
    if number[2] is None and number[3] is None and len(number[1]) < 21:
        value = int(number[1])
        for name, limit in _WHOLE:
            if -limit <= value < limit:
                return name
    return "numeric"


def _array(text: str) -> Literal | None:
    """Return an array of constants as one string; None if they are not alike."""
    elements: list[Literal] = []
    place = 0
    while place < len(text):
        found = _constant(text, place)
        comma = found and _COMMA.match(text, found[1])
        if not found or not comma:
            return None
        elements.append(found[0])
        place = comma.end()
    types = {one.type for one in elements if one.string is not None}
    if types <= set(_NUMBERS):
        types = {max(types, key=_NUMBERS.index)} if types else set()
    if len(types) != 1:
        return None
    (kind,) = types
    items = ",".join(_element(one.string) for one in elements)
    # The server takes strings without a type for text here.
    return Literal(_constant_of("{" + items + "}"), ("text" if kind == "unknown" else kind) + "[]")


def _element(string: str | None) -> str:
    """Return an element of an array in the array's own notation."""
    if string is None:
        return "NULL"
    escaped = string.startswith("E")
    plain = string[2:-1] if escaped else string[1:-1]
    value = _DOUBLED.sub(lambda one: one[0][0], plain) if escaped else plain.replace("''", "'")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _constant_of(value: str) -> str:
    """Return a string constant that means the same whatever `standard_conforming_strings` is."""
    return "E'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
