"""Other spellings of what the server prints: shorter ones, and those of a path into jsonb."""

from __future__ import annotations

import re

from .schema import Relation

_STRING = re.compile(r"'(?:[^']|'')*'")
_PLACEHOLDER = re.compile("\x00(\\d+)\x00")
_PLACEHOLDER_TO_TEXT = re.compile("(\x00\\d+\x00)::text\\b(?!\\[)")
_TWICE_IN_PARENTHESES = re.compile(r"\(\(([^()]*)\)\)")
_COLUMN_IN_PARENTHESES = re.compile(r'\((\w+|"[^"]+")\)::')

#: A path into a column: by subscripts, or by arrows in parentheses, which come one by one.
_NAME = r'(?<![\w".$])(?:[a-z_][\w$]*+|"(?:[^"]|"")++")'
_KEY = r"(?<=[\[ ])'(?:[^']|'')*+'::text"
_SUBSCRIPTS = re.compile(rf"(?P<column>{_NAME})(?P<path>(?:\[{_KEY}\])+)")
_ARROW = re.compile(rf"\((?P<column>{_NAME}(?:\[{_KEY}\])*+) -> (?P<key>{_KEY})\)")
_KEYS = re.compile(_KEY)

#: A key that a subscript takes for the place of an element, where an arrow does not.
_PLACE = re.compile(r"'\s*[-+]?\d+\s*'::text")


def other_path(expression: str) -> str:
    """Return an expression with the paths into jsonb by `->` in place of `[…]`, or the reverse.

    `data['a'::text] ->> 'b'::text` becomes `(data -> 'a'::text) ->> 'b'::text`. PostgreSQL finds
    the same with both, but takes them for two expressions. A key that is a number, which may mean
    an element of an array, makes a difference, so that such an expression stays as it is.
    """
    if any(_PLACE.fullmatch(key) for key in _KEYS.findall(expression)):
        return expression
    if _SUBSCRIPTS.search(expression):
        return _SUBSCRIPTS.sub(_with_arrows, expression)
    # The innermost arrow first, which is then the column of the next one.
    while (changed := _ARROW.sub(r"\g<column>[\g<key>]", expression)) != expression:
        expression = changed
    return expression


def _with_arrows(subscripts: re.Match[str]) -> str:
    text = subscripts["column"]
    for key in _KEYS.findall(subscripts["path"]):
        text = f"({text} -> {key})"
    return text


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
