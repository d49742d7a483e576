"""Would these indexes be used? Asked of the planner, with HypoPG or with indexes built for real.

HypoPG's indexes exist in the memory of one connection and are planned with in READ ONLY
transactions. A build is a writable transaction that is rolled back: it locks out writers while it
lasts, so it happens only where PLANWATCH_VERIFY is "build".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, Protocol

from ..advice.index import Candidate
from ..advice.search import Attempt
from ..finding import SkipReason
from ..plan.evidence import Suspicion
from ..plan.schema import Relation, Schema
from ..plan.tree import Plan
from .explain import Query, predicate_query
from .session import ServerError, Session, Transaction

HYPOPG, BUILD = "hypopg", "build"

#: How long the builds for one statement may take together, in ms: a development database of some
#: million rows fits in; what does not is reported as untested.
BUILD_TIMEOUT_MS = 20_000

#: The access methods that HypoPG 1.3 knows.
_HYPOPG_METHODS = frozenset({"btree", "brin", "hash", "bloom"})

#: "functions in index expression must be marked IMMUTABLE"
_NOT_IMMUTABLE = "42P17"

_MARK = "planwatch_trial"


class NotImmutable(Exception):
    """The server refused the index: its expression is not IMMUTABLE."""


class Blocked(Exception):
    """A lock was in the way, most likely that of the very request; a later try may succeed."""


class Untestable(Exception):
    """The index could not be tried; the message says why, and how to enable it."""


class Bench(Protocol):
    """Where candidate indexes are tried for one statement, in one transaction.

    `method` says how, `before` is the statement's plan without any of them. `refused` holds the
    reason, a NotImmutable or Untestable, for each candidate that could not be made; `sizes` are the
    bytes of those that could, as far as they are known.
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
def on_hypopg(session: Session, query: Query) -> Iterator[Bench]:
    """Yield a Bench of hypothetical indexes; raises Untestable where HypoPG is missing."""
    schema = _hypopg_schema(session)
    if schema is None:
        raise Untestable(
            "the HypoPG extension is not installed: CREATE EXTENSION hypopg, or, on a database of "
            'your own, set PLANWATCH_VERIFY = "build"'
        )
    try:
        with session.transaction() as transaction:
            yield _HypopgBench(transaction, query, schema)
            # At once, as a pooler may give the next transaction to another connection.
            transaction.fetch(f"SELECT {schema}.hypopg_reset()")
    except BaseException:
        # Hypothetical indexes survive a rollback.
        with session.transaction() as transaction:
            transaction.fetch(f"SELECT {schema}.hypopg_reset()")
        raise


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
    take a table without statistics for done. `extensions` are created first.
    """
    with session.transaction(writable=True, statement_timeout_ms=BUILD_TIMEOUT_MS) as transaction:
        yield _BuildBench(transaction, query, schema, expressions, extensions)


class _HypopgBench:
    """Hypothetical indexes."""

    method = HYPOPG

    def __init__(self, transaction: Transaction, query: Query, schema: str) -> None:
        self._transaction = transaction
        self._query = query
        self._schema = schema
        self.refused: dict[Candidate, Exception] = {}
        self.sizes: dict[Candidate, int] = {}
        self.before = query.explain(transaction)

    def attempt(self, candidates: Sequence[Candidate], *, seqscan: bool = True) -> Attempt:
        names = self._create(candidates)
        return _attempt(self._transaction, self._query, names, seqscan=seqscan)

    def alone(self, candidate: Candidate, suspicion: Suspicion) -> Attempt | None:
        # Measured with 1.3: a hypothetical index on an expression is not recognised on a table
        # that is not the first of its statement.
        if not suspicion.comparisons:
            return None
        names = self._create([candidate])
        return _attempt(self._transaction, predicate_query(suspicion), names, seqscan=True)

    def is_measured(self, candidate: Candidate) -> bool:
        plain = all(key.column is not None for key in candidate.keys)
        return plain and candidate.relation.has_statistics

    def _create(self, candidates: Sequence[Candidate]) -> dict[str, Candidate]:
        self._transaction.fetch(f"SELECT {self._schema}.hypopg_reset()")
        names = {}
        for candidate in candidates:
            if candidate in self.refused:
                continue
            reason = self._unsupported(candidate)
            if reason:
                self.refused[candidate] = Untestable(reason)
                continue
            rows = _in_savepoint(
                self,
                candidate,
                lambda one=candidate: self._transaction.fetch(
                    f"SELECT indexname, {self._schema}.hypopg_relation_size(indexrelid) "
                    f"FROM {self._schema}.hypopg_create_index(%s)",
                    (f"CREATE INDEX {one.definition}",),
                ),
            )
            for name, size in rows:
                names[name] = candidate
                self.sizes[candidate] = int(size)
        return names

    @property
    def transaction(self) -> Transaction:
        """The transaction that everything happens in."""
        return self._transaction

    def _unsupported(self, candidate: Candidate) -> str:
        if candidate.relation.partitioned:
            # Measured with 1.3: it adds hypothetical indexes to tables only, not to partitions
            # that are read through their parent.
            return (
                "HypoPG does not plan with indexes on partitions; on a database of your own, "
                'PLANWATCH_VERIFY = "build" would'
            )
        if candidate.method not in _HYPOPG_METHODS:
            return (
                f"HypoPG knows no {candidate.method} indexes; on a database of your own, "
                'PLANWATCH_VERIFY = "build" would try it'
            )
        return ""


class _BuildBench:
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
        self._transaction = transaction
        self._query = query
        self._ends = monotonic() + BUILD_TIMEOUT_MS / 1000
        self.refused: dict[Candidate, Exception] = {}
        self.sizes: dict[Candidate, int] = {}
        self._missing = {
            extension: error
            for extension in extensions
            if (error := self._create_extension(extension)) is not None
        }
        self._analysed = self._add_statistics(schema, expressions)
        self.before = query.explain(transaction)
        transaction.run(f"SAVEPOINT {_MARK}")

    @property
    def transaction(self) -> Transaction:
        """The transaction that everything happens in."""
        return self._transaction

    def attempt(self, candidates: Sequence[Candidate], *, seqscan: bool = True) -> Attempt:
        self._transaction.run(f"ROLLBACK TO SAVEPOINT {_MARK}")
        names: dict[str, Candidate] = {}
        for number, candidate in enumerate(candidates):
            if candidate in self.refused:
                continue
            if candidate.extension in self._missing:
                self.refused[candidate] = self._missing[candidate.extension]
            elif monotonic() > self._ends:
                self.refused[candidate] = Untestable("trying the index took too long")
            else:
                for name, size in self._build(candidate, f"{_MARK}_{number}"):
                    names[name] = candidate
                    self.sizes[candidate] = self.sizes.get(candidate, 0) + int(size)
        self._refuse_not_yet_usable(names)
        return _attempt(self._transaction, self._query, names, seqscan=seqscan)

    def alone(self, candidate: Candidate, suspicion: Suspicion) -> Attempt | None:
        return None

    def is_measured(self, candidate: Candidate) -> bool:
        return candidate.relation.has_statistics and all(
            key.column is not None or (candidate.relation.key, key.expression) in self._analysed
            for key in candidate.keys
        )

    def _build(self, candidate: Candidate, name: str) -> list[tuple[Any, ...]]:
        """Create the index; return the name and the bytes of it and of each partition's own."""
        self.sizes.pop(candidate, None)
        prefix = candidate.relation.schema_prefix

        def create() -> list[tuple[Any, ...]]:
            self._transaction.run(f"CREATE INDEX {name} {candidate.definition}")
            return self._transaction.fetch(
                "SELECT c.relname, pg_relation_size(c.oid) FROM pg_class c WHERE c.oid IN "
                "(SELECT relid FROM pg_partition_tree(%s::regclass) "
                "UNION ALL SELECT %s::regclass)",
                (f"{prefix}{name}", f"{prefix}{name}"),
            )

        return _in_savepoint(self, candidate, create)

    def _refuse_not_yet_usable(self, names: dict[str, Candidate]) -> None:
        """Raise Blocked for an index that this very transaction may not use yet.

        PostgreSQL leaves it out (`indcheckxmin`) if rows were changed that somebody still sees.
        """
        if names and self._transaction.fetch(
            "SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "WHERE c.relname = ANY (%s) AND i.indcheckxmin LIMIT 1",
            (list(names),),
        ):
            raise Blocked

    def _create_extension(self, extension: str) -> Exception | None:
        self._transaction.run(f"SAVEPOINT {_MARK}_extension")
        try:
            self._transaction.run(f"CREATE EXTENSION IF NOT EXISTS {extension}")
        except ServerError as error:
            self._transaction.run(f"ROLLBACK TO SAVEPOINT {_MARK}_extension")
            return Untestable(f"the extension {extension} could not be created: {error}")
        return None

    def _add_statistics(
        self, schema: Schema, expressions: Sequence[tuple[Relation, str]]
    ) -> frozenset[tuple[str, str]]:
        """Have the expressions analysed; return the table and the text of those that were."""
        done: set[tuple[str, str]] = set()
        numbers = iter(range(1_000_000))
        for relation, expression in dict.fromkeys(expressions):
            if not relation.has_statistics:
                continue
            leaves = schema.leaves(relation)
            self._transaction.run(f"SAVEPOINT {_MARK}_statistics")
            try:
                for leaf in leaves:
                    name = f"{leaf.schema_prefix}{_MARK}_{next(numbers)}"
                    self._transaction.run(
                        f"CREATE STATISTICS {name} ON ({expression}) FROM {leaf.display}"
                    )
            except ServerError as error:
                self._transaction.run(f"ROLLBACK TO SAVEPOINT {_MARK}_statistics")
                if error.reason is SkipReason.LOCK_TIMEOUT:
                    raise Blocked from error
                continue
            done.add((relation.key, expression))
        try:
            for relation in dict.fromkeys(relation for relation, _ in expressions):
                if any(key == relation.key for key, _ in done):
                    self._transaction.run(f"ANALYZE {relation.display}")
        except ServerError as error:
            if error.reason is SkipReason.LOCK_TIMEOUT:
                raise Blocked from error
            raise
        return frozenset(done)


def _in_savepoint(bench: Any, candidate: Candidate, create: Any) -> list[tuple[Any, ...]]:
    """Return the rows of `create`, or none if the server refuses the candidate.

    Raises Blocked if a lock is in the way, and ServerError if the connection is lost.
    """
    bench.transaction.run(f"SAVEPOINT {_MARK}_candidate")
    try:
        rows: list[tuple[Any, ...]] = create()
    except ServerError as error:
        if error.reason is SkipReason.CONNECTION_LOST:
            raise
        if error.reason is SkipReason.LOCK_TIMEOUT:
            raise Blocked from error
        bench.transaction.run(f"ROLLBACK TO SAVEPOINT {_MARK}_candidate")
        bench.refused[candidate] = _refusal(error)
        return []
    bench.transaction.run(f"RELEASE SAVEPOINT {_MARK}_candidate")
    return rows


def _attempt(
    transaction: Transaction, query: Query, names: dict[str, Candidate], *, seqscan: bool
) -> Attempt:
    transaction.run(f"SET LOCAL enable_seqscan = {'on' if seqscan else 'off'}")
    plan = query.explain(transaction)
    used = [names[node.index] for node in plan.nodes if node.index in names]
    return Attempt(plan, tuple(dict.fromkeys(used)))


def _refusal(error: ServerError) -> Exception:
    if error.sqlstate == _NOT_IMMUTABLE:
        return NotImmutable(str(error))
    if error.reason is SkipReason.STATEMENT_TIMEOUT:
        return Untestable("trying the index took too long")
    return Untestable(f"the index could not be tried: {error}")


def _hypopg_schema(session: Session) -> str | None:
    """Return the quoted schema of the HypoPG extension, or None if it is not installed."""
    with session.transaction() as transaction:
        rows = transaction.fetch(
            "SELECT quote_ident(n.nspname) FROM pg_extension e "
            "JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'hypopg'"
        )
    return rows[0][0] if rows else None
