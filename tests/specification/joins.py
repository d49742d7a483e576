"""Several tables in one statement, or one table several times."""

from __future__ import annotations

from sqlalchemy import exists, func, lateral, select, true
from sqlalchemy.orm import aliased

from .case import index, no_index
from .tables import Account, Category, Comment, Document, Post, Ticket

answer, answered = aliased(Comment), aliased(Comment)
referrer = aliased(Account)
following = aliased(Document)

of_user = select(Post).where(Post.user_id == 7).cte("of_user")
all_posts = select(Post).cte("all_posts")
thread = select(Comment).where(Comment.id == 7).cte("thread", recursive=True)
thread = thread.union_all(select(answer).where(answer.parent_id == thread.c.id))

latest = lateral(
    select(Post).where(Post.user_id == Account.id).order_by(Post.created_at.desc()).limit(3)
).alias("latest")


def materialised(cte, *, yes=True):
    """Say whether PostgreSQL may look into a CTE."""
    return cte.prefix_with("MATERIALIZED" if yes else "NOT MATERIALIZED")


HEADINGS = {
    "joins": [
        index(
            "the rows of one parent",
            select(Post, Comment).join(Comment, Comment.post_id == Post.id).where(Post.id == 7),
            "comment (post_id)",
        ),
        index(
            "a condition on the parent",
            select(Account, Post)
            .join(Post, Post.user_id == Account.id)
            .where(Account.email == "User7@Example.com"),
            "account (email)",
            "post (user_id)",
        ),
        index(
            "from the child to the primary key",
            select(Comment, Post)
            .join(Post, Post.id == Comment.post_id)
            .where(Comment.account_id == 7),
            "comment (account_id)",
        ),
        index(
            "the constant first, then the join's column",
            select(Account, Comment)
            .join(Comment, Comment.account_id == Account.id)
            .where(Account.id.in_(range(1, 11)), Comment.mood == "Mood 3"),
            "comment (mood, account_id)",
            in_order=True,
        ),
        index(
            "three tables",
            select(Account, Post, Comment)
            .join(Post, Post.user_id == Account.id)
            .join(Comment, Comment.post_id == Post.id)
            .where(Account.name == "Name 7"),
            "account (name)",
            "post (user_id)",
            "comment (post_id)",
        ),
        index(
            "LEFT JOIN",
            select(Post, Comment)
            .outerjoin(Comment, Comment.post_id == Post.id)
            .where(Post.user_id == 7),
            "post (user_id)",
            "comment (post_id)",
        ),
        index(
            "EXISTS",
            select(Post).where(
                Post.blog_id == 3,
                exists().where(Comment.post_id == Post.id, Comment.likes > 100),
            ),
            "post (blog_id)",
            "comment (post_id, likes)",
        ),
        index(
            "NOT EXISTS",
            select(Post).where(Post.user_id == 7, ~exists().where(Comment.post_id == Post.id)),
            "post (user_id)",
            "comment (post_id)",
        ),
        index(
            "IN with a sub-query",
            select(Comment).where(Comment.post_id.in_(select(Post.id).where(Post.user_id == 7))),
            "post (user_id) INCLUDE (id)",
            "comment (post_id)",
        ),
        index(
            "a scalar sub-query of one row",
            select(
                Account.id, select(func.count()).where(Post.user_id == Account.id).scalar_subquery()
            ).where(Account.id == 7),
            "post (user_id)",
        ),
        index(
            "LATERAL",
            select(Account.id, latest).join(latest, true()).where(Account.id.in_([7, 8, 9])),
            "post (user_id, created_at DESC)",
        ),
        index(
            "the latest rows, joined by the primary key",
            select(Comment, Post)
            .join(Post, Post.id == Comment.post_id)
            .order_by(Comment.created_at.desc())
            .limit(10),
            "comment (created_at)",
        ),
        index(
            "by two columns",
            select(Post, Ticket)
            .join(Ticket, (Ticket.customer_id == Post.user_id) & (Ticket.team_id == Post.blog_id))
            .where(Ticket.id == 7),
            "post (user_id, blog_id)",
        ),
        index(
            "by an expression",
            select(Ticket, Account)
            .join(Account, func.lower(Account.name) == func.lower(Ticket.number))
            .where(Ticket.id == 7),
            "account (lower(name))",
            keys={Account: ["lower(name)"]},
        ),
        no_index(
            "all rows of both sides",
            select(Post.title, Comment.body).join(Comment, Comment.post_id == Post.id),
            reason="the other side of the join has an index",
        ),
        no_index(
            "all rows of a small table and a large one",
            select(Post.title, Post.body, Category.name).join(
                Category, Category.id == Post.blog_id % 40
            ),
            reason="the other side of the join has an index",
        ),
        no_index(
            "half of one side",
            select(Post.title, Comment.body)
            .join(Comment, Comment.post_id == Post.id)
            .where(Comment.likes < 500),
            reason="lowers the cost",
            # 15 would not even use the best one.
            hypopg=False,
        ),
    ],
    "self-joins": [
        index(
            "the answers to one comment",
            select(answered, answer)
            .join(answer, answer.parent_id == answered.id)
            .where(answered.id == 7),
            "(parent_id)",
        ),
        index(
            "the referrers of a city",
            select(Account, referrer)
            .join(referrer, referrer.id == Account.referrer_id)
            .where(Account.city == "City 7"),
            "(city)",
        ),
        index(
            "who was referred by somebody of a city",
            select(Account, referrer)
            .join(referrer, referrer.id == Account.referrer_id)
            .where(referrer.city == "City 7"),
            "(city)",
            "(referrer_id)",
        ),
        no_index(
            "all neighbours",
            select(Document.data, following.data).join(following, following.id == Document.id + 1),
            reason="the other side of the join has an index",
            keys={Document: ["(id + 1)"]},
        ),
    ],
    "CTEs": [
        index("inlined", select(of_user), "(user_id)"),
        index(
            "not materialised, with a condition outside",
            select(c := materialised(all_posts, yes=False)).where(c.c.user_id == 7),
            "(user_id)",
        ),
        index(
            "materialised, with a condition inside",
            select(c := materialised(of_user)).where(c.c.views > 10),
            "(user_id)",
        ),
        index(
            "used twice",
            select(of_user.c.title).join(b := of_user.alias("b"), b.c.blog_id == of_user.c.blog_id),
            "(user_id)",
        ),
        index("recursive", select(thread), "(parent_id)"),
        no_index(
            "materialised, with a condition outside",
            select(c := materialised(all_posts)).where(c.c.user_id == 7),
            reason="materialised",
        ),
    ],
}
