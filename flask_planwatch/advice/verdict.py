"""Turns the planner's answer to candidate indexes into a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..finding import Advice, Verdict, VerdictStatus
from ..plan.evidence import Hit, Suspicion
from ..plan.tree import Node, Plan
from ..plan.usage import MAX_USEFUL_SHARE, indexed_in
from .search import Attempt


@dataclass(frozen=True)
class Trial:
    """What the planner does with one candidate in place, by HypoPG or built and rolled back.

    `forced` is the attempt with sequential scans off, `alone` that of the predicate alone, where
    the whole statement may hide the index. `measured` tells whether all keys have statistics, so
    that the costs are more than a default guess.
    """

    method: str
    attempt: Attempt
    forced: Attempt
    measured: bool
    alone: Attempt | None = None


@dataclass(frozen=True)
class Advised:
    """The advice on a hit; `blocked` if a lock kept the index from being tried this time.

    `remark` is what the finding itself should say of an index that should be there.
    """

    advice: tuple[Advice, ...]
    blocked: bool = False
    remark: str = ""


@dataclass(frozen=True)
class Declined:
    """The planner would not follow an advice: its own plan is the better one, or nearly as good.

    `rejected` is the best index that was tried, None if there was none.
    """

    reason: str
    rejected: Advice | None = None
    by_parameters: bool = True


#: What becomes of a hit: advice, or the reason why there is none.
Answer = Advised | Declined


def saving(before: float, after: float) -> float:
    """Return the share of the cost that is saved."""
    return 1 - after / before if before > 0 else 0.0


def passes_much(before: Plan, hit: Hit) -> bool:
    """Whether a plan expects most of the rows that are read to pass, so that no index spares much.

    Unlike a rule, this plan may know the statistics of an expression.
    """
    if hit.suspicion.other_rows is not None or not hit.suspicion.comparisons:
        return False
    scanned, names = hit.suspicion.scanned, {scan.alias for scan in hit.suspicion.scans}
    passing = sum(
        scan.rows
        for scan in before.scans
        if scan.qualified_relation in scanned and scan.alias in names
    )
    return passing > hit.rows * MAX_USEFUL_SHARE


def verified(
    suspicion: Suspicion, before: Plan, attempt: Attempt, *, method: str, guess: bool
) -> Verdict:
    """Return the verdict on indexes that the planner uses, and that are worth it."""
    used = "the index"
    if len(attempt.used) > 1:
        used = " and ".join(index.name for index in attempt.used)
    return Verdict(
        VerdictStatus.VERIFIED,
        f"the planner used {used}",
        cost_before=before.total_cost,
        cost_after=attempt.cost,
        guess=guess,
        method=method,
        proof=_proof(before, attempt.plan, suspicion, attempt.names),
    )


def too_little(before: float, after: float, wanted: float, *, method: str, guess: bool) -> Verdict:
    """Return the verdict on an index that saves too little; `wanted` is the share that is asked."""
    share = saving(before, after)
    reason = f"it lowers the cost of the statement by {share:.0%}, less than {wanted:.0%}"
    if share >= wanted:
        reason = f"it lowers the cost of the statement by {before - after:.0f} only"
    if guess:
        return Verdict(
            VerdictStatus.UNTESTED,
            f"{reason}, as far as the planner can guess without statistics of the expression; "
            'PLANWATCH_VERIFY = "build" would measure it',
            method=method,
        )
    return Verdict(
        VerdictStatus.REJECTED, reason, cost_before=before, cost_after=after, method=method
    )


def verdict_on_one(trial: Trial, suspicion: Suspicion, *, small: bool) -> Verdict | Declined:
    """Return what the trial of a single index proves that is in no chosen set.

    The proof is structure: the predicate is answered by that index, instead of being computed row
    by row. A cost that fell proves nothing by itself.
    """
    applicable = _uses(trial.forced, suspicion)
    if applicable and small:
        return Verdict(
            VerdictStatus.VERIFIED,
            "the planner used the index once sequential scans were off, as it will when the table "
            "has grown",
            method=trial.method,
            proof=_proof(trial.attempt.plan, trial.forced.plan, suspicion, trial.forced.names),
        )
    if (applicable or _uses(trial.attempt, suspicion)) and not trial.measured:
        return Verdict(
            VerdictStatus.UNTESTED,
            "the planner can use the index, but would rather not as long as it can only guess how "
            'many rows match; PLANWATCH_VERIFY = "build" would measure it',
            method=trial.method,
        )
    if trial.alone is not None and trial.alone.used and indexed_in(trial.alone.plan, suspicion):
        return Verdict(
            VerdictStatus.UNTESTED,
            "the planner used the index for this predicate alone, but HypoPG could not show it in "
            'the whole statement; PLANWATCH_VERIFY = "build" would',
            method=trial.method,
        )
    if applicable or _uses(trial.attempt, suspicion):
        return Declined("with an index to choose, the planner would rather not use it")
    return Verdict(
        VerdictStatus.REJECTED,
        "the planner cannot use this index for the statement, even with sequential scans off: its "
        "collation or operator may be another one",
        method=trial.method,
    )


def _uses(attempt: Attempt, suspicion: Suspicion) -> bool:
    """Whether the index answers the suspicious predicate, or delivers the order."""
    if not attempt.used:
        return False
    return not suspicion.comparisons or indexed_in(attempt.plan, suspicion) or _sorts(attempt.plan)


def _sorts(plan: Plan) -> bool:
    return not any(node.sort_keys for node in plan.nodes)


def _proof(
    before: Plan, after: Plan, suspicion: Suspicion, names: Mapping[str, str]
) -> tuple[str, ...]:
    """Return what changed in the plan, a line each; `names` are those of the indexes tried."""
    lines = []
    answered = [
        shown
        for key, shown in zip(suspicion.keys, suspicion.shown_keys, strict=True)
        if indexed_in(after, replace(suspicion, keys=(key,)))
    ]
    if answered and len(suspicion.keys) == 1:
        lines.append(f"{suspicion.shown} was tested row by row and is now an index condition")
    elif answered:
        became = "became an index condition" if len(answered) == 1 else "became index conditions"
        lines.append(f"{' and '.join(answered)} {became}")
    if any(node.sort_keys for node in before.nodes) and _sorts(after):
        lines.append("the rows come from the index in the order that is asked for, without a Sort")
    was = next(iter(suspicion.scans), None)
    now = {node.alias: node for node in after.scans}
    if was is not None and was.alias in now:
        title = _named(now[was.alias], names)
        if title != was.title:
            lines.append(f"{was.title} became {title}")
    return tuple(lines)


def _named(scan: Node, names: Mapping[str, str]) -> str:
    """Return the title of a scan, with the name that an index is advised under."""
    return replace(scan, index=names.get(scan.index or "", scan.index)).title
