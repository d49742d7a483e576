"""What may leave the process holds no compared value, whatever the value looks like."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flask_planwatch.plan.scrub import (
    MASK,
    UNREADABLE,
    WITHOUT_VALUES,
    mask,
    scrub_condition,
    scrub_plan,
    shown,
)
from flask_planwatch.plan.tree import CONDITIONS, Plan

from ..cases import first
from . import plan_names, read

pytestmark = pytest.mark.slow

PREDICATES = read("predicates")["predicates"]

MARK = "SECRET"


def printed(name: str, version: str = "18.6") -> str:
    return PREDICATES[name]["printed"][version]["condition"]


def literal(value: str) -> str:
    """Return a string as PostgreSQL prints it in a plan."""
    return "'" + value.replace("'", "''") + "'"


def array(values: list[str]) -> str:
    """Return an array of text as PostgreSQL prints it in a plan."""

    def element(value: str) -> str:
        if value and value.upper() != "NULL" and not re.search(r'[{},"\\\s]', value):
            return value
        return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'

    return literal("{" + ",".join(element(value) for value in values) + "}")


def test_the_quoting_of_these_tests_is_that_of_the_server():
    values = ["a", "b c", "d,e", "f'g", 'h"i', "j\\k", "", "NULL"]
    assert f"(t.name = ANY ({array(values)}::text[]))" == printed("in of text")
    assert f"(t.name = {literal('it' + chr(39) + 's')}::text)" == printed("string with a quote")
    assert f"(t.name = {literal('a' + chr(92))}::text)" == printed("string with a backslash")


#: Conditions as the server prints them, with the compared string in them.
STRINGS = {
    name: (printed(name), constant)
    for name, constant in {
        "varchar": "'x'",
        "cast to text": "'x'",
        "function": "'x'",
        "function in a schema": "'x'",
        "concatenation": "'x'",
        "json text": "'x'",
        "json path": "'x'",
        "json contains": '\'{"a": "x AND y"}\'',
        "json has": "'a'",
        "like": "'a%'",
        "regular expression": "'^(a|b) AND c$'",
        "text search": "'''a'' & ''b'''",
        "bytes": r"'\xdeadbeef'",
        "enum in a schema": "'large'",
        "operator in a schema": "'x'",
        "any of a column": "'x'",
        "time zone": "'2020-01-01'",
        "date_trunc": "'2020-01-01 00:00:00'",
        "case": "'y'",
        "coalesce": "'y'",
        "trim": "'y'",
        "substring": "'x'",
        "array element": "'x'",
        "is not distinct": "'x'",
        "or": "'x'",
        "not": "'x'",
        "boolean function": "'a AND b'",
        "overlaps": "'2020-01-01'",
        "name with parentheses": "'x'",
        "alias with parentheses": "'x'",
        "alias call": "'x'",
        "json in alias call": "'x'",
        "three": "'a AND b'",
        "with an alternative": "'x'",
    }.items()
}

#: The same with a string that stands beside a column, and is a value all the same.
BESIDE_COLUMNS = {
    name: (printed(name), "'x'")
    for name in (
        "case",
        "coalesce",
        "nullif",
        "trim",
        "any of an array of values and columns",
        "array of values and columns",
    )
}

#: The same with a compared number, and with a compared list.
NUMBERS = {
    name: (printed(name), constant)
    for name, constant in {
        "integer": "5",
        "unequal": "5",
        "constant first": "5",
        "negative": "'-5'",
        "numeric": "5.50",
        "double": "'1e+20'",
        "arithmetic": "5",
        "extract": "'2020'",
        "is distinct": "5",
        "or": "5",
        "between": "9",
        "flag": None,
    }.items()
    if constant
}
LISTS = {
    name: (printed(name), constant)
    for name, constant in {
        "in of an expression": "'{a,b}'",
        "in of varchar": "'{a,b}'",
        "like any": "'{a%,b%}'",
        "json has any": "'{a,b}'",
        "arrays overlap": "'{a,b}'",
    }.items()
}

NASTY = st.text("ab'\"\\(){},;:$?%-/* \n\tANDé", max_size=12)
MARKED = st.tuples(NASTY, NASTY).map(lambda ends: f"{ends[0]}{MARK}{ends[1]}")


def substituted(template: tuple[str, str], constant: str) -> str:
    condition, original = template
    before, found, after = condition.rpartition(original)
    assert found
    return before + constant + after


@pytest.mark.parametrize("name", first(6, STRINGS))
@given(value=MARKED)
@example(value=f"{MARK}' AND (b = '")
@example(value=f"a\\{MARK}\\")
@example(value=f"--{MARK}/*")
def test_compared_strings_go(name, value):
    scrubbed = scrub_condition(substituted(STRINGS[name], literal(value)))
    assert MARK not in scrubbed
    assert scrubbed == scrub_condition(printed(name))


@pytest.mark.parametrize("value", ["", "0", "1", "@", "day", "{}"])
def test_compared_values_go_that_could_be_structure_elsewhere(value):
    assert scrub_condition(f"(t.name = {literal(value)}::text)") == "(t.name = ?::text)"
    assert scrub_condition(f"(t.tags && {array([value])}::text[])") == "(t.tags && ?::text[])"


@pytest.mark.parametrize("number", [0, 1])
def test_compared_numbers_go_that_could_be_structure_elsewhere(number):
    assert scrub_condition(f"(t.a = {number})") == "(t.a = ?)"
    assert scrub_condition(f"((t.a = {number}) OR t.flag)") == "((t.a = ?) OR t.flag)"


#: Expressions around a column in which a constant is compared, and as they are shown.
COMPARED_INSIDE = {
    "COALESCE((t.name = {}::text), false)": "COALESCE((t.name = ?::text), false)",
    "COALESCE(({}::text <> t.name), false)": "COALESCE((?::text <> t.name), false)",
    "CASE WHEN (t.name = {}::text) THEN 'x' ELSE t.b END": (
        "CASE WHEN (t.name = ?::text) THEN ? ELSE t.b END"
    ),
    "CASE t.name WHEN {}::text THEN t.a ELSE t.b END": (
        "CASE t.name WHEN ?::text THEN t.a ELSE t.b END"
    ),
    "(t.name = ANY ({}::text[]))": "(t.name = ANY (?::text[]))",
    "(t.name = ANY (ARRAY[t.b, {}::text]))": "(t.name = ANY (ARRAY[t.b, ?::text]))",
    "(t.name IS DISTINCT FROM {}::text)": "(t.name IS DISTINCT FROM ?::text)",
    "(t.name ~~* {}::text)": "(t.name ~~* ?::text)",
    "NULLIF(t.name, {}::text)": "NULLIF(t.name, ?::text)",
}


@pytest.mark.parametrize("value", ["", "0", "1", "+", "{}"])
@pytest.mark.parametrize("expression", COMPARED_INSIDE)
def test_what_is_compared_inside_of_an_expression_goes(expression, value):
    assert shown(expression.format(literal(value)), frozenset()) == COMPARED_INSIDE[expression]


@pytest.mark.parametrize(
    "expression",
    [
        "COALESCE(t.name, ''::text)",
        "((t.name || ' '::text) || t.town)",
        "replace(t.name, '-'::text, ''::text)",
        "CASE WHEN (t.name IS NULL) THEN 1 ELSE 0 END",
        "(COALESCE(t.name, ''::text) || '+'::text)",
        "(t.flags & 1)",
    ],
)
def test_what_stands_for_nothing_stays(expression):
    assert shown(expression, frozenset()) == expression


@pytest.mark.parametrize("name", BESIDE_COLUMNS)
@given(value=MARKED)
@example(value=MARK)
def test_values_beside_a_column_go(name, value):
    condition = substituted(BESIDE_COLUMNS[name], literal(value))
    assert MARK not in scrub_condition(condition)
    assert scrub_condition(condition) != UNREADABLE


@pytest.mark.parametrize("name", LISTS)
@given(values=st.lists(MARKED, min_size=1, max_size=4))
def test_compared_lists_go(name, values):
    scrubbed = scrub_condition(substituted(LISTS[name], array(values)))
    assert MARK not in scrubbed
    assert scrubbed == scrub_condition(printed(name))


@pytest.mark.parametrize("name", first(3, NUMBERS))
@given(number=st.integers(min_value=8_675_309), fraction=st.sampled_from(["", ".5", ".0000001"]))
def test_compared_numbers_go(name, number, fraction):
    constant = f"{number}{fraction}"
    if NUMBERS[name][1].startswith("'"):
        constant = literal(constant)
    scrubbed = scrub_condition(substituted(NUMBERS[name], constant))
    assert str(number) not in scrubbed
    assert scrubbed == scrub_condition(printed(name))


#: What stays of the server's words.
SCRUBBED = {
    "integer": "(t.a = ?)",
    "constant first": "(? = t.a)",
    "negative": "(t.a = ?::integer)",
    "function": "(lower((t.email)::text) = ?::text)",
    "between": "(t.a >= ?) AND (t.a <= ?)",
    "in": "(t.a = ANY (?::integer[]))",
    "not in": "(t.a <> ALL (?::integer[]))",
    "like": "(t.name ~~ ?::text)",
    "enum in a schema": "(t.size = ?::shop.size)",
    "flag": "(t.flag)",
    "is null": "(t.name IS NULL)",
    "whole row": "(t.* IS NOT NULL)",
    "or": "((t.a = ?) OR (lower(t.name) = ?::text))",
    "join": "(lower(u.name) = t.name)",
    "json text": "((t.data ->> 'type'::text) = ?::text)",
    "json cast": "(((t.data ->> 'n'::text))::integer = ?)",
    "json subscript": "(t.data['a'::text]['b'::text] = ?::jsonb)",
    "date_trunc": "(date_trunc('day'::text, t.local_at) = ?::timestamp without time zone)",
    "time zone": "(((t.created_at AT TIME ZONE 'Europe/Vienna'::text))::date = ?::date)",
    "arithmetic": "((t.a + (t.b * 2)) > ?)",
    "cast to numeric": "((t.ratio)::numeric(10,2) = ?::numeric)",
    "array element": "(t.tags[1] = ?::text)",
    "alias call": "(call.name = ?::text)",
}


@pytest.mark.parametrize("version", ["15.20", "18.6"])
@pytest.mark.parametrize("name", SCRUBBED)
def test_structure_stays(name, version):
    assert scrub_condition(printed(name, version)) == SCRUBBED[name]


#: Numbers that the server gives to its own sub-plans and parameters.
NAMES = [
    ("value of a sub-query", "15.20", "$1"),
    ("value of a sub-query", "18.6", "(InitPlan 1).col1"),
    ("value of a correlated sub-query", "15.20", "SubPlan 1"),
    ("value of a correlated sub-query", "18.6", "SubPlan 1"),
    ("not in a sub-query", "15.20", "hashed SubPlan 1"),
    ("not in a sub-query", "18.6", "(hashed SubPlan 1).col1"),
    ("any of a sub-query", "18.6", "(hashed SubPlan 1).col1"),
    ("exists", "18.6", "SubPlan 1"),
    ("generic plan", "18.6", "$1"),
    ("generic plan of a list", "15.20", "$1"),
]


@pytest.mark.parametrize(("name", "version", "own"), NAMES)
def test_names_of_the_plan_stay(name, version, own):
    assert own in printed(name, version)
    scrubbed = scrub_condition(printed(name, version))
    assert own in scrubbed
    assert MASK not in scrubbed


@pytest.mark.parametrize(("length", "shown"), [(1, True), (63, True), (64, False), (500, False)])
def test_structural_constants_as_long_as_a_name_stay(length, shown):
    key = "k" * length
    scrubbed = scrub_condition(f"((t.data ->> '{key}'::text) = 'x'::text)")
    assert scrubbed == f"((t.data ->> {repr(key) if shown else MASK}::text) = ?::text)"


@pytest.mark.parametrize(
    "condition", [f"(t.a = '{MARK}", f'(t."{MARK} = 5)', f"(t.a = $x${MARK})", f"('{MARK}"]
)
def test_what_cannot_be_read_is_masked_whole(condition):
    assert scrub_condition(condition) == UNREADABLE
    assert mask(condition) == UNREADABLE


@pytest.mark.parametrize("name", plan_names())
def test_a_scrubbed_plan_is_the_same_plan_without_values(name):
    plan = Plan.from_json(read(name)["plan"])
    scrubbed = scrub_plan(plan)
    assert [node.title for node in scrubbed.nodes] == [node.title for node in plan.nodes]
    for before, after in zip(plan.nodes, scrubbed.nodes, strict=True):
        figures = [
            (n.startup_cost, n.total_cost, n.rows, n.width, n.alias) for n in (before, after)
        ]
        assert figures[0] == figures[1]
        assert after.conditions == tuple(
            (kind, scrub_condition(text)) for kind, text in before.conditions
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seq-scan-15", "'x'"),
        ("parallel-18", "'x'"),
        ("bitmap-18", "10000"),
        ("cte-18", "'n7'"),
        ("cte-15", "15000"),
        ("partitions-15", "'n7'"),
        ("nested-loop-15", "'u7'"),
        ("index-only-18", "9)"),
    ],
)
def test_no_node_of_a_scrubbed_plan_holds_a_value(name, value):
    plan = Plan.from_json(read(name)["plan"])
    assert value in plan.as_text()
    assert value not in "".join(
        text for node in scrub_plan(plan).nodes for _, text in node.conditions
    )


def test_a_plan_is_not_changed_by_scrubbing():
    plan = Plan.from_json(read("bitmap-18")["plan"])
    before = plan.as_text()
    scrub_plan(plan)
    assert plan.as_text() == before


#: A key that no version prints yet, with what it may hold.
UNKNOWN = {"Future Field": MARK, "Future List": [MARK, {"deep": MARK}], MARK: {MARK: MARK}}

#: Properties that are shown with their constants masked.
KEYS = {
    *("Sort Key", "Presorted Key", "Group Key", "Order By", "Run Condition", "Window"),
    *("Cache Key", "Function Call", "Conflict Arbiter Indexes"),
}

#: What a statement selects, which is not needed, and what it groups by.
UNNEEDED = {"Output": [f"'{MARK}'::text"], "Group Key": [f"('{MARK}'::text)"]}


@pytest.mark.parametrize("name", plan_names())
def test_only_what_is_known_to_hold_no_value_leaves(name):
    document = read(name)["plan"]
    top = document[0] if isinstance(document, list) else document
    top |= UNKNOWN | {"Query Text": MARK, "Settings": {"role": MARK}}
    waiting = [top["Plan"]]
    while waiting:
        node = waiting.pop()
        waiting += node.get("Plans", [])
        node |= UNKNOWN | UNNEEDED | {"Filter": f"(t.a = '{MARK}'::text)"}
        node["Sort Key"] = [f"(t.a = '{MARK}'::text)", "t.b DESC"]
    plan = Plan.from_json(document)
    assert MARK in repr(plan)
    scrubbed = scrub_plan(plan)
    assert MARK not in repr(scrubbed) + scrubbed.as_text()
    assert "Sort Key: (t.a = ?::text), t.b DESC" in scrubbed.as_text()
    assert "Group Key: (?::text)" in scrubbed.as_text()
    assert "Output" not in scrubbed.as_text()
    known = {*WITHOUT_VALUES, *CONDITIONS, *KEYS, "Plans"}
    for one, node in zip(scrubbed.documents, scrubbed.nodes, strict=True):
        assert known >= set(one)
        assert node.output == ()


def test_a_key_of_an_order_is_masked_once_it_varies():
    key = "((t.data ->> 'type'::text)) DESC"
    node = {"Node Type": "Sort", "Sort Key": [key]}
    plan = Plan.from_json({"Plan": node})
    assert scrub_plan(plan).root.sort_keys == (key,)
    assert scrub_plan(plan, frozenset({mask(key)})).root.sort_keys == (mask(key),)
    assert "type" not in mask(key)


@pytest.mark.parametrize(
    "literal", ["1", "8675309", "'x'", "''", "'O x'::text", "5::bigint", "'1'::character varying"]
)
def test_a_literal_alone_is_masked_as_anywhere_else(literal):
    assert f"x = {mask(literal)}" == mask(f"x = {literal}")
    assert mask(literal).startswith("?")
