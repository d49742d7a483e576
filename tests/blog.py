"""A blog and its statements, as its pages send them: many of them could share an index."""

from __future__ import annotations

import sqlalchemy as sa

from .databases import Database

TABLES = (
    "CREATE TABLE author (id int PRIMARY KEY, email text NOT NULL, country text NOT NULL, "
    "joined timestamptz NOT NULL)",
    "CREATE TABLE post (id int PRIMARY KEY, author_id int NOT NULL, category_id int NOT NULL, "
    "status text NOT NULL, created_at timestamptz NOT NULL, views int NOT NULL, "
    "likes int NOT NULL, title text NOT NULL)",
    "CREATE TABLE comment (id int PRIMARY KEY, post_id int NOT NULL, author_id int NOT NULL, "
    "state text NOT NULL, created_at timestamptz NOT NULL, body text NOT NULL)",
)

#: Each column has values that are spread over the table, as hashes of the number of the row are.
ROWS = (
    "INSERT INTO author SELECT g, 'a' || g || '@x.org', 'c' || abs(hashint4(g)) % 40, "
    "timestamptz '2020-01-01' + g * interval '1 hour' FROM generate_series(1, 20000) g",
    "INSERT INTO post SELECT g, abs(hashint4(g)) % 200, abs(hashint4(g + 1000000)) % 40, "
    "CASE abs(hashint4(g + 2000000)) % 20 WHEN 0 THEN 'draft' WHEN 1 THEN 'review' "
    "ELSE 'published' END, timestamptz '2020-01-01' + abs(hashint4(g + 3000000)) % 2000000 "
    "* interval '1 minute', abs(hashint4(g + 4000000)) % 100000, abs(hashint4(g)) % 977, "
    "md5(g::text) FROM generate_series(1, 60000) g",
    "INSERT INTO comment SELECT g, abs(hashint4(g)) % 600, abs(hashint4(g + 1000000)) % 400, "
    "CASE abs(hashint4(g + 2000000)) % 25 WHEN 0 THEN 'spam' ELSE 'shown' END, "
    "timestamptz '2020-01-01' + abs(hashint4(g + 3000000)) % 2000000 * interval '1 minute', "
    "md5(g::text) || md5(g::text) FROM generate_series(1, 120000) g",
)

#: In an order in which the narrow indexes are asked for first.
STATEMENTS = tuple(
    map(
        sa.text,
        (
            "SELECT * FROM post WHERE author_id = 7",
            "SELECT * FROM post WHERE author_id = 7 ORDER BY created_at DESC LIMIT 10",
            "SELECT count(*) FROM post WHERE author_id = 7 AND status = 'draft'",
            "SELECT * FROM post WHERE author_id = 7 AND status = 'review' ORDER BY created_at",
            "SELECT sum(views) FROM post WHERE author_id = 7",
            "SELECT sum(likes) FROM post WHERE author_id = 7",
            "SELECT count(*) FROM post WHERE category_id = 5",
            "SELECT * FROM post WHERE category_id = 5 ORDER BY created_at DESC LIMIT 20",
            "SELECT * FROM post WHERE category_id = 5 AND status = 'draft'",
            "SELECT * FROM post WHERE status = 'draft'",
            "SELECT * FROM post WHERE status = 'draft' ORDER BY created_at DESC LIMIT 20",
            "SELECT * FROM post ORDER BY views DESC LIMIT 10",
            "SELECT * FROM comment WHERE post_id = 9",
            "SELECT * FROM comment WHERE post_id = 9 ORDER BY created_at",
            "SELECT * FROM comment WHERE post_id = 9 AND state = 'spam'",
            "SELECT max(created_at) FROM comment WHERE post_id = 9",
            "SELECT count(*) FROM comment WHERE author_id = 3",
            "SELECT * FROM comment WHERE author_id = 3 ORDER BY created_at DESC LIMIT 5",
            "SELECT * FROM comment WHERE author_id = 3 AND post_id = 9",
            "SELECT * FROM comment WHERE state = 'spam' ORDER BY created_at DESC LIMIT 20",
            "SELECT * FROM author WHERE email = 'a77@x.org'",
            "SELECT * FROM author WHERE email = 'a77@x.org' AND country = 'c3'",
            "SELECT * FROM author WHERE country = 'c3' ORDER BY joined DESC LIMIT 10",
            "SELECT count(*) FROM author WHERE country = 'c3'",
        ),
    )
)


def fill(database: Database) -> None:
    """Make the tables with their rows and statistics."""
    database.install_hypopg()
    database.execute(*TABLES, *ROWS, "VACUUM ANALYZE")
