"""One execution of a statement with its values, as the hooks hand it to the inspection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple
from weakref import ReferenceType, ref

from sqlalchemy import inspect
from sqlalchemy.engine.interfaces import CacheStats
from sqlalchemy.exc import NoInspectionAvailable

from ..failure import StatementError
from ..finding import Location, SkipReason
from .connection_state import SessionState
from .location import Origin
from .preparation import Preparation
from .sampling import Sampler
from .statistics import StatementStatistics


class Capture(NamedTuple):
    """One execution, with its values: it never leaves capture, worker and inspection.

    It is made on the application's thread, and holds only what cannot be found out later.

    `text` and `parameters` are what the driver got; `escaped` is False if the driver did not look
    for placeholders. `key` is the statement as compiled, the same object for each execution.
    `waited_ms` is what is left of `duration_ms` without what the process computed meanwhile, which
    may have held it up. `rowcount` is the cursor's. `statistics` are those of the statement by now,
    `sampler` counts all statements. `urgent` executions were slow, or failed, and do not wait for
    the interval. `left_out` is the reason why text and parameters are not here, and `size` is what
    the capture takes, in bytes. `client_side` is False for a cursor on the server, which may yield
    more rows. `preparation` is None where the driver prepares nothing. `constructs` are weak
    references to what tells the mapped classes, none for driver-level SQL, `connection` one to the
    driver's, `state` what the application had set on it, `span` the span of OpenTelemetry in which
    the statement ran, None if its trace is not kept. `shown` tells that a panel shows it with its
    values, `listed` that one lists its findings. `tables` are the oids of tables that its result
    comes from, as far as the driver tells.
    """

    text: str
    parameters: Any
    key: str
    escaped: bool
    bind: str | None
    database: str
    duration_ms: float
    waited_ms: float
    rowcount: Any
    origin: Origin | None
    endpoint: str | None
    statistics: StatementStatistics
    sampler: Sampler
    error: StatementError | None
    urgent: bool
    left_out: SkipReason | None
    size: int
    client_side: bool
    preparation: Preparation | None
    constructs: tuple[ReferenceType[Any], ...]
    connection: Any
    state: SessionState
    span: Any
    shown: bool
    listed: bool
    tables: tuple[int, ...]

    @property
    def returned_rows(self) -> int | None:
        """How many rows it returned or changed, None where the driver does not know."""
        return self.rowcount if isinstance(self.rowcount, int) and self.rowcount >= 0 else None

    @property
    def entities(self) -> list[Any]:
        """The mapped classes that it selects from or changes, as far as they are still there."""
        constructs = [reference() for reference in self.constructs]
        found = [construct for construct in constructs if construct is not None]
        return found + [entity for construct in found for entity in _entities_of(construct)]

    @property
    def location(self) -> Location | None:
        """The line of code that ran it."""
        return None if self.origin is None else self.origin.location

    @property
    def failed(self) -> bool:
        """Whether it failed for a reason that means load."""
        return self.error is not None and self.error.means_load


def constructs_of(context: Any) -> tuple[ReferenceType[Any], ...]:
    """Return weak references to the statement, or to the mappers of one that is not kept.

    A statement holds the values that it was made with, and the mapped classes, which may hold the
    app. SQLAlchemy keeps it in its cache as long as the engine and the statement are in use.
    """
    compiled = context.compiled
    if compiled is None:
        return ()
    construct = compiled.statement
    try:
        if context.cache_hit in _CACHED:
            return (ref(construct),)
        return tuple(map(ref, _mappers_of(construct)))
    except TypeError:
        return ()


def _entities_of(construct: Any) -> Iterator[Any]:
    """Yield the mapped classes that a SQLAlchemy construct selects from or changes."""
    description = getattr(construct, "entity_description", None)
    if isinstance(description, dict):
        yield description.get("entity")
    for column in getattr(construct, "column_descriptions", None) or ():
        yield column.get("entity")


def _mappers_of(construct: Any) -> Iterator[Any]:
    """Yield the mappers of the classes: they live as long as these, an alias does not."""
    for entity in _entities_of(construct):
        with suppress(NoInspectionAvailable):
            mapper = getattr(inspect(entity, raiseerr=False), "mapper", None)
            if mapper is not None:
                yield mapper


#: SQLAlchemy has the compiled statement in its cache, from earlier or from now on.
_CACHED = frozenset({CacheStats.CACHE_HIT, CacheStats.CACHE_MISS})
