"""missing-index speaks where columns have no index, is silent on twins, and after its advice."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import func
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column, relationship

from flask_planwatch import Severity, VerdictStatus
from flask_planwatch.signals import statement_inspected

from .. import servers
from ..models import Badge, Order, User, roles_users

Other = aliased(User)

a_role = roles_users.c.user_id == 7

#: Statements that must be found: the relation, the subject, and what the advised index holds.
SPEAKS = {
    "equality": (
        sa.select(User).where(User.first == "First7"),
        ('"user"', "first", "(first)"),
    ),
    "attribute named unlike its column": (
        sa.select(User).where(User.nickname == "Nick7"),
        ('"user"', "nick", "(nick)"),
    ),
    "the value comes first": (
        sa.select(User).where(sa.literal("First7") == User.first),
        ('"user"', "first", "(first)"),
    ),
    "in list": (
        sa.select(User).where(User.first.in_(["First7", "First8"])),
        ('"user"', "first", "(first)"),
    ),
    "range": (
        sa.select(User).where(User.local_at < sa.text("timestamp '2020-01-03'")),
        ('"user"', "local_at", "(local_at)"),
    ),
    "range with both ends": (
        sa.select(User).where(User.first.between("First7000", "First7003")),
        ('"user"', "first", "(first)"),
    ),
    "the column is NULL": (
        sa.select(roles_users).where(roles_users.c.label.is_(None)),
        ("roles_users", "label", "(label)"),
    ),
    "a rare value of few": (
        sa.select(User).where(User.mood == "sad"),
        ('"user"', "mood", "(mood)"),
    ),
    "table without a class": (
        sa.select(roles_users).where(a_role),
        ("roles_users", "user_id", "(user_id)"),
    ),
    "alternatives on one column": (
        sa.select(User).where(sa.or_(User.first == "First7", User.first == "First9")),
        ('"user"', "first", "(first)"),
    ),
    "first() adds a limit": (
        sa.select(User).where(User.first == "First99999").limit(1),
        ('"user"', "first", "(first)"),
    ),
    "count": (
        sa.select(func.count()).where(User.first == "First7"),
        ('"user"', "first", "(first)"),
    ),
    "join from a few rows": (
        sa.select(User.email, roles_users.c.label)
        .join(roles_users, roles_users.c.user_id == User.id)
        .where(User.email == "User7@Example.com"),
        ("roles_users", "user_id", "(user_id)"),
    ),
    "EXISTS": (
        sa.select(User.id).where(User.id < 5, sa.exists().where(roles_users.c.user_id == User.id)),
        ("roles_users", "user_id", "(user_id)"),
    ),
    "IN with a sub-query": (
        sa.select(User.email).where(
            User.id.in_(sa.select(roles_users.c.user_id).where(roles_users.c.label == "Role7"))
        ),
        # Whether user_id beside it pays is a near tie.
        ("roles_users", "label", "(label"),
    ),
    "correlated sub-query": (
        sa.select(
            User.id,
            sa.select(func.count()).where(roles_users.c.user_id == User.id).scalar_subquery(),
        ).where(User.id < 4),
        ("roles_users", "user_id", "(user_id)"),
    ),
    "CTE that is looked into": (
        sa.select(sa.select(User).where(User.first == "First7").cte("some")),
        ('"user"', "first", "(first)"),
    ),
    "part of a UNION": (
        sa.union_all(
            sa.select(User.id).where(User.id == 7), sa.select(User.id).where(User.last == "Last7")
        ),
        ('"user"', "last", "(last)"),
    ),
    "locked rows": (
        sa.select(User).where(User.first == "First7").with_for_update(),
        ('"user"', "first", "(first)"),
    ),
    "alias": (
        sa.select(Other).where(Other.first == "First7"),
        ('"user"', "first", "(first)"),
    ),
    "latest rows": (
        sa.select(User).order_by(User.local_at.desc()).limit(10),
        ('"user"', "local_at", "(local_at)"),
    ),
    "latest rows, those without a time last": (
        sa.select(User).order_by(User.local_at.desc().nulls_last()).limit(10),
        ('"user"', "local_at", "(local_at DESC NULLS LAST)"),
    ),
    "two orders, one of them backward": (
        sa.select(User).order_by(User.local_at.desc(), User.first).limit(10),
        ('"user"', "local_at, first", "(local_at DESC, first)"),
    ),
    "two orders, both backward": (
        sa.select(User).order_by(User.local_at.desc(), User.id.desc()).limit(10),
        ('"user"', "local_at, id", "(local_at, id)"),
    ),
    "keyset pagination": (
        sa.select(User)
        .where(sa.tuple_(User.local_at, User.id) < sa.text("(timestamp '2020-03-01', 5)"))
        .order_by(User.local_at.desc(), User.id.desc())
        .limit(10),
        ('"user"', "local_at, id", "(local_at, id)"),
    ),
    "partitions": (
        sa.select(Order).where(Order.Code == "C7"),
        ('"Shop"."Order"', '"Order Code"', '("Order Code")'),
    ),
}  # fmt: skip


#: What is the same in "build" only, where the planner is asked for sure.
MEASURED = {
    "equality first, then the range": (
        sa.select(User).where(
            User.state == "Retired", User.local_at > sa.text("timestamp '2021-11-01'")
        ),
        "(state, local_at)",
    ),
    "equality first, then the order": (
        sa.select(User).where(User.mood == "sad").order_by(User.local_at.desc()).limit(10),
        "(mood, local_at)",
    ),
    "the narrower of two equalities alone": (
        sa.select(User).where(User.first == "First7", User.last == "Last7"),
        ("(first)", "(last)"),
    ),
    "a partial index where no other kind serves": (
        sa.select(User).where(User.state != "Active").order_by(User.local_at).limit(10),
        "(local_at) WHERE state <> :state_1",
    ),
    "all that is read": (
        sa.select(User.points).where(User.state == "Retired"),
        "(state) INCLUDE (points)",
    ),
    "not a text that may be long": (
        sa.select(User.last).where(User.state == "Retired"),
        "(state)",
    ),
    "greatest value": (sa.select(func.max(User.local_at)), "(local_at)"),
}


@pytest.fixture(params=["auto", "build"])
def verify(request):
    """Both ways of asking the planner."""
    return request.param


@pytest.fixture
def watched(each_story, watch, verify):
    """An app on each server in turn, through another driver on each."""
    driver = "psycopg2" if each_story.server.name == servers.FIRST else "psycopg"
    return watch(each_story.url_for(driver), PLANWATCH_VERIFY=verify)


def of_rule(findings):
    """Return the findings of this rule; no other may have spoken."""
    assert {finding.rule for finding in findings} <= {"missing-index"}, findings
    return findings


def run(watched, *statements):
    """Run statements that return no rows, and return the findings."""
    with watched.app.app_context():
        for statement in statements:
            watched.db.session.execute(statement)
        watched.db.session.rollback()
    return of_rule(watched.findings())


def inspections(watched):
    """Return a list that fills with the inspections of an app."""
    seen = []

    def keep(sender, inspection):
        seen.append(inspection)

    statement_inspected.connect(keep, watched.app, weak=False)
    return seen


@pytest.mark.parametrize("name", SPEAKS)
def test_speaks(watched, name):
    statement, (relation, subject, index) = SPEAKS[name]
    (finding,) = of_rule(watched.ask(statement))
    assert (finding.relation, finding.subject) == (relation, subject)
    assert finding.severity in (Severity.INFO, Severity.WARNING)
    advice = finding.advice[0]
    assert f"{relation} {index}" in advice.summary
    assert advice.verdict.status in (VerdictStatus.VERIFIED, VerdictStatus.UNTESTED)
    assert watched.planwatch.stats()["errors"] == 0


@pytest.mark.parametrize("name", SPEAKS)
def test_is_silent_after_the_fix(any_story, watch, name):
    """The finding is resolved, and creating what was advised raises no other one."""
    statement, _ = SPEAKS[name]
    verify = "build" if any_story.server.name == servers.FIRST else "auto"
    watched = watch(any_story.url, PLANWATCH_VERIFY=verify)
    (finding,) = watched.ask(statement)
    any_story.execute(*finding.advice[0].ddl, "VACUUM ANALYZE")
    assert watched.ask(statement) == []


@pytest.mark.parametrize("name", MEASURED)
def test_the_planner_chooses_the_shape(any_story, watch, name):
    statement, indexes = MEASURED[name]
    # An index alone is read only where rows are known to be visible to all.
    any_story.execute('VACUUM "user"')
    watched = watch(any_story.url, PLANWATCH_VERIFY="build")
    (finding,) = of_rule(watched.ask(statement))
    (advice,) = finding.advice
    assert advice.verdict.status is VerdictStatus.VERIFIED
    assert advice.summary.endswith(indexes), advice.summary
    before = advice.verdict.cost_before
    any_story.execute(*advice.ddl, "ANALYZE")
    assert watched.ask(statement) == []
    assert advice.verdict.cost_after < before / 2


#: The twins: statements on which the rule must not say a word.
SILENT = {
    "primary key": sa.select(User).where(User.id == 7),
    "unique column": sa.select(User).where(User.email == "User7@Example.com"),
    "range of a column with an index": sa.select(User).where(User.points.between(5, 9)),
    "few rows found by another index": sa.select(User).where(User.id == 7, User.first == "x"),
    "unequal": sa.select(User.id).where(User.first != "First7"),
    "most of the rows pass": sa.select(User.id, User.first).where(User.state == "Active"),
    "nearly all rows pass a range": sa.select(User.id, User.first).where(User.last > "L"),
    "not null": sa.select(User.id, User.first).where(User.last.is_not(None)),
    "limit without an order": sa.select(User).limit(10),
    "limit and offset without an order": sa.select(User).limit(10).offset(50),
    "limit that is reached early": sa.select(User).where(User.state == "Active").limit(3),
    "order by the primary key": sa.select(User).order_by(User.id.desc()).limit(10),
    "order by a column with an index": sa.select(User).order_by(User.created_at.desc()).limit(10),
    "order by chance": sa.select(User).where(User.id < 100).order_by(func.random()).limit(3),
    "keyset pagination by the primary key": sa.select(User)
    .where(User.id > 500)
    .order_by(User.id)
    .limit(10),
    "whole table": sa.select(User.id),
    "count of all": sa.select(func.count()).select_from(User),
    "small table": sa.select(Badge).where(Badge.owner == "Owner7"),
    "small table in order": sa.select(Badge).order_by(Badge.owner).limit(3),
    "join by primary keys": sa.select(User.id, Other.email)
    .join(Other, Other.id == User.id)
    .where(User.id < 20),
    "join of everything": sa.select(User.first, roles_users.c.label).join(
        roles_users, roles_users.c.user_id == User.id
    ),
    "join to a primary key": sa.select(Badge.id, User.email).join(User, User.id == Badge.id),
    "outer join of everything": sa.select(User.id, roles_users.c.label).outerjoin(
        roles_users, roles_users.c.user_id == User.id
    ),
    "two columns compared with each other": sa.select(User.id).where(User.first == User.last),
    "no row can match": sa.select(User).where(User.first == "x", sa.false()),
    "catalog": sa.text("SELECT 1 FROM pg_class WHERE relpages = 7"),
    "information schema": sa.text(
        "SELECT 1 FROM information_schema.columns WHERE column_name = 'first'"
    ),
    "function that returns rows": sa.text(
        "SELECT g FROM generate_series(1, 50000) g WHERE g = 7"
    ),
    "values": sa.text("SELECT x FROM (VALUES (1), (2)) v (x) WHERE x = 2"),
    "materialised CTE": sa.text(
        'WITH all_users AS MATERIALIZED (SELECT id, first FROM "user") '
        "SELECT id FROM all_users WHERE first = 'First7'"
    ),
    "sample": sa.text("SELECT id FROM \"user\" TABLESAMPLE SYSTEM (50) WHERE first = 'First7'"),
    "row by its place": sa.text("SELECT id FROM \"user\" WHERE ctid = '(0,1)'"),
    "system column": sa.text('SELECT id FROM "user" WHERE xmin = 7'),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_is_silent_on_twins(watched, name):
    assert watched.ask(SILENT[name]) == []
    stats = watched.planwatch.stats()
    assert (stats["inspected"], stats["errors"]) == (1, 0)


#: Indexes that serve, and a statement on the columns `a` to `d` of the table `served`.
SERVED = {
    "plain": ("(a)", "a = 7"),
    "prefix of a longer one": ("(a, b)", "a = 7"),
    "prefix, with a range on the next column": ("(a, b)", "a = 7 AND b > 100"),
    "columns in another order": ("(b, a)", "a = 7 AND b = 7"),
    "backward": ("(a DESC)", "a = 7"),
    "with INCLUDE": ("(a) INCLUDE (b)", "a = 7"),
    "hash": ("USING hash (a)", "a = 7"),
    "block ranges": ("USING brin (d)", "d BETWEEN 100 AND 200"),
    "partial": ("(a) WHERE d > 10", "a = 7 AND d > 10"),
    "partial, with a narrower condition": ("(a) WHERE d > 10", "a = 7 AND d > 20"),
    "partial, not null": ("(a) WHERE a IS NOT NULL", "a = 7"),
    "another column leaves a few rows": ("(b)", "b = 7 AND a = 7"),
    "expression": ("((a + b))", "a + b = 14"),
    "order": ("(a, d)", "a = 7 ORDER BY d LIMIT 3"),
    "order backward": ("(c DESC NULLS LAST)", "true ORDER BY c DESC NULLS LAST LIMIT 3"),
    "order read backward": ("(c)", "true ORDER BY c DESC LIMIT 3"),
    "text": ("(t)", "t = 't7'"),
    "text for patterns": ("(t text_pattern_ops)", "t = 't7'"),
}


@pytest.mark.parametrize("name", SERVED)
def test_is_silent_where_an_index_serves(fresh_story, watch, name):
    index, condition = SERVED[name]
    fresh_story.execute(
        "CREATE TABLE served (a int, b int, c int, d int, t text)",
        "INSERT INTO served SELECT g % 5000, g % 4000, g % 3000, g, 't' || g % 5000 "
        "FROM generate_series(1, 60000) g",
        "VACUUM ANALYZE served",
    )
    statement = sa.text(f"SELECT * FROM served WHERE {condition}")
    watched = watch(fresh_story.url)
    spoken = watched.ask(statement)
    watched.planwatch.clear()
    fresh_story.execute(f"CREATE INDEX ON served {index}", "VACUUM ANALYZE served")
    assert watched.ask(statement) == []
    # The twin says something: without the index there would be a finding.
    assert spoken


def test_update_and_delete(watched):
    findings = run(
        watched,
        sa.update(roles_users).values(label="x").where(roles_users.c.label == "nobody"),
        sa.delete(roles_users).where(a_role),
    )
    assert {finding.subject for finding in findings} == {"label", "user_id"}
    assert {finding.relation for finding in findings} == {"roles_users"}


def test_insert_from_a_select(watched):
    source = sa.select(User.id, User.first).where(User.first == "nobody")
    (finding,) = run(watched, sa.insert(roles_users).from_select(["user_id", "label"], source))
    assert (finding.relation, finding.subject) == ('"user"', "first")


class Library(DeclarativeBase):
    pass


class Author(Library):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    books: Mapped[list[Book]] = relationship(back_populates="author", passive_deletes=True)


class Book(Library):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column("author", sa.ForeignKey("author.id", ondelete="CASCADE"))
    title: Mapped[str]
    author: Mapped[Author] = relationship(back_populates="books")


@pytest.fixture
def library(any_story):
    """20 000 authors and 60 000 books, with a foreign key and no index on it."""
    engine = sa.create_engine(any_story.url, poolclass=sa.NullPool)
    Library.metadata.create_all(engine)
    any_story.execute(
        "INSERT INTO author SELECT g, 'A' || g FROM generate_series(1, 20000) g",
        "INSERT INTO book SELECT g, 1 + g % 20000, 'T' || g FROM generate_series(1, 60000) g",
        "VACUUM ANALYZE author, book",
    )
    return any_story


def test_lazy_loading_follows_a_foreign_key(library, watch, verify):
    watched = watch(library.url, PLANWATCH_VERIFY=verify)

    def load():
        with watched.app.app_context():
            assert len(watched.db.session.get(Author, 7).books) == 3
            watched.db.session.rollback()
        return of_rule(watched.findings())

    (finding,) = load()
    assert (finding.relation, finding.subject) == ("book", "author")
    assert finding.advice[0].ddl == ("CREATE INDEX CONCURRENTLY ix_book_author ON book (author)",)
    assert 'Index("ix_book_author", Book.author_id)' in finding.advice[0].sqlalchemy
    library.execute(*finding.advice[0].ddl, "ANALYZE book")
    assert load() == []


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "NO ACTION"])
def test_a_delete_checks_the_foreign_key(library, watch, action, verify):
    library.execute(
        "ALTER TABLE book DROP CONSTRAINT book_author_fkey",
        "ALTER TABLE book ALTER author DROP NOT NULL",
        f"ALTER TABLE book ADD FOREIGN KEY (author) REFERENCES author ON DELETE {action}",
    )
    watched = watch(library.url, PLANWATCH_VERIFY=verify)
    nobody = sa.delete(Author).where(Author.id == -7)
    (finding,) = run(watched, nobody)
    assert (finding.relation, finding.subject) == ("book", "author")
    assert "for each row that is deleted from author" in finding.problem
    assert "book_author_fkey" in finding.problem
    library.execute(*finding.advice[0].ddl, "ANALYZE book")
    assert run(watched, nobody) == []


#: Indexes with which PostgreSQL checks the foreign key quickly.
CHECKED_BY = ["(author)", "(author, title)", "USING hash (author)", "(author DESC)"]


@pytest.mark.parametrize("index", CHECKED_BY)
def test_a_delete_whose_foreign_key_has_an_index(library, watch, index, verify):
    library.execute(f"CREATE INDEX ON book {index}", "ANALYZE book")
    watched = watch(library.url, PLANWATCH_VERIFY=verify)
    assert run(watched, sa.delete(Author).where(Author.id == -7)) == []


def test_a_delete_whose_foreign_key_has_an_index_that_leaves_out_nulls(library, watch, verify):
    library.execute(
        "CREATE INDEX ON book (author) WHERE author IS NOT NULL",
        "ANALYZE book",
    )
    watched = watch(library.url, PLANWATCH_VERIFY=verify)
    assert run(watched, sa.delete(Author).where(Author.id == -7)) == []


def test_a_delete_from_the_referring_table_checks_nothing(library, watch, verify):
    watched = watch(library.url, PLANWATCH_VERIFY=verify)
    assert run(watched, sa.delete(Book).where(Book.id == -7)) == []


def test_an_update_of_the_parent_is_no_delete(library, watch, verify):
    watched = watch(library.url, PLANWATCH_VERIFY=verify)
    assert run(watched, sa.update(Author).values(name="x").where(Author.id == 7)) == []


def test_a_small_referring_table(library, watch, verify):
    library.execute("DELETE FROM book WHERE id > 40", "VACUUM ANALYZE book")
    watched = watch(library.url, PLANWATCH_VERIFY=verify)
    assert run(watched, sa.delete(Author).where(Author.id == -7)) == []


def test_an_invalid_index_is_named(any_story, watch, verify):
    any_story.execute(
        "CREATE INDEX broken ON roles_users (user_id)",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass",
    )
    watched = watch(any_story.url, PLANWATCH_VERIFY=verify)
    statement = sa.select(roles_users).where(a_role)
    (finding,) = of_rule(watched.ask(statement))
    assert "The index broken exists but is invalid" in finding.message
    assert finding.advice[0].ddl == ("REINDEX INDEX CONCURRENTLY broken",)
    any_story.execute(*finding.advice[0].ddl)
    assert watched.ask(statement) == []


@pytest.mark.parametrize(
    "index", ["(user_id) WHERE label = 'x'", "(user_id text_pattern_ops)", "USING brin (user_id)"]
)
def test_an_invalid_index_that_would_not_serve_is_not_named(fresh_story, watch, index):
    fresh_story.execute(
        "ALTER TABLE roles_users ALTER user_id TYPE text",
        f"CREATE INDEX broken ON roles_users {index}",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass",
        "ANALYZE roles_users",
    )
    watched = watch(fresh_story.url, PLANWATCH_VERIFY="build")
    (finding,) = watched.ask(sa.text("SELECT * FROM roles_users WHERE user_id > '99998'"))
    assert "broken" not in finding.message


@pytest.fixture
def entries(fresh_story):
    """A table with 200 values of `a` on each page, and 100 values of `c`, one after another."""
    fresh_story.execute(
        "CREATE TABLE entry (a int, b int, c int, note text)",
        "INSERT INTO entry SELECT g % 200, g, g / 601, repeat('x', 50) "
        "FROM generate_series(1, 60000) g",
        "VACUUM ANALYZE entry",
    )
    return fresh_story


def test_an_invalid_index_is_proved_by_itself(entries, watch):
    """What is measured is what REINDEX gives, not an index that carries what is read."""
    statement = "SELECT b FROM entry WHERE a = 7"
    watched = watch(entries.url, PLANWATCH_VERIFY="build")
    (finding,) = watched.ask(sa.text(statement))
    assert finding.advice[0].summary.endswith("(a) INCLUDE (b)")
    entries.execute(
        "CREATE INDEX broken ON entry (a)",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass",
    )
    (finding,) = watched.ask(sa.text(statement))
    advice = finding.advice[0]
    assert advice.ddl == ("REINDEX INDEX CONCURRENTLY broken",)
    entries.execute(*advice.ddl)
    cost = entries.scalar(f"EXPLAIN (FORMAT JSON) {statement}")[0]["Plan"]["Total Cost"]
    assert advice.verdict.cost_after == pytest.approx(cost, rel=0.05)


def test_a_limit_that_is_reached_at_the_end_of_the_table(entries, watch):
    """The planner expects to stop after a few pages, whatever it took."""
    statement = sa.text("SELECT * FROM entry WHERE c = 99 LIMIT 1")
    watched = watch(entries.url, PLANWATCH_VERIFY="build")
    (finding,) = watched.ask(statement)
    assert finding.advice[0].summary.endswith("ON entry (c)")
    entries.execute(*finding.advice[0].ddl, "ANALYZE entry")
    assert watched.ask(statement) == []


class Declaring(DeclarativeBase):
    pass


class Parcel(Declaring):
    __tablename__ = "parcel"
    id: Mapped[int] = mapped_column(primary_key=True)
    sender: Mapped[int] = mapped_column(index=True)
    code: Mapped[str] = mapped_column()
    town: Mapped[str]
    street: Mapped[str]
    __table_args__ = (
        sa.Index("ix_of_place", "town", "street"),
        sa.UniqueConstraint("code", name="uq_of_code"),
        sa.Index("ix_of_street", func.lower(sa.text("street"))),
    )


#: A statement, and the index that is declared for it.
DECLARED = {
    "index=True": (sa.select(Parcel).where(Parcel.sender == 7), "ix_parcel_sender"),
    "several columns": (
        sa.select(Parcel).where(Parcel.town == "t7", Parcel.street == "s7"),
        "ix_of_place",
    ),
    "the first of several columns": (sa.select(Parcel).where(Parcel.town == "t7"), "ix_of_place"),
    "unique constraint": (sa.select(Parcel).where(Parcel.code == "c7"), "uq_of_code"),
    "expression": (
        sa.select(Parcel).where(func.lower(Parcel.street) == "s7"),
        "ix_of_street",
    ),
}


@pytest.mark.parametrize("name", DECLARED)
def test_an_index_that_a_migration_did_not_create(any_story, watch, name, verify):
    statement, index = DECLARED[name]
    any_story.execute(
        "CREATE TABLE parcel (id int PRIMARY KEY, sender int, code text, town text, street text)",
        "INSERT INTO parcel SELECT g, g % 5000, 'c' || g, 't' || g % 300, 's' || g % 7000 "
        "FROM generate_series(1, 60000) g",
        "VACUUM ANALYZE parcel",
    )
    watched = watch(any_story.url, PLANWATCH_VERIFY=verify)
    (finding,) = watched.ask(statement)
    sentence = "declared in Parcel.__table__, missing in the database: a migration was not run"
    assert sentence in finding.message.replace("`", "")
    assert index in finding.message
    assert f"INDEX CONCURRENTLY {index} ON parcel" in finding.advice[0].summary
    any_story.execute(*finding.advice[0].ddl, "ANALYZE parcel")
    assert watched.ask(statement) == []


def test_an_unlogged_table_and_a_materialised_view(fresh_story, watch):
    fresh_story.execute(
        'CREATE UNLOGGED TABLE loose AS SELECT id, first FROM "user"',
        'CREATE MATERIALIZED VIEW copied AS SELECT id, first FROM "user"',
        'CREATE VIEW seen AS SELECT id, first FROM "user" WHERE id > 0',
        "VACUUM ANALYZE loose, copied",
    )
    watched = watch(fresh_story.url, PLANWATCH_VERIFY="build")
    for relation, named in (("loose", "loose"), ("copied", "copied"), ("seen", '"user"')):
        (finding,) = watched.ask(sa.text(f"SELECT id FROM {relation} WHERE first = 'First7'"))
        assert finding.relation == named
        watched.planwatch.clear()


def test_a_temporary_table_has_no_advice(fresh_story, watch):
    watched = watch(fresh_story.url, PLANWATCH_VERIFY="build")
    seen = inspections(watched)
    found = run(
        watched,
        sa.text('CREATE TEMPORARY TABLE passing AS SELECT id, first FROM "user"'),
        sa.text("SELECT id FROM passing WHERE first = 'First7'"),
    )
    assert found == []
    assert seen[-1].skip is not None


def test_children_by_inheritance_are_tables_of_their_own(fresh_story, watch):
    fresh_story.execute(
        "CREATE TABLE animal (id int, name text)",
        "CREATE TABLE dog () INHERITS (animal)",
        "INSERT INTO dog SELECT g, 'N' || g FROM generate_series(1, 50000) g",
        "VACUUM ANALYZE animal, dog",
    )
    watched = watch(fresh_story.url, PLANWATCH_VERIFY="build")
    (finding,) = watched.ask(sa.text("SELECT * FROM animal WHERE name = 'N7'"))
    assert finding.relation == "dog"


def test_growth_says_it_of_a_small_table(each_story, watch, verify):
    watched = watch(each_story.url, PLANWATCH_GROWTH=True, PLANWATCH_VERIFY=verify)
    (finding,) = of_rule(watched.ask(sa.select(Badge).where(Badge.owner == "Owner7")))
    assert finding.severity is Severity.INFO
    assert finding.advice[0].summary.endswith("ON badge (owner)")


def test_growth_is_silent_where_an_index_exists(any_story, watch, verify):
    any_story.execute("CREATE INDEX ON badge (owner, id)")
    watched = watch(any_story.url, PLANWATCH_GROWTH=True, PLANWATCH_VERIFY=verify)
    assert watched.ask(sa.select(Badge).where(Badge.owner == "Owner7")) == []


def test_says_how_often_and_how_long(watched):
    (finding,) = watched.ask(sa.select(User).where(User.first == "First7"))
    assert "It ran once so far, and took " in finding.message
    assert " ms this time." in finding.message


def test_a_table_that_was_never_analysed(any_story, watch, verify):
    any_story.execute(
        "CREATE TABLE fresh (name text) WITH (autovacuum_enabled = off)",
        "INSERT INTO fresh SELECT 'A' || g FROM generate_series(1, 50000) g",
    )
    watched = watch(any_story.url, PLANWATCH_VERIFY=verify)
    (finding,) = of_rule(watched.ask(sa.text("SELECT * FROM fresh WHERE name = 'A7'")))
    assert "never analysed, so that its rows are a guess" in finding.message
    assert "expression" not in str(finding.advice[0].verdict)
    assert any_story.scalar("SELECT count(*) FROM pg_stats WHERE tablename = 'fresh'") == 0


def test_an_index_that_saves_too_little_is_dismissed(any_story, watch):
    """Sorting all rows costs a little more than walking an index: not a fifth."""
    watched = watch(any_story.url, PLANWATCH_VERIFY="build")
    seen = inspections(watched)
    half = sa.select(User).where(User.local_at < sa.text("timestamp '2021-01-01'"))
    assert watched.ask(half) == []
    (dismissal,) = seen[0].dismissals
    assert dismissal.rule == "missing-index"
    if dismissal.rejected is not None:
        assert dismissal.rejected.verdict.status is VerdictStatus.REJECTED
        assert "lowers the cost of the statement by" in dismissal.reason


def test_a_value_of_a_partial_index_stays_in_the_process(any_story, watch, caplog):
    statement = MEASURED["a partial index where no other kind serves"][0]
    watched = watch(any_story.url, PLANWATCH_VERIFY="build")
    (finding,) = watched.ask(statement)
    (advice,) = finding.advice
    assert "'Active'" in advice.ddl[0]
    shown = [finding.message, advice.summary, str(advice.as_dict()), str(finding.evidence)]
    assert not [text for text in [*shown, caplog.text] if "Active" in text]
    assert ":state_1" in finding.message


def test_a_value_is_shown_if_asked_for(any_story, watch, caplog):
    statement = MEASURED["a partial index where no other kind serves"][0]
    watched = watch(any_story.url, PLANWATCH_VERIFY="build", PLANWATCH_SHOW_PARAMETERS=True)
    (finding,) = watched.ask(statement)
    assert "state <> 'Active'" in finding.message
    assert "state <> 'Active'" in finding.advice[0].as_dict()["summary"]
    assert "state <> 'Active'" in caplog.text


def test_an_or_of_values_is_told_once_however_long(any_story, watch, caplog):
    watched = watch(any_story.url, PLANWATCH_VERIFY="build")
    for length in range(1, 6):
        wanted = sa.or_(*[User.last == f"Last{length}{place}" for place in range(length)])
        (finding,) = watched.ask(sa.select(User).where(wanted))
        assert finding.advice[0].summary.endswith("(last)"), length
    told = [one for one in caplog.records if one.levelname == "WARNING"]
    assert len(told) == 1


def test_resolution_is_said_once(any_story, watch, caplog):
    caplog.set_level("INFO", logger="flask_planwatch")
    watched = watch(any_story.url, PLANWATCH_VERIFY="build")
    statement = SPEAKS["equality"][0]
    (finding,) = watched.ask(statement)
    any_story.execute(*finding.advice[0].ddl, "ANALYZE")
    caplog.clear()
    assert watched.ask(statement) == []
    assert watched.ask(statement) == []
    said = [record for record in caplog.records if "resolved" in record.getMessage()]
    assert [record.levelname for record in said] == ["INFO"]


def test_an_index_for_two_findings_of_one_statement(fresh_story, watch):
    statement = sa.select(User.id).where(
        func.lower(User.state) == "retired", User.local_at > sa.text("timestamp '2021-11-01'")
    )
    watched = watch(fresh_story.url, PLANWATCH_VERIFY="build")
    findings = watched.ask(statement)
    summaries = {advice.summary for finding in findings for advice in finding.advice}
    assert len(summaries) == 1, summaries
    fresh_story.execute(*findings[0].advice[0].ddl, "ANALYZE")
    assert watched.ask(statement) == []


def test_an_index_for_two_statements(entries, watch):
    """The second statement is content with what the first one was advised."""
    watched = watch(entries.url, PLANWATCH_VERIFY="build")
    (first,) = watched.ask(sa.text("SELECT * FROM entry WHERE a = 7 ORDER BY b LIMIT 5"))
    (second,) = [
        finding
        for finding in watched.ask(sa.text("SELECT * FROM entry WHERE a = 7"))
        if finding.fingerprint != first.fingerprint
    ]
    assert first.advice[0].summary.endswith("(a, b)")
    assert second.advice[0].summary == first.advice[0].summary


def test_an_index_that_another_statement_is_advised_later(entries, watch):
    """Inspected again, the first statement is content with what the second one was advised."""
    watched = watch(entries.url, PLANWATCH_VERIFY="build")
    alone = sa.text("SELECT * FROM entry WHERE a = 7")
    (first,) = watched.ask(alone)
    assert first.advice[0].summary.endswith("(a)")
    watched.ask(sa.text("SELECT * FROM entry WHERE a = 7 ORDER BY b LIMIT 5"))
    summaries = {finding.advice[0].summary for finding in watched.ask(alone)}
    assert len(summaries) == 1, summaries


def test_an_index_of_another_statement_that_serves_much_worse(fresh_story, watch):
    """The rare moods lie in a row: an index on them alone reads them in that order."""
    watched = watch(fresh_story.url, PLANWATCH_VERIFY="build")
    (first,) = watched.ask(MEASURED["equality first, then the order"][0])
    (second,) = [
        finding
        for finding in watched.ask(sa.select(User).where(User.mood == "sad"))
        if finding.fingerprint != first.fingerprint
    ]
    assert first.advice[0].summary.endswith("(mood, local_at)")
    assert second.advice[0].summary.endswith("(mood)")
