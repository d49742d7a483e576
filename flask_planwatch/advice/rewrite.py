"""Another way to write a condition whose expression no index may hold."""

from __future__ import annotations

from sqlglot import expressions as sql

from ..finding import Advice, AdviceKind, Verdict, VerdictStatus
from ..plan.dialect import Structure
from ..plan.evidence import Hit
from ..plan.predicate import FLIPPED, parse
from ..plan.schema import ExpressionFacts, Volatility
from .mapped import MappedTable

#: Types whose values a half-open range can hold.
_MOMENTS = ("timestamp", "date")

#: What to_char makes of a moment from the year down, and the period that it names.
_PERIODS = {"YYYY": "year", "YYYY-MM": "month", "YYYYMM": "month", "YYYY-MM-DD": "day"}

#: Comparisons of a text with a pattern.
_PATTERNS = frozenset({"~~", "~~*", "~", "~*", "^@"})


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
        summary=f"compare {' and '.join(names)} in another way: the expression holds a value, so "
        "that an index on it would serve that value only",
        verdict=Verdict(
            VerdictStatus.NOT_APPLICABLE,
            "an index holds the expression with one constant, and here that is a value",
        ),
        explanation="Store what is looked up by a changing key in a column, or in rows, of its "
        "own. If the value is always the same, an index on the expression with it serves.",
    )


def _best(hit: Hit, facts: ExpressionFacts, mapped: MappedTable | None) -> tuple[str, str, str]:
    operand, relation = hit.suspicion.operand, hit.suspicion.relation
    comparison = hit.suspicion.comparison.operator
    structure = parse(operand.without_alias())
    names = operand.column_names
    if isinstance(structure, sql.Anonymous) and structure.name.lower() in {"concat", "concat_ws"}:
        return _concatenate(names)
    column = relation.column(names[0]) if len(names) == 1 else None
    if structure is None or column is None:
        return _compare_alone(names)
    attribute = attribute_of(column.name, relation.name, mapped)
    if comparison == "@@":
        return _name_the_configuration(column.name, attribute)
    if comparison in _PATTERNS:
        return _without_pattern(column.name, column.type, attribute)
    if column.type.startswith(_MOMENTS):
        if (period := _period(structure)) is not None:
            return _half_open_range(column.name, attribute, period, comparison)
        if isinstance(structure, sql.Add | sql.Sub):
            return _move_to_the_other_side(column.name, attribute, structure, comparison)
        return _name_the_time_zone(column.name)
    if isinstance(structure, sql.Cast) and isinstance(structure.this.unnest(), sql.Column):
        return _compare_in_own_type(column.name, column.type, attribute, comparison)
    return _compare_alone(names)


def _period(structure: Structure) -> str | None:
    """Return the period of time that the expression cuts a moment down to, or None.

    Only a period that has one beginning and one end is a range: the month of any year is none.
    """
    if isinstance(structure, sql.Cast) and structure.to.this is sql.DataType.Type.DATE:
        return "day"
    if isinstance(structure, sql.Extract):
        return "year" if structure.this.name.lower() == "year" else None
    if not isinstance(structure, sql.Anonymous):
        return None
    literal = structure.find(sql.Literal)
    named = literal.name if literal else ""
    match structure.name.lower():
        case "date":
            return "day"
        case "date_trunc":
            return named
        case "date_part":
            return "year" if named == "year" else None
        case "to_char":
            return _PERIODS.get(named)
    return None


def _half_open_range(
    column: str, attribute: str, period: str, comparison: str
) -> tuple[str, str, str]:
    """Say the same of the bare column; `start` and `end` are those of the period compared with."""
    both = (">= start", "< end")
    sides = {"=": both, ">=": both[:1], "<": ("< start",), ">": (">= end",), "<=": both[1:]}
    ends = sides.get(comparison, both)
    condition = " AND ".join(f"{column} {end}" for end in ends)
    code = ", ".join(f"{attribute} {end}" for end in ends)
    if comparison in sides:
        code = f".where({code})"
    else:
        condition = f"({condition}) OR …, a range for each value"
        code = f".where(or_(*(and_({code}) for start, end in …)))"
    return (
        f"compare {column} with a half-open range: {condition}; start is the beginning of the "
        f"{period} that is compared with, end that of the next",
        f"A range on the bare column can use a plain index on {column}; work out both ends in "
        "Python, in the time zone that is meant.",
        code,
    )


def _name_the_configuration(column: str, attribute: str) -> tuple[str, str, str]:
    return (
        "name the configuration of the full text search on both sides: "
        f"to_tsvector('english', {column}) @@ websearch_to_tsquery('english', …)",
        "Without a name, both sides are made by the setting default_text_search_config of the "
        "session. With one, to_tsvector is IMMUTABLE, and a GIN index on that expression is "
        "possible; write the configuration in which the texts are, and the same in the index.",
        f'.where(func.to_tsvector("english", {attribute})'
        '.bool_op("@@")(func.websearch_to_tsquery("english", value)))',
    )


def _without_pattern(column: str, type_name: str, attribute: str) -> tuple[str, str, str]:
    """Say it by values of the column's own type instead of a pattern on its text."""
    if type_name.startswith(_MOMENTS):
        return (
            f"compare {column} with a half-open range instead of a pattern: {column} >= start AND "
            f"{column} < end",
            f"A range on the bare column can use a plain index on {column}; work out both ends in "
            "Python, in the time zone that is meant.",
            f".where({attribute} >= start, {attribute} < end)",
        )
    return (
        f"compare {column} with the values that the pattern stands for, in its own type, "
        f"{type_name}: {column} IN (…)",
        f"The bare column can use a plain index on {column}.",
        f".where({attribute}.in_(values))  # values of the column's own type",
    )


def _move_to_the_other_side(
    column: str, attribute: str, structure: sql.Add | sql.Sub, comparison: str
) -> tuple[str, str, str]:
    operator = {"= ANY": "="}.get(comparison, comparison)
    if isinstance(structure, sql.Add):
        other = "value - interval"
    elif structure.left.find(sql.Column):
        other = "value + interval"
    else:
        # moment - column < interval means column > moment - interval.
        operator, other = FLIPPED.get(operator, operator), "moment - value"
    python = "==" if operator == "=" else operator
    return (
        f"move the arithmetic to the other side, so that {column} stands alone: "
        f"{column} {operator} {other}",
        f"What does not depend on the row is computed once, and {column} can use a plain index.",
        f".where({attribute} {python} {other})",
    )


def _name_the_time_zone(column: str) -> tuple[str, str, str]:
    return (
        f"name the time zone: ask for EXTRACT(… FROM {column} AT TIME ZONE '…')",
        "With a time zone of its own the expression does not depend on the session, so that it is "
        "IMMUTABLE and can be indexed.",
        "",
    )


def _compare_in_own_type(
    column: str, type_name: str, attribute: str, comparison: str
) -> tuple[str, str, str]:
    if comparison == "= ANY":
        code = f".where({attribute}.in_(values))  # values of the column's own type"
    else:
        python = "==" if comparison == "=" else comparison
        code = f".where({attribute} {python} value)  # value of the column's own type"
    return (
        f"compare {column} in its own type, {type_name}, without the cast",
        f"The bare column can use a plain index on {column}.",
        code,
    )


def _concatenate(names: tuple[str, ...]) -> tuple[str, str, str]:
    return (
        f"compare {' and '.join(names)} one by one, or join them with || instead of concat()",
        "concat() is STABLE because it takes any type; the operator || on text columns is "
        "IMMUTABLE, so an index on that expression is possible.",
        "",
    )


def _compare_alone(names: tuple[str, ...]) -> tuple[str, str, str]:
    columns = " and ".join(names)
    return (
        f"compare {columns} alone, and work out the value to compare with before the statement",
        "If the function always gives the same result for the same arguments, declaring it "
        "IMMUTABLE allows an index on the expression, or a generated column.",
        "",
    )


def attribute_of(column: str, table: str, mapped: MappedTable | None) -> str:
    """Return how the app's code names a column; `mapped` is None if no class maps its table."""
    if mapped and column in mapped.attributes:
        return f"{mapped.class_name}.{mapped.attributes[column]}"
    return f"{table}.c.{column}"


def is_refused(facts: ExpressionFacts) -> bool:
    """Whether PostgreSQL would refuse an index on the expression."""
    return facts.volatility in {Volatility.STABLE, Volatility.VOLATILE}
