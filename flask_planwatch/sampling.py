"""Which captures are worth an inspection now."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from .repetition import Repetition
from .settings import Settings

#: Statements whose tallies are kept; a large app has some thousand. The one that came first goes
#: first; if it comes again, it is counted anew.
MAX_STATEMENTS = 10_000


#: Latest executions of a statement whose times are kept: the fastest of them is what it takes when
#: nothing is in its way, and they are few enough to follow a change.
MAX_RECENT = 10

#: Of the inspections that one process may make, one in so many may run the statement once more with
#: EXPLAIN ANALYZE: that costs as much as the statement itself.
INSPECTIONS_PER_ANALYSIS = 6

#: For each inspection in a minute, so many texts may be read only to see that the same statement
#: was inspected with other literals. Reading one takes a good part of what an inspection takes.
READINGS_PER_INSPECTION = 5


@dataclass(slots=True)
class Tally:
    """How often one statement ran, how long it took in ms, and when it may be sampled again.

    `recent` are the latest executions that succeeded. `repetition` is what is known of it where
    the driver may prepare it on the server, else None.
    """

    explainable: bool
    calls: int = 0
    total_ms: float = 0.0
    next_sample: float = float("-inf")
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_RECENT))
    repetition: Repetition | None = None


class Budget:
    """So many in a minute, with unused ones saved up for a minute. Safe to use from threads."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = monotonic) -> None:
        self._per_minute = per_minute
        self._allowance = per_minute
        self._refilled = clock()
        self._clock = clock
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take one; False if the minute's are used up."""
        if self._per_minute == float("inf"):
            return True
        with self._lock:
            now = self._clock()
            # A clock may be set back; a budget below 1 is one in some minutes.
            earned = max(0.0, now - self._refilled) * self._per_minute / 60
            self._allowance = min(max(1.0, self._per_minute), self._allowance + earned)
            self._refilled = now
            if self._allowance < 1:
                return False
            self._allowance -= 1
            return True

    def give_back(self) -> None:
        """Return one that was not used."""
        with self._lock:
            self._allowance += 1


class Sampler:
    """Decides for one app in one process. Safe to use from several threads."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = monotonic) -> None:
        self.interval = settings.sample_interval
        self.captured = 0
        self.total_ms = 0.0
        self.over_budget = 0
        self.analyses = Budget(settings.inspections_per_minute / INSPECTIONS_PER_ANALYSIS, clock)
        self.readings = Budget(settings.inspections_per_minute * READINGS_PER_INSPECTION, clock)
        self._slow_ms = settings.slow_statement_ms
        self._inspections = Budget(settings.inspections_per_minute, clock)
        self._clock = clock

    def count(self, tally: Tally, duration_ms: float, *, failed: bool) -> None:
        """Count one execution."""
        self.captured += 1
        self.total_ms += duration_ms
        tally.calls += 1
        tally.total_ms += duration_ms
        if not failed:
            tally.recent.append(duration_ms)

    def is_slow(self, duration_ms: float) -> bool:
        """Whether an execution took too long to wait for the interval."""
        return duration_ms > self._slow_ms

    def is_due(self, tally: Tally, duration_ms: float, *, urgent: bool = False) -> bool:
        """Whether the interval is over, or the execution was slow or urgent enough not to wait."""
        return urgent or self.is_slow(duration_ms) or self._clock() >= tally.next_sample

    def spend(self, tally: Tally) -> bool:
        """Take one inspection from the minute's budget, and start the statement's interval.

        Returns False, and counts it, if the budget is used up: the statement stays due.
        """
        if not self._inspections.take():
            self.over_budget += 1
            return False
        self.wait(tally)
        return True

    def wait(self, tally: Tally) -> None:
        """Start the statement's interval."""
        tally.next_sample = self._clock() + self.interval

    def give_back(self, tally: Tally | None = None) -> None:
        """Return to the budget what was not used; a tally's statement is due again."""
        self._inspections.give_back()
        if tally is not None:
            tally.next_sample = float("-inf")


class Tallies:
    """The tallies of one engine's statements, by their text as compiled."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}
        self._lock = threading.Lock()
        self.get = self._tallies.get

    def add(self, key: str, *, explainable: bool) -> Tally:
        """Start to count a statement; the oldest gives way if there are too many."""
        with self._lock:
            while key not in self._tallies and len(self._tallies) >= MAX_STATEMENTS:
                del self._tallies[next(iter(self._tallies))]
            return self._tallies.setdefault(key, Tally(explainable))

    def renew_lock(self) -> None:
        """Replace, in a forked child, a lock that a thread of the parent may hold."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._tallies)
