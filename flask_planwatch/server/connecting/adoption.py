"""Makes PlanWatch plan like the application's connection: its settings, role and search path."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sqlalchemy.engine import Engine

from ...capture.called_functions import functions_in
from ...capture.connection_state import SessionState
from ...capture.state_change import EVERYTHING, SOMETHING, changes_plans
from ...failure import ServerError
from ...finding import SkipReason
from ...plan.text import quoted_literal
from ...plan.wording import say
from ...runtime.clock import now
from ..transaction import NO_SERVER, Transaction, may_be_refused
from .listeners import listeners_of, replaced_method

if TYPE_CHECKING:
    from ..session import Session

_WORD = re.compile(r"\w++")

#: `-c name=value` or `--name=value` in the options of a connection.
_OPTION = re.compile(r"(?<![\w.-])(?:-c\s*+|--)([\w.][\w.-]*+)=((?:\\.|\S)*+)")

_ESCAPED = re.compile(r"\\(.)")

#: A role's initial search path: the default of the role, of the database or of the server. If the
#: options of this connection set another, PostgreSQL's own default stands for that of the server.
_INITIAL_PATH = """
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
    (
        SELECT CASE WHEN %s THEN boot_val ELSE coalesce(reset_val, boot_val) END
        FROM pg_settings WHERE name = 'search_path'
    )
)
"""

_SET_INITIAL_PATH = f"""
SELECT set_config('search_path', replace(
    {_INITIAL_PATH}, '"$user"', coalesce(quote_ident(%s), '"$user"')
), true)
"""

#: The search path, the one that a new session of psql has, and other settings.
_SETTINGS = f"""
SELECT current_setting('search_path'), {_INITIAL_PATH},
    ARRAY(SELECT current_setting(name, true) FROM unnest(%s::text[]) AS name)
"""


#: Sets a search path; `"$user"` in it stands for a role that PlanWatch does not have.
_SET_PATH = """
SELECT set_config(
    'search_path', replace(%s, '"$user"', coalesce(quote_ident(%s), '"$user"')), true
)
"""


#: Why a state cannot be reproduced.
_REPLACED = "{method}, which is not SQLAlchemy's, may set something on each connection"
_MAY_SET = "{listener}, which listens to {event}, may set something on each connection"
_MAY_RESET = "{listener}, which listens to {event}, may have reset {name}"
_FUNCTION_MAY_SET = "the function {name} may have set something on the connection"
_NOT_SET = "PlanWatch cannot set what the application has set: SQLSTATE {state}"
_HIDDEN = '"{name}" is temporary, or was changed in the same transaction'

#: What psql has to run before a statement.
_SET_THE_PATH = "SET search_path TO {path};"
_SET_A_SETTING = "SET {name} TO {value};"

#: The search path is set by itself; the others are no settings.
_NOT_SET_BY_NAME = frozenset({"search_path", EVERYTHING, SOMETHING})

#: RESET of these restores the initial search path and options.
_RESTORED_BY_RESET = frozenset({EVERYTHING, "search_path"})

#: Sets one setting as SET LOCAL does; NULL stands for its default.
_SET = "SELECT set_config(%s, %s, true)"

#: The functions of these names, and their source if it can be read. PostgreSQL's own, and those of
#: extensions in C, set nothing.
_FUNCTIONS = """
SELECT p.proname, l.lanname IN ('sql', 'plpgsql'),
    coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc)
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
WHERE p.proname = ANY (%s) AND p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace
AND l.lanname NOT IN ('internal', 'c')
"""

#: Words in the body of a function that may set something, or do what cannot be read from it.
_SETS_SOMETHING = re.compile(
    r"\b(?:set_config|(?:re)?set|discard|execute|temp|temporary)\b", re.IGNORECASE
)
_SETS_THE_PATH = re.compile(
    r"\bset_config\s*+\(\s*+'search_path'|\bset\s++(?:(?:local|session)\s++)?search_path\b",
    re.IGNORECASE,
)

#: Relations whose row-level security applies to a role.
_WITH_ROW_SECURITY = """
SELECT 1
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_roles r ON r.rolname = %s
WHERE c.relrowsecurity
AND n.nspname || '.' || c.relname = ANY (%s)
AND NOT coalesce(
    r.rolsuper OR r.rolbypassrls
    OR (pg_has_role(r.oid, c.relowner, 'USAGE') AND NOT c.relforcerowsecurity),
    false
)
"""

#: Defaults as `name=value`, of the database and of the roles of both connections.
_DEFAULTS = """
SELECT s.setdatabase, s.setrole, setting
FROM pg_catalog.pg_db_role_setting s, unnest(s.setconfig) AS setting
WHERE s.setdatabase IN (
    0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
) AND s.setrole IN (
    0, (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = session_user),
    (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = %s)
)
ORDER BY 1, 2, 3
"""

_CHANGED = (
    "ALTER DATABASE or ALTER ROLE changed a default shortly before or after the application's "
    "connection was opened"
)


def adopt(
    transaction: Transaction, state: SessionState, *, other_role: bool, other_options: bool
) -> bool:
    """Make a transaction plan as the application's connection did; return whether anything was set.

    `other_role` tells that PlanWatch is connected as another role than the application,
    `other_options` that it is connected with other options. Raises ServerError with
    SESSION_STATE_UNKNOWN if the state cannot be reproduced.
    """
    differs = other_role or other_options
    try:
        if other_role:
            # Then the server refuses a statement to which policies of PlanWatch's role would apply.
            transaction.run("SET LOCAL row_security = off")
        if differs:
            _set_initial_state(transaction, state)
        for change in state.changes:
            # The application's own text is never sent: it may do more than set this.
            if change.name == EVERYTHING:
                transaction.run("RESET ALL")
            else:
                transaction.fetch(_SET, (change.name, change.value))
            if differs and change.value is None and change.name in _RESTORED_BY_RESET:
                _set_initial_state(transaction, state)
        path = state.search_path
        moved = path is not None and path != transaction.search_path
        if moved or (path is not None and other_role):
            transaction.fetch(_SET_PATH, (path, _named_user(state) if other_role else None))
    except ServerError as error:
        if error.reason in NO_SERVER:
            raise
        # The server's message may contain the value of a setting.
        raise _unknown(say(_NOT_SET, state=error.sqlstate), error.sqlstate) from error
    role = state.reported_role
    if role is not None and not other_role and role != transaction.reported_role:
        raise _unknown("the application's role was changed where PlanWatch cannot see it")
    return differs or moved or bool(state.changes)


def refuse_unknown(state: SessionState, engine: Engine, *, connects: bool) -> None:
    """Raise ServerError if a state cannot be reproduced.

    `engine` is the application's. Its listeners, its pool and its dialect may have set or undone
    something that no hook saw. `connects` tells that PlanWatch connects by its own URL, without the
    listeners to `connect`.
    """
    if state.unknown:
        raise _unknown(state.unknown)
    if (method := replaced_method(engine)) is not None:
        raise _unknown(say(_REPLACED, method=method))
    for listener in listeners_of(engine, connects=connects):
        who, event = listener.name, listener.event
        if listener.effect.sets - state.reported:
            raise _unknown(say(_MAY_SET, listener=who, event=event))
        undone = [change for change in state.changes if change.returned or listener.while_in_use]
        if listener.effect.undoes and undone:
            raise _unknown(say(_MAY_RESET, listener=who, event=event, name=undone[0].name))


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
            if not is_readable or _SETS_SOMETHING.search(body):
                raise _unknown(say(_FUNCTION_MAY_SET, name=name))
            names |= functions_in(body)


def refuse_hidden(text: str, state: SessionState) -> None:
    """Raise ServerError if a statement names a relation that differs on PlanWatch's connection."""
    words = {word.lower() for word in _WORD.findall(text)} if state.hidden else set()
    for name in state.hidden:
        if words.issuperset(_WORD.findall(name.lower())):
            raise ServerError(SkipReason.NOT_VISIBLE, say(_HIDDEN, name=name))


def refuse_row_security(session: Session, relations: Iterable[str]) -> None:
    """Raise ServerError if row-level security of these relations applies to the app's role.

    Call it if PlanWatch has another role, which has other policies. `relations` are written as
    `schema.name`.
    """
    user = session.state.user or ""
    if session.fetch(_WITH_ROW_SECURITY, (user, list(relations)), own_state=True):
        raise _unknown(
            "row-level security applies to the application's role, and PlanWatch has another"
        )


def _unknown(why: str, sqlstate: str | None = None) -> ServerError:
    return ServerError(SkipReason.SESSION_STATE_UNKNOWN, why, sqlstate)


def _set_initial_state(transaction: Transaction, state: SessionState) -> None:
    """Set the search path and the options that the application's connection had at first."""
    given = (state.user or "", _has_path(transaction), _named_user(state))
    transaction.fetch(_SET_INITIAL_PATH, given)
    for name, value in _options(state).items():
        transaction.fetch(_SET, (name, value))


def set_default_path(transaction: Transaction) -> None:
    """Set the search path of a new session that is opened without this connection's options."""
    if not _has_path(transaction):
        return
    # Some servers hide the defaults of others.
    with may_be_refused(), transaction.savepoint("planwatch_path"):
        transaction.fetch(_SET_INITIAL_PATH, (transaction.known["user"], True, None))


def commands_before(transaction: Transaction, state: SessionState) -> tuple[str, ...]:
    """Return what a session of psql has to run first, to plan as the application's connection.

    `transaction` has the settings of that. Raises ServerError.
    """
    names = [
        name
        for name in dict.fromkeys([*_options(state), *(change.name for change in state.changes)])
        if changes_plans(name) and name not in _NOT_SET_BY_NAME
    ]
    user = state.user or transaction.known["user"] or ""
    given = (user, _has_path(transaction), names)
    ((path, initial, values),) = transaction.fetch(_SETTINGS, given)
    commands = [] if path == initial else [say(_SET_THE_PATH, path=path or "''")]
    return (
        *commands,
        *(
            say(_SET_A_SETTING, name=name, value=quoted_literal(value))
            for name, value in zip(names, values, strict=True)
            if value is not None
        ),
    )


def _options(state: SessionState) -> dict[str, str]:
    """Return the settings in the options of the application's connection, the last of each."""
    return {
        name.lower().replace("-", "_"): _ESCAPED.sub(r"\1", value)
        for name, value in _OPTION.findall(state.options)
    }


def _has_path(transaction: Transaction) -> bool:
    """Whether PlanWatch's connection was opened with a search path."""
    return "search_path" in transaction.known["options"]


def _named_user(state: SessionState) -> str | None:
    """Return the role that `"$user"` stands for, None if it was chosen by SET ROLE."""
    names = {"role", "session_authorization"}
    chosen = any(change.name in names and change.value for change in state.changes)
    return None if chosen else state.user


class Defaults:
    """The defaults that ALTER DATABASE and ALTER ROLE set, and when they were changed.

    A connection keeps the defaults that were in force when it was opened. So PlanWatch's connection
    plans like one of the application's only if no default was changed between the opening of the
    two.

    They are read again only if a connection was opened since they were read, which saves a query
    for a good plan, and four to seven where indexes are tried. `same_since` is when the latest
    change was found: connections that were opened later have the same defaults. If the catalog is
    hidden from PlanWatch's role, no change is noticed.
    """

    def __init__(self) -> None:
        self.same_since = float("-inf")
        #: When they were read for each role of the application's, and what they were.
        self._known: dict[str | None, tuple[float, list[tuple[object, ...]]]] = {}
        self._hidden = False

    def require(self, transaction: Transaction, state: SessionState, opened: float) -> None:
        """Raise ServerError if the application's connection may have other defaults.

        `opened` is when PlanWatch's was opened.
        """
        if state.since is None or self._hidden:
            return
        read, _ = self._known.get(state.user, (float("-inf"), []))
        if max(state.since, opened) > read:
            self._read(transaction, state)
        if min(state.since, opened) < self.same_since:
            raise _unknown(_CHANGED)

    def _read(self, transaction: Transaction, state: SessionState) -> None:
        time = now()
        try:
            with transaction.savepoint("planwatch_defaults"):
                rows = transaction.fetch(_DEFAULTS, (state.user or "",))
        except ServerError as error:
            if error.reason is not SkipReason.PERMISSION_DENIED:
                raise
            # Some servers hide from each customer the databases and roles of others.
            self._hidden = True
            return
        ignored = state.reported
        rows = [
            row for row in rows if changes_plans(name := _setting_of(row)) and name not in ignored
        ]
        _, before = self._known.get(state.user, (time, rows))
        if before != rows:
            self.same_since = time
        self._known[state.user] = time, rows


def _setting_of(row: tuple[object, ...]) -> str:
    return str(row[-1]).partition("=")[0].lower()
