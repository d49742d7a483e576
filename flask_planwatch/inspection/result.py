"""What came of a statement's suspicions, without the figures of one execution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..finding import Dismissal, Skip
from ..fixes.answers import AnsweredHits
from ..indexes.candidate import Candidate
from ..indexes.verdict import Advised, Declined
from ..plan.evidence import Hit
from ..plan.index_use import served
from ..rules import generic_plan
from .findings import dismissal_of, rejection_of
from .judging import Judged


@dataclass(frozen=True)
class Result:
    """Hits with their advice, and what was dismissed or not answered.

    `settled` are the rules that judged the whole statement, `served` what the indexes in its plan
    serve. `has_hits`: a rule found something, even if
    no fix for it was worth advising. `blocked`: a lock kept it from a proof. `analysed`: the
    statement was run.
    """

    advised: tuple[tuple[Hit, Advised], ...]
    dismissals: tuple[Dismissal, ...]
    settled: frozenset[str]
    served: frozenset[tuple[str, str]]
    unanswered: tuple[Skip, ...]
    has_hits: bool
    blocked: bool
    analysed: bool

    @property
    def chosen(self) -> dict[Candidate, str]:
        """The indexes that are proposed for the statement, with the names of their advice."""
        answers = (answer for _, answer in self.advised)
        return {
            index: advice.index for answer in answers for index, advice in answer.proposed.items()
        }

    @property
    def lasts(self) -> bool:
        """Whether it says nothing that is true of one execution only.

        What was dismissed for its values is, and so is what was found in the statement as a whole:
        its time, its generic plan, its failure. A generic plan is dismissed for all the parameters
        that were seen.
        """
        return not (
            self.blocked
            or self.analysed
            or self.unanswered
            or any(hit.suspicion.whole for hit, _ in self.advised)
            or any(
                dismissal.by_parameters and dismissal.rule != generic_plan.NAME
                for dismissal in self.dismissals
            )
        )


def result_of(judged: Judged, answered: AnsweredHits, unanswered: Sequence[Skip]) -> Result:
    """Return what came of a statement's suspicions."""
    evidence = judged.evidence
    dismissals = [dismissal_of(miss) for miss in judged.misses]
    advised = []
    for hit, answer in answered.hits:
        if isinstance(answer, Declined):
            dismissals.append(rejection_of(hit, answer))
        else:
            advised.append((hit, answer))
    return Result(
        advised=tuple(advised),
        dismissals=tuple(dismissals),
        settled=judged.settled,
        served=served(evidence.plan, evidence.schema),
        unanswered=tuple(unanswered),
        has_hits=bool(answered.hits),
        blocked=any(answer.blocked for _, answer in advised),
        analysed=evidence.analysed is not None,
    )
