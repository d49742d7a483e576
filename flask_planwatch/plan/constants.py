"""Tells constants that belong to a statement's structure from values, by watching them.

A constant in an expression around a column, such as a JSON key, belongs to the structure as long as
it stays the same. Once it changes between executions it is a value. The same goes for a constant in
the condition of a possible partial index.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from sys import getsizeof

from ..runtime.bounded import ENTRY_SIZE, LEARNT, RecentlyUsed
from .access import order_keys
from .predicate import Conjunct, predicates
from .scrub import mask
from .tree import Plan

#: Statements whose constants are remembered; the one inspected longest ago goes first.
MAX_WITH_CONSTANTS = 1000

#: Expressions of one statement that are remembered; the one shown longest ago goes first. A list of
#: literals is another expression for each length, unless it is an OR of the same test.
MAX_EXPRESSIONS = 200

#: A longer expression is not remembered. It mostly has a list of literals, so that it counts as one
#: that changes.
MAX_EXPRESSION_LENGTH = 2_000


class SeenConstants:
    """Remembers the expressions with constants that the plans of each statement showed.

    Of the constants only hashes are kept. `origin` is the identity of a statement and of the line
    of code that it came from.
    """

    def __init__(self) -> None:
        self._seen: RecentlyUsed[str, OrderedDict[str, set[int]]] = RecentlyUsed(
            LEARNT, MAX_WITH_CONSTANTS
        )

    def varying(self, origin: str, plan: Plan) -> frozenset[str]:
        """Learn from a plan, and return the masked expressions whose constants have changed."""
        seen = self._seen.get(origin, OrderedDict[str, set[int]]())
        long, shown = set[str](), dict[str, str]()
        for expression, folded in _expressions(plan):
            masked = mask(expression)
            known_by = folded or masked
            if masked == expression:
                continue
            if len(known_by) > MAX_EXPRESSION_LENGTH:
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
        self._seen.keep(origin, seen, size + len(seen) * ENTRY_SIZE)
        changed = {known_by for known_by, spellings in seen.items() if len(spellings) > 1}
        return frozenset(changed | long | {masked for masked in shown if shown[masked] in changed})


def _expressions(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield expressions as printed, and the key of those that are not known by their masked text.

    That is what may be shown of a plan or held by an index: each side of a comparison that reads a
    column, each predicate as the condition of a partial index, and what rows are sorted or grouped
    by, as printed and as the key of an index.
    """
    for node in plan.nodes:
        yield from ((key, "") for key in (*node.sort_keys, *order_keys(node)))
        for conjunct in (test for _, tests in predicates(plan)[id(node)] for test in tests):
            yield conjunct.condition, _folded(conjunct)
            sides = (conjunct.left, conjunct.right)
            yield from ((side.text, "") for side in sides if side.columns)


def _folded(conjunct: Conjunct) -> str:
    """Return a predicate's condition, masked, with each test once that OR joins.

    An application writes as many of them as it has values.
    """
    branches = conjunct.alternatives or ((conjunct,),)
    joined = (" AND ".join(mask(test.condition) for test in branch) for branch in branches)
    return " OR ".join(dict.fromkeys(joined))
