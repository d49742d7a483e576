"""Plan as the application's connection would: with its settings, its role and its search path."""

from __future__ import annotations

import re

from sqlalchemy.engine import Engine

from ..finding import SkipReason
from ..listeners import listeners_of
from ..replaced import replaced_method
from ..session_state import SessionState
from ..state_change import EVERYTHING, functions_in
from .transaction import NO_SERVER, ServerError, Transaction

_WORD = re.compile(r"\w++")

#: `-c name=value` or `--name=value` in the options of a connection.
_OPTION = re.compile(r"(?<![\w.-])(?:-c\s*+|--)([\w.][\w.-]*+)=((?:\\.|\S)*+)")

_ESCAPED = re.compile(r"\\(.)")

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


#: What goes back to what the application's connection began with.
_BACK = frozenset({EVERYTHING, "search_path"})

#: Sets one setting as SET LOCAL does; NULL stands for its default.
_SET = "SELECT set_config(%s, %s, true)"

#: The application's functions of some names, with what they do as far as it can be read. Those that
#: come with PostgreSQL, and those in C of its extensions, set nothing.
_FUNCTIONS = """
SELECT p.proname, l.lanname IN ('sql', 'plpgsql'),
    coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc)
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
WHERE p.proname = ANY (%s) AND p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace
AND l.lanname NOT IN ('internal', 'c')
"""

#: Words by which a function sets something, or does what only its execution tells.
_MAY_SET = re.compile(
    r"\b(?:set_config|(?:re)?set|discard|execute|temp|temporary)\b", re.IGNORECASE
)
_SETS_THE_PATH = re.compile(
    r"\bset_config\s*+\(\s*+'search_path'|\bset\s++(?:(?:local|session)\s++)?search_path\b",
    re.IGNORECASE,
)


def adopt(
    transaction: Transaction, state: SessionState, *, other_role: bool, other_options: bool
) -> bool:
    """Make a transaction plan as the application's connection did; return if anything was set.

    `other_role` tells that PlanWatch is connected as another role than the application,
    `other_options` that it is with other settings.
    Raises ServerError with SESSION_STATE_UNKNOWN if it cannot be had.
    """
    begins_otherwise = other_role or other_options
    try:
        if other_role:
            # Instead of planning under policies of its own, the server refuses the statement.
            transaction.run("SET LOCAL row_security = off")
        if begins_otherwise:
            _start_like(transaction, state)
        for change in state.changes:
            # A command of PlanWatch's own: the application's text may do more than that.
            if change.name == EVERYTHING:
                transaction.run("RESET ALL")
            else:
                transaction.fetch(_SET, (change.name, change.value))
            goes_back = change.value is None and change.name in _BACK
            if begins_otherwise and goes_back:
                _start_like(transaction, state)
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
    return begins_otherwise or moved or bool(state.changes)


def refuse_unknown(state: SessionState, engine: Engine, *, connects: bool) -> None:
    """Raise ServerError if a state cannot be copied.

    `engine` is the application's. Its listeners, its pool and its dialect may have set or undone
    something that no hook saw; `connects` tells that the listeners to a new connection do not run
    for PlanWatch.
    """
    if state.unknown:
        raise ServerError(SkipReason.SESSION_STATE_UNKNOWN, state.unknown)
    if (method := replaced_method(engine)) is not None:
        detail = f"{method}, which is not SQLAlchemy's, may set something on each connection"
        raise ServerError(SkipReason.SESSION_STATE_UNKNOWN, detail)
    # The server reports this one.
    known = {"search_path"} if state.search_path is not None else set()
    for listener in listeners_of(engine, connects=connects):
        who = f"{listener.name}, which listens to {listener.event}"
        if listener.effect.sets - known:
            detail = f"{who}, may set something on each connection"
            raise ServerError(SkipReason.SESSION_STATE_UNKNOWN, detail)
        undone = [one for one in state.changes if one.returned or listener.amidst]
        if listener.effect.undoes and undone:
            detail = f"{who}, may have undone that {undone[0].name} was set"
            raise ServerError(SkipReason.SESSION_STATE_UNKNOWN, detail)


def refuse_functions(transaction: Transaction, state: SessionState) -> None:
    """Raise ServerError if a function that the application called may have set something."""
    known: set[str] = set()
    names = set(state.functions)
    while names - known:
        rows = transaction.fetch(_FUNCTIONS, (sorted(names - known),))
        known |= names
        for name, is_readable, body in rows:
            if state.search_path is not None:
                body = _SETS_THE_PATH.sub("", body)
            if not is_readable or _MAY_SET.search(body):
                detail = f"the function {name} may have set something on the connection"
                raise ServerError(SkipReason.SESSION_STATE_UNKNOWN, detail)
            names |= functions_in(body)


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
    transaction.fetch(_START, (state.user or "", _named_user(state)))
    for name, value in _OPTION.findall(state.options):
        setting = name.lower().replace("-", "_")
        plain = _ESCAPED.sub(r"\1", value)
        transaction.fetch(_SET, (setting, plain))


def _named_user(state: SessionState) -> str | None:
    """Return the role to write for `"$user"`; None if a SET ROLE of the application decides it."""
    names = {"role", "session_authorization"}
    chosen = any(change.name in names and change.value for change in state.changes)
    return None if chosen else state.user
