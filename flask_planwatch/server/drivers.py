"""Transactions on the connections of each driver that PlanWatch knows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, Protocol, TypeVar
from uuid import UUID

from sqlalchemy.pool import PoolProxiedConnection

from ..finding import SkipReason
from ..plan.scrub import mask
from ..plan.tree import Plan, UnreadablePlan
from .numbered import Numbered
from .transaction import Parameters, ServerError, Transaction

_Result = TypeVar("_Result")

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

#: Messages of these states name a relation or a schema, which helps.
_STATES_WITH_NAMES = frozenset({"42501", "42P01", "3F000"})

#: How they name it. A function of the application's may raise any state with any message.
_NAMING = re.compile(
    r"(?:permission denied (?:for [a-z ]+|to create extension)|must be owner of [a-z]+) "
    r'"?(?P<denied>[^\s"]+)"?|'
    r'(?:relation|schema) "(?P<missing>[^"]+)" does not exist'
)


def sqlstate_of(error: BaseException) -> str | None:
    """Return the SQLSTATE that a driver's exception carries."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state if isinstance(state, str) else None


def search_path_of(driver: Any) -> str | None:
    """Return the effective search path, where the server reports it: from PostgreSQL 18 on.

    `driver` is a connection as SQLAlchemy has it; it may be lost. Asks nothing.
    """
    if hasattr(driver, "pgconn"):
        # A tenth of the time that psycopg's `info` takes, which knows the encoding of other names.
        reported: bytes | None = driver.pgconn.parameter_status(b"search_path")
        if reported is None:
            return None
        if reported.isascii():
            return reported.decode()
    info = getattr(driver, "info", None)
    if info is None:
        return getattr(driver.driver_connection.get_settings(), "search_path", None)
    path: str | None = info.parameter_status("search_path")
    return path


def known_of(driver: Any) -> dict[str, Any]:
    """Return what a driver's connection knows of itself, without asking.

    These are the fields `search_path`, `user` and `options` of a SessionState.
    """
    info = getattr(driver, "info", None)
    known = {"search_path": search_path_of(driver)}
    # asyncpg tells nothing more.
    return known if info is None else {**known, "user": info.user, "options": info.options or ""}


class Call(Protocol):
    """Calls a function that talks to the driver: directly, or on an event loop."""

    def __call__(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """Return what the function returns; raise what it raises."""


def transaction_on(connection: PoolProxiedConnection, dialect: Any, call: Call) -> Transaction:
    """Return the Transaction of a driver's connection; `dialect` is SQLAlchemy's."""
    kind = _AsyncpgTransaction if dialect.driver == "asyncpg" else _DriverTransaction
    return kind(connection, dialect, call)


class _DriverTransaction:
    """A Transaction on a psycopg2 or psycopg 3 connection."""

    def __init__(self, connection: PoolProxiedConnection, dialect: Any, call: Call) -> None:
        self._connection = connection
        self._dialect = dialect
        self._call = call

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

    @property
    def search_path(self) -> str | None:
        return search_path_of(self._connection.dbapi_connection)

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
        try:
            return self._call(self._send, sql, parameters)
        except RecursionError as error:
            raise ServerError(SkipReason.UNREADABLE_PLAN, "RecursionError") from error
        except Exception as error:
            raise self._server_error(error, sql) from error

    def _send(self, sql: str, parameters: Parameters) -> Any:
        cursor: Any = self._connection.cursor()
        if parameters is None:
            self._dialect.do_execute_no_params(cursor, sql)
        else:
            self._dialect.do_execute(cursor, sql, parameters)
        return cursor

    def _server_error(self, error: Exception, sql: str) -> ServerError:
        state = sqlstate_of(error)
        if isinstance(error, self._dialect.loaded_dbapi.Error):
            driver_connection = self._connection.dbapi_connection
            if self._dialect.is_disconnect(error, driver_connection, None):
                return ServerError(SkipReason.CONNECTION_LOST, type(error).__name__, state)
        reason = _REASONS.get(state or "", SkipReason.EXPLAIN_FAILED)
        detail = f"{type(error).__name__}, SQLSTATE {state}"
        if state in _STATES_WITH_NAMES:
            message = str(error).partition("\n")[0]
            if "row-level security" in message:
                reason = SkipReason.SESSION_STATE_UNKNOWN
            detail = message if _names_what_is_read(message, sql) else detail
        return ServerError(reason, detail, state)


def _names_what_is_read(message: str, sql: str) -> bool:
    """Whether a message says no more than a name that stands in the text, and not as a value."""
    found = _NAMING.fullmatch(message)
    if found is None:
        return False
    text = mask(sql)
    return all(name in text for name in (found["denied"] or found["missing"]).split("."))


#: Types whose values are written as what `str` makes of them.
_PLAIN = (str, int, float, Decimal, UUID, date, time, timedelta)


class _AsyncpgTransaction(_DriverTransaction):
    """A Transaction on an asyncpg connection: it numbers parameters and sends one command each."""

    def fetch(self, sql: str, parameters: Parameters = None) -> list[tuple[Any, ...]]:
        if parameters is None:
            return super().fetch(sql)
        numbered = Numbered(sql, parameters)
        return super().fetch(numbered.text, tuple(numbered.values))

    def run(self, sql: str) -> None:
        for command in sql.split("; "):
            super().run(command)

    def oids(self, values: Sequence[Any]) -> list[int]:
        # The server infers all types from the statement.
        return [0] * len(values)

    def literal(self, value: Any) -> str:
        if not isinstance(value, _PLAIN):
            raise ServerError(SkipReason.GENERIC_PLAN_UNKNOWN, type(value).__name__)
        return "'" + str(value).replace("'", "''") + "'"
