"""How often each statement ran, and how long it took."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable
from dataclasses import dataclass, field
from sys import getsizeof
from weakref import WeakSet

from .location import Origin
from .repetition import Repetition

#: Statements whose tallies are kept at least; a large app has some thousand. Up to twice as many
#: are, and those that ran least recently go first.
MAX_STATEMENTS = 10_000

#: Bytes of all tallies of a process, with the texts that they are known by.
MAX_SIZE = 24_000_000

#: What a tally takes with all that is in it and its places, in bytes, but for its text; and what is
#: known of a repetition, but for the sets of parameters.
TALLY_SIZE = 900
REPETITION_SIZE = 350

#: A longer text is known by its hash, in characters: few statements that run often are longer.
MAX_KEY_LENGTH = 10_000

#: Latest executions of a statement whose times are kept: the fastest of them is what it takes when
#: nothing is in its way, and they are few enough to follow a change.
MAX_RECENT = 10


@dataclass(slots=True)
class Tally:
    """How often one statement ran, how long it took in ms, and when it was `sampled` last.

    `durations` are the latest executions of those that `succeeded`, each in the place of the one
    MAX_RECENT before it. For `slow_wait` seconds after a slow one was sampled, another does not
    count as slow. `repetition` is what is known of it where the driver may prepare it on the
    server, else None. `origin` is where its latest capture came from.
    """

    explainable: bool
    changes_state: bool = False
    sampled: float = float("-inf")
    slow_wait: float = 0.0
    succeeded: int = 0
    total_ms: float = 0.0
    durations: list[float] = field(default_factory=lambda: [0.0] * MAX_RECENT)
    repetition: Repetition | None = None
    origin: Origin | None = None
    _failed: int = 0

    @property
    def calls(self) -> int:
        """How often it ran."""
        return self.succeeded + self._failed

    @property
    def recent(self) -> tuple[float, ...]:
        """The latest durations, the last one last."""
        # The number first: by then, these are in their places, whatever another thread adds.
        count = self.succeeded
        latest = tuple(self.durations)
        first = count % MAX_RECENT
        return latest[:count] if count < MAX_RECENT else latest[first:] + latest[:first]

    def failed(self, duration_ms: float) -> None:
        """Count an execution that tells nothing of how long the statement takes."""
        self._failed += 1
        self.total_ms += duration_ms


class Tallies:
    """The tallies of one engine's statements, by their text as compiled.

    They are kept in two generations: when there are too many, those that did not run since the last
    time are forgotten. So the hot path need not keep them in order. When those of all engines take
    too many bytes, all engines begin a new generation. `plain` are those of the recent
    generation of which an execution tells nothing but its duration. `repeat` tells that what
    repeats is followed as well.
    """

    def __init__(self, *, repeat: bool = False) -> None:
        self._size = TALLY_SIZE + (REPETITION_SIZE if repeat else 0)
        self.recent: dict[Hashable, Tally] = {}
        self.plain: dict[str, Tally] = {}
        self._older: dict[Hashable, Tally] = {}
        self._any_plain = True
        _all.add(self)

    def add(self, identity: Hashable, new: Tally) -> Tally:
        """Return the tally of a statement that is not in `recent`; `new` if there is none."""
        with _taken.lock:
            known = self.recent.get(identity)
            if known is None:
                known = self._older.pop(identity, new)
                text = identity[0] if isinstance(identity, tuple) else identity
                _taken.add(self._size + getsizeof(text))
                if len(self.recent) >= MAX_STATEMENTS:
                    self.turn()
                self.recent[identity] = known
            return known

    def turn(self) -> None:
        """Begin a new generation."""
        self._older = self.recent
        self.recent, self.plain = {}, {}

    def add_plain(self, text: str, tally: Tally) -> None:
        """Remember that nothing but the durations of this statement is worth a look."""
        with _taken.lock:
            if self._any_plain and text in self.recent:
                self.plain[text] = tally

    def allow_plain(self, *, allowed: bool) -> None:
        """Say whether there may be plain statements from now on; without, each is looked at."""
        with _taken.lock:
            self._any_plain, self.plain = allowed, {}

    def __len__(self) -> int:
        return len(self.recent) + len(self._older)


class _Taken:
    """The bytes of the recent generations of all engines."""

    def __init__(self) -> None:
        self.size = 0
        self.renew_lock()

    def renew_lock(self) -> None:
        """Replace, in a forked child, a lock that a thread of the parent may hold."""
        # A signal handler or a finaliser may run a statement in the midst of another one.
        self.lock = threading.RLock()

    def add(self, size: int) -> None:
        """Count a tally before it is there."""
        self.size += size
        if self.size > MAX_SIZE // 2:
            self.size = size
            for tallies in list(_all):
                tallies.turn()


_all: WeakSet[Tallies] = WeakSet()
_taken = _Taken()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_taken.renew_lock)
