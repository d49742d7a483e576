"""Whether a function of the application's reads what differs between threads or requests.

A listener to `connect` runs for PlanWatch's connection too, but on PlanWatch's thread, where no
request is being served: one that asks for the tenant of the request sets something else there.
"""

from __future__ import annotations

import dis
import inspect
import threading
import types
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from werkzeug.local import Local, LocalProxy, LocalStack

from .bytecode import asks_attribute, closure_of
from .location import is_own

#: What has another value in each thread, task or request. The number or name of a thread alone is
#: for logs.
_DIFFERENT = (ContextVar, threading.local, Local, LocalProxy, LocalStack)

#: Functions that are read for one listener.
_MAX_FUNCTIONS = 50

_MISSING = object()

#: What was found out about functions, as long as they live.
_known: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


class _Called(NamedTuple):
    """A function that is read, and the object whose method it is, if it is known."""

    function: Any
    owner: Any = _MISSING


def reads_context(function: Any) -> bool:
    """Whether a function, or one that it calls, reads a context variable or the like.

    It is told by the names in its bytecode, and by what these stand for.
    """
    try:
        if function not in _known:
            _known[function] = _reads(function)
        return _known[function]
    except TypeError:
        # It cannot be held weakly, or is no key.
        return _reads(function)


def _reads(function: Any) -> bool:
    waiting = list(_functions(function))
    seen: set[types.CodeType] = set()
    while waiting and len(seen) < _MAX_FUNCTIONS:
        called = waiting.pop()
        if called.function.__code__ in seen:
            continue
        seen.add(called.function.__code__)
        for value in _values(called):
            if isinstance(value, _DIFFERENT):
                return True
            waiting.extend(_functions(value))
    return False


def _functions(value: Any) -> Iterator[_Called]:
    """Yield the function of the application's that is called when a value is."""
    owner = _MISSING
    if isinstance(value, types.MethodType):
        value, owner = value.__func__, value.__self__
    elif not isinstance(value, types.FunctionType | type) and callable(value):
        value, owner = type(value).__call__, value
    # Libraries look at threads and contexts for their own sake, as a logger does.
    if isinstance(value, types.FunctionType) and is_own(value.__code__.co_filename):
        yield _Called(value, owner)


def _values(called: _Called) -> Iterator[Any]:
    """Yield what the names in a function stand for, with the attributes that are asked of them."""
    function: types.FunctionType = called.function
    names = {**function.__globals__, **closure_of(function)}
    parameters = function.__code__.co_varnames[: function.__code__.co_argcount]
    if called.owner is not _MISSING and parameters:
        names[parameters[0]] = called.owner
    codes = [function.__code__]
    for code in codes:
        codes.extend(one for one in code.co_consts if isinstance(one, types.CodeType))
        value: Any = _MISSING
        for instruction in dis.get_instructions(code):
            operation, name = instruction.opname, instruction.argval
            if asks_attribute(instruction):
                value = _attribute(value, name)
            elif operation.startswith("LOAD_") and isinstance(name, str):
                value = names.get(name, _MISSING) if operation != "LOAD_CONST" else _MISSING
            elif operation not in _BETWEEN:
                value = _MISSING
            if value is not _MISSING:
                yield value


#: Instructions that may stand between a name and its attribute.
_BETWEEN = frozenset({"CACHE", "PUSH_NULL", "COPY", "NOP"})


def _attribute(value: Any, name: str) -> Any:
    """Return an attribute of an object without running any code of its own."""
    if value is _MISSING:
        return _MISSING
    found = inspect.getattr_static(value, name, _MISSING)
    if isinstance(found, staticmethod):
        return found.__func__
    if isinstance(found, property) and found.fget is not None:
        return types.MethodType(found.fget, value)
    if isinstance(found, types.FunctionType) and not isinstance(value, types.ModuleType | type):
        return types.MethodType(found, value)
    return found
