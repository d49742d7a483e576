"""Figures and names of PostgreSQL's that several parts use, each with its source."""

from __future__ import annotations

#: Executions of a prepared statement with plans of their own, before PostgreSQL compares: the five
#: of choose_custom_plan() in src/backend/utils/cache/plancache.c.
CUSTOM_PLANS = 5

#: Executions of a prepared statement for which the choice of its plan is followed. The choice is
#: made at the eleventh at the latest; PostgreSQL goes on to compare at each.
MAX_EXECUTIONS = 50

#: The least cost that is divided by: what costs less is nothing but a constant.
LEAST_COST = 0.01

#: An index scan that costs less finds few rows, so what it filters afterwards is cheap.
#: dexter (https://github.com/ankane/dexter) leaves statements below this cost alone.
MIN_INDEX_SCAN_COST = 100.0

#: Above this share of the rows PostgreSQL prefers a Seq Scan to an index, whatever the index:
#: with the default costs a Bitmap Heap Scan breaks even between a fifth and a half.
MAX_USEFUL_SHARE = 0.3

#: An index that saves less of a statement's cost is not worth it: the planner's cost is not exact
#: to that degree. The default `random_page_cost` alone may be several times too high
#: (https://www.postgresql.org/docs/current/runtime-config-query.html). index_advisor reports any
#: saving, dexter wants half.
MIN_SAVING = 0.2

#: A LIMIT that is expected to stop a scan below this share of it may hide far more than its cost;
#: above, its cost hides at most a factor of five.
MAX_EXPECTED_SHARE = 0.2

#: What a unit of cost takes, in ms, as long as few statements are known: measured on PostgreSQL 13
#: to 18 with data in memory, statements took 0.001 to 0.025 ms for each.
USUAL_MS_PER_COST = 0.025

#: The least that a unit of cost can take, in ms: half of the least that was measured. A statement
#: that took less did not do all that its cost is for, as a LIMIT stopped it.
MIN_MS_PER_COST = 0.0005

#: How much longer than normal a unit of cost must take, so that its cost no longer explains a
#: statement's time. Measured on PostgreSQL 13 to 18: 0.001 to 0.025 ms are normal, up to 0.1 occur;
#: a LIMIT that reads past all rows took 0.5 to 2.8 ms, a sub-query for each row 9 to 25.
MIN_TIME_FACTOR = 10.0

#: The most that a unit of cost took in statements with nothing wrong, in ms, on the same servers.
MAX_HEALTHY_MS_PER_COST = 0.1

#: The most that a unit of cost takes, in ms: a page of the table from a slow disk takes 4 ms, and
#: costs 4 by the default of `random_page_cost`. What took longer waited for something else.
MAX_MS_PER_COST = 1.0

#: A statement that took less, in ms, is not worth reporting.
MIN_MS = 5.0

#: How long a busy process holds a statement up, in ms.
BUSY_PROCESS_MS = 10.0

#: Executions after which a time is taken for typical: a single one may have waited for a lock, or
#: for a busy process.
MIN_EXECUTIONS = 3

#: Plans of a lower cost take little more than the round trip.
MIN_COST = 1.0

#: Round trips of a statement at most: to begin the transaction, to prepare, and to execute.
ROUND_TRIPS = 3.0

#: So much of a result takes another round trip, in bytes: what TCP sends before it waits for the
#: first acknowledgement (10 segments of 1460 bytes, RFC 6928). It soon sends more.
BYTES_PER_ROUND_TRIP = 14_600.0

#: What the driver takes for each row that it fetches, in ms: psycopg2 and psycopg 3 fetch 100 000
#: rows of some columns in half a second.
MS_PER_FETCHED_ROW = 0.005

#: What PostgreSQL takes for each row that it reads, in ms, with some room: 0.07 to 0.25 µs were
#: measured on 15 and 18 with data in memory.
MS_PER_READ_ROW = 0.0005

#: The least that a row can take, in ms: the entries of a bitmap took 12 ns each, and nothing is
#: faster. A statement that took less did not read what its plan predicts.
MIN_MS_PER_READ_ROW = 0.000005

#: What it takes to find a place in an index, in rows that could be read meanwhile: 1 µs was
#: measured on 15 and 18 with data in memory.
ROWS_PER_LOOKUP = 4.0

#: How much more than one pass over its tables a step must read before a join is worth it.
#: Measured on 15 and 18: with lookups counted as above, the share of time that a join saves is
#: about this ratio, from a loss at 0.2 to a tenth of the time at 20.
MIN_PASSES = 1.5

#: Rows, with lookups counted as above, that take 1.5 to 5 ms: less is not reported.
MIN_ROWS_READ = 20_000.0

#: An index of more columns is a second copy of the table.
MAX_INDEX_COLUMNS = 3

#: What it costs to read a page of the table for a single row: the default of `random_page_cost`.
RANDOM_PAGE_COST = 4.0

#: What PostgreSQL estimates for each row that a scan reads, as the default of `cpu_tuple_cost`: a
#: scan is expected to read no more rows than its cost has such units.
CPU_TUPLE_COST = 0.01

#: What it costs to read an entry of an index: the default of `cpu_index_tuple_cost`.
INDEX_TUPLE_COST = 0.005

#: What it costs to read and to test it: with the default of `cpu_operator_cost`.
INDEX_ENTRY_COST = INDEX_TUPLE_COST + 0.0025

#: The longest name of a relation or a column: NAMEDATALEN - 1 of src/include/pg_config_manual.h.
MAX_NAME_BYTES = 63

#: What EXPLAIN calls the sub-queries that it prints apart from the plan's main tree.
SUB_QUERIES = frozenset({"SubPlan", "InitPlan"})
