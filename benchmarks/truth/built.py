"""Indexes that are really built, and of which some are in use at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from .servers import Database

_ALL = "SELECT indexrelid FROM pg_index"

#: The planner assumes a default for an expression until its table is analysed.
_TABLES_OF_EXPRESSIONS = (
    "SELECT DISTINCT CAST(CAST(indrelid AS regclass) AS text) FROM pg_index "
    "WHERE indexrelid = ANY(:indexes) AND indexprs IS NOT NULL"
)

#: A partitioned index has no pages of its own.
_BYTES = "SELECT coalesce(sum(pg_relation_size(n)), 0) FROM unnest(CAST(:indexes AS oid[])) AS n"

#: The index of a partition goes with that of the whole table.
_WHOLE = (
    "SELECT CAST(CAST(oid AS regclass) AS text) FROM pg_class "
    "WHERE oid = ANY(:indexes) AND NOT relispartition"
)

#: The outer command has all backends plan anew what they have prepared for these tables, such as
#: the queries of foreign keys.
_SWITCH = (
    "WITH switched AS (UPDATE pg_index SET indisvalid = :on, indisready = :on "
    "WHERE indexrelid = ANY(:indexes) AND indisvalid <> :on RETURNING indrelid) "
    "UPDATE pg_class SET relname = relname WHERE oid IN (SELECT indrelid FROM switched)"
)


class BuiltIndexes:
    """Builds indexes in a database once, and switches them on and off.

    An index that is off is neither read nor written: `indisvalid` and `indisready` say so to the
    planner and to the executor. So the same pages of the same tables are measured with and without
    it, one right after the other.
    """

    def __init__(self, database: Database, connection: sa.Connection) -> None:
        self.database = database
        self._connection = connection
        self._built: dict[tuple[str, ...], frozenset[int]] = {}

    def build(self, commands: tuple[str, ...]) -> frozenset[int]:
        """Run the commands of one advice, and return the numbers of its indexes, switched off.

        Those that were run before are not run again. Raises sqlalchemy.exc.DBAPIError if the server
        refuses one.
        """
        if commands not in self._built:
            before = self._numbers()
            try:
                self.database.run(commands)
            finally:
                created = self._numbers() - before
                tables = self._ask(_TABLES_OF_EXPRESSIONS, indexes=list(created))
                self.database.run(f"ANALYZE {table}" for table in tables)
                self._switch(created, on=False)
            self._built[commands] = created
        return self._built[commands]

    def use(self, indexes: Iterable[int]) -> None:
        """Switch these on, and all others that were built here off."""
        chosen = frozenset(indexes)
        self._switch(frozenset().union(*self._built.values()) - chosen, on=False)
        self._switch(chosen, on=True)

    def count(self, indexes: Iterable[int]) -> int:
        """Return how many these are; one of a partitioned table counts once."""
        return len(self._ask(_WHOLE, indexes=list(indexes)))

    def size(self, indexes: Iterable[int]) -> int:
        """Return how many bytes these have."""
        return int(self._ask(_BYTES, indexes=list(indexes))[0])

    def drop(self, indexes: Iterable[int]) -> None:
        """Drop these; they must have been built by commands of their own."""
        gone = frozenset(indexes)
        for name in self._ask(_WHOLE, indexes=list(gone)):
            self._connection.exec_driver_sql(f"DROP INDEX {name}")
        self._built = {
            commands: built for commands, built in self._built.items() if not built <= gone
        }

    def _numbers(self) -> frozenset[int]:
        return frozenset(self._ask(_ALL))

    def _switch(self, indexes: frozenset[int], *, on: bool) -> None:
        if indexes:
            values = {"indexes": list(indexes), "on": on}
            self._connection.execute(sa.text(_SWITCH), values)

    def _ask(self, query: str, **values: object) -> list[Any]:
        return list(self._connection.execute(sa.text(query), values).scalars())


@contextmanager
def built_indexes(database: Database) -> Iterator[BuiltIndexes]:
    """Connect for as long as indexes are switched: a connection that ends would be measured."""
    with database.administration() as connection:
        yield BuiltIndexes(database, connection)
