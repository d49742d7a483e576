"""An index in words and code: what is hidden, what exists already, what it makes superfluous."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest

from flask_planwatch.finding import Advice, Verdict, VerdictStatus
from flask_planwatch.indexes.candidate import Candidate, Key
from flask_planwatch.indexes.mapped import DeclaredIndex, MappedTable
from flask_planwatch.indexes.proposal import (
    MAX_AGAIN,
    MAX_PROPOSALS,
    Proposals,
    as_declared,
    create_index,
    declared_candidates,
    declared_index,
    invalid_index,
    is_covered,
    placeholders,
    remark,
    replacing,
)
from flask_planwatch.plan.figures import MAX_NAME_BYTES
from flask_planwatch.plan.schema import Column, Schema

from .data import COLUMNS, candidate, index, table

VERDICT = Verdict(VerdictStatus.VERIFIED, "the planner used the index")

#: A condition as it stands in an index, and as people may see it.
PLACEHOLDERS = {
    "state <> 'retired'": "state <> :state_1",
    "state <> 'retired'::text": "state <> :state_1",
    "(state <> 'retired'::text)": "(state <> :state_1)",
    "(state)::text <> 'retired'::text": "(state)::text <> :state_1",
    "mood <> 'sad'::public.\"Mood\"": "mood <> :mood_1",
    "code <> 'x'::character varying(20)": "code <> :code_1",
    "price <> '9.5'::numeric(10,2)": "price <> :price_1",
    "at <> '2020-01-01 00:00:00'::timestamp without time zone": "at <> :at_1",
    "points <> 7": "points <> :points_1",
    "points <> '-7'::integer": "points <> :points_1",
    "ratio <> 1.5": "ratio <> :ratio_1",
    "note <> 'it''s'::text": "note <> :note_1",
    "note <> E'a\\\\b'::text": "note <> :note_1",
    "state <> ALL ('{retired,gone}'::text[])": "state <> ALL (:state_1)",
    "state <> ALL (ARRAY['a'::text, 'b'::text])": "state <> ALL (ARRAY[:state_1, :state_2])",
    "(a <> 'x'::text) OR (b <> 'y'::text)": "(a <> :a_1) OR (b <> :b_2)",
    "\"Odd\" <> 'x'::text": '"Odd" <> :value_1',
    "state <> '1'::text": "state <> :state_1",
    "state <> ''::text": "state <> :state_1",
    "points <> 0": "points <> :points_1",
    "'+'::text <> state": ":value_1 <> state",
    "(state <> '1'::text) OR (state <> '0'::text)": "(state <> :state_1) OR (state <> :state_2)",
    "'1'::text IS DISTINCT FROM state": ":value_1 IS DISTINCT FROM state",
    "ratio <> '1'::double precision": "ratio <> :ratio_1",
    "state IS DISTINCT FROM '1'::text": "state IS DISTINCT FROM :state_1",
    "state <> ('1'::text)": "state <> (:state_1)",
    "state <> ALL ('{}'::text[])": "state <> ALL (:state_1)",
    "state <> ALL (ARRAY['1'::text, '+'::text])": "state <> ALL (ARRAY[:state_1, :state_2])",
    "coalesce(state, ''::text) <> ''::text": "coalesce(state, ''::text) <> :state_1",
    "(state || '+'::text) <> '1'::text": "(state || '+'::text) <> :state_1",
    "(points + 1) <> 1": "(points + 1) <> :points_1",
    "town IS NULL": "town IS NULL",
    "town IS NOT NULL": "town IS NOT NULL",
    "NOT done": "NOT done",
    "done": "done",
}


@pytest.mark.parametrize("condition", PLACEHOLDERS)
def test_a_placeholder_for_each_value(condition):
    assert placeholders(condition) == PLACEHOLDERS[condition]


def made(wanted, mapped=None, *, size=8192, show_values=False) -> Advice:
    return create_index(wanted, mapped, VERDICT, size=size, show_values=show_values)


def all_texts(advice: Advice) -> str:
    """Return what people and logs may see of an advice."""
    return "\n".join([advice.summary, advice.explanation, str(advice.as_dict())])


PARTIAL = candidate("points", predicate="state <> 'retired'::text")


def test_a_value_stands_in_the_code_only():
    advice = made(PARTIAL)
    for code in (*advice.ddl, advice.sqlalchemy, advice.alembic):
        assert "retired" in code
    assert "retired" not in all_texts(advice)
    assert advice.summary.endswith("ON deed (points) WHERE state <> :state_1")
    assert advice.as_dict()["ddl"] == [advice.summary]
    assert "public" not in repr(advice)


def test_a_value_is_shown_if_asked_for():
    advice = made(PARTIAL, show_values=True)
    assert "retired" in advice.summary
    assert "retired" in advice.as_dict()["sqlalchemy"]


def test_a_condition_without_a_value_hides_nothing():
    advice = made(candidate("points", predicate="town IS NULL"))
    assert advice.public is None
    assert "WHERE town IS NULL" in advice.summary


def test_the_name_is_the_same_with_and_without_the_value():
    advice = made(PARTIAL)
    assert advice.summary.split()[3] == advice.ddl[0].split()[3] == PARTIAL.name


def test_says_what_a_partial_index_does_not_serve():
    assert "this literal condition" in made(PARTIAL).explanation
    assert "this literal condition" not in made(candidate("points")).explanation


def test_says_the_price_and_the_size():
    advice = made(candidate("town"), size=712_704)
    assert "The index takes about 713 kB" in advice.explanation
    assert advice.index_bytes == 712_704


def test_an_expression_wants_analyze():
    assert "Run ANALYZE" in made(candidate("lower(town)")).explanation
    assert "Run ANALYZE" not in made(candidate("town")).explanation


#: What exists beside a new index on (town, points), and whether that makes it superfluous.
SUPERFLUOUS = {
    "its first column": (index("old", "town"), True),
    "the same columns": (index("old", "town", "points"), True),
    "its second column": (index("old", "points"), False),
    "the other order": (index("old", "points", "town"), False),
    "a longer one": (index("old", "town", "points", "id"), False),
    "one that carries its second column": (index("old", "town", included=("points",)), True),
    "one that carries another column": (index("old", "town", included=("id",)), False),
    "a unique one": (index("old", "town", unique=True), False),
    "an invalid one": (index("old", "town", valid=False), False),
    "a partial one": (index("old", "town", predicate="done"), False),
    "another method": (index("old", "town", method="hash"), False),
    "an operator class of its own": (index("old", "town", plain=False), False),
}


@pytest.mark.parametrize("name", SUPERFLUOUS)
def test_names_what_becomes_superfluous(name):
    old, wanted = SUPERFLUOUS[name]
    advice = made(candidate("town", "points", relation=table(indexes=[old])))
    assert ("old would then be superfluous" in advice.explanation) is wanted


def test_an_index_in_another_direction_makes_nothing_superfluous():
    keys = (Key("town", "town", descending=True, nulls="LAST"), "points")
    advice = made(candidate(*keys, relation=table(indexes=[index("old", "town")])))
    assert "superfluous" not in advice.explanation


def test_a_partial_index_makes_nothing_superfluous():
    relation = table(indexes=[index("old", "town")])
    advice = made(candidate("town", "points", predicate="done", relation=relation))
    assert "superfluous" not in advice.explanation


#: An index that exists, one that is wanted, and whether the first does the work of the second.
COVERED = {
    "the same": (index("old", "town"), candidate("town"), True),
    "a longer one": (index("old", "town", "points"), candidate("town"), True),
    "a shorter one": (index("old", "town"), candidate("town", "points"), False),
    "another column": (index("old", "points"), candidate("town"), False),
    "not the first column": (index("old", "points", "town"), candidate("town"), False),
    "a unique one": (index("old", "town", unique=True), candidate("town"), True),
    "an invalid one": (index("old", "town", valid=False), candidate("town"), False),
    "a partial one": (index("old", "town", predicate="done"), candidate("town"), False),
    "another method": (index("old", "town", method="hash"), candidate("town"), False),
    "its own operator class": (index("old", "town", plain=False), candidate("town"), False),
    "what is to carry more": (
        index("old", "town"),
        candidate("town", include=("points",)),
        False,
    ),
    "what is to carry more than a unique one": (
        index("old", "town", unique=True),
        candidate("town", include=("points",)),
        True,
    ),
    "what is to carry more than the first key of a unique one": (
        index("old", "town", "points", unique=True),
        candidate("town", include=("done",)),
        False,
    ),
    "what is to carry another key": (
        index("old", "town", "points"),
        candidate("town", include=("points",)),
        True,
    ),
    "what is to carry what is included": (
        index("old", "town", included=("points",)),
        candidate("town", include=("points",)),
        True,
    ),
    "what is to hold fewer rows": (
        index("old", "town"),
        candidate("town", predicate="done"),
        False,
    ),
    "what is to be in another order": (
        index("old", "town"),
        candidate(Key("town", "town", descending=True, nulls="LAST")),
        False,
    ),
    "what is for patterns": (
        index("old", "town"),
        candidate(Key("town", "town", "text_pattern_ops")),
        False,
    ),
    "an expression": (index("old", "lower(town)"), candidate("lower(town)"), True),
    "an expression in parentheses": (
        index("old", "lower((town)::text)"),
        candidate("lower(town)"),
        True,
    ),
    "another expression": (index("old", "upper(town)"), candidate("lower(town)"), False),
    "a column for an expression": (index("old", "town"), candidate("lower(town)"), False),
}


@pytest.mark.parametrize("name", COVERED)
def test_is_covered_by_what_exists(name):
    old, wanted, covered = COVERED[name]
    assert is_covered(replace(wanted, relation=table(indexes=[old]))) is covered


#: What exists, none of it valid, and whether mending it gives an index on (town).
BROKEN = {
    "the same": (index("old", "town", valid=False), True),
    "a longer one": (index("old", "town", "points", valid=False), True),
    "valid": (index("old", "town"), False),
    "another column": (index("old", "points", valid=False), False),
    "a partial one": (index("old", "town", valid=False, predicate="done"), False),
    "another method": (index("old", "town", valid=False, method="brin"), False),
    "its own operator class": (index("old", "town", valid=False, plain=False), False),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_invalid_index_is_mended(name):
    old, wanted = BROKEN[name]
    index_on_town = candidate("town", relation=table(indexes=[old]))
    assert (invalid_index(index_on_town) is not None) is wanted
    advice = made(index_on_town)
    assert (advice.ddl == ("REINDEX INDEX CONCURRENTLY old",)) is wanted
    assert ("exists but is invalid" in remark(index_on_town, None)) is wanted
    assert ('op.execute("REINDEX INDEX CONCURRENTLY old")' in advice.alembic) is wanted


def test_an_invalid_index_of_another_order_is_not_mended():
    relation = table(indexes=[index("old", "town", valid=False)])
    key = Key("town", "town", descending=True, nulls="LAST")
    assert invalid_index(candidate(key, relation=relation)) is None


def test_mends_in_the_schema_of_the_table_and_without_concurrently_on_a_partitioned_one():
    broken = index("Old One", "town", valid=False)
    relation = replace(table(indexes=[broken]), display="shop.deed")
    assert made(candidate("town", relation=relation)).ddl == (
        'REINDEX INDEX CONCURRENTLY shop."Old One"',
    )
    relation = replace(relation, kind="p")
    assert made(candidate("town", relation=relation)).ddl == ('REINDEX INDEX shop."Old One"',)


def mapped(*declared: DeclaredIndex) -> MappedTable:
    attributes = {column.name: column.name.lower() for column in COLUMNS}
    return MappedTable("app.models", "Deed", "Deed.__table__", attributes, indexes=declared)


#: What the models declare, and whether that is the index on (town).
DECLARED = {
    "the same": (("town",), True),
    "a longer one": (("town", "points"), False),
    "another column": (("points",), False),
    "an expression": (("lower(town)",), False),
}


@pytest.mark.parametrize("name", DECLARED)
def test_a_declared_index_keeps_its_name(name):
    keys, wanted = DECLARED[name]
    code = mapped(DeclaredIndex("ix_of_ours", "Deed.__table__", keys))
    assert (declared_index(candidate("town"), code) is not None) is wanted
    advice = made(candidate("town"), code)
    assert (" ix_of_ours ON deed (town)" in advice.summary) is wanted
    sentence = "declared in Deed.__table__ but missing in the database"
    assert (sentence in advice.explanation.replace("`", "")) is wanted
    assert (sentence in remark(candidate("town"), code).replace("`", "")) is wanted


def test_a_declared_expression():
    code = mapped(DeclaredIndex("ix_of_ours", "Deed.__table__", ("lower(town)",)))
    assert declared_index(candidate("lower(town)"), code) is not None


#: The columns that the candidates on (town) carry, and those that they carry then.
CARRYING = {
    "none": ((), ("points", "state")),
    "some": (("state",), ("points", "state")),
    "another": (("done",), ("done",)),
}


@pytest.mark.parametrize("name", CARRYING)
def test_a_candidate_carries_what_it_is_declared_with(name):
    wanted, carried = CARRYING[name]
    declared = DeclaredIndex("ours", "Deed.__table__", ("town",), include=("points", "state"))
    code = mapped(declared)
    assert as_declared(candidate("town", include=wanted), code).include == carried
    advice = made(candidate("town", include=wanted), code)
    assert (" ours ON deed (town) INCLUDE (points, state)" in advice.summary) is (name != "another")


def test_of_declared_indexes_the_smallest_is_taken():
    large = DeclaredIndex("large", "Deed.__table__", ("town",), include=("points",))
    code = mapped(large, DeclaredIndex("small", "Deed.__table__", ("town",)))
    assert declared_index(candidate("town"), code).name == "small"
    assert declared_index(candidate("town", include=("points",)), code) == large


def test_a_declared_index_adds_nothing_to_one_that_exists():
    """What it only carries besides is no reason to say that one is missing."""
    code = mapped(DeclaredIndex("ours", "Deed.__table__", ("town",), include=("points",)))
    relation = table(indexes=[index("old", "town")])
    assert as_declared(candidate("town", relation=relation), code).include == ()
    (one,) = declared_candidates(relation, Schema(), code)
    assert is_covered(one)


def test_a_column_that_the_database_lacks_cannot_be_carried():
    code = mapped(DeclaredIndex("ours", "Deed.__table__", ("town",), include=("nowhere",)))
    assert declared_index(candidate("town"), code) is None


def test_a_deferrable_constraint_of_a_partitioned_table_is_left_to_the_migration():
    declared = DeclaredIndex(
        "ours", "Deed.__table__", ("town",), unique=True, constraint=True, timing="DEFERRABLE"
    )
    assert declared_index(candidate("town"), mapped(declared)) == declared
    relation = replace(table(), kind="p")
    assert declared_index(candidate("town", relation=relation), mapped(declared)) is None


def test_a_declared_index_that_exists_under_its_name_is_no_other():
    """One that holds other columns than it should is not the one that is missing."""
    code = mapped(DeclaredIndex("ix_of_ours", "Deed.__table__", ("town",)))
    relation = table(indexes=[index("ix_of_ours", "points")])
    assert declared_index(candidate("town", relation=relation), code) is None
    assert declared_candidates(relation, Schema(), code) == []


@pytest.mark.parametrize(
    "special",
    [
        candidate("town", predicate="done"),
        candidate("town", method="hash"),
        candidate("town", include=("points",)),
        candidate(Key("town", "town", descending=True)),
    ],
    ids=["partial", "hash", "carrying", "descending"],
)
def test_a_declared_index_is_a_plain_one(special):
    code = mapped(DeclaredIndex("ix_of_ours", "Deed.__table__", ("town",)))
    assert declared_index(special, code) is None


def test_all_that_is_declared_on_columns_and_missing_is_tried():
    code = mapped(
        DeclaredIndex("one", "Deed.__table__", ("town", "points")),
        DeclaredIndex("two", "Deed.__table__", ("lower(town)",)),
        DeclaredIndex("three", "Deed.__table__", ("state",)),
    )
    relation = table(indexes=[index("three", "state")])
    found = declared_candidates(relation, Schema(), code)
    assert [one.body for one in found] == ["(town, points)"]
    assert declared_candidates(relation, Schema(), None) == []


#: Indexes of one table that are not the same.
DIFFERENT = [
    candidate("town"),
    candidate("town", "points"),
    candidate("points", "town"),
    candidate("town", include=("points",)),
    candidate("town", "points", include=("id",)),
    candidate("town", predicate="done"),
    candidate("town", predicate="NOT done"),
    candidate("town", predicate="state <> 's'"),
    candidate("town", predicate="points <> 7"),
    candidate(Key("town", "town", descending=True, nulls="LAST")),
    candidate(Key("town", "town", nulls="FIRST")),
    candidate(Key("town", "town", descending=True), "points", "id"),
    candidate("town", Key("points", "points", descending=True), "id"),
    candidate("town", "points", Key("id", "id", descending=True, nulls="LAST")),
    candidate("town", Key("points", "points", descending=True, nulls="LAST"), "id"),
    candidate(Key("town", "town", "text_pattern_ops")),
    candidate(Key("town", "town", "gin_trgm_ops"), method="gin"),
    candidate(Key("town", "town", "gist_trgm_ops"), method="gist"),
    candidate("note"),
    candidate("note", method="gin"),
    candidate("note", method="gist"),
    candidate(Key("note", "note", "jsonb_path_ops"), method="gin"),
    candidate("lower(town)"),
    candidate("upper(town)"),
    candidate("points + 1"),
    candidate("points * 2"),
    candidate("Odd One"),
]


def test_two_indexes_have_two_names():
    names = [one.name for one in DIFFERENT]
    assert len(set(names)) == len(names), sorted(names)
    assert all(len(name.encode()) <= MAX_NAME_BYTES for name in names)
    assert len(set(DIFFERENT)) == len(DIFFERENT)


@pytest.mark.parametrize("wanted", DIFFERENT, ids=lambda one: one.body)
def test_a_name_that_is_taken_is_avoided(wanted):
    again = replace(wanted, taken=frozenset({wanted.name}))
    assert again.name != wanted.name
    assert again == wanted, "the name is no part of what an index is"


def test_long_names_are_cut_and_stay_apart():
    columns = [Column(f"{'long' * 12}_{n}", "text", quoted_name=f"{'long' * 12}_{n}") for n in "ab"]
    relation = table(columns=columns)
    names = [column.name for column in columns]
    made = [candidate(*keys, relation=relation).name for keys in ([names[0]], [names[1]], names)]
    assert len(set(made)) == 3
    assert all(len(name) <= MAX_NAME_BYTES for name in made)


def test_indexes_are_equal_if_they_would_be_the_same():
    assert candidate("town") == candidate("town", taken=frozenset({"x"}), given_name="y")
    assert candidate("town") != candidate("town", relation=table(name="other"))
    assert candidate("town") != "town"
    for one, other in combinations(DIFFERENT, 2):
        assert one != other


def named(*indexes: Candidate) -> dict[Candidate, str]:
    """Return indexes with their names, as they are proposed."""
    return {index: index.name for index in indexes}


def test_proposals_of_other_statements():
    proposals = Proposals()
    town, points = candidate("town"), candidate("points")
    proposals.keep("first", named(town))
    proposals.keep("second", named(town, points))
    assert proposals.others("first") == (town, points)
    assert proposals.others("second") == (town,)
    assert proposals.others("third") == (town, points)
    proposals.keep("second", {})
    assert proposals.others("first") == ()


def test_proposals_of_the_oldest_statements_are_forgotten():
    proposals = Proposals()
    first = candidate("town")
    proposals.keep("first", named(first))
    proposals.keep("second", named(candidate("points")))
    proposals.keep("first", named(first))
    for number in range(MAX_PROPOSALS - 1):
        proposals.keep(f"statement {number}", named(candidate("id")))
    assert first in proposals.others("x")
    assert candidate("points") not in proposals.others("x")


TOWN, TOWN_POINTS = candidate("town"), candidate("town", "points")
WITH_POINTS = candidate("town", include=("points",))

#: What is proposed for an earlier statement, what for a later one, and whether the earlier one is
#: inspected again, as it may share the index.
AGAIN = {
    "the same index": (TOWN, TOWN, False),
    "a longer one": (TOWN, TOWN_POINTS, True),
    "one that carries more": (TOWN, WITH_POINTS, True),
    "a shorter one": (TOWN_POINTS, TOWN, False),
    "another first column": (TOWN, candidate("points", "town"), False),
    "the order of its keys is free": (
        candidate("points", "town", equal_keys=2),
        TOWN,
        True,
    ),
    "another condition": (TOWN, candidate("town", "points", predicate="done"), False),
    "one that finds as few rows": (
        candidate("points", "town", equal_keys=2),
        candidate("points", "state"),
        True,
    ),
    "both can be one": (TOWN_POINTS, candidate("town", include=("id",)), True),
}


@pytest.mark.parametrize("name", AGAIN)
def test_an_earlier_statement_is_inspected_again_if_it_may_share_the_index(name):
    earlier, later, again = AGAIN[name]
    proposals, asked = Proposals(), []
    proposals.keep("first", named(earlier), inspect_again=lambda: asked.append("first"))
    known = proposals.others("second")
    proposals.keep("second", named(later), known, lambda: asked.append("second"))
    assert asked == ["first"] * again
    # Whatever comes of that, the same index is not tried again.
    proposals.keep("first", named(earlier), [later], lambda: asked.append("first, again"))
    proposals.keep("second", named(later, candidate("state")), [earlier])
    proposals.keep("second", {})
    proposals.keep("second", named(later), [earlier])
    assert asked == ["first"] * again


def test_a_statement_is_inspected_again_if_another_does_without_what_it_carries():
    proposals, asked = Proposals(), []
    wide, carried = candidate("town", include=("points", "id")), candidate("town", include=("id",))
    proposals.keep("second", named(carried))
    proposals.keep("third", named(carried))
    proposals.keep("first", named(wide), [carried], lambda: asked.append("first"))
    other = candidate("state")
    proposals.keep("third", named(other), [wide])
    # The second one still needs it.
    assert asked == []
    proposals.keep("second", named(other), [wide, other])
    assert asked == ["first"]


def test_the_index_for_most_statements_comes_first():
    proposals = Proposals()
    for origin, proposed in (("first", TOWN_POINTS), ("second", TOWN_POINTS), ("third", TOWN)):
        proposals.keep(origin, named(proposed))
    assert proposals.others("fourth") == (TOWN_POINTS, TOWN)


def test_a_statement_is_inspected_again_if_another_gives_up_the_index_that_they_share():
    proposals, asked = Proposals(), []
    proposals.keep("first", named(TOWN_POINTS), inspect_again=lambda: asked.append("first"))
    proposals.keep("second", named(TOWN_POINTS), [TOWN_POINTS])
    proposals.keep("second", named(candidate("state")), [TOWN_POINTS])
    assert asked == ["first"]


def test_a_statement_is_not_inspected_again_for_ever():
    proposals, asked = Proposals(), []
    proposals.keep("first", named(TOWN), inspect_again=lambda: asked.append("first"))
    for number in range(2 * MAX_AGAIN):
        longer = candidate("town", f"points + {number}")
        proposals.keep("second", named(longer))
    assert len(asked) == MAX_AGAIN


def replaced(*proposed: tuple[str, Candidate, list[Candidate]]) -> tuple[str, ...]:
    """Return what the last index replaces, once each was proposed for a statement of this name.

    The last item are the indexes that were tried for it.
    """
    proposals = Proposals()
    for origin, one, known in proposed:
        proposals.keep(origin, named(one), known)
    return proposals.replaced_by(proposed[-1][1])


#: What is proposed one after the other, and which indexes the last one takes the place of.
REPLACED = {
    "nothing before it": ([("a", TOWN_POINTS, [])], ()),
    "a shorter one": ([("a", TOWN, []), ("b", TOWN_POINTS, [TOWN])], (TOWN.name,)),
    "one that carries less": ([("a", TOWN, []), ("b", WITH_POINTS, [TOWN])], (TOWN.name,)),
    "one that carries what is a key": (
        [("a", WITH_POINTS, []), ("b", TOWN_POINTS, [])],
        (WITH_POINTS.name,),
    ),
    "a longer one": ([("a", TOWN_POINTS, []), ("b", TOWN, [])], ()),
    "another condition": (
        [("a", TOWN, []), ("b", candidate("town", "points", predicate="done"), [])],
        (),
    ),
    "the order of its keys was free": (
        [("a", candidate("points", "town", equal_keys=2), []), ("b", TOWN_POINTS, [])],
        (candidate("points", "town").name,),
    ),
    "the statement has it by now": (
        [("a", TOWN, []), ("b", TOWN_POINTS, []), ("a", TOWN_POINTS, [TOWN_POINTS])],
        (TOWN.name,),
    ),
    "one in place of another": (
        [("a", TOWN, []), ("a", TOWN_POINTS, []), ("a", candidate("town", "points", "id"), [])],
        (TOWN.name, TOWN_POINTS.name),
    ),
    "the statement keeps it all the same": (
        [
            ("a", TOWN, []),
            ("b", TOWN_POINTS, [TOWN]),
            ("a", TOWN, [TOWN_POINTS]),
            ("b", TOWN_POINTS, [TOWN]),
        ],
        (),
    ),
    "another statement needs it": (
        [
            ("a", TOWN, []),
            ("b", TOWN_POINTS, []),
            ("a", TOWN_POINTS, []),
            ("c", TOWN, [TOWN_POINTS]),
            ("a", TOWN_POINTS, []),
        ],
        (),
    ),
}


@pytest.mark.parametrize("name", REPLACED)
def test_which_proposed_indexes_another_takes_the_place_of(name):
    proposed, names = REPLACED[name]
    assert replaced(*proposed) == names


def test_an_advice_says_what_it_takes_the_place_of():
    relation = table(indexes=[index("old", "town")])
    advice = made(candidate("town", "points", relation=relation))
    assert advice.index == "ix_deed_town_points"
    assert advice.replaces == ("old",)
    advice = replacing(advice, ["ix_deed_town"])
    assert advice.replaces == ("old", "ix_deed_town")
    assert advice.explanation.endswith(
        "It takes the place of ix_deed_town, advised before: it begins with the same keys."
    )
    assert advice.as_dict()["replaces"] == ["old", "ix_deed_town"]
    hidden = replacing(made(PARTIAL), ["other"]).as_dict()
    assert hidden["replaces"] == ["other"]
    assert "takes the place of other" in hidden["explanation"]
    assert replacing(advice, []) is advice
