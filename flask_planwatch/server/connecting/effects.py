"""What a function of the application's may set on a connection, as its bytecode tells."""

from __future__ import annotations

import builtins
import contextlib
import dis
import logging
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

from ...capture.sql_text import words
from ...capture.state_change import SOMETHING, Change, Command, changes, may_change_state
from .bytecode import (
    DRIVERS,
    MAX_FUNCTIONS,
    OBSERVERS,
    asks_attribute,
    closure_of,
    is_a,
    package_of,
)


class Effect(NamedTuple):
    """What a listener may do: the settings that it may set, and whether it may undo others."""

    sets: frozenset[str] = frozenset()
    undoes: bool = False


HARMLESS = Effect()
ANYTHING = Effect(frozenset({SOMETHING}), undoes=True)

#: Attributes that a listener with a cursor may use: they run only the SQL that they are given, or
#: belong to loggers and clocks.
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

_HARMLESS_CALLS = frozenset(
    {bool, contextlib.closing, contextlib.suppress, hash, id, int, isinstance, len, print, type}
)

#: Methods that return what was stored in `info`.
_RETURN_STORED = words("get pop setdefault")


class _NotUnderstood(Exception):
    """A function uses something that PlanWatch does not know."""


def effect_of_function(function: types.FunctionType, *, raw: bool) -> Effect:
    """Return what a function with a connection may do, with the functions that it calls.

    It is ANYTHING unless all names in them are known to do nothing but run SQL, and unless that SQL
    can be read: it is a constant, or begins with a SET that names its setting. `raw` tells that the
    function uses the driver's connection or a cursor.
    """
    return _Reading(raw=raw).read(function)


class _Reading:
    """Collects what the functions use."""

    def __init__(self, *, raw: bool) -> None:
        self._raw = raw
        self._undoes = False
        self._texts: set[str] = set()
        #: The number of texts that are put together, at most.
        self._concatenated = 0
        #: The number of stored values that are used, at most.
        self._stored_values = 0
        self._formatted = False
        self._functions: list[types.FunctionType] = []

    def read(self, function: types.FunctionType) -> Effect:
        """Return what a function may do, with those that it calls."""
        self._functions = [function]
        try:
            # The list grows while it is read.
            for following in self._functions:
                if len(self._functions) > MAX_FUNCTIONS:
                    raise _NotUnderstood
                self._read(following.__code__, following.__globals__, closure_of(following))
                defaults = (following.__kwdefaults__ or {}).values()
                for value in (*(following.__defaults__ or ()), *defaults):
                    self._named(value)
            return self._effect() if self._raw else HARMLESS
        except _NotUnderstood:
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
                # A stored value may be any text.
                self._stored_values += value in _RETURN_STORED
            elif operation == "IMPORT_NAME" and value.partition(".")[0] not in DRIVERS:
                raise _NotUnderstood
            elif operation in {"BUILD_STRING", "BINARY_OP", "BINARY_SUBSCR"}:
                self._concatenated += 1
            elif operation.startswith("FORMAT_"):
                self._formatted = True
            elif operation in {"STORE_GLOBAL", "LOAD_BUILD_CLASS"}:
                raise _NotUnderstood

    def _constant(
        self, value: Any, names: Mapping[str, Any], scope: dict[str, Any], cells: set[str]
    ) -> None:
        if isinstance(value, str):
            self._texts.add(value)
        elif isinstance(value, bytes):
            self._texts.add(value.decode("utf-8", "replace"))
        elif isinstance(value, tuple):
            for item in value:
                self._constant(item, names, scope, cells)
        elif isinstance(value, types.CodeType):
            self._read(value, names, {**scope, **dict.fromkeys(cells, _LOCAL)})

    def _named(self, value: Any) -> None:
        """Read the value of a name of the module, or of an outer function."""
        if isinstance(value, str):
            self._texts.add(value)
        elif is_a(value, (types.FunctionType,)):
            if package_of(value) not in DRIVERS | OBSERVERS:
                self._functions.append(value)
        elif isinstance(value, types.ModuleType):
            if value.__name__.partition(".")[0] not in DRIVERS | {"time", "logging"}:
                raise _NotUnderstood
        elif not (
            value is None
            or isinstance(value, int | float | logging.Logger)
            or (isinstance(value, type) and issubclass(value, BaseException))
            or (_is_hashable(value) and value in _HARMLESS_CALLS)
            or (callable(value) and package_of(value) in DRIVERS | {"sqlalchemy", "time"})
        ):
            raise _NotUnderstood

    def _attribute(self, name: str) -> None:
        if name not in _ALLOWED and not name.startswith("register_"):
            raise _NotUnderstood
        self._raw |= name in _LEADS_TO_RAW
        self._undoes |= name == "reset"

    def _effect(self) -> Effect:
        """Return what the SQL in the texts may set."""
        sets: set[str] = set()
        beginnings = 0
        for text in self._texts:
            if not may_change_state(text):
                continue
            found = list(changes(text, None))
            if any(isinstance(change, Change) and change.name == SOMETHING for change in found):
                # The text may be continued after a quote.
                text = text.rstrip("'\" ")
                found = list(changes(text, None))
            names = {
                change.name for change in found if isinstance(change, Change) and change.is_setting
            }
            lowered = text.strip().lower()
            is_open = lowered.endswith((" to", "=", ",")) or "%s" in lowered
            beginnings += is_open and lowered.startswith("set ") and SOMETHING not in names
            resets = lowered.startswith("reset ")
            for change in found:
                if isinstance(change, Command):
                    self._undoes |= change.word == "discard"
                elif resets and not change.unknown:
                    self._undoes = True
                else:
                    sets.add(change.name if change.is_setting else SOMETHING)
        if max(self._concatenated, self._formatted, self._stored_values) > beginnings:
            raise _NotUnderstood
        return Effect(frozenset(sets), self._undoes or bool(sets))


_MISSING = object()
_LOCAL = object()


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except Exception:  # noqa: BLE001 - an object of the application's may raise anything
        return False
    return True
