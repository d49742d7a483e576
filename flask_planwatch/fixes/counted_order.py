"""A count without the order of what is counted."""

from __future__ import annotations

from sqlglot.errors import SqlglotError
from sqlglot.tokens import Token, TokenType

from ..finding import Verdict, VerdictStatus
from ..indexes.verdict import Advised, Answer, Declined, saving, too_little
from ..plan.counted_order import counted_sorts
from ..plan.evidence import Hit
from ..plan.figures import MIN_SAVING
from ..plan.predicate import Tokens, tokenize
from .case import Case
from .form import Form

_LEFT_OUT = Form(
    "leave ORDER BY out of what is counted: order_by(None)",
    "count() is the same in any order. PostgreSQL leaves the order of EXISTS out by itself, but "
    "sorts what is counted.",
    "# of the query, before it is counted\n.order_by(None)",
)
_NOT_DERIVED = "PlanWatch could not find this ORDER BY in the statement's text"
_COUNTED = "the planner counts without a Sort"
_GONE = "the Sort is gone"

#: What may follow ORDER BY in a sub-query, for which its order has an effect.
_AFTER = frozenset({TokenType.LIMIT, TokenType.OFFSET, TokenType.FETCH, TokenType.FOR})


def advise(case: Case, hit: Hit) -> Answer:
    """Return the advice to count without ORDER BY, as the planner takes it.

    Declined if it would not save enough, or is not known to be possible. Raises ServerError if the
    connection fails.
    """
    text = without_order(case.query.text)
    plan = case.plan_of(text) if text is not None else None
    if plan is None or any(counted_sorts(plan)):
        return Declined(_NOT_DERIVED)
    before, after = case.plan.total_cost, plan.total_cost
    if saving(before, after) < MIN_SAVING:
        return Declined(too_little(before, after, MIN_SAVING, method="", guess=False).reason)
    verdict = Verdict(
        VerdictStatus.VERIFIED, _COUNTED, cost_before=before, cost_after=after, proof=(_GONE,)
    )
    return Advised((_LEFT_OUT.advice(verdict),))


def without_order(text: str) -> str | None:
    """Return a statement without the ORDER BY of its sub-query, None if that is not simple.

    There must be one ORDER BY in a sub-query, and the order must be the last of that.
    """
    try:
        reading = tokenize(text)
    except SqlglotError:
        return None
    found = [
        (token, end)
        for position, token in enumerate(reading.tokens)
        if token.token_type is TokenType.ORDER_BY and (end := _end(reading, position)) is not None
    ]
    if len(found) != 1:
        return None
    ((order, end),) = found
    return f"{text[: order.start]}{text[end.start :]}"


def _end(reading: Tokens, position: int) -> Token | None:
    """Return the parenthesis that ends the sub-query with an ORDER BY, None if that is no end."""
    opening = reading.around[position]
    if opening < 0 or reading.tokens[opening + 1].token_type is not TokenType.SELECT:
        return None
    for token, around in zip(reading.tokens[position:], reading.around[position:], strict=True):
        if around == opening and token.token_type is TokenType.R_PAREN:
            return token
        if around == opening and token.token_type in _AFTER:
            return None
    return None
