"""Conditions on the columns of one table."""

from __future__ import annotations

from datetime import UTC, date, datetime

from sqlalchemy import and_, literal, not_, or_, select

from .case import index, no_index
from .tables import Account, Comment, Measurement, Post

#: The last half of a percent of the year that the rows are spread over.
LATE = datetime(2024, 12, 30, tzinfo=UTC)

#: Nine tenths of it.
AUTUMN = datetime(2024, 11, 25, tzinfo=UTC)

SPRING = datetime(2024, 4, 1, tzinfo=UTC)

HEADINGS = {
    "equality": [
        index("one column", select(Post).where(Post.user_id == 7), "(user_id)"),
        index(
            "two columns",
            select(Post).where(Post.user_id == 7, Post.blog_id == 3),
            "(user_id, blog_id)",
        ),
        index(
            "three columns that narrow only together",
            select(Account).where(
                Account.country == "Country 7",
                Account.language == "Language 3",
                Account.time_zone == 5,
            ),
            "(country, language, time_zone)",
        ),
        index(
            "a second column adds nothing to a unique one",
            select(Account).where(Account.email == "User7@Example.com", Account.plan == "free"),
            "(email)",
        ),
        index("text", select(Account).where(Account.email == "User7@Example.com"), "(email)"),
        index("the value comes first", select(Post).where(literal(7) == Post.user_id), "(user_id)"),
        index("a value that is not there", select(Post).where(Post.user_id == -1), "(user_id)"),
        index("a rare value", select(Post).where(Post.state == "draft"), "(state)"),
        no_index(
            "98% of the rows",
            select(Account).where(Account.plan == "free"),
            reason="98% of the rows",
        ),
        no_index(
            "one of four values",
            select(Post).where(Post.state == "published", Post.pinned.is_(False)),
            reason="of the rows",
        ),
    ],
    "range": [
        index("half open", select(Post).where(Post.created_at >= LATE), "(created_at)"),
        index("between", select(Post).where(Post.views.between(100, 300)), "(views)"),
        index("numbers", select(Measurement).where(Measurement.value > 9990), "(value)"),
        index("dates", select(Account).where(Account.born < date(1950, 2, 1)), "(born)"),
        index(
            "text",
            select(Post).where(Post.slug >= "slug-99", Post.slug < "slug-991"),
            "(slug)",
        ),
        index(
            "a narrow one and a wide one",
            select(Post).where(Post.views > 99_700, Post.created_at > SPRING),
            "(views, created_at)",
        ),
        no_index(
            "nine tenths of the rows",
            select(Post).where(Post.created_at < AUTUMN),
            reason="of the rows",
        ),
        no_index(
            "two wide ones",
            select(Post).where(Post.created_at > SPRING, Post.views < 90_000),
            reason="of the rows",
        ),
    ],
    "equality and range": [
        index(
            "the equality comes first",
            select(Post).where(Post.created_at > AUTUMN, Post.blog_id == 7),
            "(blog_id, created_at)",
        ),
        index(
            "two equalities and a range",
            select(Account).where(
                Account.country == "Country 7",
                Account.language == "Language 3",
                Account.score > 80_000,
            ),
            "(country, language, score)",
        ),
        index(
            "a range that nearly all rows pass",
            select(Post).where(Post.user_id == 7, Post.views > 500),
            "(user_id)",
        ),
        index(
            "and a condition that no index serves",
            select(Post).where(Post.user_id == 7, Post.views != 3),
            "(user_id)",
        ),
    ],
    "OR across columns": [
        index(
            "two columns",
            select(Post).where(or_(Post.user_id == 7, Post.blog_id == 3)),
            "(user_id)",
            "(blog_id)",
        ),
        index(
            "three columns",
            select(Account).where(
                or_(Account.city == "City 7", Account.name == "Name 3", Account.score == 9)
            ),
            "(city)",
            "(name)",
            "(score)",
        ),
        index(
            "the same column twice",
            select(Post).where(or_(Post.user_id == 7, Post.user_id == 8)),
            "(user_id)",
        ),
        index(
            "under AND",
            select(Post).where(Post.user_id == 7, or_(Post.blog_id > 200, Post.views > 20_000)),
            "(user_id)",
        ),
        index(
            "of pairs",
            select(Post).where(
                or_(
                    and_(Post.user_id == 7, Post.blog_id < 500),
                    and_(Post.blog_id == 3, Post.user_id < 2500),
                )
            ),
            "(user_id, blog_id)",
            "(blog_id, user_id)",
        ),
        no_index(
            "with a part that nearly all rows pass",
            select(Post).where(or_(Post.user_id == 7, Post.state == "published")),
            reason="OR combines",
        ),
        no_index(
            "with a part that no index serves",
            select(Post).where(or_(Post.user_id == 7, Post.views % 2 == 1)),
            reason="OR combines conditions",
        ),
    ],
    "IN lists": [
        index("1 value", select(Post).where(Post.user_id.in_([7])), "(user_id)"),
        index(
            "1000 values",
            select(Post).where(Post.slug.in_([f"slug-{number}" for number in range(1000)])),
            "(slug)",
            # 15 thinks that it saves less than a fifth.
            hypopg=False,
        ),
        index(
            "and an equality",
            select(Post).where(Post.blog_id == 3, Post.user_id.in_([1, 2, 3, 4, 5])),
            "(blog_id, user_id)",
        ),
        index(
            "texts",
            select(Account).where(Account.city.in_(["City 1", "City 2", "City 3"])),
            "(city)",
        ),
        index(
            "and a range",
            select(Post).where(Post.blog_id.in_([3, 4]), Post.created_at > AUTUMN),
            "(blog_id, created_at)",
        ),
        no_index(
            "NOT IN",
            select(Post).where(Post.user_id.not_in([1, 2, 3])),
            reason="of the rows",
        ),
        no_index(
            "most of the values",
            select(Account).where(Account.plan.in_(["free", "team"])),
            reason="of the rows",
        ),
    ],
    "IS NULL": [
        index("rare", select(Post).where(Post.published_at.is_(None)), "(published_at)"),
        index(
            "rare IS NOT NULL",
            select(Account).where(Account.deleted_at.is_not(None)),
            "(deleted_at)",
        ),
        index(
            "beside an equality",
            select(Post).where(Post.blog_id == 3, Post.published_at.is_(None)),
            "(blog_id, published_at)",
        ),
        index(
            "IS NOT NULL beside an equality",
            select(Account).where(Account.country == "Country 7", Account.deleted_at.is_not(None)),
            "(country, deleted_at)",
        ),
        index(
            "compared with None",
            select(Post).where(Post.published_at == None),  # noqa: E711
            "(published_at)",
        ),
        no_index(
            "nearly all rows",
            select(Account).where(Account.deleted_at.is_(None)),
            reason="of the rows",
        ),
        no_index(
            "IS DISTINCT FROM",
            select(Account).where(Account.plan.is_distinct_from("team")),
            reason="of the rows",
        ),
    ],
    "NOT": [
        index(
            "of a comparison",
            select(Post).where(not_(Post.views < 99_800)),
            "(views)",
        ),
        index(
            "of an OR",
            select(Post).where(not_(or_(Post.views < 99_800, Post.user_id != 7))),
            "(user_id, views)",
        ),
        no_index("<>", select(Post).where(Post.user_id != 7), reason="of the rows"),
        no_index(
            "a rare result of <>",
            select(Account).where(Account.plan != "free"),
            reason="<>",
        ),
        no_index(
            "NOT BETWEEN",
            select(Post).where(not_(Post.views.between(1000, 2000))),
            reason="of the rows pass",
        ),
    ],
    "boolean columns": [
        index("rare", select(Post).where(Post.pinned), "(pinned)"),
        index("rare NOT", select(Account).where(~Account.active), "(active)"),
        index("IS TRUE", select(Comment).where(Comment.spam.is_(True)), "(spam)"),
        index(
            "and an equality",
            select(Post).where(Post.pinned, Post.blog_id == 3),
            "(pinned, blog_id)",
        ),
        no_index("even", select(Account).where(Account.newsletter), reason="of the rows"),
        no_index("nearly all", select(Account).where(Account.active), reason="of the rows"),
    ],
}
