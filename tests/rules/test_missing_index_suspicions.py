"""What missing-index suspects in a plan, and what it makes of the evidence."""

from __future__ import annotations

import pytest

from flask_planwatch.plan.evidence import Hit, Miss, Timings
from flask_planwatch.plan.schema import ForeignKey, Schema
from flask_planwatch.plan.tree import Plan
from flask_planwatch.rules import missing_index
from flask_planwatch.rules.missing_index import suspect

from ..indexes.data import index, read, table
from .without_server import judged_by

ON_ID = table(indexes=[index("deed_pkey", "id", unique=True)])

#: A plan, and the columns that are suspected together.
KEYS = {
    "equality": (read("d.town = 't'::text"), ["town"]),
    "equality before a join before a range": (
        read("(d.points > 5) AND (d.state = 's'::text)", joined="d.town = o.name"),
        ["state", "town", "points"],
    ),
    "the order after what is compared": (
        read("d.town = 't'::text", order=["d.at DESC"], limit=True),
        ["town", "at"],
    ),
    "the order alone": (read(order=["d.at"], limit=True), ["at"]),
    "groups alone": (read(group=["d.state"]), ["state"]),
    "no groups beside what is compared": (
        read("d.town = 't'::text", group=["d.state"]),
        ["town"],
    ),
    "each column once": (
        read("(d.points > 5) AND (d.points < 9)", order=["d.points"], limit=True),
        ["points"],
    ),
    "all branches of an OR": (
        read("(d.town = 't'::text) OR (d.points > 5)"),
        ["town", "points"],
    ),
    "a name in quotes": (read('d."Odd One" = 7'), ['"Odd One"']),
    "a join": (read(joined="d.town = o.name"), ["town"]),
    "a join that an index could serve": (
        read("d.town = 't'::text", joined="d.id = o.id", relation=ON_ID),
        ["town"],
    ),
    "a join by one column of a unique index": (
        read(
            joined="d.town = o.name",
            relation=table(indexes=[index("both", "id", "town", unique=True)]),
        ),
        ["town"],
    ),
    "what an index left to test, at a price": (
        read("d.town = 't'::text", found="d.state = 's'::text", cost=100.0),
        ["town"],
    ),
    "the order of what an index found, at a price": (
        read(found="d.state = 's'::text", order=["d.at"], cost=100.0),
        ["at"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
def test_suspects(name):
    (plan, schema), keys = KEYS[name]
    (suspicion,) = suspect(plan, schema)
    assert list(suspicion.keys) == keys
    assert suspicion.subject == ", ".join(keys)
    assert suspicion.relation.name == "deed"


NOTHING = {
    "no condition": read(),
    "a join that an index could serve": read(joined="d.id = o.id", relation=ON_ID),
    "a join by all columns of a unique index": read(
        joined="(d.id = o.id) AND (d.town = o.name)",
        relation=table(indexes=[index("both", "id", "town", unique=True)]),
    ),
    "what an index answers": read(found="d.town = 't'::text"),
    "few rows that an index left to test": read(
        "d.town = 't'::text", found="d.state = 's'::text", cost=99.0
    ),
    "the order of few rows": read(found="d.state = 's'::text", order=["d.at"], cost=99.0),
    "groups of few rows": read(found="d.state = 's'::text", group=["d.town"], cost=99.0),
    "an expression": read("lower(d.town) = 't'::text"),
    "unequal": read("d.town <> 't'::text"),
    "a pattern": read("d.town ~~ '%t%'::text"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_suspects_nothing(name):
    assert suspect(*NOTHING[name]) == []


def referring(**changes) -> tuple:
    """Return a plan that deletes from `deed`, to which `town` of another table refers."""
    plan, schema = read(found="d.id = 7", relation=ON_ID)
    child = table(name="visit", **changes)
    reference = ForeignKey("visit_town_fkey", "public.visit", "public.deed", ("town",))
    return plan, Schema({**schema.relations, child.key: child}, (reference,))


def test_suspects_a_foreign_key_without_an_index():
    (suspicion,) = suspect(*referring())
    assert (suspicion.relation.name, suspicion.keys) == ("visit", ("town",))
    assert suspicion.scans == ()


#: Indexes of the referring table, and whether they serve the check.
CHECKED = {
    "the same": (index("x", "town"), True),
    "a longer one": (index("x", "town", "id"), True),
    "not the first column": (index("x", "id", "town"), False),
    "an invalid one": (index("x", "town", valid=False), False),
    "without the NULLs": (index("x", "town", predicate="(town IS NOT NULL)"), True),
    "a partial one": (index("x", "town", predicate="done"), False),
}


@pytest.mark.parametrize("name", CHECKED)
def test_an_index_that_serves_a_foreign_key(name):
    there, serves = CHECKED[name]
    assert (suspect(*referring(indexes=[there])) == []) is serves


def judged(plan, schema, **known) -> Hit | Miss:
    """Return what the rule says of the only suspicion, of a statement that took 50 ms."""
    return judged_by(missing_index, plan, schema, **{"duration_ms": 50.0, **known})


#: What is missing, in the words of a title, which promises no other index than the advised one.
LACKS = {
    "one column": (read("d.town = 't'::text"), "no index on town"),
    "several columns": (
        read("(d.town = 't'::text) AND (d.state = 's'::text)"),
        "no index on town and state",
    ),
    "a column and the order": (
        read("d.town = 't'::text", order=["d.at DESC"], limit=True),
        "no index to find town and sort by at",
    ),
    "the order alone": (read(order=["d.at"], limit=True), "no index ordered by at"),
    "a join": (read(joined="d.town = o.name"), "no index on town for the join"),
    "a further column": (
        read(
            "(d.town = 't'::text) AND (d.state = 's'::text)",
            relation=table(indexes=[index("by_town", "town"), index("both", "town", "state")]),
        ),
        "both is not used for that",
    ),
    "a column of an index that begins with the other": (
        read(
            "(d.town = 't'::text) AND (d.state = 's'::text)",
            relation=table(indexes=[index("by_town", "town", "id")]),
        ),
        "by_town lacks state",
    ),
    "another order than that of an index": (
        read(
            order=["d.at DESC NULLS LAST"],
            limit=True,
            relation=table(indexes=[index("by_at", "at")]),
        ),
        "by_at has another order",
    ),
    "the order of what an index could find": (
        read(
            "d.town = 't'::text",
            order=["d.at"],
            limit=True,
            relation=table(indexes=[index("by_town", "town")]),
        ),
        "by_town lacks at",
    ),
    "more of an order": (
        read(order=["d.at", "d.id"], limit=True, relation=table(indexes=[index("by_at", "at")])),
        "by_at lacks id",
    ),
    "an order that an index does not begin with": (
        read(order=["d.at"], limit=True, relation=table(indexes=[index("two", "town", "at")])),
        "no index ordered by at",
    ),
    "all rows of a partial index": (
        read(
            "d.town = 't'::text",
            relation=table(indexes=[index("by_town", "town", predicate="done")]),
        ),
        "by_town holds only a part of the rows",
    ),
    "the beginning of an index": (
        read("d.town = 't'::text", relation=table(indexes=[index("two", "state", "town")])),
        "no index begins with town",
    ),
    "a valid index": (
        read("d.town = 't'::text", relation=table(indexes=[index("x", "town", valid=False)])),
        "no index on town",
    ),
}


@pytest.mark.parametrize("name", LACKS)
def test_what_is_missing(name):
    (plan, schema), said = LACKS[name]
    assert judged(plan, schema).why == said


FEW = table(rows=40)
SERVED = table(indexes=[index("by_town", "town")])

#: What is read and known, and why that is no finding; None if it is one without a doubt.
JUDGED = {
    "a large table": (read("d.town = 't'::text"), {}, None),
    "a small table": (
        read("d.town = 't'::text", relation=FEW),
        {},
        "it has only 40 rows to read",
    ),
    "a table of one row": (
        read("d.town = 't'::text", relation=table(rows=1)),
        {},
        "it has only 1 row to read",
    ),
    "a small table in growth mode": (
        read("d.town = 't'::text", relation=FEW),
        {"growth": True},
        None,
    ),
    "a limit that is reached early": (
        read("d.town = 't'::text", limit=True),
        {"duration_ms": 0.1},
        "a LIMIT was reached early",
    ),
    "a limit that may have been reached early, far from the server": (
        read("d.town = 't'::text", limit=True),
        {"duration_ms": 31.0, "timings": Timings((31.0,), overhead_ms=10.0)},
        "a LIMIT may have ended the scan early: most of the time may be the round trip",
    ),
    "a limit that was not, far from the server": (
        read("d.town = 't'::text", limit=True),
        {"duration_ms": 33.0, "timings": Timings((33.0,), overhead_ms=10.0)},
        None,
    ),
    "a limit that is expected to stop the table's scan before an index pays": (
        read("d.town = 't'::text", limit=True),
        {"seqscan_off": read(found="d.town = 't'::text", limit=True)[0]},
        "an index on it exists",
    ),
    "the same, but of two columns an index answers one": (
        read("(d.town = 't'::text) AND (d.state = 's'::text)", limit=True),
        {"seqscan_off": read("d.state = 's'::text", found="d.town = 't'::text", limit=True)[0]},
        None,
    ),
    "a limit that is reached late": (read("d.town = 't'::text", limit=True), {}, None),
    "a limit after a sort reads all": (
        read("d.town = 't'::text", order=["d.at"], limit=True),
        {"duration_ms": 0.1},
        None,
    ),
    "few rows passed": (read("d.town = 't'::text"), {"returned_rows": 30_000}, None),
    "many rows passed": (
        read("d.town = 't'::text"),
        {"returned_rows": 30_001},
        "30% of the rows pass",
    ),
    "an order without a limit": (
        read(order=["d.at"]),
        {},
        "all rows are sorted or grouped",
    ),
    "an order with a limit": (read(order=["d.at"], limit=True), {}, None),
    "OR of two columns": (
        read("(d.town = 't'::text) OR (d.points > 5)"),
        {},
        "OR combines conditions that each need an index of their own",
    ),
    "OR of one column": (read("(d.town = 't'::text) OR (d.town > 'x'::text)"), {}, None),
    "an index that the planner would not take": (
        read("d.town = 't'::text", relation=SERVED),
        {},
        "the index by_town begins with a column that is compared or sorted by",
    ),
    "a partial index": (
        read(
            "d.town = 't'::text",
            relation=table(indexes=[index("by_town", "town", predicate="done")]),
        ),
        {},
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", JUDGED)
def test_judges(name):
    (plan, schema), known, reason = JUDGED[name]
    result = judged(plan, schema, **known)
    doubt = result.doubt if isinstance(result, Hit) else result
    assert (doubt.reason if doubt else None) == reason


BOTH = "(d.town = 't'::text) AND (d.state = 's'::text)"


@pytest.mark.parametrize(
    ("condition", "keys", "for_all"),
    [
        ("d.town = 't'::text", ["town"], True),
        ("d.town = 't'::text", ["town", "at"], True),
        (BOTH, ["town"], False),
        (BOTH, ["state", "town"], True),
        (BOTH, ["town", "at", "state"], False),
    ],
)
def test_an_index_that_holds_all_columns_is_a_reason_for_all_values(condition, keys, for_all):
    plan, schema = read(condition, relation=table(indexes=[index("old", *keys)]))
    doubt = judged(plan, schema, returned_rows=60_000).doubt
    assert doubt.reason.startswith("the index old begins with")
    assert doubt.by_parameters is not for_all


def test_a_small_table_is_marked_as_such():
    result = judged(*read("d.town = 't'::text", relation=FEW), growth=True)
    assert isinstance(result, Hit)
    assert result.small
    assert not judged(*read("d.town = 't'::text")).small


@pytest.mark.parametrize(("times", "suspected"), [(10, False), (20, True)])
def test_what_a_nested_loop_tests_again_and_again(times, suspected):
    """On the few rows that an index finds for each row of the other side."""
    schema = read()[1]
    inner = {
        "Node Type": "Index Scan",
        "Schema": "public",
        "Relation Name": "deed",
        "Alias": "d",
        "Index Name": "old",
        "Total Cost": 8.0,
        "Filter": "(d.town = 't'::text)",
        "Index Cond": "(d.state = o.state)",
    }
    outer = {"Node Type": "Function Scan", "Alias": "o", "Plan Rows": times}
    outer["Parent Relationship"], inner["Parent Relationship"] = "Outer", "Inner"
    loop = {"Node Type": "Nested Loop", "Total Cost": 500.0, "Plans": [outer, inner]}
    plan = Plan.from_json({"Plan": loop})
    assert bool(suspect(plan, schema)) is suspected
    if suspected:
        result = judged(plan, schema)
        assert result.doubt.reason == "an index finds each row that is tested"


def scan(kind: str, *below: dict, **changes) -> dict:
    """Return the JSON of a scan of `deed` that tests its town."""
    return {
        "Node Type": kind,
        "Schema": "public",
        "Relation Name": "deed",
        "Alias": "d",
        "Total Cost": 793.4,
        "Filter": "(d.town = 't'::text)",
        "Plans": list(below),
        **changes,
    }


def found(rows: float, name: str = "old") -> dict:
    return {"Node Type": "Bitmap Index Scan", "Index Name": name, "Plan Rows": rows}


def driven(inner: dict, rows: float) -> dict:
    """Return a nested loop that runs a scan for each of these rows."""
    outer = {"Node Type": "Function Scan", "Alias": "o", "Plan Rows": rows}
    sides = [outer | {"Parent Relationship": "Outer"}, inner | {"Parent Relationship": "Inner"}]
    return {"Node Type": "Nested Loop", "Total Cost": 9000.0, "Plans": sides}


BY_OLD = scan("Index Scan", **{"Index Name": "old", "Index Cond": "(d.state = 's'::text)"})
BITMAP = scan("Bitmap Heap Scan", found(60))

#: What is read of a table of 400 000 rows, and its title's figure.
READS = {
    "all": (scan("Seq Scan"), "reads all of deed, about 400,000 rows, and tests town", 400_000),
    "what a bitmap finds": (
        BITMAP,
        "finds about 60 of the 400,000 rows of deed by old, and tests town on each of them",
        None,
    ),
    "what two bitmaps find": (
        scan(
            "Bitmap Heap Scan",
            {"Node Type": "BitmapAnd", "Plan Rows": 7, "Plans": [found(60), found(90, "new")]},
        ),
        "finds about 7 of the 400,000 rows of deed by old and new, and tests town",
        None,
    ),
    "what workers share": (
        {
            "Node Type": "Gather",
            "Workers Planned": 2,
            "Plans": [scan("Bitmap Heap Scan", found(60), **{"Parallel Aware": True})],
        },
        "finds about 60 of the 400,000 rows of deed by old, and tests town",
        None,
    ),
    "what an index finds": (
        BY_OLD,
        "reads rows of deed by old at an estimated cost of 793, and tests town on each of them",
        None,
    ),
    "what an index finds, up to a LIMIT": (
        {"Node Type": "Limit", "Total Cost": 700.0, "Plans": [BY_OLD]},
        "reads rows of deed by old, and tests town on each of them",
        None,
    ),
    "what an index finds again and again": (
        driven(BY_OLD, 30),
        "reads rows of deed by old in each of about 30 runs, and tests town on each of them",
        None,
    ),
    "what a bitmap finds again and again": (
        driven(BITMAP, 30),
        "finds about 60 of the 400,000 rows of deed by old in each of about 30 runs, and tests",
        None,
    ),
}


@pytest.mark.parametrize("name", READS)
def test_says_what_is_read(name):
    document, said, rows = READS[name]
    plan, deed = Plan.from_json({"Plan": document}), table(rows=400_000)
    result = judged(plan, Schema({deed.key: deed}))
    assert isinstance(result, Hit)
    assert result.problem.startswith(f"the statement {said}")
    assert (result.rows if result.reads_all else None) == rows


#: Indexes that a nested loop looks rows up by, and whether one of them finds a single row.
LOOKED_UP = {
    "a unique index": (index("old", "state", unique=True), True),
    "an index": (index("old", "state"), False),
    "a unique index of which one key is compared": (
        index("old", "state", "id", unique=True),
        False,
    ),
    "a unique index of some rows": (index("old", "state", unique=True, predicate="done"), False),
}


@pytest.mark.parametrize("name", LOOKED_UP)
def test_a_test_of_the_one_row_that_a_unique_index_finds_costs_nothing(name):
    there, single = LOOKED_UP[name]
    inner = scan("Index Scan", **{"Index Name": "old", "Index Cond": "(d.state = o.state)"})
    plan = Plan.from_json({"Plan": driven(inner | {"Total Cost": 8.0}, 3000)})
    deed = table(indexes=[there])
    assert (suspect(plan, Schema({deed.key: deed})) == []) is single


LIMITED = "reads deed, about 100,000 rows, to its end or until a LIMIT is reached, and tests town"
WHOLE = "reads all of deed, about 100,000 rows, and tests town"


@pytest.mark.parametrize(
    ("steps", "returned", "said"),
    [
        ({"limit": True}, None, LIMITED),
        ({"limit": True}, 10, LIMITED),
        # Ten rows were asked for.
        ({"limit": True}, 9, WHOLE),
        ({"limit": True, "order": ["d.at"]}, 10, WHOLE),
        ({"limit": True, "group": ["d.state"]}, 10, WHOLE),
        ({}, 10, WHOLE),
    ],
)
def test_says_that_a_limit_may_have_stopped_it(steps, returned, said):
    plan, schema = read("d.town = 't'::text", **steps)
    document = dict(plan.document["Plan"]) | ({"Plan Rows": 10} if "limit" in steps else {})
    result = judged(Plan.from_json(document), schema, returned_rows=returned)
    assert result.problem.startswith(f"the statement {said}")


def test_says_what_is_tested_and_what_is_joined():
    result = judged(
        *read("(d.points > 5) AND (d.state = 's'::text)", joined="d.town = o.name"),
    )
    assert result.problem == (
        "the statement reads all of deed, about 100,000 rows, and tests state and points on each "
        "of them and joins them by town: no index on state and town and points."
    )
    result = judged(*read("d.town = 't'::text", order=["d.at DESC"], limit=True))
    assert "and tests town on each of them and sorts them by at: no index" in result.problem
    result = judged(*read(joined="d.town = o.name"))
    assert "rows, and joins them by town: no index on town for the join." in result.problem
    result = judged(*read(group=["d.state"]))
    assert "and sorts or groups them by state: no index ordered by state." in result.problem


def test_says_which_columns_and_how_many_rows():
    result = judged(*read("(d.points > 5) AND (d.state = 's'::text)"))
    assert "reads all of deed, about 100,000 rows" in result.problem
    assert "state and points" in result.problem
    assert result.evidence["columns"] == ["state", "points"]
    assert result.evidence["table_rows"] == 100_000


def test_says_what_a_foreign_key_costs():
    result = judged(*referring())
    assert isinstance(result, Hit)
    assert "for each row that is deleted from deed" in result.problem
    assert "visit_town_fkey" in result.problem
    assert result.evidence["foreign_key"] == "visit_town_fkey"
    assert isinstance(judged(*referring(rows=40)), Miss)
