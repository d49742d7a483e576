"""Transactions on connections of psycopg 3 and asyncpg, which send values apart from the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.util import await_only

from ..capture.driver import IDLE
from ..capture.numbered import Numbered, Parameters
from ..failure import ServerError
from ..finding import SkipReason
from .explain import qualified
from .transaction import IN_TRANSACTION, MARK, UNKNOWN, Answer, Transaction


class PsycopgTransaction(Transaction):
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
        # The binary format makes psycopg use the extended protocol in any case.
        self._wait(cursor.execute(sql, parameters, prepare=False, binary=True))
        result = cursor.pgresult
        # Not by the loaders, which the application may have replaced.
        value = result.get_value(0, 0) if result.ntuples and result.nfields else None
        types = [result.ftype(position) for position in range(result.nfields)]
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

    def written(self, text: str, parameters: Parameters) -> str:
        if parameters is None:
            return text
        numbered = Numbered(text, parameters)
        # A float is sent as double precision; its literal alone would be numeric.
        literals = {
            position: self.literal(value) + "::double precision" * isinstance(value, float)
            for position, value in enumerate(numbered.values)
        }
        return numbered.with_literals(literals)

    @property
    def _encoding(self) -> str:
        driver: Any = self._connection.driver_connection
        # With SQL_ASCII, which psycopg calls ASCII, the server passes on what clients wrote.
        return "utf-8" if driver.info.encoding == "ascii" else str(driver.info.encoding)

    def _cursor(self) -> Any:
        """Return a cursor of psycopg's own class, whatever the application has configured."""
        from psycopg import AsyncCursor, Cursor
        from psycopg.rows import tuple_row

        kind: Any = AsyncCursor if self._dialect.is_async else Cursor
        return kind(self._connection.driver_connection, row_factory=tuple_row)

    def _as_sent(self, sql: str, parameters: Parameters) -> tuple[str, Parameters]:
        """Return text and parameters as the application's class of cursor sends them."""
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


class AsyncpgTransaction(Transaction):
    """A Transaction on a connection of asyncpg, as SQLAlchemy adapts it."""

    def _state(self) -> int:
        driver: Any = self._connection.driver_connection
        if driver is None or driver.is_closed():
            return UNKNOWN
        return IN_TRANSACTION if driver.is_in_transaction() else IDLE

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
        cursor: Any = self._connection.cursor()
        cursor.execute(sql, parameters)
        rows = list(cursor.fetchall()) if cursor.description else []
        types = [column[1] for column in cursor.description or ()]
        return Answer(types, rows[0][0] if rows and rows[0] else None)

    def written(self, text: str, parameters: Parameters) -> str:
        # The driver has no text form of values: the server writes them.
        values = list(parameters or ())
        if not values:
            return text
        types = self._ask(self._types_of, text)
        casts = ", ".join(
            f"pg_catalog.quote_nullable((${position}::{kind})::pg_catalog.text)"
            for position, kind in enumerate(types, start=1)
        )
        written = self._ask(self._send_single, f"{MARK}SELECT ARRAY[{casts}]", tuple(values)).value
        numbered = Numbered(text, values, [str(position) for position in range(len(values))])
        # The server has taken the type from the cast that stands behind a parameter.
        cast = numbered.casts
        literals = {
            position: literal if cast.get(position) else f"{literal}::{kind}"
            for position, (literal, kind) in enumerate(zip(written, types, strict=True))
        }
        return numbered.with_literals(literals)

    def _types_of(self, text: str) -> list[str]:
        """Return the types that the server gives the parameters of a statement, as SQL."""
        driver: Any = self._connection.driver_connection
        statement = await_only(driver.prepare(text))
        return [_type_as_sql(kind) for kind in statement.get_parameters()]


def _type_as_sql(kind: Any) -> str:
    """Return the name of a type in SQL; asyncpg calls an array `int4[]`."""
    name, array, _ = str(kind.name).partition("[]")
    return qualified(kind.schema, name) + array
