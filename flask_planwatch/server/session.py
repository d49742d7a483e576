"""PlanWatch's own connection: one for each engine, outside the application's pool.

Every piece of work is one transaction that ends in ROLLBACK. It is READ ONLY and time-limited,
unless a writable trial is asked for by name.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from sqlalchemy import create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from ..clock import now
from ..finding import SkipReason
from ..session_state import NOTHING_SET, SessionState
from .adoption import adopt, refuse_functions, refuse_unknown
from .client_side import LITERAL_ONLY, LiteralOnly, Psycopg2Transaction
from .connection import OwnConnection, open_at, open_like
from .drivers import (
    AsyncpgTransaction,
    Call,
    DriverTransaction,
    PsycopgTransaction,
    known_of,
    sqlstate_of,
)
from .event_loop import EventLoop, directly
from .instrumentation import unobserved
from .transaction import NO_SERVER, ServerError, Transaction

#: Seconds that Engine.dispose() may wait for what PlanWatch is doing to have failed: nobody notices
#: them, and a thread that computes gives way within some ms.
DISPOSE_PATIENCE = 0.04

#: Connections that PlanWatch holds to one database, for all apps and engines of a process together.
MAX_CONNECTIONS = 2

#: PlanWatch takes a connection, or keeps one, only if so many are free besides: as many as
#: PostgreSQL keeps for its administrator (superuser_reserved_connections).
FREE_CONNECTIONS = 3

#: Seconds for which the number of free connections is believed.
CHECK_SECONDS = 1.0

#: Lets the server end what it plans or builds when its client has gone, which it else sees at the
#: end only.
#: PostgreSQL knows no way to look for a client on Windows, and refuses the setting there.
_LOOK_FOR_CLIENT = (
    "SELECT pg_catalog.set_config('client_connection_check_interval', '100', true) "
    "WHERE pg_catalog.version() !~* 'windows|mingw|visual c'"
)

#: How a driver does what a transaction of PlanWatch's needs.
_TRANSACTIONS: dict[str, type[DriverTransaction]] = {
    "psycopg2": Psycopg2Transaction,
    "psycopg": PsycopgTransaction,
    "asyncpg": AsyncpgTransaction,
}

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
    """A connection of PlanWatch's own, opened at first use and held until it is given up.

    It is opened as the watched engine opens its own, or at `url` if that is not None; the driver
    stays the engine's. The engine itself is not kept alive.
    """

    def __init__(
        self, engine: Engine, *, url: Any, statement_timeout_ms: int, lock_timeout_ms: int
    ) -> None:
        self.statement_timeout_ms = statement_timeout_ms
        self.lock_timeout_ms = lock_timeout_ms
        self.round_trip_ms = float("inf")
        self._watched_engine = weakref.ref(engine)
        self._own_engine = None
        if url is not None:
            url = url.set(drivername=engine.url.drivername)
            self._own_engine = create_engine(url, poolclass=NullPool)
        #: Which database it is: no more than so many connections are held to one.
        self.database = _database(engine.url if url is None else url)
        self._loop = EventLoop() if engine.dialect.is_async else None
        self._call: Call = self._loop.run if self._loop else directly
        self._connection: OwnConnection | None = None
        #: One that is being opened: listeners of the application's may be at work on it.
        self._opening: OwnConnection | None = None
        self._finalizer: Any = None
        #: When it was used last.
        self.used = float("-inf")
        #: Tells whether a connection of the driver's is one of the application's.
        self.is_applications: Callable[[Any], bool] = lambda driver: False
        #: A weak reference to the driver's connection that the app used last.
        self.app_connection: Callable[[], Any] = lambda: None
        #: What is set on the connection that the inspected statement ran on.
        self.state = NOTHING_SET
        #: What the server refused once is not sent to it again on the next connection.
        self.literal_only = LiteralOnly()
        self._shared = False
        self._checked = float("-inf")
        self._may_count = True
        self._let_go = False
        self._ended = False
        _SESSIONS.add(self)

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
        limits = [
            f"SET LOCAL statement_timeout = {statement_timeout_ms or self.statement_timeout_ms}",
            f"SET LOCAL lock_timeout = {self.lock_timeout_ms}",
            "SET LOCAL application_name = 'flask-planwatch'",
        ]
        limits.append(_LOOK_FOR_CLIENT)
        path = ["SET LOCAL search_path TO DEFAULT"] if own_state else []
        with self._lock, unobserved():
            self._let_go = False
            transaction = self._begin("READ WRITE" if writable else "READ ONLY", *limits, *path)
            try:
                if not own_state:
                    self._adopt(transaction, limits)
                yield transaction
            finally:
                self._rollback(transaction)
                self.used = now()
                if self._let_go or self._ended:
                    self._discard()

    @property
    def held(self) -> bool:
        """Whether a connection is open."""
        connection = self._connection
        return connection is not None and not connection.gone

    def close(self) -> None:
        """Give the connection up once the work under way is done; the next use opens another."""
        self._let_go = True
        # Who has the lock sees to it.
        if self._lock.acquire(blocking=False):
            try:
                self._discard()
            finally:
                self._lock.release()

    def cut(self, patience: float = 0.0) -> None:
        """Give the connection up at once, on any thread, and open none before `resume`.

        Waits up to `patience` seconds for the work under way, which fails, to have ended.
        """
        self._ended = True
        if self._connection is None and not self._lock.locked():
            return
        if not self._lock.acquire(blocking=False):
            for connection in (self._connection, self._opening):
                if connection is not None:
                    connection.hang_up()
            if not (patience and self._lock.acquire(timeout=patience)):
                # It is cut; the work under way cleans up at its end.
                return
        try:
            self._discard()
        finally:
            self._lock.release()

    def resume(self) -> None:
        """Allow transactions again after `cut`."""
        self._ended = False

    def abandon(self) -> None:
        """Forget, in a forked child, the connection that belongs to the parent process.

        It stays referenced for ever: to collect it would say goodbye on the parent's socket.
        """
        if self._connection is not None:
            _ABANDONED.append(self._connection)
            self._finalizer.detach()
        if self._loop is not None:
            self._loop.abandon()
        self._connection = None
        self.__dict__.pop("_made_lock", None)

    def _begin(self, mode: str, *settings: str) -> Transaction:
        for attempt in ("held", "renewed"):
            connection = self._connect()
            kind = _TRANSACTIONS[self._dialect.driver]
            transaction = kind(connection, self._dialect, self._call)
            started = now()
            try:
                transaction.begin(mode, *settings)
                self.round_trip_ms = min(self.round_trip_ms, (now() - started) * 1000)
                if self._refuses_to_count(transaction):
                    transaction.end()
                    transaction.begin(mode, *settings)
                return transaction
            except ServerError as error:
                self._discard()
                if attempt == "renewed" or error.reason is not SkipReason.CONNECTION_LOST:
                    raise
        raise AssertionError("unreachable")

    def _adopt(self, transaction: Transaction, limits: list[str]) -> None:
        """Set what the application had set, and PlanWatch's own limits once more after it."""
        self._refuse_another()
        if adopt(
            transaction,
            self.state,
            other_role=self.other_role,
            other_options=self._is_other("options"),
        ):
            transaction.run(*limits)

    def _refuse_another(self) -> None:
        """Raise ServerError if the application's connection leads elsewhere than PlanWatch's.

        An application may choose for each connection what it connects with.
        """
        connection = self._connection
        if connection is None or self._own_engine is not None or self.state.user is None:
            return
        own = known_of(connection.dbapi_connection)
        for name in ("user", "database", "options"):
            if own.get(name) != getattr(self.state, name):
                detail = f"the application connects with another {name} each time"
                raise ServerError(SkipReason.SESSION_STATE_UNKNOWN, detail)

    @property
    def other_role(self) -> bool:
        """Whether PlanWatch is connected as another role than the application."""
        return self._is_other("user")

    def _is_other(self, name: str) -> bool:
        """Whether PlanWatch's own URL made another connection than the application's."""
        connection = self._connection
        if connection is None or self._own_engine is None:
            return False
        own = known_of(connection.dbapi_connection)
        return bool(getattr(self.state, name) != own.get(name, getattr(NOTHING_SET, name)))

    def plan_like(self, state: SessionState) -> None:
        """Plan from now on as a connection of the application's in this state.

        Raises ServerError if the state is not known.
        """
        self.state = state
        refuse_unknown(state, self._app_engine(), connects=self._own_engine is not None)
        if state.functions:
            with self.transaction(own_state=True) as transaction:
                refuse_functions(transaction, state)

    def _refuses_to_count(self, transaction: Transaction) -> bool:
        """Whether the server does not say how many connections are free, and the question failed.

        Raises ServerError if the app may need PlanWatch's: one more, and it is refused.
        """
        if not self._may_count or now() < self._checked + CHECK_SECONDS:
            return False
        try:
            ((free,),) = transaction.fetch(_FREE_CONNECTIONS)
        except ServerError as error:
            if error.reason in NO_SERVER:
                raise
            # Some servers hide this part of the catalog.
            self._may_count = False
            return True
        if free < FREE_CONNECTIONS:
            raise ServerError(SkipReason.SERVER_UNAVAILABLE, "it has hardly a connection left")
        self._checked = now()
        return False

    def _app_engine(self) -> Engine:
        engine = self._watched_engine()
        if engine is None:
            raise ServerError(SkipReason.UNWATCHED)
        return engine

    @property
    def _dialect(self) -> Any:
        return (self._own_engine or self._app_engine()).dialect

    def _connect(self) -> OwnConnection:
        if self._connection is not None and self._connection.gone:
            self._discard()
        if self._ended:
            raise ServerError(SkipReason.UNWATCHED)
        if self._shared:
            raise ServerError(SkipReason.SHARED_CONNECTION, _IN_USE)
        if self._connection is None:
            _make_room(self)
            connection = self._open()
            connection.info[LITERAL_ONLY] = self.literal_only
            self._connection = connection
            # An app that is let go takes its connection along.
            self._finalizer = weakref.finalize(self, connection.close)
            self._finalizer.atexit = False
            self._checked = float("-inf")
            if self._ended:
                self._discard()
                raise ServerError(SkipReason.UNWATCHED)
        self.used = now()
        return self._connection

    def _open(self) -> OwnConnection:
        try:
            if self._own_engine is not None:
                return self._call(open_at, self._own_engine, self._announced)
            return self._call(open_like, self._app_engine(), self._announced)
        except ServerError:
            raise
        except Exception as error:
            # The app's own listeners run here, too.
            reason = SkipReason.POOL_LISTENER_FAILED
            if isinstance(error, self._dialect.loaded_dbapi.Error | DBAPIError):
                reason = SkipReason.SERVER_UNAVAILABLE
            raise ServerError(reason, type(error).__name__, sqlstate_of(error)) from error
        finally:
            self._opening = None

    def _announced(self, connection: OwnConnection) -> None:
        """Take notice of a connection that is there, before anything is done on it."""
        driver = connection.driver_connection
        if driver is self.app_connection() or self.is_applications(driver):
            # A rollback on it would undo the app's work, so it is not even closed.
            _ABANDONED.append(connection)
            self._shared = True
            raise ServerError(SkipReason.SHARED_CONNECTION, _IN_USE)
        self._opening = connection
        if self._ended:
            connection.hang_up()

    def _rollback(self, transaction: Transaction) -> None:
        if self._connection is None:
            return
        try:
            transaction.end()
        except ServerError:
            # A broken connection, or one that has left its transaction, is replaced at the next
            # use.
            self._discard()

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._finalizer.detach()
            connection.close()
        if self._loop is not None:
            self._loop.close()


def _database(url: Any) -> str:
    """Return which database a URL leads to, whoever connects."""
    host, port = (getattr(url, name) or url.query.get(name) for name in ("host", "port"))
    return f"{host} {port} {url.database or url.query.get('dbname')}"


def _make_room(session: OwnSession) -> None:
    """Close what other sessions hold to the same database, but for those that were used last.

    Apps and engines may be many, as in a test-suite that makes an app for each test. Only
    PlanWatch's one thread uses sessions, so none of these is at work.
    """
    held = [one for one in list(_SESSIONS) if one.held and one.database == session.database]
    held.sort(key=lambda one: one.used)
    for other in held[: max(0, len(held) - MAX_CONNECTIONS + 1)]:
        other.close()


_IN_USE = "its driver hands out a connection that the application uses"

#: All sessions of the process.
_SESSIONS: weakref.WeakSet[OwnSession] = weakref.WeakSet()

#: Connections that are not ours to close: a parent process's, or the app's own.
_ABANDONED: list[OwnConnection] = []
