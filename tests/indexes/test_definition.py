"""An expression as PostgreSQL prints it in an index's definition, as far as its text tells."""

from __future__ import annotations

import pytest

from flask_planwatch.indexes.definition import as_defined, is_alike, printed_keys

#: What PostgreSQL 15 and 18 print with all parentheses, and in the definition with `true`; None
#: where the first does not tell the second.
PRINTED = {
    "lower((email)::text)": "lower(email::text)",
    "lower(((full_name || ' '::text) || (state)::text))": (
        "lower((full_name || ' '::text) || state::text)"
    ),
    "lower((COALESCE(note, ''::character varying))::text)": (
        "lower(COALESCE(note, ''::character varying)::text)"
    ),
    "((((doc ->> 'a'::text))::integer + 1))": "(((doc ->> 'a'::text)::integer) + 1)",
    "round((((doc ->> 'a'::text))::numeric * 2.0), 2)": (
        "round(((doc ->> 'a'::text)::numeric) * 2.0, 2)"
    ),
    "((((points + 1) * 2))::numeric * 2.5)": "(((points + 1) * 2)::numeric * 2.5)",
    "((((points + 1))::text || 'a'::text))": "(((points + 1)::text) || 'a'::text)",
    "((points IS NULL) = (id IS NULL))": "((points IS NULL) = (id IS NULL))",
    "((((doc ->> 'a'::text))::integer IS NULL))": "(((doc ->> 'a'::text)::integer) IS NULL)",
    "((EXTRACT(year FROM ts) + (1)::numeric))": "(EXTRACT(year FROM ts) + 1::numeric)",
    "date_trunc('day'::text, (at AT TIME ZONE 'UTC'::text))": (
        "date_trunc('day'::text, (at AT TIME ZONE 'UTC'::text))"
    ),
    # A cast to a length, of one to the type.
    "(((((doc -> 'a'::text) ->> 'b'::text))::character varying(10) IS NULL))": None,
    "TRIM(BOTH FROM (((doc -> 'a'::text) ->> 'b'::text))::character varying)": None,
    "((((first || '1'::text))::integer + 1))": None,
    "((points > 5) AND (id > 3))": None,
    "EXTRACT(year FROM (ts + '1 day'::interval))": None,
    "CASE WHEN (points > 0) THEN 1 ELSE 0 END": None,
    "it is (no expression": None,
}


@pytest.mark.parametrize("printed", PRINTED)
def test_parentheses_are_those_of_the_definition(printed):
    assert as_defined(printed) == PRINTED[printed]


#: An index as the server prints it, and its keys.
KEYS = {
    'CREATE INDEX i ON public."u(" USING btree (lower((a)::text) text_pattern_ops DESC, id)': [
        "lower((a)::text)",
        "id",
    ],
    'CREATE INDEX i ON u USING gin ("x)" gin_trgm_ops, ((a || b))) INCLUDE (c) WHERE (d > 1)': [
        '"x)"',
        "((a || b))",
    ],
    "CREATE INDEX i ON u USING btree (f(a, b), ((a + b)) DESC NULLS LAST)": [
        "f(a, b)",
        "((a + b))",
    ],
    "CREATE INDEX i ON u USING btree (it's)": [],
}


@pytest.mark.parametrize("definition", KEYS)
def test_keys_are_without_class_and_direction(definition):
    assert printed_keys(definition) == KEYS[definition]


def test_alembic_compares_texts_without_casts_quotes_and_blanks():
    assert is_alike("(lower(Email))", "lower(email::character varying(9))")
    assert is_alike("data ->> 'a'", "(data ->> 'a'::text)")
    assert not is_alike("lower((a || b))", "lower(a || b)")
