"""Shorter spellings of what the server prints with every cast written out."""

from __future__ import annotations

import re

from .schema import Relation

_TWICE_IN_PARENTHESES = re.compile(r"\(\(([^()]*)\)\)")
_COLUMN_IN_PARENTHESES = re.compile(r'\((\w+|"[^"]+")\)::')
_STRING_TO_TEXT = re.compile(r"('(?:[^']|'')*')::text\b(?!\[)")


def shorter_spelling(expression: str, relation: Relation) -> str:
    """Return the expression without the casts that PostgreSQL would add by itself.

    `lower((email)::text)` becomes `lower(email)` if `email` is a `character varying`, and
    `data ->> 'type'::text` becomes `data ->> 'type'`. The caller lets the server confirm that it
    is the same expression.
    """
    shorter = _STRING_TO_TEXT.sub(r"\1", expression)
    shorter = _TWICE_IN_PARENTHESES.sub(r"(\1)", shorter)
    for column in relation.columns:
        if column.base_type == "character varying":
            name = re.escape(column.name)
            shorter = re.sub(rf'\(({name}|"{name}")\)::text\b(?!\[)', r"\1", shorter)
    return _COLUMN_IN_PARENTHESES.sub(r"\1::", shorter)
