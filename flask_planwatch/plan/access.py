"""What a statement asks of each relation that it reads: compared, joined, sorted and read columns.

Rules ask which of it no index answers; the candidates for an index are made from all of it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TypeAlias

from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType

from .comparison import SCANS, Comparison, comparisons, family_alias
from .memory import kept_for_plans
from .pattern import access_method
from .predicate import (
    PARTIAL_OPERATORS,
    Operand,
    bare,
    conjuncts,
    operand,
    predicates,
    tokenize,
)
from .schema import Relation, Schema
from .scrub import holds_value, mask
from .tree import Node, Plan

#: A step above which rows are no longer those of the relations below it.
_COMBINES = frozenset({"Aggregate", "Group", "SetOp", "WindowAgg", "ProjectSet"})

#: Comparisons that leave the rows sorted by the index's next key.
EQUAL = frozenset({"=", "= ANY", "IS NULL"})

#: Comparisons that leave a stretch of the index.
RANGES = frozenset({"<", "<=", ">", ">=", "IS NOT NULL"})

#: A step that makes one row of several that are alike.
_GROUPS = frozenset({"Aggregate", "Group", "Unique"})

#: Stands for all columns.
_STAR = "*"

_DIRECTION = re.compile(r"( DESC)?(?: NULLS (FIRST|LAST))?$")
_EXTREME = re.compile(r"\A(?:PARTIAL )?(?:min|max)\((.*)\)")


@dataclass(frozen=True)
class SortTerm:
    """A column or expression that rows are sorted by, and where NULLs go, stated or not."""

    operand: Operand
    descending: bool
    nulls_first: bool


@dataclass(frozen=True)
class _Step:
    """A step that sorts or groups rows, and by what, if all of it can be read."""

    node: Node
    sorts: tuple[SortTerm, ...]
    groups: tuple[Operand, ...]


#: The nearest of some steps, and those above it.
_Above: TypeAlias = "tuple[_Step, _Above] | None"

#: The columns that are needed of each alias, in the order of these numbers.
_Needed: TypeAlias = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Access:
    """What a statement asks of one relation under one alias.

    `relation` is the table that a person would name. `equal` are compared by equality with one
    value, `listed` with several, `joined` with other relations' columns, `ranged` by order or by
    the beginning of a text; `matched` need an index of another kind than btree. `sorted_by` is the
    order that the statement wants of this relation alone, `walked` the one that an index delivers
    already, and `limited` whether it stops after some rows; `grouped_by` are what groups, DISTINCT,
    min() and max() would have in order. `alternatives` are the predicates that OR joins, for each
    branch. `conditions` are those that no btree can find, as a partial index could hold them.
    `read` are all columns that the statement needs, None if not known.
    """

    relation: Relation
    scans: tuple[Node, ...]
    equal: tuple[Operand, ...] = ()
    listed: tuple[Operand, ...] = ()
    joined: tuple[Operand, ...] = ()
    ranged: tuple[Comparison, ...] = ()
    matched: tuple[Comparison, ...] = ()
    sorted_by: tuple[SortTerm, ...] = ()
    walked: tuple[SortTerm, ...] = ()
    limited: bool = False
    grouped_by: tuple[Operand, ...] = ()
    alternatives: tuple[tuple[Comparison, ...], ...] = ()
    conditions: tuple[str, ...] = ()
    read: tuple[str, ...] | None = None
    #: The comparisons that are tested row by row, on many rows.
    untold: tuple[Comparison, ...] = field(default=(), compare=False)

    @property
    def asked(self) -> tuple[object, ...]:
        """What tells two accesses apart but for the alias."""
        return (
            self.relation.key,
            texts(self.equal),
            texts(self.listed),
            texts(self.joined),
            texts(one.operand for one in self.ranged),
            texts(one.operand for one in self.matched),
            texts(one.operand for one in self.sorted_by),
            self.conditions,
        )


def texts(operands: Iterable[Operand]) -> tuple[str, ...]:
    """Return the operands without their aliases, each once."""
    return tuple(dict.fromkeys(one.without_alias() for one in operands))


@kept_for_plans(2)
def accesses(plan: Plan, schema: Schema) -> tuple[Access, ...]:
    """Return what the statement asks of each relation; partitions count as one."""
    compared: dict[str, list[Comparison]] = {}
    for comparison in comparisons(plan, schema):
        alias = family_alias(comparison.scan, schema)
        compared.setdefault(alias, []).append(comparison)
    families: dict[str, list[Node]] = {}
    for scan in plan.scans:
        if scan.alias and scan.type in SCANS and schema.get(scan.qualified_relation):
            families.setdefault(family_alias(scan, schema), []).append(scan)
    steps, needed = _steps_above(plan), _needed(plan, schema)
    found: dict[tuple[object, ...], list[Access]] = {}
    for alias, scans in families.items():
        access = _access(plan, schema, alias, scans, compared.get(alias, []), steps, needed)
        found.setdefault(access.asked, []).append(access)
    return tuple(map(_together, found.values()))


def reference_access(relation: Relation, keys: Iterable[str]) -> Access:
    """Return what the check of a foreign key asks of the referring relation."""
    return Access(relation, (), equal=tuple(operand(f"x.{key}") for key in keys))


def _together(alike: list[Access]) -> Access:
    """Return accesses that ask the same, of several partitions or under several aliases, as one."""
    return replace(
        alike[0],
        scans=tuple(scan for one in alike for scan in one.scans),
        untold=tuple(comparison for one in alike for comparison in one.untold),
    )


def _access(
    plan: Plan,
    schema: Schema,
    alias: str,
    scans: list[Node],
    compared: list[Comparison],
    steps: Mapping[int, _Above],
    needed: _Needed | None,
) -> Access:
    relation = schema.relations[scans[0].qualified_relation or ""]
    aliases = frozenset({alias, *(scan.alias or "" for scan in scans)})
    equal: list[Operand] = []
    listed: list[Operand] = []
    joined: list[Operand] = []
    ranged: list[Comparison] = []
    matched: list[Comparison] = []
    alternatives: list[tuple[Comparison, ...]] = []
    conditions: list[str] = []
    for comparison in compared:
        others = comparison.other.columns
        if comparison.operator in EQUAL:
            several = listed if comparison.operator == "= ANY" else equal
            (joined if others else several).append(comparison.operand)
        elif comparison.operator in RANGES:
            ranged.append(comparison)
        elif (method := access_method(comparison)) is not None:
            (ranged if method.method == "btree" else matched).append(comparison)
        elif branches := _branches(comparison):
            alternatives += branches
        if not others and not comparison.joins and _is_condition(comparison):
            conditions.append(comparison.condition)
    above = list(_each(steps[id(scans[0])]))
    sort = _sorted_by(above, aliases)
    return Access(
        relation=schema.root(relation),
        scans=tuple(scans),
        equal=_once(equal),
        listed=_once(listed),
        joined=_once(joined),
        ranged=tuple({one.operand.without_alias(): one for one in ranged}.values()),
        matched=tuple({one.operand.without_alias(): one for one in matched}.values()),
        sorted_by=sort,
        walked=_walked(scans[0], relation) if plan.limited and not sort else (),
        limited=bool(sort) and plan.limited,
        grouped_by=_grouped_by(above, scans[0], aliases),
        alternatives=tuple(alternatives),
        conditions=tuple(dict.fromkeys(conditions)),
        read=_read(needed, aliases, relation) if needed is not None else None,
        untold=tuple(one for one in compared if one.costly or one.repeated),
    )


def _is_condition(comparison: Comparison) -> bool:
    """Whether a partial index may hold a predicate: no value stands in it, or btree has no use."""
    if comparison.conjunct.alternatives:
        return not _branches(comparison) or mask(comparison.condition) == comparison.condition
    if comparison.other.text in {"NULL", "true", "false"}:
        return True
    return comparison.operator in PARTIAL_OPERATORS


def _once(operands: Iterable[Operand]) -> tuple[Operand, ...]:
    return tuple({one.without_alias(): one for one in operands}.values())


def _branches(comparison: Comparison) -> list[tuple[Comparison, ...]]:
    """Return what OR joins, or nothing if a branch has no predicate that an index could answer."""
    branches = [
        tuple(
            one
            for conjunct in branch
            for one in comparison.of(conjunct)
            if one.operator in EQUAL | RANGES
        )
        for branch in comparison.conjunct.alternatives
    ]
    return branches if all(branches) else []


def _steps_above(plan: Plan) -> Mapping[int, _Above]:
    """Return the steps that sort or group the rows of each node, by the id() of the node.

    Above a step that combines rows into others there are none.
    """
    above: dict[int, _Above] = {id(plan.root): None}
    for node in plan.nodes:
        step = above[id(node)]
        if node.sort_keys or node.type in _GROUPS:
            step = (_step(node), step)
        for child in node.children:
            apart = child.type in _COMBINES or child.subplan is not None
            above[id(child)] = None if apart else step
    return above


def _each(above: _Above) -> Iterator[_Step]:
    """Yield steps, the nearest first."""
    while above is not None:
        step, above = above
        yield step


def _step(node: Node) -> _Step:
    keys = [None if holds_value(key) else _operand(key) for key in node.group_keys]
    groups = tuple(one for one in keys if one is not None)
    return _Step(node, _sort_terms(node), groups if len(groups) == len(keys) else ())


def _sorted_by(above: Iterable[_Step], aliases: frozenset[str]) -> tuple[SortTerm, ...]:
    """Return what the nearest step that sorts rows of this relation only sorts them by."""
    for step in above:
        # An incremental one stops with the LIMIT.
        sorts = step.sorts and step.node.type != "Incremental Sort"
        if sorts and all(_reads(term.operand, aliases) for term in step.sorts):
            return step.sorts
    return ()


def _walked(scan: Node, relation: Relation) -> tuple[SortTerm, ...]:
    """Return the order that a scan delivers by walking a whole index, as a LIMIT lets it."""
    index = next((one for one in relation.indexes if one.name == scan.index), None)
    if not scan.reads_all_rows or index is None or not index.plain:
        return ()
    names = [relation.quoted_column(name) for name in index.keys if relation.column(name)]
    operands = [operand(f'"{scan.alias}".{name}') for name in names]
    return tuple(SortTerm(one, descending=False, nulls_first=False) for one in operands)


def _sort_terms(node: Node) -> tuple[SortTerm, ...]:
    """Return the sort keys, or nothing if one of them is not what an index sorts by."""
    terms = []
    for key in node.sort_keys:
        direction = _DIRECTION.search(key)
        assert direction is not None
        text = key[: direction.start()]
        one = _operand(text)
        if one is None or holds_value(text) or " COLLATE " in text or " USING " in text:
            return ()
        descending = direction[1] is not None
        nulls_first = direction[2] == "FIRST" if direction[2] else descending
        terms.append(SortTerm(one, descending, nulls_first))
    return tuple(terms)


def order_keys(node: Node) -> Iterator[str]:
    """Yield the expressions that a step sorts or groups rows by, without aliases."""
    step = _step(node)
    for one in (*(term.operand for term in step.sorts), *step.groups):
        yield one.without_alias()


def _reads(one: Operand, aliases: frozenset[str]) -> bool:
    return bool(one.aliases) and one.aliases <= aliases


def _grouped_by(above: Sequence[_Step], scan: Node, aliases: frozenset[str]) -> tuple[Operand, ...]:
    """Return what the rows of a relation are grouped by, or the column of a min() or max()."""
    for step in reversed(above):
        node = step.node
        if node.type not in _GROUPS:
            continue
        if step.groups and all(_reads(one, aliases) for one in step.groups):
            return _once(step.groups)
        extreme = _EXTREME.fullmatch(node.output[0]) if len(node.output) == 1 else None
        if not node.group_keys and extreme is not None:
            text = extreme[1]
            # A plan of one relation prints its output without the alias.
            one = _operand(text) if "." in text else Operand(f"{scan.alias}.{text}", ())
            one = one and _operand(one.text)
            if one is not None and _reads(one, aliases) and not holds_value(one.text):
                return (one,)
    return ()


def _operand(text: str) -> Operand | None:
    try:
        return operand(bare(text))
    except SqlglotError:
        return None


def _needed(plan: Plan, schema: Schema) -> _Needed | None:
    """Return the columns that a statement needs of each alias, None if it needs whole rows.

    A scan below another step may hand on more than is needed, so what counts is what the steps
    above it print.
    """
    if not plan.only_reads:
        return None
    scan = plan.scans[0] if len(plan.scans) == 1 else None
    alone = schema.get(scan.qualified_relation) if scan else None
    needed: defaultdict[str, dict[str, int]] = defaultdict(dict)
    places, conditions = count(), predicates(plan)
    for node in plan.nodes:
        hands_on = node.output if node is plan.root or node.relation is None else ()
        texts = [*hands_on, *node.sort_keys, *node.group_keys]
        printed = [(text, conjuncts(text)) for text in texts]
        printed += [
            (text, found)
            for (_, text), (_, found) in zip(node.conditions, conditions[id(node)], strict=True)
        ]
        for text, found in printed:
            if not found:
                return None
            sides = [side for one in found for side in (one.left, one.right)]
            columns = [column for side in sides for column in side.columns]
            for alias, name in (*columns, *_whole_rows(text)):
                needed[alias].setdefault(name, next(places))
            if scan is not None and alone is not None:
                words = {token.text for token in tokenize(text).tokens}
                for column in alone.columns:
                    if column.name in words:
                        needed[scan.alias or ""].setdefault(column.name, next(places))
    return needed


def _whole_rows(text: str) -> Iterator[tuple[str, str]]:
    """Yield each alias of which a text has the whole row, as in `t.*`, with that star."""
    tokens = tokenize(text).tokens if ".*" in text else ()
    for alias, dot, star in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if dot.token_type is TokenType.DOT and star.token_type is TokenType.STAR:
            yield alias.text, _STAR


def _read(needed: _Needed, aliases: frozenset[str], relation: Relation) -> tuple[str, ...] | None:
    """Return the columns that a statement needs of a relation, None if it needs whole rows."""
    found = [(place, name) for one in aliases for name, place in needed.get(one, {}).items()]
    names = dict.fromkeys(name for _, name in sorted(found))
    if _STAR in names:
        return None
    return tuple(name for name in names if relation.column(name) is not None)
