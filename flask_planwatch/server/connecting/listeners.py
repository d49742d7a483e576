"""Code of the application's that may set something on a connection, where no hook sees it.

An event listener gets the driver's connection or a cursor. Its bytecode tells whether and how it
uses them. One that is not known to be harmless may set anything. So may a method that the
application has put in the place of SQLAlchemy's.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy.engine import Engine

from .bytecode import OBSERVERS, found_of, is_a, package_of
from .effects import ANYTHING, HARMLESS, Effect, effect_of_function
from .listener_code import (
    ASSIGNED,
    CONNECTION,
    CONTEXT,
    INFO,
    NOTHING,
    RAW,
    Argument,
    function_of,
    loads_of,
    name_of,
    reaches_cursor,
    reads_context,
    runs_stored,
    unwrapped,
)

#: Methods of an engine by which the application gets each connection.
_OF_AN_ENGINE = ("begin", "connect", "raw_connection")

#: Methods of a pool by which each connection goes to the application and comes back.
_OF_A_POOL = ("connect", "_do_get", "_do_return_conn", "_return_conn", "_create_connection")

#: Methods of a dialect that get the driver's connection or a cursor, as all `do_` methods do.
_OF_A_DIALECT = ("set_isolation_level", "reset_isolation_level", "_do_ping_w_event")


class Listener(NamedTuple):
    """A listener of the application's, and what it may do.

    `while_in_use` tells that it may run while the application uses the connection, and not only at
    checkout and checkin.
    """

    name: str
    event: str
    effect: Effect
    while_in_use: bool


#: The arguments of an event by their places; None: each is the driver's, or the pool's record.
_Arguments = Mapping[int, Argument] | None

_POOL_EVENTS = ("checkout", "checkin", "reset", "first_connect")

_CONNECTION_EVENTS = (
    "after_execute before_execute begin begin_twophase commit engine_connect prepare_twophase "
    "release_savepoint rollback rollback_savepoint savepoint set_connection_execution_options"
)
_ENGINE_EVENTS: dict[str, _Arguments] = {
    **{event: {0: CONNECTION} for event in _CONNECTION_EVENTS.split()},
    "after_cursor_execute": {0: CONNECTION, 1: RAW, 4: CONTEXT},
    "before_cursor_execute": {0: CONNECTION, 1: RAW, 4: CONTEXT},
}
_DIALECT_EVENTS: dict[str, _Arguments] = {
    "do_execute": {0: RAW, 3: CONTEXT},
    "do_execute_no_params": {0: RAW, 2: CONTEXT},
    "do_executemany": {0: RAW, 3: CONTEXT},
    "handle_error": {0: CONTEXT},
}
#: Those of `after_begin`: a session, its transaction and its connection.
_AFTER_BEGIN = {0: CONNECTION, 1: CONNECTION, 2: CONNECTION}

#: The arguments of other events of a session. They lead to the driver by several attributes only.
_OF_A_SESSION: Mapping[int, Argument] = {}


def uses_connection(listener: Any) -> bool:
    """Whether a listener to `connect` uses the connection that it gets.

    True if it cannot be read, False if it only stores something in the record's `info`.
    """
    found = function_of(listener)
    if found is None:
        return not is_a(unwrapped(listener), (types.BuiltinFunctionType,))
    if package_of(found.function) == "sqlalchemy":
        return True
    loads = list(loads_of(found.function.__code__, set(found.parameters)))
    record = found.parameters[1] if found.in_place and found.positional > 1 else None
    if all(name == record and after in INFO | {ASSIGNED} for name, after in loads):
        return bool(loads) and runs_stored(listener, {name: RAW for name, _ in loads})
    return True


def written_by_application(listener: Any) -> bool:
    """Whether a listener is the application's, and not SQLAlchemy's."""
    return package_of(unwrapped(listener)) != "sqlalchemy"


def listeners_of(engine: Engine, *, connects: bool) -> Iterator[Listener]:
    """Yield the listeners of an engine that may set something on its connections.

    Listeners to `connect` run for PlanWatch's connection as well, so they count only if they read
    what differs between threads or requests. With `connects`, they do not run, and all count.
    """
    pool, dialect = engine.pool.dispatch, engine.dialect.dispatch
    if connects:
        yield from _harmful(pool, {"connect": None}, while_in_use=False)
    yield from _harmful(pool, dict.fromkeys(_POOL_EVENTS), while_in_use=False)
    for event, listeners in (
        ("connect", () if connects else pool.connect),
        ("do_connect", dialect.do_connect),
    ):
        for listener in listeners:
            if reads_context(unwrapped(listener)):
                yield Listener(name_of(listener), event, ANYTHING, while_in_use=False)
    yield from _harmful(engine.dispatch, _ENGINE_EVENTS)
    yield from _harmful(dialect, _DIALECT_EVENTS)
    orm = sys.modules.get("sqlalchemy.orm")
    if orm is not None:
        of_sessions: Iterable[str] = vars(orm.events.SessionEvents)
        events = {**dict.fromkeys(of_sessions, _OF_A_SESSION), "after_begin": _AFTER_BEGIN}
        for session in _with_subclasses(orm.Session):
            # Only an instance shows the listeners of its class.
            yield from _harmful(session.__new__(session).dispatch, events)


def effect_of(listener: Any, handed: Mapping[int, Any] | None = None) -> Effect:
    """Return what a listener may do.

    `handed` are its arguments by their places; None: all are the driver's connection.
    """
    if package_of(unwrapped(listener)) in OBSERVERS:
        return HARMLESS
    found = function_of(listener)
    if found is None:
        is_builtin = is_a(unwrapped(listener), (types.BuiltinFunctionType,))
        return HARMLESS if is_builtin else ANYTHING
    if handed is None or not found.in_place:
        given = dict.fromkeys(found.parameters, RAW)
    else:
        given = {
            name: handed.get(position, NOTHING) if position < found.positional else RAW
            for position, name in enumerate(found.parameters)
        }
    given = {name: kind for name, kind in given.items() if kind is not NOTHING}
    loads = list(loads_of(found.function.__code__, set(given)))
    by_stored = any(after in INFO for _, after in loads) and runs_stored(listener, given)
    if not by_stored and all(
        after is not None and given[name].allows(after) for name, after in loads
    ):
        return HARMLESS
    is_raw = by_stored or any(given[name].raw for name, _ in loads)
    return effect_of_function(found.function, raw=is_raw)


def _harmful(
    dispatch: Any, events: Mapping[str, _Arguments], *, while_in_use: bool = True
) -> Iterator[Listener]:
    for event, handed in events.items():
        listeners = () if event.startswith("_") else getattr(dispatch, event, ())
        for listener in listeners:
            effect = _effect_in(listener, event, handed)
            if effect != HARMLESS:
                yield Listener(name_of(listener), event, effect, while_in_use)


def _effect_in(listener: Any, event: str, handed: _Arguments) -> Effect:
    known = found_of(listener)
    if event not in known:
        is_harmless = handed is _OF_A_SESSION and not reaches_cursor(listener)
        known[event] = HARMLESS if is_harmless else effect_of(listener, handed or None)
    effect: Effect = known[event]
    return effect


def _with_subclasses(kind: Any) -> Iterator[Any]:
    yield kind
    for subclass in kind.__subclasses__():
        yield from _with_subclasses(subclass)


def replaced_method(engine: Engine) -> str | None:
    """Return the name of a replaced method, which may set something on a connection; None if none.

    No hook would see it.
    """
    pool, dialect = engine.pool, engine.dialect
    of_a_dialect = [name for name in dir(dialect) if name.startswith("do_")]
    parts: list[tuple[Any, Iterable[str]]] = [
        (engine, _OF_AN_ENGINE),
        (pool, _OF_A_POOL),
        (dialect, [*of_a_dialect, *_OF_A_DIALECT]),
    ]
    for part, names in parts:
        for name in names:
            if _is_replaced(part, name):
                return f"{type(part).__name__}.{name}"
    made: tuple[Any, ...] = (engine._connection_cls, dialect.execution_ctx_cls)
    return next((kind.__name__ for kind in made if not _is_sqlalchemys(kind)), None)


def _is_replaced(part: Any, name: str) -> bool:
    if name in vars(part):
        return True
    owner = next((kind for kind in type(part).__mro__ if name in vars(kind)), None)
    if owner is None:
        return False
    return not (_is_sqlalchemys(owner) and _is_sqlalchemys(getattr(owner, name)))


def _is_sqlalchemys(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] == "sqlalchemy"
