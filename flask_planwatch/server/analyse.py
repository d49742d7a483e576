"""Runs a plain SELECT once more with EXPLAIN ANALYZE, where that can do no harm."""

from __future__ import annotations

import re

from ..finding import SkipReason
from ..plan.tree import Plan
from .explain import Query
from .session import Session
from .transaction import NO_SERVER, ServerError

#: Without TIMING it costs hardly more than the statement itself: rows and loops are what is wanted.
_ANALYSE = "EXPLAIN (ANALYZE, FORMAT JSON, VERBOSE, TIMING OFF, SUMMARY OFF) "

#: Words before a parenthesis: functions, among others that no function is called like.
_CALL = re.compile(r'((?<!")"(?:[^"]++|"")++"|(?<![\w$])[^\W\d][\w$]*+)\s*+\(')

_VOLATILE = """
SELECT proname FROM pg_proc WHERE proname = ANY (%s) AND provolatile = 'v' ORDER BY 1 LIMIT 1
"""


def analyse(session: Session, query: Query, plan: Plan, *, took_ms: float) -> Plan:
    """Return the plan with what each step really did; `took_ms` is what the execution took.

    Raises ServerError; its reason is NOT_ANALYSED, with the cause, if the statement must not be run
    again, or did not end in time.
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
    """Return why a statement must not be run again, or nothing."""
    if not plan.only_reads:
        return "it writes or locks rows"
    if any(node.type in {"Foreign Scan", "Custom Scan"} for node in plan.nodes):
        return "it reads from another server"
    if took_ms >= session.statement_timeout_ms:
        return "it took longer than PLANWATCH_STATEMENT_TIMEOUT_MS"
    with session.transaction() as transaction:
        volatile = transaction.fetch(_VOLATILE, (_calls(query, plan),))
    return f"the function {volatile[0][0]} is volatile" if volatile else ""


def _calls(query: Query, plan: Plan) -> list[str]:
    """Return the names of the functions in a statement and in the views that it reads."""
    texts = [query.text]
    for node in plan.nodes:
        texts += [*node.output, *node.sort_keys, *node.group_keys]
        texts += [condition for _, condition in node.conditions]
        texts += [f"{node.function}("] if node.function else []
    names = {name for text in texts for name in _CALL.findall(text)}
    return sorted(name[1:-1] if name.startswith('"') else name.lower() for name in names)
