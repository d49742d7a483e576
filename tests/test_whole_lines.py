"""With names of usual length, no line of the log is cut: it says what is wrong, and what to do."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from itertools import product
from types import ModuleType
from typing import Any

import pytest

from flask_planwatch import failure, fixes, rules
from flask_planwatch.finding import (
    Advice,
    AdviceKind,
    Finding,
    Location,
    Severity,
    Statement,
    StatementError,
    Verdict,
    VerdictStatus,
)
from flask_planwatch.fixes.form import Form
from flask_planwatch.fixes.rewrite import _WITH_LITERAL, _WITH_LITERAL_VERDICT
from flask_planwatch.inspection.findings import TITLE
from flask_planwatch.plan.wording import Template, Words, say
from flask_planwatch.report.log import lines
from flask_planwatch.rules import (
    bitmap_overread,
    cost_mismatch,
    index_only_blocked,
    limit_trap,
    missing_index,
    pattern_match,
    statement_failed,
)
from flask_planwatch.settings import VERIFY_IS_OFF

#: Names of a table and of a column, with twelve characters.
TABLE, COLUMN, INDEX = "customer_row", "customer_ref", "customer_key"
EXPRESSION = f"regexp_replace(({COLUMN})::text, ?::text, ''::text)"
STEP = f"Index Only Scan using {INDEX} on {TABLE}"
BITMAP = f"Bitmap Heap Scan on {TABLE}"


def templates(module: ModuleType, *names: str) -> list[Template]:
    return [Template(getattr(module, name)) for name in names]


#: The facts of the templates, and those that have several forms.
FACTS: dict[str, Any] = {
    "actual_rows": 250_000,
    "besides": "",
    "blocking": [COLUMN],
    "cast_type": "character varying",
    "code": "",
    "column": COLUMN,
    "column_type": "character varying",
    "columns": [COLUMN],
    "condition": f"{COLUMN} >= start AND {COLUMN} < end",
    "config": "english",
    "cost": 12_345,
    "costliest": STEP,
    "covering": INDEX,
    "driver": "psycopg",
    "entries": 250_000,
    "entries_read": 250_000,
    "error": StatementError("QueryCanceled", "57014"),
    "executed": True,
    "existing": INDEX,
    "expected_rows": 1,
    "expression": EXPRESSION,
    "factor": 250,
    "fallback": "now()",
    "far": "far",
    "foreign_key": "customer_row_customer_ref_fkey",
    "given": ["str"],
    "hidden": 0.5,
    "index": INDEX,
    "indexes": [INDEX],
    "key": COLUMN,
    "limit_rows": 1,
    "missing": [COLUMN],
    "node": STEP,
    "one": TABLE,
    "operator": "=",
    "other": "invoice_line",
    "other_column": COLUMN,
    "other_table": "invoice_line",
    "outer": "invoice_line",
    "partitions": "",
    "own_cost": 345,
    "period": "month",
    "policy": "own_customer",
    "python": "int",
    "query": "plainto_tsquery",
    "root": STEP,
    "rows": 100_000,
    "searched": [COLUMN],
    "setting": "prepare_threshold",
    "sorted": [COLUMN],
    "sqlalchemy": "sa.Text()",
    "step": "Index Only Scan",
    "sub_query": "SubPlan 1",
    "subject": EXPRESSION,
    "table": TABLE,
    "target": TABLE,
    "test": "pattern",
    "type": "character varying",
    "value": "None",
    "visible": 0.5,
}
CHOICES: dict[str, dict[str, list[Any]]] = {
    "bitmap_overread": {"does": templates(bitmap_overread, "_READ", "_EXPECTED")},
    "cost_mismatch": {
        "look": templates(
            cost_mismatch,
            "_LOOK_AT_FUNCTIONS",
            "_LOOK_AT_ROWS",
            "_LOOK_AT_DISCARDED",
            "_LOOK_AT_STEP",
            "_LOOK_IN_PSQL",
            "_ANALYSE",
        )
    },
    "index_only_blocked": {
        "short_cause": templates(
            index_only_blocked, "_BLOCKED_SHORT", "_NOT_VISIBLE_SHORT", "_LOOKED_UP_SHORT"
        )
    },
    "limit_trap": {"much": templates(limit_trap, "_READ", "_FAR_MORE")},
    "missing_index": {
        "whole": templates(missing_index, "_ALL", "_ALL_IN"),
        "lacks": templates(
            missing_index,
            "_NO_INDEX",
            "_NO_INDEX_FOR_THE_JOIN",
            "_NO_ORDER",
            "_NOT_BOTH",
            "_BEGINS_OTHERWISE",
            "_PARTIAL",
            "_SHORTER",
            "_NOT_USED",
        ),
    },
    "pattern_match": {"lacks": list(pattern_match._LACKS.values())},
    "statement_failed": {
        "meaning": list(failure._LOAD.values()),
        "look": templates(statement_failed, "_LOOK_AT_STEP", "_LOOK_INTO_LOG"),
    },
}


def declared(package: Any, kind: type) -> Iterator[Any]:
    """Yield the templates of this kind with the name of their module."""
    for found in pkgutil.iter_modules(package.__path__):
        module = import_module(f"{package.__name__}.{found.name}")
        for name, value in vars(module).items():
            if isinstance(value, kind):
                yield pytest.param(found.name, value, id=f"{found.name}-{name}")


def finding(title: str, hint: str = "", *advice: Advice) -> Finding:
    return Finding(
        rule="missing-index",
        severity=Severity.CRITICAL,
        statement=Statement("0" * 16, "SELECT 1"),
        relation=TABLE,
        subject=COLUMN,
        problem="",
        title=title,
        hint=hint,
        advice=advice,
        location=Location("shop/views.py", 35, "find_user"),
        endpoint="shop.find_user",
    )


def is_whole(message: str) -> bool:
    """Whether nothing is cut; in parentheses, three dots are a template's own."""
    return not re.search(r"…(?!\))", message.replace("= ANY (…)", ""))


@pytest.mark.parametrize(("rule", "words"), list(declared(rules, Words)))
def test_titles_and_hints_are_whole(rule: str, words: Words) -> None:
    choices = CHOICES.get(rule, {})
    used = set(re.findall(r"\{(\w+)", words.what + words.why + words.hint))
    chosen = [name for name in choices if name in used]
    given = (
        {"node": BITMAP, "indexes": [INDEX, "customer_new"]} if rule == "bitmap_overread" else {}
    )
    for values in product(*(choices[name] for name in chosen)):
        facts = FACTS | given | dict(zip(chosen, values, strict=True))
        said = {name: say(getattr(words, name), **facts) for name in ("what", "why", "hint")}
        # Of a plan that was not executed, no time is said.
        much = ["100,000 rows", "1,052 ms"][: 1 if rule == "generic_plan" else 2]
        title = say(TITLE, what=said["what"], much=much, why=said["why"])
        message = lines(finding(title, said["hint"]))
        assert is_whole(message), message


@pytest.mark.parametrize(("fix", "form"), list(declared(fixes, Form)))
def test_changes_are_whole(fix: str, form: Form) -> None:
    title = f"Seq Scan on {TABLE} (100,000 rows, 1,052 ms): no index on {EXPRESSION}"
    verdicts = [
        Verdict(VerdictStatus.NOT_APPLICABLE),
        Verdict(VerdictStatus.UNTESTED, VERIFY_IS_OFF),
    ]
    if form is _WITH_LITERAL:
        verdicts = [Verdict(VerdictStatus.UNTESTED, _WITH_LITERAL_VERDICT)]
    for verdict in verdicts:
        advice = Advice(form.kind, say(form.summary, **FACTS), verdict)
        message = lines(finding(title, "", advice))
        assert is_whole(message), message


def test_a_cut_is_seen() -> None:
    advice = Advice(AdviceKind.REWRITE, "word " * 60, Verdict(VerdictStatus.NOT_APPLICABLE))
    assert not is_whole(lines(finding("Short", "", advice)))
    assert not is_whole(lines(finding("word " * 60)))
