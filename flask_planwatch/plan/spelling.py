"""Shorter spellings of what the server prints with every cast written out."""

from __future__ import annotations

import re

from .schema import Relation

_STRING = re.compile(r"'(?:[^']|'')*'")
_PLACEHOLDER = re.compile("\x00(\\d+)\x00")
_PLACEHOLDER_TO_TEXT = re.compile("(\x00\\d+\x00)::text\\b(?!\\[)")
_TWICE_IN_PARENTHESES = re.compile(r"\(\(([^()]*)\)\)")
_COLUMN_IN_PARENTHESES = re.compile(r'\((\w+|"[^"]+")\)::')


def shorter_spelling(expression: str, relation: Relation) -> str:
    """Return the expression without the casts that PostgreSQL would add by itself.

    `lower((email)::text)` becomes `lower(email)` if `email` is a `character varying`, and
    `data ->> 'type'::text` becomes `data ->> 'type'`. The caller lets the server confirm that it
    is the same expression.
    """
    strings = _STRING.findall(expression)
    numbers = iter(range(len(strings)))
    # Strings must stay as they are, so placeholders replace them meanwhile.
    shorter = _STRING.sub(lambda _: f"\x00{next(numbers)}\x00", expression)
    shorter = _PLACEHOLDER_TO_TEXT.sub(r"\1", shorter)
    shorter = _TWICE_IN_PARENTHESES.sub(r"(\1)", shorter)
    for column in relation.columns:
        if column.base_type == "character varying":
            name = re.escape(column.name)
            shorter = re.sub(rf'\(({name}|"{name}")\)::text\b(?!\[)', r"\1", shorter)
    shorter = _COLUMN_IN_PARENTHESES.sub(r"\1::", shorter)
    return _PLACEHOLDER.sub(lambda match: strings[int(match[1])], shorter)
