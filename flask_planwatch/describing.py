"""Describes a capture and what was found in it as users read it, the statement without values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from . import fingerprint
from .advice.verdict import Declined
from .capture import Capture
from .finding import Dismissal, Finding, Inspection, Severity, Skip, Statement
from .plan.evidence import Hit, Miss
from .plan.schema import Schema
from .plan.tree import Plan
from .rules import statement_failed

#: A statement that took this long, in ms, is critical whatever its share.
CRITICAL_MS = 1000.0

#: So is one that takes this share of the database time that PlanWatch saw.
CRITICAL_SHARE = 0.2

#: A single execution that took less, in ms, costs next to nothing: an index lookup with its way to
#: the server and back takes as long.
NEGLIGIBLE_MS = 1.0

#: A share says something only once there is this much time to have a share of, in ms.
MEANINGFUL_TOTAL_MS = 1000.0


def statement_of(capture: Capture) -> Statement:
    """Return the captured statement without its values."""
    return _statement(capture.key, capture.bind, capture.database)


# An inspection asks it of the same few statements again and again.
@lru_cache(maxsize=10)
def _statement(key: str, bind: str | None, database: str) -> Statement:
    return Statement(
        fingerprint=fingerprint.fingerprint(key, bind or database),
        text=fingerprint.normalise(key),
        bind=bind,
    )


def inspection_of(
    capture: Capture,
    *,
    plan: Plan | None = None,
    findings: tuple[Finding, ...] = (),
    dismissals: tuple[Dismissal, ...] = (),
    served: frozenset[tuple[str, str]] = frozenset(),
    judged: frozenset[str] = frozenset(),
    unanswered: tuple[Skip, ...] = (),
    skip: Skip | None = None,
) -> Inspection:
    """Return the Inspection of a capture with what was found, or why it was skipped."""
    return Inspection(
        statement=statement_of(capture),
        duration_ms=round(capture.duration_ms, 3),
        plan=plan,
        findings=findings,
        dismissals=dismissals,
        served=served,
        judged=judged,
        unanswered=unanswered,
        skip=skip,
        location=capture.location,
        endpoint=capture.endpoint,
        error=capture.error,
    )


def finding_of(capture: Capture, hit: Hit) -> Finding:
    """Return a hit as a finding, before any advice."""
    suspicion = hit.suspicion
    return Finding(
        rule=suspicion.rule,
        severity=_severity(capture, hit),
        statement=statement_of(capture),
        relation=suspicion.relation.display,
        subject=suspicion.shown,
        problem=hit.problem,
        title=_title(capture, hit),
        evidence=hit.evidence,
        keys=suspicion.shown_keys,
        scanned=suspicion.scanned,
        table_rows=hit.rows,
        location=capture.location,
        endpoint=capture.endpoint,
        duration_ms=round(capture.duration_ms, 3),
        calls=capture.tally.calls,
        error=capture.error,
    )


def _title(capture: Capture, hit: Hit) -> str:
    """Return what is wrong, where in the plan and how much it is, in a few words."""
    rows = f"{hit.rows:,.0f} {'row' if round(hit.rows) == 1 else 'rows'}, " if hit.rows else ""
    took = f"{capture.duration_ms:,.{0 if capture.duration_ms >= 10 else 1}f} ms"
    return f"{hit.what} ({rows}{took}): {hit.why}"


def failures_of(capture: Capture, skip: Skip) -> Iterator[Finding]:
    """Yield that the statement failed, although there is no plan of it."""
    if capture.error is None or not capture.failed:
        return
    hit = statement_failed.without_plan(capture.error)
    draft = finding_of(capture, hit)
    why = f"There is no plan of it: {skip.reason.explanation}."
    yield replace(draft, problem=f"{draft.problem} {basis_of(capture, hit, Schema())} {why}")


def with_others(finding: Finding, findings: list[Finding]) -> Finding:
    """Return the finding that a statement failed with what else was found in it."""
    others = [one for one in findings if one.rule != finding.rule]
    if finding.rule != statement_failed.NAME or not others:
        return finding
    also = "; ".join(f"{one.rule} on {one.relation}: {one.subject}" for one in others)
    return replace(
        finding,
        problem=f"{finding.problem} Found in its plan: {also}.",
        evidence=finding.evidence | {"findings": [f"{one.rule} {one.id}" for one in others]},
        advice=others[0].advice,
    )


def _severity(capture: Capture, hit: Hit) -> Severity:
    if capture.failed or capture.duration_ms >= CRITICAL_MS:
        return Severity.CRITICAL
    if hit.small:
        return Severity.INFO
    all_total_ms = capture.sampler.total_ms
    enough = all_total_ms >= MEANINGFUL_TOTAL_MS
    if enough and capture.tally.total_ms / all_total_ms >= CRITICAL_SHARE:
        return Severity.CRITICAL
    if capture.duration_ms < NEGLIGIBLE_MS and not enough:
        return Severity.INFO
    return Severity.WARNING


def basis_of(capture: Capture, hit: Hit, schema: Schema) -> str:
    """Return what a finding rests on: executions, elapsed time, and how far rows are known."""
    times = "once" if capture.tally.calls == 1 else f"{capture.tally.calls:,} times"
    said = [f"It ran {times} so far, and took {capture.duration_ms:,.1f} ms this time"]
    leaves = schema.leaves(hit.suspicion.relation)
    if hit.suspicion.relation.key and not any(leaf.has_statistics for leaf in leaves):
        said.append("the table was never analysed, so that its rows are a guess")
    return f"{'; '.join(said)}."


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
