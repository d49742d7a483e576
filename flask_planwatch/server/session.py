"""PlanWatch's own connection: one for each engine, outside the application's pool.

Every piece of work is one transaction that ends in ROLLBACK. It is READ ONLY and time-limited,
unless a writable trial is asked for by name.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from time import perf_counter
from typing import Any, Protocol

from sqlalchemy import create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, PoolProxiedConnection

from ..finding import SkipReason
from ..plan.tree import Plan, UnreadablePlan

#: Seconds that Engine.dispose() may wait for an EXPLAIN to end: short against its own work.
DISPOSE_PATIENCE = 0.5

_REASONS = {
    "42501": SkipReason.PERMISSION_DENIED,
    "42P01": SkipReason.NOT_VISIBLE,
    "42703": SkipReason.NOT_VISIBLE,
    "42704": SkipReason.NOT_VISIBLE,
    "42883": SkipReason.NOT_VISIBLE,
    "3F000": SkipReason.NOT_VISIBLE,
    "57014": SkipReason.STATEMENT_TIMEOUT,
    "55P03": SkipReason.LOCK_TIMEOUT,
}

#: Reasons that have nothing to do with what was asked.
NO_SERVER = frozenset({SkipReason.CONNECTION_LOST, SkipReason.SERVER_UNAVAILABLE})

#: Messages of these states name relations and roles, never a value.
_STATES_WITHOUT_VALUES = frozenset({"42501", "42P01", "3F000"})

Parameters = Mapping[str, Any] | Sequence[Any] | None


class ServerError(Exception):
    """PostgreSQL, or the way to it, refused something.

    `reason` is the Skip that this amounts to, `sqlstate` the server's code if there was one.
    The message holds no compared value.
    """

    def __init__(self, reason: SkipReason, detail: str = "", sqlstate: str | None = None) -> None:
        super().__init__(detail or str(reason))
        self.reason = reason
        self.detail = detail
        self.sqlstate = sqlstate


class Transaction(Protocol):
    """What the other modules of this package need of a connection."""

    def fetch(self, sql: str, parameters: Parameters = None) -> list[tuple[Any, ...]]:
        """Run a query of PlanWatch's own and return its rows; raises ServerError."""

    def types(self, sql: str) -> list[int]:
        """Return the type oids of a query's columns; raises ServerError."""

    def oids(self, values: Sequence[Any]) -> list[int]:
        """Return the type oids that psycopg 3 gives these values; 0: the server shall infer it.

        Raises ServerError if it cannot send one.
        """

    def literal(self, value: Any) -> str:
        """Return a value as psycopg 3 writes it into SQL; raises ServerError."""

    def output(self, sql: str) -> object:
        """Return the first column that an EXPLAIN says its plan computes; raises ServerError."""

    def run(self, sql: str) -> None:
        """Run a command of PlanWatch's own; raises ServerError."""

    def plan(self, sql: str, parameters: Parameters, *, escaped: bool = True) -> Plan:
        """Run an EXPLAIN with a statement's own parameters; raises ServerError.

        `escaped` is False if the driver must not look for placeholders in the text.
        """


class Session(Protocol):
    """Opens transactions. The seam between inspection and the server."""

    statement_timeout_ms: int
    lock_timeout_ms: int
    #: The fastest way to the server and back so far, in ms.
    round_trip_ms: float

    def transaction(
        self, *, writable: bool = False, statement_timeout_ms: int | None = None
    ) -> AbstractContextManager[Transaction]:
        """Return a context manager that yields a Transaction and rolls it back."""


def sqlstate_of(error: BaseException) -> str | None:
    """Return the SQLSTATE that a driver's exception carries."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state if isinstance(state, str) else None


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
        self._engine = engine
        if url is not None:
            url = url.set(drivername=engine.url.drivername)
            self._engine = create_engine(url, poolclass=NullPool)
        self._dialect = self._engine.dialect
        self._connection: PoolProxiedConnection | None = None
        #: A weak reference to the driver's connection that the app used last.
        self.app_connection: Callable[[], Any] = lambda: None
        self._shared = False
        self._let_go = False
        self._ended = False
        self._process = 0

    @cached_property
    def _lock(self) -> threading.Lock:
        # Made at first use: after a fork, gevent may replace what it is made of.
        return threading.Lock()

    @contextmanager
    def transaction(
        self, *, writable: bool = False, statement_timeout_ms: int | None = None
    ) -> Iterator[Transaction]:
        """Yield a Transaction, and roll it back however the block ends.

        A connection that the server has dropped since is replaced once. Raises ServerError.
        """
        mode = "READ WRITE" if writable else "READ ONLY"
        begin = (
            f"SET TRANSACTION {mode}; "
            f"SET LOCAL statement_timeout = {statement_timeout_ms or self.statement_timeout_ms}; "
            f"SET LOCAL lock_timeout = {self.lock_timeout_ms}; "
            "SET LOCAL application_name = 'flask-planwatch'"
        )
        with self._lock:
            self._let_go = False
            transaction = self._begin(begin)
            try:
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
        self._connection = None
        self.__dict__.pop("_lock", None)

    def _begin(self, sql: str) -> _DriverTransaction:
        for attempt in ("held", "renewed"):
            connection = self._connect()
            transaction = _DriverTransaction(connection, self._dialect)
            started = perf_counter()
            try:
                transaction.run(sql)
                self.round_trip_ms = min(self.round_trip_ms, (perf_counter() - started) * 1000)
                return transaction
            except ServerError as error:
                self._discard()
                if attempt == "renewed" or error.reason is not SkipReason.CONNECTION_LOST:
                    raise
        raise AssertionError("unreachable")

    def _connect(self) -> PoolProxiedConnection:
        if self._ended:
            raise ServerError(SkipReason.UNWATCHED)
        if self._shared:
            raise ServerError(SkipReason.SHARED_CONNECTION)
        if self._connection is None:
            try:
                # recreate() keeps the creator, the arguments and the listeners of the app's pool.
                connection = self._engine.pool.recreate().connect()
                self._refuse_shared(connection)
                driver: Any = connection.driver_connection
                driver.rollback()
                # An AUTOCOMMIT engine would make every SET LOCAL void, and nothing READ ONLY.
                driver.autocommit = False
                if hasattr(driver, "prepare_threshold"):
                    driver.prepare_threshold = None
            except ServerError:
                raise
            except Exception as error:
                # The app's own listeners and creator run here, too.
                reason = SkipReason.POOL_LISTENER_FAILED
                if isinstance(error, self._dialect.loaded_dbapi.Error | DBAPIError):
                    reason = SkipReason.SERVER_UNAVAILABLE
                raise ServerError(reason, type(error).__name__, sqlstate_of(error)) from error
            self._connection, self._process = connection, os.getpid()
        return self._connection

    def _refuse_shared(self, connection: PoolProxiedConnection) -> None:
        """Raise ServerError if a creator handed out the connection that the app is using.

        A rollback on it would undo the app's work, so it is not even given back.
        """
        if connection.dbapi_connection is self.app_connection():
            _ABANDONED.append(connection)
            self._shared = True
            raise ServerError(SkipReason.SHARED_CONNECTION)

    def _rollback(self) -> None:
        if self._connection is None:
            return
        try:
            self._connection.rollback()
        except Exception:  # noqa: BLE001 - a broken connection is replaced at the next use
            self._discard()

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.invalidate()
            with suppress(Exception):
                connection.close()


#: Connections that are not ours to close: a parent process's, or the app's own.
_ABANDONED: list[PoolProxiedConnection] = []


class _DriverTransaction:
    """A Transaction on a psycopg2 or psycopg 3 connection."""

    def __init__(self, connection: PoolProxiedConnection, dialect: Any) -> None:
        self._connection = connection
        self._dialect = dialect

    def fetch(self, sql: str, parameters: Parameters = None) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._execute(sql, parameters).fetchall()]

    def types(self, sql: str) -> list[int]:
        return [column[1] for column in self._execute(sql, None).description]

    def oids(self, values: Sequence[Any]) -> list[int]:
        from psycopg.adapt import PyFormat, Transformer

        transformer = Transformer(self._connection.driver_connection)
        try:
            transformer.dump_sequence(values, [PyFormat.AUTO] * len(values))
        except Exception as error:
            raise ServerError(SkipReason.GENERIC_PLAN_UNKNOWN, type(error).__name__) from error
        return list(transformer.types or ())

    def literal(self, value: Any) -> str:
        from psycopg import sql

        try:
            return sql.Literal(value).as_string(self._connection.driver_connection)
        except Exception as error:
            raise ServerError(SkipReason.GENERIC_PLAN_UNKNOWN, type(error).__name__) from error

    def output(self, sql: str) -> object:
        document = self._document(sql, None)
        try:
            return document[0]["Plan"]["Output"][0]
        except (LookupError, TypeError) as error:
            raise ServerError(SkipReason.UNREADABLE_PLAN, type(error).__name__) from error

    def run(self, sql: str) -> None:
        self._execute(sql, None)

    def plan(self, sql: str, parameters: Parameters, *, escaped: bool = True) -> Plan:
        given = () if parameters is None else parameters
        try:
            return Plan.from_json(self._document(sql, given if escaped else None))
        except UnreadablePlan as error:
            raise ServerError(SkipReason.UNREADABLE_PLAN, str(error)) from error

    def _document(self, sql: str, parameters: Parameters) -> Any:
        """Return the JSON of an EXPLAIN; some drivers are set up to leave it as text."""
        (document,) = self._execute(sql, parameters).fetchone()
        try:
            return json.loads(document) if isinstance(document, str | bytes) else document
        except (ValueError, RecursionError) as error:
            raise ServerError(SkipReason.UNREADABLE_PLAN, type(error).__name__) from error

    def _execute(self, sql: str, parameters: Parameters) -> Any:
        cursor: Any = None
        try:
            cursor = self._connection.cursor()
            if parameters is None:
                self._dialect.do_execute_no_params(cursor, sql)
            else:
                self._dialect.do_execute(cursor, sql, parameters)
            return cursor
        except RecursionError as error:
            raise ServerError(SkipReason.UNREADABLE_PLAN, "RecursionError") from error
        except Exception as error:
            raise self._server_error(error, cursor) from error

    def _server_error(self, error: Exception, cursor: Any) -> ServerError:
        state = sqlstate_of(error)
        if isinstance(error, self._dialect.loaded_dbapi.Error):
            driver_connection = self._connection.dbapi_connection
            if self._dialect.is_disconnect(error, driver_connection, cursor):
                return ServerError(SkipReason.CONNECTION_LOST, type(error).__name__, state)
        reason = _REASONS.get(state or "", SkipReason.EXPLAIN_FAILED)
        detail = f"{type(error).__name__}, SQLSTATE {state}"
        if state in _STATES_WITHOUT_VALUES:
            detail = str(error).partition("\n")[0]
        return ServerError(reason, detail, state)
