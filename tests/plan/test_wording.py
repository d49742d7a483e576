"""Templates are filled in with facts, and numbers, lists and plurals are written in one way."""

from __future__ import annotations

import pytest

from flask_planwatch.plan.wording import Template, Words, say, sentences


@pytest.mark.parametrize(
    ("template", "facts", "said"),
    [
        ("{node} reads {rows:rows}", {"node": "Seq Scan", "rows": 1}, "Seq Scan reads 1 row"),
        ("{rows:rows}", {"rows": 1234.4}, "1,234 rows"),
        ("{rows:rows}", {"rows": 0.4}, "0 rows"),
        ("{scans:scans}", {"scans": 1}, "1 scan"),
        ("{count:number}", {"count": 1234567.8}, "1,234,568"),
        ("{share:percent}", {"share": 0.126}, "13%"),
        ("{took:ms}", {"took": 1234.5}, "1,234 ms"),
        ("{took:exact_ms}", {"took": 1234.56}, "1,234.6 ms"),
        ("{took:short_ms}", {"took": 9.94}, "9.9 ms"),
        ("{took:short_ms}", {"took": 10.4}, "10 ms"),
        ("{size:size}", {"size": 1}, "8 kB"),
        ("{size:size}", {"size": 2_345_678}, "2.3 MB"),
        ("{runs:times}, {more:times}", {"runs": 1, "more": 1200}, "once, 1,200 times"),
        ("{names:and}; {names:or}", {"names": ["a", "b", "c"]}, "a and b and c; a or b or c"),
        ("{names:list}", {"names": ("a", "b")}, "a, b"),
        ("{names:or_an}", {"names": ["Decimal", "int"]}, "a Decimal or an int"),
        ("{types:or_an}", {"types": ["UUID", "Append"]}, "a UUID or an Append"),
        ("{seen:sets}", {"seen": 1}, "1 set"),
        ("{whole:cost}, {part:cost}", {"whole": 12345.6, "part": 8.04}, "12,346, 8"),
        ("{took:.2g}", {"took": 0.01234}, "0.012"),
        ("{text}", {"text": "[a] {b} [[c]]"}, "[a] {b} [[c]]"),
    ],
)
def test_a_fact_is_written_in_its_form(template: str, facts: dict, said: str) -> None:
    assert say(template, **facts) == said


@pytest.mark.parametrize("missing", [None, "", [], ()])
def test_a_part_is_left_out_without_its_fact(missing: object) -> None:
    assert say("a[ in {runs} runs] b", runs=missing) == "a b"
    assert say("a[ of {table}, {runs} runs]", table="t", runs=missing) == "a"


def test_a_part_stays_with_its_fact() -> None:
    assert say("a[ in {runs:number} runs] b", runs=0) == "a in 0 runs b"


def test_doubled_brackets_are_brackets() -> None:
    assert say("{key} @> ARRAY[[value]][, {code}]", key="tags", code="x") == (
        "tags @> ARRAY[value], x"
    )


def test_a_template_among_the_facts_is_filled_in_from_them() -> None:
    why = Template("{count:number} rows[ of {table}]")
    assert say("too many: {why}.", why=why, count=1000, table="") == "too many: 1,000 rows."


def test_a_fact_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        say("[{one}]{other}", other=1)


def test_words_are_filled_in_together() -> None:
    words = Words(what="{step} on {table}", why="no index on {key}", problem="{table}: {key}.")
    assert words.of(step="Seq Scan", table="user", key="email") == {
        "what": "Seq Scan on user",
        "why": "no index on email",
        "problem": "user: email.",
        "hint": "",
    }


def test_empty_sentences_are_left_out() -> None:
    assert sentences("A.", "", "B.") == "A. B."
