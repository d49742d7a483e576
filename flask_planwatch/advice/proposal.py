"""Puts a chosen index into words and code: what to run, what it costs, what it replaces."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from sqlglot.tokens import TokenType

from ..finding import Advice, AdviceKind, Verdict
from ..plan.predicate import tokenize
from ..plan.schema import Index, Relation, Schema
from ..plan.scrub import LITERALS, is_structural, literal_end
from ..room import LEARNT, Latest
from .index import Candidate, Key, column_key, quote
from .mapped import DeclaredIndex, MappedTable
from .price import price
from .render import (
    alembic_execute,
    alembic_operation,
    model_and_migration,
    sqlalchemy_index,
)

#: A cast behind a constant, as PostgreSQL prints it.
_CAST = re.compile(
    r"""::(?:(?:"[^"]+"|\w+)\.)?(?:"[^"]+"|\w+(?:\ varying|\ precision)?)
    (?:\([\d,]+\))?(?:\ with(?:out)?\ time\ zone)?(?:\[\])*""",
    re.VERBOSE,
)

#: Statements whose indexes are remembered; the one inspected longest ago goes first.
MAX_STATEMENTS = 1000


class Proposals:
    """Remembers the indexes that were proposed for each statement of one app and engine.

    `origin` is the identity of a statement and of the line of code that it came from.
    """

    def __init__(self) -> None:
        self._indexes: Latest[str, tuple[Candidate, ...]] = Latest(LEARNT, MAX_STATEMENTS)

    def keep(self, origin: str, indexes: Sequence[Candidate]) -> None:
        """Remember what was proposed for a statement now, instead of what was before."""
        if indexes:
            self._indexes.keep(origin, tuple(indexes))
        else:
            self._indexes.pop(origin)

    def others(self, origin: str) -> tuple[Candidate, ...]:
        """Return what is proposed for other statements, each index once."""
        kept = [indexes for key, indexes in self._indexes.items() if key != origin]
        return tuple(dict.fromkeys(index for indexes in kept for index in indexes))

    def clear(self) -> None:
        """Forget all of them."""
        self._indexes.clear()


def create_index(
    candidate: Candidate,
    mapped: MappedTable | None,
    verdict: Verdict,
    *,
    size: int | None,
    show_values: bool,
) -> Advice:
    """Return the advice to create an index, or to mend or migrate the one that should be there.

    `size` is in bytes. With `show_values` the compared values in a partial index's condition are
    not hidden anywhere.
    """
    broken = invalid_index(candidate)
    if broken is not None:
        return _reindex(candidate, broken, verdict)
    declared = declared_index(candidate, mapped)
    if declared is not None:
        candidate = replace(candidate, given_name=declared.name)
    advice = _rendered(candidate, mapped, verdict, size)
    if declared is not None:
        advice = replace(advice, explanation=f"{_migrate(declared)} {advice.explanation}")
    if candidate.predicate and not show_values:
        hidden = replace(candidate, predicate=placeholders(candidate.predicate))
        if hidden.predicate != candidate.predicate:
            hidden = replace(hidden, given_name=candidate.name)
            public = replace(
                _rendered(hidden, mapped, verdict, size), explanation=advice.explanation
            )
            advice = replace(advice, summary=public.summary, public=public)
    return advice


def invalid_index(candidate: Candidate) -> Index | None:
    """Return an index that would serve as the candidate does, if it were valid."""
    return next(
        (
            index
            for index in candidate.relation.indexes
            if not index.valid
            and index.plain
            and index.predicate is None
            and index.method == candidate.method
            and not any(key.ordering for key in candidate.keys)
            and _begin_alike(index.keys, candidate)
        ),
        None,
    )


def declared_index(candidate: Candidate, mapped: MappedTable | None) -> DeclaredIndex | None:
    """Return the index that the models declare and that the candidate would be."""
    if mapped is None or candidate.predicate or candidate.method != "btree":
        return None
    there = {index.name for index in candidate.relation.indexes}
    return next(
        (
            index
            for index in mapped.indexes
            if index.name not in there
            and len(index.keys) == len(candidate.keys)
            and _begin_alike(index.keys, candidate)
        ),
        None,
    )


def remark(candidate: Candidate, mapped: MappedTable | None) -> str:
    """Return what a finding should say of an index that should be there, or nothing."""
    broken = invalid_index(candidate)
    if broken is not None:
        return _broken(broken)
    declared = declared_index(candidate, mapped)
    return _migrate(declared) if declared is not None else ""


def placeholders(predicate: str) -> str:
    """Return a condition with a named placeholder for each compared value.

    `state <> 'retired'::text` becomes `state <> :state_1`. A constant that is part of the
    structure, such as a JSON key, stays.
    """
    reading = tokenize(predicate)
    pieces, position, name, count = [], 0, "value", 0
    for index, token in enumerate(reading.tokens):
        if index and reading.tokens[index - 1].token_type is TokenType.DCOLON:
            continue
        if token.token_type not in LITERALS:
            word = predicate[token.start : token.end + 1].strip('"')
            if re.fullmatch(r"[a-z_]\w*", word) and not word.isupper():
                name = word
        elif token.start >= position and not is_structural(reading, index):
            count += 1
            end = literal_end(predicate, token)
            cast = _CAST.match(predicate, end)
            pieces += [predicate[position : token.start], f":{name}_{count}"]
            position = cast.end() if cast else end
    return "".join([*pieces, predicate[position:]])


def _rendered(
    candidate: Candidate, mapped: MappedTable | None, verdict: Verdict, size: int | None
) -> Advice:
    said = [price(candidate, size)]
    shorter = [
        index.name for index in candidate.relation.indexes if _is_beginning(index, candidate)
    ]
    if shorter:
        said.append(
            f"{' and '.join(shorter)} would then be superfluous: the new index begins with the "
            "same keys."
        )
    if not candidate.on_columns:
        said.append("Run ANALYZE on the table afterwards: an expression has no statistics before.")
    if candidate.predicate:
        said.append(
            "A partial index serves only statements with this very condition, and not once a "
            "driver has it prepared on the server with the value as a parameter."
        )
    return Advice(
        kind=AdviceKind.CREATE_INDEX,
        summary="; ".join(candidate.ddl),
        verdict=verdict,
        ddl=candidate.ddl,
        sqlalchemy=sqlalchemy_index(candidate, mapped),
        alembic=alembic_operation(candidate),
        migration=model_and_migration(candidate, mapped),
        explanation=" ".join(said),
        index_bytes=size,
    )


def _reindex(candidate: Candidate, broken: Index, verdict: Verdict) -> Advice:
    relation = candidate.relation
    concurrently = "" if relation.partitioned else "CONCURRENTLY "
    ddl = f"REINDEX INDEX {concurrently}{relation.schema_prefix}{quote(broken.name)}"
    return Advice(
        kind=AdviceKind.CREATE_INDEX,
        summary=ddl,
        verdict=verdict,
        ddl=(ddl,),
        alembic=alembic_execute([ddl]),
        explanation=_broken(broken),
    )


def _broken(index: Index) -> str:
    return (
        f"The index {index.name} exists but is invalid, so PostgreSQL does not use it: a CREATE "
        "INDEX CONCURRENTLY that failed leaves one behind."
    )


def _migrate(declared: DeclaredIndex) -> str:
    return (
        f"The index {declared.name} is declared in `{declared.table}`, missing in the database: "
        "a migration was not run."
    )


def _is_beginning(index: Index, candidate: Candidate) -> bool:
    """Whether an existing index holds nothing that the candidate does not hold as well."""
    return (
        index.valid
        and index.plain
        and not index.unique
        and index.method == candidate.method
        and index.predicate is None
        and not candidate.predicate
        and len(index.keys) <= len(candidate.keys)
        and not any(key.ordering for key in candidate.keys)
        and all(
            _same_key(candidate.relation, there, key)
            for there, key in zip(index.keys, candidate.keys, strict=False)
        )
    )


def _begin_alike(keys: Sequence[str], candidate: Candidate) -> bool:
    """Whether the first keys of another index are the candidate's, casts and parentheses aside."""
    keys = keys[: len(candidate.keys)]
    return len(keys) == len(candidate.keys) and all(
        _same_key(candidate.relation, there, key)
        for there, key in zip(keys, candidate.keys, strict=True)
    )


def _same_key(relation: Relation, there: str, key: Key) -> bool:
    if key.column is not None or relation.column(there) is not None:
        return there == key.column
    return _essence(there) == _essence(key.expression)


def _essence(key: str) -> str:
    return re.sub(r"::[\w ]+|[\s()\"]", "", key).lower()


def is_covered(candidate: Candidate) -> bool:
    """Whether an existing index begins with the candidate's keys, so that it is no news."""
    return not candidate.predicate and any(
        index.valid
        # Of a unique index, nothing but the table's row is left to read.
        and (index.unique or not candidate.include)
        and index.plain
        and index.predicate is None
        and index.method == candidate.method
        and not any(key.ordering for key in candidate.keys)
        and _begin_alike(index.keys, candidate)
        for index in candidate.relation.indexes
    )


def declared_candidates(
    relation: Relation, schema: Schema, mapped: MappedTable | None
) -> list[Candidate]:
    """Return the indexes on plain columns that the models declare and the database lacks."""
    there = {index.name for index in relation.indexes}
    found = []
    for declared in mapped.indexes if mapped else ():
        if declared.name not in there and all(relation.column(name) for name in declared.keys):
            keys = tuple(column_key(relation, name) for name in declared.keys)
            found.append(Candidate(relation, keys, schema, frozenset()))
    return found
