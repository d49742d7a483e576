"""What happens to one captured statement, on one screen: from its plan to its findings.

plan -> suspect -> evidence -> judge -> advise -> prove
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from .advice.index import Candidate
from .advice.mapped import MappedTable
from .advice.proposal import Proposals
from .advice.verdict import Advised, Answer, Declined
from .advising import Adviser
from .capture import Capture
from .describing import (
    basis_of,
    dismissal_of,
    failures_of,
    finding_of,
    inspection_of,
    rejection_of,
    statement_of,
    with_others,
)
from .detail import Detail, detail_of
from .finding import (
    Dismissal,
    Finding,
    Inspection,
    Skip,
    SkipReason,
    VerdictStatus,
)
from .pace import Pace
from .pause import give_way
from .plan.comparison import Comparison
from .plan.evidence import Evidence, Hit, Miss, Need, Prepared, Suspicion, Timings
from .plan.memory import forget_plans
from .plan.predicate import conjuncts, is_too_long
from .plan.schema import Relation, Schema
from .plan.scrub import holds_value, mask, scrub_plan
from .plan.structure import Structure
from .plan.tree import Node, Plan
from .plan.usage import served
from .remedies import REMEDIES
from .remedies.case import Case
from .room import LEARNT, Latest
from .rules import RULES, Rule
from .server.adoption import refuse_hidden
from .server.analyse import analyse
from .server.catalog import Catalog
from .server.explain import Query, explain, own_type_query, predicate_query
from .server.policies import refuse_row_security
from .server.prepared import prepared
from .server.refusals import Refusals
from .server.session import Session
from .server.transaction import NO_SERVER, ServerError
from .settings import Settings
from .standing import Conclusion, Conclusions, circumstances

#: Plans whose advice is remembered; the one needed longest ago goes first. Trying indexes is
#: the dearest part of an inspection, and a page that is loaded again has the same statements.
MAX_ANSWERS = 200


#: Words of all different conditions of a plan. As long as the inspection goes on, each takes about
#: a kB once it is read, which takes some 0.1 ms.
MAX_WORDS = 12_000


@dataclass(frozen=True)
class Outcome:
    """An inspection, and why another try may tell more.

    `blocked`: a lock kept it from proving its advice; `no_server`: the server did not answer.
    `detail` is for the panel of the request alone.
    """

    inspection: Inspection
    detail: Detail | None = None
    blocked: bool = False
    no_server: bool = False


@dataclass(frozen=True)
class _Judged:
    """What became of the suspicions, and the evidence that was gathered for them.

    `settled` are the rules that judged the whole statement.
    """

    hits: list[Hit]
    dismissals: list[Dismissal]
    settled: frozenset[str]
    evidence: Evidence

    def settle(self, result: Hit | Miss) -> _Judged:
        """Add the rule of a whole statement's suspicion, unless other values may change it."""
        if isinstance(result, Miss) and result.by_parameters:
            return self
        return replace(self, settled=self.settled | {result.suspicion.rule})


class _Further:
    """The plans that rules ask for beside the first, each fetched once.

    `unanswered` collects why one could not be had.
    """

    def __init__(self, inspector: Inspector, capture: Capture, query: Query) -> None:
        self.unanswered: list[Skip] = []
        self._inspector = inspector
        self._session = inspector.session
        self._capture = capture
        self._query = query
        self._asked: set[Need] = set()

    def gather(self, evidence: Evidence, suspicion: Suspicion) -> Evidence:
        """Add the plans that a suspicion needs; those of the statement stay for later ones."""
        new = suspicion.needs - self._asked
        self._asked |= new
        if Need.SEQSCAN_OFF in new:
            forced = explain(self._session, self._query, seqscan=False)
            evidence = replace(evidence, seqscan_off=forced)
        if Need.PREPARED in new:
            evidence = replace(evidence, prepared=self._prepared(evidence.plan))
        if Need.ANALYSED in new:
            evidence = self._with_analysed(evidence)
        alone = own_type = None
        if Need.PREDICATE_ALONE in suspicion.needs:
            alone = self._explain_alone(predicate_query(suspicion))
        if Need.OWN_TYPE in suspicion.needs:
            own_type = self._explain_alone(own_type_query(suspicion))
        return replace(evidence, alone=alone, own_type=own_type)

    def _prepared(self, plan: Plan) -> Prepared | None:
        """Return what happens once the statement is prepared, None if its driver does not."""
        preparation = self._capture.preparation
        if preparation is None or not self._query.parameters:
            return None
        if not preparation.reached:
            threshold, why = preparation.threshold, preparation.why
            return Prepared(threshold, plan, (), (), 0.0, reached=False, why=why)
        try:
            with self._heeded(f"generic plan: {self._query.text}"):
                return prepared(self._session, self._query, plan, preparation)
        except ServerError as error:
            self._no_answer(error, SkipReason.GENERIC_PLAN_UNKNOWN)
            return None

    def _with_analysed(self, evidence: Evidence) -> Evidence:
        """Add the plan as it really ran, or why it was not run; neither if that is not wanted."""
        if not self._inspector.settings.analyze or self._capture.error is not None:
            return evidence
        try:
            if not self._inspector.may_analyse():
                raise ServerError(SkipReason.NOT_ANALYSED, "the budget for that is used up")
            took_ms = self._capture.duration_ms
            analysed = analyse(self._session, self._query, evidence.plan, took_ms=took_ms)
            return replace(evidence, analysed=analysed)
        except ServerError as error:
            self._no_answer(error, SkipReason.NOT_ANALYSED)
            return replace(evidence, not_analysed=str(error))

    def _heeded(self, text: str) -> AbstractContextManager[None]:
        return self._inspector.refusals.heeded(text, self._capture.state)

    def _no_answer(self, error: ServerError, reason: SkipReason) -> None:
        if error.reason in NO_SERVER:
            raise error
        self.unanswered.append(Skip(reason, error.detail))

    def _explain_alone(self, query: Query) -> Plan | None:
        """Return the plan of a predicate alone, None if the server cannot plan it that way."""
        try:
            with self._heeded(query.text):
                return explain(self._session, query, seqscan=False)
        except ServerError as error:
            if error.reason in NO_SERVER:
                raise
            return None


@dataclass(eq=False)
class Inspector:
    """Inspects captures of one app and engine.

    `mapped_table` tells how the app's code names a table. It must not touch the database.
    `may_analyse` takes one from the budget for EXPLAIN ANALYZE.
    """

    settings: Settings
    session: Session
    mapped_table: Callable[[Capture, Relation], MappedTable | None]
    proposals: Proposals
    pace: Pace
    may_analyse: Callable[[], bool]
    catalog: Catalog
    conclusions: Conclusions
    refusals: Refusals
    structure: Structure = field(default_factory=Structure)
    answers: Latest[Hashable, tuple[list[Answer], list[Candidate]]] = field(
        default_factory=lambda: Latest(LEARNT, MAX_ANSWERS)
    )
    _forgotten: bool = field(default=False, init=False)

    def forget(self) -> None:
        """Try all advice anew from the next inspection on. Safe to call from any thread.

        Which constants have changed stays known: what was seen to be a value is never shown again.
        """
        self._forgotten = True

    def inspect(self, capture: Capture) -> Outcome:
        """Return the outcome for a capture; a Skip if the server could not explain it.

        Raises nothing that the server, the connection or the plan may cause.
        """
        try:
            return self._inspect(capture)
        except ServerError as error:
            skip = Skip(error.reason, error.detail)
            findings = tuple(failures_of(capture, skip))
            inspection = inspection_of(capture, skip=skip, findings=findings)
            return Outcome(inspection, no_server=error.reason in NO_SERVER)
        finally:
            forget_plans()

    def _inspect(self, capture: Capture) -> Outcome:
        if self._forgotten:
            self._forgotten = False
            self.answers.clear()
        query = _query(capture)
        refuse_hidden(query.text, capture.state)
        self.session.plan_like(capture.state)
        with self.refusals.heeded(query.text, capture.state):
            plan = explain(self.session, query)
        _refuse_long(plan)
        schemas = self._schemas(capture, plan)
        # Before anything is learnt of the plan: it may be refused.
        first = next(schemas)
        for node in plan.nodes:
            for _, condition in node.conditions:
                if is_too_long(condition):
                    raise ServerError(SkipReason.STATEMENT_TOO_LARGE)
                # What is read here is remembered by all that follows.
                conjuncts(condition)
                give_way()
        # Two lines of code may use one statement with a key of their own each.
        origin = f"{statement_of(capture).fingerprint} {capture.location}"
        varying = self.structure.varying(origin, plan)
        give_way()
        timings = self._timings(capture, plan)
        proposed = self.proposals.others(origin)
        for schema in chain([first], schemas):
            give_way()
            evidence = self._evidence(capture, plan, schema, varying, timings)
            give_way()
            now = circumstances(capture, evidence, proposed)
            give_way()
            conclusion = self.conclusions.standing(origin, now)
            if conclusion is not None:
                break
        else:
            conclusion = self._conclude(capture, query, evidence, proposed)
            self.conclusions.keep(origin, now, conclusion)
        give_way()
        self.proposals.keep(origin, conclusion.chosen)
        outcome = self._outcome(capture, evidence, conclusion)
        return replace(outcome, detail=self._detail(query, plan)) if capture.shown else outcome

    def _schemas(self, capture: Capture, plan: Plan) -> Iterator[Schema]:
        """Yield what a plan's relations are: as they were a moment ago, then as they are now.

        For a conclusion that stands, the first is near enough. Without an interval, somebody waits
        to see what a change has brought about, and the server is asked each time; it is at once
        where nothing can stand.
        """
        may_stand = not capture.urgent and capture.error is None
        if may_stand and self.settings.sample_interval > 0:
            earlier = self.catalog.remembered(plan)
            if earlier is not None:
                yield self._readable(earlier)
        yield self._readable(self.catalog.schema(plan))

    def _readable(self, schema: Schema) -> Schema:
        """Return a schema; raises ServerError if rows of it are hidden from PlanWatch's role."""
        if self.session.other_role:
            refuse_row_security(self.session, schema.relations)
        return schema

    def _conclude(
        self, capture: Capture, query: Query, evidence: Evidence, proposed: Sequence[Candidate]
    ) -> Conclusion:
        """Return what the rules say of a plan, with what to do about it."""
        plan, schema, varying = evidence.plan, evidence.schema, evidence.varying
        further = _Further(self, capture, query)
        suspected = suspicions(plan, schema, varying)
        judged = self._judge(further, evidence, suspected)
        dismissals = judged.dismissals
        hits = [hit for hit in judged.hits if not self._ignored(finding_of(capture, hit))]
        case = Case(
            session=self.session,
            verify=self.settings.verify,
            show_values=self.settings.show_parameters,
            query=query,
            evidence=judged.evidence,
            mapped=self._mapped(capture),
            varying=varying,
        )
        adviser = Adviser(case, proposed)
        advised = []
        for hit, answer in self._answers(adviser, hits):
            if isinstance(answer, Declined):
                dismissals.append(rejection_of(hit, answer))
            else:
                advised.append((hit, answer))
        return Conclusion(
            advised=tuple(advised),
            dismissals=tuple(dismissals),
            settled=judged.settled,
            chosen=tuple(adviser.chosen),
            served=served(plan, schema),
            unanswered=tuple(further.unanswered),
            tried=bool(hits),
            blocked=any(answer.blocked for _, answer in advised),
            analysed=judged.evidence.analysed is not None,
            general=not any(one.comparisons for _, one in suspected)
            and not judged.hits
            and all(map(_has_only_columns, schema.relations.values())),
        )

    def _mapped(self, capture: Capture) -> Callable[[Relation], MappedTable | None]:
        """Return how the app names a relation; for one capture it is looked up once."""
        known: dict[str, MappedTable | None] = {}

        def mapped(relation: Relation) -> MappedTable | None:
            if relation.key not in known:
                known[relation.key] = self.mapped_table(capture, relation)
            return known[relation.key]

        return mapped

    def _outcome(self, capture: Capture, evidence: Evidence, conclusion: Conclusion) -> Outcome:
        """Return a conclusion with what this execution took."""
        plan, schema, varying = evidence.plan, evidence.schema, evidence.varying
        findings = []
        for hit, answer in conclusion.advised:
            draft = finding_of(capture, hit)
            said = [draft.problem, basis_of(capture, hit, schema), answer.remark]
            problem = " ".join(filter(None, said))
            findings.append(replace(draft, problem=problem, advice=answer.advice))
        findings = [with_others(finding, findings) for finding in findings]
        findings.sort(key=lambda one: (one.severity.rank, not one.advice, -one.table_rows))
        give_way()
        shown = plan if self.settings.show_parameters else scrub_plan(plan, varying)
        give_way()
        inspection = inspection_of(
            capture,
            plan=shown,
            findings=tuple(findings),
            dismissals=conclusion.dismissals,
            served=conclusion.served,
            judged=conclusion.settled,
            unanswered=conclusion.unanswered,
        )
        return Outcome(inspection, blocked=conclusion.blocked)

    def _detail(self, query: Query, plan: Plan) -> Detail | None:
        """Return the statement and its plan with their values."""
        try:
            with self.session.transaction() as transaction:
                written = query.written(transaction)
        except ServerError:
            written = ""
        give_way()
        return detail_of(written, plan)

    def _answers(self, adviser: Adviser, hits: list[Hit]) -> Iterator[tuple[Hit, Answer]]:
        """Yield the hits with what to do; what was tried on the same plan is not tried again."""
        others = [hit for hit in hits if hit.remedy in REMEDIES]
        yield from ((hit, self._remedied(adviser.case, hit)) for hit in others)
        give_way()
        hits = [hit for hit in hits if hit.remedy not in REMEDIES]
        yield from zip(hits, self._indexed(adviser, hits), strict=True)

    def _remedied(self, case: Case, hit: Hit) -> Answer:
        """Return what a remedy of its own says of a hit."""
        about = (hit.remedy, hit.suspicion.identity, case.varying)
        key = (about, _digest(case))
        known = self.answers.get(key)
        if known is not None:
            return known[0][0]
        answer = REMEDIES[hit.remedy](case, hit)
        if not _is_untested(answer):
            self.answers.keep(key, ([answer], []))
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
        known = frozenset(
            one for one in adviser.proposed if one.relation.key in case.schema.relations
        )
        key = (_digest(case), tuple(about), case.varying, known)
        known_answers = self.answers.get(key)
        if known_answers is not None:
            answers, adviser.chosen = known_answers
            return answers
        answers = adviser.advise(hits)
        if adviser.tried and not any(map(_is_untested, answers)):
            self.answers.keep(key, (answers, adviser.chosen))
        return answers

    def _judge(
        self, further: _Further, evidence: Evidence, suspected: list[tuple[Rule, Suspicion]]
    ) -> _Judged:
        """Return what the evidence confirms, and what it does not.

        A predicate belongs to the first rule that does not call it another's.
        """
        judged = _Judged([], [], frozenset(), evidence)
        claimed: set[tuple[str, str]] = set()
        taken: set[Node] = set()
        for rule, suspicion in suspected:
            give_way()
            if suspicion.predicate in claimed:
                continue
            if suspicion.scans and taken.issuperset(suspicion.scans):
                reason = "another finding explains how these rows are read"
                judged.dismissals.append(dismissal_of(Miss(suspicion, reason)))
                continue
            evidence = further.gather(evidence, suspicion)
            result = rule.judge(suspicion, evidence)
            if isinstance(result, Miss) and result.foreign:
                continue
            if suspicion.whole:
                judged = judged.settle(result)
            else:
                claimed.add(suspicion.predicate)
            if isinstance(result, Miss):
                judged.dismissals.extend([] if result.quiet else [dismissal_of(result)])
                continue
            judged.hits.append(result)
            if result.suspicion.exclusive:
                taken.update(result.suspicion.scans)
        return replace(judged, evidence=evidence)

    def _evidence(
        self,
        capture: Capture,
        plan: Plan,
        schema: Schema,
        varying: frozenset[str],
        timings: Timings,
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
            timings=timings,
            client_side=capture.client_side,
            error=capture.error,
            show_values=self.settings.show_parameters,
            varying=varying,
            analysable_ms=self.session.statement_timeout_ms,
            executions=_executions(capture),
        )

    def _timings(self, capture: Capture, plan: Plan) -> Timings:
        """Return how long the statement took, and learn from it what is normal."""
        identity = statement_of(capture).fingerprint
        timings = Timings(_recent(capture), self.session.round_trip_ms, self.pace.normal(identity))
        spent = timings.spent_ms(plan, capture.returned_rows)
        if spent is not None and capture.client_side and plan.only_reads:
            self.pace.record(identity, spent / plan.total_cost)
        return timings

    def _ignored(self, finding: Finding) -> bool:
        return self.settings.ignores(finding.rule, finding.relation, finding.subject, finding.id)


def _recent(capture: Capture) -> tuple[float, ...]:
    """Return the latest executions, in ms, and the captured one, which may be an earlier one.

    Others with other parameters may have other plans: the plan is that of the captured one.
    """
    recent = capture.tally.recent
    known = capture.error is not None or capture.duration_ms in recent
    return recent if known else (capture.duration_ms, *recent)


def _executions(capture: Capture) -> int:
    """Return the most executions on one connection, 0 if no generic plan can be made of them."""
    return capture.preparation.most if capture.preparation and capture.parameters else 0


def _digest(case: Case) -> bytes:
    """Return what stands for statement, plan and tables: the plan may be long, and holds values."""
    parts = (case.query.text, case.plan.as_text(), case.schema.text)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "backslashreplace")).digest()


def _is_untested(answer: Answer) -> bool:
    """Whether another try may tell more: what was missing or in the way may be there by then."""
    return isinstance(answer, Advised) and any(
        advice.verdict.status is VerdictStatus.UNTESTED for advice in answer.advice
    )


def _query(capture: Capture) -> Query:
    """Return what to explain; raises ServerError for what must not be sent again."""
    if capture.left_out is not None:
        raise ServerError(capture.left_out)
    if capture.error and (capture.error.sqlstate or "")[:2] == "42":
        raise ServerError(SkipReason.STATEMENT_INVALID, capture.error.name)
    accepted = capture.error is None
    return Query(capture.text, capture.parameters, capture.escaped, accepted)


def _refuse_long(plan: Plan) -> None:
    """Raise ServerError if the conditions of a plan have more words than PlanWatch reads."""
    conditions = {text for node in plan.nodes for _, text in node.conditions}
    if sum(text.count(" ") + 1 for text in conditions) > MAX_WORDS:
        raise ServerError(SkipReason.PLAN_TOO_LARGE)


def suspicions(plan: Plan, schema: Schema, varying: frozenset[str]) -> list[tuple[Rule, Suspicion]]:
    """Return what the rules suspect, in the order of their precedence."""
    found = []
    for rule in RULES:
        give_way()
        for suspicion in rule.suspect(plan, schema):
            texts = [one.operand.text for one in suspicion.comparisons if _is_expression(one)]
            unsafe = any(holds_value(text) or mask(text) in varying for text in texts)
            unsafe = unsafe or any(mask(key) in varying for key in suspicion.keys)
            found.append((rule, replace(suspicion, holds_value=unsafe)))
    return found


def _has_only_columns(relation: Relation) -> bool:
    """Whether no index of a relation holds an expression or some of its rows only."""
    columns = {column.name for column in relation.columns}
    return all(
        index.predicate is None and columns.issuperset(index.keys) for index in relation.indexes
    )


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
