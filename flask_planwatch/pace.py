"""What a unit of estimated cost normally takes in this process, in ms.

The planner's units have no fixed length: it depends on the machine, its load, and how much of the
data is in memory. So a statement is compared with the others of the same application.
"""

from __future__ import annotations

from collections import OrderedDict
from statistics import median

#: Statements that are remembered; the one inspected longest ago goes first.
MAX_STATEMENTS = 500

#: What a unit takes as long as few statements are known: measured on PostgreSQL 13 to 18 with data
#: in memory, statements took 0.001 to 0.025 ms for each.
USUAL_MS_PER_COST = 0.025

#: How many statements the usual value counts for.
USUAL_WEIGHT = 5


class Pace:
    """A running median over the statements of one process. Used on PlanWatch's thread only."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, float] = OrderedDict()

    def record(self, fingerprint: str, ms_per_cost: float) -> None:
        """Take in what a unit took in a statement."""
        self._known[fingerprint] = ms_per_cost
        self._known.move_to_end(fingerprint)
        while len(self._known) > MAX_STATEMENTS:
            self._known.popitem(last=False)

    def normal(self, fingerprint: str) -> float:
        """Return what a unit normally takes in the other statements."""
        others = [ms for known, ms in self._known.items() if known != fingerprint]
        return median([*others, *[USUAL_MS_PER_COST] * USUAL_WEIGHT])
