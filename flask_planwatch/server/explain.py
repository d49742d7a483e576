"""Asks the server for plans: without running a statement, or by EXPLAIN ANALYZE."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ..capture.numbered import Parameters
from ..failure import ServerError
from ..finding import SkipReason
from ..plan.evidence import Suspicion
from ..plan.pattern import read
from ..plan.tree import Plan
from ..plan.wording import say
from ..runtime.pause import give_way
from .session import Session
from .transaction import EXPLAIN, NO_SERVER, Transaction

#: Rows, loops and the time of the whole are wanted. Without TIMING, this takes little longer than
#: the statement.
_ANALYSE = "EXPLAIN (ANALYZE, FORMAT JSON, VERBOSE, SETTINGS, TIMING OFF, SUMMARY) "

#: A word before a parenthesis: the name of a function, or a keyword.
_CALL = re.compile(r'((?<!")"(?:[^"]++|"")++"|(?<![\w$])[^\W\d][\w$]*+)\s*+\(')

_VOLATILE = """
SELECT proname FROM pg_proc WHERE proname = ANY (%s) AND provolatile = 'v' ORDER BY 1 LIMIT 1
"""

_WRITES = "it writes or locks rows"
_FOREIGN = "it reads from another server"
_TOOK_LONG = "it took longer than PLANWATCH_STATEMENT_TIMEOUT_MS"
_IS_VOLATILE = "the function {name} is volatile"


@dataclass(frozen=True)
class Query:
    """A statement as the driver got it.

    `escaped` is False if the text has no placeholders, and its % are not doubled. `accepted` is
    False if the server may never have accepted the text.
    """

    text: str
    parameters: Parameters
    escaped: bool = True
    accepted: bool = True

    def explain(self, transaction: Transaction, form: str = EXPLAIN) -> Plan:
        """Return its plan in this transaction, by this form of EXPLAIN; raises ServerError."""
        plan = transaction.plan(self, form)
        give_way()
        return plan

    def written(self, transaction: Transaction) -> str:
        """Return it with its values as the driver writes them; raises ServerError."""
        return transaction.written(self.text, self.parameters if self.escaped else None)


def explain(session: Session, query: Query, *, seqscan: bool = True) -> Plan:
    """Return the plan of a statement in a transaction of its own; raises ServerError.

    The transaction ends at once, because EXPLAIN of an UPDATE locks the table until it ends.
    """
    with session.transaction() as transaction:
        if not seqscan:
            transaction.run("SET LOCAL enable_seqscan = off")
        return query.explain(transaction)


def analyse(session: Session, query: Query, plan: Plan, *, took_ms: float) -> Plan:
    """Run a plain SELECT again, if that does no harm; return the plan with actual rows and loops.

    `took_ms` is the time of the execution. Raises ServerError, with NOT_ANALYSED if the statement
    must not be run again, or did not end in time.
    """
    refusal = _refusal(session, query, plan, took_ms)
    if refusal:
        raise ServerError(SkipReason.NOT_ANALYSED, refusal)
    try:
        with session.transaction() as transaction:
            return query.explain(transaction, _ANALYSE)
    except ServerError as error:
        if error.reason in NO_SERVER:
            raise
        raise ServerError(SkipReason.NOT_ANALYSED, str(error), error.sqlstate) from error


def _refusal(session: Session, query: Query, plan: Plan, took_ms: float) -> str:
    """Return why a statement must not be run again, "" if it may."""
    if not plan.only_reads:
        return _WRITES
    if any(node.type in {"Foreign Scan", "Custom Scan"} for node in plan.nodes):
        return _FOREIGN
    if took_ms >= session.statement_timeout_ms:
        return _TOOK_LONG
    volatile = session.fetch(_VOLATILE, (_calls(query, plan),))
    return say(_IS_VOLATILE, name=volatile[0][0]) if volatile else ""


def _calls(query: Query, plan: Plan) -> list[str]:
    """Return the names of the functions in a statement and in the views that it reads."""
    texts = [query.text]
    for node in plan.nodes:
        texts += [*node.output, *node.sort_keys, *node.group_keys]
        texts += [condition for _, condition in node.conditions]
        texts += [f"{node.function}("] if node.function else []
    names = {name for text in texts for name in _CALL.findall(text)}
    return sorted(name[1:-1] if name.startswith('"') else name.lower() for name in names)


def predicate_query(suspicion: Suspicion) -> Query:
    """Return a query that has only the suspicious predicate.

    It compares with a sub-query of the same type in place of the value, because the planner does
    not know its result. A pattern is replaced by an example.
    """
    scan = suspicion.scans[0]
    table = f"ONLY {qualified(scan.schema, scan.relation)}"
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
    """Return a query for the rows that refer to one, as the check of a foreign key runs it.

    It compares with a sub-query in place of a value, as the planner does not know its result.
    """
    table = qualified(suspicion.relation.schema, suspicion.relation.name)
    tests = " AND ".join(f"x.{key} = (SELECT {key} FROM {table} LIMIT 1)" for key in suspicion.keys)
    return Query(f"SELECT 1 FROM {table} x WHERE {tests}", None, escaped=False)


def qualified(schema: str | None, name: str | None) -> str:
    """Return the name of a relation or a type that means it on any search path."""
    return f"{quoted(schema)}.{quoted(name)}"


def quoted(name: str | None) -> str:
    """Return a name as a quoted identifier."""
    return '"' + (name or "").replace('"', '""') + '"'
