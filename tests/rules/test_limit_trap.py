"""limit-trap: a LIMIT walks along an index, and hardly any row of it passes the filter."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from flask_planwatch import AdviceKind, VerdictStatus

from ..stories import LIMIT, Brand, Post, Product, active_feed, feed, posted_feed
from .case import STORIES, Example, Rule, each_driver, followed, rows, silent, speaks

RULE = Rule("limit-trap", STORIES, runs=3, settings={"PLANWATCH_VERIFY": "build"})

#: The statement on the page of the rule.
EXAMPLE = Example(
    'select(Product.id).where(Product.state == "active").order_by(Product.id).limit(100)',
    gone="Filter: ",
    of_stories=True,
    values=(None, None, None),
)

#: That the cost of a statement explains nothing is said by another rule as well.
TIME = "cost-mismatch"

active = Product.state == "active"

#: What is read in a sub-query of its own.
latest_post = (
    select(Post.id).where(Post.product_id == Product.id).order_by(Post.id).limit(1)
).scalar_subquery()

SPEAKS = [
    speaks(
        "few rows pass the filter",
        active_feed,
        about="state, id on product",
        problem=(
            "reads the index product_pkey of product in its order",
            "discards rows that fail the filter on state",
            "It expects to read 0.3% of the index, about 800 of 300,000 entries",
        ),
        fix="CREATE INDEX CONCURRENTLY ix_product_state_id ON product (state, id)",
        proof=(
            "the Filter on state became an Index Cond",
            "the rows come from the index in the order of id, without a Sort",
        ),
        beside=TIME,
        each_driver=True,
    ),
    speaks(
        "first() adds a LIMIT",
        feed.where(active).limit(1),
        fix="CREATE INDEX CONCURRENTLY ix_product_state_id ON product (state, id)",
        proof=(
            "the Filter on state became an Index Cond",
            "the rows come from the index in the order of id, without a Sort",
        ),
        runs=1,
        PLANWATCH_ANALYZE=True,
    ),
    speaks(
        "with OFFSET",
        active_feed.limit(10).offset(50),
        fix="CREATE INDEX CONCURRENTLY ix_product_state_id ON product (state, id)",
        proof=(
            "the Filter on state became an Index Cond",
            "the rows come from the index in the order of id, without a Sort",
        ),
        runs=1,
        PLANWATCH_ANALYZE=True,
    ),
    speaks(
        "a condition that is no equality",
        feed.where(Product.state != "draft"),
        fix="CREATE INDEX CONCURRENTLY ix_product_id_partial_628e78 ON product (id) "
        "WHERE state <> 'draft'",
        proof=(
            "the Filter is gone: its condition is that of the index",
            "the rows come from the index in the order of id, without a Sort",
        ),
        runs=1,
        PLANWATCH_ANALYZE=True,
    ),
    speaks(
        "two conditions",
        active_feed.where(Product.kind == 1),
        fix="CREATE INDEX CONCURRENTLY ix_product_state_kind_id ON product (state, kind, id)",
        proof=(
            "the Filter on kind and state became an Index Cond",
            "the rows come from the index in the order of id, without a Sort",
        ),
        runs=1,
        PLANWATCH_ANALYZE=True,
    ),
    speaks(
        "a longer order than that of the index",
        select(Product).where(active).order_by(Product.id, Product.kind).limit(100),
        fix="CREATE INDEX CONCURRENTLY ix_product_state_id_kind ON product (state, id, kind)",
        proof=(
            "the Filter on state became an Index Cond",
            "the rows come from the index in the order of id, kind, without a Sort",
        ),
        runs=1,
        PLANWATCH_ANALYZE=True,
    ),
    speaks(
        "backward",
        select(Product)
        .where(Product.state == "draft", Product.id > 0)
        .order_by(Product.id.desc())
        .limit(100),
        # Few drafts, of which the planner believes that they are everywhere.
        setup=(
            "UPDATE product SET state = 'active' WHERE id > 20000",
            "VACUUM ANALYZE product",
        ),
        fix="CREATE INDEX CONCURRENTLY ix_product_state_id ON product (state, id)",
        proof=(
            "the Filter on state became an Index Cond",
            "the rows come from the index in the order of id, without a Sort",
        ),
        runs=1,
        PLANWATCH_ANALYZE=True,
    ),
    speaks(
        "a join that throws rows away",
        posted_feed,
        about="id on product",
        problem="have no match in post and brand",
        fix="ask for a bounded range in place of LIMIT: id >= start…",
        proof="both ends of the range on id are an Index Cond, and there is no LIMIT",
        rewritten=LIMIT["bounded join"].statement,
        beside=[TIME, "missing-index"],
    ),
    speaks(
        "a join of which the rows were counted",
        posted_feed,
        problem="It read 275,111 of them.",
        evidence={"entries_read": 275_111},
        runs=1,
        each_driver=True,
        PLANWATCH_ANALYZE=True,
    ),
]

SILENT = [
    silent("no filter", feed, each_driver=True),
    silent("a third passes", feed.where(Product.kind == 1), each_driver=True),
    silent(
        "a small table", active_feed, runs=1, PLANWATCH_MIN_ROWS=400_000, PLANWATCH_ANALYZE=True
    ),
    silent(
        "an index that holds what is filtered",
        active_feed,
        setup=LIMIT["fast"].setup,
        each_driver=True,
    ),
    silent(
        "a range in place of the LIMIT",
        LIMIT["bounded join"].statement,
        beside=["missing-index"],
        each_driver=True,
    ),
    silent(
        # At the very cost of the trap. On a busy computer one execution may take as long as that.
        "the same plan, with rows that come early",
        active_feed.order_by(None).order_by(Product.id.desc()),
        runs=15,
        each_driver=True,
    ),
    silent(
        # No index has the order of id for all smaller kinds: only the range is left.
        "a condition whose value a range bounds",
        feed.where(Product.state > "a", Product.kind < 0, Product.brand_id > 0),
        beside=[TIME, "missing-index"],
        each_driver=True,
    ),
    silent(
        # It does not explain how long the whole takes.
        "a LIMIT deep inside a statement",
        select(Product.id, latest_post).where(Product.id < 50),
        beside=TIME,
        each_driver=True,
    ),
    silent("a small table as a whole", select(Brand).order_by(Brand.id).limit(3), each_driver=True),
]


@rows(SPEAKS, quick=1)
def test_speaks(rule, case):
    rule.check(case)


@rows(SILENT, quick=3)
def test_stays_silent(rule, case):
    rule.check(case)


@rows(followed(SPEAKS), quick=2)
def test_falls_silent_after_the_fix(rule, case):
    rule.check_fix(case)


@rows(SPEAKS[:1])
def test_hypopg_shows_it_as_well(rule, case):
    rule.check_hypopg(case)


def test_no_falling_cost_proves_it(rule):
    (finding,) = rule.ask(rule.app(), active_feed, beside=[TIME])
    verdict = finding.advice[0].verdict
    assert verdict.cost_after > verdict.cost_before / 2


@pytest.mark.slow
@each_driver
def test_the_advised_range_is_shown_with_its_plan(rule):
    (finding,) = rule.ask(rule.app(), posted_feed, beside=[TIME])
    (advice,) = finding.advice
    assert (advice.kind, advice.verdict.status) == (AdviceKind.REWRITE, VerdictStatus.VERIFIED)
    assert ".where(Product.id >= start, Product.id < start + 100)" in advice.sqlalchemy
    assert "Limit" not in advice.plan
    assert "Index Scan using product_pkey on public.product" in advice.plan


@pytest.mark.slow
@each_driver
def test_harmless_values_say_nothing_of_a_finding(rule):
    app = rule.app()
    (finding,) = rule.ask(app, active_feed, beside=[TIME])
    harmless = feed.where(Product.state == "draft")
    assert [one.id for one in rule.ask(app, harmless, beside=[TIME])] == [finding.id]


@pytest.mark.slow
def test_compared_values_stay_in_the_process(rule, caplog):
    app = rule.app(PLANWATCH_ANALYZE=True)
    for statement in (feed.where(Product.state != "draft"), posted_feed):
        (finding,) = rule.ask(app, statement, runs=1)
        shown = [finding.message, str(finding.evidence), caplog.text]
        shown += [str(advice.as_dict()) for advice in finding.advice]
        assert not [text for text in shown if "draft" in text or "'active'" in text]
        app.planwatch.clear()
