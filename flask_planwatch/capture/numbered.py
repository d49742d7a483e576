"""Statements with `$n` for their placeholders, as the server gets them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..failure import ServerError
from ..finding import SkipReason
from .sql_text import HIDDEN, PIECE_FLAGS, end_of_hidden

Parameters = Mapping[str, Any] | Sequence[Any] | None

#: A placeholder as psycopg reads it: `%(name)s`, `%s`, or one that asks for a binary format. The
#: length of a name is limited so that none is looked for in all the rest of a text.
_PLACEHOLDER = re.compile(r"%(?:%|(?:\(([^)]{1,256}+)\))?[sbt])")

#: A placeholder as asyncpg sends it.
_NUMBER = re.compile(r"(?<![\w$])\$(\d+)")


def _pieces_with(mark: str, placeholder: str) -> re.Pattern[str]:
    """Return a pattern for the next placeholder, or what is in quotes or comments, and all before.

    It always matches: at the end of a text, `first` is None. What is in quotes is passed over at
    once if the mark of a placeholder is not in it.
    """
    return re.compile(
        rf"""(?:[^'"{mark}$/-]++|"[^"{mark}]*+"|'[^'{mark}\\]*+')*+
        (?:(?P<first>['"{mark}$/-])(?:{placeholder}|{HIDDEN}|)|\Z)""",
        PIECE_FLAGS,
    )


_NAMED_PIECE = _pieces_with("%", r"(?<=%)(?P<placeholder>%|(?:\([^)]{1,256}+\))?(?-i:[sbt]))")
_NUMBERED_PIECE = _pieces_with("$", r"(?<=\$)(?<![\w$]\$)(?P<placeholder>\d++)")

#: Where a placeholder may stand for no value.
_QUOTES, _COMMENT = "quotes", "comment"

_UNNAMED = "parameter {number}"

#: A cast behind a value, as SQLAlchemy writes it; for a pattern with IGNORECASE and VERBOSE.
CAST_PATTERN = r"""::(?:\w++|"(?:[^"]|"")*+")(?:\.(?:\w++|"(?:[^"]|"")*+"))?+
    (?:\ (?:PRECISION|VARYING))?+ (?:\(\d++(?:,\ ?\d++)?+\))?+
    (?:\ WITH(?:OUT)?\ TIME\ ZONE)?+ (?:\[\])*+"""
_CAST = re.compile(CAST_PATTERN, re.IGNORECASE | re.VERBOSE)

#: What is between a value and its type inside CAST.
_AS = re.compile(r"\A\s++AS\s++", re.IGNORECASE)

#: A test for NULL, and what comes before an expression that begins.
_IS_NULL = re.compile(r"\A\s++IS\s++(?:NOT\s++)?+NULL\b", re.IGNORECASE)
_BEGINS = re.compile(r"(?:\(|\b(?:WHERE|OR|NOT|WHEN|ON)\s)\s*\Z", re.IGNORECASE)

#: What stands in quotes, as long as nothing of _HIDES comes before it.
_QUOTED = re.compile(r"'[^']*+'|\"[^\"]*+\"")

#: Characters of white space that are passed over before a placeholder. After more, the placeholder
#: is taken for the position of a column.
_MAX_SPACE = 80

#: Quotes that are still open, what begins a comment or another kind of quotes, and what keeps
#: quotes from ending.
_HIDES = re.compile(r"['\"$\\]|--|/\*")

#: After BY or DISTINCT ON, a number that is written into the text is the position of a column.
_PART = re.compile(
    r"\b(by\b|distinct\s++on\s*+\()|([()])|(%(?:\([^)]{1,256}+\))?[sbt])", re.IGNORECASE
)


class Occurrence(NamedTuple):
    """Where a parameter, which counts from 0, stands, with the text up to the next one each way."""

    parameter: int
    before: str
    behind: str

    @property
    def is_cast_to_array(self) -> bool:
        """Whether the value is cast to an array right here."""
        cast = _CAST.match(_AS.sub("::", self.behind))
        return cast is not None and cast[0].endswith("[]")

    @property
    def is_only_compared_with_null(self) -> bool:
        """Whether nothing but `IS NULL` reads the value."""
        return bool(_IS_NULL.match(self.behind) and _BEGINS.search(self.before[-_MAX_SPACE:]))


class Numbered:
    """A statement with `$n` for its placeholders, as psycopg 3 and asyncpg send it.

    `given_names` are those of the parameters if the text is numbered already, None if it has the
    placeholders of psycopg. `names` and `values` are those of the parameters, in their order.
    Raises ServerError if they do not fit the text.
    """

    def __init__(
        self, text: str, parameters: Parameters, given_names: Sequence[str] | None = None
    ) -> None:
        is_numbered = given_names is not None
        self.names = list(given_names or ())
        #: The position of each name among them.
        self._positions: dict[str, int] = {}
        self._pieces: list[str | int] = []
        #: Which pieces stand in quotes, and which in comments.
        self._quoted: set[int] = set()
        self._commented: set[int] = set()
        end = 0
        for match, hidden in _placeholders(text, is_numbered=is_numbered):
            position = int(match[1]) - 1 if is_numbered else self._number(match)
            self._pieces.append(text[end : match.start()])
            if hidden is not None:
                kept = self._commented if hidden == _COMMENT else self._quoted
                kept.add(len(self._pieces))
            self._pieces.append(position)
            end = match.end()
        self._pieces.append(text[end:])
        try:
            if isinstance(parameters, Mapping):
                self.values = [parameters[name] for name in self.names]
            else:
                self.values = list(parameters or ())
        except KeyError as error:
            raise ServerError(SkipReason.GENERIC_PLAN_UNKNOWN, type(error).__name__) from error
        if len(self.values) != len(self.names):
            raise ServerError(SkipReason.GENERIC_PLAN_UNKNOWN, "parameters do not fit the text")

    @property
    def text(self) -> str:
        """The statement with all its parameters."""
        return self.with_literals({})

    @property
    def has_quoted(self) -> bool:
        """Whether a placeholder stands in quotes."""
        return any(isinstance(self._pieces[number], int) for number in self._quoted)

    @property
    def uses(self) -> Counter[int]:
        """How often each parameter stands outside of quotes and comments."""
        return Counter(occurrence.parameter for occurrence in self.occurrences)

    @property
    def casts(self) -> dict[int, str]:
        """The type that each parameter is cast to, if that is the same wherever it stands."""
        found: dict[int, set[str]] = {}
        for occurrence in self.occurrences:
            cast = _CAST.match(occurrence.behind)
            found.setdefault(occurrence.parameter, set()).add(cast[0].upper() if cast else "")
        return {parameter: casts.pop() for parameter, casts in found.items() if len(casts) == 1}

    @property
    def occurrences(self) -> list[Occurrence]:
        """The parameters outside of quotes and comments."""
        return [
            Occurrence(piece, str(self._pieces[number - 1]), str(self._pieces[number + 1]))
            for number, piece in enumerate(self._pieces)
            if isinstance(piece, int) and self._is_open(number)
        ]

    def with_numbers(self, numbers: Sequence[int]) -> str:
        """Return the statement with a number of its own, from 1, for each of the `occurrences`."""
        left = iter(numbers)
        return "".join(
            f"${next(left) if self._is_open(number) else piece + 1}"
            if isinstance(piece, int)
            else piece
            for number, piece in enumerate(self._pieces)
        )

    def _is_open(self, number: int) -> bool:
        return number not in self._quoted and number not in self._commented

    def with_literals(self, literals: Mapping[int, str], *, in_quotes: bool = False) -> str:
        """Return the statement with SQL in the place of some parameters, which count from 0.

        What stands in comments keeps its number, and so does what stands in quotes, unless the
        driver fills that in, too.
        """
        kept = self._commented if in_quotes else self._commented | self._quoted
        filled: list[str] = []
        for number, piece in enumerate(self._pieces):
            if isinstance(piece, str):
                filled.append(piece)
                continue
            literal = None if number in kept else literals.get(piece)
            if literal is None:
                literal = f"${piece + 1}"
            elif literal.lstrip().startswith("-") and _CAST.match(str(self._pieces[number + 1])):
                # The cast is done first, and the lowest number has no positive one.
                literal = f"({literal.strip()})"
            filled.append(literal)
        return "".join(filled)

    def _number(self, match: re.Match[str]) -> str | int:
        if match[0] == "%%":
            return "%"
        name = match[1] or unnamed(len(self.names) + 1)
        position = self._positions.setdefault(name, len(self.names))
        if position == len(self.names):
            self.names.append(name)
        return position


def unnamed(number: int) -> str:
    """Return what a parameter without a name is called."""
    # Not by `say`: drivers that name nothing have it done for each value of an execution.
    return _UNNAMED.format(number=number)


def _placeholders(text: str, *, is_numbered: bool) -> Iterator[tuple[re.Match[str], str | None]]:
    """Yield each placeholder of a text, with `_QUOTES` or `_COMMENT` if it stands in one."""
    placeholder = _NUMBER if is_numbered else _PLACEHOLDER
    piece = _NUMBERED_PIECE if is_numbered else _NAMED_PIECE
    match = piece.match(text)
    while match is not None and match["first"] is not None:
        start, end = match.start("first"), match.end()
        if match["placeholder"] is not None:
            found = placeholder.match(text, start)
            if found is not None:
                yield found, None
        elif end > start + 1:
            end = end_of_hidden(match)
            is_comment = text.startswith(("--", "/*"), start)
            for found in placeholder.finditer(text, start, end):
                yield found, _COMMENT if is_comment else _QUOTES
        match = piece.match(text, end)


def stand_for_values(text: str) -> bool:
    """Whether each placeholder of psycopg2 in a text surely stands where SQL has a value.

    psycopg2 fills placeholders in also inside quotes and comments, and where the number of a column
    may stand.
    """
    positions = [match for match in _PLACEHOLDER.finditer(text) if match[0] != "%%"]
    if not positions:
        return True
    text = text[: positions[-1].end()]
    outside = _QUOTED.sub(" ", text)
    seen = [match for match in _PLACEHOLDER.finditer(outside) if match[0] != "%%"]
    return (
        len(seen) == len(positions)
        and _HIDES.search(outside) is None
        and "\\" not in text
        and "%" not in _PLACEHOLDER.sub("", outside)
        and not may_be_position(outside)
    )


def may_be_position(text: str) -> bool:
    """Whether a placeholder of psycopg2 in a text may stand for the position of a column."""
    text = _QUOTED.sub(" ", text)
    depth: int | None = None
    for match in _PART.finditer(text):
        word, bracket, placeholder = match.groups()
        if word:
            depth = 0
        elif depth is not None and bracket:
            depth += 1 if bracket == "(" else -1
            # The list has ended with what it was part of.
            depth = None if depth < 0 else depth
        elif placeholder and depth == 0:
            before = text[max(match.start() - _MAX_SPACE, 0) : match.start()].rstrip()
            if not before or before.endswith((",", "(")) or before[-2:].lower() == "by":
                return True
    return False
