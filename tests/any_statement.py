"""Statements that an app might run, whose compared values all bear a mark.

A mark can be told from all else that a log may hold, in whatever form a driver, PostgreSQL or
Python prints the value. What is structure, such as a JSON key, is plain in a statement's first
form, and bears a mark in its second: it has changed then, and counts as a value, too.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import func
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import Range

from .models import User

#: Rows of the table with a column of each type, and of its neighbour: enough for a warning.
ROWS = 3000

WORD = "mark7Qx"

#: How the marks look wherever they are printed, in lower case.
MARKS = (
    "mark7qx",
    # Bytes in hex, and in the escapes of other formats.
    *("6d61726b375178", "bwfyazdreh", "\\155\\141\\162\\153"),
    # 918273645 and its like, with a thousands separator, in a float, and as hex digits.
    *("9182736", "918,273", "9.18273", "36bba4ad"),
    *("918273.645", "91827.3645", "0.00918273"),
    # Dates, by PostgreSQL and by Python; times; days of an interval.
    *("2187-03-1", "2187, 3, 1", "21:43:57", "21, 43, 57", "91827 day", "days=91827"),
    *("7b1f9c4e-5d2a", "7b1f9c4e5d2a", "198.51.100.237"),
)

MOODS = ("bright", f"{WORD} gloom")

metadata = sa.MetaData()

#: A table with a column of each type.
sample = sa.Table(
    "sample",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("Odd Näme", sa.String(80)),
    sa.Column("code", sa.CHAR(12)),
    sa.Column("raw", sa.LargeBinary),
    sa.Column("number", sa.Integer),
    sa.Column("big", sa.BigInteger),
    sa.Column("price", sa.Numeric),
    sa.Column("ratio", sa.Float),
    sa.Column("day", sa.Date),
    sa.Column("made", sa.DateTime(timezone=True)),
    sa.Column("local", sa.DateTime),
    sa.Column("at", sa.Time),
    sa.Column("span", sa.Interval),
    sa.Column("key", sa.Uuid),
    sa.Column("address", postgresql.INET),
    sa.Column("mood", postgresql.ENUM(*MOODS, name="sample_mood", metadata=metadata)),
    sa.Column("data", postgresql.JSONB),
    sa.Column("plain", postgresql.JSON),
    sa.Column("tags", postgresql.ARRAY(sa.Text)),
    sa.Column("numbers", postgresql.ARRAY(sa.Integer)),
    sa.Column("valid", postgresql.TSTZRANGE),
    sa.Column("part", postgresql.INT4RANGE),
    sa.Column("words", postgresql.TSVECTOR),
)

#: Its neighbour, for joins and sub-queries.
detail = sa.Table(
    "detail",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sample_id", sa.Integer, nullable=False),
    sa.Column("label", sa.String(80), unique=True),
    sa.Column("number", sa.Integer),
    sa.Column("short", sa.String(5)),
)

FILL = (
    f"""INSERT INTO sample SELECT g, 'Name ' || g, 'Odd ' || g, 'C' || g,
        decode(md5(g::text), 'hex'), g, g, g / 7.0, g / 7.0, date '2020-01-01' + g,
        timestamptz '2020-01-01 00:00+00' + g * interval '1 h',
        timestamp '2020-01-01' + g * interval '1 h', time '00:00' + g * interval '1 s',
        g * interval '1 s', md5(g::text)::uuid, '10.0.0.0'::inet + g, 'bright',
        jsonb_build_object('type', 'T' || g, 'n', g), json_build_object('type', 'T' || g),
        ARRAY['t' || g, 'all'], ARRAY[g, g + 1], tstzrange(now(), now() + interval '1 h'),
        int4range(g, g + 9), to_tsvector('simple', 'word' || g)
        FROM generate_series(1, {ROWS}) g""",
    f"""INSERT INTO detail SELECT g, 1 + g % 900, 'Label ' || g, g % 500, 'S' || g % 100
        FROM generate_series(1, {ROWS}) g""",
    "CREATE INDEX ON sample (number)",
    "CREATE INDEX ON sample (lower(name))",
    "CREATE INDEX ON sample (made) WHERE name <> 'x'",
    "CREATE INDEX ON detail (sample_id)",
    # What planning runs, and what fails with its value in the server's words.
    "CREATE FUNCTION refuse(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS "
    "$$ BEGIN RAISE insufficient_privilege USING MESSAGE = 'none of ' || $1; END $$",
    "ANALYZE sample, detail",
)

_QUOTES = (
    "",
    "'",
    '"',
    "\\",
    "''",
    "é",
    "\n",
    "%",
    "{,}",
    " AND ",
    "$1",
    ":x",
    "--",
    "/*",
    "🎈",
    "''\\",
)


def strings(random: Random) -> str:
    """Return a marked string with what may confuse a reader around the mark."""
    return random.choice(_QUOTES) + WORD + random.choice(_QUOTES) + random.choice(("", "tail"))


def _whole(random: Random) -> int:
    return random.choice((918273645, 918273646, -918273645, 918273600 + random.randrange(100)))


def _decimal(random: Random) -> Decimal:
    return random.choice((Decimal("918273.645"), Decimal("-9182736451.25"), Decimal("9.182736E+9")))


def _moment(random: Random) -> datetime.datetime:
    return datetime.datetime(2187, 3, 14 + random.randrange(3), 12, 34, random.randrange(60))


def _document(random: Random) -> Any:
    return random.choice(
        [
            {"type": strings(random)},
            {strings(random): 1},
            {"n": _whole(random), "list": [strings(random), {"deep": [_whole(random)]}]},
            [strings(random), None, True],
        ]
    )


def _range(of: Callable[[Random], Any]) -> Callable[[Random], Any]:
    def make(random: Random) -> Any:
        value = of(random)
        bounds = random.choice(("[)", "[]", "()"))
        step = 7 if isinstance(value, int) else datetime.timedelta(hours=7)
        return random.choice(
            (Range(value, value + step, bounds=bounds), Range(value, None, bounds="[)"))
        )

    return make


def _aware(random: Random) -> datetime.datetime:
    return _moment(random).replace(tzinfo=datetime.UTC)


def _list_of(of: Callable[[Random], Any]) -> Callable[[Random], Any]:
    return lambda random: [of(random) for _ in range(random.randint(1, 4))]


#: How a value of each column is made.
VALUES: dict[str, Callable[[Random], Any]] = {
    "name": strings,
    "Odd Näme": strings,
    "code": lambda random: WORD,
    "raw": lambda random: random.choice((b"", b"\x00", b"'\xff")) + WORD.encode() + b"\x01",
    "number": _whole,
    "big": _whole,
    "price": _decimal,
    "ratio": lambda random: random.choice((91827.3645, -9.18273645e24, 9.18273645e-3)),
    "day": lambda random: _moment(random).date(),
    "made": _aware,
    "local": _moment,
    "at": lambda random: datetime.time(21, 43, 57, random.choice((0, 918273))),
    "span": lambda random: datetime.timedelta(days=91827, seconds=random.randrange(900)),
    "key": lambda random: UUID("7b1f9c4e-5d2a-4c3b-9e8f-0a1b2c3d4e5f"),
    "address": lambda random: "198.51.100.237",
    "mood": lambda random: MOODS[1],
    "data": _document,
    "tags": _list_of(strings),
    "numbers": _list_of(_whole),
    "valid": _range(_aware),
    "part": _range(_whole),
}

_COMPARABLE = tuple(name for name in VALUES if name not in {"tags", "numbers"})
_TEXTS = ("name", "Odd Näme")
_NUMBERS = ("number", "big", "price", "ratio")
_TIMES = ("day", "made", "local")

#: Names that look like something else.
_LABELS = ("plain", "it's", "a = 'b'", "$1", "--", "/*", "42", "x'", '"quoted"', "'", "E'", "$$")


@dataclass(frozen=True)
class Step:
    """A statement, with what to do before it in its transaction."""

    statement: Any
    parameters: Any = None
    before: tuple[str, ...] = ()

    def run(self, session: Any) -> None:
        """Run it, and read its rows."""
        for command in self.before:
            session.execute(sa.text(command))
        if isinstance(self.statement, str):
            connection = session.connection(execution_options={"no_parameters": True})
            result = connection.exec_driver_sql(self.statement)
        else:
            result = session.execute(self.statement, self.parameters)
        if getattr(result, "returns_rows", True):
            result.fetchall()


class AnyStatement:
    """Makes a statement by the numbers of `random`; `second` gives it its second form."""

    def __init__(self, random: Random, *, second: bool = False) -> None:
        self._random = random
        self._second = second

    def step(self) -> Step:
        """Return any statement."""
        kinds: Sequence[Callable[[], Step]] = (
            *[self._select_step] * 8,
            *[self._text] * 4,
            self._write,
            self._failing,
            self._literal_execute,
            self._own_types,
        )
        return self._pick(kinds)()

    def _pick(self, choices: Sequence[Any]) -> Any:
        return self._random.choice(choices)

    def _structure(self, plain: Any, marked: Any) -> Any:
        return marked if self._second else plain

    def _key(self) -> str:
        return self._structure("type", f"{WORD}_key")

    def value(self, name: str) -> Any:
        """Return a marked value for a column of the sample."""
        return VALUES[name](self._random)

    # Conditions

    def condition(self, depth: int = 2) -> sa.ColumnElement[bool]:
        """Return a condition on the sample."""
        if depth and self._random.random() < 0.3:
            parts = [self.condition(depth - 1) for _ in range(self._random.randint(1, 3))]
            joined = self._pick((sa.and_, sa.or_))(*parts)
            return self._pick((joined, joined, sa.not_(joined)))
        return self._pick(
            (
                *[self._comparison] * 3,
                self._list,
                *[self._call] * 2,
                self._calculation,
                *[self._pattern] * 2,
                *[self._json] * 3,
                self._array,
                self._ranged,
                self._case,
                self._row,
                self._sub_query,
                self._search,
            )
        )()

    def _comparison(self) -> Any:
        name = self._pick(_COMPARABLE)
        column, value = sample.c[name], sa.literal(self.value(name), sample.c[name].type)
        return self._pick(
            (
                column == value,
                column != value,
                column < value,
                column >= value,
                value > column,
                column.is_distinct_from(value),
                column.between(value, sa.literal(self.value(name), column.type)),
                ~column.between(value, value),
                sa.cast(column, sa.Text) == sa.cast(value, sa.Text),
                func.coalesce(column, value) == value,
                func.nullif(column, value) == column,
                sa.or_(column == value, column.is_(None)),
            )
        )

    def _list(self) -> Any:
        name = self._pick([one for one in _COMPARABLE if one not in {"valid", "part"}])
        column = sample.c[name]
        values = [self.value(name) for _ in range(self._random.choice((1, 2, 5, 40)))]
        array = sa.cast(
            postgresql.array([sa.literal(one, column.type) for one in values]),
            postgresql.ARRAY(column.type),
        )
        return self._pick(
            (
                column.in_(values),
                column.not_in(values),
                column == sa.any_(array),
                column == sa.all_(array),
            )
        )

    def _call(self) -> Any:
        column, value = sample.c[self._pick(_TEXTS)], self.value("name")
        time = sample.c[self._pick(_TIMES)]
        position = self._structure(2, 918273645)
        return self._pick(
            (
                func.lower(column) == value,
                func.upper(column) == func.upper(value),
                func.trim(column) == value,
                func.replace(column, value, "x") == "y",
                func.replace("x", value, column) == value,
                func.concat(column, value) == value,
                column + value == value,
                func.substr(column, position, 4) == value,
                func.left(column, position) == value,
                func.split_part(column, value, 1) == "x",
                func.lpad(column, 90, value) == value,
                func.translate(column, value, "xyz") == "x",
                func.strpos(column, value) > 7,
                func.length(column) == self.value("number"),
                func.md5(column) == func.md5(value),
                func.encode(sample.c.raw, "hex") == WORD.encode().hex(),
                func.date_trunc("day", time) == self.value("made"),
                sa.extract("year", time) == self.value("number"),
                func.to_char(time, self._structure("YYYY", f"YYYY {WORD}")) == value,
                sa.cast(time, sa.Date) == self.value("day"),
                time + self._structure(datetime.timedelta(days=3), self.value("span"))
                > self.value("made"),
                func.age(time, self.value("made")) > self.value("span"),
                func.greatest(column, value) == value,
                func.regexp_replace(column, value, "x") == value,
                func.set_masklen(sample.c.address, 32)
                == sa.literal(self.value("address"), postgresql.INET),
                func.timezone(self._structure("UTC", "Europe/Vienna"), sample.c.made)
                > self.value("local"),
            )
        )

    def _calculation(self) -> Any:
        name = self._pick(_NUMBERS)
        column, value = sample.c[name], self.value(name)
        number = self._structure(3, 918273645)
        return self._pick(
            (
                column + number == value,
                column * number > value,
                func.abs(column - number) < value,
                func.round(sa.cast(column, sa.Numeric), 2) == value,
                func.mod(sa.cast(column, sa.Numeric), number) == value,
                sa.cast(column, sa.Numeric) == Decimal("918273.645"),
                column > sa.select(func.max(detail.c.number) + value).scalar_subquery(),
                -column == value,
            )
        )

    def _pattern(self) -> Any:
        column, value = sample.c[self._pick(_TEXTS)], self.value("name")
        return self._pick(
            (
                column.like(f"{value}%"),
                column.like(f"%{value}%"),
                column.not_like(f"{value}_"),
                column.ilike(f"%{WORD}%"),
                column.startswith(value, autoescape=True),
                column.contains(value, autoescape=True),
                column.regexp_match(f"^{WORD}"),
                column.regexp_match(f"^{WORD}", flags="i"),
                column.bool_op("SIMILAR TO")(f"{WORD}%"),
                column.bool_op("^@")(value),
                func.lower(column).like(f"{value.lower()}%"),
                sa.not_(column.ilike(f"{WORD}%")),
                sa.literal(value).like(column),
            )
        )

    def _json(self) -> Any:
        data, key, value = sample.c.data, self._key(), self.value("name")
        plain = sa.type_coerce(sample.c.plain, postgresql.JSON)
        return self._pick(
            (
                data[key].astext == value,
                data[key] == sa.cast(self.value("data"), postgresql.JSONB),
                data[(key, "deep", self._structure("1", "918273645"))].astext == value,
                data[key]["deep"].astext.like(f"{value}%"),
                sa.cast(data[key].astext, sa.Text) == value,
                func.lower(data[key].astext) == value,
                data.contains(self.value("data")),
                data.contained_by(self.value("data")),
                data.has_key(value),
                data.has_any(postgresql.array([value, "x"])),
                data.bool_op("@?")(sa.cast(f'$.type ? (@ == "{WORD}")', postgresql.JSONPATH)),
                data.bool_op("@@")(sa.cast("$.n == 918273645", postgresql.JSONPATH)),
                func.jsonb_path_exists(data, sa.cast(f'$."{WORD}"', postgresql.JSONPATH)),
                func.jsonb_extract_path_text(data, key) == value,
                func.jsonb_typeof(data[key]) == value,
                plain[key].astext == value,
                data.op("-")(value) == sa.cast({}, postgresql.JSONB),
                data.op("||")(sa.cast(self.value("data"), postgresql.JSONB)) == data,
            )
        )

    def _array(self) -> Any:
        tags, numbers = sample.c.tags, sample.c.numbers
        return self._pick(
            (
                sa.literal(self.value("name")) == sa.any_(tags),
                tags.contains(self.value("tags")),
                tags.overlap(self.value("tags")),
                tags == self.value("tags"),
                tags[self._structure(1, 918273)] == self.value("name"),
                numbers.contains(self.value("numbers")),
                sa.literal(self.value("number")) > sa.all_(numbers),
                func.array_length(tags, 1) == self.value("number"),
                func.array_to_string(tags, self.value("name")) == "x",
                func.array_position(tags, self.value("name")) > 1,
                func.cardinality(func.array_remove(tags, self.value("name"))) == 1,
            )
        )

    def _ranged(self) -> Any:
        valid, part = sample.c.valid, sample.c.part
        return self._pick(
            (
                valid.contains(self.value("made")),
                part.contains(self.value("number")),
                valid.overlaps(self.value("valid")),
                part == self.value("part"),
                func.lower(part) == self.value("number"),
                func.upper(valid) < self.value("made"),
                sample.c.address.bool_op("<<=")(sa.cast("198.51.100.237/32", postgresql.CIDR)),
            )
        )

    def _case(self) -> Any:
        name = self._pick(_TEXTS)
        chosen = sa.case(
            (sample.c[name] == self.value(name), self.value("number")),
            (self._comparison(), 2),
            else_=sample.c.number,
        )
        simple = sa.case({self.value(name): "x"}, value=sample.c[name], else_=self.value(name))
        return self._pick((chosen == 1, chosen > self.value("number"), simple == "x"))

    def _row(self) -> Any:
        row = sa.tuple_(sample.c.name, sample.c.number)
        rows = [(self.value("name"), self.value("number")) for _ in range(3)]
        return self._pick((row.in_(rows), row > sa.tuple_(*rows[0]), row == sa.tuple_(*rows[1])))

    def _sub_query(self) -> Any:
        inner = sa.select(detail.c.sample_id).where(detail.c.label != self.value("name"))
        near = inner.where(detail.c.sample_id == sample.c.id)
        count = sa.select(func.count()).where(detail.c.number == sample.c.number).scalar_subquery()
        largest = sa.select(func.max(detail.c.number)).where(detail.c.label == self.value("name"))
        return self._pick(
            (
                sample.c.id.in_(inner),
                sample.c.id.not_in(inner),
                near.exists(),
                ~near.exists(),
                count > self.value("number"),
                sample.c.number == largest.scalar_subquery(),
                sample.c.id == sa.any_(inner.limit(7).scalar_subquery()),
            )
        )

    def _search(self) -> Any:
        language = self._structure("simple", "english")
        query = func.plainto_tsquery(sa.cast(language, postgresql.REGCONFIG), self.value("name"))
        words = func.to_tsvector(sa.cast(language, postgresql.REGCONFIG), sample.c.name)
        return self._pick(
            (
                words.bool_op("@@")(query),
                sample.c.words.bool_op("@@")(sa.cast(WORD, postgresql.TSQUERY)),
            )
        )

    # Statements

    def select(self) -> Any:
        """Return a SELECT."""
        label = self._pick(_LABELS)
        chosen = self._pick(
            (
                [sample.c.id, sample.c.name],
                [sample.c.id.label(label), sa.literal(self.value("name")).label("said")],
                [sample, sa.case((self._comparison(), self.value("name")), else_="x").label(label)],
                [sample.c.id, func.concat(sample.c.name, self.value("name")).label(label)],
                [sample.c.id, func.row_number().over(order_by=[sample.c.name, sample.c.id])],
                [sample.c.data[self._key()].astext],
            )
        )
        statement = sa.select(*chosen).where(self.condition())
        shape = self._pick(
            (
                *[self._ordered] * 3,
                self._joined,
                self._with_cte,
                self._grouped,
                self._united,
                self._from_lateral,
            )
        )
        return shape(statement)

    def _select_step(self) -> Step:
        return Step(self.select())

    def _ordered(self, statement: Any) -> Any:
        order = self._pick(
            (
                sample.c.number,
                sample.c.name.desc().nulls_last(),
                sa.case((sample.c.name == self.value("name"), 0), else_=1),
                sample.c.data[self._key()].astext,
                func.coalesce(sample.c.name, self.value("name")),
                func.abs(sample.c.number - self._structure(7, 918273645)),
                sample.c.name == self.value("name"),
                sa.cast(sample.c.data[self._key()].astext, sa.Text).desc(),
            )
        )
        ordered = statement.order_by(order)
        return self._pick(
            (
                ordered,
                ordered.limit(10),
                ordered.limit(918273645),
                ordered.limit(5).offset(918273645),
                statement.limit(1).with_for_update(),
                statement.distinct(),
            )
        )

    def _joined(self, statement: Any) -> Any:
        near = detail.c.sample_id == sample.c.id
        on = self._pick(
            (
                near,
                near & (detail.c.label == self.value("name")),
                near & (detail.c.number > self.value("number")),
                func.lower(detail.c.label) == func.lower(sample.c.name + self.value("name")),
            )
        )
        outer = self._pick((True, False))
        joined = statement.join_from(sample, detail, on, isouter=outer)
        if self._pick((True, False)):
            joined = joined.where(sa.or_(detail.c.label == self.value("name"), self._comparison()))
        if self._pick((True, False)):
            user = sa.orm.aliased(User)
            near = sa.and_(user.id == sample.c.id, user.state != self.value("name"))
            joined = joined.join(user, near)
        return joined.limit(20)

    def _with_cte(self, statement: Any) -> Any:
        cte = statement.with_only_columns(sample.c.id, sample.c.name).cte("chosen")
        other = sa.select(cte.c.id).where(cte.c.name != self.value("name"))
        return sa.union_all(other, sa.select(cte.c.id).limit(3))

    def _grouped(self, statement: Any) -> Any:
        group = self._pick(
            (
                sample.c.mood,
                sample.c.data[self._key()].astext,
                sa.case((sample.c.name > self.value("name"), "a"), else_=self.value("name")),
                func.date_trunc("day", sample.c.made),
            )
        ).label("grouped")
        return (
            sa.select(group, func.count().filter(sample.c.name == self.value("name")))
            .where(self.condition())
            .group_by(sa.literal_column("1"))
            .having(func.count() != self.value("number"))
            .order_by(sa.literal_column("2"))
        )

    def _united(self, statement: Any) -> Any:
        first = sa.select(sample.c.id).where(self.condition())
        second = sa.select(sample.c.id).where(self.condition())
        return self._pick((sa.union, sa.union_all, sa.except_, sa.intersect))(first, second)

    def _from_lateral(self, statement: Any) -> Any:
        near = detail.c.sample_id == sample.c.id
        latest = sa.select(detail.c.label).where(near, detail.c.label != self.value("name"))
        latest = latest.order_by(detail.c.number.desc()).limit(1)
        side = self._pick(
            (
                latest.lateral("latest"),
                sa.values(sa.column("label", sa.Text), name="given").data(
                    [(self.value("name"),), (self.value("name"),)]
                ),
                func.unnest(sa.cast(self.value("tags"), postgresql.ARRAY(sa.Text))).table_valued(
                    "label"
                ),
                func.jsonb_each_text(sample.c.data)
                .table_valued("key", "label", name="pair")
                .lateral(),
            )
        )
        return (
            sa.select(sample.c.id)
            .join_from(sample, side, sa.true())
            .where(side.c.label != self.value("name"), self.condition(1))
            .limit(30)
        )

    def _text(self) -> Step:
        """Return a statement with its values in the text."""
        string = WORD + self._pick(("", "''", " x", ";", "$", "%", "?", "{#", "/*", "--"))
        literal = self._pick(
            (
                f"'{string}'",
                f"E'\\'{string}\\\\'",
                f"e'\\t{string}'",
                f"$${string}$$",
                f"$tag$'{string}$tag$",
                f"U&'{string}'",
                f"N'{string}'",
                f"'a'\n  '{string}'",
                f"CAST('{string}' AS varchar(40))",
                f"'{string}'::text",
                f"text '{string}'",
                f"concat('{string}', 918273645)",
                f"lower('{string}')",
            )
        )
        other = self._pick(
            (
                "number = 918273645",
                "number IN (918273645, -918273646)",
                "number > 9182736.45e2",
                "price = 918273.645",
                "ratio < -9.18273e+20",
                "day = DATE '2187-03-14'",
                "day = '2187-03-14'",
                "made > TIMESTAMPTZ '2187-03-14 12:00+00' - INTERVAL '91827 days'",
                "made BETWEEN '2187-03-14' AND '2187-03-15'",
                "at = TIME '21:43:57'",
                f"raw = '\\x{WORD.encode().hex()}'",
                f"raw = decode('{WORD.encode().hex()}', 'hex')",
                "key = '7b1f9c4e-5d2a-4c3b-9e8f-0a1b2c3d4e5f'",
                "address <<= '198.51.100.237/32'",
                f"mood = '{MOODS[1]}'",
                f"""data @> '{{"{WORD}": 1}}'""",
                f"data ->> '{self._key()}' = '{WORD}'",
                f"data #>> '{{{self._key()},deep}}' = '{WORD}'",
                f"data['{self._key()}'] = '\"{WORD}\"'",
                f"tags @> ARRAY['{WORD}', 'x y']",
                f"tags && '{{{WORD},\"x y\"}}'",
                f"name = ANY ('{{{WORD},\"x y\"}}'::text[])",
                "part @> 918273645",
                "part && '[918273645,918273699)'",
                "valid @> '2187-03-14'::timestamptz",
                f"words @@ '{WORD}'",
                f"(name, number) > ('{WORD}', 918273645)",
                f"name LIKE '{WORD}\\_%'",
                f"name SIMILAR TO '{WORD}#%' ESCAPE '#'",
                f"position('{WORD}' in name) > 0",
                f"overlay(name placing '{WORD}' from 2) = 'x'",
                f"substring(name from '{WORD}') = 'x'",
                f"trim(both '{WORD}' from name) = 'x'",
                f"name COLLATE \"C\" > '{WORD}'",
                f"EXISTS (SELECT 1 FROM detail WHERE label = '{WORD}' AND sample_id = sample.id)",
                f"name = (SELECT '{WORD}' FROM detail LIMIT 1)",
                "number = ANY (VALUES (918273645), (918273646))",
                f"xmin::text = '{WORD}'",
                "ctid = '(9182736,4)'",
            )
        )
        before = self._pick(("", f"/* {WORD} */ ", f"-- {WORD} 'it\n", f"/* a /* {WORD} */ ' */ "))
        chosen = self._pick(
            ("*", f"id AS \"{self._pick(_LABELS).replace(chr(34), '')}\", '{WORD}'")
        )
        column = self._pick(("name", '"Odd Näme"', "lower(name)", "name || 'x'", "upper(code)"))
        joined = self._pick((" AND ", " OR ", " AND NOT "))
        end = self._pick(
            ("", ";", f" -- {WORD}", " ORDER BY id LIMIT 918273645", f" ORDER BY name = '{WORD}'")
        )
        sql = f"{before}SELECT {chosen} FROM sample WHERE {column} = {literal}{joined}{other}{end}"
        return Step(sql)

    def _write(self) -> Step:
        name, number = self.value("name"), self.value("number")
        new = sa.select(sample.c.id + 100_000, sample.c.id, sa.literal(name)).where(
            self.condition(1)
        )
        insert = postgresql.insert(detail)
        values = {"id": number, "sample_id": number, "label": name}
        return Step(
            self._pick(
                (
                    sa.update(sample).values(name=name, number=number).where(self.condition(1)),
                    sa.update(sample).values(name=sample.c.name + name).where(self._comparison()),
                    sa.update(detail)
                    .values(number=number)
                    .where(detail.c.sample_id == sample.c.id, self.condition(1)),
                    sa.delete(sample).where(self.condition()),
                    sa.delete(detail).where(detail.c.label == name).returning(detail.c.id),
                    sa.insert(detail).values(values),
                    sa.insert(detail).from_select(["id", "sample_id", "label"], new),
                    insert.values(values).on_conflict_do_update(
                        index_elements=["id"],
                        set_={"label": name},
                        where=detail.c.label != self.value("name"),
                    ),
                    sa.insert(detail).values([values, values | {"id": 918273600}]),
                )
            )
        )

    def _failing(self) -> Step:
        """Return a statement that fails, mostly with its value in the server's message."""
        name = self.value("name")
        others = sa.text("detail a, detail b, detail c, detail d")
        everything = sa.select(func.count()).select_from(sample, others)
        known = {"id": 1, "sample_id": 918273645, "label": name}
        # What is shown of a long statement then ends within the mark, or just before it.
        before_end = 1000 - len("SELECT * FROM sample WHERE name = '") - self._random.randrange(99)
        return self._pick(
            (
                Step(
                    sa.select(sample.c.id).where(
                        1 / (sample.c.number - sample.c.number) == 918273645
                    )
                ),
                Step(sa.select(sample.c.id).where(sample.c.number == sa.cast(name, sa.Integer))),
                Step(sa.select(sample.c.id).where(sample.c.name.regexp_match(f"{WORD}(["))),
                Step(
                    sa.select(sample.c.id).where(
                        sample.c.data == sa.cast(sa.literal(name, sa.Text), postgresql.JSONB)
                    )
                ),
                Step(
                    sa.select(sample.c.id).where(
                        sample.c.id
                        == sa.cast(sa.cast(f"{WORD}_gone", postgresql.REGCLASS), sa.BigInteger)
                    )
                ),
                Step(
                    sa.select(sample.c.id).where(
                        sample.c.id == sa.cast(sa.cast(f"{WORD}_gone", Regnamespace), sa.BigInteger)
                    )
                ),
                Step(sa.select(sample.c.id).where(func.refuse(name) == sample.c.name)),
                Step(sa.select(sample.c.id).where(func.pg_size_bytes(name) == sample.c.id)),
                Step(sa.select(sample.c.id).where(func.to_date(name, "YYYY") == sample.c.day)),
                Step(sa.insert(detail).values(known)),
                Step(sa.insert(detail).values(known | {"id": 918273645, "short": name * 2})),
                Step(sa.insert(detail).values({"id": 918273645, "label": name})),
                Step(
                    everything.where(sample.c.name != name, self._comparison()),
                    before=("SET LOCAL statement_timeout = 20",),
                ),
                Step(f"SELECT * FROM sample WHERE name = $'{WORD}'"),
                Step(f"SELECT * FROM sample WHERE name = '{WORD}"),
                Step(f"SELECT * FROM sample WHERE name = ''{WORD}' ''"),
                Step(f"SELECT * FROM nowhere WHERE name = '{WORD}'"),
                Step(f"SELECT 1; SELECT '{WORD}'"),
                Step(sa.select(sample.c.id).where(sample.c.name == name + "x" * 1_000_000)),
                Step(f"SELECT * FROM sample WHERE name = '{'x' * before_end}{WORD * 5000}'"),
                Step(f"SELECT * FROM sample WHERE number IN ({', '.join(['918273645'] * 3000)})"),
            )
        )

    def _literal_execute(self) -> Step:
        """Return a statement whose values SQLAlchemy writes into its text."""
        name = self._pick(("name", "number", "price", "day", "ratio"))
        value = sa.bindparam("v", self.value(name), sample.c[name].type, literal_execute=True)
        return self._pick(
            (
                Step(sa.select(sample.c.id).where(sample.c[name] == value)),
                Step(
                    sa.select(sample.c.id).where(
                        sample.c[name].in_(
                            sa.bindparam(
                                "v",
                                [self.value(name)],
                                sample.c[name].type,
                                expanding=True,
                                literal_execute=True,
                            )
                        )
                    )
                ),
                Step(sa.select(sample.c.id).where(sa.literal_column(f"lower(name) = '{WORD}'"))),
                Step(
                    sa.text("SELECT id FROM sample WHERE lower(name) = :v OR number = :w"),
                    {"v": self.value("name"), "w": self.value("number")},
                ),
            )
        )

    def _own_types(self) -> Step:
        """Return a statement with a type that SQLAlchemy must not cache."""
        return Step(
            sa.select(sample.c.id).where(
                sa.type_coerce(sample.c.name, Uncached()) == self.value("name")
            )
        )


class Uncached(sa.types.UserDefinedType[str]):
    """A type that does not say whether it may be part of a cache key."""

    cache_ok = False

    def get_col_spec(self, **_: Any) -> str:
        return "text"


class Regnamespace(sa.types.UserDefinedType[str]):
    """A type that SQLAlchemy does not know: a schema, by its name."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "regnamespace"
