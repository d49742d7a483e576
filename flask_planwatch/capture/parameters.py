"""Copies of parameters that nothing of the application's can change, with their size in bytes."""

from __future__ import annotations

import ipaddress
from array import array
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from mmap import mmap
from operator import is_
from struct import calcsize
from sys import getsizeof
from types import BuiltinFunctionType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any
from uuid import UUID

from sqlalchemy.sql import quoted_name

from ..finding import SkipReason
from ..runtime.interruption import let_through

#: Parameters of more bytes, and texts of more characters, are not sent to the server again: to plan
#: with them costs what they cost, and the plan repeats them.
MAX_PARAMETER_SIZE = 1_000_000

#: Of a statement that may be prepared, several sets of parameters are kept, but no larger ones, in
#: bytes; nor are those of a statement that changes the state of its connection.
MAX_SET_SIZE = 10_000


class NotCopied(Exception):
    """Parameters that are too large, or that only the application can copy; `reason` says which."""

    def __init__(self, reason: SkipReason) -> None:
        super().__init__(reason)
        self.reason = reason


#: Bytes that a small value takes, with its place in a container.
_VALUE_SIZE = 64

#: Types whose values are that small, never change, and refer to nothing of the application's.
_SMALL: frozenset[type[Any]] = frozenset(
    (
        *(float, bool, type(None), UUID, date, timedelta),
        *(ipaddress.IPv4Address, ipaddress.IPv4Interface, ipaddress.IPv4Network),
        *(ipaddress.IPv6Address, ipaddress.IPv6Interface, ipaddress.IPv6Network),
    )
)

#: Types of which the same is true if it is true of their time zone.
_ZONED: frozenset[type] = frozenset({datetime, time})

#: Packages whose time zones are shared, or small. One of the application's may hold anything.
_ZONES = frozenset({"datetime", "dateutil", "psycopg2", "pytz", "zoneinfo"})

#: Types of which the same is true, except for the size.
_SIZED: frozenset[type] = frozenset({bytes, int, Decimal})

#: Integers between these are small.
_LEAST, _MOST = -(2**64), 2**64

#: Types whose values never change; neither do those of types that inherit from them, as long as
#: they have no attributes of their own.
_IMMUTABLE = (str, bytes, int, float, Decimal, date, time, timedelta, UUID)

#: Types that give out views of memory: as long as somebody has such a view, the application can
#: neither close nor resize what it is a view of.
_BUFFERS = (memoryview, bytearray, mmap, array)

#: What a driver's wrapper, such as psycopg2's Json, remembers of the application's connection.
_CONNECTIONS = frozenset({"_conn", "conn"})

#: Values inside values are followed this deep: drivers nest a few arrays, documents somewhat more.
_MAX_DEPTH = 40

#: So many containers and objects are looked into, each for some microseconds on the application's
#: thread. Small ones would be thousands within the limit in bytes.
_MAX_VISITS = 2_000

#: A reference to an object, in bytes.
_REFERENCE_SIZE = calcsize("P")


def copied(parameters: Any, limit: int) -> tuple[Any, int]:
    """Return parameters that nothing of the application's can change, and their size in bytes.

    The application may reuse its dict, empty its list, or close what its buffer belongs to.
    Raises NotCopied, and looks no further than at `limit` bytes.
    """
    if not parameters:
        return ({} if isinstance(parameters, dict) else None if parameters is None else ()), 0
    by_name = isinstance(parameters, dict)
    size = _size_of_plain(parameters.values() if by_name else parameters, limit)
    if size is None:
        return _copied(parameters, limit)
    return dict(parameters) if by_name else tuple(parameters), size


def text_size(text: str) -> int:
    """Return the bytes of a text, at most."""
    # A third of the time that getsizeof takes.
    return len(text) if text.isascii() else 4 * len(text)


def _size_of_plain(values: Collection[Any], limit: int) -> int | None:
    """Return the bytes of values that nothing can change, None if there are others.

    Raises NotCopied.
    """
    size = len(values) * _VALUE_SIZE
    if size <= limit:
        for value in values:
            kind = type(value)
            if kind is str:
                size += len(value) if value.isascii() else 4 * len(value)
            elif kind is int and _LEAST < value < _MOST:
                pass
            elif kind in _SIZED:
                size += getsizeof(value)
            elif kind in _ZONED:
                if value.tzinfo is not None and not _is_known_zone(value.tzinfo):
                    return None
            elif kind not in _SMALL:
                return None
    if size > limit:
        raise NotCopied(SkipReason.PARAMETERS_TOO_LARGE)
    return size


def _copied(parameters: Any, limit: int) -> tuple[Any, int]:
    copy = _Copy(limit)
    try:
        copy.size = getsizeof(parameters)
        if isinstance(parameters, dict):
            result: Any = {name: copy.of(value) for name, value in parameters.items()}
        else:
            result = tuple(copy.of(value) for value in parameters)
    except NotCopied:
        raise
    except Exception as error:
        let_through(error)
        # Values may run code of their own when they are read, and other threads may change them.
        raise NotCopied(SkipReason.PARAMETERS_NOT_COPIED) from error
    return result, copy.size


class _Copy:
    """Copies values that may change; raises NotCopied after `limit` bytes.

    An object is kept or copied only if all that it holds is known: PlanWatch would hold it, too.
    """

    def __init__(self, limit: int) -> None:
        self.size = 0
        self._limit = limit
        self._depth = 0
        self._visits = 0
        self._slots: dict[type, tuple[Any, ...]] = {}

    def of(self, value: Any) -> Any:
        """Return a value that nothing can change; the same one if that is so already."""
        if self._plain((value,)):
            return value
        # Not by isinstance(): it asks a proxy, which names the type that it stands for.
        kind = type(value)
        self._visits += 1
        if self._visits > _MAX_VISITS:
            raise NotCopied(SkipReason.PARAMETERS_TOO_LARGE)
        if isinstance(value, _BUFFERS):
            with memoryview(value) as view:
                self._take(view.nbytes + getsizeof(b""))
                return view.tobytes()
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise NotCopied(SkipReason.PARAMETERS_NOT_COPIED)
        result = self._inside(value, kind)
        self._depth -= 1
        return result

    def _inside(self, value: Any, kind: type) -> Any:
        self._take(getsizeof(value))
        # Its __del__ may affect what the application still uses.
        if hasattr(kind, "__del__"):
            raise NotCopied(SkipReason.PARAMETERS_NOT_COPIED)
        if issubclass(kind, Enum):
            if not _belongs_to_module(kind):
                raise NotCopied(SkipReason.PARAMETERS_NOT_COPIED)
            self.of(value._value_)
            return value
        if kind is quoted_name:
            # A name as SQLAlchemy asks the catalog for it.
            return str(value)
        if issubclass(kind, _IMMUTABLE):
            return self._without_attributes(value, kind)
        if issubclass(kind, dict):
            if not self._plain(dict.keys(value)):
                return {self.of(name): self.of(item) for name, item in dict.items(value)}
            if self._plain(dict.values(value)):
                return dict(value)
            return {name: self.of(item) for name, item in dict.items(value)}
        if issubclass(kind, list):
            if self._plain(value):
                return list(value)
            return [self.of(item) for item in list.__iter__(value)]
        if issubclass(kind, tuple):
            items = tuple(map(self.of, tuple.__iter__(value)))
            if kind is tuple or not all(map(is_, items, tuple.__iter__(value))):
                return items
            # A driver may know a named one by its type.
            return self._without_attributes(value, kind)
        if issubclass(kind, set | frozenset):
            return frozenset(map(self.of, value)) if kind is frozenset else set(map(self.of, value))
        if kind is partial:
            keywords = self.of(value.keywords)
            return partial(self.of(value.func), *self.of(value.args), **keywords)
        if _belongs_to_module(value):
            return value
        return self._object(value, kind)

    def _without_attributes(self, value: Any, kind: type) -> Any:
        """Return a value of an immutable type, if it has no attributes besides."""
        zone = value.tzinfo if issubclass(kind, datetime | time) else None
        if zone is not None and not _is_known_zone(zone):
            raise NotCopied(SkipReason.PARAMETERS_NOT_COPIED)
        if getattr(value, "__dict__", None) or any(_filled(value, self._slots_of(kind))):
            raise NotCopied(SkipReason.PARAMETERS_NOT_COPIED)
        return value

    def _object(self, value: Any, kind: type) -> Any:
        """Return a copy of an object, whose attributes nothing can change."""
        if _is_number(value):
            return value
        if kind.__module__.startswith("psycopg2") and not hasattr(value, "__dict__"):
            # psycopg2's own wrappers are made by one argument.
            return kind(self.of(value.adapted))
        slots = self._slots_of(kind)
        if callable(value) or not _is_known(kind, len(slots)):
            raise NotCopied(SkipReason.PARAMETERS_NOT_COPIED)
        copy: Any = object.__new__(kind)
        for slot in _filled(value, slots):
            held = None if slot.__name__ in _CONNECTIONS else self.of(slot.__get__(value))
            slot.__set__(copy, held)
        if kind.__dictoffset__:
            for name, held in value.__dict__.items():
                copy.__dict__[name] = None if name in _CONNECTIONS else self.of(held)
        return copy

    def _slots_of(self, kind: type) -> tuple[Any, ...]:
        """Return the slots of a type; those of the immutable types themselves are no concern."""
        slots = self._slots.get(kind)
        if slots is None:
            slots = self._slots[kind] = tuple(
                slot
                for base in kind.__mro__
                if base not in _IMMUTABLE
                for slot in base.__dict__.values()
                if isinstance(slot, MemberDescriptorType)
            )
        return slots

    def _plain(self, values: Collection[Any]) -> bool:
        """Whether nothing can change any of these values; counts them if so."""
        size = _size_of_plain(values, self._limit)
        if size is not None:
            self._take(size)
        return size is not None

    def _take(self, size: int) -> None:
        self.size += size
        if self.size > self._limit:
            raise NotCopied(SkipReason.PARAMETERS_TOO_LARGE)


def _filled(value: Any, slots: tuple[Any, ...]) -> Iterator[Any]:
    """Yield the slots that have a value."""
    for slot in slots:
        with suppress(AttributeError):
            slot.__get__(value)
            yield slot


def _is_known(kind: type, slots: int) -> bool:
    """Whether objects of a type have nothing but a dict and slots.

    A type that is written in C may have more, which Python does not see.
    """
    # Where Python manages dict and weak references itself, the offsets are negative.
    references = slots + (kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0)
    known = object.__basicsize__ + references * _REFERENCE_SIZE
    return kind.__basicsize__ == known and not kind.__itemsize__


def _is_known_zone(zone: Any) -> bool:
    return type(zone).__module__.partition(".")[0] in _ZONES


def _belongs_to_module(value: Any) -> bool:
    """Whether it is a class or function that its module holds, or a function that holds nothing."""
    if isinstance(value, BuiltinFunctionType):
        return isinstance(value.__self__, ModuleType)
    if isinstance(value, FunctionType):
        held = value.__closure__ or value.__defaults__ or value.__kwdefaults__
        return not held or "<locals>" not in value.__qualname__
    return isinstance(value, type) and "<locals>" not in value.__qualname__


def _is_number(value: Any) -> bool:
    """Whether an object is a number of NumPy's; raises NotCopied if it is another buffer."""
    try:
        with memoryview(value) as view:
            if view.readonly and not view.ndim:
                return True
    except TypeError:
        return False
    raise NotCopied(SkipReason.PARAMETERS_NOT_COPIED)
