"""What a step of a plan is expected to cost in all its runs."""

from __future__ import annotations

from .figures import LEAST_COST
from .sub_plan import SubPlan, sub_plans_of
from .tree import Node, Plan


def cost_of_runs(plan: Plan, step: Node) -> float:
    """Return the cost of a step with all below it, in all runs.

    Sub-queries in its output are left out: they run before it, or for each row that it returns.
    """
    # With nothing below it, a scan returns its first row at once.
    cost = step.total_cost if step.children else step.total_cost - step.startup_cost
    for sub_plan in sub_plans_of(step):
        if sub_plan.is_output:
            cost -= sub_plan.node.total_cost * _runs_of_sub_plan(sub_plan)
    return max(cost, 0.0) * _runs(plan, step)


def _runs(plan: Plan, step: Node) -> float:
    """Return how often a step is expected to run; PostgreSQL prints the cost of one run."""
    runs, inner = plan.loops.get(id(step), 1.0), step
    while (outer := plan.parents.get(id(inner))) is not None:
        for sub_plan in sub_plans_of(outer):
            if sub_plan.node is inner:
                runs *= _runs_of_sub_plan(sub_plan)
        inner = outer
    return runs


def _runs_of_sub_plan(sub_plan: SubPlan) -> float:
    """Return how often a sub-query is expected to run, at least once.

    In the output of a step, there is a run for each row. In a condition, the cost of the step has
    all runs.
    """
    if sub_plan.hashed:
        return 1.0
    holder = sub_plan.holder
    if sub_plan.is_output:
        return max(holder.rows, 1.0)
    inputs = sum(child.total_cost for child in holder.children if child.relationship != "SubPlan")
    return max((holder.total_cost - inputs) / max(sub_plan.node.total_cost, LEAST_COST), 1.0)
