"""Which indexes hold all that a statement needs of a relation, and what hides this from PostgreSQL.

For an Index Only Scan, the index must hold each column that the statement names. A column inside an
expression counts, although the index holds the expression. Only the columns in a partial index's
own condition do not count.
https://www.postgresql.org/docs/current/indexes-index-only-scans.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlglot.tokens import TokenType

from .access import RANGES, Access, accesses
from .comparison import family_alias
from .index_use import bitmap_scans
from .predicate import Conjunct, bare, conjuncts, tokens_in, waits_for_a_value
from .schema import Index, Relation, Schema
from .scrub import LITERALS
from .tree import Plan

#: A word of an expression: the kind of its token, or COLUMN for one of the relation's.
_Word = tuple[object, str]

_COLUMN = "column"
_OPENING = {TokenType.L_PAREN, TokenType.COMMA}
_CLOSING = {TokenType.R_PAREN, TokenType.COMMA}
_NULL_TEST = re.compile(r"\bIS (?:NOT )?NULL$")

#: An item of an array as PostgreSQL prints a constant one: `{click,"two words"}`.
_ITEM = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}"]+)')


@dataclass(frozen=True)
class Coverage:
    """An index that holds all that a statement needs of one relation.

    `blocking` are the columns for which PostgreSQL reads the table all the same, as they are inside
    `expressions` that the index holds; both are empty if an Index Only Scan is possible.
    `conditions` are the predicates that name these columns, as a partial index could hold them.
    `elsewhere`: they are also used where no partial index helps. `used`: the plan finds the rows by
    this index.
    """

    access: Access
    index: Index
    blocking: tuple[str, ...] = ()
    expressions: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    elsewhere: bool = False
    used: bool = False


@dataclass(frozen=True)
class _Use:
    """A text of the plan in words; `test` is set if a scan tests it as a condition."""

    words: tuple[_Word, ...]
    test: Conjunct | None = None


def coverages(plan: Plan, schema: Schema) -> tuple[Coverage, ...]:
    """Return the indexes that hold all that a statement needs, relation by relation."""
    return tuple(
        coverage
        for access in accesses(plan, schema)
        if access.read is not None
        for coverage in _of(plan, schema, access)
    )


def is_for_more(index: Index, condition: str) -> bool:
    """Whether a partial index is for more values of an expression than a condition."""
    return any(
        _subject(held) == _subject(asked) and _values(held) > _values(asked)
        for asked in conjuncts(condition)
        for held in conjuncts(index.predicate or "")
    )


def conjunction(conditions: Sequence[str]) -> str:
    """Return the conditions joined by AND, as the WHERE of an index."""
    if len(conditions) == 1:
        return conditions[0]
    return " AND ".join(f"({condition})" for condition in conditions)


def _of(plan: Plan, schema: Schema, access: Access) -> Iterator[Coverage]:
    relation = schema.relations[access.scans[0].qualified_relation or ""]
    aliases = frozenset(
        name for scan in access.scans for name in (scan.alias or "", family_alias(scan, schema))
    )
    nodes = [node for scan in access.scans for node in (scan, *bitmap_scans(scan))]
    used = {node.index for node in nodes if node.index}
    # A partial index that the planner uses holds the rows that are asked for.
    indexes = [
        index
        for index in relation.indexes
        if index.valid and index.method == "btree"
        if index.predicate is None or index.name in used
    ]
    # One that other partitions lack spares their reading nothing.
    read = schema.of({scan.qualified_relation: None for scan in access.scans})
    indexes = [index for index in indexes if all(map(index.is_alike_on, read))]
    alone = len(plan.scans) == 1
    uses = list(_uses(access, aliases, relation, alone=alone)) if indexes else []
    named = {name for use in uses for kind, name in use.words if kind == _COLUMN}
    for index in indexes:
        # A column may also be needed by the name that a CTE gives it.
        if not named.union(index.keys, index.included).issuperset(access.read or ()):
            continue
        own = {(_subject(held), _values(held)) for held in conjuncts(index.predicate or "")}
        asked = [
            use
            for use in uses
            if not own or not use.test or (_subject(use.test), _values(use.test)) not in own
        ]
        coverage = _coverage(access, relation, index, asked, used=used == {index.name})
        if coverage is not None:
            yield coverage


def _coverage(
    access: Access, relation: Relation, index: Index, uses: Iterable[_Use], *, used: bool
) -> Coverage | None:
    """Return what an index covers, None if it lacks something that is needed."""
    held = {*index.keys, *index.included}
    keys = [key for key in index.keys if relation.column(key) is None]
    spelled = {key: tuple(_words(bare(key), frozenset(), relation, alone=True)) for key in keys}
    blocking: dict[str, None] = {}
    expressions: dict[str, None] = {}
    conditions: dict[str, None] = {}
    elsewhere = False
    for use in uses:
        rest, inside = use.words, list[str]()
        for key, words in spelled.items():
            shorter = _without(rest, words)
            if shorter != rest:
                inside.append(key)
                rest = shorter
        if not {text for kind, text in rest if kind == _COLUMN} <= held:
            return None
        hidden = {text for kind, text in use.words if kind == _COLUMN} - held
        if not hidden:
            continue
        blocking.update(dict.fromkeys(sorted(hidden)))
        expressions.update((bare(key), None) for key in inside)
        condition = _condition(use)
        if condition is None:
            elsewhere = True
        else:
            conditions[condition] = None
    found = (tuple(blocking), tuple(expressions), tuple(conditions))
    return Coverage(access, index, *found, elsewhere, used)


def _condition(use: _Use) -> str | None:
    """Return a use as the condition of a partial index, None if it cannot be one.

    A range moves with the values that it is asked for, so that an index could not follow.
    """
    test = use.test
    if test is None or test.operator in RANGES or waits_for_a_value(test.text):
        return None
    if test.left.columns and test.right.columns:
        return None
    return test.condition if test.operator or _NULL_TEST.search(test.text) else None


def _uses(
    access: Access, aliases: frozenset[str], relation: Relation, *, alone: bool
) -> Iterator[_Use]:
    """Yield each text of a plan that names a column of the relation."""
    for printed in access.printed:
        words = tuple(_words(printed.text, aliases, relation, alone=alone))
        if any(kind == _COLUMN for kind, _ in words):
            scans = printed.node.alias in aliases or printed.node.type == "Bitmap Index Scan"
            yield _Use(words, printed.test if scans else None)


def _words(
    text: str, aliases: frozenset[str], relation: Relation, *, alone: bool
) -> Iterator[_Word]:
    """Yield the words of a text, with `alias.column` of the relation as one.

    Without an alias before it, a name is the relation's only in a plan that reads it `alone`.
    """
    tokens, position = tokens_in(text), 0
    while position < len(tokens):
        token, after = tokens[position], tokens[position + 1 : position + 3]
        dotted = len(after) == 2 and after[0].token_type is TokenType.DOT
        if dotted and token.text in aliases and relation.column(after[1].text):
            yield _COLUMN, after[1].text
            position += 3
            continue
        before = tokens[position - 1].token_type if position else None
        called = bool(after) and after[0].token_type in {TokenType.L_PAREN, TokenType.DOT}
        named = before not in {TokenType.DOT, TokenType.DCOLON} and not called
        named = named and token.token_type not in LITERALS
        if alone and named and relation.column(token.text):
            yield _COLUMN, token.text
        else:
            yield token.token_type, token.text
        position += 1


def _without(words: tuple[_Word, ...], part: tuple[_Word, ...]) -> tuple[_Word, ...]:
    """Return the words without a part, wherever that is an expression of its own."""
    size = len(part)
    if not size:
        return words
    kept, position = list[_Word](), 0
    while position < len(words):
        if words[position : position + size] == part:
            before = words[position - 1][0] if position else TokenType.L_PAREN
            behind = (
                words[position + size][0] if position + size < len(words) else TokenType.R_PAREN
            )
            # PostgreSQL puts parentheses around all but calls, which end in one.
            if part[-1][0] is TokenType.R_PAREN or (before in _OPENING and behind in _CLOSING):
                position += size
                continue
        kept.append(words[position])
        position += 1
    return tuple(kept)


def _subject(conjunct: Conjunct) -> str:
    """Return the left side and the operator of a predicate; a list of one value is an equality."""
    operator = {"= ANY": "=", "<> ALL": "<>"}.get(conjunct.operator, conjunct.operator)
    return f"{bare(conjunct.left.without_alias())} {operator}"


def _values(conjunct: Conjunct) -> frozenset[str]:
    """Return the constants that a predicate compares with, the values of a list one by one."""
    tokens = tokens_in(conjunct.right.text)
    texts = [token.text for token in tokens if token.token_type in LITERALS]
    if len(texts) == 1 and texts[0].startswith("{") and conjunct.operator in {"= ANY", "<> ALL"}:
        found = _ITEM.findall(texts[0])
        texts = [re.sub(r"\\(.)", r"\1", quoted) or plain for quoted, plain in found]
    return frozenset(texts)
