"""Renders a candidate index as SQLAlchemy and as Alembic code, in the app's own names."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Sequence

from sqlglot import expressions as sql

from ..plan.dialect import Structure
from ..plan.predicate import parse
from .index import Candidate, Key
from .mapped import MappedTable


class _NoPython(Exception):
    """The expression has a part that is better left as SQL text."""


def sqlalchemy_index(candidate: Candidate, mapped: MappedTable | None) -> str:
    """Return Python that defines the index on the mapped class, or on the table without one."""
    table, imports = _table(candidate, mapped)
    columns = _Columns(mapped, table)
    classes: dict[str, str] = {}
    keys = [_sqlalchemy_key(key, columns, classes) for key in candidate.keys]
    options = _options(candidate, "text", classes)
    arguments = ", ".join([_string(candidate.name), *keys, *options])
    code = f"Index({arguments})"
    names = [name for name in ("func", "text") if re.search(rf'(?<![.\w"]){name}[.(]', code)]
    if all(key.startswith("text(") for key in keys):
        table_object = f"{table}.__table__" if mapped and mapped.attributes else table
        code = f"{table_object}.append_constraint({code})"
    names += ["Index"] if mapped else ["Index", "MetaData", "Table"]
    names.sort(key=lambda name: (name.islower(), name))
    first = [f"# First: {candidate.create_extension}"] if candidate.extension else []
    return "\n".join([f"from sqlalchemy import {', '.join(names)}", *imports, "", *first, code])


def alembic_operation(candidate: Candidate) -> str:
    """Return the upgrade and downgrade functions of an Alembic migration.

    CREATE INDEX CONCURRENTLY cannot run in a transaction, hence the autocommit block.
    """
    block = "    with op.get_context().autocommit_block():"
    if candidate.relation.partitioned:
        upgrade = [f"        op.execute({_sql_text(statement)})" for statement in candidate.ddl]
        downgrade = [f"        op.execute({_sql_text(candidate.drop)})"]
        imports = ["from alembic import op"]
    else:
        first: list[str] = []
        table = _string(candidate.relation.name)
        classes: dict[str, str] = {}
        keys = [_alembic_key(key, classes) for key in candidate.keys]
        schema = [f"            {argument}," for argument in _schema_argument(candidate)]
        if candidate.extension:
            first = [f"        op.execute({_sql_text(candidate.create_extension)})"]
        upgrade = [
            *first,
            "        op.create_index(",
            f"            {_string(candidate.name)},",
            f"            {table},",
            f"            [{', '.join(keys)}],",
            *schema,
            *(f"            {option}," for option in _options(candidate, "sa.text", classes)),
            "            postgresql_concurrently=True,",
            "        )",
        ]
        downgrade = [
            "        op.drop_index(",
            f"            {_string(candidate.name)},",
            f"            table_name={table},",
            *schema,
            "            postgresql_concurrently=True,",
            "        )",
        ]
        imports = ["from alembic import op"]
        if any(re.search(r'(?<![.\w"])sa\.', line) for line in upgrade):
            imports.insert(0, "import sqlalchemy as sa")
    return "\n".join(
        [
            *imports,
            *["", "", "def upgrade():", block, *upgrade],
            *["", "", "def downgrade():", block, *downgrade],
        ]
    )


def _sqlalchemy_key(key: Key, columns: _Columns, classes: dict[str, str]) -> str:
    """Return a key as an argument of Index(); what has no Python form stays SQL text.

    Its operator class is added to `classes` by the name that SQLAlchemy knows the key by.
    """
    ordered = key.descending or key.nulls
    try:
        structure = parse(key.term)
        # SQLAlchemy finds no operator class for a key with a direction.
        if structure is None or (key.operator_class and ordered):
            raise _NoPython
        code = _python(structure, columns)
    except _NoPython:
        return f"text({_sql_text(str(key))})"
    if key.operator_class:
        name = columns.key(key.column) if key.column is not None else f"key{len(classes) + 1}"
        classes[name] = key.operator_class
        return code if key.column is not None else f"{code}.label({_string(name)})"
    direction = ".desc()" if key.descending else ""
    nulls = {"FIRST": ".nulls_first()", "LAST": ".nulls_last()", "": ""}[key.nulls]
    if nulls and not direction:
        direction = ".asc()"
    return f"{code}{direction}{nulls}"


def _alembic_key(key: Key, classes: dict[str, str]) -> str:
    if key.column is None or key.descending or key.nulls:
        return f"sa.text({_sql_text(str(key))})"
    if key.operator_class:
        classes[key.column] = key.operator_class
    return _string(key.column)


def _options(candidate: Candidate, text: str, classes: dict[str, str]) -> list[str]:
    """Return the keyword arguments that Index() and create_index() have in common."""
    options = []
    if candidate.method != "btree":
        options.append(f"postgresql_using={_string(candidate.method)}")
    if classes:
        named = ", ".join(f"{_string(key)}: {_string(name)}" for key, name in classes.items())
        options.append(f"postgresql_ops={{{named}}}")
    if candidate.include:
        names = ", ".join(_string(name) for name in candidate.include)
        options.append(f"postgresql_include=[{names}]")
    if candidate.predicate:
        options.append(f"postgresql_where={text}({_sql_text(candidate.predicate)})")
    return options


def alembic_execute(statements: Sequence[str]) -> str:
    """Return the upgrade function of a migration that runs SQL outside a transaction."""
    lines = [f"        op.execute({_sql_text(statement)})" for statement in statements]
    block = "    with op.get_context().autocommit_block():"
    return "\n".join(["from alembic import op", "", "", "def upgrade():", block, *lines])


class _Columns:
    """Spells a column as an attribute of the class, or of the table."""

    def __init__(self, mapped: MappedTable | None, table: str) -> None:
        self._mapped = mapped
        self._table = table

    def attribute(self, column: str) -> str:
        """Return the Python for a column."""
        if self._mapped and self._mapped.attributes:
            if column not in self._mapped.attributes:
                raise _NoPython
            return f"{self._table}.{self._mapped.attributes[column]}"
        if column.isidentifier() and not keyword.iskeyword(column):
            return f"{self._table}.c.{column}"
        return f"{self._table}.c[{_string(column)}]"

    def key(self, column: str) -> str:
        """Return the name by which SQLAlchemy finds the column in its table."""
        return self._mapped.column_keys.get(column, column) if self._mapped else column

    def is_json(self, column: str) -> bool:
        """Whether the attribute has the comparator of PostgreSQL's JSON types."""
        return self._mapped is not None and column in self._mapped.json_columns


def _table(candidate: Candidate, mapped: MappedTable | None) -> tuple[str, list[str]]:
    """Return the Python name of the class or table, and the lines that provide it."""
    variable = re.sub(r"\W", "_", candidate.relation.name)
    if not variable.isidentifier() or keyword.iskeyword(variable):
        variable = f"table_{variable}"
    if mapped is None:
        arguments = [
            _string(candidate.relation.name),
            "MetaData()",
            *_schema_argument(candidate),
            "autoload_with=engine",
        ]
        return variable, ["", f"{variable} = Table({', '.join(arguments)})"]
    provided = [f"from {mapped.module} import {mapped.class_name.partition('.')[0]}"]
    if mapped.attributes:
        return mapped.class_name, provided
    tables = f"{mapped.class_name}.metadata.tables"
    return variable, [*provided, "", f"{variable} = {tables}[{_string(mapped.metadata_key)}]"]


def _schema_argument(candidate: Candidate) -> list[str]:
    """Return the keyword argument that names the schema, if the search path does not find it."""
    relation = candidate.relation
    return [f"schema={_string(relation.schema)}"] if relation.schema_prefix else []


def _python(node: Structure, columns: _Columns) -> str:
    """Return the SQLAlchemy expression for a part of the index; raises _NoPython."""
    if isinstance(node, sql.Paren):
        return _python(node.this, columns)
    if isinstance(node, sql.Column):
        return columns.attribute(node.name)
    if isinstance(node, sql.Literal):
        return _string(node.name) if node.is_string else node.name
    if isinstance(node, sql.Anonymous) and node.name.isidentifier():
        # The server prints its own keywords in capitals; other capitals would need quotes.
        if not (node.name.islower() or node.name.isupper()):
            raise _NoPython
        arguments = ", ".join(_python(argument, columns) for argument in node.expressions)
        return f"func.{node.name.lower()}({arguments})"
    if isinstance(node, sql.JSONExtractScalar | sql.JSONExtract):
        return _json_path(node, columns)
    raise _NoPython


def _json_path(node: Structure, columns: _Columns) -> str:
    """Return `User.data["a"]["b"].astext` for `data -> 'a' ->> 'b'` and `data['a'] ->> 'b'`."""
    keys: list[str] = []
    current: Structure = node
    while isinstance(current, sql.JSONExtractScalar | sql.JSONExtract | sql.Bracket):
        if current is not node and isinstance(current, sql.JSONExtractScalar):
            raise _NoPython
        key = current.expressions[0] if isinstance(current, sql.Bracket) else current.expression
        if not (isinstance(key, sql.Literal) and key.is_string):
            raise _NoPython
        keys.insert(0, _string(key.name))
        current = current.this.unnest()
    if not isinstance(current, sql.Column) or not columns.is_json(current.name):
        raise _NoPython
    path = "".join(f"[{key}]" for key in keys)
    suffix = ".astext" if isinstance(node, sql.JSONExtractScalar) else ""
    return f"{columns.attribute(current.name)}{path}{suffix}"


def _string(text: str) -> str:
    """Return a Python string in double quotes, as formatters write it."""
    return json.dumps(text, ensure_ascii=False)


def _sql_text(text: str) -> str:
    """Return the argument of text(): a colon that could start a parameter is escaped."""
    return _string(re.sub(r"(?<![:\w\\]):(?=\w)", r"\\:", text))
