"""What a unit of estimated cost normally takes in this process, in ms.

How long a unit takes depends on the machine, its load, and how much of the data is in memory. So a
statement is compared with the other statements of the same application.
"""

from __future__ import annotations

from statistics import median

from ..plan.figures import MIN_MS_PER_COST, USUAL_MS_PER_COST
from ..runtime.bounded import LEARNT, RecentlyUsed

#: Statements that are remembered; the one inspected longest ago goes first.
MAX_CALIBRATED = 500

#: How many statements the usual value counts as.
USUAL_WEIGHT = 5


class CostCalibration:
    """A running median over the statements of one process. Used on PlanWatch's thread only."""

    def __init__(self) -> None:
        self._known: RecentlyUsed[str, float] = RecentlyUsed(LEARNT, MAX_CALIBRATED)

    def record(self, fingerprint: str, ms_per_cost: float) -> None:
        """Record what a unit took in a statement."""
        self._known.keep(fingerprint, ms_per_cost)

    def normal(self, fingerprint: str) -> float:
        """Return what a unit normally takes in the other statements; it is never 0.

        Of many statements, nothing is left once the round trip is subtracted.
        """
        measured = [ms for known, ms in self._known.items() if known != fingerprint]
        normal = median([*measured, *[USUAL_MS_PER_COST] * USUAL_WEIGHT])
        return max(normal, MIN_MS_PER_COST)
