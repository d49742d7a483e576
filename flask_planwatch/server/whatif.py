"""Would this index be used? Asked of the planner, with HypoPG or with the index built for real.

HypoPG's indexes exist in the memory of one connection and are planned with in READ ONLY
transactions. A build is a writable transaction that is rolled back: it locks out writers while it
lasts, so it happens only where PLANWATCH_VERIFY is "build".
"""

from __future__ import annotations

from dataclasses import replace

from ..advice.index import Candidate, quote
from ..advice.verdict import Trial
from ..finding import SkipReason
from ..plan.evidence import Suspicion
from .explain import Query, predicate_query
from .session import ServerError, Session, Transaction

HYPOPG, BUILD = "hypopg", "build"

#: How long a build may take, in ms: a development database of some million rows fits in; what
#: does not is reported as untested.
BUILD_TIMEOUT_MS = 20_000

#: "functions in index expression must be marked IMMUTABLE"
_NOT_IMMUTABLE = "42P17"


class NotImmutable(Exception):
    """The server refused the index: its expression is not IMMUTABLE."""


class Blocked(Exception):
    """A lock was in the way, most likely that of the very request; a later try may succeed."""


class Untestable(Exception):
    """The index could not be tried; the message says why, and how to enable it."""


def try_with_hypopg(
    session: Session, query: Query, candidate: Candidate, suspicion: Suspicion
) -> Trial:
    """Plan the statement with a hypothetical index, and the suspicious predicate alone.

    Raises NotImmutable, Untestable where HypoPG is missing or refuses, and ServerError.
    """
    schema = _hypopg_schema(session)
    if schema is None:
        raise Untestable(
            "the HypoPG extension is not installed: CREATE EXTENSION hypopg, or, on a database of "
            'your own, set PLANWATCH_VERIFY = "build"'
        )
    if candidate.relation.partitioned:
        # Measured with 1.3: it adds hypothetical indexes to tables only, not to partitions that
        # are read through their parent.
        raise Untestable(
            "HypoPG does not plan with indexes on partitions; on a database of your own, "
            'PLANWATCH_VERIFY = "build" would'
        )
    try:
        with session.transaction() as transaction:
            ((name,),) = transaction.fetch(
                f"SELECT indexname FROM {schema}.hypopg_create_index(%s)",
                (f"CREATE INDEX {candidate.definition}",),
            )
            trial = _plans(transaction, query, HYPOPG, name, measured=False)
            # Measured with 1.3: a hypothetical index on an expression is not recognised on a
            # table that is not the first of its statement.
            trial = replace(trial, alone=predicate_query(suspicion).explain(transaction))
            # At once, as a pooler may give the next transaction to another connection.
            transaction.fetch(f"SELECT {schema}.hypopg_reset()")
            return trial
    except ServerError as error:
        # Hypothetical indexes survive a rollback.
        with session.transaction() as transaction:
            transaction.fetch(f"SELECT {schema}.hypopg_reset()")
        raise _refusal(error) from error


def try_by_building(
    session: Session, query: Query, candidate: Candidate, suspicion: Suspicion
) -> Trial:
    """Create the index, plan the statement, and roll everything back.

    The expression gets statistics only if the table has some already: a rolled-back ANALYZE
    leaves traces, and autovacuum would take a table without statistics for done. Raises
    NotImmutable, Blocked, Untestable and ServerError.
    """
    relation = candidate.relation
    try:
        with session.transaction(
            writable=True, statement_timeout_ms=BUILD_TIMEOUT_MS
        ) as transaction:
            transaction.run(f"CREATE INDEX {quote(candidate.name)} {candidate.definition}")
            if relation.has_statistics:
                transaction.run(f"ANALYZE {relation.display}")
            return _plans(
                transaction, query, BUILD, candidate.name, measured=relation.has_statistics
            )
    except ServerError as error:
        if error.reason is SkipReason.LOCK_TIMEOUT:
            raise Blocked from error
        raise _refusal(error) from error


def _plans(
    transaction: Transaction, query: Query, method: str, index: str, *, measured: bool
) -> Trial:
    plan = query.explain(transaction)
    transaction.run("SET LOCAL enable_seqscan = off")
    return Trial(method, index, plan, query.explain(transaction), measured)


def _refusal(error: ServerError) -> Exception:
    if error.sqlstate == _NOT_IMMUTABLE:
        return NotImmutable(str(error))
    if error.reason is SkipReason.CONNECTION_LOST:
        return error
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
