"""What is asked in one transaction of PlanWatch's own, and what may come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..finding import SkipReason
from ..plan.tree import Plan

#: Reasons that have nothing to do with what was asked.
NO_SERVER = frozenset({SkipReason.CONNECTION_LOST, SkipReason.SERVER_UNAVAILABLE})

#: How PlanWatch asks for a plan.
EXPLAIN = "EXPLAIN (FORMAT JSON, VERBOSE) "

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
    """What the other modules of this package need of a connection.

    Nothing is sent once the server has left the transaction: what follows would be committed. All
    methods that ask the server raise ServerError.
    """

    def begin(self, mode: str, *settings: str) -> None:
        """Begin it, with commands that only set something for as long as it lasts."""

    def end(self) -> None:
        """Roll it back, and leave nothing behind on the server's connection."""

    def run(self, *commands: str) -> None:
        """Run commands that are PlanWatch's own to the last word, in one message if that goes."""

    def run_alone(self, command: str) -> None:
        """Run a command with text from elsewhere, in a message that takes one statement only."""

    def fetch(self, sql: str, parameters: Parameters = None) -> list[tuple[Any, ...]]:
        """Run a query of PlanWatch's own and return its rows."""

    def types(self, sql: str) -> list[int]:
        """Return the type oids of a query's columns."""

    def oids(self, values: Sequence[Any]) -> list[int]:
        """Return the type oids that the driver gives these values; 0: the server shall infer it.

        Raises ServerError if it cannot send one.
        """

    def literal(self, value: Any) -> str:
        """Return a value as it is written into SQL; raises ServerError."""

    def written(self, text: str, parameters: Parameters) -> str:
        """Return a statement with its values in their places, for people to run it elsewhere.

        Raises ServerError.
        """

    def output(self, sql: str) -> object:
        """Return the first column that the plan of a query says it computes."""

    @property
    def search_path(self) -> str | None:
        """The effective search path, None if the server does not report it."""

    def plan(
        self,
        explain: str,
        text: str,
        parameters: Parameters,
        *,
        escaped: bool = True,
        accepted: bool = True,
    ) -> Plan:
        """Return the plan of a statement with its own parameters, by this form of EXPLAIN.

        `escaped` is False if the driver must not look for placeholders in the text, `accepted` is
        False if the server may never have taken the text for SQL.
        """

    def generic_plan(self, explain: str, text: str, types: Sequence[str]) -> Plan:
        """Return the plan that serves all values of `$1`, `$2` …, which are of these types."""
