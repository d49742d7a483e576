"""
row-misestimate
===============

What it finds
-------------

A step whose rows are ten times as many, or as few, as PostgreSQL expected, where that made it
choose the wrong way: a nested loop or a sub-query that runs for each of many rows instead of a few,
a sort or a hash that no longer fits into memory, or a whole table that is read for a join although
a few lookups would do. It names the lowest step that went wrong; what is above follows from it.
This rule needs ``PLANWATCH_ANALYZE``: how many rows there really are is known only to a statement
that ran.

Why it hurts
------------

The planner compares costs, and all costs come from the expected rows. If these are wrong by a large
factor, the cheapest plan is cheap on paper only.

How to fix it
-------------

If the table was never analysed, or as many rows were written since as were not expected:
``ANALYZE``. If several conditions on one table go together, such as a city and its ZIP code,
PostgreSQL multiplies their shares as if they had nothing to do with each other: ``CREATE
STATISTICS`` tells it otherwise, and the same for an expression of which nothing is known. With
``PLANWATCH_VERIFY = "build"`` both are tried in a transaction that is rolled back, on tables that
have statistics already: an advice is verified if the new estimate comes within a factor of ten of
the rows that there are. Where a value is known only while the statement runs, as in a join with a
column whose values are not equally frequent, no statistics help; then it says so. Statistics of an
expression that holds a value would serve only that value, and are not advised.

When it stays silent
--------------------

- ``PLANWATCH_ANALYZE`` is off, or the statement was not run again.
- The estimate is within a factor of ten.
- The work that follows from it is small, or no more than reading each table once.
- Fewer rows came because a LIMIT, an EXISTS or the end of the other side stopped the step.
- The step never ran, or is a part of a parallel plan and right for all workers together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from ..plan.comparison import Comparison, comparisons
from ..plan.evidence import Evidence, Hit, Miss, Need, Remedy, Suspicion
from ..plan.schema import Schema
from ..plan.tree import Node, Plan
from .loops import LOOKUP, MIN_MS, MIN_READ, WORTH, Work

NAME = "row-misestimate"

#: How many times more or fewer rows than expected are too many: pgMustard flags a factor of ten
#: (https://medium.com/pgmustard/row-count-estimates-in-postgres-8540087a826e).
FACTOR = 10.0

#: work_mem's default, in bytes: what a sort or a hash may hold before it writes to disk.
WORK_MEM = 4 * 1024 * 1024

#: Steps that hold all their rows.
_HOLDS = frozenset({"Sort", "Hash"})

#: Steps that may let the step below them stop before its end.
_STOPS = frozenset({"Limit", "Merge Join"})

#: Steps that read what is below them to its end, whatever happens above.
_READS_ALL = frozenset({"Sort", "Hash", "Bitmap Heap Scan", "BitmapAnd", "BitmapOr"})

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
    """Return a Hit on the lowest step whose rows led the planner the wrong way."""
    if evidence.analysed is None:
        return Miss(suspicion, "it was not run once more", by_parameters=True, quiet=True)
    work = Work(evidence.analysed, evidence.schema)
    worst = max(_harms(work), key=lambda one: one.rows, default=None)
    if worst is None:
        return Miss(suspicion, "no estimate is so wrong that it did harm", quiet=True)
    if evidence.client_side and evidence.duration_ms < MIN_MS:
        reason = f"the whole statement took {evidence.duration_ms:,.1f} ms"
        return Miss(suspicion, reason, by_parameters=True)
    return _hit(suspicion, work, worst)


@dataclass(frozen=True)
class Estimates:
    """The rows that the planner expected of the steps of an analysed plan, and those that came."""

    plan: Plan

    def expected(self, node: Node) -> float:
        """Return how many rows all runs of a step were expected to hand on, at least one."""
        gather = self._shared.get(id(node))
        if gather is not None:
            # The rows of a worker are expected to be its share.
            share = node.rows / max(gather.children[0].rows, 1.0)
            return max(gather.rows * share * (gather.actual_loops or 1.0), 1.0)
        return max(node.rows * (node.actual_loops or 0.0), 1.0)

    def actual(self, node: Node) -> float:
        """Return how many rows all its runs handed on, at least one."""
        loops, rows = node.actual_loops or 0.0, node.actual_rows or 0.0
        # Up to 17 the rows of a run are rounded.
        return max(rows * loops if rows or loops <= 1 else loops / 2, 1.0)

    @cached_property
    def grown(self) -> Mapping[int, Node]:
        """The lowest step that had too many rows, by the id() of each step that it led to that."""
        return self._lowest(lambda node: self.actual(node) / self.expected(node))

    @cached_property
    def shrunk(self) -> Mapping[int, Node]:
        """The same for too few rows; one that was stopped before its end does not count."""
        return self._lowest(
            lambda node: self.expected(node) / self.actual(node) if id(node) in self._ended else 1.0
        )

    def _lowest(self, wrong_by: Callable[[Node], float]) -> Mapping[int, Node]:
        factors = {id(node): wrong_by(node) for node in self.plan.nodes}
        found: dict[int, Node] = {}
        for node in reversed(self.plan.nodes):
            if factors[id(node)] >= FACTOR:
                below = [one for one in _inputs(node) if id(one) in found]
                worst = max(below, key=lambda one: factors[id(one)], default=node)
                found[id(node)] = found.get(id(worst), node)
        return found

    @cached_property
    def _shared(self) -> Mapping[int, Node]:
        """The Gather above each step that several workers share the rows of."""
        partial: set[int] = set()
        for node in reversed(self.plan.nodes):
            below = [one for one in node.children if not _is_gather(one)]
            if node.parallel or any(id(one) in partial for one in below):
                partial.add(id(node))
        found: dict[int, Node] = {}
        for node in self.plan.nodes:
            gather = node if _is_gather(node) else found.get(id(node))
            if gather is not None:
                found |= {id(one): gather for one in node.children if id(one) in partial}
        return found

    @cached_property
    def _ended(self) -> frozenset[int]:
        """The steps that handed on all of their rows in each run."""
        ended = {id(self.plan.root)}
        for node in self.plan.nodes:
            empty = any(
                one.relationship == "Inner" and not one.actual_rows for one in node.children
            )
            for child in node.children:
                inner = child.relationship == "Inner"
                if child.relationship in {"SubPlan", "InitPlan"} or node.type in _STOPS:
                    continue
                # A join reads no further than the first match, and not if there can be none.
                first = node.type == "Nested Loop" and node.join_type in {"Semi", "Anti"}
                stopped = first if inner else empty
                reads_all = node.type in _READS_ALL or (
                    node.type == "Aggregate" and not node.group_keys
                )
                if reads_all or (id(node) in ended and not stopped):
                    ended.add(id(child))
        return frozenset(ended)


def _inputs(node: Node) -> Iterator[Node]:
    """Yield the steps whose rows a step takes, but for those that it reads again and again.

    What is below a Bitmap Heap Scan counts index entries, and belongs to the same condition.
    """
    for child in node.children:
        reread = node.type == "Merge Join" and child.relationship == "Inner"
        taken = child.relationship not in {"SubPlan", "InitPlan"} and not reread
        if taken and node.type != "Bitmap Heap Scan":
            yield child


def _is_gather(node: Node) -> bool:
    return node.type in {"Gather", "Gather Merge"}


@dataclass(frozen=True)
class _Harm:
    """What a wrong estimate led to: rows that were read or held for nothing, and how that came."""

    node: Node
    rows: float
    said: str


def _harms(work: Work) -> Iterator[_Harm]:
    """Yield what wrong estimates did harm to."""
    estimates = Estimates(work.plan)
    for node in work.plan.nodes:
        sides = {one.relationship: one for one in node.children}
        outer, inner = sides.get("Outer"), sides.get("Inner")
        if node.type == "Nested Loop" and outer is not None and inner is not None:
            yield from _repeated(work, estimates, outer, inner, f"the inner side of a {node.type}")
        if node.type in _HOLDS and outer is not None:
            yield from _spilled(estimates, node, outer)
    for sub_plan in work.sub_plans:
        holder = sub_plan.holder
        below = next((one for one in holder.children if one.relationship == "Outer"), None)
        driver = holder if sub_plan.kind == "Output" else below
        if driver is not None and not sub_plan.hashed:
            yield from _repeated(work, estimates, driver, sub_plan.node, sub_plan.name)
    if estimates.shrunk:
        for comparison in comparisons(work.plan, work.schema):
            yield from _needless(work, estimates, comparison)


def _repeated(
    work: Work, estimates: Estimates, driver: Node, inner: Node, name: str
) -> Iterator[_Harm]:
    """Yield that something ran for each of many rows where a few were expected."""
    cause, runs = estimates.grown.get(id(driver)), inner.actual_loops or 0.0
    read, once = work.read[id(inner)], work.once[id(inner)]
    if cause is not None and read >= MIN_READ and read >= once * WORTH:
        said = f"{name} ran {runs:,.0f} times, as much work as reading {read:,.0f} rows"
        yield _Harm(cause, read - once, said)


def _spilled(estimates: Estimates, node: Node, below: Node) -> Iterator[_Harm]:
    """Yield that a step had to hold more than memory allows, and was not expected to."""
    cause, rows = estimates.grown.get(id(below)), estimates.actual(below)
    fitted = estimates.expected(below) * below.width <= WORK_MEM
    if cause is not None and fitted and rows * below.width > WORK_MEM:
        yield _Harm(cause, rows, f"a {node.type} had to hold {rows:,.0f} rows")


def _needless(work: Work, estimates: Estimates, comparison: Comparison) -> Iterator[_Harm]:
    """Yield that a join read all of a table although an index finds what a few rows need."""
    join, scan, column = comparison.node, comparison.scan, comparison.column
    read, few = work.read[id(scan)], comparison.other_side
    if few is None or column is None or scan.type != "Seq Scan" or read < MIN_READ:
        return
    if join.type == "Nested Loop" or not comparison.relation.has_index_for([column]):
        return
    cause, wanted = estimates.shrunk.get(id(few)), estimates.actual(few)
    if cause is None or comparison.keeps_every_row or not _is_passed_on(work.plan, scan, join):
        return
    if read >= wanted * LOOKUP * WORTH:
        said = f"a {join.type} read {read:,.0f} rows of {scan.relation} to match {wanted:,.0f}"
        yield _Harm(cause, read, said)


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
    factor = max(actual / expected, expected / actual)
    loops = node.actual_loops or 0.0
    runs = f" in {loops:,.0f} runs" if loops > 1 else ""
    came = f"{factor:,.0f} times {'as many' if actual > expected else 'fewer'}"
    problem = (
        f"PostgreSQL expected {_rows(expected)} of {node.title}{runs} and got {actual:,.0f}, "
        f"{came}: {harm.said}."
    )
    facts = {
        "node": node.title,
        "expected_rows": round(expected),
        "actual_rows": round(actual),
        "runs": round(loops),
        "factor": round(factor, 1),
        "total_cost": work.plan.total_cost,
    }
    found = replace(suspicion, relation=relation, subject=node.title, node=node)
    return Hit(
        found,
        problem,
        relation.rows,
        facts,
        remedy=Remedy.STATISTICS,
        what=node.title,
        why=f"{_rows(expected)} expected, {actual:,.0f} came",
    )


def _rows(count: float) -> str:
    return f"{count:,.0f} {'row' if round(count) == 1 else 'rows'}"
