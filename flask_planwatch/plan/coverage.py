"""Which indexes hold all that a statement needs of a relation, and what hides this from PostgreSQL.

An Index Only Scan needs each column that the statement names in the index itself: one that stands
inside an expression counts as needed, although the index holds the expression. Only a condition
that is a partial index's own does not count.
https://www.postgresql.org/docs/current/indexes-index-only-scans.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType

from .access import RANGES, Access, accesses
from .comparison import family_alias
from .memory import kept_for_plans
from .predicate import Conjunct, bare, conjuncts, predicates, tokenize, waits_for_a_value
from .schema import Index, Relation, Schema
from .scrub import LITERALS
from .tree import Node, Plan
from .usage import bitmap_scans

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

    `blocking` are the columns that PostgreSQL believes it needs besides, because they stand inside
    `expressions`, which the index holds; both are empty if nothing is in the way of an Index Only
    Scan. `conditions` are the predicates in which they do, as a partial index could hold them;
    `elsewhere` tells that they are also used where no partial index helps. `used` tells that the
    plan finds the rows by this index.
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
    """A text of the plan in words; `conjunct` is set if a scan tests it as a condition."""

    words: tuple[_Word, ...]
    conjunct: Conjunct | None = None


@dataclass(frozen=True)
class _Text:
    """What a node prints: what it hands on, sorts or groups by, or a predicate that it tests."""

    place: int
    text: str
    node: Node
    conjunct: Conjunct | None


def coverages(plan: Plan, schema: Schema) -> list[Coverage]:
    """Return the indexes that cover what a statement asks of each relation, one after another."""
    return list(_coverages(plan, schema))


@kept_for_plans(2)
def _coverages(plan: Plan, schema: Schema) -> tuple[Coverage, ...]:
    found: list[Coverage] = []
    for access in accesses(plan, schema):
        relation = schema.get(access.scans[0].qualified_relation)
        if relation is not None and relation.indexes and access.read is not None:
            found += _of(plan, schema, access, relation)
    return tuple(found)


def is_for_more(index: Index, condition: str) -> bool:
    """Whether a partial index is for more values of an expression than a condition."""
    return any(
        _subject(held) == _subject(one) and _values(held) > _values(one)
        for one in conjuncts(condition)
        for held in conjuncts(index.predicate or "")
    )


def conjunction(conditions: Sequence[str]) -> str:
    """Return the conditions joined by AND, as the WHERE of an index."""
    return conditions[0] if len(conditions) == 1 else " AND ".join(f"({one})" for one in conditions)


def _of(plan: Plan, schema: Schema, access: Access, relation: Relation) -> Iterator[Coverage]:
    aliases = {name for scan in access.scans for name in (scan.alias, family_alias(scan, schema))}
    nodes = [node for scan in access.scans for node in (scan, *bitmap_scans(scan))]
    used = {node.index for node in nodes if node.index}
    # A partial index that the planner uses holds the rows that are asked for.
    indexes = [
        index
        for index in relation.indexes
        if index.valid and index.method == "btree" and _may_cover(index, access, relation)
        if index.predicate is None or index.name in used
    ]
    uses = list(_uses(plan, aliases, relation)) if indexes else []
    for index in indexes:
        asked = uses
        if index.predicate is not None:
            own = {(_subject(one), _values(one)) for one in conjuncts(index.predicate)}
            asked = [
                use
                for use in uses
                if not use.conjunct or (_subject(use.conjunct), _values(use.conjunct)) not in own
            ]
        one = _coverage(access, relation, index, asked, used=used == {index.name})
        if one is not None:
            yield one


def _may_cover(index: Index, access: Access, relation: Relation) -> bool:
    """Whether each column that is needed is in the index or in one of its expressions."""
    held = {*index.keys, *index.included}
    for text in (*index.keys, index.predicate or ""):
        held |= {
            name
            for kind, name in _words(text, frozenset(), relation, alone=True)
            if kind == _COLUMN
        }
    return held.issuperset(access.read or ())


def _coverage(
    access: Access, relation: Relation, index: Index, uses: Iterable[_Use], *, used: bool
) -> Coverage | None:
    """Return what an index covers, None if it lacks something that is needed."""
    held = {*index.keys, *index.included}
    keys = [key for key in index.keys if relation.column(key) is None]
    spelled = {key: _expression(key, relation) for key in keys}
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
    return Coverage(
        access,
        index,
        tuple(blocking),
        tuple(expressions),
        tuple(conditions),
        elsewhere,
        used,
    )


def _expression(key: str, relation: Relation) -> tuple[_Word, ...]:
    """Return the words of an index's expression, without the parentheses around it."""
    words = tuple(_words(key, frozenset(), relation, alone=True))
    return tuple(_words(bare(key), frozenset(), relation, alone=True)) if words else ()


def _condition(use: _Use) -> str | None:
    """Return a use as the condition of a partial index, None if it cannot be one.

    A range moves with the values that it is asked for, so that an index could not follow.
    """
    conjunct = use.conjunct
    if conjunct is None or waits_for_a_value(conjunct.text):
        return None
    if conjunct.operator in RANGES or (conjunct.left.columns and conjunct.right.columns):
        return None
    if not conjunct.operator and not _NULL_TEST.search(conjunct.text):
        return None
    return conjunct.condition


def _uses(plan: Plan, aliases: set[str | None], relation: Relation) -> Iterator[_Use]:
    """Yield each text of a plan that names a column of the relation.

    A scan below another step may hand on more than is needed: what counts is what is above it.
    """
    names = frozenset(name for name in aliases if name)
    alone = len(plan.scans) == 1

    def use(text: str, conjunct: Conjunct | None = None) -> Iterator[_Use]:
        words = tuple(_words(text, names, relation, alone=alone))
        if any(kind == _COLUMN for kind, _ in words):
            yield _Use(words, conjunct)

    texts = _texts(plan)
    found = {one.place: one for name in ({""} if alone else names) for one in texts.get(name, ())}
    for _, one in sorted(found.items()):
        scans = one.node.alias in names or one.node.type == "Bitmap Index Scan"
        yield from use(one.text, one.conjunct if scans else None)


@kept_for_plans(2)
def _texts(plan: Plan) -> Mapping[str, list[_Text]]:
    """Return what the nodes print, by each alias that it names, and all of it without an alias."""
    found: dict[str, list[_Text]] = {}
    places = count()
    for node in plan.nodes:
        hands_on = node.output if node is plan.root or node.relation is None else ()
        keys = (*hands_on, *node.sort_keys, *node.group_keys)
        printed = [(text, conjuncts(text), None) for text in keys]
        tested = [one for _, parts in predicates(plan)[id(node)] for one in parts]
        for text, parts, conjunct in (*printed, *((one.text, (one,), one) for one in tested)):
            text_of_node = _Text(next(places), text, node, conjunct)
            sides = [side for one in parts for side in (one.left, one.right)]
            for alias in {"", *(alias for side in sides for alias in side.aliases)}:
                found.setdefault(alias, []).append(text_of_node)
    return found


def _words(
    text: str, aliases: frozenset[str], relation: Relation, *, alone: bool
) -> Iterator[_Word]:
    """Yield the words of a text, with `alias.column` of the relation as one.

    Without an alias before it, a name is the relation's only in a plan that reads it `alone`.
    """
    try:
        tokens = tokenize(text).tokens
    except SqlglotError:
        return
    place = 0
    while place < len(tokens):
        token, after = tokens[place], tokens[place + 1 : place + 3]
        dotted = len(after) == 2 and after[0].token_type is TokenType.DOT
        if dotted and token.text in aliases and relation.column(after[1].text):
            yield _COLUMN, after[1].text
            place += 3
            continue
        before = tokens[place - 1].token_type if place else None
        called = bool(after) and after[0].token_type in {TokenType.L_PAREN, TokenType.DOT}
        named = before not in {TokenType.DOT, TokenType.DCOLON} and not called
        named = named and token.token_type not in LITERALS
        if alone and named and relation.column(token.text):
            yield _COLUMN, token.text
        else:
            yield token.token_type, token.text
        place += 1


def _without(words: tuple[_Word, ...], part: tuple[_Word, ...]) -> tuple[_Word, ...]:
    """Return the words without each place where this part stands as an expression of its own."""
    size = len(part)
    if not size:
        return words
    kept, place = list[_Word](), 0
    while place < len(words):
        if words[place : place + size] == part:
            before = words[place - 1][0] if place else TokenType.L_PAREN
            behind = words[place + size][0] if place + size < len(words) else TokenType.R_PAREN
            # PostgreSQL puts parentheses around all but calls, which end in one.
            if part[-1][0] is TokenType.R_PAREN or (before in _OPENING and behind in _CLOSING):
                place += size
                continue
        kept.append(words[place])
        place += 1
    return tuple(kept)


def _subject(conjunct: Conjunct) -> str:
    """Return what a predicate is about, without the values; a list of one is an equality."""
    operator = {"= ANY": "=", "<> ALL": "<>"}.get(conjunct.operator, conjunct.operator)
    return f"{bare(conjunct.left.without_alias())} {operator}"


def _values(conjunct: Conjunct) -> frozenset[str]:
    """Return the constants that a predicate compares with, those of a list one by one."""
    try:
        tokens = tokenize(conjunct.right.text).tokens
    except SqlglotError:
        return frozenset()
    texts = [token.text for token in tokens if token.token_type in LITERALS]
    if (
        len(texts) == 1
        and texts[0].startswith("{")
        and conjunct.operator.endswith((" ANY", " ALL"))
    ):
        return frozenset(
            re.sub(r"\\(.)", r"\1", quoted) or plain for quoted, plain in _ITEM.findall(texts[0])
        )
    return frozenset(texts)
