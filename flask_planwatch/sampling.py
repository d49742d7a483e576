"""Which captures are worth an inspection now."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic, perf_counter

from .settings import Settings
from .tally import Tally

#: Of the inspections that one process may make, one in so many may run the statement once more with
#: EXPLAIN ANALYZE: that costs as much as the statement itself.
INSPECTIONS_PER_ANALYSIS = 6

#: For each inspection in a minute, so many characters may be read only to see that the same
#: statement was inspected with other literals. 1000 of them take up to 3 ms.
CHARACTERS_PER_INSPECTION = 10_000

#: A shorter text counts as so many characters: all that is done for it besides takes as long.
MIN_CHARACTERS = 2_000


class Budget:
    """So many in a minute, with unused ones saved up for a minute. Safe to use from threads."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = monotonic) -> None:
        self._per_minute = per_minute
        self._allowance = per_minute
        self._refilled = clock()
        self._clock = clock
        self._lock = threading.RLock()

    def take(self, amount: float = 1, *, now: float | None = None) -> bool:
        """Take so many; False if the minute's are used up. `now` saves a look at the clock."""
        if self._per_minute == float("inf"):
            return True
        with self._lock:
            now = self._clock() if now is None else now
            # A clock may be set back; a budget below 1 is one in some minutes.
            earned = max(0.0, now - self._refilled) * self._per_minute / 60
            self._allowance = min(max(1.0, self._per_minute), self._allowance + earned)
            self._refilled = now
            if self._allowance < amount:
                return False
            self._allowance -= amount
            return True

    def give_back(self) -> None:
        """Return one that was not used."""
        with self._lock:
            self._allowance += 1


class Sampler:
    """Decides for one app in one process. Safe to use from several threads.

    `clock` is that of the hooks. `captured` are all executions, and `total_ms` is what they took;
    the hooks count them.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = perf_counter) -> None:
        self.interval = settings.sample_interval
        self.captured = 0
        self.total_ms = 0.0
        self.over_budget = 0
        self.analyses = Budget(settings.inspections_per_minute / INSPECTIONS_PER_ANALYSIS, clock)
        self._characters = Budget(
            settings.inspections_per_minute * CHARACTERS_PER_INSPECTION, clock
        )
        self.slow_ms = settings.slow_statement_ms
        self._clock = clock
        self._inspections = Budget(settings.inspections_per_minute, clock)

    def spend(self, tally: Tally, now: float | None = None) -> bool:
        """Take one inspection from the minute's budget, and start the statement's interval.

        Returns False, and counts it, if the budget is used up: the statement stays due.
        """
        now = self._clock() if now is None else now
        if not self._inspections.take(now=now):
            self.over_budget += 1
            return False
        # Without an interval it is due even for one that ended earlier and comes later here.
        if self.interval:
            tally.next_sample = now + self.interval
        return True

    def may_read(self, text: str) -> bool:
        """Take a text from the minute's budget for what is read and not inspected."""
        return self._characters.take(max(MIN_CHARACTERS, len(text)))

    def give_back(self, tally: Tally | None = None) -> None:
        """Return to the budget what was not used; a tally's statement is due again."""
        self._inspections.give_back()
        if tally is not None:
            tally.next_sample = float("-inf")
