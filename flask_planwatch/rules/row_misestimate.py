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

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..plan.comparison import Comparison, comparisons
from ..plan.evidence import Evidence, Hit, Miss, Need, Suspicion
from ..plan.figures import MIN_PASSES, MIN_ROWS_READ, ROWS_PER_LOOKUP, SUB_QUERIES
from ..plan.schema import Schema
from ..plan.tree import Node, Plan
from ..plan.wording import Template, Words
from .loops import Work
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

#: How many times more or fewer rows than expected are too many: pgMustard flags a factor of ten
#: (https://medium.com/pgmustard/row-count-estimates-in-postgres-8540087a826e).
MIN_MISESTIMATE = 10.0

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
    """Return a Hit on the lowest step whose wrong estimate led to a bad plan."""
    if evidence.analysed is None:
        return Miss(suspicion, _NOT_ANALYSED, by_parameters=True, quiet=True)
    work = Work(evidence.analysed, evidence.schema)
    worst = max(_harms(work), key=lambda harm: harm.rows, default=None)
    if worst is None:
        return Miss(suspicion, _NO_HARM, quiet=True)
    return took_little(suspicion, evidence) or _hit(suspicion, work, worst)


@dataclass(frozen=True)
class Estimates:
    """The rows that the planner expected of the steps of an analysed plan, and those that came.

    What is asked of each step is kept: for 200 steps, each of these takes 0.1 to 0.2 ms.
    """

    plan: Plan

    def expected(self, node: Node) -> float:
        """Return how many rows all runs of a step were expected to return, at least one."""
        return max(self.plan.expected_rows(node), 1.0)

    def runs(self, node: Node) -> float:
        """Return how often a step ran, where all workers together run it once; at least one."""
        return max(self.plan.runs[id(node)], 1.0)

    def actual(self, node: Node) -> float:
        """Return how many rows all its runs returned, at least one."""
        # Up to 17 the rows of a run are rounded.
        rounded_off = node.loops > 1 and not node.actual_rows
        return max(node.loops / 2 if rounded_off else node.returned_rows, 1.0)

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
        for node in reversed(self._from_above):
            if factors[id(node)] >= MIN_MISESTIMATE:
                below = [step for step in self._inputs(node) if id(step) in found]
                worst = max(below, key=lambda step: factors[id(step)], default=node)
                found[id(node)] = found.get(id(worst), node)
        return found

    @cached_property
    def _from_above(self) -> Sequence[Node]:
        """All steps, each of them before those whose rows it takes, by a CTE Scan as well."""
        order: list[Node] = []
        waiting, met = [(self.plan.root, False)], set[int]()
        while waiting:
            node, is_left = waiting.pop()
            if is_left:
                order.append(node)
            elif id(node) not in met:
                met.add(id(node))
                query = self.plan.ctes.get(id(node))
                below = node.children if query is None else (*node.children, query)
                waiting += [(node, True), *((step, False) for step in below)]
        return order[::-1]

    def _inputs(self, node: Node) -> Iterator[Node]:
        """Yield the steps whose rows a step takes, but for those that it reads again and again.

        What is below a Bitmap Heap Scan counts index entries, and belongs to the same condition.
        """
        if id(node) in self.plan.ctes:
            yield self.plan.ctes[id(node)]
        for child in node.children:
            reread = node.type == "Merge Join" and child.relationship == "Inner"
            taken = child.relationship not in SUB_QUERIES and not reread
            if taken and node.type != "Bitmap Heap Scan":
                yield child

    @cached_property
    def _ended(self) -> frozenset[int]:
        """The steps that returned all of their rows in each run."""
        ended = {id(self.plan.root)}
        for node in self._from_above:
            empty = any(
                step.relationship == "Inner" and not step.actual_rows for step in node.children
            )
            if id(node) in ended and id(node) in self.plan.ctes:
                ended.add(id(self.plan.ctes[id(node)]))
            for child in node.children:
                inner = child.relationship == "Inner"
                if child.relationship in SUB_QUERIES or node.type in _STOPS:
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
