"""Plans that a server might print: of any version, extension or size, and with nonsense in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

from flask_planwatch.failure import StatementError
from flask_planwatch.plan.evidence import Custom, Evidence, Prepared, Timings
from flask_planwatch.plan.schema import Activity, Column, ForeignKey, Index, Relation, Schema
from flask_planwatch.plan.tree import Plan

RECORDED = Path(__file__).parent / "recorded"

#: How the nodes of a plan hang together.
SHAPES = ("random", "deep", "wide", "nested loops", "sub-plans", "limited")

#: Steps with two inputs, with one, and with none; the last are of extensions and of no version.
JOINS = (
    "Nested Loop",
    "Hash Join",
    "Merge Join",
    "Append",
    "Merge Append",
    "BitmapAnd",
    "BitmapOr",
)
STEPS = (
    *("Aggregate", "Gather", "Gather Merge", "Group", "Hash", "Incremental Sort", "Limit"),
    *("LockRows", "Materialize", "Memoize", "ModifyTable", "ProjectSet", "Result", "SetOp"),
    *("Sort", "Subquery Scan", "Unique", "WindowAgg", "Recursive Union", "Bitmap Heap Scan"),
)
SCANS = (
    *("Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Index Scan", "Bitmap Heap Scan"),
    *("CTE Scan", "WorkTable Scan", "Function Scan", "Values Scan", "Foreign Scan", "Tid Scan"),
    *("Table Function Scan", "Sample Scan", "Named Tuplestore Scan", "Custom Scan", "Result"),
    *("Citus Adaptive", "Columnar Scan", "Tid Range Scan", "Quantum Scan", ""),
)

RELATIONSHIPS = ("Outer", "Inner", "Member", "Subquery", "SubPlan", "InitPlan", "Beside", None)
TABLES = ("user", "order", "Odd Näme", "a.b", "part_1", "part_2", "part_3", "x")
COLUMNS = ("id", "email", "state", "data", "created_at", "tags", "Big", "customer_id")
INDEXES = ("user_pkey", "ix_state", "ix_lower", "ix_partial", "ix_data", "ix_two")

_PREDICATES = [
    text
    for texts in json.loads((RECORDED / "predicates.json").read_text("utf-8")).values()
    for text in (texts if isinstance(texts, list) else [texts])
    if isinstance(text, str)
]

#: What no server should print.
NONSENSE = (
    *("", " ", "(", ")))", "((((", "'", '"', "'it''s", "E'\\", "$$", "$1", "?", ";", "--", "/*"),
    *("\x00", "\ud800", "\u202e", "NULL", "a = ", "= b", "a.b.c.d = 1", "x IS", "(SubPlan 9)"),
    *("(hashed SubPlan 1)", "(InitPlan 1).col1 > 3", "ANY (SubPlan 2).col1", "EXISTS(SubPlan 3)"),
    *("(a = 1) AND", "NOT", "OR OR", "::text", "(x)::", "a ~~ 'b", "ROW(a, b) < ROW(1, 2)"),
    *("f(" * 50, "a AND " * 200, "((a OR b) AND " * 30, "x = ANY ('{" + "1," * 2000 + "}'::int[])"),
)

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 0.5, 1e-300, 1e300, -1e300, 12_345.67, float("inf"), float("-inf"), float("nan")),
    *(10**400, Decimal("1.25"), Decimal("NaN"), "12", "", None, True, [], {}, "many"),
)


class AnyPlan:
    """Makes plans, and what a server says around them, from one source of chance."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def document(self, size: int, shape: str) -> Any:
        """Return the JSON of an EXPLAIN with so many nodes, in one of its forms."""
        node = self.tree(size, shape)
        whole = {
            "Query Text": "SELECT 1",
            "Plan": node,
            "Planning Time": 0.1,
            "Triggers": [{"Trigger Name": "t", "Time": 1, "Calls": 2}],
            "JIT": {"Functions": 7, "Options": {"Inlining": True}},
            "Settings": {"work_mem": "4MB"},
            "Query Identifier": -(2**63),
        }
        return self.random.choice([[whole], whole, node, [node], [whole, whole]])

    def tree(self, size: int, shape: str) -> dict[str, Any]:
        """Return a plan node with others below it, `size` in all."""
        nodes = [self.node(shape) for _ in range(size)]
        for number, node in enumerate(nodes[1:], 1):
            parent = {
                "deep": number - 1,
                "wide": 0,
                "nested loops": max(number - 1 - number % 2, 0),
                "sub-plans": number - 1 if number % 50 else 0,
                "limited": number - 1 if number % 3 else 0,
            }.get(shape, self.random.randrange(number))
            nodes[parent].setdefault("Plans", [])
            if isinstance(nodes[parent]["Plans"], list):
                nodes[parent]["Plans"].append(node)
        return nodes[0]

    def node(self, shape: str) -> dict[str, Any]:
        """Return one node without those below it."""
        pick = self.random.choice
        kind = pick(SCANS + JOINS + STEPS)
        if shape == "nested loops":
            kind = pick(("Nested Loop", "Seq Scan", "Index Scan"))
        if shape == "limited":
            kind = pick(("Limit", "Limit", "Index Scan", "Nested Loop"))
        node: dict[str, Any] = {
            "Node Type": kind,
            "Parent Relationship": "SubPlan" if shape == "sub-plans" else pick(RELATIONSHIPS),
            "Subplan Name": pick((None, "SubPlan 1", "SubPlan 2 (returns $1)", "CTE x", 7)),
            "Parallel Aware": pick((True, False, "yes")),
            "Join Type": pick(("Inner", "Left", "Semi", "Anti", "Right Anti", None, 3)),
            "Startup Cost": self.number(),
            "Total Cost": self.number(),
            "Plan Rows": self.number(),
            "Plan Width": self.number(),
            "Unheard Of": {"Plans": [{"Node Type": "Seq Scan"}]},
        }
        if kind in SCANS or self.random.random() < 0.1:
            table = pick((*TABLES, None))
            node |= {
                "Schema": pick(("public", "public", "public", "pg_catalog", None, 5)),
                "Relation Name": table,
                "Alias": pick((table, table, *TABLES, "u", "user_1", None)),
                "Index Name": pick((*INDEXES, None)),
                "Function Name": pick(("f", None)),
            }
        for condition in ("Filter", "Index Cond", "Recheck Cond", "Hash Cond", "Join Filter"):
            if self.random.random() < 0.25:
                node[condition] = self.predicate()
        for key in ("Sort Key", "Group Key", "Output", "Presorted Key"):
            if self.random.random() < 0.25:
                node[key] = pick(
                    ([self.predicate(), "user.id", 'u."Big" DESC NULLS LAST'], "id", 4)
                )
        if self.random.random() < 0.3:
            node |= {
                "Actual Rows": self.number(),
                "Actual Loops": self.number(),
                "Rows Removed by Filter": self.number(),
                "Heap Fetches": self.number(),
                "Exact Heap Blocks": self.number(),
                "Workers": [{"Worker Number": 0, "Actual Rows": 1}],
            }
        if self.random.random() < 0.03:
            # Citus prints the plans of its workers inside of its own node.
            node["Distributed Query"] = {
                "Job": {"Tasks": [{"Remote Plan": [[{"Plan": {"Node Type": "Seq Scan"}}]]}]}
            }
        for key in list(node):
            if self.random.random() < 0.02:
                del node[key]
            elif key != "Node Type" and self.random.random() < 0.01:
                node[key] = pick(NUMBERS)
        return {"Node Type": kind, **node}

    def number(self) -> Any:
        """Return a figure, mostly a sensible one."""
        if self.random.random() < 0.9:
            return self.random.choice((0, 1, 100, 5_000, 1e6)) * self.random.random()
        return self.random.choice(NUMBERS)

    def predicate(self) -> str:
        """Return a condition that a server printed, or one that none would."""
        if self.random.random() < 0.1:
            return self.random.choice(NONSENSE)
        if self.random.random() < 0.3:
            column = f"{self.random.choice(TABLES[:2])}.{self.random.choice(COLUMNS)}"
            return self.random.choice(
                (
                    f"({column} = $1)",
                    f"(lower({column}) = 'x'::text)",
                    f"({column} ~~ '%x'::text)",
                    f"((user.id)::numeric = 5.{self.random.randrange(9)})",
                    f"({column} = ANY ('{{1,2}}'::integer[]))",
                    f"(({column} = 1) OR ({column} IS NULL))",
                    f"(($1 OR ({column} <> 'x'::text)) AND (NOT (hashed SubPlan 1)))",
                    f"(({column} ->> 'type'::text) = 'x'::text)",
                )
            )
        return self.random.choice(_PREDICATES)

    def schema(self) -> Schema:
        """Return what a catalog might say of the tables that the plans name."""
        relations = {}
        for name in TABLES:
            if self.random.random() < 0.15:
                continue
            part = name.startswith("part_")
            key = f"public.{name}"
            relations[key] = Relation(
                key=key,
                schema="public",
                name=name,
                display=f'"{name}"',
                quoted_name=f'"{name}"',
                kind=self.random.choice(("r", "p", "m", "f", "v")),
                rows=self.random.choice((0.0, 1.0, 50.0, 1e5, 1e9)),
                root="public.order" if part else key,
                columns=tuple(self._columns()),
                indexes=tuple(self._indexes()),
                partitions=("public.part_1", "public.part_2") if name == "order" else (),
                has_statistics=self.random.random() < 0.8,
                activity=Activity(*(self.random.choice((0, 7, 10**9)) for _ in range(6))),
                pages=self.random.choice((0, 1, 10**6)),
                visible_pages=self.random.choice((0, 1, 10**6)),
            )
        known = tuple(relations)
        keys = ForeignKey("fk", known[0], known[-1], ("customer_id",)) if known else None
        return Schema(relations, (keys,) if keys and self.random.random() < 0.3 else ())

    def _columns(self) -> Iterator[Column]:
        types = ("bigint", "text", "character varying(255)", "jsonb", "text[]", "odd", "")
        for name in COLUMNS:
            if self.random.random() < 0.9:
                distinct = self.random.choice((0.0, 1.0, -1.0, 5e5))
                known = {"id": "bigint", "email": "character varying(255)", "data": "jsonb"}
                type_ = known.get(name) or self.random.choice(types)
                yield Column(name, type_, distinct, f'"{name}"', 8.0)

    def _indexes(self) -> Iterator[Index]:
        keys = (("id",), ("state", "id"), ("lower(email)",), ("(data ->> 'type'::text)", "id"), ())
        for name in INDEXES:
            if self.random.random() < 0.5:
                yield Index(
                    name=name,
                    keys=self.random.choice(keys),
                    definition=self.random.choice(("CREATE INDEX x ON y (z)", "nonsense")),
                    unique=False,
                    valid=self.random.random() < 0.9,
                    predicate=self.random.choice((None, "(state <> 'x'::text)", "((")),
                    method=self.random.choice(("btree", "gin", "quantum")),
                    plain=self.random.random() < 0.5,
                    included=self.random.choice(((), ("email",))),
                )

    def evidence(self, plan: Plan, schema: Schema, others: list[Plan]) -> Evidence:
        """Return evidence with any of the things in it that a rule may ask for."""
        maybe = lambda value: value if self.random.random() < 0.6 else None  # noqa: E731
        other = lambda: self.random.choice(others)  # noqa: E731
        customs = tuple(Custom(other(), maybe(self._figure())) for _ in range(3))
        return Evidence(
            plan=plan,
            schema=schema,
            statement="SELECT 1",
            min_rows=self.random.choice((0, 1000)),
            growth=self.random.random() < 0.5,
            duration_ms=self._figure(),
            returned_rows=maybe(self.random.choice((0, 1, 10**9))),
            parameter_types=frozenset({"Decimal", "str"}),
            varying=frozenset(),
            seqscan_off=maybe(other()),
            alone=maybe(other()),
            own_type=maybe(other()),
            analysed=maybe(other()),
            prepared=maybe(
                Prepared(5, other(), customs, (0, 1, 2, 0), 5.0, True, "why", maybe((1, 5)))
            ),
            timings=Timings(
                tuple(self._figure() for _ in range(self.random.randrange(5))),
                self._figure(),
                maybe(self._figure()),
            ),
            client_side=self.random.random() < 0.8,
            error=maybe(StatementError("QueryCanceled", self.random.choice(("57014", None)))),
        )

    def _figure(self) -> float:
        return float(self.random.choice((0.0, 0.3, 40.0, 1e7)))
