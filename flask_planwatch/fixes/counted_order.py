"""A count without the order of what is counted."""

from __future__ import annotations

import re
from collections.abc import Sequence

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
    "# of the query, before .limit(), .offset() and .count()\n.order_by(None)",
)
_NOT_DERIVED = "PlanWatch could not find this ORDER BY in the statement's text"
_COUNTED = "the planner counts without a Sort"
_GONE = "the Sort is gone"

#: What is not allowed without the ORDER BY before it, or locks rows in its order: WITH TIES, FOR.
_ORDERED = frozenset({TokenType.WITH, TokenType.FOR})

_LIMITS = frozenset({TokenType.LIMIT, TokenType.OFFSET, TokenType.FETCH})

#: What surrounds a sub-query of which only the rows are counted, as tokens with blanks between.
_BEFORE = re.compile(r"\bSELECT COUNT \( \* \)(?: AS)?(?: \S+)? FROM \Z")
_BEHIND = re.compile(r"\A(?:AS )?(?:\w++ )?(?:[);] |\Z)")

#: As many tokens as they may take.
_NEAR = 8


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

    There must be one ORDER BY in a sub-query, and the order must be the last of that. LIMIT and
    OFFSET may follow where count(*) counts the rows of the sub-query, and tests none of them.
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
    """Return what follows the ORDER BY of a sub-query: its LIMIT, or else its parenthesis.

    None if it is not in a sub-query, or its order has an effect.
    """
    tokens, opening = reading.tokens, reading.around[position]
    if opening < 0 or tokens[opening + 1].token_type is not TokenType.SELECT:
        return None
    limit = None
    for number in range(position + 1, len(tokens)):
        if reading.around[number] != opening:
            continue
        kind = tokens[number].token_type
        if kind in _ORDERED:
            return None
        if kind in _LIMITS:
            limit = limit or tokens[number]
        if kind is TokenType.R_PAREN:
            counted = limit is None or _only_counted(tokens, opening, number)
            return (limit or tokens[number]) if counted else None
    return None


def _only_counted(tokens: Sequence[Token], opening: int, closing: int) -> bool:
    """Whether the rows of a sub-query are counted, whichever they are, and nothing else."""
    near = tokens[max(opening - _NEAR, 0) : opening], tokens[closing + 1 :][:_NEAR]
    before, behind = ("".join(f"{token.text.upper()} " for token in part) for part in near)
    return bool(_BEFORE.search(before) and _BEHIND.match(behind))
