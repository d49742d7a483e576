"""What would let PlanWatch try an index on this server: HypoPG, or building the index for real."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..plan.schema import Relation
from .transaction import NO_SERVER, ServerError, Transaction

_MARK = "planwatch_options"


@dataclass(frozen=True)
class Service:
    """A managed service: nobody is superuser there, so members of `creator` create extensions.

    The service is known by its role `marker`. `allow_list` is a server parameter that has to name
    an extension before it can be created; `optional` tells that an empty one allows all.
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

#: Debian's and Ubuntu's servers, and those of apt.postgresql.org, say so, and name their packages
#: alike; so does the official image for Docker, which is made of them.
_DEBIAN = re.compile(r"PostgreSQL (\d+)\S* \((?:Debian|Ubuntu)\b")

#: The versions of all extensions, a file each, are looked at only if they matter.
_OPTIONS = """
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
    (SELECT coalesce(bool_and(pg_has_role(c.relowner, 'USAGE')
                              AND has_schema_privilege(c.relnamespace, 'CREATE')), true)
     FROM unnest(%s::text[]) AS named (relation)
     JOIN pg_class c ON c.oid = to_regclass(named.relation))
FROM pg_roles r LEFT JOIN pg_available_extensions a ON a.name = 'hypopg'
WHERE r.rolname = current_user
"""


@dataclass(frozen=True)
class Options:
    """How this role could have indexes tried on this server.

    `version` is what the server says it is. `available` tells whether CREATE EXTENSION finds
    HypoPG, `permitted` whether this role may run it, `allowed` whether the service lets it.
    `owner` tells whether the role owns the tables, and may create in their schemas, as whoever
    creates an index must.
    """

    version: str
    standby: bool
    available: bool
    permitted: bool
    allowed: bool
    owner: bool
    service: Service | None

    @property
    def building(self) -> str:
        """How indexes may be built where HypoPG does not answer, or nothing if they may not."""
        if not self.owner or self.standby or self.service is not None:
            return ""
        return 'on a database of your own, set PLANWATCH_VERIFY = "build"'

    @property
    def hypopg(self) -> str:
        """Why there is no HypoPG, and what would make it usable."""
        if not self.available:
            return f"HypoPG is not available on this server{self._source}"
        steps = "CREATE EXTENSION hypopg" + (" on the primary" if self.standby else "")
        if not self.permitted:
            creator = "a superuser"
            if self.service is not None:
                creator = f"a member of {self.service.creator}"
            steps = f"{creator} can run {steps}"
        if not self.allowed and self.service is not None:
            steps = f"add hypopg to the server parameter {self.service.allow_list}, then {steps}"
        return f"HypoPG is not installed in this database: {steps}"

    @property
    def _source(self) -> str:
        if self.service is not None:
            return f" of {self.service.name}"
        if (debian := _DEBIAN.match(self.version)) is not None:
            return f": its administrator can install the package postgresql-{debian[1]}-hypopg"
        return ': see "How to get proofs" in the documentation'


def options(transaction: Transaction, relations: Iterable[Relation]) -> Options | None:
    """Return how indexes on these tables could be tried, None if the server does not tell.

    Raises ServerError if the connection is lost.
    """
    markers = [service.marker for service in SERVICES]
    creators = [service.creator for service in SERVICES]
    tables = [relation.display for relation in dict.fromkeys(relations)]
    transaction.run(f"SAVEPOINT {_MARK}")
    try:
        (row,) = transaction.fetch(_OPTIONS, (markers, creators, tables))
    except ServerError as error:
        if error.reason in NO_SERVER:
            raise
        # The lists of extensions may have been taken from the public.
        transaction.run(f"ROLLBACK TO SAVEPOINT {_MARK}")
        return None
    version, standby, available, permitted, marked, member_of, azure, rds, owner = row
    service = next((one for one in SERVICES if one.marker in marked), None)
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
