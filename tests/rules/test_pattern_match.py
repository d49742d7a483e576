"""pattern-match: a statement looks inside values, and no index of the right sort is there."""

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

from flask_planwatch import AdviceKind, VerdictStatus
from flask_planwatch.plan.pattern import AccessMethod
from flask_planwatch.server.enabling import availability
from flask_planwatch.server.session import Session

from ..cases import first
from ..models import Badge, Order
from ..servers import HYPOPG
from ..test_advice import run_alembic
from .case import (
    USERS,
    Example,
    Rule,
    Tables,
    followed,
    rows,
    set_for_all,
    silent,
    speaks,
    with_settings,
)
from .rule_in_app import inspections, run


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

ARTICLES = 10_000

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


# An index on other columns may be missing as well.
RULE = Rule("pattern-match", Tables("articles", fill, base=USERS), beside=["missing-index"])

#: The statement on the page of the rule.
EXAMPLE = Example('select(User.id).where(User.first.like("First99%"))')


def where(condition):
    return sa.select(Article.id).where(condition)


MOMENT = sa.literal_column("timestamptz '2020-03-01 00:30+00'")
SEARCH = func.plainto_tsquery("english", "word7")

#: What else an index for a beginning had best carry is not the same on all servers.
SPEAKS = [
    speaks(
        "startswith",
        where(Article.email.startswith("user77@")),
        about="(email)::text LIKE prefix% on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_email_pattern… ON article (email "
        "text_pattern_ops)…",
        proof=(
            "(email)::text LIKE prefix% was tested row by row and is now an index condition",
            "Seq Scan on article became Index …Scan using ix_article_email_pattern… on article",
        ),
    ),
    speaks(
        "startswith with a wildcard in the value",
        where(Article.name.startswith("Name_7%", autoescape=True)),
        about="name LIKE prefix% on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_name_pattern… ON article (name "
        "text_pattern_ops)…",
        proof=(
            "name LIKE prefix% was tested row by row and is now an index condition",
            "Seq Scan on article became Index …Scan using ix_article_name_pattern… on article",
        ),
    ),
    speaks(
        "like with a known beginning",
        where(Article.name.like("Name77%9")),
        about="name LIKE prefix% on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_name_pattern… ON article (name "
        "text_pattern_ops)…",
        proof=(
            "name LIKE prefix% was tested row by row and is now an index condition",
            "Seq Scan on article became Index …Scan using ix_article_name_pattern… on article",
        ),
    ),
    speaks(
        "char(n)",
        where(Article.code.startswith("c777")),
        about="code LIKE prefix% on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_code_pattern… ON article (code "
        "bpchar_pattern_ops)…",
        proof=(
            "code LIKE prefix% was tested row by row and is now an index condition",
            "Seq Scan on article became Index …Scan using ix_article_code_pattern… on article",
        ),
    ),
    speaks(
        "beginning of an expression",
        where(func.lower(Article.email).like("user77@%")),
        about="lower((email)::text) LIKE prefix% on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_lower_email_pattern… ON article "
        "(lower(email) text_pattern_ops)…",
        proof=(
            "lower((email)::text) LIKE prefix% was tested row by row and is now an index condition",
            "Seq Scan on article became Index Scan using "
            "ix_article_lower_email_pattern… on article",
        ),
    ),
    speaks(
        "beginning of a number",
        where(sa.cast(Article.id, sa.Text).startswith("1999")),
        about="(id)::text LIKE prefix% on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_id_… ON article ((id::text) text_pattern_ops)…",
        proof=(
            "(id)::text LIKE prefix% was tested row by row and is now an index condition",
            "Index Only Scan using article_pkey on article became Index Scan using "
            "ix_article_id_… on article",
        ),
    ),
    speaks(
        "attribute named unlike its column",
        where(Article.heading.startswith("Title77")),
        about='"Title" LIKE prefix% on article',
        fix='CREATE INDEX CONCURRENTLY ix_article_title_pattern… ON article ("Title" '
        "text_pattern_ops)…",
        proof=(
            '"Title" LIKE prefix% was tested row by row and is now an index condition',
            "Seq Scan on article became Index …Scan using ix_article_title_pattern… on article",
        ),
    ),
    speaks(
        "regular expression with a known beginning",
        where(Article.name.regexp_match("^Name777")),
        about="name ~ ^prefix on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_name_pattern… ON article (name "
        "text_pattern_ops)…",
        proof=(
            "name ~ ^prefix was tested row by row and is now an index condition",
            "Seq Scan on article became Index …Scan using ix_article_name_pattern… on article",
        ),
    ),
    speaks(
        "operator for a beginning",
        where(Article.name.bool_op("^@")("Name777")),
        about="name ^@ on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_name_pattern… ON article (name "
        "text_pattern_ops)…",
        proof=(
            "name ^@ was tested row by row and is now an index condition",
            "Seq Scan on article became Index …Scan using ix_article_name_pattern… on article",
        ),
    ),
    speaks(
        "contains",
        where(Article.email.contains("77@exam", autoescape=True)),
        about="(email)::text LIKE %part% on article",
        fix="CREATE EXTENSION IF NOT EXISTS pg_trgm; CREATE INDEX CONCURRENTLY "
        "ix_article_email_trgm ON article USING gin (email gin_trgm_ops)",
        proof=(
            "(email)::text LIKE %part% was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "endswith",
        where(Article.name.endswith("777")),
        about="name LIKE %part% on article",
        fix="CREATE EXTENSION IF NOT EXISTS pg_trgm; CREATE INDEX CONCURRENTLY "
        "ix_article_name_trgm ON article USING gin (name gin_trgm_ops)",
        proof=(
            "name LIKE %part% was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "ilike",
        where(Article.name.ilike("name777%")),
        about="name ILIKE on article",
        fix="CREATE EXTENSION IF NOT EXISTS pg_trgm; CREATE INDEX CONCURRENTLY "
        "ix_article_name_trgm ON article USING gin (name gin_trgm_ops)",
        proof=(
            "name ILIKE was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "like without a wildcard",
        where(Article.body.like(r"the word77\_ in text")),
        about="body LIKE on article",
        problem="and compares body by LIKE for each of them: no index on body",
        fix="CREATE INDEX CONCURRENTLY ix_article_body… ON article (body)…",
        proof=(
            "body LIKE was tested row by row and is now an index condition",
            "Seq Scan on article became Index Scan using ix_article_body… on article",
        ),
    ),
    speaks(
        "char(n) without a wildcard",
        where(Article.code.like("c777")),
        about="code LIKE on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_code… ON article (code)…",
        proof=(
            "code LIKE was tested row by row and is now an index condition",
            "Seq Scan on article became Index …Scan using ix_article_code… on article",
        ),
    ),
    speaks(
        "ilike without a wildcard",
        where(Article.name.ilike("name777")),
        about="name ILIKE on article",
        fix="CREATE EXTENSION IF NOT EXISTS pg_trgm; CREATE INDEX CONCURRENTLY "
        "ix_article_name_trgm ON article USING gin (name gin_trgm_ops)",
        proof=(
            "name ILIKE was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "icontains",
        where(Article.name.icontains("ME777")),
        about="name ILIKE on article",
        fix="CREATE EXTENSION IF NOT EXISTS pg_trgm; CREATE INDEX CONCURRENTLY "
        "ix_article_name_trgm ON article USING gin (name gin_trgm_ops)",
        proof=(
            "name ILIKE was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "part of an expression",
        where(func.lower(Article.email).contains("77@exam")),
        about="lower((email)::text) LIKE %part% on article",
        fix="CREATE EXTENSION IF NOT EXISTS pg_trgm; CREATE INDEX CONCURRENTLY "
        "ix_article_lower_email_trgm_859f4a ON article USING gin (lower(email) "
        "gin_trgm_ops)",
        proof=(
            "lower((email)::text) LIKE %part% was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "regular expression",
        where(Article.name.regexp_match("ame77+$")),
        about="name ~ on article",
        fix="CREATE EXTENSION IF NOT EXISTS pg_trgm; CREATE INDEX CONCURRENTLY "
        "ix_article_name_trgm ON article USING gin (name gin_trgm_ops)",
        proof=(
            "name ~ was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "regular expression in any case",
        where(Article.name.regexp_match("AME777", flags="i")),
        about="name ~* on article",
        fix="CREATE EXTENSION IF NOT EXISTS pg_trgm; CREATE INDEX CONCURRENTLY "
        "ix_article_name_trgm ON article USING gin (name gin_trgm_ops)",
        proof=(
            "name ~* was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "words",
        where(Article.words.bool_op("@@")(SEARCH)),
        about="words @@ on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_words_gin ON article USING gin (words)",
        proof=(
            "words @@ was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "words, the sides exchanged",
        where(SEARCH.bool_op("@@")(Article.words)),
        about="words @@ on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_words_gin ON article USING gin (words)",
        proof=(
            "words @@ was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "words by the session's configuration",
        where(Article.words.bool_op("@@")(func.plainto_tsquery("word7"))),
        about="words @@ on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_words_gin ON article USING gin (words)",
        proof=(
            "words @@ was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "words of an expression",
        where(func.to_tsvector("english", Article.body).bool_op("@@")(SEARCH)),
        about="to_tsvector('english'::regconfig, body) @@ on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_to_tsvector_english_body_gin_3d658e ON "
        "article USING gin (to_tsvector('english'::regconfig, body))",
        proof=(
            "to_tsvector('english'::regconfig, body) @@ was tested row by row and is now "
            "an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "document",
        where(Article.data.contains({"type": "T7"})),
        about="data @> on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_data_path ON article USING gin (data "
        "jsonb_path_ops)",
        proof=(
            "data @> was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "document with an empty part",
        where(Article.data.contains({"tags": [], "type": "T7"})),
        about="data @> on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_data_gin ON article USING gin (data)",
        proof=(
            "data @> was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "key of a document",
        where(Article.data.has_key("k7")),
        about="data ? on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_data_gin ON article USING gin (data)",
        proof=(
            "data ? was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "any key of a document",
        where(Article.data.has_any(sa.cast(["k7", "k8"], ARRAY(sa.Text)))),
        about="data ?| on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_data_gin ON article USING gin (data)",
        proof=(
            "data ?| was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "all keys of a document",
        where(Article.data.has_all(sa.cast(["k7", "type"], ARRAY(sa.Text)))),
        about="data ?& on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_data_gin ON article USING gin (data)",
        proof=(
            "data ?& was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "part of a document",
        where(Article.data.op("->")("tags").cast(JSONB).contains(["a7"])),
        about="data -> 'tags'::text @> on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_data_tags_path_ba9c23 ON article USING "
        "gin ((data -> 'tags') jsonb_path_ops)",
        proof=(
            "data -> 'tags'::text @> was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "part of a document, by its key",
        where(Article.data["tags"].contains(["a7"])),
        about="data['tags'::text] @> on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_data_tags_path_d213b4 ON article USING "
        "gin ((data['tags']) jsonb_path_ops)",
        proof=(
            "data['tags'::text] @> was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "key in a part of a document",
        where(Article.data["tags"].has_key("a7")),
        about="data['tags'::text] ? on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_data_tags_gin_3d797d ON article USING gin "
        "((data['tags']))",
        proof=(
            "data['tags'::text] ? was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "path that exists",
        where(Article.data.path_exists(sa.cast('$.type ? (@ == "T7")', JSONB.JSONPathType))),
        about="data @? on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_data_path ON article USING gin (data "
        "jsonb_path_ops)",
        proof=(
            "data @? was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "path that matches",
        where(Article.data.path_match(sa.cast('$.type == "T7"', JSONB.JSONPathType))),
        about="data @@ on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_data_path ON article USING gin (data "
        "jsonb_path_ops)",
        proof=(
            "data @@ was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "array contains",
        where(Article.tags.contains(["t7"])),
        about="tags @> on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_tags_gin ON article USING gin (tags)",
        proof=(
            "tags @> was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "array overlaps",
        where(Article.labels.overlap(["l7", "l8"])),
        about="labels && on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_labels_gin ON article USING gin (labels)",
        proof=(
            "labels && was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "array is contained",
        where(Article.numbers.contained_by([7, 8, 9])),
        about="numbers <@ on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_numbers_gin ON article USING gin (numbers)",
        proof=(
            "numbers <@ was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "range contains",
        where(Article.span.contains(7)),
        about="span @> on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_span_gist ON article USING gist (span)",
        proof=(
            "span @> was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "range overlaps",
        where(Article.span.overlaps(Range(7, 9))),
        about="span && on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_span_gist ON article USING gist (span)",
        proof=(
            "span && was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "several ranges in one",
        where(Article.spans.contains(7)),
        about="spans @> on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_spans_gist ON article USING gist (spans)",
        proof=(
            "spans @> was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "range of moments",
        where(Article.during.bool_op("@>")(MOMENT)),
        about="during @> on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_during_gist ON article USING gist (during)",
        proof=(
            "during @> was tested row by row and is now an index condition",
            "Seq Scan on article became Index Scan using ix_article_during_gist on article",
        ),
    ),
    speaks(
        "range, the sides exchanged",
        where(MOMENT.bool_op("<@")(Article.during)),
        about="during @> on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_during_gist ON article USING gist (during)",
        proof=(
            "during @> was tested row by row and is now an index condition",
            "Seq Scan on article became Index Scan using ix_article_during_gist on article",
        ),
    ),
    speaks(
        "range made of two columns",
        where(func.tstzrange(Article.opened_at, Article.closed_at).bool_op("@>")(MOMENT)),
        about="tstzrange(opened_at, closed_at) @> on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_tstzrange_opened_at_closed_at_gist_838ce3 ON "
        "article USING gist (tstzrange(opened_at, closed_at))",
        proof=(
            "tstzrange(opened_at, closed_at) @> was tested row by row and is now an index "
            "condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "join by a range",
        sa.select(Article.id).join(Scrap, Article.span.bool_op("@>")(Scrap.at)),
        about="span @> on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_span_gist ON article USING gist (span)",
        proof=(
            "span @> was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "among other conditions",
        where(sa.and_(Article.state == "Active", Article.tags.contains(["t7"]))),
        about="tags @> on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_tags_gin ON article USING gin (tags)",
        proof=(
            "tags @> was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "alias",
        sa.select(Other.id).where(Other.data.contains({"n": 7})),
        about="data @> on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_data_path ON article USING gin (data "
        "jsonb_path_ops)",
        proof=(
            "data @> was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "walk along the primary key",
        where(Article.name.contains("777")).order_by(Article.id).limit(100),
        about="name LIKE %part% on article",
        fix="CREATE EXTENSION IF NOT EXISTS pg_trgm; CREATE INDEX CONCURRENTLY "
        "ix_article_name_trgm ON article USING gin (name gin_trgm_ops)",
        proof=(
            "name LIKE %part% was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
]

#: A table of 20 000 rows without statistics.
FRESH = (
    "CREATE TABLE fresh (name text, tags text[]) WITH (autovacuum_enabled = off)",
    "INSERT INTO fresh SELECT 'Name' || g, ARRAY['t' || g] FROM generate_series(1, 20000) g",
)

#: What is said beside the pattern and its index.
DETAILS = [
    speaks(
        "the index that cannot serve is named",
        where(Article.name.startswith("Name777")),
        problem=("looks how name begins", "ix_article_name cannot serve"),
        evidence={"indexes_on_column": ["ix_article_name"]},
    ),
    speaks(
        "partitions",
        sa.select(Order.id).where(Order.Code.startswith("C777")),
        about='"Order Code" LIKE prefix% on "Shop"."Order"',
        evidence={"scanned": ["Shop.Order 1", "Shop.order_2a"]},
        fix="…",
        proof=(
            '"Order Code" LIKE prefix% was tested row by row and is now an index condition',
            'Seq Scan on "Order 1" became Index Scan using ix_order_order_code_pattern on '
            '"Order 1"',
        ),
        PLANWATCH_VERIFY="build",
    ),
    speaks(
        "a part of a text, in a small table in growth mode",
        sa.select(Scrap.id).where(Scrap.name.ilike("%name7%")),
        severity="info",
        PLANWATCH_GROWTH=True,
    ),
    speaks(
        "a beginning, in a small table in growth mode",
        sa.select(Scrap.id).where(Scrap.name.startswith("Name7")),
        severity="info",
        PLANWATCH_GROWTH=True,
    ),
    speaks(
        "an array, in a small table in growth mode",
        sa.select(Scrap.id).where(Scrap.tags.contains(["t7"])),
        severity="info",
        PLANWATCH_GROWTH=True,
    ),
    speaks(
        "update",
        sa.update(Article).values(state="x").where(Article.tags.contains(["none"])),
        about="tags @> on article",
    ),
    speaks(
        "delete",
        sa.delete(Article).where(Article.tags.contains(["none"])),
        about="tags @> on article",
    ),
    speaks(
        "a cast of a moment that depends on the session",
        where(sa.cast(Article.opened_at, sa.Text).startswith("2020-03")),
        fix="look for a condition on opened_at alone that means the same",
    ),
    speaks(
        "a cast of an enum that depends on the session",
        where(sa.cast(Article.mood, sa.Text).startswith("sa")),
        fix="…mood IN (…)…",
    ),
    speaks(
        "a parallel scan",
        where(Article.name.contains("ame777")),
        setup=(
            set_for_all("parallel_setup_cost", 0),
            set_for_all("min_parallel_table_scan_size", 0),
        ),
        evidence={"node": "…Parallel…"},
    ),
    silent(
        "a parallel scan of which most rows match",
        sa.select(func.count()).where(Article.name.startswith("Name")),
        setup=(
            set_for_all("parallel_setup_cost", 0),
            set_for_all("min_parallel_table_scan_size", 0),
        ),
    ),
    speaks(
        "an extension that is there is not created twice",
        where(Article.name.contains("ame777")),
        setup="CREATE EXTENSION pg_trgm",
        fix="CREATE INDEX CONCURRENTLY ix_article_name_trgm ON article "
        "USING gin (name gin_trgm_ops)",
    ),
    speaks(
        "an extension in a schema off the search path",
        where(Article.name.contains("ame777")),
        setup=('CREATE SCHEMA "Odd One"', 'CREATE EXTENSION pg_trgm SCHEMA "Odd One"'),
        fix="CREATE INDEX CONCURRENTLY ix_article_name_trgm ON article "
        'USING gin (name "Odd One".gin_trgm_ops)',
        proof=(
            "name LIKE %part% was tested row by row and is now an index condition",
            "Seq Scan on article became Bitmap Heap Scan on article",
        ),
    ),
    speaks(
        "a beginning in a table that was never analysed",
        sa.text("SELECT 1 FROM fresh WHERE name LIKE 'Name777%'"),
        setup=FRESH,
    ),
    speaks(
        "an array in a table that was never analysed",
        sa.text("SELECT 1 FROM fresh WHERE tags @> '{t7}'"),
        setup=FRESH,
    ),
    speaks(
        "a part of a text in a table that was never analysed",
        sa.text("SELECT 1 FROM fresh WHERE name ILIKE '%ame777%'"),
        setup=FRESH,
    ),
]

SILENT = [
    silent(
        "not like",
        where(Article.name.not_like("Name77%")),
    ),
    silent(
        "not ilike",
        where(Article.name.not_ilike("%name777%")),
    ),
    silent(
        "not a regular expression",
        where(~Article.name.regexp_match("Name777")),
    ),
    silent(
        "not contained",
        where(~Article.data.contains({"type": "T7"})),
    ),
    silent(
        "not in the array",
        where(sa.not_(sa.literal("t7") == sa.any_(Article.tags))),
    ),
    silent(
        "wildcard alone",
        where(Article.name.like("%")).limit(1),
    ),
    silent(
        "wildcards alone",
        where(Article.name.like("%_%")).limit(1),
    ),
    silent(
        "most texts are like it",
        where(Article.state.like("Active")),
    ),
    silent(
        "short text in any case",
        where(Article.name.ilike("")),
    ),
    silent(
        "short pattern",
        where(Article.name.contains("77")),
    ),
    silent(
        "short pattern in any case",
        where(Article.name.ilike("%77%")),
    ),
    silent(
        "short end",
        where(Article.name.endswith("7")),
    ),
    silent(
        "regular expression with nothing known",
        where(Article.name.regexp_match("^.*[0-9]{5}x?$")),
    ),
    silent(
        "regular expression, one branch open",
        where(Article.name.regexp_match("Name777|x+")),
    ),
    silent(
        "part of a char(n)",
        where(Article.code.contains("c777")),
    ),
    silent(
        "most rows match",
        where(Article.name.startswith("Name")),
    ),
    silent(
        "most rows match, counted",
        sa.select(func.count()).where(Article.name.startswith("Name")),
    ),
    silent(
        "most documents match",
        where(Article.data.has_key("type")),
    ),
    silent(
        "most ranges match",
        where(Article.span.bool_op(">>")(Range(-5, -1))),
    ),
    silent(
        "limit reached early",
        where(Article.name.ilike("name%")).limit(3),
    ),
    silent(
        "pattern from another column",
        where(Article.name.like(Article.heading + "%")),
    ),
    silent(
        "pattern from another table",
        sa.select(Article.id).join(Badge, Article.name.like(Badge.owner + "%")),
    ),
    silent(
        "the column is the pattern",
        where(sa.literal("Name777%").like(Article.name)),
    ),
    silent(
        "alternatives",
        where(sa.or_(Article.name.ilike("%ame777%"), Article.body.ilike("%rd777 %"))),
    ),
    silent(
        "several patterns",
        where(Article.name.like(sa.any_(sa.literal(["a%", "b%"], ARRAY(sa.Text))))),
    ),
    silent(
        "few rows found by another index",
        where(
            sa.and_(Article.id == 7, Article.name.ilike("%name777%"), Article.tags.contains(["t7"]))
        ),
    ),
    silent(
        "index under the C collation",
        where(Article.bytewise.startswith("b777")),
    ),
    silent(
        "small table",
        sa.select(Scrap).where(
            Scrap.name.ilike("%name7%"), sa.literal("t7") == sa.any_(Scrap.tags)
        ),
    ),
    silent(
        "document that is contained",
        where(Article.data.contained_by({"type": "T7"})),
    ),
    silent(
        "order in a document",
        where(Article.data.path_match(sa.cast("$.n > 19990", JSONB.JSONPathType))),
    ),
    silent(
        "equality",
        where(sa.and_(Article.words == sa.cast("x", TSVECTOR))),
    ),
    silent(
        "number in a range",
        where(Article.id == 7).where(
            sa.cast(Article.id, sa.Integer).bool_op("<@")(sa.cast(Range(1, 9), INT4RANGE))
        ),
    ),
    silent(
        "select list",
        sa.select(Article.name.ilike("%name777%")).where(Article.id == 7),
    ),
    silent(
        "catalog",
        sa.text("SELECT relname FROM pg_class WHERE relname::text LIKE 'pg_cl%'"),
    ),
    silent(
        "catalog of array columns",
        sa.text("SELECT 1 FROM pg_proc WHERE proargnames @> '{x}'"),
    ),
    silent(
        "range of a sub-query",
        sa.text(
            "SELECT 1 FROM (SELECT int4range(min(id)::int, max(id)::int) r FROM scrap) s "
            "WHERE r @> 7"
        ),
    ),
    silent(
        "geometry",
        sa.text("SELECT id FROM article WHERE point(id, id) <@ box '((0,0),(1,1))'"),
    ),
]

#: Indexes that serve a statement, each of another sort than the advice.
SERVED = [
    silent(
        "trigrams for a beginning",
        where(Article.name.startswith("Name777")),
        setup=("CREATE EXTENSION pg_trgm", "CREATE INDEX ON article USING gin (name gin_trgm_ops)"),
    ),
    silent(
        "trigrams in a GiST index",
        where(Article.name.icontains("ame777")),
        setup=(
            "CREATE EXTENSION pg_trgm",
            "CREATE INDEX ON article USING gist (name gist_trgm_ops)",
        ),
    ),
    silent(
        "all operators of a document",
        where(Article.data.contains({"type": "T7"})),
        setup=("CREATE INDEX ON article USING gin (data)",),
    ),
    silent(
        "the collation of the index",
        where(Article.name.startswith("Name777")),
        setup=('CREATE INDEX ON article (name COLLATE "C")',),
    ),
    silent(
        "an index of two columns",
        where(Article.name.startswith("Name777")),
        setup=("CREATE INDEX ON article (name text_pattern_ops, state)",),
    ),
    silent(
        "partial",
        where(sa.and_(Article.tags.contains(["t7"]), Article.state == "Active")),
        setup=("CREATE INDEX ON article USING gin (tags) WHERE state = 'Active'",),
    ),
    silent(
        "another index was preferred",
        where(sa.and_(Article.tags.contains(["g7"]), Article.labels.contains(["l7"]))),
        setup=(
            "CREATE INDEX ON article USING gin (labels)",
            "CREATE INDEX ON article USING gin (tags)",
        ),
    ),
    silent(
        "a whole text",
        where(Article.body.like("the word7 in text")),
        setup=("CREATE INDEX ON article (body)",),
    ),
    silent(
        "a whole text byte by byte",
        where(Article.body.like("the word7\\%")),
        setup=("CREATE INDEX ON article (body text_pattern_ops)",),
    ),
    silent(
        "a whole text in any case",
        where(Article.body.ilike("the word7 in text")),
        setup=(
            "CREATE EXTENSION pg_trgm",
            "CREATE INDEX ON article USING gin (body gin_trgm_ops)",
        ),
    ),
    silent(
        "a whole text without letters in any case",
        where(Article.name.ilike("777")),
    ),
    silent(
        "most texts are like it, and an index has them",
        where(Article.state.like("Active")),
        setup=("CREATE INDEX ON article (state)",),
    ),
    silent(
        "many begin like it",
        where(Article.name.startswith("Name12")),
        setup=("CREATE INDEX ON article (name text_pattern_ops)",),
    ),
    silent(
        "an index that finds more was not asked",
        where(sa.and_(Article.name.startswith("Name12"), Article.data.has_key("type"))),
        setup=(
            "CREATE INDEX ON article (name text_pattern_ops)",
            "CREATE INDEX ON article USING gin (data)",
        ),
    ),
    silent(
        "two indexes together",
        where(sa.and_(Article.name.startswith("Name12"), Article.heading.startswith("Title12"))),
        setup=(
            "CREATE INDEX ON article (name text_pattern_ops)",
            'CREATE INDEX ON article ("Title" text_pattern_ops)',
        ),
    ),
]


#: Indexes on the same column that serve another sort of comparison.
NOT_SERVED = [
    speaks(
        "the beginning only",
        where(Article.name.icontains("ame777")),
        about="name ILIKE on article",
        fix="CREATE EXTENSION IF NOT EXISTS pg_trgm; CREATE INDEX CONCURRENTLY "
        "ix_article_name_trgm ON article USING gin (name gin_trgm_ops)",
        setup=("CREATE INDEX ON article (name text_pattern_ops)",),
    ),
    speaks(
        "values only",
        where(Article.data.has_key("k7")),
        about="data ? on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_data_gin ON article USING gin (data)",
        setup=("CREATE INDEX ON article USING gin (data jsonb_path_ops)",),
    ),
    speaks(
        "equality of ranges",
        where(Article.span.contains(7)),
        about="span @> on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_span_gist ON article USING gist (span)",
        setup=("CREATE INDEX ON article (span)",),
    ),
    speaks(
        "the other comparison of the column",
        where(sa.and_(Article.name > "Name1", Article.name.icontains("ame777"))),
        about="name ILIKE on article",
        fix="CREATE EXTENSION IF NOT EXISTS pg_trgm; CREATE INDEX CONCURRENTLY "
        "ix_article_name_trgm ON article USING gin (name gin_trgm_ops)"
        # Where HypoPG tries only what it can.
        " | CREATE INDEX CONCURRENTLY ix_article_name_with_id ON article (name) INCLUDE (id)",
        setup=("CREATE INDEX ON article (state)",),
    ),
    speaks(
        "other rows",
        where(Article.tags.contains(["t7"])),
        about="tags @> on article",
        fix="CREATE INDEX CONCURRENTLY ix_article_tags_gin ON article USING gin (tags)",
        setup=("CREATE INDEX ON article USING gin (tags) WHERE state = 'Retired'",),
    ),
]


IN_GROWTH = {"PLANWATCH_GROWTH": True, "PLANWATCH_MIN_ROWS": 50_000}


@rows(SPEAKS, quick=16)
def test_speaks(rule, case):
    finding = rule.check(case)
    assert finding.evidence["table_rows"] == pytest.approx(ARTICLES, rel=0.05)


@rows(followed(SPEAKS), quick=6)
def test_falls_silent_after_the_fix(rule, case):
    rule.check_fix(case)


@rows(DETAILS, quick=14)
def test_speaks_in_detail(rule, case):
    rule.check(case)


@rows([case for case in DETAILS if case.name == "an extension in a schema off the search path"])
def test_falls_silent_after_the_fix_in_detail(rule, case):
    rule.check_fix(case)


@rows(SILENT, quick=14)
def test_stays_silent(rule, case):
    rule.check(case)


@rows(SERVED, quick=3)
def test_stays_silent_where_an_index_serves(rule, case):
    with inspections() as seen:
        rule.check(case)
    # The rule knows it by itself, before an index is advised.
    dismissals = [one for one in seen[0].dismissals if one.rule == RULE.name]
    assert {one.reason for one in dismissals} <= {"an index on it exists"}


@rows(with_settings(SERVED, **IN_GROWTH), quick=3)
def test_stays_silent_in_growth_mode_where_an_index_serves(rule, case):
    test_stays_silent_where_an_index_serves(rule, case)


@rows(NOT_SERVED, quick=1)
def test_speaks_where_an_index_serves_something_else(rule, case):
    rule.check(case)


PREFIX = where(Article.email.startswith("user77@"))
PART = where(Article.name.contains("ame777"))
RANGE = where(Article.span.contains(7))


def advice_of(rule, app, statement):
    (finding,) = rule.ask(app, statement)
    return finding.advice[0]


def test_two_patterns_on_one_column_are_two_findings(rule):
    app = rule.app()
    with app.app.app_context():
        for pattern in ("Name777%", "%ame777%", "Name778%", "%ame778%"):
            app.db.session.execute(where(Article.name.like(pattern)))
        app.db.session.rollback()
    subjects = [finding.subject for finding in app.findings()]
    assert sorted(subjects) == ["name LIKE %part%", "name LIKE prefix%"]


@pytest.mark.parametrize("pattern", ["%", "Name777", "%77%", "Name%"])
def test_a_pattern_that_no_index_helps_does_not_resolve(rule, pattern):
    app = rule.app()
    (kept,) = rule.ask(app, where(Article.name.like("%ame777%")))
    found = rule.ask(app, where(Article.name.like(pattern)))
    assert kept.id in [finding.id for finding in found]


#: Tests that an element is in an array: no index serves them as they are written.
ELEMENTS = {
    "text": where(sa.literal("t7") == sa.any_(Article.tags)),
    "varchar": where(sa.literal("l7") == sa.any_(Article.labels)),
    "integer": where(sa.literal(7) == sa.any_(Article.numbers)),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "column", "value"),
    [("text", "tags", "t7"), ("varchar", "labels", "l7"), ("integer", "numbers", 7)],
)
def test_an_element_of_an_array(rule, kind, column, value):
    """contains() and a GIN index serve."""
    database = rule.copy()
    app = rule.app(database)
    (finding,) = rule.ask(app, ELEMENTS[kind])
    rewrite, index = finding.advice
    assert finding.subject.startswith("= ANY (")
    assert rewrite.kind is AdviceKind.REWRITE
    assert rewrite.sqlalchemy == f".where(Article.{column}.contains([value]))"
    assert index.summary.endswith(f"ON article USING gin ({column})")
    database.execute(*index.ddl)
    # The statement as it was is no better.
    assert len(rule.ask(app, ELEMENTS[kind])) == 1
    names = {"where": where, "Article": Article, "value": value}
    rewritten = eval(rewrite.sqlalchemy[1:], names)
    assert rule.ask(rule.app(database), rewritten) == []


#: Full text searches by the configuration that the session happens to have.
UNNAMED = {
    "match": where(Article.body.match("word7")),
    "match in a language": where(Article.body.match("word7", postgresql_regconfig="english")),
    "one argument": where(func.to_tsvector(Article.body).bool_op("@@")(SEARCH)),
}


@pytest.mark.parametrize("name", first(1, UNNAMED))
def test_full_text_without_a_configuration(rule, name):
    database = rule.copy()
    (finding,) = rule.ask(rule.app(database), UNNAMED[name])
    advice = finding.advice[0]
    assert advice.kind is AdviceKind.REWRITE
    assert "to_tsvector('english', body) @@" in advice.summary
    assert "to_tsvector is STABLE" in advice.explanation
    assert "words that a setting changes" in finding.problem
    names = {"where": where, "Article": Article, "func": func, "value": "word7"}
    rewritten = eval(advice.sqlalchemy[1:], names)
    app = rule.app(database)
    index = advice_of(rule, app, rewritten)
    assert index.kind is AdviceKind.CREATE_INDEX
    database.execute(*index.ddl, "ANALYZE article")
    assert rule.ask(app, rewritten) == []


@rows([case for case in SPEAKS if case.name == "startswith"])
def test_hypopg_proves_the_beginning(rule, case):
    rule.check_hypopg(case)


@rows([case for case in SPEAKS if case.name in {"endswith", "range contains"}])
def test_hypopg_proves_nothing_else(rule, case):
    if rule.database.server.name != HYPOPG:
        pytest.skip("HypoPG is installed on the other server")
    method = "gist" if "range" in case.name else "gin"
    verdict = advice_of(rule, rule.app(), case.statement).verdict
    assert verdict.status is VerdictStatus.UNTESTED
    assert f"HypoPG knows no {method} indexes" in verdict.reason
    assert 'PLANWATCH_VERIFY = "build"' in verdict.reason


def test_a_column_has_statistics_so_that_nothing_is_guessed(rule):
    assert not advice_of(rule, rule.app(), PREFIX).verdict.guess


def test_a_trial_leaves_no_extension(rule):
    verdict = advice_of(rule, rule.app(PLANWATCH_VERIFY="build"), PART).verdict
    assert (verdict.status, verdict.method) == (VerdictStatus.VERIFIED, "build")
    assert verdict.cost_after < verdict.cost_before
    assert rule.database.scalar("SELECT count(*) FROM pg_extension WHERE extname = 'pg_trgm'") == 0


def test_build_without_the_right_to_create_the_extension(rule):
    database = rule.copy()
    role = f"modest_{database.name}"
    database.execute(
        f"CREATE ROLE {role} LOGIN",
        f"GRANT pg_read_all_data TO {role}",
        f"ALTER TABLE article OWNER TO {role}",
        f"GRANT CREATE ON SCHEMA public TO {role}",
    )
    try:
        app = rule.app(
            database,
            PLANWATCH_VERIFY="build",
            PLANWATCH_DATABASE_URL=database.url_for("psycopg2", username=role),
        )
        advice = advice_of(rule, app, PART)
        assert advice.verdict.status is VerdictStatus.UNTESTED
        assert "permission denied to create extension" in advice.verdict.reason
        app.planwatch.clear(app.app)
        assert advice_of(rule, app, PREFIX).verdict.status is VerdictStatus.VERIFIED
    finally:
        database.execute(
            f"REASSIGN OWNED BY {role} TO CURRENT_USER",
            f"DROP OWNED BY {role}",
            f"DROP ROLE {role}",
        )


def test_the_forms_of_the_advice_do_not_create_an_extension_twice(rule):
    database = rule.copy()
    database.execute("CREATE EXTENSION pg_trgm")
    advice = advice_of(rule, rule.app(database), PART)
    assert "EXTENSION" not in advice.alembic + advice.sqlalchemy


@pytest.mark.parametrize("verify", ["auto", "build"])
def test_an_extension_that_the_server_has_not(rule, monkeypatch, verify):
    """As if trigrams came from an extension that nobody has heard of."""
    trigrams = AccessMethod("gin", "gin_trgm_ops", "unheard_of")
    monkeypatch.setattr("flask_planwatch.plan.pattern._TRIGRAMS", trigrams)
    verdict = advice_of(rule, rule.app(PLANWATCH_VERIFY=verify), PART).verdict
    assert verdict.status is VerdictStatus.UNTESTED
    assert "unheard_of is neither installed nor available" in verdict.reason


def test_availability(rule):
    database = rule.copy()
    engine = sa.create_engine(database.url, poolclass=sa.NullPool)
    session = Session(engine, url=None, statement_timeout_ms=30_000, lock_timeout_ms=50)
    unheard = availability(session, "unheard_of")
    assert not unheard.installed
    assert "neither installed nor available" in unheard.missing
    known = availability(session, "pg_trgm")
    assert (known.installed, known.available, known.missing) == (False, True, "")
    database.execute("CREATE EXTENSION pg_trgm")
    known = availability(session, "pg_trgm")
    assert (known.installed, known.qualified("x")) == (True, "x")
    session.close()


#: What advice is rendered for, each by another way.
RENDERED = ["startswith", "attribute named unlike its column", "char(n)", "contains", "document",
            "beginning of an expression", "part of an expression", "words of an expression",
            "range made of two columns", "array contains", "beginning of a number"]  # fmt: skip


@rows([case for name in RENDERED for case in SPEAKS if case.name == name], quick=2)
def test_every_form_of_the_advice_makes_the_same_index(rule, case):
    database = rule.copy()
    advice = advice_of(rule, rule.app(database), case.statement)
    index = re.search(r"INDEX CONCURRENTLY (\w+)", advice.ddl[-1])[1]
    definition = f"SELECT pg_get_indexdef('{index}'::regclass)"
    database.execute(*advice.ddl)
    made = [database.scalar(definition)]
    drop = f"DROP INDEX {index}"

    database.execute(drop)
    engine = sa.create_engine(database.url, poolclass=sa.NullPool)
    code = compile(advice.sqlalchemy, "advice", "exec", dont_inherit=True)
    names = {}
    exec(code, names)
    (declared,) = [one for one in Article.__table__.indexes if one.name == index]
    declared.create(engine)
    Article.__table__.indexes.remove(declared)
    made.append(database.scalar(definition))

    database.execute(drop)
    run_alembic(database, advice)
    made.append(database.scalar(definition))
    assert made == [made[0]] * 3


#: What SQLAlchemy's form of an advice holds; the index may carry more columns.
CODE = {
    "startswith": ['Article.email, postgresql_ops={"email": "text_pattern_ops"}'],
    "attribute named unlike its column": [
        'Article.heading, postgresql_ops={"title": "text_pattern_ops"}'
    ],
    "endswith": [
        "# First: CREATE EXTENSION IF NOT EXISTS pg_trgm",
        'postgresql_using="gin", postgresql_ops={"name": "gin_trgm_ops"})',
    ],
}


@rows([case for case in SPEAKS if case.name in CODE])
def test_the_sqlalchemy_form_names_the_operator_class(rule, case):
    code = advice_of(rule, rule.app(), case.statement).sqlalchemy
    assert not [part for part in CODE[case.name] if part not in code]


def test_values_do_not_get_into_the_log(rule, caplog):
    app = rule.app()
    for condition in (
        Article.name.icontains("s3cr3t"),
        Article.data.contains({"s3cr3t": 1}),
        Article.data.has_key("s3cr3t"),
        sa.literal("s3cr3t") == sa.any_(Article.tags),
        Article.body.match("s3cr3t"),
        Article.name.startswith("s3cr3t"),
    ):
        rule.ask(app, where(condition))
    assert len(caplog.records) == 6
    for record in caplog.records:
        assert "s3cr3t" not in str(vars(record))


#: Its index on a column is far smaller than the table.
CONTACTS = (
    "CREATE TABLE contact (id int PRIMARY KEY, city text, notes text)",
    "INSERT INTO contact SELECT g, 'City ' || g * 7919::bigint % 3000, repeat(md5(g::text), 8) "
    "FROM generate_series(1, 40000) g",
    "VACUUM ANALYZE contact",
)


def test_an_index_that_another_statement_needs_does_not_answer_a_search(rule):
    """To read all of it costs less than to read the table, and still tests each entry."""
    database = rule.copy()
    database.install_hypopg()
    database.execute(*CONTACTS)
    app = rule.app(database)
    run(app, sa.text("SELECT * FROM contact ORDER BY city, id LIMIT 25"))
    search = sa.text("SELECT count(*) FROM contact WHERE city ILIKE '%ity 77%'")
    (finding,) = rule.ask(app, search, beside=["missing-index"])
    for advice in finding.advice:
        assert "USING gin" in "".join(advice.ddl)
        assert advice.verdict.status is not VerdictStatus.VERIFIED
