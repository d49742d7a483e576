"""Types that have operators of their own, and what is computed from a column."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

from sqlalchemy import Date, Integer, Numeric, Text, any_, cast, func, literal, select, type_coerce
from sqlalchemy.dialects.postgresql import Range

from .case import index, no_index
from .tables import Account, Document, Measurement, Post

MOMENT = datetime(2024, 5, 17, 12, tzinfo=UTC)
A_DAY = Range(datetime(2024, 5, 17, tzinfo=UTC), datetime(2024, 5, 18, tzinfo=UTC))
TODAY = func.now()

HEADINGS = {
    "JSONB": [
        index(
            "contains",
            select(Document).where(Document.data.contains({"type": "Type 7"})),
            "USING gin (data) | USING gin (data jsonb_path_ops)",
            also={Document: ["USING gin (data)"]},
        ),
        index(
            "has a rare key",
            select(Document).where(Document.data.has_key("urgent")),
            "USING gin (data)",
            also={Document: ["USING gin (data)"]},
        ),
        index(
            "a value as text",
            select(Document).where(Document.data["type"].astext == "Type 7"),
            "((data ->> 'type'))",
            keys={Document: ["(data ->> 'type')"]},
        ),
        index(
            "a range of numbers",
            select(Document).where(Document.data["size"].astext.cast(Integer) < 200),
            "(((data ->> 'size')::integer))",
            keys={Document: ["((data ->> 'size')::integer)"]},
        ),
        index(
            "a path",
            select(Document).where(Document.data[("owner", "name")].astext == "Owner 7"),
            "((data #>> '{owner,name}'))",
            keys={Document: ["(data #>> '{owner,name}')"]},
        ),
        no_index(
            "a key that all rows have",
            select(Document).where(Document.data.has_key("type")),
            reason="of the rows",
            also={Document: ["USING gin (data)"]},
        ),
    ],
    "arrays": [
        index(
            "contains",
            select(Document).where(Document.tags.contains(["tag7"])),
            "USING gin (tags)",
            also={Document: ["USING gin (tags)"]},
        ),
        index(
            "overlaps",
            select(Document).where(Document.numbers.overlap([7, 8])),
            "USING gin (numbers)",
            also={Document: ["USING gin (numbers)"]},
        ),
        index(
            "one element",
            select(Document).where(Document.tags[1] == "tag7"),
            "((tags[1]))",
            keys={Document: ["(tags[1])"]},
        ),
        no_index(
            "= ANY of the column",
            select(Document).where(literal("tag7") == any_(Document.tags)),
            reason="an index can answer only @>",
            rewrite=True,
            also={Document: ["USING gin (tags)"]},
        ),
    ],
    "ranges": [
        index(
            "contains a moment",
            select(Document).where(Document.valid.contains(MOMENT)),
            "USING gist (valid)",
            also={Document: ["USING gist (valid)", "USING spgist (valid)"]},
        ),
        index(
            "overlaps",
            select(Document).where(Document.pages.overlaps(Range(100, 120))),
            "USING gist (pages)",
            also={Document: ["USING gist (pages)", "USING spgist (pages)"]},
        ),
        index(
            "the lower bound",
            select(Document).where(func.lower(Document.pages) == 700),
            "(lower(pages))",
            keys={Document: ["lower(pages)"]},
        ),
        no_index(
            "not empty",
            select(Document).where(~func.isempty(Document.pages)),
            reason="of the rows",
            keys={Document: ["isempty(pages)"]},
        ),
    ],
    "text search": [
        index(
            "a column",
            select(Document).where(
                Document.search.op("@@")(func.to_tsquery("simple", "word7 & word8"))
            ),
            "USING gin (search)",
            also={Document: ["USING gin (search)"]},
        ),
        index(
            "an expression",
            select(Document).where(
                func.to_tsvector("english", Document.content).op("@@")(
                    func.plainto_tsquery("english", "word7")
                )
            ),
            "USING gin (to_tsvector('english', content))",
            also={Document: ["USING gin (to_tsvector('english', content))"]},
        ),
        no_index(
            "without a configuration",
            select(Document).where(
                func.to_tsvector(Document.content).op("@@")(func.to_tsquery("word7"))
            ),
            reason="STABLE",
            rewrite=True,
        ),
    ],
    "patterns": [
        index(
            "a beginning",
            select(Post).where(Post.title.like("Title 777%")),
            "(title text_pattern_ops)",
            also={Post: ["(title text_pattern_ops)", "USING gin (title gin_trgm_ops)"]},
        ),
        index(
            "a beginning, in the collation C",
            select(Post).where(Post.slug.like("slug-777%")),
            "(slug) | (slug text_pattern_ops)",
        ),
        index(
            "startswith",
            select(Post).where(Post.title.startswith("Title 777")),
            "(title text_pattern_ops)",
            also={Post: ["(title text_pattern_ops)"]},
        ),
        index(
            "something in the middle",
            select(Account).where(Account.email.like("%ser7777@%")),
            "USING gin (email gin_trgm_ops)",
            also={Account: ["USING gin (email gin_trgm_ops)"]},
        ),
        index(
            "in any case",
            select(Account).where(Account.name.ilike("%ME 7777%")),
            "USING gin (name gin_trgm_ops)",
            also={Account: ["USING gin (name gin_trgm_ops)"]},
        ),
        no_index(
            "NOT LIKE",
            select(Post).where(Post.title.not_like("Title 7%")),
            reason="of the rows",
            also={Post: ["(title text_pattern_ops)", "USING gin (title gin_trgm_ops)"]},
        ),
        no_index(
            "a beginning that all rows share",
            select(Post).where(Post.title.like("Title%")),
            reason="of the rows",
            also={Post: ["(title text_pattern_ops)", "USING gin (title gin_trgm_ops)"]},
        ),
    ],
    "casts": [
        index(
            "a number as an integer",
            select(Measurement).where(cast(Measurement.value, Integer) == 777),
            "((value::integer))",
            keys={Measurement: ["(value::integer)"]},
        ),
        index(
            "a timestamp without time zone as a date",
            select(Measurement).where(cast(Measurement.local_at, Date) == date(2024, 5, 17)),
            "((local_at::date))",
            keys={Measurement: ["(local_at::date)"]},
        ),
        index(
            "varchar as text is no cast",
            select(Measurement).where(cast(Measurement.unit, Text) == "Unit 7"),
            "(unit)",
        ),
        no_index(
            "a timestamp with time zone as a date",
            select(Measurement).where(cast(Measurement.taken_at, Date) == date(2024, 5, 17)),
            reason="work out both ends in Python, in the time zone",
            rewrite=True,
        ),
        no_index(
            "a number as text",
            select(Measurement).where(cast(Measurement.code, Text) == "777"),
            reason="int()",
            rewrite=True,
        ),
        no_index(
            "a number that the driver sends as numeric",
            select(Measurement).where(Measurement.code == type_coerce(Decimal("777.0"), Numeric)),
            reason="A value with a fraction equals no integer",
            rewrite=True,
        ),
    ],
    "functions": [
        index(
            "immutable",
            select(Account).where(func.lower(Account.email) == "user7@example.com"),
            "(lower(email))",
            keys={Account: ["lower(email)"]},
        ),
        index(
            "user-defined, immutable",
            select(Post).where(func.shout(Post.title) == "TITLE 7"),
            "(shout(title))",
            keys={Post: ["shout(title)"]},
        ),
        index(
            "beside an equality",
            select(Account).where(
                Account.country == "Country 7", func.lower(Account.city) == "city 7"
            ),
            "(country, lower(city))",
            keys={Account: ["lower(city)"]},
        ),
        index(
            "stable, of constants only",
            select(Measurement).where(Measurement.taken_at > func.now() - func.make_interval(0)),
            "(taken_at)",
        ),
        index(
            "date_trunc of a timestamp without time zone",
            select(Measurement).where(
                func.date_trunc("day", Measurement.local_at) == datetime(2024, 5, 17)
            ),
            "(date_trunc('day', local_at))",
            keys={Measurement: ["date_trunc('day', local_at)"]},
        ),
        no_index(
            "stable",
            select(Measurement).where(func.date_trunc("day", Measurement.taken_at) == A_DAY.lower),
            reason="work out both ends in Python, in the time zone",
            rewrite=True,
        ),
        no_index(
            "user-defined, stable",
            select(Measurement).where(func.in_local_currency(Measurement.value) == 7),
            reason="STABLE",
            rewrite=True,
        ),
        no_index(
            "volatile",
            select(Post).where(Post.rating < func.random() * 10),
            reason="VOLATILE",
        ),
        no_index(
            "user-defined, volatile",
            select(Post).where(Post.views == func.lottery(100_000)),
            reason="no index can answer it",
        ),
    ],
}
