"""
cost-mismatch
=============

What it finds
-------------

A plain SELECT that takes far more time for each unit of its estimated cost than the application's
statements normally do, and that again and again: PlanWatch goes by the fastest of the latest
executions, less the way to the server and the time to fetch the rows. No EXPLAIN ANALYZE is needed
for that.

Why it hurts
------------

The cost is what PostgreSQL expects to do. If a statement takes a hundred times longer, it does
something else: a sub-query that runs for each row, a walk through an index for rows that sit at
its far end, a hundred times the rows that were expected, dead rows that nobody has vacuumed. The
planner cannot see it, so it will not choose a better plan by itself; and a comparison of costs
proves nothing about such a statement.

How to fix it
-------------

If another finding of the same statement names the cause, start there. Otherwise set
``PLANWATCH_ANALYZE`` to let PlanWatch run the statement once more with EXPLAIN ANALYZE, which shows
the step whose rows or loops are not what was expected. A function with an unrealistic ``COST`` is a
cause as well.

When it stays silent
--------------------

- It took long only once or twice: a lock or a busy process looks the same.
- It took less than ten ms, which nobody notices.
- The time per cost is normal for this application, on this machine. If the driver prepares the
  statement, and PostgreSQL may have taken its generic plan, that is the cost of the dearer plan.
- It writes, locks rows, failed, reads from another server, or comes through a cursor on the server,
  which returns before the rows are read.
"""

from __future__ import annotations

from ..plan.evidence import MIN_EXECUTIONS, Evidence, Hit, Miss, Need, Remedy, Suspicion
from ..plan.schema import Schema
from ..plan.tree import Node, Plan
from .generic_plan import cost_of_execution

NAME = "cost-mismatch"

#: How much longer than normal a unit of cost must take. Measured on PostgreSQL 13 to 18: 0.001 to
#: 0.025 ms are normal, up to 0.1 occur; a LIMIT that walks past all rows took 0.5 to 2.8 ms, a
#: sub-query for each row 9 to 25.
FACTOR = 10.0

#: Below this, in ms, nobody waits for the statement, and a busy process explains it.
MIN_MS = 10.0


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return the statement, if it is one whose elapsed time the plan should explain."""
    foreign = any(node.type in {"Foreign Scan", "Custom Scan"} for node in plan.nodes)
    if foreign or not plan.scans or not plan.only_reads:
        return []
    return [Suspicion.of_statement(NAME, schema.largest, "elapsed time", {Need.PREPARED})]


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit if even the fastest execution took far longer than its cost explains."""
    plan, timings = evidence.plan, evidence.timings
    spent = timings.spent_ms(plan, evidence.returned_rows)
    if spent is None or evidence.error is not None or not evidence.client_side:
        reason = f"it must run {MIN_EXECUTIONS} times for that"
        return Miss(suspicion, reason, by_parameters=True, quiet=True)
    normal, cost = timings.ms_per_cost, cost_of_execution(evidence)
    if cost is None:
        return Miss(suspicion, "its generic plan is not known", by_parameters=True, quiet=True)
    took = spent / cost
    if spent < MIN_MS or normal is None or took < normal * FACTOR:
        return Miss(suspicion, "it takes what its cost lets expect", quiet=True)
    problem = (
        f"the statement takes {timings.fastest_ms:,.0f} ms even in the fastest of its latest "
        f"{len(timings.recent)} executions, at an estimated cost of {cost:,.0f}: "
        f"{took:.2g} ms for each unit, where {normal:.2g} ms are normal here. "
        f"{_where(evidence)}"
    )
    facts = {
        "fastest_ms": round(timings.fastest_ms, 3),
        "executions": len(timings.recent),
        "spent_ms": round(spent, 3),
        "total_cost": cost,
        "ms_per_cost": float(f"{took:.3g}"),
        "normal_ms_per_cost": float(f"{normal:.3g}"),
    }
    rows = suspicion.relation.rows
    return Hit(
        suspicion,
        problem,
        rows,
        facts,
        remedy=Remedy.NONE,
        what=f"Statement on {suspicion.relation.display}",
        why=f"{took / normal:,.0f} times as long as its cost of {plan.total_cost:,.0f} explains",
    )


def _where(evidence: Evidence) -> str:
    """Return which step does what was not expected, as far as that is known."""
    if evidence.analysed is not None:
        ran = [node for node in evidence.analysed.nodes if node.ran]
        node = max(ran, key=_unexpected, default=None)
        if node is not None and _unexpected(node) > 1:
            return _does(node)
        return (
            "No step has more rows than expected, so the time goes into something else, such as a "
            "function whose COST is too low."
        )
    surprise = "The planner expects something else than what happens"
    if len(evidence.plan.nodes) == 1:
        return f"{surprise} in the only step, {evidence.plan.root.title}."
    if evidence.not_analysed:
        return (
            f"{surprise}. PlanWatch did not run it once more with EXPLAIN ANALYZE to see in which "
            f"step: {evidence.not_analysed}."
        )
    if evidence.duration_ms >= evidence.analysable_ms:
        return (
            f"{surprise}: PLANWATCH_ANALYZE would show in which step, with a longer "
            "PLANWATCH_STATEMENT_TIMEOUT_MS."
        )
    return f"{surprise}: PLANWATCH_ANALYZE would show which step."


def _does(node: Node) -> str:
    """Return what a step did that was not expected, as a sentence."""
    loops = node.actual_loops or 0.0
    handed_on, removed = (node.actual_rows or 0.0) * loops, (node.removed_rows or 0.0) * loops
    times = "" if loops <= 1 else f" in {loops:,.0f} loops"
    if removed > handed_on:
        return f"{node.title} threw {removed:,.0f} rows away to find {handed_on:,.0f}{times}."
    expected = "in all" if loops <= 1 else "in each"
    return (
        f"{node.title} handed on {handed_on:,.0f} rows{times}, where the planner expected "
        f"{node.rows:,.0f} {expected}."
    )


def _unexpected(node: Node) -> float:
    """Return the rows of all loops, and those that were thrown away, against those expected."""
    read = ((node.actual_rows or 0.0) + (node.removed_rows or 0.0)) * (node.actual_loops or 0.0)
    return read / max(node.rows, 1.0)
