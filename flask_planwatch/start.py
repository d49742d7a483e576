"""What is said at the start: what is watched, and which settings can have no effect.

All of it runs on PlanWatch's thread. The server is asked on PlanWatch's own connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .server.description import Description, describe, known_names
from .server.session import OwnSession
from .server.transaction import ServerError
from .settings import (
    AT_START,
    PREFIX,
    SETTINGS,
    Settings,
    close_to,
    given_in,
    name_parts,
    read_usable,
)

#: Drivers whose connections PlanWatch knows how to use from its own thread.
DRIVERS = ("psycopg2", "psycopg", "asyncpg")

#: How people name the engine without a bind key.
DEFAULT = "default"

_NEEDED = f"PostgreSQL through {', '.join(DRIVERS[:-1])} or {DRIVERS[-1]}"

#: A table, index or column, with or without its schema.
_NAME = re.compile(r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)(?:\.(?:"(?:[^"]|"")+"|[^\W\d][\w$]*))?')

#: Rules whose findings are about expressions and columns, so that each names a column.
_OF_EXPRESSIONS = frozenset(
    {"functional-predicate", "missing-index", "implicit-cast", "pattern-match"}
)

#: What findings may be about that has no name in the database.
_SUBJECTS = frozenset({"statement"})

_LITERAL = re.compile(r"'(?:[^']|'')*'")


@dataclass(frozen=True)
class Server:
    """An engine as people name it, and its server, or why that did not answer."""

    name: str
    driver: str
    description: Description | None
    problem: str = ""

    def shown(self, verify: str) -> str:
        """Return its part of the line at the start."""
        if self.description is None:
            problem = f", {self.problem}" if self.problem else ""
            return f"{self.name} ({self.driver}{problem})"
        version, proof = self.description.version, self.description.proof(verify)
        return f"{self.name} ({self.driver}, PostgreSQL {version}, {proof})"


def introduce(name: str, driver: str, session: OwnSession) -> Server:
    """Ask the server of an engine what it is."""
    try:
        return Server(name, driver, describe(session))
    except ServerError as error:
        return Server(name, driver, None, error.reason.explanation)


def introduction(servers: Sequence[Server], left_alone: Mapping[str, str], verify: str) -> str:
    """Return the line at the start; `left_alone` has the dialects of other engines by their name.

    It is one line, however many engines there are.
    """
    others = ", ".join(f"{name} ({dialect})" for name, dialect in left_alone.items())
    if servers:
        count = f"{len(servers)} {'engine' if len(servers) == 1 else 'engines'}"
        line = f"PlanWatch watches {count}: {', '.join(one.shown(verify) for one in servers)}."
        return f"{line} Not watched: {others}." if others else line
    if others:
        return f"PlanWatch watches nothing: {others} is not {_NEEDED}."
    return (
        "PlanWatch watches nothing: the app has no engine of Flask-SQLAlchemy, and none was given "
        "to planwatch.watch(engine)."
    )


def late_settings(config: Mapping[Any, Any], start: Settings, used: Settings) -> list[str]:
    """Return what is wrong with settings that were made after init_app.

    `start` are the settings of init_app, `used` those of the first use.
    """
    given = given_in(config)
    now, refused = read_usable(config, debug=False, testing=False)
    problems = [f"{error} It was set after init_app and has no effect." for error in refused]
    wrong = {str(error).partition(" ")[0] for error in refused}
    for setting in SETTINGS:
        name = setting.name.lower()
        kept = getattr(start if setting.name in AT_START else used, name)
        if setting.key in given and setting.key not in wrong and getattr(now, name) != kept:
            problems.append(
                f"{setting.key} was set too late to have an effect: set it before init_app."
            )
    return problems


def unused_urls(settings: Settings, binds: Iterable[str | None], used: Iterable[Any]) -> list[str]:
    """Return which entries of PLANWATCH_DATABASE_URL no engine can use.

    `binds` are the keys of all engines, `used` the URLs that are connected to.
    """
    given = settings.database_url
    urls = given if isinstance(given, Mapping) else {None: given} if given is not None else {}
    known, taken = set(binds), list(used)
    problems = []
    for bind, url in urls.items():
        if bind in known or any(url is one for one in taken):
            continue
        names = [one for one in known if one is not None]
        close = close_to(str(bind), names)
        named = "the default engine" if bind is None else f"the bind {bind!r}"
        meant = f": did you mean {close!r}?" if close and bind is not None else "."
        problems.append(f"{PREFIX}DATABASE_URL has a URL for {named}, which there is not{meant}")
    return problems


def idle_ignores(settings: Settings, sessions: Iterable[OwnSession]) -> list[str]:
    """Return which entries of PLANWATCH_IGNORE name nothing that a database has.

    Empty if a database does not answer: it may have what is named.
    """
    named = {entry: names for entry in settings.ignore if (names := _names(entry))}
    if not named:
        return []
    known: set[str] = set()
    try:
        for session in sessions:
            known |= known_names(session, {name for names in named.values() for name in names})
    except ServerError:
        return []
    return [
        f"{PREFIX}IGNORE has {entry!r}, which matches nothing: no watched database has a table, "
        "index or column of that name."
        for entry, names in named.items()
        if known.isdisjoint(names)
    ]


def _names(entry: str) -> set[str]:
    """Return names of which the database must have one for the entry to match; none if unknown."""
    rule, _, of_what = entry.partition(":")
    if of_what in _SUBJECTS:
        return set()
    if _NAME.fullmatch(of_what):
        return set(name_parts(of_what)[-1:])
    if rule not in _OF_EXPRESSIONS:
        return set()
    words = _NAME.findall(_LITERAL.sub("", of_what))
    return {part for word in words for part in name_parts(word)}
