"""Remembers what was read of a text, so that the same text is read once.

Bounded by the characters of all texts together: what is read of a text grows with its length.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Generic, TypeVar

Read = TypeVar("Read")


def remembered(characters: int) -> Callable[[Callable[[str], Read]], Memory[Read]]:
    """Return a decorator for a pure function of a text; see Memory."""

    def decorator(read: Callable[[str], Read]) -> Memory[Read]:
        return Memory(read, characters)

    return decorator


class Memory(Generic[Read]):
    """A function with the results of its latest texts, of so many characters at most.

    Two generations take turns: when the young one is full, the old one is forgotten, and with it
    what was not asked for since. A text that does not fit into a generation is read each time.
    That needs no lock: if threads meet here, a text is read twice.
    """

    def __init__(self, read: Callable[[str], Read], characters: int) -> None:
        self._read = read
        self._room = characters // 2
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
        if len(text) <= self._room and text not in self._young:
            self._keep(text, result)
        return result

    def _keep(self, text: str, result: Read) -> None:
        if self._taken + len(text) > self._room:
            self._old, self._young, self._taken = self._young, {}, 0
        self._young[text] = result
        self._taken += len(text)

    @property
    def held(self) -> int:
        """The characters of all texts that are remembered."""
        return sum(map(len, {**self._old, **self._young}))
