"""What changes between the plans of a statement is known, within limits."""

from __future__ import annotations

import pytest

from flask_planwatch.plan import constants
from flask_planwatch.plan.constants import SeenConstants
from flask_planwatch.plan.scrub import mask
from flask_planwatch.plan.tree import Plan


def plan(constant: str, *, kind: str = "Filter", text: str = "(t.data ->> {}::text)") -> Plan:
    printed = text.format(f"'{constant}'")
    node = {"Node Type": "Seq Scan", kind: printed if kind == "Filter" else [printed]}
    return Plan.from_json({"Plan": node})


def varying(*constants: str, **how: str) -> frozenset[str]:
    remembered = SeenConstants()
    return [remembered.varying("origin", plan(constant, **how)) for constant in constants][-1]


@pytest.mark.parametrize(
    ("how", "masked"),
    [
        ({"text": "((t.data ->> {}::text) = 'x'::text)"}, "(t.data ->> ?::text)"),
        ({"text": "((t.a = 1) OR (t.data ? {}::text))"}, "(a = ?) OR (data ? ?::text)"),
        ({"text": "(t.state <> {}::text)"}, "state <> ?::text"),
        ({"kind": "Sort Key"}, "(t.data ->> ?::text)"),
        ({"kind": "Sort Key", "text": "((t.data ->> {}::text)) DESC"}, "data ->> ?::text"),
        ({"kind": "Group Key"}, "data ->> ?::text"),
    ],
)
def test_what_changes_is_known_as_it_is_shown_and_as_an_index_has_it(how, masked):
    assert not any(masked == one for one in varying("k", "k", **how))
    assert masked in varying("k", "other", **how)


@pytest.mark.parametrize("test", ["t.x = {}::text", "t.x <> {}::text", "(t.x > {}) AND (t.y = 1)"])
def test_an_or_of_the_same_test_is_one_expression_however_long(test):
    remembered = SeenConstants()

    def learn(*constants: str) -> tuple[str, bool]:
        tests = [test.format(f"'{one}'") for one in constants]
        text = " OR ".join(f"({one})" for one in tests) if len(tests) > 1 else tests[0]
        found = plan("", text=f"({text})")
        condition = mask(text.replace("t.", ""))
        return condition, condition in remembered.varying("origin", found)

    assert not learn("a", "b")[1]
    assert not learn("a", "b")[1]
    condition, varies = learn("a", "b", "c")
    assert condition.count(" OR ") == 2
    assert varies
    assert learn("a", "b")[1]


def test_an_or_of_different_tests_is_known_by_all_of_them():
    remembered = SeenConstants()
    for column in ("b", "c"):
        text = f"((t.a = 1) OR (t.{column} = {{}}))"
        assert not remembered.varying("origin", plan("v", text=text)), column


def test_the_expressions_of_a_statement_that_its_plans_showed_last_are_kept(monkeypatch):
    monkeypatch.setattr(constants, "MAX_EXPRESSIONS", 2)
    remembered = SeenConstants()

    def learn(column: str, constant: str) -> bool:
        shown = plan(constant, kind="Sort Key", text=f"t.{column} ->> {{}}")
        return f"t.{column} ->> ?" in remembered.varying("origin", shown)

    # Each key is remembered as printed, and as an index has it.
    assert not learn("a", "k")
    assert learn("a", "other")
    assert not learn("b", "k")
    assert not learn("a", "k")


def test_the_statement_inspected_longest_ago_goes_first(monkeypatch):
    monkeypatch.setattr(constants, "MAX_WITH_CONSTANTS", 2)
    remembered = SeenConstants()
    for origin in ("a", "b", "a", "c"):
        remembered.varying(origin, plan("k", kind="Sort Key"))
    assert remembered.varying("a", plan("other", kind="Sort Key"))
    assert not remembered.varying("b", plan("other", kind="Sort Key"))
