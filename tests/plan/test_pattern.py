"""Which index answers what a plan prints, without a server."""

from __future__ import annotations

from functools import partial

import pytest

from flask_planwatch.plan.comparison import Comparison, comparisons
from flask_planwatch.plan.index_use import is_gone
from flask_planwatch.plan.pattern import (
    AccessMethod,
    access_method,
    prefix_subjects,
    read,
    subjects,
)
from flask_planwatch.plan.predicate import conjuncts
from flask_planwatch.plan.schema import Column, Schema
from flask_planwatch.plan.tree import Plan

from . import relation_of

TYPES = {
    "id": "integer",
    "name": "text",
    "email": "character varying(255)",
    "code": "character(10)",
    "folded": "citext",
    "words": "tsvector",
    "data": "jsonb",
    "raw": "json",
    "tags": "text[]",
    "labels": "character varying(20)[]",
    "span": "int4range",
    "ip": "inet",
}

RELATION = relation_of(*(Column(name, kind, quoted_name=name) for name, kind in TYPES.items()))

EQUALITY = AccessMethod("btree")
PREFIX = AccessMethod("btree", "text_pattern_ops")
TRIGRAMS = AccessMethod("gin", "gin_trgm_ops", "pg_trgm")
GIN = AccessMethod("gin")
PATHS = AccessMethod("gin", "jsonb_path_ops")
GIST = AccessMethod("gist")


def compared(condition: str) -> Comparison:
    """Return the only comparison of a Filter with a column of the table."""
    plan = Plan.from_json(
        {
            "Node Type": "Seq Scan",
            "Schema": "public",
            "Relation Name": "t",
            "Alias": "t",
            "Filter": condition,
        }
    )
    (comparison,) = comparisons(plan, Schema({"public.t": RELATION}))
    return comparison


LIKE = partial("(t.name ~~ '{}'::text)".format)
ILIKE = partial("(t.name ~~* '{}'::text)".format)
REGEX = partial("(t.name ~ '{}'::text)".format)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (LIKE("abc%"), PREFIX),
        (LIKE("a%"), PREFIX),
        (LIKE("a_c"), PREFIX),
        (LIKE("it''s%"), PREFIX),
        (LIKE("\\%a%"), PREFIX),
        (LIKE("a\\"), EQUALITY),
        (LIKE(""), EQUALITY),
        (LIKE("abc"), EQUALITY),
        (LIKE("abc\\%"), EQUALITY),
        ("(t.code ~~ 'abc'::text)", EQUALITY),
        ("((t.email)::text ~~ 'abc'::text)", EQUALITY),
        (LIKE("%"), None),
        (LIKE("_%"), None),
        (LIKE("%ab%"), None),
        (LIKE("%abc%"), TRIGRAMS),
        (LIKE("%a%b%c%"), None),
        (LIKE("%a_bc%"), None),
        (LIKE("%a\\_bc%"), TRIGRAMS),
        (LIKE("%ab"), TRIGRAMS),
        (LIKE("%b"), None),
        (LIKE("%äöü%"), TRIGRAMS),
        (LIKE("%___%"), None),
        (LIKE("% - %"), None),
        (ILIKE("abc"), TRIGRAMS),
        (ILIKE("a"), TRIGRAMS),
        (ILIKE("10\\%"), TRIGRAMS),
        (ILIKE(""), None),
        (ILIKE("a%"), TRIGRAMS),
        (ILIKE("%abc%"), TRIGRAMS),
        (ILIKE("%ab%"), None),
        (REGEX("^abc"), PREFIX),
        (REGEX("^a"), PREFIX),
        (REGEX("^ab*"), PREFIX),
        (REGEX("^a*"), None),
        (REGEX("^a?bcd"), TRIGRAMS),
        (REGEX("^abc|^def"), TRIGRAMS),
        (REGEX("^abc|x"), None),
        (REGEX("abc"), TRIGRAMS),
        (REGEX("a.c"), None),
        (REGEX("abc*"), None),
        (REGEX("abcd*"), TRIGRAMS),
        (REGEX("ab{0,2}c"), None),
        (REGEX("(abc)?d"), None),
        (REGEX("(?i)abc"), None),
        (REGEX("[abc]+"), None),
        (REGEX("\\mabc"), TRIGRAMS),
        (REGEX("\\d\\d\\d"), None),
        (REGEX(".*"), None),
        ("(t.name ^@ 'abc'::text)", PREFIX),
        ("(t.name ^@ ''::text)", None),
        ("((t.email)::text ~~ 'abc%'::text)", PREFIX),
        ("(lower(t.name) ~~ 'abc%'::text)", PREFIX),
        ("((t.id)::text ~~ 'abc%'::text)", PREFIX),
        ("(t.code ~~ 'abc%'::text)", AccessMethod("btree", "bpchar_pattern_ops")),
        ("((t.code)::text ~~ 'abc%'::text)", PREFIX),
        ("(t.code ~~ '%abc%'::text)", None),
        ("((t.code)::text ~~ '%abc%'::text)", TRIGRAMS),
        ("(t.folded ~~ 'abc%'::citext)", None),
        ("(t.name !~~ 'abc%'::text)", None),
        ("(t.name !~~* '%abc%'::text)", None),
        ("(t.name !~ 'abc'::text)", None),
        ("(NOT (t.data @> '{}'::jsonb))", None),
        ("('abc%'::text ~~ t.name)", None),
        ("(t.name ~~ CURRENT_USER)", None),
        ("(t.name ~~ '%abc%'::public.citext)", TRIGRAMS),
        ("(t.name ~~ ('abc%'::text || CURRENT_USER))", None),
        ("(t.name ~~ ANY ('{a%,b%}'::text[]))", None),
        ("(t.words @@ '''w'''::tsquery)", GIN),
        ("('''w'''::tsquery @@ t.words)", GIN),
        ("(t.words @@ plainto_tsquery('w'::text))", GIN),
        ("(to_tsvector('english'::regconfig, t.name) @@ '''w'''::tsquery)", GIN),
        ("(to_tsvector(t.name) @@ '''w'''::tsquery)", None),
        ("(t.name @@ '''w'''::tsquery)", None),
        ("(setweight(t.words, 'A'::\"char\") @@ '''w'''::tsquery)", GIN),
        ("(t.data @> '{\"a\": 1}'::jsonb)", PATHS),
        ("('{\"a\": 1}'::jsonb <@ t.data)", PATHS),
        ("(t.data @> '{\"a\": {}}'::jsonb)", GIN),
        ("(t.data @> '[]'::jsonb)", GIN),
        ("(t.data <@ '{\"a\": 1}'::jsonb)", None),
        ("(t.data @> ANY ('{}'::jsonb[]))", None),
        ("((t.data -> 'a'::text) @> '{\"a\": 1}'::jsonb)", PATHS),
        ("(t.data ? 'a'::text)", GIN),
        ("(t.data ?| '{a}'::text[])", GIN),
        ("(t.data ?& '{a}'::text[])", GIN),
        ("((t.data -> 'a'::text) ? 'a'::text)", GIN),
        ("(t.data['a'::text] ? 'a'::text)", GIN),
        ("((t.data ->> 'a'::text) ? 'a'::text)", None),
        ("(t.data @? '$.\"a\"?(@ == 1)'::jsonpath)", PATHS),
        ("(t.data @@ '($.\"a\" == 1)'::jsonpath)", PATHS),
        ("(t.data @? '$.\"a\"'::jsonpath)", None),
        ("(t.data @@ '($.\"a\" > 1)'::jsonpath)", None),
        ("(t.tags @> '{a}'::text[])", GIN),
        ("(t.tags <@ '{a}'::text[])", GIN),
        ("(t.labels && '{a}'::character varying[])", GIN),
        ("(t.tags @> ANY ('{a}'::text[]))", None),
        ("(string_to_array(t.name, ','::text) @> '{a}'::text[])", GIN),
        ("('a'::text = ANY (t.tags))", GIN),
        ("('a'::text = ANY ((t.labels)::text[]))", GIN),
        ("('a'::text = ALL (t.tags))", None),
        ("(t.span @> 7)", GIST),
        ("(7 <@ t.span)", GIST),
        ("(t.span && '[1,2)'::int4range)", GIST),
        ("(t.span -|- '[1,2)'::int4range)", GIST),
        ("(t.span << '[1,2)'::int4range)", GIST),
        ("(t.span @> now())", GIST),
        ("(int4range(t.id, t.id) @> 7)", GIST),
        ("(t.id <@ '[1,2)'::int4range)", None),
        ("(t.ip && '10.0.0.0/8'::inet)", AccessMethod("gist", "inet_ops")),
        ("(t.name = 'a'::text)", None),
        ("(t.id > 7)", None),
    ],
)
def test_access_method(condition, expected):
    assert access_method(compared(condition)) == expected


@pytest.mark.parametrize(
    "condition",
    [
        "(t.name ~~ ('%'::text || u.part))",
        "(t.name ~~ ('%'::text || $1))",
        "(string_to_array(t.name, ','::text) @> ('{a}'::text[] || $1))",
    ],
)
def test_what_is_put_together_at_run_time_is_no_constant(condition):
    assert read(compared(condition)) is None


def test_no_in_list_is_an_array():
    assert access_method(compared("(t.name = ANY ('{a,b}'::text[]))")) is None


@pytest.mark.parametrize(
    ("condition", "key"),
    [
        ("((t.email)::text ~~ 'abc%'::text)", "email"),
        ("('a'::text = ANY ((t.labels)::text[]))", "labels"),
        ("((t.code)::text ~~ 'abc%'::text)", "(code)::text"),
        ("(t.name @@ '''w'''::tsquery)", "to_tsvector(name)"),
    ],
)
def test_key(condition, key):
    pattern = read(compared(condition))
    assert pattern is not None
    assert pattern.key == key


#: Conditions of an index that answer the pattern beside them, and some that do not.
ANSWERS = [
    (LIKE("abc%"), "((t.name ~>=~ ?::text) AND (t.name ~<~ ?::text))", True),
    (LIKE("abc%"), "((t.name >= ?::text) AND (t.name < ?::text))", True),
    (LIKE("abc%"), "(t.name >= ?::text)", False),
    (LIKE("abc%"), "(t.name = ?::text)", False),
    (LIKE("abc"), "(t.name = ?::text)", True),
    (LIKE("abc"), "((t.name ~>=~ ?::text) AND (t.name ~<~ ?::text))", False),
    (ILIKE("abc"), "(t.name = ?::text)", False),
    (LIKE("abc%"), "((t.email ~>=~ ?::text) AND (t.email ~<~ ?::text))", False),
    (LIKE("%abc%"), "((t.name ~>=~ ?::text) AND (t.name ~<~ ?::text))", False),
    (REGEX("^abc"), "((t.name ~>=~ ?::text) AND (t.name ~<~ ?::text))", True),
    (REGEX("abc"), "((t.name ~>=~ ?::text) AND (t.name ~<~ ?::text))", False),
    (LIKE("%abc%"), "(t.name ~~ ?::text)", True),
    (LIKE("%abc%"), "(t.name ~~* ?::text)", False),
    (ILIKE("%abc%"), "(t.name ~~* ?::text)", True),
    ("('{\"a\": 1}'::jsonb <@ t.data)", "(t.data @> ?::jsonb)", True),
    ("(t.data @> '{\"a\": 1}'::jsonb)", "(?::jsonb <@ t.data)", True),
    ("(t.data @> '{\"a\": 1}'::jsonb)", "(t.data ? ?::text)", False),
    ("('a'::text = ANY (t.tags))", "(t.tags @> ?::text[])", False),
    ("('a'::text = ANY (t.tags))", "(?::text = ANY (t.tags))", True),
]


@pytest.mark.parametrize(("condition", "index_condition", "expected"), ANSWERS)
def test_recognises_what_answers_it(condition, index_condition, expected):
    pattern = read(compared(condition))
    assert pattern is not None
    conditions = conjuncts(index_condition)
    tested = [
        subjects(conjunct, operand)
        for conjunct in conditions
        for operand in (conjunct.left, conjunct.right)
    ]
    answered = prefix_subjects(conditions).union(*tested)
    assert (pattern.subject in answered) is expected


@pytest.mark.parametrize(("combined", "expected"), [("BitmapAnd", True), ("BitmapOr", False)])
def test_a_range_in_a_bitmap_answers_the_filter_above_it(combined, expected):
    """A Bitmap Index Scan names no relation; under BitmapOr it finds only a part of the rows."""
    narrowing = {
        "Node Type": "Bitmap Index Scan",
        "Index Cond": "((t.name ~>=~ ?::text) AND (t.name ~<~ ?::text))",
    }
    plan = Plan.from_json(
        {
            "Node Type": "Bitmap Heap Scan",
            "Schema": "public",
            "Relation Name": "t",
            "Alias": "t",
            "Filter": LIKE("?"),
            "Plans": [{"Node Type": combined, "Plans": [narrowing]}],
        }
    )
    assert is_gone(plan, {"public.t"}, "name LIKE prefix%") is expected
    assert not is_gone(plan, {"public.t"}, "name LIKE %part%")
