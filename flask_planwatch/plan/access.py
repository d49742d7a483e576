"""What a statement asks of each relation that it reads: compared, joined, sorted and read columns.

Rules ask what no index answers; candidates for an index are made from all of it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TypeAlias

from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType

from .comparison import SCANS, Comparison, comparisons, family_alias, key_of
from .counted_order import counted_sorts
from .memory import kept_for_plans
from .parallel import APPENDS
from .pattern import access_method
from .predicate import (
    PARTIAL_OPERATORS,
    Conjunct,
    Operand,
    bare,
    conjuncts,
    operand,
    predicates,
    tokens_in,
)
from .schema import Relation, Schema
from .scrub import holds_value, mask
from .tree import Node, Plan

#: A step that combines the rows below it into others.
_COMBINES = frozenset({"Aggregate", "Group", "SetOp", "WindowAgg", "ProjectSet"})

#: Comparisons that leave the rows sorted by the index's next key.
EQUAL = frozenset({"=", "= ANY", "IS NULL"})

#: Those of them with one value, which alone leave all rows in the order of the index's next key.
ONE_VALUE = EQUAL - {"= ANY"}

#: Comparisons that leave a stretch of the index.
RANGES = frozenset({"<", "<=", ">", ">=", "IS NOT NULL"})

#: A step that makes one row of several that are alike.
_GROUPS = frozenset({"Aggregate", "Group", "Unique"})

#: Stands for all columns.
_STAR = "*"

_DIRECTION = re.compile(r"( DESC)?(?: NULLS (FIRST|LAST))?$")
_COLLATION = re.compile(r' COLLATE ("(?:[^"]|"")+"|\w+)$')
_OF_THE_TYPE = '"default"'
_EXTREME = re.compile(r"\A(?:PARTIAL )?(?:min|max)\((.*)\)")


@dataclass(frozen=True)
class SortTerm:
    """A column or expression that rows are sorted by, and where NULLs go, stated or not.

    `collation` is the one that a column is sorted by, as SQL; "" for that of its type.
    """

    operand: Operand
    descending: bool
    nulls_first: bool
    collation: str = ""

    def collation_on(self, relation: Relation) -> str:
        """Return the collation as SQL if it is not that of the relation's column, else ""."""
        column = relation.column(self.operand.column or "")
        if column is None or column.collation == self.collation:
            return ""
        return self.collation or _OF_THE_TYPE

    def key_on(self, relation: Relation) -> str:
        """Return it as the key of an index on the relation."""
        key, collation = key_of(self.operand, relation), self.collation_on(relation)
        return f"{key} COLLATE {collation}" if collation else key


@dataclass(frozen=True)
class _Step:
    """A step that sorts or groups rows, and by what, if all of it can be read."""

    node: Node
    sorts: tuple[SortTerm, ...]
    groups: tuple[Operand, ...]


#: The nearest of some steps, and those above it.
_Above: TypeAlias = "tuple[_Step, _Above] | None"


@dataclass(frozen=True)
class Printed:
    """A text that a node prints: of its output, what it sorts or groups by, or a predicate.

    `position` counts all texts of the plan. `columns` are the alias and the name of each column in
    it; the star of a whole row is one. `test` is the predicate, if the node tests it.
    """

    position: int
    node: Node
    text: str
    columns: tuple[tuple[str, str], ...]
    test: Conjunct | None = None


@dataclass(frozen=True)
class Access:
    """What a statement asks of one relation under one alias.

    `relation` is the table that a person would name. `equal` are compared by equality with one
    value, `listed` with several, `joined` with other relations' columns, `ranged` by order or by
    the beginning of a text; `matched` need an index of another kind than btree. `sorted_by` is the
    order that the statement wants of this relation alone, `index_order` the order in which an index
    is read already, and `limited` whether it stops after some rows. `grouped_by` is what GROUP BY
    and DISTINCT need in order; of each of `extremes`, only the first or last row is asked for, by
    min() or max(). `alternatives` are the predicates that OR joins, for
    each branch. `conditions` are the predicates that no btree answers, as a partial index could
    hold them. `unique` are the keys of each unique index that are all compared by equality, so that
    it finds one row at most. `read` are all columns that the statement needs, None if not known;
    `printed` are then the texts of the plan that name one.
    """

    relation: Relation
    scans: tuple[Node, ...]
    equal: tuple[Operand, ...] = ()
    listed: tuple[Operand, ...] = ()
    joined: tuple[Operand, ...] = ()
    ranged: tuple[Comparison, ...] = ()
    matched: tuple[Comparison, ...] = ()
    sorted_by: tuple[SortTerm, ...] = ()
    index_order: tuple[SortTerm, ...] = ()
    limited: bool = False
    grouped_by: tuple[Operand, ...] = ()
    extremes: tuple[Operand, ...] = ()
    alternatives: tuple[tuple[Comparison, ...], ...] = ()
    conditions: tuple[str, ...] = ()
    unique: tuple[tuple[str, ...], ...] = ()
    read: tuple[str, ...] | None = None
    #: The comparisons that no index answers, so that they are tested on many rows.
    unanswered: tuple[Comparison, ...] = field(default=(), compare=False)
    printed: tuple[Printed, ...] = field(default=(), compare=False)

    @property
    def identity(self) -> tuple[object, ...]:
        """What is the same for accesses that differ only in their alias."""
        return (
            self.relation.key,
            texts(self.equal),
            texts(self.listed),
            texts(self.joined),
            texts(comparison.operand for comparison in self.ranged),
            texts(comparison.operand for comparison in self.matched),
            texts(term.operand for term in self.sorted_by),
            tuple(term.collation for term in self.sorted_by),
            texts(self.grouped_by),
            texts(self.extremes),
            self.conditions,
            self.unique,
        )


def texts(operands: Iterable[Operand]) -> tuple[str, ...]:
    """Return the operands without their aliases, each once."""
    return tuple(dict.fromkeys(operand.without_alias() for operand in operands))


# Rules and fixes ask for it: 0.4 ms.
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
    steps, printed = _steps_above(plan), _printed(plan)
    found: dict[tuple[object, ...], list[Access]] = {}
    for alias, scans in families.items():
        relation = schema.relations[scans[0].qualified_relation or ""]
        aliases = frozenset({alias, *(scan.alias or "" for scan in scans)})
        access = _access(plan, schema, relation, aliases, scans, compared.get(alias, []), steps)
        if printed is not None:
            access = _with_columns(access, relation, aliases, printed)
        found.setdefault(access.identity, []).append(access)
    return tuple(map(_together, found.values()))


def reference_access(relation: Relation, keys: Iterable[str]) -> Access:
    """Return what the check of a foreign key asks of the referring relation."""
    return Access(relation, (), equal=tuple(operand(f"x.{key}") for key in keys))


def _together(alike: list[Access]) -> Access:
    """Return accesses that ask the same under several aliases as one."""
    return replace(
        alike[0],
        scans=tuple(scan for access in alike for scan in access.scans),
        unanswered=tuple(comparison for access in alike for comparison in access.unanswered),
        printed=_in_order(text for access in alike for text in access.printed),
    )


def _access(
    plan: Plan,
    schema: Schema,
    relation: Relation,
    aliases: frozenset[str],
    scans: list[Node],
    compared: list[Comparison],
    steps: Mapping[int, _Above],
) -> Access:
    by_use: defaultdict[str, list[Comparison]] = defaultdict(list)
    for comparison in compared:
        by_use[_use(comparison)].append(comparison)
    conditions = [test.condition for test in compared if _is_condition(test)]
    above = list(_each(steps[id(scans[0])]))
    sort = _sorted_by(above, aliases)
    limited = plan.limits(scans)
    return Access(
        relation=schema.root(relation),
        scans=tuple(scans),
        equal=_once(test.operand for test in by_use["equal"]),
        listed=_once(test.operand for test in by_use["listed"]),
        joined=_once(test.operand for test in by_use["joined"]),
        ranged=_by_operand(by_use["ranged"]),
        matched=_by_operand(by_use["matched"]),
        sorted_by=sort,
        index_order=_index_order(scans[0], relation) if limited and not sort else (),
        limited=bool(sort) and limited,
        grouped_by=_grouped_by(above, aliases),
        extremes=_extremes(above, scans[0], aliases),
        alternatives=tuple(chain.from_iterable(map(_branches, by_use["alternatives"]))),
        conditions=tuple(dict.fromkeys(conditions)),
        unique=_unique_keys(relation, compared),
        unanswered=tuple(test for test in compared if test.costly or test.repeated),
    )


def _use(comparison: Comparison) -> str:
    """Return the field of an Access that a comparison belongs to."""
    if comparison.operator in EQUAL:
        if comparison.other.columns:
            return "joined"
        return "listed" if comparison.operator == "= ANY" else "equal"
    if comparison.operator in RANGES:
        return "ranged"
    method = access_method(comparison)
    if method is None:
        return "alternatives"
    return "ranged" if method.method == "btree" else "matched"


def _unique_keys(relation: Relation, compared: Iterable[Comparison]) -> tuple[tuple[str, ...], ...]:
    """Return the keys of the unique indexes that find one row at most, for one value or for each.

    IS NULL may find several.
    """
    matched = {test.column for test in compared if test.operator in {"=", "= ANY"}}
    return tuple(
        index.keys
        for index in relation.indexes
        if index.valid and index.unique and index.plain and index.predicate is None
        if matched >= {*index.keys}
    )


def _is_condition(comparison: Comparison) -> bool:
    """Whether a partial index may hold a predicate: it has no value, or btree has no use for it."""
    if comparison.joins or comparison.other.columns:
        return False
    if comparison.conjunct.alternatives:
        return not _branches(comparison) or mask(comparison.condition) == comparison.condition
    if comparison.other.text in {"NULL", "true", "false"}:
        return True
    return comparison.operator in PARTIAL_OPERATORS


def _once(operands: Iterable[Operand]) -> tuple[Operand, ...]:
    return tuple({operand.without_alias(): operand for operand in operands}.values())


def _by_operand(comparisons: Iterable[Comparison]) -> tuple[Comparison, ...]:
    """Return one comparison, the last, of each operand."""
    return tuple({found.operand.without_alias(): found for found in comparisons}.values())


def _branches(comparison: Comparison) -> list[tuple[Comparison, ...]]:
    """Return what OR joins, nothing if a branch has no predicate that an index could answer."""
    branches = [
        tuple(test for test in branch if test.operator in EQUAL | RANGES)
        for branch in comparison.alternatives
    ]
    return branches if all(branches) else []


def _steps_above(plan: Plan) -> Mapping[int, _Above]:
    """Return the steps that sort or group the rows of each node, by the id() of the node.

    Above a step that combines rows into others, they are no longer rows of the node. An order that
    has no effect is none.
    """
    counted = _in_counted_order(plan)
    above: dict[int, _Above] = {id(plan.root): None}
    for node in plan.nodes:
        step = above[id(node)]
        if (node.sort_keys and id(node) not in counted) or node.type in _GROUPS:
            step = (_step(node), step)
        for child in node.children:
            apart = child.type in _COMBINES or child.subplan is not None
            above[id(child)] = None if apart else step
    return above


def _in_counted_order(plan: Plan) -> set[int]:
    """Return the id() of each step whose order has no effect."""
    return {id(node) for steps in counted_sorts(plan) for node in steps}


def _each(above: _Above) -> Iterator[_Step]:
    """Yield steps, the nearest first."""
    while above is not None:
        step, above = above
        yield step


def _step(node: Node) -> _Step:
    keys = [None if holds_value(key) else _operand(key) for key in node.group_keys]
    groups = tuple(key for key in keys if key is not None)
    return _Step(node, sort_terms(node), groups if len(groups) == len(keys) else ())


def _sorted_by(above: Iterable[_Step], aliases: frozenset[str]) -> tuple[SortTerm, ...]:
    """Return the order of the nearest step that sorts by columns of this relation alone."""
    for step in above:
        # An Incremental Sort stops with the LIMIT.
        sorts = step.sorts and step.node.type != "Incremental Sort"
        if sorts and all(_reads(term.operand, aliases) for term in step.sorts):
            return step.sorts
    return ()


def _index_order(scan: Node, relation: Relation) -> tuple[SortTerm, ...]:
    """Return the order of a scan that reads an index from its start, as a LIMIT lets it."""
    index = relation.index(scan.index)
    if not scan.reads_all_rows or index is None or not index.plain:
        return ()
    columns = [column for name in index.keys if (column := relation.column(name))]
    return tuple(
        SortTerm(
            operand(f'"{scan.alias}".{column.quoted_name}'),
            descending=False,
            nulls_first=False,
            collation=column.collation,
        )
        for column in columns
    )


def sort_terms(node: Node) -> tuple[SortTerm, ...]:
    """Return the sort keys, or nothing if one of them is not what an index sorts by."""
    terms = []
    for key in node.sort_keys:
        direction = _DIRECTION.search(key)
        assert direction is not None
        text = key[: direction.start()]
        collation = _COLLATION.search(text)
        text = text[: collation.start()] if collation else text
        sorted_by = _operand(text)
        # Of an expression, the server does not print the collation as an index would have it.
        collated = collation is not None and (sorted_by is None or sorted_by.column is None)
        if sorted_by is None or holds_value(text) or collated or " USING " in text:
            return ()
        descending = direction[1] is not None
        nulls_first = direction[2] == "FIRST" if direction[2] else descending
        named = collation[1] if collation else ""
        terms.append(SortTerm(sorted_by, descending, nulls_first, named))
    return tuple(terms)


def order_keys(node: Node) -> Iterator[str]:
    """Yield the expressions that a step sorts or groups rows by, without aliases."""
    step = _step(node)
    for key in (*(term.operand for term in step.sorts), *step.groups):
        yield key.without_alias()


def _reads(key: Operand, aliases: frozenset[str]) -> bool:
    return bool(key.aliases) and key.aliases <= aliases


def _grouped_by(above: Sequence[_Step], aliases: frozenset[str]) -> tuple[Operand, ...]:
    """Return what the rows of a relation are grouped by."""
    for step in reversed(above):
        if step.groups and all(_reads(key, aliases) for key in step.groups):
            return _once(step.groups)
    return ()


def _extremes(above: Sequence[_Step], scan: Node, aliases: frozenset[str]) -> tuple[Operand, ...]:
    """Return the columns of which only the least or greatest value is asked for."""
    for step in reversed(above):
        node = step.node
        if node.type != "Aggregate" or node.group_keys:
            continue
        found = [_EXTREME.fullmatch(text) for text in node.output]
        # A plan of one relation prints its output without the alias.
        keys = [
            _operand(text if "." in text else f"{scan.alias}.{text}")
            for text in (extreme[1] for extreme in found if extreme)
        ]
        known = [key for key in keys if key and _reads(key, aliases) and not holds_value(key.text)]
        if known and len(known) == len(node.output):
            return _once(known)
    return ()


def _operand(text: str) -> Operand | None:
    try:
        return operand(bare(text))
    except SqlglotError:
        return None


def _printed(plan: Plan) -> Mapping[str, Sequence[Printed]] | None:
    """Return the texts that name columns, by the alias of their relation.

    None if the statement does more than read, or if a text cannot be read.
    """
    if not plan.only_reads:
        return None
    found: defaultdict[str, list[Printed]] = defaultdict(list)
    for position, (node, text, test) in enumerate(_texts(plan)):
        parts = (test,) if test else conjuncts(text)
        if not parts:
            return None
        printed = Printed(position, node, text, tuple(_columns(plan, text, parts)), test)
        for alias in {alias for alias, _ in printed.columns}:
            found[alias].append(printed)
    return found


def _texts(plan: Plan) -> Iterator[tuple[Node, str, Conjunct | None]]:
    """Yield what the nodes print, and the predicates that they test.

    A scan below another step may print more than is needed: what counts is what is above it.
    An Append prints nothing.
    """
    counted = _in_counted_order(plan)
    returned = {id(plan.root)}
    for node in plan.nodes:
        if id(node) in returned and node.type in APPENDS:
            returned.update(map(id, node.inputs))
        output = node.output if id(node) in returned or node.relation is None else ()
        if id(node) not in counted:
            yield from ((node, text, None) for text in (*output, *node.sort_keys, *node.group_keys))
        for (_, text), (_, tests) in zip(node.conditions, predicates(plan)[id(node)], strict=True):
            yield from ((node, test.text, test) for test in tests)
            if not tests:
                yield node, text, None


def _columns(plan: Plan, text: str, parts: Iterable[Conjunct]) -> Iterator[tuple[str, str]]:
    """Yield the alias and the name of each column in a text."""
    for part in parts:
        yield from (*part.left.columns, *part.right.columns)
    # The output of a plan of one relation has no alias before a column.
    alone = plan.scans[0].alias if len(plan.scans) == 1 else None
    tokens = tokens_in(text) if alone or ".*" in text else ()
    for alias, dot, star in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if dot.token_type is TokenType.DOT and star.token_type is TokenType.STAR:
            yield alias.text, _STAR
    if alone:
        yield from ((alone, token.text) for token in tokens if token.text != _STAR)


def _with_columns(
    access: Access,
    relation: Relation,
    aliases: frozenset[str],
    printed: Mapping[str, Sequence[Printed]],
) -> Access:
    """Return an access with the columns that the statement needs, unless it needs whole rows."""
    in_order = _in_order(text for alias in aliases for text in printed.get(alias, ()))
    named = [name for text in in_order for alias, name in text.columns if alias in aliases]
    if _STAR in named:
        return access
    read = tuple(name for name in dict.fromkeys(named) if relation.column(name) is not None)
    return replace(access, read=read, printed=in_order)


def _in_order(printed: Iterable[Printed]) -> tuple[Printed, ...]:
    """Return each text once, in the order of the plan."""
    by_position = {text.position: text for text in printed}
    return tuple(by_position[position] for position in sorted(by_position))
