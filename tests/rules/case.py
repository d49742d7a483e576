"""What one row of a rule's table says.

A row is a statement, and what people must read of it::

    SPEAKS = [
        speaks(
            "equality",
            select(User).where(User.first == "First7"),
            about='first on "user"',
            fix='CREATE INDEX CONCURRENTLY ix_user_first ON "user" (first)',
            proof=(
                "first was tested row by row and is now an index condition",
                'Seq Scan on "user" became Index Scan using ix_user_first on "user"',
            ),
        ),
    ]
    SILENT = [silent("primary key", select(User).where(User.id == 7))]

Texts are literal, but for `…`, which stands for anything, and ` | `, which stands between texts
that are equally good. A test hands a row to the fixture `rule`, which is the rule that its module
names, in an app on each server in turn::

    RULE = Rule("missing-index", USERS)


    @rows(SPEAKS, quick=10)
    def test_speaks(rule, case):
        rule.check(case)


    @rows(followed(SPEAKS), quick=4)
    def test_falls_silent_after_the_fix(rule, case):
        rule.check_fix(case)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import pytest
import sqlalchemy as sa

from .. import models, stories
from ..databases import Database, make_database, template
from ..servers import FIRST, Server

DRIVERS = ("psycopg2", "psycopg")

#: Marks a test that asks each server through each driver, in place of its usual one.
each_driver = pytest.mark.parametrize("driver", DRIVERS, indirect=True)


def through(driver: str) -> pytest.MarkDecorator:
    """Mark a test that is about one driver."""
    return pytest.mark.parametrize("driver", [driver], indirect=True)


#: Marks a test for which one server is enough.
on_first_server = pytest.mark.parametrize("any_server", [FIRST], indirect=True)


@dataclass(frozen=True)
class Tables:
    """Tables with their rows: `fill` makes them once in a run, on top of those of `base`.

    `age` is run on each copy, for what the server does not copy.
    """

    name: str
    fill: Callable[[Database], None]
    base: Tables | None = None
    age: Callable[[str], None] = lambda url: None

    def template(self, server: Server) -> str:
        """Return the name of the filled database."""
        base = self.base.template(server) if self.base else None
        return template(server, self.name, self.fill, base)

    def copy(self, server: Server) -> Iterator[Database]:
        """Make a copy of the filled database, and drop it."""
        for database in make_database(server, self.template(server)):
            self.age(database.url)
            yield database


#: 100 000 users, forty badges, orders in partitions, and a table without a class.
USERS = Tables("story", models.fill)

#: The tables of stories 2 to 5.
STORIES = Tables("stories", stories.fill, age=stories.age)


@dataclass(frozen=True)
class Rule:
    """A rule, and the tables that the statements of its rows read.

    Each statement runs `runs` times before it is judged. `beside` are other rules that may speak
    of it as well, `settings` are those of the app. `driver` is the one that a server is asked
    through where one is enough; if it is None, another one on each server.
    """

    name: str
    tables: Tables
    runs: int = 1
    beside: Sequence[str] = ()
    driver: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)


def said_by(rule: str, name: str) -> Any:
    """Return what a rule's tests say under a name, EXAMPLE or MARKED; None if they do not."""
    return getattr(import_module(f".test_{rule.replace('-', '_')}", __package__), name, None)


@dataclass(frozen=True)
class Example:
    """A statement that a rule speaks on, as the SQLAlchemy code that its page shows.

    tests/test_docs_plans.py follows its advice, and has the names that the code may use.

    `rewritten` is what the advice makes of it, where that is not DDL. The plan before has `gone`
    in it and the one after has not, the plan after has `new`. `values` are what `value` stands for
    in the statement, one execution after the other. `config` are settings of PlanWatch; where it
    may analyse, so do the plans that are shown. A statement `of_stories` reads the tables of
    stories 2 to 5; one that is `prepared` goes through psycopg 3. One that
    `fails` gets no time.
    """

    statement: str
    rewritten: str = ""
    gone: str = "Seq Scan"
    new: str = "Index Cond: "
    values: tuple[Any, ...] = (None,)
    config: Mapping[str, Any] = field(default_factory=dict)
    of_stories: bool = False
    prepared: bool = False
    fails: bool = False

    @property
    def driver(self) -> str:
        return "psycopg" if self.prepared else "psycopg2"


@dataclass(frozen=True)
class Case:
    """One row, as speaks(), silent() and silenced() make it. Its columns:

    `about`: the subject and its table, as `Finding.about` has them. Where the drivers differ, it is
    a dict by driver, and a driver that is not in it is not asked.
    `severity`: where it matters.
    `problem`: parts of the sentences that say what is wrong. `evidence`: some of its facts.
    `fix`: each advice in turn: its DDL, or its summary if it is none.
    `code`, `why`: parts of the first advice in SQLAlchemy's form, and of its explanation.
    `proof`: what a trial of the first advice shows: the lines of its proof, or the verdict with its
    reason where there are no lines. `saves`: how many times cheaper the statement becomes.
    `rewritten`: the statement once an advice that is no DDL was followed.
    `reason`: why a problem that was suspected is none.
    `setup`: what is run on a copy of the database before. `by`: what ends the problem.
    `beside`: other rules that may speak of the statement until then, or of the rewritten one.
    `runs`, `settings`: in place of those of the rule. `each_driver`: as the mark of this name.
    """

    name: str
    statement: sa.Executable
    found: bool
    about: str | Mapping[str, str] = "…"
    severity: str = "…"
    problem: Sequence[str] = ()
    evidence: Mapping[str, object] = field(default_factory=dict)
    fix: Sequence[str] | None = None
    code: Sequence[str] = ()
    why: Sequence[str] = ()
    proof: Sequence[str] | None = None
    saves: float | None = None
    rewritten: sa.Executable | None = None
    reason: str | None = None
    setup: Sequence[str] = ()
    by: Sequence[str] = ()
    beside: Sequence[str] = ()
    runs: int | None = None
    each_driver: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def can_be_followed(self) -> bool:
        """Whether the row has a fix that is DDL, or the statement that the fix makes."""
        return self.rewritten is not None or any(
            text.split(" ")[0].isupper() for text in self.fix or ()
        )


def speaks(name: str, statement: sa.Executable, **columns: Any) -> Case:
    """Say that the rule finds one problem in a statement; what is in capitals is a setting."""
    return _case(name, statement, True, columns)


def silent(name: str, statement: sa.Executable, **columns: Any) -> Case:
    """Say that the rule finds no problem in a statement."""
    return _case(name, statement, False, columns)


def silenced(
    name: str, statement: sa.Executable, *, by: str | Sequence[str], **columns: Any
) -> Case:
    """Say that the rule finds a problem in a statement until the DDL `by` was run."""
    return _case(name, statement, True, {"by": by, **columns})


def with_settings(cases: Iterable[Case], **settings: object) -> list[Case]:
    """Return the same rows for an app with other settings."""
    return [replace(case, settings={**case.settings, **settings}) for case in cases]


def followed(cases: Iterable[Case]) -> list[Case]:
    """Return the rows with a fix that a test can follow."""
    return [case for case in cases if case.can_be_followed]


def rows(
    cases: Sequence[Case], *, quick: int | None = None, each_driver: bool = False
) -> pytest.MarkDecorator:
    """Run a test once for each row; all but the first `quick` ones are marked as slow.

    `each_driver`: the rows are checked as if each of them said so.
    """
    params = []
    for number, case in enumerate(cases):
        marks = () if quick is None or number < quick else pytest.mark.slow
        drivers: Sequence[str | None] = (None,)
        if not isinstance(case.about, str):
            drivers = list(case.about)
        elif each_driver or case.each_driver:
            drivers = DRIVERS
        for driver in drivers:
            name = f"{case.name}-{driver}" if driver else case.name
            params.append(pytest.param(case, driver, id=name, marks=marks))
    return pytest.mark.parametrize(("case", "driver"), params, indirect=["driver"])


def set_for_all(setting: str, value: object) -> str:
    """Return what sets a setting for all later connections to the database, as a `setup`."""
    return (
        "DO $$ BEGIN EXECUTE format("
        f"'ALTER DATABASE %I SET {setting} = ''{value}''', current_database()); END $$"
    )


def _case(name: str, statement: sa.Executable, found: bool, columns: dict[str, Any]) -> Case:
    settings = {key: columns.pop(key) for key in list(columns) if key.isupper()}
    for key in ("problem", "fix", "code", "why", "proof", "setup", "by", "beside"):
        if isinstance(columns.get(key), str):
            columns[key] = (columns[key],)
    return Case(name, statement, found, settings=settings, **columns)
