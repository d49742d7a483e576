"""Another way to write a condition whose expression no index may hold."""

from __future__ import annotations

from sqlglot import expressions as sql

from ..finding import Advice, AdviceKind, Verdict, VerdictStatus
from ..plan.evidence import Hit
from ..plan.predicate import Structure, parse
from ..plan.schema import ExpressionFacts, Volatility
from .mapped import MappedTable

_TIMES = {"timestamp with time zone", "timestamp without time zone"}


def rewrite(hit: Hit, facts: ExpressionFacts, mapped: MappedTable | None) -> Advice:
    """Return the advice for an expression that is STABLE or VOLATILE."""
    summary, explanation, code = _best(hit, facts, mapped)
    refused = f"PostgreSQL refuses an index on this expression, because {facts.reason}."
    return Advice(
        kind=AdviceKind.REWRITE,
        summary=summary,
        verdict=Verdict(
            VerdictStatus.NOT_APPLICABLE,
            "a rewrite changes the statement, so there is no index for the planner to try",
        ),
        sqlalchemy=code,
        explanation=f"{refused} {explanation}",
    )


def rewrite_with_value(hit: Hit) -> Advice:
    """Return the advice for an expression that holds a value, not only structural constants."""
    names = hit.suspicion.operand.column_names
    return Advice(
        kind=AdviceKind.REWRITE,
        summary=f"store what is looked up in {' and '.join(names)} by a changing key in a column, "
        "or in rows, of its own",
        verdict=Verdict(
            VerdictStatus.NOT_APPLICABLE,
            "an index holds the expression with one constant, and here that is long, or changes "
            "between executions",
        ),
        explanation="If there are only a few such constants, an index for each of them serves.",
    )


def _best(hit: Hit, facts: ExpressionFacts, mapped: MappedTable | None) -> tuple[str, str, str]:
    operand, relation = hit.suspicion.operand, hit.suspicion.relation
    structure = parse(operand.without_alias())
    names = operand.column_names
    if isinstance(structure, sql.Anonymous) and structure.name.lower() in {"concat", "concat_ws"}:
        return _concatenate(names)
    column = relation.column(names[0]) if len(names) == 1 else None
    if structure is None or column is None:
        return _store(names)
    attribute = _attribute(column.name, relation.name, mapped)
    if column.type.partition("(")[0].strip() in _TIMES or column.type.startswith("timestamp"):
        unit = _period(structure)
        if unit:
            return _half_open_range(column.name, attribute, unit)
        if isinstance(structure, sql.Add | sql.Sub):
            return _move_to_the_other_side(column.name, attribute)
    if isinstance(structure, sql.Cast) and isinstance(structure.this.unnest(), sql.Column):
        return _compare_in_own_type(column.name, column.type, attribute)
    return _store(names)


def _period(structure: Structure) -> str | None:
    """Return the length of time that the expression cuts a moment down to, or None."""
    if isinstance(structure, sql.Cast) and structure.to.sql(dialect="postgres") == "DATE":
        return "day"
    if isinstance(structure, sql.Extract):
        return structure.this.name.lower() if structure.this.name.lower() == "year" else "period"
    if isinstance(structure, sql.Anonymous):
        name = structure.name.lower()
        if name == "date_trunc" and structure.expressions:
            unit = structure.expressions[0]
            literal = unit.find(sql.Literal)
            return literal.name if literal else "period"
        if name == "date":
            return "day"
        if name in {"to_char", "date_part", "timezone"}:
            return "period"
    return None


def _half_open_range(column: str, attribute: str, unit: str) -> tuple[str, str, str]:
    return (
        f"compare {column} with a half-open range: {column} >= start AND {column} < start of the "
        f"next {unit}",
        f"A range on the bare column can use a plain index on {column}; work out both ends in "
        "Python, in the time zone that is meant.",
        f".where({attribute} >= start, {attribute} < end)  # end: the start of the next {unit}",
    )


def _move_to_the_other_side(column: str, attribute: str) -> tuple[str, str, str]:
    return (
        f"move the arithmetic to the other side, so that {column} stands alone",
        f"What does not depend on the row is computed once, and {column} can use a plain index.",
        f".where({attribute} > moment - interval)  # instead of {attribute} + interval > moment",
    )


def _compare_in_own_type(column: str, type_name: str, attribute: str) -> tuple[str, str, str]:
    return (
        f"compare {column} in its own type, {type_name}, without the cast",
        f"The bare column can use a plain index on {column}.",
        f".where({attribute} == value)  # value of the column's own type",
    )


def _concatenate(names: tuple[str, ...]) -> tuple[str, str, str]:
    return (
        f"compare {' and '.join(names)} one by one, or join them with || instead of concat()",
        "concat() is STABLE because it takes any type; the operator || on text columns is "
        "IMMUTABLE, so an index on that expression is possible.",
        "",
    )


def _store(names: tuple[str, ...]) -> tuple[str, str, str]:
    columns = " and ".join(names)
    return (
        f"store the result in a column of its own, kept up to date with {columns}, and index that",
        "If the function always gives the same result for the same arguments, declaring it "
        "IMMUTABLE allows an index on the expression, or a generated column.",
        "",
    )


def _attribute(column: str, table: str, mapped: MappedTable | None) -> str:
    if mapped and column in mapped.attributes:
        return f"{mapped.class_name}.{mapped.attributes[column]}"
    return f"{table}.c.{column}"


def is_refused(facts: ExpressionFacts) -> bool:
    """Whether PostgreSQL would refuse an index on the expression."""
    return facts.volatility in {Volatility.STABLE, Volatility.VOLATILE}
