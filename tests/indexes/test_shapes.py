"""Which indexes are tried: what is compared by equality first, then ranges, then the order."""

from __future__ import annotations

import pytest

from flask_planwatch.indexes.shapes import MAX_CANDIDATES, MAX_INCLUDED_WIDTH, MAX_KEYS, Shapes
from flask_planwatch.plan.access import reference_access
from flask_planwatch.plan.figures import MAX_INDEX_COLUMNS
from flask_planwatch.plan.schema import Column

from .data import COLUMNS, asked, bodies, body, index, spelled, table

#: What a statement asks, and the candidates that begin the list.
FIRST = {
    "equality": (asked("d.town = 't7'::text"), ["(town)"]),
    "the value stands first": (asked("'t7'::text = d.town"), ["(town)"]),
    "a name in quotes": (asked('d."Odd One" = 7'), ['("Odd One")']),
    "the column of more values first": (
        asked("(d.state = 's'::text) AND (d.town = 't7'::text)"),
        ["(town, state)"],
    ),
    "one value before a list": (
        asked("(d.town = ANY ('{t7,t8}'::text[])) AND (d.state = 's'::text)"),
        ["(state, town)"],
    ),
    "equality before a range": (
        asked("(d.points > 5) AND (d.state = 's'::text)"),
        ["(state, points)", "(state)", "(points)"],
    ),
    "both ends of a range": (asked("(d.points > 5) AND (d.points < 9)"), ["(points)"]),
    "two ranges": (
        asked("(d.points > 5) AND (d.at < '2020-01-01'::date)"),
        ["(points)", "(at)", "(points, at)", "(at, points)"],
    ),
    "a row of columns": (
        asked("ROW(d.at, d.id) < ROW('2020-01-01'::date, 5)"),
        ["(at, id)"],
    ),
    "equality before the order": (
        asked("d.state = 's'::text", order=["d.at"], limit=True),
        ["(state, at)", "(state)", "(at)"],
    ),
    "the order before a range": (
        asked("d.points > 5", order=["d.at"], limit=True),
        ["(at)", "(points)", "(at, points)"],
    ),
    "equality, the order and a range": (
        asked("(d.points > 5) AND (d.state = 's'::text)", order=["d.at"], limit=True),
        ["(state, at)", "(state, points)", "(state, at, points)"],
    ),
    "a column that is compared needs no second place": (
        asked("d.state = 's'::text", order=["d.state", "d.at"], limit=True),
        ["(state, at)"],
    ),
    "NULL": (asked("d.town IS NULL"), ["(town)"]),
    "true": (asked("d.done"), ["(done)"]),
    "not true": (asked("NOT d.done"), ["(done)"]),
    "a join": (asked(joined="d.town = o.name"), ["(town)"]),
    "a value before a join": (
        asked("d.state = 's'::text", joined="d.town = o.name"),
        ["(state, town)", "(state)", "(town)"],
    ),
    "groups": (asked(group=["d.state"]), ["(state)"]),
    "an expression": (asked("lower(d.town) = 't7'::text"), ["(lower(town))"]),
    "an expression with an operator": (asked("(d.points % 7) = 3"), ["((points % 7))"]),
    "an expression after a column": (
        asked("(d.points > 5) AND (lower(d.town) = 't7'::text)"),
        ["(lower(town), points)"],
    ),
    "how a text begins": (asked("d.town ~~ 't7%'::text"), ["(town text_pattern_ops)"]),
    "a part of a text": (
        asked("(d.town ~~* '%abc%'::text) AND (d.state = 's'::text)"),
        ["USING gin (town gin_trgm_ops)", "(state)"],
    ),
    "nothing": (asked(), []),
}


@pytest.mark.parametrize("name", FIRST)
def test_the_most_promising_come_first(name):
    access, wanted = FIRST[name]
    assert bodies(access)[: max(len(wanted), 1)] == wanted


#: Candidates that would be of no use.
NEVER = {
    "a range before an equality": (
        asked("(d.points > 5) AND (d.state = 's'::text)"),
        "(points, state)",
    ),
    "the order before an equality": (
        asked("d.state = 's'::text", order=["d.at"], limit=True),
        "(at, state)",
    ),
    "a list before one value": (
        asked("(d.town = ANY ('{t7,t8}'::text[])) AND (d.state = 's'::text)"),
        "(town, state)",
    ),
    "an expression that is not immutable": (asked("d.at > now()"), "(now())"),
    "what is not equal": (asked("d.state <> 's'::text"), "(state)"),
}


@pytest.mark.parametrize("name", NEVER)
def test_is_never_tried(name):
    access, useless = NEVER[name]
    assert useless not in bodies(access)


#: An order as a plan prints it, and the index that delivers it forward or backward.
ORDERS = {
    ("d.at",): "(at)",
    ("d.at DESC",): "(at)",
    ("d.at DESC", "d.id DESC"): "(at, id)",
    ("d.at DESC NULLS LAST",): "(at DESC NULLS LAST)",
    ("d.at NULLS FIRST",): "(at NULLS FIRST)",
    ("d.at", "d.id DESC"): "(at, id DESC)",
    ("d.at DESC", "d.id"): "(at DESC, id)",
    ("d.at DESC NULLS LAST", "d.id"): "(at DESC NULLS LAST, id)",
    ("d.at DESC NULLS LAST", "d.id DESC"): "(at DESC NULLS LAST, id DESC)",
    ("lower(d.town) DESC", "d.id"): "(lower(town) DESC, id)",
    ("d.town COLLATE x",): "(town COLLATE x)",
    ('d.town COLLATE "X" DESC', "d.id"): '(town COLLATE "X" DESC, id)',
}


@pytest.mark.parametrize("order", ORDERS, ids=", ".join)
def test_direction_and_nulls_where_they_matter(order):
    assert bodies(asked(order=order, limit=True))[0] == ORDERS[order]


@pytest.mark.parametrize(
    "order",
    [
        ("now()", "d.at"),
        ("d.at", "o.name"),
        ("(lower(d.town)) COLLATE x",),
        ("d.at", "(d.at - now())"),
        ("(d.at - now())", "d.at"),
    ],
    ids=", ".join,
)
def test_an_order_that_no_index_delivers(order):
    assert bodies(asked(order=order, limit=True)) == []


def test_the_order_of_an_index_that_a_limit_lets_walk():
    """The rows come in that order already, but most of them do not pass."""
    relation = table(indexes=[index("by_time", "at")])
    access = asked("d.state = 's'::text", limit=True, walked="by_time", relation=relation)
    assert bodies(access)[0] == "(state, at)"
    without = asked("d.state = 's'::text", walked="by_time", relation=relation)
    assert bodies(without) == ["(state)"]


def test_an_expression_that_cannot_be_indexed_leaves_the_rest():
    access = asked("((d.at - now()) > '1 day'::interval) AND (d.state = 's'::text)")
    assert bodies(access) == ["(state)"]


def test_has_few_keys_and_few_candidates():
    equal = " AND ".join(f"(d.{name} = 7)" for name in ("id", "state", "town", "points", "at"))
    found = Shapes(asked(f"{equal} AND (d.code > 'c'::text) AND (d.done)"), spelled).all()
    assert len(found) == MAX_CANDIDATES
    assert len(set(found)) == len(found)
    assert {len(shape.keys) for shape in found} == {1, 2, 3, MAX_KEYS}


def test_each_equality_alone_and_each_two_are_tried():
    access = asked("(d.id = 7) AND (d.town = 't'::text) AND (d.state = 's'::text)")
    wanted = {"(id)", "(town)", "(state)", "(id, town)", "(id, state)", "(town, state)"}
    assert wanted < set(bodies(access))


#: What is read beside the key `town`, and what an index could carry.
CARRIED = {
    "one column": (("d.points",), "(town) INCLUDE (points)"),
    "two columns": (("d.points", "d.state"), "(town) INCLUDE (points, state)"),
    "a name in quotes": (('d."Odd One"',), '(town) INCLUDE ("Odd One")'),
    "part of an expression": (("(d.points + 1)",), "(town) INCLUDE (points)"),
    "nothing but the key": (("d.town",), None),
    "nothing at all": (("1",), None),
    "more than MAX_INDEX_COLUMNS": (("d.points", "d.state", "d.at"), None),
    "a long text": (("d.note",), None),
    "a wide column": (("d.code",), None),
    "the whole row": (("d.*",), None),
}


@pytest.mark.parametrize("name", CARRIED)
def test_carries_what_is_read(name):
    output, wanted = CARRIED[name]
    found = [one for one in bodies(asked("d.town = 't'::text", output=output)) if "INCL" in one]
    assert found == ([wanted] if wanted else [])


def test_an_index_in_order_carries_one_more():
    output, order = ("d.points", "d.state"), ["d.at", "d.town"]
    found = [
        one for one in bodies(asked("d.done", order=order, output=output[:1])) if "INCL" in one
    ]
    assert found == ["(done, at, town) INCLUDE (points)"]
    assert not [one for one in bodies(asked("d.done", order=order, output=output)) if "INCL" in one]


def test_limits_of_what_is_carried():
    """The limits themselves, so that the cases above stand on either side of them."""
    widths = {column.name: column.width for column in COLUMNS}
    assert MAX_INDEX_COLUMNS == 3
    assert widths["state"] + widths["points"] <= MAX_INCLUDED_WIDTH < widths["code"]
    assert widths["note"] <= MAX_INCLUDED_WIDTH


def test_an_index_never_holds_the_whole_table():
    columns = [column for column in COLUMNS if column.name in ("town", "points")]
    whole = asked("d.town = 't'::text", output=["d.points"], relation=table(columns=columns))
    assert bodies(whole) == ["(town)"]
    more = table(columns=[*columns, Column("more", "integer", quoted_name="more")])
    assert "(town) INCLUDE (points)" in bodies(
        asked("d.town = 't'::text", output=["d.points"], relation=more)
    )


def test_carries_nothing_that_is_a_key():
    access = asked("d.town = 't'::text", order=["d.at"], limit=True, output=["d.at", "d.id"])
    assert "(town, at) INCLUDE (id)" in bodies(access)
    assert not [one for one in bodies(access) if one.startswith("(town, at) INCLUDE (at")]


#: A condition, and the partial indexes that are tried.
PARTIAL = {
    "unequal": (
        asked("d.state <> 's'::text", order=["d.at"], limit=True),
        ["(at) WHERE state <> 's'::text"],
    ),
    "unequal, and nothing else": (
        asked("d.state <> 's'::text"),
        ["(state) WHERE state <> 's'::text"],
    ),
    "in none of several": (
        asked("(d.state <> ALL ('{s,t}'::text[])) AND (d.town = 't'::text)"),
        ["(town) WHERE state <> ALL ('{s,t}'::text[])"],
    ),
    "NULL": (
        asked("(d.town IS NULL) AND (d.points > 5)"),
        ["(points) WHERE town IS NULL"],
    ),
    "not NULL": (
        asked("(d.town IS NOT NULL)", order=["d.at"], limit=True),
        ["(at) WHERE town IS NOT NULL"],
    ),
    "true": (asked("d.done AND (d.points > 5)"), ["(points) WHERE done"]),
    "not true": (asked("(NOT d.done) AND (d.points > 5)"), ["(points) WHERE NOT done"]),
    "equal to a value": (asked("(d.state = 's'::text) AND (d.points > 5)"), []),
    "a range": (asked("(d.points > 5) AND (d.town = 't'::text)"), []),
    "one of several values": (asked("(d.town = 't'::text) OR (d.town = 'u'::text)"), []),
    "one of several values, in order": (
        asked("(d.town = 't'::text) OR (d.state = 's'::text)", order=["d.at"], limit=True),
        [],
    ),
    "one of several columns is NULL": (
        asked("(d.town IS NULL) OR (d.state IS NULL)", order=["d.at"], limit=True),
        ["(at) WHERE (town IS NULL) OR (state IS NULL)"],
    ),
    "one of several that no btree finds": (
        asked("(d.town <> 't'::text) OR (d.done)", order=["d.at"], limit=True),
        ["(at) WHERE (town <> 't'::text) OR (done)"],
    ),
    "unequal to another relation": (
        asked("d.town = 't'::text", joined="d.state <> o.name"),
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PARTIAL)
def test_a_partial_index_only_for_what_no_btree_finds(name):
    access, wanted = PARTIAL[name]
    found = [one for one in bodies(access) if " WHERE " in one]
    assert set(wanted) <= set(found)
    if not wanted:
        assert found == []


def test_a_partial_index_needs_no_key_for_its_own_condition():
    found = bodies(asked("(d.town IS NULL) AND (d.points > 5)"))
    assert not [one for one in found if "town" in one.partition(" WHERE ")[0] and "WHERE" in one]


def test_an_index_for_each_branch_of_an_or():
    found = bodies(
        asked("(d.town = 't'::text) OR ((d.points > 5) AND (d.state = 's'::text)) OR (d.id = 7)")
    )
    assert found == ["(town)", "(state, points)", "(id)"]


@pytest.mark.parametrize("other", ["d.note ~~ '%abc%'::text", "d.state <> 's'::text"])
def test_a_branch_that_no_btree_answers_makes_all_others_useless(other):
    found = bodies(asked(f"(d.town = 't'::text) OR ({other})"))
    assert found == []


def test_a_foreign_key_is_one_index():
    relation = table()
    access = reference_access(relation, ["town", '"Odd One"'])
    assert bodies(access)[0] == '(town, "Odd One")'


KEYS = table(
    indexes=[
        index("deed_pkey", "id", unique=True),
        index("both", "town", "points", unique=True),
        index("some", "code", unique=True, predicate="done"),
    ]
)

#: The index that is proposed where the planner cannot be asked, for a finding on some keys.
GUESSES = {
    "one column": (asked("d.town = 't'::text"), {"town"}, "(town)"),
    "columns until few rows are left": (
        asked("(d.state = 's'::text) AND (d.id = 7)"),
        {"id", "state"},
        "(id)",
    ),
    "a further column where many rows are left": (
        asked("(d.state = 's'::text) AND (d.town = 't'::text)"),
        {"town", "state"},
        "(town, state)",
    ),
    "a range where many rows are left": (
        asked("(d.state = 's'::text) AND (d.points > 5)"),
        {"state", "points"},
        "(state, points)",
    ),
    "no range where few rows are left": (
        asked("(d.id = 7) AND (d.points > 5)"),
        {"id", "points"},
        "(id)",
    ),
    "the order before a range": (
        asked("(d.state = 's'::text) AND (d.points > 5)", order=["d.at"], limit=True),
        {"state", "points", "at"},
        "(state, at)",
    ),
    "the range before an order without a limit": (
        asked("(d.state = 's'::text) AND (d.points > 5)", order=["d.at"]),
        {"state", "points", "at"},
        "(state, points)",
    ),
    "the order alone": (asked(order=["d.at DESC"], limit=True), {"at"}, "(at)"),
    "another kind": (
        asked("(d.town ~~* '%abc%'::text) AND (d.state = 's'::text)"),
        {"town"},
        "USING gin (town gin_trgm_ops)",
    ),
    "not the other kind for the rest": (
        asked("(d.town ~~* '%abc%'::text) AND (d.state = 's'::text)"),
        {"state"},
        "(state)",
    ),
    "another column leaves few rows": (
        asked("(d.id = 7) AND (d.state = 's'::text)"),
        {"state"},
        None,
    ),
    "an expression although another column leaves few rows": (
        asked("(d.id = 7) AND (lower(d.town) = 't'::text)"),
        {"lower(town)"},
        "(lower(town))",
    ),
    "no key that a join is looked up by": (
        asked("d.state = 's'::text", joined="d.id = o.id", relation=KEYS),
        {"state"},
        "(state)",
    ),
    "nothing to hold": (asked("d.state <> 's'::text"), {"town"}, None),
}


@pytest.mark.parametrize("name", GUESSES)
def test_the_index_that_the_shape_of_the_statement_speaks_for(name):
    access, wanted, expected = GUESSES[name]
    shape = Shapes(access, spelled).best_guess(wanted=wanted)
    assert (body(access.relation, shape) if shape else None) == expected


#: What finds one row at most, and what is still worth a try.
UNIQUE = {
    "a key and another column": ("(d.id = 7) AND (d.state = 's'::text)", ["(state)"]),
    "a key of a list": ("(d.id = ANY ('{7,8}'::integer[])) AND (d.at > now())", ["(at)"]),
    "both columns of a key": ("(d.town = 't'::text) AND (d.points = 7)", ["(points)", "(town)"]),
    "one column of a key": (
        "(d.town = 't'::text) AND (d.state = 's'::text)",
        ["(town, state)", "(town)", "(state)"],
    ),
    "a range of a key": (
        "(d.id > 7) AND (d.state = 's'::text)",
        ["(state, id)", "(state)", "(id)"],
    ),
    "a key of some rows": ("d.code = 'c'::text", ["(code)"]),
    "rows without a key": (
        "(d.id IS NULL) AND (d.state = 's'::text)",
        ["(id, state)", "(id)", "(state)"],
    ),
}


@pytest.mark.parametrize("name", UNIQUE)
def test_no_second_index_on_what_a_unique_one_finds(name):
    where, wanted = UNIQUE[name]
    tried = bodies(asked(where, output=["id"], relation=KEYS))
    assert [body for body in tried if " " not in body.replace(", ", ",")] == wanted
