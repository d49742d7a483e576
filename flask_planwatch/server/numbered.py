"""Statements with `$n` for their placeholders, as the server gets them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..finding import SkipReason
from .transaction import Parameters, ServerError

#: A placeholder as psycopg reads it: `%(name)s`, `%s`, or one that asks for a binary format.
_PLACEHOLDER = re.compile(r"%(?:%|(?:\(([^()]++)\))?[sbt])")

#: A placeholder as asyncpg sends it.
_NUMBER = re.compile(r"\$(\d+)")


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
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)
