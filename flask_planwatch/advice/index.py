"""A candidate index: its keys, its name, and its spelling as DDL."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sqlglot import expressions as sql

from ..plan.predicate import parse
from ..plan.schema import Relation, Schema, Structural
from ..plan.scrub import mask

#: PostgreSQL cuts longer names (NAMEDATALEN - 1).
MAX_NAME_BYTES = 63

_WORD = re.compile(r"[^\W\d]\w*")
#: Calls around columns, or one JSON key: the words in them name the expression.
_SIMPLE = re.compile(r"""\A(?:[\w(]+\(["\w, ]++\)++|"?\w++"? ->> '\w++'|["\w, ]++)""")
_CAST_TYPE = re.compile(r"::[\w ]+(\[\])?")
#: Words of operator classes that set an index apart: `text_pattern_ops`, `gin_trgm_ops`.
_MARKS = {"pattern", "trgm", "path"}
_KEYWORDS = {"from", "both", "leading", "trailing", "for", "in", "case", "when", "then", "else"}


@dataclass(frozen=True)
class Key:
    """One column or expression that an index is sorted by, as it stands in the DDL.

    It is structural, as its words are in the index's name and its text in all of the advice.

    `column` is the unquoted name if it is nothing but a column. `nulls` is `FIRST` or `LAST` where
    that is not the default of the direction.
    """

    expression: Structural
    column: str | None = None
    operator_class: str = ""
    descending: bool = False
    nulls: str = ""

    @property
    def term(self) -> str:
        """The expression with the parentheses that CREATE INDEX wants around all but calls."""
        if self.column is not None or isinstance(parse(self.expression), sql.Anonymous):
            return self.expression
        return f"({self.expression})"

    @property
    def direction(self) -> str:
        """DESC and the place of the NULLs, led by a blank, where they are not the default."""
        return " DESC" * self.descending + (f" NULLS {self.nulls}" if self.nulls else "")

    @property
    def ordering(self) -> str:
        """What follows the term: operator class, direction and place of the NULLs."""
        return (f" {self.operator_class}" if self.operator_class else "") + self.direction

    def __str__(self) -> str:
        return self.term + self.ordering


def column_key(relation: Relation, name: str) -> Key:
    """Return the key on a plain column; `name` is unquoted."""
    return Key(relation.quoted_column(name), name)


@dataclass(frozen=True, eq=False)
class Candidate:
    """An index that might serve. Two are equal if they would be the same index.

    `include` are columns, unquoted, that the index only carries; `predicate` is the condition of a
    partial index. `taken` are names that belong to other indexes. `extension` provides the operator
    class, if it has to be created first.
    """

    relation: Relation
    keys: tuple[Key, ...]
    schema: Schema
    taken: frozenset[str]
    method: str = "btree"
    include: tuple[str, ...] = ()
    predicate: str = ""
    extension: str = ""
    given_name: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidate) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[str, str]:
        return (self.relation.key, self.body)

    @property
    def name(self) -> str:
        """A name that is free and tells the table and the keys, unless one was given."""
        return self.given_name or index_name(self.relation, self.words, self.taken)

    @property
    def on_columns(self) -> bool:
        """Whether each key is a plain column."""
        return all(key.column is not None for key in self.keys)

    @property
    def words(self) -> str:
        """What the name tells: the keys, and what sets the index apart from a plain one."""
        classes = {key.operator_class.rpartition(".")[2] for key in self.keys} - {""}
        marks = sorted({mark for name in classes for mark in name.split("_") if mark in _MARKS})
        if self.predicate:
            marks.append(f"partial_{_digest(mask(self.predicate))}")
        if self.include:
            marks.append(f"with {', '.join(self.include)}")
        return " ".join(
            [", ".join(key.expression + key.direction.lower() for key in self.keys), *marks]
        )

    @property
    def body(self) -> str:
        """What follows the table's name."""
        parts = [f"({', '.join(str(key) for key in self.keys)})"]
        if self.method != "btree":
            parts.insert(0, f"USING {self.method}")
        if self.include:
            columns = ", ".join(self.relation.quoted_column(name) for name in self.include)
            parts.append(f"INCLUDE ({columns})")
        if self.predicate:
            parts.append(f"WHERE {self.predicate}")
        return " ".join(parts)

    @property
    def shown(self) -> str:
        """The body as people may see it: a compared value is masked."""
        return replace(self, predicate=mask(self.predicate)).body

    @property
    def definition(self) -> str:
        """What follows `CREATE INDEX name`, as one statement that builds the whole index."""
        return f"ON {self.relation.display} {self.body}"

    @property
    def ddl(self) -> tuple[str, ...]:
        """The statements that create it without locking out writers, one by one.

        PostgreSQL refuses CONCURRENTLY on a partitioned table, so there the parent gets an empty
        index first, and each partition's own index is attached to it.
        """
        first = tuple([self.create_extension] if self.extension else [])
        if not self.relation.partitioned:
            return (*first, f"CREATE INDEX CONCURRENTLY {quote(self.name)} {self.definition}")
        return (*first, *self._partitioned_ddl(self.relation, self.name, set(self.taken)))

    @property
    def create_extension(self) -> str:
        """The statement that creates the extension."""
        return f"CREATE EXTENSION IF NOT EXISTS {quote(self.extension)}"

    @property
    def drop(self) -> str:
        """The statement that takes the index away again."""
        concurrently = "" if self.relation.partitioned else "CONCURRENTLY "
        return f"DROP INDEX {concurrently}{self.relation.schema_prefix}{quote(self.name)}"

    def _partitioned_ddl(self, parent: Relation, name: str, taken: set[str]) -> Iterator[str]:
        taken.add(name)
        yield f"CREATE INDEX {quote(name)} ON ONLY {parent.display} {self.body}"
        for key in parent.partitions:
            partition = self.schema.relations[key]
            if not partition.indexable:
                continue
            own_name = index_name(partition, self.words, frozenset(taken))
            if partition.partitioned:
                yield from self._partitioned_ddl(partition, own_name, taken)
            else:
                taken.add(own_name)
                definition = f"ON {partition.display} {self.body}"
                yield f"CREATE INDEX CONCURRENTLY {quote(own_name)} {definition}"
            yield (
                f"ALTER INDEX {parent.schema_prefix}{quote(name)} "
                f"ATTACH PARTITION {partition.schema_prefix}{quote(own_name)}"
            )


def mentions(condition: str, key: str) -> bool:
    """Whether a condition speaks of a column or an expression, both as SQL."""
    return re.search(rf'(?<![\w"]){re.escape(key)}(?![\w"])', condition) is not None


def index_name(relation: Relation, expression: str, taken: frozenset[str]) -> str:
    """Return a name of at most 63 bytes that tells table and expressions and is not `taken`."""
    table = re.sub(r"\W+", "_", relation.name).strip("_")
    words = _WORD.findall(_CAST_TYPE.sub("", expression))
    if not _SIMPLE.fullmatch(expression):
        # The words alone do not tell `points + 1` from `points * 2`.
        words.append(_digest(expression))
    # In lower case, so that the name needs no quotes.
    wanted = "_".join(
        ["ix", table.lower(), *(word.lower() for word in words if word.lower() not in _KEYWORDS)]
    )
    name, attempt = _shortened(wanted, ""), 1
    while name in taken:
        attempt += 1
        name = _shortened(wanted, f"_{attempt}")
    return name


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def quote(name: str) -> str:
    """Return an index's name as SQL; names made here need quotes only for their letters."""
    if re.fullmatch(r"[a-z_][a-z0-9_]*", name):
        return name
    return '"' + name.replace('"', '""') + '"'


def _shortened(name: str, suffix: str) -> str:
    room = MAX_NAME_BYTES - len(suffix)
    if len(name.encode()) > room:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = name.encode()[: room - 9].decode(errors="ignore") + "_" + digest
    return name + suffix
