"""Reads what pg_catalog says of the relations in a plan."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from ..finding import SkipReason
from ..plan.schema import Activity, Column, ForeignKey, Index, Relation, Schema
from ..plan.tree import Plan
from .explain import Query, explain, quoted
from .session import ServerError, Session

#: PostgreSQL takes a table that was never vacuumed for at least this many pages.
ASSUMED_PAGES = 10

_FAMILY = """
WITH RECURSIVE named AS (
    SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE (n.nspname || '.' || c.relname) = ANY (%s)
), up (oid) AS (
    SELECT oid FROM named
    UNION
    SELECT i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.oid
    JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
), down (oid) AS (
    SELECT oid FROM up
    UNION
    SELECT i.inhrelid FROM down JOIN pg_inherits i ON i.inhparent = down.oid
    JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
)
SELECT c.oid, n.nspname, c.relname, c.oid::regclass::text, quote_ident(c.relname),
    c.relkind::text, c.reltuples, c.relpages,
    CASE WHEN c.relkind IN ('r', 'm', 't') THEN pg_relation_size(c.oid) ELSE 0 END
        / current_setting('block_size')::bigint,
    (SELECT i.inhparent FROM pg_inherits i WHERE i.inhrelid = c.oid AND c.relispartition),
    c.relallvisible,
    -- With EXISTS the planner would read the statistics of all tables.
    (SELECT true FROM pg_stats s
     WHERE s.schemaname = n.nspname AND s.tablename = c.relname LIMIT 1) IS NOT NULL
FROM down JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY c.oid
"""

_COLUMNS = """
SELECT a.attrelid, a.attname,
    format_type(coalesce(nullif(t.typbasetype, 0), t.oid),
                CASE WHEN t.typbasetype = 0 THEN a.atttypmod ELSE t.typtypmod END),
    coalesce(s.n_distinct, 0), quote_ident(a.attname), coalesce(s.avg_width, 0),
    a.attlen > 0 OR t.typname = 'numeric'
        OR (t.typname IN ('varchar', 'bpchar') AND a.atttypmod BETWEEN 0 AND 259)
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname
    AND s.attname = a.attname AND s.inherited = (c.relkind = 'p')
    AND s.tablename = ANY (%s::name[]) -- else it would read those of all tables
WHERE a.attrelid = ANY (%s) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""

_INDEXES = """
SELECT i.indrelid, c.relname,
    ARRAY(SELECT coalesce(a.attname, pg_get_indexdef(i.indexrelid, k, false))
          FROM generate_series(1, i.indnkeyatts) k
          LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k - 1]
                                  AND a.attnum <> 0
          ORDER BY k),
    pg_get_indexdef(i.indexrelid), i.indisunique, i.indisvalid,
    pg_get_expr(i.indpred, i.indrelid), am.amname,
    NOT EXISTS (
        SELECT 1 FROM generate_series(0, i.indnkeyatts - 1) k
        JOIN pg_opclass o ON o.oid = i.indclass[k]
        LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k]
                                AND a.attnum <> 0
        WHERE i.indoption[k] <> 0 OR NOT o.opcdefault
           OR i.indcollation[k] <> coalesce(a.attcollation, i.indcollation[k])),
    ARRAY(SELECT a.attname FROM generate_series(i.indnkeyatts, i.indnatts - 1) k
          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k] ORDER BY k)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam
WHERE i.indrelid = ANY (%s)
ORDER BY i.indrelid, c.relname
"""

_REFERENCES = """
SELECT k.conname, n.nspname || '.' || c.relname, p.nspname || '.' || r.relname,
    ARRAY(SELECT a.attname FROM unnest(k.conkey) WITH ORDINALITY AS u (number, place)
          JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number ORDER BY place)
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class r ON r.oid = k.confrelid JOIN pg_namespace p ON p.oid = r.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0 AND (p.nspname || '.' || r.relname) = ANY (%s)
ORDER BY k.conname
"""

_ACTIVITY = """
SELECT relid, n_tup_ins, n_tup_upd, n_tup_del, seq_scan + coalesce(idx_scan, 0), n_dead_tup,
    n_mod_since_analyze
FROM pg_stat_user_tables WHERE relid = ANY (%s)
"""

_INDEX_NAMES = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname LIKE 'ix\\_%%'
"""


def read_schema(session: Session, plan: Plan) -> Schema:
    """Return the relations that a plan reads, with their partitioned families.

    Where rows are deleted, the foreign keys to that relation and their tables are read as well.
    Raises ServerError.
    """
    keys = sorted({scan.qualified_relation or "" for scan in plan.scans})
    if not keys:
        return Schema()
    with session.transaction() as transaction:
        references: tuple[ForeignKey, ...] = ()
        if plan.deleted_from:
            rows = transaction.fetch(_REFERENCES, (list(plan.deleted_from),))
            references = tuple(
                ForeignKey(name, child, parent, tuple(columns))
                for name, child, parent, columns in rows
            )
            keys = sorted({*keys, *(reference.child for reference in references)})
        family = transaction.fetch(_FAMILY, (keys,))
        oids = [row[0] for row in family]
        tables = [row[2] for row in family]
        columns = _grouped(transaction.fetch(_COLUMNS, (tables, oids)))
        indexes = _grouped(transaction.fetch(_INDEXES, (oids,)))
        activity = {row[0]: Activity(*row[1:]) for row in transaction.fetch(_ACTIVITY, (oids,))}
    counts = {row[0]: _rows(session, row) for row in family}
    names = {row[0]: f"{row[1]}.{row[2]}" for row in family}
    parents = {row[0]: row[9] for row in family if row[9] in names}
    relations = {}
    for row in family:
        oid, schema, name, display, quoted_name, kind, _, _, pages, _, visible_pages, known = row
        relations[names[oid]] = Relation(
            key=names[oid],
            schema=schema,
            name=name,
            display=display,
            quoted_name=quoted_name,
            kind=kind,
            rows=counts[oid],
            root=names[_topmost(oid, parents)],
            columns=tuple(Column(*column) for column in columns[oid]),
            indexes=tuple(_index(*index) for index in indexes[oid]),
            partitions=tuple(names[child] for child, parent in parents.items() if parent == oid),
            has_statistics=known,
            activity=activity.get(oid, Activity()),
            pages=pages,
            visible_pages=visible_pages,
        )
    return Schema(relations, references)


def index_names(session: Session, schema: str) -> frozenset[str]:
    """Return the names in a schema that an advised index must not take; raises ServerError."""
    with session.transaction() as transaction:
        return frozenset(name for (name,) in transaction.fetch(_INDEX_NAMES, (schema,)))


def _grouped(rows: Iterable[tuple[Any, ...]]) -> dict[int, list[tuple[Any, ...]]]:
    groups = defaultdict(list)
    for oid, *values in rows:
        groups[oid].append(tuple(values))
    return groups


def _index(
    name: str,
    keys: list[str],
    definition: str,
    unique: bool,
    valid: bool,
    predicate: str | None,
    method: str,
    plain: bool,
    included: list[str],
) -> Index:
    return Index(
        name, tuple(keys), definition, unique, valid, predicate, method, plain, tuple(included)
    )


def _rows(session: Session, row: tuple[Any, ...]) -> float:
    """Return a relation's rows as the planner estimates them: the last density, today's pages.

    The planner assumes ten pages for a table that was never vacuumed or analysed, so a nearly
    empty one is scaled down to the pages that it has.
    """
    _, schema, name, _, _, kind, tuples, known_pages, pages, *_ = row
    if kind not in {"r", "m"}:
        return max(float(tuples), 0.0)
    if pages == 0:
        return 0.0
    if tuples > 0 and known_pages > 0:
        return float(tuples / known_pages * pages)
    shrink: float = min(1.0, pages / ASSUMED_PAGES) if tuples < 0 else 1.0
    return _estimate(session, schema, name) * shrink


def _estimate(session: Session, schema: str, name: str) -> float:
    """Return the planner's estimate; 0 for a table that PlanWatch's role may not read itself."""
    query = Query(f"SELECT 1 FROM ONLY {quoted(schema)}.{quoted(name)}", None, escaped=False)
    try:
        return explain(session, query).root.rows
    except ServerError as error:
        if error.reason is not SkipReason.PERMISSION_DENIED:
            raise
        return 0.0


def _topmost(oid: int, parents: dict[int, int]) -> int:
    while oid in parents:
        oid = parents[oid]
    return oid
