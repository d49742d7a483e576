"""Weak sets that several threads use."""

from __future__ import annotations

from contextlib import suppress
from typing import TypeVar
from weakref import WeakSet

Member = TypeVar("Member")


def members(of: WeakSet[Member]) -> list[Member]:
    """Return the members of a weak set.

    Other threads may add to it meanwhile, for which `list()` raises RuntimeError.
    """
    while True:
        with suppress(RuntimeError):
            return list(of)
