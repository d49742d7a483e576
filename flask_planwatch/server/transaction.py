"""What is asked in one transaction of PlanWatch's own, and what may come of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy.pool import PoolProxiedConnection

from ..finding import SkipReason
from ..plan.tree import Plan, UnreadablePlan

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

    def repeat(self, sql: str, parameters: Parameters) -> None:
        """Run a command of the application's that only sets something; raises ServerError."""

    @property
    def search_path(self) -> str | None:
        """The effective search path, None if the server does not report it."""

    def plan(self, sql: str, parameters: Parameters, *, escaped: bool = True) -> Plan:
        """Run an EXPLAIN with a statement's own parameters; raises ServerError.

        `escaped` is False if the driver must not look for placeholders in the text.
        """


def sqlstate_of(error: BaseException) -> str | None:
    """Return the SQLSTATE that a driver's exception carries."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state if isinstance(state, str) else None


def known_of(driver: Any) -> dict[str, Any]:
    """Return what a driver's connection of the application knows of itself, without asking.

    These are the fields `search_path`, `user` and `options` of a SessionState.
    """
    info = getattr(driver, "info", None)
    if info is None:
        settings = getattr(getattr(driver, "driver_connection", driver), "get_settings", None)
        return {"search_path": getattr(settings(), "search_path", None) if settings else None}
    return {
        "search_path": info.parameter_status("search_path"),
        "user": info.user,
        "options": info.options or "",
    }


def transaction_on(connection: PoolProxiedConnection, dialect: Any) -> Transaction:
    """Return the Transaction of a driver's connection; `dialect` is SQLAlchemy's."""
    return _DriverTransaction(connection, dialect)


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

    def repeat(self, sql: str, parameters: Parameters) -> None:
        self._execute(sql, parameters)

    @property
    def search_path(self) -> str | None:
        path: str | None = known_of(self._connection.dbapi_connection).get("search_path")
        return path

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
        if state == "42501" and "row-level security" in detail:
            reason = SkipReason.SESSION_STATE_UNKNOWN
        return ServerError(reason, detail, state)
