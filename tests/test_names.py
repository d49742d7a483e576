"""An index is written with the names that its module and its columns have in Python."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.schema import CreateIndex

from flask_planwatch.fixes.form import attribute_of, key_of
from flask_planwatch.indexes.candidate import Candidate, Key
from flask_planwatch.indexes.mapped import MappedTable
from flask_planwatch.indexes.render import alembic_operation, model_and_migration, sqlalchemy_index
from flask_planwatch.inspection.mapping import Mappings
from flask_planwatch.plan.schema import Relation, Schema, Structural

from .test_autogenerate import RELATION

pytestmark = pytest.mark.versions


class Base(DeclarativeBase):
    pass


class Keyed(Base):
    __table__ = sa.Table(
        "keyed",
        Base.metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("c1", sa.Integer, key="one"),
        sa.Column("c2", sa.Integer, key="two"),
    )


tags = sa.Table(
    "tags",
    Base.metadata,
    sa.Column("Label", sa.String, key="label"),
    sa.Column("n", sa.Integer, key="n 1"),
    sa.Column("m", sa.Integer, key="class"),
)


def relation(table: str) -> Relation:
    key = f"public.{table}"
    return replace(RELATION, key=key, name=table, display=table, quoted_name=table, root=key)


def mapped(table: str, entity: type = Keyed) -> MappedTable:
    found = Mappings().find(relation(table), (None, ""), [entity])
    assert found is not None
    return found


def index_on(table: str, *columns: str, include: tuple[str, ...] = ()) -> Candidate:
    keys = tuple(
        Key(Structural(f'"{column}"' if column.istitle() else column), column)
        if column.isidentifier()
        else Key(Structural(column))
        for column in columns
    )
    return Candidate(relation(table), keys, Schema({}), frozenset(), include=include)


@pytest.mark.parametrize(
    ("table", "index"),
    [
        (Keyed.__table__, index_on("keyed", "c1", include=("c2",))),
        (Keyed.__table__, index_on("keyed", "c1", "c2")),
        (Keyed.__table__, index_on("keyed", "abs(c1)", include=("c2", "id"))),
        (tags, index_on("tags", "Label", include=("n",))),
        (tags, index_on("tags", "n", "m")),
        (tags, index_on("tags", 'lower("Label")')),
    ],
)
def test_the_code_finds_a_column_by_its_key_and_the_index_has_its_name(table, index):
    found = mapped(table.name)
    code = sqlalchemy_index(index, found)
    before = set(table.indexes)
    try:
        exec(code, {})
        (made,) = table.indexes - before
        created = str(CreateIndex(made).compile(dialect=postgresql.dialect()))
    finally:
        table.indexes.intersection_update(before)
    assert created.partition(" ON ")[2].replace(" ", "") == (
        index.definition.partition("ON ")[2].replace(" ", "").replace("public.", "")
    )
    operation = alembic_operation(index)
    for column in index.include:
        assert f'"{column}"' in operation


@pytest.mark.parametrize(
    ("column", "code"), [("Label", "tags.c.label"), ("n", 'tags.c["n 1"]'), ("x", "tags.c.x")]
)
def test_other_advice_finds_it_so_too(column, code):
    assert attribute_of(column, "tags", mapped("tags")) == code


@pytest.mark.parametrize(
    ("table", "column"), [("tags", "Label"), ("tags", "n"), ("keyed", "c1"), ("keyed", "id")]
)
def test_in_a_sub_query_a_column_has_the_name_that_the_code_gives_it(table, column):
    names = {"tags": tags, "Keyed": Keyed, "keyed": Keyed.__table__}
    selected = eval(attribute_of(column, table, mapped(table)), names)
    assert sa.select(selected).subquery().c.keys() == [key_of(column, mapped(table))]


MODULE = """
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase):
    pass

class User(Base):
    __tablename__ = "user"
    id: Mapped[int] = mapped_column(primary_key=True)
"""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[..., MappedTable]:
    """Return what maps the table of a module that Python was started with."""

    def start(file: str | None, spec: str | None) -> MappedTable:
        module = ModuleType("__main__")
        module.__file__, module.__spec__ = file, spec and ModuleSpec(spec, None)
        monkeypatch.setitem(sys.modules, "__main__", module)
        exec(MODULE, vars(module))
        return mapped("user", module.User)

    return start


@pytest.mark.parametrize(
    ("file", "spec", "module", "place"),
    [
        ("/srv/shop/app.py", None, "app", "In the file app.py, below the models and before"),
        ("app.py", None, "app", "In the file app.py, below the models and before app.run():"),
        ("/srv/my-app.py", None, "__main__", "In the file my-app.py, below the models and"),
        ("/srv/shop/app.py", "shop.app", "shop.app", "In the file app.py, below the models"),
        (None, None, "__main__", "At the end of the module __main__:"),
    ],
)
def test_the_module_that_python_was_started_with_has_the_name_of_its_file(
    started, file, spec, module, place
):
    found = started(file, spec)
    index = index_on("user", "id")
    assert f"from {module} import User\n" in sqlalchemy_index(index, found)
    assert f"\n# 1. {place}" in model_and_migration(index, found)


def test_any_other_module_has_its_own_name():
    assert "# 1. At the end of the module tests.test_names:\n" in model_and_migration(
        index_on("keyed", "c1"), mapped("keyed")
    )
