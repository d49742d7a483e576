"""missing-index: a foreign key refers from columns that no index leads with."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from .case import Case, Rule, Tables, rows, silent, speaks, with_settings


class Library(DeclarativeBase):
    pass


class Author(Library):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    books: Mapped[list[Book]] = relationship(back_populates="author", passive_deletes=True)


class Book(Library):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column("author", sa.ForeignKey("author.id", ondelete="CASCADE"))
    title: Mapped[str]
    author: Mapped[Author] = relationship(back_populates="books")


def fill(database):
    """Make 20 000 authors and 60 000 books, with a foreign key and no index on it."""
    Library.metadata.create_all(sa.create_engine(database.url, poolclass=sa.NullPool))
    database.execute(
        "INSERT INTO author SELECT g, 'A' || g FROM generate_series(1, 20000) g",
        "INSERT INTO book SELECT g, 1 + g % 20000, 'T' || g FROM generate_series(1, 60000) g",
        "VACUUM ANALYZE author, book",
    )
    database.install_hypopg()


RULE = Rule("missing-index", Tables("library", fill), settings={"PLANWATCH_VERIFY": "build"})

nobody = sa.delete(Author).where(Author.id == -7)

INDEX = "CREATE INDEX CONCURRENTLY ix_book_author ON book (author)"


def speaks_on_delete(action: str) -> Case:
    return speaks(
        f"a delete checks it, ON DELETE {action}",
        nobody,
        setup=(
            "ALTER TABLE book DROP CONSTRAINT book_author_fkey",
            "ALTER TABLE book ALTER author DROP NOT NULL",
            f"ALTER TABLE book ADD FOREIGN KEY (author) REFERENCES author ON DELETE {action}",
        ),
        about="author on book",
        problem=("for each row that is deleted from author", "book_author_fkey"),
        fix=INDEX,
        proof="author was tested row by row and is now an index condition",
    )


SPEAKS = [
    speaks_on_delete("CASCADE"),
    speaks(
        "books of an author, as lazy loading reads them",
        sa.select(Book).where(Book.author_id == 7),
        about="author on book",
        fix=INDEX,
        code='Index("ix_book_author", Book.author_id)',
        proof=(
            "author was tested row by row and is now an index condition",
            "Seq Scan on book became Index Scan using ix_book_author on book",
        ),
    ),
    speaks_on_delete("SET NULL"),
    speaks_on_delete("NO ACTION"),
]


def checked_by(index: str) -> Case:
    return silent(f"an index {index}", nobody, setup=(f"CREATE INDEX ON book {index}",))


SILENT = [
    checked_by("(author)"),
    checked_by("(author) WHERE author IS NOT NULL"),
    silent("a delete from the table that refers", sa.delete(Book).where(Book.id == -7)),
    silent(
        "an update of the other table",
        sa.update(Author).values(name="x").where(Author.id == 7),
    ),
    silent(
        "a small table refers",
        nobody,
        setup=("DELETE FROM book WHERE id > 40", "VACUUM ANALYZE book"),
    ),
    checked_by("(author, title)"),
    checked_by("USING hash (author)"),
    checked_by("(author DESC)"),
]

#: PlanWatch may build nothing.
AUTO = {"PLANWATCH_VERIFY": "auto"}


@rows(SPEAKS, quick=0)
def test_speaks(rule, case):
    rule.check(case)


@rows(with_settings(SPEAKS, **AUTO), quick=0)
def test_speaks_alike_where_nothing_is_built(rule, case):
    rule.check(case)


@rows(SPEAKS, quick=1)
def test_falls_silent_after_the_fix(rule, case):
    rule.check_fix(case)


@rows(SILENT, quick=5)
def test_stays_silent(rule, case):
    rule.check(case)


@rows(with_settings(SILENT, **AUTO), quick=0)
def test_stays_silent_where_nothing_is_built(rule, case):
    rule.check(case)


@pytest.mark.parametrize("verify", ["build", "auto"])
def test_an_index_whose_first_column_is_skipped(rule, verify):
    """Since 18, for each of its few values: one of five has 12,000 books, one of 60,000 is one."""
    database = rule.copy()
    database.execute(
        "ALTER TABLE book ADD kind int, ADD number int",
        "UPDATE book SET kind = id % 5, number = id",
        "CREATE INDEX ON book (kind, author)",
        "VACUUM FULL ANALYZE book",
    )
    app = rule.app(database, PLANWATCH_VERIFY=verify)
    skips = database.scalar("SELECT current_setting('server_version_num')::int >= 180000")
    findings = rule.ask(app, nobody)
    assert bool(findings) is not skips
    database.execute("DROP INDEX book_kind_author_idx", "CREATE INDEX ON book (number, author)")
    app.planwatch.clear()
    (finding,) = rule.ask(rule.app(database, PLANWATCH_VERIFY=verify), nobody)
    assert finding.about == "author on book"


@pytest.mark.parametrize("verify", ["build", pytest.param("auto", marks=pytest.mark.slow)])
def test_lazy_loading_follows_a_foreign_key(rule, verify):
    database = rule.copy()
    app = rule.app(database, PLANWATCH_VERIFY=verify)

    def load():
        with app.app.app_context():
            assert len(app.db.session.get(Author, 7).books) == 3
            app.db.session.rollback()
        return rule.of_rule(app.findings())

    (finding,) = load()
    assert finding.about == "author on book"
    assert finding.advice[0].ddl == (INDEX,)
    assert 'Index("ix_book_author", Book.author_id)' in finding.advice[0].sqlalchemy
    database.execute(*finding.advice[0].ddl)
    assert load() == []
