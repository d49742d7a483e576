"""limit-trap speaks on story 5 once the time or the rows confirm it, and is silent else."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import select

from flask_planwatch import AdviceKind, VerdictStatus

from ..stories import LIMIT, Brand, Post, Product, active_feed, feed, posted_feed

RULE = "limit-trap"

#: How often a statement runs before its time is believed.
TIMES = 3

active = Product.state == "active"


@pytest.fixture(params=["psycopg2", "psycopg"])
def driver(request):
    return request.param


@pytest.fixture
def watched(each_stories, watch, driver):
    """An app on each server in turn, through each driver, on tables that nobody changes."""
    return watch(each_stories.url_for(driver), PLANWATCH_VERIFY="build")


def ask(watched, statement, times: int = TIMES):
    """Run a statement several times, after one that takes no time but that of the way."""
    watched.ask(select(sa.literal(1)))
    return [watched.ask(statement) for _ in range(times)][-1]


def found(findings):
    """Return the findings of this rule; that the cost explains nothing is said by another one."""
    return [finding for finding in findings if finding.rule == RULE]


def test_speaks(watched):
    (finding,) = found(ask(watched, active_feed))
    assert (finding.rule, finding.relation, finding.subject) == (RULE, "product", "state, id")
    assert "walks the index product_pkey of product" in finding.problem
    assert "a test of state does not let pass" in finding.problem
    assert "It expects to read 0.3% of the index, about 800 of 300,000 entries" in finding.problem
    (advice,) = finding.advice
    assert advice.summary.endswith(" ON product (state, id)")
    assert advice.verdict.status is VerdictStatus.VERIFIED
    assert advice.verdict.proof == (
        "the Filter on state became an Index Cond",
        "the rows come from the index in the order of id, without a Sort",
    )
    # It is no falling cost that proves it.
    assert advice.verdict.cost_after > advice.verdict.cost_before / 2


def test_is_silent_after_the_fix(fresh_stories, watch, driver):
    watched = watch(fresh_stories.url_for(driver), PLANWATCH_VERIFY="build")
    (finding,) = found(ask(watched, active_feed))
    fresh_stories.execute(*finding.advice[0].ddl, "ANALYZE product")
    assert watched.ask(active_feed) == []
    assert ask(watched, active_feed) == []


def test_hypopg_shows_it_as_well(hypopg_server, each_stories, watch):
    if each_stories.server.name != hypopg_server.name:
        pytest.skip("HypoPG is installed on the other server")
    each_stories.execute("CREATE EXTENSION IF NOT EXISTS hypopg")
    (finding,) = found(ask(watch(each_stories.url), active_feed))
    verdict = finding.advice[0].verdict
    assert (verdict.status, verdict.method) == (VerdictStatus.VERIFIED, "hypopg")


#: The twins of the story: not a word.
TWINS = ["no filter", "a third passes", "fast", "bounded join"]


@pytest.mark.parametrize("name", TWINS)
def test_is_silent_on_twins(fresh_stories, watch, driver, name):
    fresh_stories.execute(*LIMIT[name].setup)
    watched = watch(fresh_stories.url_for(driver))
    assert ask(watched, LIMIT[name].statement) == []
    assert watched.planwatch.stats()["errors"] == 0


def test_the_same_plan_with_rows_that_come_early(watched):
    """Read backward, the walk meets the rows at once, at the very cost of the trap.

    On a busy computer a single execution may take as long as the walk would.
    """
    backward = active_feed.order_by(None).order_by(Product.id.desc())
    for _ in range(5):
        found = ask(watched, backward)
    assert found == []


#: Statements that walk into the trap, and the index that they are advised.
TRAPS = {
    "first() adds a LIMIT": (feed.where(active).limit(1), "(state, id)"),
    "with OFFSET": (active_feed.limit(10).offset(50), "(state, id)"),
    "a condition that is no equality": (
        feed.where(Product.state != "draft"),
        "(id) WHERE state <> 'draft'",
    ),
    "two conditions": (active_feed.where(Product.kind == 1), "(state, kind, id)"),
    "a longer order than that of the index": (
        select(Product).where(active).order_by(Product.id, Product.kind).limit(100),
        "(state, id, kind)",
    ),
    "backward": (
        select(Product)
        .where(Product.state == "draft", Product.id > 0)
        .order_by(Product.id.desc())
        .limit(100),
        "(state, id)",
    ),
}


@pytest.mark.parametrize("name", TRAPS)
def test_the_index(fresh_stories, watch, name):
    statement, index = TRAPS[name]
    if name == "backward":
        # Few drafts, of which the planner believes that they are everywhere.
        fresh_stories.execute(
            "UPDATE product SET state = 'active' WHERE id > 20000", "VACUUM ANALYZE product"
        )
    watched = watch(fresh_stories.url, PLANWATCH_VERIFY="build", PLANWATCH_ANALYZE=True)
    (finding,) = ask(watched, statement, 1)
    assert finding.rule == RULE
    (advice,) = finding.advice
    assert advice.verdict.status is VerdictStatus.VERIFIED
    assert advice.ddl[0].endswith(f" ON product {index}"), advice.ddl
    fresh_stories.execute(*advice.ddl, "ANALYZE product")
    assert ask(watched, statement, 1) == []


def test_a_join_that_throws_rows_away(watched):
    (finding,) = found(ask(watched, posted_feed))
    assert (finding.rule, finding.relation, finding.subject) == (RULE, "product", "id")
    assert "has no match in post and brand" in finding.problem
    (advice,) = finding.advice
    assert advice.kind is AdviceKind.REWRITE
    assert advice.summary.startswith("ask for a bounded range in place of LIMIT: id >= start")
    assert ".where(Product.id >= start, Product.id < start + 100)" in advice.sqlalchemy
    assert advice.verdict.status is VerdictStatus.VERIFIED
    assert "Limit" not in advice.plan
    assert "Index Scan using product_pkey on public.product" in advice.plan


def test_the_rows_that_were_read_decide(each_stories, watch, driver):
    """Where it may run the statement once more, one execution is enough, and no time counts."""
    watched = watch(each_stories.url_for(driver), PLANWATCH_ANALYZE=True)
    (finding,) = found(ask(watched, posted_feed, 1))
    assert finding.evidence["entries_read"] == 275_111
    assert "It read 275,111 of them." in finding.problem


def test_values_of_which_one_walks_into_the_trap(watched):
    """The same statement is harmless with other values, which says nothing of the finding."""
    (finding,) = found(ask(watched, active_feed))
    harmless = feed.where(Product.state == "draft")
    assert [one.id for one in found(ask(watched, harmless))] == [finding.id]


def test_a_condition_whose_value_a_range_bounds(watched):
    """No index has the order of `id` for all smaller kinds: only the range is left."""
    statement = feed.where(Product.state > "a", Product.kind < 0, Product.brand_id > 0)
    assert found(ask(watched, statement)) == []


def test_a_small_table_is_not_worth_it(each_stories, watch):
    watched = watch(each_stories.url, PLANWATCH_MIN_ROWS=400_000, PLANWATCH_ANALYZE=True)
    assert found(ask(watched, active_feed, 1)) == []


def test_compared_values_stay_in_the_process(each_stories, watch, caplog):
    watched = watch(each_stories.url, PLANWATCH_VERIFY="build", PLANWATCH_ANALYZE=True)
    for statement in (feed.where(Product.state != "draft"), posted_feed):
        (finding,) = found(ask(watched, statement, 1))
        shown = [finding.message, str(finding.evidence), caplog.text]
        shown += [str(advice.as_dict()) for advice in finding.advice]
        assert not [text for text in shown if "draft" in text or "'active'" in text]
        watched.planwatch.clear()


def test_a_subquery_of_its_own(watched):
    """A LIMIT deep inside a statement does not explain how long the whole takes."""
    latest = select(Post.id).where(Post.product_id == Product.id).order_by(Post.id).limit(1)
    statement = select(Product.id, latest.scalar_subquery()).where(Product.id < 50)
    assert found(ask(watched, statement)) == []
    assert found(ask(watched, select(Brand).order_by(Brand.id).limit(3))) == []
