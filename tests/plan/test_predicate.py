"""Conditions are cut into operators, columns and the server's own text."""

from __future__ import annotations

import contextlib
import json

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flask_planwatch.plan.predicate import (
    Conjunct,
    Operand,
    bare,
    conjuncts,
    parameters_in,
    waits_for_a_value,
)

from . import read

RECORDED = read("predicates")

#: Each recorded WHERE clause with what one server printed of it.
PRINTED = [
    pytest.param(case, printed, id=f"{name} in {version}")
    for name, case in RECORDED["predicates"].items()
    for version, printed in case["printed"].items()
]

#: Each operand of them, as the server prints it with its alias and without, both by itself.
OPERANDS = {
    (operand["with_alias"], operand["without_alias"], case["from"])
    for case in RECORDED["predicates"].values()
    for printed in case["printed"].values()
    for operands in printed["operands"]
    for operand in operands
    if operand and "SELECT" not in case["statement"].removeprefix("SELECT")
}


def in_parentheses(text: str) -> set[str]:
    """Return the spellings of an operand: the server may put it into parentheses."""
    return {text, f"({text})"}


@pytest.mark.parametrize(("case", "printed"), PRINTED)
def test_operators(case, printed):
    found = conjuncts(printed["condition"])
    assert [each.operator for each in found] == [each["operator"] for each in case["conjuncts"]]


@pytest.mark.parametrize(("case", "printed"), PRINTED)
def test_columns(case, printed):
    found = conjuncts(printed["condition"])
    for conjunct, expected in zip(found, case["conjuncts"], strict=True):
        if expected["columns"] is not None:
            sides = [conjunct.left.columns, conjunct.right.columns]
            assert [[list(column) for column in side] for side in sides] == expected["columns"]


@pytest.mark.parametrize(("case", "printed"), PRINTED)
def test_operands_are_the_text_of_the_server(case, printed):
    found = conjuncts(printed["condition"])
    for conjunct, expected in zip(found, printed["operands"], strict=True):
        for operand, text in zip((conjunct.left, conjunct.right), expected, strict=True):
            if text is not None:
                assert text["with_alias"] in in_parentheses(operand.text)


@pytest.mark.parametrize(("case", "printed"), PRINTED)
def test_the_alias_goes_as_it_does_for_the_server(case, printed):
    found = conjuncts(printed["condition"])
    for conjunct, expected in zip(found, printed["operands"], strict=True):
        for operand, text in zip((conjunct.left, conjunct.right), expected, strict=True):
            single = len({alias for alias, _ in (*conjunct.left.columns, *conjunct.right.columns)})
            if text is not None and single <= 1 and "(SELECT" not in case["statement"]:
                assert text["without_alias"] in in_parentheses(operand.without_alias())


def side(condition: str) -> Operand:
    (conjunct,) = conjuncts(condition)
    return conjunct.left


#: What an operand is if it is nothing but a column: its name.
COLUMNS = {
    "(t.a = 5)": "a",
    "((t.a) = 5)": "a",
    '(t."a.b" = 5)': "a.b",
    '("T (1)"."we""ird" = 5)': 'we"ird',
    "((t.a + 1) = 5)": None,
    "((- t.a) = 5)": None,
    "(lower(t.name) = 'x'::text)": None,
    "((t.a)::numeric = 5.0)": None,
    "(t.tags[1] = 'x'::text)": None,
    "((t.pair).x = 5)": None,
    "('x'::text = t.name)": None,
    "($0 = t.name)": None,
}


@pytest.mark.parametrize("condition", COLUMNS)
def test_bare_column(condition):
    assert side(condition).column == COLUMNS[condition]


#: What an operand is if it is nothing but a column in a cast: the column and the type.
CASTS = {
    "((t.a)::numeric = 5.0)": ("a", "numeric"),
    "((t.email)::text = 'x'::text)": ("email", "text"),
    "((t.ratio)::numeric(10,2) = '5'::numeric)": ("ratio", "numeric(10,2)"),
    "((t.day)::timestamp(3) with time zone = '2020-01-01 00:00:00+00'::timestamp with time zone)": (
        "day",
        "timestamp(3) with time zone",
    ),
    "((t.name)::shop.size = 'large'::shop.size)": ("name", "shop.size"),
    '((t."Odd")::shop."Big Size" = \'large\'::shop."Big Size")': ("Odd", 'shop."Big Size"'),
    "((t.tags)::character varying[] = '{x}'::character varying[])": ("tags", "character varying[]"),
    "(((t.a)::character varying(3))::text = 'x'::text)": None,
    "((t.data ->> 'n'::text) = 'x'::text)": None,
    "(((t.data ->> 'n'::text))::integer = 5)": None,
    "(t.a = 5)": None,
    "('5'::integer = t.a)": None,
}


@pytest.mark.parametrize("condition", CASTS)
def test_cast_column(condition):
    assert side(condition).cast_column == CASTS[condition]


BARE = {
    "a": "a",
    "(a)": "a",
    " ( (a) ) ": "a",
    "(a) = (b)": "(a) = (b)",
    "((a) = (b))": "(a) = (b)",
    "(')')": "')'",
    "('(') = (b)": "('(') = (b)",
    '(")")': '")"',
    "(CASE WHEN (a) THEN (b) END)": "CASE WHEN (a) THEN (b) END",
    "": "",
}


@pytest.mark.parametrize("text", BARE)
def test_bare(text):
    assert bare(text) == BARE[text]


def test_the_sides_of_a_comparison():
    (conjunct,) = conjuncts("(lower(t.name) = upper(u.name))")
    assert (conjunct.left.text, conjunct.right.text) == ("lower(t.name)", "upper(u.name)")


def test_the_sides_of_a_list():
    (conjunct,) = conjuncts("(t.a = ANY ('{1,2}'::integer[]))")
    assert (conjunct.left.text, conjunct.right.text) == ("t.a", "'{1,2}'::integer[]")


def test_columns_and_aliases_of_an_operand():
    operand = side("((t.a + (u.b * t.a)) = 5)")
    assert operand.columns == (("t", "a"), ("u", "b"), ("t", "a"))
    assert operand.column_names == ("a", "b")
    assert operand.aliases == {"t", "u"}


@pytest.mark.parametrize("condition", ["(t.a = 'x", '(t."a = 5)', "(t.a = $x$y)"])
def test_what_cannot_be_read_yields_nothing(condition):
    assert conjuncts(condition) == ()


@given(st.text(max_size=40))
def test_any_text_is_read_or_yields_nothing(text):
    assert all(isinstance(conjunct, Conjunct) for conjunct in conjuncts(f"(t.a = {text})"))


# --- asked of the server: the text that was cut is the same expression, with or without alias


@contextlib.contextmanager
def printer(database):
    """Make the recorded tables, and yield a function that has the server print an expression."""
    database.execute(*RECORDED["schema"])
    engine = sa.create_engine(database.url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect().execution_options(no_parameters=True) as connection:

        def output(expression: str, source: str) -> str:
            rows = connection.exec_driver_sql(
                f"EXPLAIN (FORMAT JSON, VERBOSE) SELECT {expression} FROM {source}"
            )
            document = rows.scalar()
            document = json.loads(document) if isinstance(document, str) else document
            return document[0]["Plan"]["Output"][0]

        yield output


def test_the_server_reads_the_cut_text_as_the_original(database):
    tried = 0
    with printer(database) as output:
        for original, _, source in sorted(OPERANDS):
            operand = side(f"(({original}) = NULL)")
            if operand.columns and ", " not in source:
                # With a second relation, the server writes the alias before each column.
                again = output(operand.without_alias(), f"{source}, generate_series(1, 2) AS other")
                assert bare(again) == bare(original)
                tried += 1
    assert tried > 60


#: Expressions of a text, written as a person may write them.
EXPRESSIONS = st.recursive(
    st.sampled_from(
        [
            *("name", "email", '"Odd"', '"a.b"', '"x(y)"', '"we""ird"', '"select"', '"it\'s"'),
            *("a::text", "(data ->> 'k')", "tags[1]", "code", "size::text", '"Size"::text'),
        ]
    )
    | st.text("ab'\"\\(). :$AND", max_size=8).map(lambda text: "'" + text.replace("'", "''") + "'"),
    lambda inner: st.one_of(
        inner.map(lambda text: f"lower({text})"),
        inner.map(lambda text: f"shop.shout({text})"),
        inner.map(lambda text: f"({text})::varchar(5)"),
        inner.map(lambda text: f"({text})::shop.code"),
        inner.map(lambda text: f"substring({text} from 1 for 3)"),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]} || {pair[1]})"),
        st.tuples(inner, inner).map(lambda pair: f"COALESCE({pair[0]}, {pair[1]})"),
        st.tuples(inner, inner).map(
            lambda pair: f"CASE WHEN ({pair[0]}) = 'AND' AND flag THEN {pair[1]} ELSE 't.a' END"
        ),
    ),
    max_leaves=5,
)

ALIASES = st.sampled_from(["t", "call", '"T (1)"', '"x.y"', '"we""ird"', '"user"'])


def test_the_server_reads_any_cut_text_as_the_original(database):
    with printer(database) as output:

        @settings(
            max_examples=150,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        )
        @given(EXPRESSIONS, ALIASES)
        def agrees(expression, alias):
            source = f"t AS {alias}, generate_series(1, 2) AS other"
            original = output(expression, source)
            cut = side(f"(({original}) = NULL)").without_alias()
            # It may read less in its own text: of equal casts around a domain's, one stays.
            assert output(cut, source) == output(original, source)
            assert output(expression, f"t AS {alias}") in in_parentheses(cut)

        agrees()


PARAMETERS = {
    "(a.kind >= $10)": ({10}, True),
    "((a.kind = $1) AND (a.town = $12))": ({1, 12}, True),
    "(a.town = '$1 off'::text)": (set(), False),
    '(a."$1" = 3)': (set(), False),
    "(a.town = 'SubPlan 1'::text)": (set(), False),
    "(a.id = (InitPlan 1).col1)": (set(), True),
    "(NOT (hashed SubPlan 2))": (set(), True),
    "(a.id = $0)": ({0}, True),
    "(a.id = 'open": (set(), False),
    "(a.id = $1 'open": (set(), True),
}


@pytest.mark.parametrize("text", PARAMETERS)
def test_parameters_are_words_of_their_own(text):
    numbers, later = PARAMETERS[text]
    assert parameters_in(text) == numbers
    assert waits_for_a_value(text) is later
