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
_MORE = ("group", "having", "offset", "distinct", "with_", "with", "windows", "qualify")


def joined(statement: str, *, first: bool = False) -> str | None:
    """Return a statement with its sub-queries as joins, None if none of them has that form.

    It returns the same rows, except that NOT IN finds nothing if a value is NULL; for that see
    compared_by_not_in(). `first`: a sub-query for one value may find several rows, of which a join
    takes the first. One with a LIMIT takes the first in any case. Placeholders must have names.
    """
    try:
        tree = read_statement(statement)
        if not isinstance(tree, sql.Select):
            return None
        # Inner ones first, so that an outer one takes them along.
        nested = [*tree.find_all(sql.Subquery, sql.Exists, sql.In)]
        changed = [
            _replace(node, number, first=first) for number, node in enumerate(reversed(nested), 1)
        ]
        return write(tree) if any(changed) else None
    except (SqlglotError, RecursionError):
        return None


def compared_by_not_in(statement: str) -> list[tuple[str, str]] | None:
    """Return the table and the column of each value that NOT IN compares with those of a sub-query.

    None if a value is no column, or may be NULL as an outer join found no row for it.
    """
    try:
        tree = read_statement(statement)
    except (SqlglotError, RecursionError):
        return None
    found = []
    for node in tree.find_all(sql.In):
        query = node.args.get("query")
        select = query.this if isinstance(query, sql.Subquery) else query
        if not isinstance(node.parent, sql.Not) or not isinstance(select, sql.Select):
            continue
        outer = node.find_ancestor(sql.Select)
        value = select.expressions[0].unalias() if len(select.expressions) == 1 else None
        for side, around in ((node.this, outer), (value, select)):
            named = _column_of(side, around)
            if named is None:
                return None
            found.append(named)
    return found


def _column_of(value: Structure | None, select: Structure | None) -> tuple[str, str] | None:
    """Return the table and the name of a column that is NULL only where the table has NULL."""
    if not isinstance(value, sql.Column) or not isinstance(select, sql.Select):
        return None
    if any(join.args.get("side") for join in select.args.get("joins") or ()):
        return None
    source = select.args.get("from_")
    joins = [join.this for join in select.args.get("joins") or ()]
    tables = [table for table in (source.this if source else None, *joins) if table is not None]
    for table in tables:
        one = len(tables) == 1 and not value.table
        if isinstance(table, sql.Table) and (one or table.alias_or_name == value.table):
            return f'"{table.db}"."{table.name}"' if table.db else f'"{table.name}"', value.name
    return None


def _replace(node: Structure, number: int, *, first: bool) -> bool:
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
    return _replace_scalar(node, node.this, number, first=first)


def _replace_scalar(node: Structure, select: sql.Select, number: int, *, first: bool) -> bool:
    outer = node.find_ancestor(sql.Select)
    found = _taken_apart(select)
    if outer is None or found is None or not found[0] or len(select.expressions) != 1:
        return False
    correlations, others = found
    order, limit = select.args.get("order"), select.args.get("limit")
    if limit is not None and not _is_one(limit.expression):
        return False
    name = f"planwatch_{number}"
    value, values, grouped = _outside(select.expressions[0].unalias(), name)
    keys = [inner.copy() for inner, _ in correlations]
    derived = select.copy()
    named = [sql.alias_(key.copy(), f"key_{position}") for position, key in enumerate(keys)]
    derived.set("expressions", [*named, *values])
    derived.set("where", sql.Where(this=sql.and_(*others)) if others else None)
    derived.set("order", None)
    derived.set("limit", None)
    if grouped:
        derived = derived.group_by(*(key.copy() for key in keys))
    elif limit is not None or first:
        if order is not None and any(map(_is_position, order.expressions)):
            return False
        own = [term.copy() for term in order.expressions] if order is not None else []
        in_turn = [sql.Ordered(this=key.copy()) for key in keys]
        derived.set("distinct", sql.Distinct(on=sql.Tuple(expressions=keys)))
        derived.set("order", sql.Order(expressions=[*in_turn, *own]))
    on = [
        sql.EQ(this=sql.column(f"key_{position}", table=name), expression=other.copy())
        for position, (_, other) in enumerate(correlations)
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
    node.replace(value)
    return True


def _outside(value: Structure, name: str) -> tuple[Structure, list[Structure], bool]:
    """Return what to write in place of a sub-query for one value, and what is selected for that.

    Aggregates are worked out inside, and all else with them outside, so that it is the same where
    there is nothing to aggregate: coalesce(sum(x), 0) is 0 then. `name` is that of the join. The
    last is whether there are aggregates.
    """
    # In parentheses, so that the whole can be replaced as well.
    outside = sql.Paren(this=value.copy())
    calls = [
        call for call in outside.find_all(sql.Func, sql.Anonymous) if _name(call) in AGGREGATES
    ]
    if not calls:
        whole = sql.column("value", table=name)
        return whole, [sql.alias_(value.copy(), "value")], False
    selected = []
    for position, call in enumerate(calls):
        whole_call: Structure = call
        while isinstance(whole_call.parent, sql.Filter | sql.WithinGroup):
            whole_call = whole_call.parent
        alias = f"value_{position}" if len(calls) > 1 else "value"
        selected.append(sql.alias_(whole_call.copy(), alias))
        found: Structure = sql.column(alias, table=name)
        if _name(call) == "count":
            found = sql.Coalesce(this=found, expressions=[sql.Literal.number(0)])
        whole_call.replace(found)
    of_one = not isinstance(outside.this, sql.Binary | sql.Unary)
    return outside.this if of_one else outside, selected, True


def _is_one(limit: Structure) -> bool:
    """Whether a LIMIT leaves one row, or more of which a sub-query for one value has one."""
    value = limit.unnest()
    while isinstance(value, sql.Cast):
        value = value.this
    return not isinstance(value, sql.Literal) or value.name not in {"0", "NULL"}


def _is_position(ordered: Structure) -> bool:
    """Whether an item of ORDER BY is the number of a selected expression."""
    return isinstance(ordered.this, sql.Literal)


def _is_a_test(node: Structure) -> bool:
    """Whether a condition only finds rows, so that false and NULL are the same there."""
    while isinstance(node.parent, sql.And | sql.Or | sql.Paren):
        node = node.parent
    return isinstance(node.parent, sql.Where)


def _replace_exists(node: Structure, select: sql.Select) -> bool:
    found = _taken_apart(select)
    # IN is NULL where EXISTS is false, if a value is NULL.
    if found is None or not found[0] or not _is_a_test(node) or select.args.get("limit"):
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
    if not plain or isinstance(node.this, sql.Tuple) or select.args.get("limit"):
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
