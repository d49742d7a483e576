"""Reads the relations of a plan from pg_catalog."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..failure import ServerError
from ..finding import SkipReason
from ..plan.schema import Activity, Column, ForeignKey, Index, Relation, Schema
from ..plan.tree import Plan
from ..runtime.bounded import LEARNT, RecentlyUsed
from ..runtime.clock import now
from .explain import Query, explain, qualified
from .session import Session
from .transaction import Transaction

#: Relations whose columns and indexes are remembered, some kB each. The least recently used one is
#: forgotten first. They save 0.4 ms of an inspection that is judged anew (benchmarks/caches.py).
MAX_RELATIONS = 1000

#: Seconds after which they are read again even if their mark is the same: the name of a type, for
#: example, is not part of it. Callers that tolerate staleness may use the previous answer as long.
KEEP_SECONDS = 60.0

#: Answers that are remembered for such callers. The least recently used one is forgotten first.
#: They save a query, and 0.3 of 1 ms of an inspection for which an earlier result holds.
MAX_REMEMBERED = 500

#: PostgreSQL assumes at least so many pages of a table that was never vacuumed.
ASSUMED_PAGES = 10

_FAMILY = """
WITH RECURSIVE named AS (
    SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relname = ANY (%s::name[]) AND (n.nspname || '.' || c.relname) = ANY (%s)
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
    CASE WHEN hidden.is_so
        THEN pg_stat_get_last_analyze_time(c.oid) IS NOT NULL
            OR pg_stat_get_last_autoanalyze_time(c.oid) IS NOT NULL
        ELSE seen.statistics IS NOT NULL END,
    hidden.is_so,
    concat_ws('|', c.xmin, seen.statistics,
        (SELECT string_agg(a.xmin::text, ' ' ORDER BY a.attnum)
         FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0),
        (SELECT string_agg(concat_ws(' ', i.indexrelid, i.xmin, x.xmin), ' ' ORDER BY i.indexrelid)
         FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid)),
    ARRAY[pg_stat_get_tuples_inserted(c.oid), pg_stat_get_tuples_updated(c.oid),
        pg_stat_get_tuples_deleted(c.oid),
        pg_stat_get_numscans(c.oid)
            + (SELECT coalesce(sum(pg_stat_get_numscans(i.indexrelid)), 0)::bigint
               FROM pg_index i WHERE i.indrelid = c.oid),
        pg_stat_get_dead_tuples(c.oid), pg_stat_get_mod_since_analyze(c.oid)],
    (SELECT string_agg(e.oid || ' ' || e.xmin, ' ' ORDER BY e.oid) FROM pg_extension e)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
-- With a plain join the planner would read the statistics of all tables.
CROSS JOIN LATERAL (
    SELECT string_agg(concat_ws(' ', s.attname, s.inherited, s.n_distinct, s.avg_width), ' '
                      ORDER BY s.attname, s.inherited) AS statistics
    FROM pg_stats s WHERE s.schemaname = n.nspname AND s.tablename = c.relname) seen
-- The view leaves out what the role may not read, and tables with policies that apply to it.
CROSS JOIN LATERAL (
    SELECT row_security_active(c.oid)
        OR NOT has_any_column_privilege(c.oid, 'SELECT') AS is_so) hidden
WHERE c.oid = ANY (ARRAY(SELECT oid FROM down))
ORDER BY c.oid
"""

_COLUMNS = """
SELECT a.attrelid, a.attname,
    format_type(coalesce(nullif(t.typbasetype, 0), t.oid),
                CASE WHEN t.typbasetype = 0 THEN a.atttypmod ELSE t.typtypmod END),
    coalesce(s.n_distinct, 0), quote_ident(a.attname), coalesce(s.avg_width, 0),
    a.attlen > 0 OR t.typname = 'numeric'
        OR (t.typname IN ('varchar', 'bpchar') AND a.atttypmod BETWEEN 0 AND 259),
    coalesce(s.most_common_freqs[1], 0),
    coalesce((SELECT quote_ident(o.collname) FROM pg_collation o
              WHERE o.oid = a.attcollation AND o.oid <> t.typcollation), '')
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

_INDEX_NAMES = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname LIKE 'ix\\_%%'
"""


class _Member(NamedTuple):
    """A row of _FAMILY.

    `mark` changes with the relation's columns, indexes and statistics, `extensions` with those of
    the database.
    """

    oid: int
    schema: str
    name: str
    display: str
    quoted_name: str
    kind: str
    tuples: float
    known_pages: int
    pages: int
    parent: int | None
    visible_pages: int
    has_statistics: bool
    hides_statistics: bool
    mark: str
    counts: tuple[int, ...]
    extensions: str | None

    @property
    def key(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def size(self) -> tuple[str, float, int, int]:
        """What the estimate of its rows is made from."""
        return (self.kind, self.tuples, self.known_pages, self.pages)

    @property
    def activity(self) -> Activity:
        return Activity(*self.counts)


@dataclass(frozen=True)
class _Known:
    """What was read of a relation while it had this mark; `rows` is the estimate for `size`."""

    mark: str
    until: float
    columns: tuple[Column, ...]
    indexes: tuple[Index, ...]
    size: tuple[str, float, int, int] | None = None
    rows: float = 0.0


class _Names(NamedTuple):
    """The relations that a plan reads, and those that it deletes from."""

    keys: tuple[str, ...]
    deleted_from: tuple[str, ...]


class _Remembered(NamedTuple):
    """A schema that was read, with the names of its indexes."""

    schema: Schema
    indexes: frozenset[str]
    until: float


class Catalog:
    """What pg_catalog says of relations, remembered as long as it is still true.

    One query tells of each relation whether its columns, indexes or statistics have changed.
    Callers that tolerate staleness may use the previous answer for up to KEEP_SECONDS. Used on
    PlanWatch's thread only.
    """

    def __init__(self, session: Session, clock: Callable[[], float] = now) -> None:
        self._session = session
        self._clock = clock
        self._known: RecentlyUsed[int, _Known] = RecentlyUsed(LEARNT, MAX_RELATIONS)
        self._schemas: RecentlyUsed[_Names, _Remembered] = RecentlyUsed(LEARNT, MAX_REMEMBERED)

    def remembered(self, plan: Plan) -> Schema | None:
        """Return what `schema` said of the relations of such a plan in the last KEEP_SECONDS.

        None if it was not asked, or if the plan uses an index that is newer.
        """
        kept = self._schemas.get(_names_in(plan))
        if kept is None or self._clock() >= kept.until:
            return None
        new = any(node.index and node.index not in kept.indexes for node in plan.nodes)
        return None if new else kept.schema

    def schema(self, plan: Plan) -> Schema:
        """Return the relations that a plan reads, with their partitioned families.

        Where rows are deleted, the foreign keys to that relation and their tables are read as well.
        Raises ServerError.
        """
        names = _names_in(plan)
        if not names.keys:
            return Schema()
        schema = self._read(names)
        self._remember(names, schema)
        return schema

    def _remember(self, names: _Names, schema: Schema) -> None:
        relations = schema.relations.values()
        indexes = frozenset(index.name for relation in relations for index in relation.indexes)
        self._schemas.keep(names, _Remembered(schema, indexes, self._clock() + KEEP_SECONDS))

    def _read(self, names: _Names) -> Schema:
        keys = list(names.keys)
        # Names are displayed as a new session has to write them.
        with self._session.transaction(own_state=True) as transaction:
            references: tuple[ForeignKey, ...] = ()
            if names.deleted_from:
                rows = transaction.fetch(_REFERENCES, (list(names.deleted_from),))
                references = tuple(ForeignKey(*row) for row in rows)
                keys = sorted({*keys, *(reference.child for reference in references)})
            family = [_Member(*row) for row in transaction.fetch(_FAMILY, (_names(keys), keys))]
            if any(member.pages is None for member in family):
                # It existed when the query began, but not when the size of its file was read.
                raise ServerError(SkipReason.NOT_VISIBLE, "a table was dropped in the meantime")
            known = {member.oid: kept for member in family if (kept := self._still_true(member))}
            new = [member for member in family if member.oid not in known]
            known.update(self._learn(transaction, new))
        known = {member.oid: self._counted(member, known[member.oid]) for member in family}
        extensions = family[0].extensions if family else None
        return Schema(_relations(family, known), references, extensions or "")

    def _still_true(self, member: _Member) -> _Known | None:
        """Return what was read of a relation before, None if it may have changed since."""
        known = self._known.get(member.oid)
        if known is None or known.mark != member.mark or self._clock() >= known.until:
            return None
        return known

    def _learn(self, transaction: Transaction, members: Sequence[_Member]) -> dict[int, _Known]:
        """Read the columns and indexes of relations."""
        if not members:
            return {}
        until = self._clock() + KEEP_SECONDS
        oids = [member.oid for member in members]
        columns = _grouped(transaction.fetch(_COLUMNS, ([member.name for member in members], oids)))
        indexes = _grouped(transaction.fetch(_INDEXES, (oids,)))
        return {
            member.oid: _Known(
                member.mark,
                until,
                tuple(Column(*column) for column in columns[member.oid]),
                tuple(Index(*index) for index in indexes[member.oid]),
            )
            for member in members
        }

    def _counted(self, member: _Member, known: _Known) -> _Known:
        """Return what is known of a relation with its current number of rows, and remember it."""
        if known.size != member.size:
            known = replace(known, size=member.size, rows=_rows(self._session, member))
            self._known.keep(member.oid, known)
        return known


def _names_in(plan: Plan) -> _Names:
    keys = {scan.qualified_relation or "" for scan in plan.scans}
    return _Names(tuple(sorted(keys)), plan.deleted_from)


def _relations(family: Sequence[_Member], known: Mapping[int, _Known]) -> dict[str, Relation]:
    names = {member.oid: member.key for member in family}
    parents = {member.oid: member.parent for member in family if member.parent in names}
    return {
        member.key: Relation(
            key=member.key,
            schema=member.schema,
            name=member.name,
            display=member.display,
            quoted_name=member.quoted_name,
            kind=member.kind,
            rows=known[member.oid].rows,
            root=names[_topmost(member.oid, parents)],
            columns=known[member.oid].columns,
            indexes=known[member.oid].indexes,
            partitions=tuple(names[oid] for oid, parent in parents.items() if parent == member.oid),
            has_statistics=member.has_statistics,
            hides_statistics=member.hides_statistics,
            activity=member.activity,
            pages=member.pages,
            visible_pages=member.visible_pages,
            mark=member.mark,
        )
        for member in family
    }


def _names(keys: Iterable[str]) -> list[str]:
    """Return all possible names in keys `schema.name`: both parts may contain dots."""
    return [key[position + 1 :] for key in keys for position, sign in enumerate(key) if sign == "."]


def index_names(session: Session, schema: str) -> frozenset[str]:
    """Return the names in a schema that an advised index must not take; raises ServerError."""
    rows = session.fetch(_INDEX_NAMES, (schema,), own_state=True)
    return frozenset(name for (name,) in rows)


def _grouped(rows: Iterable[tuple[Any, ...]]) -> dict[int, list[tuple[Any, ...]]]:
    groups = defaultdict(list)
    for oid, *values in rows:
        groups[oid].append(tuple(values))
    return groups


def _rows(session: Session, member: _Member) -> float:
    """Return a relation's rows as the planner estimates them: the last density times its pages.

    The planner assumes ten pages for a table that was never vacuumed or analysed. For a smaller
    one, its estimate is scaled down to the pages that there are.
    """
    kind, tuples, known_pages, pages = member.size
    if kind not in {"r", "m"}:
        return max(float(tuples), 0.0)
    if pages == 0:
        return 0.0
    if tuples > 0 and known_pages > 0:
        return float(tuples / known_pages * pages)
    shrink: float = min(1.0, pages / ASSUMED_PAGES) if tuples < 0 else 1.0
    return _estimate(session, member.schema, member.name) * shrink


def _estimate(session: Session, schema: str, name: str) -> float:
    """Return the planner's estimate; 0 for a table that PlanWatch's role may not read."""
    query = Query(f"SELECT 1 FROM ONLY {qualified(schema, name)}", None, escaped=False)
    try:
        return explain(session, query).root.rows
    except ServerError as error:
        if error.reason is not SkipReason.PERMISSION_DENIED:
            raise
        return 0.0


def _topmost(oid: int, parents: Mapping[int, int | None]) -> int:
    while (above := parents.get(oid)) is not None:
        oid = above
    return oid
