"""One execution of a statement with its values, as it travels from the hooks to the inspection."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from mmap import mmap
from operator import is_
from sys import getsizeof
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.engine.interfaces import CacheStats

from .finding import Location, SkipReason, StatementError
from .location import Origin
from .repetition import Preparation
from .sampling import Sampler
from .session_state import SessionState
from .tally import Tally


class Capture(NamedTuple):
    """One execution, with its values: it never leaves capture, worker and inspection.

    It is made on the application's thread, so it holds things as they were found there; what can be
    worked out of them later is.

    `text` and `parameters` are what the driver got; `escaped` is False if the driver did not look
    for placeholders. `key` is the statement as compiled, the same object for each execution.
    `rowcount` is the cursor's. `tally` is what is counted of the statement by now, `sampler` what
    is counted of all. `urgent` executions were too slow, or failed, to wait for the interval.
    `left_out` is the reason why text and parameters are not here, and `size` is what the capture
    takes, in bytes. `client_side` is False for a cursor on the server, from which rows may still
    come. `preparation` is None where the driver prepares nothing. `construct` is the SQLAlchemy
    statement, None for driver-level SQL, `connection` a weak reference to the driver's, `state`
    what the application had set on it, `span` the span of OpenTelemetry in which the statement
    ran, None if its trace is not kept.
    """

    text: str
    parameters: Any
    key: str
    escaped: bool
    bind: str | None
    database: str
    duration_ms: float
    rowcount: Any
    origin: Origin | None
    endpoint: str | None
    tally: Tally
    sampler: Sampler
    error: StatementError | None
    urgent: bool
    left_out: SkipReason | None
    size: int
    client_side: bool
    preparation: Preparation | None
    construct: Any
    connection: Any
    state: SessionState
    span: Any

    @property
    def returned_rows(self) -> int | None:
        """How many rows it returned or changed, None where the driver does not know."""
        return self.rowcount if isinstance(self.rowcount, int) and self.rowcount >= 0 else None

    @property
    def location(self) -> Location | None:
        """The line of code that ran it."""
        return None if self.origin is None else self.origin.location

    @property
    def failed(self) -> bool:
        """Whether it failed for a reason that means load."""
        return self.error is not None and self.error.means_load


class _Described(NamedTuple):
    """The mapped classes of a construct, as SQLAlchemy tells them of the construct itself."""

    column_descriptions: list[dict[str, Any]]
    entity_description: dict[str, Any] | None


def construct_of(context: Any) -> Any:
    """Return what was compiled, or what stands for it if SQLAlchemy itself does not keep it.

    A construct holds the values that it was made with.
    """
    compiled = context.compiled
    if compiled is None or context.cache_hit in _CACHED:
        return None if compiled is None else compiled.statement
    construct = compiled.statement
    columns = getattr(construct, "column_descriptions", None) or ()
    changed = getattr(construct, "entity_description", None)
    return _Described(
        [{"entity": column.get("entity")} for column in columns],
        {"entity": changed.get("entity")} if isinstance(changed, dict) else None,
    )


#: SQLAlchemy has the compiled statement in its cache, from earlier or from now on.
_CACHED = frozenset({CacheStats.CACHE_HIT, CacheStats.CACHE_MISS})


class NotCopied(Exception):
    """Parameters that are too large, or that only the application can copy; `reason` says which."""

    def __init__(self, reason: SkipReason) -> None:
        super().__init__(reason)
        self.reason = reason


#: What a value takes in its container, with the object that it is, in bytes.
_VALUE_SIZE = 64

#: Types whose values are that small, never change, and refer to nothing of the application's.
_SMALL: frozenset[type] = frozenset(
    {float, bool, type(None), UUID, datetime, date, time, timedelta}
)

#: Types of which this is true but for the size.
_SIZED: frozenset[type] = frozenset({bytes, int, Decimal})

#: Integers between these are small.
_LEAST, _MOST = -(2**64), 2**64

#: Types whose values never change, with those that inherit from them.
_ATOMS = (str, bytes, int, float, Decimal, date, time, Enum)

#: Types that lend their memory: as long as somebody has such a view, the application can neither
#: close nor resize what is behind it.
_BUFFERS = (memoryview, bytearray, mmap, array)

#: What a driver's wrapper, such as psycopg2's Json, remembers of the application's connection.
_CONNECTIONS = frozenset({"_conn", "conn"})

#: Values inside values are followed this deep: drivers nest a few arrays, documents somewhat more.
_MAX_DEPTH = 40


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
        # Values do as they like when they are looked at, and other threads change them meanwhile.
        raise NotCopied(SkipReason.PARAMETERS_NOT_COPIED) from error
    return result, copy.size


class _Copy:
    """Copies values as far as they may change; raises NotCopied after `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.size = 0
        self._limit = limit
        self._depth = 0

    def of(self, value: Any) -> Any:
        """Return a value that nothing can change; the same one if that is so already."""
        size = _size_of_plain((value,), self._limit)
        if size is not None:
            self._take(size)
            return value
        if isinstance(value, _BUFFERS):
            with memoryview(value) as view:
                self._take(view.nbytes + getsizeof(b""))
                return view.tobytes()
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise NotCopied(SkipReason.PARAMETERS_NOT_COPIED)
        result = self._inside(value, type(value))
        self._depth -= 1
        return result

    def _inside(self, value: Any, kind: type) -> Any:
        self._take(getsizeof(value))
        if isinstance(value, _ATOMS) or callable(value):
            return value
        if isinstance(value, dict):
            return {self.of(name): self.of(one) for name, one in value.items()}
        if isinstance(value, list):
            size = _size_of_plain(value, self._limit)
            if size is None:
                return [self.of(one) for one in value]
            self._take(size)
            return list(value)
        if isinstance(value, tuple):
            # A driver may know a named one by its type.
            items = tuple(map(self.of, value))
            return value if all(map(is_, items, value)) else items
        if isinstance(value, set | frozenset):
            return frozenset(map(self.of, value)) if kind is frozenset else set(map(self.of, value))
        return self._object(value, kind)

    def _object(self, value: Any, kind: type) -> Any:
        """Return an object, or one like it, whose attributes nothing can change."""
        if _lends_memory(value):
            raise NotCopied(SkipReason.PARAMETERS_NOT_COPIED)
        if not hasattr(value, "__dict__") and hasattr(value, "adapted"):
            # psycopg2's own wrappers are made by one argument.
            return kind(self.of(value.adapted))
        attributes = dict(_attributes(value, kind))
        own = {
            name: None if name in _CONNECTIONS else self.of(one) for name, one in attributes.items()
        }
        if all(own[name] is one for name, one in attributes.items()):
            return value
        clone: Any = object.__new__(kind)
        for name, one in own.items():
            object.__setattr__(clone, name, one)
        return clone

    def _take(self, size: int) -> None:
        self.size += size
        if self.size > self._limit:
            raise NotCopied(SkipReason.PARAMETERS_TOO_LARGE)


def _attributes(value: Any, kind: type) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an object itself, in its dict and in slots."""
    yield from getattr(value, "__dict__", {}).items()
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if not name.startswith("__") and hasattr(value, name):
                yield name, getattr(value, name)


def _lends_memory(value: Any) -> bool:
    """Whether an object of an unknown type is a buffer, and more than a number of NumPy's."""
    try:
        with memoryview(value) as view:
            return view.ndim > 0
    except TypeError:
        return False
