"""Story 1 from end to end: the login that scans every user."""

from __future__ import annotations

import sqlalchemy as sa

from flask_planwatch import Severity

from .models import User


def login(email: str) -> sa.Select:
    return sa.select(User).where(sa.func.lower(User.email) == email)


def test_login_scan_is_found_proved_and_resolved(any_story, watch):
    watched = watch(any_story.url, PLANWATCH_VERIFY="auto")
    (finding,) = watched.ask(login("user7@example.com"))
    assert finding.rule == "functional-predicate"
    assert finding.severity is Severity.WARNING
    assert finding.relation == '"user"'
    assert finding.subject == "lower((email)::text)"
    assert "user_email_key" in finding.problem
    (advice,) = finding.advice
    assert advice.ddl == ('CREATE INDEX CONCURRENTLY ix_user_lower_email ON "user" (lower(email))',)
    print(advice.sqlalchemy, advice.alembic, finding.message, sep="\n")
    print(watched.planwatch.stats())
    any_story.execute(*advice.ddl)
    assert watched.ask(login("user8@example.com")) == []
