"""A candidate index on an expression: its name, and its spelling as DDL."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from sqlglot import expressions as sql

from ..plan.predicate import parse
from ..plan.schema import Relation, Schema

#: PostgreSQL cuts longer names (NAMEDATALEN - 1).
MAX_NAME_BYTES = 63

_WORD = re.compile(r"[^\W\d]\w*")
#: Calls around columns, or one JSON key: the words in them name the expression.
_SIMPLE = re.compile(r"""[\w(]+\(["\w, ]+\)+|"?\w+"? ->> '\w+'""")
_CAST_TYPE = re.compile(r"::[\w ]+(\[\])?")
_KEYWORDS = {"from", "both", "leading", "trailing", "for", "in", "case", "when", "then", "else"}


@dataclass(frozen=True)
class Candidate:
    """An index that might serve. `key` is the index's expression as it stands in the DDL."""

    relation: Relation
    expression: str
    name: str
    schema: Schema
    taken: frozenset[str]

    @property
    def key(self) -> str:
        """The expression with the parentheses that CREATE INDEX wants around all but calls."""
        call = isinstance(parse(self.expression), sql.Anonymous)
        return self.expression if call else f"({self.expression})"

    @property
    def definition(self) -> str:
        """What follows `CREATE INDEX name`, as one statement that builds the whole index."""
        return f"ON {self.relation.display} ({self.key})"

    @property
    def ddl(self) -> tuple[str, ...]:
        """The statements that create it without locking out writers, one by one.

        PostgreSQL refuses CONCURRENTLY on a partitioned table, so there the parent gets an empty
        index first, and each partition's own index is attached to it.
        """
        if not self.relation.partitioned:
            return (f"CREATE INDEX CONCURRENTLY {quote(self.name)} {self.definition}",)
        return tuple(self._partitioned_ddl(self.relation, self.name, set(self.taken)))

    @property
    def drop(self) -> str:
        """The statement that takes the index away again."""
        concurrently = "" if self.relation.partitioned else "CONCURRENTLY "
        return f"DROP INDEX {concurrently}{self.relation.schema_prefix}{quote(self.name)}"

    def _partitioned_ddl(self, parent: Relation, name: str, taken: set[str]) -> Iterator[str]:
        taken.add(name)
        yield f"CREATE INDEX {quote(name)} ON ONLY {parent.display} ({self.key})"
        for key in parent.partitions:
            partition = self.schema.relations[key]
            if not partition.indexable:
                continue
            own_name = index_name(partition, self.expression, frozenset(taken))
            if partition.partitioned:
                yield from self._partitioned_ddl(partition, own_name, taken)
            else:
                taken.add(own_name)
                yield (
                    f"CREATE INDEX CONCURRENTLY {quote(own_name)} "
                    f"ON {partition.display} ({self.key})"
                )
            yield (
                f"ALTER INDEX {parent.schema_prefix}{quote(name)} "
                f"ATTACH PARTITION {partition.schema_prefix}{quote(own_name)}"
            )


def candidate(
    relation: Relation, expression: str, schema: Schema, taken: frozenset[str]
) -> Candidate:
    """Return the candidate index on an expression of a relation, under a name that is free."""
    name = index_name(relation, expression, taken)
    return Candidate(relation, expression, name, schema, taken)


def index_name(relation: Relation, expression: str, taken: frozenset[str]) -> str:
    """Return a name of at most 63 bytes that tells table and expression and is not `taken`."""
    table = re.sub(r"\W+", "_", relation.name).strip("_")
    words = _WORD.findall(_CAST_TYPE.sub("", expression))
    if not _SIMPLE.fullmatch(expression):
        # The words alone do not tell `points + 1` from `points * 2`.
        words.append(hashlib.sha256(expression.encode()).hexdigest()[:6])
    # In lower case, so that the name needs no quotes.
    wanted = "_".join(
        ["ix", table.lower(), *(word.lower() for word in words if word.lower() not in _KEYWORDS)]
    )
    name, attempt = _shortened(wanted, ""), 1
    while name in taken:
        attempt += 1
        name = _shortened(wanted, f"_{attempt}")
    return name


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
