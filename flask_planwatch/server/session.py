"""PlanWatch's own connection: one for each engine, outside the application's pool.

Each transaction has time limits and ends in ROLLBACK. It is READ ONLY unless the caller asks for
`writable`.

The application's thread only creates the session. What opens a connection, and what is sent on it,
is imported on PlanWatch's thread.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from ..capture.connection_state import NOTHING_SET, SessionState
from ..capture.driver import known_of, sqlstate_of
from ..failure import ServerError
from ..finding import SkipReason
from ..plan.wording import say
from ..runtime.bounded import LEARNT, RecentlyUsed
from ..runtime.clock import now
from .event_loop import EventLoop, directly
from .instrumentation import unobserved
from .slots import FreeConnections, make_room

if TYPE_CHECKING:
    from ..capture.numbered import Parameters
    from .connecting.adoption import Defaults
    from .connecting.connection import OwnConnection
    from .transaction import Call, Transaction

#: Round trips that are remembered: those of one or two inspections, so that they tell what the
#: network and the process are like now.
_ROUND_TRIPS = 5

#: Seconds that Engine.dispose() waits for PlanWatch's work on a connection that was cut to end. It
#: mostly does within some ms, and dispose() has to return within 50.
DISPOSE_PATIENCE = 0.04

#: Texts that are remembered for one engine because psycopg2 has to write the values into them.
MAX_LITERAL_ONLY = 1000

#: Makes the server stop planning or building as soon as its client is gone. PostgreSQL refuses the
#: setting on Windows.
_LOOK_FOR_CLIENT = (
    "SELECT pg_catalog.set_config('client_connection_check_interval', '100', true) "
    "WHERE pg_catalog.version() !~* 'windows|mingw|visual c'"
)


class Session:
    """PlanWatch's connection for one engine: opened at first use, and kept open.

    To open one would take 1.3 ms more for each inspection (benchmarks/caches.py).
    It is opened as the engine opens its own, or at `url` if that is not None; the driver is the
    engine's. The session does not keep the engine alive.
    """

    def __init__(
        self, engine: Engine, *, url: Any, statement_timeout_ms: int, lock_timeout_ms: int
    ) -> None:
        self.statement_timeout_ms = statement_timeout_ms
        self.lock_timeout_ms = lock_timeout_ms
        #: What the latest round trips to the server took, in ms.
        self._round_trips: deque[float] = deque(maxlen=_ROUND_TRIPS)
        self._watched_engine = weakref.ref(engine)
        self._own_engine = None
        if url is not None:
            url = url.set(drivername=engine.url.drivername)
            self._own_engine = create_engine(url, poolclass=NullPool)
        #: Host, port and database: MAX_CONNECTIONS holds for each.
        self.database = _database(engine.url if url is None else url)
        self._loop = EventLoop() if engine.dialect.is_async else None
        self._call: Call = self._loop.run if self._loop else directly
        self._connection: OwnConnection | None = None
        #: The one that is being opened, while the application's listeners use it.
        self._opening: OwnConnection | None = None
        self._finalizer: Any = None
        #: When the connection began.
        self._opened = float("-inf")
        self._defaults: Defaults | None = None
        #: When it was used last.
        self.used = float("-inf")
        #: Tells whether a connection of the driver's is one of the application's.
        self.is_applications: Callable[[Any], bool] = lambda driver: False
        #: A weak reference to the driver's connection that the app used last.
        self.app_connection: Callable[[], Any] = lambda: None
        #: What is set on the connection that the inspected statement ran on.
        self.state = NOTHING_SET
        #: Hashes of the texts whose values the server takes only as literals. They outlast the
        #: connection: what the server refused once is not sent to it again on the next one. Each
        #: saves the server a statement that fails at each inspection, but no time here.
        self.literal_only: RecentlyUsed[int, bool] = RecentlyUsed(LEARNT, MAX_LITERAL_ONLY)
        #: Whether the driver returned a connection that the application uses.
        self._shared = False
        self._free = FreeConnections()
        #: Whether the connection is closed after the present transaction.
        self._closes = False
        #: Whether no connection may be opened.
        self._ended = False

    @property
    def _lock(self) -> threading.Lock:
        # Created at first use: gevent may patch threading after a fork.
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

        It has the settings, the role and the search path of the inspected statement, or, with
        `own_state`, those with which a session of its role begins. If the server has dropped the
        connection, another is opened, once. Raises ServerError, with SESSION_STATE_UNKNOWN if the
        application's settings cannot be reproduced.
        """
        limits = [
            f"SET LOCAL statement_timeout = {statement_timeout_ms or self.statement_timeout_ms}",
            f"SET LOCAL lock_timeout = {self.lock_timeout_ms}",
            "SET LOCAL application_name = 'flask-planwatch'",
            _LOOK_FOR_CLIENT,
        ]
        path = ["SET LOCAL search_path TO DEFAULT"] if own_state else []
        with self._lock, unobserved():
            self._closes = False
            transaction = self._begin("READ WRITE" if writable else "READ ONLY", *limits, *path)
            try:
                if own_state:
                    self._set_default_path(transaction)
                else:
                    self._adopt(transaction, limits)
                yield transaction
            finally:
                self._rollback(transaction)
                self.used = now()
                if self._closes or self._ended:
                    self._discard()

    def fetch(
        self, sql: str, parameters: Parameters = None, *, own_state: bool = False
    ) -> list[tuple[Any, ...]]:
        """Return the rows of a query of PlanWatch's own, in a transaction of its own."""
        with self.transaction(own_state=own_state) as transaction:
            return transaction.fetch(sql, parameters)

    @property
    def held(self) -> bool:
        """Whether a connection is open."""
        connection = self._connection
        return connection is not None and not connection.gone

    def close(self) -> None:
        """Close the connection when it is no longer in use; the next use opens another."""
        # If it is in use, it is closed after that transaction.
        self._closes = True
        self._discard_unused()

    def cut(self, patience: float = 0.0) -> None:
        """Cut the connection at once, on any thread, and open none before `resume`.

        If it is in use, that work fails. Waits up to `patience` seconds until it has ended.
        """
        self._ended = True
        if self._connection is None and not self._lock.locked():
            return
        if not self._discard_unused():
            for connection in (self._connection, self._opening):
                if connection is not None:
                    connection.hang_up()
            # If it is still in use then, it is closed after that transaction.
            self._discard_unused(patience)

    def _discard_unused(self, patience: float = 0.0) -> bool:
        """Close the connection, and return True, if it is not in use or soon is not."""
        if not self._lock.acquire(blocking=patience > 0, timeout=patience or -1):
            return False
        try:
            self._discard()
        finally:
            self._lock.release()
        return True

    def resume(self) -> None:
        """Allow transactions again after `cut`."""
        self._ended = False

    def abandon(self) -> None:
        """Forget, in a forked child, the parent's connection.

        It stays referenced: if it were collected, the driver would end the parent's session.
        """
        if self._connection is not None:
            _ABANDONED.append(self._connection)
            self._finalizer.detach()
        if self._loop is not None:
            self._loop.abandon()
        self._connection = None
        self.__dict__.pop("_made_lock", None)

    def _begin(self, mode: str, *settings: str) -> Transaction:
        """Begin a transaction, on another connection if the server has dropped this one."""
        try:
            return self._begun(mode, *settings)
        except ServerError as error:
            if error.reason is not SkipReason.CONNECTION_LOST:
                raise
        return self._begun(mode, *settings)

    def _begun(self, mode: str, *settings: str) -> Transaction:
        connection = self._connect()
        kind = _transaction_of(self._dialect.driver)
        transaction = kind(connection, self._dialect, self._call, self.literal_only)
        started = now()
        try:
            transaction.begin(mode, *settings)
            self._round_trips.append((now() - started) * 1000)
            self._free.require(transaction)
        except ServerError:
            self._discard()
            raise
        return transaction

    def _adopt(self, transaction: Transaction, limits: list[str]) -> None:
        """Set what the application had set, and then PlanWatch's own limits again."""
        from .connecting.adoption import Defaults, adopt

        self._refuse_another()
        defaults = self._defaults = self._defaults or Defaults()
        try:
            defaults.require(transaction, self.state, self._opened)
        finally:
            if self._opened < defaults.same_since:
                # The next connection begins with the changed defaults.
                self._closes = True
        if adopt(
            transaction,
            self.state,
            other_role=self.other_role,
            other_options=self._is_other("options"),
        ):
            transaction.run(*limits)

    def _set_default_path(self, transaction: Transaction) -> None:
        from .connecting.adoption import set_default_path

        set_default_path(transaction)

    def _refuse_another(self) -> None:
        """Raise ServerError if the application connected as another user or to another database.

        An application may choose other arguments for each connection.
        """
        connection = self._connection
        if connection is None or self._own_engine is not None or self.state.user is None:
            return
        own = known_of(connection.dbapi_connection)
        for name in ("user", "database", "options"):
            if own.get(name) != getattr(self.state, name):
                detail = say(_ANOTHER_EACH_TIME, name=name)
                raise ServerError(SkipReason.SESSION_STATE_UNKNOWN, detail)

    @property
    def round_trip_ms(self) -> float:
        """The longest of the latest round trips, in ms: what held it up may hold up others."""
        return max(self._round_trips, default=0.0)

    @property
    def other_role(self) -> bool:
        """Whether PlanWatch is connected as another role than the application."""
        return self._is_other("user")

    @property
    def elsewhere(self) -> bool:
        """Whether PLANWATCH_DATABASE_URL may name another server or database."""
        return self.database != _database(self._app_engine().url)

    def _is_other(self, name: str) -> bool:
        """Whether PLANWATCH_DATABASE_URL has made this differ from the application's connection."""
        connection = self._connection
        if connection is None or self._own_engine is None:
            return False
        own = known_of(connection.dbapi_connection)
        return bool(getattr(self.state, name) != own.get(name, getattr(NOTHING_SET, name)))

    def plan_like(self, state: SessionState) -> None:
        """Plan from now on as a connection of the application's in this state.

        Raises ServerError if the state is not known.
        """
        from .connecting.adoption import refuse_functions, refuse_unknown

        self.state = state
        refuse_unknown(state, self._app_engine(), connects=self._own_engine is not None)
        if state.functions:
            with self.transaction(own_state=True) as transaction:
                refuse_functions(transaction, state)

    def _app_engine(self) -> Engine:
        engine = self._watched_engine()
        if engine is None:
            raise ServerError(SkipReason.UNWATCHED)
        return engine

    @property
    def driver(self) -> str:
        """The name of the driver in SQLAlchemy."""
        return str(self._dialect.driver)

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
            make_room(self)
            self._opened = now()
            connection = self._connection = self._open()
            # When an app is garbage-collected, its connection is closed.
            self._finalizer = weakref.finalize(self, connection.close)
            self._finalizer.atexit = False
            self._free.ask_again()
            if self._ended:
                self._discard()
                raise ServerError(SkipReason.UNWATCHED)
        self.used = now()
        return self._connection

    def _open(self) -> OwnConnection:
        from .connecting.connection import open_at, open_like

        try:
            if self._own_engine is not None:
                return self._call(open_at, self._own_engine, self._refuse_shared)
            return self._call(open_like, self._app_engine(), self._refuse_shared)
        except ServerError:
            raise
        except Exception as error:
            # The application's own listeners run here as well.
            reason = SkipReason.POOL_LISTENER_FAILED
            if isinstance(error, self._dialect.loaded_dbapi.Error | DBAPIError):
                reason = SkipReason.SERVER_UNAVAILABLE
            raise ServerError(reason, type(error).__name__, sqlstate_of(error)) from error
        finally:
            self._opening = None

    def _refuse_shared(self, connection: OwnConnection) -> None:
        """Raise ServerError if a new connection is the application's, before it is used."""
        driver = connection.driver_connection
        if driver is self.app_connection() or self.is_applications(driver):
            # It is left as it is: to roll back or close it would undo the application's work.
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
            # A connection that is broken, or has left its transaction, is replaced at the next use.
            self._discard()

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._finalizer.detach()
            connection.close()
        if self._loop is not None:
            self._loop.close()


def _database(url: Any) -> str:
    """Return host, port and database of a URL."""
    host, port = (getattr(url, name) or url.query.get(name) for name in ("host", "port"))
    return f"{host} {port} {database_name(url)}"


def database_name(url: Any) -> str | None:
    """Return the name of the database in a URL, None if it has none."""
    name: str | None = url.database or url.query.get("dbname")
    return name


_ANOTHER_EACH_TIME = "the application connects with another {name} each time"
_IN_USE = "the driver returned a connection that the application uses"

#: Connections that PlanWatch must not close: a parent process's, or the application's.
_ABANDONED: list[OwnConnection] = []


def _transaction_of(driver: str) -> type[Transaction]:
    """Return the kind of transaction for a driver."""
    # These modules import sqlglot, which the application's thread never loads.
    from .client_side import Psycopg2Transaction
    from .server_side import AsyncpgTransaction, PsycopgTransaction

    kinds: dict[str, type[Transaction]] = {
        "psycopg2": Psycopg2Transaction,
        "psycopg": PsycopgTransaction,
        "asyncpg": AsyncpgTransaction,
    }
    return kinds[driver]
