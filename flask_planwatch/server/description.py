"""Asks a server for its version, which names it has, and how it prints expressions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..failure import ServerError
from ..plan.wording import say
from ..settings import VERIFY_BUILD, VERIFY_IS_OFF, VERIFY_OFF
from .enabling import options
from .errors import SYNTAX_ERROR
from .session import Session
from .transaction import NO_SERVER

_DESCRIPTION = """
SELECT current_setting('server_version'),
    (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'hypopg')
"""

#: Names of tables, indexes, views and columns, but PostgreSQL's own, which no finding has.
_KNOWN = """
SELECT c.relname::text,
    CASE WHEN c.relkind IN ('i', 'I') THEN 'index' WHEN c.relkind = 'v' THEN 'view' ELSE 'table' END
FROM pg_catalog.pg_class c
WHERE c.relname = ANY (%s::name[])
    AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
UNION
SELECT a.attname::text, 'column' FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
WHERE a.attname = ANY (%s::name[]) AND a.attnum > 0 AND NOT a.attisdropped
    AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
"""


#: The tables of these names with their schemas.
_TABLES = """
SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = ANY (%s::name[]) AND c.relkind IN ('r', 'p', 'm', 'f')
"""

#: The tables with columns of these names, the largest first; partitions are among them.
_TABLES_WITH = """
SELECT a.attrelid::regclass::text FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
WHERE a.attname = ANY (%s::name[]) AND a.attnum > 0 AND NOT a.attisdropped
    AND c.relkind IN ('r', 'p', 'm', 'f')
    AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
GROUP BY a.attrelid, c.reltuples ORDER BY c.reltuples DESC LIMIT %s
"""

#: Tables over which an expression is printed. If there are more, there is no answer.
_MAX_TABLES = 50


#: The name of the connected database, if it is not the wanted one and the wanted one exists: a
#: connection pooler may have databases under names that the server does not know.
_OTHER_DATABASE = """
SELECT pg_catalog.current_database()::text FROM pg_catalog.pg_database
WHERE datname = %s AND datname <> pg_catalog.current_database()
"""

#: What initdb gave the server's data. Replicas have it from their primary, and a pooler or an
#: address translated on the way does not change it. Each role may ask by default.
_IDENTIFIER = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()"


#: How indexes are tried, or why they are not.
_OFF = f"no proof: {VERIFY_IS_OFF}"
_NO_BUILDING = 'no proof: PLANWATCH_VERIFY is "build", but {why}'
_BUILDING = "proof by building indexes that are rolled back"
_NO_HYPOPG = "no proof: {why}"
_HYPOPG = "proof by HypoPG {version}"


@dataclass(frozen=True)
class Description:
    """A server's version, and HypoPG's.

    `missing` tells why HypoPG cannot be used, and what would let indexes be tried; `no_building`
    tells why no index can be built. Each is empty if it can be done.
    """

    version: str
    hypopg: str | None
    missing: str
    no_building: str = ""

    def proof(self, verify: str) -> str:
        """How indexes are tried with this PLANWATCH_VERIFY, or why they are not."""
        if verify == VERIFY_OFF:
            return _OFF
        if verify == VERIFY_BUILD:
            return say(_NO_BUILDING, why=self.no_building) if self.no_building else _BUILDING
        return say(_NO_HYPOPG if self.missing else _HYPOPG, why=self.missing, version=self.hypopg)


def describe(session: Session) -> Description:
    """Return what the server is; raises ServerError."""
    with session.transaction(own_state=True) as transaction:
        ((version, hypopg),) = transaction.fetch(_DESCRIPTION)
        # Imported here: it loads plans and indexes, which the application's thread never needs.
        from .hypopg import without_hypopg

        missing = without_hypopg(transaction)
        could = options(transaction, ())
    no_building = could.no_building if could is not None else ""
    # Packages append their own version in parentheses.
    return Description(version.partition(" ")[0], hypopg, missing, no_building)


def tables_with(session: Session, columns: Iterable[str]) -> list[str] | None:
    """Return the tables that have any of these columns, the largest first.

    None if there are too many to ask about all of them. Raises ServerError.
    """
    parameters = (sorted(columns), _MAX_TABLES + 1)
    tables = session.fetch(_TABLES_WITH, parameters, own_state=True)
    return None if len(tables) > _MAX_TABLES else [table for (table,) in tables]


def printed(
    session: Session, expressions: Sequence[str], tables: Iterable[str]
) -> set[tuple[str, ...]]:
    """Return how the server prints the expressions, for each table that has all their columns.

    Raises ServerError if the server does not answer, or finds an error in their syntax.
    """
    found = set()
    with session.transaction(own_state=True) as transaction:
        for table in tables:
            # In a query of several tables, PostgreSQL would print qualified columns.
            queries = [f"SELECT ({expression}) FROM ONLY {table}" for expression in expressions]
            try:
                with transaction.savepoint("planwatch_printed"):
                    found.add(tuple(str(transaction.output(query)) for query in queries))
            except ServerError as error:
                if error.reason in NO_SERVER or error.sqlstate == SYNTAX_ERROR:
                    raise
    return found


def known_names(session: Session, names: Iterable[str]) -> list[tuple[str, str]]:
    """Return which of the names there are, each with what has it; raises ServerError.

    That is a "table", "index", "view" or "column".
    """
    asked = sorted(names)
    rows = session.fetch(_KNOWN, (asked, asked), own_state=True)
    return [(name, kind) for name, kind in rows]


def known_tables(session: Session, names: Iterable[str]) -> set[tuple[str, str]]:
    """Return schema and name of the tables with these names; raises ServerError."""
    rows = session.fetch(_TABLES, (sorted(names),), own_state=True)
    return {(schema, name) for schema, name in rows}


def other_database(session: Session, wanted: str) -> str:
    """Return the name of the connected database, "" if it is or may be the wanted one.

    Raises ServerError.
    """
    rows = session.fetch(_OTHER_DATABASE, (wanted,), own_state=True)
    return "".join(name for (name,) in rows)


def system_identifier(session: Session) -> str:
    """Return what the server has in common with its replicas only; raises ServerError."""
    ((identifier,),) = session.fetch(_IDENTIFIER, own_state=True)
    return str(identifier)
