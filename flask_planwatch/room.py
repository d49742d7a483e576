"""How many bytes PlanWatch remembers: each room is shared by all apps and engines of a process.

What is remembered varies in size by a factor of thousands, so that a number of entries bounds
nothing.
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

Key = TypeVar("Key")
Value = TypeVar("Value")
Default = TypeVar("Default")

#: Bytes of a place in a container and of the reference in it, with what an allocator rounds up.
PLACE = 100

#: Objects that are measured before other threads may run.
_STEP = 500

#: What is there in any case, whoever refers to it.
_COMMON = (type, ModuleType, FunctionType, BuiltinFunctionType)


def size_of(value: object, most: int) -> int:
    """Return the bytes of a value with all that it refers to, looking no further than `most`.

    What two values share counts for both. For PlanWatch's thread: it takes some ms for a large one.
    """
    seen: set[int] = set()
    size, waiting = 0, [value]
    while waiting and size <= most:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, _COMMON):
            continue
        seen.add(id(one))
        size += getsizeof(one)
        waiting.extend(gc.get_referents(one))
        if len(seen) % _STEP == 0:
            give_way()
    return size


class Room:
    """A number of bytes for all mappings of a kind. Safe to use from several threads."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._mappings: weakref.WeakSet[Latest[object, object]] = weakref.WeakSet()
        self._taken = 0
        # A signal handler or a finaliser may come in the midst.
        self.lock = threading.RLock()
        _ROOMS.add(self)

    @property
    def taken(self) -> int:
        """The bytes that are in use."""
        with self.lock:
            self._taken = sum(one.taken for one in list(self._mappings))
            return self._taken

    def enter(self, mapping: Latest[object, object]) -> None:
        """Let a mapping have a part of it, as long as it lives."""
        with self.lock:
            self._mappings.add(mapping)

    def make_place(self, size: int) -> None:
        """Take so many bytes; the largest mapping forgets what it used longest ago, if need be."""
        with self.lock:
            self._taken += size
            # Those of mappings that have gone are counted until here.
            while self._taken > self.size and self.taken > self.size:
                max(list(self._mappings), key=lambda one: one.taken).forget_oldest()


class Latest(Generic[Key, Value]):
    """What was used last, by its key: as much as has place in a room, and at most `count`."""

    def __init__(self, room: Room, count: int | None = None) -> None:
        self.taken = 0
        self._room = room
        self._count = count
        self._kept: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        room.enter(self)  # type: ignore[arg-type]

    @overload
    def get(self, key: Key) -> Value | None: ...
    @overload
    def get(self, key: Key, default: Default) -> Value | Default: ...
    def get(self, key: Key, default: object = None) -> object:
        """Return what is kept under a key, which is used by that."""
        with self._room.lock:
            kept = self._kept.get(key)
            if kept is None:
                return default
            self._kept.move_to_end(key)
            return kept[0]

    def keep(self, key: Key, value: Value, size: int | None = None) -> None:
        """Keep a value of so many bytes, if the room has as many; by default it is measured."""
        if size is None:
            size = size_of((key, value), self._room.size)
        size += PLACE
        with self._room.lock:
            self.pop(key)
            if size > self._room.size:
                return
            self._kept[key] = (value, size)
            self.taken += size
            self._room.make_place(size)
            while self._count is not None and len(self._kept) > self._count:
                self.forget_oldest()

    def pop(self, key: Key) -> Value | None:
        """Forget what is kept under a key, and return it."""
        with self._room.lock:
            value, size = self._kept.pop(key, (None, 0))
            self.taken -= size
            return value

    def forget_oldest(self) -> None:
        """Forget what was used longest ago."""
        with self._room.lock:
            _, (_, size) = self._kept.popitem(last=False)
            self.taken -= size

    def clear(self) -> None:
        """Forget all."""
        with self._room.lock:
            self._kept.clear()
            self.taken = 0

    def items(self) -> list[tuple[Key, Value]]:
        """Return all that is kept, the latest last."""
        with self._room.lock:
            return [(key, value) for key, (value, _) in self._kept.items()]

    def values(self) -> list[Value]:
        """Return the values, the latest last."""
        return [value for _, value in self.items()]

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)


_ROOMS: weakref.WeakSet[Room] = weakref.WeakSet()

#: Bytes of what was found out of statements, plans and relations.
MAX_LEARNT_SIZE = 8_000_000

#: Bytes of the active findings, some kB each.
MAX_FINDINGS_SIZE = 4_000_000

LEARNT, FINDINGS = Room(MAX_LEARNT_SIZE), Room(MAX_FINDINGS_SIZE)


def _after_fork() -> None:
    # A thread of the parent may have held a lock.
    for room in list(_ROOMS):
        room.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
