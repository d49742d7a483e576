"""What is asked in one transaction of PlanWatch's own, and what may come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..finding import SkipReason
from ..plan.tree import Plan

#: Reasons that have nothing to do with what was asked.
NO_SERVER = frozenset({SkipReason.CONNECTION_LOST, SkipReason.SERVER_UNAVAILABLE})

Parameters = Mapping[str, Any] | Sequence[Any] | None


class ServerError(Exception):
    """PostgreSQL, or the way to it, refused something.

    `reason` is the Skip that this amounts to, `sqlstate` the server's code if there was one.
    The message holds no compared value.
    """

    def __init__(self, reason: SkipReason, detail: str = "", sqlstate: str | None = None) -> None:
        super().__init__(detail or str(reason))
        self.reason = reason
        self.detail = detail
        self.sqlstate = sqlstate


class Transaction(Protocol):
    """What the other modules of this package need of a connection."""

    def fetch(self, sql: str, parameters: Parameters = None) -> list[tuple[Any, ...]]:
        """Run a query of PlanWatch's own and return its rows; raises ServerError."""

    def types(self, sql: str) -> list[int]:
        """Return the type oids of a query's columns; raises ServerError."""

    def oids(self, values: Sequence[Any]) -> list[int]:
        """Return the type oids that the driver gives these values; 0: the server shall infer it.

        Raises ServerError if it cannot send one.
        """

    def literal(self, value: Any) -> str:
        """Return a value as it is written into SQL; raises ServerError."""

    def output(self, sql: str) -> object:
        """Return the first column that an EXPLAIN says its plan computes; raises ServerError."""

    def run(self, sql: str) -> None:
        """Run a command of PlanWatch's own; raises ServerError."""

    @property
    def search_path(self) -> str | None:
        """The effective search path, None if the server does not report it."""

    def plan(self, sql: str, parameters: Parameters, *, escaped: bool = True) -> Plan:
        """Run an EXPLAIN with a statement's own parameters; raises ServerError.

        `escaped` is False if the driver must not look for placeholders in the text.
        """
