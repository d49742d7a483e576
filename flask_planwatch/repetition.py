"""How often a statement repeats on one connection, for drivers that prepare what repeats.

psycopg 3 prepares a statement on the server once it was executed more than `prepare_threshold`
times on a connection, and forgets all that it prepared there at each ROLLBACK. asyncpg prepares at
once, and forgets nothing but what SQLAlchemy's cache has no place for. PostgreSQL makes five custom
plans for a prepared statement before it considers a generic one.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .connection_notes import notes_of
from .interruption import let_through
from .room import Latest, Room

#: Executions of a prepared statement with plans of their own, before PostgreSQL compares: the five
#: of choose_custom_plan() in src/backend/utils/cache/plancache.c.
CUSTOM_PLANS = 5

#: Bytes of all sets of parameters that are kept in one process.
MAX_SETS_SIZE = 4_000_000

#: Sets of parameters that are kept of one statement: as many as PostgreSQL itself takes its average
#: of, and a few more that come later.
MAX_SETS = 8

#: Executions whose order is remembered, in a byte each; the choice is made at the eleventh.
MAX_ORDER = 50

#: Statements that are followed on one connection, those that came last: as many as psycopg and
#: SQLAlchemy's dialect for asyncpg keep prepared (`prepared_max`, `prepared_statement_cache_size`).
MAX_SPANS = 100

#: The drivers that prepare statements by themselves, as SQLAlchemy names them.
PSYCOPG, ASYNCPG = "psycopg", "asyncpg"

#: Executions whose parameters are looked at: those that match no set that is kept tell nothing.
MAX_LOOKS = MAX_ORDER

#: Executions of a statement that are followed between two inspections of it: enough for each of
#: some dozen connections to reach the eleventh. Those after them would hardly tell anything new.
MAX_FOLLOWED = 500


class Preparation(NamedTuple):
    """What a capture takes along of a statement that its driver may prepare.

    `sets` are different parameters that were seen, `order` which of them came one after the other.
    `names` are those of the parameters if the driver's text has numbers for them. All else is as in
    a Repetition.
    """

    driver: str
    threshold: int
    sets: tuple[Any, ...]
    order: bytes
    most: int
    commits: int
    rollbacks: int
    autocommit: bool
    lasting: bool
    names: tuple[str, ...] | None = None

    @property
    def reached(self) -> bool:
        """Whether the statement is or can be executed often enough without a ROLLBACK."""
        return self._reason[0]

    @property
    def why(self) -> str:
        """Why, in words."""
        return self._reason[1]

    @property
    def _reason(self) -> tuple[bool, str]:
        """Whether it is reached, and why."""
        if self.lasting:
            return True, "the driver keeps it prepared as long as the connection lasts"
        if self.autocommit:
            return True, "the connection is in AUTOCOMMIT mode"
        if self.most > self.threshold + CUSTOM_PLANS:
            return True, f"it ran {self.most} times on one connection without a ROLLBACK"
        if self.commits and (not self.rollbacks or self.most > self.threshold):
            return True, "the transactions that it runs in are committed"
        return False, "no transaction that it ran in was committed so far"


@dataclass(slots=True, eq=False)
class Repetition:
    """What is counted of one statement.

    `lasting` tells that the driver forgets nothing at a ROLLBACK.
    `most` are its executions on one connection without a ROLLBACK between them; `commits` and
    `rollbacks` say how transactions ended in which it ran. `due` asks for an inspection before its
    time, `chosen` tells that there was one when PostgreSQL had to choose. `looks` are the
    executions whose parameters were compared, `followed` those since the last inspection. Once it
    is `settled`, nothing is left to learn. `threshold` is the driver's. `text` is the hash of the
    statement that the sets of parameters belong to, and `size` is what these take, in bytes.
    """

    text: int = 0
    size: int = 0
    order: bytearray = field(default_factory=bytearray)
    most: int = 0
    commits: int = 0
    rollbacks: int = 0
    autocommit: bool = False
    lasting: bool = False
    due: bool = False
    chosen: bool = False
    looks: int = 0
    followed: int = 0
    settled: bool = False
    threshold: int | None = None

    @property
    def rests(self) -> bool:
        """Whether executions need not be followed, until the next inspection at least."""
        return self.settled or self.followed >= MAX_FOLLOWED

    @property
    def sets(self) -> tuple[Any, ...]:
        """The different sets of parameters that are kept: none, if others needed the place."""
        return _SETS.get(self, ())

    def keep(self, text: str, parameters: Any, size: int) -> bool:
        """Remember parameters of so many bytes that are new, and return whether they are.

        Of an IN list, those of its latest length are kept.
        """
        if hash(text) != self.text:
            self.text, self.looks = hash(text), 0
            _SETS.pop(self)
        sets = self.sets
        if not sets:
            self.order, self.size = bytearray(), 0
        self.looks += 1
        if len(self.order) >= MAX_ORDER:
            return False
        number = next((i for i, one in enumerate(sets) if _same(one, parameters)), None)
        new = number is None and len(sets) < MAX_SETS
        if new:
            number = len(sets)
            self.size += size
            _SETS.keep(self, (*sets, parameters), self.size)
        if number is not None:
            self.order.append(number)
        return new

    def preparation(self, driver: str, threshold: int, names: Sequence[str] | None) -> Preparation:
        """Return what is known by now."""
        return Preparation(
            driver,
            threshold,
            self.sets,
            bytes(self.order),
            self.most,
            self.commits,
            self.rollbacks,
            self.autocommit,
            self.lasting,
            tuple(names or ()) if driver == ASYNCPG else None,
        )


#: The sets of parameters of all statements; those of the statement that ran longest ago go first.
_SETS: Latest[Repetition, tuple[Any, ...]] = Latest(Room(MAX_SETS_SIZE))


class _Spans:
    """What runs on one connection: executions of each statement, and when the driver prepares.

    `threshold` is None if it never does.
    """

    __slots__ = ("__weakref__", "executions", "lasting", "threshold")

    def __init__(self, threshold: int | None, *, lasting: bool) -> None:
        self.threshold = threshold
        self.lasting = lasting
        #: By the hash of the text, which may be long.
        self.executions: dict[int, _Span] = {}


class _Span:
    """The executions of one statement on one connection, since the driver forgot it last."""

    __slots__ = ("number", "repetition")

    def __init__(self, repetition: Repetition) -> None:
        self.number = 0
        self.repetition = repetition


class Repetitions:
    """What repeats on the connections of one engine; connections are SQLAlchemy's. Does no I/O.

    `running` are the connections on which something was counted that the end of a transaction
    changes. Each watch counts by itself, as several may listen to the connections of one pool.
    """

    def __init__(self) -> None:
        self.running: set[weakref.ref[_Spans]] = set()

    def count(self, connection: Any, key: str, repetition: Repetition) -> int | None:
        """Count an execution; return the driver's threshold, None if it never prepares."""
        pooled = connection.connection
        spans: _Spans = notes_of(pooled).get(self) or self._new_spans(pooled)
        if spans.threshold is None:
            return None
        if not spans.executions:
            self.running.add(weakref.ref(spans, self.running.discard))
        span = spans.executions.get(hash(key))
        if span is None:
            span = spans.executions[hash(key)] = _Span(repetition)
            if len(spans.executions) > MAX_SPANS:
                del spans.executions[next(iter(spans.executions))]
        span.number += 1
        if span.number > repetition.most:
            repetition.most = span.number
            repetition.lasting = spans.lasting
            repetition.autocommit = bool(pooled.dbapi_connection.autocommit)
        return spans.threshold

    def committed(self, connection: Any) -> list[Repetition]:
        """Count a COMMIT; return the statements that were committed for the first time."""
        spans = self._known_spans(connection)
        if spans is None:
            return []
        first = []
        for span in spans.executions.values():
            if not span.repetition.commits:
                first.append(span.repetition)
            span.repetition.commits += 1
        return first

    def rolled_back(self, connection: Any) -> None:
        """Forget what ran before a ROLLBACK, as the driver does."""
        spans = self._known_spans(connection)
        if spans is None or spans.lasting or not spans.executions:
            return
        if connection.connection.dbapi_connection.autocommit:
            return
        for span in spans.executions.values():
            span.repetition.rollbacks += 1
        spans.executions.clear()
        self.running.discard(weakref.ref(spans))

    def _new_spans(self, pooled: Any) -> _Spans:
        adapted = pooled.dbapi_connection
        lasting = hasattr(adapted, "_prepared_statement_cache")
        if lasting:
            threshold = None if adapted._prepared_statement_cache is None else 0
        else:
            threshold = pooled.driver_connection.prepare_threshold
        spans: _Spans = notes_of(pooled).setdefault(self, _Spans(threshold, lasting=lasting))
        return spans

    def _known_spans(self, connection: Any) -> _Spans | None:
        if connection.closed or connection.invalidated:
            return None
        spans: _Spans | None = notes_of(connection.connection).get(self)
        return spans


def _same(first: Any, second: Any) -> bool:
    try:
        return bool(first == second)
    except Exception as error:  # noqa: BLE001 - values may compare as they like, and arrays do
        let_through(error)
        return False
