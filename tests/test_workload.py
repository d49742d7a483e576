"""The indexes that are proposed for many statements are one set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
import sqlalchemy as sa

from flask_planwatch import Finding, VerdictStatus
from flask_planwatch.indexes.search import MIN_MEMBER_SAVING, MIN_SHARED_SAVING

from . import blog, databases
from .conftest import Watched
from .databases import Database, make_database


@pytest.fixture(scope="module")
def blog_database(any_server) -> Iterator[Database]:
    """A blog on each server in turn: with HypoPG, and where nothing can be tried."""
    yield from make_database(any_server, databases.template(any_server, "blog", blog.fill))


def watched_blog(watch, database: Database, **config: object) -> Watched:
    """Return an app on the blog, none of whose statements counts as slow."""
    return watch(
        database.url,
        PLANWATCH_SLOW_STATEMENT_MS=600_000,
        PLANWATCH_INSPECTIONS_PER_MINUTE=1000,
        **config,
    )


def indexes(findings: Iterable[Finding]) -> dict[str, str]:
    """Return the DDL of all advised indexes by what follows their names."""
    advised = (advice for finding in findings for advice in finding.advice)
    ddl = [text for advice in advised for text in advice.ddl]
    return {text.partition(" ON ")[2]: text for text in ddl}


def costs(database: Database, ddl: Iterable[str]) -> dict[str, float]:
    """Return what each statement costs with these indexes, which are really built meanwhile."""
    engine = sa.create_engine(database.url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        for text in ddl:
            connection.exec_driver_sql(text.replace(" CONCURRENTLY", ""))
        found = {}
        for statement in blog.STATEMENTS:
            (plan,) = connection.execute(sa.text(f"EXPLAIN (FORMAT JSON) {statement}")).scalar()
            found[str(statement)] = plan["Plan"]["Total Cost"]
        connection.rollback()
    return found


#: Indexes on each statement by itself and on all together, by server: what is shared was counted by
#: hand. Without HypoPG there are no indexes that carry a column.
COUNTS = {"hypopg": (21, 13), "first": (20, 13)}


@pytest.mark.slow
@pytest.mark.parametrize("turned", [False, True], ids=["in turn", "turned"])
def test_the_indexes_of_many_statements_are_one_set(watch, blog_database, turned):
    statements = blog.STATEMENTS[::-1] if turned else blog.STATEMENTS
    alone, single = {}, watched_blog(watch, blog_database)
    for statement in statements:
        alone |= indexes(single.ask(statement))
        single.planwatch.clear()
    watched = watched_blog(watch, blog_database, PLANWATCH_SAMPLE_INTERVAL=300)
    for _ in range(3):
        for statement in statements:
            findings = watched.ask(statement)
    together = indexes(findings)
    assert len(findings) == len(statements)
    assert (len(alone), len(together)) == COUNTS[blog_database.server.name]
    # Only statements that may share an index are inspected more than once.
    assert watched.planwatch.stats()["inspected"] < 2 * len(statements)
    without, with_own, with_shared = (
        costs(blog_database, ddl) for ddl in ((), alone.values(), together.values())
    )
    verified = {
        finding.statement.text
        for finding in findings
        if finding.advice[0].verdict.status is VerdictStatus.VERIFIED
    }
    assert len(verified) == (len(statements) if blog_database.server.name == "hypopg" else 0)
    for statement, before in without.items():
        own, shared = with_own[statement], with_shared[statement]
        # An index of its own would not be worth it.
        assert shared - own <= before * MIN_MEMBER_SAVING, statement
        if verified:
            assert before - shared >= (before - own) * MIN_SHARED_SAVING, statement


@pytest.mark.slow
def test_what_was_shared_is_inspected_no_more(watch, blog_database):
    watched = watched_blog(watch, blog_database, PLANWATCH_SAMPLE_INTERVAL=300)
    counts = []
    for _ in range(5):
        for statement in blog.STATEMENTS:
            watched.ask(statement)
        counts.append(watched.planwatch.stats()["inspected"])
    assert counts[2:] == counts[2:3] * 3


#: Each of 6,000 people has ten messages.
MESSAGES = (
    "DROP TABLE IF EXISTS message",
    "CREATE TABLE message (person int, state text, room int, at timestamptz, body text)",
    "INSERT INTO message SELECT g * 7919::bigint % 6000, "
    "CASE abs(hashint4(g)) % 5 WHEN 0 THEN 'new' ELSE 'read' END, abs(hashint4(g + 1000000)) % 60, "
    "timestamptz '2024-01-01' + g * interval '1 minute', md5(g::text) "
    "FROM generate_series(1, 60000) g",
    "VACUUM ANALYZE message",
)
OF_A_PERSON = (
    "SELECT * FROM message WHERE person = 7 AND state = 'new'",
    "SELECT * FROM message WHERE person = 7",
    "SELECT * FROM message WHERE room = 7 AND person = 7",
    "SELECT * FROM message WHERE person = 7 ORDER BY at DESC LIMIT 5",
    "UPDATE message SET state = 'read' WHERE person = 7 AND state = 'new' RETURNING body",
)


@pytest.mark.slow
@pytest.mark.parametrize("turned", [False, True], ids=["in turn", "turned"])
def test_one_index_finds_the_few_rows_that_many_statements_ask_for(watch, blog_database, turned):
    """The one with the order, which no other index has."""
    blog_database.execute(*MESSAGES)
    watched = watched_blog(
        watch, blog_database, PLANWATCH_SAMPLE_INTERVAL=300, PLANWATCH_VERIFY="build"
    )
    for _ in range(3):
        for statement in OF_A_PERSON[::-1] if turned else OF_A_PERSON:
            findings = watched.ask(sa.text(statement))
    assert len(findings) == len(OF_A_PERSON)
    assert list(indexes(findings)) == ["message (person, at)"]
