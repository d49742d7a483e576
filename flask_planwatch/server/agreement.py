"""Checks that a plan reads the tables that the application's statement read.

With each result, PostgreSQL sends the oids of the tables that its columns come from. They show when
the search path was changed where no hook sees it.
"""

from __future__ import annotations

import re
from collections.abc import Set

from ..failure import ServerError
from ..finding import SkipReason
from ..plan.tree import Plan
from ..plan.wording import say
from ..runtime.bounded import LEARNT, RecentlyUsed
from ..runtime.clock import now
from .session import Session

#: Once a plan has read another table than its statement, statements whose result names no table
#: are skipped for so many seconds. Each further such plan starts them again.
DISTRUST_SECONDS = 3600.0

#: Tables whose names are remembered. The least recently used one is forgotten first. They save a
#: query, and 0.2 ms of each inspection (benchmarks/caches.py).
MAX_NAMES = 1000

#: The names of relations, and whether the unqualified name means another one by this search path.
_READ = """
SELECT c.oid, n.nspname || '.' || c.relname, n.nspname, c.relname,
    coalesce(pg_catalog.to_regclass(pg_catalog.quote_ident(c.relname)) <> c.oid, false)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY (%s::pg_catalog.oid[])
"""


_GONE = "it read a table that its own transaction created, or that was dropped afterwards"
_TEMPORARY = '"{relation}" is temporary'
_CONTRADICTION = (
    "{relation} is {name} for the application, but another table on PlanWatch's connection: the "
    "search_path was changed where PlanWatch cannot see it"
)


class Agreement:
    """Compares what the statements of one engine read with what their plans read."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._names: RecentlyUsed[int, str] = RecentlyUsed(LEARNT, MAX_NAMES)
        self._contradiction = ""
        self._contradicted = float("-inf")

    def require(self, text: str, tables: tuple[int, ...], plan: Plan) -> None:
        """Raise ServerError if a plan reads other tables than the statement did.

        `tables` are the oids of the result's tables. If it has none, the results of other
        statements decide whether the plan is trusted.
        """
        planned = {node.qualified_relation for node in plan.nodes if node.relation is not None}
        if not tables:
            self._require_trust(text, plan)
        elif not all(self._names.get(oid) in planned for oid in tables):
            self._compare(text, tables, planned)

    def _compare(self, text: str, tables: tuple[int, ...], planned: Set[str | None]) -> None:
        rows = self._session.fetch(_READ, (list(tables),))
        if len(rows) < len(tables) and not self._session.elsewhere:
            raise ServerError(SkipReason.NOT_VISIBLE, _GONE)
        for oid, name, schema, relation, is_another in rows:
            self._names.keep(oid, name)
            # A qualified name means the same on any search path.
            qualified = name in planned or _qualifies(text, schema)
            if not is_another or qualified or relation.lower() not in text.lower():
                continue
            if schema.startswith("pg_temp"):
                raise ServerError(SkipReason.NOT_VISIBLE, say(_TEMPORARY, relation=relation))
            self._contradicted = now()
            self._contradiction = say(_CONTRADICTION, name=name, relation=relation)
            raise ServerError(SkipReason.SESSION_STATE_UNKNOWN, self._contradiction)

    def _require_trust(self, text: str, plan: Plan) -> None:
        """Raise ServerError if the plan depends on a search path that is not trusted."""
        # abs() because the clock may have been set back.
        if abs(now() - self._contradicted) > DISTRUST_SECONDS:
            return
        schemas = {node.schema for node in plan.nodes if node.relation is not None}
        if any(schema is None or not _qualifies(text, schema) for schema in schemas):
            raise ServerError(SkipReason.SESSION_STATE_UNKNOWN, self._contradiction)


def _qualifies(text: str, schema: str) -> bool:
    """Whether a statement contains a name that is qualified with this schema."""
    named = re.escape(schema.replace('"', '""'))
    return re.search(rf'{named}"?\s*+\.', text, re.IGNORECASE) is not None
