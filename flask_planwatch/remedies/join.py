"""A join in place of a sub-query that runs for each row, planned to see whether the loops go."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from ..advice.join import Tie, join_advice
from ..advice.unnest import joined
from ..advice.verdict import Advised, Answer
from ..finding import Verdict, VerdictStatus
from ..plan.comparison import comparisons
from ..plan.evidence import Hit
from ..plan.schema import Schema
from ..plan.tree import Node, Plan
from ..rules.loops import SubPlan, Work
from ..server.explain import Query
from ..server.transaction import NO_SERVER, ServerError
from ..settings import VERIFY_OFF
from .case import Case

#: Steps that keep what is below them, so that it runs once however often they are asked.
_KEEPS = frozenset({"Materialize", "Hash", "Sort"})


def advise(case: Case, hit: Hit) -> Answer:
    """Return the join that does a sub-query's work in one pass.

    Raises ServerError if the connection fails.
    """
    plan = case.evidence.analysed or case.plan
    sub_plan = next(
        one for one in Work(plan, case.schema).sub_plans if one.node is hit.suspicion.node
    )
    ties = _ties(case, plan, sub_plan)
    advice = join_advice(
        ties,
        aggregate=_aggregate(sub_plan.node),
        negated=not ties and sub_plan.text.lstrip("(").startswith("NOT "),
        verdict=_verdict(case, sub_plan),
    )
    return Advised((advice,))


def _ties(case: Case, plan: Plan, sub_plan: SubPlan) -> list[Tie]:
    """Return the equalities of a sub-query's columns with those of the outer row."""
    inside = {id(node) for node in sub_plan.node.walk()}
    own = {node.alias for node in sub_plan.node.walk()}
    scans = {scan.alias: scan for scan in plan.scans if id(scan) not in inside}
    found: dict[tuple[str, str], Tie] = {}
    for one in comparisons(plan, case.schema):
        name, other = one.column, one.other.column
        outer = scans.get(next(iter(one.other.aliases - own), None))
        relation = case.schema.get(outer.qualified_relation) if outer else None
        if id(one.scan) not in inside or one.operator != "=" or relation is None:
            continue
        if name is not None and other is not None:
            table, outer_table = case.schema.root(one.relation), case.schema.root(relation)
            tie = Tie(table, name, outer_table, other, case.mapped(table), case.mapped(outer_table))
            found.setdefault((table.key, name), tie)
    return list(found.values())


def _aggregate(node: Node) -> str:
    """Return the aggregate that a sub-query works out, as printed, or nothing."""
    while node.type in {"Result", "Limit"} and node.children:
        node = node.children[0]
        if node.relationship == "InitPlan":
            # The first or last entry of an index in place of min() or max().
            return "max(…)"
    if node.type != "Aggregate" or node.group_keys:
        return ""
    return node.output[0] if node.output else ""


def _verdict(case: Case, sub_plan: SubPlan) -> Verdict:
    """Return what the planner does with the statement once it is a join."""
    query = case.query
    if case.verify == VERIFY_OFF:
        return _untested('PLANWATCH_VERIFY is "off"; "auto" would plan the rewritten statement')
    named = query.parameters is None or isinstance(query.parameters, Mapping)
    text = joined(query.text) if named else None
    if text is None:
        return _untested(
            "PlanWatch cannot derive the rewritten statement; run EXPLAIN on it, and look whether "
            f"{sub_plan.name} is gone"
        )
    try:
        with case.session.transaction() as transaction:
            after = Query(text, query.parameters, query.escaped).explain(transaction)
    except ServerError as error:
        if error.reason in NO_SERVER:
            raise
        return _untested(
            "the server could not plan the rewritten statement as PlanWatch derived it"
        )
    return verdict_on(sub_plan, after, case.schema)


def verdict_on(sub_plan: SubPlan, after: Plan, schema: Schema) -> Verdict:
    """Return whether nothing of a sub-query is repeated in the plan of the rewritten statement."""
    aliases = {node.alias for node in sub_plan.node.walk()} - {None}
    repeated = [one for one in Work(after, schema).sub_plans if not one.hashed]
    still = any(node.alias in aliases for one in repeated for node in one.node.walk())
    path = _path(after, [scan for scan in after.scans if scan.alias in aliases])
    if still or not path or _is_repeated(path):
        return _untested(
            "planned as a join, it would still run once for each row, as the planner expects only "
            "a few of them; measure both forms"
        )
    runs = sub_plan.node.actual_loops
    was = f"{sub_plan.name}, which ran {runs:,.0f} times," if runs else sub_plan.name
    tables = {scan.relation or "" for scan in after.scans if scan.alias in aliases}
    read = "is read" if len(tables) == 1 else "are read"
    return Verdict(
        VerdictStatus.VERIFIED,
        "planned as a join, nothing of it is left to run for each row",
        proof=(
            f"{was} is gone",
            f"{' and '.join(sorted(tables))} {read} once, for {_used_by(path)}",
        ),
    )


def _path(plan: Plan, scans: list[Node]) -> list[Node]:
    """Return the steps from the one that has all scans below it up to the root."""
    if not scans:
        return []
    paths = []
    for scan in scans:
        path = [scan]
        while (parent := plan.parents.get(id(path[-1]))) is not None:
            path.append(parent)
        paths.append(path)
    shared = set.intersection(*({id(node) for node in path} for path in paths))
    return [node for node in paths[0] if id(node) in shared]


def _is_repeated(path: list[Node]) -> bool:
    """Whether a nested loop runs what is below the path again for each of its rows."""
    return any(
        node.relationship == "Inner" and parent.type == "Nested Loop" and node.type not in _KEEPS
        for node, parent in pairwise(path)
    )


def _used_by(path: list[Node]) -> str:
    """Return the step that takes what is below the path."""
    for node in path:
        if node.relationship == "SubPlan":
            return "a hash table"
        if node.join_type is not None and node is not path[0]:
            return f"a {node.type} ({node.join_type})"
    return f"a {path[-1].type}"


def _untested(reason: str) -> Verdict:
    return Verdict(VerdictStatus.UNTESTED, reason)
