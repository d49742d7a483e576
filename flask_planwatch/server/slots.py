"""Limits PlanWatch's connections, so that the server has enough left for the application."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from ..failure import ServerError
from ..finding import SkipReason
from ..runtime.clock import now
from ..runtime.weak import members

if TYPE_CHECKING:
    from .session import Session
    from .transaction import Transaction

#: Connections that PlanWatch holds to one database, for all apps and engines of a process together.
MAX_CONNECTIONS = 2

#: PlanWatch opens a connection, or keeps one, only if so many others are free: as many as
#: PostgreSQL reserves for superusers by default (superuser_reserved_connections).
FREE_CONNECTIONS = 3

#: Seconds before the server is asked again for the number of free connections. To ask in each
#: transaction would be two queries for a good plan, and five to seven where indexes are tried.
CHECK_SECONDS = 1.0

_TOO_FEW_FREE = "the server has too few free connections"

#: The smallest number of free connections: of the server, the database and the role. Each role may
#: count all connections, but not see what those of other roles do.
_FREE_CONNECTIONS = """
SELECT least(
    current_setting('max_connections')::int
    - current_setting('superuser_reserved_connections')::int
    - coalesce(current_setting('reserved_connections', true), '0')::int
    - (SELECT sum(numbackends) FROM pg_catalog.pg_stat_database WHERE datid <> 0),
    (SELECT d.datconnlimit - s.numbackends FROM pg_catalog.pg_database d
     JOIN pg_catalog.pg_stat_database s ON s.datid = d.oid
     WHERE d.datname = current_database() AND d.datconnlimit >= 0),
    (SELECT r.rolconnlimit - count(a.pid) FROM pg_catalog.pg_roles r
     LEFT JOIN pg_catalog.pg_stat_activity a ON a.usesysid = r.oid
     WHERE r.rolname = session_user AND r.rolconnlimit >= 0 GROUP BY r.rolconnlimit)
)
"""

#: The sessions of the process that may hold a connection.
_SESSIONS: weakref.WeakSet[Session] = weakref.WeakSet()


def make_room(session: Session) -> None:
    """Close connections to the same database, the least recently used first, to stay in the limit.

    There may be many apps and engines, as in a test suite that makes an app for each test. None of
    these connections is in use: PlanWatch has one thread.
    """
    _SESSIONS.add(session)
    holders = [
        holder
        for holder in members(_SESSIONS)
        if holder.held and holder.database == session.database
    ]
    holders.sort(key=lambda holder: holder.used)
    for holder in holders[: max(0, len(holders) - MAX_CONNECTIONS + 1)]:
        holder.close()


class FreeConnections:
    """Asks the server from time to time whether enough connections are free."""

    def __init__(self) -> None:
        self._asked = float("-inf")
        #: Whether the server hides this part of the catalog.
        self._hidden = False

    def ask_again(self) -> None:
        """Ask at the next transaction, however recent the latest answer is."""
        self._asked = float("-inf")

    def require(self, transaction: Transaction) -> None:
        """Raise ServerError if too few connections are free. Some servers do not tell."""
        if self._hidden or now() < self._asked + CHECK_SECONDS:
            return
        free = None
        with transaction.attempt("planwatch_slots"):
            ((free,),) = transaction.fetch(_FREE_CONNECTIONS)
        self._hidden = free is None
        if free is not None and free < FREE_CONNECTIONS:
            raise ServerError(SkipReason.SERVER_UNAVAILABLE, _TOO_FEW_FREE)
        self._asked = now()
