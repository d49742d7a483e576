"""Each rule's page shows real plans: they are made here, and compared with the files of docs/plans.

"How a rule gets its example" in docs/contributing.rst tells how the files are written.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from flask_planwatch.rules import RULES, Rule

from .conftest import Database
from .models import User, roles_users
from .test_docs import DOCS, by_rule, page, sources

PLANS = DOCS / "plans"

#: What writes the files, as docs/contributing.rst says it.
COMMAND = "PLANWATCH_TEST_WRITE_PLANS=1 .venv/bin/tox run -e tests -- tests/test_docs_plans.py"

#: The names that the statements below may use.
NAMES = {
    "Decimal": Decimal,
    "User": User,
    "func": sa.func,
    "roles_users": roles_users,
    "select": sa.select,
}


@dataclass(frozen=True)
class Case:
    """A statement that a rule speaks on, as the SQLAlchemy code that its page shows.

    `rewritten` is what the advice makes of it, where that is not DDL.
    """

    statement: str
    rewritten: str = ""


#: The example of each rule, by the rule's name. One whose rule does not exist yet waits for it.
CASES = {
    "functional-predicate": Case(
        'select(User.id).where(func.lower(User.email) == "user7@example.com")'
    ),
    "missing-index": Case("select(roles_users).where(roles_users.c.user_id == 7)"),
    "implicit-cast": Case(
        'select(User.id).where(User.points == Decimal("7.00"))',
        rewritten="select(User.id).where(User.points == 7)",
    ),
    "pattern-match": Case('select(User.id).where(User.first.like("First99%"))'),
}


def without_estimates(text: str) -> list[str]:
    """Return the lines of a file without what differs from one ANALYZE to the next."""
    text = re.sub(r"\b(cost|rows|width)=[\d.]+", r"\1=#", text)
    return re.sub(r"\bcost \S+ -> [\d.e+]+", "cost # -> #", text).splitlines()


def read(code: str) -> sa.Select:
    return eval(code, dict(NAMES))


def run(database: Database, code: str) -> tuple[str, str]:
    """Run a statement, and return the SQL that the server got and the plan that it prints for it.

    Only the white space at the ends of the lines is taken away.
    """
    engine = sa.create_engine(database.url_for("psycopg2"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        with connection.execute(read(code)) as result:
            sql = result.cursor.query.decode()
        literally = connection.execution_options(no_parameters=True)
        plan = literally.exec_driver_sql(f"EXPLAIN {sql}").scalars().all()
    return "\n".join(line.rstrip() for line in sql.splitlines()), "\n".join(plan)


def make_example(database: Database, watch: Callable[..., Any], rule: str) -> dict[str, str]:
    """Follow the advice of a rule on a database, and return what the rule's page shows of that."""
    case = CASES[rule]
    fixed = case.rewritten or case.statement
    sql, before = run(database, case.statement)
    assert "Seq Scan" in before
    assert "Index Cond: " not in before

    findings = watch(database.url, PLANWATCH_VERIFY="build").ask(read(case.statement))
    assert [finding.rule for finding in findings] == [rule]
    advice = findings[0].advice[0]
    assert bool(advice.ddl) != bool(case.rewritten), f"the advice is {advice.summary}"
    database.execute(*advice.ddl, "ANALYZE")

    fixed_sql, after = run(database, fixed)
    assert "Seq Scan" not in after
    assert "Index Cond: " in after
    for ddl in advice.ddl:
        assert f" {ddl.removeprefix('CREATE INDEX CONCURRENTLY ').split()[0]} " in after
    assert watch(database.url).ask(read(fixed)) == []

    example = {"sqlalchemy": case.statement, "sql": sql, "before": before}
    if advice.ddl:
        example |= {"ddl": ";\n".join(advice.ddl), "verdict": str(advice.verdict)}
    else:
        example |= {"rewrite": advice.summary, "verdict": str(advice.verdict)}
        example |= {"rewritten_sqlalchemy": fixed, "rewritten_sql": fixed_sql}
    return example | {"after": after}


def as_toml(example: dict[str, str]) -> str:
    lead = "# Written by tests/test_docs_plans.py: see docs/contributing.rst.\n"
    return lead + "".join(f"\n{key} = '''\n{value}\n'''\n" for key, value in example.items())


@by_rule
def test_the_plans_are_what_the_server_prints(
    rule: Rule, fresh_story: Database, watch: Callable[..., Any]
) -> None:
    if rule.NAME not in CASES:
        pytest.fail(f"{rule.NAME} has no example: add a statement to CASES, then run {COMMAND}")
    made = as_toml(make_example(fresh_story, watch, rule.NAME))
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
    rules, files = {rule.NAME for rule in RULES}, {path.stem for path in PLANS.glob("*.toml")}
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
        if key in {"verdict", "rewrite"}:
            assert f"\n   {sources.prose(value)}\n" in shown
        else:
            assert value in blocks
    assert len(shown.split("Index Cond: ")) > 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("(cost=0.00..3618.00 rows=500 width=8)", "(cost=0.42..8.44 rows=1 width=132)", True),
        ("the index, cost 3618 -> 8.44", "the index, cost 1.2e+06 -> 9 by", False),
        ("the index, cost 3618 -> 8.44", "the index, cost 1.2e+06 -> 9", True),
        ("Index Cond: (points = 7)", "Index Cond: (points = 8)", False),
        ("Seq Scan on a  (cost=1.00..2.00)", "Index Scan on a  (cost=1.00..2.00)", False),
        ("(cost=1.00..2.00 rows=1 width=8) a", "(cost=1.00..2.00 rows=1 width=8) b", False),
    ],
)
def test_only_estimates_may_differ(one: str, other: str, same: bool) -> None:
    assert (without_estimates(one) == without_estimates(other)) == same


def test_contributors_are_told_how_to_write_the_files() -> None:
    assert f"   $ {COMMAND}\n" in page("contributing")
