"""Tries one index for a statement, and believes in it only if the plan's structure shows it."""

from __future__ import annotations

from collections.abc import Callable

from ..advice.index import Candidate
from ..advice.search import Attempt
from ..advice.verdict import Advised, Answer, Declined
from ..finding import Verdict, VerdictStatus
from ..plan.tree import Plan
from ..server import whatif
from ..settings import VERIFY_OFF
from .case import Case

#: Given the plan before and the attempt with the index in place, returns what the index changed in
#: the plan, a line each; nothing if it did not bring about what it is for.
Proof = Callable[[Plan, Attempt], tuple[str, ...]]

_OFF = 'PLANWATCH_VERIFY is "off"'
_LOCKED = "the table was locked, most likely by the request's own transaction"


def try_index(case: Case, index: Candidate, proof: Proof) -> Answer:
    """Return an index as advice with the planner's verdict, Declined if it does not help.

    A falling cost is told, but proves nothing. Raises ServerError if the connection fails.
    """
    if case.verify == VERIFY_OFF:
        return _untested(case, index, _OFF)
    try:
        with case.bench(case.query, [index]) as bench:
            return _tried(case, index, proof, bench)
    except whatif.Untestable as untestable:
        return _untested(case, index, str(untestable))
    except whatif.Blocked:
        return _untested(case, index, _LOCKED, blocked=True)


def _tried(case: Case, index: Candidate, proof: Proof, bench: whatif.Bench) -> Answer:
    attempt = bench.attempt([index])
    if (refusal := bench.refused.get(index)) is not None:
        if isinstance(refusal, whatif.TooLong | whatif.NotImmutable):
            return Declined(str(refusal))
        return _untested(case, index, str(refusal))
    lines = proof(bench.before, attempt) if attempt.used else ()
    before, after = bench.before.total_cost, attempt.cost
    if lines:
        guess = not bench.is_measured(index)
        verdict = Verdict(
            VerdictStatus.VERIFIED,
            "the planner used the index",
            cost_before=before,
            cost_after=after,
            guess=guess,
            method=bench.method,
            proof=lines,
        )
        return Advised((case.index_advice(index, verdict, bench),))
    reason = "the planner did not use the index" if not attempt.used else "the plan stayed as it is"
    verdict = Verdict(
        VerdictStatus.REJECTED, reason, cost_before=before, cost_after=after, method=bench.method
    )
    rejected = case.index_advice(index, verdict, bench)
    return Declined(f"{rejected.summary}: {reason}", rejected)


def _untested(case: Case, index: Candidate, reason: str, *, blocked: bool = False) -> Answer:
    verdict = Verdict(VerdictStatus.UNTESTED, reason)
    return Advised((case.index_advice(index, verdict, None),), blocked=blocked)
