"""Makes advice of a chosen index: what to run, what it costs and which indexes it replaces."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlglot.tokens import TokenType

from ..finding import Advice, AdviceKind, Verdict
from ..plan.predicate import tokenize
from ..plan.schema import Index, Relation, Schema
from ..plan.scrub import LITERALS, is_structural, literal_end
from ..plan.wording import say, sentences
from ..runtime.bounded import LEARNT, RecentlyUsed
from .candidate import Candidate, Key, column_key, quote
from .cost import cost_of
from .definition import CAST_TO
from .mapped import DeclaredIndex, MappedTable
from .render import (
    PARTITIONS,
    alembic_execute,
    alembic_operation,
    model_and_migration,
    sqlalchemy_index,
)
from .search import related_indexes, replaces, shared_indexes

_SUPERFLUOUS = "[{indexes:and} would then be superfluous: the new index begins with the same keys.]"
_NEEDLESS = "It takes the place of {indexes:and}, advised before: it begins with the same keys."
_ANALYSE = "Run ANALYZE on the table afterwards: until then the expression has no statistics."
_PARTIAL = (
    "A partial index serves only statements with this literal condition; a prepared statement with "
    "the value as a parameter cannot use it."
)
_INVALID = (
    "The index {index} exists but is invalid, so PostgreSQL does not use it: a CREATE INDEX "
    "CONCURRENTLY that failed leaves one behind."
)
_MIGRATE = (
    "The index {index} is declared in {table} but missing in the database: a migration has not "
    "been run."
)

#: How often a statement is inspected out of turn because of what is proposed for others. Each index
#: is tried once, so that it is needed a few times; this is for what nobody has thought of.
MAX_AGAIN = 20

#: Statements whose indexes are remembered; the one inspected longest ago goes first.
MAX_PROPOSALS = 1000


@dataclass(frozen=True)
class _Proposal:
    """The indexes that are proposed for a statement, each with the name that it is advised under.

    `known` are the hashes of those that were proposed for others then, and so were tried.
    `inspect_again` has the next execution of the statement inspected, which may happen `left` more
    times.
    """

    names: Mapping[Candidate, str]
    known: frozenset[int]
    inspect_again: Callable[[], None]
    left: int

    def on(self, relation: Relation) -> dict[Candidate, str]:
        """Return the indexes on one table."""
        found = self.names.items()
        return {index: name for index, name in found if index.relation.key == relation.key}

    def rejects(self, index: Candidate) -> bool:
        """Whether an index was tried for the statement, and is not proposed for it."""
        return hash(index) in self.known and index not in self.names

    def may_share(self, index: Candidate) -> bool:
        """Whether an index is new to the statement, and it or a wider one may be shared with it."""
        own = self.on(index.relation)
        new = bool(own) and hash(index) not in self.known and index not in own
        finders = (shared_indexes, related_indexes)
        return new and any(find(other, [index]) for find in finders for other in own)

    def carries(self, index: Candidate) -> bool:
        """Whether one of the indexes holds all that an index holds, and more."""
        return any(replaces(other, index) for other in self.on(index.relation))


class Proposals:
    """The indexes that are proposed for the statements of one app and engine: one set.

    `origin` is the identity of a statement and of the line of code that it came from. What is
    proposed for one is tried for the next. If it may also serve an earlier one, the next execution
    of that is inspected at once: no parameters are kept with which it could be tried now.
    """

    def __init__(self) -> None:
        self._proposed: RecentlyUsed[str, _Proposal] = RecentlyUsed(LEARNT, MAX_PROPOSALS)
        #: The names of the indexes that an index was proposed in place of.
        self._replaced: RecentlyUsed[Candidate, tuple[str, ...]] = RecentlyUsed(
            LEARNT, MAX_PROPOSALS
        )

    def keep(
        self,
        origin: str,
        names: Mapping[Candidate, str],
        known: Iterable[Candidate] = (),
        inspect_again: Callable[[], None] = lambda: None,
    ) -> None:
        """Remember what is proposed for a statement now, instead of what was before.

        `names` are those that the indexes are advised under, `known` what `others` returned.
        """
        before = self._proposed.get(origin)
        if not names:
            self._proposed.pop(origin)
            return
        earlier, left = ({}, MAX_AGAIN) if before is None else (before.names, before.left)
        proposal = _Proposal(dict(names), frozenset(map(hash, known)), inspect_again, left)
        self._proposed.keep(origin, proposal)
        new = [index for index in names if index not in earlier]
        for index in new:
            self._remember_replaced(index, earlier)
        self._inspect_others(origin, new, [index for index in earlier if index not in names])

    def others(self, origin: str) -> tuple[Candidate, ...]:
        """Return what is proposed for other statements, each index once, that for most first."""
        kept = [proposal.names for key, proposal in self._proposed.items() if key != origin]
        statements = Counter(index for indexes in kept for index in indexes)
        return tuple(index for index, _ in statements.most_common())

    def replaced_by(self, index: Candidate) -> tuple[str, ...]:
        """Return the names of the indexes, proposed so far, that are not needed beside this one."""
        replaced, needed = dict.fromkeys(self._replaced.get(index, ())), set()
        for proposal in self._proposed.values():
            for other, name in proposal.on(index.relation).items():
                if proposal.rejects(index) or not replaces(index, other):
                    needed.add(name)
                else:
                    replaced[name] = None
        return tuple(name for name in replaced if name not in needed)

    def _remember_replaced(self, index: Candidate, earlier: Mapping[Candidate, str]) -> None:
        """Remember which earlier indexes of the same statement an index takes the place of."""
        names = dict.fromkeys(self._replaced.get(index, ()))
        for other, name in earlier.items():
            if replaces(index, other):
                names |= dict.fromkeys((*self._replaced.get(other, ()), name))
        if names:
            self._replaced.keep(index, tuple(names))

    def _inspect_others(
        self, origin: str, new: Sequence[Candidate], gone: Sequence[Candidate]
    ) -> None:
        """Have the statements inspected again that may share a new index, or need not share one."""
        carried = [index for index in gone if index.include and index not in self.others(origin)]
        for key, proposal in self._proposed.items():
            if key == origin or not proposal.left:
                continue
            shared = any(index in proposal.names for index in gone)
            if shared or any(map(proposal.may_share, new)) or any(map(proposal.carries, carried)):
                self._proposed.keep(key, replace(proposal, left=proposal.left - 1))
                proposal.inspect_again()


def replacing(advice: Advice, names: Sequence[str]) -> Advice:
    """Return the advice to create an index with the names of others that are not needed then."""
    if not names:
        return advice
    return replace(
        advice,
        replaces=(*advice.replaces, *names),
        explanation=sentences(advice.explanation, say(_NEEDLESS, indexes=names)),
        public=None if advice.public is None else replacing(advice.public, names),
    )


def create_index(
    candidate: Candidate,
    mapped: MappedTable | None,
    verdict: Verdict,
    *,
    size: int | None,
    show_values: bool,
) -> Advice:
    """Return the advice to create an index, to rebuild an invalid one, or to run a migration.

    `size` is in bytes. With `show_values` the compared values in a partial index's condition are
    shown everywhere.
    """
    note = remark(candidate, mapped)
    if (invalid := invalid_index(candidate)) is not None:
        return _reindex(candidate.relation, invalid, verdict, note)
    if (declared := declared_index(candidate, mapped)) is not None:
        candidate = replace(candidate, declared=declared, include=declared.include)
    advice = _rendered(candidate, mapped, verdict, size)
    predicate = candidate.predicate if show_values else placeholders(candidate.predicate)
    if predicate != candidate.predicate:
        hidden = replace(candidate, predicate=predicate, given_name=candidate.name)
        public = _rendered(hidden, mapped, verdict, size)
        advice = replace(advice, summary=public.summary, public=public)
    return replace(advice, explanation=sentences(note, advice.explanation))


def invalid_index(candidate: Candidate) -> Index | None:
    """Return an index that would serve as the candidate does, if it were valid."""
    found = (
        index
        for index in candidate.relation.indexes
        if not index.valid and _begins_with(index, candidate)
    )
    return next(found, None)


def declared_index(candidate: Candidate, mapped: MappedTable | None) -> DeclaredIndex | None:
    """Return the index that the models declare and that the candidate would be.

    It may include more columns than the candidate.
    """
    relation = candidate.relation
    if mapped is None or candidate.predicate or candidate.method != "btree" or not candidate.plain:
        return None
    there = {index.name for index in relation.indexes}
    alike = (
        index
        for index in mapped.indexes
        if index.name not in there
        and len(index.keys) == len(candidate.keys)
        and _same_keys(index.keys, candidate)
        and set(candidate.include) <= set(index.include)
        and all(map(relation.column, index.include))
        # There, a constraint that takes an index can be checked at once only.
        and not (index.timing and relation.partitioned)
    )
    return min(alike, key=lambda index: len(index.include), default=None)


def as_declared(candidate: Candidate, mapped: MappedTable | None) -> Candidate:
    """Return a candidate with the included columns that the models declare, if they declare it."""
    declared = declared_index(candidate, mapped)
    if declared is None or is_covered(candidate):
        return candidate
    return replace(candidate, include=declared.include)


def remark(candidate: Candidate, mapped: MappedTable | None) -> str:
    """Return what a finding says of an index that is invalid, or declared and missing."""
    if (invalid := invalid_index(candidate)) is not None:
        return say(_INVALID, index=invalid.name)
    if (declared := declared_index(candidate, mapped)) is not None:
        return say(_MIGRATE, index=declared.name, table=declared.table)
    return ""


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
            cast = CAST_TO.match(predicate, end)
            pieces += [predicate[position : token.start], f":{name}_{count}"]
            position = cast.end() if cast else end
    return "".join([*pieces, predicate[position:]])


def _rendered(
    candidate: Candidate, mapped: MappedTable | None, verdict: Verdict, size: int | None
) -> Advice:
    superfluous = _superfluous(candidate)
    explanation = sentences(
        cost_of(candidate, size),
        say(_SUPERFLUOUS, indexes=superfluous),
        "" if candidate.on_columns else _ANALYSE,
        PARTITIONS if candidate.relation.partitioned else "",
        _PARTIAL if candidate.predicate else "",
    )
    return Advice(
        AdviceKind.CREATE_INDEX,
        "; ".join(candidate.ddl),
        verdict,
        ddl=candidate.ddl,
        # What the models declare is not declared twice.
        sqlalchemy="" if candidate.declared else sqlalchemy_index(candidate, mapped),
        alembic=alembic_operation(candidate),
        migration=model_and_migration(candidate, mapped),
        explanation=explanation,
        index=candidate.name,
        index_bytes=size,
        replaces=tuple(superfluous),
    )


def _reindex(relation: Relation, invalid: Index, verdict: Verdict, note: str) -> Advice:
    concurrently = "" if relation.partitioned else "CONCURRENTLY "
    ddl = f"REINDEX INDEX {concurrently}{relation.schema_prefix}{quote(invalid.name)}"
    alembic = alembic_execute([ddl])
    return Advice(
        AdviceKind.CREATE_INDEX,
        ddl,
        verdict,
        ddl=(ddl,),
        alembic=alembic,
        explanation=note,
        index=invalid.name,
    )


def is_covered(candidate: Candidate) -> bool:
    """Whether an existing index begins with the candidate's keys, so that it is not needed."""
    return not candidate.predicate and any(
        index.valid
        and _begins_with(index, candidate)
        and (_carries(index, candidate) or _finds_one_row(index, candidate))
        for index in candidate.relation.indexes
    )


def declared_candidates(
    relation: Relation, schema: Schema, mapped: MappedTable | None
) -> list[Candidate]:
    """Return the indexes on plain columns that the models declare and the database lacks."""
    there = {index.name for index in relation.indexes}
    found = []
    for declared in mapped.indexes if mapped else ():
        if declared.name not in there and all(map(relation.column, declared.keys)):
            keys = tuple(column_key(relation, name) for name in declared.keys)
            found.append(as_declared(Candidate(relation, keys, schema, frozenset()), mapped))
    return found


def _superfluous(candidate: Candidate) -> list[str]:
    """Return the existing indexes that hold nothing that the candidate does not hold as well."""
    held = {*candidate.include, *(key.column for key in candidate.keys)}
    return [
        index.name
        for index in candidate.relation.indexes
        if index.valid
        and not index.unique
        and held.issuperset(index.included)
        and not candidate.predicate
        and len(index.keys) <= len(candidate.keys)
        and _is_alike(index, candidate)
    ]


def _begins_with(index: Index, candidate: Candidate) -> bool:
    return len(index.keys) >= len(candidate.keys) and _is_alike(index, candidate)


def _carries(index: Index, candidate: Candidate) -> bool:
    """Whether an existing index holds the columns that the candidate includes."""
    return {*candidate.include} <= {*index.keys, *index.included}


def _finds_one_row(index: Index, candidate: Candidate) -> bool:
    """Whether the candidate's keys are unique: nothing but the table's row is left to read."""
    return index.unique and len(index.keys) == len(candidate.keys)


def _is_alike(index: Index, candidate: Candidate) -> bool:
    """Whether an existing index of all rows is like the candidate, as far as both have keys."""
    plain = index.plain and candidate.plain and index.predicate is None
    return plain and index.method == candidate.method and _same_keys(index.keys, candidate)


def _same_keys(keys: Sequence[str], candidate: Candidate) -> bool:
    """Whether keys are the candidate's, as far as both have some, casts and parentheses aside."""
    return all(
        _same_key(candidate.relation, there, key)
        for there, key in zip(keys, candidate.keys, strict=False)
    )


def _same_key(relation: Relation, there: str, key: Key) -> bool:
    if key.column is not None or relation.column(there) is not None:
        return there == key.column
    return _bare(there) == _bare(key.expression)


def _bare(key: str) -> str:
    return re.sub(r"::[\w ]+|[\s()\"]", "", key).lower()
