"""Imports what only an inspection needs, on PlanWatch's thread and at once.

The application starts without it, and does not wait for it. A module that is being imported is
locked, and in a process that is forked meanwhile it would stay so: the child would wait for it for
ever. So a fork waits until all is imported.

Where gevent has made greenlets of threads, all requests would stand still meanwhile: there the
application waits for it when it starts.
"""

from __future__ import annotations

import os
import sys
import threading

#: Seconds without a new module after which a fork waits no longer. The whole import takes less than
#: one, and on a crowded machine more than ten.
_MAX_WAIT = 10.0


def _import_all() -> None:
    """Import all that is imported later than the package: it is one of these, or they import it."""
    from .inspection import inspector  # noqa: F401
    from .report import idle_ignores  # noqa: F401
    from .rules import modules
    from .server import builds, client_side, description, server_side  # noqa: F401
    from .server.connecting import adoption, connection  # noqa: F401

    modules()


class _Loading:
    """Whether all is imported, and what a fork waits for."""

    def __init__(self) -> None:
        self.is_done = False
        self.renew_lock()

    def renew_lock(self) -> None:
        """Replace, in a forked child, a lock that a thread of the parent may hold."""
        self._lock = threading.RLock()
        self._is_held = False

    def load(self) -> None:
        """Import all, unless that is done."""
        if self.is_done:
            return
        with self._lock:
            _import_all()
            self.is_done = True

    def wait(self) -> None:
        """Wait, before a fork, until nothing is being imported."""
        before = -1
        while not self._is_held and len(sys.modules) > before:
            before = len(sys.modules)
            self._is_held = self._lock.acquire(timeout=_MAX_WAIT)

    def go_on(self) -> None:
        """Let imports begin again, in the process that was forked from."""
        if self._is_held:
            self._is_held = False
            self._lock.release()


def threads_are_greenlets() -> bool:
    """Whether gevent has replaced the threads of this process."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


_loading = _Loading()

#: Imports all that only an inspection needs, unless that is done.
load = _loading.load

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_loading.wait,
        after_in_parent=_loading.go_on,
        after_in_child=_loading.renew_lock,
    )
