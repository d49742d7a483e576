"""A plan that was judged is not judged again, unless something that matters has changed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from flask_planwatch.finding import Dismissal
from flask_planwatch.fixes.case import Case
from flask_planwatch.inspection import cache, known
from flask_planwatch.inspection.cache import ResultCache
from flask_planwatch.inspection.inspector import Inspector
from flask_planwatch.inspection.result import Result
from flask_planwatch.plan.tree import Plan
from flask_planwatch.server.catalog import Catalog

from .cases import first
from .models import User
from .test_story import login

pytestmark = [pytest.mark.slow, pytest.mark.versions]


@pytest.fixture
def judged(monkeypatch):
    """The statements that were judged, not only looked at."""
    texts, original = [], Inspector._gathering

    def gathering(self, capture, *others):
        texts.append(capture.key)
        return original(self, capture, *others)

    monkeypatch.setattr(Inspector, "_gathering", gathering)
    return texts


@pytest.fixture
def steady(monkeypatch):
    """Let no time of a busy machine be a reason to judge anew."""
    monkeypatch.setattr(cache, "_times", lambda *_: iter(()))
    original = cache.result_key

    def key_of_a_fast_one(origin, capture, *others):
        return original(origin, capture._replace(urgent=False), *others)

    monkeypatch.setattr(known, "result_key", key_of_a_fast_one)


def by_id(number: int) -> sa.Select:
    return sa.select(User.id, User.email).where(User.id == number)


def up_to(number: int) -> sa.Select:
    return sa.select(User.id).where(User.id < number)


def by_points(least: int) -> sa.Select:
    return sa.select(User.id).where(User.points >= least, User.nickname == "Nick7")


def times(watched, statement, count=3):
    """Run a statement so often that its time is believed."""
    for _ in range(count):
        watched.ask(statement)


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
@pytest.mark.parametrize(
    ("build", "numbers"),
    [(by_id, range(6, 13)), (up_to, range(600, 670, 10))],
    ids=["as many rows", "a few rows more"],
)
def test_the_same_plan_with_other_values_is_judged_once(
    story, watch, judged, driver, build, numbers
):
    watched = watch(story.url_for(driver))
    # The second value tells that it is one, and the third time is believed.
    for number in numbers[:3]:
        watched.ask(build(number))
    count = len(judged)
    for number in numbers[3:]:
        watched.ask(build(number))
    assert len(judged) == count
    assert watched.planwatch.stats()["errors"] == 0


@pytest.mark.parametrize(("rule", "lasts"), [("generic-plan", True), ("missing-index", False)])
def test_what_was_dismissed_for_its_values_is_judged_again(rule, lasts):
    dismissal = Dismissal(rule, "user", "id", "few of them", by_parameters=True)
    result = Result(
        (),
        (dismissal,),
        frozenset(),
        frozenset(),
        (),
        has_hits=False,
        blocked=False,
        analysed=False,
    )
    assert result.lasts is lasts


@pytest.mark.usefixtures("steady")
def test_patterns_of_one_shape_are_judged_once(story, watch, judged):
    watched = watch(story.url)

    def look_for(pattern):
        watched.ask(sa.select(User.id).where(User.nickname.like(pattern)))

    for pattern in ("%abcdefg%", "%hijklmn%", "%opqrstu%", "%vwxyzab%"):
        look_for(pattern)
    count = len(judged)
    look_for("%bcdefgh%")
    assert len(judged) == count
    for pattern in ("bcdefgh%", "%bc defg%", "%b%"):
        look_for(pattern)
    assert len(judged) == count + 3


@pytest.mark.usefixtures("steady")
def test_another_statement_with_the_same_plan_is_judged_by_itself(story, watch, judged):
    watched = watch(story.url)
    for name in ("one", "two", "three"):
        watched.ask(sa.select(User.id, User.email.label(name)).where(User.id == 6))
    assert len(judged) == 3


@pytest.mark.usefixtures("steady")
def test_a_finding_that_still_holds_is_told_with_the_new_times(each_story, watch, judged):
    watched = watch(each_story.url)
    for number in (5, 6, 7):
        (before,) = watched.ask(login(f"user{number}@example.com"))
    count = len(judged)
    (after,) = watched.ask(login("user8@example.com"))
    assert len(judged) == count
    assert (after.calls, before.calls) == (4, 3)
    assert (after.id, after.subject, after.advice) == (before.id, before.subject, before.advice)


@pytest.mark.usefixtures("steady")
def test_an_index_resolves_a_finding_at_once_and_its_end_raises_it_again(any_story, watch):
    watched = watch(any_story.url)
    times(watched, login("user7@example.com"))
    assert watched.findings()
    any_story.execute('CREATE INDEX login ON "user" (lower(email))')
    assert watched.ask(login("user8@example.com")) == []
    any_story.execute("DROP INDEX login")
    assert watched.ask(login("user9@example.com"))
    assert watched.ask(login("user9@example.com"))


CHANGES = {
    "another index": 'CREATE INDEX ON "user" (points, first)',
    "a column": 'ALTER TABLE "user" ADD COLUMN more int',
    "other statistics": 'ALTER TABLE "user" ALTER nick SET (n_distinct = 5); ANALYZE "user"',
    "far more rows": 'INSERT INTO "user" SELECT 1000000 + g, g::text, nick, first, last, state, '
    'mood, created_at, local_at, g, data FROM "user", generate_series(1, 3) g WHERE id < 1; '
    'DELETE FROM "user" WHERE id > 40000',
    "an extension": "CREATE EXTENSION btree_gist",
}


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("change", first(2, [*CHANGES, "clear"]))
def test_what_changed_is_judged_again(fresh_story, watch, judged, change):
    watched = watch(fresh_story.url)
    times(watched, by_points(99_000))
    count = len(judged)
    watched.ask(by_points(99_000))
    assert len(judged) == count
    if change == "clear":
        watched.planwatch.clear(watched.app)
    else:
        fresh_story.execute(*CHANGES[change].split("; "))
    watched.ask(by_points(99_000))
    assert len(judged) == count + 1


def test_clear_forgets_what_was_tried(fresh_story, watch, monkeypatch):
    """What was advised or declined is asked of the planner once more, and only then."""
    tried, original = [], Case.trials

    def trials(self, query, candidates):
        tried.append(query)
        return original(self, query, candidates)

    monkeypatch.setattr(Case, "trials", trials)
    watched = watch(fresh_story.url, PLANWATCH_VERIFY="build")
    for _ in range(2):
        watched.ask(login("user7@example.com"))
        assert len(tried) == 1
    watched.planwatch.clear()
    watched.ask(login("user7@example.com"))
    assert len(tried) == 2


@pytest.mark.usefixtures("steady")
def test_how_often_a_table_is_read_is_no_reason_to_judge_anew(fresh_story, watch, judged):
    watched = watch(fresh_story.url)
    times(watched, by_points(99_000))
    count = len(judged)
    reads = ['SELECT count(*) FROM "user"'] * 40
    fresh_story.execute(*reads, "SELECT pg_stat_force_next_flush()")
    watched.ask(by_points(99_000))
    assert len(judged) == count


#: Seconds after which each execution is due: sooner than any test can run two.
SHORT = 1e-9


@pytest.fixture
def read(monkeypatch):
    """The plans for which the catalog was asked."""
    plans, original = [], Catalog.schema

    def schema(self, plan):
        plans.append(plan)
        return original(self, plan)

    monkeypatch.setattr(Catalog, "schema", schema)
    return plans


@pytest.mark.usefixtures("steady")
def test_for_a_result_that_holds_the_catalog_is_asked_once_in_a_while(story, watch, judged, read):
    watched = watch(story.url, PLANWATCH_SAMPLE_INTERVAL=SHORT)
    for number in (6, 7, 8):
        watched.ask(by_id(number))
    counts = len(judged), len(read)
    for number in range(9, 13):
        watched.ask(by_id(number))
    assert (len(judged), len(read)) == counts
    # Of a statement that is not known, nothing stands.
    watched.ask(by_points(99_000))
    assert (len(judged), len(read)) == (counts[0] + 1, counts[1] + 1)
    assert watched.planwatch.stats()["inspected"] == 8


@pytest.mark.usefixtures("steady")
def test_without_an_interval_the_catalog_is_asked_each_time(story, watch, read):
    watched = watch(story.url, PLANWATCH_SAMPLE_INTERVAL=0)
    times(watched, by_id(7), 6)
    assert len(read) == 6


@pytest.mark.usefixtures("steady")
def test_nothing_is_said_of_a_table_as_it_was_a_moment_ago(fresh_story, watch):
    """What is judged anew is judged by the indexes that are there now."""
    watched = watch(fresh_story.url, PLANWATCH_SAMPLE_INTERVAL=SHORT)
    times(watched, by_id(7))
    fresh_story.execute('CREATE INDEX login ON "user" (lower(email))')
    assert watched.ask(login("user7@example.com")) == []
    fresh_story.execute("DROP INDEX login")
    assert watched.ask(login("user8@example.com"))


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize(
    "other",
    [
        pytest.param(by_points(20_000), id="far more rows are expected"),
        pytest.param(by_points(99_000).limit(3), id="another statement"),
    ],
)
def test_what_is_unlike_is_judged_by_itself(story, watch, judged, other):
    watched = watch(story.url)
    times(watched, by_points(99_000))
    judged.clear()
    watched.ask(other)
    assert len(judged) == 1


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("(u.id = 7)", "(u.id = 8)", True),
        ("((u.email)::text = 'a'::text)", "((u.email)::text = 'b'::text)", True),
        ("(u.id = ANY ('{1,2}'::integer[]))", "(u.id = ANY ('{3}'::integer[]))", True),
        ("(u.state <> 'new'::text)", "(u.state <> 'old'::text)", True),
        ("(u.id = 7)", "(u.id > 7)", False),
        ("(u.nick ~~ 'a%'::text)", "(u.nick ~~ '%a'::text)", False),
        ("((u.id)::numeric = 7.0)", "((u.id)::numeric = 7.5)", False),
        ("((u.id = 7) OR (u.id IS NULL))", "((u.id = 8) OR (u.id IS NULL))", False),
        ("((u.data ->> 'a'::text) = 'x'::text)", "((u.data ->> 'b'::text) = 'x'::text)", False),
    ],
)
def test_only_values_that_decide_nothing_but_the_rows_are_left_out(one, other, alike):
    evidence = SimpleNamespace(show_values=False, varying=frozenset())
    shapes = [
        list(cache._shape(Plan.from_json(scan(condition)), evidence)) for condition in (one, other)
    ]
    assert (shapes[0] == shapes[1]) is alike


def scan(condition: str) -> dict:
    return {"Node Type": "Seq Scan", "Relation Name": "u", "Alias": "u", "Filter": condition}


@pytest.mark.parametrize(
    ("figure", "other", "alike"),
    [
        (1000.0, 1000.0, True),
        (600.0, 1000.0, True),
        (1000.0, 2100.0, False),
        (1000.0, 480.0, False),
        (0.0, 10.0, True),
        (10.0, 40.0, False),
    ],
)
def test_figures_may_differ_by_a_factor_of_two(figure, other, alike):
    assert (cache._magnitude(figure) == cache._magnitude(other)) is alike


def test_parameters_that_a_driver_has_prepared_must_be_the_very_same():
    ones = {"id": 1}
    assert cache._Same(ones) == cache._Same(ones)
    assert len({cache._Same(ones), cache._Same(ones), cache._Same({"id": 1})}) == 2


def test_a_slow_execution_is_judged_in_any_case(story, watch, judged):
    watched = watch(story.url, PLANWATCH_SLOW_STATEMENT_MS=0)
    times(watched, by_id(7), 5)
    assert len(judged) == 5


@pytest.mark.usefixtures("steady")
def test_no_result_holds_for_ever(story, watch, judged, monkeypatch):
    now = 0.0
    made = ResultCache.__init__
    monkeypatch.setattr(ResultCache, "__init__", lambda self: made(self, clock=lambda: now))
    watched = watch(story.url)
    times(watched, by_id(7))
    times(watched, login("user7@example.com"))
    # An index is proposed on its table now.
    watched.ask(by_id(7))
    judged.clear()
    now = cache.HIT_SECONDS + 1
    watched.ask(by_id(7))
    watched.ask(login("user7@example.com"))
    assert len(judged) == 1
    now += cache.NO_HIT_SECONDS + 1
    watched.ask(by_id(7))
    assert len(judged) == 2


@pytest.mark.usefixtures("steady")
def test_only_so_many_results_are_remembered(story, watch, judged, monkeypatch):
    monkeypatch.setattr(cache, "MAX_RESULTS", 2)
    watched = watch(story.url)
    for number in range(1, 6):
        times(watched, by_id(7).limit(number))
        times(watched, by_id(7).with_only_columns(*[User.id] * number))
    (engine,) = watched.app.extensions["planwatch"]._engines.values()
    assert len(engine._inspector.knowledge.results._kept) == 2
