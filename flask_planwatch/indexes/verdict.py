"""Makes a verdict of the plans that candidate indexes lead to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from ..finding import Advice, Verdict, VerdictStatus
from ..plan.evidence import Hit, Suspicion
from ..plan.figures import MAX_EXPECTED_SHARE, MAX_USEFUL_SHARE
from ..plan.index_use import indexed_in
from ..plan.tree import Node, Plan
from ..plan.wording import Template, say
from .candidate import Candidate
from .search import Attempt

_USED = "the planner used {indexes:and}[; {progress}]"
_THE_INDEX = "the index"

_LESS = (
    "it lowers the cost of the statement by {share:percent}[ ({writes})], less than "
    "{wanted:percent}"
)
_WRITES = Template("counting what the statement itself writes")
_FEW = "it lowers the cost of the statement by only {saved:cost}"
_GUESSED = (
    "{reason}, as far as the planner can guess without statistics of the expression; "
    'PLANWATCH_VERIFY = "build" would measure it'
)
_WHEN_GROWN = (
    "the planner used the index once sequential scans were off, as it will when the table has grown"
)
_UNMEASURED = (
    "the planner does not choose the index while there are no statistics of its keys; "
    'PLANWATCH_VERIFY = "build" would measure it'
)
_ALONE = (
    "HypoPG could not show it in the statement: the planner used the index for this predicate "
    'alone; PLANWATCH_VERIFY = "build" would show it'
)
_NOT_USED = "the planner does not use the index even when it exists"
_UNUSABLE = (
    "the planner cannot use this index for the statement, even with sequential scans off: its "
    "collation or operator may be another one"
)

#: What changed in the plan.
_ANSWERED = "{expression} was tested row by row and is now an index condition"
_ANSWERED_SOME = "{keys:and} {became}"
_ONE = Template("became an index condition")
_SEVERAL = Template("became index conditions")
_IN_ORDER = "the rows come from the index in the order that is asked for, without a Sort"
_BECAME = "{before} became {after}"


@dataclass(frozen=True)
class Trial:
    """The plans with one candidate in place, hypothetical or built and rolled back.

    `forced` is the attempt with sequential scans off, `alone` that of the predicate alone, where
    the whole statement may not use the index. `measured` tells whether all keys have statistics, so
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

    `late`: there was no time to try all of it, nor will there be next time. `remark` is added to
    the finding's text, and `hint` says what to look at where there is no advice, unless the rule
    says that. `indexes` are those that other statements may share: what the planner used, or could
    not be asked about. They are the first of the advice that creates one.
    """

    advice: tuple[Advice, ...]
    blocked: bool = False
    late: bool = False
    remark: str = ""
    hint: str = ""
    indexes: tuple[Candidate, ...] = ()

    @property
    def proposed(self) -> dict[Candidate, Advice]:
        """Each of the indexes with the advice that creates it."""
        creating = (advice for advice in self.advice if advice.index)
        return dict(zip(self.indexes, creating, strict=False))


@dataclass(frozen=True)
class Declined:
    """Nothing is advised: the plan without a change is the better one, or nearly as good.

    `rejected` is the best index that was tried, None if there was none.
    """

    reason: str
    rejected: Advice | None = None
    by_parameters: bool = True


#: The answer to a hit: advice, or the reason why there is none.
Answer = Advised | Declined


def full_cost(before: Plan, hits: Iterable[Hit]) -> float:
    """Return the cost of a statement without a new index.

    The cost of a LIMIT is a part of its scan's; if few rows match, the scan has to reach its end.
    One that is expected to read much of the scan anyway, as for a large OFFSET, costs what it says.
    """
    scans = [scan for hit in hits for scan in hit.suspicion.scans if before.limits([scan])]
    whole = max((scan.total_cost for scan in scans), default=0.0)
    return whole if before.total_cost <= whole * MAX_EXPECTED_SHARE else before.total_cost


def saving(before: float, after: float) -> float:
    """Return the share of the cost that is saved."""
    return 1 - after / before if before > 0 else 0.0


def passes_much(before: Plan, hit: Hit) -> bool:
    """Whether a plan expects most of the rows that are read to pass, so that no index saves much.

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


def spares_sort_and_table(before: Plan, after: Plan, hit: Hit) -> bool:
    """Whether rows of a hit were sorted, and now an index alone returns them in that order."""
    names = {scan.alias for scan in hit.suspicion.scans}
    now = [scan for scan in after.scans if scan.alias in names]
    from_index = all(scan.type == "Index Only Scan" for scan in now) and bool(now)
    return from_index and not _sorted(after, names) and bool(_sorted(before, names))


def _sorted(plan: Plan, names: Collection[str | None]) -> list[Node]:
    """Return the scans under these aliases whose rows a sort gets next."""
    above = ((scan, plan.ordering(scan)) for scan in plan.scans if scan.alias in names)
    return [scan for scan, step in above if step is not None and step.type == "Sort"]


def verified(
    suspicion: Suspicion,
    before: Plan,
    attempt: Attempt,
    *,
    method: str,
    guess: bool,
    progress: str = "",
) -> Verdict:
    """Return the verdict on indexes that the planner uses, and that are worth it.

    `progress` tells how many candidates were tried, if not all.
    """
    several = len(attempt.used) > 1
    indexes = [index.name for index in attempt.used] if several else [_THE_INDEX]
    return Verdict(
        VerdictStatus.VERIFIED,
        say(_USED, indexes=indexes, progress=progress or None),
        cost_before=before.total_cost,
        cost_after=attempt.plan.total_cost,
        guess=guess,
        method=method,
        proof=_proof(before, attempt.plan, suspicion, attempt.names),
    )


def too_little(
    before: float,
    after: float,
    wanted: float,
    *,
    method: str,
    guess: bool,
    writes: tuple[float, float] = (0.0, 0.0),
) -> Verdict:
    """Return the verdict on an index that saves too little; `wanted` is the share that is asked.

    `writes` is what the statement writes before and after, as cost.
    """
    read, share = saving(before, after), saving(before + writes[0], after + writes[1])
    reason = say(
        _LESS if share < wanted else _FEW,
        share=max(share, 0.0),
        wanted=wanted,
        saved=before - after,
        writes=_WRITES if share < wanted <= read else None,
    )
    if guess:
        return Verdict(VerdictStatus.UNTESTED, say(_GUESSED, reason=reason), method=method)
    return Verdict(
        VerdictStatus.REJECTED, reason, cost_before=before, cost_after=after, method=method
    )


def verdict_on_one(trial: Trial, suspicion: Suspicion, *, small: bool) -> Verdict | Declined:
    """Return the verdict on a single index that is in no chosen set.

    The proof is in the plan: the predicate is an index condition now, and not tested row by row. A
    lower cost by itself proves nothing.
    """
    forced, method = trial.forced, trial.method
    if small and _uses(forced, suspicion):
        proof = _proof(trial.attempt.plan, forced.plan, suspicion, forced.names)
        return Verdict(VerdictStatus.VERIFIED, _WHEN_GROWN, method=method, proof=proof)
    applicable = _uses(forced, suspicion) or _uses(trial.attempt, suspicion)
    if applicable and not trial.measured:
        return Verdict(VerdictStatus.UNTESTED, _UNMEASURED, method=method)
    if trial.alone is not None and trial.alone.used and indexed_in(trial.alone.plan, suspicion):
        return Verdict(VerdictStatus.UNTESTED, _ALONE, method=method)
    if applicable:
        return Declined(_NOT_USED)
    return Verdict(VerdictStatus.REJECTED, _UNUSABLE, method=method)


def _uses(attempt: Attempt, suspicion: Suspicion) -> bool:
    """Whether the index answers the suspicious predicate, or delivers the order."""
    if not attempt.used:
        return False
    answers = not suspicion.comparisons or indexed_in(attempt.plan, suspicion)
    return answers or not _sorts(attempt.plan)


def _sorts(plan: Plan) -> bool:
    return any(node.sort_keys for node in plan.nodes)


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
        lines.append(say(_ANSWERED, expression=suspicion.shown))
    elif answered:
        became = _ONE if len(answered) == 1 else _SEVERAL
        lines.append(say(_ANSWERED_SOME, keys=answered, became=became))
    if _sorts(before) and not _sorts(after):
        lines.append(_IN_ORDER)
    was = next(iter(suspicion.scans), None)
    now = {node.alias: node for node in after.scans}
    if was is not None and was.alias in now:
        title = _named(now[was.alias], names)
        if title != was.title:
            lines.append(say(_BECAME, before=was.title, after=title))
    return tuple(lines)


def _named(scan: Node, names: Mapping[str, str]) -> str:
    """Return the title of a scan, with the name that an index is advised under."""
    return replace(scan, index=names.get(scan.index or "", scan.index)).title
