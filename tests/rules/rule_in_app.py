"""The app in which the rows of a rule's table are checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import sqlalchemy as sa
from blinker import ANY

from flask_planwatch import (
    Advice,
    AdviceKind,
    Finding,
    Inspection,
    Verdict,
    VerdictStatus,
)
from flask_planwatch.signals import statement_inspected

from ..databases import Database, analyse_expressions
from ..servers import HYPOPG
from .case import Case, Rule


@dataclass(frozen=True)
class RuleInApp:
    """A rule in an app that PlanWatch watches, on one server, through one driver.

    All tests of a module share `database`, and none changes it. `copy` makes one to be changed.
    """

    rule: Rule
    database: Database
    driver: str
    copy: Callable[[], Database]
    watch: Callable[..., Any]

    def app(self, database: Database | None = None, **settings: object) -> Any:
        """Return an app on a database, or on the shared one."""
        url = (database or self.database).url_for(self.driver)
        return self.watch(url, **{**self.rule.settings, **settings})

    def ask(
        self,
        app: Any,
        statement: sa.Executable,
        *,
        runs: int | None = None,
        beside: Sequence[str] = (),
    ) -> list[Finding]:
        """Run a statement until it is judged; return what this rule has found so far."""
        runs = runs or self.rule.runs
        if runs > 1:
            # The round trip is known by what takes no time but that.
            run(app, sa.select(sa.literal(1)))
        for _ in range(runs):
            run(app, statement)
        return self.of_rule(app.findings(), beside)

    def of_rule(self, findings: Sequence[Finding], beside: Sequence[str] = ()) -> list[Finding]:
        """Return the findings of this rule; fail if a rule has spoken that may not."""
        for finding in findings:
            assert finding.rule in {self.rule.name, *self.rule.beside, *beside}, finding.message
            # What is not advised is said in the same line of the log, as what to look at next.
            assert finding.advice or finding.hint, finding.message
        return [finding for finding in findings if finding.rule == self.rule.name]

    def check(self, case: Case) -> Finding | None:
        """Fail unless the rule says of a statement what the row says; return what it found."""
        database = self.database
        if case.setup or case.by:
            database = self.copy()
            database.execute(*case.setup)
        app = self.app(database, **case.settings)
        with inspections(app) as seen:
            findings = self._ask(app, case)
        assert app.planwatch.stats()["errors"] == 0
        assert seen[-1].plan is not None, seen[-1].skip
        if case.found:
            self._check_finding(case, self._only(case, findings))
        else:
            assert findings == [], [finding.message for finding in findings]
            if case.reason is not None:
                dismissals = [one for one in seen[-1].dismissals if one.rule == self.rule.name]
                _check_each([one.reason for one in dismissals], [case.reason])
        if case.by:
            database.execute(*case.by)
            assert self._ask(app, replace(case, beside=())) == []
        return findings[0] if findings else None

    def check_fix(self, case: Case) -> None:
        """Fail unless the row is right, its fix is proved, and silences the rule once followed.

        The indexes are built for it, unless the row says how they are tried.
        """
        database = self.copy()
        database.execute(*case.setup)
        case = replace(case, settings={"PLANWATCH_VERIFY": "build", **case.settings})
        app = self.app(database, **case.settings)
        finding = self._only(case, self._ask(app, case))
        self._check_finding(case, finding)
        if case.rewritten is not None:
            if finding.advice and finding.advice[0].kind is AdviceKind.REWRITE:
                # An index that the rewritten statement needs comes with it.
                database.execute(*(sql for advice in finding.advice for sql in advice.ddl))
                database.execute(analyse_expressions(finding.relation))
            app = self.app(database, **case.settings)
            case = replace(case, statement=case.rewritten)
        else:
            case = replace(case, beside=())
            advice = finding.advice[0]
            database.execute(*advice.ddl)
            if advice.kind is AdviceKind.CREATE_INDEX:
                database.execute(analyse_expressions(finding.relation))
        left = [finding.message for finding in self._ask(app, case)]
        assert not left, f"{left} in {case.name!r} after the fix"
        assert app.planwatch.stats()["errors"] == 0

    def check_hypopg(self, case: Case) -> None:
        """Fail unless HypoPG proves the fix as well; on a server without it, skip."""
        if self.database.server.name != HYPOPG:
            pytest.skip("HypoPG is installed on the other server")
        database = self.copy()
        database.install_hypopg()
        (finding,) = self._ask(self.app(database, PLANWATCH_VERIFY="auto"), case)
        verdict = finding.advice[0].verdict
        assert (verdict.status, verdict.method) == (VerdictStatus.VERIFIED, "hypopg")

    def _ask(self, app: Any, case: Case) -> list[Finding]:
        return self.ask(app, case.statement, runs=case.runs, beside=case.beside)

    def _only(self, case: Case, findings: list[Finding]) -> Finding:
        found = [finding.message for finding in findings] or "no problem"
        assert len(findings) == 1, f"{self.rule.name} finds {found} in {case.name!r}"
        return findings[0]

    def _check_finding(self, case: Case, finding: Finding) -> None:
        about = case.about if isinstance(case.about, str) else case.about[self.driver]
        _check("about", finding.about, about)
        _check("severity", finding.severity, case.severity)
        for part in case.problem:
            _check("problem", finding.problem, f"…{part}…")
        for name, fact in case.evidence.items():
            given = finding.evidence[name]
            assert given == fact or _matches(str(given), str(fact)), f"{name}: {given}"
        if case.fix is not None:
            _check_each([written(advice) for advice in finding.advice], case.fix)
        for part in case.code:
            _check("code", finding.advice[0].sqlalchemy, f"…{part}…")
        for part in case.why:
            _check("why", finding.advice[0].explanation, f"…{part}…")
        self._check_proof(case, finding)

    def _check_proof(self, case: Case, finding: Finding) -> None:
        if case.proof is None:
            return
        verdict = finding.advice[0].verdict
        verify = {**self.rule.settings, **case.settings}.get("PLANWATCH_VERIFY", "auto")
        tried = verdict.method is not None or verdict.status is VerdictStatus.UNTESTED
        # Where nothing is built, there is no proof but that of what needs no trial.
        if tried and verify == "auto":
            return
        _check_each(shown(verdict), case.proof)
        if case.saves is not None:
            assert verdict.cost_after * case.saves < verdict.cost_before, verdict


def written(advice: Advice) -> str:
    """Return an advice as a row has it: its DDL, or else its summary."""
    return "; ".join(advice.ddl) or advice.summary


def shown(verdict: Verdict) -> list[str]:
    """Return what a trial showed, as a row has it."""
    return list(verdict.proof) or [f"{verdict.status}: {verdict.reason}".removesuffix(": ")]


def run(app: Any, statement: sa.Executable) -> None:
    """Run a statement, take back what it did, and wait until it was inspected."""
    with app.app.app_context():
        # The rows need not be made into objects.
        app.db.session.execute(statement).close()
        app.db.session.rollback()
    app.findings()


@contextmanager
def inspections(app: Any = None) -> Iterator[list[Inspection]]:
    """Collect the inspections of an app, or of all."""
    seen: list[Inspection] = []

    def keep(sender: object, inspection: Inspection) -> None:
        seen.append(inspection)

    with statement_inspected.connected_to(keep, app.app if app else ANY):
        yield seen


def _matches(text: str, expected: str) -> bool:
    patterns = (".*".join(map(re.escape, one.split("…"))) for one in expected.split(" | "))
    return any(re.fullmatch(pattern, text, re.DOTALL) for pattern in patterns)


def _check(what: str, text: str, expected: str) -> None:
    assert _matches(text, expected), f"{what}: {text!r} instead of {expected!r}"


def _check_each(texts: Sequence[str], expected: Sequence[str]) -> None:
    if expected and expected[-1] == "…":
        expected = expected[:-1]
        texts = texts[: len(expected)]
    same = len(texts) == len(expected) and all(map(_matches, texts, expected))
    assert same, f"{texts} instead of {list(expected)}"
