"""What looks inside a value: patterns, full text, JSON documents, arrays, ranges and networks.

No plain btree index answers these operators. This module tells which index would, and recognises
the conditions that a plan shows once there is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from sqlglot import expressions as sql

from .comparison import Comparison, constant, key_of
from .predicate import BTREE_OPERATORS, FLIPPED, Conjunct, Operand, parse
from .schema import TEXT_TYPES, base_type
from .scrub import mask

#: PostgreSQL's own range and multirange types.
RANGE_TYPES = frozenset(
    {"int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange"}
    | {"int4multirange", "int8multirange", "nummultirange", "tsmultirange", "tstzmultirange"}
    | {"datemultirange"}
)

#: Operators that look inside a value that is no text.
_INSIDE = frozenset(
    {"@@", "@>", "<@", "&&", "-|-", "<<", ">>", "?", "?|", "?&", "@?", "<<=", ">>="}
)

#: What PostgreSQL prints for `char(n)`.
CHARACTER = "character"

#: Comparisons of a text with a pattern.
TEXT_OPERATORS = frozenset({"~~", "~~*", "~", "~*", "^@"})

#: pg_trgm cuts texts into groups of three characters, with two blanks before each word and one
#: behind it.
_TRIGRAM, _BEFORE, _BEHIND = 3, 2, 1

#: A part of a pattern that is not known.
_OPEN = "\0"

_WORD = re.compile(r"[^\W_]+")
_SEVERAL = re.compile(r"(?:ANY|ALL)\b")
#: What functions return whose name is not that of their type, as it is for ranges.
_RESULTS = {"to_tsvector": "tsvector"}
_DOCUMENT_PATH = (sql.JSONExtract, sql.JSONBExtract, sql.Bracket)

#: A regular expression that begins with plain characters, the last of which may be optional.
_REGEX_PREFIX = re.compile(r"\^([\w @/:;,#&=<>%!~\"'-]+)([*?{]?)")
#: What in a regular expression is no plain character: classes, escapes, what is optional, signs.
_REGEX_OPEN = re.compile(r"\[\^?\]?[^\]]*(?:\]|$)|\\.|\w[*?]|\w\{[^}]*(?:\}|$)|[^\w|]")
#: A group that is optional, or that has a special meaning.
_REGEX_OPTIONAL = re.compile(r"\)[*?{]|\(\?")

#: What a subject has for LIKE without a wildcard.
_WHOLE = "LIKE"
#: How a subject names these operators: it has words, as the pattern itself is a value.
_WORDS = {
    "~~": frozenset({_WHOLE, "LIKE prefix%", "LIKE %part%"}),
    "~~*": frozenset({"ILIKE"}),
    "~": frozenset({"~", "~ ^prefix"}),
}
#: Operators that look for what is in a network.
_WITHIN = frozenset({"<<", "<<="})
#: The names of operators that look for how a text begins.
_PREFIXES = frozenset({"LIKE prefix%", "~ ^prefix", "^@"})
_SUBJECT = re.compile(
    r"^= ANY \(| (?:LIKE(?: (?:prefix|%part)%)?|ILIKE|~ \^prefix|<<=|>>=|[~*@?|&<>^-]+)$"
)


class Kind(StrEnum):
    """What is looked for."""

    #: By LIKE. To ILIKE it is a part: a btree index finds a text in one spelling only.
    WHOLE = "a whole text"
    PREFIX = "how a text begins"
    PART = "a part of a text"
    WORDS = "words of a text"
    #: By the configuration that the session happens to have.
    UNNAMED = "words of a text, in no language by name"
    DOCUMENT = "a part of a JSON document"
    ARRAY = "elements of an array"
    #: By an operator that no index answers.
    ELEMENT = "one element of an array"
    RANGE = "a range or a point in it"
    NETWORK = "a network or what is in it"


@dataclass(frozen=True)
class AccessMethod:
    """The index that could answer a predicate.

    `operator_class` is empty for the method's default one; `extension` is what provides the class,
    if PostgreSQL itself does not.
    """

    method: str
    operator_class: str = ""
    extension: str = ""


@dataclass(frozen=True)
class Pattern:
    """A predicate that looks inside a value.

    `subject` names it without the value; `key` is the column or expression that an index would
    hold, as SQL. `access` is None if no index helps with this value, and `reason` says why.
    `example` is a made-up value, as SQL; it is empty if any value of the operand's own type does.
    """

    kind: Kind
    subject: str
    key: str
    access: AccessMethod | None
    example: str = ""
    reason: str = ""


#: Why no index answers a pattern.
_TOO_SHORT = "the pattern is too short for trigrams"
_NO_EQUALITY = "the path compares nothing for equality"

_EQUALITY = AccessMethod("btree")
_TEXT_PREFIX = AccessMethod("btree", "text_pattern_ops")
_CHARACTER_PREFIX = AccessMethod("btree", "bpchar_pattern_ops")
_TRIGRAMS = AccessMethod("gin", "gin_trgm_ops", "pg_trgm")
_INVERTED = AccessMethod("gin")
_DOCUMENT_VALUES = AccessMethod("gin", "jsonb_path_ops")
_RANGES = AccessMethod("gist")
#: What is in a network lies between its first and its last address, if these are constants.
_ADDRESSES = AccessMethod("btree")
_NETWORKS = AccessMethod("gist", "inet_ops")


def access_method(comparison: Comparison) -> AccessMethod | None:
    """Return the index that could answer a comparison that no plain btree index answers."""
    pattern = read(comparison)
    return pattern.access if pattern else None


def read(comparison: Comparison) -> Pattern | None:
    """Return what a comparison looks for inside its operand, or None if it does not."""
    operator, other = comparison.operator, comparison.other
    if operator == "ANY =":
        return _element(comparison)
    if operator in TEXT_OPERATORS:
        return _text(comparison)
    # No index answers a comparison with ALL values of a list, and one with ANY is rare.
    if operator not in _INSIDE or _SEVERAL.match(other.text):
        return None
    type_name = _type(comparison)
    if operator == "@@" and type_name == "tsvector":
        return _words(comparison)
    if operator == "@@" and type_name in TEXT_TYPES:
        # PostgreSQL itself puts to_tsvector() around it.
        pattern = _pattern(comparison, Kind.UNNAMED, None)
        return replace(pattern, key=f"to_tsvector({pattern.key})")
    if type_name == "jsonb":
        return _document(comparison)
    if type_name.endswith("[]") and operator in {"@>", "<@", "&&"}:
        return _pattern(comparison, Kind.ARRAY, _INVERTED)
    if type_name in RANGE_TYPES and operator in {"@>", "<@", "&&", "-|-", "<<", ">>"}:
        return _pattern(comparison, Kind.RANGE, _RANGES)
    if type_name in {"inet", "cidr"} and operator in {"<<", "<<=", ">>", ">>=", "&&"}:
        stretch = operator in _WITHIN and constant(other) is not None
        return _pattern(comparison, Kind.NETWORK, _ADDRESSES if stretch else _NETWORKS)
    return None


def is_subject(text: str) -> bool:
    """Whether a text is a Pattern's subject."""
    return _SUBJECT.search(text) is not None


#: How a subject begins that looks for a value in an array.
_ANY = "= ANY ("


def split_subject(text: str) -> tuple[str, str, str] | None:
    """Return a Pattern's subject as what precedes its operand, the operand and what follows it."""
    if text.startswith(_ANY) and text.endswith(")"):
        return _ANY, text[len(_ANY) : -1], ")"
    found = _SUBJECT.search(text)
    return ("", text[: found.start()], found[0]) if found else None


def subjects(conjunct: Conjunct, operand: Operand) -> set[str]:
    """Return what subjects a predicate has as a Pattern, its values masked or not."""
    operator, text = conjunct.operator, operand.without_alias()
    on_right = operand is conjunct.right
    if on_right and operator == "= ANY":
        return {f"= ANY ({spelling})" for spelling in (text, mask(text))}
    if operator in BTREE_OPERATORS or not operator:
        return set()
    words = _WORDS.get(operator, frozenset({operator}))
    if on_right:
        words = frozenset({FLIPPED.get(operator, operator)})
    return {f"{spelling} {name}" for spelling in (text, mask(text)) for name in words}


def prefix_subjects(condition: Iterable[Conjunct]) -> set[str]:
    """Return the subjects of Patterns for which an Index Cond has the text or the range of texts.

    The pattern itself then stays a Filter. Only an index that is sorted byte by byte has such a
    range; under the C collation its operators are those that people write, too.
    """
    operators: dict[str, set[str]] = {}
    for conjunct in condition:
        operators.setdefault(conjunct.left.without_alias(), set()).add(conjunct.operator)
    subjects = set()
    for text, found in operators.items():
        if "=" in found:
            subjects.add(f"{text} {_WHOLE}")
        if "~>=~" in found or {">=", "<"} <= found:
            subjects |= {f"{text} {words}" for words in _PREFIXES}
        if "<=" in found and found & {">", ">="}:
            subjects |= {f"{text} {operator}" for operator in _WITHIN}
    return subjects


def _pattern(
    comparison: Comparison,
    kind: Kind,
    access: AccessMethod | None,
    example: str = "",
    words: str = "",
    reason: str = "",
) -> Pattern:
    subject = f"{comparison.operand.without_alias()} {words or comparison.operator}"
    key = key_of(comparison.operand, comparison.relation)
    return Pattern(kind, subject, key, access, example, reason)


def _text(comparison: Comparison) -> Pattern | None:
    """Read LIKE, ILIKE, a regular expression or `^@`."""
    value, operator, type_name = _constant(comparison), comparison.operator, _type(comparison)
    # On the right of LIKE, a column is the pattern.
    is_left = comparison.operand is comparison.conjunct.left
    if value is None or not is_left or type_name not in {*TEXT_TYPES, CHARACTER}:
        return None
    like = operator in {"~~", "~~*"}
    if operator == "~~" and _OPEN not in _like(value):
        return _pattern(comparison, Kind.WHOLE, _EQUALITY, "'abc'", _WHOLE)
    if _prefix(operator, value):
        example, words = {"~~": ("'abc%'", "LIKE prefix%"), "~": ("'^abc'", "~ ^prefix")}.get(
            operator, ("'abc'", "")
        )
        access = _CHARACTER_PREFIX if type_name == CHARACTER else _TEXT_PREFIX
        return _pattern(comparison, Kind.PREFIX, access, example, words)
    # pg_trgm has no operator class for char(n).
    if operator == "^@" or type_name == CHARACTER:
        return None
    example = "'%abc%'" if like else "'abc'"
    words = {"~~": "LIKE %part%", "~~*": "ILIKE"}.get(operator, "")
    has_trigram = (_like_has_trigram if like else _regex_has_trigram)(value)
    reason = "" if has_trigram else _TOO_SHORT
    trigrams = _TRIGRAMS if has_trigram else None
    return _pattern(comparison, Kind.PART, trigrams, example, words, reason)


def _like(pattern: str) -> str:
    """Return a pattern of LIKE without escapes, with _OPEN for each wildcard."""
    known, characters = [], iter(pattern)
    for character in characters:
        if character == "\\":
            known.append(next(characters, ""))
        else:
            known.append(_OPEN if character in "%_" else character)
    return "".join(known)


def _prefix(operator: str, pattern: str) -> str:
    """Return how a text must begin to match, as far as an index can use it."""
    match operator:
        case "~~":
            return _like(pattern).partition(_OPEN)[0]
        case "~":
            return _regex_prefix(pattern)
        case "^@":
            return pattern
    return ""


def _like_has_trigram(pattern: str) -> bool:
    known = _like(pattern)
    return any(
        len(word[0])
        + _BEFORE * (known[word.start() - 1 : word.start()] != _OPEN)
        + _BEHIND * (known[word.end() : word.end() + 1] != _OPEN)
        >= _TRIGRAM
        for word in _WORD.finditer(known)
    )


def _regex_prefix(pattern: str) -> str:
    found = None if "|" in pattern else _REGEX_PREFIX.match(pattern)
    if found is None:
        return ""
    return found[1][:-1] if found[2] else found[1]


def _regex_has_trigram(pattern: str) -> bool:
    if _REGEX_OPTIONAL.search(pattern):
        return False
    known = _REGEX_OPEN.sub(_OPEN, pattern)
    return all(
        any(len(word) >= _TRIGRAM for word in _WORD.findall(branch)) for branch in known.split("|")
    )


def _words(comparison: Comparison) -> Pattern:
    """Read a tsvector that is compared with a query."""
    call = _call(comparison.operand)
    if call is not None and call.name.lower() == "to_tsvector" and len(call.expressions) == 1:
        return _pattern(comparison, Kind.UNNAMED, None)
    return _pattern(comparison, Kind.WORDS, _INVERTED, "'word'::tsquery")


def _call(operand: Operand) -> sql.Anonymous | None:
    structure = parse(operand.without_alias())
    return structure if isinstance(structure, sql.Anonymous) else None


def _document(comparison: Comparison) -> Pattern | None:
    """Read an operator of jsonb."""
    value = _constant(comparison) or ""
    match comparison.operator:
        case "@>":
            # The class for values knows nothing of empty objects and arrays.
            empty = re.search(r"\{\s*\}|\[\s*\]", value)
            return _pattern(comparison, Kind.DOCUMENT, _INVERTED if empty else _DOCUMENT_VALUES)
        case "?":
            return _pattern(comparison, Kind.DOCUMENT, _INVERTED, "'a'")
        case "?|" | "?&":
            return _pattern(comparison, Kind.DOCUMENT, _INVERTED, "'{a}'::text[]")
        case "@?" | "@@":
            # An index holds values, but not their order.
            example = "'$.a == 1'" if comparison.operator == "@@" else "'$.a ? (@ == 1)'"
            access = _DOCUMENT_VALUES if "==" in value else None
            reason = "" if access else _NO_EQUALITY
            return _pattern(comparison, Kind.DOCUMENT, access, example, reason=reason)
    return None


def _element(comparison: Comparison) -> Pattern | None:
    """Read `'x' = ANY (tags)`."""
    type_name = _type(comparison)
    if comparison.other.columns or not type_name.endswith("[]"):
        return None
    pattern = _pattern(comparison, Kind.ELEMENT, _INVERTED)
    return replace(pattern, subject=f"= ANY ({comparison.operand.without_alias()})")


def _constant(comparison: Comparison) -> str | None:
    """Return the text that the operand is compared with, or None if that is no constant."""
    found = constant(comparison.other)
    return None if found is None else found.value


def _type(comparison: Comparison) -> str:
    """Return the operand's type without its length, or nothing if it cannot be told."""
    operand, relation = comparison.operand, comparison.relation
    if operand.cast_column is not None:
        return base_type(operand.cast_column[1])
    if operand.column is not None:
        column = relation.column(operand.column)
        return column.base_type if column else ""
    call = _call(operand)
    if call is not None and call.name.lower() in {*RANGE_TYPES, *_RESULTS}:
        return _RESULTS.get(call.name.lower(), call.name.lower())
    found = constant(comparison.other)
    type_name = "" if found is None else base_type(found.type)
    match comparison.operator, type_name:
        case "@@", "tsquery":
            return "tsvector"
        case "@?" | "@@", "jsonpath":
            return "jsonb"
        case "?" | "?|" | "?&", _:
            structure = parse(operand.without_alias())
            return "jsonb" if isinstance(structure, _DOCUMENT_PATH) else ""
    return type_name
