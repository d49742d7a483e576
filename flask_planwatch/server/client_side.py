"""Transactions on connections of psycopg2, which writes values into the text that it sends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, cached_property
from typing import Any, NamedTuple

from ..finding import SkipReason
from .connection import OwnConnection
from .drivers import MARK, PREPARED, UNKNOWN, Answer, Call, DriverTransaction, Result
from .literals import Literal, constant, read_literal, written_anew
from .numbered import Numbered, stand_for_values
from .single import in_brackets, is_single, without_end
from .transaction import Parameters, ServerError

#: Parameters that psycopg2's values are made into at most: a SELECT has 1664 columns at most.
_MAX_PARAMETERS = 1000

#: Texts of which is remembered, for one engine, that their values cannot be parameters.
MAX_LITERAL_ONLY = 1000

#: States that say what is wrong with a statement, and would with any form of its values.
_OF_THE_STATEMENT = frozenset({"42501", "42P01", "42703", "3F000"})

#: The name under which a connection's `info` has its session's LiteralOnly.
LITERAL_ONLY = "planwatch literal only"

#: Whether PlanWatch's role may see the types that the server gave the parameters.
_MAY_ASK_TYPES = """
SELECT has_table_privilege('pg_catalog.pg_prepared_statements', 'SELECT')
AND has_function_privilege('pg_catalog.pg_prepared_statement()', 'EXECUTE')
"""


class _Given(NamedTuple):
    """A statement of psycopg2's with its values as parameters, or written into its text.

    `foreign` is the SQL that is not a constant which means the same under each setting.
    """

    text: str
    foreign: str
    types: tuple[str, ...] = ()
    values: tuple[str | None, ...] = ()


class _Sql:
    """SQL that stands for a value, as psycopg2 asks for it."""

    def __init__(self, sql: bytes) -> None:
        self._sql = sql

    def __conform__(self, protocol: object) -> _Sql:
        return self

    def getquoted(self) -> bytes:
        """Return the SQL."""
        return self._sql


class LiteralOnly:
    """Texts, by their hashes, whose values the server does not take as parameters.

    An engine's session keeps them, whichever of its connections the server refused them on.
    """

    def __init__(self) -> None:
        self._texts: dict[int, None] = {}

    def add(self, text: str) -> None:
        """Remember a text; the one that was refused longest ago goes first."""
        self._texts[hash(text)] = None
        while len(self._texts) > MAX_LITERAL_ONLY:
            self._texts.pop(next(iter(self._texts)))

    def clear(self) -> None:
        """Forget all of them."""
        self._texts.clear()

    def __contains__(self, text: str) -> bool:
        return hash(text) in self._texts


class _Knowledge:
    """What was learnt of one connection of psycopg2's, for as long as it is open."""

    def __init__(self) -> None:
        self.may_ask_types: bool | None = None


class Psycopg2Transaction(DriverTransaction):
    """A Transaction on a connection of psycopg2, which writes values into the text it sends.

    The text of the application is the body of PREPARE, and the plan that of EXECUTE. The values are
    parameters where they can be: they travel by `set_config`, of which pg_stat_statements keeps no
    constants, and come back by `current_setting`.

    Nothing of a value is in a command of PlanWatch's own but as `constant` writes it: what the
    driver or an adapter writes may mean another thing, or end earlier, under other settings.
    """

    def __init__(self, connection: OwnConnection, dialect: Any, call: Call) -> None:
        super().__init__(connection, dialect, call)
        #: How to execute what was prepared in this transaction.
        self._executions: dict[_Given, str] = {}
        self._made: Any = None
        self._asked = 0
        #: How much was asked when the latest savepoint was made.
        self._saved = -1

    def begin(self, mode: str, *settings: str) -> None:
        super().begin(mode, *settings, f"SAVEPOINT {PREPARED}")
        self._saved = self._asked

    def _ask(self, send: Callable[..., Result], sql: str, *arguments: Any) -> Result:
        self._asked += 1
        return super()._ask(send, sql, *arguments)

    def _state(self) -> int:
        driver: Any = self._connection.driver_connection
        return UNKNOWN if driver is None or driver.closed else int(driver.info.transaction_status)

    def _send_commands(self, sql: str) -> None:
        self._execute(sql)

    def _send_query(self, sql: str, parameters: Parameters) -> list[Any]:
        if parameters is not None:
            sql %= tuple(map(constant, parameters))
        return list(self._execute(sql).fetchall())

    def _send_single(self, sql: str, parameters: Parameters) -> Answer:
        sql = without_end(sql)
        if parameters is not None:
            sql = self._written(sql, parameters).text
        if not is_single(sql):
            raise ServerError(SkipReason.MULTIPLE_STATEMENTS)
        cursor = self._execute(sql)
        types = [column[1] for column in cursor.description or ()]
        row = cursor.fetchone() if types else None
        return Answer(types, row[0] if row else None)

    def _send_prepare(self, sql: str, parameters: Parameters) -> None:
        self._execute(sql)

    def _execute(self, sql: str) -> Any:
        """Send a text that is complete; return the cursor."""
        sent = sql.encode(self._encoding)
        # Some encodings write another character as a backslash or a quote, or in two bytes of which
        # one looks like it; at a NUL the text would end.
        if "\0" in sql or sent.decode("ascii", "ignore") != sql.encode("ascii", "ignore").decode():
            raise ServerError(
                SkipReason.EXPLAIN_FAILED, "the client encoding may hide what ends a string"
            )
        cursor = self._cursor()
        cursor.execute(sql)
        return cursor

    def _explain(self, explain: str, text: str, parameters: Parameters, accepted: bool) -> Any:
        text = without_end(text)
        given = self._parametrised(text, parameters)
        if given is not None:
            if self._asked != self._saved:
                self.run(f"SAVEPOINT {PREPARED}")
                self._saved = self._asked
            try:
                return self._explain_prepared(explain, given, accepted)
            except ServerError as error:
                if not _is_about_values(error):
                    raise
                self.run(f"ROLLBACK TO SAVEPOINT {PREPARED}")
                self._literal_only.add(text)
        return self._explain_prepared(explain, self._written(text, parameters), accepted)

    def _explain_prepared(self, explain: str, given: _Given, accepted: bool) -> Any:
        execution = self._executions.get(given)
        if execution is None:
            execution = self._prepare_given(given, accepted)
            # Without parameters the server keeps its first plan, whatever is set or built later.
            if given.types:
                self._executions[given] = execution
        return self._ask_json(f"{explain}EXECUTE {execution}")

    def _prepare_given(self, given: _Given, accepted: bool) -> str:
        """Prepare a statement and set its values; return how to execute it."""
        if "\\" in given.foreign and self._backslash != _STANDARD:
            raise _other_backslash()
        if not is_single(given.text):
            # What the server never read as SQL may have a bracket too many, and a backslash may
            # mean another thing on this connection than on the application's.
            if not accepted or "\\" in given.foreign:
                raise ServerError(SkipReason.MULTIPLE_STATEMENTS)
            super()._prepare(in_brackets(given.text), given.types)
        name = super()._prepare(given.text, given.types)
        if not given.types:
            return name
        settings = {
            f"{name}.v{place}": value
            for place, value in enumerate(given.values, start=1)
            if value is not None
        }
        types = self._set(name, settings, given)
        arguments = [
            "NULL" if value is None else f"pg_catalog.current_setting('{name}.v{place}')::{kind}"
            for place, (value, kind) in enumerate(zip(given.values, types, strict=True), start=1)
        ]
        return f"{name} ({', '.join(arguments)})"

    def _prepare(self, text: str, types: Sequence[str], parameters: Parameters = None) -> str:
        if not is_single(text):
            raise ServerError(SkipReason.MULTIPLE_STATEMENTS)
        return super()._prepare(text, types)

    def _set(self, name: str, settings: Mapping[str, str], given: _Given) -> Sequence[str]:
        """Set the values of a prepared statement; return the types of its parameters."""
        calls = [
            f"pg_catalog.set_config('{setting}', {constant(value)}, true)"
            for setting, value in {"plan_cache_mode": "force_custom_plan", **settings}.items()
        ]
        if _UNTYPED in given.types:
            calls.append(
                "(SELECT parameter_types::pg_catalog.text[] "
                f"FROM pg_catalog.pg_prepared_statements WHERE name = '{name}')"
            )
        (row,) = self._ask(self._send_query, f"{MARK}SELECT {', '.join(calls)}", None)
        return list(map(_unlimited, row[-1])) if _UNTYPED in given.types else given.types

    def _parametrised(self, text: str, parameters: Parameters) -> _Given | None:
        """Return a statement with its values as parameters, None if they cannot be."""
        if not parameters or len(parameters) > _MAX_PARAMETERS:
            return None
        if text in self._literal_only or not stand_for_values(text):
            return None
        try:
            numbered = Numbered(text, parameters)
        except ServerError:
            return None
        standard = self._backslash == _STANDARD
        read = [read_literal(one, standard=standard) for one in self._quoted(numbered.values)]
        literals = [one for one in read if one is not None]
        if len(literals) < len(read) or not read or not self._may_be_typed(literals):
            return None
        types = tuple(one.type for one in literals)
        values = tuple(one.value for one in literals)
        return _Given(numbered.text, numbered.text, types, values)

    def _may_be_typed(self, literals: Sequence[Literal]) -> bool:
        """Whether the type of each parameter is known, or may be asked for."""
        known = self._knowledge
        if known.may_ask_types is None and any(one.type == _UNTYPED for one in literals):
            ((known.may_ask_types,),) = self.fetch(_MAY_ASK_TYPES)
        return bool(known.may_ask_types) or all(one.type != _UNTYPED for one in literals)

    def _written(self, text: str, parameters: Parameters) -> _Given:
        """Return a statement with its values in its text, as the driver writes them."""
        if parameters is None:
            return _Given(text, text)
        values = parameters.values() if isinstance(parameters, Mapping) else parameters
        quoted = self._quoted(list(values))
        foreign = quoted
        if stand_for_values(text):
            if self._backslash == _STANDARD:
                quoted = list(map(written_anew, quoted))
            # A constant in the place of a value hides no statement.
            foreign = [one for one in quoted if read_literal(one, standard=False) is None]
        sql = [_Sql(one.encode(self._encoding)) for one in quoted]
        named = isinstance(parameters, Mapping)
        given = dict(zip(parameters, sql, strict=True)) if named else sql
        written = self._cursor().mogrify(text, given).decode(self._encoding)
        return _Given(written, "\n".join([text, *foreign]))

    def written(self, text: str, parameters: Parameters) -> str:
        return self._ask(self._write, text, parameters)

    def _write(self, text: str, parameters: Parameters) -> str:
        return self._written(text, parameters).text

    def _quoted(self, values: Sequence[Any]) -> list[str]:
        """Return values as the driver writes them into a text.

        Raises ServerError if it writes backslashes in another way than the connection reads them.
        """
        cursor, encoding = self._cursor(), self._encoding
        quoted = [cursor.mogrify("%s", (value,)).decode(encoding) for value in values]
        if self._backslash not in (_STANDARD, _ESCAPED) and any("\\" in one for one in quoted):
            raise _other_backslash()
        return quoted

    @property
    def _backslash(self) -> bytes:
        """A backslash as psycopg2 writes it here.

        It writes E or not for what was set when it connected, and doubles what is doubled under
        what is set now.
        """
        from psycopg2 import extensions

        string = extensions.QuotedString("\\")
        string.prepare(self._connection.driver_connection)
        return bytes(string.getquoted())

    @cached_property
    def _knowledge(self) -> _Knowledge:
        knowledge: _Knowledge = self._connection.info.setdefault("planwatch", _Knowledge())
        return knowledge

    @cached_property
    def _literal_only(self) -> LiteralOnly:
        kept: LiteralOnly = self._connection.info.setdefault(LITERAL_ONLY, LiteralOnly())
        return kept

    @cached_property
    def _encoding(self) -> str:
        from psycopg2 import extensions

        driver: Any = self._connection.driver_connection
        return extensions.encodings[driver.encoding]

    def _cursor(self) -> Any:
        """Return a cursor of psycopg2's own class, whatever the application has configured."""
        if self._made is None:
            from psycopg2 import extensions

            driver: Any = self._connection.driver_connection
            self._made = driver.cursor(cursor_factory=extensions.cursor)
            # One that is wrapped for somebody's measurements cannot be told.
            with suppress(TypeError):
                extensions.register_type(_json_as_text(), self._made)
        return self._made


def _unlimited(kind: str) -> str:
    """Return the name of a type that cuts nothing off: `character` alone is one character long."""
    name, array, end = kind.partition("[]")
    return _WITHOUT_LENGTH.get(name, name) + array + end


#: Types whose names mean a length of one where no length is given.
_WITHOUT_LENGTH = {"character": "bpchar", "bit": '"bit"'}

#: A backslash under `standard_conforming_strings = on`, and in a form that means the same if off.
_STANDARD, _ESCAPED = b"'\\'", b"E'\\\\'"

#: The type of a string that bears none.
_UNTYPED = "unknown"


def _other_backslash() -> ServerError:
    detail = "with standard_conforming_strings = off, a backslash may mean another thing"
    return ServerError(SkipReason.SESSION_STATE_UNKNOWN, detail)


def _is_about_values(error: ServerError) -> bool:
    """Whether the server may take the same statement with its values in the text."""
    state = error.sqlstate or ""
    return (
        state[:2] in {"22", "23", "42"}
        and state not in _OF_THE_STATEMENT
        and error.reason is not SkipReason.MULTIPLE_STATEMENTS
    )


@cache
def _json_as_text() -> Any:
    """Return a reader of psycopg2's that leaves JSON alone."""
    from psycopg2 import extensions

    return extensions.new_type((_JSON_OID,), "PLANWATCH_JSON", lambda value, cursor: value)


_JSON_OID = 114
