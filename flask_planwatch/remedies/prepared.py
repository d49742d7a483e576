"""What to do about a generic plan: let the value that it depends on reach the planner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from ..advice.rewrite import attribute_of
from ..advice.verdict import Advised, Answer
from ..finding import Advice, AdviceKind, Verdict, VerdictStatus
from ..plan.comparison import plain_column
from ..plan.evidence import Custom, Hit
from ..plan.predicate import Conjunct, conjuncts, parameters_in
from ..plan.scrub import scrub_plan
from ..plan.tree import Plan
from ..server.numbered import Numbered
from ..server.prepared import generic_plan, types_of
from ..server.transaction import NO_SERVER, ServerError
from .case import Case

#: Parameters that are tried as literals; statements with more are too long to try all of them.
MAX_PARAMETERS = 8

#: How much more than the plan for the very values that of the rewritten form may cost, if it goes
#: another way: the guesses of the rows differ.
TOLERANCE = 1.1


@dataclass(frozen=True)
class _Rewritten:
    """A form of the statement in which some parameters, counted from 0, are no parameters."""

    literal: tuple[int, ...]
    plan: Plan


def advise(case: Case, hit: Hit) -> Answer:
    """Return the rewrite that gets a good plan for all values, and the settings that avoid one."""
    prepared = case.evidence.prepared
    assert prepared is not None
    worst = max(prepared.customs, key=lambda one: one.factor)
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
        if as_good is None and plan.total_cost <= worst.plan.total_cost * TOLERANCE:
            as_good = _Rewritten(chosen, plan)
    return as_good


def _choices(count: int) -> Iterator[tuple[int, ...]]:
    """Yield single parameters, then pairs, then all of them."""
    places = range(min(count, MAX_PARAMETERS))
    yield from combinations(places, 1)
    yield from combinations(places, 2)
    if count > 2:
        yield tuple(range(count))


def _plan_with(
    case: Case, numbered: Numbered, types: Sequence[str], chosen: Iterable[int]
) -> Plan | None:
    """Return the generic plan with some parameters as literals, None if there is none."""
    try:
        with case.session.transaction() as transaction:
            literals = {place: transaction.literal(numbered.values[place]) for place in chosen}
        # What is not used any more has no context to infer a type from.
        declared = ["text" if place in literals else one for place, one in enumerate(types)]
        return generic_plan(case.session, numbered.with_literals(literals), declared)
    except ServerError as error:
        if error.reason in NO_SERVER:
            raise
        return None


def _rewrite(
    case: Case, numbered: Numbered, found: _Rewritten, generic: Plan, cost: float
) -> Advice:
    flags = [place for place in found.literal if _is_flag(generic, place)]
    values = [place for place in found.literal if place not in flags]
    said, code = [], []
    bounds = {place: _literal(numbered.names[place]) for place in values}
    if flags:
        names = " and ".join(numbered.names[place] for place in flags)
        said.append(f"add the where() that {names} switches on or off only when it is needed")
        conditions = ", ".join(_switched(case, generic, flags, bounds)) or "…"
        code += ["statement = select(…)", "if …:  # instead of or_(flag, condition)"]
        code.append(f"    statement = statement.where({conditions})")
    if values:
        names = " and ".join(numbered.names[place] for place in values)
        said.append(f"let {names} reach the planner with literal_execute=True")
        told = "\n".join(code)
        code += [
            _bound(case, generic, place, bound)
            for place, bound in bounds.items()
            if bound not in told
        ]
    plan = found.plan if case.show_values else scrub_plan(found.plan, case.varying)
    return Advice(
        kind=AdviceKind.REWRITE,
        summary=", and ".join(said),
        verdict=Verdict(
            VerdictStatus.VERIFIED,
            "the plan for all values of the rewritten statement is as good as that for these",
            cost_before=cost,
            cost_after=found.plan.total_cost,
            proof=tuple(_changes(generic, plan)),
        ),
        sqlalchemy="\n".join(code),
        explanation="literal_execute=True writes the value into the statement when it is executed, "
        "so that each value has a statement, and a plan, of its own"
        if values
        else "Each form of the statement is prepared, and planned, for itself",
        plan=plan.as_text(),
    )


def _is_flag(generic: Plan, place: int) -> bool:
    """Whether a parameter stands in the plan as a condition of its own, mostly under OR."""
    name = f"${place + 1}"
    texts = {name, f"(NOT {name})", f"NOT {name}", f"({name} IS NULL)", f"{name} IS NULL"}
    return any(one.text in texts for one in _alternatives(generic))


def _alternatives(plan: Plan) -> Iterator[Conjunct]:
    for node in plan.nodes:
        for _, condition in node.conditions:
            for conjunct in conjuncts(condition):
                yield conjunct
                for branch in conjunct.alternatives:
                    yield from branch


def _literal(name: str) -> str:
    return f'bindparam("{name}", …, literal_execute=True)'


def _switched(
    case: Case, generic: Plan, flags: Sequence[int], bounds: Mapping[int, str]
) -> Iterator[str]:
    """Yield the comparisons that a flag switches, in the app's own words.

    `bounds` are those parameters, by their place, that are more than any value.
    """
    switches = {place + 1 for place in flags}
    for node in generic.nodes:
        for _, condition in node.conditions:
            for conjunct in conjuncts(condition):
                branches = [one for branch in conjunct.alternatives for one in branch]
                if not any(switches & parameters_in(one.text) for one in branches):
                    continue
                for one in branches:
                    numbers = parameters_in(one.text)
                    held = [text for place, text in bounds.items() if place + 1 in numbers]
                    if code := _in_code(case, generic, one, (held or ["…"])[0]):
                        yield code


def _bound(case: Case, generic: Plan, place: int, bound: str) -> str:
    """Return a comparison with the parameter in the app's own words, as far as they are known."""
    compared = [one for one in _alternatives(generic) if place + 1 in parameters_in(one.text)]
    said = [_in_code(case, generic, one, bound) for one in compared]
    return next(filter(None, said), bound)


def _in_code(case: Case, generic: Plan, conjunct: Conjunct, value: str) -> str:
    """Return a comparison of a plain column as SQLAlchemy code, nothing for any other."""
    for one in (conjunct.left, conjunct.right):
        scan = next((scan for scan in generic.scans if scan.alias in one.aliases), None)
        table = case.schema.get(scan.qualified_relation) if scan else None
        column = plain_column(one, table) if table and len(one.column_names) == 1 else None
        if table and column and conjunct.operator in _OPERATORS:
            root = case.schema.root(table)
            attribute = attribute_of(column, root.name, case.mapped(root))
            return f"{attribute} {_OPERATORS[conjunct.operator]} {value}"
    return ""


#: PostgreSQL's comparisons in Python.
_OPERATORS = {"=": "==", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


def _changes(before: Plan, after: Plan) -> Iterator[str]:
    """Yield how each table is read now, where that is another way."""
    now = {scan.alias: scan for scan in after.scans}
    for scan in before.scans:
        other = now.get(scan.alias)
        if other is not None and other.title != scan.title:
            yield f"{scan.title} became {other.title}, for all values"


def _settings(driver: str, before: float, after: float) -> Iterator[Advice]:
    """Yield the settings that give each execution a plan of its own."""
    asynchronous = driver == "asyncpg"
    option = (
        '{"server_settings": {"plan_cache_mode": "force_custom_plan"}}'
        if asynchronous
        else '{"options": "-c plan_cache_mode=force_custom_plan"}'
    )
    create = "create_async_engine" if asynchronous else "create_engine"
    verdict = Verdict(
        VerdictStatus.VERIFIED,
        "each execution then gets the plan for its own values",
        cost_before=before,
        cost_after=after,
    )
    yield Advice(
        kind=AdviceKind.SETTING,
        summary="set plan_cache_mode = force_custom_plan for the application's connections",
        verdict=verdict,
        sqlalchemy=f"{create}(url, connect_args={option})",
        explanation="The statement is still prepared, but planned at each execution",
    )
    name, value = (
        ("prepared_statement_cache_size", 0) if asynchronous else ("prepare_threshold", None)
    )
    yield Advice(
        kind=AdviceKind.SETTING,
        summary=f"set {name} to {value}, so that {driver} keeps nothing prepared",
        verdict=verdict,
        sqlalchemy=f'{create}(url, connect_args={{"{name}": {value}}})',
        explanation="That holds for all statements of the engine, and costs each of them the time "
        "to be parsed",
    )
