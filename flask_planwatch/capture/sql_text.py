"""A statement's text without its comments and strings, and the names in it."""

from __future__ import annotations

import re

#: A name in quotes. None begins inside of doubled quotes: to search from each of them would take
#: quadratic time.
QUOTED_NAME = r'(?<!")"(?:[^"]++|"")++"'

#: A name, and one with the schema before it.
NAME = rf"(?:[^\W\d][\w$]*+|{QUOTED_NAME})"
DOTTED_NAME = rf"{NAME}(?:\s*+\.\s*+{NAME})*+"

#: A comment that has no other one in it.
COMMENT = r"--[^\r\n]*+|/\*(?:[^*/]++|\*(?!/)|/(?!\*))*+\*/"

#: The rest of a string, a name in quotes, a comment, or all from something on that is not closed,
#: for a pattern with PIECE_FLAGS. The first character is one of `'"$/-`, which are found fast; what
#: it is follows from that one.
HIDDEN = r"""
    (?P<string>
        (?<=')(?:
            (?<=(?<![\w$])e')(?:[^'\\]++|\\.|'')*+   # with escapes
            |(?<!(?<![\w$])e')(?:[^']++|'')*+
        )'
        |(?<=\$)(?<![\w$]\$)(?P<tag>(?:[^\W\d]\w*+)?+\$).*?\$(?P=tag)
    )
    |(?P<quoted>(?<=")(?:[^"]++|"")*+")
    |(?P<comment>(?<=-)-[^\r\n]*+|(?<=/)\*(?:[^*/]++|\*(?!/)|/(?!\*))*+\*/)
    |(?P<unclosed>(?:(?<=['"])|(?<=/)\*|(?<=\$)(?<![\w$]\$)(?:[^\W\d]\w*+)?+\$).*+)
"""
PIECE_FLAGS = re.DOTALL | re.IGNORECASE | re.VERBOSE

#: What is hidden, or a placeholder with a quote in its name: SQLAlchemy names it after a column.
_PIECE = re.compile(
    rf"""(?P<named>%\([^)'"]{{0,256}}+['"][^)]{{0,256}}+\)s) | ['"$/-](?:{HIDDEN})""", PIECE_FLAGS
)
_NESTED = re.compile(r"/\*|\*/")
_FIRST_WORD = re.compile(rf"(?:\s++|{COMMENT})*+([^\W\d][\w$]*+|\(|/\*)?")
_PART_OF_A_NAME = re.compile(NAME)
_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_$]*+")


class Unreadable(Exception):
    """A text is more than PlanWatch reads."""


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


def from_first_word(text: str) -> tuple[str, str]:
    """Return the first word after white space and comments in lower case, and the text from there.

    An opening bracket counts as a word, and so does the beginning of a comment with another in it.
    """
    match = _FIRST_WORD.match(text)
    if match is None or match[1] is None:
        return "", text
    return match[1].lower(), text[match.start(1) :]


def without_strings(text: str) -> tuple[str, list[str]]:
    """Return a text without comments, with a number in place of each string, and what these hold.

    The numbers stay in quotes. A string with escapes, which has an E before it, is not decoded.
    Raises Unreadable if something is not closed, or a comment has another one in it.
    """
    strings: list[str] = []

    def replace(match: re.Match[str]) -> str:
        if match["unclosed"] is not None:
            raise Unreadable
        if match["quoted"]:
            return match[0]
        if match["named"]:
            return "%(named)s"
        if not match["string"]:
            return " "
        ends = len(match["tag"] or "") + 1
        string = match[0][ends:-ends]
        strings.append(string if match["tag"] else string.replace("''", "'"))
        return f"'{len(strings) - 1}'"

    # Most texts have none of it.
    if any(mark in text for mark in ("'", '"', "--", "/*", "$")):
        text = _PIECE.sub(replace, text)
    return text, strings


def end_of_hidden(match: re.Match[str]) -> int:
    """Return where what `HIDDEN` found ends: a comment may have others in it."""
    depth = 0
    if match["unclosed"] is not None and match["unclosed"].startswith("*"):
        for mark in _NESTED.finditer(match.string, match.start("unclosed") - 1):
            depth += 1 if mark[0] == "/*" else -1
            if depth == 0:
                return mark.end()
    return match.end()


def names_in(dotted: str) -> list[str]:
    """Return the parts of a name with dots, as the server spells them."""
    return [unquoted(part) for part in _PART_OF_A_NAME.findall(dotted)]


def unquoted(name: str) -> str:
    """Return a name as the server spells it."""
    return name[1:-1].replace('""', '"') if name[0] == '"' else name.lower()


def quoted(name: str) -> str:
    """Return a name as it is written in SQL."""
    return name if _PLAIN_NAME.fullmatch(name) else '"' + name.replace('"', '""') + '"'
