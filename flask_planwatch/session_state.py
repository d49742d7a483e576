"""What an application changed on one of its connections, so that PlanWatch can plan likewise.

A `SET search_path` or `SET ROLE` decides which tables a statement means, a `set_config` may be what
row-level security asks for, and a temporary table may hide another. All of it is read from the
statements that pass the hooks: the connection itself is never asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import CodeType
from typing import Any, NamedTuple

#: Changes that are remembered of one connection. An application sets a few, and a migration may
#: create hundreds of tables; what goes on without end cannot be copied.
MAX_CHANGES = 1000

#: Characters of one change with its value: a longer one is not kept, so that it cannot be copied.
MAX_LENGTH = 2_000

#: Settings that change no plan, and those that a transaction of PlanWatch's sets itself.
_WITHOUT_EFFECT = frozenset(
    {
        "application_name",
        "characteristics",
        "client_encoding",
        "client_min_messages",
        "constraints",
        "default_transaction_deferrable",
        "default_transaction_isolation",
        "default_transaction_read_only",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
        "lock_timeout",
        "names",
        "seed",
        "statement_timeout",
        "synchronous_commit",
        "transaction",
        "transaction_timeout",
    }
)

#: Settings that decide which tables the names of a statement mean.
_PLACE = frozenset({"search_path", "role", "authorization"})

#: What RESET ALL leaves alone.
_NOT_RESET = frozenset({"role", "authorization"})

#: Other words for a setting.
_SYNONYMS = {"schema": "search_path", "time zone": "timezone"}

_EVERYTHING = "all"

_LEAD = r"\s*(?:(?:--[^\n]*\n|/\*(?:[^*]|\*(?!/))*\*/)\s*)*"
_NAME = r'(?:"(?:[^"]|"")+"|\w+)(?:\.(?:"(?:[^"]|"")+"|\w+))*'
_FLAGS = re.IGNORECASE | re.DOTALL

#: Statements that may change a connection's state, by their first words or a word in them.
_CHANGES_STATE = re.compile(
    rf"{_LEAD}(?:set|reset|discard|do|create|alter|truncate|commit|end|rollback|abort|savepoint)\b"
    r"|.*\b(?:set_config\b|into\s+temp(?:orary)?\s)",
    _FLAGS,
)
_FIRST_WORD = re.compile(rf"{_LEAD}(\w+)\s*(.*?)[\s;]*$", _FLAGS)
_SET = re.compile(rf"(?:(session|local)\s+)?(time\s+zone|{_NAME})(.*)", _FLAGS)
_SET_IN_A_BLOCK = re.compile(
    r"\bset_config\b|\bset\s+(?:local|session|role|schema|search_path|enable_\w+|\w+\.\w+)\b"
    r"|\btemp(?:orary)?\b",
    _FLAGS,
)
_RELATION = re.compile(
    rf"(?:or\s+replace\s+)?(?:(?:global|local)\s+)?(temp(?:orary)?\s+)?(?:unlogged\s+|recursive\s+)*"
    rf"(?:table|view|materialized\s+view|foreign\s+table)\s+"
    rf"(?:if\s+(?:not\s+)?exists\s+)?(?:only\s+)?({_NAME})",
    _FLAGS,
)
_INDEXED = re.compile(rf"(?:unique\s+)?index\b.*?\bon\s+(?:only\s+)?({_NAME})", _FLAGS)
_INTO_TEMPORARY = re.compile(rf".*\binto\s+temp(?:orary)?\s+(?:table\s+)?({_NAME})", _FLAGS)
_TRUNCATED = re.compile(rf"(?:table\s+)?(?:only\s+)?({_NAME})", _FLAGS)
_SAVEPOINT = re.compile(rf".*?(?:to\s+)(?:savepoint\s+)?({_NAME})", _FLAGS)

_CALL = re.compile(
    r"(?:pg_catalog\.)?set_config\s*\("
    r"((?:'(?:[^']|'')*'|\((?:'(?:[^']|'')*'|[^'()])*\)|%\(\w+\)s|[^'()])*)\)",
    _FLAGS,
)
_ARGUMENT = re.compile(r"((?:'(?:[^']|'')*'|\((?:'(?:[^']|'')*'|[^'()])*\)|[^',()])+)", _FLAGS)
_BETWEEN_CALLS = re.compile(r"(?:\s+as\s+\"?\w+\"?)?[\s,;]*", re.IGNORECASE)
_LITERAL = re.compile(r"'((?:[^']|'')*)'|(true|false|[01])\b", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"%\((\w+)\)s|(%s)|\$(\d+)")


class Change(NamedTuple):
    """One statement of the application's that changed the state, with its parameters.

    `unknown` says why it cannot be repeated; empty if it can.
    """

    name: str
    text: str
    parameters: Any
    local: bool
    unknown: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class SessionState:
    """What has to be true on PlanWatch's connection before it plans a statement.

    `changes` are repeated in their order. `unknown` says why the state cannot be copied. `hidden`
    are relations of which the application sees another state than PlanWatch: temporary ones, and
    those that its open transaction changed. `search_path` is the effective one where the server
    reports it (PostgreSQL 18), `user` the role that the application connected as, `options` the
    settings that it connected with.
    """

    changes: tuple[Change, ...] = ()
    unknown: str = ""
    hidden: frozenset[str] = frozenset()
    search_path: str | None = None
    user: str | None = None
    options: str = ""

    def changed(self, changes: tuple[Change, ...]) -> SessionState:
        """Return the state after changes; a search path that the server reports is not repeated."""
        settings = tuple(one for one in changes if not is_relation(one))
        unknown = next((one.unknown for one in settings if one.unknown), "")
        if self.search_path is not None:
            settings = tuple(one for one in settings if one.name != "search_path")
        hidden = frozenset(one.value for one in changes if is_relation(one))
        return replace(self, changes=settings, unknown=unknown, hidden=hidden)

    @property
    def place(self) -> tuple[tuple[str, str], ...]:
        """What decides which tables the names of a statement mean."""
        path = () if self.search_path is None else (("search_path", self.search_path),)
        return path + _place(self.changes)


#: The state of a connection that the application left as it was.
NOTHING_SET = SessionState()


class ConnectionState:
    """The state of one connection, as far as its statements tell it.

    `place` is None as long as nothing decides which tables a name means, else what does.
    """

    def __init__(self) -> None:
        self.place: tuple[tuple[str, str], ...] | None = None
        self._lasting: dict[str, Change] = {}
        #: What the open transaction changed, before and after each of its savepoints.
        self._pending: list[tuple[str, dict[str, Change]]] = [("", {})]

    def note(self, text: str, parameters: Any, *, autocommit: bool) -> None:
        """Take in a statement that succeeded, if it changes the state."""
        for change in _changes(text, parameters):
            if isinstance(change, _Command):
                self._obey(change)
            elif not autocommit:
                _add(self._pending[-1][1], change)
            elif not change.local:
                _add(self._lasting, change)
        self._find_place()

    def savepoint(self, name: str) -> None:
        """Remember where a savepoint begins."""
        self._pending.append((name, {}))
        if len(self._pending) > MAX_CHANGES:
            self._merge(1)

    def released(self, name: str) -> None:
        """Forget a savepoint, not what was changed since."""
        self._merge(self._find(name))

    def committed(self) -> None:
        """End the transaction: what it set for the session stays."""
        self._merge(1)
        (_, changes) = self._pending[0]
        self._pending = [("", {})]
        for change in changes.values():
            if not change.local:
                _add(self._lasting, change)
        self._find_place()

    def rolled_back(self, savepoint: str | None = None) -> None:
        """Forget what the transaction changed, or what it changed since a savepoint."""
        # A savepoint that is not known is older than all that is.
        first = self._find(savepoint) if savepoint else 0
        del self._pending[first:]
        self._pending.append((savepoint or "", {}))
        self._find_place()

    def current(self) -> tuple[Change, ...]:
        """Return what is in effect, the latest last."""
        merged = dict(self._lasting)
        for _, changes in self._pending:
            for change in changes.values():
                _add(merged, change)
        return tuple(merged.values())

    def _find(self, savepoint: str) -> int:
        names = [name for name, _ in self._pending]
        return max((i for i, name in enumerate(names) if i and name == savepoint), default=0)

    def _merge(self, first: int) -> None:
        """Add what was changed since a savepoint to what was changed before it."""
        for _, changes in self._pending[first:] if first else []:
            for change in changes.values():
                _add(self._pending[first - 1][1], change)
        if first:
            del self._pending[first:]

    def _obey(self, command: _Command) -> None:
        if command.word == "commit":
            self.committed()
        elif command.word == "rollback":
            self.rolled_back(command.savepoint)
        elif command.word == "savepoint":
            self.savepoint(command.savepoint or "")
        elif command.word == "discard":
            self._pending = [("", {})]
            self._lasting = {}
            _add(self._lasting, Change(_EVERYTHING, "RESET ALL", None, local=False))

    def _find_place(self) -> None:
        self.place = _place(self.current()) or None


def _place(changes: tuple[Change, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((one.name, one.value or one.text) for one in changes if one.name in _PLACE)


class _Command(NamedTuple):
    """A command that an application sent for its transaction by itself, or DISCARD ALL."""

    word: str
    savepoint: str | None = None


def _add(changes: dict[str, Change], change: Change) -> None:
    """Add a change, in the place of what it overrides."""
    if len(change.text) + len(change.value) > MAX_LENGTH:
        unknown = "it is longer than PlanWatch keeps"
        change = change._replace(text="", parameters=None, unknown=unknown, value="")
    if change.name == _EVERYTHING:
        kept = [one for one in changes.values() if is_relation(one) or one.name in _NOT_RESET]
        changes.clear()
        changes.update({one.name: one for one in kept})
    changes.pop(change.name, None)
    changes[change.name] = change
    if len(changes) > MAX_CHANGES:
        local = all(one.local for one in changes.values())
        changes.clear()
        unknown = "it changes without end"
        changes[_EVERYTHING] = Change(_EVERYTHING, "", None, local=local, unknown=unknown)


def may_change_state(text: str) -> bool:
    """Whether a statement is worth to be read by `ConnectionState.note`."""
    return _CHANGES_STATE.match(text) is not None


def is_relation(change: Change) -> bool:
    """Whether a change is about a relation and not about a setting."""
    return change.name.startswith(_HIDES)


_HIDES = "relation "


def _changes(text: str, parameters: Any) -> Iterator[Change | _Command]:
    """Yield what a statement changes: a Change, or a command that ends others."""
    match = _FIRST_WORD.match(text)
    if match is None:
        return
    word, rest = match[1].lower(), match[2]
    if ";" in rest and word not in {"do", "select", "with", "insert", "update", "delete"}:
        yield _unknown(text, "several statements at once")
    elif word in {"commit", "end"}:
        yield _Command("commit")
    elif word == "savepoint":
        yield _Command(word, _bare(rest))
    elif word in {"rollback", "abort"}:
        savepoint = _SAVEPOINT.match(rest)
        yield _Command("rollback", _bare(savepoint[1]) if savepoint else None)
    elif word == "set":
        yield from _set(text, rest, parameters)
    elif word == "reset":
        name = _setting(rest.lower().removeprefix("session "))
        if name not in _WITHOUT_EFFECT:
            yield Change(name, text, parameters, local=False)
    elif word == "discard":
        if rest.lower() == "all":
            yield _Command("discard")
    elif word == "do":
        if _SET_IN_A_BLOCK.search(rest):
            yield _unknown(text, "a DO block changes it")
    else:
        yield from _relations(word, rest)
        yield from _set_config(text, parameters)


def _set(text: str, rest: str, parameters: Any) -> Iterator[Change]:
    match = _SET.match(rest)
    if match is None:
        yield _unknown(text, "a SET that PlanWatch cannot read")
        return
    name = _setting(match[2])
    if name not in _WITHOUT_EFFECT:
        value = f"{match[3].strip()} {parameters or ''}".strip()
        local = (match[1] or "").lower() == "local"
        yield Change(name, text, parameters, local, value=value)


def _setting(name: str) -> str:
    name = " ".join(name.lower().replace('"', "").split())
    return _SYNONYMS.get(name, name)


def _set_config(text: str, parameters: Any) -> Iterator[Change]:
    """Yield what `set_config` changes, also where it is not all that a statement does."""
    calls = list(_CALL.finditer(text))
    if not calls:
        if "set_config" in text.lower():
            yield _unknown(text, "a set_config that PlanWatch cannot read")
        return
    around = re.split(_CALL, text)[::2]
    alone = re.fullmatch(rf"{_LEAD}select\s+", around[0], _FLAGS) and all(
        _BETWEEN_CALLS.fullmatch(piece) for piece in around[1:]
    )
    for call in calls:
        arguments = list(_ARGUMENT.finditer(call[1]))
        earlier = [text.count("%s", 0, call.start(1) + one.start()) for one in arguments]
        values = [
            _value(argument[0], number, parameters)
            for argument, number in zip(arguments, earlier, strict=True)
        ]
        if len(values) != 3 or None in (values[0], values[2]):
            yield _unknown(text, "a set_config that PlanWatch cannot read")
            continue
        name, value, local = (str(one).lower() for one in values)
        if name in _WITHOUT_EFFECT:
            continue
        is_local = local in {"true", "t", "on", "yes", "1"}
        why = "" if alone else "a statement sets it and does something else"
        yield Change(name, text, parameters, is_local, unknown=why, value=value)


def _value(argument: str, number: int, parameters: Any) -> Any:
    """Return the value of a call's argument, None if it is not a constant or a parameter.

    `number` is how many `%s` come before it.
    """
    placeholder = _PLACEHOLDER.search(argument)
    try:
        if placeholder is None:
            literal = _LITERAL.search(argument)
            return literal and (literal[1] if literal[1] is not None else literal[2])
        if placeholder[1]:
            return parameters[placeholder[1]]
        return parameters[number if placeholder[2] else int(placeholder[3]) - 1]
    except (LookupError, TypeError):
        return None


def _relations(word: str, rest: str) -> Iterator[Change]:
    """Yield the relation of which the application sees another state than PlanWatch."""
    if word == "create":
        if match := _RELATION.match(rest):
            drops = re.search(r"\bon\s+commit\s+drop\b", rest, re.IGNORECASE)
            temporary = match[1] is not None or match[2].lower().startswith("pg_temp")
            yield _hidden(match[2], local=not temporary or drops is not None)
        elif match := _INDEXED.match(rest):
            yield _hidden(match[1], local=True)
    elif word == "alter":
        if match := _RELATION.match(rest):
            yield _hidden(match[2], local=True)
    elif word == "truncate":
        if match := _TRUNCATED.match(rest):
            yield _hidden(match[1], local=True)
    elif match := _INTO_TEMPORARY.match(rest):
        yield _hidden(match[1], local=False)


def _hidden(name: str, *, local: bool) -> Change:
    return Change(f"{_HIDES}{_bare(name)}", "", None, local, value=_bare(name))


def _bare(name: str) -> str:
    """Return a name without its schema and quotes."""
    last = re.findall(r'"(?:[^"]|"")+"|\w+', name)[-1:]
    return last[0].strip('"').replace('""', '"') if last else ""


def _unknown(text: str, why: str) -> Change:
    return Change(text[:100], "", None, local=False, unknown=why)


def set_by(listener: Any) -> set[str]:
    """Return what an event listener of a pool seems to set on the connection that it is given.

    It does if it opens a cursor and has a text with SET or set_config; the names are "search_path"
    and, for all else, "something".
    """
    function = getattr(listener, "__func__", listener)
    cells = getattr(function, "__closure__", None) or ()
    functions = [function, *filter(callable, map(_contents, cells))]
    codes = [one.__code__ for one in functions if hasattr(one, "__code__")]
    described = {getattr(one, "__doc__", None) for one in functions}
    names: set[str] = set()
    texts: list[str] = []
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [one for one in code.co_consts if isinstance(one, CodeType)]
        texts += [one for one in code.co_consts if isinstance(one, str) and one not in described]
    if names.isdisjoint({"cursor", "execute"}):
        return set()
    setting = [text for text in texts if _SETS.search(text)]
    return {"search_path" if "search_path" in text else "something" for text in setting}


_SETS = re.compile(r"\b(?:set|reset|set_config)\b", re.IGNORECASE)


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        # A name that is not bound yet.
        return None
