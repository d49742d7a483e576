"""How often a statement repeats on one connection, for drivers that prepare what repeats.

psycopg 3 prepares a statement on the server once it was executed more than `prepare_threshold`
times on a connection, and forgets all that it prepared there at each ROLLBACK. asyncpg prepares at
once, and forgets nothing but what SQLAlchemy's cache has no place for. PostgreSQL makes five custom
plans for a prepared statement before it considers a generic one.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..plan.figures import CUSTOM_PLANS, MAX_EXECUTIONS
from ..runtime.bounded import MemoryBound, RecentlyUsed
from ..runtime.interruption import let_through
from .connection_info import info_of
from .numbered import unnamed
from .parameters import MAX_SET_SIZE, NotCopied, copied

#: Bytes of all sets of parameters that are kept in one process.
MAX_SETS_SIZE = 4_000_000

#: Sets of parameters that are kept of one statement: as many as PostgreSQL itself takes its average
#: of, and a few more that come later.
MAX_SETS = 8

#: Statements that are followed on one connection, those that came last: as many as psycopg and
#: SQLAlchemy's dialect for asyncpg keep prepared (`prepared_max`, `prepared_statement_cache_size`).
MAX_COUNTED = 100

#: The drivers that prepare statements by themselves, as SQLAlchemy names them.
PSYCOPG, ASYNCPG = "psycopg", "asyncpg"

#: Executions of a statement that are followed between two inspections of it: enough for each of
#: some dozen connections to reach the eleventh. Those after them would hardly tell anything new.
MAX_FOLLOWED = 500

#: Whether and why PostgreSQL has to choose a plan.
_LASTING = "the driver keeps it prepared as long as the connection lasts"
_AUTOCOMMIT = "the connection is in AUTOCOMMIT mode"
_WITHOUT_ROLLBACK = "it ran {most} times on one connection without a ROLLBACK"
_COMMITTED = "the transactions that it runs in are committed"
_NOT_COMMITTED = "no transaction that it ran in was committed so far"


class Preparation(NamedTuple):
    """What a capture takes along of a statement that its driver may prepare.

    `threshold` is the driver's. `sets` are different parameters that were seen, `order` which of
    them came one after the other. `most` are the executions on one connection without a ROLLBACK
    between them. `reached` tells that the statement is or can be executed often enough without a
    ROLLBACK for PostgreSQL to choose, and `why` says how that is known, as a template with `most`.
    `names` are those of the parameters if the driver's text has numbers for them.
    """

    driver: str
    threshold: int
    sets: tuple[Any, ...]
    order: bytes
    most: int
    reached: bool
    why: str
    names: tuple[str, ...] | None


@dataclass(slots=True, eq=False)
class Repetition:
    """What is counted of one statement.

    `text` is the hash of the text that the sets of parameters belong to, `size` is what these take,
    in bytes, and `order` which of them came one after the other. `most` are the executions on one
    connection without a ROLLBACK between them; `commits` and `rollbacks` say how transactions ended
    in which it ran. `autocommit` is the connection's mode; `lasting` tells that the driver forgets
    nothing at a ROLLBACK. `due` asks for an inspection before its time, `chosen` tells that there
    was one when PostgreSQL had to choose. `compared` are the executions of which the parameters
    were compared, `followed` those since the last inspection. Once it is `settled`, nothing is left
    to learn. `threshold` is the driver's, None if it prepares nothing.
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
    compared: int = 0
    followed: int = 0
    settled: bool = False
    threshold: int | None = None

    @property
    def followed_enough(self) -> bool:
        """Whether executions need not be followed until the next inspection."""
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
            self.text, self.compared = hash(text), 0
            _SETS.pop(self)
        sets = self.sets
        if not sets:
            self.order, self.size = bytearray(), 0
        self.compared += 1
        if len(self.order) >= MAX_EXECUTIONS:
            return False
        number = next((i for i, kept in enumerate(sets) if _same(kept, parameters)), None)
        new = number is None and len(sets) < MAX_SETS
        if new:
            number = len(sets)
            self.size += size
            _SETS.keep(self, (*sets, parameters), self.size)
        if number is not None:
            self.order.append(number)
        return new

    def preparation(
        self, driver: str, text: str, names: tuple[str, ...] | None
    ) -> Preparation | None:
        """Return what is known by now of the statement with this text.

        None if the driver does not prepare it.
        """
        if self.threshold is None:
            return None
        # The sets may be those of a list of another length.
        same = hash(text) == self.text
        return Preparation(
            driver,
            self.threshold,
            self.sets if same else (),
            bytes(self.order) if same else b"",
            self.most,
            *self._reached(self.threshold),
            names,
        )

    def _reached(self, threshold: int) -> tuple[bool, str]:
        """Return whether PostgreSQL has to choose a plan or will have to, and why."""
        if self.lasting:
            return True, _LASTING
        if self.autocommit:
            return True, _AUTOCOMMIT
        if self.most > threshold + CUSTOM_PLANS:
            return True, _WITHOUT_ROLLBACK
        if self.commits and (not self.rollbacks or self.most > threshold):
            return True, _COMMITTED
        return False, _NOT_COMMITTED


#: The sets of parameters of all statements; those of the statement that ran longest ago go first.
_SETS: RecentlyUsed[Repetition, tuple[Any, ...]] = RecentlyUsed(MemoryBound(MAX_SETS_SIZE))


@dataclass(slots=True, eq=False)
class _Count:
    """The executions of one statement on one connection, since the driver forgot it last."""

    repetition: Repetition
    number: int = 0


@dataclass(slots=True, eq=False, weakref_slot=True)
class _Counts:
    """The executions of each statement on one connection, by the hash of its text.

    `threshold` is the driver's, None if it never prepares. `lasting` tells that it forgets nothing
    at a ROLLBACK.
    """

    threshold: int | None
    lasting: bool
    statements: dict[int, _Count] = field(default_factory=dict)


class Repetitions:
    """What repeats on the connections of one engine; connections are SQLAlchemy's. Does no I/O.

    `running` are the connections on which something was counted that the end of a transaction
    changes. Each watch counts by itself, as several may listen to the connections of one pool.
    """

    def __init__(self) -> None:
        self.running: set[weakref.ref[_Counts]] = set()

    def follow(
        self, connection: Any, key: str, statement: str, parameters: Any, repetition: Repetition
    ) -> bool:
        """Count an execution of a statement; return whether the statement is due.

        It is due when PostgreSQL chooses between its custom and its generic plan, when it is
        committed for the first time, and with new values after that.
        """
        repetition.followed += 1
        pooled = connection.connection
        counts: _Counts = info_of(pooled).get(self) or self._begin_counts(pooled)
        threshold = repetition.threshold = counts.threshold
        if threshold is None:
            return False
        if not counts.statements:
            self.running.add(weakref.ref(counts, self.running.discard))
        count = counts.statements.get(hash(key))
        if count is None:
            count = counts.statements[hash(key)] = _Count(repetition)
            if len(counts.statements) > MAX_COUNTED:
                del counts.statements[next(iter(counts.statements))]
        count.number += 1
        if count.number > repetition.most:
            repetition.most = count.number
            repetition.lasting = counts.lasting
            repetition.autocommit = bool(pooled.dbapi_connection.autocommit)
        # The text of an IN list is another one each time.
        if repetition.compared < MAX_EXECUTIONS or hash(statement) != repetition.text:
            with suppress(NotCopied):
                new = repetition.keep(statement, *copied(parameters, MAX_SET_SIZE))
                repetition.due |= new and repetition.commits > 0
        choice = threshold + CUSTOM_PLANS + 1
        if repetition.most > choice and repetition.compared >= MAX_EXECUTIONS:
            repetition.settled = True
        chosen = repetition.most == choice
        due = repetition.due or (chosen and not repetition.chosen)
        if due:
            repetition.due, repetition.chosen = False, chosen
        return due

    def committed(self, connection: Any) -> None:
        """Count a COMMIT; what is committed for the first time becomes due."""
        counts = self._known_counts(connection)
        for count in counts.statements.values() if counts else ():
            count.repetition.due |= not count.repetition.commits
            count.repetition.commits += 1

    def rolled_back(self, connection: Any) -> None:
        """Forget what ran before a ROLLBACK, as the driver does."""
        counts = self._known_counts(connection)
        if counts is None or counts.lasting or not counts.statements:
            return
        if connection.connection.dbapi_connection.autocommit:
            return
        for count in counts.statements.values():
            count.repetition.rollbacks += 1
        counts.statements.clear()
        self.running.discard(weakref.ref(counts))

    def _begin_counts(self, pooled: Any) -> _Counts:
        adapted = pooled.dbapi_connection
        lasting = hasattr(adapted, "_prepared_statement_cache")
        if lasting:
            threshold = None if adapted._prepared_statement_cache is None else 0
        else:
            threshold = pooled.driver_connection.prepare_threshold
        counts: _Counts = info_of(pooled).setdefault(self, _Counts(threshold, lasting))
        return counts

    def _known_counts(self, connection: Any) -> _Counts | None:
        if connection.closed or connection.invalidated:
            return None
        counts: _Counts | None = info_of(connection.connection).get(self)
        return counts


def parameter_names(context: Any, parameters: Any) -> tuple[str, ...]:
    """Return the names of the parameters of a text with numbers, in the order of the numbers.

    What SQLAlchemy has not named is called by its number.
    """
    names: tuple[str, ...] = ()
    if getattr(context.compiled, "positiontup", None) is not None:
        # The values of a list have names of their own, and numbers after all others.
        given = context.compiled_parameters[0]
        single = dict.fromkeys(name for name in context.compiled.positiontup if name in given)
        names = (*single, *(name for name in given if name not in single))
    count = len(parameters or ())
    if len(names) != count:
        return tuple(map(unnamed, range(1, count + 1)))
    return names


def _same(first: Any, second: Any) -> bool:
    try:
        return bool(first == second)
    except Exception as error:  # noqa: BLE001 - values may compare as they like, and arrays do
        let_through(error)
        return False
