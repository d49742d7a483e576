"""The order of rows, and what is computed over them."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import func, select, tuple_

from .case import index, no_index
from .tables import ROWS, Account, Comment, Measurement, Post, distinct_on

AUTUMN = datetime(2024, 11, 25, tzinfo=UTC)

#: The place of a post among those of its day: no index has the day, which depends on the time zone.
of_the_day = (
    func.row_number()
    .over(partition_by=func.date_trunc("day", Post.created_at), order_by=Post.created_at)
    .label("place")
)

HEADINGS = {
    "ORDER BY with LIMIT, ascending": [
        index("all rows", select(Post).order_by(Post.created_at).limit(10), "(created_at)"),
        index(
            "of an equality",
            select(Post).where(Post.blog_id == 3).order_by(Post.created_at).limit(10),
            "(blog_id, created_at)",
        ),
        index(
            "two columns",
            select(Account).order_by(Account.country, Account.name).limit(10),
            "(country, name)",
        ),
        index(
            "OFFSET",
            select(Account).order_by(Account.born, Account.id).limit(10).offset(100),
            "(born, id)",
        ),
        index(
            "NULLS FIRST",
            select(Post).order_by(Post.published_at.nulls_first()).limit(10),
            "(published_at NULLS FIRST)",
        ),
        index(
            "the page after a key",
            select(Post)
            .where(tuple_(Post.created_at, Post.id) > (AUTUMN, 7))
            .order_by(Post.created_at, Post.id)
            .limit(10),
            "(created_at, id)",
        ),
        index(
            "of a rare value, by the primary key",
            select(Account).where(Account.city == "City 7").order_by(Account.id).limit(5),
            "(city, id)",
        ),
        index(
            "an expression",
            select(Account).order_by(func.lower(Account.name)).limit(10),
            "(lower(name))",
            keys={Account: ["lower(name)"]},
        ),
        no_index(
            "without LIMIT",
            select(Post.id, func.length(Post.body)).order_by(Post.views),
            reason="all rows are sorted or grouped",
        ),
        no_index(
            "by the primary key",
            select(Post).order_by(Post.id).limit(10),
            reason="an index exists",
        ),
        no_index(
            "a LIMIT that is most of the rows",
            select(Post.id, func.length(Post.body)).order_by(Post.views).limit(ROWS * 9 // 10),
            reason="are sorted all the same",
        ),
    ],
    "ORDER BY with LIMIT, descending": [
        index("all rows", select(Post).order_by(Post.created_at.desc()).limit(10), "(created_at)"),
        index(
            "of an equality",
            select(Post).where(Post.blog_id == 3).order_by(Post.created_at.desc()).limit(10),
            "(blog_id, created_at DESC)",
        ),
        index(
            "two columns",
            select(Account).order_by(Account.country.desc(), Account.name.desc()).limit(10),
            "(country DESC, name DESC)",
        ),
        index(
            "one column down, one up",
            select(Account).order_by(Account.score.desc(), Account.name).limit(10),
            "(score DESC, name)",
        ),
        index(
            "NULLS LAST",
            select(Post).order_by(Post.published_at.desc().nulls_last()).limit(10),
            "(published_at DESC NULLS LAST)",
        ),
        index(
            "of a range of the same column",
            select(Post).where(Post.created_at < AUTUMN).order_by(Post.created_at.desc()).limit(5),
            "(created_at)",
        ),
        index(
            "of a boolean",
            select(Post).where(Post.pinned).order_by(Post.created_at.desc()).limit(5),
            "(pinned, created_at DESC)",
        ),
    ],
    "window functions": [
        index(
            "over the rows of one user",
            select(
                Post, func.row_number().over(partition_by=Post.user_id, order_by=Post.created_at)
            ).where(Post.user_id == 7),
            "(user_id)",
        ),
        index(
            "over the rows of a range",
            select(Post, func.rank().over(order_by=Post.rating)).where(
                Post.views.between(100, 300)
            ),
            "(views)",
        ),
        index(
            "the first rows of a numbering",
            select(Account, func.row_number().over(order_by=Account.score)).limit(10),
            "(score)",
        ),
        no_index(
            "over all rows",
            select(Post.id, of_the_day),
            reason="all rows are sorted or grouped",
        ),
        no_index(
            "with a condition on the result",
            select(ranked := select(Post.id, of_the_day).subquery()).where(ranked.c.place <= 3),
            reason="all rows are sorted or grouped",
        ),
    ],
    "aggregates": [
        index(
            "count of a rare value",
            select(func.count()).where(Post.blog_id == 3),
            "(blog_id)",
        ),
        index("max", select(func.max(Post.created_at)), "(created_at)"),
        index("min", select(func.min(Measurement.value)), "(value)"),
        index(
            "max of an equality",
            select(func.max(Post.created_at)).where(Post.blog_id == 3),
            "(blog_id, created_at)",
        ),
        index(
            "sum of many rows",
            select(func.sum(Measurement.value)).where(Measurement.sensor_id == 7),
            "(sensor_id) INCLUDE (value)",
        ),
        index(
            "sum of a wide range, from the index alone",
            select(func.sum(Post.views)).where(Post.created_at > AUTUMN),
            "(created_at) INCLUDE (views)",
        ),
        index(
            "GROUP BY one column, from the index alone",
            select(Post.blog_id, func.count()).group_by(Post.blog_id),
            "(blog_id)",
        ),
        index(
            "GROUP BY with a condition",
            select(Post.user_id, func.sum(Post.views), func.avg(Post.rating))
            .where(Post.blog_id == 3)
            .group_by(Post.user_id),
            "(blog_id)",
        ),
        index(
            "HAVING, in a group",
            select(Post.blog_id, func.sum(Post.views), func.avg(Post.rating), func.max(Post.title))
            .group_by(Post.blog_id)
            .having(Post.blog_id == 3),
            "(blog_id)",
        ),
        no_index(
            "count of all rows",
            select(func.count()).select_from(Post),
            reason="all rows are sorted or grouped",
        ),
        no_index(
            "GROUP BY all rows",
            select(Post.blog_id, func.max(func.length(Post.body))).group_by(Post.blog_id),
            reason="all rows are sorted or grouped",
        ),
        no_index(
            "HAVING on the result",
            select(Post.blog_id)
            .group_by(Post.blog_id)
            .having(func.max(func.length(Post.body)) > 500),
            reason="all rows are sorted or grouped",
        ),
    ],
    "DISTINCT ON": [
        index(
            "of one value",
            distinct_on(select(Post).where(Post.blog_id == 3), Post.user_id).order_by(
                Post.user_id, Post.created_at.desc()
            ),
            "(blog_id)",
        ),
        index(
            "the latest of each, with LIMIT",
            distinct_on(select(Post), Post.user_id)
            .order_by(Post.user_id, Post.created_at.desc())
            .limit(10),
            "(user_id, created_at DESC)",
        ),
        index(
            "from the index alone",
            distinct_on(select(Comment.account_id, Comment.likes), Comment.account_id).order_by(
                Comment.account_id, Comment.likes.desc()
            ),
            "(account_id, likes DESC)",
        ),
        no_index(
            "of all rows",
            distinct_on(select(func.length(Post.body)), Post.user_id).order_by(
                Post.user_id, Post.views
            ),
            reason="all rows are sorted or grouped",
        ),
        no_index(
            "DISTINCT of all rows",
            select(Post.user_id, func.length(Post.body)).distinct(),
            reason="all rows are sorted or grouped",
        ),
    ],
}
