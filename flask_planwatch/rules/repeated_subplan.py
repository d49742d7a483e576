"""
repeated-subplan
================

What it finds
-------------

A correlated sub-query that PostgreSQL runs anew for each of many rows: in the SELECT list, in
WHERE, in a join's condition, as EXISTS or IN beside an OR, or inside another sub-query; and
``NOT IN`` with a sub-query too large for a hash table. How often it runs is worked out from the
plan, or counted where ``PLANWATCH_ANALYZE`` lets PlanWatch run the statement once more. Where the
planner expects a few rows and gets many, the plan looks harmless, and so does its cost: then the
elapsed time tells.

Why it hurts
------------

The same rows are read again and again. A sub-query of a fifth of a millisecond is nothing; half a
million of them are twenty seconds. The planner has no other way: a sub-query around an aggregate,
or beside an OR, is a little program that is called for each row, and it cannot be turned into a
join.

How to fix it
-------------

Say it as a join. An aggregate for each row becomes one sub-query with GROUP BY, joined by the
columns that tied it to the outer row; an EXISTS that stands beside an OR becomes ``IN`` with a
sub-query of its own, which is hashed; ``NOT IN`` becomes ``NOT EXISTS``. PlanWatch has the planner
plan the statement in the form of a join, where it can derive that, and believes in it if the loops
are gone from the plan: the cost of both forms may well be the same.

When it stays silent
--------------------

- A sub-query that runs once (an InitPlan), or is hashed.
- One that runs for a page of results: up to a hundred times.
- The runs together read less than one pass over the tables would, or nearly so: an index finds the
  few rows that each one needs, and a join would be no faster.
- The statement took next to no time.
"""

from __future__ import annotations

from dataclasses import replace

from ..plan.evidence import Evidence, Hit, Miss, Need, Remedy, Suspicion
from ..plan.schema import Schema
from ..plan.tree import Plan
from .generic_plan import cost_of_execution
from .loops import MIN_MS, MIN_MS_PER_ROW, MIN_READ, WORTH, SubPlan, Work

NAME = "repeated-subplan"

#: A page of results has up to a hundred rows, and a sub-query for each of them is what people do on
#: purpose. If each run is slow by itself, an index is missing, and that is another rule's to say.
MIN_RUNS = 100.0

#: The elapsed time can be the sub-query's only if the planner, too, expects it to take this share.
MIN_SHARE = 0.5

#: How much longer than its cost lets expect a statement must take, and how many ms, so that the
#: sub-query explains it: twice what cost-mismatch asks, as that names no cause. In the story it is
#: five hundred times as long.
SLOW_FACTOR = 20.0
SLOW_MS = 20.0

#: What a row takes that is read once, in ms, with some room: 0.07 to 0.25 µs were measured.
MS_PER_ROW_READ = 0.0005


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return the statement, if it has a sub-query that belongs to a step of the plan."""
    if not any(node.relationship == "SubPlan" for node in plan.nodes):
        return []
    needs = {Need.ANALYSED, Need.PREPARED}
    return [Suspicion.of_statement(NAME, schema.largest, "sub-query", needs)]


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit on the sub-query whose runs read the most, if that is worth another way."""
    work = Work(evidence.analysed or evidence.plan, evidence.schema)
    repeated = [one for one in work.sub_plans if not one.hashed]
    if not repeated:
        return Miss(suspicion, "each of its sub-queries runs once", quiet=True)
    worst = max(repeated, key=lambda one: (_wasted(work, one), _cost(work, one)))
    runs = work.runs[id(worst.node)]
    if _wasted(work, worst):
        least_ms = max(MIN_MS, work.read[id(worst.node)] * MIN_MS_PER_ROW)
        if evidence.client_side and evidence.duration_ms < least_ms:
            reason = f"the whole statement took {evidence.duration_ms:,.1f} ms"
            return Miss(suspicion, reason, by_parameters=True)
        return _hit(suspicion, work, worst, _counted(work, worst))
    if evidence.analysed is None and (hit := _by_time(suspicion, evidence, work, worst)):
        return hit
    if runs < MIN_RUNS:
        # Of an expected number, only the time tells whether it is true.
        timed = evidence.timings.spent_ms(evidence.plan, evidence.returned_rows) is not None
        unknown = evidence.analysed is not None or not timed
        return Miss(suspicion, f"the sub-query runs {_times(runs)}", by_parameters=unknown)
    return Miss(suspicion, f"a join would hardly read less than its {runs:,.0f} runs do")


def _wasted(work: Work, sub_plan: SubPlan) -> float:
    """Return the rows that all runs read beyond what a join would, 0 if a join is not worth it."""
    runs, read = work.runs[id(sub_plan.node)], work.read[id(sub_plan.node)]
    # A join reads the outer rows as well, to compare them.
    once = work.once[id(sub_plan.node)] + runs
    worth = runs >= MIN_RUNS and read >= MIN_READ and read >= once * WORTH
    return read - once if worth else 0.0


def _cost(work: Work, sub_plan: SubPlan) -> float:
    """Return the estimated cost of all runs, of which there is one at least."""
    return sub_plan.node.total_cost * max(work.runs[id(sub_plan.node)], 1.0)


def _by_time(suspicion: Suspicion, evidence: Evidence, work: Work, sub_plan: SubPlan) -> Hit | None:
    """Return a Hit if only far more runs than expected explain how long the statement takes."""
    plan, timings = evidence.plan, evidence.timings
    spent = timings.spent_ms(plan, evidence.returned_rows)
    normal, cost = timings.ms_per_cost, cost_of_execution(evidence)
    if spent is None or normal is None or not evidence.client_side or evidence.error is not None:
        return None
    if cost is None:
        return None
    dear = _cost(work, sub_plan) >= plan.total_cost * MIN_SHARE
    slow = spent >= max(
        SLOW_MS,
        cost * normal * SLOW_FACTOR,
        # A join has to read the tables, too.
        work.once[id(plan.root)] * MS_PER_ROW_READ * WORTH,
    )
    if not dear or not slow:
        return None
    times = spent / (cost * normal)
    said = (
        f"the planner expects that to be {_times(work.runs[id(sub_plan.node)])}, but even the "
        f"fastest of the latest {len(timings.recent)} executions took {timings.fastest_ms:,.0f} "
        f"ms, {times:,.0f} times what its cost lets expect"
    )
    return _hit(suspicion, work, sub_plan, said)


def _counted(work: Work, sub_plan: SubPlan) -> str:
    """Return how often a sub-query runs and what that takes, for people."""
    node = sub_plan.node
    runs, expected = work.runs[id(node)], work.expected_runs[id(node)]
    said = f"that is {_times(runs)}"
    if work.plan.analysed and runs > expected * 2:
        said += f", where the planner expected {_times(expected)}"
    return (
        f"{said}, and as much work as reading {work.read[id(node)]:,.0f} rows, of tables with "
        f"{work.once[id(node)]:,.0f} in all"
    )


def _times(runs: float) -> str:
    return "once" if round(runs) == 1 else f"{runs:,.0f} times"


def _hit(suspicion: Suspicion, work: Work, sub_plan: SubPlan, said: str) -> Hit:
    node, holder = sub_plan.node, sub_plan.holder
    relation = work.largest(node) or suspicion.relation
    does = "hands on" if sub_plan.kind == "Output" else "tests"
    on = f" on {relation.display}" if relation.display else ""
    problem = (
        f"the sub-query{on} ({sub_plan.name}) runs again for each row that {holder.title} {does}: "
        f"{said}."
    )
    facts = {
        "sub_query": sub_plan.name,
        "node": holder.title,
        "expected_runs": round(work.expected_runs[id(node)]),
        "actual_runs": None if node.actual_loops is None else round(node.actual_loops),
        "rows_read": round(work.read[id(node)]),
        "rows_of_tables": round(work.once[id(node)]),
        "cost_of_a_run": node.total_cost,
        "total_cost": work.plan.total_cost,
    }
    found = replace(suspicion, relation=relation, subject=sub_plan.name, node=node)
    return Hit(
        found,
        problem,
        relation.rows,
        facts,
        remedy=Remedy.JOIN,
        what=f"{sub_plan.name}{on}",
        why=f"runs again for each row of {holder.title}",
    )
