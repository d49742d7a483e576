"""Remembers what was read of a text, so that the same text is read once.

Bounded by the bytes of all texts together and of what was read of them, which grows with the
characters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, update_wrapper
from sys import getsizeof
from typing import Generic, ParamSpec, TypeVar, cast

from ..runtime.bounded import MemoryBound, RecentlyUsed

Arguments = ParamSpec("Arguments")
Read = TypeVar("Read")


class _Unread:
    """Stands for the result of a text that is not remembered."""


_UNREAD = _Unread()

#: What forgets the results of each function of plans.
_FORGET: list[Callable[[], None]] = []


def kept_for_plans(
    count: int,
) -> Callable[[Callable[Arguments, Read]], Callable[Arguments, Read]]:
    """Return a decorator for a pure function that several parts ask of the same few plans.

    Its latest results are kept until `forget_plans`: those of a large plan take many MB. What each
    one saves is of an inspection of 26 ms, of a join with conditions that no index answers.
    """

    def decorator(read: Callable[Arguments, Read]) -> Callable[Arguments, Read]:
        kept = lru_cache(count)(read)
        _FORGET.append(kept.cache_clear)
        return cast(Callable[Arguments, Read], kept)

    return decorator


def forget_plans() -> None:
    """Forget what was read of plans: the next inspection has another one."""
    for forget in _FORGET:
        forget()


def remembered(size: int, per_character: int) -> Callable[[Callable[[str], Read]], Memory[Read]]:
    """Return a decorator for a pure function of a text; see Memory."""

    return lambda read: Memory(read, size, per_character)


class Memory(Generic[Read]):
    """A function with the results of its latest texts, of so many bytes in all at most.

    A result takes so many bytes for each character of its text. What it raises is not remembered.
    """

    def __init__(self, read: Callable[[str], Read], size: int, per_character: int) -> None:
        self._read = read
        self._per_character = per_character
        self._kept: RecentlyUsed[str, Read] = RecentlyUsed(MemoryBound(size))
        update_wrapper(self, read)

    def __call__(self, text: str) -> Read:
        """Return what the function returns."""
        result = self._kept.get(text, _UNREAD)
        if isinstance(result, _Unread):
            result = self._read(text)
            self._kept.keep(text, result, getsizeof(text) + len(text) * self._per_character)
        return result

    @property
    def held(self) -> int:
        """The bytes of all that is remembered."""
        return self._kept.taken
