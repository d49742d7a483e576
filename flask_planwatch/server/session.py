"""PlanWatch's own connection: one for each engine, outside the application's pool.

Every piece of work is one transaction that ends in ROLLBACK. It is READ ONLY and time-limited,
unless a writable trial is asked for by name.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from time import monotonic, perf_counter
from typing import Any, Protocol

from sqlalchemy import create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, PoolProxiedConnection

from ..finding import SkipReason
from ..session_state import NOTHING_SET, SessionState
from .adoption import adopt, refuse_functions, refuse_unknown
from .drivers import Call, known_of, sqlstate_of, transaction_on
from .event_loop import EventLoop, directly
from .transaction import NO_SERVER, ServerError, Transaction

#: Seconds that Engine.dispose() may wait for an EXPLAIN to end: short against its own work.
DISPOSE_PATIENCE = 0.5

#: PlanWatch takes a connection, or keeps one, only if so many are free besides: as many as
#: PostgreSQL keeps for its administrator (superuser_reserved_connections).
FREE_CONNECTIONS = 3

#: Seconds for which the number of free connections is believed.
CHECK_SECONDS = 1.0

#: Connections that are free on the server, for this database, and for this role. What other roles
#: do there is not visible to each role, but how many connections there are is.
_FREE_CONNECTIONS = """
SELECT least(
    current_setting('max_connections')::int
    - current_setting('superuser_reserved_connections')::int
    - coalesce(current_setting('reserved_connections', true), '0')::int
    - (SELECT sum(numbackends) FROM pg_catalog.pg_stat_database WHERE datid <> 0),
    (SELECT d.datconnlimit - s.numbackends FROM pg_catalog.pg_database d
     JOIN pg_catalog.pg_stat_database s ON s.datid = d.oid
     WHERE d.datname = current_database() AND d.datconnlimit >= 0),
    (SELECT r.rolconnlimit - count(a.pid) FROM pg_catalog.pg_roles r
     LEFT JOIN pg_catalog.pg_stat_activity a ON a.usesysid = r.oid
     WHERE r.rolname = session_user AND r.rolconnlimit >= 0 GROUP BY r.rolconnlimit)
)
"""


class Session(Protocol):
    """Opens transactions. The seam between inspection and the server."""

    statement_timeout_ms: int
    lock_timeout_ms: int
    #: The fastest way to the server and back so far, in ms.
    round_trip_ms: float
    #: What is set on the connection that the inspected statement ran on.
    state: SessionState

    @property
    def other_role(self) -> bool:
        """Whether PlanWatch is connected as another role than the application."""

    def plan_like(self, state: SessionState) -> None:
        """Plan from now on as a connection of the application's in this state.

        Raises ServerError if the state is not known.
        """

    def transaction(
        self,
        *,
        writable: bool = False,
        statement_timeout_ms: int | None = None,
        own_state: bool = False,
    ) -> AbstractContextManager[Transaction]:
        """Return a context manager that yields a Transaction and rolls it back.

        It has the settings, the role and the search path of the statement that is being inspected,
        or, with `own_state`, those that a new session of PlanWatch's begins with.
        """


class OwnSession:
    """A connection of PlanWatch's own, opened at first use and held until `close`.

    `url` replaces the engine's URL if it is not None; the driver stays the engine's.
    """

    def __init__(
        self, engine: Engine, *, url: Any, statement_timeout_ms: int, lock_timeout_ms: int
    ) -> None:
        self.statement_timeout_ms = statement_timeout_ms
        self.lock_timeout_ms = lock_timeout_ms
        self.round_trip_ms = float("inf")
        self._engine = self._watched_engine = engine
        if url is not None:
            url = url.set(drivername=engine.url.drivername)
            self._engine = create_engine(url, poolclass=NullPool)
        self._dialect = self._engine.dialect
        self._loop = EventLoop() if self._dialect.is_async else None
        self._call: Call = self._loop.run if self._loop else directly
        self._connection: PoolProxiedConnection | None = None
        #: A weak reference to the driver's connection that the app used last.
        self.app_connection: Callable[[], Any] = lambda: None
        #: What is set on the connection that the inspected statement ran on.
        self.state = NOTHING_SET
        self._shared = False
        self._checked = float("-inf")
        self._may_count = True
        self._let_go = False
        self._ended = False
        self._process = 0

    @property
    def _lock(self) -> threading.Lock:
        # Made at first use: after a fork, gevent may replace what it is made of.
        lock: threading.Lock = self.__dict__.setdefault("_made_lock", threading.Lock())
        return lock

    @contextmanager
    def transaction(
        self,
        *,
        writable: bool = False,
        statement_timeout_ms: int | None = None,
        own_state: bool = False,
    ) -> Iterator[Transaction]:
        """Yield a Transaction, and roll it back however the block ends.

        A connection that the server has dropped since is replaced once. Raises ServerError, with
        SESSION_STATE_UNKNOWN if the application's settings cannot be had here.
        """
        mode = "READ WRITE" if writable else "READ ONLY"
        limits = (
            f"SET LOCAL statement_timeout = {statement_timeout_ms or self.statement_timeout_ms}; "
            f"SET LOCAL lock_timeout = {self.lock_timeout_ms}; "
            "SET LOCAL application_name = 'flask-planwatch'"
        )
        path = "; SET LOCAL search_path TO DEFAULT" if own_state else ""
        with self._lock:
            self._let_go = False
            transaction = self._begin(f"SET TRANSACTION {mode}; {limits}{path}")
            try:
                if not own_state:
                    self._adopt(transaction, limits)
                yield transaction
            finally:
                self._rollback()
                if self._let_go:
                    self._discard()

    def close(self, patience: float = -1) -> None:
        """Give the connection up. Waits `patience` seconds for work under way; -1: as long."""
        if self._connection is not None and self._process != os.getpid():
            # The app disposes of its engine in a forked child before `abandon` was called.
            return
        self._let_go = True
        if not self._lock.acquire(timeout=patience):
            # The work under way closes it at its end.
            return
        try:
            self._discard()
        finally:
            self._lock.release()

    def end(self, patience: float) -> None:
        """Give the connection up for good: later transactions raise ServerError."""
        self._ended = True
        self.close(patience)

    def resume(self) -> None:
        """Allow transactions again after `end`."""
        self._ended = False

    def abandon(self) -> None:
        """Forget, in a forked child, the connection that belongs to the parent process.

        It stays referenced for ever: to collect it would say goodbye on the parent's socket.
        """
        if self._connection is not None:
            _ABANDONED.append(self._connection)
        if self._loop is not None:
            self._loop.abandon()
        self._connection = None
        self.__dict__.pop("_made_lock", None)

    def _begin(self, sql: str) -> Transaction:
        for attempt in ("held", "renewed"):
            connection = self._connect()
            transaction = transaction_on(connection, self._dialect, self._call)
            started = perf_counter()
            try:
                transaction.run(sql)
                self.round_trip_ms = min(self.round_trip_ms, (perf_counter() - started) * 1000)
                self._refuse_last(transaction, sql)
                return transaction
            except ServerError as error:
                self._discard()
                if attempt == "renewed" or error.reason is not SkipReason.CONNECTION_LOST:
                    raise
        raise AssertionError("unreachable")

    def _adopt(self, transaction: Transaction, limits: str) -> None:
        """Set what the application had set, and PlanWatch's own limits once more after it."""
        if adopt(transaction, self.state, other_role=self.other_role):
            transaction.run(limits)

    @property
    def other_role(self) -> bool:
        """Whether PlanWatch is connected as another role than the application."""
        connection = self._connection
        if connection is None or self._engine is self._watched_engine:
            return False
        return self.state.user != known_of(connection.dbapi_connection).get("user")

    def plan_like(self, state: SessionState) -> None:
        """Plan from now on as a connection of the application's in this state.

        Raises ServerError if the state is not known.
        """
        self.state = state
        connects = self._engine is not self._watched_engine
        refuse_unknown(state, self._watched_engine, connects=connects)
        if state.functions:
            with self.transaction(own_state=True) as transaction:
                refuse_functions(transaction, state)

    def _refuse_last(self, transaction: Transaction, begin: str) -> None:
        """Raise ServerError if the app may need the connection: one more, and it is refused."""
        if not self._may_count or monotonic() < self._checked + CHECK_SECONDS:
            return
        try:
            ((free,),) = transaction.fetch(_FREE_CONNECTIONS)
        except ServerError as error:
            if error.reason in NO_SERVER:
                raise
            # Some servers hide this part of the catalog.
            self._may_count = False
            self._rollback()
            transaction.run(begin)
            return
        if free < FREE_CONNECTIONS:
            raise ServerError(SkipReason.SERVER_UNAVAILABLE, "it has hardly a connection left")
        self._checked = monotonic()

    def _connect(self) -> PoolProxiedConnection:
        if self._ended:
            raise ServerError(SkipReason.UNWATCHED)
        if self._shared:
            raise ServerError(SkipReason.SHARED_CONNECTION)
        if self._connection is None:
            try:
                self._connection = self._call(self._open)
                self._process = os.getpid()
                self._checked = float("-inf")
            except ServerError:
                raise
            except Exception as error:
                # The app's own listeners and creator run here, too.
                reason = SkipReason.POOL_LISTENER_FAILED
                if isinstance(error, self._dialect.loaded_dbapi.Error | DBAPIError):
                    reason = SkipReason.SERVER_UNAVAILABLE
                raise ServerError(reason, type(error).__name__, sqlstate_of(error)) from error
        return self._connection

    def _open(self) -> PoolProxiedConnection:
        # recreate() keeps the creator, the arguments and the listeners of the app's pool.
        connection = self._engine.pool.recreate().connect()
        self._refuse_shared(connection)
        connection.rollback()
        # An AUTOCOMMIT engine would make every SET LOCAL void, and nothing READ ONLY.
        adapted: Any = connection.dbapi_connection
        adapted.autocommit = False
        driver: Any = connection.driver_connection
        if hasattr(driver, "prepare_threshold"):
            driver.prepare_threshold = None
        return connection

    def _refuse_shared(self, connection: PoolProxiedConnection) -> None:
        """Raise ServerError if a creator handed out the connection that the app is using.

        A rollback on it would undo the app's work, so it is not even given back.
        """
        if connection.driver_connection is self.app_connection():
            _ABANDONED.append(connection)
            self._shared = True
            raise ServerError(SkipReason.SHARED_CONNECTION)

    def _rollback(self) -> None:
        if self._connection is None:
            return
        try:
            self._call(self._connection.rollback)
        except Exception:  # noqa: BLE001 - a broken connection is replaced at the next use
            self._discard()

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                self._call(connection.invalidate)
            with suppress(Exception):
                self._call(connection.close)
        if self._loop is not None:
            self._loop.close()


#: Connections that are not ours to close: a parent process's, or the app's own.
_ABANDONED: list[PoolProxiedConnection] = []
