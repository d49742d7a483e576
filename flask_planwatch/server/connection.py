"""Opens a connection of PlanWatch's own, as the application's engine opens one.

It never comes from the application's pool, creator or listeners: what these hand out may be in use,
or may be missed where it belongs. So PlanWatch lets SQLAlchemy call the driver, and only where it
is certain that nothing else makes the connections.
"""

from __future__ import annotations

import dis
import inspect
import os
import socket
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

from sqlalchemy.engine import Dialect, Engine, create
from sqlalchemy.pool import ConnectionPoolEntry

from ..finding import SkipReason
from ..listeners import is_applications, uses_connection
from .transaction import ServerError

#: What helps wherever PlanWatch cannot connect as the application does.
_WAY_OUT = "set PLANWATCH_DATABASE_URL, and PlanWatch connects by itself"

#: Seconds for the application's `connect` listeners: one that waits, as for a lock, would keep
#: PlanWatch's thread for good.
LISTENERS_SECONDS = 10.0

_Announce = Callable[["OwnConnection"], None]


class OwnConnection:
    """A connection that PlanWatch opened, as its transactions use it.

    `dbapi_connection` is SQLAlchemy's, `driver_connection` the driver's own, and `info` what is
    remembered of it. `gone` tells that it was cut, or closed.
    """

    def __init__(self, dbapi_connection: Any, dialect: Dialect) -> None:
        self.dbapi_connection = dbapi_connection
        self.driver_connection = dialect.get_driver_connection(dbapi_connection)
        self.info: dict[str, Any] = {}
        self.gone = False
        self._process = os.getpid()
        # A second way to the same socket, which stays valid whatever the driver does with its own.
        self._socket = _socket_of(self.driver_connection)
        self._once = threading.Lock()

    def cursor(self) -> Any:
        """Return a cursor of the driver, as SQLAlchemy sees it."""
        return self.dbapi_connection.cursor()

    def hang_up(self) -> None:
        """Cut the connection at once, on any thread, whatever is being done on it.

        The server sees that its client is gone, and a command under way fails here.
        """
        if self._process != os.getpid():
            # A child that was forked would cut the parent's.
            return
        self.gone = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it; nothing may be under way on it. Raises nothing."""
        if self._process != os.getpid() or not self._once.acquire(blocking=False):
            return
        self.gone = True
        with suppress(Exception):
            _end(self.driver_connection)
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()


def _end(driver: Any) -> None:
    """Close a driver's connection without waiting: that of an async one would need its loop."""
    if hasattr(driver, "terminate"):
        driver.terminate()
    elif hasattr(driver, "pgconn"):
        driver.pgconn.finish()
    else:
        driver.close()


class _Entry(ConnectionPoolEntry):
    """What a `connect` listener gets beside a connection: the place of it in a pool."""

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
        """What listeners keep for the place in the pool."""
        return self._info

    @property
    def in_use(self) -> bool:
        """Whether the connection is checked out."""
        return True

    def invalidate(self, e: BaseException | None = None, soft: bool = False) -> None:
        """Refuse: PlanWatch alone ends its connection."""
        raise RuntimeError("this connection is PlanWatch's own")

    def close(self) -> None:
        """Refuse, as `invalidate` does."""
        raise RuntimeError("this connection is PlanWatch's own")


def open_like(engine: Engine, announce: _Announce) -> OwnConnection:
    """Open a connection as an engine of the application does, with its `connect` listeners.

    Listeners that never look at the connection, which count or measure, are left out. `announce` is
    called with the connection before anything is done on it, and may raise. Raises ServerError with
    SHARED_CONNECTION where it is not certain that the connection would be PlanWatch's alone, and
    whatever driver and listeners raise.
    """
    dialect = engine.dialect
    positional, named = _arguments(engine)
    for listener in dialect.dispatch.do_connect:
        if not returns_nothing(listener):
            raise _shared(f"{_name(listener)}, which listens to do_connect, may return one")
        listener(dialect, None, positional, named)
    _refuse_factories(dialect, named)
    listeners = [one for one in engine.pool.dispatch.connect if uses_connection(one)]
    is_limited = any(map(is_applications, listeners))

    def prepare(connection: OwnConnection) -> None:
        entry = _Entry(connection.dbapi_connection, connection.driver_connection)
        before = _cursor_factories(connection)
        with _limited(connection) if is_limited else nullcontext():
            for listener in listeners:
                listener(connection.dbapi_connection, entry)
        for factory, earlier in zip(_cursor_factories(connection), before, strict=True):
            if factory in (None, earlier) or _comes_from(factory, dialect.driver):
                continue
            # PlanWatch's own cursors are of another class.
            raise _shared("a listener to connect sets a cursor_factory that may do anything")

    return _opened(partial(dialect.connect, *positional, **named), dialect, prepare, announce)


def open_at(engine: Engine, announce: _Announce) -> OwnConnection:
    """Open a connection of an engine of PlanWatch's own; raises what the driver raises."""
    dialect = engine.dialect
    positional, named = dialect.create_connect_args(engine.url)
    on_connect = dialect.on_connect_url(engine.url)

    def prepare(connection: OwnConnection) -> None:
        if on_connect is not None:
            on_connect(connection.dbapi_connection)

    return _opened(partial(dialect.connect, *positional, **named), dialect, prepare, announce)


def _opened(
    connect: Callable[[], Any],
    dialect: Any,
    prepare: Callable[[OwnConnection], None],
    announce: _Announce,
) -> OwnConnection:
    dbapi_connection = connect()
    connection = OwnConnection(dbapi_connection, dialect)
    announce(connection)
    try:
        prepare(connection)
        # What was begun ends here; PlanWatch's transactions begin with a BEGIN of its own.
        dbapi_connection.rollback()
        dbapi_connection.autocommit = True
        driver = connection.driver_connection
        if hasattr(driver, "prepare_threshold"):
            driver.prepare_threshold = None
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _limited(connection: OwnConnection) -> Iterator[None]:
    """Hang up a connection if the listeners in this block take too long, and raise ServerError."""
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
        why = f"the listeners to connect took more than {LISTENERS_SECONDS:.0f} s"
        raise ServerError(SkipReason.POOL_LISTENER_FAILED, why) from error
    finally:
        timer.cancel()


def _arguments(engine: Engine) -> tuple[list[Any], dict[str, Any]]:
    """Return copies of what SQLAlchemy calls the driver with for a new connection.

    They are found by names that are not public, in the function by which an engine's pool makes a
    connection unless it was given another one. Raises ServerError where it was, or where the driver
    is not called by SQLAlchemy itself.
    """
    creator: Any = getattr(engine.pool, "_creator", None)
    if getattr(creator, "__globals__", None) is not vars(create):
        raise _shared("its connections come from a creator or a pool of another maker")
    inside = inspect.getclosurevars(creator).nonlocals
    if inside.get("dialect") is not engine.dialect:
        raise _shared("its pool belongs to another engine")
    if not _is_plain(engine.dialect):
        raise _shared("its engine does not call the driver as SQLAlchemy does")
    # By its older and its newer name.
    positional, named = inside.get("cargs", inside.get("cargs_tup")), inside.get("cparams")
    if positional is None or named is None:
        raise _shared("this version of SQLAlchemy does not tell how it connects")
    return list(positional), dict(named)


def _refuse_factories(dialect: Any, named: Mapping[str, Any]) -> None:
    """Raise ServerError for arguments by which the driver calls code of the application's.

    That may return a connection that is in use, or set something on each.
    """
    for name in ("async_creator_fn", "connection_factory", "cursor_factory"):
        factory = named.get(name)
        if factory is not None and not _comes_from(factory, dialect.driver):
            raise _shared(f"its {name} may do anything")


def _cursor_factories(connection: OwnConnection) -> list[Any]:
    """Return what makes the cursors of a connection, None for what the driver alone makes."""
    names = ("cursor_factory", "server_cursor_factory")
    return [getattr(connection.driver_connection, name, None) for name in names]


def returns_nothing(listener: Any) -> bool:
    """Whether a function returns None wherever it ends, as its code shows.

    A listener to `do_connect` may change what the driver is called with, such as a token that is
    the password; or it returns a connection of its own making, that the application may need.
    """
    code = getattr(getattr(listener, "__func__", listener), "__code__", None)
    if code is None or code.co_flags & _NO_PLAIN_FUNCTION:
        return False
    return all(value is None for value in _returned(code))


#: Generators and coroutines (inspect.CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR).
_NO_PLAIN_FUNCTION = 0x20 | 0x80 | 0x200

_SOMETHING = object()


def _returned(code: Any) -> Iterator[object]:
    """Yield what a function returns: constants, or something else."""
    before = None
    for instruction in dis.get_instructions(code):
        if instruction.opname == "RETURN_CONST":
            yield instruction.argval
        elif instruction.opname == "RETURN_VALUE":
            # One that is jumped to returns what was there before the jump.
            constant = before is not None and before.opname == "LOAD_CONST"
            sure = constant and not instruction.is_jump_target
            yield before.argval if before is not None and sure else _SOMETHING
        before = instruction


def _is_plain(dialect: Any) -> bool:
    """Whether SQLAlchemy calls the driver itself, and nothing was put in the place of either."""
    if "connect" in vars(dialect) or not _comes_from(type(dialect).connect, "sqlalchemy"):
        return False
    module, usual = dialect.loaded_dbapi, type(dialect).import_dbapi()
    if not dialect.is_async:
        return module is usual and _comes_from(module.connect, dialect.driver)
    # That of an async dialect is an object around the driver.
    if type(module) is not type(usual):
        return False
    driver = getattr(module, dialect.driver)
    connect = getattr(driver, "AsyncConnection", driver).connect
    return driver is getattr(usual, dialect.driver) and _comes_from(connect, dialect.driver)


def _comes_from(thing: Any, package: str) -> bool:
    """Whether a class or what can be called is of a package.

    Functions and objects may tell the module of another, as functools.wraps has it. An object of
    wrapt is taken for what it wraps: tools that watch, such as OpenTelemetry, put it there.
    """
    if type(thing) is types.MethodType:
        return _comes_from(thing.__func__, package)
    if type(thing) is types.FunctionType:
        module = thing.__globals__.get("__name__")
    elif isinstance(thing, type):
        module = thing.__module__
    elif "__module__" in getattr(thing, "__dict__", ()):
        return False
    elif hasattr(thing, "__wrapped__"):
        return _comes_from(thing.__wrapped__, package)
    else:
        module = getattr(thing, "__module__", None)
    return str(module).partition(".")[0] == package


def _shared(why: str) -> ServerError:
    return ServerError(SkipReason.SHARED_CONNECTION, f"{why}; {_WAY_OUT}")


def _name(listener: Any) -> str:
    return str(getattr(listener, "__qualname__", type(listener).__qualname__))


def _socket_of(driver: Any) -> socket.socket | None:
    """Return a socket object of PlanWatch's own for a driver's connection, None without one."""
    try:
        if hasattr(driver, "fileno"):
            number = driver.fileno()
        else:
            # asyncpg tells it by nothing public.
            number = driver._transport.get_extra_info("socket").fileno()
        return socket.fromfd(number, socket.AF_UNIX, socket.SOCK_STREAM)
    except Exception:  # noqa: BLE001 - a wrapped connection may have none, and is closed at leisure
        return None
