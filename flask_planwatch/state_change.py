"""What one statement of an application changes of its connection's state.

A `SET search_path` or `SET ROLE` decides which tables a statement means, a `set_config` may be what
row-level security asks for, and a temporary table may hide another. Such a statement is never run
again: its name and value are read, and PlanWatch makes a command of its own of them. What it cannot
read that strictly is unknown by name.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


#: Longer statements that may change the state are not read: a token takes a microsecond or more.
MAX_SIZE = 5000

#: Longer values are not kept: a connection may have some hundreds, and a pool many connections.
MAX_VALUE = 1000

#: What is set in each request has the same short text, which is read only once.
_MAX_REMEMBERED = 300

#: Tokens that tell which relation a long CREATE or ALTER is about.
_HEAD = 20

#: Settings that change no plan, and those that a transaction of PlanWatch's sets itself.
_WITHOUT_EFFECT = frozenset(
    {
        "application_name",
        "characteristics",
        "constraints",
        "lock_timeout",
        "names",
        "row_security",
        "seed",
        "session characteristics",
        "session_replication_role",
        "statement_timeout",
        "synchronous_commit",
        "transaction",
        "xml option",
    }
)

#: What other such settings begin with. A role that may see all rows plans alike whatever
#: `row_security` says, and for PlanWatch's own role it is what keeps other policies out.
_WITHOUT_EFFECT_BY_START = (
    "auto_explain.",
    "client_",
    "debug_",
    "default_transaction_",
    "idle_",
    "log_",
    "pg_stat_statements.",
    "tcp_",
    "transaction_",
)

#: Settings whose value is a list of names.
_LISTS_OF_NAMES = frozenset({"search_path", "temp_tablespaces"})

#: The name of RESET ALL.
EVERYTHING = "all"

#: The name of a change of which not even the setting is known.
SOMETHING = "something"

_HIDES = "relation "
_CALLS = "function "


class Change(NamedTuple):
    """What a statement of the application's changed on its connection.

    `value` is what a setting was set to, None if to its default. `unknown` says why it is not
    known; empty if it is. `returned` tells that the pool has had the connection since.
    """

    name: str
    value: str | None
    local: bool
    unknown: str = ""
    returned: bool = False

    @property
    def is_setting(self) -> bool:
        """Whether a setting changed, or something of which only that is known."""
        return not self.name.startswith((_HIDES, _CALLS))

    @property
    def relation(self) -> str | None:
        """The relation that only this connection sees like this, None for another change."""
        return self.name.removeprefix(_HIDES) if self.name.startswith(_HIDES) else None

    @property
    def function(self) -> str | None:
        """The function that may have changed anything, None for another change."""
        return self.name.removeprefix(_CALLS) if self.name.startswith(_CALLS) else None


class Command(NamedTuple):
    """A command that an application sent for its transaction by itself, or DISCARD ALL."""

    word: str
    savepoint: str | None = None


class _Unreadable(Exception):
    """A text is no more than what PlanWatch reads."""


class _Token(NamedTuple):
    """A piece of a statement; `start` is its place in the text."""

    kind: str
    text: str
    start: int

    @property
    def word(self) -> str:
        """A word in lower case, a sign as it is; empty for what was quoted."""
        return self.text.lower() if self.kind in {"word", "sign"} else ""


_SPACE = re.compile(r"(?:\s++|--[^\r\n]*+)*+")
_COMMENT = re.compile(r"/\*|\*/")
_TOKEN = re.compile(
    r"""(?P<escaped>[eE]'(?:[^'\\]++|\\.|'')*+'?+)
    |(?P<string>'(?:[^']++|'')*+'?+)
    |(?P<quoted>"(?:[^"]++|"")*+"?+)
    |(?P<placeholder>%s|%\(\w++\)s|\$\d++)
    |(?P<dollar>\$(?:[^\W\d]\w*+)?+\$)
    |(?P<word>[^\W\d][\w$]*+)
    |(?P<number>\d++(?:\.\d*+)?+)
    |(?P<sign>::|.)""",
    re.VERBOSE | re.DOTALL,
)
_INTO = re.compile(r"\binto\b")
_INTO_TEMPORARY = re.compile(r"\binto\s++(?:(?:local|global)\s++)?+temp(?:orary)?+\b")
_ANOTHER = re.compile(
    r";\s*+(?:--|/\*|(?:set|reset|discard|do|call|create|alter|drop|truncate|commit|end|rollback"
    r"|abort|savepoint|release|prepare|execute)\b)"
)
_SET_IN_A_BLOCK = re.compile(
    r"\bset_config\b|\b(?:re)?set\s++(?:local|session|role|schema|search_path|all|enable_\w++"
    r"|\w++\.\w)|\btemp(?:orary)?\b|\bexecute\b|\bpg_settings\b|\bu&\"",
    re.IGNORECASE,
)
_DEFINED_IN_A_BLOCK = re.compile(r"\b(?:create|alter|drop)\b", re.IGNORECASE)
#: Strings and comments: a comment in a string is none. What is not closed goes on to the end.
_STRING_OR_COMMENT = re.compile(
    r"""(?P<string>(?<![\w$])e'(?:[^'\\]++|\\.|'')*+'?+|'(?:[^']++|'')*+'?+)
    |(?P<quoted>"(?:[^"]++|"")*+"?+)
    |--[^\r\n]*+
    |/\*(?:[^*]++|\*(?!/))*+(?:\*/)?+""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
#: What only tokens tell apart: strings between dollars, and comments in comments.
_DOLLARS = re.compile(r"\$(?:[^\W\d]\w*+)?+\$")
_NESTED = re.compile(r"/\*(?:[^*/]++|\*(?!/)|/(?!\*))*+/\*")
#: What EXPLAIN ANALYZE runs, besides queries.
_EXPLAINED = re.compile(r"\b(?:execute|create)\b")
#: Words and names before a parenthesis; other quoted names are passed over.
_CALL = re.compile(
    r"""(?<![\w$"])
    (?:(?P<schema>[^\W\d][\w$]*+|"(?:[^"]++|"")*+")\s*+\.\s*+)?+
    (?P<name>[^\W\d][\w$]*+|"(?:[^"]++|"")*+")\s*+\(
    |"(?:[^"]++|"")*+" """,
    re.VERBOSE,
)
#: What is read, but for sub-queries and functions.
_TABLE = re.compile(
    r"""\b(?:from|join|into|update)\s++
    (?!\(|lateral\b|(?:[^\W\d][\w$]*+|"[^"]*+")(?:\s*+\.\s*+(?:[^\W\d][\w$]*+|"[^"]*+"))*+\s*+\()
    ([\w$]*+|"[^"]*+")""",
    re.VERBOSE | re.IGNORECASE,
)
#: Names that a statement gives: those of WITH are no tables.
_GIVEN = re.compile(r"(?<![\w$])([^\W\d][\w$]*+|\"[^\"]*+\")\s++as\b", re.IGNORECASE)
_STRING = re.compile(r"'(?:[^']++|'')*+'")
_PERCENT = re.compile(r"%[%s]")
_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_$]*+")

#: Functions, and words before a parenthesis, that set nothing: those that statements without a
#: table mostly call. PlanWatch asks the server what others are.
_SETS_NOTHING = words(
    "all and any array as avg between by case cast coalesce concat count currval date_part "
    "date_trunc else exists extract gen_random_uuid greatest in interval lastval least length "
    "like lower max md5 min not now nextval nullif numeric on or over random replace round "
    "row select setval some substring sum then to_char trim union upper using values varchar "
    "version when where with clock_timestamp current_database current_schema current_schemas "
    "current_setting inet_client_addr inet_server_addr has_table_privilege json_build_object "
    "jsonb_build_object json_agg jsonb_agg set_config to_regclass to_tsquery to_tsvector "
    "txid_current uuid_generate_v4 analyze cursor except explain filter for intersect from join "
    "lateral limit materialized only offset pg_advisory_lock pg_advisory_unlock "
    "pg_advisory_unlock_all pg_advisory_xact_lock pg_backend_pid pg_cancel_backend "
    "pg_database_size pg_is_in_recovery pg_notify pg_relation_size pg_size_pretty pg_sleep "
    "pg_terminate_backend pg_total_relation_size pg_try_advisory_lock pg_try_advisory_xact_lock "
    "pg_typeof"
)

_ABOUT_RELATIONS = frozenset({"alter", "create", "drop", "truncate"})

#: Of these, a long text is about one relation, which is named at its beginning.
_ABOUT_ONE_RELATION = frozenset({"alter", "create"})

_FIRST_WORDS = words(
    "set reset discard do call create alter drop truncate commit end rollback abort savepoint "
    "release prepare execute"
)

#: What statements begin with that may call a function by itself.
_MAY_CALL = words("select values with explain declare copy (")


def may_change_state(text: str) -> bool:
    """Whether a statement is worth to be read by `changes`."""
    lowered = text.lower()
    word = _first_word(lowered)
    if word in _FIRST_WORDS or "set_config" in lowered:
        return True
    if ";" in lowered and _ANOTHER.search(lowered):
        return True
    if "pg_settings" in lowered and "update" in lowered:
        return True
    if word == "explain" and _EXPLAINED.search(lowered):
        return True
    if word not in _MAY_CALL or not ("(" in lowered or "into" in lowered):
        return False
    plain = _without_comments(text, strings=False)
    if _DOLLARS.search(plain) or _NESTED.search(text) or 'u&"' in lowered:
        return True
    lowered = plain.lower()
    if "into" in lowered and (
        _INTO_TEMPORARY.search(lowered) or (word in {"select", "("} and _INTO.search(lowered))
    ):
        return True
    return bool(_calls(plain))


def changes(text: str, parameters: Any) -> Iterator[Change | Command]:
    """Yield what a statement changes: a Change, or a Command that ends others."""
    is_long = len(text) > MAX_SIZE
    if is_long and _first_word(text).lower() not in _ABOUT_ONE_RELATION:
        # What looks like a change is mostly in a string.
        if may_change_state(_STRING.sub("''", text)):
            yield _unknown("a long statement that may change it")
        return
    try:
        short = len(text) <= _MAX_REMEMBERED
        tokens = list(
            _remembered(text) if short else islice(_tokens(text), _HEAD if is_long else None)
        )
    except _Unreadable:
        yield _unknown("a statement that PlanWatch cannot read")
        return
    statements = [_Statement(text, parameters, one) for one in _divided(tokens)]
    if len(statements) == 1:
        yield from statements[0].changes()
    elif any(next(one.changes(), None) is not None for one in statements):
        yield _unknown("several statements at once")


def _divided(tokens: Iterable[_Token]) -> list[list[_Token]]:
    """Return the tokens of each statement in a text."""
    divided: list[list[_Token]] = [[]]
    for token in tokens:
        if token.word == ";":
            divided.append([])
        else:
            divided[-1].append(token)
    return [one for one in divided if one]


def changes_plans(name: str) -> bool:
    """Whether a setting may change a plan, and is not PlanWatch's own to choose."""
    return name not in _WITHOUT_EFFECT and not name.startswith(_WITHOUT_EFFECT_BY_START)


def functions_in(body: str) -> frozenset[str]:
    """Return the names of the functions that a text may call, but for those that set nothing."""
    return _functions(_without_comments(body, strings=True))


def _calls(plain: str) -> frozenset[str]:
    """Return the functions that a statement which reads no table may be about.

    `plain` has neither strings nor comments.
    """
    if "(" not in plain:
        return frozenset()
    tables = set(map(str.lower, _TABLE.findall(plain)))
    if tables and not tables <= set(map(str.lower, _GIVEN.findall(plain))):
        return frozenset()
    return _functions(plain)


def _functions(plain: str) -> frozenset[str]:
    """Return what is called in a text without comments."""
    found = set()
    for call in _CALL.finditer(plain):
        name, schema = call["name"], call["schema"]
        if name is None:
            continue
        name = name[1:-1].replace('""', '"') if name[0] == '"' else name.lower()
        # A schema of the application's may have a function of the same name.
        if name not in _SETS_NOTHING or (schema and schema.lower() != "pg_catalog"):
            found.add(name)
    return frozenset(found)


def _without_comments(text: str, *, strings: bool) -> str:
    """Return a text with a space for each comment, and empty strings if these are not wanted."""

    def put(match: re.Match[str]) -> str:
        if match["quoted"] or (strings and match["string"]):
            return match[0]
        return "''" if match["string"] else " "

    if "--" in text or "/*" in text or (not strings and "'" in text):
        return _STRING_OR_COMMENT.sub(put, text)
    return text


def _first_word(text: str) -> str:
    try:
        match = _TOKEN.match(text, _start(text))
    except _Unreadable:
        return ""
    return match[0] if match else ""


def _start(text: str, position: int = 0) -> int:
    """Return where a text goes on after white space and comments, which may be nested."""
    while True:
        position = _SPACE.match(text, position).end()  # type: ignore[union-attr]
        if not text.startswith("/*", position):
            return position
        depth = 0
        for mark in _COMMENT.finditer(text, position):
            depth += 1 if mark[0] == "/*" else -1
            if not depth:
                position = mark.end()
                break
        else:
            raise _Unreadable


def _tokens(text: str) -> Iterator[_Token]:
    position = _start(text)
    while match := _TOKEN.match(text, position):
        kind, piece = match.lastgroup or "", match[0]
        end = match.end()
        if kind == "dollar":
            end = text.find(piece, end) + len(piece)
            if end < match.end():
                raise _Unreadable
        elif kind in {"string", "quoted", "escaped"}:
            quote = piece[-1]
            opened = piece[1:] if kind == "escaped" else piece
            if len(opened) < 2 or quote != opened[0]:
                raise _Unreadable
        yield _Token(kind, text[position:end], position)
        position = _start(text, end)


@lru_cache(maxsize=100)
def _remembered(text: str) -> tuple[_Token, ...]:
    return tuple(_tokens(text))


class _Statement:
    """One statement as a list of tokens, which is read from left to right."""

    def __init__(self, text: str, parameters: Any, tokens: list[_Token]) -> None:
        self._text = text
        self._parameters = parameters
        self._tokens = tokens
        self._next = 0
        #: Where each `%s` is, once that is asked.
        self._places: list[int] | None = None

    def changes(self) -> Iterator[Change | Command]:
        word = self._first()
        if word in {"commit", "end"} or (word == "prepare" and self._at("transaction")):
            yield Command("commit")
        elif word == "savepoint":
            yield Command(word, self._name())
        elif word == "release":
            self._skip("savepoint")
            yield Command(word, self._name())
        elif word in {"rollback", "abort"}:
            yield Command("rollback", self._rolled_back_to())
        elif word == "discard":
            if self._skip("all"):
                yield Command("discard")
        elif word in {"set", "reset"}:
            yield from self._set() if word == "set" else self._reset()
        elif word == "do":
            yield from self._block()
        elif word == "execute":
            yield _unknown("EXECUTE, as what was prepared may change it")
        elif word in _ABOUT_RELATIONS:
            yield from self._relation(word)
        elif word != "prepare":
            yield from self._query(word)

    def _first(self) -> str:
        """Take the word that tells what a statement does: of EXPLAIN and DECLARE, the query's."""
        word = self._take()
        if word == "explain":
            if self._skip("("):
                _, self._next = self._arguments(self._next)
            while self._skip("analyze") or self._skip("verbose"):
                pass
            word = self._take()
        elif word == "declare":
            while not self._is_over() and not self._skip("for"):
                self._next += 1
            word = self._take()
        while word == "(":
            word = self._take()
        return word

    def _query(self, word: str) -> Iterator[Change]:
        """Yield what a statement changes by functions, besides its work."""
        words = {token.word for token in self._tokens}
        if words >= {"update", "pg_settings"}:
            yield _unknown("an UPDATE of pg_settings")
        yield from self._into()
        calls = list(self._set_configs())
        yield from calls
        if calls or word not in _MAY_CALL | {"call"}:
            return
        if self._has_escaped_name():
            yield _unknown("a name in Unicode escapes")
        plain = " ".join("''" if one.kind in _STRINGS else one.text for one in self._tokens)
        yield from map(_called, _functions(plain) if word == "call" else _calls(plain))

    def _has_escaped_name(self) -> bool:
        return any(
            one.word == "u"
            and sign.word == "&"
            and name.kind == "quoted"
            and name.start - one.start == 2
            for one, sign, name in zip(
                self._tokens, self._tokens[1:], self._tokens[2:], strict=False
            )
        )

    def _block(self) -> Iterator[Change]:
        """Yield what a DO block may change."""
        words = [token.word for token in self._tokens]
        bodies = [token for token in self._tokens if token.kind in {"string", "dollar"}]
        if len(bodies) != 1 or ("language" in words and "plpgsql" not in words):
            yield _unknown("a DO block that PlanWatch cannot read")
            return
        body = bodies[0].text
        if bodies[0].kind == "string":
            body = _unquoted(bodies[0])
        body = _without_comments(body, strings=True)
        if _SET_IN_A_BLOCK.search(body):
            yield _unknown("a DO block changes it")
            return
        if _DEFINED_IN_A_BLOCK.search(body):
            yield _unknown("a DO block of the same transaction changes it", local=True)
        yield from map(_called, functions_in(body))

    # Reading on

    def _at(self, *words: str) -> bool:
        """Whether these words come next."""
        coming = self._tokens[self._next : self._next + len(words)]
        return [token.word for token in coming] == list(words)

    def _skip(self, *words: str) -> bool:
        """Whether these words come next; then go on after them."""
        found = self._at(*words)
        if found:
            self._next += len(words)
        return found

    def _take(self) -> str:
        """Take the next word; empty at the end."""
        self._next += 1
        return self._tokens[self._next - 1].word if self._next <= len(self._tokens) else ""

    def _is_over(self) -> bool:
        return self._next >= len(self._tokens)

    def _name(self) -> str:
        """Take the last part of a name, as the server spells it; empty if there is none."""
        name = ""
        while not self._is_over():
            token = self._tokens[self._next]
            if token.kind not in {"word", "quoted"}:
                break
            name = _unquoted(token) if token.kind == "quoted" else token.word
            self._next += 1
            if not self._skip("."):
                break
        return name

    # SET and RESET

    def _set(self) -> Iterator[Change]:
        local = self._skip("local")
        if not local and self._at("session") and not self._at("session", "authorization"):
            self._skip("session")
        name = SOMETHING
        try:
            name = self._setting()
            if changes_plans(name):
                yield Change(name, _short(self._setting_value(name)), local)
        except _Unreadable:
            yield _unreadable(name, local=local)

    def _reset(self) -> Iterator[Change]:
        try:
            name = self._setting()
            if not self._is_over():
                raise _Unreadable
        except _Unreadable:
            yield _unknown("a RESET that PlanWatch cannot read")
            return
        if changes_plans(name):
            yield Change(name, None, local=False)

    def _setting(self) -> str:
        """Take the name of a setting; SET has words of its own for some."""
        first = "" if self._is_over() else self._tokens[self._next].word
        if first in _SYNONYMS:
            words, name = _SYNONYMS[first]
            # `SET role = x` is a setting like any other.
            after = self._tokens[self._next + len(words) : self._next + len(words) + 1]
            if self._at(*words) and not (after and after[0].word in {"=", "to", "."}):
                self._next += len(words)
                return name
        parts = []
        while not self._is_over():
            token = self._tokens[self._next]
            if token.kind not in {"word", "quoted"}:
                break
            parts.append(_unquoted(token).lower() if token.kind == "quoted" else token.word)
            self._next += 1
            if not self._skip("."):
                return ".".join(parts)
        raise _Unreadable

    def _setting_value(self, name: str) -> str | None:
        """Take the value of a setting, None for its default; raises _Unreadable."""
        if not (self._skip("to") or self._skip("=") or name in _NAMED_BY_WORDS):
            raise _Unreadable
        rest = self._tokens[self._next :]
        defaults = {"default", "local"} if name == "timezone" else {"default"}
        if len(rest) == 1 and rest[0].word in defaults:
            return None
        items = [self._item()]
        while self._skip(","):
            items.append(self._item())
        if not self._is_over():
            raise _Unreadable
        if name in _LISTS_OF_NAMES:
            items = list(map(_quoted, items))
        elif len(items) > 1 and name not in {"datestyle"}:
            raise _Unreadable
        return ", ".join(items)

    def _item(self) -> str:
        """Take one value of a list: a word, a name, a string, a number or a parameter."""
        sign = "-" if self._skip("-") else ""
        if self._is_over():
            raise _Unreadable
        token = self._tokens[self._next]
        self._next += 1
        if sign and token.kind != "number":
            raise _Unreadable
        if token.kind == "word":
            if not token.text.isascii():
                raise _Unreadable
            return token.word
        value = self._value(token)
        if value is None:
            raise _Unreadable
        return sign + value

    def _value(self, token: _Token) -> str | None:
        """Return what a token stands for, None for NULL; raises _Unreadable."""
        if token.kind in {"string", "quoted"}:
            value = _unquoted(token)
            # A driver that looks for placeholders may change what is in a string, too.
            if "\\" in value or ("%" in value and self._parameters is not None):
                raise _Unreadable
            return value
        if token.kind == "number":
            return token.text
        if token.kind == "placeholder":
            return _written(self._parameter(token))
        if token.word in {"true", "false"}:
            return token.word
        if token.word == "null":
            return None
        raise _Unreadable

    def _parameter(self, token: _Token) -> Any:
        text = token.text
        try:
            if text.startswith("%("):
                return self._parameters[text[2:-2]]
            if text.startswith("$"):
                return self._parameters[int(text[1:]) - 1]
            if self._places is None:
                self._places = [
                    mark.start() for mark in _PERCENT.finditer(self._text) if mark[0] == "%s"
                ]
            return self._parameters[bisect_left(self._places, token.start)]
        except (LookupError, TypeError, ValueError) as error:
            raise _Unreadable from error

    # set_config

    def _set_configs(self) -> Iterator[Change]:
        """Yield what `set_config` changes, also where it is not all that a statement does."""
        calls: list[list[list[_Token]]] = []
        position = 1
        alone = self._tokens[0].word == "select"
        while (found := self._find_call(position)) is not None:
            between = [token.word for token in self._tokens[position:found]]
            arguments, position = self._arguments(found + 2)
            alone = alone and self._are_between(between, first=not calls)
            calls.append(arguments)
        alone = alone and self._is_alias([token.word for token in self._tokens[position:]])
        for arguments in calls:
            yield from self._set_config(arguments, alone=alone)

    def _find_call(self, position: int) -> int | None:
        for place in range(position, len(self._tokens) - 1):
            name = self._tokens[place]
            is_it = name.word == "set_config" or name.text == '"set_config"'
            if is_it and self._tokens[place + 1].word == "(":
                return place
        return None

    def _are_between(self, words: list[str], *, first: bool) -> bool:
        """Whether there is nothing between two calls but the alias of the first, and a comma."""
        if words[-2:] == ["pg_catalog", "."]:
            words = words[:-2]
        if first:
            return not words
        return words[-1:] == [","] and self._is_alias(words[:-1])

    @staticmethod
    def _is_alias(words: list[str]) -> bool:
        if words[:1] == ["as"]:
            return len(words) == 2
        # A quoted one has no word.
        return len(words) <= 1 and words[:1] not in (["from"], ["where"], [","], [")"])

    def _arguments(self, position: int) -> tuple[list[list[_Token]], int]:
        """Return the arguments of a call, and where it ends."""
        arguments: list[list[_Token]] = [[]]
        depth = 0
        for place in range(position, len(self._tokens)):
            token = self._tokens[place]
            if token.word == ")" and not depth:
                return arguments, place + 1
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token.word, 0)
            if token.word == "," and not depth:
                arguments.append([])
            else:
                arguments[-1].append(token)
        return arguments, len(self._tokens)

    def _set_config(self, arguments: list[list[_Token]], *, alone: bool) -> Iterator[Change]:
        name, local = SOMETHING, False
        try:
            nested = any(token.word == "set_config" for one in arguments for token in one)
            if len(arguments) != 3 or nested:
                raise _Unreadable
            name = (self._constant(arguments[0]) or SOMETHING).lower()
            scope = self._constant(arguments[2])
            if not changes_plans(name):
                return
            if scope is None or name == SOMETHING:
                raise _Unreadable
            local = scope.strip().lower() in {"true", "t", "on", "yes", "y", "1"}
            value = _short(self._constant(arguments[1]))
        except _Unreadable:
            if changes_plans(name):
                yield _unreadable(name, local=local)
            return
        why = "" if alone else f"a statement sets {name} and does something else"
        yield Change(name, value, local, why)

    def _constant(self, tokens: Sequence[_Token]) -> str | None:
        """Return the value of an argument that is a constant, in brackets or casts at most."""
        left, right = 0, len(tokens)
        words = [token.word for token in tokens]
        # Each turn takes off two tokens at least.
        while right - left > 1:
            if words[left] == "(" and words[right - 1] == ")":
                left, right = left + 1, right - 1
                continue
            if words[left : left + 2] == ["cast", "("] and words[right - 1] == ")":
                right -= 1
                mark, left = "as", left + 2
            else:
                mark = "::"
            size = next((n for n in (2, 3) if right - n > left and words[right - n] == mark), 0)
            if not size or " ".join(words[right - size + 1 : right]) not in _TYPES:
                raise _Unreadable
            right -= size
        if right <= left or tokens[left].kind == "quoted":
            raise _Unreadable
        return self._value(tokens[left])

    # Relations

    def _relation(self, word: str) -> Iterator[Change]:
        """Yield the relation of which the application sees another state than PlanWatch."""
        temporary = False
        while not self._is_over() and (
            self._tokens[self._next].word in _BEFORE_A_RELATION
            or self._at("temp")
            or self._at("temporary")
        ):
            temporary |= self._take() in {"temp", "temporary"}
        kind = self._take()
        if kind == "schema" or (word == "drop" and kind in {"index", "owned"}):
            yield _unknown(f"the same transaction did {word.upper()} {kind.upper()}", local=True)
            return
        if word == "drop" and self._tokens[-1].word == "cascade":
            yield _unknown("the same transaction did DROP … CASCADE", local=True)
        if word == "truncate" and kind != "table":
            self._next -= 1
        elif kind == "index" and word == "create":
            while not self._is_over() and not self._skip("on"):
                self._next += 1
        elif kind not in {"table", "view"}:
            return
        yield from self._named_relations(word, temporary=temporary)

    def _named_relations(self, word: str, *, temporary: bool) -> Iterator[Change]:
        """Yield the relations that come next: DROP and TRUNCATE have a list of them."""
        for words in (("if", "not", "exists"), ("if", "exists"), ("only",)):
            self._skip(*words)
        temporary |= not self._is_over() and self._tokens[self._next].word.startswith("pg_temp")
        if name := self._name():
            drops = "on commit drop" in " ".join(token.word for token in self._tokens)
            yield _hidden(name, local=not temporary or drops)
        if word == "alter" and self._skip("rename", "to"):
            yield _hidden(self._name(), local=not temporary)
        while word in {"drop", "truncate"} and not self._is_over():
            if self._skip(","):
                self._skip("only")
                yield _hidden(self._name(), local=True)
            else:
                self._next += 1

    def _into(self) -> Iterator[Change]:
        """Yield the table that SELECT … INTO makes."""
        words = [token.word for token in self._tokens]
        for place, word in enumerate(words):
            if word == "into" and words[place - 1] not in {"insert", "merge"}:
                self._next = place + 1
                temporary = False
                while self._at("unlogged") or any(map(self._at, _TEMPORARY)):
                    temporary |= self._take() in {"temp", "temporary"}
                self._skip("table")
                yield _hidden(self._name(), local=not temporary)

    def _rolled_back_to(self) -> str | None:
        while not self._is_over():
            if self._skip("to"):
                self._skip("savepoint")
                return self._name()
            self._next += 1
        return None


#: What SET has words of its own for.
_SYNONYMS = {
    "session": (("session", "authorization"), "session_authorization"),
    "time": (("time", "zone"), "timezone"),
    "role": (("role",), "role"),
    "schema": (("schema",), "search_path"),
    "xml": (("xml", "option"), "xml option"),
    "transaction": (("transaction",), "transaction"),
    "characteristics": (("characteristics",), "characteristics"),
    "constraints": (("constraints",), "constraints"),
    "names": (("names",), "names"),
}
_NAMED_BY_WORDS = frozenset(name for _, name in _SYNONYMS.values())

#: Types that leave the text of a value as it is.
_TYPES = frozenset({"text", "varchar", "character varying", "boolean", "bool"})

_TEMPORARY = ("local", "global", "temp", "temporary")

_STRINGS = frozenset({"string", "escaped", "dollar"})

_BEFORE_A_RELATION = words("or replace global local unlogged recursive materialized foreign unique")


def _unquoted(token: _Token) -> str:
    quote = token.text[0]
    return token.text[1:-1].replace(quote * 2, quote)


def _quoted(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else '"' + name.replace('"', '""') + '"'


def _written(value: Any) -> str | None:
    """Return a parameter as it stands in a setting; raises _Unreadable if that is not sure."""
    if value is None or (type(value) is str and "\0" not in value):
        return value
    if type(value) is bool:
        return str(value).lower()
    if type(value) is int:
        return str(value)
    raise _Unreadable


def _short(value: str | None) -> str | None:
    if value is not None and len(value) > MAX_VALUE:
        raise _Unreadable
    return value


def _hidden(name: str, *, local: bool) -> Change:
    return Change(f"{_HIDES}{name}", name, local)


def _called(name: str) -> Change:
    return Change(f"{_CALLS}{name}", name, local=False)


def _unreadable(name: str, *, local: bool) -> Change:
    why = f"{name} is set by what PlanWatch cannot read"
    return Change(name, None, local and name != SOMETHING, why)


def _unknown(why: str, *, local: bool = False) -> Change:
    return Change(SOMETHING, None, local, unknown=why)
