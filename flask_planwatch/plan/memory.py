"""Remembers what was read of a text, so that the same text is read once.

Bounded by the bytes of all texts together and of what was read of them, which grows with the
characters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, update_wrapper
from sys import getsizeof
from typing import Generic, ParamSpec, TypeVar, cast

from ..room import PLACE

Arguments = ParamSpec("Arguments")
Read = TypeVar("Read")


#: What forgets the results of each function of plans.
_FORGET: list[Callable[[], None]] = []


def kept_for_plans(
    count: int,
) -> Callable[[Callable[Arguments, Read]], Callable[Arguments, Read]]:
    """Return a decorator for a pure function that several parts ask of the same few plans.

    Its latest results are kept until `forget_plans`: those of a large plan take many MB.
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

    def decorator(read: Callable[[str], Read]) -> Memory[Read]:
        return Memory(read, size, per_character)

    return decorator


class Memory(Generic[Read]):
    """A function with the results of its latest texts, of so many bytes in all at most.

    A result takes so many bytes for each character of its text.

    Two generations take turns: when the young one is full, the old one is forgotten, and with it
    what was not asked for since. A text that does not fit into a generation is read each time.
    That needs no lock: if threads meet here, a text is read twice.
    """

    def __init__(self, read: Callable[[str], Read], size: int, per_character: int) -> None:
        self._read = read
        self._room = size // 2
        self._per_character = per_character
        self._old: dict[str, Read] = {}
        self._young: dict[str, Read] = {}
        self._taken = 0
        update_wrapper(self, read)

    def __call__(self, text: str) -> Read:
        """Return what the function returns; what it raises is not remembered."""
        for generation in (self._young, self._old):
            if text in generation:
                result = generation[text]
                break
        else:
            result = self._read(text)
        if text not in self._young:
            self._keep(text, result)
        return result

    def _keep(self, text: str, result: Read) -> None:
        size = self._size(text)
        if size > self._room:
            return
        if self._taken + size > self._room:
            self._old, self._young, self._taken = self._young, {}, 0
        self._young[text] = result
        self._taken += size

    def _size(self, text: str) -> int:
        return getsizeof(text) + len(text) * self._per_character + PLACE

    @property
    def held(self) -> int:
        """The bytes of all that is remembered."""
        return sum(map(self._size, {**self._old, **self._young}))
