"""functional-predicate: a function or operator on a column keeps PostgreSQL from its indexes."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa
from sqlalchemy import func
from sqlalchemy.orm import aliased

from ..models import Badge, Order, User, roles_users
from .case import USERS, Example, Rule, followed, rows, set_for_all, silent, speaks

RULE = Rule("functional-predicate", USERS)

#: The statement on the page of the rule.
EXAMPLE = Example('select(User.id).where(func.lower(User.email) == "user7@example.com")')

Other = aliased(User)

lower_email = func.lower(User.email)

#: Rows with a uuid, a table that refers to them by text, and an index on a path.
THINGS = (
    "CREATE TABLE thing (id uuid PRIMARY KEY, data jsonb)",
    "INSERT INTO thing SELECT lpad(to_hex(g), 32, '0')::uuid, "
    """('{"a": {"b": {"c": "' || g || '"}}}')::jsonb FROM generate_series(1, 20000) g""",
    "CREATE INDEX thing_path ON thing ((data -> 'a' -> 'b' ->> 'c'))",
    "CREATE TABLE mark (id int PRIMARY KEY, ref text)",
    "INSERT INTO mark SELECT g, lpad(to_hex(g), 32, '0')::uuid FROM generate_series(1, 2000) g",
    "CREATE TABLE link (id int PRIMARY KEY, ref uuid)",
    "INSERT INTO link SELECT g, lpad(to_hex(g), 32, '0')::uuid FROM generate_series(1, 2000) g",
    "VACUUM ANALYZE link",
    "VACUUM ANALYZE thing",
    "VACUUM ANALYZE mark",
)

#: Moments that only the second column of an index holds.
MESSAGES = (
    "CREATE TABLE message (id int PRIMARY KEY, room int, at timestamptz, body text)",
    "INSERT INTO message SELECT g, (g * 7919) % 5000, timestamptz '2024-01-01' + g * interval "
    "'1 minute', repeat('x', 40) FROM generate_series(1, 60000) g",
    "CREATE INDEX message_room_at ON message (room, at)",
    "VACUUM ANALYZE message",
)

#: A table in three partitions, one for each month.
EVENTS = (
    "CREATE TABLE event (id int, at timestamp NOT NULL) PARTITION BY RANGE (at)",
    *(
        f"CREATE TABLE event_{month} PARTITION OF event "
        f"FOR VALUES FROM ('2025-0{month}-01') TO ('2025-0{month + 1}-01')"
        for month in (1, 2, 3)
    ),
    "INSERT INTO event SELECT g, timestamp '2025-01-01' + g * interval '4 minutes' "
    "FROM generate_series(1, 30000) g",
    "ANALYZE event",
)

SPEAKS = [
    speaks(
        "function",
        sa.select(User).where(lower_email == "user7@example.com"),
        about='lower((email)::text) on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_lower_email ON "user" (lower(email))',
        proof=(
            "lower((email)::text) was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_lower_email on "user"',
        ),
    ),
    speaks(
        "the constant comes first",
        sa.select(User).where(sa.literal("user7@example.com") == lower_email),
        about='lower((email)::text) on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_lower_email ON "user" (lower(email))',
        proof=(
            "lower((email)::text) was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_lower_email on "user"',
        ),
    ),
    speaks(
        "in list",
        sa.select(User).where(lower_email.in_(["a", "b", "c"])),
        about='lower((email)::text) on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_lower_email ON "user" (lower(email))',
        proof=(
            "lower((email)::text) was tested row by row and is now an index condition",
            'Seq Scan on "user" became Bitmap Heap Scan on "user"',
        ),
    ),
    speaks(
        "among other conditions",
        sa.select(User).where(User.state == "Active", lower_email == "x", User.first != "y"),
        about='lower((email)::text) on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_lower_email ON "user" (lower(email))',
        proof=(
            "lower((email)::text) was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_lower_email on "user"',
        ),
    ),
    speaks(
        "first() adds a limit",
        sa.select(User).where(lower_email == "user99999@example.com").limit(1),
        about='lower((email)::text) on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_lower_email ON "user" (lower(email))',
        proof=(
            "lower((email)::text) was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_lower_email on "user"',
        ),
    ),
    speaks(
        "range with both ends",
        sa.select(User).where(func.length(User.first).between(2, 3)),
        about='length(first) on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_length_first ON "user" (length(first))',
        proof=(
            "length(first) was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_length_first on "user"',
        ),
    ),
    speaks(
        "json key",
        sa.select(User).where(User.data["type"].astext == "T7"),
        about="data ->> 'type'::text on \"user\"",
        fix="CREATE INDEX CONCURRENTLY ix_user_data_type ON \"user\" ((data ->> 'type'))",
        proof=(
            "data ->> 'type'::text was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_data_type on "user"',
        ),
    ),
    speaks(
        "cast of a json value",
        sa.select(User).where(sa.cast(User.data["n"].astext, sa.Integer) == 7),
        about="((data ->> 'n'::text))::integer on \"user\"",
        fix='CREATE INDEX CONCURRENTLY ix_user_data_n_4a6b90 ON "user" (((data ->> '
        "'n')::integer))",
        proof=(
            "((data ->> 'n'::text))::integer was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_data_n_4a6b90 on "user"',
        ),
    ),
    speaks(
        "operator",
        sa.select(User).where(User.points + 1 == 7),
        about='points + 1 on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_points_fea8a7 ON "user" ((points + 1))',
        proof=(
            "points + 1 was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_points_fea8a7 on "user"',
        ),
    ),
    speaks(
        "concatenation",
        sa.select(User).where(User.first + User.last == "First7Last7"),
        about='first || last on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_first_last_82250f ON "user" ((first || last))',
        proof=(
            "first || last was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_first_last_82250f on "user"',
        ),
    ),
    speaks(
        "coalesce",
        sa.select(User).where(func.coalesce(User.first, "") == "First7"),
        about="COALESCE(first, ''::text) on \"user\"",
        fix='CREATE INDEX CONCURRENTLY ix_user_coalesce_first_ceb715 ON "user" '
        "(COALESCE(first, ''))",
        proof=(
            "COALESCE(first, ''::text) was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_coalesce_first_ceb715 on "user"',
        ),
    ),
    speaks(
        "date_trunc of a timestamp",
        sa.select(User).where(func.date_trunc("hour", User.local_at) == sa.text("'2020-03-01'")),
        about="date_trunc('hour'::text, local_at) on \"user\"",
        fix='CREATE INDEX CONCURRENTLY ix_user_date_trunc_hour_local_at_1390df ON "user" '
        "(date_trunc('hour', local_at))",
        proof=(
            "date_trunc('hour'::text, local_at) was tested row by row and is now an index "
            "condition",
            'Seq Scan on "user" became Bitmap Heap Scan on "user"',
        ),
    ),
    speaks(
        "nested functions",
        sa.select(User).where(func.lower(func.left(User.email, 5)) == "user7"),
        about='lower("left"((email)::text, 5)) on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_lower_left_email_2cf784 ON "user" '
        '(lower("left"(email, 5)))',
        proof=(
            'lower("left"((email)::text, 5)) was tested row by row and is now an index condition',
            'Seq Scan on "user" became Bitmap Heap Scan on "user"',
        ),
    ),
    speaks(
        "attribute named unlike its column",
        sa.select(User).where(func.upper(User.nickname) == "NICK7"),
        about='upper(nick) on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_upper_nick ON "user" (upper(nick))',
        proof=(
            "upper(nick) was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_upper_nick on "user"',
        ),
    ),
    speaks(
        "explicit cast",
        sa.select(User).where(sa.cast(User.points, sa.Numeric) == 7),
        about='(points)::numeric on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_points_f4d95b ON "user" ((points::numeric))',
        proof=(
            "(points)::numeric was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_points_f4d95b on "user"',
        ),
    ),
    speaks(
        "explicit cast of a number to text",
        sa.select(User).where(sa.cast(User.points, sa.Text) > "99999"),
        about='(points)::text on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_points_3b120b ON "user" ((points::text))',
        proof=(
            "(points)::text was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_points_3b120b on "user"',
        ),
    ),
    speaks(
        "alias",
        sa.select(Other).where(func.lower(Other.email) == "x"),
        about='lower((email)::text) on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_lower_email ON "user" (lower(email))',
        proof=(
            "lower((email)::text) was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_lower_email on "user"',
        ),
    ),
    speaks(
        "join to a small table",
        sa.select(User.id).join(Badge, func.lower(User.first) == func.lower(Badge.owner)),
        about='lower(first) on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_lower_first ON "user" (lower(first))',
        proof=(
            "lower(first) was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_lower_first on "user"',
        ),
    ),
    speaks(
        "sub-query",
        sa.select(Badge).where(
            sa.exists().where(func.lower(User.first) == Badge.owner, Badge.id == 3)
        ),
        about='lower(first) on "user"',
        fix='CREATE INDEX CONCURRENTLY ix_user_lower_first ON "user" (lower(first))',
        proof=(
            "lower(first) was tested row by row and is now an index condition",
            'Seq Scan on "user" became Index Scan using ix_user_lower_first on "user"',
        ),
    ),
    speaks(
        "date_trunc of a timestamptz",
        sa.select(User).where(func.date_trunc("day", User.created_at) == sa.text("'2020-03-01'")),
        about="date_trunc('day'::text, created_at) on \"user\"",
        fix="compare created_at with a half-open range: created_at >= start AND created_at "
        "< end; start is the beginning of the day that is compared with, end that of "
        "the next",
        proof="date_trunc('day'::text, created_at) was computed row by row, and created_at alone "
        "was an index condition of ix_user_created_at",
        why="UTC",
    ),
    speaks(
        "date of a timestamptz",
        sa.select(User).where(sa.cast(User.created_at, sa.Date) == sa.text("'2020-03-01'")),
        about='(created_at)::date on "user"',
        fix="compare created_at with a half-open range: created_at >= start AND created_at "
        "< end; start is the beginning of the day that is compared with, end that of "
        "the next",
        proof="(created_at)::date was computed row by row, and created_at alone was an index "
        "condition of ix_user_created_at",
        why="UTC",
    ),
    speaks(
        "to_char",
        sa.select(User).where(func.to_char(User.created_at, "YYYY-MM") == "2020-03"),
        about="to_char(created_at, 'YYYY-MM'::text) on \"user\"",
        fix="look for a condition on created_at alone that means the same",
        proof="not-applicable: a rewrite changes the statement, so there is no index for the "
        "planner to try",
        why="refuses an index",
    ),
    speaks(
        "enum as text",
        sa.select(User).where(sa.cast(User.mood, sa.Text) == "sad", User.id > 0),
        about='(mood)::text on "user"',
        fix=[
            "compare mood in its own type, mood, without the cast",
            'CREATE INDEX CONCURRENTLY ix_user_mood ON "user" (mood)',
        ],
        code=".where(User.mood == value)",
        proof="not-applicable: it gains enough only with an index that begins with mood, and there "
        "is none",
        rewritten=sa.select(User).where(User.mood == "sad", User.id > 0),
        why="refuses an index",
    ),
    speaks(
        "concat",
        sa.select(User).where(func.concat(User.first, User.last) == "First7Last7"),
        about='concat(first, last) on "user"',
        fix=[
            "join first and last with || and coalesce() instead of concat()",
            "CREATE INDEX … ON \"user\" ((coalesce(first, '') || coalesce(last, '')))",
        ],
        code='.where((func.coalesce(User.first, "") + func.coalesce(User.last, "")) == value)',
        proof="not-applicable: a rewrite changes the statement, so there is no index for the "
        "planner to try",
        rewritten=sa.select(User).where(
            func.coalesce(User.first, "") + func.coalesce(User.last, "") == "First7Last7"
        ),
        why="refuses an index",
    ),
    speaks(
        "arithmetic on a timestamptz",
        sa.select(User).where(
            User.created_at + sa.text("interval '1 day'") == sa.text("timestamptz '2020-03-01'")
        ),
        about="created_at + '1 day'::interval on \"user\"",
        fix="move the arithmetic to the other side, so that created_at stands alone: "
        "created_at = value - interval",
        code=".where(User.created_at == value - interval)",
        proof="created_at + '1 day'::interval was computed row by row, and created_at alone was "
        "an index condition of ix_user_created_at",
    ),
]

#: What an index that is there, or a partition, serves in another form.
OTHER_FORMS = [
    speaks(
        "a uuid as text",
        sa.text("SELECT id FROM thing WHERE id::varchar = '00000000-0000-0000-0000-000000000007'"),
        setup=THINGS,
        about="((id)::character varying)::text on thing",
        fix="compare id in its own type, uuid, without the cast",
        proof="…id alone was an index condition of thing_pkey",
    ),
    speaks(
        "a uuid as a text that PostgreSQL writes in another way",
        sa.text("SELECT id FROM thing WHERE id::text = '0000000000000000000000000000000a'"),
        setup=THINGS,
        fix="CREATE INDEX CONCURRENTLY … ON thing ((id::text))",
    ),
    speaks(
        "a join of a uuid with a text",
        sa.text("SELECT t.id FROM mark m JOIN thing t ON t.id::text = m.ref WHERE m.id < 9"),
        setup=THINGS,
        about="(id)::text on thing",
        fix="cast mark.ref to uuid instead of id to text",
        code='thing.c.id == case(\n    (mark.c.ref.regexp_match("',
        proof="…id alone was an index condition of thing_pkey",
    ),
    speaks(
        "a join of two uuids as texts",
        sa.text("SELECT t.id FROM link l JOIN thing t ON t.id::text = l.ref::text WHERE l.id < 9"),
        setup=THINGS,
        about="(id)::text on thing",
        fix="compare id with link.ref, and cast neither to text",
        code="thing.c.id == link.c.ref",
        why="Two values of uuid are equal exactly if their texts are.",
        proof="…id alone was an index condition of thing_pkey",
        rewritten=sa.text("SELECT t.id FROM link l JOIN thing t ON t.id = l.ref WHERE l.id < 9"),
    ),
    speaks(
        "a join of two moments as texts",
        sa.text(
            'SELECT u.id FROM shift s JOIN "user" u ON u.created_at::text = s.at::text '
            "WHERE s.id < 9"
        ),
        setup=(
            "CREATE TABLE shift (id int PRIMARY KEY, at timestamptz)",
            'INSERT INTO shift SELECT id, created_at FROM "user" WHERE id <= 2000',
            "ANALYZE shift",
        ),
        about='(created_at)::text on "user"',
        fix="compare created_at with shift.at, and cast neither to text",
        proof="…created_at alone was an index condition of ix_user_created_at",
    ),
    speaks(
        "a path of another spelling than that of the index",
        sa.text("SELECT id FROM thing WHERE data['a']['b'] ->> 'c' = '7'"),
        setup=THINGS,
        about="data['a'::text]['b'::text] ->> 'c'::text on thing",
        fix="write ((data -> 'a'::text) -> 'b'::text) ->> 'c'::text in place of "
        "data['a'::text]['b'::text] ->> 'c'::text, as the index has it",
        proof="…((data -> 'a'::text) -> 'b'::text) ->> 'c'::text alone was an index condition of "
        "thing_path",
    ),
    speaks(
        "a range of the second column of an index",
        sa.text("SELECT id, body FROM message WHERE at::date = '2024-01-07'"),
        setup=MESSAGES,
        about="(at)::date on message",
        fix=[
            "…half-open range…",
            "CREATE INDEX CONCURRENTLY ix_message_at ON message (at)",
        ],
        proof="not-applicable: it gains enough only with an index that begins with at, and there "
        "is none",
        rewritten=sa.text(
            "SELECT id, body FROM message WHERE at >= '2024-01-07' AND at < '2024-01-08'"
        ),
    ),
    speaks(
        "arithmetic on the second column of an index",
        sa.text("SELECT id FROM message WHERE at + interval '30 days' > timestamptz '2024-03-10'"),
        setup=MESSAGES,
        about="at + '30 days'::interval on message",
        fix=[
            "move the arithmetic to the other side…",
            "CREATE INDEX CONCURRENTLY ix_message_at ON message (at)",
        ],
        proof="not-applicable: it gains enough only with an index that begins with at, and there "
        "is none",
        rewritten=sa.text(
            "SELECT id FROM message WHERE at > timestamptz '2024-03-10' - interval '30 days'"
        ),
    ),
    speaks(
        "a range of many rows",
        sa.text("SELECT count(body) FROM message WHERE at::date >= '2024-01-01'"),
        setup=MESSAGES,
        fix="…half-open range…",
        proof="not-applicable: for these values even an index on at saves less than 20% of the "
        "cost | not-applicable: for these values many rows pass, so that an index would not help",
    ),
    speaks(
        "a function on the key of partitions",
        sa.text("SELECT count(*) FROM event WHERE date_trunc('month', at) = '2025-02-01'"),
        setup=EVENTS,
        about="date_trunc('month'::text, at) on event",
        fix="…half-open range…beginning of the month…",
        proof="…at alone left 1 of 3 partitions to read",
    ),
]

#: What is said beside the expression and its index.
DETAILS = [
    speaks(
        "the index on the bare column is named",
        sa.select(User).where(lower_email == "x"),
        problem="user_email_key on the bare column cannot serve it",
        evidence={"indexes_on_column": ["user_email_key"]},
    ),
    speaks(
        "the parent of partitions is named",
        sa.select(Order).where(func.lower(Order.Code) == "c7"),
        about='lower("Order Code") on "Shop"."Order"',
        evidence={
            "scanned": ["Shop.Order 1", "Shop.order_2a"],
            "table_rows": pytest.approx(60_000, rel=0.1),
        },
    ),
    speaks(
        "of partitions, only those that are read count",
        sa.text("""SELECT * FROM "Shop"."Order" WHERE id > 59500 AND lower("Order Code") = 'x'"""),
        problem='reads 1 of the 2 partitions of "Shop"."Order"',
        evidence={"table_rows": pytest.approx(30_000, rel=0.1)},
    ),
    speaks(
        "one partition has an index on it",
        sa.select(Order).where(func.lower(Order.Code) == "c7"),
        setup='CREATE INDEX ON "Shop".order_2a (lower("Order Code"))',
        problem=(
            'reads 1 of the 2 partitions of "Shop"."Order"',
            'no index in "Shop"."Order 1" holds that expression',
        ),
    ),
    speaks(
        "a table without a class",
        sa.select(roles_users).where(func.lower(roles_users.c.label) == "x"),
        about="lower(label) on roles_users",
    ),
    speaks(
        "an index scan that only filters",
        sa.select(User.id).where(User.points > 60_000, lower_email == "x"),
        about='lower((email)::text) on "user"',
    ),
    speaks(
        "a walk along the primary key",
        sa.select(User).where(lower_email == "x").order_by(User.id).limit(10),
        about='lower((email)::text) on "user"',
    ),
    speaks(
        "update",
        sa.update(User).values(first="x").where(lower_email == "nobody"),
        about='lower((email)::text) on "user"',
    ),
    speaks(
        "delete",
        sa.delete(User).where(lower_email == "nobody"),
        about='lower((email)::text) on "user"',
    ),
    speaks(
        "a small table in growth mode",
        sa.select(Badge).where(func.lower(Badge.owner) == "owner7"),
        severity="info",
        fix="CREATE INDEX CONCURRENTLY ix_badge_lower_owner ON badge (lower(owner))",
        PLANWATCH_GROWTH=True,
    ),
    speaks(
        "an invalid index does not count",
        sa.select(User).where(lower_email == "x"),
        setup=(
            'CREATE INDEX broken ON "user" (lower(email))',
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass",
        ),
    ),
    speaks(
        "a parallel scan",
        sa.select(User).where(lower_email == "x"),
        setup=(
            set_for_all("parallel_setup_cost", 0),
            set_for_all("min_parallel_table_scan_size", 0),
        ),
        evidence={"node": "…Parallel…", "table_rows": pytest.approx(100_000, rel=0.05)},
    ),
    speaks(
        "the year of a timestamptz",
        sa.select(User.id).where(sa.extract("year", User.created_at) == 5),
        fix="…half-open range…",
    ),
    speaks(
        "the month of a timestamptz",
        sa.select(User.id).where(sa.extract("month", User.created_at) == 5),
        fix=[
            "name the time zone: ask for EXTRACT(month FROM (created_at AT TIME ZONE '…UTC'))",
            "CREATE INDEX … ((EXTRACT(month FROM (created_at AT TIME ZONE '…UTC'))))",
        ],
        code='.where(extract("month", func.timezone("…UTC", User.created_at)) == value)',
    ),
    speaks(
        "the month of a timestamptz as text",
        sa.select(User.id).where(func.to_char(User.created_at, "MM") == "05"),
        fix="look for a condition on created_at alone that means the same",
    ),
    speaks(
        "year, month and day of a timestamptz",
        sa.select(User.id).where(
            sa.extract("year", User.created_at) == 2020,
            sa.extract("month", User.created_at) == 3,
            sa.extract("day", User.created_at) == 1,
        ),
        about='EXTRACT(year FROM created_at) on "user"',
        fix="…half-open range: created_at >= start AND created_at < end; start is the beginning "
        "of the day that is compared with, end that of the next",
        proof="…created_at alone was an index condition of ix_user_created_at",
    ),
    speaks(
        "a date in a time zone whose days may begin twice",
        sa.select(User.id).where(
            sa.cast(func.timezone("Europe/Oslo", User.created_at), sa.Date)
            == sa.text("date '2020-03-01'")
        ),
        fix="compare created_at with a range, too, beside the condition: created_at >= start - 1 "
        "day AND created_at < end + 1 day; start is the beginning of the day that is compared "
        "with, end that of the next, both in UTC",
        code=".where(User.created_at >= start - timedelta(days=1), "
        "User.created_at < end + timedelta(days=1), condition)",
        why="The range is a day wider on each side, so that no time zone",
    ),
    speaks(
        "seconds since 1970",
        sa.select(User.id).where(
            sa.extract("epoch", User.created_at).between(1583020800, 1583024400)
        ),
        fix="compare created_at with a moment instead of a number of seconds: created_at >= "
        "to_timestamp(value) AND created_at <= to_timestamp(value)",
        code="User.created_at >= datetime.fromtimestamp(value, UTC)",
        proof="…created_at alone was an index condition of ix_user_created_at",
    ),
    speaks(
        "the time since a timestamptz",
        sa.select(User.id).where(
            sa.text("timestamptz '2020-03-01' - created_at = interval '1 day'")
        ),
        fix="move the arithmetic to the other side, so that created_at stands alone: created_at "
        "= moment - value",
        proof="…created_at alone was an index condition of ix_user_created_at",
    ),
    speaks(
        "NULL stands for now",
        sa.select(User.id).where(
            func.coalesce(User.created_at, func.now()) == sa.text("timestamptz '2020-03-01'")
        ),
        fix="test created_at and NULL separately: created_at = value OR (created_at IS NULL AND "
        "now() = value)",
        code=".where(or_(User.created_at == value, and_(User.created_at.is_(None), func.now() == "
        "value)))",
        proof="…created_at alone was an index condition of ix_user_created_at",
    ),
    speaks(
        "the month in which a timestamptz is",
        sa.select(User.id).where(
            func.date_trunc("month", User.created_at) == sa.text("'2020-05-01'")
        ),
        fix="…half-open range…",
    ),
]

small = sa.select(Badge).where(func.lower(Badge.owner) == "owner7")

#: An index is there, whether it is used or not.
SILENT_WITH_AN_INDEX = [
    silent(
        "a small table in growth mode",
        small,
        setup=("CREATE INDEX ON badge (lower(owner))",),
        PLANWATCH_GROWTH=True,
    ),
    silent(
        "a partial index in growth mode",
        small.where(sa.text("id > 0")),
        setup=("CREATE INDEX ON badge (lower(owner)) WHERE id > 0",),
        PLANWATCH_GROWTH=True,
    ),
    silent(
        # One of the two is used and the other stays a Filter, in the forced plan as well.
        "an index for each expression in growth mode",
        small.where(func.upper(Badge.owner) == "OWNER7"),
        setup=("CREATE INDEX ON badge (lower(owner))", "CREATE INDEX ON badge (upper(owner))"),
        PLANWATCH_GROWTH=True,
    ),
    silent(
        "a join to a quoted key",
        sa.text('SELECT 1 FROM "user" u JOIN code c ON c."Key" = lower(u.first)'),
        setup=(
            'CREATE TABLE code ("Key" text PRIMARY KEY)',
            "INSERT INTO code SELECT 'first' || g FROM generate_series(1, 50) g",
            "ANALYZE code",
        ),
    ),
    silent(
        "the index on another expression was preferred",
        sa.select(User).where(func.lower(User.first) == "x", func.lower(User.last) == "y"),
        setup=(
            'CREATE INDEX a ON "user" (lower(first))',
            'CREATE INDEX b ON "user" (lower(last))',
            "ANALYZE",
        ),
    ),
]

SILENT = [
    silent(
        "bare column",
        sa.select(User).where(User.email == "User7@Example.com"),
    ),
    silent(
        "relabelling cast",
        sa.select(User).where(sa.cast(User.email, sa.Text) == "User7@Example.com"),
    ),
    silent(
        "collation",
        sa.select(User).where(sa.collate(User.email, "C") == "User7@Example.com"),
    ),
    silent(
        "pattern",
        sa.select(User).where(lower_email.like("user7%")),
        beside="pattern-match",
    ),
    silent(
        "unequal",
        sa.select(User).where(lower_email != "x"),
    ),
    silent(
        "json containment",
        sa.select(User).where(User.data.contains({"type": "T7"})),
        beside="pattern-match",
    ),
    silent(
        "alternatives",
        sa.select(User).where(sa.or_(lower_email == "x", User.first == "y")),
    ),
    silent(
        "few rows found by another index",
        sa.select(User).where(User.id == 7, lower_email == "x"),
    ),
    silent(
        "most of the table returned",
        sa.select(User.id).where(func.lower(User.state) == "active"),
    ),
    silent(
        "limit reached early",
        sa.select(User.id).where(func.lower(User.state) == "active").limit(3),
    ),
    silent(
        "small table",
        sa.select(Badge).where(func.lower(Badge.owner) == "owner7"),
    ),
    silent(
        "join of everything",
        sa.select(sa.func.count())
        .select_from(User)
        .join(Other, func.lower(User.first) == func.lower(Other.first)),
    ),
    silent(
        "join to a column with an index",
        sa.select(User.id).join(Badge, User.points == func.length(Badge.owner)),
    ),
    silent(
        "select list",
        sa.select(lower_email).where(User.id == 7),
    ),
    silent(
        "order by",
        sa.select(User.id).order_by(lower_email).limit(5),
        beside="missing-index",
    ),
    silent(
        "aggregate in having",
        sa.select(User.state).group_by(User.state).having(func.sum(User.points) > 100),
    ),
    silent(
        "outer join that keeps every row",
        sa.select(User.id, Badge.id).outerjoin(
            Badge, func.lower(User.first) == func.lower(Badge.owner)
        ),
    ),
    silent(
        "full join",
        sa.select(User.id, Badge.id).join(
            Badge, func.lower(User.first) == func.lower(Badge.owner), full=True
        ),
    ),
    silent(
        "anti join",
        sa.select(User.id).where(~sa.exists().where(func.lower(User.first) == Badge.owner)),
    ),
    silent(
        "most rows counted",
        sa.select(sa.func.count()).where(func.lower(User.state) == "active"),
    ),
    silent(
        "most rows updated",
        sa.update(User)
        .values(last="x")
        .where(func.lower(User.state) == "active")
        .returning(User.id),
    ),
    silent(
        "sample",
        sa.text("SELECT id FROM \"user\" TABLESAMPLE SYSTEM (50) WHERE lower(email) = 'x'"),
    ),
    silent(
        "sub-query inside",
        sa.text('SELECT id FROM "user" WHERE points * (SELECT max(id) FROM badge) = 77'),
    ),
    silent(
        "system column",
        sa.text("SELECT id FROM \"user\" WHERE tableoid::text = 'x'"),
    ),
    silent(
        "catalog of attributes",
        sa.text("SELECT attname FROM pg_attribute WHERE lower(attname::text) = 'x'"),
    ),
    silent(
        "catalog",
        sa.text("SELECT relname FROM pg_class WHERE upper(relname::text) = 'X'"),
    ),
    silent(
        "function of no column",
        sa.select(User).where(User.email == func.lower("X")),
    ),
    silent(
        "volatile on the other side",
        sa.select(User.id).where(User.id == func.length("abc")),
    ),
]


@rows(SPEAKS, quick=10)
def test_speaks(rule, case):
    rule.check(case)


@rows(followed(SPEAKS), quick=3)
def test_falls_silent_after_the_fix(rule, case):
    rule.check_fix(case)


@rows(followed(OTHER_FORMS), quick=3)
def test_falls_silent_in_another_form(rule, case):
    rule.check_fix(case)


@rows(OTHER_FORMS, quick=3)
def test_speaks_of_another_form(rule, case):
    rule.check(case)


@rows(DETAILS, quick=11)
def test_speaks_in_detail(rule, case):
    rule.check(case)


@rows(SILENT_WITH_AN_INDEX, quick=4)
def test_stays_silent_where_an_index_serves(rule, case):
    rule.check(case)


@rows(SILENT, quick=6)
def test_stays_silent(rule, case):
    rule.check(case)


def test_a_table_named_like_a_command(rule, caplog):
    statement = sa.text("SELECT 1 FROM \"user\" call WHERE call.data ->> 'type' = 's3cr3t'")
    (finding,) = rule.ask(rule.app(), statement)
    assert finding.subject == "data ->> 'type'::text"
    assert "s3cr3t" not in caplog.text
    assert {record.name for record in caplog.records} == {"flask_planwatch"}


def test_a_cheap_plan_with_other_values_does_not_resolve(rule):
    """With a rare state the other index leaves few rows; the problem with a common one stays."""
    database = rule.copy()
    database.execute('CREATE INDEX ON "user" (state)')
    app = rule.app(database)
    for state in ("Active", "Nothing", "Active"):
        statement = sa.select(User).where(User.state == state, func.lower(User.first) == "x")
        assert len(rule.ask(app, statement)) == 1


def test_two_lines_with_a_key_each_are_two_findings(rule):
    app = rule.app()
    with app.app.app_context():
        for _ in range(2):
            app.db.session.execute(sa.select(User.id).where(User.data["type"].astext == "T7"))
            app.db.session.execute(sa.select(User.id).where(User.data["n"].astext == "7"))
        app.db.session.rollback()
    subjects = {finding.subject for finding in app.findings()}
    assert subjects == {"data ->> 'type'::text", "data ->> 'n'::text"}


START, END = "timestamptz '2020-03-01 00:00'", "timestamptz '2020-03-02 00:00'"


@pytest.mark.slow
@pytest.mark.parametrize("turned", [False, True], ids=["as written", "sides exchanged"])
@pytest.mark.parametrize("operator", ["=", "<", "<=", ">", ">="])
def test_the_range_that_is_advised_finds_the_same_rows(rule, operator, turned):
    """What the advice says is run beside the original."""
    turn = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
    written = f"date '2020-03-01' {turn.get(operator, operator)} created_at::date"
    if not turned:
        written = f"created_at::date {operator} date '2020-03-01'"
    count = 'SELECT count(*) FROM "user" WHERE '
    (finding,) = rule.ask(rule.app(), sa.text(count + written))
    rewritten = finding.advice[0].summary.partition("range: ")[2].partition(";")[0]
    rewritten = re.sub(r"\bstart\b", START, re.sub(r"\bend\b", END, rewritten))
    assert rule.database.scalar(count + rewritten) == rule.database.scalar(count + written)


def test_an_ignored_finding_builds_no_index(rule):
    app = rule.app(PLANWATCH_VERIFY="build", PLANWATCH_IGNORE=["functional-predicate"])
    count = "SELECT analyze_count FROM pg_stat_user_tables WHERE relname = 'user'"
    before = rule.database.scalar(count)
    assert rule.ask(app, sa.select(User).where(lower_email == "x")) == []
    assert rule.database.scalar(count) == before


def test_values_that_fold_the_predicate_away_do_not_resolve(rule):
    app = rule.app()
    text = 'SELECT id FROM "user" WHERE (:a OR lower(email) = :x) AND id > :n'
    statement = sa.text(text).bindparams(x="nobody")
    rule.ask(app, statement.bindparams(a=False, n=0))
    kept = [finding.id for finding in app.findings()]
    rule.ask(app, statement.bindparams(a=True, n=99_990))
    assert [finding.id for finding in app.findings()] == kept


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("' x7'", "create an index on first || ?::text, with your SQL's value for ?"),
        (":value", "store what is looked up in first in a column of its own: an index on the"),
    ],
)
def test_a_value_of_the_sql_text_is_told_from_a_parameter(rule, value, said):
    """An index serves the first for good, and the second for one value only."""
    statement = sa.text(f"""SELECT id FROM "user" WHERE first || {value} = 'Anna x7'""")
    if value == ":value":
        statement = statement.bindparams(value=" x8")
    (finding,) = rule.ask(rule.app(), statement)
    assert finding.advice[0].summary.startswith(said)
    assert "x7" not in str(finding.advice)
