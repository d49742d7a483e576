"""PlanWatch's text of a plan is what the server itself prints for `EXPLAIN (VERBOSE)`."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from flask_debugtoolbar import DebugToolbarExtension

from flask_planwatch.plan.scrub import scrub_plan
from flask_planwatch.plan.tree import Plan

from . import servers
from .conftest import Watched
from .databases import Database, make_database
from .models import User
from .test_panel import PAGE, open_panel

pytestmark = pytest.mark.slow

TABLES = """
CREATE EXTENSION IF NOT EXISTS btree_gist;
CREATE SCHEMA "Odd Schema";
CREATE TABLE t (
    id int PRIMARY KEY, a int, b int, c text, d jsonb, p point, "select" text, "Zwei" int
);
INSERT INTO t SELECT g, g % 100, g % 7, 'c' || g, jsonb_build_object('k', g), point(g, g), 'x', g
FROM generate_series(1, 20000) g;
CREATE INDEX t_a ON t (a);
CREATE INDEX t_b ON t (b, a);
CREATE INDEX "T Lower" ON t (lower(c));
CREATE INDEX t_p ON t USING gist (p);
CREATE TABLE u (id int PRIMARY KEY, t_id int REFERENCES t, name text UNIQUE);
INSERT INTO u SELECT g, g, 'n' || g FROM generate_series(1, 2000) g;
CREATE TABLE "Odd Schema"."user" (id int, "a.b" text);
INSERT INTO "Odd Schema"."user" SELECT g, 'x' FROM generate_series(1, 100) g;
CREATE TABLE part (id int, v text) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100);
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (100) TO (200);
CREATE VIEW seen AS SELECT t.id, u.name FROM t JOIN u ON u.t_id = t.id;
VACUUM ANALYZE;
"""

SETTINGS = (
    "max_parallel_workers_per_gather = 0",
    "jit = off",
)

#: What is set before a statement: most plans are tiny here.
PARALLEL = (
    "max_parallel_workers_per_gather = 2",
    "parallel_setup_cost = 0",
    "parallel_tuple_cost = 0",
    "min_parallel_table_scan_size = 0",
    "min_parallel_index_scan_size = 0",
)

STATEMENTS: dict[str, tuple[str, ...]] = {
    text: settings
    for settings, texts in {
        (): (
            "SELECT 1",
            "SELECT * FROM t",
            "SELECT id FROM t x WHERE a = 5 AND c LIKE 'c1%'",
            "SELECT id FROM t WHERE id = 5",
            "SELECT id FROM t WHERE id < 5",
            "SELECT * FROM t WHERE lower(c) = 'it''s'",
            "SELECT id FROM t WHERE a = 5 OR b = 3",
            "SELECT id FROM t WHERE a = 5 AND b = 3 AND id < 100",
            "SELECT id FROM t ORDER BY id DESC LIMIT 3 OFFSET 2",
            "SELECT id FROM t ORDER BY p <-> point '(5,5)' LIMIT 3",
            "SELECT id FROM t WHERE ctid = '(0,1)'",
            "SELECT id FROM t WHERE ctid < '(1,1)'",
            "SELECT \"select\", \"Zwei\" FROM t WHERE \"select\" = 'y' ORDER BY \"Zwei\"",
            'SELECT * FROM "Odd Schema"."user" "User" WHERE "a.b" = \'x\'',
            'SELECT * FROM "Odd Schema"."user"',
            "SELECT a, count(*) FROM t GROUP BY a HAVING count(*) > 5",
            "SELECT a, b, count(*) FROM t GROUP BY GROUPING SETS ((a), (b), ())",
            "SELECT a, b, count(*) FROM t GROUP BY ROLLUP (a, b)",
            "SELECT a, b, count(*) FROM t GROUP BY CUBE (a, b)",
            "SELECT DISTINCT a FROM t ORDER BY a",
            "SELECT id FROM t UNION SELECT id FROM u",
            "SELECT id FROM t UNION ALL SELECT t_id FROM u",
            "SELECT a FROM t INTERSECT SELECT id FROM u",
            "SELECT a FROM t EXCEPT ALL SELECT id FROM u",
            "SELECT t.id FROM t JOIN u ON u.t_id = t.id AND t.a + u.id > 5 WHERE u.name = 'n7'",
            "SELECT t.id FROM t LEFT JOIN u ON u.t_id = t.id WHERE u.id IS NULL",
            "SELECT t.id FROM t FULL JOIN u ON u.t_id = t.id",
            "SELECT t.id FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.t_id = t.id)",
            "SELECT t.id FROM t WHERE id NOT IN (SELECT t_id FROM u)",
            "SELECT (SELECT max(name) FROM u WHERE u.t_id = t.id) FROM t WHERE a = 1",
            "SELECT id FROM t WHERE a > (SELECT avg(id) FROM u)",
            "SELECT id FROM t WHERE a = ANY (ARRAY(SELECT id FROM u WHERE id < 5))",
            "SELECT id FROM t WHERE (a, b) = (SELECT id, t_id FROM u LIMIT 1)",
            "WITH w AS MATERIALIZED (SELECT * FROM u WHERE id < 9) "
            "SELECT * FROM w x JOIN w ON true",
            "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5) "
            "SELECT * FROM r",
            'WITH "W W" AS MATERIALIZED (SELECT 1 AS x) SELECT * FROM "W W" AS "select"',
            "SELECT id, row_number() OVER (PARTITION BY a ORDER BY b, id) FROM t",
            "SELECT * FROM (SELECT id, row_number() OVER (ORDER BY id) r FROM t) x WHERE r < 5",
            "SELECT * FROM generate_series(1, 10) g WHERE g > 5",
            "SELECT * FROM ROWS FROM (generate_series(1, 3), generate_series(1, 2)) AS r(a, b)",
            "SELECT generate_series(1, a) FROM t WHERE id < 3",
            "SELECT * FROM (VALUES (1, 'a'), (2, 'b')) v(a, b) WHERE a > 1",
            "SELECT * FROM xmltable('/r' PASSING NULL COLUMNS a int)",
            "SELECT * FROM jsonb_to_recordset('[{\"a\": 1}]') AS r(a int) WHERE a > 0",
            "SELECT * FROM t TABLESAMPLE BERNOULLI (10) REPEATABLE (5) WHERE a = 1",
            "SELECT * FROM t TABLESAMPLE SYSTEM (10)",
            "SELECT * FROM t x CROSS JOIN LATERAL (SELECT * FROM u WHERE u.t_id = x.a) y "
            "WHERE x.b = 1",
            "SELECT * FROM u FOR UPDATE",
            "SELECT id FROM t WHERE false",
            "SELECT id FROM t WHERE now() < '2000-01-01' OR a = 3",
            "SELECT * FROM t WHERE current_user = 'nobody' AND a = 3",
            "SELECT * FROM part WHERE v = 'x'",
            "SELECT * FROM part WHERE id = 5",
            "SELECT * FROM part WHERE id = (SELECT 5)",
            "SELECT * FROM seen WHERE name = 'n5'",
            "SELECT count(*) FILTER (WHERE a > 5), string_agg(c, ', ' ORDER BY id) FROM t",
            "SELECT min(id), max(id) FROM t",
            "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY a) FROM t",
            "INSERT INTO u VALUES (9999, 1, 'x'), (9998, 2, 'y')",
            "INSERT INTO u SELECT id + 5000, id, c FROM t WHERE a = 1 ON CONFLICT DO NOTHING",
            "INSERT INTO u VALUES (1, 1, 'x') ON CONFLICT (id) DO UPDATE SET name = excluded.name "
            "WHERE u.name <> 'z' RETURNING id",
            "UPDATE t SET a = a + 1 WHERE id = 5 RETURNING *",
            "UPDATE part SET v = 'y' WHERE v = 'x'",
            "UPDATE t SET a = 1 FROM u WHERE u.t_id = t.id AND u.name = 'n5'",
            "DELETE FROM part WHERE v = 'x'",
            "DELETE FROM u USING t WHERE t.id = u.t_id AND t.a = 5",
            "WITH gone AS (DELETE FROM u WHERE id = 5 RETURNING *) SELECT * FROM gone",
            "MERGE INTO u USING t ON u.t_id = t.id WHEN MATCHED AND t.a > 5 THEN DELETE "
            "WHEN NOT MATCHED THEN INSERT VALUES (t.id, t.id, t.c)",
        ),
        PARALLEL: (
            "SELECT * FROM t WHERE b = 5 AND c <> 'x'",
            "SELECT count(*), avg(a) FROM t",
            "SELECT a, count(*) FROM t GROUP BY a ORDER BY a",
            "SELECT * FROM t JOIN u ON u.t_id = t.id ORDER BY t.c",
            "SELECT * FROM part WHERE v = 'x' UNION ALL SELECT id, c FROM t",
            "SELECT id FROM t WHERE a > (SELECT avg(id) FROM u)",
            "SELECT count(*) FROM t WHERE id < 15000",
        ),
        ("enable_seqscan = off", "enable_hashjoin = off"): (
            "SELECT * FROM u WHERE t_id = 5",
            "SELECT * FROM t JOIN u ON u.t_id = t.id",
            "SELECT * FROM part",
        ),
        ("enable_hashjoin = off", "enable_mergejoin = off"): (
            "SELECT * FROM t x JOIN t y ON y.id = x.a",
            "SELECT * FROM t x JOIN u y ON y.name = x.c AND y.id < x.id",
        ),
        ("enable_hashagg = off", "enable_sort = on"): (
            "SELECT a, b, count(*) FROM t GROUP BY GROUPING SETS ((a, b), (b), ())",
            "SELECT DISTINCT a, b FROM t",
            "SELECT a FROM t INTERSECT ALL SELECT id FROM u",
            "SELECT * FROM t ORDER BY b, c LIMIT 5",
        ),
        ("jit = on", "jit_above_cost = 0", "jit_inline_above_cost = 0"): (
            "SELECT count(*) FROM t WHERE a > 5",
        ),
        ("compute_query_id = on",): ("SELECT 1 FROM t WHERE a = 7",),
        ("debug_parallel_query = on", "max_parallel_workers_per_gather = 2"): (
            "SELECT c FROM t WHERE id = 5",
        ),
        ("work_mem = '64kB'",): (
            "SELECT c, count(*) FROM t GROUP BY c",
            "SELECT DISTINCT lower(c) FROM t",
        ),
    }.items()
    for text in texts
}  # fmt: skip


@pytest.fixture(scope="module")
def tables(any_server: servers.Server) -> Iterator[Database]:
    """Tables of many kinds on each server in turn."""
    for database in make_database(any_server, None):
        database.execute(*(one for one in TABLES.split(";\n") if one.strip()))
        yield database


@pytest.fixture(scope="module")
def connection(tables: Database) -> Iterator[sa.Connection]:
    engine = sa.create_engine(tables.url, poolclass=sa.NullPool)
    with engine.connect().execution_options(no_parameters=True) as connection:
        yield connection


def explained(connection: sa.Connection, text: str, settings: tuple[str, ...]) -> tuple[str, Plan]:
    """The server's own text of a statement's plan, and the plan that PlanWatch reads."""
    run = connection.exec_driver_sql
    old = connection.dialect.server_version_info < (16,)
    with connection.begin():
        for setting in (*SETTINGS, *settings):
            if old:
                setting = setting.replace("debug_parallel_query", "force_parallel_mode")
            run(f"SET LOCAL {setting}")
        lines = run(f"EXPLAIN (VERBOSE) {text}").scalars().all()
        document = run(f"EXPLAIN (VERBOSE, FORMAT JSON) {text}").scalar_one()
        connection.rollback()
    return "\n".join(lines), Plan.from_json(document)


@pytest.mark.parametrize("text", STATEMENTS)
def test_text_is_that_of_the_server(connection, text):
    server, plan = explained(connection, text, STATEMENTS[text])
    assert plan.as_text() == server


@pytest.mark.parametrize("text", STATEMENTS)
def test_text_without_values_has_all_steps_and_names(connection, text):
    """What goes is what a step puts out, and values."""
    server, plan = explained(connection, text, STATEMENTS[text])
    named = re.compile(r"cost=|^ *(InitPlan|SubPlan|CTE) ", re.MULTILINE)
    scrubbed = scrub_plan(plan).as_text().splitlines()
    expected = [line for line in server.splitlines() if named.search(line)]
    assert [line for line in scrubbed if named.search(line)] == expected


def test_partitions_that_a_generic_plan_leaves_out(connection):
    run = connection.exec_driver_sql
    with connection.begin():
        run("SET LOCAL plan_cache_mode = force_generic_plan")
        run("PREPARE by_id (int) AS SELECT * FROM part WHERE id = $1")
        text = "\n".join(run("EXPLAIN (VERBOSE) EXECUTE by_id (5)").scalars())
        plan = Plan.from_json(run("EXPLAIN (VERBOSE, FORMAT JSON) EXECUTE by_id (5)").scalar_one())
        run("DEALLOCATE by_id")
    assert "Subplans Removed: 1" in text
    assert plan.as_text() == text


def in_panel(shown: str, title: str) -> str:
    (found,) = re.findall(rf"<summary>{title}</summary>.*?<pre>(.*?)</pre>", shown, flags=re.DOTALL)
    return html.unescape(found)


def test_panel_shows_the_servers_text_and_its_json(each_story, watch):
    """With the values, and with the names that the finding speaks of."""
    watched: Watched = watch(each_story.url, SECRET_KEY="secret", PLANWATCH_VERIFY="off")
    watched.app.debug = True
    DebugToolbarExtension(watched.app)
    inner = sa.select(sa.func.count()).where(User.nickname == "it's").scalar_subquery()

    @watched.app.get("/")
    def page():
        watched.db.session.execute(sa.select(User.id, inner).where(User.last == "Last7"))
        assert watched.planwatch.flush(120)
        return PAGE

    shown = open_panel(watched.app).html
    plan = in_panel(shown, "Plan")
    assert "'it''s'::text" in plan
    assert "InitPlan 1" in plan
    document = in_panel(shown, "Plan as JSON")
    assert Plan.from_json(json.loads(document)).as_text() == plan
    (sql,) = set(
        re.findall(r'title="Copy the statement">Copy</button><pre>(.*?)</pre>', shown, re.S)
    )
    engine = sa.create_engine(each_story.url, poolclass=sa.NullPool)
    with engine.connect().execution_options(no_parameters=True) as connection:
        connection.exec_driver_sql("SET compute_query_id = off")
        lines = connection.exec_driver_sql(f"EXPLAIN (VERBOSE) {html.unescape(sql)}").scalars()
        assert plan == "\n".join(lines)
