"""Statements as people run them in psql."""

from __future__ import annotations

import hashlib
import re
from textwrap import dedent
from typing import NamedTuple

from ..capture.written import MAX_WRITTEN
from ..inspection.detail import Preparable
from ..plan.wording import say

#: Characters of one statement that are shown: a bulk insert has millions.
MAX_TEXT_SHOWN = MAX_WRITTEN

#: Why a statement cannot be copied without its values although it was inspected, and if it was not.
NOT_KNOWN = "the types of its parameters are not known"
NOT_YET = "it is not inspected yet"
NOT_INSPECTED = "it was not inspected"

#: Why a statement cannot be copied at all.
NOT_VISIBLE = "only the application's own session sees what it names"

_CUT = "{text}… ({cut:,} more characters)"


class Sql(NamedTuple):
    """A statement as it is shown. If psql does not take it, `refusal` says why."""

    text: str
    refusal: str = ""


def sql_of(
    complete: str,
    form: Preparable | None,
    text: str,
    *,
    settings: tuple[str, ...] = (),
    why_no_form: str = NOT_KNOWN,
) -> Sql:
    """Return a statement with its values, else without them, else as a text to be read only.

    `complete` has the values, and is empty if they are not known. `form` is the statement without
    them, None if that is not known, and `why_no_form` says why then. `text` is the statement with
    its literals masked, `settings` what psql has to run before `complete`.
    """
    if 0 < len(complete) <= MAX_TEXT_SHOWN:
        return Sql("\n".join([*settings, runnable(complete)]))
    if form is None or form.refusal:
        return Sql(lay_out(text), why_no_form if form is None else form.refusal)
    return Sql("\n".join([*form.settings, prepared(form)]))


def runnable(statement: str) -> str:
    """Return a complete statement as it is run in psql.

    White space is changed only where no quotes or comments may be broken by it.
    """
    text = statement.strip()
    return _ended(lay_out(text) if _is_plain(text) else text)


def prepared(form: Preparable) -> str:
    """Return a statement without values as PREPARE; as it is if it has no parameters."""
    sql = runnable(form.text)
    if not form.types:
        return sql
    given = ", ".join(
        f"'{{{name}, ...}}'" if number in form.arrays else name
        for number, name in enumerate(form.names, start=1)
    )
    name = _name(sql)
    return "\n".join(
        [
            _DEALLOCATED.format(name=name),
            f"PREPARE {name} ({', '.join(form.types)}) AS",
            sql,
            f"-- EXECUTE {name} ({given});",
        ]
    )


#: Lets a statement be pasted again in a session that has it: DEALLOCATE has no IF EXISTS.
_DEALLOCATED = (
    "DO $$ BEGIN DEALLOCATE {name}; EXCEPTION WHEN invalid_sql_statement_name THEN END $$;"
)


def _name(sql: str) -> str:
    """Return a name that hardly another statement of the same session has."""
    return f"planwatch_{hashlib.sha256(sql.encode()).hexdigest()[:6]}"


def _ended(statement: str) -> str:
    """Return a statement with its semicolon, which must not become part of a comment."""
    bare = statement.rstrip()
    if bare.endswith(";"):
        return bare
    return f"{bare}\n;" if "--" in bare.rpartition("\n")[2] else f"{bare};"


def _is_plain(text: str) -> bool:
    """Whether nothing in a text but single quotes can hold what looks like a clause."""
    return _NOT_PLAIN.search(text) is None


#: Lines, comments, dollar quotes and escapes.
_NOT_PLAIN = re.compile(r"\n|--|/\*|\\|\$(?!\d)")

_PIECES = re.compile(
    r"""(?P<quoted> "[^"]*" | '[^']*' )
    |   (?P<open> \( \s*+ (?P<query> (?:SELECT|WITH)\b )? )
    |   (?P<close> \) )
    |   (?<!\s) \s++ (?P<clause>
            (?<!DISTINCT\ ) (?<!DELETE\ ) FROM
          | (?: (?:LEFT|RIGHT|FULL|CROSS|INNER) \s (?:OUTER\ )? )? JOIN
          | WHERE | GROUP\ BY | HAVING | WINDOW | ORDER\ BY | LIMIT | OFFSET | FOR\ UPDATE
          | UNION | INTERSECT | EXCEPT | SET | VALUES | ON\ CONFLICT | RETURNING
        ) \b""",
    re.IGNORECASE | re.VERBOSE,
)


def lay_out(text: str) -> str:
    """Return a statement with each clause on a line of its own.

    A text that has lines already keeps them.
    """
    if len(text) > MAX_TEXT_SHOWN:
        text = say(_CUT, text=text[:MAX_TEXT_SHOWN], cut=len(text) - MAX_TEXT_SHOWN)
    if "\n" in text.strip():
        return dedent(text).strip()
    queries = [True]

    def piece(match: re.Match[str]) -> str:
        if match["open"]:
            queries.append(match["query"] is not None)
        elif match["close"] and len(queries) > 1:
            queries.pop()
        elif match["clause"] and queries[-1]:
            # Only a query has clauses: EXTRACT(year FROM …) stays on its line.
            return "\n" + "  " * (queries.count(True) - 1) + match["clause"]
        return match[0]

    return _PIECES.sub(piece, text)
