"""How the application's own classes name a table and its columns, as plain strings.

SQLAlchemy's public interface finds the classes: each captured ORM construct names the entities that
it selects or changes, and the registry of an entity knows all its classes.
"""

from __future__ import annotations

import json
import keyword
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import sqlalchemy
from sqlalchemy import JSON, Column, Index, MetaData, Table, UniqueConstraint, inspect, make_url
from sqlalchemy.exc import NoInspectionAvailable

from ..indexes.mapped import DeclaredIndex, MappedTable

if TYPE_CHECKING:
    from sqlalchemy.orm import Mapper, registry

    from ..plan.schema import Relation

#: Renders expressions; no driver is needed for that.
_POSTGRESQL = make_url("postgresql://").get_dialect()()

#: Options that make an index another than a plain one on its keys.
_SPECIAL = ("using", "ops")


#: An engine's bind key, and what tells it apart if it has none.
EngineKey = tuple[str | None, str]


class Mappings:
    """The registries that one app was seen to use."""

    def __init__(self) -> None:
        self._registries: WeakSet[registry] = WeakSet()
        #: Flask-SQLAlchemy's metadata without a bind key.
        self._defaults: WeakSet[MetaData] = WeakSet()
        #: The engines that ran statements with classes of a metadata.
        self._engines: WeakKeyDictionary[MetaData, set[EngineKey]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def learn(self, entities: Iterable[Any], engine: EngineKey) -> set[MetaData]:
        """Remember the registries of a statement's classes, and which engine ran it.

        It returns the metadata of the classes. Other entities are passed over.
        """
        used = set()
        # An application that uses the Core alone does not load it.
        orm = sys.modules.get("sqlalchemy.orm")
        for entity in entities:
            try:
                mapper = inspect(entity, raiseerr=False)
            except NoInspectionAvailable:
                continue
            mapper = getattr(mapper, "mapper", None)
            if orm is not None and isinstance(mapper, orm.Mapper):
                with self._lock:
                    self._registries.add(mapper.registry)
                    if isinstance(mapper.local_table, Table):
                        metadata = mapper.local_table.metadata
                        used.add(metadata)
                        self._engines.setdefault(metadata, set()).add(engine)
        return used

    def learn_registry(self, known: registry, default: MetaData | None = None) -> None:
        """Remember the registry of Flask-SQLAlchemy's `db.Model`, and its metadata.

        `default` is the metadata of the default bind. That of another bind has the key in it.
        """
        with self._lock:
            self._registries.add(known)
            if default is not None:
                self._defaults.add(default)

    def renew_lock(self) -> None:
        """Replace, in a forked child, a lock that a thread of the parent may hold."""
        self._lock = threading.Lock()

    def find(
        self, relation: Relation, engine: EngineKey, entities: Iterable[Any] = ()
    ) -> MappedTable | None:
        """Return how the app names a relation of an engine, or None if no class leads to it.

        `entities` are those of the statement at hand; they are learnt, too.
        """
        own = self.learn(entities, engine)
        with self._lock:
            registries = list(self._registries)
        mappers = sorted((mapper for known in registries for mapper in known.mappers), key=_name)
        metadatas = _metadatas(mappers)
        found = [
            (order, _described_by(mappers, table))
            for metadata in metadatas
            if (order := 0 if metadata in own else self._order(metadata, engine)) is not None
            for table in list(metadata.tables.values())
            if _is(table, relation)
        ]
        mapped = min(found, key=_preference)[1] if found else None
        if mapped is None or mapped.bind is not None:
            return mapped
        # Flask-Migrate's name for the default engine beside others is an empty one.
        has_binds = any(metadata.info.get("bind_key") for metadata in metadatas)
        return replace(mapped, bind="" if has_binds else None)

    def _order(self, metadata: MetaData, engine: EngineKey) -> int | None:
        """Return how near a metadata is to an engine, from 1 on; None if it is another engine's."""
        bind, database = engine
        key = metadata.info.get("bind_key")
        with self._lock:
            engines = self._engines.get(metadata, set())
            is_assigned = key is not None or metadata in self._defaults
        if is_assigned and key == bind and not database:
            return 1
        if engine in engines:
            return 2
        if is_assigned and key != bind:
            return None
        return 4 if engines else 3


def _name(mapper: Mapper[Any]) -> tuple[str, str]:
    return (mapper.class_.__module__, mapper.class_.__qualname__)


def _metadatas(mappers: Iterable[Mapper[Any]]) -> set[MetaData]:
    return {metadata for mapper in mappers for metadata in _reached(mapper).values()}


def _reached(mapper: Mapper[Any]) -> dict[str, MetaData]:
    """Return the metadata that code has by the attributes of a class."""
    reached = {}
    metadata = getattr(mapper.class_, "metadata", None)
    if isinstance(metadata, MetaData):
        reached["metadata"] = metadata
    if isinstance(mapper.local_table, Table):
        # An imperatively mapped class has no other.
        reached["__table__.metadata"] = mapper.local_table.metadata
    return reached


def _is(table: Table, relation: Relation) -> bool:
    """Whether a table is the relation; one without a schema is found by the search path."""
    if table.name != relation.name:
        return False
    return table.schema == relation.schema or (table.schema is None and not relation.schema_prefix)


def _described_by(mappers: Iterable[Mapper[Any]], table: Table) -> MappedTable | None:
    """Return how the first class that can be imported names a table."""
    importable = [mapper for mapper in mappers if _is_importable(mapper.class_)]
    for mapper in importable:
        # Of several classes on one table, the base class.
        is_base = mapper.inherits is None or mapper.inherits.local_table is not table
        if mapper.local_table is table and is_base:
            name = f"{mapper.class_.__qualname__}.__table__"
            return _described(mapper, table, name, _attributes(mapper, table))
    for mapper in importable:
        for attribute, metadata in _reached(mapper).items():
            if metadata is table.metadata:
                metadata_name = f"{mapper.class_.__qualname__}.{attribute}"
                name = f"{metadata_name}.tables[{json.dumps(table.key, ensure_ascii=False)}]"
                return _described(mapper, table, name, {})
    return None


def _is_importable(mapped: type) -> bool:
    """Whether its module has the class by its name.

    One that was made inside a function, or by automap, cannot be imported.
    """
    found: Any = sys.modules.get(mapped.__module__)
    for name in mapped.__qualname__.split("."):
        # Not getattr: a module may load something then.
        found = getattr(found, "__dict__", {}).get(name)
    return found is mapped


def _preference(found: tuple[int, MappedTable | None]) -> tuple[object, ...]:
    """Return what is least for the class that people would choose."""
    order, mapped = found
    if mapped is None:
        return (order, True)
    return (order, False, not mapped.attributes, mapped.module, mapped.class_name)


def _attributes(mapper: Mapper[Any], table: Table) -> dict[str, str]:
    """Return the attributes of a class by the columns that they are mapped to."""
    # By hash: `==` between columns makes an expression.
    mapped = set(mapper.columns.values())
    return {
        column.name: mapper.get_property_by_column(column).key
        for column in table.columns
        if column in mapped
    }


def _described(
    mapper: Mapper[Any], table: Table, name: str, attributes: dict[str, str]
) -> MappedTable:
    module, file = _module_of(mapper.class_)
    return MappedTable(
        module=module,
        class_name=mapper.class_.__qualname__,
        table=name,
        attributes=attributes,
        json_columns=frozenset(column.name for column in table.columns if _has_astext(column)),
        column_keys={
            column.name: column.key for column in table.columns if column.key != column.name
        },
        indexes=tuple(_declared(table, name)),
        names=frozenset(_names_of(mapper.class_.__module__, table)),
        bind=table.metadata.info.get("bind_key"),
        file=file,
    )


def _module_of(mapped: type) -> tuple[str, str]:
    """Return what imports the module of a class, and its file if Python was started with it."""
    name = mapped.__module__
    if name != "__main__":
        return name, ""
    main = sys.modules[name]
    file = os.path.basename(getattr(main, "__file__", None) or "")
    # `python -m` has told its name. Without a file, it can only be imported as it is.
    spec, stem = getattr(main, "__spec__", None), file.removesuffix(".py")
    if spec is not None:
        return spec.name, file
    return (stem if stem.isidentifier() and not keyword.iskeyword(stem) else name), file


def _names_of(module: str, table: Table) -> Iterator[str]:
    """Yield the names that a module has for other things than SQLAlchemy has, and this table."""
    known = {**vars(sqlalchemy), "sa": sqlalchemy, "sqlalchemy": sqlalchemy}
    for name, value in list(vars(sys.modules[module]).items()):
        if value is not known.get(name) and value is not table:
            yield name


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
