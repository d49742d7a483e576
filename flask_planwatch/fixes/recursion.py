"""The setting by which PostgreSQL estimates a recursive query, where that is wrong by far.

It assumes ten rounds, each with `recursive_worktable_factor` times as many rows as the first. The
setting exists since PostgreSQL 15.
https://www.postgresql.org/docs/current/runtime-config-query.html
"""

from __future__ import annotations

from ..finding import AdviceKind, Verdict, VerdictStatus
from ..indexes.verdict import Advised
from ..plan.estimates import MIN_MISESTIMATE, Estimates
from ..plan.tree import Node, Plan
from ..plan.wording import say
from ..server.transaction import may_be_refused
from ..settings import VERIFY_IS_OFF, VERIFY_OFF
from .case import Case
from .estimate import ESTIMATE, other_joins
from .form import Form

_SETTING = "recursive_worktable_factor"

#: The least and the most that the setting may be.
_LEAST, _MOST = 0.001, 1_000_000.0

_GUESSED = (
    "PostgreSQL cannot know how deep a recursive query goes: it assumes ten rounds, each with ten "
    "times as many rows as the first."
)
_LIMIT = "limit how many rounds the recursive query has, or how many rows a round finds"
_KEPT = "With the right estimate it would keep its plan."
_SET = Form(
    f"SET LOCAL {_SETTING} = {{factor}} before the statement",
    "PostgreSQL assumes ten rounds of a recursive query, each with so many times the rows of the "
    "first (10 by default). Here {start:rows} became {actual:number} in all; the figure fits the "
    "values of this execution. It holds for all recursive queries of the transaction.",
    f'session.execute(text("SET LOCAL {_SETTING} = {{factor}}"))',
    AdviceKind.SETTING,
)
_RIGHT = (
    "with this setting the estimate is close to the actual number of rows, and the planner chooses "
    "another plan"
)


def union_above(plan: Plan, node: Node | None) -> Node | None:
    """Return the recursive query that a step belongs to, None if it is in none."""
    while node is not None and node.type != "Recursive Union":
        node = plan.parents.get(id(node))
    return node


def advise(case: Case, plan: Plan, union: Node) -> Advised:
    """Return the setting with which the estimate of a recursive query is right.

    `plan` is the one that was run. Raises ServerError if the connection fails.
    """
    estimates = Estimates(plan)
    start = max(union.children[0].rows, 1.0) if union.children else 1.0
    expected, actual = max(union.rows, 1.0), estimates.actual(union) / estimates.runs(union)
    facts = {"start": start, "before": expected, "actual": actual}
    rows = case.session.fetch("SELECT current_setting(%s, true)", (_SETTING,))
    if rows[0][0] is None:
        return Advised((), remark=_GUESSED, hint=_LIMIT)
    # The rows of a round grow in proportion.
    factor = float(rows[0][0]) * max(actual - start, 0.1) / max(expected - start, 0.1)
    factor = float(f"{min(max(factor, _LEAST), _MOST):.2g}")
    said = {"factor": f"{factor:.3f}".rstrip("0").rstrip("."), **facts}
    if case.verify == VERIFY_OFF:
        return Advised((_SET.advice(Verdict(VerdictStatus.UNTESTED, VERIFY_IS_OFF), **said),))
    after = _planned(case, factor)
    found = None if after is None else _same(after, union)
    if after is None or found is None or after.shape == case.plan.shape:
        return Advised((), remark=f"{_GUESSED} {_KEPT}", hint=_LIMIT)
    if max(found.rows / actual, actual / max(found.rows, 1.0)) >= MIN_MISESTIMATE:
        return Advised((), remark=_GUESSED, hint=_LIMIT)
    proof = (say(ESTIMATE, after=found.rows, **facts), *other_joins(case.plan, after))
    verdict = Verdict(VerdictStatus.VERIFIED, _RIGHT, proof=proof)
    return Advised((_SET.advice(verdict, **said),))


def _planned(case: Case, factor: float) -> Plan | None:
    """Return the plan of the statement with the setting, None if the server refuses it."""
    with may_be_refused(), case.session.transaction() as transaction:
        transaction.run(f"SET LOCAL {_SETTING} = {factor}")
        return case.query.explain(transaction)
    return None


def _same(plan: Plan, union: Node) -> Node | None:
    """Return the same recursive query in another plan."""
    unions = (node for node in plan.nodes if node.type == "Recursive Union")
    return next((node for node in unions if node.subplan == union.subplan), None)
