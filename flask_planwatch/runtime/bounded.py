"""Mappings whose size is bounded in bytes, for all apps and engines of a process together.

Entries differ in size by a factor of thousands, so that a bound on their number is not enough.
"""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections import OrderedDict
from sys import getsizeof
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Generic, TypeVar, overload

from .pause import give_way
from .weak import members

Key = TypeVar("Key")
Value = TypeVar("Value")
Default = TypeVar("Default")

#: Bytes that a container needs for one entry, with what the allocator rounds up.
ENTRY_SIZE = 100

#: Objects that are measured before other threads may run.
_STEP = 500

#: Objects that exist anyway, whoever refers to them.
_COMMON = (type, ModuleType, FunctionType, BuiltinFunctionType)


def size_of(value: object, most: int) -> int:
    """Return the bytes of a value with all that it refers to; stop counting after `most`.

    What two values share counts for both. Only for PlanWatch's thread: a large value takes some ms.
    """
    seen: set[int] = set()
    size, waiting = 0, [value]
    while waiting and size <= most:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, _COMMON):
            continue
        seen.add(id(item))
        size += getsizeof(item)
        waiting.extend(gc.get_referents(item))
        if len(seen) % _STEP == 0:
            give_way()
    return size


class MemoryBound:
    """The most bytes that all mappings of one kind may take. Safe to use from several threads."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._mappings: weakref.WeakSet[RecentlyUsed[object, object]] = weakref.WeakSet()
        self._taken = 0
        # Reentrant: a signal handler or a finaliser may use a mapping, too.
        self.lock = threading.RLock()
        _BOUNDS.add(self)

    @property
    def taken(self) -> int:
        """The bytes that the mappings take."""
        with self.lock:
            self._taken = sum(mapping.taken for mapping in list(self._mappings))
            return self._taken

    def add(self, mapping: RecentlyUsed[object, object]) -> None:
        """Count a mapping as long as it lives."""
        with self.lock:
            self._mappings.add(mapping)

    def take(self, size: int) -> None:
        """Count so many bytes; if they are too many, the largest mapping forgets its oldest."""
        with self.lock:
            self._taken += size
            # `_taken` may still count mappings that are gone; `taken` counts anew.
            while self._taken > self.size and self.taken > self.size:
                largest = max(list(self._mappings), key=lambda mapping: mapping.taken)
                largest.forget_least_recent()


class RecentlyUsed(Generic[Key, Value]):
    """A mapping that forgets its least recently used entries.

    It keeps at most `count`, and no more bytes than the memory bound allows.
    """

    def __init__(self, bound: MemoryBound, count: int | None = None) -> None:
        self.taken = 0
        self._bound = bound
        self._count = count
        self._kept: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        bound.add(self)  # type: ignore[arg-type]

    @overload
    def get(self, key: Key) -> Value | None: ...
    @overload
    def get(self, key: Key, default: Default) -> Value | Default: ...
    def get(self, key: Key, default: object = None) -> object:
        """Return the value of a key, and count the key as used."""
        with self._bound.lock:
            kept = self._kept.get(key)
            if kept is None:
                return default
            self._kept.move_to_end(key)
            return kept[0]

    def keep(self, key: Key, value: Value, size: int | None = None) -> None:
        """Keep a value, unless it is larger than the bound; without `size` it is measured."""
        if size is None:
            size = size_of((key, value), self._bound.size)
        size += ENTRY_SIZE
        with self._bound.lock:
            self.pop(key)
            if size > self._bound.size:
                return
            self._kept[key] = (value, size)
            self.taken += size
            self._bound.take(size)
            while self._count is not None and len(self._kept) > self._count:
                self.forget_least_recent()

    def pop(self, key: Key) -> Value | None:
        """Forget a key, and return its value."""
        with self._bound.lock:
            value, size = self._kept.pop(key, (None, 0))
            self.taken -= size
            return value

    def forget_least_recent(self) -> None:
        """Forget the entry that was used longest ago."""
        with self._bound.lock:
            _, (_, size) = self._kept.popitem(last=False)
            self.taken -= size

    def clear(self) -> None:
        """Forget all."""
        with self._bound.lock:
            self._kept.clear()
            self.taken = 0

    def items(self) -> list[tuple[Key, Value]]:
        """Return all entries, the most recently used last."""
        with self._bound.lock:
            return [(key, value) for key, (value, _) in self._kept.items()]

    def values(self) -> list[Value]:
        """Return the values, the most recently used last."""
        return [value for _, value in self.items()]

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)


_BOUNDS: weakref.WeakSet[MemoryBound] = weakref.WeakSet()

#: Bytes of what was found out of statements, plans and relations.
MAX_LEARNT_SIZE = 8_000_000

#: Bytes of the active findings, some kB each.
MAX_FINDINGS_SIZE = 4_000_000

LEARNT, FINDINGS = MemoryBound(MAX_LEARNT_SIZE), MemoryBound(MAX_FINDINGS_SIZE)


def _after_fork() -> None:
    # A thread of the parent may have held a lock.
    for bound in members(_BOUNDS):
        bound.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
