"""What findings are about is never said to match nothing, however an entry is written."""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest
import sqlalchemy as sa

from flask_planwatch.report.idle_ignores import idle_ignores
from flask_planwatch.settings import read_settings
from flask_planwatch.signals import statement_inspected

from . import stories
from .any_statement import FILL, AnyStatement, metadata

pytestmark = pytest.mark.slow

#: Statements of any_statement.py whose findings are named.
STATEMENTS = 60

#: Names that need quotes, as an entry may have them without any.
TABLES = {
    'public."order lines"': "public.order lines",
    'public."order-lines"': "order-lines",
    '"my.shop"."Ä * of, it\'s"': "my.shop.Ä * of, it's",
    '"a ""b"""': 'a "b"',
}

COLUMNS = '(id int, sku varchar(40), code char(9), "it\'s" text)'
ROWS = "SELECT g, 'S' || g, 'C' || g, 'I' || g FROM generate_series(1, 2000) g"

#: Conditions whose findings have a masked value, quotes, or parentheses that others lack.
CONDITIONS = (
    "id % 7 = 3 AND id % 1000 = 5",
    "replace(sku, '-', '') = '7'",
    "replace(sku, ',', ' and ''') = '7'",
    "sku || id::text ILIKE '%77x%'",
    "code LIKE 'C77x%'",
    "sku || 'a long text, which is no part of the structure' LIKE '%77x%'",
    "split_part(sku, 'a long separator, which is no part of the structure', 2) = '7'",
    "(ARRAY[sku, \"it's\"])[1:2] = '{7}'",
    "lower(\"it's\") = '7'",
    "\"it's\" = '7' AND sku = '7'",
    "\"it's\" ~ '^S77'",
    "string_to_array(sku, '-') @> ARRAY['7']",
    "'7' = ANY (string_to_array(sku, '-'))",
    "id::numeric = 7.0",
    "ctid::text = '7'",
)


class Named:
    """The entries that name what the inspections of an app are about."""

    def __init__(self, watched):
        self._watched = watched
        self.entries = set()
        statement_inspected.connect(self._note, watched.app)

    def _note(self, sender, inspection):
        for one in (*inspection.findings, *inspection.dismissals):
            self.entries |= {f"{one.rule}:{one.subject}"}
            self.entries |= {f"{one.rule}:{one.relation}"} if one.relation else set()

    def run(self, run):
        """Have a statement inspected."""
        with self._watched.app.app_context():
            with suppress(sa.exc.SQLAlchemyError):
                run(self._watched.db.session)
            self._watched.db.session.rollback()
        assert self._watched.planwatch.flush(120)

    def idle(self, *more):
        """Return what is said of the entries."""
        given = {"PLANWATCH_IGNORE": sorted(self.entries | set(more))}
        (engine,) = self._watched.app.extensions["planwatch"]._watched()
        return idle_ignores(read_settings(given, debug=False, testing=False), [engine.session])


@pytest.fixture
def named(watch):
    """Return what watches a database and has the entries that name its findings."""
    often = {"PLANWATCH_INSPECTIONS_PER_MINUTE": 1e9, "PLANWATCH_GROWTH": True}
    return lambda database, **config: Named(watch(database.url, **often, **config))


def test_no_subject_of_a_rule_is_idle(each_story, named):
    each_story.execute('CREATE SCHEMA "my.shop"')
    for table in TABLES:
        each_story.execute(f"CREATE TABLE {table} {COLUMNS}", f"INSERT INTO {table} {ROWS}")
        each_story.execute(f"ANALYZE {table}")
    entries = named(each_story)
    for condition in CONDITIONS:
        sql = sa.text(f'SELECT id FROM "order lines" WHERE {condition}'.replace(":", r"\:"))
        entries.run(lambda session, sql=sql: session.execute(sql).all())
    for table in TABLES:
        sql = sa.text(f"SELECT id FROM {table} WHERE sku = '7'")
        entries.run(lambda session, sql=sql: session.execute(sql).all())
    subjects = [entry.partition(":")[2] for entry in entries.entries]
    assert sum("?" in subject for subject in subjects) > 2
    assert {'"order lines"', "(sku)::text || (id)::text ILIKE"}.issubset(subjects)
    written = [f"missing-index:{name}" for pair in TABLES.items() for name in pair]
    assert entries.idle(*written) == []


def test_no_subject_of_any_statement_is_idle(each_story, named):
    engine = sa.create_engine(each_story.url, poolclass=sa.NullPool)
    metadata.create_all(engine)
    each_story.execute(*FILL)
    entries = named(each_story)
    for seed in range(STATEMENTS):
        entries.run(AnyStatement(Random(seed)).step().run)
    assert len(entries.entries) > STATEMENTS / 2
    assert entries.idle() == []


def test_no_subject_of_the_stories_is_idle(each_stories, named):
    """Those are steps of plans, sub-queries, and indexes."""
    entries = named(each_stories, PLANWATCH_ANALYZE=True)
    for cases in (stories.SUB_QUERY, stories.MISESTIMATE, stories.INDEX_ONLY, stories.LIMIT):
        for case in cases.values():
            entries.run(lambda session, case=case: session.execute(case.statement).all())
    assert {"repeated-subplan", "limit-trap", "index-only-blocked"}.issubset(
        entry.partition(":")[0] for entry in entries.entries
    )
    assert entries.idle() == []


@pytest.mark.parametrize("step", ["Aggregate", "Sort", "Append", "Unique", "CTE Scan"])
def test_a_step_without_a_table_may_be_what_a_finding_is_about(story, watch, step):
    given = {"PLANWATCH_IGNORE": [f"row-misestimate:{step}"]}
    watched = watch(story.url)
    watched.ask(sa.text("SELECT 1"))
    (engine,) = watched.app.extensions["planwatch"]._watched()
    assert idle_ignores(read_settings(given, debug=False, testing=False), [engine.session]) == []


def test_nothing_is_said_of_a_rule_whose_subjects_are_not_known(story, watch, monkeypatch):
    given = {"PLANWATCH_IGNORE": ["missing-index:no_name"]}
    watched = watch(story.url)
    watched.ask(sa.text("SELECT 1"))
    (engine,) = watched.app.extensions["planwatch"]._watched()
    settings = read_settings(given, debug=False, testing=False)
    assert len(idle_ignores(settings, [engine.session])) == 1
    monkeypatch.setattr("flask_planwatch.report.idle_ignores._NAMED", {})
    assert idle_ignores(settings, [engine.session]) == []
