"""Transactions on the connections of each driver that PlanWatch knows."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

from sqlalchemy.util import await_only

from ..finding import SkipReason
from ..plan.scrub import mask
from ..plan.tree import Plan, UnreadablePlan
from ..plan.usage import names_in
from .connection import OwnConnection
from .literals import constant
from .numbered import Numbered
from .transaction import EXPLAIN, Parameters, ServerError

Result = TypeVar("Result")

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

    These are the fields `search_path`, `user`, `database` and `options` of a SessionState.
    """
    info = getattr(driver, "info", None)
    known = {"search_path": search_path_of(driver)}
    if info is None:
        # asyncpg tells the rest by nothing public.
        parameters = getattr(driver.driver_connection, "_params", None)
        settings = getattr(parameters, "server_settings", None) or {}
        return {
            **known,
            "user": getattr(parameters, "user", None),
            "database": getattr(parameters, "database", None),
            "options": " ".join(map(_option, settings, settings.values())),
        }
    return {
        **known,
        "user": info.user,
        "database": info.dbname,
        "options": info.options or "",
    }


def _option(name: str, value: str) -> str:
    """Return a setting as libpq's options have it."""
    return f"-c {name}=" + re.sub(r"[\\\s]", r"\\\g<0>", value)


def in_transaction(driver: Any) -> bool:
    """Whether a transaction is open on a driver's connection, whoever began it. Asks nothing."""
    info = getattr(driver, "info", None)
    if info is not None:
        return int(info.transaction_status) != _IDLE
    connection = driver.driver_connection
    return not connection.is_closed() and bool(connection.is_in_transaction())


class Call(Protocol):
    """Calls a function that talks to the driver: directly, or on an event loop."""

    def __call__(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Return what the function returns; raise what it raises."""


#: What each command of PlanWatch's begins with, for whoever reads the server's log or statistics.
MARK = "/* planwatch */ "

#: The states of a connection, as libpq numbers them, and with it psycopg2 and psycopg.
_IDLE, _IN_TRANSACTION, _IN_FAILED_TRANSACTION = 0, 2, 3

#: The statement that PlanWatch prepares first in a transaction; others get a number besides.
PREPARED = "planwatch"

#: "syntax error": several statements where one is expected are one, too.
_SYNTAX_ERROR = "42601"


class DriverTransaction(ABC):
    """What is alike on all drivers."""

    def __init__(self, connection: OwnConnection, dialect: Any, call: Call) -> None:
        self._connection = connection
        self._dialect = dialect
        self._call = call
        #: The statement that is explained: what the server says of it may name what it reads.
        self._text = ""
        #: What was prepared on the server since the transaction began.
        self._prepared: list[str] = []

    # What each driver does in its own way; all but `_state` on the driver's event loop.

    @abstractmethod
    def _state(self) -> int:
        """Return what the driver knows of the connection's state, without asking the server."""

    @abstractmethod
    def _send_commands(self, sql: str) -> None:
        """Send constant commands, which may be several."""

    @abstractmethod
    def _send_query(self, sql: str, parameters: Parameters) -> list[Any]:
        """Send a query of PlanWatch's own, and return its rows."""

    @abstractmethod
    def _send_single(self, sql: str, parameters: Parameters) -> Answer:
        """Send one statement, and no more, in a message that takes no more."""

    # What is made of that.

    def begin(self, mode: str, *settings: str) -> None:
        if self._state() != _IDLE:
            raise ServerError(SkipReason.CONNECTION_LOST, "it is in a transaction already")
        self._called(self._send_commands, _joined(f"BEGIN {mode}", *settings))

    def end(self) -> None:
        # What was prepared outlives it, and a pooler may give the connection to somebody else.
        leftovers = [f"DEALLOCATE {name}" for name in self._prepared]
        self._prepared = []
        self._ask(self._send_commands, _joined("ROLLBACK", *leftovers))

    def run(self, *commands: str) -> None:
        self._ask(self._send_commands, _joined(*commands))

    def run_alone(self, command: str) -> None:
        self._ask(self._send_single, MARK + command, None)

    def fetch(self, sql: str, parameters: Parameters = None) -> list[tuple[Any, ...]]:
        rows = self._ask(self._send_query, MARK + sql, parameters)
        return [tuple(_decoded(value) for value in row) for row in rows]

    def types(self, sql: str) -> list[int]:
        return list(self._ask(self._send_single, MARK + sql, None).types)

    def oids(self, values: Sequence[Any]) -> list[int]:
        # The server infers all types from the statement.
        return [0] * len(values)

    def literal(self, value: Any) -> str:
        if not isinstance(value, _PLAIN):
            raise ServerError(SkipReason.GENERIC_PLAN_UNKNOWN, type(value).__name__)
        return constant(str(value))

    def written(self, text: str, parameters: Parameters) -> str:
        if parameters is None:
            return text
        numbered = Numbered(text, parameters)
        literals = [
            # It is sent as one; the literal alone would be a numeric.
            f"{self.literal(value)}::double precision"
            if isinstance(value, float)
            else self.literal(value)
            for value in numbered.values
        ]
        return numbered.with_literals(dict(enumerate(literals)))

    def output(self, sql: str) -> object:
        document = self._document(EXPLAIN, sql, None, escaped=False)
        try:
            return document[0]["Plan"]["Output"][0]
        except (LookupError, TypeError) as error:
            raise ServerError(SkipReason.UNREADABLE_PLAN, type(error).__name__) from error

    @property
    def search_path(self) -> str | None:
        return search_path_of(self._connection.dbapi_connection)

    def plan(
        self,
        explain: str,
        text: str,
        parameters: Parameters,
        *,
        escaped: bool = True,
        accepted: bool = True,
    ) -> Plan:
        given = () if parameters is None else parameters
        document = self._document(explain, text, given, escaped=escaped, accepted=accepted)
        return _plan_of(document)

    def generic_plan(self, explain: str, text: str, types: Sequence[str]) -> Plan:
        self._text = text
        self.run("SET LOCAL plan_cache_mode = force_generic_plan")
        name = self._prepare(text, types)
        nulls = f" ({', '.join('NULL' for _ in types)})" if types else ""
        return _plan_of(_read(self._ask_json(f"{explain}EXECUTE {name}{nulls}")))

    def _document(
        self,
        explain: str,
        text: str,
        parameters: Parameters,
        *,
        escaped: bool,
        accepted: bool = True,
    ) -> Any:
        """Return the JSON of an EXPLAIN."""
        self._text = text
        given = parameters if escaped else None
        try:
            return _read(self._explain(explain, text, given, accepted))
        except ServerError:
            raise
        except Exception as error:
            # The driver may refuse to write a value.
            raise self._server_error(error, text) from error

    def _explain(self, explain: str, text: str, parameters: Parameters, accepted: bool) -> Any:
        """Return the JSON of an EXPLAIN, read or not."""
        if parameters:
            return self._ask(self._send_single, MARK + explain + text, parameters).value
        # Before 16, pg_stat_statements keeps the text of an EXPLAIN with all its constants; that of
        # PREPARE it never keeps.
        name = self._prepare(text, (), parameters)
        return self._ask_json(f"{explain}EXECUTE {name}")

    def _prepare(self, text: str, types: Sequence[str], parameters: Parameters = None) -> str:
        """Prepare a text that the server must take for one statement; return its name there.

        `parameters` are None, or none at all: then the driver reads the text for placeholders.
        """
        count = len(self._prepared) + 1
        name = PREPARED if count == 1 else f"{PREPARED}_{count}"
        declared = f" ({', '.join(types)})" if types else ""
        # First, as nothing tells whether it is there if the thread is interrupted.
        self._prepared.append(name)
        try:
            sql = f"{MARK}PREPARE {name}{declared} AS\n{text}"
            self._ask(self._send_prepare, sql, parameters)
        except ServerError:
            self._prepared.remove(name)
            raise
        return name

    def _send_prepare(self, sql: str, parameters: Parameters) -> None:
        self._send_single(sql, parameters)

    def _ask_json(self, sql: str) -> Any:
        """Return the only value that a command of PlanWatch's own returns, JSON read or not."""
        return self._ask(self._send_single, MARK + sql, None).value

    def _ask(self, send: Callable[..., Result], sql: str, *arguments: Any) -> Result:
        """Send something within the transaction, and nothing if it has ended."""
        if self._state() not in {_IN_TRANSACTION, _IN_FAILED_TRANSACTION}:
            raise ServerError(SkipReason.CONNECTION_LOST, "its transaction has ended early")
        return self._called(send, sql, *arguments)

    def _called(self, send: Callable[..., Result], sql: str, *arguments: Any) -> Result:
        try:
            return self._call(send, sql, *arguments)
        except ServerError:
            raise
        except Exception as error:
            raise self._server_error(error, sql) from error

    def _server_error(self, error: Exception, sql: str) -> ServerError:
        if isinstance(error, RecursionError):
            return ServerError(SkipReason.UNREADABLE_PLAN, "RecursionError")
        state = sqlstate_of(error)
        if self._is_lost(error):
            return ServerError(SkipReason.CONNECTION_LOST, type(error).__name__, state)
        reason = _REASONS.get(state or "", SkipReason.EXPLAIN_FAILED)
        if state == _SYNTAX_ERROR and ";" in sql:
            reason = SkipReason.MULTIPLE_STATEMENTS
        detail = f"{type(error).__name__}, SQLSTATE {state}"
        if state in _STATES_WITH_NAMES:
            message = str(error).partition("\n")[0]
            if "row-level security" in message:
                reason = SkipReason.SESSION_STATE_UNKNOWN
            told = _names_what_is_read(message, f"{sql}\n{self._text}")
            detail = message if told else detail
        return ServerError(reason, detail, state)

    def _is_lost(self, error: Exception) -> bool:
        driver = self._connection.dbapi_connection
        if driver is None or self._state() not in _ALIVE:
            return True
        known = isinstance(error, self._dialect.loaded_dbapi.Error)
        return known and bool(self._dialect.is_disconnect(error, driver, None))


#: The states in which the server is still there.
_ALIVE = frozenset({_IDLE, 1, _IN_TRANSACTION, _IN_FAILED_TRANSACTION})


class Answer(NamedTuple):
    """What came of one statement: the types of its columns, and the first value."""

    types: Sequence[int]
    value: Any


def _joined(*commands: str) -> str:
    return "; ".join(MARK + command for command in commands)


def _decoded(value: Any) -> Any:
    """Return a value as text where a database without an encoding left it as bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return [_decoded(one) for one in value] if isinstance(value, list) else value


def _read(document: Any) -> Any:
    """Return what a JSON text holds; one that the application's own reader has read is no text."""
    try:
        text = (
            document if isinstance(document, str | bytes) else json.dumps(document, default=float)
        )
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ServerError(SkipReason.UNREADABLE_PLAN, type(error).__name__) from error


def _plan_of(document: Any) -> Plan:
    try:
        return Plan.from_json(document)
    except UnreadablePlan as error:
        raise ServerError(SkipReason.UNREADABLE_PLAN, str(error)) from error


def _names_what_is_read(message: str, sql: str) -> bool:
    """Whether a message says no more than a name that stands in the text, and not as a value."""
    found = _NAMING.fullmatch(message)
    if found is None:
        return False
    return names_in(mask(sql), (found["denied"] or found["missing"]).split("."))


#: Types whose values are written as what `str` makes of them.
_PLAIN = (str, int, float, Decimal, UUID, date, time, timedelta)


#: What libpq says of a connection that is broken.
UNKNOWN = 4


class PsycopgTransaction(DriverTransaction):
    """A Transaction on a connection of psycopg 3, sync or async."""

    def _state(self) -> int:
        driver: Any = self._connection.driver_connection
        return UNKNOWN if driver is None else int(driver.pgconn.transaction_status)

    def _send_commands(self, sql: str) -> None:
        self._wait(self._cursor().execute(sql, prepare=False))

    def _send_query(self, sql: str, parameters: Parameters) -> list[Any]:
        cursor = self._cursor()
        self._wait(cursor.execute(sql, parameters, prepare=False))
        rows: list[Any] = self._wait(cursor.fetchall())
        return rows

    def _send_single(self, sql: str, parameters: Parameters) -> Answer:
        sql, parameters = self._as_sent(sql, parameters)
        cursor = self._cursor()
        # To ask for the binary format makes psycopg use the extended protocol in any case.
        self._wait(cursor.execute(sql, parameters, prepare=False, binary=True))
        result = cursor.pgresult
        # Past all loaders, which the application may have replaced.
        value = result.get_value(0, 0) if result.ntuples and result.nfields else None
        types = [result.ftype(place) for place in range(result.nfields)]
        return Answer(types, value if value is None else value.decode(self._encoding, "replace"))

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

    @property
    def _encoding(self) -> str:
        driver: Any = self._connection.driver_connection
        # What psycopg takes for ASCII comes as the client wrote it once.
        return "utf-8" if driver.info.encoding == "ascii" else str(driver.info.encoding)

    def _cursor(self) -> Any:
        """Return a cursor of psycopg's own class, whatever the application has configured."""
        from psycopg import AsyncCursor, Cursor
        from psycopg.rows import tuple_row

        kind: Any = AsyncCursor if self._dialect.is_async else Cursor
        return kind(self._connection.driver_connection, row_factory=tuple_row)

    def _as_sent(self, sql: str, parameters: Parameters) -> tuple[str, Parameters]:
        """Return text and parameters as the application's kind of cursor sends them."""
        from psycopg import AsyncClientCursor, ClientCursor

        driver: Any = self._connection.driver_connection
        kind = driver.cursor_factory
        client_side = isinstance(kind, type) and issubclass(kind, ClientCursor | AsyncClientCursor)
        if not client_side or parameters is None:
            return sql, parameters
        cursor: Any = AsyncClientCursor if self._dialect.is_async else ClientCursor
        return cursor(driver).mogrify(sql, parameters), None

    def _wait(self, result: Any) -> Any:
        return await_only(result) if self._dialect.is_async else result


class AsyncpgTransaction(DriverTransaction):
    """A Transaction on a connection of asyncpg, by way of SQLAlchemy's adapter."""

    def _state(self) -> int:
        driver: Any = self._connection.driver_connection
        if driver is None or driver.is_closed():
            return UNKNOWN
        return _IN_TRANSACTION if driver.is_in_transaction() else _IDLE

    def _send_commands(self, sql: str) -> None:
        driver: Any = self._connection.driver_connection
        await_only(driver.execute(sql))

    def _send_query(self, sql: str, parameters: Parameters) -> list[Any]:
        cursor = self._connection.cursor()
        if parameters is None:
            cursor.execute(sql)
        else:
            numbered = Numbered(sql, parameters)
            cursor.execute(numbered.text, tuple(numbered.values))
        return list(cursor.fetchall())

    def _send_single(self, sql: str, parameters: Parameters) -> Answer:
        self._read_json_as_text()
        cursor: Any = self._connection.cursor()
        cursor.execute(sql, parameters)
        rows = list(cursor.fetchall()) if cursor.description else []
        types = [column[1] for column in cursor.description or ()]
        return Answer(types, rows[0][0] if rows and rows[0] else None)

    def written(self, text: str, parameters: Parameters) -> str:
        # The driver sends values in their binary form; the server tells how they are written.
        values = list(parameters or ())
        if not values:
            return text
        self._read_json_as_text()
        types = self._ask(self._types_of, text)
        casts = ", ".join(
            f"pg_catalog.quote_nullable((${place}::{kind})::pg_catalog.text)"
            for place, kind in enumerate(types, start=1)
        )
        answer = self._ask(self._send_row, f"{MARK}SELECT {casts}", tuple(values))
        literals = {
            place: f"{literal}::{kind}"
            for place, (literal, kind) in enumerate(zip(answer, types, strict=True))
        }
        names = [str(place) for place in range(len(values))]
        return Numbered(text, values, names).with_literals(literals)

    def _types_of(self, text: str) -> list[str]:
        """Return the types that the server gives the parameters of a statement, as SQL."""
        driver: Any = self._connection.driver_connection
        statement = await_only(driver.prepare(text))
        return [_type_as_sql(kind) for kind in statement.get_parameters()]

    def _send_row(self, sql: str, parameters: Parameters) -> Sequence[str]:
        """Return the only row of a query, all of whose columns are text."""
        cursor: Any = self._connection.cursor()
        cursor.execute(sql, parameters)
        row: Sequence[str] = cursor.fetchone()
        return row

    def _read_json_as_text(self) -> None:
        """Let the driver leave JSON alone, instead of giving it to the application's own reader."""
        if self._connection.info.setdefault(_JSON_IS_TEXT, False):
            return
        driver: Any = self._connection.driver_connection
        await_only(
            driver.set_type_codec(
                "json",
                encoder=_json_bytes,
                decoder=bytes.decode,
                schema="pg_catalog",
                format="binary",
            )
        )
        self._connection.info[_JSON_IS_TEXT] = True


def _type_as_sql(kind: Any) -> str:
    """Return what asyncpg knows of a type as SQL: its name for an array is `int4[]`."""
    name, array, _ = str(kind.name).partition("[]")
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in (kind.schema, name))
    return quoted + array


#: Under this key, a connection remembers that its driver leaves JSON as text.
_JSON_IS_TEXT = "planwatch: JSON is text"


def _json_bytes(value: Any) -> bytes:
    """Return a parameter as JSON: SQLAlchemy's are text, those of a codec of the app's are not."""
    return (value if isinstance(value, str) else json.dumps(value, default=str)).encode()
