"""Statements with `$n` for their placeholders, as the server gets them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..finding import SkipReason
from .transaction import Parameters, ServerError

#: A placeholder as psycopg reads it: `%(name)s`, `%s`, or one that asks for a binary format. The
#: length of a name is limited so that none is looked for in all the rest of a text.
_PLACEHOLDER = re.compile(r"%(?:%|(?:\(([^)]{1,256}+)\))?[sbt])")

#: A placeholder as asyncpg sends it.
_NUMBER = re.compile(r"\$(\d+)")

#: What stands in quotes, as long as nothing of _HIDES comes before it.
_QUOTED = re.compile(r"'[^']*+'|\"[^\"]*+\"")

#: White space that may stand before a placeholder; where there is more, it is taken for the worst.
_GAP = 80

#: Quotes that are still open, what begins a comment or another kind of quotes, and what keeps
#: quotes from ending.
_HIDES = re.compile(r"['\"$\\]|--|/\*")

#: After BY or DISTINCT ON, a number that is written into the text is the position of a column.
_LANDMARK = re.compile(
    r"\b(by\b|distinct\s++on\s*+\()|([()])|(%(?:\([^)]{1,256}+\))?[sbt])", re.IGNORECASE
)


class Numbered:
    """A statement with `$n` for its placeholders, as psycopg 3 and asyncpg send it.

    `given_names` are those of the parameters if the text is numbered already, None if it has the
    placeholders of psycopg. `names` and `values` are those of the parameters, in their order.
    Raises ServerError if they do not fit the text.
    """

    def __init__(
        self, text: str, parameters: Parameters, given_names: Sequence[str] | None = None
    ) -> None:
        self.names: list[str] = []
        #: The place of each name among them.
        self._places: dict[str, int] = {}
        self._pieces: list[str | int] = []
        if given_names is not None:
            self.names = list(given_names)
        end = 0
        for match in (_PLACEHOLDER if given_names is None else _NUMBER).finditer(text):
            place = self._number(match) if given_names is None else int(match[1]) - 1
            self._pieces += [text[end : match.start()], place]
            end = match.end()
        self._pieces.append(text[end:])
        try:
            if isinstance(parameters, Mapping):
                self.values = [parameters[name] for name in self.names]
            else:
                self.values = list(parameters or ())[: len(self.names)]
        except KeyError as error:
            raise ServerError(SkipReason.GENERIC_PLAN_UNKNOWN, type(error).__name__) from error
        if len(self.values) != len(self.names):
            raise ServerError(SkipReason.GENERIC_PLAN_UNKNOWN, "parameters do not fit the text")

    @property
    def text(self) -> str:
        """The statement with all its parameters."""
        return self.with_literals({})

    def with_literals(self, literals: Mapping[int, str]) -> str:
        """Return the statement with SQL in the place of some parameters, which count from 0."""
        return "".join(
            piece if isinstance(piece, str) else literals.get(piece, f"${piece + 1}")
            for piece in self._pieces
        )

    def _number(self, match: re.Match[str]) -> str | int:
        if match[0] == "%%":
            return "%"
        name = match[1] or f"parameter {len(self.names) + 1}"
        place = self._places.setdefault(name, len(self.names))
        if place == len(self.names):
            self.names.append(name)
        return place


def stand_for_values(text: str) -> bool:
    """Whether each placeholder of psycopg2 in a text surely stands where SQL has a value.

    psycopg2 fills placeholders in also inside quotes and comments, and where the number of a column
    may stand.
    """
    places = [match for match in _PLACEHOLDER.finditer(text) if match[0] != "%%"]
    if not places:
        return True
    text = text[: places[-1].end()]
    outside = _QUOTED.sub(" ", text)
    seen = [match for match in _PLACEHOLDER.finditer(outside) if match[0] != "%%"]
    return (
        len(seen) == len(places)
        and _HIDES.search(outside) is None
        and "\\" not in text
        and "%" not in _PLACEHOLDER.sub("", outside)
        and not _may_be_position(outside)
    )


def _may_be_position(text: str) -> bool:
    """Whether one of the placeholders may stand for the position of a column."""
    depth: int | None = None
    for match in _LANDMARK.finditer(text):
        word, bracket, placeholder = match.groups()
        if word:
            depth = 0
        elif depth is not None and bracket:
            depth += 1 if bracket == "(" else -1
            # The list has ended with what it was part of.
            depth = None if depth < 0 else depth
        elif placeholder and depth == 0:
            before = text[max(match.start() - _GAP, 0) : match.start()].rstrip()
            if not before or before.endswith((",", "(")) or before[-2:].lower() == "by":
                return True
    return False
