"""What a plan compares with the columns of each relation, and where it does so."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from .figures import MIN_INDEX_SCAN_COST
from .memory import kept_for_plans
from .predicate import FLIPPED, Conjunct, Operand, bare, conjuncts, predicates, tokens_in
from .schema import Relation, Schema, base_type
from .tree import INDEX_CONDITIONS, JOIN_CONDITIONS, Node, Plan

#: Scans that an index could replace.
SCANS = frozenset({"Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan"})

#: Schemas in which nobody creates indexes.
SYSTEM_SCHEMAS = frozenset({"pg_catalog", "information_schema", "pg_toast"})

#: Casts that change a type's label and nothing else: an index on the column still serves.
RELABELLED = frozenset(
    {("character varying", "text"), ("character varying[]", "text[]"), ("cidr", "inet")}
)

_NUMBERED = re.compile(r"_\d+$")

#: A literal as a plan prints it: a text in quotes or a number, perhaps with its type.
_CONSTANT = re.compile(
    r"""(?:'(?P<text>(?:[^']++|'')*+)'|(?P<number>\d[\d.]*+))
    (?:::(?P<type>[\w\s".,()\[\]]++))?""",
    re.VERBOSE,
)
#: The members of an array of numbers, or of words that need no quotes.
_MEMBERS = re.compile(r"\{([^{}\"\\]*+)\}")

_TRUE = Operand("true", ())
_FALSE = Operand("false", ())
_NULL = Operand("NULL", ())

#: How PostgreSQL prints tests without an operator, and what they compare with.
_ENDINGS = {
    " IS NULL": (_NULL, "IS NULL"),
    " IS NOT NULL": (_NULL, "IS NOT NULL"),
    " IS TRUE": (_TRUE, "="),
    " IS FALSE": (_FALSE, "="),
}


@dataclass(frozen=True, eq=False)
class Comparison:
    """One side of a predicate that reads a single relation.

    `scan` reads that relation, `relation` is what the catalog says of it; `node` tests the
    predicate, as a condition of this `kind`. `conjunct` is the whole predicate, with `operand` on
    one side and `other` on the opposite one. `operator` is a comparison with `operand` on its left,
    `= ANY`, `IS NULL`, `IS NOT NULL`, or nothing if the predicate has none. `loops` is how often
    the scan is expected to run. If the node joins two sides, `other_side` is the one without the
    scan, else None. `of_index`: it is the condition of the partial index that the scan reads, which
    PostgreSQL tests once more on rows that it locks.
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
    of_index: bool = False

    @property
    def said(self) -> tuple[str, str, str]:
        """What it says of a row, which is the same for all partitions of a table."""
        return self.operand.without_alias(), self.operator, self.other.text

    @property
    def answered(self) -> bool:
        """Whether an index finds the rows, so that not each row is tested."""
        return self.kind in INDEX_CONDITIONS or self.of_index

    # All rules ask for it: it saves 0.1 ms of an inspection of 26 ms.
    @cached_property
    def column(self) -> str | None:
        """The column if the operand is just a column; see plain_column."""
        return plain_column(self.operand, self.relation)

    @property
    def depends_on_row(self) -> bool:
        """Whether the other side is a sub-query that runs for each row, so that no index helps."""
        text = self.other.text
        return "SubPlan" in text and any(token.text == "SubPlan" for token in tokens_in(text))

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

    # See Conjunct.
    @cached_property
    def alternatives(self) -> tuple[tuple[Comparison, ...], ...]:
        """The comparisons of each branch if OR joins several, else nothing."""
        return tuple(
            tuple(
                replace(self, conjunct=test, operand=operand, other=other, operator=operator)
                for test in branch
                for operand, other, operator in _sides(test)
                if operand.aliases == {self.scan.alias}
            )
            for branch in self.conjunct.alternatives
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
        """Whether it is tested on the few rows that an index finds, but so often that it costs."""
        if self.answered or self.node is not self.scan or self.costly:
            return False
        return self.scan.total_cost * self.loops >= MIN_INDEX_SCAN_COST


# All rules ask it of the same plan: 0.4 ms.
@kept_for_plans(2)
def comparisons(plan: Plan, schema: Schema) -> tuple[Comparison, ...]:
    """Return each comparison with one relation's columns on a side, in the order of the plan.

    Relations on which nobody creates an index are left out, and so are results of sub-queries.
    """
    return tuple(_comparisons(plan, schema))


def _comparisons(plan: Plan, schema: Schema) -> Iterator[Comparison]:
    positions = {id(node): position for position, node in enumerate(plan.nodes)}
    scans: dict[str, Node] = {}
    for reader in plan.scans:
        if reader.alias and reader.type in SCANS:
            scans[reader.alias] = reader
            # Steps above the partitions name their parent.
            scans.setdefault(family_alias(reader, schema), reader)
    for node in plan.nodes:
        for kind, tests in predicates(plan)[id(node)]:
            for conjunct in tests:
                for operand, other, operator in _sides(conjunct):
                    scan = _scan_of(operand, other, scans)
                    relation = schema.get(scan.qualified_relation) if scan else None
                    own = relation is not None and relation.schema not in SYSTEM_SCHEMAS
                    if scan is not None and relation is not None and own and relation.indexable:
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
                            _other_side(node, scan, positions) if kind in JOIN_CONDITIONS else None,
                            node is scan and conjunct.condition in _held(scan, relation),
                        )


def _held(scan: Node, relation: Relation) -> set[str]:
    """Return the conditions that all rows of the index meet that a scan reads."""
    index = relation.index(scan.index)
    predicate = index.predicate if index is not None else None
    return {held.condition for held in conjuncts(predicate)} if predicate else set()


def family_alias(scan: Node, schema: Schema) -> str:
    """Return the alias that a statement gives to a table; PostgreSQL numbers its partitions."""
    relation = schema.get(scan.qualified_relation)
    alias = scan.alias or ""
    if relation is None or relation.root == relation.key:
        return alias
    return _NUMBERED.sub("", alias)


@dataclass(frozen=True)
class Constant:
    """A literal that a plan compares with: what it says, and its type, "" if none is printed."""

    value: str
    type: str

    @property
    def members(self) -> tuple[str, ...]:
        """The members of an array, or the value alone; nothing if they cannot be told apart."""
        if not self.type.endswith("[]"):
            return (self.value,)
        found = _MEMBERS.fullmatch(self.value)
        return tuple(found[1].split(",")) if found and found[1] else ()


def constant(operand: Operand) -> Constant | None:
    """Return the literal that an operand is, None if it is anything else."""
    found = _CONSTANT.fullmatch(bare(operand.text))
    if found is None:
        return None
    value = found["number"] if found["text"] is None else found["text"].replace("''", "'")
    return Constant(value, found["type"] or "")


def plain_column(operand: Operand, relation: Relation) -> str | None:
    """Return the column that an operand is, also in a cast that only changes its type's label."""
    if operand.cast_column is None:
        return operand.column
    name, target = operand.cast_column
    column = relation.column(name)
    types = (column.base_type, base_type(target)) if column else ("", target)
    return name if types[0] == types[1] or types in RELABELLED else None


def key_of(operand: Operand, relation: Relation) -> str:
    """Return an operand as the key of an index: the quoted column, or the expression as printed."""
    name = plain_column(operand, relation)
    return relation.quoted_column(name) if name is not None else operand.without_alias()


def _other_side(join: Node, scan: Node, positions: Mapping[int, int]) -> Node | None:
    """Return the side of a join that the scan is not on; `positions` are those of all nodes."""
    if len(join.children) < 2:
        return None
    outer, inner = join.children[:2]
    # Nodes below the outer side come before the inner one.
    on_outer = positions[id(outer)] <= positions[id(scan)] < positions[id(inner)]
    return inner if on_outer else outer


def _sides(conjunct: Conjunct) -> Iterator[tuple[Operand, Operand, str]]:
    """Yield each operand with its opposite, and the operator between them."""
    operator = conjunct.operator
    if operator == "= ANY":
        # The left side of IN (...), the right side where a column is the array.
        yield conjunct.left, conjunct.right, operator
        yield conjunct.right, conjunct.left, "ANY ="
    elif operator:
        yield conjunct.left, conjunct.right, operator
        yield conjunct.right, conjunct.left, FLIPPED.get(operator, operator)
    else:
        yield _without_operator(conjunct)


def _without_operator(conjunct: Conjunct) -> tuple[Operand, Operand, str]:
    """Read a test for NULL, or a boolean column alone or after NOT."""
    whole = conjunct.left
    for ending, (other, operator) in _ENDINGS.items():
        if whole.text.endswith(ending):
            return Operand(whole.text.removesuffix(ending), whole.columns), other, operator
    inner = Operand(whole.text.removeprefix("NOT "), whole.columns)
    negated = inner.text != whole.text
    return (inner, _FALSE if negated else _TRUE, "=") if inner.column else (whole, _NULL, "")


def _scan_of(operand: Operand, other: Operand, scans: dict[str, Node]) -> Node | None:
    """Return the scan of the only relation that the operand reads, if the other side does not."""
    if len(operand.aliases) != 1 or operand.aliases & other.aliases:
        return None
    return scans.get(next(iter(operand.aliases)))
