"""Every `PLANWATCH_` key once, as data: its name, default, parser and help.

The documentation's page of settings is made from this list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from .rules import RULES

PREFIX = "PLANWATCH_"

#: What from_prefixed_env reads of `FLASK_PLANWATCH=off`, and, as a dict, of a name with two
#: underscores after the prefix. An object of another kind is the application's own.
_ALONE = PREFIX.rstrip("_")
_READ_FROM_ENVIRONMENT = (Mapping, str, bool, int, float, list)

#: The verbs of PLANWATCH_VERIFY.
VERIFY_AUTO, VERIFY_BUILD, VERIFY_OFF = "auto", "build", "off"

#: Why nothing was tried.
VERIFY_IS_OFF = f'PLANWATCH_VERIFY is "{VERIFY_OFF}"'

#: The largest value of an integer parameter of PostgreSQL.
_MAX_TIMEOUT = 2**31 - 1

#: Seconds, by default, before the same finding is logged again.
LOG_INTERVAL = 3600.0

#: A literal, which is left as it is, or blanks.
_BLANKS = re.compile(r"""('(?:[^']|'')*'|"(?:[^"]|"")*")|\s+""")
#: A literal, which is left as it is, or a column alone in parentheses that are no function's.
_ALONE_IN_PARENTHESES = re.compile(
    r"""('(?:[^']|'')*')|(?<![\w$"])\(([^\W\d][\w$]*|"(?:[^"]|"")+")\)"""
)

_NAME_PART = re.compile(r'"((?:[^"]|"")*)"|([^."]+)')

_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}
_FINDING_ID = re.compile(r"[0-9a-f]{12}")
#: What was meant to be an id, but is in capitals or has not as many digits.
_ALMOST_AN_ID = re.compile(r"[0-9a-fA-F]{8,16}")

#: Backends that a URL of PostgreSQL may name: some services still write the shorter one.
_POSTGRESQL = {"postgresql", "postgres"}


class SettingError(ValueError):
    """A `PLANWATCH_` key in `app.config` that PlanWatch does not know or cannot use."""


@dataclass(frozen=True)
class Kind:
    """What a setting may be: how it is read, and what that expects, in words.

    `parse` takes the configured value, which is a string if it comes from the environment, and
    returns the value to use or raises ValueError.
    """

    parse: Callable[[Any], Any]
    expects: str


@dataclass(frozen=True)
class Setting:
    """One key of `app.config`.

    `debug_default` replaces `default` in debug mode, `testing_default` in an app that is under
    test; None in either means the same default.
    """

    name: str
    default: Any
    kind: Kind
    help: str
    debug_default: Any = None
    testing_default: Any = None

    @property
    def key(self) -> str:
        """The name in `app.config`."""
        return PREFIX + self.name

    def default_in(self, *, debug: bool, testing: bool) -> Any:
        """Return what holds where nothing is configured."""
        if testing and self.testing_default is not None:
            return self.testing_default
        return self.debug_default if debug and self.debug_default is not None else self.default


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


def _optional_number(value: Any) -> float:
    if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
        return float("inf")
    return _number(value)


def _verify(value: Any) -> str:
    if isinstance(value, str) and value.lower() in {VERIFY_AUTO, VERIFY_BUILD, VERIFY_OFF}:
        return value.lower()
    raise ValueError


def _database_url(value: Any) -> dict[str | None, URL] | None:
    if value is None:
        return None
    try:
        given = value if isinstance(value, Mapping) else {None: value}
        urls = {bind: make_url(url) for bind, url in given.items()}
    except ArgumentError:
        raise ValueError from None
    backends = {url.get_backend_name() for url in urls.values()}
    if others := sorted(backends - _POSTGRESQL):
        raise SettingError(
            f"{PREFIX}DATABASE_URL names {' and '.join(others)}: it must be a URL of PostgreSQL, "
            "to the same database as the application's."
        )
    return urls


def _ignore(value: Any) -> tuple[str, ...]:
    if isinstance(value, float) and (value.is_integer() or value == float("inf")):
        raise SettingError(
            f"{PREFIX}IGNORE is the number {value!r}: Flask reads an id of digits and one e as "
            """one in the environment. Write it in a JSON list there: '["12345678e901"]'."""
        )
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
    entries = tuple(":".join(part.strip() for part in entry.split(":", 1)) for entry in value)
    _check_ignored(entries)
    return entries


def _check_ignored(entries: tuple[str, ...]) -> None:
    """Raise SettingError with all entries that name neither a rule nor a finding's id."""
    problems, is_rule_unknown = [], False
    for entry in entries:
        rule, colon, of_what = entry.partition(":")
        given = f"{PREFIX}IGNORE has {entry!r}"
        if _FINDING_ID.fullmatch(entry):
            continue
        if _ALMOST_AN_ID.fullmatch(entry):
            problems.append(
                f"{given}: the id of a finding has 12 hexadecimal digits, in lower case."
            )
        elif rule not in RULES:
            is_rule_unknown = True
            close = close_to(rule, RULES)
            meant = f": did you mean {close!r}?" if close else "."
            problems.append(f"{given}, but {rule!r} is not a rule{meant}")
        elif colon and not of_what:
            problems.append(
                f"{given}, with nothing after the colon: write {rule!r} to ignore all findings of "
                "the rule."
            )
    if is_rule_unknown:
        problems.append(f"Rules: {', '.join(sorted(RULES))}.")
    if problems:
        raise SettingError(" ".join(problems))


_BOOLEAN = Kind(_boolean, "a boolean")
_SECONDS = Kind(_number, "a number of seconds, 0 or more")
_DURATION = Kind(_number, "a number of milliseconds, 0 or more")
_TIMEOUT = Kind(_positive, "a whole number of milliseconds, 1 or more")
_ROWS = Kind(_whole_number, "a whole number of rows, 0 or more")
_BUDGET = Kind(_optional_number, "a number, or None for no limit")
_URLS = Kind(_database_url, "None, a database URL, or a dict of URLs by bind key")
_VERIFY = Kind(_verify, '"auto", "build" or "off"')
_IGNORE = Kind(_ignore, 'a list of "rule", "rule:table", "rule:expression" or finding ids')


def _setting(default: Any, kind: Kind, text: str, **other_defaults: Any) -> Any:
    """Return a field of Settings; see Setting."""
    return field(metadata={"default": default, "kind": kind, "help": text, **other_defaults})


@dataclass(frozen=True)
class Settings:
    """The settings of one app, checked. Each field is the key of its name, in capitals."""

    enabled: bool = _setting(
        True, _BOOLEAN, "Whether PlanWatch does anything. If False, it listens to nothing."
    )
    sample_interval: float = _setting(
        300.0,
        _SECONDS,
        "Seconds before the same statement is inspected again. 0: once in each request, and at "
        "each execution outside of one.",
        debug_default=0.0,
    )
    slow_statement_ms: float = _setting(
        200.0,
        _DURATION,
        "An execution that took longer, in ms, does not wait for the interval. If the statement "
        "is slow again and again, it waits for a second, and each time twice as long.",
    )
    inspections_per_minute: float = _setting(
        60.0,
        _BUDGET,
        "The largest number of inspections in one minute, for each process. Executions that "
        "failed because of the server are inspected beyond it. There is no limit in debug mode; "
        "in tests there is, because a test suite runs thousands of statements.",
        debug_default=float("inf"),
        testing_default=60.0,
    )
    statement_timeout_ms: int = _setting(
        1000, _TIMEOUT, "The `statement_timeout` of PlanWatch's own transaction, in ms."
    )
    lock_timeout_ms: int = _setting(
        50, _TIMEOUT, "The `lock_timeout` of PlanWatch's own transaction, in ms."
    )
    database_url: dict[str | None, URL] | None = _setting(  # noqa: RUF009 - it is a field
        None,
        _URLS,
        "Connect with this URL instead of the application's, to give PlanWatch a role with fewer "
        "privileges: a URL for the default bind, or a dict by bind key (None for the default). "
        "The driver stays that of the application's engine.",
    )
    min_rows: int = _setting(1000, _ROWS, "Tables with fewer rows are not worth a warning.")
    growth: bool = _setting(
        False,
        _BOOLEAN,
        "Also report, as `info`, conditions on tables that are still small if no index can serve "
        "them. Not if the statement's other tables have a thousand times the rows.",
        debug_default=True,
        testing_default=True,
    )
    analyze: bool = _setting(
        False,
        _BOOLEAN,
        "Also run a plain SELECT once more with EXPLAIN ANALYZE, in the background, to see how "
        "many rows its steps really have. Only where that can do no harm: in a READ ONLY "
        "transaction, without volatile functions, for statements that took less than "
        "`PLANWATCH_STATEMENT_TIMEOUT_MS`, and for one inspection in six of the budget.",
    )
    verify: str = _setting(
        VERIFY_AUTO,
        _VERIFY,
        'How an index is proved before it is advised. "auto": by the HypoPG extension where it is '
        'installed; elsewhere the verdict is `untested`. "build": create the index for real in a '
        "transaction that is rolled back, and measure. That locks out writers while it lasts and "
        'touches statistics: only for a database of your own. "off": never try.',
    )
    show_parameters: bool = _setting(
        False,
        _BOOLEAN,
        "Whether compared values may appear in logs and signals. The toolbar's panel, being for "
        "debugging, always shows them.",
    )
    ignore: tuple[str, ...] = _setting(
        (),
        _IGNORE,
        'Findings that nobody wants to see, each as `"rule"`, `"rule:table"`, '
        '`"rule:expression"` or a finding\'s id. In the environment: separated by commas.',
    )
    log_interval: float = _setting(
        LOG_INTERVAL,
        _SECONDS,
        "Seconds before the same advice, or a finding without advice, is logged again.",
    )

    def database_url_for(self, bind: str | None) -> URL | None:
        """Return the URL to use instead of the application's for this bind key, or None."""
        return (self.database_url or {}).get(bind)

    def database_url_of(self, url: URL) -> URL | None:
        """Return the URL to use for an engine that has no bind key, or None.

        That is the one given for the same database, or the only one for an engine whose own URL
        names none, because it has a creator.
        """
        urls = [*(self.database_url or {}).values()]
        if url.database is None:
            return urls[0] if len(urls) == 1 else None
        same = (
            given for given in urls if given.database == url.database and given.host == url.host
        )
        return next(same, None)

    def ignores(self, rule: str, relation: str, subject: str, finding_id: str) -> bool:
        """Whether PLANWATCH_IGNORE names this finding."""
        table = name_parts(relation)
        for entry in self.ignore:
            name, _, of_what = entry.partition(":")
            if finding_id == entry:
                return True
            if name != rule:
                continue
            named = {"", table[-1], ".".join(table)}
            if of_what in named or name_parts(of_what) in (table, table[-1:]):
                return True
            if comparable(of_what) == comparable(subject):
                return True
        return False


SETTINGS = tuple(Setting(each.name.upper(), **each.metadata) for each in fields(Settings))

#: What is used from init_app on; the others wait for the first use.
AT_START = frozenset(
    {"ENABLED", "STATEMENT_TIMEOUT_MS", "LOCK_TIMEOUT_MS", "DATABASE_URL", "LOG_INTERVAL"}
)

_BY_KEY = {setting.key: setting for setting in SETTINGS}


def comparable(expression: str) -> str:
    """Return an expression without blanks, and without parentheses that do not change it.

    These are around a column, as in `(email)::text`, and around the whole.
    """
    text = _BLANKS.sub(lambda found: found[1] or "", expression)
    text = _ALONE_IN_PARENTHESES.sub(lambda found: found[1] or found[2], text)
    while is_in_parentheses(text):
        text = text[1:-1]
    return text


def is_in_parentheses(text: str) -> bool:
    """Whether the first parenthesis is closed by the last one."""
    if not (text.startswith("(") and text.endswith(")")):
        return False
    depth = 0
    for character in _BLANKS.sub("", text)[:-1]:
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return False
    return True


def name_parts(name: str) -> list[str]:
    """Return the schema and table of a name, without quotes."""
    return [quoted.replace('""', '"') or plain for quoted, plain in _NAME_PART.findall(name)]


def read_settings(config: Mapping[str, Any], *, debug: bool, testing: bool) -> Settings:
    """Return the settings in `config`; keys without a value get the default for this mode.

    Raises SettingError, naming the keys and what they expect, for values of the wrong kind and for
    `PLANWATCH_` keys that do not exist.
    """
    settings, refused = read_usable(config, debug=debug, testing=testing)
    if refused:
        raise SettingError("\n".join(map(str, refused)))
    return settings


def read_usable(
    config: Mapping[str, Any], *, debug: bool, testing: bool
) -> tuple[Settings, list[SettingError]]:
    """Return the settings in `config` and what is refused; a default stands for a wrong value."""
    given = given_in(config)
    refused = [
        SettingError(_without_name(given[key]) if key == _ALONE else _unknown(key))
        for key in sorted(given)
        if key not in _BY_KEY
    ]
    values = {}
    for setting in SETTINGS:
        value = setting.default_in(debug=debug, testing=testing)
        if setting.key in given:
            try:
                value = _parsed(setting, given[setting.key])
            except SettingError as error:
                refused.append(error)
        values[setting.name.lower()] = value
    return Settings(**values), refused


def _without_name(value: Any) -> str:
    """Return why a value of `PLANWATCH` is refused, with the keys that were meant."""
    if isinstance(value, Mapping):
        return _nested(value)
    key = f"{PREFIX}ENABLED"
    return f"{_ALONE} is unknown: did you mean {key}? In the environment write FLASK_{key}."


def _nested(settings: Mapping[Any, Any]) -> str:
    """Return why a dict of settings is refused, with the keys that were meant."""
    names = [setting.name for setting in SETTINGS]
    meant = [PREFIX + close for name in settings if (close := close_to(str(name).upper(), names))]
    refused = f"{_ALONE} is a dict, but each setting has a key of its own"
    if not meant:
        return f"{refused}: {', '.join(sorted(_BY_KEY))}."
    variables = ", ".join(f"FLASK_{key}" for key in meant)
    return (
        f"{refused}: {', '.join(meant)}. In the environment write {variables}, with one underscore "
        f"after {_ALONE}."
    )


def given_in(config: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the `PLANWATCH_` keys of a config."""
    # The app's own thread may add to it meanwhile.
    return {
        key: value
        for key, value in list(config.items())
        if str(key).startswith(PREFIX)
        or (key == _ALONE and isinstance(value, _READ_FROM_ENVIRONMENT))
    }


def _unknown(key: str) -> str:
    close = close_to(key.removeprefix(PREFIX).upper(), [setting.name for setting in SETTINGS])
    if close:
        return f"{key} is unknown: did you mean {PREFIX}{close}?"
    return f"{key} is unknown. PlanWatch has {', '.join(sorted(_BY_KEY))}."


#: How alike two names are, from 0 to 1, if one is meant by the other: NOPE and IGNORE are 0.6.
_ALIKE = 0.65


def close_to(name: str, known: Iterable[str]) -> str:
    """Return which of the known names is meant most likely, or nothing."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=_ALIKE)), "")


def _parsed(setting: Setting, value: Any) -> Any:
    try:
        return setting.kind.parse(value)
    except SettingError:
        raise
    except (ValueError, TypeError):
        # A URL holds a password, so it is the one value that no message repeats.
        given = "cannot be read" if setting.name == "DATABASE_URL" else f"is {value!r}"
        raise SettingError(f"{setting.key} {given}: it must be {setting.kind.expects}.") from None
