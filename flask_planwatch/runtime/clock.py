"""The time that passes, also where a test stops or moves the clock.

freezegun, hiro and the like replace `time.monotonic` and `time.perf_counter` in each module that
has imported them. In such tests, too, PlanWatch's thread must end and a statement become due again.
So it holds the interpreter's own functions where they do not look.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from types import BuiltinFunctionType

#: Seconds since some moment in the past. They do not go back, unless the operating system does.
now: Callable[[], float] = (
    # Imported while a test has stopped the clock: the operating system has another one.
    partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    if hasattr(time, "clock_gettime") and not isinstance(time.perf_counter, BuiltinFunctionType)
    else partial(time.perf_counter)
)

#: Processor time of all threads of the process so far, in s. To read it
#: takes ten times as long as `now`.
processor_seconds: Callable[[], float] = partial(time.process_time)


def crowding() -> float:
    """Return how many programs share a processor of this machine, at least 1.

    It is the number that wanted one in the last minute. Where there are two for each processor, all
    that is computed takes about twice as long.
    """
    try:
        return max(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0)
    except (AttributeError, OSError):
        # The operating system does not count them.
        return 1.0
