"""Statements as people run them in psql."""

from __future__ import annotations

import re
from itertools import count
from textwrap import dedent

#: Characters of one statement that are shown: a bulk insert has millions.
MAX_TEXT_SHOWN = 10_000

#: What a driver or PlanWatch has put into a statement in place of a value, with what is in quotes
#: beside it. A list that goes on, and a mark of SQLAlchemy, stand for several.
_VALUES = re.compile(
    r"""(?P<kept> '(?:[^']|'')*' | "(?:[^"]|"")*" | %% )
    |   (?P<typed> \b(?:interval|date|time|timestamp|timestamptz|uuid|bytea|inet) \s )? (?:
            %\((?P<name>[^)]+)\)s | (?P<driver>%s) | \$(?P<number>\d+)\b
          | \((?P<list>\.\.\.)\) | __\[POSTCOMPILE_(?P<mark>\w+)(?:~~.*?~~)?\]
          | (?P<masked>\?)(?![|&?])
        )
    |   (?P<more> ,\s?\.\.\.\s? | \s(?:OR|AND|UNION|UNION\ ALL|WHEN)\s\.\.\.\s? )""",
    re.IGNORECASE | re.VERBOSE,
)

#: What a `?` follows that compares: there it is an operator of jsonb.
_OPERAND = re.compile(r"""[\w)\]"']\s*\Z""")
_KEYWORD = re.compile(
    r"\b(?:and|or|not|in|like|ilike|select|where|when|then|else|limit|offset|between|by|on|set|"
    r"values|having|from|for|to|is|as|returning|distinct|all|any|zone|similar|escape)\s*\Z",
    re.IGNORECASE,
)

#: Characters before a `?` that tell what it is.
_NEAR = 40

#: What PREPARE takes.
_PREPARABLE = re.compile(
    r"\A\s*+(?:\(\s*+)*+(?:SELECT|INSERT|UPDATE|DELETE|MERGE|VALUES|WITH)\b", re.IGNORECASE
)


def runnable(statement: str) -> str:
    """Return a complete statement as it is run in psql.

    White space is changed only where no quotes or comments may be broken by it.
    """
    text = statement.strip()
    return _ended(lay_out(text) if _is_plain(text) else text)


def prepared(text: str) -> str:
    """Return a statement without values as PREPARE, with `$1` for each; as it is if that fails.

    `text` has the placeholders of a driver, or `?` and `...` for what PlanWatch has masked.
    """
    names: dict[str, int] = {}
    fresh = count(max((int(one) for one in re.findall(r"\$(\d+)", text)), default=0) + 1)

    operators: set[int] = set()
    values: set[int] = set()

    def is_operator(start: int) -> bool:
        before = text[max(0, start - _NEAR) : start]
        end = start - len(before) + len(before.rstrip())
        if end in operators or end in values:
            return end in values
        return bool(_OPERAND.search(before)) and not _KEYWORD.search(before)

    def number(match: re.Match[str]) -> str:
        if match["kept"]:
            return "%" if match["kept"] == "%%" else match["kept"]
        if match["more"]:
            return ""
        if match["masked"] and is_operator(match.start()):
            operators.add(match.end())
            return match[0]
        values.add(match.end())
        name = match["name"] or match["mark"] or match["number"]
        if match["number"]:
            place = names.setdefault(f"value_{name}", int(name))
        elif name:
            place = names[name] if name in names else names.setdefault(name, next(fresh))
        else:
            place = next(fresh)
            names[f"value_{place}"] = place
        value = f"${place}::{match['typed'].strip()}" if match["typed"] else f"${place}"
        return f"({value})" if match["list"] else value

    numbered = _VALUES.sub(number, text)
    laid_out = lay_out(numbered)
    if not _PREPARABLE.match(text) or "..." in numbered or len(numbered) > MAX_TEXT_SHOWN:
        return lay_out(text)
    if not names:
        return _ended(laid_out)
    given = ", ".join(sorted(names, key=lambda name: names[name]))
    return f"PREPARE planwatch AS\n{_ended(laid_out)}\n-- EXECUTE planwatch ({given});"


def _ended(statement: str) -> str:
    """Return a statement with its semicolon, which must not become part of a comment."""
    bare = statement.rstrip()
    if bare.endswith(";"):
        return bare
    return f"{bare}\n;" if "--" in bare.rpartition("\n")[2] else f"{bare};"


def _is_plain(text: str) -> bool:
    """Whether nothing in a text but single quotes can hold what looks like a clause."""
    return not any(one in text for one in ("\n", "--", "$", "/*", "\\"))


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
        text = f"{text[:MAX_TEXT_SHOWN]}… ({len(text) - MAX_TEXT_SHOWN:,} more characters)"
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
