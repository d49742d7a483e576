"""How the application's own code names a table, as plain strings."""

from __future__ import annotations

import json
import keyword
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DeclaredIndex:
    """An index or a unique constraint of a Table, which `table` names as Python.

    `keys` are the names of its columns, and its expressions as SQLAlchemy renders them.
    `include` are the names of the included columns. `constraint` tells a unique
    constraint, which has a unique index, and `timing` when it is checked, as SQL.
    """

    name: str
    table: str
    keys: tuple[str, ...]
    unique: bool = False
    constraint: bool = False
    include: tuple[str, ...] = ()
    nulls_not_distinct: bool = False
    timing: str = ""


@dataclass(frozen=True)
class MappedTable:
    """A table that SQLAlchemy knows.

    `module` and `class_name` name the class that maps the table, or, if none does, a class whose
    metadata holds it. `attributes` maps each column to the class's attribute; it is empty if no
    class maps the table. `json_columns` are those with PostgreSQL's JSON types, whose comparator
    has `.astext`. `table` is the Table as Python. `indexes` are those that the
    code declares, whether they exist or not. `column_keys` maps a column to its key in the table
    where that is another one. `names` are those that the module has for other things than
    SQLAlchemy has, and than this table. `bind` is the bind key that Flask-SQLAlchemy has for it,
    "" for the default engine of an app that has others, None if there is one engine. `file` is the
    name of the module's file if Python was started with it, and "" otherwise.
    """

    module: str
    class_name: str
    table: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    json_columns: frozenset[str] = frozenset()
    indexes: tuple[DeclaredIndex, ...] = ()
    column_keys: Mapping[str, str] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    bind: str | None = None
    file: str = ""

    def key(self, column: str) -> str:
        """Return the name by which SQLAlchemy finds a column in its table."""
        return self.column_keys.get(column, column)


def column_of(table: str, key: str) -> str:
    """Return the Python for a column of a table, both as Python names them."""
    if key.isidentifier() and not keyword.iskeyword(key):
        return f"{table}.c.{key}"
    return f"{table}.c[{json.dumps(key, ensure_ascii=False)}]"
