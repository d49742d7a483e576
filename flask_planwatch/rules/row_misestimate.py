"""
row-misestimate
===============

What it finds
-------------

A step whose rows are ten times as many, or as few, as PostgreSQL expected, where that led to a bad
plan: a nested loop or a sub-query that runs for each of many rows instead of a few,
a sort or a hash that no longer fits into memory, or a whole table that is read for a join although
a few lookups would do. It names the lowest step that went wrong, also inside a WITH query whose
rows are read elsewhere; what is above follows from it.
This rule needs ``PLANWATCH_ANALYZE``: how many rows there really are is known only to a statement
that ran.

Why it hurts
------------

The planner compares costs, and all costs come from the expected rows. If these are wrong by a large
factor, the cheapest plan is cheap on paper only.

How to fix it
-------------

If the table was never analysed, or enough rows were written since to explain the difference:
``ANALYZE``. If conditions on one table are correlated, such as a city and its ZIP code, PostgreSQL
multiplies their selectivities as if they were independent: ``CREATE STATISTICS`` corrects that, and
also describes the values of an expression. Of a join by several columns, such as a tenant and a
number, a foreign key tells that each row has its match. With ``PLANWATCH_VERIFY = "build"`` all of
these are tried in a transaction that is rolled back, on tables that have statistics already: an
advice is verified if the new estimate comes within a factor of ten of the rows that there are.
Where a value is known only while the statement runs, as in a join with a column whose values are
not equally frequent, no statistics help; then it says so. Statistics of an expression that holds a
value would serve only that value, and are not advised. How deep a recursive query goes PostgreSQL
can only assume: since 15 by ``recursive_worktable_factor``, which a transaction may set.

When it stays silent
--------------------

- ``PLANWATCH_ANALYZE`` is off, or the statement was not run again.
- The estimate is within a factor of ten.
- The work that follows from it is small, or no more than reading each table once.
- Fewer rows came because a LIMIT, an EXISTS or the end of the other side stopped the step.
- The step never ran, or is a part of a parallel plan and right for all workers together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..plan.comparison import Comparison, comparisons
from ..plan.estimates import Estimates
from ..plan.evidence import Evidence, Hit, Miss, Need, Suspicion
from ..plan.figures import MIN_PASSES, MIN_ROWS_READ, ROWS_PER_LOOKUP
from ..plan.schema import Schema
from ..plan.tree import Node, Plan
from ..plan.wording import Template, Words
from ..plan.work import Work
from .worth import took_little

NAME = "row-misestimate"

WORDS = Words(
    what="{node}",
    why="{expected_rows:rows} expected, {actual_rows:number} returned",
    problem="PostgreSQL expected {expected_rows:rows} of {node}[ in {runs:number} runs] and got "
    "{actual_rows:number}, {factor:number} times {compared}: {harm}.",
)

_AS_MANY = Template("as many")
_FEWER = Template("fewer")

#: What the wrong estimate did.
_REPEATED = Template("{repeated} ran {times_run:times}, as much work as reading {read:rows}")
_INNER_SIDE = Template("the inner side of a {step}")
_SPILLED = Template("a {step} had to hold {read:rows}")
_NEEDLESS = Template("a {step} read {read:rows} of {table} to match {wanted:number}")

_NOT_ANALYSED = "it was not run once more with EXPLAIN ANALYZE"
_NO_HARM = "no estimate is so wrong that it did harm"

#: work_mem's default, in bytes: what a sort or a hash may hold before it writes to disk.
WORK_MEM = 4 * 1024 * 1024

#: Steps that hold all their rows.
_HOLDS = frozenset({"Sort", "Hash"})

#: Steps between a scan and a join that would let an index find the join's rows instead.
_PASSES_ON = frozenset(
    {"Hash", "Sort", "Materialize", "Gather", "Gather Merge", "Hash Join", "Merge Join"}
    | {"Nested Loop"}
)


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return the statement, if it has more than one step whose rows could be wrong."""
    if len(plan.nodes) < 2 or not plan.scans:
        return []
    return [Suspicion.of_statement(NAME, schema.largest, "rows", {Need.ANALYSED})]


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit on the lowest step whose wrong estimate led to a bad plan."""
    if evidence.analysed is None:
        return Miss(suspicion, _NOT_ANALYSED, by_parameters=True, quiet=True)
    work = Work(evidence.analysed, evidence.schema)
    worst = max(_harms(work), key=lambda harm: harm.rows, default=None)
    if worst is None:
        return Miss(suspicion, _NO_HARM, quiet=True)
    return took_little(suspicion, evidence) or _hit(suspicion, work, worst)


@dataclass(frozen=True)
class _Harm:
    """What a wrong estimate led to: rows that were read or held needlessly, and the cause."""

    node: Node
    rows: float
    facts: Mapping[str, object]


def _harms(work: Work) -> Iterator[_Harm]:
    """Yield what wrong estimates did harm to."""
    estimates = Estimates(work.plan)
    for node in work.plan.nodes:
        sides = {step.relationship: step for step in node.children}
        outer, inner = sides.get("Outer"), sides.get("Inner")
        if node.type == "Nested Loop" and outer is not None and inner is not None:
            repeated = {"repeated": _INNER_SIDE, "step": node.type}
            yield from _repeated(work, estimates, outer, inner, repeated)
        if node.type in _HOLDS and outer is not None:
            yield from _spilled(estimates, node, outer)
    for sub_plan in work.sub_plans:
        holder = sub_plan.holder
        below = holder.outer
        driver = holder if sub_plan.is_output else below
        if driver is not None and not sub_plan.hashed:
            repeated = {"repeated": sub_plan.name}
            yield from _repeated(work, estimates, driver, sub_plan.node, repeated)
    if estimates.shrunk:
        for comparison in comparisons(work.plan, work.schema):
            yield from _needless(work, estimates, comparison)


def _repeated(
    work: Work,
    estimates: Estimates,
    driver: Node,
    inner: Node,
    repeated: Mapping[str, object],
) -> Iterator[_Harm]:
    """Yield that something ran for each of many rows where a few were expected."""
    cause = estimates.grown.get(id(driver))
    read, once = work.read[id(inner)], work.once[id(inner)]
    if cause is not None and read >= MIN_ROWS_READ and read >= once * MIN_PASSES:
        facts = {"harm": _REPEATED, "times_run": inner.loops, "read": read, **repeated}
        yield _Harm(cause, read - once, facts)


def _spilled(estimates: Estimates, node: Node, below: Node) -> Iterator[_Harm]:
    """Yield that a step had to hold more than memory allows, and was not expected to."""
    cause, rows = estimates.grown.get(id(below)), estimates.actual(below)
    fitted = estimates.expected(below) * below.width <= WORK_MEM
    if cause is not None and fitted and rows * below.width > WORK_MEM:
        yield _Harm(cause, rows, {"harm": _SPILLED, "step": node.type, "read": rows})


def _needless(work: Work, estimates: Estimates, comparison: Comparison) -> Iterator[_Harm]:
    """Yield that a join read all of a table although an index finds what a few rows need."""
    join, scan, column = comparison.node, comparison.scan, comparison.column
    read, few = work.read[id(scan)], comparison.other_side
    if few is None or column is None or scan.type != "Seq Scan" or read < MIN_ROWS_READ:
        return
    if join.type == "Nested Loop" or not comparison.relation.has_index_for([column]):
        return
    cause, wanted = estimates.shrunk.get(id(few)), estimates.actual(few)
    if cause is None or comparison.keeps_every_row or not _is_passed_on(work.plan, scan, join):
        return
    if read >= wanted * ROWS_PER_LOOKUP * MIN_PASSES:
        facts = {"harm": _NEEDLESS, "step": join.type, "read": read}
        yield _Harm(cause, read, facts | {"table": scan.relation, "wanted": wanted})


def _is_passed_on(plan: Plan, scan: Node, join: Node) -> bool:
    """Whether the rows of a scan come to a join as they are."""
    node = plan.parents.get(id(scan))
    while node is not None and node is not join and node.type in _PASSES_ON:
        node = plan.parents.get(id(node))
    return node is join


def _hit(suspicion: Suspicion, work: Work, harm: _Harm) -> Hit:
    node, estimates = harm.node, Estimates(work.plan)
    relation = work.largest(node) or suspicion.relation
    expected, actual = estimates.expected(node), estimates.actual(node)
    facts = {
        "node": node.title,
        "expected_rows": round(expected),
        "actual_rows": round(actual),
        "runs": round(estimates.runs(node)),
        "factor": round(max(actual / expected, expected / actual), 1),
        "total_cost": work.plan.total_cost,
    }
    compared = _AS_MANY if actual > expected else _FEWER
    runs = estimates.runs(node) if estimates.runs(node) > 1 else None
    return Hit(
        replace(suspicion, relation=relation, subject=node.title, node=node),
        rows=relation.rows,
        evidence=facts,
        fix="statistics",
        **WORDS.of(**{**facts, **harm.facts, "compared": compared, "runs": runs}),
    )
