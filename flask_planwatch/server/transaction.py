"""A transaction on PlanWatch's connection: what all drivers have in common."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

from ..capture.driver import IDLE, known_of, reported_role_of, search_path_of, sqlstate_of
from ..capture.literals import UNTYPED, constant
from ..capture.numbered import Parameters
from ..failure import ServerError
from ..finding import SkipReason
from ..plan.tree import Plan, UnreadablePlan
from ..runtime.bounded import RecentlyUsed
from .errors import refusal

if TYPE_CHECKING:
    from .connecting.connection import OwnConnection
    from .explain import Query

Result = TypeVar("Result")

#: Reasons that have nothing to do with what was asked: the server is not there.
NO_SERVER = frozenset({SkipReason.CONNECTION_LOST, SkipReason.SERVER_UNAVAILABLE})

#: The form of EXPLAIN that PlanWatch uses. SETTINGS says whether the leader of a parallel plan
#: takes its share of the rows, SUMMARY what planning took.
EXPLAIN = "EXPLAIN (FORMAT JSON, VERBOSE, SETTINGS, SUMMARY) "

#: Precedes each command of PlanWatch's, for readers of the server's log and statistics.
MARK = "/* planwatch */ "

#: States of a connection, as libpq, psycopg2 and psycopg number them. A broken one is UNKNOWN.
IN_TRANSACTION, _IN_FAILED_TRANSACTION, UNKNOWN = 2, 3, 4

#: The states in which the server answers.
_ALIVE = frozenset({IDLE, 1, IN_TRANSACTION, _IN_FAILED_TRANSACTION})

#: The name of the first statement that is prepared in a transaction; later ones get a number too.
PREPARED = "planwatch"

#: Types whose values are written as `str` writes them.
_PLAIN = (str, int, float, Decimal, UUID, date, time, timedelta)

#: The SQLSTATE for a parameter whose type the server cannot tell, and how the message names one.
_INDETERMINATE = "42P18"
_PARAMETER = re.compile(r"\$(\d+)")

#: Types whose names mean a length of one if none is given.
_WITHOUT_LENGTH = {"character": "bpchar", "bit": '"bit"'}


@contextmanager
def may_be_refused() -> Iterator[None]:
    """Go on after the block if the server refuses something in it.

    Raises ServerError if the server is not there.
    """
    try:
        yield
    except ServerError as error:
        if error.reason in NO_SERVER:
            raise


class Call(Protocol):
    """Calls a function that talks to the driver: directly, or on an event loop."""

    def __call__(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Return what the function returns; raise what it raises."""


class Answer(NamedTuple):
    """The result of a statement: the types of its columns, and its first value."""

    types: Sequence[int]
    value: Any


class Transaction(ABC):
    """A transaction on PlanWatch's connection.

    Nothing is sent once the server has ended the transaction, because it would be committed at
    once. All methods that ask the server raise ServerError. For `literal_only` see Session.
    """

    def __init__(
        self,
        connection: OwnConnection,
        dialect: Any,
        call: Call,
        literal_only: RecentlyUsed[int, bool],
    ) -> None:
        self._connection = connection
        self._dialect = dialect
        self._call = call
        self._literal_only = literal_only
        #: The statement that is explained: an error of the server may name what it reads.
        self._text = ""
        #: What was prepared on the server since the transaction began.
        self._prepared: list[str] = []

    # Each driver has these, and `written`. All but `_state` run on the driver's event loop.

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

    @abstractmethod
    def written(self, text: str, parameters: Parameters) -> str:
        """Return a statement with its values in their places, for people who run it elsewhere."""

    # The rest is the same for all drivers.

    def begin(self, mode: str, *settings: str) -> None:
        """Begin it, and run `settings`: commands whose effect ends with the transaction."""
        if self._state() != IDLE:
            raise ServerError(SkipReason.CONNECTION_LOST, "it is in a transaction already")
        self._called(self._send_commands, _joined(f"BEGIN {mode}", *settings))

    def end(self) -> None:
        """Roll it back, and deallocate what was prepared."""
        # Prepared statements outlive the transaction, and a pooler may give the connection away.
        leftovers = [f"DEALLOCATE {name}" for name in self._prepared]
        self._prepared = []
        self._ask(self._send_commands, _joined("ROLLBACK", *leftovers))

    def run(self, *commands: str) -> None:
        """Run constant commands of PlanWatch's own, in one message if the driver can."""
        self._ask(self._send_commands, _joined(*commands))

    @contextmanager
    def savepoint(self, name: str) -> Iterator[None]:
        """Undo what the block did if it raises ServerError, and raise that again.

        The transaction goes on, unless the reason is one of NO_SERVER: then there is nothing to
        undo. If the undoing fails, its own ServerError is raised. What else the block raises is not
        undone here: it ends the transaction.
        """
        self.run(f"SAVEPOINT {name}")
        try:
            yield
        except ServerError as error:
            if error.reason not in NO_SERVER:
                self.run(f"ROLLBACK TO SAVEPOINT {name}")
            raise
        self.run(f"RELEASE SAVEPOINT {name}")

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Undo what the block did if the server refuses something in it, and go on after it.

        Raises ServerError if the server is not there, as `savepoint` does.
        """
        with may_be_refused(), self.savepoint(name):
            yield

    def run_alone(self, command: str) -> None:
        """Run a command with text that is not PlanWatch's, in a message of one statement only."""
        self._ask(self._send_single, MARK + command, None)

    def fetch(self, sql: str, parameters: Parameters = None) -> list[tuple[Any, ...]]:
        """Run a query of PlanWatch's own, and return its rows; an array is a tuple."""
        rows = self._ask(self._send_query, MARK + sql, parameters)
        return [tuple(_decoded(value) for value in row) for row in rows]

    def types(self, sql: str) -> list[int]:
        """Return the type oids of a query's columns."""
        return list(self._ask(self._send_single, MARK + sql, None).types)

    def oids(self, values: Sequence[Any]) -> list[int]:
        """Return the type oids that the driver declares for values; 0 if the server infers it.

        Raises ServerError if the driver cannot send a value.
        """
        # The server infers all types from the statement.
        return [0] * len(values)

    def literal(self, value: Any) -> str:
        """Return a value as a literal of SQL."""
        if not isinstance(value, _PLAIN):
            raise ServerError(SkipReason.GENERIC_PLAN_UNKNOWN, type(value).__name__)
        return constant(str(value))

    def output(self, sql: str) -> object:
        """Return the first output column in the plan of a query, as the server prints it."""
        document = self._document(EXPLAIN, sql, None, accepted=True)
        try:
            return document[0]["Plan"]["Output"][0]
        except (LookupError, TypeError) as error:
            raise ServerError(SkipReason.UNREADABLE_PLAN, type(error).__name__) from error

    @property
    def known(self) -> dict[str, Any]:
        """What the driver's connection knows of itself; see known_of."""
        return known_of(self._connection.dbapi_connection)

    @property
    def search_path(self) -> str | None:
        """The effective search path, None if the server does not report it."""
        return search_path_of(self._connection.dbapi_connection)

    @property
    def reported_role(self) -> Hashable:
        """The session's role, and whether the current one is a superuser, as reported."""
        return reported_role_of(self._connection.dbapi_connection)

    def plan(self, query: Query, form: str = EXPLAIN) -> Plan:
        """Return the plan of a statement with its own parameters, by this form of EXPLAIN."""
        # Without parameters, the driver would not read the text for doubled %.
        parameters = () if query.parameters is None else query.parameters
        given = parameters if query.escaped else None
        return _plan_of(self._document(form, query.text, given, query.accepted))

    def generic_plan(self, text: str, types: Sequence[str]) -> Plan:
        """Return the generic plan of a text with `$1`, `$2` …, which are of these types."""
        self._text = text
        self.run("SET LOCAL plan_cache_mode = force_generic_plan")
        name = self._prepare(text, types)
        nulls = f" ({', '.join('NULL' for _ in types)})" if types else ""
        return _plan_of(read_document(self._ask_json(f"{EXPLAIN}EXECUTE {name}{nulls}")))

    def types_of_parameters(self, text: str, types: Sequence[str]) -> list[str]:
        """Return the types that `$1`, `$2` … have in a text, if PREPARE takes it with these types.

        One that is UNTYPED is inferred by the server. Raises UntypedParameter if it cannot tell.
        """
        self._text = text
        try:
            return self._declared(self._prepare(text, types), types)
        except ServerError as error:
            named = _PARAMETER.search(str(error.__cause__).partition("\n")[0])
            if error.sqlstate == _INDETERMINATE and named:
                raise UntypedParameter(error, int(named[1])) from error
            raise

    def _declared(self, name: str, types: Sequence[str]) -> list[str]:
        """Return the types of the parameters of a prepared statement."""
        if UNTYPED not in types:
            return list(types)
        try:
            ((found,),) = self.fetch(
                "SELECT parameter_types::pg_catalog.text[] "
                f"FROM pg_catalog.pg_prepared_statements WHERE name = '{name}'"
            )
        except ServerError as error:
            if error.reason is not SkipReason.PERMISSION_DENIED:
                raise
            return list(types)
        return list(map(unlimited, found))

    def _document(self, explain: str, text: str, parameters: Parameters, accepted: bool) -> Any:
        """Return the JSON of an EXPLAIN, parsed."""
        self._text = text
        try:
            return self._explain(explain, text, parameters, accepted)
        except ServerError:
            raise
        except Exception as error:
            # The driver may refuse a value.
            raise self._server_error(error, text) from error

    def _explain(self, explain: str, text: str, parameters: Parameters, accepted: bool) -> Any:
        """Return the JSON of an EXPLAIN, parsed."""
        if parameters:
            answer = self._ask(self._send_single, MARK + explain + text, parameters)
            return read_document(answer.value)
        # Before PostgreSQL 16, pg_stat_statements stores the text of an EXPLAIN with its constants.
        # It never stores that of PREPARE.
        name = self._prepare(text, (), parameters)
        return read_document(self._ask_json(f"{explain}EXECUTE {name}"))

    def _prepare(self, text: str, types: Sequence[str], parameters: Parameters = None) -> str:
        """Prepare a text, which must be one statement; return the name of the prepared statement.

        `parameters` is None or empty: if empty, the driver reads the text for placeholders.
        """
        count = len(self._prepared) + 1
        name = PREPARED if count == 1 else f"{PREPARED}_{count}"
        declared = f" ({', '.join(types)})" if types else ""
        # Before it is sent: if the thread is interrupted, it may have been prepared.
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
        """Return the only value that a command of PlanWatch's own returns: JSON, parsed or not."""
        return self._ask(self._send_single, MARK + sql, None).value

    def _ask(self, send: Callable[..., Result], sql: str, *arguments: Any) -> Result:
        """Send something in the transaction; raises ServerError if that has ended."""
        if self._state() not in {IN_TRANSACTION, _IN_FAILED_TRANSACTION}:
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
        if self._is_lost(error):
            return ServerError(SkipReason.CONNECTION_LOST, type(error).__name__, sqlstate_of(error))
        return refusal(error, self._dialect.driver, sql, self._text)

    def _is_lost(self, error: Exception) -> bool:
        driver = self._connection.dbapi_connection
        if driver is None or self._state() not in _ALIVE:
            return True
        known = isinstance(error, self._dialect.loaded_dbapi.Error)
        return known and bool(self._dialect.is_disconnect(error, driver, None))


class UntypedParameter(ServerError):
    """The server cannot tell the type of a parameter, which has this position, from 1."""

    def __init__(self, error: ServerError, position: int) -> None:
        super().__init__(error.reason, error.detail, error.sqlstate)
        self.position = position


def unlimited(kind: str) -> str:
    """Return the name of a type without a length: `character` alone would mean one character."""
    name, array, end = kind.partition("[]")
    return _WITHOUT_LENGTH.get(name, name) + array + end


def _joined(*commands: str) -> str:
    return "; ".join(MARK + command for command in commands)


def _decoded(value: Any) -> Any:
    """Return a list as a tuple, and bytes, from a database without an encoding, as text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return tuple(map(_decoded, value)) if isinstance(value, list) else value


def read_document(document: Any) -> Any:
    """Return the content of JSON, also if the application's own reader has parsed it."""
    try:
        if not isinstance(document, str | bytes):
            document = json.dumps(document, default=float)
        return json.loads(document)
    except (TypeError, ValueError, RecursionError) as error:
        raise ServerError(SkipReason.UNREADABLE_PLAN, type(error).__name__) from error


def _plan_of(document: Any) -> Plan:
    try:
        return Plan.from_json(document)
    except UnreadablePlan as error:
        raise ServerError(SkipReason.UNREADABLE_PLAN, str(error)) from error
