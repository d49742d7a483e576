"""Another way to write a condition whose expression no index may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sqlglot import expressions as sql

from ..finding import Advice, Verdict, VerdictStatus
from ..indexes.candidate import Key, column_key
from ..plan.comparison import constant
from ..plan.dialect import Structure
from ..plan.evidence import Hit, Suspicion
from ..plan.moment import TIMESTAMPTZ
from ..plan.pattern import TEXT_OPERATORS
from ..plan.predicate import parse, tokenize
from ..plan.schema import INTEGERS, TEXT_TYPES, Column, ExpressionFacts, Structural
from ..plan.scrub import LITERALS, is_structural, mask
from ..plan.spelling import other_path
from ..plan.text import quoted_literal
from ..plan.wording import say, sentences
from ..rules.worth import other_column
from ..server.explain import qualified
from ..server.transaction import may_be_refused
from .alone import NewForm, plan_alone, verdict_alone
from .case import Case
from .form import PYTHON_OPERATORS, Form, attribute_of
from .own_type import NEITHER, other_facts

#: The verdict on a rewrite.
NO_INDEX_TO_TRY = "a rewrite changes the statement, so there is no index for the planner to try"

_REFUSED = "PostgreSQL refuses an index on this expression, because {reason}."

_WITH_VALUE = Form(
    "store what is looked up in {columns:and} in a column of its own: an index on the expression "
    "would serve one value only",
    "If the value changes, store what is looked up by it in a column, or in rows, of its own. If "
    "it never changes, an index on the expression with that value serves.",
)
_WITH_VALUE_VERDICT = (
    "an index on the expression would contain a compared value, and serve only that value"
)

_WITH_LITERAL = Form(
    "create an index on {expression}, with your SQL's value for ?",
    "The value is written in the statement, so an index on the expression with the same value "
    "serves it. PlanWatch shows no values, so the SQL is left to you. If the application puts "
    "another value into the text each time, store what is looked up in a column of its own.",
)
_WITH_LITERAL_VERDICT = "it holds a value, so it is not tried"

_CONFIGURATION = Form(
    "name the configuration of the full text search on both sides: to_tsvector('{config}', {key}) "
    "@@ {query}('{config}', …)",
    "Without a name, both sides are made by the setting default_text_search_config, which is "
    "{config} in this session. With it, to_tsvector is IMMUTABLE, and a GIN index on that "
    "expression is possible; write the same name in the index.",
    '.where(func.to_tsvector("{config}", {attribute})'
    '.bool_op("@@")(func.{query}("{config}", value)))',
)
_TIME_ZONE = Form(
    "name the time zone: ask for {expression}",
    "With the session's time zone by name, the expression finds the same rows, does not depend on "
    "the session, and can be indexed.",
    ".where(extract({field}, func.timezone({zone}, {attribute})) {python} value)",
)
_CONCAT = Form(
    "join {columns:and} with || and coalesce() instead of concat()",
    "concat() is STABLE because it takes any type; the operator || on text columns is IMMUTABLE, "
    "so an index on that expression is possible. concat() treats NULL as an empty text, and so "
    "does coalesce().",
    ".where({code} {python} value)",
)
_COALESCE = Form(
    "test {column} and NULL separately: {column} {operator} value OR ({column} IS NULL AND "
    "{fallback} {operator} value)",
    "The bare column can use a plain index on {column}, which finds NULL as well.",
    ".where(or_({attribute} {python} value, and_({attribute}.is_(None), {fallback_code} {python} "
    "value)))",
)
_OWN_TYPE = Form(
    "compare {column} in its own type, {type}, without the cast",
    "The bare column can use a plain index on {column}. Pass a value of that type: a text that is "
    "not one finds nothing now, and would then raise an error.",
    ".where({attribute} == value)  # value of the column's own type",
)
_VALUES = Form(
    "compare {column} with the values that the {test} stands for, in its own type, {type}: "
    "{column} IN (…)",
    "The bare column can use a plain index on {column}. When the type gets a new value, extend the "
    "list.",
    ".where({attribute}.in_(values))  # values of the column's own type",
)
_OTHER_SIDE = Form(
    "cast {other} to uuid instead of {column} to text",
    "The bare column can use a plain index on {column}, and none is needed on its text. Only a "
    "text that is a uuid as PostgreSQL writes it can match; the test keeps the cast from failing "
    "on others. If {other} holds only such texts, cast({other_attribute}, Uuid) alone is enough.",
    """\
# In place of the comparison of texts:
{attribute} == case(
    ({other_attribute}.regexp_match("{pattern}"), cast({other_attribute}, Uuid))
)""",
)
_PATH = Form(
    "write {expression} in place of {subject}, as the index has it",
    "PostgreSQL finds the same with a subscript and with an arrow, but an index on one form does "
    "not serve the other. SQLAlchemy writes subscripts since 2.0.42.",
    "{code}",
)
_NONE = Form(
    "look for a condition on {columns:and} alone that means the same",
    "PlanWatch knows none that finds the same rows for all values.[ {declare}]",
)
_DECLARE = (
    "If the result of {functions:and} depends only on the arguments, ALTER FUNCTION … IMMUTABLE "
    "makes an index on the expression possible."
)

#: Fields of a moment that are those of its time zone, and numbers.
_FIELDS = frozenset(
    {"year", "month", "day", "hour", "minute", "second", "quarter", "week", "dow", "doy", "isodow"}
    | {"isoyear", "decade", "century", "millennium", "milliseconds", "microseconds", "julian"}
)

_COMPARISONS = frozenset(PYTHON_OPERATORS) - {"<>"}

#: Types whose values are equal if their texts are, and of which each value has one text only.
_ONE_TEXT = INTEGERS | {"uuid"}

#: A uuid as PostgreSQL writes it.
_UUID = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"

_QUERY = re.compile(r"\b(\w*to_tsquery)\s*\(", re.IGNORECASE)

_ENUM = "SELECT typtype = 'e' FROM pg_catalog.pg_type WHERE oid = '{type}'::regtype"
_OWN_FUNCTIONS = """
SELECT DISTINCT proname::text FROM pg_catalog.pg_proc
WHERE proname = ANY (%s) AND pronamespace <> 'pg_catalog'::regnamespace ORDER BY 1
"""


@dataclass(frozen=True)
class _Rewritten:
    """A form with its facts, the same condition as SQL, and what an index for it has to hold.

    `key` is a new expression for an index; if it is empty, the bare column is the key, or `there`,
    an expression that an index may hold already.
    """

    form: Form
    facts: Mapping[str, object]
    condition: str
    key: str = ""
    there: str = ""


def rewrite(case: Case, hit: Hit, refused: ExpressionFacts | None) -> NewForm | None:
    """Return another condition that finds the same rows, None if none is worth saying.

    `refused` says why no index can hold the expression, None if one can: then only a condition
    counts for which the planner uses an index that is there. The server has accepted the condition.
    Raises ServerError if the connection fails.
    """
    found = _found(case, hit, refused)
    refusal = say(_REFUSED, reason=refused.reason) if refused is not None else ""
    if found is not None:
        form = replace(found.form, explanation=sentences(refusal, found.form.explanation))
        verdict = _verdict(case, hit, found)
        if verdict is not None and (refused or verdict.status is VerdictStatus.VERIFIED):
            return NewForm(form.advice(verdict, **found.facts), found.condition, _key(hit, found))
    if refused is None:
        return None
    form = replace(_NONE, explanation=sentences(refusal, _NONE.explanation))
    declare = _declare(case, hit)
    verdict = Verdict(VerdictStatus.NOT_APPLICABLE, NO_INDEX_TO_TRY)
    columns = hit.suspicion.operand.column_names
    return NewForm(form.advice(verdict, columns=columns, declare=declare))


def _key(hit: Hit, found: _Rewritten) -> Key | None:
    if found.there:
        return None
    if found.key:
        return Key(Structural(found.key))
    return column_key(hit.suspicion.relation, hit.suspicion.operand.column_names[0])


def _verdict(case: Case, hit: Hit, found: _Rewritten) -> Verdict | None:
    if found.key:
        accepted = plan_alone(case, hit, found.condition) is not None
        return Verdict(VerdictStatus.NOT_APPLICABLE, NO_INDEX_TO_TRY) if accepted else None
    column = hit.suspicion.relation.column(hit.suspicion.operand.column_names[0])
    assert column is not None
    return verdict_alone(case, hit, column, found.condition, found.there)


def _found(case: Case, hit: Hit, refused: ExpressionFacts | None) -> _Rewritten | None:
    """Return the other form of a condition, None if none is known."""
    suspicion = hit.suspicion
    structure = parse(suspicion.operand.without_alias())
    if structure is None or len({tested.said for tested in suspicion.comparisons}) != 1:
        return None
    structure = structure.unnest()
    operator = suspicion.comparison.operator
    if (found := _path(hit)) is not None:
        return found
    name = structure.name.lower() if isinstance(structure, sql.Anonymous) else ""
    if operator == "@@":
        return _configured(case, hit) if refused else None
    if operator in _COMPARISONS and isinstance(structure, sql.Anonymous) and name == "coalesce":
        return _coalesced(case, hit, structure) if refused else None
    if operator in _COMPARISONS and isinstance(structure, sql.Anonymous) and name == "concat":
        return _concatenated(case, hit, structure) if refused else None
    if operator in _COMPARISONS and structure.find(sql.Extract) is not None:
        return _in_zone(case, hit, structure) if refused else None
    return _in_own_type(case, hit)


def _facts(case: Case, hit: Hit, column: Column) -> dict[str, object]:
    operator = hit.suspicion.comparison.operator
    attribute = attribute_of(
        column.name, hit.suspicion.relation.name, case.mapped(hit.suspicion.relation)
    )
    return {
        "column": column.quoted_name,
        "type": column.type,
        "attribute": attribute,
        "operator": operator,
        "python": PYTHON_OPERATORS.get(operator, operator),
    }


def _path(hit: Hit) -> _Rewritten | None:
    """Return an expression with the other spelling of the path into a jsonb column, if it has one.

    Only an index can tell that this is better, so that it counts if there is one.
    """
    suspicion = hit.suspicion
    text, operator = suspicion.operand.without_alias(), suspicion.comparison.operator
    other = other_path(text)
    names = suspicion.operand.column_names
    column = suspicion.relation.column(names[0]) if len(names) == 1 else None
    known = column is not None and column.base_type == "jsonb" and operator in _COMPARISONS
    if other == text or not known:
        return None
    shown = Structural(mask(other, keep_names=not suspicion.holds_value))
    facts = {"expression": shown, "subject": suspicion.shown, "code": ""}
    return _Rewritten(_PATH, facts, f"({other}) {operator} {_value(suspicion)}", there=shown)


def _configured(case: Case, hit: Hit) -> _Rewritten | None:
    """Return a full text search with the configuration of the session by name."""
    suspicion = hit.suspicion
    found = _QUERY.search(case.query.text)
    ((config,),) = case.session.fetch("SELECT current_setting('default_text_search_config')")
    name = str(config).removeprefix("pg_catalog.")
    structure = parse(suspicion.operand.without_alias())
    column = structure.find(sql.Column) if structure is not None else None
    known = suspicion.relation.column(column.name) if column is not None else None
    other = suspicion.other.text
    if known is None or len(suspicion.operand.column_names) != 1 or suspicion.other.columns:
        return None
    key = f"to_tsvector({quoted_literal(name)}, {known.quoted_name})"
    facts = {**_facts(case, hit, known), "config": Structural(name), "key": known.quoted_name}
    facts["query"] = Structural(found[1].lower() if found else "plainto_tsquery")
    # The plan has the query as it was made with that configuration.
    return _Rewritten(_CONFIGURATION, facts, f"{key} @@ {other}", key)


def _in_zone(case: Case, hit: Hit, structure: Structure) -> _Rewritten | None:
    """Return a field of a moment in the time zone of the session, by its name."""
    suspicion, extract = hit.suspicion, structure.find(sql.Extract)
    assert extract is not None
    argument, field = extract.expression.unnest(), extract.this.name.lower()
    column = suspicion.relation.column(argument.name) if isinstance(argument, sql.Column) else None
    if column is None or column.base_type != TIMESTAMPTZ or field not in _FIELDS:
        return None
    ((zone,),) = case.session.fetch("SELECT current_setting('TimeZone')")
    text, name = suspicion.operand.without_alias(), column.quoted_name
    ends = [f"FROM {name})", f", {name})"]
    end = next((end for end in ends if text.count(end) == 1), "")
    if not end:
        return None
    local = f"({name} AT TIME ZONE {quoted_literal(str(zone))})"
    key = text.replace(end, end.replace(name, local))
    named = {"expression": Structural(key), "field": f'"{field}"', "zone": f'"{zone}"'}
    condition = f"({key}) {suspicion.comparison.operator} {_value(suspicion)}"
    return _Rewritten(_TIME_ZONE, {**_facts(case, hit, column), **named}, condition, key)


def _concatenated(case: Case, hit: Hit, call: sql.Anonymous) -> _Rewritten | None:
    """Return the concatenation of text columns by ||, which takes NULL as concat() does."""
    suspicion, relation = hit.suspicion, hit.suspicion.relation
    columns = [relation.column(found.name) for found in map(_column_in, call.expressions) if found]
    if len(columns) != len(call.expressions):
        return None
    known = [column for column in columns if column and column.base_type in TEXT_TYPES]
    if len(known) != len(columns):
        return None
    key = " || ".join(f"coalesce({column.quoted_name}, '')" for column in known)
    attributes = [_facts(case, hit, column)["attribute"] for column in known]
    code = " + ".join(f'func.coalesce({attribute}, "")' for attribute in attributes)
    facts = {**_facts(case, hit, known[0]), "columns": [column.name for column in known]}
    condition = f"({key}) {suspicion.comparison.operator} {_value(suspicion)}"
    return _Rewritten(_CONCAT, {**facts, "code": f"({code})"}, condition, key)


def _column_in(argument: Structure) -> sql.Column | None:
    """Return the column that an argument is, or is but for a cast to text."""
    while isinstance(argument, sql.Paren | sql.Cast):
        argument = argument.this
    return argument if isinstance(argument, sql.Column) else None


def _coalesced(case: Case, hit: Hit, call: sql.Anonymous) -> _Rewritten | None:
    """Return the test of a column, and that of what coalesce() has in place of NULL."""
    suspicion = hit.suspicion
    first = call.expressions[0]
    column = suspicion.relation.column(first.name) if isinstance(first, sql.Column) else None
    text = suspicion.operand.without_alias()
    alone = len(call.expressions) == 2 and call.expressions[1].find(sql.Column) is None
    begins = f"COALESCE({column.quoted_name}, " if column is not None else text
    if column is None or not alone or not text.startswith(begins) or not text.endswith(")"):
        return None
    fallback = text.removeprefix(begins)[:-1]
    name, operator, value = column.quoted_name, suspicion.comparison.operator, _value(suspicion)
    said = mask(fallback)
    code = "func.now()" if fallback in {"now()", "CURRENT_TIMESTAMP"} else "…"
    condition = (
        f"({name} {operator} {value} OR ({name} IS NULL AND ({fallback}) {operator} {value}))"
    )
    facts = {**_facts(case, hit, column), "fallback": said, "fallback_code": code}
    return _Rewritten(_COALESCE, facts, condition)


def _in_own_type(case: Case, hit: Hit) -> _Rewritten | None:
    """Return the comparison of a column in its own type instead of as a text."""
    suspicion, operator = hit.suspicion, hit.suspicion.comparison.operator
    casts, value = suspicion.operand.casts, constant(suspicion.other)
    column = suspicion.relation.column(casts[0]) if casts is not None else None
    if casts is None or column is None or any("(" in kind for kind in casts[1]):
        return None
    if casts[1][-1] not in TEXT_TYPES:
        return None
    if value is None:
        return _other_side(case, hit, column)
    facts, name = _facts(case, hit, column), column.quoted_name
    text = quoted_literal(value.value)
    same = False
    with may_be_refused(), case.session.transaction() as transaction:
        ((is_enum,),) = transaction.fetch(_ENUM.format(type=column.type.replace("'", "''")))
        if not is_enum and column.base_type not in _ONE_TEXT:
            return None
        if operator in TEXT_OPERATORS:
            labels = f"enum_range(NULL::{column.type})"
            condition = (
                f"{name} = ANY (ARRAY(SELECT label FROM unnest({labels}) AS label "
                f"WHERE label::text {operator} {suspicion.other.text}))"
            )
            facts["test"] = "pattern"
            return _Rewritten(_VALUES, facts, condition) if is_enum else None
        if operator not in {"=", "= ANY"}:
            return None
        array = "[]" if operator == "= ANY" else ""
        own = f"{text}::{column.type}{array}"
        # Of a text that is written in another way, nothing is found now.
        ((same,),) = transaction.fetch(f"SELECT {own}::text{array} = {text}::text{array}")
    if not same:
        return None
    if array:
        return _Rewritten(_VALUES, {**facts, "test": "list"}, f"{name} = ANY ({own})")
    return _Rewritten(_OWN_TYPE, facts, f"{name} = {own}")


def _other_side(case: Case, hit: Hit, column: Column) -> _Rewritten | None:
    """Return the comparison with another column, cast as little as finds the same rows."""
    suspicion, other = hit.suspicion, hit.suspicion.other
    name = other.column or (other.casts[0] if other.casts else None)
    found = other_column(other, case.evidence, name)
    if suspicion.comparison.operator != "=" or found is None:
        return None
    relation, compared = found
    form, key, facts = NEITHER, compared.quoted_name, other_facts(case, hit)
    value = str(key)
    if not facts:
        types = (other.casts or ("", ()))[1]
        of_text = compared.base_type in TEXT_TYPES and not any("(" in kind for kind in types)
        if column.base_type != "uuid" or not of_text:
            return None
        form, value = _OTHER_SIDE, f"CASE WHEN {key} ~ '{_UUID}' THEN {key}::uuid END"
        root = case.schema.root(relation)
        attribute = attribute_of(compared.name, root.name, case.mapped(root))
        facts = {"other": f"{root.display}.{key}", "other_attribute": attribute, "pattern": _UUID}
    table = qualified(relation.schema, relation.name)
    condition = f"{column.quoted_name} = (SELECT {value} FROM {table} LIMIT 1)"
    return _Rewritten(form, {**_facts(case, hit, column), **facts}, condition)


def _declare(case: Case, hit: Hit) -> str:
    """Return that functions of the application's own may be declared IMMUTABLE."""
    structure = parse(hit.suspicion.operand.without_alias())
    calls = structure.find_all(sql.Anonymous) if structure is not None else ()
    names = sorted({call.name for call in calls})
    if not names:
        return ""
    functions = [str(name) for (name,) in case.session.fetch(_OWN_FUNCTIONS, (names,))]
    return say(_DECLARE, functions=functions) if functions else ""


def _value(suspicion: Suspicion) -> str:
    """Return what is compared with, for the planner: a value of another relation is not known."""
    if not suspicion.other.columns:
        return suspicion.other.text
    relation = suspicion.relation
    table = qualified(relation.schema, relation.name)
    return f"(SELECT {suspicion.operand.without_alias()} FROM {table} LIMIT 1)"


def is_written(expression: str, statement: str) -> bool:
    """Whether each value in an expression is a literal of the statement, and no parameter."""
    reading = tokenize(expression)
    values = [
        token.text
        for position, token in enumerate(reading.tokens)
        if token.token_type in LITERALS and not is_structural(reading, position)
    ]
    return bool(values) and all(_literal_in(statement, value) for value in values)


def _literal_in(statement: str, value: str) -> bool:
    """Whether a statement has this value as text in quotes or as a number."""
    number = value.isdecimal() and re.search(rf"(?<![\w.$'%]){value}(?![\w.'])", statement)
    return quoted_literal(value) in statement or bool(number)


def rewrite_with_literal(hit: Hit) -> Advice:
    """Return the advice for an expression with a value that is written in the statement."""
    verdict = Verdict(VerdictStatus.UNTESTED, _WITH_LITERAL_VERDICT)
    return _WITH_LITERAL.advice(verdict, expression=hit.suspicion.shown)


def rewrite_with_value(hit: Hit) -> Advice:
    """Return the advice for an expression that holds a value, not only structural constants."""
    verdict = Verdict(VerdictStatus.NOT_APPLICABLE, _WITH_VALUE_VERDICT)
    return _WITH_VALUE.advice(verdict, columns=hit.suspicion.operand.column_names)
