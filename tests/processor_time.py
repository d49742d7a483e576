"""A clock for tests that a busy machine does not disturb: it counts what was computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import Pool

from flask_planwatch import listeners


class ProcessorTime:
    """Seconds that the calling thread and the servers of its connections spent on a processor.

    A statement takes the same time by it however many programs compute beside it. Sleeping and
    waiting take none. Where a server's processes cannot be seen, it is an ordinary clock.
    """

    def __init__(self) -> None:
        # The clock that it stands for is compared with it.
        self._began = perf_counter() - thread_time()
        self._spent: dict[int, float] = {}
        self._waiting_counts = False

    def __call__(self) -> float:
        if self._waiting_counts:
            return perf_counter()
        return self._began + thread_time() + sum(map(self._spent_by, list(self._spent)))

    def count_waiting(self) -> None:
        """Be an ordinary clock from now on."""
        self._waiting_counts = True

    def follow(self, connection: Any, record: Any = None) -> None:
        """Count the server's process behind a driver's connection as well."""
        pid = _server_process(connection)
        try:
            local = Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"postgres")
            self._spent[pid] = 0.0
            # What it has spent before is no time that has gone by.
            self._began -= self._spent_by(pid)
        except OSError:
            local = False
        if not local or not self._spent[pid]:
            self.count_waiting()

    def _spent_by(self, pid: int) -> float:
        try:
            nanoseconds = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
            self._spent[pid] = nanoseconds / 1e9
        except OSError:
            # It has ended; its time stays spent.
            pass
        return self._spent[pid]


def _server_process(connection: Any) -> int:
    if hasattr(connection, "get_backend_pid"):
        return connection.get_backend_pid()
    driver = getattr(connection, "driver_connection", connection)
    return driver.info.backend_pid if hasattr(driver, "info") else driver.get_server_pid()


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessorTime]:
    """Have PlanWatch take the time of statements by such a clock."""
    clock = ProcessorTime()
    sa.event.listen(Pool, "connect", clock.follow)
    # It sets nothing on the connections that it looks at.
    observers = listeners._OBSERVERS | {"tests"}
    monkeypatch.setattr(listeners, "_OBSERVERS", observers)
    for module in ("hooks", "server.session"):
        monkeypatch.setattr(f"flask_planwatch.{module}.now", clock)
    try:
        yield clock
    finally:
        sa.event.remove(Pool, "connect", clock.follow)
