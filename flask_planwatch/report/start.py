"""The line at the start, which says what is watched, and warnings of settings without effect.

All of it runs on PlanWatch's thread. The server is asked on PlanWatch's own connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import URL

from ..failure import ServerError
from ..finding import SkipReason
from ..plan.wording import Template, say
from ..runtime.interruption import DRIVERS
from ..server.session import Session, database_name
from ..settings import AT_START, SETTINGS, Settings, close_to, given_in, read_usable

if TYPE_CHECKING:
    from ..server.description import Description

#: What the engine without a bind key is called.
DEFAULT = "default"

#: What an engine has to be.
NEEDED = f"PostgreSQL through {', '.join(DRIVERS[:-1])} or {DRIVERS[-1]}"

#: The line at the start: each engine has its driver, its server, and how indexes are tried on it.
_WATCHED = "PlanWatch watches {count} {engines}: {servers:list}.[ Not watched: {others:list}.]"
_NOTHING = "PlanWatch watches nothing: {others:list} {are} not {needed}."
_NO_ENGINE = (
    "PlanWatch watches nothing: the app has no engine of Flask-SQLAlchemy, and none was given to "
    "planwatch.watch(engine)."
)
_SERVER = "{name} ({about:list})"
_VERSION = "PostgreSQL {version}"
_AS_FOR = "{answer}, as for {name}"
_LEFT_ALONE = "{name} ({dialect})"
_NAMED_AS_DEFAULT = "bind {bind}"

#: Why a server did not answer, and why it was not asked if the application left first.
_NO_ANSWER = "{why}[: {detail}]"
_CLOSED = "the app closed its connections before PlanWatch could ask the server"

#: An engine in a sentence.
_DEFAULT_ENGINE = "the default engine"
_ENGINE = "the engine {name}"
_BIND = "the bind {bind}"

#: What is wrong with a setting.
_REFUSED = "{error} It was set after init_app and has no effect."
_TOO_LATE = "{key} was set too late to have an effect: set it before init_app."
_NO_USE = "PLANWATCH_DATABASE_URL applies to nothing: {engine} ({dialect}) is not {needed}."
_NO_BIND = "PLANWATCH_DATABASE_URL has a URL for {engine}, which does not exist{end}"
_DID_YOU_MEAN = Template(": did you mean {close}?")
_OTHER_DATABASE = (
    "PLANWATCH_DATABASE_URL leads to the database {other}, but {engine} is connected to {wanted}. "
    "PlanWatch would inspect other tables: use a URL of that database."
)
_OTHER_SERVER = (
    "PLANWATCH_DATABASE_URL leads to another server than that of {engine}: their system "
    "identifiers differ. PlanWatch would inspect other tables: use a URL of that server, or of a "
    "replica of it."
)


def engine_name(bind: str | None) -> str:
    """Return what people call the engine of a bind; one may have the default engine's name."""
    if bind is None:
        return DEFAULT
    return say(_NAMED_AS_DEFAULT, bind=bind) if bind == DEFAULT else bind


def place_of(url: URL) -> str:
    """Return host and port of a URL, as far as it names them."""
    given = (url.host or url.query.get("host"), url.port or url.query.get("port"))
    host, port = (",".join(part) if isinstance(part, tuple) else str(part or "") for part in given)
    return f"{host or 'the default host'}{f':{port}' if port else ''}"


@dataclass(frozen=True)
class Server:
    """An engine as people name it, and its server, or why that did not answer."""

    name: str
    driver: str
    description: Description | None
    problem: str = ""

    def answer(self, verify: str) -> str:
        """How indexes are tried on it, or why they are not."""
        return self.problem if self.description is None else self.description.proof(verify)

    def shown(self, answer: str) -> str:
        """Return its part of the line at the start, with this answer."""
        known = self.description
        version = say(_VERSION, version=known.version) if known else ""
        return say(_SERVER, name=self.name, about=filter(None, (self.driver, version, answer)))


def introduce(name: str, driver: str, session: Session) -> Server:
    """Ask the server of an engine what it is; on PlanWatch's thread."""
    from ..server.description import describe

    try:
        return Server(name, driver, describe(session))
    except ServerError as error:
        why = _CLOSED if error.reason is SkipReason.UNWATCHED else error.reason.explanation
        return Server(name, driver, None, say(_NO_ANSWER, why=why, detail=error.detail))


def introduction(servers: Sequence[Server], left_alone: Mapping[str, str], verify: str) -> str:
    """Return the line at the start; `left_alone` has the dialects of other engines by their name.

    Each reason is in it only once.
    """
    names = sorted(left_alone, key=lambda name: name != DEFAULT)
    others = [say(_LEFT_ALONE, name=name, dialect=left_alone[name]) for name in names]
    if servers:
        return say(
            _WATCHED,
            count=len(servers),
            engines="engine" if len(servers) == 1 else "engines",
            servers=_shown(servers, verify),
            others=others,
        )
    if others:
        return say(_NOTHING, others=others, are="is" if len(others) == 1 else "are", needed=NEEDED)
    return _NO_ENGINE


def _shown(servers: Sequence[Server], verify: str) -> Iterator[str]:
    """Yield the parts of the servers; a reason that was given before is only referred to."""
    first: dict[str, str] = {}
    for server in servers:
        answer = server.answer(verify)
        name = first.setdefault(answer, server.name)
        what, colon, _ = answer.partition(": ")
        repeats = colon and name != server.name
        yield server.shown(say(_AS_FOR, answer=what, name=name) if repeats else answer)


def late_settings(config: Mapping[Any, Any], start: Settings, used: Settings) -> list[str]:
    """Return what is wrong with settings that were made after init_app.

    `start` are the settings of init_app, `used` those of the first use.
    """
    given = given_in(config)
    now, refused = read_usable(config, debug=False, testing=False)
    problems = [say(_REFUSED, error=error) for error in refused]
    wrong = {str(error).partition(" ")[0] for error in refused}
    for setting in SETTINGS:
        name = setting.name.lower()
        kept = getattr(start if setting.name in AT_START else used, name)
        if setting.key in given and setting.key not in wrong and getattr(now, name) != kept:
            problems.append(say(_TOO_LATE, key=setting.key))
    return problems


def unused_urls(
    settings: Settings,
    binds: Iterable[str | None],
    used: Iterable[Any],
    left_alone: Mapping[str, str],
) -> list[str]:
    """Return which entries of PLANWATCH_DATABASE_URL no engine can use.

    `binds` are the keys of all engines, `used` the URLs that are connected to; `left_alone` has the
    dialects of the engines that are not watched, by their name.
    """
    urls = settings.database_url or {}
    known, taken = set(binds), list(used)
    problems = []
    for bind, url in urls.items():
        if any(url is used_url for used_url in taken):
            continue
        engine = _DEFAULT_ENGINE if bind is None else say(_BIND, bind=repr(bind))
        if bind in known:
            if dialect := left_alone.get(engine_name(bind)):
                problems.append(say(_NO_USE, engine=engine, dialect=dialect, needed=NEEDED))
            continue
        names = [key for key in known if key is not None]
        close = close_to(str(bind), names)
        end = _DID_YOU_MEAN if close and bind is not None else "."
        problems.append(say(_NO_BIND, engine=engine, end=end, close=repr(close)))
    return problems


def other_databases(engines: Iterable[tuple[str, URL | None, Session]]) -> list[str]:
    """Return which engines' PLANWATCH_DATABASE_URL leads to another database; the server is asked.

    An engine is its name, the application's URL and PlanWatch's session.
    """
    from ..server.description import other_database

    problems = []
    for name, url, session in engines:
        wanted = database_name(url) if url is not None else None
        if wanted is None:
            continue
        try:
            other = other_database(session, wanted)
        except ServerError:
            # Whatever is inspected says why.
            continue
        if other:
            databases = {"other": repr(other), "wanted": repr(wanted)}
            problems.append(say(_OTHER_DATABASE, engine=_engine(name), **databases))
    return problems


def other_servers(engines: Iterable[tuple[str, Session, Session]]) -> list[str]:
    """Return which engines' PLANWATCH_DATABASE_URL leads to another server; both are asked.

    An engine is its name, PlanWatch's session, and one that connects as the application does, which
    is closed afterwards. A server that does not tell may be the same.
    """
    from ..server.description import system_identifier

    problems = []
    for name, session, applications in engines:
        try:
            identifiers = {system_identifier(session), system_identifier(applications)}
        except ServerError:
            continue
        finally:
            applications.close()
        if len(identifiers) > 1:
            problems.append(say(_OTHER_SERVER, engine=_engine(name)))
    return problems


def _engine(name: str) -> str:
    return _DEFAULT_ENGINE if name == DEFAULT else say(_ENGINE, name=repr(name))
