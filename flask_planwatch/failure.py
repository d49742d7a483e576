"""How a statement of the application's failed, or a question of PlanWatch's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .finding import SkipReason

#: SQLSTATEs and their classes (the first two characters) that mean load, by
#: https://www.postgresql.org/docs/current/errcodes-appendix.html, with what they mean in words.
#: Bad data, broken constraints, wrong SQL and serialization failures are the program's own matter.
_LOAD = {
    "08": "the connection was lost",
    "53100": "the server's disk is full",
    "53200": "the server is out of memory",
    "53300": "the server has too many connections",
    "53": "the server is short of resources",
    "57014": "the statement was cancelled, by statement_timeout or on request",
    "57P01": "the server was shut down",
    "57P02": "the server crashed",
    "57P03": "the server was not ready yet",
    "58030": "the server could not read or write its files",
    "40P01": "the server cancelled the statement to end a deadlock",
    "55P03": "the statement waited for a lock longer than lock_timeout",
}

_LOCK_NOT_AVAILABLE = "55P03"


@dataclass(frozen=True)
class StatementError:
    """How a statement failed: the driver's exception class and the SQLSTATE, if there was one.

    `disconnected` tells that the connection was lost with it, `nowait` that the statement itself
    asked to fail rather than wait for a lock.
    """

    name: str
    sqlstate: str | None
    disconnected: bool = False
    nowait: bool = False

    @property
    def meaning(self) -> str:
        """What happened, if it means load; else nothing."""
        if self.nowait and self.sqlstate == _LOCK_NOT_AVAILABLE:
            return ""
        state = self.sqlstate or ""
        known = _LOAD.get(state) or _LOAD.get(state[:2], "")
        return known or ("the connection to the server was lost" if self.disconnected else "")

    @property
    def means_load(self) -> bool:
        """Whether the server had trouble with it; False for bad data and wrong SQL."""
        return self.meaning != ""

    def __str__(self) -> str:
        return f"{self.name}, SQLSTATE {self.sqlstate}" if self.sqlstate else self.name


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
