"""Plan as the application's connection would: with its settings, its role and its search path."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ..finding import SkipReason
from ..session_state import SessionState, set_by
from .transaction import NO_SERVER, ServerError, Transaction

_WORD = re.compile(r"\w+")

#: `-c name=value` or `--name=value` in the options of a connection.
_OPTION = re.compile(r"(?:-c\s*|--)([\w.-]+)=((?:\\.|\S)*)")

#: Sets the search path that a role starts with: its own, or that of the database, or the server's.
_START = """
SELECT set_config('search_path', replace(
    coalesce(
        (
            SELECT substr(setting, length('search_path=') + 1)
            FROM pg_db_role_setting, unnest(setconfig) AS setting
            WHERE starts_with(setting, 'search_path=')
            AND setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = %s))
            AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
            ORDER BY setrole = 0, setdatabase = 0
            LIMIT 1
        ),
        (SELECT coalesce(reset_val, boot_val) FROM pg_settings WHERE name = 'search_path')
    ),
    '"$user"', coalesce(quote_ident(%s), '"$user"')
), true)
"""


#: Sets a search path in which `"$user"` means a role that PlanWatch is not.
_MOVE = """
SELECT set_config(
    'search_path', replace(%s, '"$user"', coalesce(quote_ident(%s), '"$user"')), true
)
"""


def adopt(transaction: Transaction, state: SessionState, *, other_role: bool) -> bool:
    """Make a transaction plan as the application's connection did; return if anything was set.

    `other_role` tells that PlanWatch is connected as another role than the application.
    Raises ServerError with SESSION_STATE_UNKNOWN if it cannot be had.
    """
    try:
        if other_role:
            _start_like(transaction, state)
        for change in state.changes:
            transaction.repeat(change.text, change.parameters)
        path = state.search_path
        moved = path is not None and path != transaction.search_path
        if moved or (path is not None and other_role):
            transaction.fetch(_MOVE, (path, _named_user(state) if other_role else None))
    except ServerError as error:
        if error.reason in NO_SERVER:
            raise
        # What the server says may hold the value of a setting.
        detail = f"what the application set cannot be set likewise: SQLSTATE {error.sqlstate}"
        raise ServerError(SkipReason.SESSION_STATE_UNKNOWN, detail, error.sqlstate) from error
    return other_role or moved or bool(state.changes)


def refuse_unknown(state: SessionState, listeners: Iterable[Any]) -> None:
    """Raise ServerError if a state cannot be copied.

    `listeners` are those that the application has on its pool, and that may have set something
    which no hook saw.
    """
    if state.unknown:
        raise ServerError(SkipReason.SESSION_STATE_UNKNOWN, state.unknown)
    for listener in listeners:
        names = set_by(listener)
        # The server reports this one.
        known = {"search_path"} if state.search_path is not None else set()
        if names - known:
            name = getattr(listener, "__name__", "a function")
            detail = f"{name}, which listens to the pool, sets something on each connection"
            raise ServerError(SkipReason.SESSION_STATE_UNKNOWN, detail)


def refuse_hidden(text: str, state: SessionState) -> None:
    """Raise ServerError if a statement names a relation that PlanWatch sees in another state."""
    words = {word.lower() for word in _WORD.findall(text)} if state.hidden else set()
    for name in state.hidden:
        if words.issuperset(_WORD.findall(name.lower())):
            raise ServerError(
                SkipReason.NOT_VISIBLE,
                f'"{name}" is temporary, or was changed in the same transaction',
            )


def _start_like(transaction: Transaction, state: SessionState) -> None:
    """Set what the application's connection began with."""
    # Instead of planning under policies of its own, the server refuses the statement.
    transaction.run("SET LOCAL row_security = off")
    transaction.fetch(_START, (state.user or "", _named_user(state)))
    for name, value in _OPTION.findall(state.options):
        setting = name.lower().replace("-", "_")
        plain = re.sub(r"\\(.)", r"\1", value)
        transaction.fetch("SELECT set_config(%s, %s, true)", (setting, plain))


def _named_user(state: SessionState) -> str | None:
    """Return the role to write for `"$user"`; None if a SET ROLE of the application decides it."""
    chosen = any(change.name in {"role", "authorization"} for change in state.changes)
    return None if chosen else state.user
