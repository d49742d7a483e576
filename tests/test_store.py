"""The life of a finding: detected, repeated, resolved, and when it is not resolved."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flask_planwatch.capture.statistics import StatementStatistics
from flask_planwatch.failure import StatementError
from flask_planwatch.finding import (
    Advice,
    AdviceKind,
    Dismissal,
    Finding,
    Inspection,
    Location,
    Severity,
    Skip,
    SkipReason,
    Statement,
    Verdict,
    VerdictStatus,
)
from flask_planwatch.plan.tree import Plan
from flask_planwatch.report import store as module
from flask_planwatch.report.store import Changes, Store, by_fix

from .plan import read

pytestmark = pytest.mark.versions

STATEMENT = Statement("f" * 16, "SELECT * FROM t WHERE lower(name) = %(name_1)s")
OTHER = Statement("0" * 16, "SELECT * FROM u WHERE lower(name) = %(name_1)s")
SUBJECT = "lower(name)"


#: What PostgreSQL makes of the story's statement once the index exists.
SERVED = {
    "Node Type": "Index Scan",
    "Schema": "public",
    "Relation Name": "t",
    "Alias": "t",
    "Index Name": "t_lower_idx",
    "Index Cond": "(lower(t.name) = 'x'::text)",
}


def recorded(name: str) -> Plan:
    if name == "served":
        return Plan.from_json({"Plan": SERVED})
    return Plan.from_json(read(f"{name}-18")["plan"])


def finding(subject: str = SUBJECT, statement: Statement = STATEMENT, **changes) -> Finding:
    values = {
        "rule": "functional-predicate",
        "severity": Severity.WARNING,
        "statement": statement,
        "relation": "t",
        "subject": subject,
        "problem": "slow.",
        "scanned": ("public.t",),
        "table_rows": 20_000,
        **changes,
    }
    return Finding(**values)


def inspection(*findings: Finding, plan: str | None = "seq-scan", **changes) -> Inspection:
    values = {
        "statement": STATEMENT,
        "duration_ms": 1.0,
        "plan": recorded(plan) if plan else None,
        "findings": findings,
        **changes,
    }
    return Inspection(**values)


@pytest.fixture
def store() -> Store:
    """A store with one active finding."""
    made = Store()
    made.record(inspection(finding()))
    return made


def test_a_finding_is_detected_once_and_then_repeated():
    store = Store()
    first, second = finding(), finding(calls=2)
    assert store.record(inspection(first)) == Changes(detected=(first,))
    assert store.record(inspection(second)) == Changes(repeated=(second,))
    assert store.findings() == (second,)
    assert store.findings()[0].calls == 2


def test_findings_are_told_apart_by_statement_rule_relation_and_subject(store):
    others = [
        finding("upper(name)"),
        finding(relation="u"),
        finding(rule="missing-index"),
        finding(statement=OTHER),
    ]
    for other in others:
        assert store.record(inspection(finding(), other)).detected == (other,)
    assert len({each.id for each in (finding(), *others)}) == 5


#: Plans of a later inspection that does not raise the finding, and whether that resolves it:
#: it does if an index answers the expression. Without a word of it, the values may be the reason.
RESOLVED = {
    "served": True,
    "bitmap": False,
    "index-only": False,
    "nested-loop": False,
    "seq-scan": False,
    "parallel": False,
    "hash-join": False,
    "nothing": False,
    "function-scan": False,
    "partitions": False,
}


@pytest.mark.parametrize("plan", RESOLVED)
def test_resolved_by_a_plan_that_does_without_the_expression(store, plan):
    changes = store.record(inspection(plan=plan))
    assert [each.id for each in changes.resolved] == ([finding().id] if RESOLVED[plan] else [])
    assert len(store.findings()) == (0 if RESOLVED[plan] else 1)


def test_resolved_once_and_detected_anew(store):
    assert store.record(inspection(plan="served")).resolved
    assert store.record(inspection(plan="served")) == Changes()
    assert store.record(inspection(finding())).detected == (finding(),)


def test_another_finding_of_the_statement_does_not_keep_it(store):
    other = finding("upper(name)")
    changes = store.record(inspection(other, plan="served"))
    assert (changes.detected, [each.subject for each in changes.resolved]) == ((other,), [SUBJECT])
    assert store.findings() == (other,)


#: Inspections that do not raise the finding and say nothing about it.
UNSETTLED = {
    "raised again": inspection(finding()),
    "a plan that still computes it": inspection(),
    "a dismissal because of the values, with an index": inspection(
        plan="served",
        dismissals=(Dismissal("functional-predicate", "t", SUBJECT, "returned 90%", True),),
    ),
    "an index on a statement of another fingerprint": inspection(plan="served", statement=OTHER),
    "a skip": inspection(plan=None, skip=Skip(SkipReason.STATEMENT_TIMEOUT)),
    "a failure without a plan": inspection(plan=None),
    "a predicate that was folded": inspection(plan="nothing"),
    "a dismissal because of the values": inspection(
        dismissals=(Dismissal("functional-predicate", "t", SUBJECT, "returned 90%", True),)
    ),
}


@pytest.mark.parametrize("name", UNSETTLED)
def test_not_resolved_by(store, name):
    assert store.record(UNSETTLED[name]).resolved == ()
    assert len(store.findings()) == 1
    assert not UNSETTLED[name].settles(finding())


#: Inspections that settle it: the same values would have raised it.
SETTLED = {
    "an index": inspection(plan="served"),
    "a dismissal whatever the values": inspection(
        dismissals=(Dismissal("functional-predicate", "t", SUBJECT, "an index exists"),)
    ),
    "an index, and a dismissal of another expression": inspection(
        plan="served",
        dismissals=(Dismissal("functional-predicate", "t", "upper(name)", "returned 90%", True),),
    ),
    "an index, and a dismissal of another table": inspection(
        plan="served",
        dismissals=(Dismissal("functional-predicate", "u", SUBJECT, "returned 90%", True),),
    ),
    "an index, and a dismissal by another rule": inspection(
        plan="served",
        dismissals=(Dismissal("missing-index", "t", SUBJECT, "returned 90%", True),),
    ),
}


@pytest.mark.parametrize("name", SETTLED)
def test_resolved_by(store, name):
    assert SETTLED[name].settles(finding())
    assert [each.id for each in store.record(SETTLED[name]).resolved] == [finding().id]
    assert store.findings() == ()


#: The indexes when it was raised and later, the seconds between, and whether an index that answers
#: the expression resolves it.
INDEXES = {
    "none, and then one": ("", "one", 0, True),
    "another one": ("one", "two", 0, True),
    "the same: other values had another plan": ("one", "one", 0, False),
    "the same, for nearly as long as it is not logged again": ("one", "one", 3599, False),
    "the same, for longer": ("one", "one", 3600, True),
}


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_that_was_there_before_resolves_nothing(name):
    earlier, later, seconds, resolved = INDEXES[name]
    times = [0]
    store = Store(lambda: times[-1])
    store.record(inspection(finding(indexes=earlier)))
    times.append(seconds)
    changes = store.record(inspection(plan="served", indexes=later))
    assert bool(changes.resolved) is resolved


def test_a_finding_that_is_raised_again_does_not_become_stale():
    times = []
    store = Store(lambda: times[-1])
    for seconds in (0, 3000):
        times.append(seconds)
        store.record(inspection(finding(indexes="one")))
    times.append(4000)
    assert store.record(inspection(plan="served", indexes="one")) == Changes()


@pytest.mark.parametrize(
    ("scanned", "resolved"),
    [(["public.t"], True), (["public.p1", "public.t"], True), (["public.p1"], False)],
)
def test_resolved_by_a_plan_that_reads_one_of_the_partitions(scanned, resolved):
    store = Store()
    store.record(inspection(finding(scanned=tuple(scanned))))
    assert bool(store.record(inspection(plan="served")).resolved) is resolved


def test_replaced_without_a_word_once_a_constant_turned_out_to_be_a_value():
    store = Store()
    masked = finding("name || ?::text")
    store.record(inspection(finding("name || 'a'::text")))
    store.record(inspection(finding("name || 'b'::text")))
    assert store.record(inspection(masked)) == Changes(detected=(masked,))
    assert store.findings() == (masked,)


@pytest.mark.parametrize(
    "other",
    [
        finding("name || ?::varchar"),
        finding("name || ?::text", relation="u"),
        finding("name || ?::text", rule="missing-index"),
    ],
)
def test_a_masked_expression_replaces_no_other(other):
    store, shown = Store(), finding("name || 'a'::text")
    store.record(inspection(shown))
    store.record(inspection(other))
    assert {each.id for each in store.findings()} == {shown.id, other.id}


def test_what_was_resolved_says_where_the_statement_now_comes_from(store):
    here = Location("app/views.py", 7, "index")
    (resolved,) = store.record(inspection(plan="served", location=here)).resolved
    assert (resolved.id, resolved.location) == (finding().id, here)


def test_what_was_resolved_keeps_its_place_if_no_other_is_known():
    store, there = Store(), Location("app/views.py", 9, "old")
    store.record(inspection(finding(location=there)))
    assert store.record(inspection(plan="served")).resolved[0].location == there


def test_bounded_and_what_was_not_seen_for_longest_goes(monkeypatch):
    monkeypatch.setattr(module, "MAX_FINDINGS", 3)
    store = Store()
    subjects = ["a", "b", "c"]
    store.record(inspection(*map(finding, subjects)))
    store.record(inspection(finding("a"), finding("b"), finding("c"), plan=None))
    store.record(inspection(finding("a"), plan=None))
    store.record(inspection(finding("d"), plan=None))
    assert {each.subject for each in store.findings()} == {"c", "a", "d"}


def test_most_severe_first_then_the_largest_table():
    def ranked(severity: Severity, rows: int | None) -> Finding:
        return finding(f"{severity} {rows}", severity=severity, table_rows=rows or 0)

    in_order = [
        ranked(Severity.CRITICAL, 10),
        ranked(Severity.WARNING, 5_000),
        ranked(Severity.WARNING, 1_000),
        ranked(Severity.INFO, 900_000),
        ranked(Severity.INFO, None),
    ]
    store = Store()
    for each in (in_order[3], in_order[1], in_order[4], in_order[0], in_order[2]):
        store.record(inspection(each, plan=None))
    assert store.findings() == tuple(in_order)


def test_equal_findings_have_a_stable_order():
    both = (finding("a"), finding("b"))
    stores = (Store(), Store())
    stores[0].record(inspection(*both))
    stores[1].record(inspection(*reversed(both)))
    assert stores[0].findings() == stores[1].findings()


def test_cleared_is_not_resolved(store):
    store.clear()
    assert store.findings() == ()
    assert store.record(inspection(plan="served")) == Changes()
    assert store.record(inspection(finding())).detected == (finding(),)


def saving(number: int, column: str, saves_ms: float, **changes) -> Finding:
    """Return a finding of the statement of this number, whose fix is an index on a column."""
    advice = Advice(AdviceKind.CREATE_INDEX, f"({column})", Verdict(VerdictStatus.VERIFIED))
    statement = Statement(f"{number:016}", "SELECT 1")
    return finding(column, statement, advice=(advice,), saves_ms=saves_ms, **changes)


def test_what_fixes_save_together_comes_first():
    costly, (cheap, cheaper), third = (
        saving(1, "a", 50),
        (saving(2, "b", 40), saving(3, "b", 20)),
        saving(4, "c", 45),
    )
    grave = saving(5, "b", 1, severity=Severity.CRITICAL)
    store = Store()
    for each in (third, cheaper, costly, grave, cheap):
        store.record(Inspection(each.statement, 1.0, findings=(each,)))
    assert store.findings() == (grave, cheap, cheaper, costly, third)
    assert by_fix(store.findings()) == [(grave, cheap, cheaper), (costly,), (third,)]


def test_what_a_statement_saves_by_one_fix_counts_once():
    store = Store()
    both = saving(1, "a", 50), replace(saving(1, "a", 30), subject="another")
    store.record(Inspection(both[0].statement, 1.0, findings=both))
    assert store.saved_ms(both[0].group) == 50
    other = saving(2, "a", 7)
    store.record(Inspection(other.statement, 1.0, findings=(other,)))
    assert store.saved_ms(other.group) == 57
    assert store.saved_ms(other.group, but=other.fingerprint) == 50


def ran(total_ms: float) -> StatementStatistics:
    """Return the statistics of a statement that took so long in all."""
    return StatementStatistics(explainable=True, total_ms=total_ms)


def advised(*indexes: str, statement: Statement = STATEMENT) -> Finding:
    """Return a finding of a statement with the advice to create these indexes."""
    verdict = Verdict(VerdictStatus.VERIFIED)
    made = (
        Advice(AdviceKind.CREATE_INDEX, ddl, verdict, (ddl,))
        for ddl in map("CREATE INDEX ON t ({})".format, indexes)
    )
    return finding(statement=statement, advice=tuple(made))


def shares(*found: Finding) -> list[list[tuple[int, float | None]]]:
    """Return what each advice of each finding serves, in the order of their fingerprints."""
    ordered = sorted(found, key=lambda one: one.fingerprint, reverse=True)
    return [[(one.statements, one.time_share) for one in each.advice] for each in ordered]


@pytest.fixture
def timed() -> Store:
    """A store of an app whose statements took ten seconds."""
    return Store(database_ms=lambda: 10_000.0)


def test_an_advice_serves_all_statements_that_ask_for_it(timed):
    first, second = ran(1000.0), ran(2000.0)
    one, both = advised("a"), advised("a", "b", statement=OTHER)
    (seen,) = timed.record(inspection(one), first).detected
    assert shares(seen) == [[(1, 0.1)]]
    changes = timed.record(inspection(both, statement=OTHER), second)
    assert shares(*changes.detected) == [[(2, 0.3), (1, 0.2)]]
    assert shares(*timed.findings()) == [[(2, 0.3)], [(2, 0.3), (1, 0.2)]]
    assert [(each.statements, each.time_share) for each in timed.findings()] == 2 * [(2, 0.3)]
    assert timed.findings()[0].advice[0].serves == "2 statements, 30% of database time"
    # The share is that of now.
    first.total_ms += 1000.0
    assert shares(*timed.findings()) == [[(2, 0.4)], [(2, 0.4), (1, 0.2)]]


def test_what_is_resolved_tells_how_many_statements_are_left(timed):
    counted = ran(1000.0), ran(2000.0)
    timed.record(inspection(advised("a")), counted[0])
    timed.record(inspection(advised("a", statement=OTHER), statement=OTHER), counted[1])
    changes = timed.record(inspection(plan="served"))
    assert shares(*changes.resolved) == [[(1, 0.2)]]


def test_a_finding_without_advice_has_the_share_of_its_statement(timed):
    counted = ran(2500.0), ran(500.0)
    timed.record(inspection(finding()), counted[0])
    timed.record(inspection(finding(statement=OTHER), statement=OTHER), counted[1])
    assert {(each.statements, each.time_share) for each in timed.findings()} == {
        (1, 0.25),
        (1, 0.05),
    }


def test_the_time_of_all_texts_of_a_statement_is_added_up(timed, monkeypatch):
    monkeypatch.setattr(module, "MAX_TEXTS", 2)
    texts = [ran(1000.0) for _ in range(3)]
    for statistics in (*texts[:2], *texts[:2]):
        timed.record(inspection(advised("a")), statistics)
    assert shares(*timed.findings()) == [[(1, 0.2)]]
    timed.record(inspection(advised("a")), texts[2])
    assert shares(*timed.findings()) == [[(1, 0.2)]]
    # What is not counted any more is not kept for this.
    texts.clear()
    del statistics
    assert shares(*timed.findings()) == [[(1, None)]]


def test_the_share_of_statements_whose_time_is_forgotten_is_not_known(timed):
    counted = ran(1000.0)
    timed.record(inspection(advised("a")), counted)
    timed.forget_times()
    assert shares(*timed.findings()) == [[(1, None)]]
    timed.record(inspection(advised("a")), counted)
    assert shares(*timed.findings()) == [[(1, 0.1)]]


@pytest.fixture
def busy() -> Store:
    """A store of an app whose statements took `store.total_ms`, at first a second."""
    store = Store(database_ms=lambda: store.total_ms)
    store.total_ms = 1000.0
    return store


def see(store: Store, found: Finding, statistics: StatementStatistics | None = None) -> Changes:
    return store.record(Inspection(found.statement, 1.0, findings=(found,)), statistics)


CANCELLED = StatementError("OperationalError", "57014")

#: What a finding has, and its severity once its fix saves 0.9% of the database time.
LITTLE = {
    "a warning": ({}, Severity.INFO),
    "an info": ({"severity": Severity.INFO}, Severity.INFO),
    "critical": ({"severity": Severity.CRITICAL}, Severity.CRITICAL),
    "it was cancelled": ({"error": CANCELLED}, Severity.WARNING),
    "its data was wrong": ({"error": StatementError("DataError", "22012")}, Severity.INFO),
}


@pytest.mark.parametrize("name", LITTLE)
def test_a_warning_is_an_info_once_its_fix_saves_little(busy, name):
    changes, severity = LITTLE[name]
    found = saving(1, "a", 540, **changes)
    assert see(busy, found).detected[0].severity is found.severity
    for total_ms in (54_000.0, 59_999.0, 60_000.0):
        busy.total_ms = total_ms
        now = severity if total_ms >= 60_000 else found.severity
        assert [one.severity for one in busy.findings()] == [now]
        assert [one.severity for one in busy.described([found])] == [now]
    assert see(busy, found).repeated[0].severity is severity


@pytest.mark.parametrize(("saves_ms", "severity"), [(599, "info"), (600, "warning")])
def test_what_is_gone_tells_what_it_was_last(busy, saves_ms, severity):
    see(busy, finding(saves_ms=saves_ms))
    busy.total_ms = 60_000.0
    assert busy.record(inspection(plan="served")).resolved[0].severity == severity


def test_what_saves_little_comes_by_what_it_saves(busy):
    """A warning of the first second is no more than an info of now."""
    early, late, much = (
        saving(1, "a", 30),
        saving(2, "b", 590, severity=Severity.INFO),
        saving(3, "c", 700),
    )
    for found in (early, late, much):
        see(busy, found)
    assert [one.id for one in busy.findings()] == [much.id, early.id, late.id]
    busy.total_ms = 61_000.0
    assert [one.id for one in busy.findings()] == [much.id, late.id, early.id]


def test_what_statements_save_by_one_fix_is_added_up(busy):
    for number in (1, 2):
        see(busy, saving(number, "a", 300))
    busy.total_ms = 60_000.0
    assert {one.severity for one in busy.findings()} == {Severity.WARNING}
    busy.total_ms = 60_100.0
    assert {one.severity for one in busy.findings()} == {Severity.INFO}


def test_a_statement_that_ran_on_saves_more_than_at_its_inspection(busy):
    """Most statements run far more often than they are inspected."""
    counted, other = ran(40.0), ran(50.0)
    see(busy, saving(1, "a", 30), counted)
    see(busy, saving(2, "b", 40), other)
    assert [one.saves_ms for one in busy.findings()] == [40, 30]
    busy.total_ms, counted.total_ms = 60_000.0, 800.0
    first, second = busy.findings()
    assert (first.saves_ms, first.severity) == (600.0, Severity.WARNING)
    assert (second.saves_ms, second.severity) == (40.0, Severity.INFO)
    assert busy.saved_ms(first.group) == 600.0
    assert [busy.saves_much(one) for one in (first, second)] == [True, False]
