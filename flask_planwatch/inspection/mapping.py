"""How the application's own classes name a table and its columns, as plain strings.

SQLAlchemy's public interface finds the classes: each captured ORM construct names the entities that
it selects or changes, and the registry of an entity knows all its classes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from sqlalchemy import JSON, Column, Index, MetaData, Table, UniqueConstraint, inspect, make_url
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper, registry

from ..indexes.mapped import DeclaredIndex, MappedTable

if TYPE_CHECKING:
    from ..plan.schema import Relation

#: Renders expressions; no driver is needed for that.
_POSTGRESQL = make_url("postgresql://").get_dialect()()

#: Options that make an index another than a plain one on its keys.
_SPECIAL = ("using", "ops")


class Mappings:
    """The registries that one app was seen to use."""

    def __init__(self) -> None:
        self._registries: WeakSet[registry] = WeakSet()
        self._lock = threading.Lock()

    def learn(self, entities: Iterable[Any]) -> None:
        """Remember the registries of these mapped classes; anything else is passed over."""
        for entity in entities:
            try:
                mapper = inspect(entity, raiseerr=False)
            except NoInspectionAvailable:
                continue
            mapper = getattr(mapper, "mapper", None)
            if isinstance(mapper, Mapper):
                with self._lock:
                    self._registries.add(mapper.registry)

    def learn_registry(self, known: registry) -> None:
        """Remember a registry, such as that of Flask-SQLAlchemy's `db.Model`."""
        with self._lock:
            self._registries.add(known)

    def renew_lock(self) -> None:
        """Replace, in a forked child, a lock that a thread of the parent may hold."""
        self._lock = threading.Lock()

    def find(self, relation: Relation, entities: Iterable[Any] = ()) -> MappedTable | None:
        """Return how the app names a relation, or None if no class leads to it.

        `entities` are those of the statement at hand; they are learnt, too.
        """
        self.learn(entities)
        with self._lock:
            registries = list(self._registries)
        # A class that was made inside a function cannot be imported.
        mappers = [
            mapper
            for known in registries
            for mapper in known.mappers
            if "<locals>" not in mapper.class_.__qualname__
        ]
        for mapper in sorted(mappers, key=_name):
            # Of several classes on one table, the base class.
            if mapper.inherits is None or mapper.inherits.local_table is not mapper.local_table:
                own = mapper.local_table
                if isinstance(own, Table) and _is(own, relation):
                    return _described(mapper, own, _attributes(mapper, own))
        for mapper in sorted(mappers, key=_name):
            table = _table_in(_metadata(mapper), relation)
            if table is not None:
                return _described(mapper, table, {})
        return None


def _name(mapper: Mapper[Any]) -> tuple[str, str]:
    return (mapper.class_.__module__, mapper.class_.__qualname__)


def _metadata(mapper: Mapper[Any]) -> MetaData:
    """Return the metadata that is `Class.metadata` in code."""
    metadata = getattr(mapper.class_, "metadata", None)
    return metadata if isinstance(metadata, MetaData) else mapper.registry.metadata


def _table_in(metadata: MetaData, relation: Relation) -> Table | None:
    return next((table for table in metadata.tables.values() if _is(table, relation)), None)


def _is(table: Table, relation: Relation) -> bool:
    """Whether a table is the relation; one without a schema is found by the search path."""
    if table.name != relation.name:
        return False
    return table.schema == relation.schema or (table.schema is None and not relation.schema_prefix)


def _attributes(mapper: Mapper[Any], table: Table) -> dict[str, str]:
    """Return the attributes of a class by the columns that they are mapped to."""
    # By hash: `==` between columns makes an expression.
    mapped = set(mapper.columns.values())
    return {
        column.name: mapper.get_property_by_column(column).key
        for column in table.columns
        if column in mapped
    }


def _described(mapper: Mapper[Any], table: Table, attributes: dict[str, str]) -> MappedTable:
    return MappedTable(
        module=mapper.class_.__module__,
        class_name=mapper.class_.__qualname__,
        metadata_key=table.key,
        attributes=attributes,
        json_columns=frozenset(column.name for column in table.columns if _has_astext(column)),
        column_keys={
            column.name: column.key for column in table.columns if column.key != column.name
        },
        indexes=tuple(_declared(table, f"{mapper.class_.__qualname__}.__table__")),
    )


def _declared(table: Table, name: str) -> Iterator[DeclaredIndex]:
    """Yield the B-tree indexes and unique constraints that a table declares, by name."""
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        if index.name and not _is_special(index):
            keys = tuple(map(_text, index.expressions))
            yield DeclaredIndex(
                str(index.name), name, keys, unique=bool(index.unique), **_carried(table, index)
            )
    for constraint in table.constraints:
        if not isinstance(constraint, UniqueConstraint) or not constraint.name:
            continue
        if not _is_special(constraint):
            yield DeclaredIndex(
                str(constraint.name),
                name,
                tuple(column.name for column in constraint.columns),
                unique=True,
                constraint=True,
                timing=_timing(constraint),
                **_carried(table, constraint),
            )


def _carried(table: Table, declared: Index | UniqueConstraint) -> dict[str, Any]:
    """Return the options for PostgreSQL that a declared index is created with."""
    options = declared.dialect_options["postgresql"]
    include = options.get("include") or ()
    # Names are keys of columns, which only the creation of the index checks.
    columns = [table.c.get(name, name) if isinstance(name, str) else name for name in include]
    return {
        "include": tuple(str(getattr(column, "name", column)) for column in columns),
        "nulls_not_distinct": bool(options.get("nulls_not_distinct")),
    }


def _timing(constraint: UniqueConstraint) -> str:
    initially = f"INITIALLY {constraint.initially.upper()}" if constraint.initially else ""
    return " ".join(filter(None, ["DEFERRABLE" if constraint.deferrable else "", initially]))


def _is_special(declared: Index | UniqueConstraint) -> bool:
    """Whether it has an option for PostgreSQL that a plain index does not have."""
    options = declared.dialect_options["postgresql"]
    return options.get("where") is not None or any(map(options.get, _SPECIAL))


def _text(expression: Any) -> str:
    """Return a column's name, or an expression as CREATE INDEX would have it."""
    if isinstance(expression, Column):
        return expression.name
    compiled = expression.compile(
        dialect=_POSTGRESQL,
        compile_kwargs={"literal_binds": True, "include_table": False},
    )
    return str(compiled)


def _has_astext(column: Column[Any]) -> bool:
    return isinstance(column.type, JSON) and hasattr(column.comparator, "astext")
