"""Tries indexes and statistics by creating them in a transaction that is rolled back.

That locks out writers while it lasts, so it is done only if PLANWATCH_VERIFY is "build".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from ..failure import ServerError
from ..indexes.candidate import Candidate
from ..plan.schema import Relation, Schema
from ..plan.tree import Plan
from ..plan.wording import say
from ..runtime.clock import now
from . import enabling
from .explain import Query
from .hypopg import without_hypopg
from .session import Session
from .transaction import NO_SERVER, Transaction
from .whatif import BUILD, PREFIX, Blocked, Trials, Untestable, raise_unless_refused

#: The time for one index, in ms: enough for some million rows, as a development database has. What
#: takes longer is reported as untested.
BUILD_TIMEOUT_MS = 20_000

#: After this time no further index is begun for the same statement, in ms: writers wait meanwhile,
#: and so does whoever looks at the page.
TRIALS_MS = 5_000

#: The share of that time for the indexes of the first trial. The smaller sets after it take as long
#: again, where each set has to be built anew.
FIRST_TRIAL = 0.5

#: Why nothing is built on a hot standby, with what would let indexes be tried there.
_ON_STANDBY = "{standby}[; {enabling}]"
_ASK_HYPOPG = 'PLANWATCH_VERIFY = "auto" would ask HypoPG'

_NO_STATISTICS = "the server refused to collect statistics: {error}"
_NO_CONSTRAINT = "the server refused the constraint: {error}"
_NO_EXTENSION = "the extension {extension} could not be created: {error}"


@contextmanager
def on_builds(
    session: Session,
    query: Query,
    schema: Schema,
    expressions: Sequence[tuple[Relation, str]],
    extensions: Sequence[str],
) -> Iterator[Trials]:
    """Yield Trials that create indexes for real, and roll everything back at the end.

    `extensions` are created first. Then `expressions` get statistics, so that the costs before and
    after can be compared. A table that was never analysed gets none: ANALYZE resets counters that
    no rollback restores, and autovacuum would take the table for analysed. Raises Untestable on a
    hot standby.
    """
    with _writable(session, hypopg=True) as transaction:
        yield _BuildTrials(transaction, query, schema, expressions, extensions)


@contextmanager
def on_statistics(session: Session) -> Iterator[FreshStatistics]:
    """Yield a FreshStatistics, and roll everything back at the end.

    Only for tables that have statistics already: see on_builds.
    """
    with _writable(session, hypopg=False) as transaction:
        yield FreshStatistics(transaction)


def _writable(session: Session, *, hypopg: bool) -> AbstractContextManager[Transaction]:
    """Return a transaction that may write; raises Untestable on a hot standby.

    `hypopg` tells whether HypoPG could try the same, which the message then recommends.
    """
    with session.transaction() as transaction:
        ((standby,),) = transaction.fetch("SELECT pg_catalog.pg_is_in_recovery()")
        if standby:
            how = (without_hypopg(transaction) or _ASK_HYPOPG) if hypopg else ""
            raise Untestable(say(_ON_STANDBY, standby=enabling.STANDBY, enabling=how))
    return session.transaction(writable=True, statement_timeout_ms=BUILD_TIMEOUT_MS)


class FreshStatistics:
    """Analyses tables in one transaction, and shows the plans that result."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def collect(self, relation: Relation, create: str = "") -> None:
        """Run `create`, a CREATE STATISTICS, if there is one, and analyse the table.

        Raises Blocked if the table is locked, Untestable if the server refuses, and ServerError if
        the connection is lost.
        """
        self._run(_NO_STATISTICS, *filter(None, (create, f"ANALYZE {relation.display}")))

    def declare(self, constraint: str) -> None:
        """Run an ALTER TABLE that adds a constraint; raises what `collect` does."""
        self._run(_NO_CONSTRAINT, constraint)

    def _run(self, refused: str, *commands: str) -> None:
        try:
            for command in commands:
                self._transaction.run_alone(command)
        except ServerError as error:
            raise_unless_refused(error)
            raise Untestable(say(refused, error=error)) from error

    def explain(self, query: Query) -> Plan:
        """Return the plan of a query; raises ServerError."""
        return query.explain(self._transaction)


class _BuildTrials(Trials):
    """Trials of indexes that exist until the transaction is rolled back."""

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
        self._missing: dict[str, Exception] = {}
        for extension in extensions:
            self._create_extension(extension)
        self._analysed = self._add_statistics(schema, expressions)
        self.before = query.explain(transaction)
        #: What was built, with the oids, if an index can be hidden from the planner; else each
        #: attempt builds its indexes anew.
        self._kept: dict[Candidate, list[tuple[Any, ...]]] = {}
        ((superuser,),) = transaction.fetch("SELECT current_setting('is_superuser')")
        self._keeps = superuser == "on"
        transaction.run(f"SAVEPOINT {PREFIX}")
        self._begins = now()

    def has_time(self, candidate: Candidate, *, spare: bool) -> bool:
        share = FIRST_TRIAL if spare else 1.0
        return candidate in self._kept or now() - self._begins < TRIALS_MS / 1000 * share

    def create(
        self, candidates: Sequence[Candidate], *, partly: bool = False
    ) -> dict[str, Candidate]:
        names = super().create(candidates, partly=partly)
        self._refuse_not_yet_usable(names)
        self._hide_all_but(names)
        return names

    def is_measured(self, candidate: Candidate) -> bool:
        return candidate.relation.has_statistics and all(
            key.column is not None or (candidate.relation.key, key.expression) in self._analysed
            for key in candidate.keys
        )

    def clear(self) -> None:
        if not self._keeps:
            self.transaction.run(f"ROLLBACK TO SAVEPOINT {PREFIX}")

    def make(self, candidate: Candidate, number: int) -> list[tuple[Any, ...]]:
        made = self._kept.get(candidate) or self._build(candidate, f"{PREFIX}_{number}")
        if self._keeps:
            self._kept[candidate] = made
        return [(name, size) for name, size, _ in made]

    def unsupported(self, candidate: Candidate) -> Exception | None:
        return self._missing.get(candidate.extension)

    def _build(self, candidate: Candidate, name: str) -> list[tuple[Any, ...]]:
        """Build an index; return name, size and oid of it, and of those on its partitions."""
        self.transaction.run_alone(f"CREATE INDEX {name} {candidate.definition}")
        qualified = f"{candidate.relation.schema_prefix}{name}"
        rows = self.transaction.fetch(
            "SELECT c.relname, pg_relation_size(c.oid), c.oid::bigint, "
            # As SQLAlchemy asks for the keys of an index.
            "ARRAY(SELECT pg_get_indexdef(%s::regclass, key, true) "
            "FROM generate_series(1, %s::int) key ORDER BY key) FROM pg_class c WHERE c.oid "
            "IN (SELECT relid FROM pg_partition_tree(%s::regclass) UNION ALL SELECT %s::regclass)",
            (qualified, len(candidate.keys), qualified, qualified),
        )
        self.definitions[candidate] = rows[0][3]
        return [(relname, size, oid) for relname, size, oid, _ in rows]

    def _hide_all_but(self, names: dict[str, Candidate]) -> None:
        """Let the planner see only the indexes of these candidates, of those that were built.

        It looks at no index that is not valid. All of them are this transaction's own, so that no
        other one sees it, and none outlives the rollback. It takes a superuser, and spares building
        the same index for each attempt.
        """
        wanted = set(names.values())
        shown, hidden = (
            [
                oid
                for index, rows in self._kept.items()
                if (index in wanted) is of
                for *_, oid in rows
            ]
            for of in (True, False)
        )
        if shown or hidden:
            self.transaction.fetch(
                "WITH changed AS (UPDATE pg_catalog.pg_index SET indisvalid = NOT indisvalid "
                "WHERE (indexrelid::bigint = ANY (%s::bigint[]) AND NOT indisvalid) "
                "OR (indexrelid::bigint = ANY (%s::bigint[]) AND indisvalid) RETURNING 1) "
                "SELECT count(*) FROM changed",
                (shown, hidden),
            )

    def _refuse_not_yet_usable(self, names: dict[str, Candidate]) -> None:
        """Raise Blocked for an index that its own transaction may not use yet.

        PostgreSQL sets `indcheckxmin` if another transaction may still see old versions of rows.
        """
        if names and self.transaction.fetch(
            "SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "WHERE c.relname = ANY (%s) AND i.indcheckxmin LIMIT 1",
            (list(names),),
        ):
            raise Blocked

    def _create_extension(self, extension: str) -> None:
        try:
            with self.transaction.savepoint(f"{PREFIX}_extension"):
                self.transaction.run_alone(f"CREATE EXTENSION IF NOT EXISTS {extension}")
        except ServerError as error:
            if error.reason in NO_SERVER:
                raise
            why = say(_NO_EXTENSION, extension=extension, error=error)
            self._missing[extension] = Untestable(why)

    def _add_statistics(
        self, schema: Schema, expressions: Sequence[tuple[Relation, str]]
    ) -> frozenset[tuple[str, str]]:
        """Analyse the expressions; return table and text of those that could be analysed."""
        known: dict[Relation, set[str]] = {}
        number = 0
        for relation, expression in dict.fromkeys(expressions):
            leaves = schema.leaves(relation)
            # ANALYZE of a partitioned table analyses its partitions as well.
            if not all(table.has_statistics for table in (relation, *leaves)):
                continue
            try:
                with self.transaction.savepoint(f"{PREFIX}_statistics"):
                    for leaf in leaves:
                        number += 1
                        name = f"{leaf.schema_prefix}{PREFIX}_{number}"
                        self.transaction.run_alone(
                            f"CREATE STATISTICS {name} ON ({expression}) FROM {leaf.display}"
                        )
            except ServerError as error:
                raise_unless_refused(error)
                continue
            known.setdefault(relation, set()).add(expression)
        for relation in known:
            FreshStatistics(self.transaction).collect(relation)
        return frozenset((table.key, text) for table, texts in known.items() for text in texts)
