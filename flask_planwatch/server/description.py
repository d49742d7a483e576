"""Asks a server what it is, and how an index can be tried on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..settings import VERIFY_BUILD, VERIFY_OFF
from .session import Session
from .whatif import no_hypopg

_DESCRIPTION = """
SELECT current_setting('server_version'),
    (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'hypopg')
"""

#: Names of tables, indexes and columns. Those of PostgreSQL's own are in no finding.
_KNOWN = """
SELECT c.relname FROM pg_catalog.pg_class c
WHERE c.relname = ANY (%s::name[])
    AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
UNION
SELECT a.attname FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
WHERE a.attname = ANY (%s::name[]) AND a.attnum > 0 AND NOT a.attisdropped
    AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
"""


@dataclass(frozen=True)
class Description:
    """A server's version, and HypoPG's, or why it is missing and what else would prove an index."""

    version: str
    hypopg: str | None
    missing: str

    def proof(self, verify: str) -> str:
        """How indexes are tried with this PLANWATCH_VERIFY, or what would let them be."""
        if verify == VERIFY_OFF:
            return 'no proof: PLANWATCH_VERIFY is "off"'
        if verify == VERIFY_BUILD:
            return "proof by building indexes that are rolled back"
        return (
            f"no proof: {self.missing}" if self.hypopg is None else f"proof by HypoPG {self.hypopg}"
        )


def describe(session: Session) -> Description:
    """Return what the server is; raises ServerError."""
    with session.transaction(own_state=True) as transaction:
        ((version, hypopg),) = transaction.fetch(_DESCRIPTION)
        missing = no_hypopg(transaction, ()) if hypopg is None else ""
    # A package adds its own version in parentheses.
    return Description(version.partition(" ")[0], hypopg, missing)


def known_names(session: Session, names: Iterable[str]) -> set[str]:
    """Return which names a table, an index or a column of the database has; raises ServerError."""
    asked = sorted(names)
    with session.transaction(own_state=True) as transaction:
        return {name for (name,) in transaction.fetch(_KNOWN, (asked, asked))}
