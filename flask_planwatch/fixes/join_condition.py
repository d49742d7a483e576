"""The condition that a join lacks: PlanWatch can say where, and not which."""

from __future__ import annotations

from ..finding import Verdict, VerdictStatus
from ..indexes.verdict import Advised, Answer
from ..plan.evidence import Hit
from .case import Case
from .form import Form

_JOINED = Form(
    "write the condition that joins {one} and {other}, or leave {other} out",
    "Nothing in the plan compares a row of {one} with a row of {other}. If all pairs are meant, "
    "compute the sub-query before joining {other}, as it needs only {one}.",
    ".join(…, ….column == ….column)",
)
_NOT_KNOWN = "only the author of the statement knows which condition is meant"


def advise(case: Case, hit: Hit) -> Answer:
    """Return that two tables have to be joined by a condition."""
    one, other = hit.evidence["joined_without_condition"]
    verdict = Verdict(VerdictStatus.NOT_APPLICABLE, _NOT_KNOWN)
    return Advised((_JOINED.advice(verdict, one=one, other=other),))
