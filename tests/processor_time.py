"""A clock for tests that a busy machine does not disturb: it counts what was computed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, thread_time
from types import FunctionType
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import Pool

from flask_planwatch.inspection import known
from flask_planwatch.plan.tree import Plan
from flask_planwatch.server import builds
from flask_planwatch.server.connecting import listeners
from flask_planwatch.server.session import Session

#: The package that PlanWatch takes the clock's listener to be of.
_PACKAGE = "processor_time"

#: The time for a search, in ms: none of the tests' searches takes that long, on any machine.
_TRIALS_MS = 300_000


class ProcessorTime:
    """Seconds that the calling thread and the servers of its connections spent on a processor.

    A statement takes the same time by it however many programs compute beside it. Sleeping and
    waiting take none. Where a server's processes cannot be seen, it is an ordinary clock.
    """

    def __init__(self) -> None:
        # The clock that it stands for is compared with it.
        self._began = perf_counter() - thread_time()
        self._spent: dict[int, float] = {}
        self._lock = threading.RLock()
        #: Whether it is an ordinary clock, and whether other programs are seen beside it.
        self.counts_waiting = self.sees_others = False

    def __call__(self) -> float:
        if self.counts_waiting:
            return perf_counter()
        with self._lock:
            spent = sum(map(self._spent_by, list(self._spent)))
            return self._began + thread_time() + spent

    def count_waiting(self) -> None:
        """Be an ordinary clock from now on."""
        self.counts_waiting = True

    def see_others(self) -> None:
        """Let PlanWatch see from now on how many programs share a processor of this machine."""
        self.sees_others = True

    def follow(self, connection: Any) -> None:
        """Count the server's process behind a driver's connection as well."""
        pid = _server_process(connection)
        with self._lock:
            self._spent[pid] = 0.0
            # What it has spent before is no time that has gone by.
            before = self._spent_by(pid)
            self._began -= before
        if not before or not _is_local(pid):
            self.count_waiting()

    def _spent_by(self, pid: int) -> float:
        try:
            nanoseconds = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
            self._spent[pid] = nanoseconds / 1e9
        except OSError:
            # It has ended; its time stays spent.
            self._began += self._spent.pop(pid)
            return 0.0
        return self._spent[pid]


def _is_local(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"postgres")
    except OSError:
        return False


def _server_process(connection: Any) -> int:
    if hasattr(connection, "get_backend_pid"):
        return connection.get_backend_pid()
    driver = getattr(connection, "driver_connection", connection)
    return driver.info.backend_pid if hasattr(driver, "info") else driver.get_server_pid()


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessorTime]:
    """Have PlanWatch take the time of statements by such a clock."""
    clock = ProcessorTime()
    monkeypatch.setattr("flask_planwatch.capture.hooks.now", clock)
    # Of what is computed meanwhile, only what the thread itself computes takes any of this time.
    monkeypatch.setattr("flask_planwatch.capture.hooks.processor_seconds", thread_time)
    # No search for an index ends before its time because the machine is busy.
    monkeypatch.setattr(builds, "TRIALS_MS", _TRIALS_MS)
    # What the way to the server takes is waiting.
    on_the_way = Session.round_trip_ms.fget
    monkeypatch.setattr(
        Session,
        "round_trip_ms",
        property(lambda session: on_the_way(session) if clock.counts_waiting else 0.0),
    )
    # So is most of what planning takes on a busy machine; here it takes a tenth of a millisecond.
    planning = Plan.planning_ms.fget
    monkeypatch.setattr(
        Plan,
        "planning_ms",
        property(lambda plan: planning(plan) if clock.counts_waiting else 0.0),
    )
    crowding = known.crowding
    monkeypatch.setattr(known, "crowding", lambda: crowding() if clock.sees_others else 1.0)
    # It sets nothing on the connections that it looks at, as the listeners of tests may.
    follow = FunctionType(_follow.__code__, {"__name__": _PACKAGE}, argdefs=(clock.follow,))
    monkeypatch.setattr(listeners, "OBSERVERS", listeners.OBSERVERS | {_PACKAGE})
    sa.event.listen(Pool, "connect", follow)
    try:
        yield clock
    finally:
        sa.event.remove(Pool, "connect", follow)


def _follow(connection: Any, record: Any, follow: Any = None) -> None:
    follow(connection)
