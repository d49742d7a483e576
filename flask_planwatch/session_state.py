"""What an application changed on one of its connections, so that PlanWatch can plan likewise.

All of it is read from the statements that pass the hooks, and from what the pool does with a
connection: the connection itself is never asked.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

from .state_change import EVERYTHING, SOMETHING, Change, Command, changes

#: Changes that are remembered of one connection. An application sets a few, and a migration may
#: create hundreds of tables; what goes on without end cannot be copied.
MAX_CHANGES = 300

#: Settings that decide which tables the names of a statement mean.
_PLACE = frozenset({"search_path", "role", "session_authorization"})

#: What RESET ALL leaves alone.
_NOT_RESET = frozenset({"role", "session_authorization", SOMETHING})


@dataclass(frozen=True, slots=True)
class SessionState:
    """What has to be true on PlanWatch's connection before it plans a statement.

    `changes` are settings, the latest last. `unknown` says why the state cannot be copied. `hidden`
    are relations of which the application sees another state than PlanWatch: temporary ones, and
    those that its open transaction changed. `functions` are those that the application called by
    themselves: they may have set anything. `search_path` is the effective one where the server
    reports it (PostgreSQL 18), `user` the role that the application connected as, `database` the
    one that it connected to, `options` the settings that it connected with.
    """

    changes: tuple[Change, ...] = ()
    unknown: str = ""
    hidden: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()
    search_path: str | None = None
    user: str | None = None
    database: str | None = None
    options: str = ""

    def changed(self, changes: tuple[Change, ...]) -> SessionState:
        """Return the state after changes; a search path that the server reports is known."""
        known = {"search_path"} if self.search_path is not None else set()
        settings = tuple(one for one in changes if one.is_setting and one.name not in known)
        return replace(
            self,
            changes=settings,
            unknown=next((one.unknown for one in settings if one.unknown), ""),
            hidden=frozenset(one.relation for one in changes if one.relation is not None),
            functions=frozenset(one.function for one in changes if one.function is not None),
        )

    @property
    def place(self) -> Hashable:
        """What decides which tables the names of a statement mean."""
        return (self.search_path, _place(self.changes))


#: The state of a connection that the application left as it was.
NOTHING_SET = SessionState()


def _place(changes: tuple[Change, ...]) -> tuple[tuple[str, str | None], ...]:
    return tuple((one.name, one.value) for one in changes if one.name in _PLACE)


#: Changes by their names, and whether they are local.
_Changes = dict[tuple[str, bool], Change]


class ConnectionState:
    """The state of one connection, as far as its statements tell it.

    `place` is None as long as nothing decides which tables a name means, else what does.
    """

    def __init__(self) -> None:
        self.place: Hashable = None
        self._lasting: _Changes = {}
        #: What the open transaction changed, before and after each of its savepoints.
        self._pending: list[tuple[str, _Changes]] = [("", {})]
        #: Whether an error may have ended the transaction, so that COMMIT rolls it back.
        self._in_doubt = False
        #: What the latest COMMIT made last.
        self._committed: list[Change] = []

    def note(self, text: str, parameters: Any, *, in_transaction: bool) -> None:
        """Take in a statement that succeeded, if it changes the state.

        `in_transaction` tells whether a transaction is open now, whoever began it.
        """
        for change in changes(text, parameters):
            if isinstance(change, Command):
                self._obey(change)
            elif in_transaction:
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
        pending = self._end()
        if self._in_doubt:
            pending = [_doubted(one, "a transaction with an error") for one in pending]
        self._committed = pending
        for change in pending:
            _add(self._lasting, change)
        self._in_doubt = False
        self._find_place()

    def rolled_back(self, savepoint: str | None = None) -> None:
        """Forget what the transaction changed, or what it changed since a savepoint."""
        # A savepoint that is not known is older than all that is.
        first = self._find(savepoint) if savepoint else 0
        del self._pending[first:]
        self._pending.append((savepoint or "", {}))
        self._in_doubt = False
        self._committed = []
        self._find_place()

    def failed(self, *, in_commit: bool, in_transaction: bool) -> None:
        """Remember that an error may have undone what the transaction changed, or COMMIT itself.

        `in_transaction` tells whether a transaction is open still.
        """
        if not in_commit and not in_transaction:
            self.rolled_back()
            return
        self._in_doubt = True
        if in_commit:
            for change in self._committed:
                _add(self._lasting, _doubted(change, "a transaction whose COMMIT failed"))
            self._committed = []
            self._find_place()

    def returned(self, *, raw: bool, in_transaction: bool) -> None:
        """Take in that the pool has the connection back; its transaction has ended by then.

        `raw` tells that the application used the driver's connection, which no hook sees,
        `in_transaction` that one is open still: the pool ends none that a text began in AUTOCOMMIT.
        """
        for change in self._end():
            _add(self._lasting, _doubted(change, "a transaction that only the pool ended"))
        if raw:
            why = "the application had the driver's connection by raw_connection()"
            _add(self._lasting, Change(SOMETHING, None, local=False, unknown=why))
        if in_transaction:
            why = "the application left a transaction open"
            _add(self._lasting, Change(SOMETHING, None, local=False, unknown=why))
        for key, change in self._lasting.items():
            if not change.returned:
                self._lasting[key] = change._replace(returned=True)
        self._in_doubt = False
        self._committed = []
        self._find_place()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is set for the session; that of an open transaction does not count."""
        return not self._lasting

    def current(self) -> tuple[Change, ...]:
        """Return what is in effect, the latest last."""
        merged = dict(self._lasting)
        for _, pending in self._pending:
            for change in pending.values():
                _add(merged, change)
        latest: dict[str, Change] = {}
        for change in merged.values():
            latest.pop(change.name, None)
            latest[change.name] = change
        return tuple(latest.values())

    def _end(self) -> list[Change]:
        """End the transaction; return what it set for the session."""
        self._merge(1)
        (_, pending) = self._pending[0]
        self._pending = [("", {})]
        return [change for change in pending.values() if not change.local]

    def _find(self, savepoint: str) -> int:
        names = [name for name, _ in self._pending]
        return max((i for i, name in enumerate(names) if i and name == savepoint), default=0)

    def _merge(self, first: int) -> None:
        """Add what was changed since a savepoint to what was changed before it."""
        for _, pending in self._pending[first:] if first else []:
            for change in pending.values():
                _add(self._pending[first - 1][1], change)
        if first:
            del self._pending[first:]

    def _obey(self, command: Command) -> None:
        if command.word == "commit":
            self.committed()
        elif command.word == "rollback":
            self.rolled_back(command.savepoint)
        elif command.word == "savepoint":
            self.savepoint(command.savepoint or "")
        elif command.word == "release":
            self.released(command.savepoint or "")
        elif command.word == "discard":
            self._pending = [("", {})]
            # A listener may have set a role when the connection was made.
            self._lasting = {}
            for name in ("session_authorization", "role", EVERYTHING):
                _add(self._lasting, Change(name, None, local=False))

    def _find_place(self) -> None:
        self.place = _place(self.current()) or None


def _add(changes: _Changes, change: Change) -> None:
    """Add a change, in the place of what it overrides.

    A SET is kept under a SET LOCAL: it comes back when that ends.
    """
    if change.name == EVERYTHING:
        for key, one in list(changes.items()):
            if one.is_setting and one.name not in _NOT_RESET:
                del changes[key]
    changes.pop((change.name, True), None)
    if not change.local:
        changes.pop((change.name, False), None)
    changes[change.name, change.local] = change
    if len(changes) > MAX_CHANGES:
        local = all(one.local for one in changes.values())
        changes.clear()
        endless = Change(SOMETHING, None, local, "it changes without end")
        changes[SOMETHING, local] = endless


def _doubted(change: Change, where: str) -> Change:
    """Return a change that may have been undone."""
    if change.relation is not None or change.unknown:
        return change
    return change._replace(unknown=f"{change.name} was set in {where}")
