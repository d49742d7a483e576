"""
cost-mismatch
=============

What it finds
-------------

A plain SELECT that repeatedly takes far more time for each unit of its estimated cost than the
application's statements normally do. PlanWatch goes by the fastest of the latest executions, and
subtracts the time outside the plan. No EXPLAIN ANALYZE is needed for that.

Why it hurts
------------

The cost is what PostgreSQL expects to do. If a statement takes a hundred times longer, it does
something else: a sub-query that runs for each row, an index that is read almost to its end before
the wanted rows come, a hundred times the rows that were expected, dead rows that nobody has
vacuumed. The planner cannot see it, so it will not choose a better plan by itself; and a comparison
of costs proves nothing about such a statement.

How to fix it
-------------

If another finding of the same statement names the cause, start there. Otherwise set
``PLANWATCH_ANALYZE`` to let PlanWatch run the statement once more with EXPLAIN ANALYZE, which shows
the step whose rows or loops are not what was expected. A function with an unrealistic ``COST`` is a
cause as well.

When it stays silent
--------------------

- It took long only once or twice: a lock or a busy process looks the same.
- The process was busy. What it computed itself, in whichever thread, while the statement ran is
  subtracted, as the interpreter's lock may have kept the result waiting; so are three round trips
  as long as the longest of PlanWatch's own latest ones, the time to plan, and to fetch the rows.
- ``PLANWATCH_ANALYZE`` is on, and the server needed no more time than the cost explains.
- It took less than ten ms, which nobody notices.
- The time per cost is normal for this application, on this machine, or below 0.1 ms. If the driver
  prepares the statement, and PostgreSQL may have taken its generic plan, that is the cost of the
  dearer plan.
- It writes, locks rows, failed, reads from another server, or comes through a cursor on the server,
  which returns before the rows are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..plan.evidence import Evidence, Hit, Miss, Need, Suspicion
from ..plan.figures import (
    BUSY_PROCESS_MS,
    CPU_TUPLE_COST,
    MAX_HEALTHY_MS_PER_COST,
    MIN_TIME_FACTOR,
    SUB_QUERIES,
)
from ..plan.schema import Schema
from ..plan.tree import Node, Plan
from ..plan.wording import Template, Words
from .generic_plan import cost_of_execution

NAME = "cost-mismatch"

WORDS = Words(
    what="Statement on {table}",
    why="{factor:number} times as long as its cost of {own_cost:number} explains",
    problem="the statement takes {fastest_ms:ms} even in the fastest of its latest {executions} "
    "executions, at an estimated cost of {total_cost:number}: {ms_per_cost:cost} ms for each unit, "
    "where {normal_ms_per_cost:cost} ms are normal here. {where}",
    hint="{look}",
)

#: Which step does what was not expected, as far as that is known.
_NO_STEP = Template(
    "No step has more rows than expected, so the time goes into something else, such as a "
    "function whose COST is too low."
)
_DISCARDED = Template(
    "{node} discarded {removed:rows} and returned {returned:number}[ in {loops:number} loops]."
)
_RETURNED = Template(
    "{node} returned {returned:rows}[ in {loops:number} loops], where the planner expected "
    "{expected:number} {of_what}."
)
_IN_ALL = Template("in all")
_IN_EACH = Template("in each")
_ONLY_STEP = Template("The estimate does not match what was executed in the only step, {root}.")
_NOT_ANALYSED = Template(
    "The estimate does not match what was executed. PlanWatch did not run it once more with "
    "EXPLAIN ANALYZE to see in which step: {not_analysed}."
)
_TOO_LONG = Template(
    "The estimate does not match what was executed: PLANWATCH_ANALYZE would show in which step, "
    "with a longer PLANWATCH_STATEMENT_TIMEOUT_MS."
)
_ANALYSABLE = Template(
    "The estimate does not match what was executed: PLANWATCH_ANALYZE would show which step."
)

#: How to find what takes the time.
_LOOK_AT_FUNCTIONS = Template("look at the functions that it calls: the COST of one may be too low")
_LOOK_AT_ROWS = Template("look at {node}, which has more rows than expected")
_LOOK_AT_DISCARDED = Template("look at {node}, which discards [{far} ]more than it returns")
_LOOK_AT_STEP = Template("look at {root}, its only step")
_LOOK_IN_PSQL = Template("EXPLAIN (ANALYZE) in psql shows which step takes the time")
_ANALYSE = Template("PLANWATCH_ANALYZE shows which step takes the time")

_TOO_FEW = "it has run too few times, or its plan is too cheap, to judge its time"
_UNKNOWN = "its generic plan is not known"
_AS_EXPECTED = "it takes no longer than its cost explains"

#: How many times as many rows as its cost allows a step must read: where no worker was free, the
#: leader of a parallel plan reads what three were to read.
MIN_READ_MORE = 3.0

#: From so many rows discarded for each that is returned on, they are far more.
FAR_MORE = 10.0


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return the statement, if it is one whose elapsed time the plan should explain."""
    foreign = any(node.type in {"Foreign Scan", "Custom Scan"} for node in plan.nodes)
    if foreign or not plan.scans or not plan.only_reads:
        return []
    needs = {Need.PREPARED, Need.ANALYSED_IF_SLOW}
    return [Suspicion.of_statement(NAME, schema.largest, "elapsed time", needs)]


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit if even the fastest execution took far longer than its cost explains."""
    plan, timings = evidence.plan, evidence.timings
    spent, cost, normal = _spent_ms(evidence), cost_of_execution(evidence), timings.ms_per_cost
    if spent is None:
        return Miss(suspicion, _TOO_FEW, by_parameters=True, quiet=True)
    if cost is None:
        return Miss(suspicion, _UNKNOWN, by_parameters=True, quiet=True)
    if not normal or not is_unexplained(evidence):
        return Miss(suspicion, _AS_EXPECTED, quiet=True)
    took = spent / cost
    facts = {
        "fastest_ms": round(timings.fastest_ms, 3),
        "executions": len(timings.recent),
        "spent_ms": round(spent, 3),
        "total_cost": cost,
        "ms_per_cost": float(f"{took:.3g}"),
        "normal_ms_per_cost": float(f"{normal:.3g}"),
    }
    return Hit(
        suspicion,
        rows=suspicion.relation.rows,
        evidence=facts,
        fix="none",
        **WORDS.of(
            **facts,
            table=suspicion.relation.display,
            factor=took / normal,
            own_cost=plan.total_cost,
            **_unexpected_step(evidence),
        ),
    )


def is_unexplained(evidence: Evidence) -> bool:
    """Whether even the fastest execution took far longer than the cost explains."""
    spent, cost = _spent_ms(evidence), cost_of_execution(evidence)
    normal = evidence.timings.ms_per_cost
    if spent is None or cost is None or not normal:
        return False
    explained = cost * max(normal * MIN_TIME_FACTOR, MAX_HEALTHY_MS_PER_COST)
    return spent >= max(BUSY_PROCESS_MS, explained)


def _spent_ms(evidence: Evidence) -> float | None:
    """Return what the statement spends in its plan, in ms, None if that is not known.

    Where it was run once more, the server has measured it.
    """
    if evidence.error is not None or not evidence.client_side:
        return None
    spent = evidence.timings.spent_ms(evidence.plan, evidence.returned_rows)
    measured = evidence.analysed.execution_ms if evidence.analysed else None
    return spent if spent is None or measured is None else min(spent, measured)


def _unexpected_step(evidence: Evidence) -> dict[str, object]:
    """Return which step did what was not expected, as far as that is known, and how to find it."""
    plan, analysed = evidence.analysed or evidence.plan, evidence.analysed is not None
    step = _most_unexpected(plan) if analysed else None
    if step is not None:
        return step.facts
    where, look = _ANALYSABLE, _ANALYSE
    if analysed:
        where, look = _NO_STEP, _LOOK_AT_FUNCTIONS
    elif len(plan.nodes) == 1:
        where, look = _ONLY_STEP, _LOOK_AT_STEP
    elif evidence.not_analysed:
        where, look = _NOT_ANALYSED, _LOOK_IN_PSQL
    elif evidence.duration_ms >= evidence.analysable_ms:
        where, look = _TOO_LONG, _LOOK_IN_PSQL
    facts = {"root": plan.root.title, "not_analysed": evidence.not_analysed}
    return {"where": where, "look": look, **facts}


@dataclass(frozen=True)
class _Step:
    """A step that was run, and which part of its rows the planner expected to be asked for.

    PostgreSQL gives rows, and what is discarded, for one loop, which is that of one worker. `rows`
    are those that the planner expects of one, if it is asked for all.
    """

    node: Node
    rows: float
    share: float

    @property
    def expected(self) -> float:
        """The rows that it was expected to return."""
        return max(self.rows * self.share, 1.0)

    @property
    def returned_more(self) -> float:
        """How many times as many rows as expected it returned."""
        return (self.node.actual_rows or 0.0) / self.expected

    @property
    def discarded_more(self) -> float:
        """How many times as many rows it read, to discard most of them, as its cost allows."""
        rows, removed = self.node.actual_rows or 0.0, self.node.removed_rows or 0.0
        most_read = max(self.node.total_cost * self.share / CPU_TUPLE_COST, self.expected)
        more = (rows + removed) / most_read
        return more if removed > rows and more >= MIN_READ_MORE else 0.0

    @property
    def unexpected(self) -> float:
        """How far it was from what the planner expected."""
        return max(self.returned_more, self.discarded_more)

    @property
    def facts(self) -> dict[str, object]:
        """What it did that was not expected."""
        node, discards = self.node, self.discarded_more > self.returned_more
        returned, removed = node.returned_rows, node.read_rows - node.returned_rows
        return {
            "where": _DISCARDED if discards else _RETURNED,
            "look": _LOOK_AT_DISCARDED if discards else _LOOK_AT_ROWS,
            "node": node.title,
            "returned": returned,
            "removed": removed,
            "far": "far" if removed >= returned * FAR_MORE else None,
            "loops": node.loops if node.loops > 1 else None,
            "expected": self.expected,
            "of_what": _IN_EACH if node.loops > 1 else _IN_ALL,
        }


def _most_unexpected(analysed: Plan) -> _Step | None:
    """Return the step that was furthest from what was expected, None if none did more."""
    shares = _shares(analysed)
    steps = [
        _Step(node, analysed.expected_rows(node) / node.loops, shares[id(node)])
        for node in analysed.nodes
        if node.loops
    ]
    worst = max(steps, key=lambda step: step.unexpected, default=None)
    return worst if worst is not None and worst.unexpected > 1 else None


def _shares(plan: Plan) -> Mapping[int, float]:
    """Return which part of its rows each step is expected to return, by its id().

    EXPLAIN shows all of them, also where a LIMIT is expected to stop the step.
    """
    shares = {id(plan.root): 1.0}
    for node in plan.nodes:
        for child in node.children:
            whole, share = child.total_cost - child.startup_cost, shares[id(node)]
            if node.type == "Limit" and whole > 0:
                share *= min(max((node.total_cost - child.startup_cost) / whole, 0.0), 1.0)
            # What returns no row before it has read all of them is not stopped in between.
            reads_all = node.startup_cost >= child.total_cost
            repeated = child.relationship == "Inner" or child.relationship in SUB_QUERIES
            shares[id(child)] = 1.0 if reads_all or repeated else share
    return shares
