"""Statements that change rows."""

from __future__ import annotations

from sqlalchemy import delete, func, insert, select, update

from .case import index, no_index
from .tables import Account, Category, Comment, Event, LineItem, Measurement, Post

#: The planner expects nearly all rows of this, and it is none.
NEARLY_ALL = Post.published_at != Post.created_at

HEADINGS = {
    "UPDATE": [
        index(
            "by one column",
            update(Post).where(Post.user_id == 7).values(state="archived"),
            "(user_id)",
        ),
        index(
            "by two columns",
            update(Post).where(Post.user_id == 7, Post.blog_id < 50).values(state="archived"),
            "(user_id, blog_id)",
        ),
        index(
            "FROM another table",
            update(Post)
            .where(Post.user_id == Account.id, Account.email == "User7@Example.com")
            .values(state="archived"),
            "account (email)",
            "post (user_id)",
        ),
        index(
            "quoted names",
            update(LineItem).where(LineItem.order_id == 7).values(label="new"),
            '("Order Id")',
        ),
        no_index(
            "by the primary key",
            update(Post).where(Post.id == 7).values(state="archived"),
            reason="an index exists",
        ),
        no_index(
            "most rows",
            update(Post).where(NEARLY_ALL).values(state="archived"),
            reason="of the rows",
        ),
    ],
    "DELETE": [
        index("by one column", delete(Comment).where(Comment.account_id == 7), "(account_id)"),
        index(
            "of the rows of a sub-query",
            delete(Comment).where(Comment.post_id.in_(select(Post.id).where(Post.user_id == 7))),
            "comment (post_id)",
            "post (user_id)",
        ),
        index(
            "USING another table",
            delete(Comment).where(Comment.post_id == Post.id, Post.user_id == 7),
            "comment (post_id)",
            "post (user_id)",
        ),
        index(
            "of a partitioned table",
            delete(Event).where(Event.account_id == 7),
            "(account_id)",
            hypopg=False,
        ),
        no_index(
            "by the primary key", delete(Comment).where(Comment.id == 7), reason="an index exists"
        ),
        no_index(
            "most rows",
            delete(Measurement).where(Measurement.value > 500),
            reason="of the rows",
        ),
        index(
            "of a row that a foreign key may refer to",
            delete(Post).where(Post.id == -1),
            "comment (post_id)",
            keys={Comment: ["post_id"]},
        ),
    ],
    "INSERT": [
        index(
            "of the rows of a SELECT",
            insert(Category).from_select(
                ["id", "name"],
                select(Post.id, func.concat(Post.title, Post.views)).where(Post.blog_id == 3),
            ),
            "post (blog_id)",
        ),
    ],
}
