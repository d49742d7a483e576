"""Asks the server about an extension: is it installed, and could it be?"""

from __future__ import annotations

from dataclasses import dataclass

from .session import Session

_AVAILABILITY = """
SELECT quote_ident(n.nspname), n.nspname = ANY (current_schemas(false)), a.name IS NOT NULL
FROM (SELECT %s::text AS name) wanted
LEFT JOIN pg_extension e ON e.extname = wanted.name
LEFT JOIN pg_namespace n ON n.oid = e.extnamespace
LEFT JOIN pg_available_extensions a ON a.name = wanted.name
"""


@dataclass(frozen=True)
class Availability:
    """What the server has of an extension.

    `schema` is the quoted schema that it is installed in, None if it is not installed. `visible`
    tells whether the search path finds that schema, so that names need not be qualified.
    `available` tells whether CREATE EXTENSION would find it.
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
        """Why it cannot be used, or nothing if it can."""
        if self.installed or self.available:
            return ""
        return (
            f"the extension {self.name} is neither installed nor available on this server: its "
            "files come with PostgreSQL's contrib modules"
        )

    def qualified(self, operator_class: str) -> str:
        """Return the name of one of its operator classes as the search path needs it."""
        if self.schema is None or self.visible:
            return operator_class
        return f"{self.schema}.{operator_class}"


def availability(session: Session, name: str) -> Availability:
    """Return what the server has of an extension; raises ServerError."""
    with session.transaction() as transaction:
        ((schema, visible, available),) = transaction.fetch(_AVAILABILITY, (name,))
    return Availability(name, schema, bool(visible), available)
