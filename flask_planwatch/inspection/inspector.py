"""One captured statement, from its plan to its findings. `Inspector._inspect` shows the steps.

plan -> suspect -> evidence -> judge -> advise -> prove
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial

from ..capture.execution import Capture
from ..capture.written import MAX_WRITTEN
from ..failure import ServerError
from ..finding import Finding, Inspection, Skip
from ..fixes.answers import Answers
from ..fixes.case import Case
from ..indexes.candidate import Candidate
from ..indexes.mapped import MappedTable
from ..indexes.proposal import replacing
from ..plan.constants import SeenConstants
from ..plan.evidence import Evidence, Hit
from ..plan.memory import forget_plans
from ..plan.schema import Relation
from ..plan.scrub import scrub_plan
from ..plan.tree import Plan
from ..runtime.bounded import LEARNT, RecentlyUsed
from ..runtime.pause import give_way
from ..server.connecting.adoption import commands_before
from ..server.explain import Query
from ..server.session import Session
from ..server.transaction import NO_SERVER
from ..settings import Settings
from .calibration import CostCalibration
from .detail import Detail, Preparable, detail_of
from .findings import (
    SavedByOthers,
    failures_of,
    finding_of,
    findings_of,
    inspection_of,
    statement_of,
)
from .gathering import Gathering
from .judging import judge, suspicions
from .known import Knowledge
from .planning import Planner, query_of
from .preparable import preparable
from .result import Result, result_of

#: Statements whose form without values is remembered, as many as there are findings. Each saves a
#: query and 1.2 ms of an inspection, in debug mode.
MAX_PREPARABLE = 1000


@dataclass(frozen=True)
class Outcome:
    """An inspection, and why it is worth another try.

    `blocked`: a lock kept it from proving its advice. `no_server`: the server did not answer.
    `detail` is only for the panel of the request.
    """

    inspection: Inspection
    detail: Detail | None = None
    blocked: bool = False
    no_server: bool = False


class Inspector:
    """Inspects captures of one app and engine.

    `mapped_table` returns how the app's code names a table, and must not touch the database.
    `may_analyse` takes one run from the budget for EXPLAIN ANALYZE. `saved_by_others` returns what
    other statements save by the same advice, in ms.
    """

    def __init__(
        self,
        settings: Settings,
        session: Session,
        calibration: CostCalibration,
        mapped_table: Callable[[Capture, Relation], MappedTable | None],
        may_analyse: Callable[[], bool],
        saved_by_others: SavedByOthers = lambda group, fingerprint: 0.0,
    ) -> None:
        self.settings = settings
        self.session = session
        self.mapped_table = mapped_table
        self.may_analyse = may_analyse
        self.saved_by_others = saved_by_others
        self.calibration = calibration
        self.constants = SeenConstants()
        self._start_anew()

    def inspect(self, capture: Capture) -> Outcome:
        """Return the outcome for a capture; a Skip if the server could not explain it.

        Raises nothing that the server, the connection or the plan may cause.
        """
        if self._forgotten:
            self._start_anew()
        try:
            return self._inspect(capture)
        except ServerError as error:
            skip = Skip(error.reason, error.detail)
            return self.skip(capture, skip, tuple(failures_of(capture, skip)))
        finally:
            forget_plans()

    def _inspect(self, capture: Capture) -> Outcome:
        query = query_of(capture)
        plan = self.planner.plan(capture, query)
        known = self.knowledge.look_up(capture, plan)
        result = known.result
        if result is None:
            suspected = suspicions(plan, known.evidence.schema, known.evidence.varying)
            gathering = self._gathering(capture, query)
            judged = judge(suspected, known.evidence, gathering.gather)
            hits = [hit for hit in judged.hits if not self._ignores(capture, hit)]
            case = self._case(capture, query, judged.evidence, known.proposed)
            # Each answer is advice with its proof, or why nothing is advised.
            answered = self.answers.on(case, hits)
            result = result_of(judged, answered, gathering.unanswered)
        self.knowledge.keep(capture, known, result)
        return self._outcome(capture, query, known.evidence, result)

    def skip(self, capture: Capture, skip: Skip, findings: tuple[Finding, ...] = ()) -> Outcome:
        """Return the outcome for a capture that was not planned."""
        inspection = replace(inspection_of(capture), skip=skip, findings=findings)
        return Outcome(inspection, no_server=skip.reason in NO_SERVER)

    def fingerprint(self, capture: Capture) -> str:
        """Return the identity of a captured statement."""
        return statement_of(capture).fingerprint

    def preparable(self, fingerprint: str) -> Preparable | None:
        """Return how a statement is copied without its values. Safe to call from any thread."""
        known = self._preparable.get(fingerprint)
        return None if known is None else known[1]

    def forget(self) -> None:
        """Forget all that is remembered before the next inspection. Safe to call from any thread.

        What is kept: which constants have changed, as what was seen to be a value is never shown
        again, and the calibration of costs, which is about the machine and not about a plan.
        """
        self._preparable.clear()
        self._forgotten = True

    def _start_anew(self) -> None:
        self._forgotten = False
        self.planner = Planner(self.session)
        self.knowledge = Knowledge(self.settings, self.session, self.calibration, self.constants)
        self.answers = Answers()
        #: How statements are copied without their values, by fingerprint, with the hash of the
        #: text. It is filled in debug mode only: the constants of the texts are in it.
        self._preparable: RecentlyUsed[str, tuple[int, Preparable]] = RecentlyUsed(
            LEARNT, MAX_PREPARABLE
        )
        self.session.literal_only.clear()

    def _gathering(self, capture: Capture, query: Query) -> Gathering:
        return Gathering(
            self.session,
            capture,
            query,
            self.planner.refusals,
            self.settings.analyze,
            self.may_analyse,
        )

    def _case(
        self,
        capture: Capture,
        query: Query,
        evidence: Evidence,
        proposed: tuple[Candidate, ...],
    ) -> Case:
        return Case(
            session=self.session,
            verify=self.settings.verify,
            show_values=self.settings.show_parameters,
            query=query,
            evidence=evidence,
            # Fixes ask for a table 8 to 19 times; to find it takes 0.3 ms.
            mapped=cache(partial(self.mapped_table, capture)),
            varying=evidence.varying,
            proposed=proposed,
        )

    def _ignores(self, capture: Capture, hit: Hit) -> bool:
        """Whether PLANWATCH_IGNORE names what a hit would be reported as."""
        finding, table = finding_of(capture, hit), hit.suspicion.relation
        # With its schema also where the search path finds it: an entry may name both.
        schema = table.schema.replace('"', '""')
        relation = f'"{schema}".{table.quoted_name}' if schema else finding.relation
        return self.settings.ignores(finding.rule, relation, finding.subject, finding.id)

    def _outcome(
        self, capture: Capture, query: Query, evidence: Evidence, result: Result
    ) -> Outcome:
        """Return what is reported of a result, and what the panel of the request shows."""
        inspection = self._inspection(capture, evidence, self._with_replaced(result))
        detail = self._detail(query, evidence.plan) if capture.shown else None
        is_complete = detail is not None and 0 < len(detail.statement) <= MAX_WRITTEN
        if capture.listed and (inspection.findings or not is_complete):
            self._prepare(capture, query)
        return Outcome(inspection, detail, blocked=result.blocked)

    def _inspection(self, capture: Capture, evidence: Evidence, result: Result) -> Inspection:
        """Return a result with what this execution took, without values."""
        findings = findings_of(capture, result.advised, evidence, self.saved_by_others)
        give_way()
        plan = evidence.plan
        shown = plan if self.settings.show_parameters else scrub_plan(plan, evidence.varying)
        give_way()
        return replace(
            inspection_of(capture),
            plan=shown,
            findings=findings,
            dismissals=result.dismissals,
            served=result.served,
            judged=result.settled,
            unanswered=result.unanswered,
            indexes=evidence.schema.index_mark,
        )

    def _prepare(self, capture: Capture, query: Query) -> None:
        """Remember how to copy a statement without its values."""
        # In another schema, psql has to run something else first.
        fingerprint, text = self.fingerprint(capture), hash((query.text, capture.state.rights))
        known = self._preparable.get(fingerprint)
        if known is not None and known[0] == text:
            return
        names = capture.preparation.names if capture.preparation else None
        with suppress(ServerError):
            form = preparable(self.session, query, self.session.driver, names)
            form = replace(form, settings=self._commands_before())
            self._preparable.keep(fingerprint, (text, form))
        give_way()

    def _with_replaced(self, result: Result) -> Result:
        """Return a result whose advice says which of the indexes proposed so far it replaces."""
        advised = []
        for hit, answer in result.advised:
            names = {
                id(advice): self.knowledge.proposals.replaced_by(index)
                for index, advice in answer.proposed.items()
            }
            replaced = tuple(
                replacing(advice, names.get(id(advice), ())) for advice in answer.advice
            )
            advised.append((hit, replace(answer, advice=replaced)))
        return replace(result, advised=tuple(advised))

    def _detail(self, query: Query, plan: Plan) -> Detail | None:
        """Return the statement and its plan with their values."""
        written = ""
        with suppress(ServerError), self.session.transaction() as transaction:
            written = query.written(transaction)
        settings = self._commands_before()
        give_way()
        return detail_of(written, plan, settings)

    def _commands_before(self) -> tuple[str, ...]:
        """Return what psql has to run first, nothing if the server does not say."""
        with suppress(ServerError), self.session.transaction() as transaction:
            return commands_before(transaction, self.session.state)
        return ()
