"""How often each statement ran, and how long it took."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Hashable
from dataclasses import dataclass, field
from sys import getsizeof
from weakref import WeakSet

from ..runtime.weak import members
from .location import Origin
from .preparation import Repetition
from .sql_text import COMMENT
from .state_change import may_change_state

#: Statements whose statistics are kept at least; a large app has some thousand. Up to twice as
#: many are, and those that ran least recently go first.
MAX_STATEMENTS = 10_000

#: Bytes of all statistics of a process, with the texts that they are known by.
MAX_SIZE = 24_000_000

#: Bytes that the statistics of a statement take, but for its text, and those that a repetition
#: takes, but for the sets of parameters.
STATISTICS_SIZE = 900
REPETITION_SIZE = 350

#: Statements of more characters are not read. It is twice what SQLAlchemy writes for eight entities
#: with forty columns each. Measured for so many: a list of columns is read in 80 ms of computing,
#: tests that OR joins in half a second, in steps of half a millisecond.
MAX_STATEMENT_SIZE = 100_000

#: So many characters of such a statement stand for it.
_SHOWN_OF_LARGE = 1000

#: Long texts of which is remembered whether they may change the state, by some 100 bytes each.
MAX_LONG_TEXTS = 1000

#: Statements that EXPLAIN takes, as the first word after comments and parentheses.
_EXPLAINABLE = re.compile(
    rf"\A(?:[\s(]++|{COMMENT})*+(?:select|insert|update|delete|merge|with|values|table)\b",
    re.IGNORECASE,
)

#: A longer text is known by its hash, in characters: few statements that run often are longer.
MAX_KEY_LENGTH = 10_000

#: Latest executions of a statement whose times are kept: the fastest of them is what it takes when
#: nothing is in its way, and they are few enough to follow a change.
MAX_RECENT = 10


#: When a statement was sampled that is to be sampled next.
NEVER = float("-inf")


@dataclass(slots=True, weakref_slot=True)
class StatementStatistics:
    """How often one statement ran, how long it took in ms, and when it was `sampled` last.

    `durations` are how long the latest executions of those that `succeeded` waited for the server,
    without what the process computed meanwhile, each in the place of the one MAX_RECENT before it.
    For `slow_wait` seconds after a slow one was sampled, another does not count as slow.
    `repetition` is what is known of it where the driver may prepare it on the
    server, else None. `origin` is where its latest capture came from.
    """

    explainable: bool
    changes_state: bool = False
    sampled: float = NEVER
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
        """How long the latest executions waited for the server, the last one last."""
        # The number first: by then, these are in their places, whatever another thread adds.
        count = self.succeeded
        latest = tuple(self.durations)
        first = count % MAX_RECENT
        return latest[:count] if count < MAX_RECENT else latest[first:] + latest[:first]

    def failed(self, duration_ms: float) -> None:
        """Count an execution that tells nothing of how long the statement takes."""
        self._failed += 1
        self.total_ms += duration_ms


class AllStatistics:
    """The statistics of one engine's statements, by their text as compiled.

    They are kept in two generations: when the recent one is full, it becomes the older one, and the
    older one is forgotten. So the hot path need not keep them in order. When the statistics of all
    engines take too many bytes, all engines begin a new generation. `plain` are those of the recent
    generation of which only the duration is taken: that saves a sixth of what the process takes to
    execute `SELECT 1`. `repeat` tells that repetitions are counted.
    """

    def __init__(self, *, repeat: bool = False) -> None:
        self._size = STATISTICS_SIZE + (REPETITION_SIZE if repeat else 0)
        self.recent: dict[Hashable, StatementStatistics] = {}
        self.plain: dict[str, StatementStatistics] = {}
        self._older: dict[Hashable, StatementStatistics] = {}
        self._any_plain = True
        #: Whether long texts may change the state, by their hashes.
        self._long_texts: dict[int, bool] = {}
        _all.add(self)

    def first_seen(
        self, identity: Hashable, key: str, *, is_ddl: bool
    ) -> tuple[StatementStatistics, str]:
        """Return the statistics of a statement that is not in `recent`, and its text or its start.

        `identity` is its text, with what else tells it from others.
        """
        changes_state = None
        if len(key) > MAX_KEY_LENGTH:
            # The same long text is mostly the same object, whose hash is known.
            identity = hash(identity)
            if len(key) > MAX_STATEMENT_SIZE:
                changes_state = self._may_change_state(key)
                key = f"{key[:_SHOWN_OF_LARGE]} … ({len(key)} characters)"
                identity = (key, changes_state)
            known = self.recent.get(identity)
            if known is not None:
                return known, key
        if changes_state is None:
            changes_state = may_change_state(key)
        explainable = not is_ddl and _EXPLAINABLE.match(key) is not None
        return self.add(identity, StatementStatistics(explainable, changes_state)), key

    def _may_change_state(self, text: str) -> bool:
        """Return `may_change_state` of a long text, once: it takes 7 ms for 94 000 characters."""
        known = self._long_texts.get(hash(text))
        if known is None:
            if len(self._long_texts) >= MAX_LONG_TEXTS:
                self._long_texts.clear()
            known = self._long_texts[hash(text)] = may_change_state(text)
        return known

    def add(self, identity: Hashable, new: StatementStatistics) -> StatementStatistics:
        """Return the statistics of a statement that is not in `recent`; `new` if there is none."""
        with _taken.lock:
            known = self.recent.get(identity)
            if known is None:
                known = self._older.pop(identity, new)
                text = identity[0] if isinstance(identity, tuple) else identity
                _taken.add(self._size + getsizeof(text))
                if len(self.recent) >= MAX_STATEMENTS:
                    self.begin_generation()
                self.recent[identity] = known
            return known

    def begin_generation(self) -> None:
        """Begin a new generation."""
        self._older = self.recent
        self.recent, self.plain = {}, {}

    def add_plain(self, text: str, statistics: StatementStatistics) -> None:
        """Remember that nothing but the durations of this statement is worth a look."""
        with _taken.lock:
            if self._any_plain and text in self.recent:
                self.plain[text] = statistics

    def clear(self) -> None:
        """Forget all statistics."""
        with _taken.lock:
            self.recent, self.plain, self._older = {}, {}, {}

    def allow_plain(self, *, allowed: bool) -> None:
        """Say whether `plain` is filled from now on; if not, each execution is examined."""
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
        """Count the bytes of statistics before they are there."""
        self.size += size
        if self.size > MAX_SIZE // 2:
            self.size = size
            for all_statistics in members(_all):
                all_statistics.begin_generation()


_all: WeakSet[AllStatistics] = WeakSet()
_taken = _Taken()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_taken.renew_lock)
