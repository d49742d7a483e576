"""A hot standby: all that PlanWatch does must do without writing."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from flask_planwatch.server.description import system_identifier

from .. import servers
from ..models import Badge
from .comparing import LOGIN, accounts, compare
from .own_server import own_server, standby_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[servers.FIRST, servers.HYPOPG])
def standby(request):
    with own_server(request.param) as server:
        if request.param == servers.HYPOPG:
            server.execute("CREATE EXTENSION hypopg")
        with standby_of(server) as standby:
            standby.has_hypopg = request.param == servers.HYPOPG
            standby.primary = server
            yield standby


@pytest.mark.parametrize("verify", ["auto", "build", "off"])
def test_a_hot_standby(standby, watch, driver, verify):
    def scenario(visits):
        answers = [visits(LOGIN), visits(sa.select(Badge.id).where(Badge.id == 7))]
        answers += [visits(sa.insert(Badge).values(id=99, owner="x"))]
        assert [one.status for one in answers] == [200, 200, 500]
        return answers

    visits = compare(watch, standby.url(driver), scenario, PLANWATCH_VERIFY=verify)
    assert accounts(visits)["skipped"] == {}
    (finding,) = visits.watched.findings()
    (advice,) = finding.advice
    if verify == "auto" and standby.has_hypopg:
        assert advice.verdict.method == "hypopg"
        assert str(advice.verdict.status) == "verified"
    else:
        assert str(advice.verdict.status) == "untested"
        why = {"auto": "HypoPG", "build": "standby", "off": "PLANWATCH_VERIFY"}[verify]
        assert why in advice.verdict.reason


def test_a_generic_plan_on_a_standby(standby, watch):
    def scenario(visits):
        one = sa.select(Badge.id).where(Badge.owner == "Owner7")
        return [visits(one) for _ in range(12)]

    accounts(compare(watch, standby.url("psycopg"), scenario))


def test_a_replica_for_planwatch_is_no_other_server(standby, watch, caplog):
    watched = watch(standby.primary.url("psycopg2"), PLANWATCH_DATABASE_URL=standby.url("psycopg2"))
    watched.ask(LOGIN)
    (engine,) = watched.app.extensions["planwatch"]._watched()
    assert engine.session.elsewhere
    assert system_identifier(engine.session)
    assert "system identifiers" not in caplog.text
    assert watched.app.extensions["planwatch"].problems == ()
