"""Which indexes cover a statement, on plans made by hand."""

from __future__ import annotations

import pytest

from flask_planwatch.plan.index_only import coverages, is_for_more
from flask_planwatch.plan.schema import Column
from flask_planwatch.plan.tree import Plan

from ..indexes.data import COLUMNS, index, read, table

DATA = (*COLUMNS, Column("data", "jsonb", -1.0, "data", 500.0, bounded=False))
KEY = "(data ->> 'kind'::text)"
TESTED = "(d.data ->> 'kind'::text) = 'a'::text"


def covering(where, *keys, output=("d.town",), used="", **changes):
    """Return what the index on these keys covers of a statement, None if it does not cover it."""
    relation = table(columns=DATA, indexes=[index("there", *keys, **changes)])
    plan, schema = read(where, output=output, relation=relation)
    found = coverages(plan, schema)
    return found[0] if found else None


def test_a_column_inside_an_expression_blocks():
    one = covering(TESTED, "town", KEY)
    assert one.blocking == ("data",)
    assert one.expressions == ("data ->> 'kind'::text",)
    assert one.conditions == ("(data ->> 'kind'::text) = 'a'::text",)
    assert (one.elsewhere, one.used) == (False, False)


def test_nothing_blocks_a_statement_on_columns():
    one = covering("d.state = 's'::text", "state", "town")
    assert (one.blocking, one.expressions, one.conditions) == ((), (), ())


#: A condition, the keys of an index, and what the statement returns: the index lacks something.
LACKING = {
    "a column": (TESTED, ("state", KEY), ("d.town",)),
    "the expression": (TESTED, ("town",), ("d.town",)),
    "another expression": (TESTED, ("town", "(data ->> 'other'::text)"), ("d.town",)),
    "an expression around it": (
        "lower((d.data ->> 'kind'::text)) = 'a'::text",
        ("town", KEY),
        ("d.data",),
    ),
    "an expression of another type": (
        "(d.data #> 'kind'::text[]) IS NULL",
        ("town", "(data #> 'kind'::text)"),
        ("d.town",),
    ),
    "the column itself": (TESTED, ("town", KEY), ("d.town", "d.data")),
    "what is tested beside it": (f"({TESTED}) AND (d.points > 5)", ("town", KEY), ("d.town",)),
}  # fmt: skip


@pytest.mark.parametrize("name", LACKING)
def test_what_an_index_lacks(name):
    where, keys, output = LACKING[name]
    assert covering(where, *keys, output=output) is None


#: Indexes that hold everything, but cannot be read alone.
UNFIT = {
    "invalid": {"valid": False},
    "of another kind": {"method": "gist"},
    "partial, and not used": {"predicate": "(points > 5)"},
}


@pytest.mark.parametrize("name", UNFIT)
def test_an_index_that_cannot_be_read_alone(name):
    assert covering(TESTED, "town", KEY, **UNFIT[name]) is None


def test_included_columns_count():
    assert covering(TESTED, KEY, included=("town",)) is not None


#: Conditions that no partial index can follow.
MOVING = {
    "a range": "(d.data ->> 'kind'::text) > 'a'::text",
    "a parameter": "(d.data ->> 'kind'::text) = $1",
    "a sub-query's result": "(d.data ->> 'kind'::text) = (InitPlan 1).col1",
    "another column": "(d.data ->> 'kind'::text) = d.town",
    "no comparison": "pg_input_is_valid((d.data ->> 'kind'::text), 'int4'::text)",
}


@pytest.mark.parametrize("name", MOVING)
def test_a_condition_that_a_partial_index_cannot_have(name):
    one = covering(MOVING[name], "town", KEY)
    assert (one.conditions, one.elsewhere) == ((), True)


def test_the_expression_in_the_select_list():
    one = covering(TESTED, "town", KEY, output=("d.town", "(d.data ->> 'kind'::text)"))
    assert (len(one.conditions), one.elsewhere) == (1, True)


def test_a_call_needs_no_parentheses():
    one = covering("(lower(d.code))::text = 'a'::text", "town", "lower((code)::text)")
    assert one is None
    one = covering("lower((d.code)::text) = 'a'::text", "town", "lower((code)::text)")
    assert one.blocking == ("code",)


#: A partial index's predicate and a condition, and whether the index is for more values.
MORE = {
    "a longer list": ("(kind = ANY (ARRAY['a'::text, 'b'::text]))", "kind = 'a'::text", True),
    "as printed in a plan": (
        "(kind = ANY ('{a,b,\"c d\"}'::text[]))",
        "kind = ANY ('{a,\"c d\"}'::text[])",
        True,
    ),
    "the same list": (
        "(kind = ANY (ARRAY['a'::text, 'b'::text]))",
        "kind = ANY ('{b,a}'::text[])",
        False,
    ),
    "other values": ("(kind = ANY (ARRAY['a'::text, 'b'::text]))", "kind = 'c'::text", False),
    "another column": ("(sort = ANY (ARRAY['a'::text, 'b'::text]))", "kind = 'a'::text", False),
    "no predicate": (None, "kind = 'a'::text", False),
    "one that cannot be read": ("('", "kind = 'a'::text", False),
}  # fmt: skip


@pytest.mark.parametrize("name", MORE)
def test_an_index_for_more_values(name):
    predicate, condition, more = MORE[name]
    assert is_for_more(index("there", "id", predicate=predicate), condition) is more


def test_garbage_covers_nothing():
    relation = table(columns=DATA, indexes=[index("there", "town", "((('", predicate=None)])
    for where in ("'", "((", "d.data ->>", "AND AND", ""):
        plan, schema = read(where, output=("d.town",), relation=relation)
        assert all(not one.expressions for one in coverages(plan, schema))
    empty = Plan.from_json({"Node Type": "Result"})
    assert coverages(empty, schema) == ()
