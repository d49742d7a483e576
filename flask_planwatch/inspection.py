"""What happens to one captured statement, on one screen: from its plan to its findings.

plan -> suspect -> evidence -> judge -> advise -> prove
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from . import fingerprint
from .advice.index import Candidate
from .advice.mapped import MappedTable
from .advice.proposal import Proposals
from .advice.verdict import Advised, Answer, Declined
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
    VerdictStatus,
)
from .plan.comparison import Comparison
from .plan.evidence import Evidence, Hit, Miss, Need, Suspicion
from .plan.schema import Relation, Schema
from .plan.scrub import holds_value, mask, scrub_plan
from .plan.structure import Structure
from .plan.tree import Node, Plan
from .plan.usage import served
from .remedies import REMEDIES
from .remedies.case import Case
from .rules import RULES, Rule
from .server import catalog
from .server.explain import Query, explain, own_type_query, predicate_query, refuse_several
from .server.session import NO_SERVER, ServerError, Session
from .settings import Settings

#: A statement that took this long, in ms, is critical whatever its share.
CRITICAL_MS = 1000.0

#: So is one that takes this share of the database time that PlanWatch saw.
CRITICAL_SHARE = 0.2

#: Plans whose advice is remembered; the one inspected longest ago goes first. Trying indexes is
#: the dearest part of an inspection, and a page that is loaded again has the same statements.
MAX_ANSWERS = 200

#: A single execution that took less, in ms, costs next to nothing: an index lookup with its way to
#: the server and back takes as long.
NEGLIGIBLE_MS = 1.0

#: A share says something only once there is this much time to have a share of, in ms.
MEANINGFUL_TOTAL_MS = 1000.0


@dataclass(frozen=True)
class Outcome:
    """An inspection, and whether a lock kept it from proving its advice this time."""

    inspection: Inspection
    blocked: bool = False


@dataclass(frozen=True)
class _Judged:
    """What became of the suspicions; `settled` are the rules that judged the whole statement."""

    hits: list[Hit]
    dismissals: list[Dismissal]
    settled: frozenset[str]

    def settle(self, result: Hit | Miss) -> _Judged:
        """Add the rule of a whole statement's suspicion, unless other values may change it."""
        if isinstance(result, Miss) and result.by_parameters:
            return self
        return replace(self, settled=self.settled | {result.suspicion.rule})


@dataclass(frozen=True)
class Inspector:
    """Inspects captures of one app and engine.

    `mapped_table` tells how the app's code names a table. It must not touch the database.
    """

    settings: Settings
    session: Session
    mapped_table: Callable[[Capture, Relation], MappedTable | None]
    proposals: Proposals
    structure: Structure = field(default_factory=Structure)
    answers: OrderedDict[Hashable, tuple[list[Answer], list[Candidate]]] = field(
        default_factory=OrderedDict
    )

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
        judged = self._judge(query, evidence, suspicions(plan, schema, varying))
        hits, dismissals = judged.hits, judged.dismissals
        drafts = {id(hit): _finding(capture, hit) for hit in hits}
        hits = [hit for hit in hits if not self._ignored(drafts[id(hit)])]
        case = Case(
            session=self.session,
            verify=self.settings.verify,
            show_values=self.settings.show_parameters,
            query=query,
            evidence=evidence,
            mapped=partial(self.mapped_table, capture),
            varying=varying,
        )
        adviser = Adviser(case, self.proposals.others(origin))
        findings, blocked = [], False
        for hit, answer in self._answers(adviser, hits):
            if isinstance(answer, Declined):
                dismissals.append(_declined(hit, answer))
                continue
            blocked = blocked or answer.blocked
            draft = drafts[id(hit)]
            problem = " ".join(
                filter(None, [draft.problem, _basis(capture, hit, schema), answer.remark])
            )
            findings.append(replace(draft, problem=problem, advice=answer.advice))
        self.proposals.keep(origin, adviser.chosen)
        findings.sort(key=lambda finding: (finding.severity.rank, -finding.table_rows))
        inspection = inspection_of(
            capture,
            plan=plan if self.settings.show_parameters else scrub_plan(plan, varying),
            findings=tuple(findings),
            dismissals=tuple(dismissals),
            served=served(plan, schema),
            judged=judged.settled,
        )
        return Outcome(inspection, blocked)

    def _answers(self, adviser: Adviser, hits: list[Hit]) -> Iterator[tuple[Hit, Answer]]:
        """Yield the hits with what to do; what was tried on the same plan is not tried again."""
        others = [hit for hit in hits if hit.remedy in REMEDIES]
        yield from ((hit, self._remedied(adviser.case, hit)) for hit in others)
        hits = [hit for hit in hits if hit.remedy not in REMEDIES]
        yield from zip(hits, self._indexed(adviser, hits), strict=True)

    def _remedied(self, case: Case, hit: Hit) -> Answer:
        """Return what a remedy of its own says of a hit."""
        key = (hit.suspicion.identity, case.query.text, case.plan.as_text(), case.schema.text)
        known = self.answers.get(key)
        if known is not None:
            return known[0][0]
        answer = REMEDIES[hit.remedy](case, hit)
        if not _is_untested(answer):
            self._remember(key, [answer], [])
        return answer

    def _indexed(self, adviser: Adviser, hits: list[Hit]) -> list[Answer]:
        """Return the advice on the hits that share one set of indexes."""
        case = adviser.case
        about = [
            (
                hit.suspicion.identity,
                hit.suspicion.holds_value,
                hit.small,
                hit.most_pass,
                hit.doubt is None,
                repr(case.mapped(hit.suspicion.relation)),
            )
            for hit in hits
        ]
        plan, schema = case.plan.as_text(), case.schema.text
        known = frozenset(
            one for one in adviser.proposed if one.relation.key in case.schema.relations
        )
        key = (case.query.text, plan, schema, tuple(about), case.varying, known)
        if key not in self.answers:
            answers = adviser.advise(hits)
            if not adviser.tried or any(map(_is_untested, answers)):
                return answers
            self._remember(key, answers, adviser.chosen)
        answers, adviser.chosen = self.answers[key]
        self.answers.move_to_end(key)
        return answers

    def _remember(self, key: Hashable, answers: list[Answer], chosen: list[Candidate]) -> None:
        self.answers[key] = (answers, chosen)
        while len(self.answers) > MAX_ANSWERS:
            self.answers.popitem(last=False)

    def _judge(
        self, query: Query, evidence: Evidence, suspected: list[tuple[Rule, Suspicion]]
    ) -> _Judged:
        """Return what the evidence confirms, and what it does not.

        A predicate belongs to the first rule that does not call it another's.
        """
        judged = _Judged([], [], frozenset())
        claimed: set[tuple[str, str]] = set()
        taken: set[Node] = set()
        for rule, suspicion in suspected:
            if suspicion.predicate in claimed or (taken and taken.issuperset(suspicion.scans)):
                continue
            evidence = self._gather(evidence, query, suspicion)
            result = rule.judge(suspicion, evidence)
            if isinstance(result, Miss) and result.foreign:
                continue
            if suspicion.whole:
                judged = judged.settle(result)
            else:
                claimed.add(suspicion.predicate)
            if isinstance(result, Miss):
                judged.dismissals.append(_dismissal(result))
                continue
            judged.hits.append(result)
            if result.suspicion.exclusive:
                taken.update(result.suspicion.scans)
        return judged

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
        alone = own_type = None
        if Need.PREDICATE_ALONE in suspicion.needs:
            alone = self._explain_alone(predicate_query(suspicion))
        if Need.OWN_TYPE in suspicion.needs:
            own_type = self._explain_alone(own_type_query(suspicion))
        return replace(evidence, seqscan_off=forced, alone=alone, own_type=own_type)

    def _explain_alone(self, query: Query) -> Plan | None:
        """Return the plan of a predicate alone, None if the server cannot plan it that way."""
        try:
            return explain(self.session, query, seqscan=False)
        except ServerError as error:
            if error.reason in NO_SERVER:
                raise
            return None

    def _ignored(self, finding: Finding) -> bool:
        return self.settings.ignores(finding.rule, finding.relation, finding.subject, finding.id)


def _is_untested(answer: Answer) -> bool:
    """Whether another try may tell more: what was missing or in the way may be there by then."""
    return isinstance(answer, Advised) and any(
        advice.verdict.status is VerdictStatus.UNTESTED for advice in answer.advice
    )


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
        keys=tuple(mask(key, keep_names=not suspicion.holds_value) for key in suspicion.keys),
        scanned=suspicion.scanned,
        table_rows=hit.rows,
        location=capture.location,
        endpoint=capture.endpoint,
        duration_ms=round(capture.duration_ms, 3),
        calls=capture.calls,
        error=capture.error,
    )


def suspicions(plan: Plan, schema: Schema, varying: frozenset[str]) -> list[tuple[Rule, Suspicion]]:
    """Return what the rules suspect, in the order of their precedence."""
    found = []
    for rule in RULES:
        for suspicion in rule.suspect(plan, schema):
            texts = [one.operand.text for one in suspicion.comparisons if _is_expression(one)]
            unsafe = any(holds_value(text) or mask(text) in varying for text in texts)
            found.append((rule, replace(suspicion, holds_value=unsafe)))
    return found


def _is_expression(comparison: Comparison) -> bool:
    """Whether the operand is what an index would hold, and no plain column."""
    return comparison.operator != "" and comparison.column is None


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
    served: frozenset[tuple[str, str]] = frozenset(),
    judged: frozenset[str] = frozenset(),
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
        skip=skip,
        location=capture.location,
        endpoint=capture.endpoint,
        error=capture.error,
    )


def _severity(capture: Capture, hit: Hit) -> Severity:
    failed = capture.error is not None and capture.error.means_load
    if failed or capture.duration_ms >= CRITICAL_MS:
        return Severity.CRITICAL
    if hit.small:
        return Severity.INFO
    enough = capture.all_total_ms >= MEANINGFUL_TOTAL_MS
    if enough and capture.total_ms / capture.all_total_ms >= CRITICAL_SHARE:
        return Severity.CRITICAL
    if capture.duration_ms < NEGLIGIBLE_MS and not enough:
        return Severity.INFO
    return Severity.WARNING


def _basis(capture: Capture, hit: Hit, schema: Schema) -> str:
    """Return what a finding rests on: executions, elapsed time, and how far rows are known."""
    times = "once" if capture.calls == 1 else f"{capture.calls:,} times"
    said = [f"It ran {times} so far, and took {capture.duration_ms:,.1f} ms this time"]
    leaves = schema.leaves(hit.suspicion.relation)
    if hit.suspicion.relation.key and not any(leaf.has_statistics for leaf in leaves):
        said.append("the table was never analysed, so that its rows are a guess")
    return f"{'; '.join(said)}."


def _declined(hit: Hit, declined: Declined) -> Dismissal:
    miss = Miss(hit.suspicion, declined.reason, declined.by_parameters)
    return replace(_dismissal(miss), rejected=declined.rejected)


def _dismissal(miss: Miss) -> Dismissal:
    suspicion = miss.suspicion
    return Dismissal(
        rule=suspicion.rule,
        relation=suspicion.relation.display,
        subject=suspicion.shown,
        reason=miss.reason,
        by_parameters=miss.by_parameters,
    )
