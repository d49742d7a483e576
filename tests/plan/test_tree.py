"""Plans are read from any JSON that PostgreSQL writes, and from nothing else."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_planwatch.plan.index_use import is_gone
from flask_planwatch.plan.schema import Column, Relation, Schema
from flask_planwatch.plan.scrub import scrub_plan
from flask_planwatch.plan.tree import Node, Plan, UnreadablePlan
from flask_planwatch.rules import functional_predicate

from . import SERVERS, read

#: More levels than Python's stack has frames.
MANY = 5_000


def recorded(name: str) -> Plan:
    return Plan.from_json(read(name)["plan"])


#: The nodes of each recorded plan, parents first, as in the server's own text.
NODES = {
    "seq-scan": ["Seq Scan"],
    "parallel": ["Gather", "Seq Scan"],
    "bitmap": ["Bitmap Heap Scan", "Bitmap Index Scan"],
    "index-only": ["Index Only Scan"],
    "index-backward": ["Limit", "Index Scan"],
    "partitions": ["Append", "Seq Scan", "Seq Scan"],
    "hash-join": ["Hash Join", "Seq Scan", "Hash", "Seq Scan"],
    "merge-join": ["Merge Join", "Index Scan", "Sort", "Seq Scan"],
    "nested-loop": ["Nested Loop", "Seq Scan", "Index Scan"],
    "sub-plans": [
        "Nested Loop", "Aggregate", "Seq Scan", "Seq Scan", "Materialize", "Seq Scan",
        "Aggregate", "Index Scan",
    ],
    "cte": ["Hash Join", "Index Scan", "CTE Scan", "Hash", "CTE Scan"],
    "update": ["ModifyTable", "Merge Join", "Index Scan", "Index Scan"],
    "delete-partitions": ["ModifyTable", "Append", "Seq Scan", "Seq Scan"],
    "limit-window": ["Limit", "WindowAgg", "Incremental Sort", "Index Scan"],
    "function-scan": ["Function Scan"],
    "one-time": ["Result", "Aggregate", "Seq Scan", "Seq Scan"],
    "nothing": ["Result"],
    "odd-names": ["Hash Join", "Seq Scan", "Hash", "Seq Scan"],
}  # fmt: skip


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("name", NODES)
def test_nodes(name, server):
    assert [node.type for node in recorded(f"{name}-{server}").nodes] == NODES[name]


#: What reads a relation: its qualified name, its alias and its index.
SCANS = {
    "seq-scan": [("public.t", "t", None)],
    "parallel": [("public.t", "t", None)],
    "bitmap": [("public.t", "t", None)],
    "index-only": [("public.t", "t", "t_a")],
    "partitions": [("public.part_eu", "p_1", None), ("public.part_us", "p_2", None)],
    "sub-plans": [
        ("public.u", "y", None),
        ("public.t", "t", None),
        ("public.u", "z", None),
        ("public.u", "x", "u_pkey"),
    ],
    "cte": [("public.t", "t", "t_a")],
    "update": [("public.t", "t", "t_pkey"), ("public.u", "u", "u_pkey")],
    "delete-partitions": [
        ("public.part_eu", "part_1", None),
        ("public.part_us", "part_2", None),
    ],
    "function-scan": [],
    "nothing": [],
    "odd-names": [("public.u", "U.x", None), ("public.t", "T (1)", None)],
}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("name", SCANS)
def test_scans(name, server):
    scans = recorded(f"{name}-{server}").scans
    assert [(scan.qualified_relation, scan.alias, scan.index) for scan in scans] == SCANS[name]


#: The first line of a node, as the server's text format writes it without VERBOSE.
TITLES = {
    "seq-scan": ["Seq Scan on t"],
    "parallel": ["Gather", "Parallel Seq Scan on t"],
    "bitmap": ["Bitmap Heap Scan on t", "Bitmap Index Scan using t_b"],
    "index-only": ["Index Only Scan using t_a on t"],
    "nested-loop": ["Nested Loop", "Seq Scan on u", "Index Scan using t_pkey on t"],
}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("name", TITLES)
def test_titles(name, server):
    assert [node.title for node in recorded(f"{name}-{server}").nodes] == TITLES[name]


def test_a_title_has_the_quotes_of_the_plan():
    node = {"Node Type": "Index Scan", "Relation Name": "Order Line", "Index Name": 'a"b'}
    plan = Plan.from_json({"Plan": node})
    assert plan.root.title == 'Index Scan using "a""b" on "Order Line"'
    assert plan.as_text().startswith(plan.root.title)


def test_sub_plans_are_named():
    named = [(node.subplan, node.type) for node in recorded("sub-plans-18").nodes if node.subplan]
    assert named == [("InitPlan 2", "Aggregate"), ("SubPlan 1", "Aggregate")]


def test_conditions_by_kind():
    heap, index = recorded("bitmap-18").nodes
    assert heap.condition("Filter") == "((t.a < 10000) AND (t.name > 'n'::text))"
    assert heap.condition("Recheck Cond") == index.condition("Index Cond") == "(t.b = 7)"
    assert heap.condition("Index Cond") is None


def test_cost_of_the_statement():
    limit, scan = recorded("index-backward-18").nodes
    assert recorded("index-backward-18").total_cost == limit.total_cost == 0.74
    assert (scan.startup_cost, scan.total_cost, scan.rows, scan.width) == (
        0.29,
        915.29,
        10_000,
        620,
    )


def test_parents():
    plan = recorded("hash-join-18")
    join, outer, hashed, inner = plan.nodes
    assert [plan.parents[id(node)] for node in (outer, hashed, inner)] == [join, join, hashed]
    assert id(join) not in plan.parents


def step(kind: str, *below: dict[str, object]) -> dict[str, object]:
    return {"Node Type": kind, "Plans": list(below)}


def scan(alias: str, **more: object) -> dict[str, object]:
    return {"Node Type": "Seq Scan", "Relation Name": "t", "Alias": alias, **more}


def inside(name: str, *below: dict[str, object]) -> dict[str, object]:
    """Return a LIMIT that is a sub-query of this name."""
    first = {"Parent Relationship": name.split()[0], "Subplan Name": name}
    return {"Node Type": "Limit", "Plans": list(below), **first}


#: A plan, and the scans that a LIMIT may stop.
LIMITS = {
    "none": (scan("a"), ""),
    "above": (step("Limit", scan("a")), "a"),
    "above a join": (step("Limit", step("Hash Join", scan("a"), scan("b"))), "ab"),
    "in a value": ({**scan("a"), "Plans": [inside("InitPlan 1", scan("b"))]}, "b"),
    "in a sub-query": ({**scan("a"), "Plans": [inside("SubPlan 1", scan("b"))]}, "b"),
    "beside a value": (
        step(
            "Limit",
            scan("b", **{"Parent Relationship": "InitPlan", "Subplan Name": "InitPlan 1"}),
            scan("a"),
        ),
        "a",
    ),
    "above a WITH query": (
        step(
            "Limit",
            scan("b", **{"Parent Relationship": "InitPlan", "Subplan Name": "CTE c"}),
            {"Node Type": "CTE Scan", "CTE Name": "c", "Alias": "c"},
        ),
        "b",
    ),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_stops_the_scans_below_it(name):
    document, stopped = LIMITS[name]
    plan = Plan.from_json(document)
    assert "".join(s.alias for s in plan.scans if plan.limits([s])) == stopped


def test_a_scan_of_a_with_query_leads_to_what_makes_its_rows():
    def query(name, *children):
        steps = {"Parent Relationship": "InitPlan", "Subplan Name": f"CTE {name}"}
        return {"Node Type": "Result", **steps, "Plans": list(children)}

    def reads(name):
        return {"Node Type": "CTE Scan", "CTE Name": name, "Parent Relationship": "Outer"}

    inner = {"Node Type": "Sort", "Plans": [query("a"), reads("a")]}
    outer = {"Node Type": "Hash Join", "Plans": [query("a"), query("b", reads("a")), inner]}
    also = [reads("b"), reads("a"), reads("gone")]
    plan = Plan.from_json({"Plan": outer | {"Plans": outer["Plans"] + also}})
    queries = [node for node in plan.nodes if node.subplan]
    scans = [node for node in plan.nodes if node.type == "CTE Scan"]
    made = [plan.ctes.get(id(scan)) for scan in scans]
    of_outer, of_b, of_inner = queries
    assert [node.subplan for node in queries] == ["CTE a", "CTE b", "CTE a"]
    assert made == [of_outer, of_inner, of_b, of_outer, None]


def test_a_document_a_list_and_a_node_are_the_same_plan():
    listed = read("hash-join-18")["plan"]
    texts = [Plan.from_json(each).as_text() for each in (listed, listed[0], listed[0]["Plan"])]
    assert texts[0] == texts[1] == texts[2] == recorded("hash-join-18").as_text()


def test_numbers_may_be_decimal_or_have_fractions():
    text = json.dumps(read("seq-scan-18")["plan"]).replace('"Plan Rows": 100', '"Plan Rows": 0.25')
    exact, plain = (Plan.from_json(json.loads(text, parse_float=kind)) for kind in (Decimal, float))
    assert exact.as_text() == plain.as_text()
    assert (exact.root.rows, exact.root.total_cost) == (0.25, 684.0)


UNKNOWN = {
    "Node Type": "Custom Scan",
    "Custom Plan Provider": "Columnar",
    "Filter": ["no text"],
    "Schema": 7,
    "Relation Name": "t",
    "Total Cost": "much",
    "Plans": [
        {"Node Type": "Teleport", "Filter": "(t.a = 5)"},
        {"Type": "no node"},
        "nothing",
        None,
    ],
}


def test_unknown_nodes_and_keys_are_read_as_far_as_they_are_known():
    root, child = Plan.from_json(UNKNOWN).nodes
    assert (root.type, root.schema, root.qualified_relation) == ("Custom Scan", None, "t")
    assert (root.conditions, root.total_cost, root.rows, root.width) == ((), 0.0, 0.0, 0)
    assert (child.type, child.conditions) == ("Teleport", (("Filter", "(t.a = 5)"),))


@pytest.mark.parametrize("plans", [None, {}, "x", 5, True])
def test_children_that_are_no_list_are_none(plans):
    assert Plan.from_json({"Node Type": "Result", "Plans": plans}).root.children == ()


NO_PLANS = [
    None, True, 0, 1.5, "", "Seq Scan", [], {}, [[]], [None], [{}], {"Plan": None}, {"Plan": []},
    {"Plan": {}}, [{"Plan": {"Plans": []}}], [{"Query Text": "SELECT 1"}], {"plan": {}},
]  # fmt: skip


@pytest.mark.parametrize("document", NO_PLANS, ids=repr)
def test_what_is_no_plan_is_refused(document):
    with pytest.raises(UnreadablePlan):
        Plan.from_json(document)


@pytest.mark.parametrize("key", ["Plan Rows", "Plan Width", "Total Cost", "Startup Cost"])
@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), pytest.param(10**400, id="too large"), Decimal("NaN")],
    ids=repr,
)
def test_numbers_that_are_none_do_not_break_it(key, value):
    plan = Plan.from_json({"Node Type": "Result", key: value})
    assert plan.as_text().startswith("Result")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        | st.fixed_dictionaries({"Plan": inner})
        | st.fixed_dictionaries(
            {"Node Type": inner},
            optional={
                "Plans": st.lists(inner, max_size=3) | inner,
                **dict.fromkeys(
                    ["Plan Rows", "Plan Width", "Total Cost", "Filter", "Alias"], inner
                ),
            },
        )
    ),
    max_leaves=15,
)


@given(JSON)
def test_any_json_is_read_or_refused(document):
    try:
        plan = Plan.from_json(document)
    except UnreadablePlan:
        return
    assert scrub_plan(plan).as_text().count("(cost=") == len(plan.nodes)


def scan(number: int, *below: dict) -> dict:
    alias = f"p_{number}"
    return {
        "Node Type": "Seq Scan",
        "Schema": "public",
        "Relation Name": f"p{number}",
        "Alias": alias,
        "Filter": f"(lower({alias}.name) = 'x'::text)",
        "Plans": list(below),
    }


def relation(name: str, root: str) -> Relation:
    return Relation(
        key=f"public.{name}",
        schema="public",
        name=name,
        display=name,
        quoted_name=name,
        kind="p" if name == root else "r",
        rows=10,
        root=f"public.{root}",
        columns=(Column("name", "text"),),
    )


PARTITIONS = [relation("p", "p"), *(relation(f"p{number}", "p") for number in range(MANY))]
SCHEMA = Schema({each.key: each for each in PARTITIONS})


def wide(width: int = MANY) -> dict:
    return {"Node Type": "Append", "Plans": [scan(number) for number in range(width)]}


def deep() -> dict:
    document = scan(0)
    for number in range(1, MANY):
        document = scan(number, document)
    return document


@pytest.mark.slow
@pytest.mark.parametrize("shape", [wide, deep])
def test_thousands_of_nodes(shape):
    plan = Plan.from_json([{"Plan": shape()}])
    assert len(plan.scans) == MANY
    scrubbed = scrub_plan(plan)
    assert scrubbed.nodes[-1].condition("Filter").endswith(" = ?::text)")
    assert len(scrubbed.as_text().splitlines()) == len(plan.nodes) + MANY
    (suspicion,) = functional_predicate.suspect(plan, SCHEMA)
    assert len(suspicion.scans) == MANY
    assert not is_gone(plan, {f"public.p{MANY - 1}"}, "lower(name)")


def test_merging_partitions_takes_linear_time(monkeypatch):
    count = 0
    original = Node.__hash__

    def counting(node):
        nonlocal count
        count += 1
        return original(node)

    monkeypatch.setattr(Node, "__hash__", counting)
    functional_predicate.suspect(Plan.from_json(wide(1_000)), SCHEMA)
    assert count <= 10_000


#: A relation's expression in a later plan, and whether that plan shows that it is no longer
#: computed row by row: an index answers it. Without a word of it, the values may be the reason.
GONE = [
    ("index-only", "public.t", "a", True),
    ("bitmap", "public.t", "b", True),
    ("bitmap", "public.t", "name", False),
    ("bitmap", "public.t", "lower(name)", False),
    ("nested-loop", "public.t", "id", True),
    ("nested-loop", "public.t", "lower(name)", False),
    ("nested-loop", "public.u", "name", False),
    ("nested-loop", "public.u", "a", False),
    ("seq-scan", "public.t", "lower(name)", False),
    ("seq-scan", "public.t", "upper(name)", False),
    ("seq-scan", "public.u", "lower(name)", False),
    ("parallel", "public.t", "lower(name)", False),
    ("partitions", "public.part_us", "lower(name)", False),
    ("hash-join", "public.u", "lower(name)", False),
    ("merge-join", "public.u", "a", False),
    ("odd-names", "public.u", "lower(name)", False),
    ("odd-names", "public.t", "name", False),
    ("update", "public.t", "lower(name)", False),
    ("nothing", "public.t", "lower(name)", False),
    ("function-scan", "public.t", "lower(name)", False),
    ("cte", "public.t", "a", True),
    ("cte", "public.t", "name", False),
]


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(("name", "read_by", "expression", "gone"), GONE)
def test_tells_whether_an_expression_is_gone(name, read_by, expression, gone, server):
    assert is_gone(recorded(f"{name}-{server}"), {read_by}, expression) is gone


def test_an_expression_with_a_masked_value_is_not_gone_while_it_is_computed():
    plan = Plan.from_json(
        {
            "Node Type": "Index Scan",
            "Schema": "public",
            "Relation Name": "t",
            "Alias": "t",
            "Index Name": "t_a",
            "Index Cond": "(t.a = 5)",
            "Filter": "((t.name || 'x'::text) = 'y'::text)",
        }
    )
    assert not is_gone(plan, {"public.t"}, "name || 'x'::text")
    assert not is_gone(plan, {"public.t"}, "name || ?::text")
