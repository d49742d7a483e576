"""The shorter spelling is the one that the server reads as the same expression."""

from __future__ import annotations

import pytest

from flask_planwatch.plan.schema import Column
from flask_planwatch.plan.spelling import other_path, shorter_spelling

from . import read, relation_of

#: Expressions as the server prints them, each with a shorter spelling that it reads as the same.
RECORDED = {each["printed"]: each for each in read("spellings")["expressions"]}

RELATION = relation_of(
    Column("email", "character varying(255)"),
    Column("name", "text"),
    Column("a", "integer"),
    Column("price", "numeric(10,2)"),
    Column("mood", "mood"),
    Column("x(y)", "text"),
)


@pytest.mark.parametrize("printed", RECORDED)
def test_shorter_spelling(printed):
    assert shorter_spelling(printed, RELATION) == RECORDED[printed]["shorter"]
    # That is worth something only if each server read the shorter one as the same.
    for read_back in RECORDED[printed]["read_back"].values():
        assert read_back in {printed, f"({printed})"}


#: Casts that change the value, so that no spelling without them is the same.
NEEDED = [
    "lower((name)::text)",
    "(email)::character varying(3)",
    "((email)::text)::bytea",
    "'{a}'::text[]",
    "lower(('x'::character varying)::text)",
]


@pytest.mark.parametrize("expression", NEEDED)
def test_other_casts_stay(expression):
    assert "::" in shorter_spelling(expression, RELATION)


#: Paths into jsonb in both spellings.
PATHS = {
    "data['a'::text] ->> 'b'::text": "(data -> 'a'::text) ->> 'b'::text",
    "data['a'::text]['b'::text] ->> 'c'::text": "((data -> 'a'::text) -> 'b'::text) ->> 'c'::text",
    "(\"Data\"['it''s'::text] ->> 'b'::text)::integer": (
        "((\"Data\" -> 'it''s'::text) ->> 'b'::text)::integer"
    ),
}


@pytest.mark.parametrize("subscripts", PATHS)
def test_the_other_spelling_of_a_path(subscripts):
    arrows = PATHS[subscripts]
    assert (other_path(subscripts), other_path(arrows)) == (arrows, subscripts)


@pytest.mark.parametrize(
    "text",
    ["data ->> 'a'::text", "data['0'::text] ->> 'a'::text", "(data -> '-1'::text) ->> 'a'::text"],
)
def test_a_path_with_one_spelling(text):
    """A subscript takes a number for an element's place, where an arrow takes it for a key."""
    assert other_path(text) == text
