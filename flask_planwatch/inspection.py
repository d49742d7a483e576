"""What happens to one captured statement, on one screen: from its plan to its findings.

plan -> suspect -> evidence -> judge -> advise -> prove
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from . import fingerprint
from .advice.index import Candidate, candidate
from .advice.mapped import MappedTable
from .advice.render import alembic_operation, sqlalchemy_index
from .advice.rewrite import is_refused, rewrite, rewrite_with_value
from .advice.verdict import Declined, verdict
from .capture import Capture
from .finding import (
    Advice,
    AdviceKind,
    Dismissal,
    Finding,
    Inspection,
    Severity,
    Skip,
    SkipReason,
    Statement,
    Verdict,
    VerdictStatus,
)
from .plan.evidence import Evidence, Hit, Miss, Need, Suspicion
from .plan.schema import ExpressionFacts, Relation, Schema, Volatility
from .plan.scrub import mask, scrub_plan
from .plan.structure import Structure
from .plan.tree import Plan
from .rules import RULES, Rule
from .server import catalog, expressions, whatif
from .server.explain import Query, explain, explain_predicate, refuse_several
from .server.session import ServerError, Session
from .settings import VERIFY_BUILD, VERIFY_OFF, Settings

#: A statement that took this long, in ms, is critical whatever its share.
CRITICAL_MS = 1000.0

#: So is one that takes this share of the database time that PlanWatch saw.
CRITICAL_SHARE = 0.2

#: A share says something only once there is this much time to have a share of, in ms.
MEANINGFUL_TOTAL_MS = 1000.0

_NO_SERVER = frozenset({SkipReason.CONNECTION_LOST, SkipReason.SERVER_UNAVAILABLE})


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
        if capture.parameters_too_large:
            raise ServerError(SkipReason.PARAMETERS_TOO_LARGE)
        if capture.error and (capture.error.sqlstate or "")[:2] == "42":
            raise ServerError(SkipReason.STATEMENT_INVALID, capture.error.name)
        query = Query(capture.text, capture.parameters, capture.escaped)
        refuse_several(query)
        plan = explain(self.session, query)
        schema = catalog.read_schema(self.session, plan)
        varying = self.structure.varying(statement_of(capture).fingerprint, plan)
        findings, dismissals, blocked = [], [], False
        for rule, suspicion in suspicions(plan, schema, varying):
            evidence = self._evidence(capture, query, plan, schema, suspicion, varying)
            result = rule.judge(suspicion, evidence)
            if isinstance(result, Hit):
                advised = self._advise(capture, query, plan, schema, result)
                if isinstance(advised, Declined):
                    result = Miss(suspicion, advised.reason, by_parameters=True)
                else:
                    finding = self._finding(capture, result, advised.advice)
                    blocked = blocked or advised.blocked
                    if not self._ignored(finding):
                        findings.append(finding)
            if isinstance(result, Miss):
                dismissals.append(_dismissal(result))
        findings.sort(key=lambda finding: (finding.severity.rank, -finding.evidence["table_rows"]))
        shown = plan if self.settings.show_parameters else scrub_plan(plan, varying)
        inspection = inspection_of(
            capture, plan=shown, findings=tuple(findings), dismissals=tuple(dismissals)
        )
        return Outcome(inspection, blocked)

    def _evidence(
        self,
        capture: Capture,
        query: Query,
        plan: Plan,
        schema: Schema,
        suspicion: Suspicion,
        varying: frozenset[str],
    ) -> Evidence:
        evidence = Evidence(
            plan=plan,
            schema=schema,
            statement=capture.text,
            min_rows=self.settings.min_rows,
            growth=self.settings.growth,
            duration_ms=capture.duration_ms,
            returned_rows=capture.returned_rows,
            show_values=self.settings.show_parameters,
            varying=varying,
        )
        if Need.SEQSCAN_OFF in suspicion.needs:
            forced = explain(self.session, query, seqscan=False)
            evidence = replace(evidence, seqscan_off=forced)
        if Need.PREDICATE_ALONE in suspicion.needs:
            try:
                alone = explain_predicate(self.session, suspicion)
            except ServerError as error:
                if error.reason in _NO_SERVER:
                    raise
                alone = None
            evidence = replace(evidence, alone=alone)
        return evidence

    def _advise(
        self, capture: Capture, query: Query, plan: Plan, schema: Schema, hit: Hit
    ) -> _Advised | Declined:
        if hit.suspicion.holds_value:
            return _Advised((rewrite_with_value(hit),))
        relation, expression = hit.suspicion.relation, hit.suspicion.subject
        facts = expressions.describe(self.session, relation, expression)
        mapped = self.mapped_table(capture, relation)
        if is_refused(facts):
            return _Advised((rewrite(hit, facts, mapped),))
        taken = catalog.index_names(self.session, relation.schema)
        index = candidate(relation, facts.text, schema, taken)
        try:
            proved = self._prove(query, index, plan, hit, facts)
        except whatif.NotImmutable:
            refused = replace(
                facts, volatility=Volatility.STABLE, reason="the server says it is not IMMUTABLE"
            )
            return _Advised((rewrite(hit, refused, mapped),))
        except whatif.Blocked:
            reason = "the table was locked, most likely by the request itself; one more try follows"
            return _Advised((_index_advice(index, mapped, _untested(reason)),), blocked=True)
        if isinstance(proved, Declined):
            return proved
        return _Advised((_index_advice(index, mapped, proved),))

    def _prove(
        self, query: Query, index: Candidate, plan: Plan, hit: Hit, facts: ExpressionFacts
    ) -> Verdict | Declined:
        if self.settings.verify == VERIFY_OFF:
            return _untested('PLANWATCH_VERIFY is "off"; "auto" or "build" would try the index')
        try:
            if self.settings.verify == VERIFY_BUILD:
                trial = whatif.try_by_building(self.session, query, index)
            else:
                trial = whatif.try_with_hypopg(self.session, query, index)
        except whatif.Untestable as untestable:
            reason = str(untestable)
            if facts.volatility is Volatility.UNKNOWN:
                reason = f"whether it may be indexed is not known ({facts.reason}), and {reason}"
            return _untested(reason)
        return verdict(trial, hit.suspicion, plan, small=hit.small)

    def _finding(self, capture: Capture, hit: Hit, advice: tuple[Advice, ...]) -> Finding:
        suspicion = hit.suspicion
        return Finding(
            rule=suspicion.rule,
            severity=_severity(capture, hit),
            statement=statement_of(capture),
            relation=suspicion.relation.display,
            subject=suspicion.shown,
            problem=hit.problem,
            evidence=hit.evidence,
            advice=advice,
            location=capture.location,
            endpoint=capture.endpoint,
            duration_ms=round(capture.duration_ms, 3),
            calls=capture.calls,
            error=capture.error,
        )

    def _ignored(self, finding: Finding) -> bool:
        return self.settings.ignores(finding.rule, finding.relation, finding.subject, finding.id)


@dataclass(frozen=True)
class _Advised:
    advice: tuple[Advice, ...]
    blocked: bool = False


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
                too_long = mask(text, keep_names=True) != text
                holds_value = too_long or mask(text) in varying
                found.append((rule, replace(suspicion, holds_value=holds_value)))
    return found


def statement_of(capture: Capture) -> Statement:
    """Return the captured statement without its values."""
    return Statement(
        fingerprint=fingerprint.fingerprint(capture.key, capture.bind),
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
    share = capture.total_ms / capture.all_total_ms if capture.all_total_ms else 0.0
    meaningful = capture.all_total_ms >= MEANINGFUL_TOTAL_MS
    if (
        capture.error is not None
        or capture.duration_ms >= CRITICAL_MS
        or (meaningful and share >= CRITICAL_SHARE)
    ):
        return Severity.CRITICAL
    return Severity.INFO if hit.small else Severity.WARNING


def _dismissal(miss: Miss) -> Dismissal:
    suspicion = miss.suspicion
    return Dismissal(
        rule=suspicion.rule,
        relation=suspicion.relation.display,
        subject=suspicion.shown,
        reason=miss.reason,
        by_parameters=miss.by_parameters,
    )


def _index_advice(index: Candidate, mapped: MappedTable | None, verdict_: Verdict) -> Advice:
    return Advice(
        kind=AdviceKind.CREATE_INDEX,
        summary="; ".join(index.ddl),
        verdict=verdict_,
        ddl=index.ddl,
        sqlalchemy=sqlalchemy_index(index, mapped),
        alembic=alembic_operation(index),
        explanation=(
            "Run ANALYZE on the table afterwards: an expression has no statistics before."
        ),
    )


def _untested(reason: str) -> Verdict:
    return Verdict(VerdictStatus.UNTESTED, reason)
