"""The SQL of a statement with joins in place of the sub-queries that run for each row.

It is for the planner only, which shows whether the loops go away; nobody runs it.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import expressions as sql
from sqlglot.errors import SqlglotError

from ..plan.dialect import Structure, read_statement, write

#: Functions that make one row of many; those that people write in sub-queries.
AGGREGATES = frozenset(
    {"count", "sum", "min", "max", "avg", "bool_and", "bool_or", "every", "string_agg"}
    | {"array_agg", "json_agg", "jsonb_agg", "json_object_agg", "jsonb_object_agg"}
)

#: Clauses with which a sub-query does more than find the rows that match.
_MORE = ("group", "having", "limit", "offset", "distinct", "with_", "with", "windows", "qualify")


def joined(statement: str) -> str | None:
    """Return a statement with its sub-queries as joins, None if none of them has that form.

    It returns the same rows, except where values are NULL. Placeholders must have names.
    """
    try:
        tree = read_statement(statement)
        if not isinstance(tree, sql.Select):
            return None
        # Inner ones first, so that an outer one takes them along.
        nested = [*tree.find_all(sql.Subquery, sql.Exists, sql.In)]
        changed = [_replace(node, number) for number, node in enumerate(reversed(nested), 1)]
        return write(tree) if any(changed) else None
    except (SqlglotError, RecursionError):
        return None


def _replace(node: Structure, number: int) -> bool:
    """Put a join, or a test that needs no outer row, in the place of a sub-query."""
    if isinstance(node, sql.Exists):
        return isinstance(node.this, sql.Select) and _replace_exists(node, node.this)
    if isinstance(node, sql.In):
        query = node.args.get("query")
        select = query.this if isinstance(query, sql.Subquery) else query
        negated = isinstance(node.parent, sql.Not)
        return negated and isinstance(select, sql.Select) and _replace_not_in(node, select)
    scalar = not isinstance(node.parent, sql.From | sql.Join | sql.In | sql.Exists | sql.With)
    if not scalar or not isinstance(node.this, sql.Select) or node.args.get("alias"):
        return False
    return _replace_scalar(node, node.this, number)


def _replace_scalar(node: Structure, select: sql.Select, number: int) -> bool:
    outer = node.find_ancestor(sql.Select)
    found = _taken_apart(select)
    if outer is None or found is None or not found[0] or len(select.expressions) != 1:
        return False
    correlations, others = found
    value = select.expressions[0].unalias()
    aggregates = [
        call for call in value.find_all(sql.Func, sql.Anonymous) if _name(call) in AGGREGATES
    ]
    name = f"planwatch_{number}"
    keys = [
        sql.alias_(inner.copy(), f"key_{place}") for place, (inner, _) in enumerate(correlations)
    ]
    derived = select.copy()
    derived.set("expressions", [*keys, sql.alias_(value.copy(), "value")])
    derived.set("where", sql.Where(this=sql.and_(*others)) if others else None)
    derived.set("order", None)
    if aggregates:
        derived = derived.group_by(*(inner.copy() for inner, _ in correlations))
    on = [
        sql.EQ(this=sql.column(f"key_{place}", table=name), expression=other.copy())
        for place, (_, other) in enumerate(correlations)
    ]
    for join in outer.args.get("joins") or ():
        if not any(join.args.get(part) for part in ("kind", "side", "method", "on", "using")):
            # JOIN goes before a comma, so that its ON could not name the tables before the comma.
            join.set("kind", "CROSS")
    outer.append(
        "joins",
        sql.Join(
            this=sql.Subquery(this=derived, alias=sql.TableAlias(this=sql.to_identifier(name))),
            side="LEFT",
            on=sql.and_(*on),
        ),
    )
    result: Structure = sql.column("value", table=name)
    if len(aggregates) == 1 and aggregates[0] is value and _name(value) == "count":
        result = sql.Coalesce(this=result, expressions=[sql.Literal.number(0)])
    node.replace(result)
    return True


def _replace_exists(node: Structure, select: sql.Select) -> bool:
    found = _taken_apart(select)
    if found is None or not found[0]:
        return False
    correlations, others = found
    derived = select.copy()
    derived.set("expressions", [inner.copy() for inner, _ in correlations])
    derived.set("where", sql.Where(this=sql.and_(*others)) if others else None)
    left = [other.copy() for _, other in correlations]
    one = left[0] if len(left) == 1 else sql.Tuple(expressions=left)
    node.replace(sql.In(this=one, query=sql.Subquery(this=derived)))
    return True


def _replace_not_in(node: sql.In, select: sql.Select) -> bool:
    found = _taken_apart(select)
    plain = found is not None and not found[0] and len(select.expressions) == 1
    if not plain or isinstance(node.this, sql.Tuple):
        return False
    value = select.expressions[0].unalias()
    derived = select.copy()
    derived = derived.where(sql.EQ(this=value.copy(), expression=node.this.copy()))
    derived.set("expressions", [sql.Literal.number(1)])
    node.replace(sql.Exists(this=derived))
    return True


def _taken_apart(
    select: sql.Select,
) -> tuple[list[tuple[Structure, Structure]], list[Structure]] | None:
    """Return the equalities of a sub-query with the outer row, and its other conditions.

    Of an equality, the side inside the sub-query comes first. None if the sub-query refers to the
    outer row in another way, or does more than find the rows that match.
    """
    if any(select.args.get(part) for part in _MORE) or select.args.get("from_") is None:
        return None
    own = {table.alias_or_name for table in select.find_all(sql.Table)}
    own |= {query.alias for query in select.find_all(sql.Subquery) if query.alias}
    where = select.args.get("where")
    correlations, others = [], list[Structure]()
    for condition in _conjuncts(where.this) if where is not None else ():
        correlation = _correlation(condition, own)
        if correlation is not None:
            correlations.append(correlation)
        else:
            others.append(condition)
    in_where = {id(column) for column in where.find_all(sql.Column)} if where is not None else set()
    elsewhere = [column for column in select.find_all(sql.Column) if id(column) not in in_where]
    tested = [column for condition in others for column in condition.find_all(sql.Column)]
    if any(column.table not in own for column in (*elsewhere, *tested)):
        return None
    return correlations, [condition.copy() for condition in others]


def _conjuncts(condition: Structure) -> Iterator[Structure]:
    waiting = [condition]
    while waiting:
        current = waiting.pop().unnest()
        if isinstance(current, sql.And):
            waiting += [current.expression, current.this]
        else:
            yield current


def _correlation(condition: Structure, own: set[str]) -> tuple[Structure, Structure] | None:
    """Return both sides of an equality with the outer row, the inner one first."""
    if not isinstance(condition, sql.EQ):
        return None
    sides = (condition.this, condition.expression)
    for inner, outer in (sides, sides[::-1]):
        inside, outside = _tables(inner), _tables(outer)
        named = inside and outside and "" not in inside | outside
        if named and inside <= own and not outside & own:
            return inner, outer
    return None


def _tables(expression: Structure) -> set[str]:
    """Return the tables of its columns, "" among them if one is named without its table."""
    return {column.table for column in expression.find_all(sql.Column)}


def _name(node: Structure) -> str:
    """Return the name of a function in lower case."""
    named = node.name if isinstance(node, sql.Anonymous) else getattr(node, "key", "")
    return str(named).lower()
