"""
pattern-match
=============

What it finds
-------------

A comparison that looks inside a value, on a table without an index that can answer it, so that the
plan reads the table and tests each row:

- ``LIKE 'x%'`` and other patterns whose beginning is known (``User.name.startswith("x")``,
  ``~ '^x'``), where the indexes on the column are sorted by the rules of a language;
- ``LIKE 'x'``, which asks for equality where the pattern has no wildcard;
- ``LIKE '%x%'``, ``ILIKE`` with a wildcard or without, and regular expressions (``contains``,
  ``icontains``, ``ilike``, ``regexp_match``);
- full text search, ``@@`` (``User.text.match(…)``);
- ``jsonb``: ``@>``, ``?``, ``?|``, ``?&``, ``@?`` and ``@@`` (``contains``, ``has_key``);
- arrays: ``@>``, ``<@``, ``&&``, and a value that is looked for by ``= ANY (tags)``;
- ranges: ``@>``, ``<@``, ``&&``, ``-|-``, ``<<`` and ``>>``;
- ``inet`` and ``cidr``: ``<<``, ``<<=``, ``>>``, ``>>=`` and ``&&``.

Why it hurts
------------

An ordinary index holds whole values in their order. It can find one value, or those between two
others. It cannot tell what is in the middle of a text, which words a text has, what a document
contains, or which ranges overlap. Even the beginning of a text it finds only if it is sorted byte
by byte, which it is not under most collations. The statement gets slower with each row that the
table gains.

How to fix it
-------------

Each of these needs an index of its own kind, and PlanWatch names it: a plain btree index for a
whole text, one with ``text_pattern_ops`` for how a text begins, a GIN index with ``gin_trgm_ops``
for a part of it, GIN for words, documents and arrays, and GiST for ranges. A plain btree index
finds what is in a given network; other comparisons of networks need GiST with ``inet_ops``.
``gin_trgm_ops`` belongs to the extension ``pg_trgm``, which comes with PostgreSQL: if the server
has it but the database does not, the advice begins with ``CREATE EXTENSION``; if the server does
not have it either, the verdict says so.

HypoPG can try btree indexes only. The others are ``untested``, unless ``PLANWATCH_VERIFY`` is
``"build"``.

Sometimes the statement must change as well. No index answers ``'x' = ANY (tags)``; a GIN index
answers ``tags @> ARRAY['x']``. No index can hold ``to_tsvector(text)``, which depends on a setting
of the session; it can hold ``to_tsvector('english', text)``.

When it stays silent
--------------------

- An index answers the comparison, even if the planner preferred not to use it this time.
- The table has fewer rows than ``PLANWATCH_MIN_ROWS``, unless ``PLANWATCH_GROWTH`` asks for it
  as ``info``.
- An index scan tests the comparison on only a few rows that another condition found.
- A large part of the rows passed, or is expected to pass, so that an index would not help.
- A LIMIT was reached before much of the table was read.
- The pattern has neither a beginning nor three known characters in a row,
  which trigrams need; or it comes from another column.
- The comparison is negated, stands under OR, or compares with all or any of several patterns.
- A JSON path compares nothing by ``==``: an index holds values, but not their order.
- The type is one that PostgreSQL has no such index for, such as ``json``, or one that an
  extension or the application has defined.
- The table is one of PostgreSQL's own, or a foreign one.
- The planner does not use the index even when it exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..plan.comparison import comparisons
from ..plan.evidence import Evidence, Hit, Miss, Need, Suspicion
from ..plan.figures import MAX_USEFUL_SHARE
from ..plan.pattern import AccessMethod, Kind, read
from ..plan.schema import Schema
from ..plan.tree import Plan
from ..plan.wording import Template, Words, say
from . import worth

NAME = "pattern-match"

WORDS = Words(
    what=worth.STEP,
    why="{lacks}",
    problem="the statement {reads}, and {tests} for each of them: {lacks}"
    "[; {useless:and} cannot serve].",
)

_THROUGH_ARRAY = Template("looks through the array {key}")

#: What is done to each row.
_TESTS = {
    Kind.WHOLE: Template("compares {key} by LIKE"),
    Kind.PREFIX: Template("looks how {key} begins"),
    Kind.PART: Template("searches the text of {key}"),
    Kind.WORDS: Template("looks for words in {key}"),
    Kind.UNNAMED: Template("computes {key} to look for words in it"),
    Kind.DOCUMENT: Template("looks into the document {key}"),
    Kind.ARRAY: _THROUGH_ARRAY,
    Kind.ELEMENT: _THROUGH_ARRAY,
    Kind.RANGE: Template("compares the range {key}"),
    Kind.NETWORK: Template("compares the network {key}"),
}

#: Why the plan does it.
_LACKS = {
    Kind.WHOLE: Template("no index on {key}[ in {partitions}]"),
    Kind.PREFIX: Template("no index on {key}[ in {partitions}] in byte order for LIKE"),
    Kind.PART: Template("no index on {key}[ in {partitions}] holds parts of the text"),
    Kind.WORDS: Template("no index on {key}[ in {partitions}] holds the words"),
    Kind.UNNAMED: Template("no index can hold words that a setting changes"),
    Kind.DOCUMENT: Template("no index on {key}[ in {partitions}] holds what the documents contain"),
    Kind.ARRAY: Template("no index on {key}[ in {partitions}] holds the elements"),
    Kind.ELEMENT: Template("no index answers = ANY (…) on an array"),
    Kind.RANGE: Template("no index on {key}[ in {partitions}] finds the ranges that overlap"),
    Kind.NETWORK: Template("no index on {key}[ in {partitions}] finds such networks"),
}

#: Those that no index answers as they are written.
_NEVER_ANSWERED = frozenset({Kind.UNNAMED, Kind.ELEMENT})


def suspect(plan: Plan, schema: Schema) -> list[Suspicion]:
    """Return each comparison that looks inside a value, row by row."""
    return worth.merged(_suspicions(plan, schema))


def judge(suspicion: Suspicion, evidence: Evidence) -> Hit | Miss:
    """Return a Hit if an index, or another way to write it, would be worth having."""
    pattern = read(suspicion.comparison)
    assert pattern is not None
    if pattern.reason:
        return Miss(suspicion, pattern.reason, by_parameters=True)
    if (miss := worth.needless(suspicion, evidence)) is not None:
        return miss
    rows = worth.rows_read(suspicion, evidence.schema)
    share = _expected_share(suspicion, rows)
    if rows >= evidence.min_rows and share > MAX_USEFUL_SHARE:
        return Miss(suspicion, say(worth.MOST_PASS, share=share), by_parameters=True)
    columns = suspicion.operand.column_names
    useless = [index.name for index in worth.indexes_on(suspicion.relation, columns)]
    said = {
        "tests": _TESTS[pattern.kind],
        "lacks": _LACKS[pattern.kind],
        "key": suspicion.shown_keys[0],
        "useless": [] if pattern.kind in _NEVER_ANSWERED else useless,
    }
    fix = "containment" if pattern.kind is Kind.ELEMENT else "index"
    return worth.hit(suspicion, evidence, WORDS, {"indexes_on_column": useless}, said, fix)


def _suspicions(plan: Plan, schema: Schema) -> Iterator[Suspicion]:
    for comparison in comparisons(plan, schema):
        pattern = read(comparison) if comparison.costly else None
        if pattern is None:
            continue
        access = pattern.access or AccessMethod("btree")
        answerable = pattern.access is not None and pattern.kind not in _NEVER_ANSWERED
        needs = (Need.SEQSCAN_OFF, Need.PREDICATE_ALONE) if answerable else ()
        yield replace(
            worth.suspicion_of(NAME, comparison, schema, pattern.subject, needs),
            keys=(pattern.key,),
            method=access.method,
            operator_class=access.operator_class,
            extension=access.extension,
        )


def _expected_share(suspicion: Suspicion, rows: float) -> float:
    """Return the share of the rows that the planner expects to pass, if it has statistics."""
    if suspicion.other_rows is not None or not suspicion.relation.has_statistics:
        return 0.0
    return sum(scan.rows for scan in suspicion.scans) / max(rows, 1)
