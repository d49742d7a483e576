"""One index for several statements is preferred, whatever rule asked for it."""

from __future__ import annotations

import logging

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_planwatch import VerdictStatus

from .cases import first
from .stories import Event, Product, active_feed

PARCELS = (
    "CREATE TABLE parcel (depot int, courier int, weight int) WITH (parallel_workers = 0)",
    "INSERT INTO parcel SELECT g % 16, (g + 1) % 15, g % 1000 FROM generate_series(1, 240000) g",
    "CREATE INDEX parcel_depot ON parcel (depot)",
    "CREATE INDEX parcel_courier ON parcel (courier)",
    "VACUUM ANALYZE parcel",
)

retired = select(Product).where(Product.state == "retired")
unknown_kind = select(func.count()).where(Product.kind == 7)
active_kind = active_feed.where(Product.kind == 1)
few_of_brand = select(func.count()).where(
    Product.kind == 7, Product.state == "active", Product.brand_id == 3
)
rounds = sa.text("SELECT count(*) FROM parcel WHERE depot = 1 AND courier = 2")
light_rounds = sa.text("SELECT * FROM parcel WHERE depot = 1 AND courier = 2 AND weight = 7")
lightest = sa.text("SELECT * FROM parcel WHERE courier = 3 ORDER BY weight LIMIT 5")

event_type = Event.data["type"].astext
clicking = select(Event.user_id).where(event_type == "click", Event.user_id < 900)
acting = select(Event.time).where(event_type != "view", Event.user_id < 900)
last_click = (
    select(Event.user_id, func.max(Event.time))
    .where(event_type == "click")
    .group_by(Event.user_id)
)  # fmt: skip


@pytest.fixture
def watched(fresh_stories, watch):
    return watch(fresh_stories.url, PLANWATCH_VERIFY="build", PLANWATCH_ANALYZE=True)


def prepare(database, statements):
    """Create the table that is none of the stories', if it is asked for."""
    if any("parcel" in str(statement) for statement in statements):
        database.execute(*PARCELS)


def advised(findings):
    """Return the keys of the index that is advised for each finding, by its rule."""
    indexes = {}
    for finding in findings:
        advice = finding.advice[0]
        assert advice.verdict.status is VerdictStatus.VERIFIED, finding
        assert advice.verdict.proof, finding
        indexes.setdefault(finding.rule, set()).add(advice.ddl[0].partition(" ON ")[2])
    return indexes


#: Both are compared for equality; which comes first is a matter of sampling.
EITHER_ORDER = {"parcel (depot, courier, weight)", "parcel (courier, depot, weight)"}

#: Two statements, the rules that ask for an index for them, and the one that serves both.
SHARED = {
    "the order of one, the value of the other": (
        (active_feed, retired),
        {"limit-trap", "missing-index"},
        "product (state, id)",
    ),
    "a column that comes first only for the other": (
        (active_kind, unknown_kind),
        {"limit-trap", "missing-index"},
        "product (kind, state, id)",
    ),
    "one column more": (
        (rounds, light_rounds),
        {"bitmap-overread", "missing-index"},
        EITHER_ORDER,
    ),
    "one column more that is only carried": (
        (clicking, last_click),
        {"index-only-blocked"},
        "event (user_id) INCLUDE (\"time\") WHERE (data ->> 'type') = 'click'",
    ),
}


@pytest.mark.parametrize("turned", [False, True], ids=["in turn", "turned"])
@pytest.mark.parametrize("name", first(1, SHARED))
def test_one_index_for_two_statements(fresh_stories, watched, name, turned):
    statements, rules, equal = SHARED[name]
    prepare(fresh_stories, statements)
    for statement in 2 * (statements[::-1] if turned else statements):
        findings = watched.ask(statement)
    found = advised(findings)
    assert found.keys() == rules
    assert len(set.union(*found.values())) == 1, found
    (index,) = set.union(*found.values())
    assert index in ({equal} if isinstance(equal, str) else equal)
    assert len({finding.fingerprint for finding in findings}) == 2
    fresh_stories.execute(*findings[0].advice[0].ddl, "VACUUM ANALYZE")
    for statement in statements:
        findings = watched.ask(statement)
    assert findings == []


light = sa.text("SELECT * FROM parcel WHERE weight = 3")
light_of_one = sa.text("SELECT * FROM parcel WHERE weight = 3 AND courier = 4")


@pytest.mark.parametrize("verify", ["off", pytest.param("build", marks=pytest.mark.slow)])
def test_an_earlier_statement_shares_the_index_at_its_next_execution(fresh_stories, watch, verify):
    fresh_stories.execute(*PARCELS)
    watched = watch(
        fresh_stories.url,
        PLANWATCH_VERIFY=verify,
        PLANWATCH_SAMPLE_INTERVAL=3600,
        PLANWATCH_SLOW_STATEMENT_MS=600_000,
    )

    def inspected():
        """Return the index that is advised for each statement, and how many were inspected."""
        findings = watched.findings()
        advice = {str(finding.statement.text): finding.advice[0] for finding in findings}
        return [advice[text] for text in sorted(advice, key=len)], watched.planwatch.stats()[
            "inspected"
        ]

    for statement in (light, light_of_one, light_of_one):
        watched.ask(statement)
    (first, second), count = inspected()
    assert (first.index, second.index) == ("ix_parcel_weight", "ix_parcel_weight_courier")
    assert second.replaces == ("ix_parcel_weight",)
    assert "ix_parcel_weight, advised before" in second.explanation
    assert count == 2
    for statement in 2 * (light, light_of_one):
        watched.ask(statement)
    (first, second), count = inspected()
    assert first.index == second.index == "ix_parcel_weight_courier"
    assert first.replaces == ("ix_parcel_weight",)
    status = VerdictStatus.VERIFIED if verify == "build" else VerdictStatus.UNTESTED
    assert first.verdict.status is second.verdict.status is status
    assert count == 3


#: Two statements that each need an index of their own.
APART = {
    "another condition": (
        (clicking, acting),
        {
            "event (user_id) WHERE (data ->> 'type') = 'click'",
            "event (user_id) INCLUDE (\"time\") WHERE (data ->> 'type') <> 'view'",
        },
    ),
    "another order": (
        (active_kind, few_of_brand),
        {"product (state, kind, id)", "product (brand_id, kind, state)"},
    ),
    "another first column": (
        (rounds, lightest),
        {"parcel (depot, courier)", "parcel (courier, weight)"},
    ),
}


@pytest.mark.parametrize("turned", [False, True], ids=["in turn", "turned"])
@pytest.mark.parametrize("name", first(1, APART))
def test_two_indexes_where_no_single_one_serves(fresh_stories, watched, name, turned):
    statements, indexes = APART[name]
    prepare(fresh_stories, statements)
    for statement in 2 * (statements[::-1] if turned else statements):
        findings = watched.ask(statement)
    assert set().union(*advised(findings).values()) == indexes


@pytest.mark.parametrize("turned", [False, True])
def test_one_index_for_two_statements_on_a_small_table(fresh_stories, watch, turned):
    """It costs nothing yet, and is advised where PLANWATCH_GROWTH asks for it."""
    fresh_stories.execute(
        "CREATE TABLE shelf (id int PRIMARY KEY, hall int, bay int)",
        "INSERT INTO shelf SELECT g, g % 20, g % 30 FROM generate_series(1, 600) g",
        "VACUUM ANALYZE shelf",
    )
    watched = watch(fresh_stories.url, PLANWATCH_VERIFY="build", PLANWATCH_GROWTH=True)
    both = [
        sa.text("SELECT id FROM shelf WHERE hall = 3 AND bay = 2"),
        sa.text("SELECT id FROM shelf WHERE bay = 5"),
    ]
    for statement in (both[::-1] if turned else both) * 2:
        watched.ask(statement)
    findings = watched.planwatch.findings(watched.app)
    assert len(findings) == 2
    advice = {finding.advice[0].ddl[0].partition(" ON ")[2] for finding in findings}
    assert advice == {"shelf (bay, hall)"}


def test_one_index_for_two_findings_of_a_statement(fresh_stories, watched):
    prepare(fresh_stories, [light_rounds])
    indexes = advised(watched.ask(light_rounds))
    assert indexes.keys() == {"missing-index", "bitmap-overread"}
    (index,) = set.union(*indexes.values())
    assert index in EITHER_ORDER


def test_the_log_counts_the_statements_of_all_rules(watched, caplog):
    caplog.set_level(logging.INFO, logger="flask_planwatch")
    for statement in (active_feed, retired):
        watched.ask(statement)

    def logged():
        return [record for record in caplog.records if hasattr(record, "planwatch_statements")]

    (record,) = logged()
    assert (record.planwatch_rule, record.planwatch_statements) == ("limit-trap", 1)
    # Once the interval is over, it says how many there are now.
    watched.app.extensions["planwatch"]._log._clock = lambda: float("inf")
    watched.ask(retired)
    _, again = logged()
    assert (again.planwatch_rule, again.planwatch_statements) == ("missing-index", 2)
    assert "for 2 statements" in again.getMessage()


def test_indexes_of_two_methods_on_one_column_have_two_names(fresh_stories, watch):
    """Also if neither knows of the other, as one that was not tried is not proposed again."""
    watched = watch(fresh_stories.url)
    fresh_stories.execute(
        "CREATE TABLE stay (nights int4range, guest int)",
        "INSERT INTO stay SELECT int4range(g, g + 2), g FROM generate_series(1, 20000) g",
        "VACUUM ANALYZE stay",
    )
    watched.ask(sa.text("SELECT * FROM stay WHERE nights @> 7"))
    findings = watched.ask(sa.text("SELECT * FROM stay WHERE nights = int4range(7, 9)"))
    ddl = [statement for finding in findings for statement in finding.advice[0].ddl]
    fresh_stories.execute(*ddl)
    created = fresh_stories.scalar(
        "SELECT string_agg(indexname, ' ' ORDER BY indexname) FROM pg_indexes "
        "WHERE tablename = 'stay'"
    )
    assert created == "ix_stay_nights ix_stay_nights_gist"


class Base(DeclarativeBase):
    """Classes of an application whose last migration was not run."""


class Ware(Base):
    __tablename__ = "product"

    id: Mapped[int] = mapped_column(primary_key=True)
    brand_id: Mapped[int] = mapped_column(sa.SmallInteger)
    kind: Mapped[int] = mapped_column(sa.SmallInteger)
    state: Mapped[str]


sa.Index("ware_by_state", Ware.state, Ware.id, Ware.kind)


def test_an_index_that_the_models_declare(watched):
    """It holds a column more than the statement needs."""
    wares = select(Ware).where(Ware.id >= 1, Ware.state == "active")
    (finding,) = watched.ask(wares.order_by(Ware.id).limit(100))
    assert finding.rule == "limit-trap"
    assert advised([finding]) == {"limit-trap": {"product (state, id, kind)"}}
    assert "ware_by_state" in finding.advice[0].summary
    assert "ware_by_state is declared in" in finding.problem
