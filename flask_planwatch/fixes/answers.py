"""What is advised on the hits of one statement.

What was tried on the same plan is not tried again: trying indexes costs more than the rest of an
inspection, and a page that is loaded again has the same statements.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from ..finding import VerdictStatus
from ..indexes.candidate import Candidate
from ..indexes.verdict import Advised, Answer
from ..plan.evidence import Hit
from ..runtime.bounded import LEARNT, RecentlyUsed
from ..runtime.pause import give_way
from . import FIXES, OF_INDEX_SET
from .case import Case
from .index_set import IndexSet
from .policy import behind_policies, in_policies

#: Plans whose advice is remembered; the one needed longest ago goes first. It saves the server the
#: trial, which with PLANWATCH_VERIFY "build" is an index; of PlanWatch's thread it saves nothing.
MAX_ANSWERS = 200


@dataclass(frozen=True)
class AnsweredHits:
    """The hits of a statement with what to do."""

    hits: tuple[tuple[Hit, Answer], ...]

    @property
    def chosen(self) -> tuple[Candidate, ...]:
        """The indexes that are proposed for the statement, whichever fix found them."""
        advised = (answer for _, answer in self.hits if isinstance(answer, Advised))
        return tuple(index for answer in advised for index in answer.indexes)


class Answers:
    """Asks the fixes, and remembers their answers. Used on PlanWatch's thread only."""

    def __init__(self) -> None:
        self._known: RecentlyUsed[Hashable, list[Answer]] = RecentlyUsed(LEARNT, MAX_ANSWERS)

    def on(self, case: Case, hits: Sequence[Hit]) -> AnsweredHits:
        """Return what to do about each hit.

        Raises ServerError if the connection fails.
        """
        together = [hit for hit in hits if hit.fix in OF_INDEX_SET]
        alone = [hit for hit in hits if hit.fix not in OF_INDEX_SET]
        fixed = self._fixed(case, alone)
        give_way()
        indexed = self._indexed(_proposing(case, fixed), together)
        if fixed.chosen and indexed.chosen:
            # One of the set may serve them as well.
            fixed = self._fixed(_proposing(case, indexed), alone)
        return AnsweredHits((*fixed.hits, *indexed.hits))

    def _fixed(self, case: Case, hits: Sequence[Hit]) -> AnsweredHits:
        """Return what fixes of their own say of hits, each knowing what those before it chose."""
        answered = AnsweredHits(())
        for hit in hits:
            known = _proposing(case, answered)
            key = (hit.fix, _about(case, hit), *_basis(known))
            answers = self._known.get(key)
            if answers is None:
                answers = [FIXES[hit.fix](known, hit)]
                self._keep(key, answers)
            answered = AnsweredHits((*answered.hits, (hit, answers[0])))
        return answered

    def _indexed(self, case: Case, hits: Sequence[Hit]) -> AnsweredHits:
        """Return the answers to the hits that share one set of indexes."""
        key = (tuple(_about(case, hit) for hit in hits), *_basis(case))
        answers = self._known.get(key)
        if answers is None:
            indexes, answered = IndexSet(case), behind_policies(case, hits)
            others = [hit for hit in hits if id(hit) not in answered]
            for hit, answer in zip(others, indexes.advise(others), strict=True):
                answered[id(hit)] = in_policies(case, hit, answer)
            answers = [answered[id(hit)] for hit in hits]
            if indexes.tried:
                self._keep(key, answers)
        return AnsweredHits(tuple(zip(hits, answers, strict=True)))

    def _keep(self, key: Hashable, answers: list[Answer]) -> None:
        """Remember answers, unless what was missing or in the way may be there at the next try."""
        untested = (
            advice.verdict.status is VerdictStatus.UNTESTED
            for answer in answers
            if isinstance(answer, Advised) and not answer.late
            for advice in answer.advice
        )
        if not any(untested):
            self._known.keep(key, answers)


def _about(case: Case, hit: Hit) -> tuple[Hashable, ...]:
    """Return what an answer to a hit rests on, beside the plan."""
    suspicion = hit.suspicion
    named = repr(case.mapped(suspicion.relation))
    doubtful = hit.doubt is not None
    judged = (suspicion.holds_value, hit.small, hit.most_pass, doubtful)
    return (suspicion.identity, judged, named)


def _proposing(case: Case, answered: AnsweredHits) -> Case:
    """Return a case in which the indexes that are chosen for its other hits are known."""
    return replace(case, proposed=(*case.proposed, *answered.chosen))


def _basis(case: Case) -> tuple[Hashable, ...]:
    """Return what any answer on a case rests on: the plan, and what is proposed on its tables."""
    tables = case.schema.relations
    relevant = frozenset(index for index in case.proposed if index.relation.key in tables)
    return (_digest(case), case.varying, relevant)


def _digest(case: Case) -> bytes:
    """Return a hash of statement, plan and tables: a plan may be long, and holds values."""
    parts = (case.query.text, case.plan.as_text(), case.schema.text)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "backslashreplace")).digest()
