"""A statement that PlanWatch is asked about, and the data that it reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: A number of rows in the text of a command.
_ROWS = re.compile(r"@(\d+)")

#: Rows that a table keeps however small the data are.
_FEWEST_ROWS = 100


@dataclass(frozen=True)
class Statement:
    """A statement as SQLAlchemy's `text()` takes it, with its parameters.

    It is sound if its author could not have done better, and no index is missing.
    """

    name: str
    text: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    sound: bool = False


@dataclass(frozen=True)
class Case:
    """A statement, and its twin: what its author should have written in its place.

    The twin gets the same parameters, and is sound. It is None if no other form is better.
    `same_rows` says that it returns the rows that the statement returns.
    """

    name: str
    text: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    twin: str | None = None
    same_rows: bool = True
    sound: bool = False

    @property
    def statements(self) -> tuple[Statement, ...]:
        """The statement, and its twin if it has one."""
        statement = Statement(self.name, self.text, self.parameters, self.sound)
        if self.twin is None:
            return (statement,)
        return statement, Statement(f"{self.name}: twin", self.twin, self.parameters, True)


@dataclass(frozen=True)
class Data:
    """Tables with their rows, and the cases that read them.

    `commands` create and fill the tables; each number of rows in them follows an `@`. `afterwards`
    is run after `VACUUM ANALYZE`, so that the statistics do not know of it.
    """

    name: str
    commands: tuple[str, ...]
    cases: tuple[Case, ...]
    afterwards: tuple[str, ...] = ()


def sized(command: str, share: float) -> str:
    """Return a command with this share of its rows."""
    return _ROWS.sub(lambda number: str(max(_FEWEST_ROWS, int(int(number[1]) * share))), command)
