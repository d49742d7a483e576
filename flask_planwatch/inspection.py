"""What happens to one captured statement, on one screen: from its plan to its findings.

plan -> suspect -> evidence -> judge -> advise -> prove
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from . import fingerprint
from .advice.mapped import MappedTable
from .advice.verdict import Declined
from .advising import Adviser
from .capture import Capture
from .finding import (
    Dismissal,
    Finding,
    Inspection,
    Severity,
    Skip,
    SkipReason,
    Statement,
)
from .plan.evidence import Evidence, Hit, Miss, Need, Suspicion
from .plan.schema import Relation, Schema
from .plan.scrub import holds_value, mask, scrub_plan
from .plan.structure import Structure
from .plan.tree import Plan
from .rules import RULES, Rule
from .server import catalog
from .server.explain import Query, explain, predicate_query, refuse_several
from .server.session import NO_SERVER, ServerError, Session
from .settings import Settings

#: A statement that took this long, in ms, is critical whatever its share.
CRITICAL_MS = 1000.0

#: So is one that takes this share of the database time that PlanWatch saw.
CRITICAL_SHARE = 0.2

#: A share says something only once there is this much time to have a share of, in ms.
MEANINGFUL_TOTAL_MS = 1000.0


@dataclass(frozen=True)
class Outcome:
    """An inspection, and whether a lock kept it from proving its advice this time."""

    inspection: Inspection
    blocked: bool = False


@dataclass(frozen=True)
class Inspector:
    """Inspects captures of one app and engine.

    `mapped_table` tells how the app's code names a table. It must not touch the database.
    """

    settings: Settings
    session: Session
    mapped_table: Callable[[Capture, Relation], MappedTable | None]
    structure: Structure = field(default_factory=Structure)

    def inspect(self, capture: Capture) -> Outcome:
        """Return the outcome for a capture; a Skip if the server could not explain it.

        Raises nothing that the server, the connection or the plan may cause.
        """
        try:
            return self._inspect(capture)
        except ServerError as error:
            return Outcome(inspection_of(capture, skip=Skip(error.reason, error.detail)))

    def _inspect(self, capture: Capture) -> Outcome:
        query = _query(capture)
        plan = explain(self.session, query)
        schema = catalog.read_schema(self.session, plan)
        # Two lines of code may use one statement with a key of their own each.
        origin = f"{statement_of(capture).fingerprint} {capture.location}"
        varying = self.structure.varying(origin, plan)
        evidence = self._evidence(capture, plan, schema, varying)
        adviser = Adviser(self.session, self.settings.verify, query, plan, schema)
        findings, misses, blocked = [], [], False
        for rule, suspicion in suspicions(plan, schema, varying):
            evidence = self._gather(evidence, query, suspicion)
            result = rule.judge(suspicion, evidence)
            if isinstance(result, Miss):
                misses.append(result)
                continue
            finding = _finding(capture, result)
            if self._ignored(finding):
                continue
            mapped = self.mapped_table(capture, suspicion.relation)
            advised = adviser.advise(result, mapped)
            if isinstance(advised, Declined):
                misses.append(Miss(suspicion, advised.reason, by_parameters=True))
                continue
            blocked = blocked or advised.blocked
            findings.append(replace(finding, advice=advised.advice))
        findings.sort(key=lambda finding: (finding.severity.rank, -finding.table_rows))
        inspection = inspection_of(
            capture,
            plan=plan if self.settings.show_parameters else scrub_plan(plan, varying),
            findings=tuple(findings),
            dismissals=tuple(_dismissal(miss) for miss in misses),
        )
        return Outcome(inspection, blocked)

    def _evidence(
        self, capture: Capture, plan: Plan, schema: Schema, varying: frozenset[str]
    ) -> Evidence:
        """Return what is known without asking the server again."""
        return Evidence(
            plan=plan,
            schema=schema,
            statement=capture.key,
            min_rows=self.settings.min_rows,
            growth=self.settings.growth,
            duration_ms=capture.duration_ms,
            returned_rows=capture.returned_rows,
            parameter_types=_types(capture.parameters),
            show_values=self.settings.show_parameters,
            varying=varying,
        )

    def _gather(self, evidence: Evidence, query: Query, suspicion: Suspicion) -> Evidence:
        """Add the plans that a suspicion needs; those of the statement are fetched once."""
        forced = evidence.seqscan_off
        if Need.SEQSCAN_OFF in suspicion.needs and forced is None:
            forced = explain(self.session, query, seqscan=False)
        alone = None
        if Need.PREDICATE_ALONE in suspicion.needs:
            alone = self._explain_alone(suspicion)
        return replace(evidence, seqscan_off=forced, alone=alone)

    def _explain_alone(self, suspicion: Suspicion) -> Plan | None:
        """Return the plan of the predicate alone, None if the server cannot plan it that way."""
        try:
            return explain(self.session, predicate_query(suspicion), seqscan=False)
        except ServerError as error:
            if error.reason in NO_SERVER:
                raise
            return None

    def _ignored(self, finding: Finding) -> bool:
        return self.settings.ignores(finding.rule, finding.relation, finding.subject, finding.id)


def _query(capture: Capture) -> Query:
    """Return what to explain; raises ServerError for what must not be sent again."""
    if capture.too_large is not None:
        raise ServerError(capture.too_large)
    if capture.error and (capture.error.sqlstate or "")[:2] == "42":
        raise ServerError(SkipReason.STATEMENT_INVALID, capture.error.name)
    query = Query(capture.text, capture.parameters, capture.escaped)
    refuse_several(query)
    return query


def _finding(capture: Capture, hit: Hit) -> Finding:
    """Return a hit as a finding, before any advice."""
    suspicion = hit.suspicion
    return Finding(
        rule=suspicion.rule,
        severity=_severity(capture, hit),
        statement=statement_of(capture),
        relation=suspicion.relation.display,
        subject=suspicion.shown,
        problem=hit.problem,
        evidence=hit.evidence,
        scanned=suspicion.scanned,
        table_rows=hit.rows,
        location=capture.location,
        endpoint=capture.endpoint,
        duration_ms=round(capture.duration_ms, 3),
        calls=capture.calls,
        error=capture.error,
    )


def suspicions(plan: Plan, schema: Schema, varying: frozenset[str]) -> list[tuple[Rule, Suspicion]]:
    """Return what the rules suspect; a predicate belongs to the first rule that claims it."""
    claimed: set[tuple[str, str]] = set()
    found = []
    for rule in RULES:
        for suspicion in rule.suspect(plan, schema):
            predicate = (suspicion.relation.key, suspicion.subject)
            if predicate not in claimed:
                claimed.add(predicate)
                text = suspicion.operand.text
                unsafe = holds_value(text) or mask(text) in varying
                found.append((rule, replace(suspicion, holds_value=unsafe)))
    return found


def _types(parameters: Any) -> frozenset[str]:
    """Return the names of the parameters' classes; of a list, those of its items."""
    values = parameters.values() if isinstance(parameters, Mapping) else parameters or ()
    items = [
        item for value in values for item in (value if isinstance(value, list | tuple) else [value])
    ]
    return frozenset(type(item).__name__ for item in items)


def statement_of(capture: Capture) -> Statement:
    """Return the captured statement without its values."""
    return Statement(
        fingerprint=fingerprint.fingerprint(capture.key, capture.bind or capture.database),
        text=fingerprint.normalise(capture.key),
        bind=capture.bind,
    )


def inspection_of(
    capture: Capture,
    *,
    plan: Plan | None = None,
    findings: tuple[Finding, ...] = (),
    dismissals: tuple[Dismissal, ...] = (),
    skip: Skip | None = None,
) -> Inspection:
    """Return the Inspection of a capture with what was found, or why it was skipped."""
    return Inspection(
        statement=statement_of(capture),
        duration_ms=round(capture.duration_ms, 3),
        plan=plan,
        findings=findings,
        dismissals=dismissals,
        skip=skip,
        location=capture.location,
        endpoint=capture.endpoint,
        error=capture.error,
    )


def _severity(capture: Capture, hit: Hit) -> Severity:
    if capture.error is not None or capture.duration_ms >= CRITICAL_MS:
        return Severity.CRITICAL
    if hit.small:
        return Severity.INFO
    enough = capture.all_total_ms >= MEANINGFUL_TOTAL_MS
    if enough and capture.total_ms / capture.all_total_ms >= CRITICAL_SHARE:
        return Severity.CRITICAL
    return Severity.WARNING


def _dismissal(miss: Miss) -> Dismissal:
    suspicion = miss.suspicion
    return Dismissal(
        rule=suspicion.rule,
        relation=suspicion.relation.display,
        subject=suspicion.shown,
        reason=miss.reason,
        by_parameters=miss.by_parameters,
    )
