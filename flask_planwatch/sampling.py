"""Which captures are worth an inspection now."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from .settings import Settings

#: Statements whose tallies are kept; a large app has some thousand. The one that came first goes
#: first; if it comes again, it is counted anew.
MAX_STATEMENTS = 10_000


@dataclass(slots=True)
class Tally:
    """How often one statement ran, how long it took in ms, and when it may be sampled again."""

    explainable: bool
    calls: int = 0
    total_ms: float = 0.0
    next_sample: float = float("-inf")


class Sampler:
    """Decides for one app in one process. Safe to use from several threads."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = monotonic) -> None:
        self.interval = settings.sample_interval
        self.captured = 0
        self.total_ms = 0.0
        self.over_budget = 0
        self._slow_ms = settings.slow_statement_ms
        self._per_minute = settings.inspections_per_minute
        self._allowance = self._per_minute
        self._refilled = clock()
        self._clock = clock
        self._lock = threading.Lock()

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
        with self._lock:
            now = self._clock()
            if self._per_minute != float("inf"):
                # A clock may be set back; a budget below 1 is one inspection in some minutes.
                earned = max(0.0, now - self._refilled) * self._per_minute / 60
                self._allowance = min(max(1.0, self._per_minute), self._allowance + earned)
                self._refilled = now
                if self._allowance < 1:
                    self.over_budget += 1
                    return False
                self._allowance -= 1
            tally.next_sample = now + self.interval
            return True

    def give_back(self, tally: Tally | None = None) -> None:
        """Return to the budget what was not used; a tally's statement is due again."""
        with self._lock:
            self._allowance += 1
            if tally is not None:
                tally.next_sample = float("-inf")

    def renew_lock(self) -> None:
        """Replace, in a forked child, a lock that a thread of the parent may hold."""
        self._lock = threading.Lock()


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
