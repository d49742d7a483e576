"""What an application changed on one of its connections, so that PlanWatch can plan alike.

It is read from the statements that the hooks see, and from what the pool does with a connection.
The connection itself is never asked.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ..plan.wording import say
from .state_change import EVERYTHING, SOMETHING, Change, Command, changes

#: Changes that are remembered of one connection: an application sets a few, and a migration may
#: create hundreds of tables. After more, the state is unknown.
MAX_CHANGES = 300

#: Settings that decide which tables the names of a statement mean.
_PATH_AND_ROLE = frozenset({"search_path", "role", "session_authorization"})

#: What RESET ALL leaves alone.
_NOT_RESET = frozenset({"role", "session_authorization", SOMETHING})

#: Why a value is not known.
_TOO_MANY = "more than {most} settings and tables were changed"
_SET_IN = "{setting} was set in {where}"


@dataclass(frozen=True, slots=True)
class SessionState:
    """What has to be true on PlanWatch's connection before it plans a statement.

    `changes` are settings, the latest last. `unknown` says why the state cannot be copied. `hidden`
    are relations that look different to PlanWatch: temporary ones, and those that the open
    transaction changed. `functions` were called in a statement without a table, and may have set
    anything. `search_path` is the effective one where the server reports it (PostgreSQL 18),
    `reported_role` what it reports of the role in effect. `user`, `database` and `options` are
    those that the application connected with; `since` is when the hooks first saw the connection.
    """

    changes: tuple[Change, ...] = ()
    unknown: str = ""
    hidden: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()
    search_path: str | None = None
    reported_role: Hashable = None
    user: str | None = None
    database: str | None = None
    options: str = ""
    since: float | None = field(default=None, compare=False, repr=False)

    def changed(self, changes: tuple[Change, ...]) -> SessionState:
        """Return the state after changes."""
        known = self.reported
        settings = tuple(
            change for change in changes if change.is_setting and change.name not in known
        )
        return replace(
            self,
            changes=settings,
            unknown=next((change.unknown for change in settings if change.unknown), ""),
            hidden=frozenset(change.relation for change in changes if change.relation is not None),
            functions=frozenset(
                change.function for change in changes if change.function is not None
            ),
        )

    @property
    def reported(self) -> frozenset[str]:
        """The settings whose values PlanWatch takes from the server's own reports."""
        return frozenset() if self.search_path is None else frozenset({"search_path"})

    @property
    def path_and_role(self) -> Hashable:
        """What decides which tables the names of a statement mean."""
        return (self.search_path, _path_and_role(self.changes))

    @property
    def rights(self) -> Hashable:
        """What decides whether the names of a statement exist, and may be used.

        Of the application's own settings, whose names have a dot, the values are left out: they may
        differ in each request, and mean nothing to PostgreSQL.
        """
        settings = sorted(
            (change.name, repr(change.value is not None if "." in change.name else change.value))
            for change in self.changes
        )
        return (self.path_and_role, tuple(settings), self.user, self.database, self.options)


#: The state of a connection on which the application changed nothing.
NOTHING_SET = SessionState()


def _path_and_role(changes: tuple[Change, ...]) -> tuple[tuple[str, str | None], ...]:
    return tuple((change.name, change.value) for change in changes if change.name in _PATH_AND_ROLE)


#: Changes by their names, and whether they are local.
_Changes = dict[tuple[str, bool], Change]


class ConnectionState:
    """The state of one connection, as far as its statements tell it.

    `path_and_role` is what decides which tables a name means, None if nothing of it was changed.
    """

    def __init__(self) -> None:
        self.path_and_role: Hashable = None
        self._lasting: _Changes = {}
        #: What the open transaction changed, with the names of its savepoints between.
        self._pending: list[Change | str] = []
        #: Whether an error may have ended the transaction, so that COMMIT rolls it back.
        self._in_doubt = False
        #: What the latest COMMIT made permanent.
        self._committed: list[Change] = []

    def apply(self, text: str, parameters: Any, *, in_transaction: bool) -> None:
        """Take in a statement that succeeded, if it changes the state.

        `in_transaction` tells whether a transaction is open now, whoever began it.
        """
        for change in changes(text, parameters):
            if isinstance(change, Command):
                self._run(change)
            elif in_transaction:
                self._append(change)
            elif not change.local:
                _add(self._lasting, change)
        self._find_path_and_role()

    def savepoint(self, name: str) -> None:
        """Remember where a savepoint begins."""
        self._append(name)

    def released(self, name: str) -> None:
        """Forget a savepoint and those since, but not what was changed."""
        first = self._find(name)
        self._pending[first:] = [c for c in self._pending[first:] if isinstance(c, Change)]

    def committed(self) -> None:
        """End the transaction: what it set for the session stays."""
        pending = self._end()
        if self._in_doubt:
            pending = [_doubted(change, "a transaction with an error") for change in pending]
        self._committed = pending
        for change in pending:
            _add(self._lasting, change)
        self._in_doubt = False
        self._find_path_and_role()

    def rolled_back(self, savepoint: str | None = None) -> None:
        """Forget what the transaction changed, or what it changed since a savepoint."""
        # An unknown savepoint is older than all known ones.
        known = savepoint is not None and savepoint in self._pending
        del self._pending[self._find(savepoint) + 1 if known else 0 :]
        self._in_doubt = False
        self._committed = []
        self._find_path_and_role()

    def failed(self, *, in_commit: bool, in_transaction: bool) -> None:
        """Remember that an error may have undone what the transaction changed, or COMMIT itself.

        `in_transaction` tells whether a transaction is still open.
        """
        if not in_commit and not in_transaction:
            self.rolled_back()
            return
        self._in_doubt = True
        if in_commit:
            for change in self._committed:
                _add(self._lasting, _doubted(change, "a transaction whose COMMIT failed"))
            self._committed = []
            self._find_path_and_role()

    def returned(self, *, raw: bool, in_transaction: bool) -> None:
        """Note that the connection is back in its pool, which has ended its transaction.

        `raw` tells that the application used the driver's connection, which no hook sees.
        `in_transaction` tells that a transaction is still open: in AUTOCOMMIT, the pool does not
        end one that a statement began.
        """
        for change in self._end():
            _add(self._lasting, _doubted(change, "a transaction that only the pool ended"))
        why = "the application left a transaction open" if in_transaction else ""
        if raw:
            why = "the application had the driver's connection by raw_connection()"
        if why:
            _add(self._lasting, Change(SOMETHING, None, local=False, unknown=why))
        for key, change in self._lasting.items():
            if not change.returned:
                self._lasting[key] = change._replace(returned=True)
        self._in_doubt = False
        self._committed = []
        self._find_path_and_role()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is set for the session, not counting the open transaction."""
        return not self._lasting

    def current(self) -> tuple[Change, ...]:
        """Return what is in effect, the latest last."""
        latest: dict[str, Change] = {}
        for change in self._merged(dict(self._lasting)):
            latest.pop(change.name, None)
            latest[change.name] = change
        return tuple(latest.values())

    def _append(self, change: Change | str) -> None:
        self._pending.append(change)
        if len(self._pending) > MAX_CHANGES:
            self._pending = [*self._merged({})]

    def _merged(self, earlier: _Changes) -> Iterable[Change]:
        """Return the changes of the open transaction after earlier ones."""
        for change in self._pending:
            if isinstance(change, Change):
                _add(earlier, change)
        return earlier.values()

    def _end(self) -> list[Change]:
        """End the transaction; return what it set for the session."""
        lasting = [change for change in self._merged({}) if not change.local]
        self._pending = []
        return lasting

    def _find(self, savepoint: str | None) -> int:
        """Return the position of the latest savepoint of a name; the end if there is none."""
        positions = (i for i, name in enumerate(self._pending) if name == savepoint)
        return max(positions, default=len(self._pending))

    def _run(self, command: Command) -> None:
        if command.word == "commit":
            self.committed()
        elif command.word == "rollback":
            self.rolled_back(command.savepoint)
        elif command.savepoint:
            take_in = self.savepoint if command.word == "savepoint" else self.released
            take_in(command.savepoint)
        elif command.word == "discard":
            # A listener may have set a role when the connection was made.
            self._pending = []
            self._lasting = {}
            for name in ("session_authorization", "role", EVERYTHING):
                _add(self._lasting, Change(name, None, local=False))

    def _find_path_and_role(self) -> None:
        self.path_and_role = _path_and_role(self.current()) or None


def _add(changes: _Changes, change: Change) -> None:
    """Add a change, in the place of what it overrides.

    A SET is kept under a SET LOCAL: it comes back when that ends.
    """
    if change.name == EVERYTHING:
        for key, earlier in list(changes.items()):
            if earlier.is_setting and earlier.name not in _NOT_RESET:
                del changes[key]
    changes.pop((change.name, True), None)
    if not change.local:
        changes.pop((change.name, False), None)
    changes[change.name, change.local] = change
    if len(changes) > MAX_CHANGES:
        local = all(earlier.local for earlier in changes.values())
        changes.clear()
        why = say(_TOO_MANY, most=MAX_CHANGES)
        changes[SOMETHING, local] = Change(SOMETHING, None, local, why)


def _doubted(change: Change, where: str) -> Change:
    """Return a change that may have been undone."""
    if change.relation is not None or change.unknown:
        return change
    return change._replace(unknown=say(_SET_IN, setting=change.name, where=where))
