"""Waits for a condition, however busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds after which nobody waits any longer: what takes that long does not happen.
PATIENCE = 240.0


def becomes(condition: Callable[[], object]) -> bool:
    """Whether a condition holds now or soon."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
