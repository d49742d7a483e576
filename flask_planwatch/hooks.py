"""Engine events -> Capture: the only code on the application's hot path.

Nothing here waits, reads or writes anything outside the process, and no error of PlanWatch's own
leaves a hook: `let_through` lets pass what others raise while one runs.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from flask import Flask, has_request_context, request
from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.engine.interfaces import ExecuteStyle

from .capture import Capture, NotCopied, constructs_of, copied, text_size
from .clock import now
from .connection_notes import notes_of
from .finding import SkipReason, StatementError
from .interruption import let_through
from .location import origin_finder
from .repetition import (
    ASYNCPG,
    CUSTOM_PLANS,
    MAX_LOOKS,
    PSYCOPG,
    Preparation,
    Repetition,
    Repetitions,
)
from .request_record import request_record
from .sampling import Sampler
from .server.drivers import in_transaction, known_of, search_path_of, sqlstate_of
from .session_state import NOTHING_SET, ConnectionState, SessionState
from .spans import current_span
from .state_change import may_change_state
from .tally import MAX_KEY_LENGTH, MAX_RECENT, Tallies, Tally
from .worker import OWN_THREADS, Ticket

#: Statements that EXPLAIN takes, as the first word after comments and parentheses.
_EXPLAINABLE = re.compile(
    r"\A\s*+(?:(?:\(|--[^\r\n]*+[\r\n]|/\*(?:[^*]++|\*(?!/))*+\*/)\s*+)*+"
    r"(?:select|insert|update|delete|merge|with|values|table)\b",
    re.IGNORECASE,
)

#: Parameters of more bytes, and texts of more characters, are not sent to the server again: to plan
#: with them costs what they cost, and the plan repeats them.
MAX_PARAMETER_SIZE = 1_000_000

#: Of a statement that may be prepared, several sets of parameters are kept, but no larger ones, in
#: bytes; nor are those of a statement that changes the state of its connection.
MAX_SET_SIZE = 10_000

#: Statements of more characters are not read: a tokenizer holds the GIL for some µs for each.
MAX_STATEMENT_SIZE = 25_000

_COMMENTS = re.compile(r"\A(?:\s++|--[^\r\n]*+(?:[\r\n]|\Z)|/\*(?:[^*]++|\*(?!/))*+\*/)*+;?+\s*+\Z")

#: Long texts of which is remembered whether they may change the state, by some 100 bytes each.
MAX_LONG_TEXTS = 1000

_NOWAIT = re.compile(r"\bNOWAIT\b", re.IGNORECASE)

#: Characters that stand for a longer statement.
_SHOWN_OF_LARGE = 1000

#: Neither `executemany` nor what SQLAlchemy makes of many INSERTs.
_ONE = ExecuteStyle.EXECUTE

_DROPPED = "dropped, as too many others were waiting"

#: What a statement has where `schema_translate_map` puts the name of a schema.
_TRANSLATED = "__[SCHEMA_"

#: The note of a connection's state.
_STATE = "state"

#: The note that the engine has a connection, and the hooks see what is done with it.
_SEEN = "seen"

#: The note of what a connection knows of itself.
_KNOWN = "known"


class Sink(Protocol):
    """Where the captures of one engine go, and what becomes of its connections."""

    @property
    def sampler(self) -> Sampler:
        """The sampler of the app."""

    def submit(self, capture: Capture) -> Ticket | None:
        """Accept a capture without waiting, or drop it, count that, and return None."""

    def connected(self, record: Any) -> None:
        """Learn that the application has a connection, by its place in the pool."""

    def disconnected(self, record: Any) -> None:
        """Learn that the application has closed one."""

    def lost(self, record: Any) -> None:
        """Learn that the application has lost one, and will connect again."""

    def disposed(self) -> None:
        """Give PlanWatch's connection up before the engine's dispose() returns."""

    def failed(self, error: Exception) -> None:
        """Count an exception that was raised in a hook."""


#: One execution that may be sampled, as the hooks see it: cursor, statement, parameters, context,
#: key, duration in ms, and how it failed. No class of its own, as to make one takes longer.
_Execution = tuple[Any, str, Any, Any, str, float, StatementError | None]


class _Known(NamedTuple):
    """What the hooks know of one of the application's connections, as the driver has it."""

    state: SessionState
    connection: weakref.ref[Any]


def _ends(conn: Any) -> bool:
    """Whether the driver's commit() and rollback() end the transaction that is open.

    In AUTOCOMMIT, of one that a text began, only psycopg's do.
    """
    driver = conn.connection.dbapi_connection
    return not driver.autocommit or hasattr(driver, "pgconn") or not in_transaction(driver)


def _key_of_rewritten(key: str, sent: str, made: str) -> str:
    """Return the key of a statement that a listener may have rewritten after SQLAlchemy made it.

    What only got a comment, such as the identifier of a trace, is the same statement still.
    """
    before, found, after = sent.partition(made)
    return key if found and _COMMENTS.match(before) and _COMMENTS.match(after) else sent


def _endpoint() -> str | None:
    """Return the endpoint of the current request, in a third of what request.endpoint takes."""
    if not has_request_context():
        return None
    endpoint: str | None = request._get_current_object().endpoint  # type: ignore[attr-defined]
    return endpoint


class Watch:
    """Listens to one engine for one app.

    `database` tells apart engines without a bind key, and is empty for those of Flask-SQLAlchemy.
    `sink` gets what is captured; its sampler is asked for at the first statement, because the
    settings depend on the debug mode. SQLAlchemy keeps the hooks as long as anything that it has
    compiled for the engine, so they keep neither app nor engine nor sink alive.
    """

    def __init__(
        self,
        app: Flask,
        engine: Engine,
        bind: str | None,
        database: str,
        sink: Sink,
    ) -> None:
        self._engine = weakref.ref(engine)
        self.bind = bind
        self.database = database
        #: Whether there is a panel; in debug mode it lists each statement of a request.
        self.has_panel = False
        self._app = weakref.ref(app)
        self._sink = weakref.ref(sink, self._released)
        self._driver = engine.dialect.driver
        self._prepares = self._driver in {PSYCOPG, ASYNCPG}
        self._tallies = Tallies(repeat=self._prepares)
        self._sampler: Sampler | None = None
        self._find_origin = origin_finder(app.root_path)
        self.active = self._attached = False
        #: Whether a connection has a state that decides what its statements mean, and the states.
        self._stateful = False
        self._states: weakref.WeakSet[ConnectionState] = weakref.WeakSet()
        self._following = threading.RLock()
        self._repetitions = Repetitions()
        #: Whether long texts may change the state, by their hashes.
        self._long_texts: dict[int, bool] = {}
        self._listeners: dict[str, Callable[..., Any]] = {
            "before_cursor_execute": self._before,
            "after_cursor_execute": self._after,
            "handle_error": self._error,
            "commit": self._commit,
            "commit_twophase": self._commit,
            # What a transaction set for the session stays when it is prepared.
            "prepare_twophase": self._commit,
            "rollback": self._rollback,
            "rollback_twophase": self._rollback,
            "savepoint": self._savepoint,
            "rollback_savepoint": self._rollback_savepoint,
            "release_savepoint": self._release_savepoint,
            "checkout": self._checkout,
            "engine_connect": self._engine_connect,
            "checkin": self._checkin,
            "invalidate": self._invalidate,
            "close": self._close,
            "engine_disposed": self._engine_disposed,
        }

    def listen(self) -> None:
        """Attach the hooks, or wake them up again."""
        self.active = True
        self._tallies.allow_plain(allowed=not self._stateful)
        engine = self._engine()
        if not self._attached and engine is not None:
            self._attached = True
            for name, hook in self._listeners.items():
                # A hook that returns what the event may change needs no wrapper of SQLAlchemy's.
                event.listen(engine, name, hook, retval=hook == self._before)

    def unlisten(self) -> None:
        """Put the hooks to sleep.

        They stay attached: SQLAlchemy cannot take one off while another thread is calling it.
        """
        self.active = False
        self._tallies.allow_plain(allowed=False)

    def _released(self, _: object) -> None:
        """Keep nothing once nobody is there to take it: the app has gone, or its PlanWatch."""
        self.active = False
        self._tallies = Tallies(repeat=self._prepares)
        self._tallies.allow_plain(allowed=False)
        self._sampler = None

    def after_fork(self) -> None:
        """Begin to count anew in a forked child: it has findings of its own."""
        self._tallies = Tallies(repeat=self._prepares)
        self._tallies.allow_plain(allowed=self.active and not self._stateful)
        # A thread of the parent may hold it for ever.
        self._following = threading.RLock()
        self._sampler = None

    def _before(
        self, conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> tuple[str, Any]:
        try:
            # By its module: gevent may replace it later.
            if threading.get_ident() not in OWN_THREADS:
                context._planwatch_started = now()
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)
        return statement, parameters

    def _after(
        self, conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        try:
            ended = now()
            try:
                started = context._planwatch_started
            except AttributeError:
                # This is PlanWatch's own thread, or the hooks are younger.
                return
            if context.execute_style is not _ONE:
                self._see_many(conn, statement, context)
                return
            compiled = context.compiled
            key = statement if compiled is None else compiled.string
            if statement is not context.statement:
                key = _key_of_rewritten(key, statement, context.statement)
            tally = self._tallies.plain.get(key)
            if tally is None:
                found = self._look(conn, key, statement, parameters, context)
                if found is None:
                    return
                tally, key = found
            if context.execution_options.get("planwatch", True) is False:
                return
            duration_ms = (ended - started) * 1000
            sampler = self._sampler or self._find_sampler()
            if sampler is None:
                return
            sampler.captured += 1
            sampler.total_ms += duration_ms
            tally.durations[tally.succeeded % MAX_RECENT] = duration_ms
            tally.succeeded += 1
            tally.total_ms += duration_ms
            due = (
                # Also if the clock was set back.
                abs(ended - tally.sampled) >= sampler.interval or duration_ms > sampler.slow_ms
            )
            if due or self.has_panel:
                ran = (cursor, statement, parameters, context, key, duration_ms, None)
                self._consider(ran, tally, sampler, ended, due=due)
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    def _error(self, exception: ExceptionContext) -> None:
        try:
            ended = now()
            context: Any = exception.execution_context
            statement = exception.statement
            conn = exception.connection
            if self._stateful and conn is not None and (state := self._state(conn)):
                open_now = in_transaction(conn.connection.dbapi_connection)
                state.failed(in_commit=not statement, in_transaction=open_now)
            started = getattr(context, "_planwatch_started", None)
            one = context is not None and context.execute_style is _ONE
            if started is None or not statement or not one or not self.active:
                return
            if exception.sqlalchemy_exception is None:
                return
            key = statement if context.compiled is None else context.compiled.string
            if statement is not context.statement:
                key = _key_of_rewritten(key, statement, context.statement)
            tally, key = self._tally(context.root_connection, key, context)
            if not tally.explainable or context.execution_options.get("planwatch", True) is False:
                return
            original = exception.original_exception
            error = StatementError(
                type(original).__name__,
                sqlstate_of(original),
                disconnected=exception.is_disconnect,
                nowait=_NOWAIT.search(statement) is not None,
            )
            duration_ms = (ended - started) * 1000
            sampler = self._sampler or self._find_sampler()
            if sampler is None:
                return
            sampler.captured += 1
            sampler.total_ms += duration_ms
            tally.failed(duration_ms)
            due = error.means_load or sampler.is_due(tally, ended) or duration_ms > sampler.slow_ms
            parameters = exception.parameters
            ran = (None, statement, parameters, context, key, duration_ms, error)
            self._consider(ran, tally, sampler, ended, due=due)
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    # Nearly each request ends a transaction: a guard that these shared would be one more call.

    def _commit(self, conn: Any, *_: Any) -> None:
        try:
            if self._repetitions.running:
                for repetition in self._repetitions.committed(conn):
                    repetition.due = True
            if self._stateful and (state := self._state(conn)) and _ends(conn):
                state.committed()
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    def _rollback(self, conn: Any, *_: Any) -> None:
        try:
            if self._repetitions.running:
                self._repetitions.rolled_back(conn)
            if self._stateful and (state := self._state(conn)) and _ends(conn):
                state.rolled_back()
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    def _savepoint(self, conn: Any, name: str, *_: Any) -> None:
        try:
            if self._stateful and (state := self._state(conn)):
                state.savepoint(name)
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    def _rollback_savepoint(self, conn: Any, name: str, *_: Any) -> None:
        try:
            if self._repetitions.running:
                self._repetitions.rolled_back(conn)
            if self._stateful and (state := self._state(conn)):
                state.rolled_back(name)
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    def _release_savepoint(self, conn: Any, name: str, *_: Any) -> None:
        try:
            if self._stateful and (state := self._state(conn)):
                state.released(name)
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    def _checkout(self, dbapi_connection: Any, record: Any, proxy: Any) -> None:
        try:
            notes = notes_of(record)
            notes[_SEEN] = False
            if self not in notes:
                # It is a new one, or older than the hooks.
                notes[self] = True
                if (sink := self._sink()) is not None:
                    sink.connected(record)
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    def _engine_connect(self, conn: Any) -> None:
        try:
            notes_of(conn.connection)[_SEEN] = True
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    def _checkin(self, dbapi_connection: Any, record: Any) -> None:
        try:
            if dbapi_connection is None:
                # It is gone, with all that was set on it.
                return
            notes = notes_of(record)
            # Without a Connection of the engine's, it was the driver's that the application had.
            raw = notes.get(_SEEN) is False and self.active
            if raw:
                self._follow(notes)
            if self._stateful:
                state: ConnectionState | None = notes.get(_STATE)
                if state is not None:
                    state.returned(raw=raw, in_transaction=in_transaction(dbapi_connection))
                self._follow_no_more(notes, state)
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    # What follows happens once for each connection of the application, or less often.

    def _invalidate(self, connection: Any, record: Any, exception: Any) -> None:
        try:
            if (sink := self._sink()) is not None:
                sink.lost(record)
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    def _close(self, connection: Any, record: Any) -> None:
        try:
            if (sink := self._sink()) is not None:
                sink.disconnected(record)
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    def _engine_disposed(self, engine: Engine) -> None:
        try:
            if (sink := self._sink()) is not None:
                sink.disposed()
        except Exception as error:  # noqa: BLE001 - see let_through
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        let_through(error)
        # Not even the counting may break the query.
        with suppress(Exception):
            if (sink := self._sink()) is not None:
                sink.failed(error)

    def _find_sampler(self) -> Sampler | None:
        sink = self._sink()
        self._sampler = None if sink is None else sink.sampler
        return self._sampler

    def _look(
        self, conn: Any, key: str, statement: str, parameters: Any, context: Any
    ) -> tuple[Tally, str] | None:
        """Return the tally of an execution that says more than its duration, None without one."""
        if not self.active:
            return None
        tally, known_by = self._tally(conn, key, context)
        if tally.changes_state:
            self._note(conn, statement, parameters, context)
        if not tally.explainable:
            return None
        plain = not (self._stateful or tally.changes_state or _TRANSLATED in key)
        plain &= known_by is key
        if self._prepares and parameters:
            if context.execution_options.get("planwatch", True) is not False:
                self._repeat(tally, key, statement, parameters, conn)
            plain &= tally.repetition is not None and tally.repetition.rests
        elif self._prepares:
            # An empty IN list has no parameters, and the next one may have some.
            plain &= statement == key and tally.repetition is None
        if plain:
            self._tallies.add_plain(key, tally)
        return tally, known_by

    def _see_many(self, conn: Any, statement: str, context: Any) -> None:
        """Take in that a statement which may change the state ran for many sets of parameters."""
        writes = context.isinsert or context.isupdate or context.isdelete
        if self.active and not writes and may_change_state(statement):
            self._note(conn, statement, None, context)

    def _tally(self, conn: Any, key: str, context: Any) -> tuple[Tally, str]:
        """Return what is counted of a statement, and the text that it is known by."""
        identity: Hashable = key
        if (self._stateful or _TRANSLATED in key) and (place := self._place(conn, key, context)):
            # In another schema it is another statement.
            identity = (key, place)
        tally = self._tallies.recent.get(identity)
        return (tally, key) if tally is not None else self._first_seen(identity, key, context)

    def _first_seen(self, identity: Hashable, key: str, context: Any) -> tuple[Tally, str]:
        changes_state = None
        if len(key) > MAX_KEY_LENGTH:
            # The same long text is the same object mostly, of which the hash is known.
            identity = hash(identity)
            if len(key) > MAX_STATEMENT_SIZE:
                changes_state = self._changes_state(key)
                key = f"{key[:_SHOWN_OF_LARGE]} … ({len(key)} characters)"
                identity = (key, changes_state)
            known = self._tallies.recent.get(identity)
            if known is not None:
                return known, key
        if changes_state is None:
            changes_state = may_change_state(key)
        explainable = not context.isddl and _EXPLAINABLE.match(key) is not None
        new = Tally(explainable, changes_state)
        return self._tallies.add(identity, new), key

    def _changes_state(self, text: str) -> bool:
        """Return `may_change_state` of a long text, which takes some ms, once."""
        known = self._long_texts.get(hash(text))
        if known is None:
            if len(self._long_texts) >= MAX_LONG_TEXTS:
                self._long_texts.clear()
            known = self._long_texts[hash(text)] = may_change_state(text)
        return known

    def _state(self, conn: Any) -> ConnectionState | None:
        """Return what is set on a connection, None if nothing ever was."""
        if conn.closed or conn.invalidated:
            return None
        state: ConnectionState | None = notes_of(conn.connection).get(_STATE)
        return state

    def _place(self, conn: Any, key: str, context: Any) -> Hashable:
        """Return what decides which tables a statement means, None if nothing does but its text."""
        state = self._state(conn) if self._stateful else None
        place = None if state is None else state.place
        if _TRANSLATED in key:
            schemas = context.execution_options.get("schema_translate_map") or {}
            return (place, frozenset(schemas.items()))
        return place

    def _note(self, conn: Any, statement: str, parameters: Any, context: Any) -> None:
        """Remember what a statement has changed for those that follow on its connection."""
        if conn.closed or conn.invalidated:
            return
        state = self._follow(notes_of(conn.connection))
        given = None
        if parameters or not context.no_parameters:
            with suppress(NotCopied):
                given, _ = copied(parameters, MAX_SET_SIZE)
        open_now = in_transaction(conn.connection.dbapi_connection)
        state.note(statement, given, in_transaction=open_now)

    def _follow(self, notes: dict[Any, Any]) -> ConnectionState:
        """Return the state of a connection, and look at each statement from now on.

        What a statement means depends on its connection, as long as any has a state.
        """
        with self._following:
            state: ConnectionState = notes.setdefault(_STATE, ConnectionState())
            self._states.add(state)
            if not self._stateful:
                self._stateful = True
                self._tallies.allow_plain(allowed=False)
        return state

    def _follow_no_more(self, notes: dict[Any, Any], state: ConnectionState | None) -> None:
        """Forget a state in which nothing is set any more, and be at ease with the last of them."""
        with self._following:
            if state is not None and state.is_empty:
                notes.pop(_STATE, None)
                self._states.discard(state)
            if not self._states:
                self._stateful = False
                self._tallies.allow_plain(allowed=self.active)

    def _repeat(self, tally: Tally, key: str, statement: str, parameters: Any, conn: Any) -> None:
        """Count a repetition, if the driver prepares what repeats.

        The statement is due when it is clear that it may be prepared, when PostgreSQL chooses, and
        with values that were not seen before.
        """
        repetition = tally.repetition
        if repetition is None:
            repetition = tally.repetition = Repetition()
        repetition.followed += 1
        threshold = repetition.threshold = self._repetitions.count(conn, key, repetition)
        if threshold is None:
            return
        # The text of an IN list is another one each time.
        if repetition.looks < MAX_LOOKS or hash(statement) != repetition.text:
            with suppress(NotCopied):
                new = repetition.keep(statement, *copied(parameters, MAX_SET_SIZE))
                repetition.due |= new and repetition.commits > 0
        chosen = repetition.most == threshold + CUSTOM_PLANS + 1
        if repetition.due or (chosen and not repetition.chosen):
            repetition.due, repetition.chosen = False, chosen
            tally.sampled = float("-inf")
        if repetition.most > threshold + CUSTOM_PLANS + 1 and repetition.looks >= MAX_LOOKS:
            repetition.settled = True

    def _consider(
        self, ran: _Execution, tally: Tally, sampler: Sampler, now: float, *, due: bool
    ) -> None:
        """Submit an execution if it is due and the request and the budget allow it."""
        _, _, parameters, context, key, duration_ms, error = ran
        # Outside debug mode the panel shows nothing, so that no values are kept for it.
        app, sink = self._app(), self._sink()
        if app is None or sink is None:
            return
        shown, once = self.has_panel and app.debug, sampler.interval == 0
        record = request_record(app) if shown or once else None
        identity = None
        if once and record is not None:
            place = self._place(context.root_connection, key, context)
            identity = (id(self), hash(key), place)
        detailed = record is not None and shown and record.has_room
        ticket, note = None, ""
        if error is not None and error.means_load:
            ticket = sink.submit(self._capture(ran, tally, sampler, detailed))
            note = "" if ticket else _DROPPED
        elif not due:
            note = "inspected less than PLANWATCH_SAMPLE_INTERVAL ago"
        elif sampler.waits(tally, now):
            note = "slow, and inspected as such a short time ago"
        elif record is not None and identity is not None and record.was_sampled(identity):
            note = "inspected once in this request"
        elif not sampler.spend(tally, now, slow=duration_ms > sampler.slow_ms):
            note = "over the budget of PLANWATCH_INSPECTIONS_PER_MINUTE"
        else:
            if record is not None and identity is not None:
                record.sample(identity)
            if tally.repetition is not None and not tally.repetition.settled:
                tally.repetition.followed = 0
                self._tallies.plain.pop(key, None)
            ticket = sink.submit(self._capture(ran, tally, sampler, detailed))
            if ticket is None:
                sampler.give_back(tally)
                note = _DROPPED
        if record is not None and shown:
            record.see(key, parameters, duration_ms, ticket, note)

    def _capture(self, ran: _Execution, tally: Tally, sampler: Sampler, shown: bool) -> Capture:
        cursor, statement, parameters, context, key, duration_ms, error = ran
        left_out, given, size = None, None, 0
        compiled = context.compiled
        written = statement if compiled is None else compiled.string
        if len(written) > MAX_STATEMENT_SIZE or len(statement) > MAX_PARAMETER_SIZE:
            left_out = SkipReason.STATEMENT_TOO_LARGE
        else:
            try:
                given, size = copied(parameters, MAX_PARAMETER_SIZE)
            except NotCopied as refused:
                left_out = refused.reason
        text = key if left_out else statement
        root = context.root_connection
        lost = error is not None and (root.invalidated or root.closed)
        known = None if lost else self._known(root.connection)
        origin = tally.origin = self._find_origin(tally.origin)
        preparation, repeated = None, 0
        if tally.repetition is not None:
            preparation = self._preparation(ran, tally.repetition)
            repeated = tally.repetition.size
        # By their order, which takes half the time.
        return Capture(
            text,
            given,
            key,
            bool(parameters) or not context.no_parameters,
            self.bind,
            self.database,
            duration_ms,
            getattr(cursor, "rowcount", -1),
            origin,
            _endpoint(),
            tally,
            sampler,
            error,
            duration_ms > sampler.slow_ms or (error is not None and error.means_load),
            left_out,
            size + text_size(text) + text_size(key) + repeated,
            getattr(cursor, "name", None) is None,
            preparation,
            constructs_of(context),
            None if known is None else known.connection,
            NOTHING_SET if known is None else known.state,
            current_span(),
            shown,
        )

    def _known(self, pooled: Any) -> _Known:
        """Return what is known of a connection by now."""
        notes = notes_of(pooled)
        known: _Known | None = notes.get(_KNOWN)
        if known is None:
            state = SessionState(**known_of(pooled.dbapi_connection))
            known = notes[_KNOWN] = _Known(state, weakref.ref(pooled.driver_connection))
        if known.state.search_path is not None:
            path = search_path_of(pooled.dbapi_connection)
            if path != known.state.search_path:
                known = notes[_KNOWN] = known._replace(state=replace(known.state, search_path=path))
        changed: ConnectionState | None = notes.get(_STATE) if self._stateful else None
        if changed is None:
            return known
        return known._replace(state=known.state.changed(changed.current()))

    def _preparation(self, ran: _Execution, repetition: Repetition) -> Preparation | None:
        _, _, _, context, _, _, error = ran
        if repetition.threshold is None or error is not None:
            return None
        names = getattr(context.compiled, "positiontup", None)
        return repetition.preparation(self._driver, repetition.threshold, names)
