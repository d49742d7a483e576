"""A candidate index: its keys, its name, and its spelling as DDL."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from sqlglot import expressions as sql

from ..plan.figures import MAX_NAME_BYTES
from ..plan.predicate import parse
from ..plan.schema import Column, Relation, Schema, Structural
from ..plan.scrub import mask
from .mapped import DeclaredIndex

_WORD = re.compile(r"[^\W\d]\w*")
#: Calls around columns, or one JSON key: the words in them name the expression.
_SIMPLE = re.compile(r"""\A(?:[\w(]+\(["\w, ]++\)++|"?\w++"? ->> '\w++'|["\w, ]++)""")
_CAST_TYPE = re.compile(r"::[\w ]+(\[\])?")
#: Words of operator classes that become part of the name: `text_pattern_ops`, `gin_trgm_ops`.
_MARKS = {"pattern", "trgm", "path"}
#: The method that these words tell; any other becomes part of the name, too.
_TOLD_METHOD = {"": "btree", "pattern": "btree", "trgm": "gin", "path": "gin"}
_KEYWORDS = {"from", "both", "for", "in", "case", "when", "then", "else"}
#: A quoted name, which is never a keyword, or a word.
_NAME_OR_WORD = re.compile(rf'"((?:[^"]|"")+)"|({_WORD.pattern})')


@dataclass(frozen=True)
class Key:
    """One column or expression that an index is sorted by, as it stands in the DDL.

    It holds no compared value, as the index's name and all of the advice show it.

    `column` is the unquoted name if it is nothing but a column, perhaps in another `collation` than
    its own, which is then named here and in the expression. `nulls` is `FIRST` or `LAST` where that
    is not the default of the direction. `definition` is how the server prints the expression in the
    index's definition, "" where that is not known.
    """

    expression: Structural
    column: str | None = None
    operator_class: str = ""
    descending: bool = False
    nulls: str = ""
    collation: str = ""
    definition: str = field(default="", compare=False)

    @property
    def term(self) -> str:
        """The expression with the parentheses that CREATE INDEX wants around all but calls."""
        if self.column is not None or isinstance(parse(self.expression), sql.Anonymous):
            return self.expression
        return f"({self.expression})"

    @property
    def direction(self) -> str:
        """DESC and the place of the NULLs, after a blank, where they are not the default."""
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


def column_of(relation: Relation, key: str) -> Column | None:
    """Return the column that a key as SQL is, None if it is an expression."""
    return next((column for column in relation.columns if column.quoted_name == key), None)


@dataclass(frozen=True, eq=False)
class Candidate:
    """An index that might serve. Two are equal if they would be the same index.

    `include` are the columns of INCLUDE, unquoted; `predicate` is the condition of a partial index.
    `taken` are names that belong to other indexes. `extension` provides the operator
    class, if it has to be created first. `declared` is what the models declare, if it is that: it
    has its name, and is unique where that is. The first `equal_keys` of the keys are compared by
    equality, so that their order does not matter.
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
    declared: DeclaredIndex | None = None
    equal_keys: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidate) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[str, str]:
        return (self.relation.key, self.body)

    @property
    def name(self) -> str:
        """The declared or given name, or else a free one made of the table and the keys."""
        if self.declared is not None:
            return self.declared.name
        return self.given_name or index_name(self.relation, self.words, self.taken)

    @property
    def plain(self) -> bool:
        """Whether each key has the default direction, operator class and collation."""
        return not any(key.ordering or key.collation for key in self.keys)

    @property
    def on_columns(self) -> bool:
        """Whether each key is a plain column."""
        return all(key.column is not None for key in self.keys)

    @property
    def expressions(self) -> tuple[Structural, ...]:
        """The columns and expressions that it is sorted by, as SQL."""
        return tuple(key.expression for key in self.keys)

    @property
    def included(self) -> tuple[Structural, ...]:
        """The columns of INCLUDE as SQL."""
        return tuple(map(self.relation.quoted_column, self.include))

    @property
    def words(self) -> str:
        """What the name is made of: the keys, and what a plain index does not have."""
        classes = {key.operator_class.rpartition(".")[2] for key in self.keys} - {""}
        marks = sorted({mark for name in classes for mark in name.split("_") if mark in _MARKS})
        if self.method != _TOLD_METHOD.get(" ".join(marks)):
            marks.append(self.method)
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
            parts.append(f"INCLUDE ({', '.join(self.included)})")
        if self.declared is not None and self.declared.nulls_not_distinct:
            parts.append("NULLS NOT DISTINCT")
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
        index first, and each partition's own index is attached to it. That is the one that a
        partition has already, if it has such a one.
        """
        first = tuple([self.create_extension] if self.extension else [])
        if not self.relation.partitioned:
            create = f"CREATE {self._kind} CONCURRENTLY {quote(self.name)} {self.definition}"
            return (*first, create, *self.add_constraint)
        return (*first, *self._partitioned_ddl(self.relation, self.name, set(self.taken)))

    @property
    def _kind(self) -> str:
        return "UNIQUE INDEX" if self.declared is not None and self.declared.unique else "INDEX"

    @property
    def add_constraint(self) -> tuple[str, ...]:
        """The statement that makes the index that of a declared constraint, if there is one.

        PostgreSQL takes no index for that on a partitioned table.
        """
        if self.declared is None or not self.declared.constraint or self.relation.partitioned:
            return ()
        name = quote(self.name)
        table = self.relation.display
        timing = f" {self.declared.timing}" if self.declared.timing else ""
        return (f"ALTER TABLE {table} ADD CONSTRAINT {name} UNIQUE USING INDEX {name}{timing}",)

    @property
    def create_extension(self) -> str:
        """The statement that creates the extension."""
        return f"CREATE EXTENSION IF NOT EXISTS {quote(self.extension)}"

    @property
    def drop(self) -> str:
        """The statement that takes the index, or its constraint, away again."""
        if self.add_constraint:
            return f"ALTER TABLE {self.relation.display} DROP CONSTRAINT {quote(self.name)}"
        concurrently = "" if self.relation.partitioned else "CONCURRENTLY "
        return f"DROP INDEX {concurrently}{self.relation.schema_prefix}{quote(self.name)}"

    def _partitioned_ddl(self, parent: Relation, name: str, taken: set[str]) -> Iterator[str]:
        taken.add(name)
        yield f"CREATE {self._kind} {quote(name)} ON ONLY {parent.display} {self.body}"
        for key in parent.partitions:
            partition = self.schema.relations[key]
            if not partition.indexable:
                continue
            existing = self._same_on(partition)
            own_name = existing or index_name(partition, self.words, frozenset(taken))
            if partition.partitioned and not existing:
                yield from self._partitioned_ddl(partition, own_name, taken)
            elif not existing:
                taken.add(own_name)
                definition = f"ON {partition.display} {self.body}"
                yield f"CREATE {self._kind} CONCURRENTLY {quote(own_name)} {definition}"
            yield (
                f"ALTER INDEX {parent.schema_prefix}{quote(name)} "
                f"ATTACH PARTITION {partition.schema_prefix}{quote(own_name)}"
            )

    def _same_on(self, partition: Relation) -> str:
        """Return the name of the index that a partition has already, empty if it has none."""
        if not self.plain or not self.on_columns or self.method != "btree" or self.predicate:
            return ""
        names = tuple(key.column for key in self.keys)
        wanted = (True, True, "btree", names, self.include, None, self._kind == "UNIQUE INDEX")
        for index in partition.indexes:
            held = (index.valid, index.plain, index.method, index.keys, index.included)
            if (*held, index.predicate, index.unique) == wanted:
                return index.name
        return ""


def mentions(condition: str, key: str) -> bool:
    """Whether a condition names a column or has an expression in it, all as SQL."""
    return re.search(rf'(?<![\w"]){re.escape(key)}(?![\w"])', condition) is not None


def index_name(relation: Relation, expression: str, taken: frozenset[str]) -> str:
    """Return a name made of table and expressions, of at most 63 bytes and not `taken`."""
    table = re.sub(r"\W+", "_", relation.name).strip("_")
    words = list(_words(_CAST_TYPE.sub("", expression)))
    if not _SIMPLE.fullmatch(expression):
        # The words alone do not tell `points + 1` from `points * 2`.
        words.append(_digest(expression))
    # In lower case, so that the name needs no quotes.
    wanted = "_".join(["ix", table.lower(), *map(str.lower, words)])
    name, attempt = _shortened(wanted, ""), 1
    while name in taken:
        attempt += 1
        name = _shortened(wanted, f"_{attempt}")
    return name


def _words(expression: str) -> Iterator[str]:
    """Yield the words of an expression: all of its quoted names, and no keywords of SQL."""
    for quoted, word in _NAME_OR_WORD.findall(expression):
        if quoted:
            yield from re.findall(r"\w+", quoted)
        elif word.lower() not in _KEYWORDS:
            yield word


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def quote(name: str) -> str:
    """Return an index's name as SQL, in quotes if it has other letters than a to z."""
    if re.fullmatch(r"[a-z_][a-z0-9_]*", name):
        return name
    return '"' + name.replace('"', '""') + '"'


def _shortened(name: str, suffix: str) -> str:
    room = MAX_NAME_BYTES - len(suffix)
    if len(name.encode()) > room:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = name.encode()[: room - 9].decode(errors="ignore") + "_" + digest
    return name + suffix
