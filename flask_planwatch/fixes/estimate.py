"""What a trial says of a wrong estimate: what the planner expects now, and how it joins."""

from __future__ import annotations

from ..plan.tree import Plan
from ..plan.wording import say

ESTIMATE = "estimate {before:number} -> {after:number}, actual {actual:number}"
STILL_WRONG = f"{ESTIMATE}: still wrong by far"
_BECAME = "{before:and} became {after:and}"


def other_joins(before: Plan, after: Plan) -> list[str]:
    """Return how the plan joins now, a line, if it joins otherwise than before."""
    was, now = (
        [node.type for node in plan.nodes if node.join_type is not None] for plan in (before, after)
    )
    return [say(_BECAME, before=was, after=now)] if was != now and was and now else []
