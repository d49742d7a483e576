"""Parameters are not held: what is kept of them is PlanWatch's own, and bounded in bytes."""

from __future__ import annotations

import array
import asyncio
import collections
import cProfile
import datetime
import decimal
import enum
import gc
import io
import ipaddress
import json
import mmap
import tempfile
import threading
import types
import uuid
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import asyncpg
import psycopg2
import psycopg2.extensions
import psycopg2.extras
import pytest
import sqlalchemy as sa
from asyncpg.pgproto import pgproto
from flask import Flask
from markupsafe import Markup
from psycopg.types.json import Json, Jsonb
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import create_async_engine

from flask_planwatch import PlanWatch, SkipReason
from flask_planwatch.capture import parameters
from flask_planwatch.capture.parameters import NotCopied, copied

from .cases import first

pytestmark = pytest.mark.versions

LIMIT = 100_000

BLOB = sa.Table(
    "blob",
    sa.MetaData(),
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("data", sa.LargeBinary),
)


class Colour(enum.Enum):
    RED = "red"


class Word(enum.StrEnum):
    HELLO = "hello"


class Point(NamedTuple):
    x: float
    y: float


class Wrapper:
    """What an app may have an adapter for."""

    def __init__(self, value):
        self.value = value


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


class Hostile:
    """A value that does not like to be looked at."""

    def __sizeof__(self):
        raise RuntimeError("no")


PLAIN = {
    "text": "x",
    "number": 7,
    "float": 1.5,
    "none": None,
    "flag": True,
    "bytes": b"x",
    "decimal": decimal.Decimal("1.50"),
    "date": datetime.date(2024, 1, 1),
    "time": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    "interval": datetime.timedelta(1),
    "uuid": uuid.uuid4(),
    "enum": Colour.RED,
    "address": ipaddress.ip_address("127.0.0.1"),
    "range": Range(1, 2),
    "point": Point(1.0, 2.0),
    "set": frozenset({1, 2}),
    "member of a text": Word.HELLO,
    "markup": Markup("<b>"),
    "network": ipaddress.ip_network("10.0.0.1/32"),
    "uuid of asyncpg": pgproto.UUID(uuid.uuid4().hex),
    "range of asyncpg": asyncpg.Range(1, 2),
    "ranges": Multirange([Range(1, 2)]),
    "range of psycopg2": psycopg2.extras.NumericRange(1, 2),
    "range of sqlalchemy": postgresql.Range(1, 2),
    "ranges of sqlalchemy": postgresql.MultiRange([postgresql.Range(1, 2)]),
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_cannot_change_is_kept_as_it_is(name):
    kept, size = copied({"a": PLAIN[name]}, LIMIT)
    assert kept["a"] is PLAIN[name] or kept["a"] == PLAIN[name]
    assert 0 < size < 1000


class Private:
    __slots__ = ("__value",)

    def __init__(self, value):
        self.__value = value

    def value(self):
        return self.__value


@pytest.mark.parametrize("kind", [Wrapper, Slotted])
def test_an_object_is_the_own(kind):
    """The application may set other attributes later."""
    given = kind("x")
    kept, size = copied((given,), LIMIT)
    assert kept[0] is not given
    assert type(kept[0]) is kind
    assert kept[0].value == "x"
    assert 0 < size < 1000


def written(value):
    return f"{len(value)} values"


DRIVERS = {
    "json": psycopg2.extras.Json([1]),
    "json with a function": psycopg2.extras.Json([1], dumps=written),
    "json with arguments": psycopg2.extras.Json({}, dumps=partial(json.dumps, default=str)),
    "uuid": psycopg2.extras.UUID_adapter(uuid.uuid4()),
    "text": psycopg2.extensions.QuotedString("x"),
    "as it is": psycopg2.extensions.AsIs("x"),
    "bytes": psycopg2.Binary(b"x"),
}


@pytest.mark.parametrize("name", DRIVERS)
def test_a_wrapper_of_psycopg2_writes_the_same(name):
    (kept,), _ = copied((DRIVERS[name],), LIMIT)
    assert kept is not DRIVERS[name]
    assert kept.getquoted() == DRIVERS[name].getquoted()


def test_an_address_of_psycopg2_is_copied():
    (kept,), _ = copied((psycopg2.extras.Inet("127.0.0.1"),), LIMIT)
    assert kept.addr == "127.0.0.1"


@pytest.mark.parametrize("kind", [Json, Jsonb])
@pytest.mark.parametrize("dumps", [written, partial(json.dumps, default=str), None])
def test_a_wrapper_of_psycopg_writes_the_same(kind, dumps):
    (kept,), _ = copied((kind([1], dumps=dumps),), LIMIT)
    assert type(kept) is kind
    assert kept.obj == [1]
    assert kept.dumps is dumps or kept.dumps([1]) == dumps([1])


@pytest.mark.parametrize("parameters", [{}, (), [], None])
def test_none_at_all(parameters):
    kept, size = copied(parameters, LIMIT)
    assert not kept
    assert kept is None or kept is not parameters or kept == ()
    assert size == 0


def test_containers_are_the_own():
    inner = [1, [2, {"a": [3]}]]
    given = {"list": inner, "tuple": (inner,), "set": {1}, "json": {"deep": inner}}
    kept, _ = copied(given, LIMIT)
    assert kept == given
    inner[1][1]["a"].append(4)
    given["set"].add(2)
    assert kept["list"] == kept["tuple"][0] == kept["json"]["deep"] == [1, [2, {"a": [3]}]]
    assert kept["set"] == {1}


@contextmanager
def lent(kind, times=1):
    """Yield what gives a view of a buffer, which cannot be closed while anybody has such a view."""
    if kind == "BytesIO":
        owner = io.BytesIO(b"x" * 1000 * times)
        yield owner.getbuffer
        owner.close()
    elif kind == "mmap":
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * 1000 * times)
            file.flush()
            with mmap.mmap(file.fileno(), 0) as mapped:
                yield lambda: mapped
    elif kind == "memoryview of a mmap":
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * 1000 * times)
            file.flush()
            with mmap.mmap(file.fileno(), 0) as mapped:
                yield lambda: memoryview(mapped)
    elif kind == "array":
        owner = array.array("B", b"x" * 1000 * times)
        yield lambda: owner
        owner.append(1)
    else:
        owner = bytearray(b"x" * 1000 * times)
        views = {"bytearray": lambda: owner, "view": lambda: memoryview(owner)}
        yield views.get(kind, lambda: memoryview(owner)[::-1])
        owner.clear()


KINDS = ("BytesIO", "mmap", "memoryview of a mmap", "array", "bytearray", "view", "reversed view")
WRAPPERS = {
    "alone": lambda value: value,
    "list": lambda value: [value],
    "tuple": lambda value: (1, value),
    "dict": lambda value: {"a": {"b": value}},
    "psycopg2": psycopg2.Binary,
    "own": Wrapper,
    "slots": Slotted,
    "json of psycopg": lambda value: Jsonb([value]),
    "json of psycopg2": lambda value: psycopg2.extras.Json({"a": value}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_buffer_is_copied(kind, wrapper):
    with lent(kind) as view:
        kept, size = copied({"a": WRAPPERS[wrapper](view())}, LIMIT)
    found = kept["a"]
    for _ in range(3):
        for name in ("obj", "adapted", "value"):
            found = getattr(found, name, found)
        if isinstance(found, list | tuple):
            found = found[-1]
        if isinstance(found, dict):
            (found,) = found.values()
    assert found == b"x" * 1000
    assert type(found) is bytes
    assert 1000 < size < 3000


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_large_buffer_is_left_out_and_not_copied(wrapper):
    owner = bytearray(10 * LIMIT)
    with pytest.raises(NotCopied) as refused:
        copied({"a": WRAPPERS[wrapper](memoryview(owner))}, LIMIT)
    assert refused.value.reason is SkipReason.PARAMETERS_TOO_LARGE
    del refused
    owner.clear()


def test_a_wrapper_forgets_the_connection_and_keeps_how_it_writes(database):
    connection = psycopg2.connect(database.url.replace("+psycopg2", ""))
    given = psycopg2.extras.Json({"a": [1]}, dumps=lambda value: '"written"')
    connection.cursor().execute("SELECT %s", (given,))
    (kept,), _ = copied((given,), LIMIT)
    assert kept is not given
    assert kept._conn is None
    kept.prepare(connection)
    assert kept.getquoted() == given.getquoted() == b"'\"written\"'"
    connection.close()


class Text(str):
    """A text that carries more than itself."""


class Number(int):
    __slots__ = ()


class Sized(decimal.Decimal):
    __slots__ = ("view",)


class Pair(tuple):
    """A tuple that carries more than itself."""


class Callable(Wrapper):
    def __call__(self):
        return self.value


class Closes(Wrapper):
    closed: list[int] = []

    def __del__(self):
        self.closed.append(1)


class Adapter(psycopg2.extensions.QuotedString):
    """Part of it is in attributes, part in the driver's C."""


class Zone(datetime.tzinfo):
    """A time zone of the application's, which may hold anything."""

    def __init__(self, held=None):
        self.held = held

    def utcoffset(self, moment):
        return datetime.timedelta(0)


class Large(enum.Enum):
    VALUE = "x" * LIMIT


def carrying(value, carried):
    value.view = carried
    return value


#: What holds a value where it is not seen, or where it cannot be copied.
HOLDERS = {
    "text": lambda held: carrying(Text("x"), held),
    "decimal": lambda held: carrying(Sized(1), held),
    "tuple": lambda held: carrying(Pair((1,)), held),
    "callable": Callable,
    "closure": lambda held: lambda: held,
    "default": lambda held: lambda value=held: value,
    "method": lambda held: Wrapper(held).__init__,
    "method of a builtin": lambda held: [held].append,
    "class": lambda held: type("<locals>.Local", (), {"view": held}),
    "queue": lambda held: collections.deque([held]),
    "mapping": lambda held: types.MappingProxyType({"a": held}),
    "iterator": lambda held: iter([held]),
    "generator": lambda held: (one for one in [held]),
    "namespace": lambda held: types.SimpleNamespace(view=held),
    "error": ValueError,
    "adapter": lambda held: carrying(Adapter("x"), held),
    "written in C": lambda held: carrying(cProfile.Profile(), held),
    "inside": lambda held: {"a": [Wrapper(Callable(held))]},
    "time zone": lambda held: datetime.datetime(2026, 1, 1, tzinfo=Zone(held)),
    "zone of a time": lambda held: [datetime.time(1, tzinfo=Zone(held))],
    "member": lambda held: carrying(enum.Enum("Local", ["A"], qualname="f.<locals>.Local").A, held),
}


@pytest.mark.parametrize("name", first(4, HOLDERS))
def test_what_holds_more_than_is_known_is_refused(name):
    """The refusal holds nothing either: the memory can be closed."""
    with mmap.mmap(-1, 4096) as memory:
        with pytest.raises(NotCopied) as refused:
            copied({"a": HOLDERS[name](memoryview(memory))}, LIMIT)
        assert refused.value.reason is SkipReason.PARAMETERS_NOT_COPIED
        del refused
        gc.collect()


def test_a_slot_that_is_private_is_copied_with_what_it_holds():
    with mmap.mmap(-1, 4) as memory:
        (kept,), _ = copied((Private(memoryview(memory)),), LIMIT)
    assert kept.value() == b"\0" * 4


@pytest.mark.parametrize(
    "value",
    [Text("x" * LIMIT), Number(1 << 8 * LIMIT), Large.VALUE],
    ids=lambda value: type(value).__name__,
)
def test_a_type_of_the_applications_counts_in_bytes(value):
    with pytest.raises(NotCopied) as refused:
        copied((value,), LIMIT)
    assert refused.value.reason is SkipReason.PARAMETERS_TOO_LARGE


@pytest.mark.parametrize("value", [Text("7"), Number(7)], ids=["text", "number"])
def test_a_type_of_the_applications_is_kept(value):
    assert copied((value,), LIMIT)[0][0] is value


def test_a_name_of_sqlalchemys_is_a_text():
    """`create_all` asks for tables by such names."""
    name = sa.sql.quoted_name("user", quote=True)
    ((kept,), _) = copied((name,), LIMIT)
    assert (kept, type(kept)) == ("user", str)


def test_what_closes_something_as_it_goes_is_refused():
    value = Closes(["x"])
    with pytest.raises(NotCopied) as refused:
        copied((value,), LIMIT)
    assert refused.value.reason is SkipReason.PARAMETERS_NOT_COPIED
    del refused
    gc.collect()
    assert value.closed == []


@pytest.mark.parametrize("make", [list, tuple, Wrapper, lambda two: {"a": two[0], "b": two[1]}])
def test_only_so_many_values_are_looked_at(make):
    """Lists that hold one another twice take no memory, and time without end."""
    shared = make([object, object])
    for _ in range(parameters._MAX_DEPTH // 2 - 2):
        shared = make([shared, shared])
    with pytest.raises(NotCopied) as refused:
        # A quarter of a million, within the limit.
        copied((shared,), 1_000_000_000)
    assert refused.value.reason is SkipReason.PARAMETERS_TOO_LARGE


NOT_COPIED = {
    "a view that is gone": lambda: released(),
    "a value that cannot be looked at": Hostile,
    "nested without end": lambda: endless(),
}


def released():
    view = memoryview(b"x")
    view.release()
    return view


def endless():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize("name", NOT_COPIED)
def test_what_cannot_be_copied_is_refused_by_name(name):
    with pytest.raises(NotCopied) as refused:
        copied({"a": NOT_COPIED[name]()}, LIMIT)
    assert refused.value.reason is SkipReason.PARAMETERS_NOT_COPIED


def test_an_array_of_another_library_is_refused():
    numpy = pytest.importorskip("numpy")
    kept, _ = copied((numpy.int64(7), numpy.float32(1)), LIMIT)
    assert kept == (7, 1)
    with pytest.raises(NotCopied):
        copied((numpy.zeros(3),), LIMIT)


LARGE = {
    "text": lambda: "x" * LIMIT,
    "wide text": lambda: "\U0001f600" * (LIMIT // 4),
    "bytes": lambda: b"x" * LIMIT,
    "list": lambda: list(range(LIMIT // 20)),
    "documents": lambda: Jsonb([{"a": "x" * 100}] * 1000),
    "object": lambda: Wrapper(["x" * 1000 + str(number) for number in range(100)]),
    "huge list": lambda: [None] * 10_000_000,
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("container", [list, dict])
def test_parameters_count_in_bytes(name, container):
    value = LARGE[name]()
    given = {"a": value} if container is dict else [value]
    with pytest.raises(NotCopied) as refused:
        copied(given, LIMIT)
    assert refused.value.reason is SkipReason.PARAMETERS_TOO_LARGE


# In an app


def buffers(execute):
    """Give a statement a buffer in each way; raises BufferError where anybody has it still."""
    for kind in ("BytesIO", "memoryview of a mmap", "view"):
        for size in (1, 2000):
            with lent(kind, size) as view:
                execute(view)


@pytest.fixture
def blobs(database):
    database.execute("CREATE TABLE blob (id serial PRIMARY KEY, data bytea)")
    return database


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
@pytest.mark.parametrize("debug", [False, True])
def test_an_app_may_close_its_buffers(blobs, watch, held, driver, debug):
    """While nothing was inspected yet."""
    watched = watch(blobs.url_for(driver))
    watched.app.debug = watched.app.extensions["planwatch"].has_panel = debug
    watched.app.extensions["planwatch"].attach()
    with watched.app.test_request_context("/"):
        session = watched.db.session
        execute = partial(session.execute, sa.insert(BLOB))

        def insert(view):
            execute({"data": view()})
            session.execute(sa.text("INSERT INTO blob (data) VALUES (:data)"), {"data": view()})
            wrap = psycopg2.Binary if driver == "psycopg2" else bytes
            text = "INSERT INTO blob (data) VALUES (%s)"
            session.connection().exec_driver_sql(text, (wrap(view()),))
            session.commit()

        buffers(insert)
    held.set()
    assert watched.planwatch.flush(120)
    stats = watched.planwatch.stats()
    assert stats["errors"] == 0
    assert set(stats["skipped"]) <= {"parameters-too-large", "recently-inspected"}
    assert stats["inspected"] > 0
    assert blobs.scalar("SELECT count(*) FROM blob") == 18
    assert blobs.scalar("SELECT count(*) FROM blob WHERE length(data) = 1000") == 9


def test_an_app_may_close_its_buffers_with_asyncpg(blobs):
    app = Flask("tests.app")
    app.config["PLANWATCH_SAMPLE_INTERVAL"] = 0
    planwatch, engine = PlanWatch(app), create_async_engine(blobs.url_for("asyncpg"))
    planwatch.watch(engine, app)

    async def insert():
        async with engine.connect() as connection:
            for kind in ("BytesIO", "memoryview of a mmap"):
                with lent(kind) as view:
                    await connection.execute(sa.insert(BLOB), {"data": view()})
                    await connection.commit()
        await engine.dispose()

    asyncio.run(insert())
    assert planwatch.flush(120, app)
    assert planwatch.stats(app)["errors"] == 0
    planwatch.unwatch(engine, app)
    assert blobs.scalar("SELECT count(*) FROM blob WHERE length(data) = 1000") == 2


def test_a_statement_that_sqlalchemy_does_not_keep_is_not_kept(blobs, watch, held):
    """It holds the values that it was made with."""
    watched = watch(blobs.url, SQLALCHEMY_ENGINE_OPTIONS={"query_cache_size": 0})
    with watched.app.app_context():
        for kind in ("BytesIO", "memoryview of a mmap"):
            with lent(kind) as view:
                watched.db.session.execute(sa.insert(BLOB).values(data=view()))
                watched.db.session.commit()
    held.set()
    assert watched.planwatch.flush(120)
    assert watched.planwatch.stats()["errors"] == 0


@pytest.mark.slow
def test_lists_that_other_threads_change_hurt_nobody(blobs, watch):
    watched, stop, shared = watch(blobs.url_for("psycopg2")), threading.Event(), [[1]]

    def change():
        while not stop.is_set():
            shared[0] = [1] * (len(shared[0]) % 50 + 1)
            shared[0].append(2)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        with watched.app.app_context(), watched.db.engine.connect() as connection:
            for _ in range(300):
                connection.exec_driver_sql(
                    "SELECT id FROM blob WHERE id = ANY(%(ids)s)", {"ids": shared[0]}
                )
    finally:
        stop.set()
        thread.join()
    assert watched.planwatch.flush(120)
    assert watched.planwatch.stats()["errors"] == 0
