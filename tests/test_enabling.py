"""What is said of a proof that is missing: only what this server and this role can do."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import func

from flask_planwatch import VerdictStatus
from flask_planwatch.server.description import describe
from flask_planwatch.server.enabling import SERVICES, Options

from . import servers
from .databases import make_database
from .faults.own_server import own_server, standby_of
from .models import User

pytestmark = [pytest.mark.slow, pytest.mark.versions]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "proofs.rst"

CREATE = "CREATE EXTENSION hypopg"
BUILD = 'set PLANWATCH_VERIFY = "build"'

LOGIN = sa.select(User.id).where(func.lower(User.email) == "x")
BY_EMAIL = sa.text("SELECT * FROM \"user\" WHERE lower(email) = 'x'")


def reason(watch, url, statement=LOGIN, **config):
    """Return why the advice on a statement is untested."""
    (finding,) = watch(url, **config).ask(statement)
    verdict = finding.advice[0].verdict
    assert verdict.status is VerdictStatus.UNTESTED
    return verdict.reason


def status(watch, url, statement=LOGIN, **config):
    (finding,) = watch(url, **config).ask(statement)
    return finding.advice[0].verdict.status


def refusal(url, statement):
    """Return the SQLSTATE with which the server refuses a statement, None if it does not."""
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
    except sa.exc.DBAPIError as error:
        return error.orig.pgcode
    return None


@pytest.fixture
def without_hypopg(hypopg_server, templates):
    """A database without HypoPG on a server that could create it."""
    for database in make_database(hypopg_server, templates(hypopg_server)):
        database.execute("DROP EXTENSION hypopg")
        yield database


@pytest.fixture
def role(without_hypopg):
    """Return a role that is not superuser, and may see all."""
    name = f"plain_{without_hypopg.name}"
    without_hypopg.execute(
        f"CREATE ROLE {name} LOGIN", f"GRANT pg_read_all_data TO {name}", f"CREATE SCHEMA {name}"
    )
    yield name
    without_hypopg.execute(
        f"REASSIGN OWNED BY {name} TO CURRENT_USER", f"DROP OWNED BY {name}", f"DROP ROLE {name}"
    )


def test_what_is_said_to_a_superuser_enables_the_proof(without_hypopg, watch):
    said = reason(watch, without_hypopg.url)
    missing = "HypoPG is not installed in this database"
    assert said == f"{missing}: {CREATE}, or, on a database of your own, {BUILD}"
    assert status(watch, without_hypopg.url, PLANWATCH_VERIFY="build") is VerdictStatus.VERIFIED
    assert refusal(without_hypopg.url, CREATE) is None
    assert status(watch, without_hypopg.url) is VerdictStatus.VERIFIED


def test_whoever_may_do_neither_is_told_of_neither(without_hypopg, role, watch):
    url = without_hypopg.url_for("psycopg2", username=role)
    said = reason(watch, url)
    assert said == f"HypoPG is not installed in this database: a superuser can run {CREATE}"
    assert refusal(url, CREATE) == "42501"
    assert refusal(url, 'CREATE INDEX ON "user" (lower(email))') == "42501"


def test_the_owner_of_the_table_may_build(without_hypopg, role, watch):
    without_hypopg.execute(
        f"GRANT CREATE ON SCHEMA public TO {role}", f'ALTER TABLE "user" OWNER TO {role}'
    )
    url = without_hypopg.url_for("psycopg2", username=role)
    said = reason(watch, url)
    assert f"a superuser can run {CREATE}" in said
    assert BUILD in said
    assert status(watch, url, PLANWATCH_VERIFY="build") is VerdictStatus.VERIFIED


def test_an_owner_who_may_not_create_in_the_schema_is_not_told_to_build(
    without_hypopg, role, watch
):
    without_hypopg.execute(f'ALTER TABLE "user" OWNER TO {role}')
    url = without_hypopg.url_for("psycopg2", username=role)
    assert refusal(url, 'CREATE INDEX ON "user" (lower(email))') == "42501"
    assert BUILD not in reason(watch, url)


def test_where_the_server_does_not_have_it_nobody_is_told_to_create_it(fresh_story, watch):
    """The embedded server brings contrib modules only."""
    if fresh_story.scalar("SELECT count(*) FROM pg_available_extensions WHERE name = 'hypopg'"):
        pytest.skip("this server has HypoPG")
    said = reason(watch, fresh_story.url)
    assert said.startswith("HypoPG is not available on this server")
    assert CREATE not in said
    assert BUILD in said


def test_hidden_lists_of_extensions_do_not_cost_the_finding(without_hypopg, role, watch):
    without_hypopg.execute("REVOKE EXECUTE ON FUNCTION pg_available_extensions() FROM PUBLIC")
    said = reason(watch, without_hypopg.url_for("psycopg2", username=role))
    assert said == "HypoPG is not installed in this database"


def test_an_index_that_hypopg_does_not_know_is_built_by_its_owner_only(
    hypopg_server, templates, watch
):
    order = sa.text("""SELECT * FROM "Shop"."Order" WHERE lower("Order Code") = 'c7'""")
    for database in make_database(hypopg_server, templates(hypopg_server)):
        assert BUILD in reason(watch, database.url, order)
        name = f"plain_{database.name}"
        database.execute(f"CREATE ROLE {name} LOGIN", f"GRANT pg_read_all_data TO {name}")
        said = reason(watch, database.url_for("psycopg2", username=name), order)
        database.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")
        assert said == "HypoPG does not plan with indexes on partitions"


def proof(watch, url, verify="auto"):
    """Return what the line at the start says of proofs on a database."""
    watched = watch(url)
    with watched.app.app_context():
        assert watched.db.engine
    (engine,) = watched.app.extensions["planwatch"]._watched()
    return describe(engine.session).proof(verify)


def test_the_start_offers_to_build_only_to_whoever_may(without_hypopg, role, watch):
    missing = "no proof: HypoPG is not installed in this database: "
    assert BUILD in proof(watch, without_hypopg.url)
    url = without_hypopg.url_for("psycopg2", username=role)
    # The role may create in a schema of its own only, and tables do not belong to it.
    assert proof(watch, url) == f"{missing}a superuser can run {CREATE}"
    assert proof(watch, url, "build") == (
        'no proof: PLANWATCH_VERIFY is "build", but PlanWatch\'s role owns no table on which it '
        "could build an index"
    )
    without_hypopg.execute(f'ALTER TABLE "user" OWNER TO {role}')
    assert BUILD not in proof(watch, url)
    without_hypopg.execute(f"GRANT CREATE ON SCHEMA public TO {role}")
    assert BUILD in proof(watch, url)
    assert proof(watch, url, "build") == "proof by building indexes that are rolled back"


def test_the_start_offers_to_build_where_the_role_will_own_the_tables(hypopg_server, watch):
    """In a database without tables, they belong to whoever creates them."""
    for database in make_database(hypopg_server, None):
        name = f"plain_{database.name}"
        database.execute(f"CREATE ROLE {name} LOGIN", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        url = database.url_for("psycopg2", username=name)
        refused = proof(watch, url)
        database.execute(f"GRANT CREATE ON SCHEMA public TO {name}")
        offered = proof(watch, url)
        database.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")
        assert BUILD not in refused
        assert BUILD in offered


def test_the_start_says_that_the_role_may_not_use_hypopg(hypopg_server, templates, watch):
    for database in make_database(hypopg_server, templates(hypopg_server)):
        name = f"plain_{database.name}"
        database.execute(
            f"CREATE ROLE {name} LOGIN",
            "DROP EXTENSION hypopg",
            "CREATE SCHEMA hidden",
            "CREATE EXTENSION hypopg SCHEMA hidden",
        )
        said = proof(watch, database.url_for("psycopg2", username=name))
        database.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")
        assert said.startswith("no proof: PlanWatch's role may not use the HypoPG extension: GRANT")


@pytest.fixture(scope="module")
def own():
    """A server of the module's own, as its roles belong to all databases."""
    with own_server(servers.HYPOPG) as server:
        server.execute('ALTER TABLE "user" ALTER email SET NOT NULL')
        yield server


@pytest.fixture
def service(own):
    """Return a function that makes the server look like a managed service's, and its customer."""
    made = []

    def make(marker, customer, *settings):
        own.execute(
            f"CREATE ROLE {marker}",
            f"CREATE ROLE {customer} LOGIN",
            f"GRANT pg_read_all_data TO {customer}",
            f'ALTER TABLE "user" OWNER TO {customer}',
            *(f"ALTER DATABASE postgres SET {one}" for one in settings),
        )
        made.extend([customer, marker])
        return own.url("psycopg2", user=customer)

    yield make
    own.execute("ALTER DATABASE postgres RESET ALL", 'ALTER TABLE "user" OWNER TO postgres')
    for name in made:
        own.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")


@pytest.mark.parametrize("marker", ["rds_superuser", "cloudsqlsuperuser", "neon_superuser"])
def test_a_managed_service_lets_the_members_of_a_role_create_it(own, service, watch, marker):
    url = service(marker, "customer")
    said = reason(watch, url, BY_EMAIL)
    assert (
        said == f"HypoPG is not installed in this database: a member of {marker} can run {CREATE}"
    )
    own.execute(f"GRANT {marker} TO customer")
    assert reason(watch, url, BY_EMAIL) == f"HypoPG is not installed in this database: {CREATE}"


def test_azure_has_a_list_to_add_it_to(own, service, watch):
    url = service("azure_pg_admin", "customer", "azure.extensions = 'PG_TRGM,POSTGIS'")
    own.execute("GRANT azure_pg_admin TO customer")
    said = reason(watch, url, BY_EMAIL)
    assert said == (
        "HypoPG is not installed in this database: add hypopg to the server parameter "
        f"azure.extensions, then {CREATE}"
    )
    own.execute("ALTER DATABASE postgres SET azure.extensions = 'PG_TRGM,HYPOPG'")
    assert reason(watch, url, BY_EMAIL) == f"HypoPG is not installed in this database: {CREATE}"


@pytest.mark.parametrize(
    ("value", "allowed"), [("", True), ("*", True), ("postgis, hypopg", True), ("postgis", False)]
)
def test_rds_allows_all_unless_it_has_a_list(own, service, watch, value, allowed):
    url = service("rds_superuser", "customer", f"rds.allowed_extensions = '{value}'")
    assert ("rds.allowed_extensions" in reason(watch, url, BY_EMAIL)) is not allowed


def test_supabases_customer_is_postgres(service, watch, own):
    url = service("supabase_admin", "customer")
    said = reason(watch, url, BY_EMAIL)
    assert (
        said == f"HypoPG is not installed in this database: a member of postgres can run {CREATE}"
    )


def test_a_standby_gets_it_from_its_primary(own, watch):
    with standby_of(own) as standby:
        missing = f"HypoPG is not installed in this database: {CREATE} on the primary"
        building = "the server is a hot standby, where nothing can be built"
        assert reason(watch, standby.url(), BY_EMAIL) == missing
        assert proof(watch, standby.url()) == f"no proof: {missing}"
        said = proof(watch, standby.url(), "build")
        assert said == f'no proof: PLANWATCH_VERIFY is "build", but {building}'
        said = reason(watch, standby.url(), BY_EMAIL, PLANWATCH_VERIFY="build")
        assert said == f"{building}; {missing}"
        own.execute(CREATE)
        standby.wait_until("EXISTS (SELECT FROM pg_extension WHERE extname = 'hypopg')")
        said = reason(watch, standby.url(), BY_EMAIL, PLANWATCH_VERIFY="build")
        assert said == f'{building}; PLANWATCH_VERIFY = "auto" would ask HypoPG'
        assert status(watch, standby.url(), BY_EMAIL) is VerdictStatus.VERIFIED
        own.execute("DROP EXTENSION hypopg")


def options(version, service=None):
    return Options(
        version=version,
        standby=False,
        available=False,
        permitted=False,
        allowed=True,
        owner=True,
        service=service,
    )


def test_the_package_is_named_where_it_is_known(own):
    """The file is there, so that only the words can be looked at."""
    version = own.scalar("SELECT version()")
    (package,) = re.findall(r"package (\S+)$", options(version).hypopg)
    assert package == "postgresql-15-hypopg"
    other = "PostgreSQL 18.6 on x86_64-pc-linux-gnu, compiled by gcc (GCC) 14.2.1, 64-bit"
    assert "package" not in options(other).hypopg
    for service in SERVICES:
        said = options(version, service).hypopg
        assert said == f"HypoPG is not available on this server of {service.name}"
        assert not options(version, service).building


def test_the_page_on_proofs_knows_all_that_may_be_said():
    page = " ".join(PAGE.read_text("utf-8").split())
    for service in SERVICES:
        assert f" * - {service.name} " in page
        assert f"``{service.creator}``" in page
        assert service.allow_list in page
    said = replace(options(""), available=True, permitted=True)
    azure = replace(said, service=SERVICES[1], allowed=False)
    for one in (
        said.hypopg,
        replace(said, standby=True).hypopg.partition(": ")[2],
        replace(said, permitted=False).hypopg.partition(": ")[2],
        azure.hypopg.partition(": ")[2].partition(", then")[0],
        options("PostgreSQL 18.6 (Debian 18.6-1)").hypopg.partition(" postgresql-18")[0],
        f"or, {said.building}",
    ):
        assert one.removeprefix("HypoPG ") in page
