"""Whether row-level security binds the application's role where PlanWatch has another."""

from __future__ import annotations

from collections.abc import Iterable

from ..finding import SkipReason
from .session import Session
from .transaction import ServerError

_DETAIL = "row-level security binds the application's role, and PlanWatch has another"

#: Relations whose row-level security binds a role.
_BOUND = """
SELECT 1
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_roles r ON r.rolname = %s
WHERE c.relrowsecurity
AND n.nspname || '.' || c.relname = ANY (%s)
AND NOT coalesce(
    r.rolsuper OR r.rolbypassrls
    OR (pg_has_role(r.oid, c.relowner, 'USAGE') AND NOT c.relforcerowsecurity),
    false
)
"""


def refuse_row_security(session: Session, relations: Iterable[str]) -> None:
    """Raise ServerError if row-level security of these relations binds the application's role.

    It is asked if PlanWatch is another role, which passes it by or has policies of its own.
    `relations` are `schema.name`.
    """
    user = session.state.user or ""
    with session.transaction(own_state=True) as transaction:
        bound = transaction.fetch(_BOUND, (user, list(relations)))
    if bound:
        raise ServerError(SkipReason.SESSION_STATE_UNKNOWN, _DETAIL)
