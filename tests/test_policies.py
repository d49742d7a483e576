"""What the policy of a table compares: no code has it, so that the advice is on the policy."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa

from flask_planwatch import AdviceKind, VerdictStatus

ORGANISATION = uuid.UUID("c4ca4238-a0b9-2382-0dcc-509a6f75849b")

CASTS = "(org_id)::text = NULLIF(current_setting('app.org'::text, true), ''::text)"
ASKS = "org_id::text = (SELECT NULLIF(current_setting('app.org', true), ''))"
ROUNDS = "date_trunc('day', at) = date_trunc('day', current_setting('app.day')::timestamptz)"

ALL_DEALS = sa.text("SELECT id FROM deal")


@pytest.fixture
def deals(any_story, watch):
    """Return what watches the role of a tenant, on a table with one policy."""
    role = f"tenant_{any_story.name}"
    any_story.execute(
        "CREATE TABLE deal (id int PRIMARY KEY, org_id uuid, at timestamptz)",
        "INSERT INTO deal SELECT g, md5((g % 2000)::text)::uuid, "
        "timestamptz '2024-01-01' + g * interval '1 hour' FROM generate_series(1, 20000) g",
        "CREATE INDEX deal_org ON deal (org_id)",
        "CREATE INDEX deal_at ON deal (at)",
        "VACUUM ANALYZE deal",
        "ALTER TABLE deal ENABLE ROW LEVEL SECURITY",
        f"CREATE ROLE {role} LOGIN",
        f"GRANT SELECT ON deal TO {role}",
        f"ALTER ROLE {role} SET app.org = '{ORGANISATION}'",
        f"ALTER ROLE {role} SET app.day = '2024-02-01'",
    )

    def found(policy, statement=ALL_DEALS, **settings):
        any_story.execute(
            "DROP POLICY IF EXISTS own ON deal", f"CREATE POLICY own ON deal USING ({policy})"
        )
        watched = watch(any_story.url_for("psycopg2", username=role), **settings)
        with watched.app.app_context(), watched.db.engine.connect() as connection:
            connection.execute(statement)
        return watched.findings()

    found.database = any_story
    yield found
    any_story.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_the_other_side_is_cast_in_the_policy(deals):
    (finding,) = deals(CASTS)
    assert "The condition comes from the policy own of deal" in finding.problem
    (advice,) = finding.advice
    assert advice.kind is AdviceKind.REWRITE
    assert advice.summary.startswith("in the policy own of deal, compare org_id as uuid: org_id = ")
    assert advice.verdict.status is VerdictStatus.VERIFIED
    assert advice.sqlalchemy == ""
    (alter,) = advice.ddl
    assert alter in advice.alembic
    deals.database.execute(alter)
    using = "SELECT pg_get_expr(polqual, polrelid) FROM pg_policy"
    assert not deals(deals.database.scalar(using))


@pytest.mark.slow
def test_the_policy_asks_a_sub_query(deals):
    """Outside the policy, PostgreSQL 15 uses no index for that: then it is not verified."""
    (finding,) = deals(ASKS)
    advice = finding.advice[0]
    assert advice.summary.startswith("in the policy own of deal, compare org_id as uuid: org_id = ")
    deals.database.execute(*advice.ddl)
    using = "SELECT pg_get_expr(polqual, polrelid) FROM pg_policy"
    assert not deals(deals.database.scalar(using))


@pytest.mark.slow
def test_the_rest_of_the_policy_stays(deals):
    (finding,) = deals(f"({CASTS}) AND id > 0")
    (alter,) = finding.advice[0].ddl
    assert alter == (
        "ALTER POLICY own ON deal USING ((org_id = (NULLIF(current_setting('app.org'::text, true), "
        "''::text))::uuid) AND (id > 0))"
    )


@pytest.mark.slow
def test_what_was_not_tried_is_not_sold(deals):
    (finding,) = deals(CASTS, PLANWATCH_VERIFY="off")
    assert finding.advice[0].verdict.reason == 'PLANWATCH_VERIFY is "off"'


def test_the_changed_policy_gets_its_index(deals):
    deals.database.execute("DROP INDEX deal_org")
    (finding,) = deals(CASTS)
    change, index = finding.advice
    assert change.verdict.status is VerdictStatus.NOT_APPLICABLE
    assert "no index begins with org_id" in change.verdict.reason
    assert index.ddl == ("CREATE INDEX CONCURRENTLY ix_deal_org_id ON deal (org_id)",)
    assert index.verdict.reason == "an index can answer only the changed policy"
    deals.database.execute(*change.ddl, *index.ddl)
    using = "SELECT pg_get_expr(polqual, polrelid) FROM pg_policy"
    assert not deals(deals.database.scalar(using))


@pytest.mark.parametrize("condition", ["name ILIKE '%eal 77%'", "lower(name) = 'deal 77'"])
def test_what_is_not_leakproof_waits_for_the_policy(deals, condition):
    """texticlike() and lower() are not leakproof: an index on that would be unused."""
    deals.database.execute(
        "ALTER TABLE deal ADD name text",
        "UPDATE deal SET name = 'Deal ' || id",
        "DROP INDEX deal_org",
        "VACUUM FULL ANALYZE deal",
    )
    statement = sa.text(f"SELECT id FROM deal WHERE {condition}")
    policy = "org_id = current_setting('app.org')::uuid"
    (finding,) = deals(policy, statement)
    assert finding.about == "org_id on deal"
    (index,) = finding.advice
    assert index.ddl == ("CREATE INDEX CONCURRENTLY ix_deal_org_id ON deal (org_id)",)
    deals.database.execute(*index.ddl)
    assert not deals(policy, statement)
    (finding,) = deals("at > '2000-01-01' OR id < 0", statement)
    assert not finding.advice
    assert "PostgreSQL tests the policies of deal first" in finding.problem
    assert "is not LEAKPROOF, so no index answers" in finding.problem
    assert finding.hint


def test_what_is_leakproof_is_served_beside_a_policy(deals):
    deals.database.execute(
        "ALTER TABLE deal ADD number int",
        "UPDATE deal SET number = id",
        "VACUUM FULL ANALYZE deal",
    )
    statement = sa.text("SELECT id FROM deal WHERE number = 77")
    (finding,) = deals("id <> 0", statement)
    assert finding.advice[0].ddl == ("CREATE INDEX CONCURRENTLY ix_deal_number ON deal (number)",)


def test_another_way_to_write_it_is_one_for_the_policy(deals):
    (finding,) = deals(ROUNDS)
    rewrites = [one for one in finding.advice if one.kind is AdviceKind.REWRITE]
    assert rewrites
    assert all(one.summary.startswith("in the policy own of deal: ") for one in rewrites)
    assert not any(one.sqlalchemy or one.ddl for one in rewrites)
    assert "The condition comes from the policy own of deal" in finding.problem


def test_a_condition_of_the_statement_is_its_own(deals):
    statement = sa.text("SELECT id FROM deal WHERE date_trunc('day', at) = now()")
    (finding,) = deals("id > 0", statement)
    assert "policy" not in finding.problem
    assert not any("policy" in advice.summary for advice in finding.advice)
