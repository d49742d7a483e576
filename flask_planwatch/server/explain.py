"""Asks the server for the plan of a captured statement, without running it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType

from ..finding import SkipReason
from ..plan.evidence import Suspicion
from ..plan.predicate import tokenize
from ..plan.tree import Plan
from .session import Parameters, ServerError, Session, Transaction

EXPLAIN = "EXPLAIN (FORMAT JSON, VERBOSE) "


@dataclass(frozen=True)
class Query:
    """A statement as the driver got it: text, parameters, and whether placeholders are read."""

    text: str
    parameters: Parameters
    escaped: bool = True

    def explain(self, transaction: Transaction) -> Plan:
        """Return its plan in this transaction; raises ServerError."""
        return transaction.plan(EXPLAIN + self.text, self.parameters, escaped=self.escaped)


def explain(session: Session, query: Query, *, seqscan: bool = True) -> Plan:
    """Return the plan of a statement in a transaction of its own; raises ServerError.

    One transaction for each EXPLAIN, because that of an UPDATE holds its lock to the end.
    """
    with session.transaction() as transaction:
        if not seqscan:
            transaction.run("SET LOCAL enable_seqscan = off")
        return query.explain(transaction)


def predicate_query(suspicion: Suspicion) -> Query:
    """Return a query with nothing but the suspicious predicate.

    The compared value is a sub-query of the same type, so that no value is needed and the planner
    cannot fold it.
    """
    scan = suspicion.scans[0]
    table = f"ONLY {quoted(scan.schema)}.{quoted(scan.relation)}"
    expression = suspicion.subject
    operator = suspicion.comparison.conjunct.operator.removesuffix(" ANY")
    sql = (
        f"SELECT 1 FROM {table} WHERE ({expression}) {operator} "
        f"(SELECT ({expression}) FROM {table} LIMIT 1)"
    )
    return Query(sql, None, escaped=False)


def refuse_several(query: Query) -> None:
    """Raise ServerError if the text holds more than one statement, or cannot be read.

    EXPLAIN covers the first statement only: the server would run the others.
    """
    body = query.text.strip().rstrip(";")
    if ";" not in body:
        return
    try:
        kinds = [token.token_type for token in tokenize(body).tokens]
        several = TokenType.SEMICOLON in kinds[:-1]
    except SqlglotError:
        several = True
    if several:
        raise ServerError(SkipReason.MULTIPLE_STATEMENTS)


def quoted(name: str | None) -> str:
    """Return a name as a quoted identifier."""
    return '"' + (name or "").replace('"', '""') + '"'
