"""What is not an ordinary table without indexes."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import func, select

from .case import index, no_index
from .tables import (
    CREATE_DRAFT,
    AuthoredPost,
    BlogTotal,
    Category,
    Draft,
    Event,
    Imported,
    LineItem,
    Post,
    PublishedPost,
    Ticket,
    pg_attribute,
)

JUNE = datetime(2024, 6, 1, tzinfo=UTC)
JULY = datetime(2024, 7, 1, tzinfo=UTC)
OCTOBER = datetime(2024, 10, 1, tzinfo=UTC)

HEADINGS = {
    "views": [
        index(
            "of one table",
            select(PublishedPost).where(PublishedPost.user_id == 7),
            "post (user_id)",
        ),
        index(
            "of a join",
            select(AuthoredPost).where(AuthoredPost.email == "User7@Example.com"),
            "account (email)",
            "post (user_id)",
            keys={Post: ["user_id"]},
        ),
        index(
            "with GROUP BY, and a condition on the group",
            select(BlogTotal).where(BlogTotal.blog_id == 3),
            "post (blog_id)",
        ),
        no_index(
            "with GROUP BY, and a condition on the sum",
            select(BlogTotal).where(BlogTotal.views > 7_000_000),
            reason="all rows",
        ),
    ],
    "partitions": [
        index(
            "all",
            select(Event).where(Event.account_id == 7),
            "(account_id)",
            hypopg=False,
        ),
        index(
            "one",
            select(Event).where(Event.account_id == 7, Event.happened_at >= OCTOBER),
            "(account_id)",
            hypopg=False,
        ),
        index(
            "the latest",
            select(Event).order_by(Event.happened_at.desc()).limit(10),
            "(happened_at)",
            hypopg=False,
        ),
        no_index(
            "the whole of one",
            select(Event).where(Event.happened_at >= OCTOBER),
            reason="of the rows pass",
        ),
        no_index("by the primary key", select(Event).where(Event.id == 7), reason="begins with"),
    ],
    "quoted and schema-qualified names": [
        index("a column", select(LineItem).where(LineItem.order_id == 7), '("Order Id")'),
        index(
            "two columns",
            select(LineItem).where(LineItem.order_id < 500, LineItem.label == "Label 7"),
            '("select", "Order Id")',
        ),
        index(
            "an expression",
            select(LineItem).where(func.floor(LineItem.price) == 7),
            '(floor("Unit ""net"" Price"))',
            keys={LineItem: ['floor("Unit ""net"" Price")']},
        ),
        index(
            "ORDER BY with LIMIT",
            select(LineItem).order_by(LineItem.price.desc()).limit(3),
            '("Unit ""net"" Price" DESC)',
        ),
    ],
    "temporary tables": [
        no_index(
            "a condition",
            select(Draft).where(Draft.user_id == 7),
            reason="not-visible",
            setup=CREATE_DRAFT,
            unseen=True,
        ),
        no_index(
            "joined with an ordinary one",
            select(Post).join(Draft, Draft.id == Post.id).where(Post.user_id == 7),
            reason="not-visible",
            setup=CREATE_DRAFT,
            unseen=True,
        ),
    ],
    "foreign tables": [
        no_index("a condition", select(Imported).where(Imported.number == 7), reason="foreign"),
        index(
            "joined with an ordinary one",
            select(Post, Imported)
            .join(Imported, Imported.number == Post.id)
            .where(Post.user_id == 7),
            "(user_id)",
        ),
    ],
    "catalogs": [
        no_index(
            "a condition",
            select(pg_attribute.c.attrelid).where(pg_attribute.c.atttypid == 20),
            reason="catalog",
        ),
    ],
    "small tables": [
        no_index("40 rows", select(Category).where(Category.name == "Category 7"), reason="rows"),
        index(
            "joined with a large one",
            select(Post)
            .join(Category, Category.id == Post.blog_id)
            .where(Category.name == "Category 7"),
            "post (blog_id)",
        ),
    ],
    "indexes that exist": [
        no_index("the primary key", select(Ticket).where(Ticket.id == 7), reason="begins with"),
        no_index("a unique one", select(Ticket).where(Ticket.number == "T7"), reason="begins with"),
        no_index("the same", select(Ticket).where(Ticket.customer_id == 7), reason="begins with"),
        no_index("as a prefix", select(Ticket).where(Ticket.queue_id == 7), reason="begins with"),
        no_index(
            "both columns, in another order",
            select(Ticket).where(Ticket.priority == 3, Ticket.queue_id == 7),
            reason="begins with",
        ),
        no_index(
            "an expression",
            select(Ticket).where(func.lower(Ticket.subject) == "subject 7"),
            reason="begins with",
            keys={Ticket: ["lower(subject)"]},
        ),
        no_index(
            "a partial one",
            select(Ticket).where(Ticket.team_id == 7, Ticket.priority == 4),
            reason="begins with",
        ),
        no_index(
            "backwards",
            select(Ticket).order_by(Ticket.queue_id.desc(), Ticket.priority.desc()).limit(5),
            reason="begins with",
        ),
        no_index(
            "the planner prefers not to use it",
            select(Ticket).where(Ticket.queue_id > 20),
            reason="begins with",
        ),
        index(
            "not as its second column",
            select(Ticket).where(Ticket.opened_at > datetime(2024, 12, 30, tzinfo=UTC)),
            "(opened_at)",
        ),
        index(
            "a partial one that does not hold the rows",
            select(Ticket).where(Ticket.team_id == 7),
            "(team_id)",
        ),
        index(
            "one that leaves much to filter",
            select(Ticket).where(Ticket.queue_id == 7, Ticket.opened_at > OCTOBER),
            "(queue_id, opened_at)",
        ),
    ],
}
