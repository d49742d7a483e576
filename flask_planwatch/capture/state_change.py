"""What one statement of an application changes of its connection's state.

`SET search_path` or `SET ROLE` decides which tables a statement means, row-level security may
depend on a `set_config`, and a temporary table may hide another. PlanWatch never runs such a
statement: it reads the name and the value of a setting, and sets the same itself. SET, RESET and
`set_config` are read where they have constants or parameters, and definitions as far as they name a
table. What else may change the state makes it unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any, NamedTuple

from ..plan.wording import Template, say
from .called_functions import called_in, calls_in, functions_in
from .sql_text import (
    DOTTED_NAME,
    NAME,
    QUOTED_NAME,
    Unreadable,
    from_first_word,
    names_in,
    quoted,
    unquoted,
    without_strings,
    words,
)

#: Longer statements, in characters, are not read: that would be done at each execution.
MAX_LENGTH = 5000

#: Longer values, in characters, are not kept: a connection may have hundreds of values.
MAX_VALUE = 1000

#: Settings that change no plan, and those that PlanWatch's transaction sets itself. A role that may
#: see all rows plans alike whatever `row_security` says; for PlanWatch's own role it must stay on.
_WITHOUT_EFFECT = words(
    "application_name characteristics constraints lock_timeout names row_security seed "
    "session_replication_role statement_timeout synchronous_commit transaction xmloption"
)

#: What other such settings begin with.
_WITHOUT_EFFECT_BY_START = tuple(
    words(
        "auto_explain. client_ debug_ default_transaction_ idle_ log_ pg_stat_statements. tcp_ "
        "transaction_"
    )
)

#: Settings whose value is a list of names.
_LISTS_OF_NAMES = frozenset({"search_path", "temp_tablespaces"})

#: The name of RESET ALL.
EVERYTHING = "all"

#: The name of a change of which not even the setting is known.
SOMETHING = "something"

#: Why a value is not known.
_CHANGED = "{what} changed the connection's settings"
_MAY_HAVE_CHANGED = "{what} may have changed the connection's settings"
_LONG_STATEMENT = Template("a statement of more than {length} characters")
_UNREAD_STATEMENT = Template("a statement that PlanWatch cannot read")
_ONE_OF_SEVERAL = Template("one of several statements in one text")
_UNREAD_SET = Template("a SET or RESET that PlanWatch cannot read")
_EXECUTED = Template("the statement that EXECUTE ran")
_UPDATE = Template("an UPDATE of pg_settings")
_ESCAPED_FUNCTION = Template("a function whose name is written in Unicode escapes")
_A_BLOCK = Template("a DO block")
_UNREAD_BLOCK = Template("a DO block that PlanWatch cannot read")
_IN_LARGER_STATEMENT = "{setting} was set inside a larger statement"
_NOT_READ = "{setting} was set to a value that PlanWatch cannot read"
_A_SETTING = Template("a setting")
_IN_TRANSACTION = "the same transaction ran {word} {kind}"

_HIDES = "relation "
_CALLS = "function "


class Change(NamedTuple):
    """What a statement of the application's changed on its connection.

    `value` is what a setting was set to, None for its default. `local` tells that it ends with the
    transaction. `unknown` says why the value is not known; empty if it is. `returned` tells that
    the connection has been back in its pool since.
    """

    name: str
    value: str | None
    local: bool
    unknown: str = ""
    returned: bool = False

    @property
    def is_setting(self) -> bool:
        """Whether it is a setting, or an unknown change."""
        return not self.name.startswith((_HIDES, _CALLS))

    @property
    def relation(self) -> str | None:
        """The relation that PlanWatch sees otherwise, or not at all; None for other changes."""
        return self.name.removeprefix(_HIDES) if self.name.startswith(_HIDES) else None

    @property
    def function(self) -> str | None:
        """The function that may have changed anything; None for other changes."""
        return self.name.removeprefix(_CALLS) if self.name.startswith(_CALLS) else None


class Command(NamedTuple):
    """COMMIT, ROLLBACK, SAVEPOINT or RELEASE that an application sent as a text, or DISCARD ALL."""

    word: str
    savepoint: str | None = None


#: What statements begin with that may change the state.
_CHANGING = words(
    "set reset discard do call create alter drop truncate commit end rollback abort savepoint "
    "release prepare execute"
)
_ANOTHER = re.compile(rf";\s*+(?:--|/\*|(?:{'|'.join(sorted(_CHANGING))})\b)")

#: What EXPLAIN ANALYZE runs, besides queries.
_EXPLAINED = re.compile(r"\b(?:execute|create)\b")
_STRING = re.compile(r"'(?:[^']++|'')*+'")

#: What statements begin with that may call a function by itself.
_MAY_CALL = words("select values with explain declare copy (")


def may_change_state(text: str) -> bool:
    """Whether a statement may change the state, so that `changes` has to read it."""
    lowered = text.lower()
    word, _ = from_first_word(lowered)
    if (
        word in _CHANGING
        or word == "/*"
        or "set_config" in lowered
        or (";" in lowered and _ANOTHER.search(lowered))
        or ("pg_settings" in lowered and "update" in lowered)
        or (word == "explain" and _EXPLAINED.search(lowered))
    ):
        return True
    if word not in _MAY_CALL or not ("(" in lowered or "into" in lowered):
        return False
    try:
        plain, _ = without_strings(text)
    except Unreadable:
        return True
    lowered = plain.lower()
    return (
        'u&"' in lowered
        or any(temporary or word in {"select", "("} for _, temporary in _tables_made(plain))
        or bool(calls_in(plain))
    )


def changes_plans(name: str) -> bool:
    """Whether a setting may change a plan, and is not PlanWatch's own to choose."""
    return name not in _WITHOUT_EFFECT and not name.startswith(_WITHOUT_EFFECT_BY_START)


def changes(text: str, parameters: Any) -> Iterator[Change | Command]:
    """Yield what a statement changes: a Change, or a Command that ends others."""
    word, text = from_first_word(text)
    if len(text) > MAX_LENGTH:
        # In most of them, only a string looks like a change.
        text = _STRING.sub("''", text)
        if word in {"create", "alter"}:
            yield from _relations(text)
        elif may_change_state(text):
            yield _unknown(say(_MAY_HAVE_CHANGED, what=_LONG_STATEMENT, length=MAX_LENGTH))
        return
    try:
        values = _Values(text, parameters)
    except Unreadable:
        yield _unknown(say(_MAY_HAVE_CHANGED, what=_UNREAD_STATEMENT))
        return
    statements = [part for part in values.text.split(";") if part.strip()]
    if len(statements) == 1:
        yield from _changes_of_one(statements[0].strip(), values)
    elif any(next(_changes_of_one(each.strip(), values), None) for each in statements):
        yield _unknown(say(_MAY_HAVE_CHANGED, what=_ONE_OF_SEVERAL))


class _Values:
    """What the strings and placeholders of a text stand for.

    `text` has a number in place of each string, and a name or number in each placeholder.
    """

    def __init__(self, text: str, parameters: Any) -> None:
        if parameters and not isinstance(parameters, Mapping):
            # The drivers count each %s, also in strings and comments.
            number = count()
            text = _POSITIONAL.sub(
                lambda match: match[0] if match[0] == "%%" else f"%({next(number)})s", text
            )
        self.text, self._strings = without_strings(text)
        self._parameters = parameters

    def string(self, number: str) -> str:
        """Return what the string holds whose number is in quotes."""
        return self._strings[int(number[1:-1])]

    def value(self, piece: str) -> str | None:
        """Return what a constant, a name or a placeholder stands for, None for NULL.

        Raises Unreadable.
        """
        if piece[0] in "%$":
            return _written(self._parameter(piece))
        if piece[0] not in "'\"":
            return None if piece.lower() == "null" else piece.lower()
        value = self.string(piece) if piece[0] == "'" else unquoted(piece)
        # A driver that looks for placeholders may change what is in quotes, too.
        if "\\" in value or ("%" in value and self._parameters is not None):
            raise Unreadable
        return value

    def _parameter(self, placeholder: str) -> Any:
        try:
            if placeholder[0] == "$":
                return self._parameters[int(placeholder[1:]) - 1]
            name = placeholder[2:-2]
            by_name = isinstance(self._parameters, Mapping)
            return self._parameters[name if by_name else int(name)]
        except (LookupError, TypeError, ValueError) as error:
            raise Unreadable from error


_POSITIONAL = re.compile(r"%[%sbt]")
_PLACEHOLDER = r"%\(\w++\)s|\$\d++"

#: A string, by its number.
_NUMBERED = r"'\d++'"

#: EXPLAIN and DECLARE, with a query after them.
_BEFORE_QUERY = re.compile(
    r"\A(?:explain\b(?:\s*+\([^()]*+\)|\s++(?:analyze|verbose)\b)*+|declare\b.*?\bfor\b)?+[\s(]*+",
    re.IGNORECASE | re.DOTALL,
)


def _changes_of_one(text: str, values: _Values) -> Iterator[Change | Command]:
    """Yield what one statement changes."""
    word, text = from_first_word(text[_BEFORE_QUERY.match(text).end() :])  # type: ignore[union-attr]
    if word in {"commit", "end"}:
        yield Command("commit")
    elif word in {"savepoint", "release", "rollback", "abort"}:
        named = _SAVEPOINT.match(text)
        yield Command("rollback" if word == "abort" else word, named and unquoted(named[1]))
    elif word == "discard":
        if text.lower().split() == ["discard", "all"]:
            yield Command("discard")
    elif word in {"set", "reset"}:
        yield from _settings(text, values)
    elif word == "do":
        yield from _block(text, values)
    elif word == "execute":
        yield _unknown(say(_MAY_HAVE_CHANGED, what=_EXECUTED))
    elif word in {"alter", "create", "drop", "truncate"}:
        yield from _relations(text)
    elif word != "prepare":
        yield from _query(word, text, values)
    elif text.lower().split()[1:2] == ["transaction"]:
        yield Command("commit")


# Transactions

_SAVEPOINT = re.compile(
    rf"\A(?:savepoint|release(?:\s++savepoint\b)?+|(?:rollback|abort)\b.*?\bto\b(?:\s++savepoint\b)?+)"
    rf"\s++({NAME})",
    re.IGNORECASE | re.DOTALL,
)

# SET and RESET

#: The settings for which SET has words of its own.
_SYNONYMS = {
    "session authorization": "session_authorization",
    "time zone": "timezone",
    "schema": "search_path",
    "xml option": "xmloption",
}
_SETTING = re.compile(
    rf"""(?:set|reset)\s++(?:(?P<local>local)\s++|session\s++(?!authorization\b))?+
    (?:(?P<name>{DOTTED_NAME})\s*+(?:=|to\b)
    |(?P<words>session\s++authorization|time\s++zone|role|schema|transaction|characteristics
    |constraints|names|xml\s++option)\b
    |(?P<reset>{DOTTED_NAME}))
    \s*+(?P<value>.*)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_ITEM = rf"(?:(?a:[a-z_][\w$]*+)|{QUOTED_NAME}|{_NUMBERED}|-?\d++(?:\.\d*+)?+|{_PLACEHOLDER})"
_ITEMS = re.compile(rf"{_ITEM}(?:\s*+,\s*+{_ITEM})*+", re.IGNORECASE)
_ONE_ITEM = re.compile(_ITEM, re.IGNORECASE)


def _settings(text: str, values: _Values) -> Iterator[Change]:
    """Yield the setting that SET or RESET changes, if plans depend on it."""
    match = _SETTING.fullmatch(text)
    resets = text[0] in "rR"
    if match is None or (resets and (match["name"] or match["value"])):
        yield _unknown(say(_CHANGED, what=_UNREAD_SET))
        return
    local = match["local"] is not None
    by_words = " ".join((match["words"] or "").lower().split())
    name = _SYNONYMS.get(by_words, by_words)
    if not name:
        name = ".".join(names_in(match["name"] or match["reset"])).lower()
    if not changes_plans(name):
        return
    try:
        if match["reset"] and not resets:
            raise Unreadable
        value = None if resets else _setting_value(name, match["value"], values)
        yield Change(name, value, local)
    except Unreadable:
        yield _unreadable(name, local=local)


def _setting_value(name: str, text: str, values: _Values) -> str | None:
    """Return the value of a setting, None for its default; raises Unreadable."""
    if text.lower() == "default" or (name == "timezone" and text.lower() == "local"):
        return None
    if not _ITEMS.fullmatch(text):
        raise Unreadable
    items = []
    for piece in _ONE_ITEM.findall(text):
        item = values.value(piece)
        if item is None:
            raise Unreadable
        items.append(quoted(item) if name in _LISTS_OF_NAMES else item)
    if len(items) > 1 and name not in _LISTS_OF_NAMES | {"datestyle"}:
        raise Unreadable
    return _short(", ".join(items))


# set_config

_CONSTANT = rf"{_NUMBERED}|{_PLACEHOLDER}|true\b|false\b|null\b"

#: Types that leave the text of a value as it is.
_TYPE = r"(?:text|varchar|character\s++varying|bool(?:ean)?+)\b"
_ARGUMENT = (
    rf"(?:cast\s*+\(\s*+)?+({_CONSTANT})(?:\s*+::\s*+{_TYPE})*+(?:\s++as\s++{_TYPE}\s*+\))?+\s*+"
)
_FUNCTION = r'(?:\bset_config|"set_config")\s*+\(\s*+'
_SET_CONFIG = rf"{_FUNCTION}{_ARGUMENT},\s*+{_ARGUMENT},\s*+{_ARGUMENT}\)"
_NAMED = rf"(?:pg_catalog\s*+\.\s*+)?+{_SET_CONFIG}(?:\s*+as\s++{NAME})?+"

#: A call with three constants, or with the name of its setting at most.
_EACH_SET_CONFIG = re.compile(rf"{_SET_CONFIG}|{_FUNCTION}(?:({_CONSTANT})\s*+,)?+", re.IGNORECASE)

#: A statement that does nothing else.
_ONLY_SET_CONFIG = re.compile(rf"select\s++{_NAMED}(?:\s*+,\s*+{_NAMED})*+", re.IGNORECASE)


def _set_configs(text: str, values: _Values) -> Iterator[Change | None]:
    """Yield what each call of `set_config` changes; None if no plan depends on the setting."""
    alone = _ONLY_SET_CONFIG.fullmatch(text) is not None
    for call in _EACH_SET_CONFIG.finditer(text):
        setting, value, scope, only_setting = call.groups()
        name, local = SOMETHING, False
        try:
            name = (values.value(setting or only_setting or "null") or SOMETHING).lower()
            if not changes_plans(name):
                yield None
                continue
            in_transaction = values.value(scope or "null")
            if in_transaction is None or name == SOMETHING:
                raise Unreadable
            local = in_transaction.strip().lower() in {"true", "t", "on", "yes", "y", "1"}
            why = "" if alone else say(_IN_LARGER_STATEMENT, setting=name)
            yield Change(name, _short(values.value(value)), local, why)
        except Unreadable:
            yield _unreadable(name, local=local)


# Queries and blocks

_INTO = re.compile(
    rf"(?:\b(insert|merge)\s++)?+\binto\s++((?:(?:local|global|temp|temporary|unlogged)\s++)*+)"
    rf"(?:table\s++)?+({DOTTED_NAME})",
    re.IGNORECASE,
)
_BLOCK = re.compile(
    rf"do\b(?:\s*+language\s++plpgsql)?+\s*+({_NUMBERED})(?:\s*+language\s++plpgsql)?+",
    re.IGNORECASE,
)
_SET_IN_A_BLOCK = re.compile(
    r"\bset_config\b|\b(?:re)?set\s++(?:local|session|role|schema|search_path|all|enable_\w++"
    r"|\w++\.\w)|\btemp(?:orary)?\b|\bexecute\b|\bpg_settings\b|\bu&\"",
    re.IGNORECASE,
)
_DEFINED_IN_A_BLOCK = re.compile(r"\b(?:create|alter|drop)\b", re.IGNORECASE)


def _query(word: str, text: str, values: _Values) -> Iterator[Change]:
    """Yield what a query, or any other statement, changes by functions and by INTO."""
    if "pg_settings" in text.lower() and "update" in text.lower():
        yield _unknown(say(_CHANGED, what=_UPDATE))
    for name, temporary in _tables_made(text):
        yield Change(f"{_HIDES}{name}", name, local=not temporary)
    calls = list(_set_configs(text, values))
    yield from filter(None, calls)
    if calls or word not in _MAY_CALL | {"call"}:
        return
    if 'u&"' in text.lower():
        yield _unknown(say(_MAY_HAVE_CHANGED, what=_ESCAPED_FUNCTION))
    yield from map(_called, called_in(text) if word == "call" else calls_in(text))


def _tables_made(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the names of tables that SELECT … INTO makes, and whether they are temporary."""
    for writes, modifiers, name in _INTO.findall(text) if "into" in text.lower() else ():
        if not writes:
            yield names_in(name)[-1], "temp" in modifiers.lower()


def _block(text: str, values: _Values) -> Iterator[Change]:
    """Yield what a DO block may change."""
    match = _BLOCK.fullmatch(text)
    if match is None:
        yield _unknown(say(_MAY_HAVE_CHANGED, what=_UNREAD_BLOCK))
        return
    body = values.string(match[1])
    if _SET_IN_A_BLOCK.search(body):
        yield _unknown(say(_CHANGED, what=_A_BLOCK))
        return
    if _DEFINED_IN_A_BLOCK.search(body):
        yield _unknown("a DO block of the same transaction may have changed a table", local=True)
    yield from map(_called, functions_in(body))


# Relations

_RELATION = re.compile(
    r"""(?P<word>create|alter|drop|truncate)\b
    (?P<modifiers>(?:\s++(?:or|replace|global|local|unlogged|recursive|materialized|foreign|unique
    |temp|temporary)\b)*+)
    (?:\s++(?P<kind>table|view|index|schema|owned)\b)?+(?P<names>.*)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_INDEXED = re.compile(rf"\bon\s++(?:only\s++)?+({DOTTED_NAME})", re.IGNORECASE)
_RENAMED = re.compile(rf"\brename\s++to\s++({NAME})", re.IGNORECASE)
_LISTED = re.compile(
    rf"(?!(?:if|not|exists|only|cascade|restrict|restart|continue|identity)\b)(?<!\w){DOTTED_NAME}",
    re.IGNORECASE,
)
_DROPPED_BY_COMMIT = re.compile(r"\bon\s++commit\s++drop\b", re.IGNORECASE)


def _relations(text: str) -> Iterator[Change]:
    """Yield the relations that a definition hides from PlanWatch until it is committed."""
    match = _RELATION.match(text)
    if match is None:
        return
    word, kind = match["word"].lower(), (match["kind"] or "").lower()
    if kind == "schema" or (word == "drop" and kind in {"index", "owned"}):
        why = say(_IN_TRANSACTION, word=word.upper(), kind=kind.upper())
        yield _unknown(why, local=True)
        return
    if word == "drop" and text.lower().endswith("cascade"):
        yield _unknown("the same transaction ran DROP … CASCADE", local=True)
    if word == "create" and kind == "index":
        names = _INDEXED.findall(text)[:1]
    elif word in {"drop", "truncate"} and (kind or word == "truncate"):
        names = [name[0] for name in _LISTED.finditer(match["names"])]
    elif kind in {"table", "view"} and (first := _LISTED.search(match["names"])):
        names = [first[0], *(_RENAMED.findall(text) if word == "alter" else ())]
    else:
        return
    for parts in map(names_in, names):
        temporary = "temp" in match["modifiers"].lower() or parts[0].startswith("pg_temp")
        lasts = temporary and not _DROPPED_BY_COMMIT.search(text)
        yield Change(f"{_HIDES}{parts[-1]}", parts[-1], local=not lasts)


def _written(value: Any) -> str | None:
    """Return a parameter as the server gets it for a setting; raises Unreadable if in doubt."""
    if value is None or (type(value) is str and "\0" not in value):
        return value
    if type(value) in {bool, int}:
        return str(value).lower()
    raise Unreadable


def _short(value: str | None) -> str | None:
    if value is not None and len(value) > MAX_VALUE:
        raise Unreadable
    return value


def _called(name: str) -> Change:
    return Change(f"{_CALLS}{name}", name, local=False)


def _unreadable(name: str, *, local: bool) -> Change:
    why = say(_NOT_READ, setting=_A_SETTING if name == SOMETHING else name)
    return Change(name, None, local and name != SOMETHING, why)


def _unknown(why: str, *, local: bool = False) -> Change:
    return Change(SOMETHING, None, local, unknown=why)
