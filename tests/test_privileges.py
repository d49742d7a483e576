"""The role of PLANWATCH_DATABASE_URL: what the documented GRANTs are enough for, and what not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import func

from flask_planwatch import VerdictStatus

from .databases import make_database
from .models import Badge, User

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parent.parent / "docs" / "privileges.rst"

LOGIN = sa.select(User.id).where(func.lower(User.email) == "x")


def blocks():
    """Return the statements of each block of SQL on the page, in its order."""
    text = PAGE.read_text("utf-8")
    found = re.findall(r"^\.\. code-block:: postgres\n\n((?:   .*\n)+)", text, re.MULTILINE)
    return [[line.strip().rstrip(";") for line in block.splitlines()] for block in found]


GRANTS, HYPOPG_GRANTS = blocks()


class Role:
    """A role of PlanWatch's own in a database that gives the public no rights at all."""

    def __init__(self, database, watch):
        self.database, self._watch = database, watch
        self.name = f"watcher_{database.name}"
        self.url = database.url_for("psycopg2", username=self.name)
        database.execute(
            f"DROP ROLE IF EXISTS {self.name}",
            f"REVOKE ALL ON DATABASE {database.name} FROM PUBLIC",
            "REVOKE ALL ON SCHEMA public FROM PUBLIC",
        )

    def grant(self, *statements):
        """Run statements of the page with the names of this test."""
        owner = self.database.server.url.username or "postgres"
        names = {"watcher": self.name, "shop_app": owner, "shop": self.database.name}
        self.database.execute(
            *(
                re.sub(r"\b(?:watcher|shop_app|shop)\b", lambda match: names[match[0]], statement)
                for statement in statements
            )
        )

    def inspect(self, statement, **config):
        """Return the findings of a statement, and what was skipped; the app is another role."""
        own = {"PLANWATCH_DATABASE_URL": self.url, **config}
        return self._inspected(self._watch(self.database.url, **own), statement)

    def inspect_its_own(self, statement):
        """Return the findings and what was skipped of a statement that the role itself sends."""
        return self._inspected(self._watch(self.url), statement)

    def _inspected(self, watched, statement):
        with watched.app.app_context(), watched.db.engine.connect() as connection:
            connection.execute(statement)
        return watched.findings(), watched.planwatch.stats()["skipped"]

    def refusal(self, statement):
        """Return the SQLSTATE with which the server refuses the role a statement, else None."""
        engine = sa.create_engine(self.url, poolclass=sa.NullPool)
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql(statement)
        except sa.exc.DBAPIError as error:
            return error.orig.sqlstate if hasattr(error.orig, "sqlstate") else error.orig.pgcode
        return None

    def drop(self):
        self.database.execute(f"DROP OWNED BY {self.name}", f"DROP ROLE {self.name}")


@pytest.fixture
def role(any_story, watch):
    role = Role(any_story, watch)
    yield role
    role.drop()


def test_the_documented_grants_are_enough_for_a_finding(role):
    role.grant(*GRANTS)
    (finding,), skipped = role.inspect(LOGIN)
    assert skipped == {}
    assert finding.rule == "functional-predicate"
    verified = role.database.scalar("SELECT count(*) FROM pg_extension WHERE extname = 'hypopg'")
    status = VerdictStatus.VERIFIED if verified else VerdictStatus.UNTESTED
    assert finding.advice[0].verdict.status is status


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("GRANT CONNECT", "server-unavailable"),
        ("GRANT USAGE", "not-visible"),
        ("GRANT SELECT", "permission-denied"),
    ],
)
def test_without_one_of_the_grants_nothing_is_explained(role, missing, reason):
    left_out = [one for one in GRANTS if one.startswith(missing)]
    assert len(left_out) == 1
    role.grant(*(one for one in GRANTS if one not in left_out))
    assert role.inspect(LOGIN) == ([], {reason: 1})
    role.grant(*left_out)
    findings, skipped = role.inspect(LOGIN)
    assert (len(findings), skipped) == (1, {})


def test_later_tables_need_the_default_privileges(role):
    *first, default = GRANTS
    assert default.startswith("ALTER DEFAULT PRIVILEGES")
    role.grant(*first)
    role.database.execute("CREATE TABLE later (a int)")
    later = sa.text("SELECT a FROM later")
    assert role.inspect(later) == ([], {"permission-denied": 1})
    role.grant(default)
    role.database.execute("DROP TABLE later", "CREATE TABLE later (a int)")
    assert role.inspect(later) == ([], {})


def test_the_role_reads_what_was_granted_and_nothing_else(role):
    role.database.execute(
        "CREATE SCHEMA private", "CREATE TABLE private.salary (a int)", "ANALYZE private.salary"
    )
    role.grant(*GRANTS)
    assert role.refusal('SELECT email FROM "user"') is None
    for statement in (
        "SELECT a FROM private.salary",
        "SELECT rolpassword FROM pg_authid",
        "SELECT stavalues1 FROM pg_statistic",
        "SELECT pg_read_file('postgresql.conf')",
    ):
        assert role.refusal(statement) == "42501", statement


def test_the_role_writes_nothing(role):
    role.database.execute("CREATE SEQUENCE numbers")
    role.grant(*GRANTS)
    for statement in (
        "INSERT INTO badge VALUES (1000, 'x')",
        "UPDATE badge SET owner = 'x'",
        "DELETE FROM badge",
        "TRUNCATE badge",
        "SELECT id FROM badge FOR UPDATE",
        "LOCK TABLE badge IN SHARE MODE",
        "SELECT nextval('numbers')",
        "CREATE TABLE own (a int)",
        "CREATE TEMPORARY TABLE own (a int)",
        "CREATE SCHEMA own",
        "CREATE INDEX ON badge (owner)",
        "COMMENT ON TABLE badge IS 'x'",
    ):
        assert role.refusal(statement) == "42501", statement


#: By the privilege that each needs beside SELECT.
WRITES = {
    "INSERT": sa.insert(Badge).values(id=1000, owner="x"),
    "UPDATE": sa.update(Badge).values(owner="x").where(Badge.id == 1),
    "UPDATE (owner)": sa.select(Badge.id).where(Badge.id == 1).with_for_update(),
    "DELETE": sa.delete(Badge).where(Badge.id == 1),
}


def test_writes_are_explained_only_with_their_privilege(role):
    role.grant(*GRANTS)
    for privilege, statement in WRITES.items():
        assert role.inspect(statement) == ([], {"permission-denied": 1}), privilege
        role.grant(f"GRANT {privilege} ON badge TO watcher")
        assert role.inspect(statement) == ([], {}), privilege
        role.grant(f"REVOKE {privilege} ON badge FROM watcher")


def test_columns_and_views_can_be_granted_alone(role):
    create, connect, usage, *_ = GRANTS
    role.grant(create, connect, usage, 'GRANT SELECT (id, email) ON "user" TO watcher')
    findings, skipped = role.inspect(LOGIN)
    assert (len(findings), skipped) == (1, {})
    assert role.inspect(sa.select(User.nickname)) == ([], {"permission-denied": 1})
    role.database.execute("CREATE VIEW owners AS SELECT owner FROM badge")
    role.grant("GRANT SELECT ON owners TO watcher")
    assert role.inspect(sa.text("SELECT owner FROM owners")) == ([], {})
    assert role.inspect(sa.text("SELECT owner FROM badge")) == ([], {"permission-denied": 1})


def test_reading_everything_replaces_the_grants_on_tables(role):
    create, connect, *_ = GRANTS
    role.grant(create, connect, "GRANT pg_read_all_data TO watcher")
    findings, skipped = role.inspect(LOGIN)
    assert (len(findings), skipped) == (1, {})
    assert role.refusal("DELETE FROM badge") == "42501"


def test_no_role_of_postgresql_explains_without_reading(role):
    create, connect, usage, *_ = GRANTS
    role.grant(create, connect, usage, "GRANT pg_monitor TO watcher")
    assert role.inspect(LOGIN) == ([], {"permission-denied": 1})


def test_a_build_is_left_to_the_owner(role):
    role.grant(*GRANTS)
    (finding,), _ = role.inspect(LOGIN, PLANWATCH_VERIFY="build")
    verdict = finding.advice[0].verdict
    assert verdict.status is VerdictStatus.UNTESTED
    assert "must be owner of table user" in verdict.reason


@pytest.fixture
def hypopg_role(hypopg_server, templates, watch):
    for database in make_database(hypopg_server, templates(hypopg_server)):
        database.execute(
            "DROP EXTENSION hypopg",
            "CREATE SCHEMA extensions",
            "CREATE EXTENSION hypopg SCHEMA extensions",
            "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA extensions FROM PUBLIC",
        )
        role = Role(database, watch)
        yield role
        role.drop()


def test_the_grants_for_hypopg_are_enough_for_a_proof(hypopg_role):
    hypopg_role.grant(*GRANTS, *HYPOPG_GRANTS)
    (finding,), skipped = hypopg_role.inspect(LOGIN)
    assert skipped == {}
    assert finding.advice[0].verdict.status is VerdictStatus.VERIFIED


@pytest.mark.parametrize("number", range(len(HYPOPG_GRANTS)))
def test_without_a_grant_for_hypopg_the_finding_stays_untested(hypopg_role, number):
    hypopg_role.grant(*GRANTS, *(one for one in HYPOPG_GRANTS if one != HYPOPG_GRANTS[number]))
    (finding,), skipped = hypopg_role.inspect(LOGIN)
    assert skipped == {}
    verdict = finding.advice[0].verdict
    assert verdict.status is VerdictStatus.UNTESTED
    for statement in HYPOPG_GRANTS:
        assert statement.removesuffix(" TO watcher") in verdict.reason


DEAL = (
    "CREATE TABLE deal (org text, note text) WITH (autovacuum_enabled = off)",
    "INSERT INTO deal SELECT 'o' || g % 9, 'n' || g FROM generate_series(1, 20000) g",
)
POLICY = ("CREATE POLICY own ON deal USING (true)", "ALTER TABLE deal ENABLE ROW LEVEL SECURITY")
GUESSES = "PostgreSQL has no statistics of the table, so its estimates are guesses"


@pytest.mark.parametrize(
    ("more", "guesses"),
    [
        ((), True),
        (("ANALYZE deal",), False),
        # pg_stats shows nothing of such a table, so that nobody can tell.
        (POLICY, False),
        ((*POLICY, "ANALYZE deal"), False),
    ],
)
def test_statistics_are_said_to_lack_only_where_the_role_would_see_them(role, more, guesses):
    role.grant(*GRANTS)
    role.database.execute(*DEAL, *more)
    (finding,), _ = role.inspect_its_own(sa.text("SELECT org FROM deal WHERE note = 'n7'"))
    assert finding.rule == "missing-index"
    assert (GUESSES in finding.message) is guesses, finding.message


def test_a_table_that_was_analysed_while_it_was_empty_has_no_statistics(role):
    role.grant(*GRANTS)
    role.database.execute(DEAL[0], "ANALYZE deal", DEAL[1])
    (finding,), _ = role.inspect(sa.text("SELECT org FROM deal WHERE note = 'n7'"))
    assert GUESSES in finding.message
