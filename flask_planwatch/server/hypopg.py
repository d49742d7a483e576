"""Tries hypothetical indexes: HypoPG keeps them in the memory of one connection, for its planner.

The transactions are READ ONLY.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, cast

from ..failure import ServerError
from ..indexes.btree import PAGE
from ..indexes.candidate import Candidate
from ..indexes.definition import as_defined, printed_keys
from ..indexes.hypothetical import Hypothetical, Prices, as_built
from ..indexes.search import Attempt
from ..plan.evidence import Suspicion
from ..plan.schema import Relation
from ..plan.tree import Plan
from ..plan.wording import say
from . import enabling
from .explain import Query, predicate_query
from .session import Session
from .sizes import Sizes
from .transaction import Transaction
from .whatif import HYPOPG, PREFIX, Trials, Untestable

#: The access methods that HypoPG 1.3 knows.
_HYPOPG_METHODS = frozenset({"btree", "brin", "hash", "bloom"})

#: On this version and later, HypoPG was reported to end the server's process with INCLUDE, and with
#: a condition for which the planner looks up the range of a column:
#: https://github.com/HypoPG/hypopg/issues/114 and https://github.com/HypoPG/hypopg/issues/116
_UNSAFE_SINCE = 170000

#: Operators and functions whose rows are estimated by a range, once what looks like them is gone.
_RANGE = re.compile(r"[<>~^]|\bstarts_with\b")
_NO_RANGE = re.compile(r"""<>|->>?|'(?:[^']|'')*+'|"(?:[^"]|"")*+\"""")

_SERVER = """
SELECT current_setting('server_version_num')::int, current_setting('cpu_operator_cost')::float8,
    current_setting('random_page_cost')::float8
"""

#: If what HypoPG does not charge makes a plan so many times as expensive, another may be cheaper.
_MUCH_DEARER = 1.05

#: The quoted schema of the extension, and whether this role may use its functions.
_SCHEMA = """
SELECT quote_ident(n.nspname), has_schema_privilege(n.oid, 'USAGE') AND (
    SELECT bool_and(has_function_privilege(p.oid, 'EXECUTE')) FROM pg_proc p
    WHERE p.pronamespace = n.oid
    AND p.proname IN ('hypopg_create_index', 'hypopg_relation_size', 'hypopg_get_indexdef',
        'hypopg_reset'))
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'hypopg'
"""

#: Why an index is not tried, with what would let it be tried.
_NOT_TRIED = "{reason}[; {building}]"
_ENDS_BY_INCLUDE = "HypoPG may end the server's process with INCLUDE"
_ENDS_BY_INEQUALITY = "HypoPG may end the server's process with an inequality in WHERE"
_ON_PARTITIONS = "HypoPG does not plan with indexes on partitions"
_UNKNOWN_METHOD = "HypoPG knows no {method} indexes"
_NO_PRIVILEGE = (
    "PlanWatch's role may not use the HypoPG extension: GRANT USAGE ON SCHEMA {schema}, and GRANT "
    "EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema}"
)
_NOT_INSTALLED = "HypoPG is not installed in this database"
_MISSING = "{hypopg}[, or, {building}]"


@contextmanager
def on_hypopg(session: Session, query: Query, relations: Iterable[Relation]) -> Iterator[Trials]:
    """Yield Trials of hypothetical indexes on these tables.

    Raises Untestable if HypoPG cannot be used.
    """
    with session.transaction() as transaction:
        schema = _schema(transaction, relations)
        transaction.run(f"SAVEPOINT {PREFIX}")
        try:
            yield _HypopgTrials(transaction, query, schema)
        finally:
            # Hypothetical indexes survive a rollback, and a pooler may give this connection to
            # somebody else: they have to go whatever was raised. If it was lost, they are gone.
            with suppress(ServerError):
                transaction.run(f"ROLLBACK TO SAVEPOINT {PREFIX}")
                transaction.fetch(f"SELECT {schema}.hypopg_reset()")


class _HypopgTrials(Trials):
    """Trials of hypothetical indexes."""

    method = HYPOPG

    def __init__(self, transaction: Transaction, query: Query, schema: str) -> None:
        super().__init__(transaction, query)
        self._schema = schema
        self._sizes = Sizes(transaction)
        ((self._version, *prices),) = transaction.fetch(_SERVER)
        self._prices = Prices(*prices)
        #: What HypoPG takes each index for, in bytes.
        self._taken_for: dict[Candidate, int] = {}
        self.before = query.explain(transaction)

    def alone(self, candidate: Candidate, suspicion: Suspicion) -> Attempt | None:
        # Measured with HypoPG 1.3: the planner uses a hypothetical index on an expression only for
        # the first table of a statement.
        if not suspicion.comparisons or candidate.on_columns:
            return None
        names = self.create([candidate])
        found = None
        # The server may refuse a predicate without the rest of its statement.
        with self.transaction.attempt(f"{PREFIX}_alone"):
            found = self.plan(predicate_query(suspicion), names, seqscan=True)
        return found

    def is_measured(self, candidate: Candidate) -> bool:
        return candidate.on_columns and candidate.relation.has_statistics

    def clear(self) -> None:
        self.transaction.fetch(f"SELECT {self._schema}.hypopg_reset()")

    def make(self, candidate: Candidate, number: int) -> list[tuple[Any, ...]]:
        made = self.transaction.fetch(
            f"SELECT indexname, {self._schema}.hypopg_relation_size(indexrelid), "
            f"{self._schema}.hypopg_get_indexdef(indexrelid) "
            f"FROM {self._schema}.hypopg_create_index(%s)",
            (f"CREATE INDEX {candidate.definition}",),
        )
        self._taken_for[candidate] = sum(int(size) for _, size, _ in made)
        # HypoPG prints all parentheses, unlike the definition that SQLAlchemy reads.
        keys = [key for *_, printed in made for key in printed_keys(printed)]
        self.definitions[candidate] = [as_defined(key) or "" for key in keys]
        return [(name, size) for name, size, _ in made]

    def size(self, candidate: Candidate) -> int | None:
        # HypoPG 1.3 takes an index for 1.1 to 11 times as large as it is.
        return self._sizes.of(candidate).bytes if candidate.method == "btree" else None

    def explained(self, query: Query, names: Mapping[str, Candidate]) -> Plan:
        plan = query.explain(self.transaction)
        priced = self._priced(plan, names)
        if priced.total_cost <= plan.total_cost * _MUCH_DEARER:
            return priced
        # The planner chose the plan for searches that cost too little.
        self.transaction.run(f"SAVEPOINT {PREFIX}_joins", "SET LOCAL enable_nestloop = off")
        other = query.explain(self.transaction)
        joins = f"SAVEPOINT {PREFIX}_joins"
        self.transaction.run(f"ROLLBACK TO {joins}", f"RELEASE {joins}")
        return min(priced, self._priced(other, names), key=lambda found: found.total_cost)

    def _priced(self, plan: Plan, names: Mapping[str, Candidate]) -> Plan:
        used = {node.index for node in plan.nodes}
        indexes = {
            name: Hypothetical(
                self._sizes.rows_of(candidate),
                self._taken_for[candidate] / PAGE,
                self._sizes.of(candidate),
            )
            for name, candidate in names.items()
            if name in used and candidate.method == "btree"
        }
        return as_built(plan, indexes, self._prices)

    def unsupported(self, candidate: Candidate) -> Exception | None:
        if candidate.relation.partitioned:
            # Measured with HypoPG 1.3: the planner does not see hypothetical indexes of partitions
            # that are read through their parent.
            return self._untestable(_ON_PARTITIONS, candidate)
        if candidate.method not in _HYPOPG_METHODS:
            return self._untestable(say(_UNKNOWN_METHOD, method=candidate.method), candidate)
        danger = unsafe(candidate, self._version)
        return self._untestable(danger, candidate) if danger else None

    def _untestable(self, reason: str, candidate: Candidate) -> Untestable:
        options = enabling.options(self.transaction, [candidate.relation])
        building = options.building if options is not None else ""
        return Untestable(say(_NOT_TRIED, reason=reason, building=building))


def unsafe(candidate: Candidate, version: int) -> str:
    """Return why a candidate is not tried on a server of this version, "" if nothing is known."""
    if version < _UNSAFE_SINCE:
        return ""
    if candidate.include:
        return _ENDS_BY_INCLUDE
    if _RANGE.search(_NO_RANGE.sub("", candidate.predicate)):
        return _ENDS_BY_INEQUALITY
    return ""


def without_hypopg(transaction: Transaction) -> str:
    """Return why HypoPG cannot be used, and what would let indexes be tried; "" if it can."""
    try:
        _schema(transaction, ())
    except Untestable as untestable:
        return str(untestable)
    return ""


def _schema(transaction: Transaction, relations: Iterable[Relation]) -> str:
    """Return the quoted schema of the HypoPG extension.

    Raises Untestable if it is not installed, with what would let indexes on these tables be tried,
    or if this role may not use it.
    """
    rows = transaction.fetch(_SCHEMA)
    if not rows:
        raise Untestable(_not_installed(transaction, relations))
    ((schema, allowed),) = rows
    if not allowed:
        raise Untestable(say(_NO_PRIVILEGE, schema=schema))
    return cast(str, schema)


def _not_installed(transaction: Transaction, relations: Iterable[Relation]) -> str:
    options = enabling.options(transaction, relations)
    if options is None:
        return _NOT_INSTALLED
    return say(_MISSING, hypopg=options.hypopg, building=options.building)
