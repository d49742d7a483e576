"""Predicates that are better written in another way, with the index that serves them then."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..finding import Verdict, VerdictStatus
from ..indexes.candidate import Candidate
from ..indexes.proposal import is_covered
from ..indexes.search import OutOfTime
from ..indexes.shapes import Shape
from ..indexes.verdict import Advised, Answer, Declined, saving
from ..plan.evidence import Hit, Suspicion
from ..plan.figures import MAX_USEFUL_SHARE, MIN_SAVING
from ..plan.schema import ExpressionFacts
from ..plan.scrub import holds_value, mask
from ..plan.wording import say
from ..server import whatif
from .alone import NewForm, plan_alone, query_alone
from .case import Case
from .containment import containment
from .drafts import Drafts, is_refused
from .moment import range_on_column
from .own_type import own_type
from .rewrite import is_written, rewrite, rewrite_with_literal, rewrite_with_value

_NO_ORDER = "no index can have that order, because {reason}"
_REWRITTEN_ONLY = "an index can answer only the rewritten statement"
_USED_ALONE = f"{_REWRITTEN_ONLY}; planned for the new condition alone, the planner used it"
_SAVES_LITTLE = (
    "for these values even an index on {key} saves less than {least:percent} of the cost"
)
_MANY = "for these values many rows pass, so that an index would not help"
_ONLY_WITH = "it gains enough only with an index that begins with {column}, and there is none"


@dataclass
class Rewritten:
    """Advises to write predicates of one statement in another way.

    `tried` becomes True once the planner was asked about an index.
    """

    case: Case
    drafts: Drafts
    tried: bool = False

    def advise(self, hit: Hit) -> Answer | None:
        """Return the advice on a hit that no index would answer as it is written, else None.

        Raises ServerError if the connection fails.
        """
        suspicion = hit.suspicion
        spanned = None
        if hit.fix == "index" and suspicion.comparisons:
            spanned = range_on_column(self.case, hit)
            if spanned is not None and spanned.is_verified:
                return Advised((spanned.advice,))
            if (served := rewrite(self.case, hit, None)) is not None:
                return Advised((served.advice,))
        if suspicion.holds_value:
            # What changes was put into the text by the application.
            written = not self._varies(suspicion) and self._may_be_indexed_as_written(suspicion)
            return Advised((rewrite_with_literal(hit) if written else rewrite_with_value(hit),))
        if hit.fix == "own-type":
            return Advised((own_type(self.case, hit),))
        if hit.fix == "containment":
            return self._with_index(hit, containment(self.case, hit))
        described = [self.drafts.describe(suspicion.relation, key) for key in suspicion.keys]
        refused = [facts for facts in described if is_refused(facts)]
        if len(refused) < len(described):
            return None
        if not suspicion.comparisons:
            return Declined(say(_NO_ORDER, reason=refused[0].reason))
        if spanned is not None:
            return self._with_index(hit, spanned)
        return self.other_form(hit, refused[0])

    def other_form(self, hit: Hit, refused: ExpressionFacts) -> Advised:
        """Return another condition in place of one whose expression no index can hold."""
        found = rewrite(self.case, hit, refused)
        assert found is not None
        return self._with_index(hit, found)

    def _varies(self, suspicion: Suspicion) -> bool:
        return any(mask(key) in self.case.varying for key in suspicion.keys)

    def _may_be_indexed_as_written(self, suspicion: Suspicion) -> bool:
        """Whether an index may hold the values of an expression as the statement has them."""
        text = self.case.query.text
        held = [key for key in suspicion.keys if holds_value(key)]
        return bool(held) and all(
            is_written(key, text) and not is_refused(self.drafts.describe(suspicion.relation, key))
            for key in held
        )

    def _with_index(self, hit: Hit, form: NewForm) -> Advised:
        """Return a rewrite with the index that serves the statement once it is rewritten."""
        suspicion, first = hit.suspicion, form.advice
        if form.key is None or form.is_verified:
            return Advised((first,))
        if hit.fix == "index" and form.key.column is not None:
            shape = Shape((form.key,))
        else:
            shape = Shape((form.key,), suspicion.method, extension=suspicion.extension)
        index = self.drafts.candidate(suspicion.relation, shape)
        if is_covered(index):
            return Advised((first,))
        if form.key.column is None:
            verdict = Verdict(VerdictStatus.UNTESTED, _REWRITTEN_ONLY)
            return Advised((first, self.case.index_advice(index, verdict, None)))
        verdict = self._once_rewritten(hit, form, index)
        useless, reason = verdict.status is VerdictStatus.REJECTED, first.verdict.reason
        if useless:
            reason = verdict.reason
        elif hit.fix == "index":
            reason = say(_ONLY_WITH, column=form.key.expression)
        first = replace(first, verdict=replace(first.verdict, reason=reason))
        others = () if useless else (self.case.index_advice(index, verdict, None),)
        return Advised((first, *others))

    def _once_rewritten(self, hit: Hit, form: NewForm, index: Candidate) -> Verdict:
        """Return what an index does for a condition in its new form, planned alone.

        It is untested at best, as it does nothing for the statement as it is.
        """
        assert form.key is not None
        untested = Verdict(VerdictStatus.UNTESTED, _REWRITTEN_ONLY)
        if hit.small or self.case.is_trying:
            return untested
        plan = plan_alone(self.case, hit, form.condition)
        if plan is None:
            return untested
        try:
            with self.case.trials(query_alone(self.case, hit, form.condition), [index]) as trials:
                self.tried = True
                attempt = trials.attempt([index])
        except (whatif.Untestable, whatif.Blocked, OutOfTime):
            passing = sum(scan.rows for scan in plan.scans)
            joins = hit.suspicion.other_rows is not None
            much = passing > hit.rows * MAX_USEFUL_SHARE and not joins
            return Verdict(VerdictStatus.REJECTED, _MANY) if much else untested
        if index in trials.refused:
            return untested
        if saving(trials.before.total_cost, attempt.plan.total_cost) < MIN_SAVING:
            return Verdict(
                VerdictStatus.REJECTED,
                say(_SAVES_LITTLE, key=form.key.expression, least=MIN_SAVING),
            )
        return replace(untested, reason=_USED_ALONE)
