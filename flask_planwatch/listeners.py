"""What an event listener of the application may do to a connection, as far as its code tells.

A listener gets the driver's connection or a cursor, and may set something there that no hook sees.
Its bytecode says whether it looks at them at all, and what for. Only what is seen to be harmless is
taken to be; of all else it is assumed that it may set anything.
"""

from __future__ import annotations

import builtins
import contextlib
import dis
import functools
import inspect
import logging
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy.engine import Engine

from .bytecode import asks_attribute, closure_of
from .context_reads import reads_context
from .state_change import SOMETHING, Change, Command, changes, may_change_state, words


class Effect(NamedTuple):
    """What a listener may do: names of settings that it may set, and whether it undoes others."""

    sets: frozenset[str] = frozenset()
    undoes: bool = False


HARMLESS = Effect()
ANYTHING = Effect(frozenset({SOMETHING}), undoes=True)


class Listener(NamedTuple):
    """A listener of the application's, and what it may do.

    `amidst` tells that it may run while a connection is in use, and not only when the pool hands it
    out or takes it back.
    """

    name: str
    event: str
    effect: Effect
    amidst: bool


class _Handed(NamedTuple):
    """What a listener gets.

    `raw` tells that it is something which leads to a cursor of the driver's right away. `safe` are
    attributes that lead to none, or with `but`, the only ones that do.
    """

    raw: bool
    safe: frozenset[str]
    but: bool = False

    def allows(self, attribute: str) -> bool:
        return attribute == _STORED or (attribute in self.safe) is not self.but


#: The driver's connection or cursor, or the pool's record of one.
_RAW = _Handed(
    raw=True,
    safe=words(
        "autocommit cancel close closed commit encoding info invalidate is_valid record_info "
        "rollback rowcount server_version status transaction_was_reset asyncio_safe "
        "terminate_only"
    ),
)

#: SQLAlchemy's connection or session: the hooks see what is executed there.
_CONNECTION = _Handed(
    raw=False,
    safe=words(
        "add begin_nested bind closed commit dialect engine exec_driver_sql execute flush "
        "get_bind get_execution_options get_nested_transaction get_transaction "
        "in_nested_transaction in_transaction info invalidated rollback scalar scalars"
    ),
)

#: SQLAlchemy's context of an execution or an error, on which instrumentation keeps its own things.
_CONTEXT = _Handed(
    raw=False,
    safe=words(
        "connection create_cursor create_default_cursor create_server_side_cursor cursor "
        "execution_context root_connection _dbapi_connection _root_conn"
    ),
    but=True,
)

_POOL_EVENTS = ("checkout", "checkin", "reset")
_CONNECT_EVENTS = ("connect", "first_connect")

#: What the events of an engine hand out, by the place among the arguments.
_ENGINE_EVENTS: dict[str, Mapping[int, _Handed]] = {
    **{
        name: {0: _CONNECTION}
        for name in (
            "after_execute",
            "before_execute",
            "begin",
            "begin_twophase",
            "commit",
            "engine_connect",
            "prepare_twophase",
            "release_savepoint",
            "rollback",
            "rollback_savepoint",
            "savepoint",
            "set_connection_execution_options",
        )
    },
    "after_cursor_execute": {0: _CONNECTION, 1: _RAW, 4: _CONTEXT},
    "before_cursor_execute": {0: _CONNECTION, 1: _RAW, 4: _CONTEXT},
}
_DIALECT_EVENTS: dict[str, Mapping[int, _Handed]] = {
    "do_execute": {0: _RAW, 3: _CONTEXT},
    "do_execute_no_params": {0: _RAW, 2: _CONTEXT},
    "do_executemany": {0: _RAW, 3: _CONTEXT},
    "handle_error": {0: _CONTEXT},
}
#: A session, its transaction and its connection.
_AFTER_BEGIN = {0: _CONNECTION, 1: _CONNECTION, 2: _CONNECTION}

#: Packages that watch, and set nothing.
_OBSERVERS = words(
    "ddtrace elasticapm flask_debugtoolbar flask_planwatch flask_sqlalchemy logfire newrelic "
    "opentelemetry scout_apm sentry_sdk sqlalchemy"
)

#: Packages whose functions make types known to a driver.
_DRIVERS = frozenset({"asyncpg", "pgvector", "psycopg", "psycopg2"})

#: Packages whose functions are not the application's.
_OTHERS = _DRIVERS | _OBSERVERS | sys.stdlib_module_names

#: Attributes that a listener with a cursor may use: those that do nothing but run the SQL which
#: they are given, and some of loggers and clocks.
_ALLOWED = words(
    "DatabaseError Error InterfaceError OperationalError ProgrammingError "
    "append autocommit close closed commit connection cursor cursor_factory dbapi_connection "
    "DictCursor NamedTupleCursor RealDictCursor "
    "ClientCursor Cursor RawCursor RawServerCursor ServerCursor server_cursor_factory "
    "debug description driver_connection engine error exec_driver_sql execute executemany "
    "extras extensions fetchall fetchmany fetchone get info invalidate monotonic perf_counter "
    "pop reset rollback rowcount scalar scalars setdefault statusmessage time types url "
    "warning"
)

#: Attributes of SQLAlchemy's objects that lead to the driver's.
_LEADS_TO_RAW = words("connection cursor dbapi_connection driver_connection")

#: What listeners keep for a connection: it may be a cursor, or SQL.
_KEPT = words("info record_info")

#: Attributes without which nothing that was kept can be used to set anything.
_ACTS = words(
    "callproc copy_expert cursor dbapi_connection driver_connection exec_driver_sql execute "
    "executemany fetch fetchrow fetchval raw_connection scalar scalars"
)

#: Attributes that decide what cursors a connection makes.
_FACTORIES = words("cursor_factory server_cursor_factory")

#: Those without which a listener of a session comes to no cursor of the driver's.
_RAW_ALONE = words("cursor dbapi_connection driver_connection raw_connection")

_HARMLESS_CALLS = frozenset(
    {bool, contextlib.closing, contextlib.suppress, hash, id, int, isinstance, len, print, type}
)

#: Functions of the application's that are read for one listener.
_MAX_FUNCTIONS = 10

#: What was found out about listeners, as long as they live.
_known: WeakKeyDictionary[Any, dict[str, Effect]] = WeakKeyDictionary()

#: What tells the listeners of each class of sessions.
_of_sessions: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def uses_connection(listener: Any) -> bool:
    """Whether a listener to `connect` looks at the connection that it is given.

    One that is not understood does. One that only keeps something in the record's `info` does not.
    """
    found = _function_of(listener)
    if found is None:
        return not isinstance(_unwrapped(listener), types.BuiltinFunctionType)
    if _package(found.function) == "sqlalchemy":
        return True
    loads = list(_loads(found.function.__code__, set(found.parameters)))
    record = found.parameters[1] if found.in_place and found.positional > 1 else None
    if all(name == record and after in _KEPT | {_STORED} for name, after in loads):
        return bool(loads) and _uses_kept(listener, found, {name: _RAW for name, _ in loads})
    return True


def is_applications(listener: Any) -> bool:
    """Whether a listener is the application's, and none that SQLAlchemy brings along."""
    return _package(_unwrapped(listener)) != "sqlalchemy"


def listeners_of(engine: Engine, *, connects: bool) -> Iterator[Listener]:
    """Yield the listeners that may do something to a connection of an engine's.

    Those to `connect` run for PlanWatch's connection, too, so they count only if they read what
    differs between threads or requests; or all of them, if `connects` tells that they do not run.
    """
    pool, dialect = engine.pool, engine.dialect
    for event in _POOL_EVENTS + (_CONNECT_EVENTS if connects else ("first_connect",)):
        yield from _harmful(event, getattr(pool.dispatch, event), None, amidst=False)
    for event, listeners in (
        ("connect", () if connects else pool.dispatch.connect),
        ("do_connect", dialect.dispatch.do_connect),
    ):
        for listener in listeners:
            if reads_context(_unwrapped(listener)):
                yield Listener(_name(listener), event, ANYTHING, amidst=False)
    for source, events in ((engine, _ENGINE_EVENTS), (dialect, _DIALECT_EVENTS)):
        for event, handed in events.items():
            listeners = getattr(source.dispatch, event)
            yield from _harmful(event, listeners, handed, amidst=True)
    orm = sys.modules.get("sqlalchemy.orm")
    if orm is not None:
        for session in _with_subclasses(orm.Session):
            if session not in _of_sessions:
                # Only an object lists the listeners of its class; the list lives on.
                _of_sessions[session] = session.__new__(session).dispatch
            yield from _of_session(_of_sessions[session], orm.events.SessionEvents)


def effect_of(listener: Any, handed: Mapping[int, Any] | None = None) -> Effect:
    """Return what a listener may do; `handed` is what it gets, None: the driver's connection."""
    if _package(_unwrapped(listener)) in _OBSERVERS:
        return HARMLESS
    found = _function_of(listener)
    if found is None:
        is_builtin = isinstance(_unwrapped(listener), types.BuiltinFunctionType)
        return HARMLESS if is_builtin else ANYTHING
    if handed is None or not found.in_place:
        given = dict.fromkeys(found.parameters, _RAW)
    else:
        given = {
            name: handed.get(place, _NOTHING) if place < found.positional else _RAW
            for place, name in enumerate(found.parameters)
        }
    given = {name: kind for name, kind in given.items() if kind is not _NOTHING}
    loads = list(_loads(found.function.__code__, set(given)))
    uses_kept = any(after in _KEPT for _, after in loads) and _uses_kept(listener, found, given)
    if not uses_kept and all(
        after is not None and given[name].allows(after) for name, after in loads
    ):
        return HARMLESS
    is_raw = uses_kept or any(given[name].raw for name, _ in loads)
    return _Reading(raw=is_raw).read(found.function)


def _of_session(dispatch: Any, events: type) -> Iterator[Listener]:
    yield from _harmful("after_begin", dispatch.after_begin, _AFTER_BEGIN, amidst=True)
    for event in vars(events):
        if event == "after_begin" or event.startswith("_") or not hasattr(dispatch, event):
            continue
        yield from _harmful(event, getattr(dispatch, event), _OF_A_SESSION, amidst=True)


def _reaches_cursor(listener: Any) -> bool:
    """Whether a listener, or a function that it calls, names what leads to a driver's cursor."""
    found = _function_of(listener)
    for code in () if found is None else _codes(listener, found):
        attributes = [str(one.argval) for one in dis.get_instructions(code) if asks_attribute(one)]
        if not _RAW_ALONE.isdisjoint(attributes) or attributes.count("connection") > 1:
            return True
    return False


def _uses_kept(listener: Any, found: _Found, given: Mapping[str, _Handed]) -> bool:
    """Whether a listener names what could run something by what was kept for a connection.

    What it asks of the variables that are given is not meant.
    """
    for code in _codes(listener, found):
        by_name = not _BY_NAME.isdisjoint(code.co_names)
        if by_name and not _ACTS.isdisjoint(map(str, code.co_consts)):
            return True
        variable: Any = None
        for instruction in dis.get_instructions(code):
            if asks_attribute(instruction) and instruction.argval in _ACTS:
                attribute = _attribute(instruction)
                handed = given.get(variable) if isinstance(variable, str) else None
                if handed is None or attribute is None or not handed.allows(attribute):
                    return True
            is_variable = any(one in instruction.opname for one in _VARIABLES)
            variable = instruction.argval if is_variable else None
            if isinstance(variable, tuple):
                variable = variable[-1]
    return False


#: Functions that ask for an attribute by its name.
_BY_NAME = words("attrgetter getattr methodcaller")


def _codes(listener: Any, found: _Found) -> Iterator[types.CodeType]:
    """Yield the code of a listener, and of the application's functions that it names."""
    plain = _unwrapped(listener)
    itself = [] if plain is found.function else [getattr(plain, "__self__", plain)]
    waiting = [found.function]
    read: set[types.CodeType] = set()
    functions = 0
    while waiting and functions < _MAX_FUNCTIONS:
        function = waiting.pop()
        if function.__code__ in read:
            continue
        functions += 1
        codes = [function.__code__]
        for code in codes:
            read.add(code)
            yield code
            codes.extend(one for one in code.co_consts if isinstance(one, types.CodeType))
            named = (function.__globals__.get(name) for name in code.co_names)
            objects = [*named, *closure_of(function).values(), *itself]
            waiting.extend(one for each in objects for one in _called(each, code.co_names))


def _called(value: Any, names: tuple[str, ...]) -> Iterator[types.FunctionType]:
    """Yield the functions that an object is or has by some names, if they are the application's."""
    place = value if isinstance(value, type | types.ModuleType) else type(value)
    methods = () if isinstance(value, types.FunctionType) else names
    for one in [value, *(inspect.getattr_static(place, name, None) for name in methods)]:
        one = getattr(one, "__func__", one) if isinstance(one, staticmethod | classmethod) else one
        if type(one) is types.FunctionType and _package(one) not in _OTHERS:
            yield one


_NOTHING = _Handed(raw=False, safe=frozenset(), but=True)

#: What other events of a session hand out leads to the driver's connection by many names only.
_OF_A_SESSION: Mapping[int, _Handed] = {}


def _harmful(
    event: str, listeners: Any, handed: Mapping[int, Any] | None, *, amidst: bool
) -> Iterator[Listener]:
    for listener in listeners:
        try:
            known = _known.setdefault(listener, {})
        except TypeError:
            # It cannot be held weakly, or is no key.
            known = {}
        if event not in known:
            far = handed is _OF_A_SESSION and not _reaches_cursor(listener)
            known[event] = HARMLESS if far else effect_of(listener, handed or None)
        if known[event] != HARMLESS:
            yield Listener(_name(listener), event, known[event], amidst)


def _name(listener: Any) -> str:
    plain = _unwrapped(listener)
    name = getattr(plain, "__qualname__", None) or type(plain).__name__
    return str(name).rpartition(".")[2]


def _with_subclasses(kind: Any) -> Iterator[Any]:
    yield kind
    for subclass in kind.__subclasses__():
        yield from _with_subclasses(subclass)


def _package(function: Any) -> str:
    module = getattr(function, "__module__", None)
    return module.partition(".")[0] if isinstance(module, str) else ""


class _Found(NamedTuple):
    """A function, and those of its parameters that get what an event hands out.

    The first `positional` of them are in the order of the event's arguments, if `in_place`.
    """

    function: Any
    parameters: tuple[str, ...]
    positional: int
    in_place: bool


def _unwrapped(listener: Any) -> Any:
    """Return what the application gave to SQLAlchemy, out of SQLAlchemy's own wrappers."""
    while _package(listener) == "sqlalchemy" and isinstance(listener, types.FunctionType):
        contents = [one for one in closure_of(listener).values() if callable(one)]
        # Its own helpers come last.
        contents.sort(key=lambda one: _package(one) == "sqlalchemy" or isinstance(one, type))
        if not contents or isinstance(contents[0], type):
            break
        listener = contents[0]
    return listener


def _function_of(listener: Any) -> _Found | None:
    """Return the function that a listener is, None if it is none of Python's."""
    called: Any = _unwrapped(listener)
    in_place, bound = True, 0
    if called is not listener:
        # Some of the wrappers hand on other arguments.
        module = getattr(listener, "__module__", "")
        in_place = module in {"sqlalchemy.engine.events", "sqlalchemy.util.langhelpers"}
    while isinstance(called, functools.partial):
        called, in_place = called.func, False
    if isinstance(called, types.MethodType):
        called, bound = called.__func__, 1
    elif not isinstance(called, types.FunctionType | types.BuiltinFunctionType):
        called, bound = getattr(type(called), "__call__", None), 1  # noqa: B004
    if not isinstance(called, types.FunctionType):
        return None
    function: types.FunctionType = called
    code = function.__code__
    named = code.co_argcount + code.co_kwonlyargcount
    count = named + bool(code.co_flags & 4) + bool(code.co_flags & 8)
    parameters = code.co_varnames[bound:count]
    return _Found(function, parameters, code.co_argcount - bound, in_place)


#: Functions that show all variables.
_SEE_ALL = frozenset({"dir", "eval", "exec", "locals", "vars"})


def _loads(code: types.CodeType, names: set[str]) -> Iterator[tuple[str, str | None]]:
    """Yield the uses of some variables, each with the attribute that is asked of it, or None."""
    instructions = list(dis.get_instructions(code))
    for instruction, after in zip(instructions, [*instructions[1:], None], strict=True):
        operation, value = instruction.opname, instruction.argval
        if operation == "LOAD_GLOBAL" and value in _SEE_ALL:
            yield from ((name, None) for name in names)
        if "LOAD" not in operation or not any(one in operation for one in _VARIABLES):
            continue
        # From Python 3.13 on, one instruction may name two; what it stores comes first.
        used = value if isinstance(value, tuple) else (value,)
        if operation.startswith("STORE"):
            used = used[1:]
        for place, name in enumerate(used):
            if name in names:
                yield name, _attribute(after) if place == len(used) - 1 else None


#: What is in the names of operations on variables.
_VARIABLES = ("FAST", "DEREF", "CLOSURE")

#: What stands for keeping something on what is handed out, which is harmless.
_STORED = "="


def _attribute(after: dis.Instruction | None) -> str | None:
    if after is None or after.opname not in {"LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR"}:
        return None
    if after.opname == "STORE_ATTR":
        return None if after.argval in _FACTORIES else _STORED
    return str(after.argval)


#: Methods that take out what was kept.
_TAKES = words("get pop setdefault")


class _Stranger(Exception):
    """A listener uses what PlanWatch does not know."""


class _Reading:
    """What a function with a connection may do, with those that it calls.

    It may if each name in it is known to be harmless but for the SQL that is run, and this SQL is
    all there: in constants, or behind the beginning of a SET that names its setting.
    """

    def __init__(self, *, raw: bool) -> None:
        self._raw = raw
        self._undoes = False
        self._texts: set[str] = set()
        #: Texts that are put together, at the most.
        self._made = 0
        #: Values that are taken out of what was kept, at the most.
        self._taken = 0
        self._formatted = False
        self._waiting: list[types.FunctionType] = []

    def read(self, function: types.FunctionType) -> Effect:
        """Return what a function may do."""
        self._waiting, read = [function], 0
        try:
            while self._waiting:
                read += 1
                if read > _MAX_FUNCTIONS:
                    raise _Stranger
                following = self._waiting.pop()
                scope = closure_of(following)
                self._read(following.__code__, following.__globals__, scope)
                for value in [
                    *(following.__defaults__ or ()),
                    *(following.__kwdefaults__ or {}).values(),
                ]:
                    self._named(value)
            if not self._raw:
                return HARMLESS
            return self._effect()
        except _Stranger:
            return ANYTHING

    def _read(self, code: types.CodeType, names: Mapping[str, Any], scope: dict[str, Any]) -> None:
        for instruction in dis.get_instructions(code):
            operation, value = instruction.opname, instruction.argval
            if operation in {"LOAD_CONST", "RETURN_CONST"}:
                self._constant(value, names, scope, set(code.co_cellvars))
            elif operation in {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}:
                self._named(names.get(value, getattr(builtins, value, _MISSING)))
            elif operation == "LOAD_DEREF" and value in code.co_freevars:
                if scope.get(value, _MISSING) is not _LOCAL:
                    self._named(scope.get(value, _MISSING))
            elif asks_attribute(instruction):
                self._attribute(str(value))
                # What was kept may be any text.
                self._taken += value in _TAKES
            elif operation == "IMPORT_NAME" and value.partition(".")[0] not in _DRIVERS:
                raise _Stranger
            elif operation in {"BUILD_STRING", "BINARY_OP", "BINARY_SUBSCR"}:
                self._made += 1
            elif operation.startswith("FORMAT_"):
                self._formatted = True
            elif operation in {"STORE_GLOBAL", "LOAD_BUILD_CLASS"}:
                raise _Stranger

    def _constant(
        self, value: Any, names: Mapping[str, Any], scope: dict[str, Any], cells: set[str]
    ) -> None:
        if isinstance(value, str):
            self._texts.add(value)
        elif isinstance(value, bytes):
            self._texts.add(value.decode("utf-8", "replace"))
        elif isinstance(value, tuple):
            for one in value:
                self._constant(one, names, scope, cells)
        elif isinstance(value, types.CodeType):
            self._read(value, names, {**scope, **dict.fromkeys(cells, _LOCAL)})

    def _named(self, value: Any) -> None:
        """Take in what a global name or one of an outer function stands for by now."""
        if isinstance(value, str):
            self._texts.add(value)
        elif isinstance(value, types.FunctionType):
            if _package(value) not in _DRIVERS | _OBSERVERS:
                self._waiting.append(value)
        elif isinstance(value, types.ModuleType):
            if value.__name__.partition(".")[0] not in _DRIVERS | {"time", "logging"}:
                raise _Stranger
        elif not (
            value is None
            or isinstance(value, int | float | logging.Logger)
            or (isinstance(value, type) and issubclass(value, BaseException))
            or (_is_hashable(value) and value in _HARMLESS_CALLS)
            or (callable(value) and _package(value) in _DRIVERS | {"sqlalchemy", "time"})
        ):
            raise _Stranger

    def _attribute(self, name: str) -> None:
        if name not in _ALLOWED and not name.startswith("register_"):
            raise _Stranger
        self._raw |= name in _LEADS_TO_RAW
        self._undoes |= name == "reset"

    def _effect(self) -> Effect:
        """Return what the SQL in the texts may do."""
        sets: set[str] = set()
        beginnings = 0
        for text in self._texts:
            if not may_change_state(text):
                continue
            found = list(changes(text, None))
            if any(one.name == SOMETHING for one in found if isinstance(one, Change)):
                # What follows a quote may be put in later.
                text = text.rstrip("'\" ")
                found = list(changes(text, None))
            names = {one.name for one in found if isinstance(one, Change) and one.is_setting}
            lowered = text.strip().lower()
            is_open = lowered.endswith((" to", "=", ",")) or "%s" in lowered
            beginnings += is_open and lowered.startswith("set ") and SOMETHING not in names
            resets = lowered.startswith("reset ")
            for one in found:
                if isinstance(one, Command):
                    self._undoes |= one.word == "discard"
                elif resets and not one.unknown:
                    self._undoes = True
                else:
                    sets.add(one.name if one.is_setting else SOMETHING)
        if max(self._made, self._formatted, self._taken) > beginnings:
            raise _Stranger
        return Effect(frozenset(sets), self._undoes or bool(sets))


_MISSING = object()
_LOCAL = object()


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except Exception:  # noqa: BLE001 - an object of the application's may raise anything
        return False
    return True
