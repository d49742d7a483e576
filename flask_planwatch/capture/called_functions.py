"""Which functions a text calls that may change the state of its connection."""

from __future__ import annotations

import re

from .sql_text import DOTTED_NAME, NAME, Unreadable, unquoted, without_strings, words

#: Words and names before a parenthesis; other quoted names are passed over.
_CALL = re.compile(
    rf"""(?<![\w$"])(?:(?P<schema>{NAME})\s*+\.\s*+)?+(?P<name>{NAME})\s*+\(|"(?:[^"]++|"")*+\""""
)
#: What is read, but for sub-queries and functions.
_TABLE = re.compile(
    rf"\b(?:from|join|into|update)\s++(?!\(|lateral\b|{DOTTED_NAME}\s*+\()({NAME}|)",
    re.IGNORECASE,
)
#: Names that a statement gives: those of WITH are no tables.
_GIVEN = re.compile(rf"(?<![\w$])({NAME})\s++as\b", re.IGNORECASE)

#: Functions, and words before a parenthesis, that set nothing: those that statements without a
#: table mostly call. PlanWatch asks the server what others are.
_SETS_NOTHING = words(
    "all and any array as avg between by case cast coalesce concat count currval date_part "
    "date_trunc else exists extract gen_random_uuid greatest in interval lastval least length "
    "like lower max md5 min not now nextval nullif numeric on or over random replace round "
    "row select setval some substring sum then to_char trim union upper using values varchar "
    "version when where with clock_timestamp current_database current_schema current_schemas "
    "current_setting inet_client_addr inet_server_addr has_table_privilege json_build_object "
    "jsonb_build_object json_agg jsonb_agg set_config to_regclass to_tsquery to_tsvector "
    "txid_current uuid_generate_v4 analyze cursor except explain filter for intersect from join "
    "lateral limit materialized only offset pg_advisory_lock pg_advisory_unlock "
    "pg_advisory_unlock_all pg_advisory_xact_lock pg_backend_pid pg_cancel_backend "
    "pg_database_size pg_is_in_recovery pg_notify pg_relation_size pg_size_pretty pg_sleep "
    "pg_terminate_backend pg_total_relation_size pg_try_advisory_lock pg_try_advisory_xact_lock "
    "pg_typeof"
)


def functions_in(body: str) -> frozenset[str]:
    """Return the names of the functions that a body may call, also in strings that it may run.

    Those that set nothing are left out.
    """
    try:
        plain, strings = without_strings(body)
    except Unreadable:
        plain, strings = body, []
    return called_in(" ".join([plain, *strings]))


def calls_in(plain: str) -> frozenset[str]:
    """Return the functions that a statement which reads no table may be about.

    `plain` has neither strings nor comments.
    """
    if "(" not in plain:
        return frozenset()
    tables = set(map(str.lower, _TABLE.findall(plain)))
    if tables and not tables <= set(map(str.lower, _GIVEN.findall(plain))):
        return frozenset()
    return called_in(plain)


def called_in(plain: str) -> frozenset[str]:
    """Return what is called in a text without comments."""
    found = set()
    for call in _CALL.finditer(plain):
        name, schema = call["name"], call["schema"]
        if name is None:
            continue
        name = unquoted(name)
        # A schema of the application's may have a function of the same name.
        if name not in _SETS_NOTHING or (schema and schema.lower() != "pg_catalog"):
            found.add(name)
    return frozenset(found)
