"""Lets the application's threads run between the short steps of an inspection.

A thread that computes keeps the interpreter's lock for 5 ms while another one, back from its
database, waits for it. To release the lock for a moment is not enough: mostly, the same thread has
it again before the other one has woken up. So PlanWatch sleeps.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress

#: Seconds of computing after which there is a pause. A pause costs about 0.1 ms (cold CPU caches),
#: so shorter steps would not pay.
STEP = 0.0005

#: The longest pause, in seconds, however long the step was: that is as long as the interpreter
#: lets a thread wait for its lock.
LONGEST = 0.005

_own = threading.local()


def give_way() -> None:
    """Sleep as long as this thread has computed since its last pause, if that was a step.

    So an inspection has the lock for half of its time at most, and takes twice its computing.
    """
    computed = time.thread_time() - getattr(_own, "paused_at", 0.0)
    if computed >= STEP:
        # No inspection is lost for a pause.
        with suppress(Exception):
            rest(min(computed, LONGEST))
        _own.paused_at = time.thread_time()


def rest(seconds: float) -> None:
    """Let other threads run. Not by time.sleep, which tests replace that move the clock."""
    # By its module: gevent may replace it later.
    threading.Event().wait(seconds)
