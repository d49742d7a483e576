"""What a listener of the application's uses, as its bytecode tells.

This tells whether it may run SQL on the connection that it gets. A listener to `connect` also runs
for PlanWatch's connection, on a thread that serves no request: one that asks for the tenant of the
request would set something else there, and one that takes a token out of a queue would use up a
token that the application needs.
"""

from __future__ import annotations

import dis
import functools
import io
import itertools
import queue
import sys
import threading
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

from werkzeug.local import Local, LocalProxy, LocalStack

from ...capture.location import is_own
from ...capture.sql_text import words
from .bytecode import (
    DRIVERS,
    OBSERVERS,
    UNKNOWN,
    TooManyFunctions,
    asks_attribute,
    called_by,
    closure_of,
    found_of,
    is_a,
    package_of,
    reached,
)

#: Packages whose functions are not the application's.
_OTHERS = DRIVERS | OBSERVERS | sys.stdlib_module_names

#: Attributes in which listeners store something for a connection: it may be a cursor, or SQL.
INFO = words("info record_info")

#: Attributes that run SQL: without one, what was stored can set nothing.
_ACTS = words(
    "callproc copy_expert cursor dbapi_connection driver_connection exec_driver_sql execute "
    "executemany fetch fetchrow fetchval raw_connection scalar scalars"
)

#: Attributes that decide what cursors a connection makes.
_FACTORIES = words("cursor_factory server_cursor_factory")

#: Attributes that lead a listener of a session to the driver.
_RAW_ALONE = words("cursor dbapi_connection driver_connection raw_connection")

#: What differs between threads, tasks or requests. The number and name of a thread do not count, as
#: they are for logs.
_DIFFERENT = (ContextVar, threading.local, Local, LocalProxy, LocalStack)

#: Methods that remove an item.
_REMOVING = (
    *(kind.pop for kind in (dict, list, set, deque, OrderedDict)),
    *(dict.popitem, OrderedDict.popitem, deque.popleft),
    *(queue.Queue.get, queue.Queue.get_nowait),
    *(queue.SimpleQueue.get, queue.SimpleQueue.get_nowait),
)

#: Iterators that do not count: a counter never ends, and a file such as sys.stderr is for writing.
_LASTING = (itertools.count, io.IOBase)


class Argument(NamedTuple):
    """An argument of a listener.

    `raw` tells that it is the driver's, or the pool's record of it. `safe` are the attributes that
    do not lead to a cursor of the driver; with `but`, the only ones that do.
    """

    raw: bool
    safe: frozenset[str]
    but: bool = False

    def allows(self, attribute: str) -> bool:
        """Whether using this attribute is harmless."""
        return attribute == ASSIGNED or (attribute in self.safe) is not self.but


#: The driver's connection or cursor, or the pool's record of one.
RAW = Argument(
    raw=True,
    safe=words(
        "autocommit cancel close closed commit encoding info invalidate is_valid record_info "
        "rollback rowcount server_version status transaction_was_reset asyncio_safe "
        "terminate_only"
    ),
)

#: SQLAlchemy's connection or session: the hooks see what is executed there.
CONNECTION = Argument(
    raw=False,
    safe=words(
        "add begin_nested bind closed commit dialect engine exec_driver_sql execute flush "
        "get_bind get_execution_options get_nested_transaction get_transaction "
        "in_nested_transaction in_transaction info invalidated rollback scalar scalars"
    ),
)

#: SQLAlchemy's context of an execution or an error, on which instrumentation keeps its own things.
CONTEXT = Argument(
    raw=False,
    safe=words(
        "connection create_cursor create_default_cursor create_server_side_cursor cursor "
        "execution_context root_connection _dbapi_connection _root_conn"
    ),
    but=True,
)

#: What leads to no connection, such as a statement.
NOTHING = Argument(raw=False, safe=frozenset(), but=True)


class ListenerFunction(NamedTuple):
    """The function of a listener, and its parameters without `self`.

    The first `positional` of them are positional; `in_place` tells that they are the event's
    arguments in the event's order.
    """

    function: Any
    parameters: tuple[str, ...]
    positional: int
    in_place: bool


def unwrapped(listener: Any) -> Any:
    """Return what the application registered, without SQLAlchemy's wrappers around it."""
    while package_of(listener) == "sqlalchemy" and is_a(listener, (types.FunctionType,)):
        contents = [value for value in closure_of(listener).values() if callable(value)]
        # SQLAlchemy's own helpers come last.
        contents.sort(key=_is_helper)
        if not contents or isinstance(contents[0], type):
            break
        listener = contents[0]
    return listener


def _is_helper(value: Any) -> bool:
    return package_of(value) == "sqlalchemy" or isinstance(value, type)


def name_of(listener: Any) -> str:
    """Return the name of a listener, as its code has it."""
    plain = unwrapped(listener)
    name = getattr(plain, "__qualname__", None) or type(plain).__name__
    return str(name).rpartition(".")[2]


def function_of(listener: Any) -> ListenerFunction | None:
    """Return the Python function that runs for a listener, None if there is none."""
    plain = unwrapped(listener)
    called = None if is_a(plain, (type,)) else called_by(plain)
    if called is None:
        return None
    # Some wrappers pass other arguments on.
    module = "" if plain is listener else getattr(listener, "__module__", None)
    is_ordered = module in {"", "sqlalchemy.engine.events", "sqlalchemy.util.langhelpers"}
    in_place = is_ordered and not is_a(plain, (functools.partial,))
    code, bound = called.function.__code__, called.owner is not UNKNOWN
    named = code.co_argcount + code.co_kwonlyargcount
    count = named + bool(code.co_flags & 4) + bool(code.co_flags & 8)
    parameters = code.co_varnames[bound:count]
    return ListenerFunction(called.function, parameters, code.co_argcount - bound, in_place)


#: Functions that can read any variable.
_SEE_ALL = frozenset({"dir", "eval", "exec", "locals", "vars"})


def loads_of(code: types.CodeType, names: set[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each use of these variables with the attribute that it takes, or None."""
    instructions = list(dis.get_instructions(code))
    for instruction, after in zip(instructions, [*instructions[1:], None], strict=True):
        operation, value = instruction.opname, instruction.argval
        if operation == "LOAD_GLOBAL" and value in _SEE_ALL:
            yield from ((name, None) for name in names)
        if "LOAD" not in operation or not any(kind in operation for kind in _VARIABLES):
            continue
        # From Python 3.13 on, one instruction may name two variables, first the one it stores.
        used = value if isinstance(value, tuple) else (value,)
        if operation.startswith("STORE"):
            used = used[1:]
        for position, name in enumerate(used):
            if name in names:
                yield name, attribute_of(after) if position == len(used) - 1 else None


#: Parts of the names of instructions that use variables.
_VARIABLES = ("FAST", "DEREF", "CLOSURE")

#: Stands for setting an attribute of an argument, which is harmless.
ASSIGNED = "="


def attribute_of(after: dis.Instruction | None) -> str | None:
    """Return the attribute that an instruction uses, ASSIGNED if it sets a harmless one."""
    if after is None or after.opname not in {"LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR"}:
        return None
    if after.opname == "STORE_ATTR":
        return None if after.argval in _FACTORIES else ASSIGNED
    return str(after.argval)


def reaches_cursor(listener: Any) -> bool:
    """Whether a listener, or a function that it calls, uses what leads to a driver's cursor."""
    try:
        for code in _codes(listener):
            asked = [
                str(instruction.argval)
                for instruction in dis.get_instructions(code)
                if asks_attribute(instruction)
            ]
            if not _RAW_ALONE.isdisjoint(asked) or asked.count("connection") > 1:
                return True
            if not (INFO.isdisjoint(asked) or _ACTS.isdisjoint(asked)):
                return True
    except TooManyFunctions:
        return True
    return False


def runs_stored(listener: Any, given: Mapping[str, Argument]) -> bool:
    """Whether a listener could run SQL by what was stored for a connection.

    What it uses of its arguments, `given`, does not count.
    """
    try:
        return any(_acts(code, given) for code in _codes(listener))
    except TooManyFunctions:
        return True


def _acts(code: types.CodeType, given: Mapping[str, Argument]) -> bool:
    """Whether code uses an attribute that runs SQL, other than a harmless one of an argument."""
    by_name = not _BY_NAME.isdisjoint(code.co_names)
    if by_name and not _ACTS.isdisjoint(map(str, code.co_consts)):
        return True
    variable: Any = None
    for instruction in dis.get_instructions(code):
        if asks_attribute(instruction) and instruction.argval in _ACTS:
            attribute = attribute_of(instruction)
            handed = given.get(variable) if isinstance(variable, str) else None
            if handed is None or attribute is None or not handed.allows(attribute):
                return True
        is_variable = any(kind in instruction.opname for kind in _VARIABLES)
        variable = instruction.argval if is_variable else None
        if isinstance(variable, tuple):
            variable = variable[-1]
    return False


#: Functions that ask for an attribute by its name.
_BY_NAME = words("attrgetter getattr methodcaller")


def _codes(listener: Any) -> Iterator[types.CodeType]:
    """Yield the code of a listener, and of the functions that it may call; raises as `reached`."""
    plain = unwrapped(listener)
    yield from (code for called in reached(plain, _is_followed) for code in called.codes)


def _is_followed(function: types.FunctionType) -> bool:
    return package_of(function) not in _OTHERS


def reads_context(function: Any) -> bool:
    """Whether a function, or one that it calls, names a context variable or the like.

    Its bytecode tells the names, its module and its closure what they stand for.
    """
    return _names(function, _is_different)


def takes_something(function: Any) -> bool:
    """Whether a function, or one that it calls, removes an item or takes the next one.

    This is found as for `reads_context`.
    """
    return _names(function, _is_taken)


def _is_different(value: Any) -> bool:
    return is_a(value, _DIFFERENT)


def _is_taken(value: Any) -> bool:
    method = value
    if is_a(value, (types.MethodType,)):
        method = value.__func__
    elif is_a(value, (types.BuiltinMethodType,)):
        method = getattr(type(value.__self__), value.__name__, None)
    is_iterator = is_a(value, (Iterator,)) and not is_a(value, _LASTING)
    return is_iterator or any(method is taking for taking in _REMOVING)


def _names(function: Any, test: Callable[[Any], bool]) -> bool:
    """Whether a function, or one that it calls, names something for which the test is true."""
    known = found_of(function)
    if test not in known:
        known[test] = _finds(function, test)
    return bool(known[test])


def _finds(function: Any, test: Callable[[Any], bool]) -> bool:
    try:
        return any(
            test(value) for called in reached(function, _is_applications) for value in called.values
        )
    except TooManyFunctions:
        return True


def _is_applications(function: types.FunctionType) -> bool:
    # Libraries use threads and contexts for purposes of their own, such as logging.
    return is_own(function.__code__.co_filename)
