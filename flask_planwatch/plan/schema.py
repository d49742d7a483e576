"""What the catalog says of the relations in a plan, as plain data."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import NewType

#: SQL over the columns of a relation that holds no compared value. Advice is made of this alone;
#: `structural` and `shown` of scrub.py make it of what the server printed.
Structural = NewType("Structural", str)


class Volatility(StrEnum):
    """How far a function's result depends on more than its arguments.

    The classes of https://www.postgresql.org/docs/current/xfunc-volatility.html; only IMMUTABLE
    expressions can be indexed. UNKNOWN: the catalog does not say, with a reason.
    """

    IMMUTABLE = "immutable"
    STABLE = "stable"
    VOLATILE = "volatile"
    UNKNOWN = "unknown"


#: The bits of each type of integers.
INTEGER_BITS = {"smallint": 16, "integer": 32, "bigint": 64}

#: The types of integers.
INTEGERS = frozenset(INTEGER_BITS)

#: The types of texts without a length.
TEXT_TYPES = frozenset({"text", "character varying"})


def base_type(type_name: str) -> str:
    """Return a type without its length: `character varying` for `character varying(255)`."""
    return re.sub(r"\([^()]*+\)", "", type_name).strip()


@dataclass(frozen=True)
class Column:
    """A column: its name, and its type as PostgreSQL's format_type prints it.

    `distinct` is pg_stats' n_distinct: a number of values, or, if below 0, the share of the rows
    that have a value of their own; 0 if the column was never analysed. `width` is the average size
    of a value in bytes, 0 if that is not known; `bounded` tells that no value can be long.
    `frequency` is the share of the rows that have the most common value, 0 if none is common.
    `collation` is its collation as SQL, "" if that is the one of its type.
    """

    name: str
    type: str
    distinct: float = 0.0
    quoted_name: Structural = Structural("")
    width: float = 0.0
    bounded: bool = True
    frequency: float = field(default=0.0, repr=False)
    collation: str = ""

    @property
    def base_type(self) -> str:
        """The type without its length."""
        return base_type(self.type)

    def values_in(self, rows: float) -> float:
        """Return how many values it has in a table of so many rows, 0 if that is not known."""
        return -self.distinct * rows if self.distinct < 0 else self.distinct


@dataclass(frozen=True)
class Index:
    """An index. `keys` are its columns by name, and its expressions as PostgreSQL prints them.

    `included` are the columns that it only holds. `plain` tells that each key has the default
    direction and operator class and the column's own collation.
    """

    name: str
    keys: tuple[str, ...]
    definition: str
    unique: bool
    valid: bool
    predicate: str | None
    method: str
    plain: bool = True
    included: tuple[str, ...] = ()

    def is_alike_on(self, relation: Relation) -> bool:
        """Whether a relation has a valid index that holds the same."""
        return any(
            index.valid
            and (index.keys, index.included, index.predicate)
            == (self.keys, self.included, self.predicate)
            for index in relation.indexes
        )


@dataclass(frozen=True)
class ForeignKey:
    """A constraint by which `columns` of the relation `child` refer to the relation `parent`."""

    name: str
    child: str
    parent: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Activity:
    """What pg_stat_user_tables counted since its last reset: rows written, and scans."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    scans: int = 0
    #: Rows that were deleted or replaced, and not yet removed by VACUUM.
    dead: int = 0
    #: Rows that were written since the last ANALYZE.
    changed: int = 0

    @property
    def written(self) -> int:
        """Rows that each index of the table had to follow."""
        return self.inserted + self.updated + self.deleted


@dataclass(frozen=True)
class Relation:
    """A table, partition, materialised view or foreign table.

    `key` is `schema.name` unquoted, the name that plans use; `display` is quoted, and qualified
    only if the search path does not find it. `rows` is an estimate. `root` is the key of the
    topmost partitioned table that this is a part of, or its own. `partitions` lists a partitioned
    table's direct partitions by key. `has_statistics` tells whether ANALYZE found something in it;
    with `hides_statistics` only that the server remembers an ANALYZE, as pg_stats shows nothing of
    it to PlanWatch's role: it has no privilege, or policies apply to it. Of its
    `pages`, `visible_pages` are marked all-visible, so that an Index Only Scan need not read them.
    `mark` changes with its columns, indexes and statistics.
    """

    key: str
    schema: str
    name: str
    display: str
    quoted_name: str
    kind: str
    rows: float
    root: str
    columns: tuple[Column, ...] = ()
    indexes: tuple[Index, ...] = ()
    partitions: tuple[str, ...] = ()
    has_statistics: bool = False
    hides_statistics: bool = False
    activity: Activity = Activity()
    pages: int = 0
    visible_pages: int = 0
    mark: str = ""

    # Asked for each column of a condition: it saves 0.3 ms of an inspection of 26 ms.
    @cached_property
    def _by_name(self) -> Mapping[str, Column]:
        return {column.name: column for column in reversed(self.columns)}

    @property
    def schema_prefix(self) -> str:
        """What an object beside the relation needs before its name: `other_schema.` or nothing."""
        return self.display.removesuffix(self.quoted_name)

    @property
    def lacks_statistics(self) -> bool:
        """Whether it is certain that PostgreSQL has no statistics of it."""
        return not self.has_statistics and not self.hides_statistics

    @property
    def partitioned(self) -> bool:
        """Whether it is a partitioned table, which holds no rows itself."""
        return self.kind == "p"

    @property
    def indexable(self) -> bool:
        """Whether an index can be created on it."""
        return self.kind in {"r", "p", "m"}

    def column(self, name: str) -> Column | None:
        """Return the column of this name."""
        return self._by_name.get(name)

    def index(self, name: str | None) -> Index | None:
        """Return the index of this name."""
        return next((index for index in self.indexes if index.name == name), None)

    def has_index_for(self, columns: Collection[str]) -> bool:
        """Whether a valid index begins with one of the columns.

        A partial index counts if it leaves out only the rows where that column is NULL, which no
        comparison finds.
        """
        return any(
            index.keys[0] in columns
            and index.predicate in {None, f"({self.quoted_column(index.keys[0])} IS NOT NULL)"}
            for index in self.indexes
            if index.valid and index.keys
        )

    def quoted_column(self, name: str) -> Structural:
        """Return a column's name as SQL, in quotes where it needs them."""
        column = self.column(name)
        return column.quoted_name if column else Structural(name)


#: The relation of a statement that reads none.
NO_RELATION = Relation(
    key="", schema="", name="", display="", quoted_name="", kind="", rows=0.0, root=""
)


@dataclass(frozen=True, eq=False)
class Schema:
    """The relations of one plan, their partitioned roots, and the partitions of those.

    If the plan deletes rows, `references` are the foreign keys that PostgreSQL then checks, and
    `relations` has the tables that refer. `extensions` is different once the database has other
    extensions. A schema is equal to itself only.
    """

    relations: Mapping[str, Relation] = field(default_factory=dict)
    references: tuple[ForeignKey, ...] = ()
    extensions: str = ""

    @property
    def text(self) -> str:
        """Tables, columns and indexes as text, which is the same for schemas that are alike."""
        return repr(
            [
                (relation.key, relation.columns, relation.indexes, relation.has_statistics)
                for relation in self.relations.values()
            ]
        )

    @property
    def index_mark(self) -> str:
        """A mark of the valid indexes of all relations, which changes with each; "" without any."""
        indexes = (index for relation in self.relations.values() for index in relation.indexes)
        found = sorted(index.definition for index in indexes if index.valid)
        return hashlib.sha256("\0".join(found).encode()).hexdigest()[:16] if found else ""

    def get(self, key: str | None) -> Relation | None:
        """Return the relation of this key."""
        return self.relations.get(key) if key else None

    def of(self, keys: Iterable[str | None]) -> list[Relation]:
        """Return the relations of these keys, as far as they are known."""
        return [relation for key in keys if (relation := self.get(key)) is not None]

    def root(self, relation: Relation) -> Relation:
        """Return the topmost partitioned table that the relation is a part of, or itself."""
        return self.relations.get(relation.root, relation)

    @property
    def largest(self) -> Relation:
        """The relation with the most rows, as a person would name it, or NO_RELATION."""
        largest = max(
            self.relations.values(), key=lambda relation: relation.rows, default=NO_RELATION
        )
        return self.root(largest)

    def leaves(self, relation: Relation) -> list[Relation]:
        """Return the relations below a partitioned one that hold rows, or itself."""
        leaves, waiting = [], [relation]
        while waiting:
            current = waiting.pop()
            if current.partitioned:
                waiting.extend(reversed(self.of(current.partitions)))
            else:
                leaves.append(current)
        return leaves


@dataclass(frozen=True)
class ExpressionFacts:
    """What the server says of an expression.

    `text` is the shortest spelling that the server reads as the same expression. `reason` says
    which part makes it STABLE or VOLATILE, or why that could not be resolved.
    """

    text: str
    volatility: Volatility
    reason: str = ""
