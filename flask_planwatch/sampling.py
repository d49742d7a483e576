"""Which captures are worth an inspection now."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from time import monotonic, perf_counter

from .repetition import Repetition
from .settings import Settings

#: Statements whose tallies are kept at least; a large app has some thousand. Up to twice as many
#: are, and those that ran least recently go first.
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

    `recent` are the latest executions that succeeded, in no order. `repetition` is what is known of
    it where the driver may prepare it on the server, else None. `plain` statements are explainable
    and change no state.
    """

    explainable: bool
    changes_state: bool = False
    plain: bool = field(init=False)
    calls: int = 0
    total_ms: float = 0.0
    next_sample: float = float("-inf")
    recent: list[float] = field(default_factory=list)
    repetition: Repetition | None = None

    def __post_init__(self) -> None:
        self.plain = self.explainable and not self.changes_state


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
    """Decides for one app in one process. Safe to use from several threads.

    `clock` is that of the hooks, so that they need not ask it twice.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = perf_counter) -> None:
        self.interval = settings.sample_interval
        self.captured = 0
        self.total_ms = 0.0
        self.over_budget = 0
        self.analyses = Budget(settings.inspections_per_minute / INSPECTIONS_PER_ANALYSIS, clock)
        self.readings = Budget(settings.inspections_per_minute * READINGS_PER_INSPECTION, clock)
        self.slow_ms = settings.slow_statement_ms
        self._clock = clock
        self._inspections = Budget(settings.inspections_per_minute, clock)

    def count(self, tally: Tally, duration_ms: float, *, failed: bool = False) -> None:
        """Count one execution."""
        self.captured += 1
        self.total_ms += duration_ms
        tally.calls += 1
        tally.total_ms += duration_ms
        if failed:
            return
        if len(tally.recent) < MAX_RECENT:
            tally.recent.append(duration_ms)
        else:
            tally.recent[tally.calls % MAX_RECENT] = duration_ms

    def is_slow(self, duration_ms: float) -> bool:
        """Whether an execution took too long to wait for the interval."""
        return duration_ms > self.slow_ms

    def is_due(self, tally: Tally, duration_ms: float, *, urgent: bool = False) -> bool:
        """Whether the interval is over, or the execution was slow or urgent enough not to wait."""
        return urgent or duration_ms > self.slow_ms or self._clock() >= tally.next_sample

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
    """The tallies of one engine's statements, by their text as compiled.

    They are kept in two generations: when there are too many, those that did not run since the last
    time are forgotten. So the hot path need not keep them in order.
    """

    def __init__(self) -> None:
        self.recent: dict[Hashable, Tally] = {}
        self._older: dict[Hashable, Tally] = {}
        self._lock = threading.Lock()

    def add(self, identity: Hashable, new: Tally) -> Tally:
        """Return the tally of a statement that is not in `recent`; `new` if there is none."""
        with self._lock:
            known = self.recent.get(identity) or self._older.pop(identity, new)
            if len(self.recent) >= MAX_STATEMENTS:
                self.recent, self._older = {}, self.recent
            self.recent[identity] = known
            return known

    def renew_lock(self) -> None:
        """Replace, in a forked child, a lock that a thread of the parent may hold."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.recent) + len(self._older)
