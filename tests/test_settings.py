"""Each `PLANWATCH_` key: its defaults, what it takes from the environment, what it refuses."""

from __future__ import annotations

import contextlib
import traceback

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url

from flask_planwatch.finding import finding_id
from flask_planwatch.settings import SETTINGS, SettingError, read_settings

INFINITE = float("inf")


def read(debug: bool = False, testing: bool = False, **config: object):
    named = {f"PLANWATCH_{name}": value for name, value in config.items()}
    return read_settings(named, debug=debug, testing=testing)


#: Key: the default, in debug mode, and under test.
DEFAULTS = {
    "ENABLED": (True, True, True),
    "SAMPLE_INTERVAL": (300, 0, 300),
    "SLOW_STATEMENT_MS": (200, 200, 200),
    "INSPECTIONS_PER_MINUTE": (60, INFINITE, 60),
    "STATEMENT_TIMEOUT_MS": (1000, 1000, 1000),
    "LOCK_TIMEOUT_MS": (50, 50, 50),
    "DATABASE_URL": (None, None, None),
    "MIN_ROWS": (1000, 1000, 1000),
    "GROWTH": (False, True, True),
    "VERIFY": ("auto", "auto", "auto"),
    "SHOW_PARAMETERS": (False, False, False),
    "IGNORE": ((), (), ()),
    "LOG_INTERVAL": (3600, 3600, 3600),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults(name):
    modes = [read(), read(debug=True), read(testing=True)]
    assert [getattr(each, name.lower()) for each in modes] == list(DEFAULTS[name])


def test_a_value_counts_in_every_mode():
    for mode in ({}, {"debug": True}, {"testing": True}):
        settings = read(SAMPLE_INTERVAL=5, GROWTH=False, INSPECTIONS_PER_MINUTE=7, **mode)
        assert (settings.sample_interval, settings.growth) == (5, False)
        assert settings.inspections_per_minute == 7


def test_each_key_has_help_and_says_what_it_expects():
    assert {setting.name for setting in SETTINGS} >= set(DEFAULTS)
    assert all(setting.help.endswith(".") and setting.kind.expects for setting in SETTINGS)


#: Key, what the environment holds, and what it means.
ENVIRONMENT = [
    ("ENABLED", "True", True),
    ("ENABLED", "true", True),
    ("ENABLED", "yes", True),
    ("ENABLED", "on", True),
    ("ENABLED", "1", True),
    ("ENABLED", "False", False),
    ("ENABLED", "false", False),
    ("ENABLED", "no", False),
    ("ENABLED", "OFF", False),
    ("ENABLED", "0", False),
    ("GROWTH", "1", True),
    ("SHOW_PARAMETERS", "0", False),
    ("SAMPLE_INTERVAL", "0", 0),
    ("SAMPLE_INTERVAL", "2.5", 2.5),
    ("SLOW_STATEMENT_MS", "50", 50),
    ("INSPECTIONS_PER_MINUTE", "6", 6),
    ("INSPECTIONS_PER_MINUTE", "None", INFINITE),
    ("INSPECTIONS_PER_MINUTE", "null", INFINITE),
    ("STATEMENT_TIMEOUT_MS", "250", 250),
    ("LOCK_TIMEOUT_MS", "1", 1),
    ("MIN_ROWS", "0", 0),
    ("MIN_ROWS", "1e6", 1_000_000),
    ("VERIFY", "off", "off"),
    ("VERIFY", "build", "build"),
    ("VERIFY", "AUTO", "auto"),
    ("VERIFY", '"off"', "off"),
    ("LOG_INTERVAL", "60", 60),
    ("IGNORE", "functional-predicate", ("functional-predicate",)),
    (
        "IGNORE",
        " functional-predicate:users , 0123456789ab,",
        ("functional-predicate:users", "0123456789ab"),
    ),
    (
        "IGNORE",
        "[\"functional-predicate:date_trunc('day'::text, local_at)\"]",
        ("functional-predicate:date_trunc('day'::text, local_at)",),
    ),
    ("IGNORE", "123456789012", ("123456789012",)),
    ("IGNORE", "012345678901", ("012345678901",)),
    ("DATABASE_URL", "postgresql://watch@db/app", {None: make_url("postgresql://watch@db/app")}),
    ("DATABASE_URL__archive", "postgresql://w@b/a", {"archive": make_url("postgresql://w@b/a")}),
]


def from_environment(monkeypatch, **values: str):
    for name, value in values.items():
        monkeypatch.setenv(f"FLASK_PLANWATCH_{name}", value)
    app = Flask("tests.app")
    app.config.from_prefixed_env()
    return read_settings(app.config, debug=False, testing=False)


@pytest.mark.parametrize(("name", "text", "value"), ENVIRONMENT)
def test_read_from_the_environment(monkeypatch, name, text, value):
    read_value = getattr(from_environment(monkeypatch, **{name: text}), name.split("__")[0].lower())
    assert read_value == value
    assert type(read_value) is type(value) or isinstance(value, int | float)


BAD_NUMBERS = [
    "", "much", "-1", "nan", "inf", "1e400", -1, -0.5, INFINITE, float("nan"), [], {}, True, b"1"
]  # fmt: skip

#: What each key refuses.
REFUSED = {
    "ENABLED": ["", "maybe", "2", 2, -1, None, [], 0.5],
    "GROWTH": ["small", None],
    "SHOW_PARAMETERS": ["debug", None],
    "SAMPLE_INTERVAL": [*BAD_NUMBERS, None],
    "SLOW_STATEMENT_MS": [*BAD_NUMBERS, None],
    "LOG_INTERVAL": [*BAD_NUMBERS, None],
    "INSPECTIONS_PER_MINUTE": BAD_NUMBERS,
    "STATEMENT_TIMEOUT_MS": [*BAD_NUMBERS, None, 0, "0", 0.5, 2**31],
    "LOCK_TIMEOUT_MS": [*BAD_NUMBERS, None, 0, "0", 1.5, 2**31],
    "MIN_ROWS": [*BAD_NUMBERS, None, 0.5],
    "VERIFY": ["", "yes", "hypopg", None, True, 1],
    "IGNORE": [
        "no-such-rule", "no-such-rule:users", ["no-such-rule"], "functional-predicate,typo",
        "0123456789AB", "0123456789abc", 0.5, None, [5], [""], {"functional-predicate": 1},
    ],
    "DATABASE_URL": ["", "not a url", 5, ["postgresql://h/d"], {"a": "not a url"}, {"a": None}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values]
)
def test_a_wrong_value_is_refused_by_name(name, value):
    with pytest.raises(SettingError) as refusal:
        read(**{name: value})
    assert f"PLANWATCH_{name}" in str(refusal.value)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_a_refusal_says_what_was_given_and_what_is_expected(setting):
    with pytest.raises(SettingError) as refusal:
        read(**{setting.name: {"so": "wrong"}})
    assert f"it must be {setting.kind.expects}." in str(refusal.value)
    assert ("so" in str(refusal.value)) is (setting.name != "DATABASE_URL")


def test_a_refused_entry_of_ignore_is_named_with_the_rules_there_are():
    with pytest.raises(
        SettingError, match=r"'no-such-rule' is not a rule\. Rules: .*functional-predicate"
    ):
        read(IGNORE="functional-predicate, no-such-rule:users")


@pytest.mark.parametrize("key", ["PLANWATCH_ENABLE", "PLANWATCH_", "PLANWATCH_enabled"])
def test_an_unknown_key_is_refused(key):
    with pytest.raises(SettingError, match=f"{key} is unknown.*PLANWATCH_ENABLED"):
        read_settings({key: True}, debug=False, testing=False)


def test_an_unknown_key_is_refused_with_the_one_that_was_meant():
    with pytest.raises(SettingError) as refusal:
        read(MIN_ROW=5)
    assert str(refusal.value) == "PLANWATCH_MIN_ROW is unknown: did you mean PLANWATCH_MIN_ROWS?"
    with pytest.raises(SettingError, match=r"^PLANWATCH_NOPE is unknown\. PlanWatch has "):
        read_settings({"PLANWATCH_NOPE": 1}, debug=False, testing=False)
    with pytest.raises(SettingError, match="'missing-idex' is not a rule: did you mean 'missing-"):
        read(IGNORE="missing-idex:users")


@pytest.mark.parametrize("entry", ["0123456789AB", "0123456789a", "0123456789abc", "0123456789"])
def test_what_was_meant_to_be_an_id_is_refused_as_one(entry):
    with pytest.raises(SettingError) as refusal:
        read(IGNORE=[entry])
    assert str(refusal.value) == (
        f"PLANWATCH_IGNORE has {entry!r}: the id of a finding has 12 hexadecimal digits, in lower "
        "case."
    )


def test_an_id_that_is_read_as_a_number_belongs_in_a_list(monkeypatch):
    for text in ("12345678e901", "1234567890e1"):
        with pytest.raises(SettingError, match=r"PLANWATCH_IGNORE is the number .* a JSON list"):
            from_environment(monkeypatch, IGNORE=text)
        assert from_environment(monkeypatch, IGNORE=f'["{text}"]').ignore == (text,)


@pytest.mark.parametrize(
    ("name", "meant"), [("MIN_ROWS", "MIN_ROWS"), ("MIN_ROW", "MIN_ROWS"), ("VERIFY", "VERIFY")]
)
def test_two_underscores_after_the_prefix_are_refused_with_what_was_meant(monkeypatch, name, meant):
    with pytest.raises(SettingError) as refusal:
        from_environment(monkeypatch, **{f"_{name}": "10"})
    assert str(refusal.value) == (
        f"PLANWATCH is a dict, but each setting has a key of its own: PLANWATCH_{meant}. In the "
        f"environment write FLASK_PLANWATCH_{meant}, with one underscore after PLANWATCH."
    )


@pytest.mark.parametrize("value", ["off", "on", "0", "false"])
def test_the_prefix_alone_is_refused_with_the_key_that_was_meant(monkeypatch, value):
    monkeypatch.setenv("FLASK_PLANWATCH", value)
    app = Flask("tests.app")
    app.config.from_prefixed_env()
    with pytest.raises(SettingError) as refusal:
        read_settings(app.config, debug=False, testing=False)
    assert str(refusal.value) == (
        "PLANWATCH is unknown: did you mean PLANWATCH_ENABLED? In the environment write "
        "FLASK_PLANWATCH_ENABLED."
    )


def test_all_that_is_refused_is_named_in_one_message():
    urls = {None: "mysql://h/d", "archive": "sqlite:///x", "reports": "postgresql://h/d"}
    entries = ["missing-idex", "0123456789AB", "no-rule:user", "missing-index:"]
    with pytest.raises(SettingError) as refusal:
        read(MIN_ROW=5, VERFY="x", GROWTH="maybe", DATABASE_URL=urls, IGNORE=entries)
    unknown, verify, url, growth, ignore = str(refusal.value).splitlines()
    assert unknown == "PLANWATCH_MIN_ROW is unknown: did you mean PLANWATCH_MIN_ROWS?"
    assert verify == "PLANWATCH_VERFY is unknown: did you mean PLANWATCH_VERIFY?"
    assert url.startswith("PLANWATCH_DATABASE_URL names mysql and sqlite: ")
    assert growth == "PLANWATCH_GROWTH is 'maybe': it must be a boolean."
    for entry in entries:
        assert ignore.count(f"PLANWATCH_IGNORE has {entry!r}") == 1
    assert ignore.count("Rules: ") == 1


def test_a_dict_of_settings_is_refused_and_another_object_is_the_apps_own():
    with pytest.raises(SettingError, match=r"^PLANWATCH is a dict, .*: PLANWATCH_ANALYZE, "):
        read_settings({"PLANWATCH": {"zzzzzz": 1}}, debug=False, testing=False)
    assert read_settings({"PLANWATCH": object()}, debug=False, testing=False) == read()


@pytest.mark.parametrize("url", ["mysql+pymysql://u:hunter2@h/d", {"archive": "sqlite:///x"}])
def test_a_url_of_another_database_kind_is_refused(url):
    with pytest.raises(SettingError, match=r"names (mysql|sqlite): it must be a URL of PostgreSQL"):
        read(DATABASE_URL=url)
    assert read(DATABASE_URL="postgres://h/d").database_url_for(None).database == "d"


def test_a_blank_after_the_colon_is_no_part_of_a_name():
    assert read(IGNORE=["missing-index: users"]).ignores("missing-index", "users", "a", "0" * 12)


def test_keys_of_others_are_none_of_our_business():
    config = {"SECRET_KEY": "x", "PLAN": 1, "MY_PLANWATCH_ENABLED": "maybe", 5: 6}
    assert read_settings(config, debug=False, testing=False) == read()


@given(
    st.sampled_from([setting.name for setting in SETTINGS]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    ),
)
def test_any_value_is_taken_or_refused(name, value):
    with contextlib.suppress(SettingError):
        assert hasattr(read(**{name: value}), name.lower())


PASSWORD = "hunter2"

BAD_URLS = [
    f"postgresql//u:{PASSWORD}@h/d",
    f"postgresql://u:{PASSWORD}@h:port/d",
    f"postgresql://u:{PASSWORD}@h:{PASSWORD}/d",
    f"u:{PASSWORD}@h/d",
    f"://u:{PASSWORD}@h/d",
    {"archive": f"postgresql//u:{PASSWORD}@h/d"},
    {"archive": f"postgresql://u:{PASSWORD}@h:port/d"},
    [f"postgresql://u:{PASSWORD}@h/d"],
    {"archive": {"url": f"postgresql://u:{PASSWORD}@h/d"}},
]


@pytest.mark.parametrize("url", BAD_URLS, ids=str)
def test_no_error_shows_a_password(url):
    with pytest.raises(SettingError) as refusal:
        read(DATABASE_URL=url)
    assert "PLANWATCH_DATABASE_URL" in str(refusal.value)
    shown = "".join(traceback.format_exception(refusal.value))
    assert PASSWORD not in shown.replace(repr(url), "")
    assert PASSWORD not in str(refusal.value)


def test_no_settings_show_a_password():
    assert PASSWORD not in repr(read(DATABASE_URL=f"postgresql://u:{PASSWORD}@h/d"))
    assert PASSWORD not in repr(read(DATABASE_URL={None: f"postgresql://u:{PASSWORD}@h/d"}))


def test_one_url_is_that_of_the_default_bind():
    settings = read(DATABASE_URL="postgresql://h/d")
    assert settings.database_url_for(None) == make_url("postgresql://h/d")
    assert settings.database_url_for("archive") is None


def test_urls_by_bind():
    settings = read(DATABASE_URL={None: "postgresql://h/d", "archive": "postgresql://h/a"})
    assert settings.database_url_for(None) == make_url("postgresql://h/d")
    assert settings.database_url_for("archive") == make_url("postgresql://h/a")
    assert settings.database_url_for("other") is None


RULE = "functional-predicate"
SUBJECT = "lower((email)::text)"

#: A relation as findings name it, and the ways to name it in PLANWATCH_IGNORE.
TABLES = {
    "users": ["users", '"users"'],
    "audit.users": ["audit.users", "users"],
    '"User"': ["User", '"User"'],
    '"Shop"."Order"': ['"Shop"."Order"', "Shop.Order", "Order", '"Order"'],
    '"Shop"."order.lines"': ['"Shop"."order.lines"', "order.lines", '"order.lines"'],
}


def ignores(entry: str, relation: str = "users") -> bool:
    finding = finding_id("f", RULE, relation, SUBJECT)
    return read(IGNORE=[entry]).ignores(RULE, relation, SUBJECT, finding)


@pytest.mark.parametrize(
    ("relation", "entry"),
    [(table, entry) for table, entries in TABLES.items() for entry in entries],
)
def test_a_table_is_ignored_by_its_names(relation, entry):
    assert ignores(f"{RULE}:{entry}", relation)


@pytest.mark.parametrize(
    ("relation", "entry"),
    [
        ("users", "user"),
        ("users", "public"),
        ("audit.users", "other.users"),
        ("audit.users", "audit"),
        ('"Shop"."Order"', "order"),
        ('"Shop"."Order"', "Shop"),
        ('"Shop"."order.lines"', "lines"),
    ],
)
def test_other_tables_are_not_ignored(relation, entry):
    assert not ignores(f"{RULE}:{entry}", relation)


@pytest.mark.parametrize(
    ("subject", "entry", "same"),
    [
        ("state, amount", "state,amount", True),
        ("(id)::text", "id::text", True),
        ("lower((email)::text)", "lower( email::text )", True),
        ("(lower(first) || lower(last))", "lower(first) || lower(last)", True),
        ('("Id")::text', '"Id"::text', True),
        ("((a + b) * c)", "(a + b)*c", True),
        ("((a + b) * c)", "a + b * c", False),
        ("(data ->> 'a b'::text)", "data ->> 'ab'::text", False),
        ("(data ->> '(a)'::text)", "data ->> 'a'::text", False),
        ("state, amount", "amount, state", False),
        ("lower(email)", "loweremail", False),
        ("(a)::text, (b)::text", "a::text,b::text", True),
    ],
)
def test_an_expression_is_ignored_whatever_blanks_and_needless_parentheses_it_has(
    subject, entry, same
):
    settings = read(IGNORE=[f"{RULE}:{entry}"])
    assert settings.ignores(RULE, "users", subject, "0" * 12) is same


def test_an_entry_with_nothing_after_the_colon_is_refused():
    for entry in (f"{RULE}:", f"{RULE}: "):
        with pytest.raises(SettingError) as refusal:
            read(IGNORE=[entry])
        assert str(refusal.value) == (
            f"PLANWATCH_IGNORE has '{RULE}:', with nothing after the colon: write '{RULE}' to "
            "ignore all findings of the rule."
        )


def test_a_finding_is_ignored_by_rule_expression_and_id():
    assert ignores(RULE)
    assert ignores(f"{RULE}:{SUBJECT}")
    assert ignores(finding_id("f", RULE, "users", SUBJECT))
    assert not ignores(f"{RULE}:lower(email)")
    assert not ignores(finding_id("g", RULE, "users", SUBJECT))
    assert not read().ignores(RULE, "users", SUBJECT, "0123456789ab")
