"""
index-only-blocked
==================

What it finds
-------------

A statement for which an index holds everything, and whose table is read all the same. The index has
an expression among its keys, such as ``data ->> 'type'``, and the statement uses the column
``data`` inside this very expression only; but PostgreSQL looks at columns, finds that ``data`` is
not in the index, and rules out an Index Only Scan. The other reason for which a table is read
beside an index that holds everything is that few of its pages are marked as visible to all.

Why it hurts
------------

For each row that the index finds, the table is read as well, mostly at another place each time: ten
to twenty times the work of reading the index alone, and all of it in the cache that other
statements need. Neither the plan nor the definition of the index shows that anything is wrong.

How to fix it
-------------

Create a partial index whose ``WHERE`` is the statement's own condition on the expression, with the
other columns that the statement needs. PostgreSQL then sees that the condition holds for each row
of the index, and no longer asks for the column. PlanWatch has the planner confirm that it reads the
index only. Where the expression is needed in another place, or its value changes, store it in a
generated column, and use that in the index and in the statement. If the pages are not marked as
visible, ``VACUUM`` marks them.

When it stays silent
--------------------

- The statement needs the column itself, such as with ``select(Event)``, or another one that the
  index does not have.
- An Index Only Scan is used already, and most pages are visible to all.
- A partial index exists for more values of the same expression: one for each list of values would
  be too much.
- The index finds only a few rows, so that reading the table costs next to nothing.
- The table has fewer rows than ``PLANWATCH_MIN_ROWS``.
- PostgreSQL says, with the partial index to choose, that it would not read the index only.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from ..plan.comparison import MIN_INDEX_SCAN_COST, Comparison, comparisons
from ..plan.coverage import Coverage, coverages, is_for_more
from ..plan.evidence import Evidence, Hit, Miss, Need, Remedy, Suspicion
from ..plan.predicate import BTREE_OPERATORS
from ..plan.schema import Schema
from ..plan.tree import Node, Plan
from ..plan.usage import MAX_USEFUL_SHARE
from . import worth

NAME = "index-only-blocked"

#: Below this share of visible pages an Index Only Scan reads the table for most rows. Measured on
#: 15 and 18 with rows that lie scattered: PostgreSQL gives it up for a Seq Scan below 90%, and for
#: a Bitmap Heap Scan at 50 to 70%, which also a table that is written a lot reaches between one
#: autovacuum and the next.
MIN_VISIBLE_SHARE = 0.5

#: What it costs to look up a row in the table: the default `random_page_cost`.
FETCH_COST = 4.0

#: A scan that costs less of the statement's cost is not what makes it slow.
MIN_COST_SHARE = 0.2

#: So many scans can have that share.
MAX_SUSPICIONS = 5


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return each relation that is read beside an index that holds all that is needed of it."""
    if not any(_may_be_blocked(scan, schema) for scan in plan.scans):
        return []
    compared: dict[int, list[Comparison]] = {}
    for comparison in comparisons(plan, schema):
        compared.setdefault(id(comparison.scan), []).append(comparison)
    found = []
    for _, group in groupby(coverages(plan, schema), key=lambda one: one.access):
        one = _of_interest(list(group), schema, compared)
        if one is not None:
            found.append(_suspicion(one, schema, compared))
    found.sort(key=lambda one: one.scans[0].total_cost, reverse=True)
    return worth.merged(found[:MAX_SUSPICIONS])


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit if reading the table beside the index costs something that can be spared."""
    schema, plan = evidence.schema, evidence.plan
    coverage = coverage_of(suspicion, plan, schema)
    rows = worth.rows_read(suspicion, schema)
    if rows < evidence.min_rows:
        return Miss(suspicion, f"only {rows:.0f} rows are read")
    fetches, share = _fetched(suspicion, evidence.analysed)
    visible = _visible_share(suspicion, schema) if share is None else 1 - share
    if not coverage.blocking and visible >= MIN_VISIBLE_SHARE:
        return Miss(suspicion, "most of the table is visible to all", quiet=True)
    if wider := _wider_index(suspicion, coverage):
        return Miss(suspicion, f"the partial index {wider} is for more values than these")
    cost = sum(scan.total_cost * plan.loops[id(scan)] for scan in suspicion.scans)
    cost = max(min(cost, plan.total_cost), fetches * FETCH_COST)
    if cost < max(MIN_INDEX_SCAN_COST, plan.total_cost * MIN_COST_SHARE):
        return Miss(suspicion, "reading the table costs little", by_parameters=True)
    facts = worth.facts(suspicion, evidence, rows)
    facts |= {
        "index": coverage.index.name,
        "visible_share": round(visible, 3),
        "blocking": list(coverage.blocking),
    }
    said = [
        f"the statement reads the table {suspicion.relation.display}, by "
        f"{suspicion.scans[0].type}, although the index {coverage.index.name} holds all that it "
        "needs"
    ]
    columns = " and ".join(map(suspicion.relation.quoted_column, coverage.blocking))
    if coverage.blocking:
        said.append(
            f"PostgreSQL believes that it needs {columns} as well, which the index does not have, "
            f"because the statement uses it inside {suspicion.shown}"
        )
    if visible < MIN_VISIBLE_SHARE:
        said.append(
            f"only {visible:.0%} of the table is marked as visible to all, and of any other row "
            "PostgreSQL has to look up there whether it is visible; VACUUM marks it"
        )
    remedy = Remedy.COVERING_INDEX if visible >= MIN_VISIBLE_SHARE else Remedy.VACUUM
    problem = f"{': '.join(said[:2])}.{''.join(f' Besides, {one}.' for one in said[2:])}"
    why = f"{visible:.0%} of the table is marked as visible to all"
    if coverage.blocking:
        why = f"{coverage.index.name} holds all that it needs but {columns}"
    return Hit(suspicion, problem, rows, facts, remedy=remedy, what=worth.step(suspicion), why=why)


def coverage_of(suspicion: Suspicion, plan: Plan, schema: Schema) -> Coverage:
    """Return the index that a suspicion of this rule is about, and what is in its way."""
    return next(
        one
        for one in coverages(plan, schema)
        if set(one.access.scans) <= set(suspicion.scans) and suspicion.subject == _subject(one)
    )


def _may_be_blocked(scan: Node, schema: Schema) -> bool:
    """Whether a closer look at a scan may tell something: most plans need none."""
    relation = schema.get(scan.qualified_relation)
    if relation is None:
        return False
    expressions = any(relation.column(key) is None for one in relation.indexes for key in one.keys)
    cold = relation.visible_pages < relation.pages * MIN_VISIBLE_SHARE
    return expressions or cold or scan.type == "Index Only Scan"


def _of_interest(
    covering: list[Coverage], schema: Schema, compared: Mapping[int, list[Comparison]]
) -> Coverage | None:
    """Return the index that could spare reading the table, None if that is not certain."""
    free = [one for one in covering if not one.blocking]
    if not free:
        # An Index Only Scan reads no table; the index that PostgreSQL uses is the one to name.
        return min(covering, key=lambda one: (not one.used, len(one.index.keys)), default=None)
    return next((one for one in free if one.used or _is_searched(one, schema, compared)), None)


def _is_searched(one: Coverage, schema: Schema, compared: Mapping[int, list[Comparison]]) -> bool:
    """Whether the index would find a small part of a table that is read as a whole."""
    scans = one.access.scans
    rows = sum(relation.rows for scan in scans if (relation := schema.get(scan.qualified_relation)))
    if any(scan.type != "Seq Scan" for scan in scans):
        return False
    few = sum(scan.rows for scan in scans) <= rows * MAX_USEFUL_SHARE
    return few and any(
        comparison.node is scan
        and comparison.operator in BTREE_OPERATORS
        and comparison.column in one.index.keys[:1]
        for scan in scans
        for comparison in compared.get(id(scan), ())
    )


def _suspicion(
    one: Coverage, schema: Schema, compared: Mapping[int, list[Comparison]]
) -> Suspicion:
    access, relation = one.access, one.access.relation
    blocked = one.blocking or [name for name in one.index.keys if relation.column(name)]
    return Suspicion(
        rule=NAME,
        relation=access.relation,
        subject=_subject(one),
        keys=tuple(map(relation.quoted_column, blocked)),
        scans=access.scans,
        comparisons=tuple(
            comparison
            for scan in access.scans
            for comparison in compared.get(id(scan), ())
            if comparison.operand.without_alias() in one.expressions
        ),
        # Only a run tells how many rows an Index Only Scan has looked up in the table.
        needs=frozenset({Need.ANALYSED} if one.used and not one.blocking else ()),
        exclusive=True,
    )


def _subject(one: Coverage) -> str:
    return " and ".join(one.expressions) or one.index.name


def _fetched(suspicion: Suspicion, analysed: Plan | None) -> tuple[float, float | None]:
    """Return the rows that an Index Only Scan looked up in the table, and which part that is.

    The part is None if the scan did not run.
    """
    names = {(scan.alias, scan.index) for scan in suspicion.scans}
    ran = [
        node
        for node in (analysed.scans if analysed else ())
        if (node.alias, node.index) in names and node.heap_fetches is not None
    ]
    fetches = sum(node.heap_fetches or 0.0 for node in ran)
    rows = sum((node.actual_rows or 0.0) * (node.actual_loops or 0.0) for node in ran)
    return fetches, min(fetches / rows, 1.0) if rows else None


def _visible_share(suspicion: Suspicion, schema: Schema) -> float:
    """Return which part of the pages an Index Only Scan need not look at, as the catalog has it."""
    read = [relation for key in suspicion.scanned if (relation := schema.get(key)) is not None]
    pages = sum(relation.pages for relation in read)
    visible = sum(min(relation.visible_pages, relation.pages) for relation in read)
    return visible / pages if pages else 1.0


def _wider_index(suspicion: Suspicion, coverage: Coverage) -> str:
    """Return the name of a partial index for more values of the expressions, or nothing."""
    return next(
        (
            index.name
            for index in suspicion.relation.indexes
            if index.valid and any(is_for_more(index, one) for one in coverage.conditions)
        ),
        "",
    )
