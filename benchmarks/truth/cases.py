"""Statements as applications send them, with their data: most have a fault, some have none.

The faults are those that people have reported of web applications. Where a better form exists, it
is the statement's twin.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from .statement import Case, Data

_MOMENT = datetime(2025, 3, 10, 22, tzinfo=UTC)
_DAY = timedelta(days=1)

_LIBRARY = Data(
    "library",
    (
        "CREATE TABLE book (id int PRIMARY KEY, title text NOT NULL, pages int NOT NULL)",
        "CREATE TABLE loan (id int PRIMARY KEY, book_id int NOT NULL, branch_id int NOT NULL)",
        "CREATE TABLE repair (id int PRIMARY KEY, book_id int NOT NULL, binder_id int NOT NULL)",
        "INSERT INTO book SELECT n, 'Book ' || md5(n::text), 80 + n % 900 "
        "FROM generate_series(1, @250000) n",
        "INSERT INTO loan SELECT n, 1 + (n::bigint * 7907) % @250000, 1 + n % 15000 "
        "FROM generate_series(1, @300000) n",
        "INSERT INTO repair SELECT n, 1 + (n::bigint * 104723) % @250000, 1 + n % 8000 "
        "FROM generate_series(1, @80000) n",
        "CREATE INDEX ON loan (book_id)",
        "CREATE INDEX ON loan (branch_id)",
        "CREATE INDEX ON repair (book_id)",
        "CREATE INDEX ON repair (binder_id)",
    ),
    (
        Case(
            "alternatives in two joined tables",
            """
            SELECT DISTINCT book.id, book.title, book.pages
            FROM book
            LEFT JOIN loan ON loan.book_id = book.id
            LEFT JOIN repair ON repair.book_id = book.id
            WHERE loan.branch_id IN (:b1, :b2, :b3) OR repair.binder_id IN (:r1, :r2)
            """,
            {"b1": 18, "b2": 4021, "b3": 11999, "r1": 77, "r2": 6001},
            """
            SELECT book.id, book.title, book.pages
            FROM book
            WHERE book.id IN (
                SELECT book_id FROM loan WHERE branch_id IN (:b1, :b2, :b3)
                UNION
                SELECT book_id FROM repair WHERE binder_id IN (:r1, :r2)
            )
            """,
        ),
        Case(
            "alternatives in two sub-queries",
            """
            SELECT book.id, book.title
            FROM book
            WHERE EXISTS (
                    SELECT 1 FROM loan WHERE loan.book_id = book.id AND loan.branch_id = :branch
                )
                OR EXISTS (
                    SELECT 1 FROM repair
                    WHERE repair.book_id = book.id AND repair.binder_id = :binder
                )
            """,
            {"branch": 4021, "binder": 77},
        ),
    ),
)

_PAGES = Data(
    "pages of a list",
    (
        "CREATE TABLE alert (id int PRIMARY KEY, at timestamp NOT NULL, zone int NOT NULL, "
        "text text NOT NULL)",
        "INSERT INTO alert SELECT n, timestamp '2025-01-01' + (n / 5) * interval '1 minute', "
        "CASE WHEN n % 10 < 7 THEN 4 ELSE n % 60 END, md5(n::text) "
        "FROM generate_series(1, @300000) n",
        "CREATE INDEX ON alert (at, id)",
        "CREATE INDEX ON alert (zone, id)",
        "CREATE TABLE firm (id int PRIMARY KEY, turnover int, town int NOT NULL, "
        "about text NOT NULL)",
        "INSERT INTO firm SELECT n, CASE WHEN n % 6 > 0 THEN (n::bigint * 7907) % 1000033 END, "
        "n % 35, repeat(md5(n::text), 6) FROM generate_series(1, @200000) n",
        "CREATE INDEX ON firm (turnover)",
    ),
    (
        Case(
            "next page by alternatives",
            """
            SELECT id, at, text FROM alert
            WHERE at > :at OR (at = :at AND id > :id)
            ORDER BY at, id LIMIT 40
            """,
            {"at": datetime(2025, 1, 25), "id": 172_802},
            """
            SELECT id, at, text FROM alert WHERE (at, id) > (:at, :id) ORDER BY at, id LIMIT 40
            """,
        ),
        Case(
            "a page far behind, with a condition",
            "SELECT * FROM alert WHERE zone = :zone ORDER BY id LIMIT 50 OFFSET :skipped",
            {"zone": 4, "skipped": 150_000},
        ),
        Case(
            "a page far behind, by the key",
            "SELECT * FROM alert ORDER BY id LIMIT 50 OFFSET :skipped",
            {"skipped": 250_000},
        ),
        Case(
            "the last ones with none last",
            "SELECT * FROM firm ORDER BY turnover DESC NULLS LAST LIMIT 60",
        ),
        Case(
            "two directions of order",
            "SELECT * FROM firm ORDER BY town, turnover DESC LIMIT 60",
        ),
    ),
)

_COUNTS = Data(
    "counts",
    (
        "CREATE TABLE sign_in (id int PRIMARY KEY, person_id int NOT NULL, at timestamp NOT NULL, "
        "device text NOT NULL)",
        "INSERT INTO sign_in SELECT n, (n::bigint * 7907) % 40000, "
        "timestamp '2025-01-01' + n * interval '9 seconds', md5(n::text) "
        "FROM generate_series(1, @300000) n",
        "CREATE INDEX ON sign_in (person_id)",
        "CREATE TABLE writer (id int PRIMARY KEY, name text NOT NULL, life text NOT NULL)",
        "INSERT INTO writer SELECT n, 'Writer ' || n, repeat(md5(n::text), 6) "
        "FROM generate_series(1, @40000) n",
        "CREATE TABLE essay (id int PRIMARY KEY, writer_id int NOT NULL, year int NOT NULL)",
        "INSERT INTO essay SELECT n, 1 + (n::bigint * 7907) % @40000, 1985 + n % 40 "
        "FROM generate_series(1, @160000) n",
        "CREATE INDEX ON essay (writer_id)",
    ),
    (
        Case(
            "a count with a filter",
            "SELECT count(*) FILTER (WHERE person_id = :person) FROM sign_in",
            {"person": 3112},
            "SELECT count(*) FROM sign_in WHERE person_id = :person",
        ),
        Case(
            "a sum of cases",
            "SELECT sum(CASE WHEN person_id = :person THEN 1 ELSE 0 END) FROM sign_in",
            {"person": 3112},
        ),
        Case(
            "a count of distinct wide rows",
            """
            SELECT count(*) FROM (
                SELECT DISTINCT writer.* FROM writer
                JOIN essay ON essay.writer_id = writer.id
                WHERE essay.year >= :year
            ) AS found
            """,
            {"year": 1999},
            """
            SELECT count(*) FROM writer
            WHERE EXISTS (
                SELECT 1 FROM essay WHERE essay.writer_id = writer.id AND essay.year >= :year
            )
            """,
        ),
    ),
)

_CLUB = Data(
    "club",
    (
        "CREATE TABLE club (id int PRIMARY KEY, name text NOT NULL)",
        "CREATE TABLE squad (id int PRIMARY KEY, club_id int NOT NULL)",
        "CREATE TABLE player (id int PRIMARY KEY, club_id int NOT NULL)",
        "CREATE TABLE game (id int PRIMARY KEY, squad_id int NOT NULL)",
        "INSERT INTO club SELECT n, 'Club ' || n FROM generate_series(1, @250) n",
        "INSERT INTO squad SELECT n, 1 + n % @250 FROM generate_series(1, @2500) n",
        "INSERT INTO player SELECT n, 1 + (n * 31) % @250 FROM generate_series(1, @10000) n",
        "INSERT INTO game SELECT n, 1 + n % @2500 FROM generate_series(1, @12000) n",
        "CREATE INDEX ON squad (club_id)",
        "CREATE INDEX ON player (club_id)",
        "CREATE INDEX ON game (squad_id)",
    ),
    (
        Case(
            "counts over joins that multiply",
            """
            SELECT club.id, club.name, count(DISTINCT squad.id) AS squads,
                count(DISTINCT player.id) AS players, count(DISTINCT game.id) AS games
            FROM club
            LEFT JOIN squad ON squad.club_id = club.id
            LEFT JOIN player ON player.club_id = club.id
            LEFT JOIN game ON game.squad_id = squad.id
            GROUP BY club.id ORDER BY club.id
            """,
            {},
            """
            SELECT club.id, club.name,
                (SELECT count(*) FROM squad WHERE squad.club_id = club.id) AS squads,
                (SELECT count(*) FROM player WHERE player.club_id = club.id) AS players,
                (
                    SELECT count(*) FROM game JOIN squad ON squad.id = game.squad_id
                    WHERE squad.club_id = club.id
                ) AS games
            FROM club ORDER BY club.id
            """,
        ),
        Case(
            "three collections in one join",
            """
            SELECT squad.id, player.id AS player_id, game.id AS game_id
            FROM club
            LEFT JOIN squad ON squad.club_id = club.id
            LEFT JOIN player ON player.club_id = club.id
            LEFT JOIN game ON game.squad_id = squad.id
            WHERE club.id = :club
            """,
            {"club": 77},
        ),
    ),
)

_METERS = Data(
    "latest of each",
    (
        "CREATE TABLE meter (id int PRIMARY KEY, place text NOT NULL)",
        "CREATE TABLE reading (id int PRIMARY KEY, meter_id int NOT NULL, kind text NOT NULL, "
        "at timestamp NOT NULL, value float NOT NULL)",
        "INSERT INTO meter SELECT n, 'cellar ' || n FROM generate_series(1, 30) n",
        "INSERT INTO reading SELECT n, 1 + n % 30, CASE WHEN n % 3 = 0 THEN 'gas' ELSE 'power' END,"
        " timestamp '2025-01-01' + n * interval '13 seconds', n % 97 "
        "FROM generate_series(1, @300000) n",
        "CREATE INDEX ON reading (meter_id, kind, at)",
    ),
    (
        Case(
            "latest by DISTINCT ON",
            """
            SELECT DISTINCT ON (meter_id) id, meter_id, at, value FROM reading
            WHERE kind = :kind
            ORDER BY meter_id, at DESC
            """,
            {"kind": "power"},
            """
            SELECT latest.* FROM meter
            JOIN LATERAL (
                SELECT id, meter_id, at, value FROM reading
                WHERE meter_id = meter.id AND kind = :kind ORDER BY at DESC LIMIT 1
            ) AS latest ON true
            """,
        ),
        Case(
            "latest by a window",
            """
            SELECT reading.id, reading.value FROM reading
            JOIN (
                SELECT id, row_number() OVER (PARTITION BY meter_id ORDER BY at DESC) AS place
                FROM reading WHERE kind = :kind
            ) AS ranked ON ranked.id = reading.id AND ranked.place = 1
            """,
            {"kind": "power"},
        ),
        Case(
            "latest by a maximum",
            """
            SELECT reading.id, reading.value FROM reading
            JOIN (
                SELECT meter_id, max(at) AS at FROM reading WHERE kind = :kind GROUP BY meter_id
            ) AS latest ON latest.meter_id = reading.meter_id AND latest.at = reading.at
            WHERE reading.kind = :kind
            """,
            {"kind": "power"},
        ),
        Case(
            "two thirds of a table",
            "SELECT sum(value) FROM reading WHERE kind = :kind",
            {"kind": "power"},
            sound=True,
        ),
    ),
)

_QUEUE = Data(
    "queue",
    (
        "CREATE TABLE task (id int PRIMARY KEY, state text NOT NULL, weight int NOT NULL, "
        "due timestamp NOT NULL, seen timestamp, body text NOT NULL)",
        "INSERT INTO task SELECT n, CASE WHEN n % 4000 = 0 THEN 'taken' ELSE 'waiting' END, "
        "(n::bigint * 7907) % 10, timestamp '2025-01-01' + n * interval '1 second', "
        "CASE WHEN n % 4000 = 0 THEN timestamp '2025-06-01' + n * interval '1 second' END, "
        "md5(n::text) FROM generate_series(1, @200000) n",
        "CREATE INDEX ON task (weight DESC, id) WHERE state = 'waiting'",
        "CREATE INDEX ON task (seen) WHERE state = 'taken'",
    ),
    (
        Case(
            "next of a queue, waiting or lost",
            """
            SELECT * FROM task
            WHERE (state = 'waiting' AND due < :now) OR (state = 'taken' AND seen < :lost)
            ORDER BY weight DESC, id LIMIT 10 FOR UPDATE SKIP LOCKED
            """,
            {"now": datetime(2025, 7, 1), "lost": datetime(2025, 6, 2)},
            """
            SELECT * FROM task WHERE state = 'waiting' AND due < :now
            ORDER BY weight DESC, id LIMIT 10 FOR UPDATE SKIP LOCKED
            """,
            same_rows=False,
        ),
    ),
)

_JOBS = Data(
    "missing ends",
    (
        "CREATE TABLE job (id int PRIMARY KEY, name text NOT NULL, ended timestamptz, "
        "due timestamptz NOT NULL)",
        "INSERT INTO job SELECT n, md5(n::text), "
        "CASE WHEN n % 4000 > 0 THEN timestamptz '2024-06-01 UTC' + n * interval '1 minute' END, "
        "timestamptz '2024-06-01 UTC' + n * interval '1 minute' "
        "FROM generate_series(1, @300000) n",
        "CREATE INDEX ON job (ended)",
    ),
    (
        Case(
            "an end that is now",
            "SELECT * FROM job WHERE coalesce(ended, now()) >= :since",
            {"since": datetime(2024, 12, 20, tzinfo=UTC)},
            "SELECT * FROM job WHERE ended >= :since OR (ended IS NULL AND now() >= :since)",
        ),
        Case(
            "an end that is another column",
            """
            SELECT * FROM job WHERE coalesce(ended, due) >= :since
            ORDER BY coalesce(ended, due) LIMIT 150
            """,
            {"since": datetime(2024, 11, 20, tzinfo=UTC)},
        ),
    ),
)

_REFERENCES = Data(
    "references as text",
    (
        "CREATE TABLE dish (id uuid PRIMARY KEY, title text NOT NULL)",
        "INSERT INTO dish SELECT md5(n::text)::uuid, 'Dish ' || n "
        "FROM generate_series(1, @200000) n",
        "CREATE TABLE mark (id int PRIMARY KEY, reader_id int NOT NULL, target text NOT NULL)",
        "INSERT INTO mark SELECT n, n % 15000, (md5((1 + n % @200000)::text)::uuid)::text "
        "FROM generate_series(1, @150000) n",
        "CREATE INDEX ON mark (reader_id)",
    ),
    (
        Case(
            "a key as text in a join",
            """
            SELECT dish.title, mark.id FROM dish
            JOIN mark ON mark.target = CAST(dish.id AS text) WHERE mark.reader_id = :reader
            """,
            {"reader": 71},
            """
            SELECT dish.title, mark.id FROM dish
            JOIN mark ON CAST(mark.target AS uuid) = dish.id WHERE mark.reader_id = :reader
            """,
        ),
        Case(
            "a key as text in a condition",
            "SELECT * FROM dish WHERE CAST(id AS text) = :id",
            {"id": "c4ca4238-a0b9-2382-0dcc-509a6f75849b"},
            "SELECT * FROM dish WHERE id = CAST(:id AS uuid)",
        ),
    ),
)

_VILLAGES = Data(
    "search in names",
    (
        "CREATE EXTENSION unaccent",
        "CREATE EXTENSION pg_trgm",
        "CREATE FUNCTION plain(text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT "
        "AS $$ SELECT public.unaccent('public.unaccent', $1) $$",
        "CREATE TABLE village (id int PRIMARY KEY, name text NOT NULL, county text NOT NULL)",
        "INSERT INTO village SELECT n, initcap(md5(n::text)) || ' Øvre Å' || n, "
        "'County ' || (n::bigint * 7907) % 2500 FROM generate_series(1, @80000) n",
        "CREATE INDEX ON village USING gin (plain(name) gin_trgm_ops)",
    ),
    (
        Case(
            "a search in another case than the index",
            "SELECT * FROM village WHERE upper(plain(name)) LIKE upper(plain(:part))",
            {"part": "%å4711%"},
            "SELECT * FROM village WHERE plain(name) ILIKE plain(:part)",
        ),
        Case(
            "a search by a function that may change",
            "SELECT * FROM village WHERE unaccent(name) ILIKE unaccent(:part)",
            {"part": "%å4711%"},
        ),
        Case(
            "a count of a search inside texts",
            "SELECT count(*) FROM village WHERE county ILIKE :part",
            {"part": "%nty 77%"},
        ),
    ),
)

_NOTES = Data(
    "deletions",
    (
        "CREATE TABLE note (id int PRIMARY KEY, "
        "shared_id int REFERENCES note ON DELETE SET NULL, text text NOT NULL)",
        "CREATE TABLE badge (kind int, note_id int REFERENCES note ON DELETE CASCADE, "
        "PRIMARY KEY (kind, note_id))",
        "INSERT INTO note SELECT n, CASE WHEN n % 5 = 0 THEN n - 1 END, md5(n::text) "
        "FROM generate_series(1, @200000) n",
        "INSERT INTO badge SELECT k, n * 3 "
        "FROM generate_series(1, @40000) n, generate_series(1, 5) k",
    ),
    (
        Case(
            "a deletion that searches for references",
            "DELETE FROM note WHERE id = :id",
            {"id": 1234},
        ),
        Case(
            "a deletion of a leaf",
            "DELETE FROM badge WHERE kind = 3 AND note_id = :id",
            {"id": 9},
            sound=True,
        ),
    ),
)

_DEVICES = Data(
    "documents",
    (
        "CREATE TABLE device (id int PRIMARY KEY, facts jsonb NOT NULL)",
        "INSERT INTO device SELECT n, jsonb_build_object('net', "
        "jsonb_build_object('mac', md5(n::text)), 'load', n % 4000, 'on', n % 2) "
        "FROM generate_series(1, @200000) n",
        "CREATE INDEX ON device ((facts -> 'net' ->> 'mac'))",
        "CREATE INDEX ON device (((facts ->> 'load')::int))",
    ),
    (
        Case(
            "a member by subscripts",
            "SELECT * FROM device WHERE facts['net'] ->> 'mac' = :mac",
            {"mac": "c4ca4238a0b923820dcc509a6f75849b"},
            "SELECT * FROM device WHERE facts -> 'net' ->> 'mac' = :mac",
        ),
        Case(
            "a member as a number",
            "SELECT * FROM device WHERE CAST(facts ->> 'load' AS integer) = :load",
            {"load": 42},
            sound=True,
        ),
        Case(
            "a member as another number",
            "SELECT * FROM device WHERE CAST(facts ->> 'load' AS bigint) = :load",
            {"load": 42},
            "SELECT * FROM device WHERE CAST(facts ->> 'load' AS integer) = :load",
        ),
    ),
)

_IMPORT = Data(
    "import",
    (
        "CREATE TABLE person (tree int, number int, surname text NOT NULL, "
        "PRIMARY KEY (tree, number)) WITH (autovacuum_enabled = off)",
        "CREATE TABLE event (tree int, number int, person int NOT NULL, kind int NOT NULL, "
        "PRIMARY KEY (tree, number)) WITH (autovacuum_enabled = off)",
        "INSERT INTO person SELECT 1 + n % 40, n, md5(n::text) FROM generate_series(1, @200000) n",
        "INSERT INTO event SELECT 1 + n % 40, n, n, n % 9 FROM generate_series(1, @200000) n",
    ),
    (
        Case(
            "a tenant that the statistics do not know",
            """
            SELECT count(*) FROM person
            JOIN event ON event.tree = person.tree AND event.person = person.number
            WHERE person.tree = :tree AND event.tree = :tree AND event.kind = :kind
            """,
            {"tree": 77, "kind": 3},
        ),
    ),
    (
        "INSERT INTO person SELECT 77, n, md5(n::text) FROM generate_series(1, @700) n",
        "INSERT INTO event SELECT 77, n, 1 + n % @700, n % 4 FROM generate_series(1, @1400) n",
    ),
)

_VISITS = Data(
    "partitions",
    (
        "CREATE TABLE visit (id int, at timestamp, guest int NOT NULL, path text NOT NULL, "
        "PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
        *(
            f"CREATE TABLE visit_{month:02} PARTITION OF visit FOR VALUES "
            f"FROM ('2025-{month:02}-01') TO ('{2025 + month // 12}-{month % 12 + 1:02}-01')"
            for month in range(1, 13)
        ),
        "CREATE INDEX ON visit (guest)",
        "INSERT INTO visit SELECT n, timestamp '2025-01-01' + "
        "(n::float / @300000) * interval '364 days', n % 15000, '/page/' || n % 600 "
        "FROM generate_series(1, @300000) n",
    ),
    (
        Case(
            "a function of the partition key",
            "SELECT count(*) FROM visit WHERE date_trunc('month', at) = :month",
            {"month": datetime(2025, 6, 1)},
            """
            SELECT count(*) FROM visit
            WHERE at >= :month AND at < CAST(:month AS timestamp) + interval '1 month'
            """,
        ),
        Case(
            "no condition on the partition key",
            "SELECT * FROM visit WHERE id = :id",
            {"id": 15_123},
        ),
    ),
)

_LINKS = Data(
    "guesses",
    (
        "CREATE TABLE link (id int PRIMARY KEY, source int NOT NULL, target int NOT NULL, "
        "kind text NOT NULL, via text NOT NULL)",
        "INSERT INTO link SELECT n, n % 5000, (n::bigint * 7907) % 5000, 'k' || 100 + n % 400, "
        "'k' || 100 + n % 400 || '-via' FROM generate_series(1, @200000) n",
        "CREATE INDEX ON link (source)",
        "CREATE INDEX ON link (target)",
    ),
    (
        Case(
            "conditions that say the same",
            """
            WITH near AS (
                SELECT target FROM link
                WHERE kind IN (:k1, :k2, :k3) AND left(via, 4) IN (:k1, :k2, :k3)
                    AND length(kind) = 4 AND length(via) = 8
            )
            SELECT count(*) FROM near JOIN near AS again ON near.target + 1 = again.target
            """,
            {"k1": "k101", "k2": "k102", "k3": "k103"},
        ),
    ),
)


def _moment(name: str, condition: str) -> Case:
    return Case(
        f"a moment by its {name}",
        f"SELECT * FROM edit WHERE {condition}",
        {
            "day": date(2025, 3, 11),
            "start": _MOMENT,
            "end": _MOMENT + _DAY,
            "since": _MOMENT + 180 * _DAY,
            "first": _MOMENT.timestamp(),
            "last": (_MOMENT + _DAY).timestamp(),
        },
        "SELECT * FROM edit WHERE at >= :start AND at < :end",
        same_rows=False,
    )


_MOMENTS = Data(
    "moments",
    (
        "CREATE TABLE edit (id int PRIMARY KEY, at timestamptz NOT NULL, text text NOT NULL)",
        "INSERT INTO edit SELECT n, timestamptz '2025-01-01 UTC' + "
        "(n::float / @300000) * interval '250 days', md5(n::text) "
        "FROM generate_series(1, @300000) n",
        "CREATE INDEX ON edit (at)",
    ),
    (
        _moment("date", "CAST(at AS date) = :day"),
        _moment("date in a zone", "CAST(timezone('Europe/Oslo', at) AS date) = :day"),
        _moment("day in a zone", "date_trunc('day', at, 'Europe/Oslo') = :start"),
        _moment("seconds", "extract(epoch FROM at) BETWEEN :first AND :last"),
        _moment("age", "CAST(:since AS timestamptz) - at < interval '1 day'"),
        _moment(
            "parts",
            "extract(year FROM at) = 2025 AND extract(month FROM at) = 3 "
            "AND extract(day FROM at) = 11",
        ),
    ),
)

_VOUCHERS = Data(
    "what is not there",
    (
        "CREATE TABLE voucher (id int PRIMARY KEY, label text NOT NULL)",
        "CREATE TABLE redemption (id int PRIMARY KEY, voucher_id int NOT NULL)",
        "INSERT INTO voucher SELECT n, md5(n::text) FROM generate_series(1, @220000) n",
        "INSERT INTO redemption SELECT n, 500 + n FROM generate_series(1, @200000) n",
        "CREATE INDEX ON redemption (voucher_id)",
    ),
    (
        Case(
            "NOT IN a large set",
            """
            SELECT * FROM voucher WHERE id NOT IN (SELECT voucher_id FROM redemption)
            ORDER BY id LIMIT 20
            """,
            {},
            """
            SELECT * FROM voucher
            WHERE NOT EXISTS (SELECT 1 FROM redemption WHERE voucher_id = voucher.id)
            ORDER BY id LIMIT 20
            """,
        ),
    ),
)

_PROJECTS = Data(
    "projects",
    (
        "CREATE TABLE work (id int PRIMARY KEY, project_id int NOT NULL, type_id int NOT NULL, "
        "name text NOT NULL)",
        "INSERT INTO work SELECT n, 1 + n % 6, 1 + (n * 17 + n / 13) % 13, repeat('w', 180) "
        "FROM generate_series(1, @100000) n",
        "CREATE INDEX ON work (project_id)",
        "CREATE INDEX ON work (type_id)",
        "CREATE TABLE watcher (id int PRIMARY KEY, person_id int NOT NULL, work_id int NOT NULL)",
        "INSERT INTO watcher SELECT n, 1 + n % 50, 1 + (n * 7907) % @100000 "
        "FROM generate_series(1, @3000) n",
        "CREATE INDEX ON watcher (person_id)",
        "CREATE INDEX ON watcher (work_id)",
        "CREATE TABLE news (id int PRIMARY KEY, work_id int NOT NULL, body text NOT NULL)",
        "INSERT INTO news SELECT n, 1 + (n * 31) % @100000, repeat('n', 100) "
        "FROM generate_series(1, @60000) n",
        "CREATE INDEX ON news (work_id)",
        "CREATE TABLE file (id int PRIMARY KEY, news_id int NOT NULL, name text NOT NULL)",
        "INSERT INTO file SELECT n, 1 + (n * 17) % @60000, 'File ' || n "
        "FROM generate_series(1, @8000) n",
        "CREATE INDEX ON file (news_id)",
        "CREATE TABLE step (id int PRIMARY KEY, work_id int NOT NULL, at int NOT NULL, "
        "tool text NOT NULL)",
        "INSERT INTO step SELECT n, 1 + n % @40000, n, 'tool ' || n % 5 "
        "FROM generate_series(1, @160000) n",
        "CREATE INDEX ON step (work_id)",
    ),
    (
        Case(
            "look-ups by the key in a loop",
            """
            SELECT watcher.id FROM watcher JOIN work ON work.id = watcher.work_id
            WHERE watcher.person_id = :person AND work.project_id = :project
            """,
            {"person": 7, "project": 5},
            sound=True,
        ),
        Case(
            "two conditions with an index each",
            """
            SELECT count(*) FROM news JOIN work ON work.id = news.work_id
            WHERE work.project_id = :project AND work.type_id = :type
            """,
            {"project": 2, "type": 3},
        ),
        Case(
            "three joined tables, all indexed",
            """
            SELECT file.id, file.name FROM file
            JOIN news ON news.id = file.news_id
            JOIN work ON work.id = news.work_id
            WHERE work.project_id = :project
            """,
            {"project": 3},
            sound=True,
        ),
        Case(
            "any rows of a common value",
            "SELECT id FROM work WHERE project_id = :project LIMIT 40",
            {"project": 3},
            sound=True,
        ),
        Case(
            "the first of each in a sub-query",
            """
            SELECT work.id, (
                SELECT step.tool FROM step WHERE step.work_id = work.id ORDER BY step.at LIMIT 1
            ) AS tool
            FROM work WHERE work.project_id = :project
            """,
            {"project": 3},
            """
            SELECT work.id, first.tool FROM work
            LEFT JOIN (
                SELECT DISTINCT ON (work_id) work_id, tool FROM step ORDER BY work_id, at
            ) AS first ON first.work_id = work.id
            WHERE work.project_id = :project
            """,
        ),
    ),
)

_SHARES = Data(
    "below the average",
    (
        "CREATE TABLE brand (id int PRIMARY KEY, name text NOT NULL)",
        "CREATE TABLE sale (id int PRIMARY KEY, brand_id int NOT NULL, amount int NOT NULL)",
        "INSERT INTO brand SELECT n, 'brand ' || n % 20 FROM generate_series(1, 200) n",
        "INSERT INTO sale SELECT n, 1 + n % 200, n % 50 FROM generate_series(1, @20000) n",
    ),
    (
        Case(
            "an average in a sub-query",
            """
            SELECT sum(sale.amount) FROM sale JOIN brand ON brand.id = sale.brand_id
            WHERE brand.name = :name AND sale.amount < (
                SELECT 0.2 * avg(other.amount) FROM sale AS other WHERE other.brand_id = brand.id
            )
            """,
            {"name": "brand 7"},
            """
            SELECT sum(sale.amount) FROM sale JOIN brand ON brand.id = sale.brand_id
            JOIN (
                SELECT brand_id, 0.2 * avg(amount) AS few FROM sale GROUP BY brand_id
            ) AS other ON other.brand_id = brand.id
            WHERE brand.name = :name AND sale.amount < other.few
            """,
        ),
    ),
)

_MEMBERS = Data(
    "members",
    (
        "CREATE TABLE account (id int PRIMARY KEY, token text NOT NULL UNIQUE, name text NOT NULL)",
        "CREATE TABLE member (account_id int NOT NULL, group_id int NOT NULL)",
        "CREATE TABLE team (id int PRIMARY KEY, name text NOT NULL)",
        "INSERT INTO account SELECT n, md5(n::text), 'Name ' || n "
        "FROM generate_series(1, @50000) n",
        "INSERT INTO team SELECT n, 'Team ' || n FROM generate_series(1, 2) n",
        "INSERT INTO member SELECT 1 + n % @50000, 1 + n % 2 FROM generate_series(1, @50000) n",
    ),
    (
        Case(
            "an account with its teams",
            """
            SELECT account.*, team.* FROM account
            LEFT JOIN (member JOIN team ON team.id = member.group_id)
                ON account.id = member.account_id
            WHERE account.token = :token
            """,
            {"token": "c4ca4238a0b923820dcc509a6f75849b"},
        ),
        Case(
            "one row by the key",
            "SELECT * FROM account WHERE id = :id",
            {"id": 77},
            sound=True,
        ),
    ),
)

#: The data with their cases.
CASES = (
    _LIBRARY,
    _PAGES,
    _COUNTS,
    _CLUB,
    _METERS,
    _QUEUE,
    _JOBS,
    _REFERENCES,
    _VILLAGES,
    _NOTES,
    _DEVICES,
    _IMPORT,
    _VISITS,
    _LINKS,
    _MOMENTS,
    _VOUCHERS,
    _PROJECTS,
    _SHARES,
    _MEMBERS,
)
