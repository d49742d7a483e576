"""The tables of TPC-H with their primary keys and no other index, filled by tpchgen-cli."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import psycopg2

GENERATOR = "tpchgen-cli"

#: The columns of each table with their types, as the specification defines them.
TABLES = {
    "region": ("r_regionkey integer", "r_name char(25)", "r_comment varchar(152)"),
    "nation": (
        "n_nationkey integer",
        "n_name char(25)",
        "n_regionkey integer",
        "n_comment varchar(152)",
    ),
    "supplier": (
        "s_suppkey integer",
        "s_name char(25)",
        "s_address varchar(40)",
        "s_nationkey integer",
        "s_phone char(15)",
        "s_acctbal numeric(15, 2)",
        "s_comment varchar(101)",
    ),
    "customer": (
        "c_custkey integer",
        "c_name varchar(25)",
        "c_address varchar(40)",
        "c_nationkey integer",
        "c_phone char(15)",
        "c_acctbal numeric(15, 2)",
        "c_mktsegment char(10)",
        "c_comment varchar(117)",
    ),
    "part": (
        "p_partkey integer",
        "p_name varchar(55)",
        "p_mfgr char(25)",
        "p_brand char(10)",
        "p_type varchar(25)",
        "p_size integer",
        "p_container char(10)",
        "p_retailprice numeric(15, 2)",
        "p_comment varchar(23)",
    ),
    "partsupp": (
        "ps_partkey integer",
        "ps_suppkey integer",
        "ps_availqty integer",
        "ps_supplycost numeric(15, 2)",
        "ps_comment varchar(199)",
    ),
    "orders": (
        "o_orderkey integer",
        "o_custkey integer",
        "o_orderstatus char(1)",
        "o_totalprice numeric(15, 2)",
        "o_orderdate date",
        "o_orderpriority char(15)",
        "o_clerk char(15)",
        "o_shippriority integer",
        "o_comment varchar(79)",
    ),
    "lineitem": (
        "l_orderkey integer",
        "l_partkey integer",
        "l_suppkey integer",
        "l_linenumber integer",
        "l_quantity numeric(15, 2)",
        "l_extendedprice numeric(15, 2)",
        "l_discount numeric(15, 2)",
        "l_tax numeric(15, 2)",
        "l_returnflag char(1)",
        "l_linestatus char(1)",
        "l_shipdate date",
        "l_commitdate date",
        "l_receiptdate date",
        "l_shipinstruct char(25)",
        "l_shipmode char(10)",
        "l_comment varchar(44)",
    ),
}

#: The primary key of the other tables is their first column.
_KEYS = {"partsupp": "ps_partkey, ps_suppkey", "lineitem": "l_orderkey, l_linenumber"}


def columns(table: str) -> list[str]:
    """Return the names of a table's columns."""
    return [column.split()[0] for column in TABLES[table]]


def fill(dsn: str, scale: float) -> None:
    """Create the tables, fill them, and have the server analyse them.

    Raises FileNotFoundError if the generator is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="planwatch-tpch-") as folder:
        subprocess.run(
            [generator(), "csv", f"--scale-factor={scale}", f"--output-dir={folder}", "--quiet"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        connection = psycopg2.connect(dsn)
        connection.autocommit = True
        with connection.cursor() as cursor:
            for table in TABLES:
                parts = [f"{column} NOT NULL" for column in TABLES[table]]
                parts.append(f"PRIMARY KEY ({_KEYS.get(table, columns(table)[0])})")
                cursor.execute(
                    f"CREATE TABLE {table} ({', '.join(parts)}) WITH (autovacuum_enabled = off)"
                )
                with (Path(folder) / f"{table}.csv").open() as rows:
                    cursor.copy_expert(f"COPY {table} FROM STDIN (FORMAT csv, HEADER)", rows)
                cursor.execute(f"VACUUM (FREEZE, ANALYZE) {table}")
        connection.close()


def generator() -> str:
    """Return the path of tpchgen-cli: beside this Python, or on the PATH."""
    scripts = sysconfig.get_path("scripts")
    found = shutil.which(GENERATOR, path=scripts) or shutil.which(GENERATOR)
    if found is None:
        raise FileNotFoundError(f"{GENERATOR} is not installed for {sys.executable}.")
    return found
