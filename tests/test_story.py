"""Story 1 from end to end: the login that scans every user, on both servers and both drivers."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from flask_planwatch import Severity, VerdictStatus

from .models import User


def login(email: str) -> sa.Select:
    return sa.select(User).where(sa.func.lower(User.email) == email)


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_login_scan_is_found_proved_and_resolved(any_story, watch, driver):
    watched = watch(any_story.url_for(driver), PLANWATCH_VERIFY="build")
    (finding,) = watched.ask(login("user7@example.com"))
    assert finding.rule == "functional-predicate"
    assert finding.severity is Severity.WARNING
    assert finding.relation == '"user"'
    assert finding.subject == "lower((email)::text)"
    assert "user_email_key on the bare column cannot serve it" in finding.problem
    (advice,) = finding.advice
    assert advice.verdict.status is VerdictStatus.VERIFIED
    assert advice.ddl == ('CREATE INDEX CONCURRENTLY ix_user_lower_email ON "user" (lower(email))',)
    assert 'Index("ix_user_lower_email", func.lower(User.email))' in advice.sqlalchemy
    assert "postgresql_concurrently=True" in advice.alembic
    any_story.execute(*advice.ddl, 'ANALYZE "user"')
    assert watched.ask(login("user8@example.com")) == []
    plan = any_story.scalar("EXPLAIN SELECT * FROM \"user\" WHERE lower(email) = 'user8@x'")
    assert "Index Scan using ix_user_lower_email" in str(plan)


def test_the_findings_id_stays_the_same_for_other_values(any_story, watch):
    watched = watch(any_story.url)
    (first,) = watched.ask(login("user7@example.com"))
    (again,) = watched.ask(login("somebody@example.org"))
    assert first.id == again.id
    assert len(first.id) == 12
