"""The plan tree: what `EXPLAIN (FORMAT JSON, VERBOSE, SETTINGS, SUMMARY)` prints, as frozen data.

A node has only what this module names: unknown keys are left out, missing costs are 0. A plan of
thousands of levels is read without recursion.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .figures import SUB_QUERIES
from .parallel import ALONE, APPENDS, Share, leader_participates, shares
from .text import explain_text, items, nodes_below, number, quoted_identifier, text_of

#: The fields of a node that hold predicates.
CONDITIONS = (
    "Filter",
    "Index Cond",
    "Recheck Cond",
    "Hash Cond",
    "Merge Cond",
    "Join Filter",
    "One-Time Filter",
    "TID Cond",
)

#: The conditions that an index answers, as opposed to those tested on each row that was read.
INDEX_CONDITIONS = ("Index Cond", "Recheck Cond")

#: The conditions that compare the two sides of a join.
JOIN_CONDITIONS = ("Hash Cond", "Merge Cond", "Join Filter")

#: Steps that read all that is below them before they return a row.
READ_FIRST = frozenset(
    {"Aggregate", "Bitmap Heap Scan", "BitmapAnd", "BitmapOr", "Hash", "SetOp", "Sort"}
)


class UnreadablePlan(ValueError):
    """An object is not a plan of PostgreSQL's JSON format."""


@dataclass(frozen=True, eq=False)
class Node:
    """One step of a plan. Costs are the planner's units, of one worker in a parallel plan.

    `rows` are those that one run is expected to return; where the processes of a parallel plan
    share a step, all of them together are one run. A node is equal to itself only: comparing all
    that is below it would recurse too deeply.
    """

    type: str
    schema: str | None
    relation: str | None
    alias: str | None
    index: str | None
    startup_cost: float
    total_cost: float
    rows: float
    width: int
    parallel: bool
    join_type: str | None
    conditions: tuple[tuple[str, str], ...]
    subplan: str | None
    children: tuple[Node, ...]
    #: What the node is to its parent: `Outer`, `Inner`, `SubPlan`, `InitPlan` …
    relationship: str | None = None
    #: What the node sorts or groups by, and its output, as printed.
    sort_keys: tuple[str, ...] = ()
    group_keys: tuple[str, ...] = ()
    output: tuple[str, ...] = ()
    #: What a ModifyTable does: `Insert`, `Update`, `Delete` or `Merge`.
    operation: str | None = None
    #: The function that a Function Scan calls.
    function: str | None = None
    #: How the processes of a parallel plan share it.
    share: Share = ALONE
    #: The WITH query whose rows a CTE Scan reads.
    cte: str | None = None
    #: What EXPLAIN ANALYZE counted, None in other plans: rows per loop, loops, rows that a filter
    #: removed per loop, and the rows that an Index Only Scan had to look up in the table.
    actual_rows: float | None = None
    actual_loops: float | None = None
    removed_rows: float | None = None
    heap_fetches: float | None = None

    @property
    def qualified_relation(self) -> str | None:
        """`schema.relation` without quotes, as the plan names it; None for a node without one."""
        if self.relation is None:
            return None
        return f"{self.schema}.{self.relation}" if self.schema else self.relation

    @property
    def title(self) -> str:
        """The first line of the node in the text format."""
        name = f"Parallel {self.type}" if self.parallel else self.type
        if self.index:
            name += f" using {quoted_identifier(self.index)}"
        if self.relation:
            name += f" on {quoted_identifier(self.relation)}"
        return name

    @property
    def reads_all_rows(self) -> bool:
        """Whether it reads each row of its relation: no condition tells it where to look."""
        if self.type == "Seq Scan":
            return True
        if self.type in {"Index Scan", "Index Only Scan"}:
            return self.condition("Index Cond") is None
        return False

    @property
    def loops(self) -> float:
        """How often EXPLAIN ANALYZE saw it run, 0 in other plans."""
        return self.actual_loops or 0.0

    @property
    def returned_rows(self) -> float:
        """The rows that EXPLAIN ANALYZE saw it return in all its loops."""
        return (self.actual_rows or 0.0) * self.loops

    @property
    def read_rows(self) -> float:
        """The rows that it returned or discarded in all its loops, as EXPLAIN ANALYZE saw it."""
        return ((self.actual_rows or 0.0) + (self.removed_rows or 0.0)) * self.loops

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The steps right below it that are no sub-queries."""
        return tuple(step for step in self.children if step.relationship not in SUB_QUERIES)

    @property
    def outer(self) -> Node | None:
        """The outer side of a join, or the only input of another step; None without one."""
        return next((step for step in self.children if step.relationship == "Outer"), None)

    def condition(self, kind: str) -> str | None:
        """Return the predicate text of this kind, one of CONDITIONS, or None."""
        return dict(self.conditions).get(kind)

    def walk(self) -> Iterator[Node]:
        """Yield this node and all below it, parents first."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))


@dataclass(frozen=True)
class Plan:
    """The plan of one statement. `document` is the JSON that it was read from.

    What rules ask of each step is kept: of an inspection of 26 ms, `nodes` and `scans` save 0.4 ms
    each, `parents` 0.3 and `loops` 0.1. A plan with actual rows has `runs` and `ctes` as well.
    """

    root: Node
    document: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_json(cls, document: object) -> Plan:
        """Read the JSON of an EXPLAIN: a list of one object, that object, or its `Plan`.

        Raises UnreadablePlan if there is no plan node in it.
        """
        if isinstance(document, list) and document:
            document = document[0]
        if isinstance(document, Mapping) and not isinstance(document.get("Plan"), Mapping):
            document = {"Plan": document}
        if not isinstance(document, Mapping) or "Node Type" not in document["Plan"]:
            raise UnreadablePlan("no plan node found in what EXPLAIN returned")
        return cls(_read(document["Plan"], leader=leader_participates(document)), document)

    @cached_property
    def total_cost(self) -> float:
        """The estimated cost of the whole statement.

        PostgreSQL leaves out the sub-queries of ON CONFLICT, RETURNING and MERGE, which run for
        each row that is written.
        """
        return self.root.total_cost + sum(
            child.total_cost * max(sum(step.rows for step in node.inputs), 1.0)
            for node in self.nodes
            if node.type == "ModifyTable"
            for child in node.children
            if child.relationship == "SubPlan"
        )

    @property
    def planning_ms(self) -> float:
        """What the server took to plan it, in ms, 0 if that is not known."""
        return number(self.document, "Planning Time")

    @property
    def execution_ms(self) -> float | None:
        """What the server took to run it for EXPLAIN ANALYZE, in ms, None in other plans."""
        return _count(self.document, "Execution Time")

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, parents first."""
        return tuple(self.root.walk())

    @property
    def documents(self) -> tuple[Mapping[str, Any], ...]:
        """The JSON of all nodes, in their order."""
        return tuple(_walk(self.document["Plan"]))

    @cached_property
    def scans(self) -> tuple[Node, ...]:
        """The nodes that read a relation.

        A Bitmap Heap Scan reads it; the Bitmap Index Scans below it name no relation.
        """
        return tuple(
            node for node in self.nodes if node.relation is not None and node.type != "ModifyTable"
        )

    @property
    def shape(self) -> tuple[tuple[str, str | None, str | None], ...]:
        """The steps with the tables and indexes that they read."""
        return tuple((node.type, node.qualified_relation, node.index) for node in self.nodes)

    @property
    def analysed(self) -> bool:
        """Whether the statement was run for it, so that its nodes know actual rows and loops."""
        return self.root.actual_loops is not None

    @property
    def only_reads(self) -> bool:
        """Whether nothing in it writes or locks rows."""
        return not any(node.type in {"ModifyTable", "LockRows"} for node in self.nodes)

    def limits(self, scans: Iterable[Node]) -> bool:
        """Whether a step above one of the scans stops after a number of rows.

        They may be those of another plan of the statement: what counts is their alias.
        """
        names = {scan.alias for scan in scans}
        return any(
            above.type == "Limit"
            for scan in self.scans
            if scan.alias in names
            for above in self.steps_above(scan)
        )

    def steps_above(self, node: Node) -> Iterator[Node]:
        """Yield the steps that may stop a node before its end; an InitPlan runs as a whole."""
        above = self.parents.get(id(node))
        while above is not None:
            whole = node.relationship == "InitPlan" and not (node.subplan or "").startswith("CTE ")
            if whole:
                return
            yield above
            node, above = above, self.parents.get(id(above))

    @cached_property
    def loops(self) -> Mapping[int, float]:
        """How often each node is expected to run, by its id(): a join's inner side repeats.

        Processes that share a node are one run of it; one that each of them runs for itself has as
        many runs.
        """
        counts: dict[int, float] = {id(self.root): 1.0}
        for node in self.nodes:
            for child in node.children:
                times = runs_by_each_process(node, child)
                if node.type == "Nested Loop" and child.relationship == "Inner":
                    times = max(node.outer.rows, 1.0) if node.outer else 1.0
                counts[id(child)] = counts[id(node)] * times
        return counts

    @cached_property
    def runs(self) -> Mapping[int, float]:
        """How often EXPLAIN ANALYZE saw each node run, by its id(); see `loops` for processes."""
        counts: dict[int, float] = {}
        for node in self.nodes:
            own = counts.setdefault(id(node), node.loops)
            counts |= {id(child): own for child in node.children if child.share.shared}
        return counts

    def expected_rows(self, node: Node) -> float:
        """Return how many rows all runs of a node were expected to return, 0 if none was seen."""
        return node.rows * self.runs[id(node)]

    @cached_property
    def ctes(self) -> Mapping[int, Node]:
        """The step that makes the rows of each CTE Scan, by the id() of the scan.

        It is the innermost WITH query of that name around the scan.
        """
        queries: dict[int, dict[str, Node]] = {}
        for node in self.nodes:
            around = self.parents.get(id(node))
            if around is not None and node.relationship == "InitPlan" and node.subplan:
                queries.setdefault(id(around), {})[node.subplan] = node
        found: dict[int, Node] = {}
        for scan in self.nodes if queries else ():
            around = scan if scan.type == "CTE Scan" else None
            while around is not None:
                query = queries.get(id(around), {}).get(f"CTE {scan.cte}")
                if query is not None:
                    found[id(scan)] = query
                    break
                around = self.parents.get(id(around))
        return found

    @property
    def deleted_from(self) -> tuple[str, ...]:
        """The relations that rows are deleted from, as `schema.name`."""
        return tuple(
            node.qualified_relation
            for node in self.nodes
            if node.operation == "Delete" and node.qualified_relation
        )

    @cached_property
    def parents(self) -> Mapping[int, Node]:
        """The parent of each node, by the id() of the child."""
        return {id(child): node for node in self.nodes for child in node.children}

    def ordering(self, node: Node) -> Node | None:
        """Return the lowest step above a node that sorts or groups what comes from it."""
        above = self.parents.get(id(node))
        while above is not None and not above.sort_keys and not above.group_keys:
            above = self.parents.get(id(above))
        return above

    def as_text(self) -> str:
        """The plan as `EXPLAIN (VERBOSE)` prints it."""
        return explain_text(self.document)


def runs_by_each_process(node: Node, child: Node) -> float:
    """Return how many processes run a child for themselves in each run of its parent."""
    # Of an Append, one process takes what is not shared; of a bitmap, one reads the index.
    apart = node.type in APPENDS or node.type == "Bitmap Heap Scan"
    if not node.share.shared or child.share.shared or apart or child.relationship in SUB_QUERIES:
        return 1.0
    return node.share.processes


def _walk(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the JSON of a node and of all below it, parents first."""
    waiting = [document]
    while waiting:
        current = waiting.pop()
        yield current
        waiting.extend(reversed(nodes_below(current)))


def _read(document: Mapping[str, Any], *, leader: bool) -> Node:
    """Build the node and all below it, children first, without recursion."""
    documents = list(_walk(document))
    known = shares(documents, leader=leader)
    nodes: dict[int, Node] = {}
    for current in reversed(documents):
        below = tuple(nodes[id(child)] for child in nodes_below(current))
        nodes[id(current)] = _node(current, below, known[id(current)])
    return nodes[id(document)]


def _node(document: Mapping[str, Any], children: tuple[Node, ...], share: Share) -> Node:
    return Node(
        type=str(document["Node Type"]),
        schema=_text(document, "Schema"),
        relation=_text(document, "Relation Name"),
        alias=_text(document, "Alias"),
        index=_text(document, "Index Name"),
        startup_cost=number(document, "Startup Cost"),
        total_cost=number(document, "Total Cost"),
        rows=_rows(document, children, share),
        width=int(number(document, "Plan Width")),
        parallel=document.get("Parallel Aware") is True,
        join_type=_text(document, "Join Type"),
        conditions=tuple(
            (kind, document[kind]) for kind in CONDITIONS if isinstance(document.get(kind), str)
        ),
        subplan=_text(document, "Subplan Name"),
        children=children,
        sort_keys=tuple(items(document.get("Sort Key"), str)),
        group_keys=tuple(items(document.get("Group Key"), str)),
        output=tuple(items(document.get("Output"), str)),
        operation=_text(document, "Operation"),
        function=_text(document, "Function Name"),
        share=share,
        cte=_text(document, "CTE Name"),
        relationship=_text(document, "Parent Relationship"),
        actual_rows=_count(document, "Actual Rows"),
        actual_loops=_count(document, "Actual Loops"),
        removed_rows=_removed(document),
        heap_fetches=_count(document, "Heap Fetches"),
    )


def _rows(document: Mapping[str, Any], children: tuple[Node, ...], share: Share) -> float:
    """Return the rows that all processes together are expected to return."""
    merges = document["Node Type"] == "Gather Merge" and children and children[0].share.shared
    # Up to 17, the planner forgets the leader's part of what it merges.
    return children[0].rows if merges else number(document, "Plan Rows") * share.divisor


def _removed(document: Mapping[str, Any]) -> float | None:
    """Return the rows that a node read and discarded, by any of its conditions."""
    counts = [
        _count(document, f"Rows Removed by {kind}")
        for kind in ("Filter", "Join Filter", "Index Recheck")
    ]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _count(document: Mapping[str, Any], key: str) -> float | None:
    return max(number(document, key), 0.0) if key in document else None


def _text(document: Mapping[str, Any], key: str) -> str | None:
    return text_of(document, key) or None
