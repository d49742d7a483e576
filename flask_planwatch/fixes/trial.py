"""Tries one index for a statement, and advises it only if the plan with it shows what it is for.

Of two that are nearly as good, the one that other statements need as well is advised. One that
cannot be tried is advised as untested, in the form that serves other statements as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from ..finding import Advice, Verdict, VerdictStatus
from ..indexes.candidate import Candidate
from ..indexes.proposal import remark
from ..indexes.search import Attempt, OutOfTime, shared_indexes, shared_limit, stand_in
from ..indexes.verdict import Advised, Answer, Declined, full_cost, saving, too_little
from ..plan.evidence import Hit
from ..plan.figures import MIN_SAVING
from ..plan.tree import Plan
from ..plan.wording import say, sentences
from ..server import whatif
from .case import Case

#: Given the plan before and the attempt with the index in place, returns what changed in the plan,
#: a line each; nothing if the index did not do what it is for.
Proof = Callable[[Plan, Attempt], tuple[str, ...]]

LOCKED = "the table was locked, most likely by the request's own transaction"

_DECLINED = "{index}: {reason}"

_USED = "the planner used the index"
_NOT_USED = "the planner did not use the index"
_NO_CHANGE = "the plan stayed as it is"


def try_index(case: Case, hit: Hit, index: Candidate, proof: Proof) -> Answer:
    """Return an index as advice with the planner's verdict, Declined if it does not help.

    It may be another index that is proposed or declared already, or could replace such a one, if
    that is as good for the hit. A lower cost alone proves nothing. Raises ServerError if the
    connection fails.
    """
    indexes = [index, *shared_indexes(index, case.known([index.relation]))]
    try:
        with case.trials(case.query, indexes) as trials:
            return _tried(case, hit, indexes, proof, trials)
    except (whatif.Untestable, whatif.Blocked, OutOfTime) as error:
        reason, blocked = why_untested(error)
        verdict = Verdict(VerdictStatus.UNTESTED, reason)
        answer = untested(case, index, verdict, blocked=blocked)
        return replace(answer, late=isinstance(error, OutOfTime))


def if_worth_it(answer: Answer) -> Answer:
    """Decline an index that saves less than a fifth of the statement's cost, as far as is known."""
    if isinstance(answer, Declined):
        return answer
    advice = answer.advice[0]
    before, after = advice.verdict.cost_before, advice.verdict.cost_after
    if before is None or after is None or saving(before, after) >= MIN_SAVING:
        return answer
    method, guess = advice.verdict.method or "", advice.verdict.guess
    return declined(advice, too_little(before, after, MIN_SAVING, method=method, guess=guess))


def why_untested(error: whatif.Untestable | whatif.Blocked | OutOfTime) -> tuple[str, bool]:
    """Return why something could not be tried, and whether a lock kept it from that."""
    if isinstance(error, whatif.Blocked):
        return LOCKED, True
    return (whatif.TOOK_TOO_LONG if isinstance(error, OutOfTime) else str(error)), False


def advised(
    case: Case,
    indexes: Sequence[Candidate],
    verdict: Verdict,
    trials: whatif.Trials | None = None,
    *,
    blocked: bool = False,
) -> Advised:
    """Return indexes as advice with one verdict."""
    return Advised(
        tuple(case.index_advice(index, verdict, trials) for index in indexes),
        blocked=blocked,
        remark=sentences(*(remark(index, case.mapped(index.relation)) for index in indexes)),
    )


def untested(case: Case, index: Candidate, verdict: Verdict, *, blocked: bool = False) -> Advised:
    """Return as advice an index that was not tried, or one of other statements that holds as much.

    Raises ServerError if the connection fails.
    """
    index = stand_in(index, case.known([index.relation]))
    return replace(advised(case, [index], verdict, blocked=blocked), indexes=(index,))


def rejected(case: Case, index: Candidate, verdict: Verdict, trials: whatif.Trials) -> Declined:
    """Return that nothing is advised, with the index that was tried and the reason against it."""
    return declined(case.index_advice(index, verdict, trials), verdict)


def declined(advice: Advice, verdict: Verdict) -> Declined:
    """Return that an advice is not given, with the verdict against it."""
    verdict = replace(verdict, status=VerdictStatus.REJECTED)
    reason = say(_DECLINED, index=advice.summary, reason=verdict.reason)
    return Declined(reason, replace(advice, verdict=verdict))


def _tried(
    case: Case, hit: Hit, indexes: Sequence[Candidate], proof: Proof, trials: whatif.Trials
) -> Answer:
    """Return the answer with the first of the indexes, or with another that is nearly as good."""
    index, *shared = indexes
    attempt = trials.attempt([index])
    if (refusal := trials.refused.get(index)) is not None:
        if isinstance(refusal, whatif.TooLong | whatif.NotImmutable):
            return Declined(str(refusal))
        return untested(case, index, Verdict(VerdictStatus.UNTESTED, str(refusal)))
    lines = _lines(proof, trials, attempt)
    limit = shared_limit(attempt.cost, full_cost(trials.before, [hit]))
    with suppress(OutOfTime):
        for other in shared if lines else ():
            tried = trials.attempt([other])
            other_lines = _lines(proof, trials, tried)
            if other_lines and tried.cost <= limit:
                index, attempt, lines = other, tried, other_lines
                break
    verdict = Verdict(
        VerdictStatus.VERIFIED,
        _USED if lines else _NO_CHANGE if attempt.used else _NOT_USED,
        cost_before=trials.before.total_cost,
        cost_after=attempt.plan.total_cost,
        guess=bool(lines) and not trials.is_measured(index),
        method=trials.method,
        proof=lines,
    )
    if not lines:
        return rejected(case, index, verdict, trials)
    return replace(advised(case, [index], verdict, trials), indexes=(index,))


def _lines(proof: Proof, trials: whatif.Trials, attempt: Attempt) -> tuple[str, ...]:
    """Return what an attempt proves, nothing if the planner did not use the index."""
    return proof(trials.before, attempt) if attempt.used else ()
