"""What is done on one server: every statement is asked about, its advice followed and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from . import greedy, tpch
from .adviser import Advised, Found, adviser
from .built import BuiltIndexes, built_indexes
from .cases import CASES
from .judged import ADVISED, DEAREST, FULL_SCALE, GREEDY, REWRITTEN, SAVES, UNION
from .measuring import BEFORE, Measured, Variant, measure
from .named import named_share
from .queries import queries
from .results import Results
from .servers import Database, Server, Session
from .statement import Case, Data, Statement, sized

_VERIFIED = "verified"
_REWRITE = "rewrite"

#: A statement is measured until it is clear on which side of these ratios it is.
_LIMITS = (DEAREST, 1 - SAVES)

#: How the commands of an advice begin that changes plans by its indexes alone.
_INDEX_COMMANDS = ("CREATE INDEX", "CREATE UNIQUE INDEX", "ALTER INDEX", "CREATE EXTENSION")


@dataclass(frozen=True)
class Size:
    """How much is measured: the scale of TPC-H, seconds for a statement, and for an execution."""

    scale: float
    seconds: float
    longest: float

    @property
    def share(self) -> float:
        """Of the rows of the other data: all of them at the full scale of TPC-H."""
        return min(1.0, self.scale / FULL_SCALE)


@dataclass(frozen=True)
class Programme:
    """The work on one server. `is_chosen` says by name whether a statement is wanted."""

    server: Server
    size: Size
    results: Results
    is_chosen: Callable[[str], bool]
    say: Callable[[str], None]

    def run(self) -> None:
        """Do what has not been done yet. Raises OutOfTime if there is no time for all of it."""
        for data in CASES:
            self._run_cases(data)
        self._run_tpch([query for query in queries(self.size.scale) if self.is_chosen(query.name)])

    def _run_cases(self, data: Data) -> None:
        done = self.results.part(self.server.name, "cases")
        wanted = [
            (case, statement)
            for case in data.cases
            for statement in case.statements
            if self.is_chosen(statement.name) and statement.name not in done
        ]
        if not wanted:
            return
        self.results.check_time()
        with self.server.database() as database:
            database.run(sized(command, self.size.share) for command in data.commands)
            database.run(["VACUUM (FREEZE, ANALYZE)"])
            database.run(sized(command, self.size.share) for command in data.afterwards)
            for case, statement in wanted:
                self.results.check_time()
                done[statement.name] = self._case(database, case, statement)
                self.results.save()
                self.say(f"{self.server.name}: {statement.name}")

    def _case(self, database: Database, case: Case, statement: Statement) -> dict[str, Any]:
        with adviser(database, self.server.verify, self.size.longest) as asked:
            asked.warm_up()
            needed_ms = asked.ask(statement)
            findings = asked.findings(statement)
        advice = _applicable(findings)
        with ExitStack() as stack:
            changed = database
            if not all(map(_is_index, advice)):
                # Statistics cannot be switched on and off.
                changed = stack.enter_context(self.server.database(template=database))
            built = stack.enter_context(built_indexes(changed))
            indexes, failed = _build(built, advice)
            session = stack.enter_context(database.session(self.size.longest))
            variants = {BEFORE: Variant(session, statement, partial(built.use, ()))}
            if advice:
                other = (
                    session
                    if changed is database
                    else stack.enter_context(changed.session(self.size.longest))
                )
                variants[ADVISED] = Variant(other, statement, partial(built.use, indexes))
            if rewritten := _rewritten(case, statement, findings):
                variants[REWRITTEN] = Variant(session, rewritten, partial(built.use, ()))
            measured = measure(variants, self.size.seconds, _LIMITS)
            entry = _entry(needed_ms, findings, measured, advice)
            entry |= {
                "indexes": built.count(indexes),
                "bytes": built.size(indexes),
                "failed": failed,
                "sound": statement.sound,
            }
            built.drop(indexes)
        return entry

    def _run_tpch(self, chosen: Sequence[Statement]) -> None:
        part = self.results.part(self.server.name, "tpch")
        done = part.setdefault("queries", {})
        if all(query.name in done for query in chosen):
            return
        self.results.check_time()
        with self.server.database() as database:
            tpch.fill(database.dsn, self.size.scale)
            if "asked" not in part:
                part["asked"] = self._ask(database, chosen)
                self.results.save()
            with (
                built_indexes(database) as built,
                database.session(self.size.longest) as session,
            ):
                self._measure_queries(part, built, session, chosen)

    def _measure_queries(
        self,
        part: dict[str, Any],
        built: BuiltIndexes,
        session: Session,
        chosen: Sequence[Statement],
    ) -> None:
        findings = {
            name: [Found.of(one) for one in asked["findings"]]
            for name, asked in part["asked"].items()
        }
        # The statistics are fresh: what is advised of them would change every query, and stay.
        advice = {name: list(filter(_is_index, _applicable(f))) for name, f in findings.items()}
        union = list(dict.fromkeys(commands for every in advice.values() for commands in every))
        if "greedy" not in part:
            self.say(f"{self.server.name}: greedy search")
            check_time = self.results.check_time
            part["greedy"] = greedy.search(built, session, chosen, len(union), check_time)
            self.results.save()
        all_indexes, failed = _build(built, union)
        part["union"] = {
            "commands": [command for commands in union for command in commands],
            "indexes": built.count(all_indexes),
            "bytes": built.size(all_indexes),
            "failed": failed,
        }
        greedy_indexes, _ = _build(built, ((command,) for command in part["greedy"]))
        for query in chosen:
            if query.name in part["queries"]:
                continue
            self.results.check_time()
            own, failed = _build(built, advice[query.name])
            sets = {BEFORE: frozenset[int](), UNION: all_indexes, GREEDY: greedy_indexes}
            if advice[query.name]:
                sets[ADVISED] = own
            variants = {
                name: Variant(session, query, partial(built.use, indexes))
                for name, indexes in sets.items()
            }
            measured = measure(variants, self.size.seconds, _LIMITS)
            needed_ms = part["asked"][query.name]["planwatch_ms"]
            entry = _entry(needed_ms, findings[query.name], measured, advice[query.name])
            entry |= {"indexes": built.count(own), "bytes": built.size(own), "failed": failed}
            part["queries"][query.name] = entry
            self.results.save()
            self.say(f"{self.server.name}: {query.name}")

    def _ask(self, database: Database, chosen: Iterable[Statement]) -> dict[str, Any]:
        """Ask about all queries in one application, which is what its advice is for in the end."""
        needed_ms = {}
        with adviser(database, self.server.verify, self.size.longest) as asked:
            asked.warm_up()
            for query in chosen:
                self.results.check_time()
                needed_ms[query.name] = asked.ask(query)
                self.say(f"{self.server.name}: asked about {query.name}")
            return {
                query.name: {
                    "planwatch_ms": needed_ms[query.name],
                    "findings": [found.data() for found in asked.findings(query)],
                }
                for query in chosen
            }


def _verified(findings: Iterable[Found]) -> list[Advised]:
    return [advice for found in findings for advice in found.advice if advice.verdict == _VERIFIED]


def _applicable(findings: Iterable[Found]) -> list[tuple[str, ...]]:
    """Return the commands of each verified advice that has some, each once."""
    return list(
        dict.fromkeys(
            advice.commands
            for advice in _verified(findings)
            if advice.commands and advice.kind != _REWRITE
        )
    )


def _is_index(commands: tuple[str, ...]) -> bool:
    return all(command.startswith(_INDEX_COMMANDS) for command in commands)


def _build(
    built: BuiltIndexes, advice: Iterable[tuple[str, ...]]
) -> tuple[frozenset[int], list[str]]:
    """Build what is advised, and return the indexes and what the server refused."""
    indexes: frozenset[int] = frozenset()
    failed = []
    for commands in advice:
        try:
            indexes |= built.build(commands)
        except sa.exc.DBAPIError as error:
            failed.append(f"{'; '.join(commands)}: {error.orig}".strip())
    return indexes, failed


def _rewritten(case: Case, statement: Statement, findings: Iterable[Found]) -> Statement | None:
    """Return the form that is advised in place of a statement, if its twin is that."""
    advised = any(advice.kind == _REWRITE for advice in _verified(findings))
    if not advised or not case.same_rows or statement != case.statements[0]:
        return None
    return next(iter(case.statements[1:]), None)


def _entry(
    needed_ms: float,
    findings: Sequence[Found],
    measured: Mapping[str, Measured],
    applied: Sequence[tuple[str, ...]],
) -> dict[str, Any]:
    """Return what came of a statement, for JSON.

    `not_applied` is verified advice whose commands were not run, and for which there is no twin.
    """
    verified = _verified(findings)
    named = [found for found in findings if any(one in verified for one in found.advice)]
    return {
        "planwatch_ms": needed_ms,
        "findings": [found.data() for found in findings],
        "commands": ["; ".join(commands) for commands in applied],
        "not_applied": [
            advice.summary
            for advice in verified
            if not (
                REWRITTEN in measured if advice.kind == _REWRITE else advice.commands in applied
            )
        ],
        "named": named_share(measured[BEFORE].plan, named),
        "variants": {name: one.data() for name, one in measured.items()},
    }
