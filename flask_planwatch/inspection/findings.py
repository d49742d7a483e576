"""Describes a capture and what was found in it as users read it, the statement without values."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace

from ..capture.database_time import MIN_SHARE, saves_little, share_of
from ..capture.execution import Capture
from ..finding import (
    Advice,
    Dismissal,
    Finding,
    Inspection,
    Severity,
    Skip,
    Statement,
    VerdictStatus,
)
from ..fixes import EXPLAINED_BY_COST
from ..indexes.verdict import Advised, Declined, saving
from ..plan.evidence import Evidence, Hit, Miss
from ..plan.figures import LEAST_COST, MAX_MS_PER_COST
from ..plan.schema import Schema
from ..plan.tree import Plan
from ..plan.wording import say, sentences
from ..rules import statement_failed
from ..statement import fingerprint

#: What is wrong, where in the plan and how much it is, in a few words.
TITLE = "{what}[ ({much:list})]: {why}"

_ROWS = "{rows:rows}"
_TOOK = "{took:short_ms}"

_GUESS = "PostgreSQL has no statistics of the table, so its estimates are guesses."
_NO_PLAN = "There is no plan of it: {reason}."
_OTHERS = "Found in its plan: {others:semicolon}."
_OTHER = "{rule} on {table}: {subject}"

#: What a finding costs an execution, in ms, so that it is critical whatever its share.
CRITICAL_MS = 1000.0

#: So is one that costs this share of the database time that PlanWatch saw, or that costs this share
#: of a statement that failed.
CRITICAL_SHARE = 0.2

#: A single execution that took less, in ms, costs next to nothing: an index lookup with its way to
#: the server and back takes as long.
NEGLIGIBLE_MS = 1.0

#: Returns what the statements of this process that share a fix would save by it, in ms; the first
#: argument is the finding's group, the second the statement that does not count.
SavedByOthers = Callable[[Hashable, str], float]

#: How sure an advice is by its verdict, where 0 is the surest; what is in neither comes between.
_SURE = {VerdictStatus.VERIFIED: 0, VerdictStatus.REJECTED: 2}


def statement_of(capture: Capture) -> Statement:
    """Return the captured statement without its values."""
    return Statement(
        fingerprint=fingerprint.fingerprint(capture.key, capture.bind or capture.database),
        text=fingerprint.normalise(capture.key),
        bind=capture.bind,
    )


def inspection_of(capture: Capture) -> Inspection:
    """Return the Inspection of a capture, before anything was found."""
    return Inspection(
        statement=statement_of(capture),
        duration_ms=round(capture.duration_ms, 3),
        location=capture.location,
        endpoint=capture.endpoint,
        error=capture.error,
    )


def finding_of(capture: Capture, hit: Hit) -> Finding:
    """Return a hit as a finding, before any advice."""
    suspicion = hit.suspicion
    return Finding(
        rule=suspicion.rule,
        severity=_severity(capture, hit, hit.share),
        statement=statement_of(capture),
        relation=suspicion.relation.display,
        subject=suspicion.shown,
        problem=hit.problem,
        title=_title(capture, hit),
        hint=hit.hint,
        evidence=hit.evidence,
        keys=suspicion.shown_keys,
        scanned=suspicion.scanned,
        table_rows=hit.rows,
        location=capture.location,
        endpoint=capture.endpoint,
        duration_ms=round(capture.duration_ms, 3),
        calls=capture.statistics.calls,
        error=capture.error,
    )


def _title(capture: Capture, hit: Hit) -> str:
    much = [say(_ROWS, rows=hit.rows)] if hit.rows and hit.reads_all else []
    much += [say(_TOOK, took=capture.duration_ms)] if hit.executed else []
    return say(TITLE, what=hit.what, much=much, why=hit.why)


def failures_of(capture: Capture, skip: Skip) -> Iterator[Finding]:
    """Yield that the statement failed, although there is no plan of it."""
    if capture.error is None or not capture.failed:
        return
    hit = statement_failed.without_plan(capture.error)
    draft = finding_of(capture, hit)
    no_plan = say(_NO_PLAN, reason=skip.reason.explanation)
    yield replace(draft, problem=sentences(draft.problem, no_plan))


def findings_of(
    capture: Capture,
    advised: Sequence[tuple[Hit, Advised]],
    evidence: Evidence,
    saved_by_others: SavedByOthers,
) -> tuple[Finding, ...]:
    """Return the hits of a statement as findings with their advice, the gravest first."""
    findings, schema = [], evidence.schema
    for hit, answer in advised:
        draft = finding_of(capture, hit)
        saved = _saved_share(hit, answer, evidence.plan, capture.waited_ms)
        finding = replace(
            draft,
            problem=sentences(draft.problem, guess_of(hit, schema), answer.remark),
            advice=answer.advice,
            hint=answer.hint or draft.hint,
            saves_ms=round(capture.statistics.total_ms * saved, 3),
            indexes=schema.index_mark,
        )
        others_ms = saved_by_others(finding.group, finding.fingerprint)
        findings.append(replace(finding, severity=_severity(capture, hit, saved, others_ms)))
    findings = [with_others(finding, findings) for finding in findings]
    findings.sort(
        key=lambda finding: (finding.severity.rank, not finding.advice, -finding.table_rows)
    )
    return tuple(findings)


def with_others(finding: Finding, findings: list[Finding]) -> Finding:
    """Return the finding that a statement failed with what else was found in it."""
    others = [other for other in findings if other.rule != finding.rule]
    if finding.rule != statement_failed.NAME or not others:
        return finding
    named = [
        say(_OTHER, rule=other.rule, table=other.relation, subject=other.subject)
        for other in others
    ]
    return replace(
        finding,
        problem=sentences(finding.problem, say(_OTHERS, others=named)),
        evidence=finding.evidence | {"findings": [f"{other.rule} {other.id}" for other in others]},
        advice=_best_first(others),
    )


def _best_first(findings: Sequence[Finding]) -> tuple[Advice, ...]:
    """Return the advice of all findings: first what the planner confirmed, by what it saves."""
    advice = dict.fromkeys(advice for finding in findings for advice in finding.advice)
    return tuple(sorted(advice, key=_promise))


def _promise(advice: Advice) -> tuple[int, float]:
    """Return how sure an advice is, and which part of the cost it leaves: less is better."""
    verdict = advice.verdict
    sure = _SURE.get(verdict.status, 1)
    if verdict.cost_before is None or verdict.cost_after is None:
        return sure, 1.0
    return sure, verdict.cost_after / max(verdict.cost_before, LEAST_COST)


def _saved_share(hit: Hit, answer: Advised, plan: Plan, took_ms: float) -> float:
    """Return which part of the statement's time its advice saves at most.

    That is the part that the finding has, or less if the planner says so. What it guesses does not
    count, nor does its cost of a scan that a LIMIT may not stop as early as it expects. In
    `took_ms`, the statement may have waited for what no fix makes shorter.
    """
    verdict = answer.advice[0].verdict if answer.advice else None
    if verdict is None or verdict.guess or hit.fix not in EXPLAINED_BY_COST:
        return hit.share
    if plan.limits(hit.suspicion.scans):
        return hit.share
    before, after = verdict.cost_before, verdict.cost_after
    if verdict.status is not VerdictStatus.VERIFIED or before is None or after is None:
        return hit.share
    most = (before - after) * MAX_MS_PER_COST / took_ms if took_ms > 0 else 1.0
    return min(hit.share, max(saving(before, after), 0.0), max(most, 0.0))


def _severity(capture: Capture, hit: Hit, saved: float, others_ms: float = 0.0) -> Severity:
    """Return how grave a finding is by what its advice saves.

    `saved` is the part of the statement's time, `others_ms` what other statements save by it.
    """
    if hit.suspicion.rule == statement_failed.NAME:
        return Severity.CRITICAL
    if hit.small:
        return Severity.INFO
    costs_ms, all_total_ms = capture.waited_ms * saved, capture.sampler.total_ms
    saves_ms = capture.statistics.total_ms * saved + others_ms
    share = share_of(saves_ms, all_total_ms) or 0.0
    failed = capture.failed and hit.share >= CRITICAL_SHARE
    negligible = costs_ms < NEGLIGIBLE_MS and share < MIN_SHARE
    if not failed and (negligible or saves_little(saves_ms, all_total_ms)):
        return Severity.INFO
    critical = failed or costs_ms >= CRITICAL_MS or share >= CRITICAL_SHARE
    return Severity.CRITICAL if critical and not hit.few_rows else Severity.WARNING


def guess_of(hit: Hit, schema: Schema) -> str:
    """Return that the planner has to guess, nothing if it knows the table."""
    leaves = schema.leaves(hit.suspicion.relation)
    known = not hit.suspicion.relation.key or not all(leaf.lacks_statistics for leaf in leaves)
    return "" if known else _GUESS


def rejection_of(hit: Hit, declined: Declined) -> Dismissal:
    """Return why nothing is advised on a hit."""
    miss = Miss(hit.suspicion, declined.reason, declined.by_parameters)
    return replace(dismissal_of(miss), rejected=declined.rejected)


def dismissal_of(miss: Miss) -> Dismissal:
    """Return why a suspicion is no finding."""
    suspicion = miss.suspicion
    return Dismissal(
        rule=suspicion.rule,
        relation=suspicion.relation.display,
        subject=suspicion.shown,
        reason=miss.reason,
        by_parameters=miss.by_parameters,
    )
