"""What a share of the database time says: of what all statements of an app took in this process."""

from __future__ import annotations

#: A share says something only once there is so much database time, in ms.
MEANINGFUL_TOTAL_MS = 1000.0

#: A fix that saves less than this share of the database time is worth no ticket: the server would
#: not notice it, and there are at most a hundred that save more.
MIN_SHARE = 0.01

#: That a fix saves little is known only after this much database time, in ms: the statements of a
#: developer's process run once or twice before it ends, with the next change of the code.
LONG_TOTAL_MS = 60_000.0


def share_of(some_ms: float, total_ms: float) -> float | None:
    """Return the share of all time that some statements took, None while that says little."""
    if total_ms < MEANINGFUL_TOTAL_MS:
        return None
    # The total is counted first.
    return min(some_ms / total_ms, 1.0)


def saves_much(saves_ms: float, total_ms: float) -> bool:
    """Whether a fix saves MIN_SHARE of the database time, and of LONG_TOTAL_MS at least."""
    return saves_ms >= MIN_SHARE * max(total_ms, LONG_TOTAL_MS)


def saves_little(saves_ms: float, total_ms: float) -> bool:
    """Whether it is known by now that a fix saves less than MIN_SHARE of the database time."""
    return total_ms >= LONG_TOTAL_MS and not saves_much(saves_ms, total_ms)
