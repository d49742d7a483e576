"""Which entries of PLANWATCH_IGNORE can match nothing.

The server is asked for that, on PlanWatch's thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sqlglot.tokens import TokenType

from ..failure import ServerError
from ..plan.pattern import split_subject
from ..plan.predicate import tokenize
from ..server.description import known_names, known_tables, printed, tables_with
from ..server.errors import SYNTAX_ERROR
from ..server.session import Session
from ..settings import PREFIX, Settings, comparable, name_parts

#: A table, index or column, with or without its schema.
_NAME = re.compile(r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)(?:\.(?:"(?:[^"]|"")+"|[^\W\d][\w$]*))?')

#: Rules whose findings are about expressions and columns, so that each names a column.
_OF_EXPRESSIONS = frozenset(
    {
        "functional-predicate",
        "implicit-cast",
        "index-only-blocked",
        "limit-trap",
        "missing-index",
        "pattern-match",
    }
)

#: Operators of text, whose operand PostgreSQL casts; and such a comparison, as it prints it.
_OF_TEXT = frozenset({"LIKE", "ILIKE", "~", "~*", "^@"})
_COMPARED_WITH = " ''::text)"

#: What findings may be about that has no name in the database.
_SUBJECTS = frozenset({"statement"})

#: Why an entry matches nothing.
_UNREADABLE = "it is neither a name nor an expression. There are no wildcards."
_NO_COLUMN = "no watched database has a column of that name."
_NO_TABLE = (
    "names with a dot are those of a schema and its table, and no watched database has these."
)
_NO_NAME = "no watched database has a table, index or column of that name."

#: A star after a name. The operator `~*` ends with one, too.
_WILDCARD = re.compile(r'[\w".]\*$')

_LITERAL = re.compile(r"'(?:[^']|'')*'")


def idle_ignores(settings: Settings, sessions: Iterable[Session]) -> list[str]:
    """Return which entries of PLANWATCH_IGNORE name nothing that a database has.

    Empty if a database does not answer, or if none is watched yet: one may have what is named.
    """
    named = {entry: names for entry in settings.ignore if (names := _names(entry)) is not None}
    sessions = list(sessions)
    if not named or not sessions:
        return []
    known: set[str] = set()
    tables: set[tuple[str, ...]] = set()
    problems = []
    try:
        asked = {name for names in named.values() for name in names}
        paths = {entry: path for entry in named if (path := _path(entry))}
        for session in sessions:
            known |= known_names(session, asked)
            if paths:
                tables |= known_tables(session, {path[-1] for path in paths.values()})
        for entry, names in named.items():
            if not names:
                why = _UNREADABLE
            elif entry in paths and known & {paths[entry][-1]} and paths[entry] not in tables:
                # The name of a table may have a dot in it.
                why = "" if entry.partition(":")[2] in known else _NO_TABLE
            elif known.isdisjoint(names):
                why = _NO_NAME
            else:
                why = _why_no_expression(entry, names, sessions)
            if why:
                problems.append(f"{PREFIX}IGNORE has {entry!r}, which matches nothing: {why}")
    except ServerError:
        return []
    return problems


def _why_no_expression(entry: str, names: set[str], sessions: Sequence[Session]) -> str:
    """Return why an entry with an expression matches nothing, nothing if it may match.

    PostgreSQL prints an expression in its own way, and findings have that.
    """
    rule, _, subject = entry.partition(":")
    if rule not in _OF_EXPRESSIONS or _NAME.fullmatch(subject):
        return ""
    form, expressions = _taken_apart(rule, subject)
    if not expressions:
        return ""
    found: set[str] = set()
    has_column = False
    for session in sessions:
        tables = tables_with(session, names)
        if tables is None:
            return ""
        has_column |= bool(tables)
        try:
            forms = printed(session, expressions, tables)
        except ServerError as error:
            if error.sqlstate != SYNTAX_ERROR:
                raise
            return _UNREADABLE
        found |= {form.format(*map(_operand, texts)) for texts in forms}
    if not has_column:
        return _NO_COLUMN
    if not found or any(comparable(text) == comparable(subject) for text in found):
        return ""
    return f"PostgreSQL prints this as {' or '.join(sorted(found))}."


def _taken_apart(rule: str, subject: str) -> tuple[str, list[str]]:
    """Return the form of a rule's subject, with a place for each expression, and these."""
    if rule == "index-only-blocked":
        expressions = subject.split(" and ")
        return " and ".join("{}" for _ in expressions), expressions
    if rule != "pattern-match":
        expressions = _listed(subject)
        return ", ".join("{}" for _ in expressions), expressions
    parts = split_subject(subject)
    if parts is None:
        return "", []
    before, operand, after = parts
    operator = after.split()[0]
    return f"{before}{{}}{after}", [f"{operand} {operator} ''" if operator in _OF_TEXT else operand]


def _operand(text: str) -> str:
    """Return what is compared, if a text is a comparison that was made to see how it is printed."""
    if not text.endswith(_COMPARED_WITH):
        return text
    return text.removeprefix("(").removesuffix(_COMPARED_WITH).rpartition(" ")[0]


def _listed(text: str) -> list[str]:
    """Return the expressions of a list."""
    pieces, depth, start = [], 0, 0
    for token in tokenize(text).tokens:
        if token.token_type in (TokenType.L_PAREN, TokenType.L_BRACKET):
            depth += 1
        elif token.token_type in (TokenType.R_PAREN, TokenType.R_BRACKET):
            depth -= 1
        elif token.token_type is TokenType.COMMA and not depth:
            pieces.append(text[start : token.start])
            start = token.end + 1
    return [piece.strip() for piece in (*pieces, text[start:])]


def _names(entry: str) -> set[str] | None:
    """Return names of which the database must have one for the entry to match; None if unknown."""
    rule, _, of_what = entry.partition(":")
    if not of_what or of_what in _SUBJECTS:
        return None
    if path := _path(entry):
        return {path[-1], of_what}
    if _WILDCARD.search(of_what):
        return set()
    if _NAME.fullmatch(of_what):
        return set(name_parts(of_what)[-1:])
    if rule not in _OF_EXPRESSIONS:
        step, _, table = of_what.rpartition(" on ")
        if step[:1].isupper() and _NAME.fullmatch(table):
            return set(name_parts(table))
        # Without a letter it is nothing that a finding may be about.
        return None if any(map(str.isalnum, of_what)) else set()
    words = _NAME.findall(_LITERAL.sub("", of_what))
    return {part for word in words for part in name_parts(word)}


def _path(entry: str) -> tuple[str, ...]:
    """Return the names of an entry that is nothing but several with dots between them."""
    of_what = entry.partition(":")[2]
    names, place = [], 0
    while one := _NAME.match(of_what, place):
        names += name_parts(one[0])
        place = one.end() + 1
        if of_what[one.end() : place] != ".":
            break
    return tuple(names) if len(names) > 1 and place == len(of_what) + 1 else ()
