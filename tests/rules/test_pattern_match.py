"""pattern-match speaks on its stories, is silent on their twins, and after the fix."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa
from sqlalchemy import func
from sqlalchemy.dialects.postgresql import (
    ARRAY,
    CHAR,
    ENUM,
    INT4MULTIRANGE,
    INT4RANGE,
    JSON,
    JSONB,
    TSTZRANGE,
    TSVECTOR,
    Range,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column

from flask_planwatch import AdviceKind, Severity, VerdictStatus
from flask_planwatch.plan.pattern import AccessMethod
from flask_planwatch.server.extensions import availability
from flask_planwatch.server.session import OwnSession
from flask_planwatch.signals import statement_inspected

from .. import servers
from ..models import Badge, Order
from ..test_advice import run_alembic


class Base(DeclarativeBase):
    pass


class Article(Base):
    """A column for each sort of value that one looks into."""

    __tablename__ = "article"

    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    email: Mapped[str] = mapped_column(sa.String(255), unique=True)
    name: Mapped[str] = mapped_column(sa.Text, index=True)
    #: Named in three ways: by the class, by the table, and by the server.
    heading: Mapped[str] = mapped_column("Title", sa.Text, key="title")
    code: Mapped[str] = mapped_column(CHAR(10))
    bytewise: Mapped[str] = mapped_column(sa.Text(collation="C"), index=True)
    state: Mapped[str] = mapped_column(sa.Text)
    mood: Mapped[str] = mapped_column(ENUM("happy", "sad", name="article_mood"))
    body: Mapped[str] = mapped_column(sa.Text)
    words: Mapped[str] = mapped_column(TSVECTOR)
    tags: Mapped[list] = mapped_column(ARRAY(sa.Text))
    labels: Mapped[list] = mapped_column(ARRAY(sa.String(20)))
    numbers: Mapped[list] = mapped_column(ARRAY(sa.Integer))
    data: Mapped[dict] = mapped_column(JSONB)
    raw: Mapped[dict] = mapped_column(JSON)
    during: Mapped[object] = mapped_column(TSTZRANGE)
    span: Mapped[object] = mapped_column(INT4RANGE)
    spans: Mapped[object] = mapped_column(INT4MULTIRANGE)
    opened_at: Mapped[object] = mapped_column(sa.DateTime(timezone=True), index=True)
    closed_at: Mapped[object] = mapped_column(sa.DateTime(timezone=True))


class Scrap(Base):
    """A table of forty rows."""

    __tablename__ = "scrap"

    id: Mapped[int] = mapped_column(sa.Integer, primary_key=True)
    name: Mapped[str] = mapped_column(sa.Text)
    tags: Mapped[list] = mapped_column(ARRAY(sa.Text))
    at: Mapped[int] = mapped_column(sa.Integer)


Other = aliased(Article)

ARTICLES = 20_000

_ROWS = f"""
INSERT INTO article SELECT g, 'user' || g || '@example.com', 'Name' || g, 'Title' || g, 'c' || g,
    'b' || g, CASE WHEN g % 100 = 0 THEN 'Retired' ELSE 'Active' END,
    (CASE WHEN g % 100 = 0 THEN 'sad' ELSE 'happy' END)::article_mood,
    'the word' || g || ' in text', to_tsvector('english', 'word' || g || ' in text'),
    ARRAY['t' || g, 'g' || g % 100], ARRAY['l' || g], ARRAY[g, g + 1],
    jsonb_build_object('type', 'T' || g, 'n', g, 'k' || g, 1, 'tags', jsonb_build_array('a' || g)),
    '{{}}', tstzrange(t, t + interval '1 hour'), int4range(g, g + 2),
    int4multirange(int4range(g, g + 2)), t, t + interval '1 hour'
FROM (SELECT g, timestamptz '2020-01-01 00:00+00' + g * interval '1 hour' AS t
      FROM generate_series(1, {ARTICLES}) g) rows
"""


def fill(database):
    engine = sa.create_engine(database.url, poolclass=sa.NullPool)
    Base.metadata.create_all(engine)
    database.execute(
        _ROWS,
        "INSERT INTO scrap SELECT g, 'Name' || g, ARRAY['t' || g], g FROM generate_series(1, 40) g",
        "VACUUM ANALYZE article, scrap",
        "ALTER TABLE article SET (autovacuum_enabled = off)",
    )


@pytest.fixture(scope="module")
def stocked(each_story):
    """The articles, in a database on each server in turn."""
    fill(each_story)
    return each_story


@pytest.fixture
def changed(stocked):
    """The same for a test that creates indexes or extensions: they go again afterwards."""
    ours = "SELECT array_agg(indexrelid::regclass::text) FROM pg_index WHERE NOT indisunique"
    before = set(stocked.scalar(ours))
    yield stocked
    stocked.execute(
        *(f"DROP INDEX {name}" for name in set(stocked.scalar(ours)) - before),
        "DROP EXTENSION IF EXISTS pg_trgm CASCADE",
        "ANALYZE article",
    )


@pytest.fixture
def watched(stocked, watch):
    """An app on each server in turn, through another driver on each."""
    return watch(stocked.url_for(driver(stocked)))


def driver(database):
    return "psycopg2" if database.server.name == servers.FIRST else "psycopg"


def where(condition):
    return sa.select(Article.id).where(condition)


MOMENT = sa.literal_column("timestamptz '2020-03-01 00:30+00'")
SEARCH = func.plainto_tsquery("english", "word7")

#: Statements that must be found: the finding's subject, and what the advised index ends in.
SPEAKS = {
    "startswith": (
        where(Article.email.startswith("user77@")),
        "(email)::text LIKE prefix%",
        "ON article (email text_pattern_ops)",
    ),
    "startswith with a wildcard in the value": (
        where(Article.name.startswith("Name_7%", autoescape=True)),
        "name LIKE prefix%",
        "ON article (name text_pattern_ops)",
    ),
    "like with a known beginning": (
        where(Article.name.like("Name77%9")),
        "name LIKE prefix%",
        "ON article (name text_pattern_ops)",
    ),
    "char(n)": (
        where(Article.code.startswith("c777")),
        "code LIKE prefix%",
        "ON article (code bpchar_pattern_ops)",
    ),
    "beginning of an expression": (
        where(func.lower(Article.email).like("user77@%")),
        "lower((email)::text) LIKE prefix%",
        "ON article (lower(email) text_pattern_ops)",
    ),
    "beginning of a number": (
        where(sa.cast(Article.id, sa.Text).startswith("1999")),
        "(id)::text LIKE prefix%",
        "ON article ((id::text) text_pattern_ops)",
    ),
    "attribute named unlike its column": (
        where(Article.heading.startswith("Title77")),
        '"Title" LIKE prefix%',
        'ON article ("Title" text_pattern_ops)',
    ),
    "regular expression with a known beginning": (
        where(Article.name.regexp_match("^Name777")),
        "name ~ ^prefix",
        "ON article (name text_pattern_ops)",
    ),
    "operator for a beginning": (
        where(Article.name.bool_op("^@")("Name777")),
        "name ^@",
        "ON article (name text_pattern_ops)",
    ),
    "contains": (
        where(Article.email.contains("77@exam", autoescape=True)),
        "(email)::text LIKE %part%",
        "ON article USING gin (email gin_trgm_ops)",
    ),
    "endswith": (
        where(Article.name.endswith("777")),
        "name LIKE %part%",
        "ON article USING gin (name gin_trgm_ops)",
    ),
    "ilike": (
        where(Article.name.ilike("name777%")),
        "name ILIKE",
        "ON article USING gin (name gin_trgm_ops)",
    ),
    "icontains": (
        where(Article.name.icontains("ME777")),
        "name ILIKE",
        "ON article USING gin (name gin_trgm_ops)",
    ),
    "part of an expression": (
        where(func.lower(Article.email).contains("77@exam")),
        "lower((email)::text) LIKE %part%",
        "ON article USING gin (lower(email) gin_trgm_ops)",
    ),
    "regular expression": (
        where(Article.name.regexp_match("ame77+$")),
        "name ~",
        "ON article USING gin (name gin_trgm_ops)",
    ),
    "regular expression in any case": (
        where(Article.name.regexp_match("AME777", flags="i")),
        "name ~*",
        "ON article USING gin (name gin_trgm_ops)",
    ),
    "words": (
        where(Article.words.bool_op("@@")(SEARCH)),
        "words @@",
        "ON article USING gin (words)",
    ),
    "words, the sides exchanged": (
        where(SEARCH.bool_op("@@")(Article.words)),
        "words @@",
        "ON article USING gin (words)",
    ),
    "words by the session's configuration": (
        where(Article.words.bool_op("@@")(func.plainto_tsquery("word7"))),
        "words @@",
        "ON article USING gin (words)",
    ),
    "words of an expression": (
        where(func.to_tsvector("english", Article.body).bool_op("@@")(SEARCH)),
        "to_tsvector('english'::regconfig, body) @@",
        "ON article USING gin (to_tsvector('english'::regconfig, body))",
    ),
    "document": (
        where(Article.data.contains({"type": "T7"})),
        "data @>",
        "ON article USING gin (data jsonb_path_ops)",
    ),
    "document with an empty part": (
        where(Article.data.contains({"tags": [], "type": "T7"})),
        "data @>",
        "ON article USING gin (data)",
    ),
    "key of a document": (
        where(Article.data.has_key("k7")),
        "data ?",
        "ON article USING gin (data)",
    ),
    "any key of a document": (
        where(Article.data.has_any(sa.cast(["k7", "k8"], ARRAY(sa.Text)))),
        "data ?|",
        "ON article USING gin (data)",
    ),
    "all keys of a document": (
        where(Article.data.has_all(sa.cast(["k7", "type"], ARRAY(sa.Text)))),
        "data ?&",
        "ON article USING gin (data)",
    ),
    "part of a document": (
        where(Article.data.op("->")("tags").cast(JSONB).contains(["a7"])),
        "data -> 'tags'::text @>",
        "ON article USING gin ((data -> 'tags') jsonb_path_ops)",
    ),
    "part of a document, by its key": (
        where(Article.data["tags"].contains(["a7"])),
        None,
        "jsonb_path_ops)",
    ),
    "key in a part of a document": (
        where(Article.data["tags"].has_key("a7")),
        None,
        ")",
    ),
    "path that exists": (
        where(Article.data.path_exists(sa.cast('$.type ? (@ == "T7")', JSONB.JSONPathType))),
        "data @?",
        "ON article USING gin (data jsonb_path_ops)",
    ),
    "path that matches": (
        where(Article.data.path_match(sa.cast('$.type == "T7"', JSONB.JSONPathType))),
        "data @@",
        "ON article USING gin (data jsonb_path_ops)",
    ),
    "array contains": (
        where(Article.tags.contains(["t7"])),
        "tags @>",
        "ON article USING gin (tags)",
    ),
    "array overlaps": (
        where(Article.labels.overlap(["l7", "l8"])),
        "labels &&",
        "ON article USING gin (labels)",
    ),
    "array is contained": (
        where(Article.numbers.contained_by([7, 8, 9])),
        "numbers <@",
        "ON article USING gin (numbers)",
    ),
    "range contains": (
        where(Article.span.contains(7)),
        "span @>",
        "ON article USING gist (span)",
    ),
    "range overlaps": (
        where(Article.span.overlaps(Range(7, 9))),
        "span &&",
        "ON article USING gist (span)",
    ),
    "several ranges in one": (
        where(Article.spans.contains(7)),
        "spans @>",
        "ON article USING gist (spans)",
    ),
    "range of moments": (
        where(Article.during.bool_op("@>")(MOMENT)),
        "during @>",
        "ON article USING gist (during)",
    ),
    "range, the sides exchanged": (
        where(MOMENT.bool_op("<@")(Article.during)),
        "during @>",
        "ON article USING gist (during)",
    ),
    "range made of two columns": (
        where(func.tstzrange(Article.opened_at, Article.closed_at).bool_op("@>")(MOMENT)),
        "tstzrange(opened_at, closed_at) @>",
        "ON article USING gist (tstzrange(opened_at, closed_at))",
    ),
    "join by a range": (
        sa.select(Article.id).join(Scrap, Article.span.bool_op("@>")(Scrap.at)),
        "span @>",
        "ON article USING gist (span)",
    ),
    "among other conditions": (
        where(sa.and_(Article.state == "Active", Article.tags.contains(["t7"]))),
        "tags @>",
        "ON article USING gin (tags)",
    ),
    "alias": (
        sa.select(Other.id).where(Other.data.contains({"n": 7})),
        "data @>",
        "ON article USING gin (data jsonb_path_ops)",
    ),
    "walk along the primary key": (
        where(Article.name.contains("777")).order_by(Article.id).limit(100),
        "name LIKE %part%",
        "ON article USING gin (name gin_trgm_ops)",
    ),
}


def said(findings):
    """The findings of this rule: an index on other columns may be missing as well."""
    return [finding for finding in findings if finding.rule == "pattern-match"]


def only(findings):
    (finding,) = said(findings)
    return finding


@pytest.mark.parametrize("name", SPEAKS)
def test_speaks(watched, name):
    statement, subject, advised = SPEAKS[name]
    finding = only(watched.ask(statement))
    assert subject is None or finding.subject == subject
    advice = finding.advice[0]
    assert advice.kind is AdviceKind.CREATE_INDEX
    # The index may carry more columns.
    assert advised in advice.summary
    assert advice.summary.startswith("CREATE EXTENSION") == ("gin_trgm_ops" in advised)
    assert finding.relation == "article"
    assert finding.evidence["table_rows"] == pytest.approx(ARTICLES, rel=0.05)


@pytest.mark.parametrize("name", SPEAKS)
def test_build_proves_it_and_the_fix_silences_it(changed, watch, name):
    statement = SPEAKS[name][0]
    watched = watch(changed.url_for(driver(changed)), PLANWATCH_VERIFY="build")
    advice = only(watched.ask(statement)).advice[0]
    assert (advice.verdict.status, advice.verdict.method) == (VerdictStatus.VERIFIED, "build")
    assert advice.verdict.cost_after < advice.verdict.cost_before
    assert changed.scalar("SELECT count(*) FROM pg_extension WHERE extname = 'pg_trgm'") == 0
    changed.execute(*advice.ddl, "ANALYZE article")
    assert said(watched.ask(statement)) == []


#: The twins: statements on which the rule must not say a word.
SILENT = {
    "not like": where(Article.name.not_like("Name77%")),
    "not ilike": where(Article.name.not_ilike("%name777%")),
    "not a regular expression": where(~Article.name.regexp_match("Name777")),
    "not contained": where(~Article.data.contains({"type": "T7"})),
    "not in the array": where(sa.not_(sa.literal("t7") == sa.any_(Article.tags))),
    "wildcard alone": where(Article.name.like("%")).limit(1),
    "wildcards alone": where(Article.name.like("%_%")).limit(1),
    "nothing open": where(Article.body.like("the word7 in text")),
    "escaped wildcard": where(Article.body.like("the word7\\%")),
    "nothing open in any case": where(Article.body.ilike("the word7 in text")),
    "short pattern": where(Article.name.contains("77")),
    "short pattern in any case": where(Article.name.ilike("%77%")),
    "short end": where(Article.name.endswith("7")),
    "regular expression with nothing known": where(Article.name.regexp_match("^.*[0-9]{5}x?$")),
    "regular expression, one branch open": where(Article.name.regexp_match("Name777|x+")),
    "part of a char(n)": where(Article.code.contains("c777")),
    "most rows match": where(Article.name.startswith("Name")),
    "most rows match, counted": sa.select(func.count()).where(Article.name.startswith("Name")),
    "most documents match": where(Article.data.has_key("type")),
    "most ranges match": where(Article.span.bool_op(">>")(Range(-5, -1))),
    "limit reached early": where(Article.name.ilike("name%")).limit(3),
    "pattern from another column": where(Article.name.like(Article.heading + "%")),
    "pattern from another table": sa.select(Article.id).join(
        Badge, Article.name.like(Badge.owner + "%")
    ),
    "the column is the pattern": where(sa.literal("Name777%").like(Article.name)),
    "alternatives": where(sa.or_(Article.name.ilike("%ame777%"), Article.body.ilike("%rd777 %"))),
    "several patterns": where(Article.name.like(sa.any_(sa.literal(["a%", "b%"], ARRAY(sa.Text))))),
    "few rows found by another index": where(
        sa.and_(Article.id == 7, Article.name.ilike("%name777%"), Article.tags.contains(["t7"]))
    ),
    "index under the C collation": where(Article.bytewise.startswith("b777")),
    "small table": sa.select(Scrap).where(
        Scrap.name.ilike("%name7%"), sa.literal("t7") == sa.any_(Scrap.tags)
    ),
    "document that is contained": where(Article.data.contained_by({"type": "T7"})),
    "order in a document": where(
        Article.data.path_match(sa.cast("$.n > 19990", JSONB.JSONPathType))
    ),
    "equality": where(sa.and_(Article.words == sa.cast("x", TSVECTOR))),
    "number in a range": where(Article.id == 7).where(
        sa.cast(Article.id, sa.Integer).bool_op("<@")(sa.cast(Range(1, 9), INT4RANGE))
    ),
    "select list": sa.select(Article.name.ilike("%name777%")).where(Article.id == 7),
    "catalog": sa.text("SELECT relname FROM pg_class WHERE relname::text LIKE 'pg_cl%'"),
    "catalog of array columns": sa.text("SELECT 1 FROM pg_proc WHERE proargnames @> '{x}'"),
    "range of a sub-query": sa.text(
        "SELECT 1 FROM (SELECT int4range(min(id)::int, max(id)::int) r FROM scrap) s WHERE r @> 7"
    ),
    "geometry": sa.text("SELECT id FROM article WHERE point(id, id) <@ box '((0,0),(1,1))'"),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_is_silent_on_twins(watched, name):
    assert said(watched.ask(SILENT[name])) == []
    assert watched.planwatch.stats()["inspected"] == 1


#: Indexes that serve a statement, each of another sort than the advice.
SERVED = {
    "trigrams for a beginning": (
        "CREATE EXTENSION pg_trgm",
        "CREATE INDEX ON article USING gin (name gin_trgm_ops)",
        where(Article.name.startswith("Name777")),
    ),
    "trigrams in a GiST index": (
        "CREATE EXTENSION pg_trgm",
        "CREATE INDEX ON article USING gist (name gist_trgm_ops)",
        where(Article.name.icontains("ame777")),
    ),
    "all operators of a document": (
        "",
        "CREATE INDEX ON article USING gin (data)",
        where(Article.data.contains({"type": "T7"})),
    ),
    "the collation of the index": (
        "",
        'CREATE INDEX ON article (name COLLATE "C")',
        where(Article.name.startswith("Name777")),
    ),
    "an index of two columns": (
        "",
        "CREATE INDEX ON article (name text_pattern_ops, state)",
        where(Article.name.startswith("Name777")),
    ),
    "partial": (
        "",
        "CREATE INDEX ON article USING gin (tags) WHERE state = 'Active'",
        where(sa.and_(Article.tags.contains(["t7"]), Article.state == "Active")),
    ),
    "another index was preferred": (
        "CREATE INDEX ON article USING gin (labels)",
        "CREATE INDEX ON article USING gin (tags)",
        where(sa.and_(Article.tags.contains(["g7"]), Article.labels.contains(["l7"]))),
    ),
    "many begin like it": (
        "",
        "CREATE INDEX ON article (name text_pattern_ops)",
        where(Article.name.startswith("Name12")),
    ),
    "an index that finds more was not asked": (
        "CREATE INDEX ON article (name text_pattern_ops)",
        "CREATE INDEX ON article USING gin (data)",
        where(sa.and_(Article.name.startswith("Name12"), Article.data.has_key("type"))),
    ),
    "two indexes together": (
        "CREATE INDEX ON article (name text_pattern_ops)",
        'CREATE INDEX ON article ("Title" text_pattern_ops)',
        where(sa.and_(Article.name.startswith("Name12"), Article.heading.startswith("Title12"))),
    ),
}


@pytest.mark.parametrize("growth", [False, True], ids=["large", "small"])
@pytest.mark.parametrize("name", SERVED)
def test_is_silent_where_an_index_exists(changed, watch, name, growth):
    first, index, statement = SERVED[name]
    settings = {"PLANWATCH_GROWTH": True, "PLANWATCH_MIN_ROWS": 50_000} if growth else {}
    changed.execute(*filter(None, (first, index)), "ANALYZE article")
    watched, seen = watch(changed.url_for(driver(changed)), **settings), []
    with statement_inspected.connected_to(lambda _, inspection: seen.append(inspection)):
        assert said(watched.ask(statement)) == []
    dismissals = said(seen[0].dismissals)
    # The rule knows it by itself, before an index is advised.
    assert {dismissal.reason for dismissal in dismissals} <= {"an index on it exists"}


#: Indexes on the same column that serve another sort of comparison.
NOT_SERVED = {
    "the beginning only": (
        "CREATE INDEX ON article (name text_pattern_ops)",
        where(Article.name.icontains("ame777")),
    ),
    "values only": (
        "CREATE INDEX ON article USING gin (data jsonb_path_ops)",
        where(Article.data.has_key("k7")),
    ),
    "equality of ranges": (
        "CREATE INDEX ON article (span)",
        where(Article.span.contains(7)),
    ),
    "the other comparison of the column": (
        "CREATE INDEX ON article (state)",
        where(sa.and_(Article.name > "Name1", Article.name.icontains("ame777"))),
    ),
    "other rows": (
        "CREATE INDEX ON article USING gin (tags) WHERE state = 'Retired'",
        where(Article.tags.contains(["t7"])),
    ),
}


@pytest.mark.parametrize("name", NOT_SERVED)
def test_speaks_where_an_index_serves_something_else(changed, watch, name):
    index, statement = NOT_SERVED[name]
    changed.execute(index, "ANALYZE article")
    only(watch(changed.url_for(driver(changed))).ask(statement))


def test_names_what_cannot_serve(watched):
    finding = only(watched.ask(where(Article.name.startswith("Name777"))))
    assert finding.evidence["indexes_on_column"] == ["ix_article_name"]
    assert "looks how name begins" in finding.problem
    assert "ix_article_name cannot serve" in finding.problem
    assert "Name777" not in finding.message


def test_two_patterns_on_one_column_are_two_findings(watched):
    with watched.app.app_context():
        for pattern in ("Name777%", "%ame777%", "Name778%", "%ame778%"):
            watched.db.session.execute(where(Article.name.like(pattern)))
        watched.db.session.rollback()
    subjects = [finding.subject for finding in watched.findings()]
    assert sorted(subjects) == ["name LIKE %part%", "name LIKE prefix%"]


@pytest.mark.parametrize("pattern", ["%", "Name777", "%77%", "Name%"])
def test_a_pattern_that_no_index_helps_does_not_resolve(watched, pattern):
    watched.ask(where(Article.name.like("%ame777%")))
    kept = [finding.id for finding in watched.findings()]
    watched.ask(where(Article.name.like(pattern)))
    assert kept[0] in [finding.id for finding in watched.findings()]


def test_an_element_of_an_array(changed, watch):
    """No index serves as it is written; contains() and a GIN index do."""
    watched = watch(changed.url_for(driver(changed)))
    for column, value in ((Article.tags, "t7"), (Article.labels, "l7"), (Article.numbers, 7)):
        finding = only(watched.ask(where(sa.literal(value) == sa.any_(column))))
        rewrite, index = finding.advice
        assert finding.subject.startswith("= ANY (")
        assert rewrite.kind is AdviceKind.REWRITE
        assert rewrite.sqlalchemy == f".where(Article.{column.key}.contains([value]))"
        assert index.summary.endswith(f"ON article USING gin ({column.key})")
        changed.execute(*index.ddl, "ANALYZE article")
        # The statement as it was is no better.
        assert len(watched.ask(where(sa.literal(value) == sa.any_(column)))) == 1
        watched.planwatch.clear(watched.app)
        rewritten = eval(
            rewrite.sqlalchemy[1:], {"where": where, "Article": Article, "value": value}
        )
        assert said(watched.ask(rewritten)) == []


#: Full text searches by the configuration that the session happens to have.
UNNAMED = {
    "match": where(Article.body.match("word7")),
    "match in a language": where(Article.body.match("word7", postgresql_regconfig="english")),
    "one argument": where(func.to_tsvector(Article.body).bool_op("@@")(SEARCH)),
}


@pytest.mark.parametrize("name", UNNAMED)
def test_full_text_without_a_configuration(changed, watch, name):
    watched = watch(changed.url_for(driver(changed)))
    finding = only(watched.ask(UNNAMED[name]))
    advice = finding.advice[0]
    assert advice.kind is AdviceKind.REWRITE
    assert "to_tsvector('english', body) @@" in advice.summary
    assert "to_tsvector is STABLE" in advice.explanation
    assert "setting of the session" in finding.problem
    rewritten = eval(
        advice.sqlalchemy[1:], {"where": where, "Article": Article, "func": func, "value": "word7"}
    )
    watched.planwatch.clear(watched.app)
    index = only(watched.ask(rewritten)).advice[0]
    assert index.kind is AdviceKind.CREATE_INDEX
    changed.execute(*index.ddl, "ANALYZE article")
    assert said(watched.ask(rewritten)) == []


@pytest.mark.parametrize(
    ("condition", "advised"),
    [
        (sa.cast(Article.opened_at, sa.Text).startswith("2020-03"), "half-open range"),
        (sa.cast(Article.mood, sa.Text).startswith("sa"), "mood IN (…)"),
    ],
)
def test_a_pattern_on_a_cast_that_depends_on_the_session(watched, condition, advised):
    advice = only(watched.ask(where(condition))).advice[0]
    assert advice.kind is AdviceKind.REWRITE
    assert advised in advice.summary


PREFIX = where(Article.email.startswith("user77@"))
PART = where(Article.name.contains("ame777"))
RANGE = where(Article.span.contains(7))


@pytest.fixture
def on_hypopg(hypopg_server, templates):
    from ..conftest import make_database

    for database in make_database(hypopg_server, templates(hypopg_server)):
        fill(database)
        yield database


def test_hypopg_proves_the_beginning_and_nothing_else(on_hypopg, watch):
    watched = watch(on_hypopg.url)
    verdict = only(watched.ask(PREFIX)).advice[0].verdict
    assert (verdict.status, verdict.method) == (VerdictStatus.VERIFIED, "hypopg")
    assert not verdict.guess, "a column has statistics"
    for statement, method in ((PART, "gin"), (RANGE, "gist")):
        watched.planwatch.clear(watched.app)
        verdict = only(watched.ask(statement)).advice[0].verdict
        assert verdict.status is VerdictStatus.UNTESTED
        assert f"HypoPG knows no {method} indexes" in verdict.reason
        assert 'PLANWATCH_VERIFY = "build"' in verdict.reason


def test_build_without_the_right_to_create_the_extension(changed, watch):
    changed.execute(
        f"CREATE ROLE modest_{changed.name} LOGIN",
        f"GRANT pg_read_all_data TO modest_{changed.name}",
        f"ALTER TABLE article OWNER TO modest_{changed.name}",
        f"GRANT CREATE ON SCHEMA public TO modest_{changed.name}",
    )
    try:
        watched = watch(
            changed.url,
            PLANWATCH_VERIFY="build",
            PLANWATCH_DATABASE_URL=changed.url_for("psycopg2", username=f"modest_{changed.name}"),
        )
        advice = only(watched.ask(PART)).advice[0]
        assert advice.verdict.status is VerdictStatus.UNTESTED
        assert "permission denied to create extension" in advice.verdict.reason
        watched.planwatch.clear(watched.app)
        assert only(watched.ask(PREFIX)).advice[0].verdict.status is VerdictStatus.VERIFIED
    finally:
        changed.execute(
            f"REASSIGN OWNED BY modest_{changed.name} TO CURRENT_USER",
            f"DROP OWNED BY modest_{changed.name}",
            f"DROP ROLE modest_{changed.name}",
        )


def test_the_extension_is_not_created_twice(changed, watch):
    changed.execute("CREATE EXTENSION pg_trgm")
    advice = only(watch(changed.url).ask(PART)).advice[0]
    assert advice.summary.startswith("CREATE INDEX")
    assert "EXTENSION" not in advice.alembic + advice.sqlalchemy


def test_an_extension_in_a_schema_off_the_search_path(changed, watch):
    changed.execute('CREATE SCHEMA IF NOT EXISTS "Odd One"')
    changed.execute('CREATE EXTENSION pg_trgm SCHEMA "Odd One"')
    watched = watch(changed.url, PLANWATCH_VERIFY="build")
    advice = only(watched.ask(PART)).advice[0]
    assert advice.summary.endswith('USING gin (name "Odd One".gin_trgm_ops)')
    assert advice.verdict.status is VerdictStatus.VERIFIED
    changed.execute(*advice.ddl)
    assert said(watched.ask(PART)) == []


@pytest.mark.parametrize("verify", ["auto", "build"])
def test_an_extension_that_the_server_has_not(stocked, watch, monkeypatch, verify):
    """As if trigrams came from an extension that nobody has heard of."""
    trigrams = AccessMethod("gin", "gin_trgm_ops", "unheard_of")
    monkeypatch.setattr("flask_planwatch.plan.pattern._TRIGRAMS", trigrams)
    verdict = only(watch(stocked.url, PLANWATCH_VERIFY=verify).ask(PART)).advice[0].verdict
    assert verdict.status is VerdictStatus.UNTESTED
    assert "unheard_of is neither installed nor available" in verdict.reason


def test_availability(changed):
    engine = sa.create_engine(changed.url, poolclass=sa.NullPool)
    session = OwnSession(engine, url=None, statement_timeout_ms=30_000, lock_timeout_ms=50)
    unheard = availability(session, "unheard_of")
    assert not unheard.installed
    assert "neither installed nor available" in unheard.missing
    known = availability(session, "pg_trgm")
    assert (known.installed, known.available, known.missing) == (False, True, "")
    changed.execute("CREATE EXTENSION pg_trgm")
    known = availability(session, "pg_trgm")
    assert (known.installed, known.qualified("x")) == (True, "x")
    session.close()


#: What advice is rendered for, each by another way.
RENDERED = ["startswith", "attribute named unlike its column", "char(n)", "contains", "document",
            "beginning of an expression", "part of an expression", "words of an expression",
            "range made of two columns", "array contains", "beginning of a number"]  # fmt: skip


@pytest.mark.parametrize("name", RENDERED)
def test_every_form_of_the_advice_makes_the_same_index(changed, watch, name):
    watched = watch(changed.url)
    statement = SPEAKS[name][0]
    advice = only(watched.ask(statement)).advice[0]
    index = re.search(r"INDEX CONCURRENTLY (\w+)", advice.ddl[-1])[1]
    definition = f"SELECT pg_get_indexdef('{index}'::regclass)"
    changed.execute(*advice.ddl)
    made = [changed.scalar(definition)]
    drop = f"DROP INDEX {index}"

    changed.execute(drop)
    engine = sa.create_engine(changed.url, poolclass=sa.NullPool)
    code = compile(advice.sqlalchemy, "advice", "exec", dont_inherit=True)
    names = {}
    exec(code, names)
    (declared,) = [one for one in Article.__table__.indexes if one.name == index]
    declared.create(engine)
    Article.__table__.indexes.remove(declared)
    made.append(changed.scalar(definition))

    changed.execute(drop)
    run_alembic(changed, advice)
    made.append(changed.scalar(definition))
    assert made == [made[0]] * 3


def test_the_sqlalchemy_form_names_the_operator_class(watched):
    def code(name):
        watched.planwatch.clear(watched.app)
        return only(watched.ask(SPEAKS[name][0])).advice[0].sqlalchemy

    assert code("startswith").endswith(
        'Article.email, postgresql_ops={"email": "text_pattern_ops"})'
    )
    assert code("attribute named unlike its column").endswith(
        'Article.heading, postgresql_ops={"title": "text_pattern_ops"})'
    )
    contains = code("endswith")
    assert "# First: CREATE EXTENSION IF NOT EXISTS pg_trgm" in contains
    assert 'postgresql_using="gin", postgresql_ops={"name": "gin_trgm_ops"})' in contains


def test_growth_speaks_of_small_tables(stocked, watch):
    watched = watch(stocked.url, PLANWATCH_GROWTH=True)
    for condition in (
        Scrap.name.ilike("%name7%"),
        Scrap.name.startswith("Name7"),
        Scrap.tags.contains(["t7"]),
    ):
        assert only(watched.ask(sa.select(Scrap.id).where(condition))).severity is Severity.INFO
        watched.planwatch.clear(watched.app)


def test_partitions(stocked, watch):
    watched = watch(stocked.url_for(driver(stocked)), PLANWATCH_VERIFY="build")
    finding = only(watched.ask(sa.select(Order.id).where(Order.Code.startswith("C777"))))
    assert finding.relation == '"Shop"."Order"'
    assert finding.subject == '"Order Code" LIKE prefix%'
    assert finding.evidence["scanned"] == ["Shop.Order 1", "Shop.order_2a"]
    assert finding.advice[0].verdict.status is VerdictStatus.VERIFIED


def test_a_table_that_was_never_analysed(changed, watch):
    changed.execute(
        "CREATE TABLE fresh (name text, tags text[]) WITH (autovacuum_enabled = off)",
        "INSERT INTO fresh SELECT 'Name' || g, ARRAY['t' || g] FROM generate_series(1, 20000) g",
    )
    watched = watch(changed.url)
    try:
        for condition in ("name LIKE 'Name777%'", "tags @> '{t7}'", "name ILIKE '%ame777%'"):
            only(watched.ask(sa.text(f"SELECT 1 FROM fresh WHERE {condition}")))
            watched.planwatch.clear(watched.app)
    finally:
        changed.execute("DROP TABLE fresh")


def test_update_and_delete(watched):
    with watched.app.app_context():
        for statement in (sa.update(Article).values(state="x"), sa.delete(Article)):
            watched.db.session.execute(statement.where(Article.tags.contains(["none"])))
            watched.db.session.rollback()
    findings = watched.findings()
    assert [finding.subject for finding in findings] == ["tags @>"] * 2


def test_parallel_scan(changed, watch):
    changed.execute(
        f"ALTER DATABASE {changed.name} SET parallel_setup_cost = 0",
        f"ALTER DATABASE {changed.name} SET min_parallel_table_scan_size = 0",
    )
    try:
        finding = only(watch(changed.url).ask(PART))
        assert "Parallel" in finding.evidence["node"]
        assert said(watch(changed.url).ask(SILENT["most rows match, counted"])) == []
    finally:
        changed.execute(f"ALTER DATABASE {changed.name} RESET ALL")


def test_values_do_not_get_into_the_log(watched, caplog):
    for condition in (
        Article.name.icontains("s3cr3t"),
        Article.data.contains({"s3cr3t": 1}),
        Article.data.has_key("s3cr3t"),
        sa.literal("s3cr3t") == sa.any_(Article.tags),
        Article.body.match("s3cr3t"),
        Article.name.startswith("s3cr3t"),
    ):
        watched.ask(where(condition))
    assert len(caplog.records) == 6
    for record in caplog.records:
        assert "s3cr3t" not in str(vars(record))
