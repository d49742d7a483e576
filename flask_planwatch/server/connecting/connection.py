"""Opens a connection of PlanWatch's own, as the application's engine opens one.

It is never taken from the application's pool, creator or listeners, because the application may be
using their connections, or need them later. SQLAlchemy calls the driver for it, and only if the
engine's connections are opened in no other way.
"""

from __future__ import annotations

import dis
import json
import os
import socket
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

from sqlalchemy.engine import Dialect, Engine, create
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only

from ...capture.driver import sqlstate_of
from ...failure import ServerError
from ...finding import SkipReason
from ...plan.wording import say
from ..errors import why_not_connected
from .bytecode import OBSERVERS, closure_of, is_a, package_of
from .listener_code import name_of, takes_something, unwrapped
from .listeners import uses_connection, written_by_application

#: Why PlanWatch does not connect as the application does, and what to do.
_SHARED = "{why}; set PLANWATCH_DATABASE_URL, and PlanWatch connects with that"
_MAY_CONNECT = "{listener}, which listens to do_connect, may return a connection"
_MAY_TAKE = "{listener} may use up what exists only once, such as a token"
_OTHER_FACTORY = "its {name} is not the driver's"

_TOO_LONG = "the listeners of the connect event took more than {seconds:.0f} s"

#: Why the driver could not connect: as the application does, or by PlanWatch's own URL.
_FAILS = "{why}"
_URL_FAILS = "PLANWATCH_DATABASE_URL does not connect: {why}"

#: Seconds for the application's `connect` listeners. One that waits for a lock could otherwise stop
#: PlanWatch's thread for ever.
LISTENERS_SECONDS = 10.0

_Check = Callable[["OwnConnection"], None]


class OwnConnection:
    """A connection that PlanWatch opened.

    `dbapi_connection` is SQLAlchemy's object, `driver_connection` the driver's, and `info` what is
    remembered for the connection. `gone` tells that it was cut or closed.
    """

    def __init__(self, dbapi_connection: Any, dialect: Dialect) -> None:
        self.dbapi_connection = dbapi_connection
        self.driver_connection = dialect.get_driver_connection(dbapi_connection)
        self.info: dict[str, Any] = {}
        self.gone = False
        self._process = os.getpid()
        # Another object for the same socket, which stays valid whatever the driver does.
        self._socket = _socket_of(self.driver_connection)
        self._once = threading.Lock()

    def cursor(self) -> Any:
        """Return a cursor of the driver, as SQLAlchemy sees it."""
        return self.dbapi_connection.cursor()

    def hang_up(self) -> None:
        """Cut the connection at once, on any thread, even while it is being used.

        The server notices that its client is gone, and a running command fails here.
        """
        if self._process != os.getpid():
            # In a forked child, this would cut the parent's connection.
            return
        self.gone = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it. It must not be in use. Raises nothing."""
        if self._process != os.getpid() or not self._once.acquire(blocking=False):
            return
        self.gone = True
        with suppress(Exception):
            _end(self.driver_connection)
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()


def _end(driver: Any) -> None:
    """Close a driver's connection without waiting, which for an async one would need its loop."""
    if hasattr(driver, "terminate"):
        driver.terminate()
    elif hasattr(driver, "pgconn"):
        driver.pgconn.finish()
    else:
        driver.close()


class _Entry(ConnectionPoolEntry):
    """The pool's record of a connection, as a `connect` listener gets it.

    `invalidate` and `close` raise NotImplementedError: only PlanWatch closes its connection.
    """

    def __init__(self, dbapi_connection: Any, driver_connection: Any) -> None:
        self.dbapi_connection = dbapi_connection
        self.driver_connection = driver_connection
        self._info: dict[Any, Any] = {}

    @property
    def info(self) -> dict[Any, Any]:
        """What listeners keep for the connection."""
        return self._info

    @property
    def record_info(self) -> dict[Any, Any]:
        """What listeners keep for the record."""
        return self._info

    @property
    def in_use(self) -> bool:
        """Whether the connection is checked out."""
        return True


def open_like(engine: Engine, check: _Check) -> OwnConnection:
    """Open a connection as an engine of the application does, with its `connect` listeners.

    Listeners that only count or measure are not called. `check` is called with the connection
    before anything is done on it, and may raise. Raises whatever listeners raise, and ServerError:
    with SERVER_UNAVAILABLE if the driver cannot connect, with SHARED_CONNECTION if the application
    might use the connection too.
    """
    dialect = engine.dialect
    positional, named = _arguments(engine)
    for listener in dialect.dispatch.do_connect:
        if not returns_nothing(listener):
            raise _shared(say(_MAY_CONNECT, listener=name_of(listener)))
        _refuse_taking(listener)
        listener(dialect, None, positional, named)
    _refuse_factories(dialect, named)
    listeners = [listener for listener in engine.pool.dispatch.connect if uses_connection(listener)]
    for listener in listeners:
        _refuse_taking(listener)
    is_limited = any(map(written_by_application, listeners))

    def prepare(connection: OwnConnection) -> None:
        entry = _Entry(connection.dbapi_connection, connection.driver_connection)
        before = _cursor_factories(connection)
        with _limited(connection) if is_limited else nullcontext():
            for listener in listeners:
                listener(connection.dbapi_connection, entry)
        for factory, earlier in zip(_cursor_factories(connection), before, strict=True):
            if factory in (None, earlier) or _comes_from(factory, dialect.driver):
                continue
            # PlanWatch uses the driver's cursors, and would not run what this one does.
            raise _shared("a listener to connect sets a cursor_factory that is not the driver's")

    return _opened(partial(dialect.connect, *positional, **named), engine, prepare, check)


def open_at(engine: Engine, check: _Check) -> OwnConnection:
    """Open a connection of an engine of PlanWatch's own; raises ServerError."""
    dialect = engine.dialect
    positional, named = dialect.create_connect_args(engine.url)
    on_connect = dialect.on_connect_url(engine.url)

    def prepare(connection: OwnConnection) -> None:
        if on_connect is not None:
            on_connect(connection.dbapi_connection)

    connect = partial(dialect.connect, *positional, **named)
    return _opened(connect, engine, prepare, check, _URL_FAILS)


def _opened(
    connect: Callable[[], Any],
    engine: Engine,
    prepare: Callable[[OwnConnection], None],
    check: _Check,
    fails: str = _FAILS,
) -> OwnConnection:
    try:
        dbapi_connection = connect()
    except Exception as error:
        why = say(fails, why=why_not_connected(error, engine.url.password))
        raise ServerError(SkipReason.SERVER_UNAVAILABLE, why, sqlstate_of(error)) from error
    connection = OwnConnection(dbapi_connection, engine.dialect)
    check(connection)
    try:
        prepare(connection)
        # Ends the listeners' transaction. PlanWatch sends BEGIN itself.
        dbapi_connection.rollback()
        dbapi_connection.autocommit = True
        driver = connection.driver_connection
        if hasattr(driver, "prepare_threshold"):
            driver.prepare_threshold = None
        if hasattr(driver, "set_type_codec"):
            await_only(driver.set_type_codec("json", **_JSON_AS_TEXT))
    except BaseException:
        connection.close()
        raise
    return connection


def _json_bytes(value: Any) -> bytes:
    """Return a parameter as JSON: SQLAlchemy's is text, that of an application's codec is not."""
    return (value if isinstance(value, str) else json.dumps(value, default=str)).encode()


#: Makes asyncpg return JSON as text, and not as the application's codec reads it.
_JSON_AS_TEXT: dict[str, Any] = {
    "encoder": _json_bytes,
    "decoder": bytes.decode,
    "schema": "pg_catalog",
    "format": "binary",
}


@contextmanager
def _limited(connection: OwnConnection) -> Iterator[None]:
    """Cut a connection if the listeners in the block take too long, and raise ServerError."""
    late = threading.Event()

    def end() -> None:
        late.set()
        connection.hang_up()

    timer = threading.Timer(LISTENERS_SECONDS, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if not late.is_set():
            raise
        why = say(_TOO_LONG, seconds=LISTENERS_SECONDS)
        raise ServerError(SkipReason.POOL_LISTENER_FAILED, why) from error
    finally:
        timer.cancel()


def _arguments(engine: Engine) -> tuple[list[Any], dict[str, Any]]:
    """Return copies of the arguments with which SQLAlchemy calls the driver for a connection.

    They are in the closure of the pool's creator, under names that are not public. Raises
    ServerError if the creator is not SQLAlchemy's, or if the driver may be called in another way.
    """
    creator: Any = getattr(engine.pool, "_creator", None)
    if getattr(creator, "__globals__", None) is not vars(create):
        raise _shared("its connections come from a creator or a pool that is not SQLAlchemy's")
    inside = closure_of(creator)
    if inside.get("dialect") is not engine.dialect:
        raise _shared("its pool belongs to another engine")
    if not _is_plain(engine.dialect):
        raise _shared("its engine does not call the driver as SQLAlchemy does")
    # Versions of SQLAlchemy name it differently.
    positional, named = inside.get("cargs", inside.get("cargs_tup")), inside.get("cparams")
    if positional is None or named is None:
        raise _shared("how this version of SQLAlchemy connects is not known")
    return list(positional), dict(named)


def _refuse_factories(dialect: Any, named: Mapping[str, Any]) -> None:
    """Raise ServerError for arguments that make the driver call the application's code.

    That may return a connection that is in use, or set something on each.
    """
    for name in ("async_creator_fn", "connection_factory", "cursor_factory"):
        factory = named.get(name)
        if factory is not None and not _comes_from(factory, dialect.driver):
            raise _shared(say(_OTHER_FACTORY, name=name))


def _refuse_taking(listener: Any) -> None:
    """Raise ServerError for a listener that may use up something that exists only once."""
    if takes_something(unwrapped(listener)):
        raise _shared(say(_MAY_TAKE, listener=name_of(listener)))


def _cursor_factories(connection: OwnConnection) -> list[Any]:
    """Return the factories of a connection's cursors, None for what the driver does not have."""
    names = ("cursor_factory", "server_cursor_factory")
    return [getattr(connection.driver_connection, name, None) for name in names]


def returns_nothing(listener: Any) -> bool:
    """Whether a function always returns None, as far as its code tells.

    A listener to `do_connect` may change the driver's arguments, such as a password. If it returns
    something, it is a connection of its own, which the application may need.
    """
    function = listener.__func__ if is_a(listener, (types.MethodType,)) else listener
    if not is_a(function, (types.FunctionType,)):
        return False
    code, before = function.__code__, ("", None)
    for instruction in dis.get_instructions(code):
        name, argument = instruction.opname, instruction.argval
        # If it is the target of a jump, it returns what was on the stack before that.
        is_sure = not instruction.is_jump_target and before == ("LOAD_CONST", None)
        if name == "RETURN_VALUE" and not is_sure:
            return False
        if name == "RETURN_CONST" and argument is not None:
            return False
        before = (name, argument)
    return not code.co_flags & _NO_PLAIN_FUNCTION


#: Generators and coroutines (inspect.CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR).
_NO_PLAIN_FUNCTION = 0x20 | 0x80 | 0x200


def _is_plain(dialect: Any) -> bool:
    """Whether SQLAlchemy calls the driver itself, and neither was replaced."""
    if "connect" in vars(dialect) or not _comes_from(type(dialect).connect, "sqlalchemy"):
        return False
    module, usual = dialect.loaded_dbapi, type(dialect).import_dbapi()
    if not dialect.is_async:
        return module is usual and _comes_from(module.connect, dialect.driver)
    # For an async dialect, the module is an object around the driver.
    if type(module) is not type(usual):
        return False
    driver = getattr(module, dialect.driver)
    connect = getattr(driver, "AsyncConnection", driver).connect
    return driver is getattr(usual, dialect.driver) and _comes_from(connect, dialect.driver)


def _comes_from(thing: Any, package: str) -> bool:
    """Whether a class or a callable is of a package.

    A wrapper of a package that only observes, such as OpenTelemetry, counts as what it wraps.
    """
    if not is_a(thing, (types.FunctionType, types.MethodType)) and hasattr(thing, "__wrapped__"):
        return _is_observers(thing) and _comes_from(thing.__wrapped__, package)
    return package_of(thing) == package


def _is_observers(wrapper: Any) -> bool:
    """Whether a wrapper is of a package that only observes, and not the application's own."""
    wrapt = sys.modules.get("wrapt")
    # A method of a class has a bound wrapper.
    kinds = () if wrapt is None else (wrapt.FunctionWrapper, wrapt.BoundFunctionWrapper)
    is_wrapts = type(wrapper) in kinds
    maker = wrapper._self_wrapper if is_wrapts else type(wrapper)
    return package_of(maker) in OBSERVERS


def _shared(why: str) -> ServerError:
    return ServerError(SkipReason.SHARED_CONNECTION, say(_SHARED, why=why))


def _socket_of(driver: Any) -> socket.socket | None:
    """Return another object for the socket of a driver's connection, None if it has none."""
    try:
        if hasattr(driver, "fileno"):
            number = driver.fileno()
        else:
            # asyncpg has no public name for it.
            number = driver._transport.get_extra_info("socket").fileno()
        return socket.fromfd(number, socket.AF_UNIX, socket.SOCK_STREAM)
    except Exception:  # noqa: BLE001 - a wrapped connection may have none
        return None
