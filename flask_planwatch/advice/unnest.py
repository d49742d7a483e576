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

#: Parts of a sub-query with which it is more than a look at the rows that match.
_MORE = ("group", "having", "limit", "offset", "distinct", "with_", "with", "windows", "qualify")


def joined(statement: str) -> str | None:
    """Return a statement with its sub-queries as joins, None if none of them has that form.

    It says the same but for NULLs. Placeholders by name are kept, and nothing is known of others.
    """
    try:
        tree = read_statement(statement)
        if not isinstance(tree, sql.Select):
            return None
        # Inner ones first, so that an outer one takes them along.
        nested = [*tree.find_all(sql.Subquery, sql.Exists, sql.In)]
        changed = [_replace(one, number) for number, one in enumerate(reversed(nested), 1)]
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
    ties, others = found
    value = select.expressions[0].unalias()
    aggregates = [one for one in value.find_all(sql.Func, sql.Anonymous) if _aggregates(one)]
    name = f"planwatch_{number}"
    keys = [sql.alias_(inner.copy(), f"key_{place}") for place, (inner, _) in enumerate(ties)]
    derived = select.copy()
    derived.set("expressions", [*keys, sql.alias_(value.copy(), "value")])
    derived.set("where", sql.Where(this=sql.and_(*others)) if others else None)
    derived.set("order", None)
    if aggregates:
        derived = derived.group_by(*(inner.copy() for inner, _ in ties))
    on = [
        sql.EQ(this=sql.column(f"key_{place}", table=name), expression=other.copy())
        for place, (_, other) in enumerate(ties)
    ]
    for join in outer.args.get("joins") or ():
        if not any(join.args.get(part) for part in ("kind", "side", "method", "on", "using")):
            # A comma binds less than JOIN, so that the tables before it would not be seen.
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
    ties, others = found
    derived = select.copy()
    derived.set("expressions", [inner.copy() for inner, _ in ties])
    derived.set("where", sql.Where(this=sql.and_(*others)) if others else None)
    left = [other.copy() for _, other in ties]
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
    """Return what ties a sub-query to the outer row, inner side first, and its other conditions.

    None if it refers to the outer row in another way, or is more than a look at rows that match.
    """
    if any(select.args.get(part) for part in _MORE) or select.args.get("from_") is None:
        return None
    own = {table.alias_or_name for table in select.find_all(sql.Table)}
    own |= {one.alias for one in select.find_all(sql.Subquery) if one.alias}
    where = select.args.get("where")
    conditions = list(_conjuncts(where.this)) if where is not None else []
    ties = []
    others: list[Structure] = []
    for condition in conditions:
        tie = _tie(condition, own)
        if tie is not None:
            ties.append(tie)
        else:
            others.append(condition)
    elsewhere = [one for one in select.find_all(sql.Column) if not _is_in(one, where)]
    for column in [*elsewhere, *(column for one in others for column in one.find_all(sql.Column))]:
        if column.table not in own:
            return None
    return ties, [one.copy() for one in others]


def _conjuncts(condition: Structure) -> Iterator[Structure]:
    waiting = [condition]
    while waiting:
        current = waiting.pop().unnest()
        if isinstance(current, sql.And):
            waiting += [current.expression, current.this]
        else:
            yield current


def _tie(condition: Structure, own: set[str]) -> tuple[Structure, Structure] | None:
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


def _is_in(node: Structure, ancestor: Structure | None) -> bool:
    return ancestor is not None and any(one is ancestor for one in _ancestors(node))


def _ancestors(node: Structure) -> Iterator[Structure]:
    current = node.parent
    while current is not None:
        yield current
        current = current.parent


def _aggregates(node: Structure) -> bool:
    return _name(node) in AGGREGATES


def _name(node: Structure) -> str:
    """Return the name of a function in lower case."""
    named = node.name if isinstance(node, sql.Anonymous) else getattr(node, "key", "")
    return str(named).lower()
