"""What a step of a plan is expected to cost in all its runs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .tree import Node, Plan

_SUB_PLAN = "SubPlan"

#: A sub-query that costs less is nothing but a constant.
_LEAST_COST = 0.01


def cost_of_runs(plan: Plan, step: Node) -> float:
    """Return the cost of a step with all below it, in all runs.

    Sub-queries in its output are left out: they run before it, or for each row that it returns.
    """
    # With nothing below it, a scan returns its first row at once.
    cost = step.total_cost if step.children else step.total_cost - step.startup_cost
    for child in step.children:
        if child.relationship == _SUB_PLAN and not _is_tested(step, child):
            cost -= child.total_cost * _runs_of_sub_plan(step, child)
    return max(cost, 0.0) * _runs(plan, step)


def _runs(plan: Plan, step: Node) -> float:
    """Return how often a step is expected to run; PostgreSQL prints the cost of one run."""
    runs, inner = plan.loops.get(id(step), 1.0), step
    while (outer := plan.parents.get(id(inner))) is not None:
        if inner.relationship == _SUB_PLAN:
            runs *= _runs_of_sub_plan(outer, inner)
        inner = outer
    return runs


def _runs_of_sub_plan(holder: Node, sub_plan: Node) -> float:
    """Return how often a step is expected to run a sub-query that it holds, at least once.

    In its output, there is a run for each row. In a condition, the cost of the step has all runs.
    """
    if any(_names(text, f"hashed {sub_plan.subplan}") for text in _texts(holder)):
        return 1.0
    if not _is_tested(holder, sub_plan):
        return max(holder.rows, 1.0)
    inputs = sum(child.total_cost for child in holder.children if child.relationship != _SUB_PLAN)
    return max((holder.total_cost - inputs) / max(sub_plan.total_cost, _LEAST_COST), 1.0)


def _is_tested(holder: Node, sub_plan: Node) -> bool:
    """Whether a sub-query is part of a condition."""
    return any(_names(text, sub_plan.subplan or "") for _, text in holder.conditions)


def _texts(holder: Node) -> Iterator[str]:
    yield from (text for _, text in holder.conditions)
    yield from holder.output


def _names(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text) is not None
