"""Turns the planner's answer to a candidate index into a verdict."""

from __future__ import annotations

from dataclasses import dataclass

from ..finding import Verdict, VerdictStatus
from ..plan.evidence import Suspicion
from ..plan.tree import Plan
from ..plan.usage import indexed_in


@dataclass(frozen=True)
class Trial:
    """The plans with a candidate index in place, by HypoPG or built and rolled back.

    `forced` is the plan with sequential scans off, `alone` that of the predicate alone, where the
    whole statement may hide the index. `measured` tells whether the expression had
    statistics, so that the costs are more than a default guess.
    """

    method: str
    index: str
    plan: Plan
    forced: Plan
    measured: bool
    alone: Plan | None = None


@dataclass(frozen=True)
class Declined:
    """The planner could use the index and would rather not: its own plan is the better one."""

    reason: str


def verdict(trial: Trial, suspicion: Suspicion, before: Plan, *, small: bool) -> Verdict | Declined:
    """Return what a trial proves.

    The proof is structure: the predicate is answered by that index, instead of being computed row
    by row. A cost that fell proves nothing by itself.
    """
    if _uses(trial.plan, trial.index, suspicion):
        return Verdict(
            VerdictStatus.VERIFIED,
            "the planner used the index",
            cost_before=before.total_cost,
            cost_after=trial.plan.total_cost,
            guess=not trial.measured,
            method=trial.method,
            proof=_proof(trial.plan, suspicion),
        )
    applicable = _uses(trial.forced, trial.index, suspicion)
    if applicable and small:
        return Verdict(
            VerdictStatus.VERIFIED,
            "the planner used the index once sequential scans were off, as it will when the table "
            "has grown",
            method=trial.method,
            proof=_proof(trial.forced, suspicion),
        )
    if applicable and not trial.measured:
        return Verdict(
            VerdictStatus.UNTESTED,
            "the planner can use the index, but would rather not as long as it can only guess how "
            'many rows match; PLANWATCH_VERIFY = "build" would measure it',
            method=trial.method,
        )
    if trial.alone is not None and _uses(trial.alone, trial.index, suspicion):
        return Verdict(
            VerdictStatus.UNTESTED,
            "the planner used the index for this predicate alone, but HypoPG could not show it in "
            'the whole statement; PLANWATCH_VERIFY = "build" would',
            method=trial.method,
        )
    if applicable:
        return Declined("with an index to choose, the planner would rather not use it")
    return Verdict(
        VerdictStatus.REJECTED,
        "the planner cannot use this index for the statement, even with sequential scans off: its "
        "collation or operator may be another one",
        method=trial.method,
    )


def _uses(plan: Plan, index: str, suspicion: Suspicion) -> bool:
    """Whether this index answers the suspicious predicate. Partitions have indexes of their own."""
    named = suspicion.relation.partitioned or any(node.index == index for node in plan.nodes)
    return named and indexed_in(plan, suspicion)


def _proof(plan: Plan, suspicion: Suspicion) -> tuple[str, ...]:
    scan = suspicion.scans[0]
    after = [
        node.title
        for node in plan.scans
        if node.qualified_relation == scan.qualified_relation and node.title != scan.title
    ]
    return (
        f"{suspicion.subject} was computed row by row and is now an index condition",
        *(f"{scan.title} became {title}" for title in after[:1]),
    )
