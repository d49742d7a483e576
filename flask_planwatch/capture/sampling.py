"""Which captures are worth an inspection now."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..runtime.clock import now
from ..settings import Settings
from .statistics import NEVER, StatementStatistics

#: One of so many inspections in a process may run the statement once more, with EXPLAIN ANALYZE:
#: that costs as much as the statement itself.
INSPECTIONS_PER_ANALYSIS = 6

#: Characters that may be read, for each inspection in a minute, only to see that the same statement
#: was inspected with other literals. 1000 of them take up to 3 ms.
CHARACTERS_PER_INSPECTION = 10_000

#: A longer statement takes one more inspection from the budget for each so many characters: to read
#: them takes as long as what else an inspection computes.
CHARACTERS_OF_AN_INSPECTION = 25_000

#: A shorter text counts as so many characters: what else is done for it takes as long.
MIN_CHARACTERS = 2_000

#: Seconds after a slow execution was sampled in which another one of the same statement does not
#: count as slow; twice as long each time, up to the interval. On a busy server each execution is
#: slow, and to have it plan the same statement each time makes it busier.
SLOW_WAIT = 1.0


class Budget:
    """A number of takes in a minute; unused ones are saved for a minute. Safe for threads."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = now) -> None:
        self._per_minute = per_minute
        self._allowance = per_minute
        self._refilled = clock()
        self._clock = clock
        self._lock = threading.RLock()

    def take(self, amount: float = 1, *, moment: float | None = None) -> bool:
        """Take so many, or all of a minute; False if too few are left.

        `moment` saves a look at the clock.
        """
        if self._per_minute == float("inf"):
            return True
        amount = min(amount, max(1.0, self._per_minute))
        with self._lock:
            moment = self._clock() if moment is None else moment
            # A clock may be set back. A budget below 1 allows one in several minutes.
            earned = max(0.0, moment - self._refilled) * self._per_minute / 60
            self._allowance = min(max(1.0, self._per_minute), self._allowance + earned)
            self._refilled = moment
            if self._allowance < amount:
                return False
            self._allowance -= amount
            return True

    def give_back(self, amount: float = 1) -> None:
        """Return so many that were not used."""
        with self._lock:
            self._allowance += min(amount, max(1.0, self._per_minute))


#: The budgets of this process, each by its name and number. Apps with the same settings share them:
#: a test suite that makes an app for each test has no more inspections in a minute than one app.
_BUDGETS: dict[tuple[str, float], Budget] = {}


def shared_budget(name: str, per_minute: float) -> Budget:
    """Return the budget of the process by that name, of so many in a minute."""
    return _BUDGETS.setdefault((name, per_minute), Budget(per_minute))


def renew_budgets() -> None:
    """Begin anew in a forked child, where a thread of the parent may hold a lock for ever."""
    _BUDGETS.clear()


class Sampler:
    """Decides for one app in one process. Safe to use from several threads.

    `budget` returns the budget of a name and a number in a minute. `captured` are all executions,
    and `total_ms` is what they took; `opted_out` are those that the application wants left alone.
    The hooks count them.
    """

    def __init__(
        self, settings: Settings, budget: Callable[[str, float], Budget] = shared_budget
    ) -> None:
        self.interval = settings.sample_interval
        self.captured = 0
        self.opted_out = 0
        self.total_ms = 0.0
        self.over_budget = 0
        per_minute = settings.inspections_per_minute
        self.analyses = budget("analyses", per_minute / INSPECTIONS_PER_ANALYSIS)
        self._characters = budget("characters", per_minute * CHARACTERS_PER_INSPECTION)
        self.slow_ms = settings.slow_statement_ms
        self._inspections = budget("inspections", per_minute)

    def is_due(self, statistics: StatementStatistics, moment: float) -> bool:
        """Whether the interval of a statement is over; a clock that was set back ends it, too."""
        return abs(moment - statistics.sampled) >= self.interval

    def waits(self, statistics: StatementStatistics, moment: float) -> bool:
        """Whether an execution, due only because it was slow, comes too soon after another."""
        return abs(moment - statistics.sampled) < min(statistics.slow_wait, self.interval)

    def spend(
        self, statistics: StatementStatistics, moment: float, *, slow: bool = False, length: int = 0
    ) -> bool:
        """Take an inspection from the minute's budget, and start the statement's interval.

        `slow` is whether the execution was, `length` the characters of the statement: a long one
        takes several. Returns False, and counts it, if the budget is used up: the statement stays
        due.
        """
        if not self._inspections.take(_inspections(length), moment=moment):
            self.over_budget += 1
            return False
        longer = 0.0 if self.is_due(statistics, moment) else 2 * statistics.slow_wait
        statistics.slow_wait = max(SLOW_WAIT, longer) if slow else 0.0
        statistics.sampled = moment
        return True

    def may_read(self, text: str) -> bool:
        """Take a text from the minute's budget for statements that are read but not inspected."""
        return self._characters.take(max(MIN_CHARACTERS, len(text)))

    def give_back(self, statistics: StatementStatistics | None = None, *, length: int = 0) -> None:
        """Return to the budget what was not used; the statement is due again."""
        self._inspections.give_back(_inspections(length))
        if statistics is not None:
            statistics.sampled = NEVER


def _inspections(length: int) -> int:
    """Return how many inspections of the budget a statement of this length takes."""
    return max(1, length // CHARACTERS_OF_AN_INSPECTION)
