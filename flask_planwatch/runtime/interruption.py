"""Tells an error of PlanWatch's own from an exception that only arrived while its code ran.

A hook swallows its own errors. But a signal handler, a debugger or another thread may raise an
exception at any moment, to end what the application does, and that must reach the application.
Python marks neither, so they are told apart by where they were raised:

- A signal handler is known to the interpreter. So is a function that was called with the frame that
  it interrupts, as trace functions of debuggers are: it holds an earlier frame of the traceback.
- What another thread raises here (`PyThreadState_SetAsyncExc`) comes out of PlanWatch's own lines,
  or of those of the libraries that it calls. These raise exceptions of a few kinds only; any other
  kind was meant for the application.
- What comes out of other code was raised by what PlanWatch called, such as the `__eq__` of a
  parameter: PlanWatch handles that.

What is not an Exception, such as KeyboardInterrupt or gevent.Timeout, is never swallowed.
"""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from functools import partial
from types import CodeType, FrameType, TracebackType
from typing import Any

#: What PlanWatch's lines, and the interpreter on them, may raise. No OSError: hooks do no I/O.
_OWN_KINDS = (
    *(ArithmeticError, AssertionError, AttributeError, BufferError, ImportError, LookupError),
    *(MemoryError, NameError, ReferenceError, RuntimeError, StopIteration, SystemError),
    *(TypeError, ValueError),
)

_PACKAGE = __name__.partition(".")[0]

#: The drivers whose connections PlanWatch knows how to use.
DRIVERS = ("psycopg2", "psycopg", "asyncpg")

#: The libraries that hooks call.
_LIBRARIES = frozenset(
    {_PACKAGE, "sqlalchemy", "flask", "werkzeug", "opentelemetry", *DRIVERS}
    | sys.stdlib_module_names
) - {"builtins", "__main__"}


def let_through(error: Exception) -> None:
    """Raise an exception again, unless it is PlanWatch's own."""
    interrupts = False
    # If that cannot be told, it is swallowed: it came out of PlanWatch's code.
    with suppress(Exception):
        interrupts = is_interruption(error)
    if interrupts:
        raise error


def is_interruption(error: Exception) -> bool:
    """Whether an exception was meant for the application; see the module."""
    frames = list(_frames(error.__traceback__))
    handlers = _handlers()
    for depth, frame in enumerate(frames):
        if depth and (frame.f_code in handlers or _holds(frame, frames[:depth])):
            return True
    raised_in = str(frames[-1].f_globals.get("__name__", "")).partition(".")[0] if frames else ""
    if raised_in not in _LIBRARIES:
        return False
    defined_in = type(error).__module__.partition(".")[0]
    if defined_in in DRIVERS:
        # What is asked of a connection that is closed or lost.
        return type(error).__name__ not in {"InterfaceError", "OperationalError"}
    # SQLAlchemy raises it where something is asked of a connection that is closed. By its name, as
    # the pure parts must not import SQLAlchemy.
    asked_too_late = any(base.__name__ == "InvalidRequestError" for base in type(error).__mro__)
    own = asked_too_late or isinstance(error, _OWN_KINDS)
    return not own or defined_in not in _LIBRARIES | {"builtins"}


def _handlers() -> set[CodeType]:
    """Return the code of the signal handlers that are set."""
    found = set()
    for number in signal.valid_signals():
        handler: Any = signal.getsignal(number)
        while isinstance(handler, partial):
            handler = handler.func
        handler = getattr(handler, "__func__", handler)
        if callable(handler) and not hasattr(handler, "__code__"):
            handler = type(handler).__call__
        code = getattr(handler, "__code__", None)
        if code is not None:
            found.add(code)
    return found


def _frames(step: TracebackType | None) -> list[FrameType]:
    found = []
    while step is not None:
        found.append(step.tb_frame)
        step = step.tb_next
    return found


def _holds(frame: FrameType, earlier: list[FrameType]) -> bool:
    """Whether a function was called with one of the frames before its own."""
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & _VARIADIC)
    for name in code.co_varnames[: count + 1]:
        argument = frame.f_locals.get(name)
        values = argument if isinstance(argument, tuple) else (argument,)
        if any(isinstance(value, FrameType) and value in earlier for value in values):
            return True
    return False


#: A function that takes `*arguments` (inspect.CO_VARARGS).
_VARIADIC = 0x04
