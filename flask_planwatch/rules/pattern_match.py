"""
pattern-match
=============

What it finds
-------------

A comparison that looks inside a value, on a table without an index that can answer it, so that the
plan reads the table and tests each row:

- ``LIKE 'x%'`` and other patterns whose beginning is known (``User.name.startswith("x")``,
  ``~ '^x'``), where the indexes on the column are sorted by the rules of a language;
- ``LIKE '%x%'``, ``ILIKE`` and regular expressions (``contains``, ``icontains``, ``ilike``,
  ``regexp_match``);
- full text search, ``@@`` (``User.text.match(…)``);
- ``jsonb``: ``@>``, ``?``, ``?|``, ``?&``, ``@?`` and ``@@`` (``contains``, ``has_key``);
- arrays: ``@>``, ``<@``, ``&&``, and a value that is looked for by ``= ANY (tags)``;
- ranges: ``@>``, ``<@``, ``&&``, ``-|-``, ``<<`` and ``>>``.

Why it hurts
------------

An ordinary index holds whole values in their order. It can find one value, or those between two
others. It cannot tell what is in the middle of a text, which words a text has, what a document
contains, or which ranges overlap. Even the beginning of a text it finds only if it is sorted byte
by byte, which it is not under most collations. The statement gets slower with each row that the
table gains.

How to fix it
-------------

There is another sort of index for each of these, and PlanWatch names it: a btree index with
``text_pattern_ops`` for how a text begins, a GIN index with ``gin_trgm_ops`` for a part of it, GIN
for words, documents and arrays, and GiST for ranges. ``gin_trgm_ops`` belongs to the extension
``pg_trgm``, which comes with PostgreSQL: if the server has it but the database does not, the advice
begins with ``CREATE EXTENSION``; if the server has it not either, the verdict says so.

HypoPG can try the first of these only. The others are ``untested``, unless ``PLANWATCH_VERIFY`` is
``"build"``.

Sometimes the statement must change as well. No index answers ``'x' = ANY (tags)``; a GIN index
answers ``tags @> ARRAY['x']``. No index can hold ``to_tsvector(text)``, which depends on a setting
of the session; it can hold ``to_tsvector('english', text)``.

When it stays silent
--------------------

- An index answers the comparison, even if the planner preferred not to use it this time.
- The table has fewer rows than ``PLANWATCH_MIN_ROWS``, unless ``PLANWATCH_GROWTH`` asks to hear
  of it as ``info``.
- An index scan tests the comparison on only a few rows that another condition found.
- A large part of the rows passed, or is expected to pass, so that an index would not help.
- A LIMIT was reached before much of the table was read.
- The pattern leaves nothing open, or has neither a beginning nor three known characters in a row,
  which trigrams need; or it comes from another column.
- The comparison is negated, stands under OR, or compares with all or any of several patterns.
- A JSON path compares nothing by ``==``: an index holds values, but not their order.
- The type is one that PostgreSQL has no such index for, such as ``json``, or one that an
  extension or the application has defined.
- The table is one of PostgreSQL's own, or a foreign one.
- PostgreSQL says, with an index to choose, that it would rather not use it.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..plan.comparison import comparisons
from ..plan.evidence import Evidence, Hit, Miss, Need, Remedy, Suspicion
from ..plan.pattern import AccessMethod, Kind, read
from ..plan.schema import Schema
from ..plan.tree import Plan
from ..plan.usage import MAX_USEFUL_SHARE
from . import worth

NAME = "pattern-match"

#: What is done to each row.
_TESTED = {
    Kind.PREFIX: "looks how {key} begins",
    Kind.PART: "searches the text of {key}",
    Kind.WORDS: "looks for words in {key}",
    Kind.UNNAMED: "makes {key} anew to look for words in it",
    Kind.DOCUMENT: "looks into the document {key}",
    Kind.ARRAY: "looks through the array {key}",
    Kind.ELEMENT: "looks through the array {key}",
    Kind.RANGE: "compares the range {key}",
}

#: Why the plan does it.
_WHY = {
    Kind.PREFIX: "no index on it is sorted byte by byte, as LIKE needs it",
    Kind.PART: "no index on it holds parts of the text",
    Kind.WORDS: "no index on it holds the words",
    Kind.UNNAMED: "no index can hold the words, because which ones they are depends on a setting "
    "of the session",
    Kind.DOCUMENT: "no index on it holds what is inside",
    Kind.ARRAY: "no index on it holds the elements",
    Kind.ELEMENT: "no index answers = ANY (…) on an array",
    Kind.RANGE: "no index on it tells which ranges meet",
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
    rows = worth.rows_read(suspicion, evidence.schema)
    if (reason := worth.needless(suspicion, evidence, rows)) is not None:
        return Miss(suspicion, *reason)
    small = rows < evidence.min_rows
    if not small and (share := _expected_share(suspicion, rows)) > MAX_USEFUL_SHARE:
        return Miss(suspicion, f"{share:.0%} of the rows are expected to pass", by_parameters=True)
    facts = worth.facts(suspicion, evidence, rows)
    useless = [
        index.name for index in worth.indexes_on(suspicion.relation, suspicion.operand.column_names)
    ]
    facts["indexes_on_column"] = useless
    (key,) = suspicion.shown_keys
    why = _WHY[pattern.kind]
    shortly = why.partition(",")[0].replace("on it", f"on {key}")
    if useless and pattern.kind not in _NEVER_ANSWERED:
        why += f"; {' and '.join(useless)} cannot serve"
    problem = (
        f"{worth.reading(suspicion, evidence.schema, rows)}, and "
        f"{_TESTED[pattern.kind].format(key=key)} for each of them: {why}."
    )
    remedy = Remedy.CONTAINMENT if pattern.kind is Kind.ELEMENT else Remedy.INDEX
    return Hit(
        suspicion,
        problem,
        rows,
        facts,
        small=small,
        remedy=remedy,
        what=worth.step(suspicion),
        why=shortly,
    )


def _suspicions(plan: Plan, schema: Schema) -> Iterator[Suspicion]:
    for comparison in comparisons(plan, schema):
        pattern = read(comparison) if comparison.costly else None
        if pattern is None:
            continue
        access = pattern.access or AccessMethod("btree")
        answerable = pattern.kind not in _NEVER_ANSWERED
        yield Suspicion(
            rule=NAME,
            relation=schema.root(comparison.relation),
            subject=pattern.subject,
            keys=(pattern.key,),
            scans=(comparison.scan,),
            comparisons=(comparison,),
            needs=frozenset(
                {Need.SEQSCAN_OFF, Need.PREDICATE_ALONE} if answerable and pattern.access else ()
            ),
            other_rows=worth.other_rows(comparison),
            method=access.method,
            operator_class=access.operator_class,
            extension=access.extension,
        )


def _expected_share(suspicion: Suspicion, rows: float) -> float:
    """Return the share of the rows that the planner expects to pass, if it has statistics."""
    if suspicion.other_rows is not None or not suspicion.relation.has_statistics:
        return 0.0
    return sum(scan.rows for scan in suspicion.scans) / max(rows, 1)
