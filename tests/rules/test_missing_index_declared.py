"""missing-index: the models declare an index that the database does not have."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from .case import Rule, Tables, rows, speaks, with_settings
from .rule_in_app import run


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


def fill(database):
    database.execute(
        "CREATE TABLE parcel (id int PRIMARY KEY, sender int, code text, town text, street text)",
        "INSERT INTO parcel SELECT g, g % 5000, 'c' || g, 't' || g % 300, 's' || g % 7000 "
        "FROM generate_series(1, 60000) g",
        "VACUUM ANALYZE parcel",
    )
    database.install_hypopg()


RULE = Rule("missing-index", Tables("parcels", fill), settings={"PLANWATCH_VERIFY": "build"})

NOT_THERE = "declared in Parcel.__table__ but missing in the database: a migration has not been run"

SPEAKS = [
    speaks(
        "index=True",
        sa.select(Parcel).where(Parcel.sender == 7),
        problem=f"The index ix_parcel_sender is {NOT_THERE}",
        fix="CREATE INDEX CONCURRENTLY ix_parcel_sender ON parcel (sender)",
        proof=(
            "sender was tested row by row and is now an index condition",
            "Seq Scan on parcel became Bitmap Heap Scan on parcel",
        ),
    ),
    speaks(
        "several columns",
        sa.select(Parcel).where(Parcel.town == "t7", Parcel.street == "s7"),
        problem=f"The index ix_of_place is {NOT_THERE}",
        fix="CREATE INDEX CONCURRENTLY ix_of_place ON parcel (town, street)",
        proof=(
            "town and street became index conditions",
            "Seq Scan on parcel became Index Scan using ix_parcel_town_street on parcel",
        ),
    ),
    speaks(
        "the first of several columns",
        sa.select(Parcel).where(Parcel.town == "t7"),
        problem=f"The index ix_of_place is {NOT_THERE}",
        fix="CREATE INDEX CONCURRENTLY ix_of_place ON parcel (town, street)",
        proof=(
            "town was tested row by row and is now an index condition",
            "Seq Scan on parcel became Bitmap Heap Scan on parcel",
        ),
    ),
    speaks(
        "unique constraint",
        sa.select(Parcel).where(Parcel.code == "c7"),
        problem=f"The index uq_of_code is {NOT_THERE}",
        fix="CREATE UNIQUE INDEX CONCURRENTLY uq_of_code ON parcel (code); ALTER TABLE "
        "parcel ADD CONSTRAINT uq_of_code UNIQUE USING INDEX uq_of_code",
        proof=(
            "code was tested row by row and is now an index condition",
            "Seq Scan on parcel became Index Scan using ix_parcel_code on parcel",
        ),
    ),
]


@rows(SPEAKS, quick=2)
def test_falls_silent_after_the_fix(rule, case):
    rule.check_fix(case)


@rows(with_settings(SPEAKS, PLANWATCH_VERIFY="auto"), quick=0)
def test_speaks_alike_where_nothing_is_built(rule, case):
    rule.check(case)


@pytest.mark.slow
@pytest.mark.parametrize("verify", ["build", "auto"])
def test_an_index_on_an_expression(rule, verify):
    """It is another rule that finds the expression."""
    database = rule.copy()
    app = rule.app(database, PLANWATCH_VERIFY=verify)
    statement = sa.select(Parcel).where(func.lower(Parcel.street) == "s7")
    run(app, statement)
    (finding,) = app.findings()
    assert f"The index ix_of_street is {NOT_THERE}" in finding.problem
    assert finding.advice[0].ddl == (
        "CREATE INDEX CONCURRENTLY ix_of_street ON parcel (lower(street))",
    )
    database.execute(*finding.advice[0].ddl, "ANALYZE parcel")
    run(app, statement)
    assert app.findings() == []
