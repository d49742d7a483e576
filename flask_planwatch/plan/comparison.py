"""What a plan compares with the columns of each relation, and where it does so."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from sqlglot.tokens import TokenType

from .memory import kept_for_plans
from .predicate import FLIPPED, Conjunct, Operand, predicates, tokenize
from .schema import Relation, Schema
from .tree import INDEX_CONDITIONS, JOIN_CONDITIONS, Node, Plan

#: Scans that an index could replace.
SCANS = frozenset({"Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan"})

#: Nobody creates indexes on these.
SYSTEM_SCHEMAS = frozenset({"pg_catalog", "information_schema", "pg_toast"})

#: An index scan that costs less finds few rows, so what it filters afterwards is cheap.
#: dexter (https://github.com/ankane/dexter) leaves statements below this cost alone.
MIN_INDEX_SCAN_COST = 100.0

#: Casts that change a type's label and nothing else: an index on the column still serves.
RELABELLED = frozenset(
    {("character varying", "text"), ("character varying[]", "text[]"), ("cidr", "inet")}
)

_NUMBERED = re.compile(r"_\d+$")

_TRUE = Operand("true", ())
_FALSE = Operand("false", ())
_NULL = Operand("NULL", ())


@dataclass(frozen=True, eq=False)
class Comparison:
    """One side of a predicate that reads a single relation.

    `scan` reads that relation, `relation` is what the catalog says of it; `node` tests the
    predicate, as a condition of this `kind`. `operator` reads as if `operand` stood on the left:
    a comparison, `= ANY`, `IS NULL`, `IS NOT NULL`, or nothing if the predicate has none.
    `conjunct` is the whole predicate, `loops` how often the scan is expected to run. `other_side`
    is the side of a join that the scan is not on, None if the node compares no two sides.
    """

    scan: Node
    relation: Relation
    node: Node
    kind: str
    conjunct: Conjunct
    operand: Operand
    other: Operand
    operator: str
    loops: float = 1.0
    other_side: Node | None = None

    @property
    def answered(self) -> bool:
        """Whether an index finds the rows, instead of each row being tested."""
        return self.kind in INDEX_CONDITIONS

    @cached_property
    def column(self) -> str | None:
        """The column if the operand is nothing but one; see plain_column."""
        return plain_column(self.operand, self.relation)

    @property
    def joins(self) -> bool:
        """Whether the node is a join that compares its two sides."""
        return self.other_side is not None

    @property
    def keeps_every_row(self) -> bool:
        """Whether a join needs each row of the scan, whether it has a match or not."""
        outer = self.joins and self.other_side is self.node.children[1]
        kept = {"Left", "Anti", "Full"} if outer else {"Right", "Right Anti", "Full"}
        return self.joins and self.node.join_type in kept

    @property
    def condition(self) -> str:
        """The whole predicate as the condition of a partial index would have it."""
        return self.conjunct.condition

    def of(self, conjunct: Conjunct) -> Iterator[Comparison]:
        """Yield the comparisons in a part of this predicate, tested at the same place."""
        for operand, other, operator in _sides(conjunct):
            if operand.aliases == {self.scan.alias}:
                yield replace(
                    self, conjunct=conjunct, operand=operand, other=other, operator=operator
                )

    @property
    def costly(self) -> bool:
        """Whether the predicate is tested on so many rows that an index could spare work."""
        if self.answered:
            return False
        if self.joins:
            return self.scan.reads_all_rows and not self.keeps_every_row
        if self.node is not self.scan:
            return False
        return self.scan.reads_all_rows or self.scan.total_cost >= MIN_INDEX_SCAN_COST

    @property
    def repeated(self) -> bool:
        """Whether it is tested on what an index finds, but so often that this costs a lot."""
        if self.answered or self.node is not self.scan or self.costly:
            return False
        return self.scan.total_cost * self.loops >= MIN_INDEX_SCAN_COST


# The rules ask it of the same few plans, one after the other.
@kept_for_plans(2)
def comparisons(plan: Plan, schema: Schema) -> tuple[Comparison, ...]:
    """Return each comparison with one relation's columns on a side, in the order of the plan.

    Relations on which nobody creates an index are left out, and so is what PostgreSQL reads as a
    sub-query's result.
    """
    return tuple(_comparisons(plan, schema))


def _comparisons(plan: Plan, schema: Schema) -> Iterator[Comparison]:
    places = {id(node): place for place, node in enumerate(plan.nodes)}
    scans: dict[str, Node] = {}
    for reader in plan.scans:
        if reader.alias and reader.type in SCANS:
            scans[reader.alias] = reader
            # What joins or sorts the partitions together names their parent.
            scans.setdefault(family_alias(reader, schema), reader)
    for node in plan.nodes:
        for kind, conjuncts in predicates(plan)[id(node)]:
            for conjunct in conjuncts:
                for operand, other, operator in _sides(conjunct):
                    scan = _scan_of(operand, other, scans)
                    relation = schema.get(scan.qualified_relation) if scan else None
                    if scan is not None and relation is not None and _can_have_index(relation):
                        yield Comparison(
                            scan,
                            relation,
                            node,
                            kind,
                            conjunct,
                            operand,
                            other,
                            operator,
                            plan.loops[id(scan)],
                            _other_side(node, scan, places) if kind in JOIN_CONDITIONS else None,
                        )


def family_alias(scan: Node, schema: Schema) -> str:
    """Return the alias that a statement gives to a table; PostgreSQL numbers its partitions."""
    relation = schema.get(scan.qualified_relation)
    alias = scan.alias or ""
    if relation is None or relation.root == relation.key:
        return alias
    return _NUMBERED.sub("", alias)


def plain_column(operand: Operand, relation: Relation) -> str | None:
    """Return the column that an operand is, also in a cast that only changes its type's label."""
    if operand.cast_column is None:
        return operand.column
    name, target = operand.cast_column
    column = relation.column(name)
    if column is None:
        return None
    base = re.sub(r"\([^()]*+\)", "", column.type)
    wanted = re.sub(r"\([^()]*+\)", "", target)
    return name if base == wanted or (base, wanted) in RELABELLED else None


def key_of(operand: Operand, relation: Relation) -> str:
    """Return an operand as the key of an index: the quoted column, or the expression as printed."""
    name = plain_column(operand, relation)
    return relation.quoted_column(name) if name is not None else operand.without_alias()


def _other_side(join: Node, scan: Node, places: Mapping[int, int]) -> Node | None:
    """Return the side of a join that the scan is not on; `places` are those of all nodes."""
    if len(join.children) < 2:
        return None
    outer, inner = join.children[:2]
    # What is below the outer side stands before the inner one.
    on_outer = places[id(outer)] <= places[id(scan)] < places[id(inner)]
    return inner if on_outer else outer


def _sides(conjunct: Conjunct) -> Iterator[tuple[Operand, Operand, str]]:
    """Yield each operand with its opposite, and the operator between them."""
    operator = conjunct.operator
    if operator == "= ANY":
        # Of an IN list only the left side; of a column that is an array, the right one.
        yield conjunct.left, conjunct.right, operator
        yield conjunct.right, conjunct.left, "ANY ="
    elif operator:
        yield conjunct.left, conjunct.right, operator
        yield conjunct.right, conjunct.left, FLIPPED.get(operator, operator)
    else:
        yield _without_operator(conjunct)


def _without_operator(conjunct: Conjunct) -> tuple[Operand, Operand, str]:
    """Read a test for NULL, or a boolean column that stands alone or after NOT."""
    tokens = tokenize(conjunct.text).tokens
    kinds = [token.token_type for token in tokens]
    whole = conjunct.left
    if kinds[-2:] == [TokenType.IS, TokenType.NULL]:
        return _cut(whole, 0, tokens[-2].start), _NULL, "IS NULL"
    if kinds[-3:] == [TokenType.IS, TokenType.NOT, TokenType.NULL]:
        return _cut(whole, 0, tokens[-3].start), _NULL, "IS NOT NULL"
    if kinds[-2:-1] == [TokenType.IS] and kinds[-1] in (TokenType.TRUE, TokenType.FALSE):
        value = _TRUE if kinds[-1] is TokenType.TRUE else _FALSE
        return _cut(whole, 0, tokens[-2].start), value, "="
    if kinds[:1] == [TokenType.NOT]:
        inner = _cut(whole, tokens[0].end + 1, len(whole.text))
        return (inner, _FALSE, "=") if inner.column else (whole, _NULL, "")
    return (whole, _TRUE, "=") if whole.column else (whole, _NULL, "")


def _cut(operand: Operand, start: int, end: int) -> Operand:
    return Operand(operand.text[start:end].strip(), operand.columns)


def _scan_of(operand: Operand, other: Operand, scans: dict[str, Node]) -> Node | None:
    """Return the scan whose relation alone the operand reads, and the other side does not."""
    if len(operand.aliases) != 1 or operand.aliases & other.aliases:
        return None
    return scans.get(next(iter(operand.aliases)))


def _can_have_index(relation: Relation) -> bool:
    return relation.indexable and relation.schema not in SYSTEM_SCHEMAS
