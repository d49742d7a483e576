"""
repeated-subplan
================

What it finds
-------------

A correlated sub-query that PostgreSQL runs anew for each of many rows: in the SELECT list, in
WHERE, in a join's condition, as EXISTS or IN beside an OR, or inside another sub-query; and
``NOT IN`` with a sub-query too large for a hash table. How often it runs is worked out from the
plan, from the rows that came if each of them holds a result of the sub-query, or counted where
``PLANWATCH_ANALYZE`` lets PlanWatch run the statement once more. Where the planner expects a few
rows and gets many, the plan looks harmless, and so does its cost: then the elapsed time tells.

Why it hurts
------------

The same rows are read again and again. A sub-query of a twenty-fifth of a millisecond is nothing;
half a million of them take twenty seconds. PostgreSQL turns many sub-queries into joins by itself,
but not one around an aggregate, or beside an OR.

How to fix it
-------------

Write it as a join. An aggregate for each row becomes one sub-query with GROUP BY, joined by the
columns that connected it to the outer row; an EXISTS beside an OR becomes ``IN`` with a sub-query
of its own, which is hashed; ``NOT IN`` becomes ``NOT EXISTS``. Where PlanWatch can derive the join,
it asks for its plan. The advice is verified if nothing runs for each row any more: the estimated
cost of both forms may well be the same. If the rows are so many because two tables are joined
without a condition, and the sub-query needs only one of them, write the condition.

When it stays silent
--------------------

- A sub-query that runs once (an InitPlan), or is hashed.
- One that runs for a page of results: up to a hundred times. ``NOT IN`` is no such sub-query: each
  run may read all values.
- No row came, so that a sub-query in the SELECT list did not run.
- The runs together read less than one pass over the tables would, or nearly so: an index finds the
  few rows that each one needs, and a join would be no faster.
- The statement took next to no time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..plan import figures
from ..plan.evidence import Evidence, Hit, Miss, Need, Suspicion
from ..plan.product import Product, product_of
from ..plan.schema import Schema
from ..plan.sub_plan import SubPlan
from ..plan.tree import Plan
from ..plan.wording import Template, Words, say, sentences
from ..plan.work import Work
from .generic_plan import cost_of_execution
from .worth import took_little

NAME = "repeated-subplan"

WORDS = Words(
    what="{sub_query}[ on {table}]",
    why="runs again for each row of {outer}",
    problem="the sub-query[ on {table}] ({sub_query}) runs again for each row that {node} {does}: "
    "{known}.",
)

#: In place of these words, and beside them, if the rows come from a join without a condition.
_OF_PAIRS = "runs again for each pair of rows of {one} and {other}"
_PAIRS = (
    "No condition compares a row of {one} with a row of {other}, so each of the {ones:rows} is "
    "combined with each of the {others:number}."
)

#: Further sub-queries of the statement.
_ANOTHER = "So does another sub-query: together they read as much as {read:rows}."
_OTHERS = "So do {count:number} other sub-queries: together they read as much as {read:rows}."

_RETURNS = Template("returns")
_TESTS = Template("tests")
_ITS_STEP = Template("the {holder_type} step")

_COUNTED = Template(
    "that is {runs:times}[, where the planner expected {expected:times}]. Together the runs read "
    "as much as {rows_read:rows}, of tables that have {rows_of_tables:rows} in all"
)
_TIMED = Template(
    "the planner expects that to be {runs:times}, but even the fastest of the latest {executions} "
    "executions took {fastest:ms}, {factor:number} times as long as its cost explains"
)

_EACH_ONCE = "each of its sub-queries runs once"
_FEW_RUNS = "the sub-query runs {runs:times}"
_NO_GAIN = "a join would hardly read less than its {runs:number} runs do"

#: A page of results has up to a hundred rows, and a sub-query for each of them is what people do on
#: purpose. If each run is slow by itself, an index is missing, and that is another rule's to say.
MIN_RUNS = 100.0

#: NOT IN compares with each value in turn: a few runs read as much as many lookups do.
MIN_RUNS_OVER_ALL_VALUES = 2.0

#: The elapsed time can be the sub-query's only if the planner, too, expects it to take this share.
MIN_SHARE = 0.5

#: How much longer than its cost explains a statement must take, and how many ms, so that the
#: sub-query explains it: twice what cost-mismatch asks, as that names no cause. In the story it is
#: five hundred times as long.
SLOW_FACTOR = 2 * figures.MIN_TIME_FACTOR
SLOW_MS = 2 * figures.BUSY_PROCESS_MS


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return the statement, if it has a sub-query that belongs to a step of the plan."""
    if not any(node.relationship == "SubPlan" for node in plan.nodes):
        return []
    needs = {Need.ANALYSED, Need.PREPARED}
    return [Suspicion.of_statement(NAME, schema.largest, "sub-query", needs)]


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit on the sub-query whose runs read the most, if that is worth another way."""
    plan = evidence.analysed or evidence.plan
    work = Work(plan, evidence.schema, evidence.returned_rows)
    repeated = [sub_plan for sub_plan in work.sub_plans if not sub_plan.hashed]
    if not repeated:
        return Miss(suspicion, _EACH_ONCE, quiet=True)
    worst = max(repeated, key=lambda each: (_wasted(work, each), _cost(work, each)))
    runs = work.runs[id(worst.node)]
    wasteful = _outermost([sub_plan for sub_plan in repeated if _wasted(work, sub_plan)])
    read = sum(work.read[id(sub_plan.node)] for sub_plan in wasteful)
    if read >= figures.MIN_ROWS_READ:
        least_ms = max(figures.MIN_MS, read * figures.MIN_MS_PER_READ_ROW)
        if (miss := took_little(suspicion, evidence, least_ms)) is not None:
            return miss
        found = _hit(suspicion, work, worst, _counted(work, worst))
        product = product_of(work, worst)
        found = found if product is None else _of_product(found, product)
        return _with_others(found, wasteful, read)
    counted = evidence.analysed is not None or id(worst.node) in work.counted
    if not counted and (hit := _by_time(suspicion, evidence, work, worst)):
        return hit
    if runs < MIN_RUNS:
        # Of an expected number, only the time tells whether it is true.
        timed = evidence.timings.spent_ms(evidence.plan, evidence.returned_rows) is not None
        unknown = counted or not timed
        return Miss(suspicion, say(_FEW_RUNS, runs=runs), by_parameters=unknown)
    return Miss(suspicion, say(_NO_GAIN, runs=runs))


def _wasted(work: Work, sub_plan: SubPlan) -> float:
    """Return the rows that all runs read beyond what a join would, 0 if it would gain little."""
    runs, read = work.runs[id(sub_plan.node)], work.read[id(sub_plan.node)]
    # A join reads the outer rows as well, to compare them.
    once = work.once[id(sub_plan.node)] + runs
    least_runs = MIN_RUNS_OVER_ALL_VALUES if sub_plan.keeps_values else MIN_RUNS
    return read - once if runs >= least_runs and read >= once * figures.MIN_PASSES else 0.0


def _outermost(sub_plans: Sequence[SubPlan]) -> list[SubPlan]:
    """Return the sub-queries that are in none of the others."""
    inside = {id(node) for found in sub_plans for node in found.node.walk() if node != found.node}
    return [sub_plan for sub_plan in sub_plans if id(sub_plan.node) not in inside]


def _cost(work: Work, sub_plan: SubPlan) -> float:
    """Return the estimated cost of all runs, of which there is one at least."""
    return sub_plan.node.total_cost * max(work.runs[id(sub_plan.node)], 1.0)


def _by_time(suspicion: Suspicion, evidence: Evidence, work: Work, sub_plan: SubPlan) -> Hit | None:
    """Return a Hit if only far more runs than expected explain how long the statement takes."""
    plan, timings = evidence.plan, evidence.timings
    spent = timings.spent_ms(plan, evidence.returned_rows)
    normal, cost = timings.ms_per_cost, cost_of_execution(evidence)
    if spent is None or not normal or not evidence.client_side or evidence.error is not None:
        return None
    if cost is None:
        return None
    dear = _cost(work, sub_plan) >= plan.total_cost * MIN_SHARE
    slow = spent >= max(
        SLOW_MS,
        cost * normal * SLOW_FACTOR,
        # A join has to read the tables, too.
        work.once[id(plan.root)] * figures.MS_PER_READ_ROW * figures.MIN_PASSES,
    )
    if not dear or not slow:
        return None
    known = {
        "known": _TIMED,
        "executions": len(timings.recent),
        "fastest": timings.fastest_ms,
        "factor": spent / (cost * normal),
    }
    return _hit(suspicion, work, sub_plan, known)


def _counted(work: Work, sub_plan: SubPlan) -> dict[str, object]:
    """Return that the runs of a sub-query were counted, or worked out from the plan."""
    runs, expected = work.runs[id(sub_plan.node)], work.expected_runs[id(sub_plan.node)]
    known = work.plan.analysed or id(sub_plan.node) in work.counted
    unexpected = known and runs > expected * 2
    return {"known": _COUNTED, "expected": expected if unexpected else None}


def _with_others(hit: Hit, outermost: Sequence[SubPlan], read: float) -> Hit:
    """Return a hit with the number of further sub-queries that run again and again."""
    others = [each for each in outermost if hit.suspicion.node not in set(each.node.walk())]
    count = len(others)
    if not count:
        return hit
    more = say(_ANOTHER if count == 1 else _OTHERS, count=count, read=read)
    facts = {"other_sub_queries": count, "rows_read_by_all": round(read)}
    return replace(hit, problem=sentences(hit.problem, more), evidence=hit.evidence | facts)


def _of_product(hit: Hit, product: Product) -> Hit:
    """Return a hit on a sub-query that runs for each row of a join without a condition."""
    facts = {"one": product.needed, "other": product.needless}
    more = say(_PAIRS, **facts, ones=product.needed_rows, others=product.needless_rows)
    return replace(
        hit,
        why=say(_OF_PAIRS, **facts),
        problem=sentences(hit.problem, more),
        evidence=hit.evidence | {"joined_without_condition": list(facts.values())},
        fix="join-condition",
    )


def _hit(suspicion: Suspicion, work: Work, sub_plan: SubPlan, known: Mapping[str, object]) -> Hit:
    node, holder = sub_plan.node, sub_plan.holder
    relation = work.largest(node) or suspicion.relation
    held = work.relation(holder)
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
    return Hit(
        replace(suspicion, relation=relation, subject=sub_plan.name, node=node),
        rows=relation.rows,
        evidence=facts,
        fix="join",
        **WORDS.of(
            **facts,
            table=relation.display,
            outer=held.display if held else _ITS_STEP,
            holder_type=holder.type,
            does=_RETURNS if sub_plan.is_output else _TESTS,
            runs=work.runs[id(node)],
            **known,
        ),
    )
