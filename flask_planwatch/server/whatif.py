"""Would these indexes be used? Asked of the planner, with HypoPG or with indexes built for real.

HypoPG's indexes exist in the memory of one connection and are planned with in READ ONLY
transactions. A build is a writable transaction that is rolled back: it locks out writers while it
lasts, so it happens only where PLANWATCH_VERIFY is "build".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol, cast

from ..advice.index import Candidate
from ..advice.search import Attempt
from ..clock import now
from ..finding import SkipReason
from ..plan.evidence import Suspicion
from ..plan.schema import Relation, Schema
from ..plan.tree import Plan
from . import enabling
from .explain import Query, predicate_query
from .session import Session
from .transaction import NO_SERVER, ServerError, Transaction

HYPOPG, BUILD = "hypopg", "build"

#: How long the builds for one statement may take together, in ms: a development database of some
#: million rows fits in; what does not is reported as untested.
BUILD_TIMEOUT_MS = 20_000

#: The access methods that HypoPG 1.3 knows.
_HYPOPG_METHODS = frozenset({"btree", "brin", "hash", "bloom"})

#: "functions in index expression must be marked IMMUTABLE"
_NOT_IMMUTABLE = "42P17"

#: "index row size … exceeds btree version 4 maximum 2704"
_LIMIT_EXCEEDED = "54000"

_MARK = "planwatch_trial"


class NotImmutable(Exception):
    """The server refused the index: its expression is not IMMUTABLE."""


class Blocked(Exception):
    """A lock was in the way, most likely that of the very request; a later try may succeed."""


class Untestable(Exception):
    """The index could not be tried; the message says why, and how to enable it."""


class TooLong(Exception):
    """A value is too long for the index; so would be one that is inserted later."""


class Bench(Protocol):
    """Where candidate indexes are tried for one statement, in one transaction.

    `method` says how, `before` is the statement's plan without any of them. `refused` holds the
    reason, a NotImmutable, TooLong or Untestable, for each candidate that could not be made;
    `sizes` are the bytes of those that could, as far as they are known.
    """

    method: str
    before: Plan
    refused: dict[Candidate, Exception]
    sizes: dict[Candidate, int]

    def attempt(self, candidates: Sequence[Candidate], *, seqscan: bool = True) -> Attempt:
        """Return the plan with these candidates in place; raises Blocked and ServerError."""

    def alone(self, candidate: Candidate, suspicion: Suspicion) -> Attempt | None:
        """Return the plan of the suspicious predicate alone, None if that tells nothing more."""

    def is_measured(self, candidate: Candidate) -> bool:
        """Whether all that the candidate is sorted by has statistics."""


@contextmanager
def on_hypopg(session: Session, query: Query, relations: Iterable[Relation]) -> Iterator[Bench]:
    """Yield a Bench of hypothetical indexes on these tables.

    Raises Untestable where HypoPG cannot be used.
    """
    with session.transaction() as transaction:
        schema = _hypopg_schema(transaction)
        if schema is None:
            raise Untestable(no_hypopg(transaction, relations))
        transaction.run(f"SAVEPOINT {_MARK}")
        try:
            yield _HypopgBench(transaction, query, schema)
        finally:
            # Hypothetical indexes survive a rollback, and a pooler may give the next transaction
            # to another connection. With a lost one, they are gone.
            with suppress(ServerError):
                transaction.run(f"ROLLBACK TO SAVEPOINT {_MARK}")
                transaction.fetch(f"SELECT {schema}.hypopg_reset()")


@contextmanager
def on_builds(
    session: Session,
    query: Query,
    schema: Schema,
    expressions: Sequence[tuple[Relation, str]],
    extensions: Sequence[str],
) -> Iterator[Bench]:
    """Yield a Bench that creates indexes for real; all is rolled back at its end.

    `expressions` get statistics, so that the costs before and after rest on the same knowledge, but
    only on tables that have some already: a rolled-back ANALYZE leaves traces, and autovacuum would
    take a table without statistics for done. `extensions` are created first. Raises Untestable on a
    hot standby.
    """
    with _writable(session, hypopg=True) as transaction:
        yield _BuildBench(transaction, query, schema, expressions, extensions)


@contextmanager
def on_statistics(session: Session) -> Iterator[FreshStatistics]:
    """Yield where statistics are collected for real; all is rolled back at its end.

    Only for tables that have some already: see on_builds.
    """
    with _writable(session, hypopg=False) as transaction:
        yield FreshStatistics(transaction)


def _writable(session: Session, *, hypopg: bool) -> AbstractContextManager[Transaction]:
    """Return a transaction that may write; raises Untestable on a hot standby, which has none.

    `hypopg` tells whether HypoPG would answer there.
    """
    with session.transaction() as transaction:
        ((standby,),) = transaction.fetch("SELECT pg_catalog.pg_is_in_recovery()")
        if standby:
            reason = "the server is a hot standby, where nothing can be built"
            if not hypopg:
                raise Untestable(reason)
            if _hypopg_schema(transaction) is None:
                raise Untestable(f"{reason}; {no_hypopg(transaction, ())}")
            raise Untestable(f'{reason}; PLANWATCH_VERIFY = "auto" would ask HypoPG')
    return session.transaction(writable=True, statement_timeout_ms=BUILD_TIMEOUT_MS)


class FreshStatistics:
    """What the planner expects once a table is analysed, in one transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def collect(self, relation: Relation, create: str = "") -> None:
        """Analyse a table, after creating statistics on it.

        Raises Blocked if a lock is in the way, Untestable if the server refuses, and ServerError if
        the connection is lost.
        """
        try:
            if create:
                self._transaction.run_alone(create)
            _analyse(self._transaction, relation)
        except ServerError as error:
            if error.reason in NO_SERVER:
                raise
            if error.reason is SkipReason.LOCK_TIMEOUT:
                raise Blocked from error
            raise Untestable(f"the server refused to collect them: {error}") from error

    def explain(self, query: Query) -> Plan:
        """Return the plan that a query has now; raises ServerError."""
        return query.explain(self._transaction)


class _Trials(ABC):
    """What both benches do alike: make the candidates one by one, and plan with them."""

    def __init__(self, transaction: Transaction, query: Query) -> None:
        self.transaction = transaction
        self.query = query
        self.refused: dict[Candidate, Exception] = {}
        self.sizes: dict[Candidate, int] = {}

    @abstractmethod
    def clear(self) -> None:
        """Take away all candidates of the attempt before."""

    @abstractmethod
    def unsupported(self, candidate: Candidate) -> Exception | None:
        """Return why a candidate cannot be tried here, None if it can."""

    @abstractmethod
    def make(self, candidate: Candidate, number: int) -> list[tuple[Any, ...]]:
        """Create an index; return its name and bytes, and those of each partition's own."""

    def attempt(self, candidates: Sequence[Candidate], *, seqscan: bool = True) -> Attempt:
        return self._plan(self.query, self._create(candidates), seqscan=seqscan)

    def _create(self, candidates: Sequence[Candidate]) -> dict[str, Candidate]:
        """Create the candidates; return each by the names that a plan may show."""
        self.clear()
        names: dict[str, Candidate] = {}
        for number, candidate in enumerate(candidates):
            if candidate not in self.refused:
                made = self._make_or_refuse(candidate, number)
                names |= dict.fromkeys((name for name, _ in made), candidate)
                self.sizes[candidate] = sum(int(size) for _, size in made)
        return names

    def _make_or_refuse(self, candidate: Candidate, number: int) -> list[tuple[Any, ...]]:
        """Raises Blocked if a lock is in the way, and ServerError if the connection is lost."""
        reason = self.unsupported(candidate)
        if reason is not None:
            self.refused[candidate] = reason
            return []
        self.transaction.run(f"SAVEPOINT {_MARK}_candidate")
        try:
            made = self.make(candidate, number)
        except ServerError as error:
            if error.reason is SkipReason.LOCK_TIMEOUT:
                raise Blocked from error
            self.transaction.run(f"ROLLBACK TO SAVEPOINT {_MARK}_candidate")
            self.refused[candidate] = _refusal(error)
            return []
        self.transaction.run(f"RELEASE SAVEPOINT {_MARK}_candidate")
        return made

    def _plan(self, query: Query, names: dict[str, Candidate], *, seqscan: bool) -> Attempt:
        self.transaction.run(f"SET LOCAL enable_seqscan = {'on' if seqscan else 'off'}")
        plan = query.explain(self.transaction)
        used = [names[node.index] for node in plan.nodes if node.index in names]
        shown = {name: candidate.name for name, candidate in names.items()}
        return Attempt(plan, tuple(dict.fromkeys(used)), shown)


class _HypopgBench(_Trials):
    """Hypothetical indexes."""

    method = HYPOPG

    def __init__(self, transaction: Transaction, query: Query, schema: str) -> None:
        super().__init__(transaction, query)
        self._schema = schema
        self.before = query.explain(transaction)

    def alone(self, candidate: Candidate, suspicion: Suspicion) -> Attempt | None:
        # Measured with 1.3: a hypothetical index on an expression is not recognised on a table
        # that is not the first of its statement.
        if not suspicion.comparisons or candidate.on_columns:
            return None
        names = self._create([candidate])
        self.transaction.run(f"SAVEPOINT {_MARK}_alone")
        try:
            return self._plan(predicate_query(suspicion), names, seqscan=True)
        except ServerError:
            # Not each predicate can be planned by itself; a lost connection fails here as well.
            self.transaction.run(f"ROLLBACK TO SAVEPOINT {_MARK}_alone")
            return None

    def is_measured(self, candidate: Candidate) -> bool:
        return candidate.on_columns and candidate.relation.has_statistics

    def clear(self) -> None:
        self.transaction.fetch(f"SELECT {self._schema}.hypopg_reset()")

    def make(self, candidate: Candidate, number: int) -> list[tuple[Any, ...]]:
        return self.transaction.fetch(
            f"SELECT indexname, {self._schema}.hypopg_relation_size(indexrelid) "
            f"FROM {self._schema}.hypopg_create_index(%s)",
            (f"CREATE INDEX {candidate.definition}",),
        )

    def unsupported(self, candidate: Candidate) -> Exception | None:
        if candidate.relation.partitioned:
            # Measured with 1.3: it adds hypothetical indexes to tables only, not to partitions
            # that are read through their parent.
            return self._untestable("HypoPG does not plan with indexes on partitions", candidate)
        if candidate.method not in _HYPOPG_METHODS:
            return self._untestable(f"HypoPG knows no {candidate.method} indexes", candidate)
        return None

    def _untestable(self, reason: str, candidate: Candidate) -> Untestable:
        options = enabling.options(self.transaction, [candidate.relation])
        building = options.building if options is not None else ""
        return Untestable(f"{reason}; {building}" if building else reason)


class _BuildBench(_Trials):
    """Indexes that are really there, until the transaction is rolled back."""

    method = BUILD

    def __init__(
        self,
        transaction: Transaction,
        query: Query,
        schema: Schema,
        expressions: Sequence[tuple[Relation, str]],
        extensions: Sequence[str],
    ) -> None:
        super().__init__(transaction, query)
        self._ends = now() + BUILD_TIMEOUT_MS / 1000
        self._missing = {
            extension: error
            for extension in extensions
            if (error := self._create_extension(extension)) is not None
        }
        self._analysed = self._add_statistics(schema, expressions)
        self.before = query.explain(transaction)
        transaction.run(f"SAVEPOINT {_MARK}")

    def attempt(self, candidates: Sequence[Candidate], *, seqscan: bool = True) -> Attempt:
        names = self._create(candidates)
        self._refuse_not_yet_usable(names)
        return self._plan(self.query, names, seqscan=seqscan)

    def alone(self, candidate: Candidate, suspicion: Suspicion) -> Attempt | None:
        return None

    def is_measured(self, candidate: Candidate) -> bool:
        return candidate.relation.has_statistics and all(
            key.column is not None or (candidate.relation.key, key.expression) in self._analysed
            for key in candidate.keys
        )

    def clear(self) -> None:
        self.transaction.run(f"ROLLBACK TO SAVEPOINT {_MARK}")

    def make(self, candidate: Candidate, number: int) -> list[tuple[Any, ...]]:
        name = f"{_MARK}_{number}"
        self.transaction.run_alone(f"CREATE INDEX {name} {candidate.definition}")
        place = f"{candidate.relation.schema_prefix}{name}"
        return self.transaction.fetch(
            "SELECT c.relname, pg_relation_size(c.oid) FROM pg_class c WHERE c.oid IN "
            "(SELECT relid FROM pg_partition_tree(%s::regclass) UNION ALL SELECT %s::regclass)",
            (place, place),
        )

    def unsupported(self, candidate: Candidate) -> Exception | None:
        if now() > self._ends:
            return Untestable("trying the index took too long")
        return self._missing.get(candidate.extension)

    def _refuse_not_yet_usable(self, names: dict[str, Candidate]) -> None:
        """Raise Blocked for an index that this very transaction may not use yet.

        PostgreSQL leaves it out (`indcheckxmin`) if rows were changed that somebody still sees.
        """
        if names and self.transaction.fetch(
            "SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "WHERE c.relname = ANY (%s) AND i.indcheckxmin LIMIT 1",
            (list(names),),
        ):
            raise Blocked

    def _create_extension(self, extension: str) -> Exception | None:
        self.transaction.run(f"SAVEPOINT {_MARK}_extension")
        try:
            self.transaction.run_alone(f"CREATE EXTENSION IF NOT EXISTS {extension}")
        except ServerError as error:
            self.transaction.run(f"ROLLBACK TO SAVEPOINT {_MARK}_extension")
            return Untestable(f"the extension {extension} could not be created: {error}")
        return None

    def _add_statistics(
        self, schema: Schema, expressions: Sequence[tuple[Relation, str]]
    ) -> frozenset[tuple[str, str]]:
        """Have the expressions analysed; return the table and the text of those that were."""
        known: dict[Relation, set[str]] = {}
        number = 0
        for relation, expression in dict.fromkeys(expressions):
            leaves = schema.leaves(relation)
            # ANALYZE of a partitioned table reads its partitions as well.
            if not all(one.has_statistics for one in (relation, *leaves)):
                continue
            self.transaction.run(f"SAVEPOINT {_MARK}_statistics")
            try:
                for leaf in leaves:
                    number += 1
                    name = f"{leaf.schema_prefix}{_MARK}_{number}"
                    self.transaction.run_alone(
                        f"CREATE STATISTICS {name} ON ({expression}) FROM {leaf.display}"
                    )
            except ServerError as error:
                if error.reason is SkipReason.LOCK_TIMEOUT:
                    raise Blocked from error
                self.transaction.run(f"ROLLBACK TO SAVEPOINT {_MARK}_statistics")
                continue
            known.setdefault(relation, set()).add(expression)
        for relation in known:
            _analyse(self.transaction, relation)
        return frozenset((one.key, text) for one, texts in known.items() for text in texts)


def _analyse(transaction: Transaction, relation: Relation) -> None:
    """Raises Blocked if a lock is in the way."""
    try:
        transaction.run_alone(f"ANALYZE {relation.display}")
    except ServerError as error:
        if error.reason is SkipReason.LOCK_TIMEOUT:
            raise Blocked from error
        raise


def _refusal(error: ServerError) -> Exception:
    if error.sqlstate == _NOT_IMMUTABLE:
        return NotImmutable(str(error))
    if error.sqlstate == _LIMIT_EXCEEDED:
        return TooLong("some values are too long for a btree index")
    if error.reason is SkipReason.STATEMENT_TIMEOUT:
        return Untestable("trying the index took too long")
    return Untestable(f"the index could not be tried: {error}")


def no_hypopg(transaction: Transaction, relations: Iterable[Relation]) -> str:
    """Return why there is no HypoPG, and what else would let indexes on these tables be tried."""
    options = enabling.options(transaction, relations)
    if options is None:
        return "HypoPG is not installed in this database"
    return f"{options.hypopg}, or, {options.building}" if options.building else options.hypopg


def _hypopg_schema(transaction: Transaction) -> str | None:
    """Return the quoted schema of the HypoPG extension, or None if it is not installed.

    Raises Untestable if this role may not use it.
    """
    rows = transaction.fetch(
        "SELECT quote_ident(n.nspname), has_schema_privilege(n.oid, 'USAGE') AND ("
        "SELECT bool_and(has_function_privilege(p.oid, 'EXECUTE')) FROM pg_proc p "
        "WHERE p.pronamespace = n.oid AND p.proname IN "
        "('hypopg_create_index', 'hypopg_relation_size', 'hypopg_reset')) "
        "FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace "
        "WHERE e.extname = 'hypopg'"
    )
    if not rows:
        return None
    ((schema, allowed),) = rows
    if not allowed:
        raise Untestable(
            f"PlanWatch's role may not use the HypoPG extension: GRANT USAGE ON SCHEMA {schema}, "
            f"and GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema}"
        )
    return cast(str, schema)
