"""Lets the planner see the value that a good plan depends on, in place of a generic plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from ..capture.numbered import Numbered
from ..finding import Advice, AdviceKind, Verdict, VerdictStatus
from ..indexes.verdict import Advised, Answer
from ..plan.comparison import plain_column
from ..plan.evidence import Custom, Hit
from ..plan.predicate import Conjunct, conjuncts, parameters_in
from ..plan.scrub import scrub_plan
from ..plan.tree import Plan
from ..plan.wording import say
from ..server.prepared import generic_plan, types_of
from ..server.transaction import may_be_refused
from .case import Case
from .form import PYTHON_OPERATORS, Form, attribute_of

_SWITCH = "add the where() that depends on {names:and} only when it is needed"
_SWITCH_EXPLANATION = "Each form of the statement then has a plan of its own"
_LITERAL = "let {names:and} reach the planner with literal_execute=True"
_LITERAL_EXPLANATION = (
    "literal_execute=True writes the value into the statement when it is executed, so that each "
    "value has a statement, and a plan, of its own"
)
_AS_GOOD = "the generic plan of the rewritten statement is as good as the plan for these values"
_BECAME = "{before} became {after}, for all values"

_OWN_PLAN = "each execution then gets the plan for its own values"
_CUSTOM = Form(
    "set plan_cache_mode = force_custom_plan for the application's connections",
    "The statement is still prepared, but planned at each execution",
    "{create}(url, connect_args={option})",
    AdviceKind.SETTING,
)
_UNPREPARED = Form(
    "set {setting} to {value}, so that {driver} keeps nothing prepared",
    "That holds for all statements of the engine: each is then parsed again at each execution",
    '{create}(url, connect_args={"{setting}": {value}})',
    AdviceKind.SETTING,
)

#: Parameters that are tried as literals; statements with more are too long to try all of them.
MAX_PARAMETERS = 8

#: How many times as much as the plan for these values the plan of the rewritten form may cost if it
#: has other steps: the estimated rows differ.
MAX_COST_FACTOR = 1.1


@dataclass(frozen=True)
class _Rewritten:
    """A form of the statement in which some parameters, counted from 0, are no parameters."""

    literal: tuple[int, ...]
    plan: Plan


def advise(case: Case, hit: Hit) -> Answer:
    """Return the rewrite whose plan is good for all values, and the settings without such plans."""
    prepared = case.evidence.prepared
    assert prepared is not None
    worst = max(prepared.customs, key=lambda custom: custom.factor)
    cost = worst.forced_cost or prepared.generic.total_cost
    numbered = Numbered(case.query.text, worst.parameters, prepared.names)
    found = _rewritten(case, numbered, worst)
    settings = tuple(_settings(prepared.driver, cost, worst.plan.total_cost))
    if found is None:
        return Advised(settings)
    return Advised((_rewrite(case, numbered, found, prepared.generic, cost), *settings))


def _rewritten(case: Case, numbered: Numbered, worst: Custom) -> _Rewritten | None:
    """Return the form with the fewest literals whose generic plan is the custom one, or as good."""
    types = types_of(case.session, numbered.values)
    as_good = None
    for chosen in _choices(len(numbered.names)):
        plan = _plan_with(case, numbered, types, chosen)
        if plan is None:
            continue
        if plan.shape == worst.plan.shape:
            return _Rewritten(chosen, plan)
        if as_good is None and plan.total_cost <= worst.plan.total_cost * MAX_COST_FACTOR:
            as_good = _Rewritten(chosen, plan)
    return as_good


def _choices(count: int) -> Iterator[tuple[int, ...]]:
    """Yield single parameters, then pairs, then all of them."""
    positions = range(min(count, MAX_PARAMETERS))
    yield from combinations(positions, 1)
    yield from combinations(positions, 2)
    if count > 2:
        yield tuple(range(count))


def _plan_with(
    case: Case, numbered: Numbered, types: Sequence[str], chosen: Iterable[int]
) -> Plan | None:
    """Return the generic plan with some parameters as literals, None if there is none."""
    with may_be_refused():
        with case.session.transaction() as transaction:
            literals = {
                position: transaction.literal(numbered.values[position]) for position in chosen
            }
        # What is not used any more has no context to infer a type from.
        declared = ["text" if position in literals else name for position, name in enumerate(types)]
        return generic_plan(case.session, numbered.with_literals(literals), declared)
    return None


def _rewrite(
    case: Case, numbered: Numbered, found: _Rewritten, generic: Plan, cost: float
) -> Advice:
    flags = [position for position in found.literal if _is_flag(generic, position)]
    bounds = {
        position: f'bindparam("{numbered.names[position]}", …, literal_execute=True)'
        for position in found.literal
        if position not in flags
    }
    said, code = [], []
    if flags:
        said.append(say(_SWITCH, names=[numbered.names[position] for position in flags]))
        conditions = ", ".join(_switched(case, generic, flags, bounds)) or "…"
        code += ["statement = select(…)", "if …:  # instead of or_(flag, condition)"]
        code.append(f"    statement = statement.where({conditions})")
    if bounds:
        said.append(say(_LITERAL, names=[numbered.names[position] for position in bounds]))
        switched = "\n".join(code)
        code += [
            _bound(case, generic, position, bound)
            for position, bound in bounds.items()
            if bound not in switched
        ]
    plan = found.plan if case.show_values else scrub_plan(found.plan, case.varying)
    verdict = Verdict(
        VerdictStatus.VERIFIED,
        _AS_GOOD,
        cost_before=cost,
        cost_after=found.plan.total_cost,
        proof=tuple(_changes(generic, plan)),
    )
    return Advice(
        AdviceKind.REWRITE,
        say("{said:comma_and}", said=said),
        verdict,
        sqlalchemy="\n".join(code),
        explanation=_LITERAL_EXPLANATION if bounds else _SWITCH_EXPLANATION,
        plan=plan.as_text(),
    )


def _is_flag(generic: Plan, position: int) -> bool:
    """Whether a parameter is a condition by itself, mostly under OR."""
    name = f"${position + 1}"
    texts = {name, f"(NOT {name})", f"NOT {name}", f"({name} IS NULL)", f"{name} IS NULL"}
    return any(part.text in texts for part in _alternatives(generic))


def _alternatives(plan: Plan) -> Iterator[Conjunct]:
    """Yield the conditions of a plan, each followed by its branches under OR."""
    for conjunct in _conditions(plan):
        yield conjunct
        yield from _branches(conjunct)


def _conditions(plan: Plan) -> Iterator[Conjunct]:
    for node in plan.nodes:
        for _, condition in node.conditions:
            yield from conjuncts(condition)


def _branches(conjunct: Conjunct) -> list[Conjunct]:
    return [part for branch in conjunct.alternatives for part in branch]


def _switched(
    case: Case, generic: Plan, flags: Sequence[int], bounds: Mapping[int, str]
) -> Iterator[str]:
    """Yield the comparisons that a flag switches, in the app's own words.

    `bounds` are the parameters, by their position, that literal_execute writes into the statement.
    """
    switches = {position + 1 for position in flags}
    for parts in map(_branches, _conditions(generic)):
        if any(switches & parameters_in(part.text) for part in parts):
            for part in parts:
                numbers = parameters_in(part.text)
                held = (text for position, text in bounds.items() if position + 1 in numbers)
                if code := _in_code(case, generic, part, next(held, "…")):
                    yield code


def _bound(case: Case, generic: Plan, position: int, bound: str) -> str:
    """Return a comparison with the parameter in the app's own words, as far as they are known."""
    compared = (part for part in _alternatives(generic) if position + 1 in parameters_in(part.text))
    said = (_in_code(case, generic, part, bound) for part in compared)
    return next(filter(None, said), bound)


def _in_code(case: Case, generic: Plan, conjunct: Conjunct, value: str) -> str:
    """Return a comparison of a plain column as SQLAlchemy code, nothing for any other."""
    for side in (conjunct.left, conjunct.right):
        scan = next((scan for scan in generic.scans if scan.alias in side.aliases), None)
        table = case.schema.get(scan.qualified_relation) if scan else None
        column = plain_column(side, table) if table and len(side.column_names) == 1 else None
        if table and column and conjunct.operator in PYTHON_OPERATORS:
            root = case.schema.root(table)
            attribute = attribute_of(column, root.name, case.mapped(root))
            return f"{attribute} {PYTHON_OPERATORS[conjunct.operator]} {value}"
    return ""


def _changes(before: Plan, after: Plan) -> Iterator[str]:
    """Yield how each table is read now, if that has changed."""
    now = {scan.alias: scan for scan in after.scans}
    for scan in before.scans:
        other = now.get(scan.alias)
        if other is not None and other.title != scan.title:
            yield say(_BECAME, before=scan.title, after=other.title)


def _settings(driver: str, before: float, after: float) -> Iterator[Advice]:
    """Yield the settings that give each execution a plan of its own."""
    verdict = Verdict(VerdictStatus.VERIFIED, _OWN_PLAN, cost_before=before, cost_after=after)
    if driver == "asyncpg":
        create, setting, value = "create_async_engine", "prepared_statement_cache_size", 0
        option = '{"server_settings": {"plan_cache_mode": "force_custom_plan"}}'
    else:
        create, setting, value = "create_engine", "prepare_threshold", None
        option = '{"options": "-c plan_cache_mode=force_custom_plan"}'
    facts = {"create": create, "driver": driver}
    yield _CUSTOM.advice(verdict, option=option, **facts)
    yield _UNPREPARED.advice(verdict, setting=setting, value=value, **facts)
