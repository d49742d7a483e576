"""A foreign key, where a join by several columns is expected to return far fewer rows than it does.

PostgreSQL multiplies the selectivities of the columns, and has no statistics across tables. Of a
foreign key it knows that each row has its match.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ..failure import ServerError
from ..finding import Advice, AdviceKind, Verdict, VerdictStatus
from ..indexes.render import alembic_execute
from ..indexes.verdict import Advised
from ..plan.comparison import comparisons
from ..plan.estimates import MIN_MISESTIMATE, Estimates
from ..plan.schema import Relation
from ..plan.tree import Node, Plan
from ..plan.wording import say
from ..server import enabling, whatif
from ..server.builds import on_statistics
from ..server.transaction import NO_SERVER
from ..settings import VERIFY_IS_OFF, VERIFY_OFF
from .case import Case
from .estimate import ESTIMATE, STILL_WRONG
from .trial import why_untested

_DECLARED = """
SELECT 1 FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class r ON r.oid = k.confrelid JOIN pg_namespace p ON p.oid = r.relnamespace
WHERE k.contype = 'f' AND (n.nspname, c.relname, p.nspname, r.relname) = (%s, %s, %s, %s)
"""

_DDL = "ALTER TABLE {child} ADD FOREIGN KEY ({columns:list}) REFERENCES {parent} ({keys:list})"
_EXPLANATION = (
    "PostgreSQL assumes that {columns:and} are independent of each other. From the foreign key it "
    "knows that each row of {child} has one match in {parent}. The server refuses the key if a row "
    "has none. It then looks up each row that is written to {child} in {parent}, and needs an "
    "index on {child} ({columns:list}) to delete from {parent} fast."
)

_NOT_TRIED = "a foreign key has to be declared to be tried[: {building}]"
_RIGHT = "with the foreign key the estimate is close to the actual number of rows"
_OTHER_PLAN = "with the foreign key the planner chooses another plan, which does not have this join"


class _Reference(NamedTuple):
    """The columns by which each row of `child` may refer to one of `parent`, each with its own."""

    child: Relation
    parent: Relation
    columns: Mapping[str, str]

    def said(self) -> dict[str, object]:
        """Return both tables with their columns, as SQL."""
        return {
            "child": self.child.display,
            "parent": self.parent.display,
            "columns": list(map(self.child.quoted_column, self.columns)),
            "keys": list(map(self.parent.quoted_column, self.columns.values())),
        }


def advise(case: Case, plan: Plan, join: Node) -> Advised | None:
    """Return the foreign key that corrects the estimate of a join, None if there is none.

    `plan` is the one that was run. Raises ServerError if the connection fails.
    """
    for reference in _references(case, plan, join):
        if not _is_declared(case, reference):
            return _advised(case, plan, join, reference)
    return None


def _references(case: Case, plan: Plan, join: Node) -> Iterator[_Reference]:
    """Yield how the rows below a join may refer to each other by the columns that are compared."""
    scans = {node.alias: node for node in _below(join) if node.alias and node.relation}
    pairs: dict[tuple[str, str], dict[str, str]] = {}
    for comparison in comparisons(plan, case.schema):
        one, other = comparison.scan.alias, next(iter(comparison.other.aliases), None)
        if one is None or other is None or one == other or comparison.operator != "=":
            continue
        name, key = comparison.column, comparison.other.column
        if {one, other} <= scans.keys() and name is not None and key is not None:
            pairs.setdefault((one, other), {})[name] = key
    for (one, other), columns in pairs.items():
        for child, parent, found in (
            (one, other, columns),
            (other, one, {key: name for name, key in columns.items()}),
        ):
            relations = case.schema.of(scans[alias].qualified_relation for alias in (child, parent))
            if len(relations) == 2 and len(found) > 1 and _is_key(relations[1], found.values()):
                yield _Reference(relations[0], relations[1], found)


def _below(join: Node) -> Iterator[Node]:
    """Yield the steps below a join whose rows come to it."""
    waiting = [join]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.inputs


def _is_key(relation: Relation, columns: Iterable[str]) -> bool:
    """Whether a foreign key may refer to these columns: a unique index holds just them."""
    wanted = set(columns)
    return relation.indexable and any(
        index.unique and index.valid and index.predicate is None and set(index.keys) == wanted
        for index in relation.indexes
    )


def _is_declared(case: Case, reference: _Reference) -> bool:
    child, parent = reference.child, reference.parent
    names = (child.schema, child.name, parent.schema, parent.name)
    return bool(case.session.fetch(_DECLARED, names))


def _advised(case: Case, plan: Plan, join: Node, reference: _Reference) -> Advised:
    said, blocked = reference.said(), False
    ddl = say(_DDL, **said)
    reason = VERIFY_IS_OFF if case.verify == VERIFY_OFF else ""
    if not reason and not case.builds:
        with case.session.transaction() as transaction:
            options = enabling.options(transaction, [reference.child, reference.parent])
        reason = say(_NOT_TRIED, building=options and options.building)
    verdict = Verdict(VerdictStatus.UNTESTED, reason)
    if not reason:
        try:
            verdict = _tried(case, plan, join, ddl)
        except (whatif.Untestable, whatif.Blocked) as error:
            reason, blocked = why_untested(error)
            verdict = Verdict(VerdictStatus.UNTESTED, reason)
    advice = Advice(
        AdviceKind.ANALYZE,
        ddl,
        verdict,
        ddl=(ddl,),
        alembic=alembic_execute((ddl,)),
        explanation=say(_EXPLANATION, **said),
    )
    return Advised((advice,), blocked=blocked)


def _tried(case: Case, plan: Plan, join: Node, ddl: str) -> Verdict:
    """Return what the planner expects of the join once the foreign key is there."""
    with on_statistics(case.session) as fresh:
        # What is there already need not be checked for the estimate.
        fresh.declare(f"{ddl} NOT VALID")
        try:
            after = fresh.explain(case.query)
        except ServerError as error:
            if error.reason in NO_SERVER:
                raise
            raise whatif.Untestable(str(error)) from error
    found = next((node for node in after.nodes if _tables(node) == _tables(join)), None)
    if found is None:
        return Verdict(VerdictStatus.UNTESTED, _OTHER_PLAN, method=whatif.BUILD)
    estimates = Estimates(plan)
    actual, runs = estimates.actual(join), estimates.runs(join)
    facts = {
        "before": estimates.expected(join) / runs,
        "after": found.rows,
        "actual": actual / runs,
    }
    expected = max(found.rows, 1.0) * runs
    if max(expected / actual, actual / expected) >= MIN_MISESTIMATE:
        reason = say(STILL_WRONG, **facts)
        return Verdict(VerdictStatus.REJECTED, reason, method=whatif.BUILD)
    proof = (say(ESTIMATE, **facts),)
    return Verdict(VerdictStatus.VERIFIED, _RIGHT, method=whatif.BUILD, proof=proof)


def _tables(node: Node) -> frozenset[str]:
    """Return the aliases of all tables whose rows a join joins; nothing for another step."""
    if node.join_type is None:
        return frozenset()
    return frozenset(step.alias for step in _below(node) if step.alias and step.relation)
