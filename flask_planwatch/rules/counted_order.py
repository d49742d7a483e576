"""Rows that are sorted only to be counted: the part of missing-index that asks for no index."""

from __future__ import annotations

from collections.abc import Iterator

from ..plan.access import order_keys
from ..plan.counted_order import counted_sorts
from ..plan.evidence import Evidence, Hit, Miss, Suspicion
from ..plan.schema import Schema
from ..plan.scrub import structural
from ..plan.tree import Plan
from ..plan.wording import Words, say
from . import worth

#: What the subject begins with, so that it is no predicate's.
_ORDER_BY = "ORDER BY "

_FEW_ROWS = "it has only {rows:rows} to sort"
_BY_VALUE = "the ORDER BY contains a compared value"

WORDS = Words(
    what="Sort of {table}",
    why="count() needs no order",
    problem="the statement sorts about {expected_rows:rows} by {order:list}, and then does nothing "
    "but count rows: the order has no effect.",
)


def suspicions(rule: str, plan: Plan, schema: Schema) -> Iterator[Suspicion]:
    """Yield each order of rows that are only counted, with the largest table of these."""
    for steps in counted_sorts(plan):
        sort, keys = steps[-1], tuple(order_keys(steps[-1]))
        read = [
            (relation.rows, number, scan, schema.root(relation))
            for number, scan in enumerate(sort.walk())
            if (relation := schema.get(scan.qualified_relation)) is not None
        ]
        if keys and read:
            _, _, scan, relation = max(read)
            subject = _ORDER_BY + ", ".join(keys)
            yield Suspicion(rule, relation, subject, keys, (scan,), (), node=sort)


def is_about(suspicion: Suspicion) -> bool:
    """Whether a suspicion is one of these."""
    return suspicion.subject.startswith(_ORDER_BY)


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit if so many rows are sorted that it matters."""
    rows, sort = worth.rows_read(suspicion, evidence.schema), suspicion.node
    assert sort is not None
    if sort.rows < evidence.min_rows:
        return Miss(suspicion, say(_FEW_ROWS, rows=sort.rows), by_parameters=True)
    if any(structural(key, evidence.varying) is None for key in suspicion.keys):
        return Miss(suspicion, _BY_VALUE, by_parameters=True)
    return Hit(
        suspicion,
        rows=rows,
        evidence={
            "node": sort.title,
            "table_rows": round(rows),
            "expected_rows": round(sort.rows),
            "total_cost": evidence.plan.total_cost,
        },
        fix="counted-order",
        reads_all=False,
        **WORDS.of(
            table=suspicion.relation.display,
            expected_rows=sort.rows,
            order=list(suspicion.shown_keys),
        ),
    )
