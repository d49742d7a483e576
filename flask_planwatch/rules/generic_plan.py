"""
generic-plan
============

What it finds
-------------

A statement that psycopg 3 or asyncpg prepares on the server, and that PostgreSQL then runs with one
plan for all values, although that plan is far worse for some of them. Usual cases are
``where($1 OR state != 'retired')``, ``tenant_id = $1`` with one huge tenant among small ones, and a
JSON key as a parameter (``data ->> $1``).

PlanWatch keeps several sets of parameters of a statement. It compares the plan of each with the
generic plan, and follows PostgreSQL's rule: the first five executions of a prepared statement have
plans of their own; after them the generic plan is used if it costs less than the average of those
plans, planning included. In debug mode the finding also says how often the server has really used
it.

Why it hurts
------------

The statement is fast in each test, and in the first executions on a connection: ten with psycopg,
which prepares late, and five with asyncpg. After that, the same text with the same values has
another plan until the pooled connection is closed. ``EXPLAIN`` by hand does not show that plan.

How to fix it
-------------

- Add a ``where()`` only when it is needed, instead of ``or_(flag, …)`` with the flag as a value.
  The two statements then have plans of their own.
- Write the value that the plan depends on into the statement:
  ``bindparam("tenant_id", value, literal_execute=True)``.
- Set ``plan_cache_mode = force_custom_plan`` for the connection. Or prepare nothing: with psycopg,
  ``connect_args={"prepare_threshold": None}``; with asyncpg,
  ``connect_args={"prepared_statement_cache_size": 0}``.

PlanWatch finds out which parameters the plan depends on, and shows the generic plan of the
rewritten statement.

When it stays silent
--------------------

- The driver prepares nothing: psycopg2, or one of the settings above.
- Each transaction with the statement ends with a ROLLBACK, as in a request that only reads.
  psycopg then forgets what it has prepared, so that the statement is never executed often enough.
- The generic plan is as good for all parameters that were seen, or PostgreSQL would not use it.
- The table has fewer rows than ``PLANWATCH_MIN_ROWS``. With ``PLANWATCH_GROWTH`` the finding is
  ``info``.
- The server cannot tell the type of a parameter. The skip is counted as ``generic-plan-unknown``.
"""

from __future__ import annotations

from dataclasses import replace

from ..plan.evidence import Custom, Evidence, Hit, Miss, Need, Prepared, Suspicion
from ..plan.figures import CUSTOM_PLANS, MAX_EXECUTIONS
from ..plan.schema import Schema
from ..plan.scrub import scrub_condition, scrub_plan
from ..plan.tree import Node, Plan
from ..plan.wording import Template, Words, say
from .worth import stays_small

NAME = "generic-plan"

WORDS = Words(
    what="{node}",
    why="one plan for all values, cost {cost:number} instead of {own_cost:number}",
    problem=(
        "{driver} prepares the statement {since}, and as of execution {chosen_at_execution} on the "
        "same connection, PostgreSQL uses one plan for all values: {node} instead of {instead}, at "
        "a cost of {cost:number} instead of {own_cost:number} for {harmed} of {seen:sets} of "
        "parameters that PlanWatch saw ({reached})."
    ),
)

_AFTER = Template("after it ran {prepare_threshold:times}")
_AT_ONCE = Template("at once")

_NOT_PREPARED = "its driver does not prepare it"
_AS_GOOD = "the generic plan is as good for the parameters that were seen"
_FORCED_CUSTOM = "plan_cache_mode is force_custom_plan"
_NOT_CHOSEN = (
    "PostgreSQL would not choose the generic plan: it costs {cost:number}, more than the "
    "{average:number} of the plans for single values, planning included"
)

#: How many times the cost of its own plan the generic one must have for some parameters: between
#: 1 and 2 lie plans of the same quality with other guesses of the rows.
MIN_COST_FACTOR = 2.0


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return the statement: whether its driver prepares it, no plan tells."""
    if not plan.scans:
        return []
    return [Suspicion.of_statement(NAME, schema.largest, NAME, {Need.PREPARED})]


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit if PostgreSQL would choose a generic plan that is bad for some parameters."""
    prepared = evidence.prepared
    if prepared is None:
        return Miss(suspicion, _NOT_PREPARED, quiet=True)
    if not prepared.reached:
        return Miss(suspicion, prepared.why, by_parameters=True)
    worst = max(prepared.customs, key=lambda custom: custom.factor)
    small = suspicion.relation.rows < evidence.min_rows
    loses_index = small and _loses_index(prepared.generic, worst.plan)
    if worst.factor < MIN_COST_FACTOR and not loses_index:
        return Miss(suspicion, _AS_GOOD)
    chosen_at = execution_of_choice(prepared)
    if prepared.mode == "force_custom_plan":
        return Miss(suspicion, _FORCED_CUSTOM)
    if chosen_at is None:
        cost, average = prepared.generic.total_cost, _average(prepared)
        reason = say(_NOT_CHOSEN, cost=cost, average=average)
        return Miss(suspicion, reason, by_parameters=True)
    rows = suspicion.relation.rows
    if small and (miss := stays_small(suspicion, evidence, rows)) is not None:
        return miss
    return _hit(suspicion, evidence, prepared, worst, chosen_at, small=small)


def execution_of_choice(prepared: Prepared) -> int | None:
    """Return the execution on a connection at which PostgreSQL takes the generic plan, or None.

    The rule is choose_custom_plan() of src/backend/utils/cache/plancache.c: five plans for single
    values first, then the generic one if it costs less than their average with planning.
    """
    if prepared.mode == "force_generic_plan":
        return prepared.threshold + 1
    if prepared.mode == "force_custom_plan":
        return None
    costs = [prepared.customs[number].plan.total_cost for number in prepared.order]
    # A connection may begin anywhere in the stream of executions, which goes on as it began.
    chosen = [_choice_from(start, costs, prepared) for start in range(len(costs))]
    return min((made for made in chosen if made is not None), default=None)


def cost_of_execution(evidence: Evidence) -> float | None:
    """Return the cost of the plan that the execution had, at most; None if that is not known.

    Where the driver prepared the statement often enough on a connection, PostgreSQL may have taken
    the generic plan.
    """
    prepared, own_cost = evidence.prepared, evidence.plan.total_cost
    if prepared is None:
        return own_cost if evidence.executions <= CUSTOM_PLANS else None
    chosen_at = execution_of_choice(prepared)
    if chosen_at is None or evidence.executions < chosen_at:
        return own_cost
    return max(own_cost, prepared.most_generic_cost)


def _choice_from(start: int, costs: list[float], prepared: Prepared) -> int | None:
    total = 0.0
    for made in range(MAX_EXECUTIONS):
        if made >= CUSTOM_PLANS and prepared.generic.total_cost < total / made:
            return prepared.threshold + made + 1
        total += costs[(start + made) % len(costs)] + prepared.planning_cost
    return None


def _average(prepared: Prepared) -> float:
    costs = [prepared.customs[number].plan.total_cost for number in prepared.order]
    return sum(costs) / len(costs) + prepared.planning_cost


def _loses_index(generic: Plan, custom: Plan) -> bool:
    """Whether the generic plan reads all of a table of which the other finds rows by an index."""
    whole = {scan.qualified_relation for scan in generic.scans if scan.type == "Seq Scan"}
    found = {scan.qualified_relation for scan in custom.scans if scan.type != "Seq Scan"}
    return bool(whole & found)


def _hit(
    suspicion: Suspicion,
    evidence: Evidence,
    prepared: Prepared,
    worst: Custom,
    chosen_at: int,
    *,
    small: bool,
) -> Hit:
    generic, custom = prepared.generic, worst.plan
    scan, instead = _difference(generic, custom)
    found = evidence.schema.get(scan.qualified_relation)
    relation = evidence.schema.root(found) if found else suspicion.relation
    # The condition that the values are missing in.
    conditions = [scrub_condition(text, evidence.varying) for _, text in scan.conditions]
    subject = conditions[0] if conditions else NAME
    harmed = sum(seen.factor >= MIN_COST_FACTOR for seen in prepared.customs)
    plans = {"for all values": generic, "for these values": custom}
    if not evidence.show_values:
        plans = {values: scrub_plan(plan, evidence.varying) for values, plan in plans.items()}
    facts: dict[str, object] = {
        "driver": prepared.driver,
        "prepare_threshold": prepared.threshold,
        "generic_cost": generic.total_cost,
        "custom_costs": [seen.plan.total_cost for seen in prepared.customs],
        "average_custom_cost": round(_average(prepared), 2),
        "planning_cost": prepared.planning_cost,
        "chosen_at_execution": chosen_at,
        "plans": {values: plan.as_text() for values, plan in plans.items()},
    }
    return Hit(
        replace(suspicion, relation=relation, subject=subject, node=scan),
        rows=relation.rows or suspicion.relation.rows,
        evidence=facts,
        small=small,
        fix="generic-plan",
        executed=False,
        **WORDS.of(
            **facts,
            since=_AFTER if prepared.threshold else _AT_ONCE,
            node=scan.title,
            instead=instead.title,
            cost=worst.forced_cost or generic.total_cost,
            own_cost=custom.total_cost,
            harmed=max(harmed, 1),
            seen=len(prepared.customs),
            reached=prepared.why,
        ),
    )


def _difference(generic: Plan, custom: Plan) -> tuple[Node, Node]:
    """Return the first step that reads a table otherwise in the two plans, as each has it."""
    others = {scan.alias: scan for scan in custom.scans}
    for scan in generic.scans:
        other = others.get(scan.alias)
        if other is not None and (scan.type, scan.index) != (other.type, other.index):
            return scan, other
    return generic.root, custom.root
