"""Reads the application's functions without calling them."""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from ...capture.sql_text import words

#: Packages that only observe, and set nothing.
OBSERVERS = words(
    "ddtrace elasticapm flask_debugtoolbar flask_planwatch flask_sqlalchemy logfire newrelic "
    "opentelemetry scout_apm sentry_sdk sqlalchemy"
)

#: Packages whose functions register types with a driver.
DRIVERS = frozenset({"asyncpg", "pgvector", "psycopg", "psycopg2"})

#: Functions that are read for one listener.
MAX_FUNCTIONS = 100

#: Stands for the value of a name that is not known.
UNKNOWN = object()


#: What was found of each function, by the question, for as long as the function lives. To read a
#: listener takes 0.2 to 1 ms.
_found: WeakKeyDictionary[Any, dict[Hashable, Any]] = WeakKeyDictionary()


class TooManyFunctions(Exception):
    """A listener calls more functions than are read."""


class Called(NamedTuple):
    """A Python function, and the object whose method it is, if known."""

    function: Any
    owner: Any = UNKNOWN

    @property
    def codes(self) -> list[types.CodeType]:
        """Its code, and that of the functions within it."""
        codes = [self.function.__code__]
        for code in codes:
            codes.extend(value for value in code.co_consts if isinstance(value, types.CodeType))
        return codes

    @property
    def values(self) -> Iterator[Any]:
        """The values of its names, and of the attributes that it uses of them."""
        names = {**self.function.__globals__, **closure_of(self.function)}
        parameters = self.function.__code__.co_varnames[: self.function.__code__.co_argcount]
        if self.owner is not UNKNOWN and parameters:
            names[parameters[0]] = self.owner
        for code in self.codes:
            value: Any = UNKNOWN
            for instruction in dis.get_instructions(code):
                operation, name = instruction.opname, instruction.argval
                if asks_attribute(instruction):
                    value = _attribute(value, name)
                elif operation.startswith("LOAD_") and isinstance(name, str):
                    value = names.get(name, UNKNOWN) if operation != "LOAD_CONST" else UNKNOWN
                elif operation not in _BETWEEN:
                    value = UNKNOWN
                if value is not UNKNOWN:
                    yield value

    @property
    def methods(self) -> Iterator[Any]:
        """The attributes of the objects that it names, for each name in its code.

        These are more than `values`: a method may be called through a variable.
        """
        asked = {name for code in self.codes for name in code.co_names}
        named = [self.function.__globals__.get(name) for name in asked]
        for named_object in [*named, *closure_of(self.function).values(), self.owner]:
            if type(named_object) is not types.FunctionType:
                yield from (_attribute(named_object, name) for name in asked)


def reached(listener: Any, follows: Callable[[types.FunctionType], bool]) -> Iterator[Called]:
    """Yield the functions that may run when a listener is called, if `follows` is true of them.

    Raises TooManyFunctions.
    """
    waiting = [called_by(listener)]
    read: set[types.CodeType] = set()
    while waiting:
        called = waiting.pop()
        if called is None or called.function.__code__ in read or not follows(called.function):
            continue
        if len(read) == MAX_FUNCTIONS:
            raise TooManyFunctions
        read.add(called.function.__code__)
        yield called
        waiting += map(called_by, (*called.values, *called.methods))


def found_of(function: Any) -> dict[Hashable, Any]:
    """Return what was found of a function so far, to be added to."""
    try:
        return _found.setdefault(function, {})
    except TypeError:
        # It has no weak references, or no hash.
        return {}


def package_of(thing: Any) -> str:
    """Return the package whose code runs when something is called.

    Not `__module__`, which functools.wraps and proxies copy from something else.
    """
    if is_a(thing, (types.MethodType,)):
        return package_of(thing.__func__)
    if is_a(thing, (types.FunctionType,)):
        module = thing.__globals__.get("__name__")
    elif is_a(thing, (type, types.BuiltinFunctionType)):
        module = thing.__module__
    else:
        module = type(thing).__module__
    return str(module).partition(".")[0]


def closure_of(function: types.FunctionType) -> dict[str, Any]:
    """Return the values of the variables of outer functions, by their names."""
    known = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):
            # The cell of a name that is not bound yet is empty.
            known[name] = cell.cell_contents
    return known


def asks_attribute(instruction: dis.Instruction) -> bool:
    """Whether an instruction asks for an attribute or a method, or sets one."""
    return "ATTR" in instruction.opname or instruction.opname == "LOAD_METHOD"


def is_a(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether the type of a value is one of `kinds`; a proxy has its own type, not its target's."""
    return issubclass(type(value), kinds)


def called_by(value: Any) -> Called | None:
    """Return the Python function that runs when a value is called, None if there is none."""
    owner = UNKNOWN
    while is_a(value, (functools.partial,)):
        value = value.func
    if is_a(value, (types.MethodType,)):
        value, owner = value.__func__, value.__self__
    elif is_a(value, (type,)):
        value = inspect.getattr_static(value, "__init__", None)
    elif not is_a(value, (types.FunctionType,)):
        value, owner = getattr(type(value), "__call__", None), value  # noqa: B004
    return Called(value, owner) if type(value) is types.FunctionType else None


#: Instructions that may stand between a name and its attribute.
_BETWEEN = frozenset({"CACHE", "PUSH_NULL", "COPY", "NOP"})


def _attribute(value: Any, name: str) -> Any:
    """Return an attribute of an object without running the object's code."""
    if value is UNKNOWN:
        return UNKNOWN
    found = inspect.getattr_static(value, name, UNKNOWN)
    if is_a(found, (staticmethod,)):
        return found.__func__
    if is_a(found, (property,)) and found.fget is not None:
        return types.MethodType(found.fget, value)
    if is_a(found, (classmethod,)):
        return types.MethodType(found.__func__, value if is_a(value, (type,)) else type(value))
    if is_a(found, (types.FunctionType,)) and not is_a(value, (types.ModuleType, type)):
        return types.MethodType(found, value)
    return found
