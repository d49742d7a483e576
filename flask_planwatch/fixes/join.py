"""A join in place of a sub-query that runs for each row, and the plan that proves it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from ..finding import Verdict, VerdictStatus
from ..indexes.mapped import column_of
from ..indexes.verdict import Advised, Answer
from ..plan.comparison import comparisons
from ..plan.evidence import Hit
from ..plan.schema import Schema
from ..plan.sub_plan import SubPlan
from ..plan.tree import Node, Plan
from ..plan.wording import Template, say
from ..plan.work import Work
from ..server.transaction import may_be_refused
from ..settings import VERIFY_IS_OFF, VERIFY_OFF
from .case import Case
from .form import Form, attribute_of, key_of
from .unnest import AGGREGATES, compared_by_not_in, joined

_GROUPED = Form(
    "join a sub-query that is grouped by {columns:and}, in place of one that runs for each row",
    "It works out {function}() for all rows in one pass. Where there is nothing to aggregate, the "
    "join has no row and the value is NULL.",
    """\
grouped = (
    select({inner:list}, func.{function}({argument}).label("value"))
    # … the joins and the other conditions of the sub-query
    .group_by({inner:list})
    .subquery()
)
statement = statement.outerjoin(grouped, {grouped})
# … and {value} in place of the sub-query""",
)
_TESTED = Form(
    "use IN with a sub-query that does not depend on the outer row, by {columns:and}, in place of "
    "EXISTS, which runs for each row beside an OR",
    "What does not depend on the outer row is worked out once. IN is NULL where EXISTS is false, "
    "if a value is NULL: behind NOT, or in the SELECT list, they are not the same.",
    ".where(or_(…, {left}.in_(select({inner:list}).where(…))))",
)
_JOINED = Form(
    "join {target} by {columns:and} in place of a sub-query that runs for each row",
    "The join reads the table once. {unique} is unique, so there is at most one row for each.",
    ".outerjoin({target}, {joined})",
)
_FIRST = Form(
    "join a sub-query with DISTINCT ON ({columns:list}) in place of one that runs for each row",
    "It has one row for each {columns:and}, the first in the order of the sub-query; a plain join "
    "would multiply the rows. If only few of its rows are needed, an index on {columns:and}, and "
    "on what the sub-query is sorted by, makes each run fast instead.",
    """\
first = (
    select({inner:list}, ….label("value"))
    # … the joins and the other conditions of the sub-query
    .distinct({inner:list})
    .order_by({inner:list}, …)  # … what the sub-query is sorted by
    .subquery()
)
statement = statement.outerjoin(first, {first})
# … and first.c.value in place of the sub-query""",
)
_NOT_EXISTS = Form(
    "write NOT EXISTS in place of NOT IN: it becomes a join",
    "With NOT IN, PostgreSQL compares each row with all values, unless they fit into a hash table "
    "of work_mem. If one of the values is NULL, NOT IN finds no row at all, and it never finds a "
    "row whose own value is NULL. NOT EXISTS finds these rows.",
    ".where(~exists().where(….column == ….column, …))",
)
_BY_HAND = Form(
    "compute the result for all rows at once, in a sub-query that does not depend on the outer "
    "row, and join that",
    "The sub-query is not tied to the outer row by an equality that the plan shows, so it has no "
    "simple form as a join.",
)

_OFF = f'{VERIFY_IS_OFF}; "auto" would plan the rewritten statement'
_NOT_DERIVED = (
    "PlanWatch cannot derive the rewritten statement; run EXPLAIN on it, and look whether "
    "{sub_plan} is gone"
)
_NOT_PLANNED = "the server could not plan the rewritten statement as PlanWatch derived it"
_MAY_BE_NULL = (
    "{columns:and} may be NULL, and then NOT EXISTS finds other rows; if a column is never NULL, "
    "declare it NOT NULL"
)
_NULL_UNKNOWN = "a value may be NULL, and then NOT EXISTS finds other rows"
_STILL_REPEATED = (
    "planned as a join, it would still run once for each row, as the planner expects only a few of "
    "them; measure both forms"
)
_NOT_REPEATED = "planned as a join, nothing of it is left to run for each row"

_GONE = "{sub_plan}[, which ran {runs:times},] is gone"
_READ_ONCE = "{tables:and} {are} read once, for {step}"
_IS = Template("is")
_ARE = Template("are")
_HASH_TABLE = Template("a hash table")
_JOIN = Template("{type:an} ({join_type})")
_STEP = Template("{type:an}")

_NOT_NULL = """
SELECT attnotnull FROM pg_catalog.pg_attribute
WHERE attrelid = %s::regclass AND attname = %s AND NOT attisdropped
"""

#: Steps that keep the rows of the step below them, so that it runs once.
_KEEPS = frozenset({"Materialize", "Hash", "Sort"})


class _Correlation(NamedTuple):
    """A column of a sub-query that is compared by equality with one of the outer row.

    `inner` and `outer` are both columns in the names of the code, and `key` is what SQLAlchemy
    calls the inner one in a sub-query that selects it.
    """

    column: str
    inner: str
    outer: str
    key: str


def advise(case: Case, hit: Hit) -> Answer:
    """Return the join that does a sub-query's work in one pass.

    Raises ServerError if the connection fails.
    """
    plan = case.evidence.analysed or case.plan
    work = Work(plan, case.schema)
    sub_plan = next(found for found in work.sub_plans if found.node is hit.suspicion.node)
    correlations = _correlations(case, plan, sub_plan)
    aggregate = _aggregate(sub_plan.node)
    form, facts, unique = _BY_HAND, dict[str, object](), ""
    if correlations:
        unique = _unique(case, sub_plan, [correlation.column for correlation in correlations])
        one_value = _JOINED if unique else _FIRST
        tested = re.search(rf"\b(?:EXISTS|ANY)\b.*\b{sub_plan.name}\b", sub_plan.text)
        form = _GROUPED if aggregate else _TESTED if tested else one_value
        facts = {**_said(correlations, aggregate), "unique": unique}
    elif sub_plan.text.lstrip("(").startswith("NOT "):
        form = _NOT_EXISTS
    verdict = _verdict(case, sub_plan, first=not unique)
    if form is _NOT_EXISTS and verdict.status is VerdictStatus.VERIFIED:
        difference = _about_null(case)
        verdict = Verdict(VerdictStatus.UNTESTED, difference) if difference else verdict
    return Advised((form.advice(verdict, **facts),))


def _unique(case: Case, sub_plan: SubPlan, columns: Sequence[str]) -> str:
    """Return the unique index by which a sub-query finds one row at most, "" if there is none."""
    scans = [node for node in sub_plan.node.walk() if node.qualified_relation]
    relation = case.schema.get(scans[0].qualified_relation) if len(scans) == 1 else None
    indexes = relation.indexes if relation is not None else ()
    for index in indexes:
        whole = index.unique and index.valid and index.predicate is None
        if whole and set(index.keys) <= set(columns):
            return index.name
    return ""


def _about_null(case: Case) -> str:
    """Return why NOT EXISTS may find other rows than NOT IN, "" if nothing can be NULL."""
    compared = compared_by_not_in(case.query.text)
    if not compared:
        return _NULL_UNKNOWN
    with may_be_refused(), case.session.transaction() as transaction:
        nullable = [
            column
            for table, column in compared
            if transaction.fetch(_NOT_NULL, (table, column)) != [(True,)]
        ]
        return say(_MAY_BE_NULL, columns=nullable) if nullable else ""
    return _NULL_UNKNOWN


def _correlations(case: Case, plan: Plan, sub_plan: SubPlan) -> list[_Correlation]:
    """Return the equalities of a sub-query's columns with those of the outer row."""
    inside = {id(node) for node in sub_plan.node.walk()}
    own = {node.alias for node in sub_plan.node.walk()}
    scans = {scan.alias: scan for scan in plan.scans if id(scan) not in inside}
    found: dict[tuple[str, str], _Correlation] = {}
    for comparison in comparisons(plan, case.schema):
        name, other = comparison.column, comparison.other.column
        outer = scans.get(next(iter(comparison.other.aliases - own), None))
        relation = case.schema.get(outer.qualified_relation) if outer else None
        if id(comparison.scan) not in inside or comparison.operator != "=" or relation is None:
            continue
        if name is not None and other is not None:
            tables = case.schema.root(comparison.relation), case.schema.root(relation)
            of_inner, of_outer = map(case.mapped, tables)
            correlation = _Correlation(
                name,
                attribute_of(name, tables[0].name, of_inner),
                attribute_of(other, tables[1].name, of_outer),
                key_of(name, of_inner),
            )
            found.setdefault((tables[0].key, name), correlation)
    return list(found.values())


def _said(correlations: Sequence[_Correlation], aggregate: str) -> dict[str, object]:
    """Return what the forms say of the correlations, and of the aggregate if there is one."""
    columns, inner, outer, keys = zip(*correlations, strict=True)
    function, value = _function(aggregate), "grouped.c.value"
    grouped = [column_of("grouped", key) for key in keys]
    first = [column_of("first", key) for key in keys]
    return {
        "columns": columns,
        "inner": inner,
        "left": outer[0] if len(outer) == 1 else f"tuple_({', '.join(outer)})",
        "target": inner[0].partition(".")[0],
        "joined": _equal(inner, outer),
        "grouped": _equal(grouped, outer),
        "first": _equal(first, outer),
        "function": function,
        "argument": "" if aggregate == "count(*)" else "…",
        "value": f"func.coalesce({value}, 0)" if function == "count" else value,
    }


def _equal(left: Iterable[str], right: Iterable[str]) -> str:
    """Return as SQLAlchemy code that each of the columns equals its opposite."""
    conditions = list(map(" == ".join, zip(left, right, strict=True)))
    return conditions[0] if len(conditions) == 1 else f"and_({', '.join(conditions)})"


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


def _function(aggregate: str) -> str:
    """Return the name of the aggregate in what a plan prints, `max` if it shows none."""
    words = (word.rpartition("(")[2].strip().lower() for word in aggregate.split("(")[:-1])
    return next((word for word in words if word in AGGREGATES), "max")


def _verdict(case: Case, sub_plan: SubPlan, *, first: bool) -> Verdict:
    """Return what the planner does with the statement once it is a join."""
    if case.verify == VERIFY_OFF:
        return Verdict(VerdictStatus.UNTESTED, _OFF)
    parameters = case.query.parameters
    named = parameters is None or isinstance(parameters, Mapping)
    text = joined(case.query.text, first=first) if named else None
    if text is None:
        return Verdict(VerdictStatus.UNTESTED, say(_NOT_DERIVED, sub_plan=sub_plan.name))
    after = case.plan_of(text)
    if after is None:
        return Verdict(VerdictStatus.UNTESTED, _NOT_PLANNED)
    return verdict_on(sub_plan, after, case.schema)


def verdict_on(sub_plan: SubPlan, after: Plan, schema: Schema) -> Verdict:
    """Return whether nothing of a sub-query is repeated in the plan of the rewritten statement."""
    aliases = {node.alias for node in sub_plan.node.walk()} - {None}
    repeated = [other.node for other in Work(after, schema).sub_plans if not other.hashed]
    still = any(node.alias in aliases for top in repeated for node in top.walk())
    scans = [scan for scan in after.scans if scan.alias in aliases]
    path = _path(after, scans)
    if still or not path or _is_repeated(path):
        return Verdict(VerdictStatus.UNTESTED, _STILL_REPEATED)
    tables = sorted({scan.relation or "" for scan in scans})
    are = _IS if len(tables) == 1 else _ARE
    proof = (
        say(_GONE, sub_plan=sub_plan.name, runs=sub_plan.node.actual_loops or None),
        say(_READ_ONCE, tables=tables, are=are, **_used_by(path)),
    )
    return Verdict(VerdictStatus.VERIFIED, _NOT_REPEATED, proof=proof)


def _path(plan: Plan, scans: Sequence[Node]) -> list[Node]:
    """Return the steps from the one that has all scans below it up to the root."""
    paths = []
    for scan in scans:
        path = [scan]
        while (parent := plan.parents.get(id(path[-1]))) is not None:
            path.append(parent)
        paths.append(path)
    shared = [{id(node) for node in path} for path in paths]
    return [node for node in paths[0] if all(id(node) in ids for ids in shared)] if paths else []


def _is_repeated(path: Sequence[Node]) -> bool:
    """Whether a nested loop runs what is below the path again for each of its rows."""
    return any(
        node.relationship == "Inner" and parent.type == "Nested Loop" and node.type not in _KEEPS
        for node, parent in pairwise(path)
    )


def _used_by(path: Sequence[Node]) -> dict[str, object]:
    """Return the step that takes what is below the path."""
    for node in path:
        if node.relationship == "SubPlan":
            return {"step": _HASH_TABLE}
        if node.join_type is not None and node is not path[0]:
            return {"step": _JOIN, "type": node.type, "join_type": node.join_type}
    return {"step": _STEP, "type": path[-1].type}
