"""functional-predicate speaks on the story, is silent on its twins, and after the fix."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa
from sqlalchemy import func
from sqlalchemy.orm import aliased

from flask_planwatch import AdviceKind, Severity, VerdictStatus

from .. import servers
from ..models import Badge, Order, User, roles_users

Other = aliased(User)

lower_email = func.lower(User.email)

#: Statements that must be found: the expression in the finding, and the advised index's key or,
#: for what PostgreSQL refuses to index, a word of the rewrite.
SPEAKS = {
    "function": (
        sa.select(User).where(lower_email == "user7@example.com"),
        "lower((email)::text)",
        "(lower(email))",
    ),
    "the constant comes first": (
        sa.select(User).where(sa.literal("user7@example.com") == lower_email),
        "lower((email)::text)",
        "(lower(email))",
    ),
    "in list": (
        sa.select(User).where(lower_email.in_(["a", "b", "c"])),
        "lower((email)::text)",
        "(lower(email))",
    ),
    "among other conditions": (
        sa.select(User).where(User.state == "Active", lower_email == "x", User.first != "y"),
        "lower((email)::text)",
        "(lower(email))",
    ),
    "first() adds a limit": (
        sa.select(User).where(lower_email == "user99999@example.com").limit(1),
        "lower((email)::text)",
        "(lower(email))",
    ),
    "range with both ends": (
        sa.select(User).where(func.length(User.first).between(2, 3)),
        "length(first)",
        "(length(first))",
    ),
    "json key": (
        sa.select(User).where(User.data["type"].astext == "T7"),
        "data ->> 'type'::text",
        "((data ->> 'type'))",
    ),
    "cast of a json value": (
        sa.select(User).where(sa.cast(User.data["n"].astext, sa.Integer) == 7),
        "((data ->> 'n'::text))::integer",
        "(((data ->> 'n')::integer))",
    ),
    "operator": (
        sa.select(User).where(User.points + 1 == 7),
        "points + 1",
        "((points + 1))",
    ),
    "concatenation": (
        sa.select(User).where(User.first + User.last == "First7Last7"),
        "first || last",
        "((first || last))",
    ),
    "coalesce": (
        sa.select(User).where(func.coalesce(User.first, "") == "First7"),
        "COALESCE(first, ''::text)",
        "(COALESCE(first, ''))",
    ),
    "date_trunc of a timestamp": (
        sa.select(User).where(func.date_trunc("hour", User.local_at) == sa.text("'2020-03-01'")),
        "date_trunc('hour'::text, local_at)",
        "(date_trunc('hour', local_at))",
    ),
    "nested functions": (
        sa.select(User).where(func.lower(func.left(User.email, 5)) == "user7"),
        'lower("left"((email)::text, 5))',
        '(lower("left"(email, 5)))',
    ),
    "attribute named unlike its column": (
        sa.select(User).where(func.upper(User.nickname) == "NICK7"),
        "upper(nick)",
        "(upper(nick))",
    ),
    "explicit cast": (
        sa.select(User).where(sa.cast(User.points, sa.Numeric) == 7),
        "(points)::numeric",
        "((points::numeric))",
    ),
    "explicit cast of a number to text": (
        sa.select(User).where(sa.cast(User.points, sa.Text) > "99999"),
        "(points)::text",
        "((points::text))",
    ),
    "alias": (
        sa.select(Other).where(func.lower(Other.email) == "x"),
        "lower((email)::text)",
        "(lower(email))",
    ),
    "join to a small table": (
        sa.select(User.id).join(Badge, func.lower(User.first) == func.lower(Badge.owner)),
        "lower(first)",
        "(lower(first))",
    ),
    "sub-query": (
        sa.select(Badge).where(
            sa.exists().where(func.lower(User.first) == Badge.owner, Badge.id == 3)
        ),
        "lower(first)",
        "(lower(first))",
    ),
    "date_trunc of a timestamptz": (
        sa.select(User).where(func.date_trunc("day", User.created_at) == sa.text("'2020-03-01'")),
        "date_trunc('day'::text, created_at)",
        "half-open range",
    ),
    "date of a timestamptz": (
        sa.select(User).where(sa.cast(User.created_at, sa.Date) == sa.text("'2020-03-01'")),
        "(created_at)::date",
        "half-open range",
    ),
    "to_char": (
        sa.select(User).where(func.to_char(User.created_at, "YYYY-MM") == "2020-03"),
        "to_char(created_at, 'YYYY-MM'::text)",
        "half-open range",
    ),
    "enum as text": (
        sa.select(User).where(sa.cast(User.mood, sa.Text) == "sad", User.id > 0),
        "(mood)::text",
        "own type",
    ),
    "concat": (
        sa.select(User).where(func.concat(User.first, User.last) == "First7Last7"),
        "concat(first, last)",
        "||",
    ),
    "arithmetic on a timestamptz": (
        sa.select(User).where(
            User.created_at + sa.text("interval '1 day'") == sa.text("timestamptz '2020-03-01'")
        ),
        "created_at + '1 day'::interval",
        "other side",
    ),
}


@pytest.fixture
def watched(each_story, watch):
    """An app on each server in turn, through another driver on each."""
    driver = "psycopg2" if each_story.server.name == servers.FIRST else "psycopg"
    return watch(each_story.url_for(driver))


@pytest.mark.parametrize("name", SPEAKS)
def test_speaks(watched, name):
    statement, expression, advised = SPEAKS[name]
    (finding,) = watched.ask(statement)
    assert finding.rule == "functional-predicate"
    assert finding.subject == expression
    advice = finding.advice[0]
    if advice.kind is AdviceKind.CREATE_INDEX:
        assert advice.summary.endswith(advised)
    else:
        assert advice.verdict.status is VerdictStatus.NOT_APPLICABLE
        assert advised in advice.summary
        assert "refuses an index" in advice.explanation


@pytest.mark.parametrize("name", [name for name in SPEAKS if "(" in SPEAKS[name][2]])
def test_is_silent_after_the_fix(any_story, watch, name):
    statement, _, _ = SPEAKS[name]
    watched = watch(any_story.url)
    (finding,) = watched.ask(statement)
    any_story.execute(*finding.advice[0].ddl, "ANALYZE")
    assert watched.ask(statement) == []


#: The twins: statements on which the rule must not say a word.
SILENT = {
    "bare column": sa.select(User).where(User.email == "User7@Example.com"),
    "relabelling cast": sa.select(User).where(sa.cast(User.email, sa.Text) == "User7@Example.com"),
    "collation": sa.select(User).where(sa.collate(User.email, "C") == "User7@Example.com"),
    "pattern": sa.select(User).where(lower_email.like("user7%")),
    "unequal": sa.select(User).where(lower_email != "x"),
    "json containment": sa.select(User).where(User.data.contains({"type": "T7"})),
    "alternatives": sa.select(User).where(sa.or_(lower_email == "x", User.first == "y")),
    "few rows found by another index": sa.select(User).where(User.id == 7, lower_email == "x"),
    "most of the table returned": sa.select(User.id).where(func.lower(User.state) == "active"),
    "limit reached early": sa.select(User.id).where(func.lower(User.state) == "active").limit(3),
    "small table": sa.select(Badge).where(func.lower(Badge.owner) == "owner7"),
    "join of everything": sa.select(sa.func.count()).select_from(User).join(
        Other, func.lower(User.first) == func.lower(Other.first)
    ),
    "join to a column with an index": sa.select(User.id).join(
        Badge, User.points == func.length(Badge.owner)
    ),
    "select list": sa.select(lower_email).where(User.id == 7),
    "order by": sa.select(User.id).order_by(lower_email).limit(5),
    "aggregate in having": sa.select(User.state)
    .group_by(User.state)
    .having(func.sum(User.points) > 100),
    "outer join that keeps every row": sa.select(User.id, Badge.id).outerjoin(
        Badge, func.lower(User.first) == func.lower(Badge.owner)
    ),
    "full join": sa.select(User.id, Badge.id).join(
        Badge, func.lower(User.first) == func.lower(Badge.owner), full=True
    ),
    "anti join": sa.select(User.id).where(
        ~sa.exists().where(func.lower(User.first) == Badge.owner)
    ),
    "most rows counted": sa.select(sa.func.count()).where(func.lower(User.state) == "active"),
    "most rows updated": sa.update(User)
    .values(last="x")
    .where(func.lower(User.state) == "active")
    .returning(User.id),
    "sample": sa.text("SELECT id FROM \"user\" TABLESAMPLE SYSTEM (50) WHERE lower(email) = 'x'"),
    "sub-query inside": sa.text(
        'SELECT id FROM "user" WHERE points * (SELECT max(id) FROM badge) = 77'
    ),
    "system column": sa.text("SELECT id FROM \"user\" WHERE tableoid::text = 'x'"),
    "catalog of attributes": sa.text(
        "SELECT attname FROM pg_attribute WHERE lower(attname::text) = 'x'"
    ),
    "catalog": sa.text("SELECT relname FROM pg_class WHERE upper(relname::text) = 'X'"),
    "function of no column": sa.select(User).where(User.email == func.lower("X")),
    "volatile on the other side": sa.select(User.id).where(User.id == func.length("abc")),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_is_silent_on_twins(watched, name):
    findings = watched.ask(SILENT[name])
    assert [finding for finding in findings if finding.rule == "functional-predicate"] == []
    assert watched.planwatch.stats()["inspected"] == 1


def test_names_the_parent_of_partitions(watched):
    (finding,) = watched.ask(sa.select(Order).where(func.lower(Order.Code) == "c7"))
    assert finding.relation == '"Shop"."Order"'
    assert finding.subject == 'lower("Order Code")'
    assert finding.evidence["scanned"] == ["Shop.Order 1", "Shop.order_2a"]
    assert finding.evidence["table_rows"] == pytest.approx(60_000, rel=0.1)


def test_names_the_index_on_the_bare_column(watched):
    (finding,) = watched.ask(sa.select(User).where(lower_email == "x"))
    assert finding.evidence["indexes_on_column"] == ["user_email_key"]
    assert "user_email_key on the bare column cannot serve it" in finding.problem


def test_silent_when_another_expression_index_was_preferred(any_story, watch):
    any_story.execute(
        'CREATE INDEX a ON "user" (lower(first))',
        'CREATE INDEX b ON "user" (lower(last))',
        "ANALYZE",
    )
    watched = watch(any_story.url)
    both = sa.select(User).where(func.lower(User.first) == "x", func.lower(User.last) == "y")
    assert watched.ask(both) == []


def test_an_invalid_index_does_not_count(any_story, watch):
    any_story.execute(
        'CREATE INDEX broken ON "user" (lower(email))',
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass",
    )
    watched = watch(any_story.url)
    assert len(watched.ask(sa.select(User).where(lower_email == "x"))) == 1


def test_table_without_a_class(watched):
    (finding,) = watched.ask(sa.select(roles_users).where(func.lower(roles_users.c.label) == "x"))
    assert finding.relation == "roles_users"


def test_index_scan_that_only_filters(watched):
    statement = sa.select(User.id).where(User.points > 60_000, lower_email == "x")
    (finding,) = watched.ask(statement)
    assert finding.subject == "lower((email)::text)"


def test_walk_along_the_primary_key(watched):
    statement = sa.select(User).where(lower_email == "x").order_by(User.id).limit(10)
    (finding,) = watched.ask(statement)
    assert finding.subject == "lower((email)::text)"


def test_update_and_delete(each_story, watch):
    watched = watch(each_story.url)
    for statement in (
        sa.update(User).values(first="x").where(lower_email == "nobody"),
        sa.delete(User).where(lower_email == "nobody"),
    ):
        with watched.app.app_context():
            watched.db.session.execute(statement)
            watched.db.session.rollback()
    findings = watched.findings()
    assert {finding.subject for finding in findings} == {"lower((email)::text)"}
    assert len(findings) == 2


def test_growth_speaks_of_small_tables(each_story, watch):
    watched = watch(each_story.url, PLANWATCH_GROWTH=True)
    (finding,) = watched.ask(SILENT["small table"])
    assert finding.severity is Severity.INFO
    assert finding.advice[0].summary.endswith("ON badge (lower(owner))")


def test_growth_is_silent_where_an_index_exists(any_story, watch):
    any_story.execute("CREATE INDEX ON badge (lower(owner))")
    watched = watch(any_story.url, PLANWATCH_GROWTH=True)
    assert watched.ask(SILENT["small table"]) == []


def test_parallel_scan(any_story, watch):
    any_story.execute(
        f"ALTER DATABASE {any_story.name} SET parallel_setup_cost = 0",
        f"ALTER DATABASE {any_story.name} SET min_parallel_table_scan_size = 0",
    )
    watched = watch(any_story.url)
    (finding,) = watched.ask(sa.select(User).where(lower_email == "x"))
    assert "Parallel" in finding.evidence["node"]
    assert finding.evidence["table_rows"] == pytest.approx(100_000, rel=0.05)


def test_growth_is_silent_where_a_partial_index_serves(any_story, watch):
    any_story.execute("CREATE INDEX ON badge (lower(owner)) WHERE id > 0")
    watched = watch(any_story.url, PLANWATCH_GROWTH=True)
    assert watched.ask(SILENT["small table"].where(sa.text("id > 0"))) == []


def test_growth_is_silent_where_each_expression_has_an_index(any_story, watch):
    """One of the two is used and the other stays a Filter, in the forced plan as well."""
    any_story.execute(
        "CREATE INDEX ON badge (lower(owner))", "CREATE INDEX ON badge (upper(owner))"
    )
    watched = watch(any_story.url, PLANWATCH_GROWTH=True)
    assert watched.ask(SILENT["small table"].where(func.upper(Badge.owner) == "OWNER7")) == []


def test_of_partitions_only_those_read_count(watched):
    few = sa.text("""SELECT * FROM "Shop"."Order" WHERE id > 59500 AND lower("Order Code") = 'x'""")
    (finding,) = watched.ask(few)
    assert finding.evidence["table_rows"] == pytest.approx(30_000, rel=0.1)
    assert 'reads 1 of the 2 partitions of "Shop"."Order"' in finding.problem


def test_join_to_a_quoted_key(any_story, watch):
    any_story.execute(
        'CREATE TABLE code ("Key" text PRIMARY KEY)',
        "INSERT INTO code SELECT 'first' || g FROM generate_series(1, 50) g",
        "ANALYZE code",
    )
    statement = sa.text('SELECT 1 FROM "user" u JOIN code c ON c."Key" = lower(u.first)')
    assert watch(any_story.url).ask(statement) == []


def test_a_table_named_like_a_command(any_story, watch, caplog):
    statement = sa.text("SELECT 1 FROM \"user\" call WHERE call.data ->> 'type' = 's3cr3t'")
    (finding,) = watch(any_story.url).ask(statement)
    assert finding.subject == "data ->> 'type'::text"
    assert "s3cr3t" not in caplog.text
    assert {record.name for record in caplog.records} == {"flask_planwatch"}


def test_a_cheap_plan_with_other_values_does_not_resolve(any_story, watch):
    """With a rare state the other index leaves few rows; the problem with a common one stays."""
    any_story.execute('CREATE INDEX ON "user" (state)', "ANALYZE")
    watched = watch(any_story.url)

    def ask(state):
        rows = sa.select(User).where(User.state == state, func.lower(User.first) == "x")
        return watched.ask(rows)

    assert len(ask("Active")) == 1
    assert len(ask("Nothing")) == 1
    assert len(ask("Active")) == 1


def test_two_lines_with_a_key_each_are_two_findings(watched):
    with watched.app.app_context():
        for _ in range(2):
            watched.db.session.execute(sa.select(User.id).where(User.data["type"].astext == "T7"))
            watched.db.session.execute(sa.select(User.id).where(User.data["n"].astext == "7"))
        watched.db.session.rollback()
    subjects = {finding.subject for finding in watched.findings()}
    assert subjects == {"data ->> 'type'::text", "data ->> 'n'::text"}


@pytest.mark.parametrize(
    ("expression", "advised"),
    [
        (sa.extract("year", User.created_at), "half-open range"),
        (sa.extract("month", User.created_at), "AT TIME ZONE"),
        (func.to_char(User.created_at, "MM"), "AT TIME ZONE"),
        (func.date_trunc("month", User.created_at), "half-open range"),
    ],
)
def test_a_range_is_advised_only_where_it_says_the_same(watched, expression, advised):
    value = sa.text("'2020-05-01'") if "trunc" in str(expression) else "05"
    if "EXTRACT" in str(expression):
        value = 5
    (finding,) = watched.ask(sa.select(User.id).where(expression == value))
    assert advised in finding.advice[0].summary


DAY = sa.cast(User.created_at, sa.Date)
START, END = "timestamptz '2020-03-01 00:00'", "timestamptz '2020-03-02 00:00'"


@pytest.mark.parametrize("turned", [False, True], ids=["as written", "sides exchanged"])
@pytest.mark.parametrize("operator", ["=", "<", "<=", ">", ">="])
def test_the_range_that_is_advised_finds_the_same_rows(any_story, watch, operator, turned):
    """What the advice says is run beside the original."""
    watched = watch(any_story.url)
    turn = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
    written = f"date '2020-03-01' {turn.get(operator, operator)} created_at::date"
    if not turned:
        written = f"created_at::date {operator} date '2020-03-01'"
    (finding,) = watched.ask(sa.text(f'SELECT count(*) FROM "user" WHERE {written}'))
    rewritten = finding.advice[0].summary.partition("range: ")[2].partition(";")[0]
    rewritten = re.sub(r"\bstart\b", START, re.sub(r"\bend\b", END, rewritten))
    count = 'SELECT count(*) FROM "user" WHERE '
    assert any_story.scalar(count + rewritten) == any_story.scalar(count + written)


def test_an_ignored_finding_builds_no_index(any_story, watch):
    watched = watch(
        any_story.url, PLANWATCH_VERIFY="build", PLANWATCH_IGNORE=["functional-predicate"]
    )
    count = "SELECT analyze_count FROM pg_stat_user_tables WHERE relname = 'user'"
    before = any_story.scalar(count)
    assert watched.ask(sa.select(User).where(lower_email == "x")) == []
    assert any_story.scalar(count) == before


def test_values_that_fold_the_predicate_away_do_not_resolve(any_story, watch):
    watched = watch(any_story.url)

    def ask(everybody, above):
        return watched.ask(
            sa.text('SELECT id FROM "user" WHERE (:a OR lower(email) = :x) AND id > :n').bindparams(
                a=everybody, x="nobody", n=above
            )
        )

    ask(False, 0)
    kept = [finding.id for finding in watched.planwatch.findings()]
    ask(True, 99_990)
    assert [finding.id for finding in watched.planwatch.findings()] == kept
