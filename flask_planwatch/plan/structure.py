"""Tells structural constants from compared values by watching them.

A constant inside an expression around a column, such as a JSON key, belongs to the structure of a
statement as long as it stays the same. One that changes between executions is a value. So is the
one in a condition that a partial index might hold.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from sys import getsizeof

from ..room import LEARNT, PLACE, Latest
from .access import order_keys
from .predicate import predicates
from .scrub import mask, masked_condition
from .tree import Plan

#: Statements whose constants are remembered; the one inspected longest ago goes first.
MAX_STATEMENTS = 1000

#: Expressions of one statement that are remembered, those that its plans showed last: a literal
#: list in another length is another expression.
MAX_EXPRESSIONS = 200

#: A longer expression is not remembered, and taken to change: a literal list in it mostly does.
MAX_LENGTH = 2_000


class Structure:
    """Remembers the expressions with constants that the plans of each statement showed.

    Of the constants only hashes are kept. `origin` is the identity of a statement and of the line
    of code that it came from.
    """

    def __init__(self) -> None:
        self._seen: Latest[str, OrderedDict[str, set[int]]] = Latest(LEARNT, MAX_STATEMENTS)

    def varying(self, origin: str, plan: Plan) -> frozenset[str]:
        """Learn from a plan, and return the masked expressions whose constants have changed."""
        seen = self._seen.get(origin, OrderedDict[str, set[int]]())
        long = set()
        for expression, masked in _expressions(plan):
            if masked == expression:
                continue
            if len(masked) > MAX_LENGTH:
                long.add(masked)
                continue
            spellings = seen.setdefault(masked, set())
            seen.move_to_end(masked)
            # Two are enough to know that they vary.
            if len(spellings) < 2:
                spellings.add(hash(expression))
        while len(seen) > MAX_EXPRESSIONS:
            seen.popitem(last=False)
        size = sum(getsizeof(masked) + getsizeof(hashes) for masked, hashes in seen.items())
        self._seen.keep(origin, seen, size + len(seen) * PLACE)
        changed = (masked for masked, spellings in seen.items() if len(spellings) > 1)
        return frozenset(changed) | long


def _expressions(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield what may be shown of a plan or held by an index, each as it is and masked.

    That is each side of a comparison that reads a column, each predicate as the condition of a
    partial index, and what rows are sorted or grouped by, as printed and as the key of an index.
    """
    for node in plan.nodes:
        for key in (*node.sort_keys, *order_keys(node)):
            yield key, mask(key)
        for _, conjuncts in predicates(plan)[id(node)]:
            for conjunct in conjuncts:
                yield conjunct.condition, masked_condition(conjunct)
                for operand in (conjunct.left, conjunct.right):
                    if operand.columns:
                        yield operand.text, mask(operand.text)
