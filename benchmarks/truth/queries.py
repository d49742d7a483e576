"""The 22 queries of TPC-H, in texts of our own, with fixed parameters.

They return what the specification asks for. The parameters are those by which it validates a
system, so that each query finds something. Values are bound, as an application binds them.
"""

from __future__ import annotations

from datetime import date

from .statement import Statement

#: What one line of an order brings in.
_REVENUE = "l_extendedprice * (1 - l_discount)"


def queries(scale: float) -> tuple[Statement, ...]:
    """Return the queries; one of them has a parameter that depends on the scale."""
    return (
        Statement(
            "Q1 pricing summary",
            f"""
            SELECT l_returnflag, l_linestatus, sum(l_quantity) AS quantity,
                sum(l_extendedprice) AS base_price, sum({_REVENUE}) AS discounted,
                sum({_REVENUE} * (1 + l_tax)) AS charge, avg(l_quantity) AS mean_quantity,
                avg(l_extendedprice) AS mean_price, avg(l_discount) AS mean_discount,
                count(*) AS lines
            FROM lineitem
            WHERE l_shipdate <= :last_day
            GROUP BY l_returnflag, l_linestatus
            ORDER BY l_returnflag, l_linestatus
            """,
            {"last_day": date(1998, 9, 2)},
        ),
        Statement(
            "Q2 cheapest supplier",
            """
            SELECT s_acctbal, s_name, n_name, p_partkey, p_mfgr, s_address, s_phone, s_comment
            FROM part
            JOIN partsupp ON ps_partkey = p_partkey
            JOIN supplier ON s_suppkey = ps_suppkey
            JOIN nation ON n_nationkey = s_nationkey
            JOIN region ON r_regionkey = n_regionkey
            WHERE p_size = :size AND p_type LIKE :type AND r_name = :region
                AND ps_supplycost = (
                    SELECT min(other.ps_supplycost)
                    FROM partsupp AS other
                    JOIN supplier AS seller ON seller.s_suppkey = other.ps_suppkey
                    JOIN nation AS home ON home.n_nationkey = seller.s_nationkey
                    JOIN region AS area ON area.r_regionkey = home.n_regionkey
                    WHERE other.ps_partkey = p_partkey AND area.r_name = :region
                )
            ORDER BY s_acctbal DESC, n_name, s_name, p_partkey
            LIMIT 100
            """,
            {"size": 15, "type": "%BRASS", "region": "EUROPE"},
        ),
        Statement(
            "Q3 shipping priority",
            f"""
            SELECT l_orderkey, sum({_REVENUE}) AS revenue, o_orderdate, o_shippriority
            FROM customer
            JOIN orders ON o_custkey = c_custkey
            JOIN lineitem ON l_orderkey = o_orderkey
            WHERE c_mktsegment = :segment AND o_orderdate < :day AND l_shipdate > :day
            GROUP BY l_orderkey, o_orderdate, o_shippriority
            ORDER BY revenue DESC, o_orderdate
            LIMIT 10
            """,
            {"segment": "BUILDING", "day": date(1995, 3, 15)},
        ),
        Statement(
            "Q4 late orders",
            """
            SELECT o_orderpriority, count(*) AS orders
            FROM orders
            WHERE o_orderdate >= :first_day AND o_orderdate < :end
                AND EXISTS (
                    SELECT 1 FROM lineitem
                    WHERE l_orderkey = o_orderkey AND l_commitdate < l_receiptdate
                )
            GROUP BY o_orderpriority
            ORDER BY o_orderpriority
            """,
            {"first_day": date(1993, 7, 1), "end": date(1993, 10, 1)},
        ),
        Statement(
            "Q5 local suppliers",
            f"""
            SELECT n_name, sum({_REVENUE}) AS revenue
            FROM region
            JOIN nation ON n_regionkey = r_regionkey
            JOIN customer ON c_nationkey = n_nationkey
            JOIN orders ON o_custkey = c_custkey
            JOIN lineitem ON l_orderkey = o_orderkey
            JOIN supplier ON s_suppkey = l_suppkey AND s_nationkey = c_nationkey
            WHERE r_name = :region AND o_orderdate >= :first_day AND o_orderdate < :end
            GROUP BY n_name
            ORDER BY revenue DESC
            """,
            {"region": "ASIA", "first_day": date(1994, 1, 1), "end": date(1995, 1, 1)},
        ),
        Statement(
            "Q6 forecast of revenue",
            """
            SELECT sum(l_extendedprice * l_discount) AS revenue
            FROM lineitem
            WHERE l_shipdate >= :first_day AND l_shipdate < :end
                AND l_discount BETWEEN :least AND :most AND l_quantity < :quantity
            """,
            {
                "first_day": date(1994, 1, 1),
                "end": date(1995, 1, 1),
                "least": 0.05,
                "most": 0.07,
                "quantity": 24,
            },
        ),
        Statement(
            "Q7 trade of two nations",
            f"""
            SELECT seller.n_name AS from_nation, buyer.n_name AS to_nation,
                extract(year FROM l_shipdate) AS year, sum({_REVENUE}) AS revenue
            FROM supplier
            JOIN lineitem ON l_suppkey = s_suppkey
            JOIN orders ON o_orderkey = l_orderkey
            JOIN customer ON c_custkey = o_custkey
            JOIN nation AS seller ON seller.n_nationkey = s_nationkey
            JOIN nation AS buyer ON buyer.n_nationkey = c_nationkey
            WHERE (
                    (seller.n_name = :one AND buyer.n_name = :other)
                    OR (seller.n_name = :other AND buyer.n_name = :one)
                )
                AND l_shipdate BETWEEN :first_day AND :last_day
            GROUP BY from_nation, to_nation, year
            ORDER BY from_nation, to_nation, year
            """,
            {
                "one": "FRANCE",
                "other": "GERMANY",
                "first_day": date(1995, 1, 1),
                "last_day": date(1996, 12, 31),
            },
        ),
        Statement(
            "Q8 share of a market",
            f"""
            SELECT year, sum(CASE WHEN nation = :nation THEN volume ELSE 0 END) / sum(volume)
                AS share
            FROM (
                SELECT extract(year FROM o_orderdate) AS year, {_REVENUE} AS volume,
                    seller.n_name AS nation
                FROM part
                JOIN lineitem ON l_partkey = p_partkey
                JOIN supplier ON s_suppkey = l_suppkey
                JOIN orders ON o_orderkey = l_orderkey
                JOIN customer ON c_custkey = o_custkey
                JOIN nation AS buyer ON buyer.n_nationkey = c_nationkey
                JOIN region ON r_regionkey = buyer.n_regionkey
                JOIN nation AS seller ON seller.n_nationkey = s_nationkey
                WHERE r_name = :region AND o_orderdate BETWEEN :first_day AND :last_day
                    AND p_type = :type
            ) AS sales
            GROUP BY year
            ORDER BY year
            """,
            {
                "nation": "BRAZIL",
                "region": "AMERICA",
                "type": "ECONOMY ANODIZED STEEL",
                "first_day": date(1995, 1, 1),
                "last_day": date(1996, 12, 31),
            },
        ),
        Statement(
            "Q9 profit by product",
            f"""
            SELECT n_name, extract(year FROM o_orderdate) AS year,
                sum({_REVENUE} - ps_supplycost * l_quantity) AS profit
            FROM part
            JOIN lineitem ON l_partkey = p_partkey
            JOIN partsupp ON ps_partkey = l_partkey AND ps_suppkey = l_suppkey
            JOIN supplier ON s_suppkey = l_suppkey
            JOIN orders ON o_orderkey = l_orderkey
            JOIN nation ON n_nationkey = s_nationkey
            WHERE p_name LIKE :word
            GROUP BY n_name, year
            ORDER BY n_name, year DESC
            """,
            {"word": "%green%"},
        ),
        Statement(
            "Q10 returned items",
            f"""
            SELECT c_custkey, c_name, sum({_REVENUE}) AS revenue, c_acctbal, n_name, c_address,
                c_phone, c_comment
            FROM customer
            JOIN orders ON o_custkey = c_custkey
            JOIN lineitem ON l_orderkey = o_orderkey
            JOIN nation ON n_nationkey = c_nationkey
            WHERE o_orderdate >= :first_day AND o_orderdate < :end AND l_returnflag = :flag
            GROUP BY c_custkey, c_name, c_acctbal, c_phone, n_name, c_address, c_comment
            ORDER BY revenue DESC
            LIMIT 20
            """,
            {"first_day": date(1993, 10, 1), "end": date(1994, 1, 1), "flag": "R"},
        ),
        Statement(
            "Q11 valuable stock",
            """
            SELECT ps_partkey, sum(ps_supplycost * ps_availqty) AS value
            FROM partsupp
            JOIN supplier ON s_suppkey = ps_suppkey
            JOIN nation ON n_nationkey = s_nationkey
            WHERE n_name = :nation
            GROUP BY ps_partkey
            HAVING sum(ps_supplycost * ps_availqty) > (
                SELECT sum(ps_supplycost * ps_availqty) * :share
                FROM partsupp
                JOIN supplier ON s_suppkey = ps_suppkey
                JOIN nation ON n_nationkey = s_nationkey
                WHERE n_name = :nation
            )
            ORDER BY value DESC
            """,
            {"nation": "GERMANY", "share": 0.0001 / scale},
        ),
        Statement(
            "Q12 modes of shipping",
            """
            SELECT l_shipmode,
                sum(CASE WHEN o_orderpriority IN (:urgent, :high) THEN 1 ELSE 0 END) AS high,
                sum(CASE WHEN o_orderpriority NOT IN (:urgent, :high) THEN 1 ELSE 0 END) AS low
            FROM orders
            JOIN lineitem ON l_orderkey = o_orderkey
            WHERE l_shipmode IN (:one, :other) AND l_commitdate < l_receiptdate
                AND l_shipdate < l_commitdate
                AND l_receiptdate >= :first_day AND l_receiptdate < :end
            GROUP BY l_shipmode
            ORDER BY l_shipmode
            """,
            {
                "urgent": "1-URGENT",
                "high": "2-HIGH",
                "one": "MAIL",
                "other": "SHIP",
                "first_day": date(1994, 1, 1),
                "end": date(1995, 1, 1),
            },
        ),
        Statement(
            "Q13 customers by orders",
            """
            SELECT orders_of_customer, count(*) AS customers
            FROM (
                SELECT c_custkey, count(o_orderkey) AS orders_of_customer
                FROM customer
                LEFT JOIN orders ON o_custkey = c_custkey AND o_comment NOT LIKE :words
                GROUP BY c_custkey
            ) AS counted
            GROUP BY orders_of_customer
            ORDER BY customers DESC, orders_of_customer DESC
            """,
            {"words": "%special%requests%"},
        ),
        Statement(
            "Q14 effect of promotions",
            f"""
            SELECT 100 * sum(CASE WHEN p_type LIKE :promotion THEN {_REVENUE} ELSE 0 END)
                / sum({_REVENUE}) AS share
            FROM lineitem
            JOIN part ON p_partkey = l_partkey
            WHERE l_shipdate >= :first_day AND l_shipdate < :end
            """,
            {
                "promotion": "PROMO%",
                "first_day": date(1995, 9, 1),
                "end": date(1995, 10, 1),
            },
        ),
        Statement(
            "Q15 best supplier",
            f"""
            WITH revenue AS (
                SELECT l_suppkey AS supplier_no, sum({_REVENUE}) AS total
                FROM lineitem
                WHERE l_shipdate >= :first_day AND l_shipdate < :end
                GROUP BY l_suppkey
            )
            SELECT s_suppkey, s_name, s_address, s_phone, total
            FROM supplier
            JOIN revenue ON supplier_no = s_suppkey
            WHERE total = (SELECT max(total) FROM revenue)
            ORDER BY s_suppkey
            """,
            {"first_day": date(1996, 1, 1), "end": date(1996, 4, 1)},
        ),
        Statement(
            "Q16 suppliers by part",
            """
            SELECT p_brand, p_type, p_size, count(DISTINCT ps_suppkey) AS suppliers
            FROM partsupp
            JOIN part ON p_partkey = ps_partkey
            WHERE p_brand <> :brand AND p_type NOT LIKE :type
                AND p_size IN (49, 14, 23, 45, 19, 3, 36, 9)
                AND ps_suppkey NOT IN (
                    SELECT s_suppkey FROM supplier WHERE s_comment LIKE :words
                )
            GROUP BY p_brand, p_type, p_size
            ORDER BY suppliers DESC, p_brand, p_type, p_size
            """,
            {
                "brand": "Brand#45",
                "type": "MEDIUM POLISHED%",
                "words": "%Customer%Complaints%",
            },
        ),
        Statement(
            "Q17 small orders",
            """
            SELECT sum(l_extendedprice) / 7.0 AS per_year
            FROM lineitem
            JOIN part ON p_partkey = l_partkey
            WHERE p_brand = :brand AND p_container = :container
                AND l_quantity < (
                    SELECT 0.2 * avg(every.l_quantity)
                    FROM lineitem AS every
                    WHERE every.l_partkey = p_partkey
                )
            """,
            {"brand": "Brand#23", "container": "MED BOX"},
        ),
        Statement(
            "Q18 large orders",
            """
            SELECT c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice,
                sum(l_quantity) AS quantity
            FROM customer
            JOIN orders ON o_custkey = c_custkey
            JOIN lineitem ON l_orderkey = o_orderkey
            WHERE o_orderkey IN (
                SELECT l_orderkey FROM lineitem GROUP BY l_orderkey
                HAVING sum(l_quantity) > :quantity
            )
            GROUP BY c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice
            ORDER BY o_totalprice DESC, o_orderdate
            LIMIT 100
            """,
            {"quantity": 300},
        ),
        Statement(
            "Q19 discounted revenue",
            f"""
            SELECT sum({_REVENUE}) AS revenue
            FROM lineitem
            JOIN part ON p_partkey = l_partkey
            WHERE l_shipmode IN ('AIR', 'AIR REG') AND l_shipinstruct = 'DELIVER IN PERSON'
                AND (
                    (
                        p_brand = :brand_1
                        AND p_container IN ('SM CASE', 'SM BOX', 'SM PACK', 'SM PKG')
                        AND l_quantity BETWEEN :quantity_1 AND :quantity_1 + 10
                        AND p_size BETWEEN 1 AND 5
                    ) OR (
                        p_brand = :brand_2
                        AND p_container IN ('MED BAG', 'MED BOX', 'MED PKG', 'MED PACK')
                        AND l_quantity BETWEEN :quantity_2 AND :quantity_2 + 10
                        AND p_size BETWEEN 1 AND 10
                    ) OR (
                        p_brand = :brand_3
                        AND p_container IN ('LG CASE', 'LG BOX', 'LG PACK', 'LG PKG')
                        AND l_quantity BETWEEN :quantity_3 AND :quantity_3 + 10
                        AND p_size BETWEEN 1 AND 15
                    )
                )
            """,
            {
                "brand_1": "Brand#12",
                "brand_2": "Brand#23",
                "brand_3": "Brand#34",
                "quantity_1": 1,
                "quantity_2": 10,
                "quantity_3": 20,
            },
        ),
        Statement(
            "Q20 surplus of parts",
            """
            SELECT s_name, s_address
            FROM supplier
            JOIN nation ON n_nationkey = s_nationkey
            WHERE n_name = :nation
                AND s_suppkey IN (
                    SELECT ps_suppkey
                    FROM partsupp
                    WHERE ps_partkey IN (SELECT p_partkey FROM part WHERE p_name LIKE :word)
                        AND ps_availqty > (
                            SELECT 0.5 * sum(l_quantity)
                            FROM lineitem
                            WHERE l_partkey = ps_partkey AND l_suppkey = ps_suppkey
                                AND l_shipdate >= :first_day AND l_shipdate < :end
                        )
                )
            ORDER BY s_name
            """,
            {
                "nation": "CANADA",
                "word": "forest%",
                "first_day": date(1994, 1, 1),
                "end": date(1995, 1, 1),
            },
        ),
        Statement(
            "Q21 waiting for a supplier",
            """
            SELECT s_name, count(*) AS waits
            FROM supplier
            JOIN lineitem AS late ON late.l_suppkey = s_suppkey
            JOIN orders ON o_orderkey = late.l_orderkey
            JOIN nation ON n_nationkey = s_nationkey
            WHERE o_orderstatus = :status AND late.l_receiptdate > late.l_commitdate
                AND n_name = :nation
                AND EXISTS (
                    SELECT 1 FROM lineitem AS other
                    WHERE other.l_orderkey = late.l_orderkey AND other.l_suppkey <> late.l_suppkey
                )
                AND NOT EXISTS (
                    SELECT 1 FROM lineitem AS other
                    WHERE other.l_orderkey = late.l_orderkey AND other.l_suppkey <> late.l_suppkey
                        AND other.l_receiptdate > other.l_commitdate
                )
            GROUP BY s_name
            ORDER BY waits DESC, s_name
            LIMIT 100
            """,
            {"status": "F", "nation": "SAUDI ARABIA"},
        ),
        Statement(
            "Q22 customers to win back",
            """
            SELECT code, count(*) AS customers, sum(c_acctbal) AS balance
            FROM (
                SELECT substring(c_phone FROM 1 FOR 2) AS code, c_acctbal
                FROM customer
                WHERE substring(c_phone FROM 1 FOR 2)
                        IN ('13', '31', '23', '29', '30', '18', '17')
                    AND c_acctbal > (
                        SELECT avg(c_acctbal)
                        FROM customer
                        WHERE c_acctbal > 0
                            AND substring(c_phone FROM 1 FOR 2)
                                IN ('13', '31', '23', '29', '30', '18', '17')
                    )
                    AND NOT EXISTS (SELECT 1 FROM orders WHERE o_custkey = c_custkey)
            ) AS idle
            GROUP BY code
            ORDER BY code
            """,
        ),
    )
