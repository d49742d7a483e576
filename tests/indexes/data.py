"""Tables, plans and indexes made by hand, for what needs no server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask_planwatch.indexes.candidate import Candidate, Key, column_key
from flask_planwatch.indexes.shapes import Shape, Shapes
from flask_planwatch.plan.access import Access, accesses
from flask_planwatch.plan.predicate import Operand
from flask_planwatch.plan.schema import Activity, Column, Index, Relation, Schema
from flask_planwatch.plan.tree import Plan

#: A value of `note` may be long, so no index can carry it.
COLUMNS = (
    Column("id", "integer", -1.0, "id", 4.0),
    Column("state", "text", 5.0, "state", 8.0),
    Column("town", "text", 300.0, "town", 12.0),
    Column("points", "integer", -0.5, "points", 4.0),
    Column("at", "timestamp with time zone", -1.0, "at", 8.0),
    Column("done", "boolean", 2.0, "done", 1.0),
    Column("Odd One", "integer", 50.0, '"Odd One"', 4.0),
    Column("note", "text", -0.9, "note", 30.0, bounded=False),
    Column("code", "character varying(250)", -1.0, "code", 70.0),
)


def table(
    *,
    name: str = "deed",
    rows: float = 100_000,
    indexes: Sequence[Index] = (),
    activity: Activity | None = None,
    columns: Sequence[Column] = COLUMNS,
) -> Relation:
    """Return a table of the schema `public`."""
    return Relation(
        key=f"public.{name}",
        schema="public",
        name=name,
        display=name,
        quoted_name=name,
        kind="r",
        rows=rows,
        root=f"public.{name}",
        columns=tuple(columns),
        indexes=tuple(indexes),
        has_statistics=True,
        activity=activity or Activity(),
    )


def index(name: str, *keys: str, **changes: Any) -> Index:
    """Return an index that exists: plain, valid, not unique."""
    values: dict[str, Any] = {
        "definition": f"CREATE INDEX {name} …",
        "unique": False,
        "valid": True,
        "predicate": None,
        "method": "btree",
        **changes,
    }
    return Index(name, keys, **values)


def candidate(
    *keys: str | Key,
    relation: Relation | None = None,
    taken: frozenset[str] = frozenset(),
    **changes: Any,
) -> Candidate:
    """Return an index that might be created; a text is a column or an expression."""
    relation = relation or table()
    made = [key if isinstance(key, Key) else _key(relation, key) for key in keys]
    schema = Schema({relation.key: relation})
    return Candidate(relation, tuple(made), schema, taken, **changes)


def plan_of_cost(cost: float) -> Plan:
    """Return a plan of which nothing but the cost is known."""
    return Plan.from_json({"Plan": {"Node Type": "Result", "Total Cost": cost}})


def asked(where: str = "", **steps: Any) -> Access:
    """Return what a statement asks of the table `deed`; the parameters are those of read()."""
    (access,) = accesses(*read(where, **steps))
    return access


def read(
    where: str = "",
    *,
    order: Sequence[str] = (),
    limit: bool = False,
    group: Sequence[str] = (),
    output: Sequence[str] = (),
    joined: str = "",
    walked: str = "",
    found: str = "",
    cost: float = 5000.0,
    relation: Relation | None = None,
) -> tuple[Plan, Schema]:
    """Return the plan of a statement that reads the table `deed`, under the alias d.

    `where` is a Filter as PostgreSQL prints it; `joined` the condition of a hash join with another
    relation. Without `output` whole rows are read. `walked` is an index that is read as a whole,
    and `found` the condition that an index answers; the scan costs `cost`.
    """
    relation = relation or table()
    node: dict[str, Any] = {
        "Node Type": "Seq Scan",
        "Schema": relation.schema,
        "Relation Name": relation.name,
        "Alias": "d",
        "Total Cost": cost,
        "Plan Rows": 100,
        "Output": list(output) or [column.quoted_name for column in relation.columns],
    }
    if walked:
        node |= {"Node Type": "Index Scan", "Index Name": walked}
    if found:
        node |= {"Node Type": "Index Scan", "Index Name": "old", "Index Cond": f"({found})"}
    if where:
        node["Filter"] = f"({where})"
    if joined:
        other = {"Node Type": "Function Scan", "Alias": "o", "Total Cost": 1.0, "Plan Rows": 10}
        node = {
            "Node Type": "Hash Join",
            "Join Type": "Inner",
            "Total Cost": 6000.0,
            "Hash Cond": f"({joined})",
            "Plans": [node, {"Node Type": "Hash", "Total Cost": 1.0, "Plans": [other]}],
            "Output": list(output) or [f"d.{column.quoted_name}" for column in relation.columns],
        }
    if group:
        node = {
            "Node Type": "Aggregate",
            "Total Cost": 6000.0,
            "Group Key": list(group),
            "Output": list(group),
            "Plans": [node],
        }
    if order:
        node = {
            "Node Type": "Sort",
            "Total Cost": 6000.0,
            "Sort Key": list(order),
            "Output": node["Output"],
            "Plans": [node],
        }
    if limit:
        node = {
            "Node Type": "Limit",
            "Total Cost": 6000.0,
            "Output": node["Output"],
            "Plans": [node],
        }
    return Plan.from_json({"Plan": node}), Schema({relation.key: relation})


def spelled(relation: Relation, operand: Operand) -> str | None:
    """Write each expression as it is printed, and refuse those that call now()."""
    text = operand.without_alias()
    return None if "now()" in text else text


def bodies(access: Access) -> list[str]:
    """Return the candidates for an access as CREATE INDEX would have them."""
    return [body(access.relation, shape) for shape in Shapes(access, spelled).all()]


def body(relation: Relation, shape: Shape) -> str:
    """Return what would follow the table's name in CREATE INDEX."""
    return candidate(
        *shape.keys,
        relation=relation,
        method=shape.method,
        include=shape.include,
        predicate=shape.predicate,
    ).body


def _key(relation: Relation, text: str) -> Key:
    return column_key(relation, text) if relation.column(text) else Key(text)
