"""The generic plan of a statement that its driver prepares, and its custom plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType

from ..capture.literals import UNTYPED
from ..capture.numbered import Numbered
from ..capture.preparation import Preparation
from ..failure import ServerError
from ..finding import SkipReason
from ..plan.evidence import Custom, Prepared
from ..plan.predicate import tokenize
from ..plan.tree import Plan
from ..plan.wording import say
from .explain import Query, explain
from .session import Session
from .transaction import NO_SERVER

#: PostgreSQL adds the planning to the cost of a custom plan: cached_plan_cost() in
#: src/backend/utils/cache/plancache.c takes 1000 * cpu_operator_cost for each range-table entry,
#: and one more.
_PLANNING_OPERATIONS = 1000


def prepared(session: Session, query: Query, plan: Plan, preparation: Preparation) -> Prepared:
    """Return the generic plan of a query, and a custom plan for each set of parameters seen.

    `plan` is the custom plan for the query's own. Raises ServerError, with GENERIC_PLAN_UNKNOWN if
    only the generic plan could not be obtained.
    """
    numbered = Numbered(query.text, query.parameters, preparation.names)
    generic = generic_plan(session, numbered.text, types_of(session, numbered.values))
    sets = preparation.sets
    if query.parameters not in sets:
        sets = (*sets, query.parameters)
    customs = []
    for parameters in sets:
        execution = replace(query, parameters=parameters)
        custom = plan if parameters is query.parameters else explain(session, execution)
        forced_cost = _forced_cost(session, execution, custom, generic)
        customs.append(Custom(custom, forced_cost, parameters))
    ((operator_cost, mode),) = session.fetch(
        "SELECT current_setting('cpu_operator_cost'), current_setting('plan_cache_mode')"
    )
    # Another thread may have added a set since the sets were taken.
    known = (number for number in preparation.order if number < len(preparation.sets))
    return Prepared(
        driver=preparation.driver,
        names=preparation.names,
        threshold=preparation.threshold,
        generic=generic,
        customs=tuple(customs),
        order=tuple(known) or (0,),
        planning_cost=_PLANNING_OPERATIONS * float(operator_cost) * (_entries(query, plan) + 1),
        reached=preparation.reached,
        why=say(preparation.why, most=preparation.most),
        mode=mode,
    )


def _entries(query: Query, plan: Plan) -> int:
    """Return about how many range-table entries a query has: its relations and explicit joins."""
    try:
        joins = sum(token.token_type is TokenType.JOIN for token in tokenize(query.text).tokens)
    except SqlglotError:
        joins = 0
    return len({scan.alias for scan in plan.scans}) + joins


def types_of(session: Session, values: Sequence[Any]) -> list[str]:
    """Return the names of the types that the driver gives the values; raises ServerError."""
    with session.transaction() as transaction:
        oids = transaction.oids(values)
        names = transaction.fetch(
            "SELECT format_type(oid, NULL) FROM unnest(%s::oid[]) WITH ORDINALITY u (oid, place) "
            "ORDER BY place",
            (oids,),
        )
    return [UNTYPED if oid == 0 else name for oid, (name,) in zip(oids, names, strict=True)]


def generic_plan(session: Session, text: str, types: Sequence[str]) -> Plan:
    """Return the plan that serves all values of `$1`, `$2` …; raises ServerError."""
    try:
        with session.transaction() as transaction:
            return transaction.generic_plan(text, types)
    except ServerError as error:
        if error.reason in _NOT_ABOUT_TYPES:
            raise
        raise ServerError(SkipReason.GENERIC_PLAN_UNKNOWN, error.detail, error.sqlstate) from error


_NOT_ABOUT_TYPES = NO_SERVER | {SkipReason.LOCK_TIMEOUT, SkipReason.STATEMENT_TIMEOUT}


def _forced_cost(session: Session, query: Query, custom: Plan, generic: Plan) -> float | None:
    """Return what a plan of the generic plan's shape costs for a query, None if not known."""
    if custom.shape == generic.shape:
        return custom.total_cost
    if any(scan.reads_all_rows for scan in generic.scans):
        # To read a whole table costs the same for all values.
        return generic.total_cost
    forced = explain(session, query, seqscan=False)
    return forced.total_cost if forced.shape == generic.shape else None
