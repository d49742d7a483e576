"""Every `PLANWATCH_` key once, as data: its name, default, parser and help.

The documentation's page of settings is made from this list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from .rules import RULES

PREFIX = "PLANWATCH_"

#: The verbs of PLANWATCH_VERIFY.
VERIFY_AUTO, VERIFY_BUILD, VERIFY_OFF = "auto", "build", "off"

#: The largest value of an integer parameter of PostgreSQL.
_MAX_TIMEOUT = 2**31 - 1

_NAME_PART = re.compile(r'"((?:[^"]|"")*)"|([^."]+)')

_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}
_FINDING_ID = re.compile(r"[0-9a-f]{12}")


#: Backends that a URL of PostgreSQL may name: some services still write the shorter one.
_POSTGRESQL = {"postgresql", "postgres"}


class SettingError(ValueError):
    """A `PLANWATCH_` key in `app.config` that PlanWatch does not know or cannot use."""


@dataclass(frozen=True)
class Setting:
    """One key of `app.config`.

    `parse` takes the configured value, which is a string if it comes from the environment, and
    returns the value to use or raises ValueError. `debug_default` replaces `default` in debug
    mode, `testing_default` in an app that is under test; None in either means the same default.
    """

    name: str
    default: Any
    parse: Callable[[Any], Any]
    expects: str
    help: str
    debug_default: Any = None
    testing_default: Any = None

    @property
    def key(self) -> str:
        """The name in `app.config`."""
        return PREFIX + self.name


def _boolean(value: Any) -> bool:
    # from_prefixed_env reads 0 and 1 as numbers.
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in _TRUE | _FALSE:
        return value.strip().lower() in _TRUE
    raise ValueError


def _number(value: Any) -> float:
    number = float(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < 1e12:
        raise ValueError
    return float(number)


def _whole_number(value: Any) -> int:
    number = _number(value)
    if number != int(number):
        raise ValueError
    return int(number)


def _positive(value: Any) -> int:
    number = _whole_number(value)
    if not 0 < number <= _MAX_TIMEOUT:
        raise ValueError
    return number


def _optional_number(value: Any) -> float | None:
    if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
        return None
    return _number(value)


def _verify(value: Any) -> str:
    if isinstance(value, str) and value.lower() in {VERIFY_AUTO, VERIFY_BUILD, VERIFY_OFF}:
        return value.lower()
    raise ValueError


def _database_url(value: Any) -> Any:
    if value is None:
        return None
    try:
        given = value if isinstance(value, Mapping) else {None: value}
        urls = {bind: make_url(url) for bind, url in given.items()}
    except ArgumentError:
        raise ValueError from None
    for url in urls.values():
        if url.get_backend_name() not in _POSTGRESQL:
            raise SettingError(
                f"{PREFIX}DATABASE_URL names {url.get_backend_name()}: it must be a URL of "
                "PostgreSQL, to the same database as the application's."
            )
    return urls if isinstance(value, Mapping) else urls[None]


def _ignore(value: Any) -> tuple[str, ...]:
    if isinstance(value, int) and _FINDING_ID.fullmatch(str(value)):
        # A finding's id of nothing but digits, as from_prefixed_env reads it.
        value = str(value)
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple | set | frozenset):
        raise ValueError
    if not all(isinstance(entry, str) and entry for entry in value):
        raise ValueError
    # A blank after the colon is no part of a name.
    return tuple(":".join(part.strip() for part in entry.split(":", 1)) for entry in value)


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "ENABLED",
        True,
        _boolean,
        "a boolean",
        "Whether PlanWatch does anything. If False, not one listener is attached.",
    ),
    Setting(
        "SAMPLE_INTERVAL",
        300.0,
        _number,
        "a number of seconds, 0 or more",
        "Seconds before the same statement is inspected again. 0: once in each request, and at "
        "each execution outside of one.",
        debug_default=0.0,
    ),
    Setting(
        "SLOW_STATEMENT_MS",
        200.0,
        _number,
        "a number of milliseconds, 0 or more",
        "An execution that took longer, in ms, does not wait for the interval. A statement that is "
        "always slow waits for a second, and each time twice as long.",
    ),
    Setting(
        "INSPECTIONS_PER_MINUTE",
        60.0,
        _optional_number,
        "a number, or None for no limit",
        "How many inspections one process may make in a minute. In debug mode there is no limit, "
        "but in tests there is: a suite runs more statements than anybody looks at.",
        debug_default=float("inf"),
        testing_default=60.0,
    ),
    Setting(
        "STATEMENT_TIMEOUT_MS",
        1000,
        _positive,
        "a whole number of milliseconds, 1 or more",
        "The `statement_timeout` of PlanWatch's own transaction, in ms.",
    ),
    Setting(
        "LOCK_TIMEOUT_MS",
        50,
        _positive,
        "a whole number of milliseconds, 1 or more",
        "The `lock_timeout` of PlanWatch's own transaction, in ms.",
    ),
    Setting(
        "DATABASE_URL",
        None,
        _database_url,
        "None, a database URL, or a dict of URLs by bind key",
        "Connect with this URL instead of the application's, to give PlanWatch a role with fewer "
        "privileges: a URL for the default bind, or a dict by bind key (None for the default). "
        "The driver stays that of the application's engine.",
    ),
    Setting(
        "MIN_ROWS",
        1000,
        _whole_number,
        "a whole number of rows, 0 or more",
        "Tables with fewer rows are not worth a warning.",
    ),
    Setting(
        "GROWTH",
        False,
        _boolean,
        "a boolean",
        "Also say, as `info`, what no index can serve on tables that are still small.",
        debug_default=True,
        testing_default=True,
    ),
    Setting(
        "ANALYZE",
        False,
        _boolean,
        "a boolean",
        "Also run a plain SELECT once more with EXPLAIN ANALYZE, in the background, to see how "
        "many rows its steps really have. Only where that can do no harm: in a READ ONLY "
        "transaction, without volatile functions, for statements that took less than "
        "`PLANWATCH_STATEMENT_TIMEOUT_MS`, and for one inspection in six of the budget.",
    ),
    Setting(
        "VERIFY",
        VERIFY_AUTO,
        _verify,
        '"auto", "build" or "off"',
        'How an index is proved before it is advised. "auto": by the HypoPG extension where it is '
        'installed; elsewhere the verdict is `untested`. "build": create the index for real in a '
        "transaction that is rolled back, and measure. That locks out writers while it lasts and "
        'touches statistics: only for a database of your own. "off": never try.',
    ),
    Setting(
        "SHOW_PARAMETERS",
        False,
        _boolean,
        "a boolean",
        "Whether compared values may appear in logs and signals. The toolbar's panel, being for "
        "debugging, always shows them.",
    ),
    Setting(
        "IGNORE",
        (),
        _ignore,
        'a list of "rule", "rule:table", "rule:expression" or finding ids',
        'Findings that nobody wants to see, each as `"rule"`, `"rule:table"`, '
        '`"rule:expression"` or a finding\'s id. In the environment: separated by commas.',
    ),
    Setting(
        "LOG_INTERVAL",
        3600.0,
        _number,
        "a number of seconds, 0 or more",
        "Seconds before the same advice, or a finding without advice, is logged again.",
    ),
)

#: What is used from init_app on; the others wait for the first use.
AT_START = frozenset(
    {"ENABLED", "STATEMENT_TIMEOUT_MS", "LOCK_TIMEOUT_MS", "DATABASE_URL", "LOG_INTERVAL"}
)

_BY_KEY = {setting.key: setting for setting in SETTINGS}


@dataclass(frozen=True)
class Settings:
    """The settings of one app, checked."""

    enabled: bool
    sample_interval: float
    slow_statement_ms: float
    inspections_per_minute: float
    statement_timeout_ms: int
    lock_timeout_ms: int
    database_url: Any
    min_rows: int
    growth: bool
    analyze: bool
    verify: str
    show_parameters: bool
    ignore: tuple[str, ...]
    log_interval: float

    def database_url_for(self, bind: str | None) -> Any:
        """Return the URL to use instead of the application's for this bind key, or None."""
        if isinstance(self.database_url, Mapping):
            return self.database_url.get(bind)
        return self.database_url if bind is None else None

    def database_url_of(self, url: URL) -> Any:
        """Return the URL to use for an engine that has no bind key, or None.

        That is the one given for the same database, or the only one for an engine whose own URL
        names none, because it has a creator.
        """
        given = self.database_url
        urls = [*given.values()] if isinstance(given, Mapping) else [given] if given else []
        if url.database is None:
            return urls[0] if len(urls) == 1 else None
        same = (one for one in urls if one.database == url.database and one.host == url.host)
        return next(same, None)

    def ignores(self, rule: str, relation: str, subject: str, finding_id: str) -> bool:
        """Whether PLANWATCH_IGNORE names this finding."""
        table = name_parts(relation)
        for entry in self.ignore:
            name, _, of_what = entry.partition(":")
            if finding_id == entry:
                return True
            named = {"", subject, table[-1], ".".join(table)}
            parts = name_parts(of_what)
            if name == rule and (of_what in named or parts in (table, table[-1:])):
                return True
        return False


def name_parts(name: str) -> list[str]:
    """Return the schema and table of a name, without quotes."""
    return [quoted.replace('""', '"') or plain for quoted, plain in _NAME_PART.findall(name)]


def read_settings(config: Mapping[str, Any], *, debug: bool, testing: bool) -> Settings:
    """Return the settings in `config`; keys without a value get the default for this mode.

    Raises SettingError, naming the key and what it expects, for a value of the wrong kind and for
    a `PLANWATCH_` key that does not exist.
    """
    settings, refused = read_usable(config, debug=debug, testing=testing)
    for error in refused:
        raise error
    return settings


def read_usable(
    config: Mapping[str, Any], *, debug: bool, testing: bool
) -> tuple[Settings, list[SettingError]]:
    """Return the settings in `config` and what is refused; a default stands for a wrong value."""
    given = given_in(config)
    refused = [SettingError(_unknown(key)) for key in sorted(given) if key not in _BY_KEY]
    values = {}
    for setting in SETTINGS:
        if setting.key in given:
            try:
                values[setting.name.lower()] = _parsed(setting, given[setting.key])
                continue
            except SettingError as error:
                refused.append(error)
        if testing and setting.testing_default is not None:
            value = setting.testing_default
        elif debug and setting.debug_default is not None:
            value = setting.debug_default
        else:
            value = setting.default
        values[setting.name.lower()] = value
    if values["inspections_per_minute"] is None:
        values["inspections_per_minute"] = float("inf")
    return Settings(**values), refused


def given_in(config: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the `PLANWATCH_` keys of a config."""
    # The app's own thread may add to it meanwhile.
    return {key: value for key, value in list(config.items()) if str(key).startswith(PREFIX)}


def _unknown(key: str) -> str:
    close = close_to(key.removeprefix(PREFIX).upper(), [one.name for one in SETTINGS])
    if close:
        return f"{key} is unknown: did you mean {PREFIX}{close}?"
    return f"{key} is unknown. PlanWatch has {', '.join(sorted(_BY_KEY))}."


def close_to(name: str, known: Iterable[str]) -> str:
    """Return which of the known names is meant most likely, or nothing."""
    return next(iter(get_close_matches(name, list(known), n=1)), "")


def _parsed(setting: Setting, value: Any) -> Any:
    try:
        parsed = setting.parse(value)
    except SettingError:
        raise
    except (ValueError, TypeError):
        # A URL holds a password, so it is the one value that no message repeats.
        given = "cannot be read" if setting.name == "DATABASE_URL" else f"is {value!r}"
        raise SettingError(f"{setting.key} {given}: it must be {setting.expects}.") from None
    if setting.name == "IGNORE":
        _check_rules(parsed)
    return parsed


def _check_rules(entries: tuple[str, ...]) -> None:
    names = {rule.NAME for rule in RULES}
    for entry in entries:
        rule = entry.partition(":")[0]
        if rule not in names and not _FINDING_ID.fullmatch(entry):
            close = close_to(rule, names)
            meant = f"did you mean {close!r}? " if close else ""
            raise SettingError(
                f"{PREFIX}IGNORE has {entry!r}, but {rule!r} is not a rule: {meant}"
                f"Rules: {', '.join(sorted(names))}."
            )
