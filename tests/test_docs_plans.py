"""Each rule's page shows real plans: they are made here, and compared with the files of docs/plans.

"How a rule gets its example" in docs/contributing.rst tells how the files are written.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import aliased

from flask_planwatch.rules import RULES, Rule

from . import servers, stories
from .conftest import stories_database
from .databases import Database
from .models import User, roles_users
from .rules.case import Example, said_by
from .test_docs import DOCS, by_rule, page, sources

pytestmark = pytest.mark.slow

PLANS = DOCS / "plans"

#: What writes the files, as docs/contributing.rst says it.
COMMAND = "PLANWATCH_TEST_WRITE_PLANS=1 .venv/bin/tox run -e tests -- tests/test_docs_plans.py"

#: The names that the statements below may use.
NAMES = {
    **vars(stories),
    "Decimal": Decimal,
    "User": User,
    "aliased": aliased,
    "and_": sa.and_,
    "bindparam": sa.bindparam,
    "func": sa.func,
    "literal": sa.literal,
    "or_": sa.or_,
    "roles_users": roles_users,
    "select": sa.select,
}


def without_estimates(text: str) -> list[str]:
    """Return the lines of a file without what differs from one ANALYZE to the next."""
    text = re.sub(r"(?s)(?<=finding = ''').*?(?=''')", _without_numbers, text)
    text = re.sub(r"\b(cost|rows|width)=[\d.]+", r"\1=#", text)
    return re.sub(r"\bcost \S+ -> [\d.e+]+", "cost # -> #", text).splitlines()


def _without_numbers(match: re.Match[str]) -> str:
    return re.sub(r"\d[\d,.]*(e[+-]\d+)?", "#", match[0])


def read(code: str, value: Any = None) -> sa.Select:
    return eval(code, {**NAMES, "value": value})


def run(database: Database, case: Example, code: str) -> tuple[str, str]:
    """Run a statement, and return the SQL that the server got and the plan that it prints for it.

    Only the white space at the ends of the lines is taken away.
    """
    if case.prepared:
        return run_prepared(database, case, code)
    engine = sa.create_engine(database.url_for("psycopg2"), poolclass=sa.NullPool)
    analyse = "(ANALYZE, TIMING OFF, SUMMARY OFF, BUFFERS OFF) " if case.config else ""
    with engine.connect() as connection:
        with connection.execute(read(code)) as result:
            sql = result.cursor.query.decode()
        literally = connection.execution_options(no_parameters=True)
        plan = literally.exec_driver_sql(f"EXPLAIN {analyse}{sql}").scalars().all()
    return "\n".join(line.rstrip() for line in sql.splitlines()), "\n".join(plan)


def run_prepared(database: Database, case: Example, code: str) -> tuple[str, str]:
    """Run a statement until psycopg 3 has prepared it; its plan is the one for all values."""
    engine = sa.create_engine(database.url_for("psycopg"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        for value in case.values:
            connection.execute(read(code, value))
        ((name, sql, count),) = connection.exec_driver_sql(
            "SELECT name, statement, cardinality(parameter_types) FROM pg_prepared_statements"
        )
        nulls = f" ({', '.join(['NULL'] * count)})" if count else ""
        connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
        plan = connection.exec_driver_sql(f"EXPLAIN EXECUTE {name}{nulls}").scalars().all()
    return "\n".join(line.rstrip() for line in sql.splitlines()), "\n".join(plan)


def ask(watched: Any, case: Example, code: str) -> list[Any]:
    """Run a statement in an app as often as its case says, and return the findings."""
    with watched.app.app_context():
        for value in case.values:
            session = watched.db.session
            if case.fails:
                session.execute(sa.text("SET LOCAL statement_timeout = 1"))
            with suppress(sa.exc.OperationalError):
                session.execute(read(code, value)).all()
            session.rollback() if case.fails else session.commit()
            assert watched.planwatch.flush(120)
        watched.db.session.remove()
    return watched.findings()


def make_example(database: Database, watch: Callable[..., Any], rule: str) -> dict[str, str]:
    """Follow the advice of a rule on a database, and return what the rule's page shows of that."""
    case: Example = said_by(rule, "EXAMPLE")
    fixed = case.rewritten or case.statement
    sql, before = run(database, case, case.statement)
    assert case.gone in before
    assert case.new not in before
    example = {"sqlalchemy": case.statement, "sql": sql, "before": before}

    url = database.url_for(case.driver)
    config = {"PLANWATCH_VERIFY": "build", **case.config}
    findings = ask(watch(url, **config), case, case.statement)
    (finding,) = (finding for finding in findings if finding.rule == rule)
    advice = finding.advice[0] if finding.advice else None
    if advice is None or case.fails:
        return example | {"finding": finding.problem}
    assert bool(advice.ddl) != bool(case.rewritten), f"the advice is {advice.summary}"
    database.execute(*advice.ddl, "ANALYZE")

    fixed_sql, after = run(database, case, fixed)
    assert case.gone not in after
    assert case.new in after
    for ddl in advice.ddl:
        if ddl.startswith("CREATE INDEX CONCURRENTLY "):
            assert f" {ddl.removeprefix('CREATE INDEX CONCURRENTLY ').split()[0]} " in after
    assert ask(watch(url, **case.config), case, fixed) == []

    if advice.ddl:
        example |= {"ddl": ";\n".join(advice.ddl), "verdict": str(advice.verdict)}
    else:
        example |= {"rewrite": advice.summary, "verdict": str(advice.verdict)}
        example |= {"rewritten_sqlalchemy": fixed, "rewritten_sql": fixed_sql}
    return example | {"after": after}


def as_toml(example: dict[str, str]) -> str:
    lead = "# Written by tests/test_docs_plans.py: see docs/contributing.rst.\n"
    return lead + "".join(f"\n{key} = '''\n{value}\n'''\n" for key, value in example.items())


@pytest.fixture
def place(rule: Rule, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database with the tables that the statement of a rule reads."""
    example = said_by(rule.NAME, "EXAMPLE")
    if example is None:
        pytest.fail(f"{rule.NAME} has no EXAMPLE in its tests: add it, then run {COMMAND}")
    if not example.of_stories:
        yield request.getfixturevalue("fresh_story")
        return
    templates = request.getfixturevalue("stories_templates")
    server = servers.find_server(servers.FIRST)
    yield from stories_database(server, templates(server))


@by_rule
def test_the_plans_are_what_the_server_prints(
    rule: Rule, place: Database, watch: Callable[..., Any]
) -> None:
    made = as_toml(make_example(place, watch, rule.NAME))
    path = PLANS / f"{rule.NAME}.toml"
    kept = path.read_text("utf-8") if path.exists() else ""
    difference = "\n".join(
        difflib.unified_diff(
            without_estimates(kept), without_estimates(made), "in the file", "now", lineterm=""
        )
    )
    if difference and os.environ.get("PLANWATCH_TEST_WRITE_PLANS", "") not in {"", "0"}:
        path.write_text(made, "utf-8")
    elif difference:
        pytest.fail(
            f"docs/plans/{path.name} is not what the server and PlanWatch say now. If that is "
            f"right, write the file with\n\n{COMMAND}\n\n{difference}",
            pytrace=False,
        )


def test_each_rule_has_a_file_and_each_file_a_rule() -> None:
    rules, files = set(RULES), {path.stem for path in PLANS.glob("*.toml")}
    assert not rules - files, f"no file in docs/plans: write it with\n\n{COMMAND}\n"
    assert not files - rules, "a file in docs/plans whose rule does not exist: delete it"


@by_rule
def test_the_page_of_a_rule_ends_with_its_example(rule: Rule) -> None:
    example = sources.read_example(rule.NAME)
    text = sources.pages_with_examples()[rule.NAME]
    described, _, shown = text.partition("\nExample\n-------\n")
    assert described == sources.rule_pages()[rule.NAME]
    blocks = re.findall(r"^\.\. code-block:: .*\n(?:   :.*\n)*\n((?:   .*\n|\n)+)", shown, re.M)
    blocks = ["".join(line[3:] for line in block.splitlines(True)).strip() for block in blocks]
    for key, value in example.items():
        if key in {"verdict", "rewrite", "finding"}:
            assert f"\n   {sources.prose(value)}\n" in shown
        else:
            assert value in blocks
    assert "Plan before" in shown


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("(cost=0.00..3618.00 rows=500 width=8)", "(cost=0.42..8.44 rows=1 width=132)", True),
        ("the index, cost 3,618 -> 8.4", "the index, cost 1,200,000 -> 9 by", False),
        ("the index, cost 3,618 -> 8.4", "the index, cost 1,200,000 -> 9", True),
        ("Index Cond: (points = 7)", "Index Cond: (points = 8)", False),
        ("Seq Scan on a  (cost=1.00..2.00)", "Index Scan on a  (cost=1.00..2.00)", False),
        ("(cost=1.00..2.00 rows=1 width=8) a", "(cost=1.00..2.00 rows=1 width=8) b", False),
    ],
)
def test_only_estimates_may_differ(one: str, other: str, same: bool) -> None:
    assert (without_estimates(one) == without_estimates(other)) == same


def test_the_plan_of_the_panel_is_what_the_server_prints(story: Database) -> None:
    sql = sources.read_example("functional-predicate")["sql"]
    engine = sa.create_engine(story.url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        lines = connection.exec_driver_sql(f"EXPLAIN (VERBOSE) {sql}").scalars().all()
    plan = "".join(f"   {one}\n" for one in lines if not one.startswith("Query Identifier"))
    shown = without_estimates(page("reading-a-plan"))
    assert "\n".join(without_estimates(plan)) in "\n".join(shown), plan


def test_contributors_are_told_how_to_write_the_files() -> None:
    assert f"   $ {COMMAND}\n" in page("contributing")
