"""Tells structural constants from compared values by watching them.

A constant inside an expression around a column, such as a JSON key, belongs to the structure of a
statement as long as it stays the same. One that changes between executions is a value. So is the
one in a condition that a partial index might hold.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator

from .predicate import PARTIAL_OPERATORS, predicates
from .scrub import mask
from .tree import Plan

#: Statements whose constants are remembered; the one inspected longest ago goes first.
MAX_STATEMENTS = 1000


class Structure:
    """Remembers the expressions with constants that the plans of each statement showed.

    `origin` is the identity of a statement and of the line of code that it came from.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[str, defaultdict[str, set[str]]] = OrderedDict()

    def varying(self, origin: str, plan: Plan) -> frozenset[str]:
        """Learn from a plan, and return the masked expressions whose constants have changed."""
        seen = self._seen.setdefault(origin, defaultdict(set))
        self._seen.move_to_end(origin)
        while len(self._seen) > MAX_STATEMENTS:
            self._seen.popitem(last=False)
        for expression in _expressions(plan):
            masked = mask(expression)
            # Two are enough to know that they vary.
            if masked != expression and len(seen[masked]) < 2:
                seen[masked].add(expression)
        return frozenset(masked for masked, spellings in seen.items() if len(spellings) > 1)


def _expressions(plan: Plan) -> Iterator[str]:
    """Yield each side of a comparison that reads a column, and what a partial index may hold."""
    for node in plan.nodes:
        for _, conjuncts in predicates(plan)[id(node)]:
            for conjunct in conjuncts:
                compared = conjunct.operator and not conjunct.right.columns
                if conjunct.operator in PARTIAL_OPERATORS or compared:
                    yield conjunct.condition
                for operand in (conjunct.left, conjunct.right):
                    if operand.columns:
                        yield operand.text
