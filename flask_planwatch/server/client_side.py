"""Transactions on connections of psycopg2, which writes values into the text that it sends."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple

from ..capture.literals import (
    STRINGS,
    UNTYPED,
    Literal,
    constant,
    read_literal,
    written_anew,
)
from ..capture.numbered import Numbered, Occurrence, Parameters, stand_for_values
from ..failure import ServerError
from ..finding import SkipReason
from ..statement.single import in_brackets, is_single, without_end
from .transaction import (
    MARK,
    PREPARED,
    UNKNOWN,
    Answer,
    Transaction,
    read_document,
    unlimited,
)

#: The most values that become parameters: one SELECT sets them all, and may have 1664 columns.
_MAX_PARAMETERS = 1000

#: SQLSTATEs of errors that do not depend on how the values are sent.
_OF_THE_STATEMENT = frozenset({"42501", "42P01", "42703", "3F000"})

#: Whether PlanWatch's role may see the types that the server gave the parameters.
_MAY_ASK_TYPES = """
SELECT has_table_privilege('pg_catalog.pg_prepared_statements', 'SELECT')
AND has_function_privilege('pg_catalog.pg_prepared_statement()', 'EXECUTE')
"""

#: The key of the answer in a connection's `info`.
_MAY_ASK_KEY = "planwatch may ask types"


class _Statement(NamedTuple):
    """A statement of psycopg2's with its values as parameters, or written into its text.

    `uncertain` is all of its SQL except constants that mean the same under every setting.
    """

    text: str
    uncertain: str
    types: tuple[str, ...] = ()
    values: tuple[str | None, ...] = ()


class _Placed:
    """A statement of psycopg2's whose values become parameters.

    psycopg2 writes a constant in each place of a value, and the server gives each one a type of its
    own: only constants that are equal in value and type share a parameter. `literals` are those of
    the parameters of `numbered`.
    """

    def __init__(self, numbered: Numbered, literals: Sequence[Literal]) -> None:
        self._numbered = numbered
        self.literals = [_typed(literals[found.parameter], found) for found in numbered.occurrences]
        #: A parameter for each place; strings whose types are not known yet share none.
        self._numbers = _numbers(
            position if literal.type == UNTYPED else literal
            for position, literal in enumerate(self.literals)
        )

    @property
    def statement(self) -> _Statement:
        """The statement with a parameter of its own for each constant without a type."""
        return self._with(self._numbers, self.literals)

    @property
    def may_share(self) -> bool:
        """Whether constants without a type are equal in value."""
        values = [literal.value for literal in self.literals if literal.type == UNTYPED]
        return len(set(values)) < len(values)

    def shared(self, types: Sequence[str]) -> _Statement:
        """Return the statement as it is once the types of the parameters of `statement` are known.

        The server knows an expression of the SELECT list in ORDER BY only by equal parameters.
        """
        literals = [
            literal._replace(type=types[number - 1])
            for number, literal in zip(self._numbers, self.literals, strict=True)
        ]
        return self._with(_numbers(literals), literals)

    def _with(self, numbers: Sequence[int], literals: Sequence[Literal]) -> _Statement:
        text = self._numbered.with_numbers(numbers)
        given = dict(zip(numbers, literals, strict=True)).values()
        types = tuple(literal.type for literal in given)
        return _Statement(text, text, types, tuple(literal.value for literal in given))


def _numbers(keys: Iterable[Hashable]) -> list[int]:
    """Return a number for each key, from 1 on; equal keys have the same."""
    found: dict[Hashable, int] = {}
    return [found.setdefault(key, len(found) + 1) for key in keys]


def _typed(literal: Literal, occurrence: Occurrence) -> Literal:
    """Return a literal with the type that it has where it stands."""
    if literal.type == UNTYPED and occurrence.is_only_compared_with_null:
        # The server needs no type for a constant here, but one for a parameter.
        return literal._replace(type="text")
    if literal.type == STRINGS and occurrence.is_cast_to_array:
        # The server takes each string in ARRAY for what the list is cast to.
        return literal._replace(type=UNTYPED)
    return literal


class _Sql:
    """SQL in the place of a value, as an adapter of psycopg2's."""

    def __init__(self, sql: bytes) -> None:
        self._sql = sql

    def __conform__(self, protocol: object) -> _Sql:
        return self

    def getquoted(self) -> bytes:
        """Return the SQL."""
        return self._sql


class Psycopg2Transaction(Transaction):
    """A Transaction on a connection of psycopg2.

    The application's text is prepared, and its EXECUTE explained. Values become parameters where
    possible: `set_config` sends them, whose constants pg_stat_statements does not store, and
    `current_setting` reads them.

    PlanWatch's own commands contain values only as `constant` writes them. What the driver or an
    adapter writes may mean something else, or end earlier, under other settings.
    """

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
        # In some encodings, a byte of another character looks like a backslash or a quote. A NUL
        # would end the text.
        if "\0" in sql or sent.decode("ascii", "ignore") != sql.encode("ascii", "ignore").decode():
            raise ServerError(
                SkipReason.EXPLAIN_FAILED,
                "a character in it may end a string early, in this client encoding",
            )
        cursor = self._cursor
        cursor.execute(sql)
        return cursor

    def _explain(self, explain: str, text: str, parameters: Parameters, accepted: bool) -> Any:
        text = without_end(text)
        placed = self._placed(text, parameters)
        if placed is not None:
            try:
                with self.savepoint(PREPARED):
                    given = self._parametrised(placed, accepted)
                    return self._explain_prepared(explain, given, accepted)
            except ServerError as error:
                if not _is_about_values(error):
                    raise
                self._literal_only.keep(hash(text), True)
        return self._explain_prepared(explain, self._written(text, parameters), accepted)

    def _explain_prepared(self, explain: str, given: _Statement, accepted: bool) -> Any:
        execution = self._prepare_with_values(given, accepted)
        document = read_document(self._ask_json(f"{explain}EXECUTE {execution}"))
        if given.types and isinstance(document, list):
            # To the server, a statement with parameters is another one than that with constants.
            for one in document:
                if isinstance(one, dict):
                    one.pop("Query Identifier", None)
        return document

    def _parametrised(self, placed: _Placed, accepted: bool) -> _Statement:
        """Return a statement with parameters that the server takes for what the constants are."""
        if not placed.may_share:
            return placed.statement
        given = placed.statement
        name = self._prepare_given(given, accepted)
        return placed.shared(self._declared(name, given.types))

    def _prepare_with_values(self, given: _Statement, accepted: bool) -> str:
        """Prepare a statement and set its values; return how to execute it."""
        name = self._prepare_given(given, accepted)
        if not given.types:
            return name
        settings = {
            f"{name}.v{position}": value
            for position, value in enumerate(given.values, start=1)
            if value is not None
        }
        types = self._set(name, settings, given)
        arguments = [
            "NULL" if value is None else f"pg_catalog.current_setting('{name}.v{position}')::{kind}"
            for position, (value, kind) in enumerate(zip(given.values, types, strict=True), start=1)
        ]
        return f"{name} ({', '.join(arguments)})"

    def _prepare_given(self, given: _Statement, accepted: bool) -> str:
        """Prepare a statement, which must be a single one; return the name of what is prepared."""
        if "\\" in given.uncertain and self._backslash != _STANDARD:
            raise _other_backslash()
        if not is_single(given.text):
            # A text that the server never accepted may have a bracket too many. A backslash may
            # mean something else on this connection than on the application's.
            if not accepted or "\\" in given.uncertain:
                raise ServerError(SkipReason.MULTIPLE_STATEMENTS)
            super()._prepare(in_brackets(given.text), given.types)
        return super()._prepare(given.text, given.types)

    def _prepare(self, text: str, types: Sequence[str], parameters: Parameters = None) -> str:
        if not is_single(text):
            raise ServerError(SkipReason.MULTIPLE_STATEMENTS)
        return super()._prepare(text, types)

    def types_of_parameters(self, text: str, types: Sequence[str]) -> list[str]:
        text = without_end(text)
        if is_single(text):
            return super().types_of_parameters(text, types)
        if "\\" in text:
            raise ServerError(SkipReason.MULTIPLE_STATEMENTS)
        # The server refuses this if there is a second statement.
        super()._prepare(in_brackets(text), types)
        return self._declared(super()._prepare(text, types), types)

    def _set(self, name: str, settings: Mapping[str, str], given: _Statement) -> Sequence[str]:
        """Set the values of a prepared statement; return the types of its parameters."""
        calls = [
            f"pg_catalog.set_config('{setting}', {constant(value)}, true)"
            for setting, value in {"plan_cache_mode": "force_custom_plan", **settings}.items()
        ]
        if UNTYPED in given.types:
            calls.append(
                "(SELECT parameter_types::pg_catalog.text[] "
                f"FROM pg_catalog.pg_prepared_statements WHERE name = '{name}')"
            )
        (row,) = self._ask(self._send_query, f"{MARK}SELECT {', '.join(calls)}", None)
        return list(map(unlimited, row[-1])) if UNTYPED in given.types else given.types

    def _placed(self, text: str, parameters: Parameters) -> _Placed | None:
        """Return a statement with its values as parameters, None if they cannot be."""
        if not parameters or len(parameters) > _MAX_PARAMETERS:
            return None
        if hash(text) in self._literal_only or not stand_for_values(text):
            return None
        try:
            numbered = Numbered(text, parameters)
        except ServerError:
            return None
        standard = self._backslash == _STANDARD
        read = [read_literal(quoted, standard=standard) for quoted in self._quoted(numbered.values)]
        literals = [literal for literal in read if literal is not None]
        if len(literals) < len(read) or not read:
            return None
        placed = _Placed(numbered, literals)
        too_many = len(placed.literals) > _MAX_PARAMETERS
        return placed if not too_many and self._may_be_typed(placed.literals) else None

    def _may_be_typed(self, literals: Sequence[Literal]) -> bool:
        """Whether the type of each parameter is known, or may be asked for."""
        if all(literal.type != UNTYPED for literal in literals):
            return True
        info = self._connection.info
        if _MAY_ASK_KEY not in info:
            ((info[_MAY_ASK_KEY],),) = self.fetch(_MAY_ASK_TYPES)
        return bool(info[_MAY_ASK_KEY])

    def _written(self, text: str, parameters: Parameters) -> _Statement:
        """Return a statement with its values in its text, as the driver writes them."""
        if parameters is None:
            return _Statement(text, text)
        values = parameters.values() if isinstance(parameters, Mapping) else parameters
        quoted = self._quoted(list(values))
        uncertain = quoted
        if stand_for_values(text):
            if self._backslash == _STANDARD:
                quoted = list(map(written_anew, quoted))
            # A constant that stands where a value does cannot hide a second statement.
            uncertain = [value for value in quoted if read_literal(value, standard=False) is None]
        sql = [_Sql(value.encode(self._encoding)) for value in quoted]
        named = isinstance(parameters, Mapping)
        given = dict(zip(parameters, sql, strict=True)) if named else sql
        written = self._cursor.mogrify(text, given).decode(self._encoding)
        return _Statement(written, "\n".join([text, *uncertain]))

    def written(self, text: str, parameters: Parameters) -> str:
        return self._ask(self._write, text, parameters)

    def _write(self, text: str, parameters: Parameters) -> str:
        if not parameters:
            return self._written(text, parameters).text
        numbered = Numbered(text, parameters)
        literals = dict(enumerate(self._quoted(numbered.values)))
        # A value with the end of a line would leave a comment.
        return numbered.with_literals(literals, in_quotes=True)

    def _quoted(self, values: Sequence[Any]) -> list[str]:
        """Return values as the driver writes them into a text.

        Raises ServerError if it writes backslashes in another way than the connection reads them.
        """
        cursor, encoding = self._cursor, self._encoding
        quoted = [cursor.mogrify("%s", (value,)).decode(encoding) for value in values]
        has_backslash = any("\\" in value for value in quoted)
        if has_backslash and self._backslash not in (_STANDARD, _ESCAPED):
            raise _other_backslash()
        return quoted

    @property
    def _backslash(self) -> bytes:
        """A backslash as psycopg2 writes it on this connection.

        Whether it writes E was decided when it connected; whether it doubles the backslash depends
        on the present setting.
        """
        from psycopg2 import extensions

        string = extensions.QuotedString("\\")
        string.prepare(self._connection.driver_connection)
        return bytes(string.getquoted())

    # Asked for each text that is sent: this and the cursor save 0.9 of 16 ms each.
    @cached_property
    def _encoding(self) -> str:
        from psycopg2 import extensions

        driver: Any = self._connection.driver_connection
        return extensions.encodings[driver.encoding]

    @cached_property
    def _cursor(self) -> Any:
        """A cursor of psycopg2's own class, whatever the application has configured."""
        from psycopg2 import extensions

        driver: Any = self._connection.driver_connection
        cursor = driver.cursor(cursor_factory=extensions.cursor)
        # It refuses a cursor that a tool for measurements has wrapped.
        with suppress(TypeError):
            extensions.register_type(_json_as_text(), cursor)
        return cursor


#: A backslash as a constant if standard_conforming_strings is on, and one that needs no setting.
_STANDARD, _ESCAPED = b"'\\'", b"E'\\\\'"


def _other_backslash() -> ServerError:
    detail = "with standard_conforming_strings = off, a backslash may mean something else"
    return ServerError(SkipReason.SESSION_STATE_UNKNOWN, detail)


def _is_about_values(error: ServerError) -> bool:
    """Whether the server may accept the same statement with literals in place of parameters."""
    state = error.sqlstate or ""
    return (
        state[:2] in {"22", "23", "42"}
        and state not in _OF_THE_STATEMENT
        and error.reason is not SkipReason.MULTIPLE_STATEMENTS
    )


def _json_as_text() -> Any:
    """Return a reader of psycopg2's that leaves JSON alone."""
    from psycopg2 import extensions

    return extensions.new_type((_JSON_OID,), "PLANWATCH_JSON", lambda value, cursor: value)


_JSON_OID = 114
