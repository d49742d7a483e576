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
from .predicate import Conjunct, predicates
from .scrub import mask, masked_condition
from .tree import Plan

#: Statements whose constants are remembered; the one inspected longest ago goes first.
MAX_STATEMENTS = 1000

#: Expressions of one statement that are remembered, those that its plans showed last: a literal
#: list in another length is another expression, unless it is an OR of the same test.
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
        long, shown = set[str](), dict[str, str]()
        for expression, masked, known_by in _expressions(plan):
            if masked == expression:
                continue
            if len(known_by) > MAX_LENGTH:
                long.add(masked)
                continue
            shown[masked] = known_by
            spellings = seen.setdefault(known_by, set())
            seen.move_to_end(known_by)
            # Two are enough to know that they vary.
            if len(spellings) < 2:
                spellings.add(hash(expression))
        while len(seen) > MAX_EXPRESSIONS:
            seen.popitem(last=False)
        size = sum(getsizeof(masked) + getsizeof(hashes) for masked, hashes in seen.items())
        self._seen.keep(origin, seen, size + len(seen) * PLACE)
        changed = {known_by for known_by, spellings in seen.items() if len(spellings) > 1}
        return frozenset(changed | long | {one for one in shown if shown[one] in changed})


def _expressions(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """Yield what may be shown of a plan or held by an index: as it is, masked, and as it is known.

    That is each side of a comparison that reads a column, each predicate as the condition of a
    partial index, and what rows are sorted or grouped by, as printed and as the key of an index.
    """
    for node in plan.nodes:
        for key in (*node.sort_keys, *order_keys(node)):
            masked = mask(key)
            yield key, masked, masked
        for _, conjuncts in predicates(plan)[id(node)]:
            for conjunct in conjuncts:
                yield conjunct.condition, masked_condition(conjunct), _folded(conjunct)
                for operand in (conjunct.left, conjunct.right):
                    if operand.columns:
                        masked = mask(operand.text)
                        yield operand.text, masked, masked


def _folded(conjunct: Conjunct) -> str:
    """Return a predicate's condition, masked, with each test once that OR joins.

    An application writes as many of them as it has values.
    """
    if not conjunct.alternatives:
        return masked_condition(conjunct)
    branches = (" AND ".join(map(masked_condition, branch)) for branch in conjunct.alternatives)
    return " OR ".join(dict.fromkeys(branches))
