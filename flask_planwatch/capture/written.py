"""A statement with its values in its text, written without a connection: for plain values only.

For statements that are not inspected, or not yet; others are written by their driver, see
Transaction.written. Each value becomes a constant, as psycopg2 writes it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from ..failure import ServerError
from .literals import NUMBERS, UNTYPED, WHOLE, constant, quoted_item
from .numbered import Numbered

#: Characters of a statement that is written: the panel shows no more.
MAX_WRITTEN = 10_000


def written(statement: str, parameters: Any, driver: str) -> str:
    """Return a statement with its values; nothing if one is not plain, or it would be too long.

    Text and parameters are as the driver got them; `driver` is its name in SQLAlchemy.
    """
    if len(statement) > MAX_WRITTEN or len(parameters) > MAX_WRITTEN:
        return ""
    by_name = isinstance(parameters, Mapping)
    literals: list[str] = []
    left = MAX_WRITTEN - len(statement)
    for value in parameters.values() if by_name else parameters:
        if driver == "psycopg2" and type(value) is tuple:
            # It is what follows IN.
            items = _items(value, left)
            literal = f"({items})" if items else ""
        else:
            literal = _literal(value, left)
        if driver == "psycopg" and type(value) is float:
            # It is sent as one; the constant alone would be a numeric.
            literal += "::double precision"
        left -= len(literal)
        if not literal or left < 0:
            return ""
        literals.append(literal)
    given: Any = dict(zip(parameters, literals, strict=True)) if by_name else literals
    names = [str(number) for number in range(len(literals))] if driver == "asyncpg" else None
    try:
        made = Numbered(statement, given, names)
    except ServerError:
        return ""
    return made.with_literals(dict(enumerate(made.values)), in_quotes=driver == "psycopg2")


def type_of(value: Any, driver: str) -> str:
    """Return the type that a driver gives a value, UNTYPED if the server infers it."""
    if driver == "asyncpg":
        return UNTYPED
    value = getattr(value, "adapted", value)
    if isinstance(value, list | tuple):
        kinds = {type_of(item, driver) for item in value if item is not None}
        if kinds <= set(NUMBERS):
            kinds = {max(kinds, key=NUMBERS.index)} if kinds else kinds
        element = kinds.pop() if len(kinds) == 1 else UNTYPED
        return element if element == UNTYPED or element.endswith("[]") else f"{element}[]"
    kind = type(value)
    if kind is int:
        return next((name for name, limit in WHOLE if -limit <= value < limit), "numeric")
    if kind is float and driver == "psycopg2" and math.isfinite(value):
        return "numeric"
    name = _TYPES.get(kind, UNTYPED)
    zoned = kind in (datetime, time) and value.tzinfo is not None
    return f"{name}tz" if zoned else name


def _literal(value: Any, limit: int) -> str:
    """Return a constant for a value; nothing if it is not plain, or surely longer than `limit`."""
    if type(value) is dict:
        return _mapping(value)
    # The drivers wrap bytes and documents in an object that holds them.
    is_document = type(value).__name__ in _DOCUMENTS
    for holder in ("adapted", "obj"):
        # What a memoryview has there is more than it shows.
        if type(value) is not memoryview:
            value = getattr(value, holder, value)
    if is_document:
        return _document(value)
    if value is None:
        return "NULL"
    if type(value) is list:
        items = _items(value, limit)
        return f"ARRAY[{items}]" if items else "" if value else "'{}'"
    write = _WRITERS.get(type(value))
    too_long = isinstance(value, str | bytes | bytearray | memoryview) and len(value) > limit
    return "" if write is None or too_long else write(value)


def _items(values: Any, limit: int) -> str:
    """Return several constants; nothing if there are none, or one has no form."""
    if len(values) > limit:
        return ""
    items = [_literal(value, limit // len(values)) for value in values]
    return ", ".join(items) if all(items) else ""


def _document(value: Any) -> str:
    try:
        return _string(json.dumps(value, ensure_ascii=False))
    except (TypeError, ValueError, RecursionError):
        return ""


def _mapping(value: dict[Any, Any]) -> str:
    """Return a dict as psycopg2 is set to write it: its own types and the application decide."""
    extensions: Any = sys.modules.get("psycopg2.extensions")
    known = {} if extensions is None else extensions.adapters
    adapter = known.get((dict, getattr(extensions, "ISQLQuote", None)))
    name = getattr(adapter, "__name__", "")
    if name == "Json":
        return _document(value)
    texts = (*value, *(item for item in value.values() if item is not None))
    if name != "HstoreAdapter" or not all(type(text) is str for text in texts):
        return ""
    pairs = (f"{quoted_item(key)}=>{quoted_item(item)}" for key, item in value.items())
    text = _string(", ".join(pairs))
    return f"{text}::hstore" if text else ""


def _string(text: str) -> str:
    if "\0" in text:
        return ""
    # E must not become part of the word before it.
    return f" {constant(text)}" if "\\" in text else "'" + text.replace("'", "''") + "'"


def _number(value: Any) -> str:
    if not math.isfinite(value):
        return f"'{value}'::{'numeric' if isinstance(value, Decimal) else 'double precision'}"
    # After another minus, this one would begin a comment.
    return f" {value}" if value < 0 else str(value)


def _moment(value: datetime | time) -> str:
    kind = "timestamp" if isinstance(value, datetime) else "time"
    return f"'{value.isoformat()}'::{kind}{'tz' if value.tzinfo is not None else ''}"


def _interval(value: timedelta) -> str:
    return f"'{value.days} days {value.seconds}.{value.microseconds:06} seconds'::interval"


def _bytes(value: Any) -> str:
    return f"'\\x{bytes(value).hex()}'::bytea"


#: What psycopg2 and psycopg wrap JSON in.
_DOCUMENTS = frozenset({"Json", "Jsonb"})

#: The types of other values, as the drivers write or send them.
_TYPES: dict[type, str] = {
    bool: "boolean",
    float: "double precision",
    Decimal: "numeric",
    datetime: "timestamp",
    time: "time",
    date: "date",
    timedelta: "interval",
    UUID: "uuid",
    bytes: "bytea",
    bytearray: "bytea",
    memoryview: "bytea",
}

#: How a value is written, by its very type: one of another class may do as it likes.
_WRITERS: dict[type, Callable[[Any], str]] = {
    str: _string,
    bool: lambda value: str(value).lower(),
    int: _number,
    float: _number,
    Decimal: _number,
    datetime: _moment,
    time: _moment,
    date: lambda value: f"'{value.isoformat()}'::date",
    timedelta: _interval,
    UUID: lambda value: f"'{value}'::uuid",
    bytes: _bytes,
    bytearray: _bytes,
    memoryview: _bytes,
}
