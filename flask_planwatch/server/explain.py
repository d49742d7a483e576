"""Asks the server for the plan of a captured statement, without running it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..pause import give_way
from ..plan.evidence import Suspicion
from ..plan.pattern import read
from ..plan.tree import Plan
from .session import Session
from .transaction import EXPLAIN, Parameters, Transaction


@dataclass(frozen=True)
class Query:
    """A statement as the driver got it: text, parameters, and whether placeholders are read.

    `accepted` is False if the server may never have taken the text for SQL.
    """

    text: str
    parameters: Parameters
    escaped: bool = True
    accepted: bool = True

    def explain(self, transaction: Transaction, form: str = EXPLAIN) -> Plan:
        """Return its plan in this transaction, by this form of EXPLAIN; raises ServerError."""
        plan = transaction.plan(
            form, self.text, self.parameters, escaped=self.escaped, accepted=self.accepted
        )
        give_way()
        return plan

    def written(self, transaction: Transaction) -> str:
        """Return it with its values as the driver writes them; raises ServerError."""
        return transaction.written(self.text, self.parameters if self.escaped else None)


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
    cannot fold it; a pattern is compared with a made-up one.
    """
    scan = suspicion.scans[0]
    table = f"ONLY {quoted(scan.schema)}.{quoted(scan.relation)}"
    expression = suspicion.subject
    operator = suspicion.comparison.conjunct.operator.removesuffix(" ANY")
    value = ""
    pattern = read(suspicion.comparison)
    if pattern is not None and pattern.subject == suspicion.subject:
        expression = suspicion.operand.without_alias()
        operator, value = suspicion.comparison.operator, pattern.example
    value = value or f"(SELECT ({expression}) FROM {table} LIMIT 1)"
    sql = f"SELECT 1 FROM {table} WHERE ({expression}) {operator} {value}"
    return Query(sql, None, escaped=False)


def own_type_query(suspicion: Suspicion) -> Query:
    """Return the query of `predicate_query` with the bare column in place of its cast."""
    column = suspicion.relation.quoted_column(suspicion.operand.column_names[0])
    return predicate_query(replace(suspicion, subject=column))


def reference_query(suspicion: Suspicion) -> Query:
    """Return a query that looks for referring rows, as the check of a foreign key does.

    The value is a sub-query's, so that none is needed and the planner cannot fold it.
    """
    table = f"{quoted(suspicion.relation.schema)}.{quoted(suspicion.relation.name)}"
    tests = " AND ".join(f"x.{key} = (SELECT {key} FROM {table} LIMIT 1)" for key in suspicion.keys)
    return Query(f"SELECT 1 FROM {table} x WHERE {tests}", None, escaped=False)


def quoted(name: str | None) -> str:
    """Return a name as a quoted identifier."""
    return '"' + (name or "").replace('"', '""') + '"'
