"""Which extensions the server has, and how PlanWatch could try an index on it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..plan.schema import Relation
from ..plan.wording import Template, say
from .session import Session
from .transaction import Transaction


@dataclass(frozen=True)
class Service:
    """A managed service. It gives nobody a superuser: members of `creator` create extensions.

    Its servers have the role `marker`. `allow_list` is a server parameter that must name an
    extension before it can be created; if it is `optional`, an empty one allows all.
    """

    name: str
    marker: str
    creator: str
    allow_list: str = ""
    optional: bool = False

    def allows(self, value: str | None) -> bool:
        """Whether HypoPG may be created with this value of the allow-list, if there is one."""
        names = {name.strip().lower() for name in (value or "").split(",")} - {""}
        return not self.allow_list or bool({"hypopg", "*"} & names) or (self.optional and not names)


SERVICES = (
    Service("Amazon RDS", "rds_superuser", "rds_superuser", "rds.allowed_extensions", True),
    Service(
        "Azure Database for PostgreSQL", "azure_pg_admin", "azure_pg_admin", "azure.extensions"
    ),
    Service("Cloud SQL", "cloudsqlsuperuser", "cloudsqlsuperuser"),
    Service("AlloyDB", "alloydbsuperuser", "alloydbsuperuser"),
    Service("Neon", "neon_superuser", "neon_superuser"),
    Service("Supabase", "supabase_admin", "postgres"),
)

#: What `version()` returns on Debian, on Ubuntu, and in the official Docker image. The packages of
#: all of them have the same names.
_DEBIAN = re.compile(r"PostgreSQL (\d+)\S* \((?:Debian|Ubuntu)\b")

STANDBY = "the server is a hot standby, where nothing can be built"

_NO_TABLE = "PlanWatch's role owns no table on which it could build an index"

_BUILDING = 'on a database of your own, set PLANWATCH_VERIFY = "build"'

#: Why HypoPG is missing, with where it comes from, or with who can create it and how.
_NOT_AVAILABLE = "HypoPG is not available on this server{source}"
_SERVICE = Template(" of {service}")
_PACKAGE = Template(": its administrator can install the package postgresql-{version}-hypopg")
_DOCUMENTED = Template(': see "How to get proofs" in the documentation')
_NOT_INSTALLED = (
    "HypoPG is not installed in this database: [add hypopg to the server parameter {allow_list}, "
    "then ][{creator} can run ]CREATE EXTENSION hypopg[ on the {server}]"
)
_SUPERUSER = Template("a superuser")
_MEMBER = Template("a member of {role}")

_NO_EXTENSION = (
    "the extension {name} is neither installed nor available on this server: its files come with "
    "PostgreSQL's contrib modules"
)

#: Whether the role may create an index on the table `c`.
_MAY_CREATE = """
pg_has_role(c.relowner, 'USAGE') AND has_schema_privilege(c.relnamespace, 'CREATE')
"""

#: The tables of users, as `c`.
_TABLES = """
pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't'
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
"""

#: The versions of extensions are read only if needed: each is a file.
_OPTIONS = f"""
SELECT version(),
    pg_is_in_recovery(),
    a.name IS NOT NULL,
    CASE
        WHEN r.rolsuper THEN true
        WHEN a.name IS NULL OR NOT has_database_privilege(current_database(), 'CREATE') THEN false
        ELSE (SELECT bool_or(trusted) FROM pg_available_extension_versions WHERE name = 'hypopg')
    END,
    ARRAY(SELECT rolname::text FROM pg_roles WHERE rolname = ANY (%s::name[])),
    ARRAY(SELECT rolname::text FROM pg_roles
          WHERE rolname = ANY (%s::name[]) AND pg_has_role(oid, 'MEMBER')),
    current_setting('azure.extensions', true),
    current_setting('rds.allowed_extensions', true),
    CASE
        WHEN cardinality(%s::text[]) > 0 THEN
            (SELECT coalesce(bool_and({_MAY_CREATE}), true)
             FROM unnest(%s::text[]) AS named (relation)
             JOIN pg_class c ON c.oid = to_regclass(named.relation))
        WHEN EXISTS (SELECT FROM {_TABLES}) THEN EXISTS (SELECT FROM {_TABLES} AND {_MAY_CREATE})
        ELSE coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)
    END
FROM pg_roles r LEFT JOIN pg_available_extensions a ON a.name = 'hypopg'
WHERE r.rolname = current_user
"""


@dataclass(frozen=True)
class Options:
    """How PlanWatch's role could have indexes tried on this server.

    `version` is the answer of `version()`. `available` tells whether CREATE EXTENSION would find
    HypoPG, `permitted` whether the role may run it, and `allowed` whether the service lets it.
    `owner` tells whether the role may create indexes: it owns the tables, and may create in their
    schemas. If no tables were asked about, one such table is enough.
    """

    version: str
    standby: bool
    available: bool
    permitted: bool
    allowed: bool
    owner: bool
    service: Service | None

    @property
    def no_building(self) -> str:
        """Why no index can be built, "" if one can."""
        if self.standby:
            return STANDBY
        return "" if self.owner else _NO_TABLE

    @property
    def building(self) -> str:
        """How to let PlanWatch build indexes instead of asking HypoPG, "" if it cannot."""
        if self.no_building or self.service is not None:
            return ""
        return _BUILDING

    @property
    def hypopg(self) -> str:
        """Why HypoPG is missing, and what would make it usable."""
        service, debian = self.service, _DEBIAN.match(self.version)
        if not self.available:
            return say(
                _NOT_AVAILABLE,
                source=_SERVICE if service else _PACKAGE if debian else _DOCUMENTED,
                service=service.name if service else None,
                version=debian[1] if debian else None,
            )
        creator = _MEMBER if service else _SUPERUSER
        return say(
            _NOT_INSTALLED,
            allow_list=service.allow_list if service and not self.allowed else None,
            creator=None if self.permitted else creator,
            role=service.creator if service else None,
            server="primary" if self.standby else None,
        )


def options(transaction: Transaction, relations: Iterable[Relation]) -> Options | None:
    """Return how indexes on these tables could be tried, None if the server does not tell.

    Without tables, it is asked for any table. Raises ServerError if the connection is lost.
    """
    markers = [service.marker for service in SERVICES]
    creators = [service.creator for service in SERVICES]
    tables = [relation.display for relation in dict.fromkeys(relations)]
    row = None
    # The privilege to list the extensions may have been revoked from PUBLIC.
    with transaction.attempt("planwatch_options"):
        (row,) = transaction.fetch(_OPTIONS, (markers, creators, tables, tables))
    if row is None:
        return None
    version, standby, available, permitted, marked, member_of, azure, rds, owner = row
    service = next((known for known in SERVICES if known.marker in marked), None)
    values = {"azure.extensions": azure, "rds.allowed_extensions": rds}
    return Options(
        version=version,
        standby=standby,
        available=available,
        permitted=permitted or (service is not None and service.creator in member_of),
        allowed=service is None or service.allows(values.get(service.allow_list)),
        owner=owner,
        service=service,
    )


#: Whether an extension is installed, and where, and whether it is available.
_AVAILABILITY = """
SELECT quote_ident(n.nspname), n.nspname = ANY (current_schemas(false)), a.name IS NOT NULL
FROM (SELECT %s::text AS name) wanted
LEFT JOIN pg_extension e ON e.extname = wanted.name
LEFT JOIN pg_namespace n ON n.oid = e.extnamespace
LEFT JOIN pg_available_extensions a ON a.name = wanted.name
"""


@dataclass(frozen=True)
class Availability:
    """Whether an extension is installed or available.

    `schema` is its quoted schema, None if it is not installed. `visible` tells whether that schema
    is in the search path, `available` whether CREATE EXTENSION would find the extension.
    """

    name: str
    schema: str | None
    visible: bool
    available: bool

    @property
    def installed(self) -> bool:
        """Whether this database has it."""
        return self.schema is not None

    @property
    def missing(self) -> str:
        """Why it cannot be used, "" if it can."""
        if self.installed or self.available:
            return ""
        return say(_NO_EXTENSION, name=self.name)

    def qualified(self, operator_class: str) -> str:
        """Return the name of one of its operator classes as the search path needs it."""
        if self.schema is None or self.visible:
            return operator_class
        return f"{self.schema}.{operator_class}"


def availability(session: Session, name: str) -> Availability:
    """Ask the server about an extension; raises ServerError."""
    ((schema, visible, available),) = session.fetch(_AVAILABILITY, (name,))
    return Availability(name, schema, bool(visible), available)
