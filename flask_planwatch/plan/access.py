"""What a statement asks of each relation that it reads: compared, joined, sorted and read columns.

Rules ask which of it no index answers; the candidates for an index are made from all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from sqlglot.errors import SqlglotError

from .comparison import SCANS, Comparison, comparisons, family_alias
from .pattern import access_method
from .predicate import PARTIAL_OPERATORS, Operand, bare, operand, tokenize
from .schema import Relation, Schema
from .tree import Node, Plan

#: A step above which rows are no longer those of the relations below it.
_COMBINES = frozenset({"Aggregate", "Group", "SetOp", "WindowAgg", "ProjectSet"})

#: Comparisons that leave the rows sorted by the index's next key.
EQUAL = frozenset({"=", "= ANY", "IS NULL"})

#: Comparisons that leave a stretch of the index.
RANGES = frozenset({"<", "<=", ">", ">=", "IS NOT NULL"})

_DIRECTION = re.compile(r"( DESC)?(?: NULLS (FIRST|LAST))?$")
_EXTREME = re.compile(r"(?:PARTIAL )?(?:min|max)\((.*)\)")


@dataclass(frozen=True)
class SortTerm:
    """A column or expression that rows are sorted by, and where NULLs go, stated or not."""

    operand: Operand
    descending: bool
    nulls_first: bool


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


def accesses(plan: Plan, schema: Schema) -> list[Access]:
    """Return what the statement asks of each relation; partitions count as one."""
    compared: dict[str, list[Comparison]] = {}
    for comparison in comparisons(plan, schema):
        alias = family_alias(comparison.scan, schema)
        compared.setdefault(alias, []).append(comparison)
    families: dict[str, list[Node]] = {}
    for scan in plan.scans:
        if scan.alias and scan.type in SCANS and schema.get(scan.qualified_relation):
            families.setdefault(family_alias(scan, schema), []).append(scan)
    found: dict[tuple[object, ...], Access] = {}
    for alias, scans in families.items():
        access = _access(plan, schema, alias, scans, compared.get(alias, []))
        first = found.setdefault(access.asked, access)
        if first is not access:
            found[access.asked] = _together(first, access)
    return list(found.values())


def reference_access(relation: Relation, keys: Iterable[str]) -> Access:
    """Return what the check of a foreign key asks of the referring relation."""
    return Access(relation, (), equal=tuple(operand(f"x.{key}") for key in keys))


def _together(first: Access, second: Access) -> Access:
    """Return two accesses that ask the same, of two partitions or under two aliases, as one."""
    return replace(
        first,
        scans=(*first.scans, *second.scans),
        untold=(*first.untold, *second.untold),
    )


def _access(
    plan: Plan, schema: Schema, alias: str, scans: list[Node], compared: list[Comparison]
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
    sort = _sort(plan, scans[0], aliases)
    return Access(
        relation=schema.root(relation),
        scans=tuple(scans),
        equal=_once(equal),
        listed=_once(listed),
        joined=_once(joined),
        ranged=tuple({one.operand.without_alias(): one for one in ranged}.values()),
        matched=tuple({one.operand.without_alias(): one for one in matched}.values()),
        sorted_by=_sort_terms(sort, aliases) if sort else (),
        walked=_walked(scans[0], relation) if plan.limited and sort is None else (),
        limited=sort is not None and plan.limited,
        grouped_by=_grouped_by(plan, scans[0], aliases),
        alternatives=tuple(alternatives),
        conditions=tuple(dict.fromkeys(conditions)),
        read=_read(plan, aliases, relation),
        untold=tuple(one for one in compared if one.costly or one.repeated),
    )


def _is_condition(comparison: Comparison) -> bool:
    """Whether a partial index may hold a predicate: no value stands in it, or btree has no use."""
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


def _sort(plan: Plan, scan: Node, aliases: frozenset[str]) -> Node | None:
    """Return the nearest step above a scan that sorts rows of this relation only."""
    nearest = None
    for node in plan.nodes:
        # An incremental one stops with the LIMIT.
        sorts = bool(node.sort_keys) and node.type != "Incremental Sort"
        if sorts and _sort_terms(node, aliases) and any(s is scan for s in _below(node)):
            nearest = node
    return nearest


def _below(node: Node) -> Iterator[Node]:
    """Yield what is below a node, but not what is combined into other rows on the way."""
    waiting = list(node.children)
    while waiting:
        current = waiting.pop()
        if current.type not in _COMBINES and current.subplan is None:
            yield current
            waiting.extend(current.children)


def _walked(scan: Node, relation: Relation) -> tuple[SortTerm, ...]:
    """Return the order that a scan delivers by walking a whole index, as a LIMIT lets it."""
    index = next((one for one in relation.indexes if one.name == scan.index), None)
    if not scan.reads_all_rows or index is None or not index.plain:
        return ()
    names = [relation.quoted_column(name) for name in index.keys if relation.column(name)]
    operands = [operand(f'"{scan.alias}".{name}') for name in names]
    return tuple(SortTerm(one, descending=False, nulls_first=False) for one in operands)


def _sort_terms(node: Node, aliases: frozenset[str]) -> tuple[SortTerm, ...]:
    """Return the sort keys, or nothing if one is not of this relation alone."""
    terms = []
    for key in node.sort_keys:
        direction = _DIRECTION.search(key)
        assert direction is not None
        text = key[: direction.start()]
        one = _operand(text)
        if one is None or not _reads(one, aliases) or " COLLATE " in text or " USING " in text:
            return ()
        descending = direction[1] is not None
        nulls_first = direction[2] == "FIRST" if direction[2] else descending
        terms.append(SortTerm(one, descending, nulls_first))
    return tuple(terms)


def _reads(one: Operand, aliases: frozenset[str]) -> bool:
    return bool(one.aliases) and one.aliases <= aliases


def _grouped_by(plan: Plan, scan: Node, aliases: frozenset[str]) -> tuple[Operand, ...]:
    """Return what the rows of a relation are grouped by, or the column of a min() or max()."""
    for node in plan.nodes:
        if node.type not in {"Aggregate", "Group", "Unique"}:
            continue
        if not any(below is scan for below in _below(node)):
            continue
        keys = [_operand(key) for key in node.group_keys]
        if keys and all(one is not None and _reads(one, aliases) for one in keys):
            return _once(one for one in keys if one is not None)
        if not keys and len(node.output) == 1 and (extreme := _EXTREME.fullmatch(node.output[0])):
            text = extreme[1]
            # A plan of one relation prints its output without the alias.
            one = _operand(text) if "." in text else Operand(f"{scan.alias}.{text}", ())
            one = one and _operand(one.text)
            if one is not None and _reads(one, aliases):
                return (one,)
    return ()


def _operand(text: str) -> Operand | None:
    try:
        return operand(bare(text))
    except SqlglotError:
        return None


def _read(plan: Plan, aliases: frozenset[str], relation: Relation) -> tuple[str, ...] | None:
    """Return the columns that a statement needs of a relation, None if it needs whole rows.

    A scan below another step may hand on more than is needed, so what counts is what the steps
    above it print.
    """
    if any(node.type in {"ModifyTable", "LockRows"} for node in plan.nodes):
        return None
    alone = len(plan.scans) == 1
    needed: dict[str, None] = {}
    for node in plan.nodes:
        hands_on = node.output if node is plan.root or node.relation is None else ()
        keys = (*node.sort_keys, *node.group_keys)
        for text in (*hands_on, *keys, *(condition for _, condition in node.conditions)):
            one = _operand(text)
            if one is None or any(f"{alias}.*" in text for alias in aliases):
                return None
            needed.update((name, None) for alias, name in one.columns if alias in aliases)
            if alone:
                words = {token.text for token in tokenize(text).tokens}
                needed.update((c.name, None) for c in relation.columns if c.name in words)
    return tuple(name for name in needed if relation.column(name) is not None)
