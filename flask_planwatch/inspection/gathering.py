"""Fetches the further plans of a statement that rules ask for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from ..capture.execution import Capture
from ..failure import ServerError
from ..finding import Skip, SkipReason
from ..plan.evidence import Evidence, Need, Prepared, Suspicion
from ..plan.tree import Plan
from ..plan.wording import say
from ..rules.cost_mismatch import is_unexplained
from ..server.explain import (
    Query,
    analyse,
    explain,
    own_type_query,
    predicate_query,
    reference_query,
)
from ..server.prepared import prepared
from ..server.refusals import Refusals
from ..server.session import Session
from ..server.transaction import NO_SERVER, may_be_refused

#: Before a statement whose generic plan is refused.
_GENERIC_PLAN = "generic plan: "

_NO_BUDGET = "the budget for that is used up"


@dataclass
class Gathering:
    """Fetches the further plans of one statement, each once.

    `may_analyse` takes one run from the budget for EXPLAIN ANALYZE. `unanswered` collects why plans
    could not be obtained.
    """

    session: Session
    capture: Capture
    query: Query
    refusals: Refusals
    analyses: bool
    may_analyse: Callable[[], bool]
    unanswered: list[Skip] = field(default_factory=list)
    _asked: set[Need] = field(default_factory=set)

    def gather(self, evidence: Evidence, suspicion: Suspicion) -> Evidence:
        """Add the plans that a suspicion needs; those of the statement are kept."""
        new = suspicion.needs - self._asked
        self._asked |= new
        if Need.SEQSCAN_OFF in new:
            forced = explain(self.session, self.query, seqscan=False)
            evidence = replace(evidence, seqscan_off=forced)
        if Need.PREPARED in new:
            evidence = replace(evidence, prepared=self._prepared(evidence.plan))
        wanted = Need.ANALYSED in new
        if Need.ANALYSED_IF_SLOW in new and Need.ANALYSED not in self._asked:
            wanted = is_unexplained(evidence)
        if wanted:
            self._asked.add(Need.ANALYSED)
            evidence = self._with_analysed(evidence)
        alone = own_type = None
        if Need.PREDICATE_ALONE in suspicion.needs:
            alone = self._explain_alone(predicate_query(suspicion))
        if Need.REFERENCE in suspicion.needs:
            alone = self._explain_alone(reference_query(suspicion))
        if Need.OWN_TYPE in suspicion.needs:
            own_type = self._explain_alone(own_type_query(suspicion))
        return replace(evidence, alone=alone, own_type=own_type)

    def _prepared(self, plan: Plan) -> Prepared | None:
        """Return what the prepared statement does, None if its driver prepares nothing."""
        preparation = self.capture.preparation
        if preparation is None or not self.query.parameters:
            return None
        if not preparation.reached:
            why = say(preparation.why, most=preparation.most)
            return Prepared(preparation.threshold, plan, (), (), 0.0, reached=False, why=why)
        try:
            with self._unless_refused(_GENERIC_PLAN + self.query.text):
                return prepared(self.session, self.query, plan, preparation)
        except ServerError as error:
            self._no_answer(error, SkipReason.GENERIC_PLAN_UNKNOWN)
            return None

    def _with_analysed(self, evidence: Evidence) -> Evidence:
        """Add the plan with what it really took, or why it was not run; neither if not wanted."""
        if not self.analyses or self.capture.error is not None:
            return evidence
        try:
            if not self.may_analyse():
                raise ServerError(SkipReason.NOT_ANALYSED, _NO_BUDGET)
            took_ms = self.capture.duration_ms
            analysed = analyse(self.session, self.query, evidence.plan, took_ms=took_ms)
            return replace(evidence, analysed=analysed)
        except ServerError as error:
            self._no_answer(error, SkipReason.NOT_ANALYSED)
            return replace(evidence, not_analysed=str(error))

    def _unless_refused(self, text: str) -> AbstractContextManager[None]:
        return self.refusals.unless_refused(text, self.capture.state)

    def _no_answer(self, error: ServerError, reason: SkipReason) -> None:
        if error.reason in NO_SERVER:
            raise error
        self.unanswered.append(Skip(reason, error.detail))

    def _explain_alone(self, query: Query) -> Plan | None:
        """Return the plan of a predicate alone, None if the server refuses it."""
        with may_be_refused(), self._unless_refused(query.text):
            return explain(self.session, query, seqscan=False)
        return None
