"""Which entries of PLANWATCH_IGNORE can match nothing.

The server is asked for that, on PlanWatch's thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from ..failure import ServerError
from ..plan.pattern import split_subject
from ..plan.scrub import UNREADABLE
from ..plan.wording import Template, say
from ..server.description import known_names, known_tables, printed, tables_with
from ..server.errors import SYNTAX_ERROR
from ..server.session import Session
from ..settings import Settings, comparable, is_in_parentheses, name_parts

_PLAIN_NAME = r"[^\W\d][\w$]*"
_QUOTED_NAME = r'"(?:[^"]|"")+"'
_LITERAL = r"'(?:[^']|'')*'"

#: A table, index or column, with or without its schema.
_NAME = re.compile(rf"(?:{_QUOTED_NAME}|{_PLAIN_NAME})(?:\.(?:{_QUOTED_NAME}|{_PLAIN_NAME}))?")

#: What is in quotes, which may have any sign in it.
_IN_QUOTES = re.compile(rf"{_LITERAL}|{_QUOTED_NAME}")
_LITERALS = re.compile(rf"({_QUOTED_NAME})|{_LITERAL}")

#: What an expression has in a finding, but not for the server: a value that is masked, a sub-query,
#: one side of a comparison with an array, and a whole row without its alias.
_NOT_SQL = re.compile(r"\?|\b(?:Sub|Init)Plan \d|\b(?:ANY|ALL) \(|[(, ]\*[),]")

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
_COMPARED = re.compile(r"\A\((?P<operand>.*) \S+ ''::[^']+\)", re.DOTALL)

#: Rules whose findings are about a statement, and name only its table.
_OF_TABLES = frozenset({"cost-mismatch", "statement-failed"})

#: What each rule's findings may name beside a table. Of another rule nothing is known.
_NAMED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((*_OF_TABLES, "repeated-subplan", "row-misestimate"), ()),
    **dict.fromkeys((*_OF_EXPRESSIONS, "generic-plan"), ("column",)),
    "bitmap-overread": ("index",),
    "index-only-blocked": ("column", "index"),
}

#: What findings may be about that has no name in the database.
_SUBJECTS = frozenset(map(comparable, ("statement", "elapsed time", "generic-plan", UNREADABLE)))

#: Why an entry matches nothing.
_UNCLEAR = "it is neither a name nor an expression. There are no wildcards."
_NO_COLUMN = "no watched database has a column of that name."
_NO_TABLE = (
    "names with a dot are those of a schema and its table, and no watched database has these."
)
_NO_NAME = "no watched database has a table, index or column of that name."
_OTHER_KIND = Template("{rule} has findings on {named:or_an}, not on {given:or_an}.")
_PRINTED = "PostgreSQL prints this as {forms:or}."

_IS_IDLE = "PLANWATCH_IGNORE has {entry}, which matches nothing: {why}"

#: A star after a name. The operator `~*` ends with one, too.
_WILDCARD = re.compile(r'[\w".]\*$')


def idle_ignores(settings: Settings, sessions: Iterable[Session]) -> list[str]:
    """Return which entries of PLANWATCH_IGNORE certainly match nothing, and why.

    Empty if a database does not answer, or if none is watched yet: one may have what is named.
    """
    named = {entry: names for entry in settings.ignore if (names := _names(entry)) is not None}
    sessions = list(sessions)
    if not named or not sessions:
        return []
    known: dict[str, set[str]] = {}
    tables: set[tuple[str, ...]] = set()
    problems = []
    try:
        subjects = {entry: entry.partition(":")[2] for entry in named}
        paths = {entry: set(_paths(subject)) for entry, subject in subjects.items()}
        asked = {name for names in named.values() for name in names}
        asked_tables = {path[-1] for found in paths.values() for path in found}
        for session in sessions:
            for name, kind in known_names(session, asked | set(subjects.values())):
                known.setdefault(name, set()).add(kind)
            if asked_tables:
                tables |= known_tables(session, asked_tables)
        for entry, names in named.items():
            rule, _, subject = entry.partition(":")
            # A name may have any sign in it, and stand there without its quotes.
            whole = {subject} if _is_dotted(subject) else {subject, *_parts(subject)}
            kinds = {kind for name in whole for kind in known.get(name, ())}
            may_be = ("table", *_NAMED[rule])
            if not kinds.isdisjoint(may_be) or not paths[entry].isdisjoint(tables):
                continue
            if kinds:
                why = say(_OTHER_KIND, rule=rule, named=may_be, given=sorted(kinds))
            elif not names:
                why = _UNCLEAR
            elif known.keys().isdisjoint(names):
                why = _NO_NAME
            elif "view" in known.get(_parts(subject)[-1] if _is_dotted(subject) else "", ()):
                why = say(_OTHER_KIND, rule=rule, named=may_be, given=["view"])
            elif _is_dotted(subject):
                why = _NO_TABLE
            else:
                why = _why_no_expression(entry, names, sessions)
            if why:
                problems.append(say(_IS_IDLE, entry=repr(entry), why=why))
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
    before, expressions, separator, after = _taken_apart(rule, subject)
    if not expressions:
        return ""
    # How a literal is printed may depend on the application's settings, as that of a date does.
    wanted = [comparable(_without_literals(expression)) for expression in expressions]
    is_sql = not _NOT_SQL.search(_IN_QUOTES.sub("", ", ".join(expressions)))
    operator = next(iter(after.split()), "")
    is_text = operator in _OF_TEXT
    queries = [f"({text}) {operator} ''" if is_text else text for text in expressions]
    found: set[str] = set()
    has_column = False
    for session in sessions:
        tables = tables_with(session, names)
        if tables is None:
            return ""
        has_column |= bool(tables)
        if not is_sql:
            continue
        try:
            forms = printed(session, queries, tables)
        except ServerError as error:
            if error.sqlstate != SYNTAX_ERROR:
                raise
            return _UNCLEAR
        for texts in forms:
            operands = [_bare(_operand(text) if is_text else text) for text in texts]
            if "" in operands:
                return ""
            if wanted == [comparable(_without_literals(operand)) for operand in operands]:
                return ""
            found.add(f"{before}{separator.join(operands)}{after}")
    if not has_column:
        return _NO_COLUMN
    return say(_PRINTED, forms=sorted(found)) if found else ""


def _taken_apart(rule: str, subject: str) -> tuple[str, list[str], str, str]:
    """Return the expressions of a rule's subject, with what is before, between and after them."""
    if rule == "pattern-match":
        before, operand, after = split_subject(subject) or ("", "", "")
        return before, [operand] if operand else [], "", after
    separator = " and " if rule == "index-only-blocked" else ","
    expressions = [part.strip() for part in _split(subject, separator)]
    return "", expressions, ", " if separator == "," else separator, ""


def _operand(text: str) -> str:
    """Return what is compared in a comparison that was made to see this, nothing if unknown."""
    compared = _COMPARED.fullmatch(text)
    return compared["operand"] if compared else ""


def _bare(expression: str) -> str:
    """Return an expression without the parentheses around the whole, which no finding has."""
    while is_in_parentheses(expression):
        expression = expression[1:-1]
    return expression


def _without_literals(expression: str) -> str:
    return _LITERALS.sub(lambda found: found[1] or "''", expression)


def _split(text: str, separator: str) -> Iterator[str]:
    """Yield the parts of a text between separators that are in no quotes or parentheses."""
    depth = start = 0
    for found in re.finditer(rf"{_IN_QUOTES.pattern}|[(\[]|[)\]]|{separator}", text):
        depth += (found[0] in "([") - (found[0] in ")]")
        if found[0] == separator and not depth:
            yield text[start : found.start()]
            start = found.end()
    yield text[start:]


def _names(entry: str) -> set[str] | None:
    """Return names of which the database must have one for the entry to match; None if unknown."""
    rule, _, of_what = entry.partition(":")
    if rule not in _NAMED or not of_what or comparable(of_what) in _SUBJECTS:
        return None
    if _is_dotted(of_what):
        return {_parts(of_what)[-1]}
    if _WILDCARD.search(of_what):
        return set()
    if rule in _OF_TABLES:
        return {*(_parts(of_what) or [of_what])}
    if rule not in _OF_EXPRESSIONS:
        return _names_of_step(of_what)
    words = _NAME.findall(_LITERALS.sub(lambda found: found[1] or "", of_what))
    return {part for word in words for part in name_parts(word)}


def _names_of_step(title: str) -> set[str] | None:
    """Return the same for a name, or for a step of a plan as it is in a finding."""
    step, _, table = title.rpartition(" on ")
    is_step = title[:1].isupper()
    if _NAME.fullmatch(table) and (is_step if step else not is_step):
        return set(name_parts(table))
    # Without a letter it is nothing that a finding may be about.
    return None if any(map(str.isalnum, title)) else set()


def _paths(of_what: str) -> Iterator[tuple[str, ...]]:
    """Yield what schema and table an entry may name, in quotes or not."""
    yield tuple(name_parts(of_what))
    for dot in re.finditer(r"\.", of_what):
        yield of_what[: dot.start()], of_what[dot.end() :]


def _is_dotted(of_what: str) -> bool:
    """Whether an entry is nothing but several names with dots between them."""
    return len(_parts(of_what)) > 1


def _parts(of_what: str) -> list[str]:
    """Return the names of an entry that is nothing but names with dots between them."""
    one = rf"(?:{_QUOTED_NAME}|{_PLAIN_NAME})"
    return name_parts(of_what) if re.fullmatch(rf"{one}(?:\.{one})*", of_what) else []
