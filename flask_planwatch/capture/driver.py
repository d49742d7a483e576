"""What a driver's connection, cursor or exception tells without asking the server."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from typing import Any

#: The state of a connection without a transaction, as libpq numbers it, and with it psycopg2 and
#: psycopg.
IDLE = 0


def sqlstate_of(error: BaseException) -> str | None:
    """Return the SQLSTATE that a driver's exception carries."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state if isinstance(state, str) else None


def search_path_of(driver: Any) -> str | None:
    """Return the effective search path, where the server reports it: from PostgreSQL 18 on.

    `driver` is a connection as SQLAlchemy has it, and may be lost. Asks nothing.
    """
    if hasattr(driver, "pgconn"):
        # A tenth of the time that psycopg's `info` takes, which also decodes names beyond ASCII.
        reported: bytes | None = driver.pgconn.parameter_status(b"search_path")
        if reported is None:
            return None
        if reported.isascii():
            return reported.decode()
    path: str | None = _status_of(driver)("search_path")
    return path


def reported_role_of(driver: Any) -> Hashable:
    """Return the session's role, and whether the current one is a superuser, as the server reports.

    `driver` is a connection as SQLAlchemy has it, and may be lost. Asks nothing.
    """
    if hasattr(driver, "pgconn"):
        told = driver.pgconn.parameter_status
        role, is_superuser = told(b"session_authorization"), told(b"is_superuser")
        if role is not None and role.isascii() and is_superuser is not None:
            # As an async connection of psycopg tells them.
            return role.decode(), is_superuser.decode()
    status = _status_of(driver)
    return status("session_authorization"), status("is_superuser")


def _status_of(driver: Any) -> Callable[[str], Any]:
    """Return a function that returns a setting that the server reports, by its name."""
    if hasattr(driver, "get_parameter_status") and not driver.closed:
        # A third of the time that psycopg2's `info` takes, which also knows those of a lost one.
        status: Callable[[str], Any] = driver.get_parameter_status
        return status
    info = getattr(driver, "info", None)
    if info is not None:
        status = info.parameter_status
        return status
    settings = driver.driver_connection.get_settings()
    return lambda name: getattr(settings, name, None)


#: Columns of a result that are asked for their table. All names are looked up by one search path.
_MAX_COLUMNS = 8


def tables_of(cursor: Any) -> tuple[int, ...]:
    """Return the oids of the tables that columns of a cursor's result come from. Asks nothing.

    Empty for asyncpg, and for a cursor on the server from which nothing was fetched yet.
    """
    # That of an async dialect holds the driver's.
    inner = getattr(cursor, "_cursor", cursor)
    result = getattr(inner, "pgresult", None)
    if result is not None:
        count = result.nfields
        found = {result.ftable(i) for i in range(0, count, count // _MAX_COLUMNS + 1)}
    else:
        columns = getattr(inner, "description", None) or ()
        few = columns[:: len(columns) // _MAX_COLUMNS + 1]
        found = {getattr(column, "table_oid", None) for column in few}
    return tuple(oid for oid in found if oid)


def known_of(driver: Any) -> dict[str, Any]:
    """Return what a driver's connection knows of itself, without asking.

    These are the fields `search_path`, `reported_role`, `user`, `database` and `options` of a
    SessionState.
    """
    known = {"search_path": search_path_of(driver), "reported_role": reported_role_of(driver)}
    info = getattr(driver, "info", None)
    if info is not None:
        return {**known, "user": info.user, "database": info.dbname, "options": info.options or ""}
    # asyncpg has no public attribute for the rest.
    parameters = getattr(driver.driver_connection, "_params", None)
    settings = getattr(parameters, "server_settings", None) or {}
    return {
        **known,
        "user": getattr(parameters, "user", None),
        "database": getattr(parameters, "database", None),
        "options": " ".join(map(_option, settings, settings.values())),
    }


def _option(name: str, value: str) -> str:
    """Return a setting as libpq's options have it."""
    return f"-c {name}=" + re.sub(r"[\\\s]", r"\\\g<0>", value)


def in_transaction(driver: Any) -> bool:
    """Whether a transaction is open on a driver's connection, whoever began it. Asks nothing."""
    info = getattr(driver, "info", None)
    if info is not None:
        return int(info.transaction_status) != IDLE
    connection = driver.driver_connection
    return not connection.is_closed() and bool(connection.is_in_transaction())
