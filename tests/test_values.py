"""Each rule, each fix and each form of advice is made of marked values, and shows none of them.

That there is a case for each is found out by running them: a new rule, a new fix or a new field
of what leaves PlanWatch has none, and fails here.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select

from flask_planwatch import finding as findings
from flask_planwatch.finding import Advice, Dismissal, Finding, Inspection, Skip, Verdict
from flask_planwatch.fixes import FIXES, OF_INDEX_SET, answers
from flask_planwatch.report.log import extra
from flask_planwatch.report.telemetry import span_attributes
from flask_planwatch.rules import RULES
from flask_planwatch.signals import finding_detected, finding_resolved, statement_inspected

from .any_statement import WORD
from .conftest import stories_database
from .databases import Database
from .rules.case import said_by
from .stories import (
    HUGE,
    STATISTICS_TARGET,
    Address,
    Brand,
    Delivery,
    Event,
    Job,
    Post,
    Product,
    Run,
    Stack,
    Task,
    WorkerPool,
    feed,
    pending_runs,
    visible_amount,
)
from .test_privacy import TALKATIVE, Everything, marks_in, texts

pytestmark = pytest.mark.slow

#: A number that bears a mark.
NUMBER = 918273645

#: What makes the values of the stories' rows bear marks.
SETUP = (
    # The plans of all runs are the same.
    f"SET default_statistics_target = {STATISTICS_TARGET}",
    f"UPDATE product SET state = '{WORD} active' WHERE state = 'active'",
    f"UPDATE brand SET status = '{WORD} active' WHERE status = 'active'",
    "VACUUM (FREEZE, ANALYZE) product, brand",
    f"""UPDATE event SET data = data || jsonb_build_object('type', '{WORD} ' || (data ->> 'type'))
        WHERE data ->> 'type' <> 'view'""",
    "VACUUM (FREEZE, ANALYZE) event",
    f"UPDATE address SET city = '{WORD} City', zip = '{WORD} zip' WHERE city = 'City 0'",
    "ALTER TABLE address ADD COLUMN tags text[] DEFAULT '{all}'",
    "ANALYZE address",
    f"UPDATE task SET state = '{WORD} open' WHERE state = 'open'",
    f"INSERT INTO job SELECT g, 1, '{WORD} waiting' FROM generate_series(100001, 130000) g",
    "DELETE FROM job WHERE id > 100000 AND id % 200 <> 1",
    "ANALYZE job",
    f"UPDATE invoice SET tenant_id = {NUMBER} WHERE tenant_id = 100003",
    "ANALYZE invoice",
)

heavy = (
    select(func.count())
    .select_from(Address)
    .join(Delivery, Delivery.depot_id == Address.depot_id)
    .where(Delivery.weight == 99)
)
count_of_tasks = (
    select(func.count())
    .select_from(Task)
    .join(Delivery, Delivery.depot_id == Task.depot_id)
    .where(Delivery.weight == 99)
)
tail = sa.literal(f" {WORD} tail", sa.Text)
kinds = [f"{WORD} {name}" for name in ("click", "change", "touch")]
beside_much = sa.union_all(
    select(Address.id).where(Address.city == f"{WORD} City"), select(Product.id)
).subquery()
in_order = select(Address.id).order_by(Address.city + tail).limit(5)
tagged = sa.text("SELECT id FROM address WHERE CAST(:value AS text) = ANY (tags)")
tagged_with = sa.text(
    "SELECT id FROM address "
    "WHERE CAST(:value AS text) = ANY (array_append(tags, CAST(:more AS text)))"
)


@dataclasses.dataclass(frozen=True)
class Case:
    """Statements that are run so often, with these settings."""

    statements: tuple[Any, ...]
    times: int = 1
    driver: str = "psycopg2"
    prepared: bool = False
    timeout_ms: int | None = None
    fails: bool = False
    config: dict[str, Any] = dataclasses.field(default_factory=dict)


ANALYZE = {"PLANWATCH_ANALYZE": True}

#: For each stack; the pools have nothing to do with them.
latest = (
    select(func.max(Run.created_at))
    .where(Run.stack_id == Stack.id, Run.id < NUMBER)
    .scalar_subquery()
)

CASES = {
    "another type": Case(
        (select(Run.id).where(Run.stack_id == sa.literal(Decimal("918273.645"), sa.Numeric)),)
    ),
    "a pattern": Case((select(Address.id).where(Address.city.like(f"%{WORD}%")),)),
    "a pattern on an expression": Case(
        (select(Address.id).where((Address.city + tail).like(f"%{WORD}%")),)
    ),
    "an element": Case(
        (
            tagged.bindparams(value=WORD),
            tagged_with.bindparams(value=WORD, more=f"{WORD} more"),
        )
    ),
    "an index that holds all": Case(
        (select(Event.user_id, Event.time).where(Event.data["type"].astext.in_(kinds)),)
    ),
    "a LIMIT": Case(
        (
            feed.where(Product.state == f"{WORD} active"),
            feed.where(Product.state != f"{WORD} draft", Product.state != "draft"),
            feed.join(Brand, Brand.id == Product.brand_id).where(
                Brand.status == f"{WORD} active",
                sa.exists().where(Post.product_id == Product.id, Post.id < NUMBER),
            ),
        ),
        config=ANALYZE,
    ),
    "an expression": Case(
        (
            select(Address.id).where(func.lower(Address.city) == f"{WORD} lower"),
            select(Address.id).where(Address.city + tail == f"{WORD} City {WORD} tail"),
            select(Run.id).where(func.nullif(Run.stack_id, NUMBER) == NUMBER),
            select(Address.id).where(func.concat(Address.city, tail) == f"{WORD} City"),
        )
    ),
    "columns": Case(
        (
            select(Address.id).where(Address.city == f"{WORD} City"),
            select(Address.id).where(Address.city == f"{WORD} City").order_by(Address.zip + tail),
            select(Address.id).where(Address.city != f"{WORD} City", Address.depot_id == 99),
            in_order,
            # An index is tried and saves too little.
            select(func.count()).select_from(beside_much),
            select(Address.city + tail, func.count()).group_by(Address.city + tail),
        )
    ),
    "an order that is only counted": Case(
        tuple(
            select(func.count()).select_from(
                select(Address.id).where(Address.city != f"{WORD} City").order_by(*order).subquery()
            )
            for order in ((Address.depot_id,), (Address.city == f"{WORD} City", Address.depot_id))
        )
    ),
    "a sub-query, and bitmaps": Case(
        (
            pending_runs.where(Run.id < NUMBER),
            pending_runs.where(func.coalesce(Run.worker_id, NUMBER) == NUMBER),
        ),
        config=ANALYZE,
    ),
    "a join without a condition": Case(
        (select(Stack.id, latest).join(WorkerPool, sa.true()).where(Stack.id <= 50),)
    ),
    "rows of columns": Case(
        (
            heavy.where(Address.city == f"{WORD} City", Address.zip == f"{WORD} zip"),
            # It is not run once more.
            heavy.where(Address.city == f"{WORD} City", func.random() >= 0),
        ),
        config=ANALYZE,
    ),
    "rows of expressions": Case(
        (
            heavy.where(
                Address.city + tail == f"{WORD} City {WORD} tail",
                Address.zip + tail == f"{WORD} zip {WORD} tail",
            ),
        ),
        config=ANALYZE,
    ),
    "rows that came later": Case(
        (count_of_tasks.where(Task.state == f"{WORD} open"),), config=ANALYZE
    ),
    "dead rows": Case(
        (select(func.count()).select_from(Job).where(Job.state == f"{WORD} waiting"),),
        config=ANALYZE,
    ),
    "a generic plan": Case(
        (
            *[visible_amount((False, HUGE))] * 10,
            *[visible_amount((False, NUMBER))] * 4,
        ),
        driver="psycopg",
        prepared=True,
    ),
    "a time": Case((feed.where(Product.state == f"{WORD} active"),), times=4),
    "a failure": Case(
        (
            select(Address.id).where(
                func.lower(Address.city) == f"{WORD} lower", func.pg_sleep(0.01).is_not(None)
            ),
        ),
        timeout_ms=5,
        fails=True,
    ),
    "an error": Case(
        (select(Run.id).where(Run.id == sa.cast(sa.literal(WORD, sa.Text), sa.Integer)),),
        fails=True,
    ),
}

#: A rule's own tests may name its statements with marked values.
CASES |= {rule: Case(said_by(rule, "MARKED")) for rule in RULES if said_by(rule, "MARKED")}

#: How the values reach the server, and what the advice is tried by.
FORMS = {"parameters": "build", "literals": "off"}


@pytest.fixture(scope="module")
def marked(server: Any, stories_templates: Any) -> Iterator[Database]:
    """A copy of the stories' database with marks in its values."""
    for database in stories_database(server, stories_templates(server)):
        database.execute(*SETUP)
        yield database


@dataclasses.dataclass
class Seen:
    """What all cases have come by: names of rules, fixes, and fields that had something in."""

    rules: set[str] = dataclasses.field(default_factory=set)
    fixes: set[str] = dataclasses.field(default_factory=set)
    fields: set[str] = dataclasses.field(default_factory=set)
    forms: set[tuple[str, str]] = dataclasses.field(default_factory=set)

    def receive(self, sender: Any, inspection: Inspection) -> None:
        self._look(inspection)
        self.rules |= {one.rule for one in inspection.findings}

    def _look(self, one: Any) -> None:
        """Note the fields of this object, and of those in it, that are not empty."""
        if isinstance(one, tuple):
            for part in one:
                self._look(part)
        elif type(one) in LEAVING:
            for field in dataclasses.fields(one):
                value = getattr(one, field.name)
                if value not in ((), "", None, {}, frozenset()):
                    self.fields.add(f"{type(one).__name__}.{field.name}")
                self._look(value)


#: What leaves PlanWatch, but for its plan.
LEAVING = (Inspection, Finding, Advice, Verdict, Dismissal, Skip)


@pytest.fixture(scope="module")
def seen() -> Seen:
    return Seen()


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch, seen: Seen) -> None:
    """Take note of what is asked for the hits."""
    original = answers.Answers.on

    def on(self: Any, case: Any, hits: Any) -> Any:
        seen.fixes |= {hit.fix for hit in hits}
        return original(self, case, hits)

    monkeypatch.setattr(answers.Answers, "on", on)


def in_form(statement: Any, form: str) -> Any:
    """Return a statement with its values as parameters, or as literals in its text."""
    if form == "parameters":
        return statement
    dialect = sa.dialects.postgresql.dialect(paramstyle="named")
    text = str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    return sa.text(text.replace(":", "\\:"))


def run(watched: Any, case: Case, form: str) -> None:
    session = watched.db.session
    with watched.app.app_context():
        for statement in case.statements * case.times:
            if case.timeout_ms is not None:
                session.execute(sa.text(f"SET LOCAL statement_timeout = {case.timeout_ms}"))
            try:
                session.execute(in_form(statement, form)).all()
                assert not case.fails
            except sa.exc.DBAPIError:
                assert case.fails
                session.rollback()
            session.commit()
            assert case.prepared or watched.planwatch.flush(120)
        session.remove()
    assert watched.planwatch.flush(120)


@pytest.mark.usefixtures("spied")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_no_value_is_shown(marked: Database, watch: Any, seen: Seen, name: str, form: str) -> None:
    case = CASES[name]
    everything = Everything()
    root = logging.getLogger()
    level = root.level
    config = {"PLANWATCH_VERIFY": FORMS[form], "PLANWATCH_GROWTH": True} | case.config
    watched = watch(marked.url_for(case.driver), **TALKATIVE | config)
    for signal in (finding_detected, finding_resolved, statement_inspected):
        signal.connect(everything.receive, watched.app)
    statement_inspected.connect(seen.receive, watched.app)
    root.addHandler(everything)
    root.setLevel(logging.DEBUG)
    try:
        run(watched, case, form)
    finally:
        root.removeHandler(everything)
        root.setLevel(level)
    found = watched.planwatch.findings()
    for one in found:
        for rendering in RENDERINGS:
            everything.said += texts(rendering(one))
    everything.said += [*texts(found), *texts(watched.planwatch.stats())]
    assert watched.planwatch.stats()["errors"] == 0
    assert not marks_in(everything.said)
    seen.forms.add((name, form))


#: What is made of a finding for people and programs.
RENDERINGS: tuple[Callable[[Finding], Any], ...] = (repr, extra, span_attributes)


@pytest.mark.usefixtures("spied")
@pytest.mark.parametrize("value", ["1", "0", "", "+", "{}"])
def test_no_value_is_shown_however_short(
    marked: Database, watch: Any, seen: Seen, value: str
) -> None:
    """Where a constant is compared, it is a value, though it may stand for nothing elsewhere."""
    marked.execute(
        "DROP TABLE IF EXISTS patient",
        "CREATE TABLE patient (id serial PRIMARY KEY, hiv text, at integer)",
        f"""INSERT INTO patient (hiv, at)
            SELECT CASE g % 500 WHEN 0 THEN 'other' ELSE '{value}' END, g * 7 % 20011
            FROM generate_series(1, 30000) g""",
        "VACUUM ANALYZE patient",
    )
    hiv = sa.column("hiv", sa.Text)
    rows = select(sa.column("id", sa.Integer)).select_from(sa.table("patient"))
    statements = (
        rows.where(hiv != value).order_by(sa.column("at")).limit(10),
        rows.where(hiv.not_in([value, "unknown"])).order_by(sa.column("at")).limit(10),
        rows.where((hiv != value) | (hiv == "unknown")).order_by(sa.column("at")).limit(10),
        rows.where((hiv == value) | (hiv == "unknown")),
        rows.where(func.coalesce(hiv == value, False)),
        rows.order_by(hiv == value, sa.column("at")).limit(5),
    )
    compared = re.compile(rf"(?:[=~>(\[]|WHEN|FROM|,) '{{?\"?{re.escape(value)}\"?[,'}}]")
    for statement in statements:
        everything = Everything()
        watched = watch(marked.url_for("psycopg2"), **TALKATIVE | {"PLANWATCH_VERIFY": "build"})
        statement_inspected.connect(everything.receive, watched.app)
        run(watched, Case((statement,)), "literals")
        for one in watched.planwatch.findings():
            everything.said += [text for made in RENDERINGS for text in texts(made(one))]
        assert not [text for text in everything.said if compared.search(text)], statement
        assert everything.said


def test_there_is_a_case_for_each(seen: Seen) -> None:
    """Of all rules, fixes, and fields of what leaves: add a case for what is named here."""
    if len(seen.forms) < len(CASES) * len(FORMS):
        pytest.skip("this looks at what all the cases have come by")
    assert set(RULES) == seen.rules
    assert FIXES.keys() | OF_INDEX_SET == seen.fixes
    fields = {
        f"{one.__name__}.{field.name}" for one in LEAVING for field in dataclasses.fields(one)
    }
    assert fields - seen.fields <= WITHOUT_VALUES
    parts = {one for one in vars(findings).values() if dataclasses.is_dataclass(one)}
    known = {*LEAVING, findings.Location, findings.Statement}
    assert parts - known <= {findings.StatementError}


#: Fields that these cases leave empty: outside a request there is none, and the share of the time
#: is a number that the store adds.
WITHOUT_VALUES = {
    "Inspection.endpoint",
    "Finding.endpoint",
    "Advice.time_share",
    "Finding.time_share",
}
