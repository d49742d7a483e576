"""Indexes for the predicates of one statement, and another way to write them.

Each hit gets a rewrite, or an index out of the one set that is chosen for the whole statement.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from ..finding import Verdict, VerdictStatus
from ..indexes.candidate import Candidate, column_key
from ..indexes.proposal import invalid_index, is_covered
from ..indexes.search import (
    MIN_MEMBER_SAVING,
    MIN_SAVING_IN_DOUBT,
    Attempt,
    OutOfTime,
    smallest_set,
    stand_in,
)
from ..indexes.verdict import (
    Advised,
    Answer,
    Declined,
    Trial,
    full_cost,
    passes_much,
    saving,
    spares_sort_and_table,
    too_little,
    verdict_on_one,
    verified,
)
from ..indexes.writing import cost_of_writes
from ..plan.access import Access, accesses, reference_access
from ..plan.evidence import Hit
from ..plan.figures import MAX_USEFUL_SHARE, MIN_INDEX_SCAN_COST, MIN_SAVING
from ..plan.ordered_scan import hidden_look_ups, passing_in_order
from ..plan.schema import Volatility
from ..plan.scrub import mask
from ..plan.wording import say, sentences
from ..rules.worth import FEW_LEFT
from ..server import whatif
from ..server.explain import Query, reference_query
from ..settings import VERIFY_OFF
from .case import Case
from .drafts import Drafts
from .rewritten import Rewritten
from .trial import advised, rejected, untested, why_untested

_ENOUGH = (
    "once there is an index {others:and}, another one saves less than {least:percent} of the cost"
)
_OWN_WRITES = (
    "counting what the statement itself writes, an index saves less than {least:percent} of its "
    "cost"
)
_NOT_INDEXABLE = "no index can answer it, not even with sequential scans off"
_NOT_IMMUTABLE = "the server says that it is not IMMUTABLE"
_TRIED = "there was time to try {tried} of {candidates} candidates"
_SO_FAR = "{reason}; {progress}"
_UNPROVED = (
    "[{progress}; ]the planner used it, but there was no time to see what the statement would cost "
    "without it"
)
_BY_CHANCE = (
    "{reason}, but whether that saves anything depends on where in its order the {passing:percent} "
    "of the rows are that pass"
)
_LOOKED_UP = (
    "until the LIMIT has its rows, about {rows:rows} of {table} are looked up one by one; counting "
    "the pages of all these, it saves less than {wanted:percent}"
)
_COLLATED = (
    "the statement has a COLLATE, which EXPLAIN does not print and the index may need, and {reason}"
)
_UNKNOWN = "whether it may be indexed is not known ({unknown}), and {reason}"

_COLLATE = re.compile(r"\bCOLLATE\b", re.IGNORECASE)


@dataclass(frozen=True)
class _Search:
    """What indexes are searched for: a statement, and what it asks of its relations."""

    query: Query
    accesses: tuple[Access, ...]
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class _Chosen:
    """The set that serves a statement best, and what it saves.

    `guess`: the saving is not measured. `serving` are the indexes for each hit, by its id().
    `unproved` are those of which it is not known whether they pay for themselves. `written` is what
    the statement writes without them, as cost, and part of `before`.
    """

    attempt: Attempt
    unproved: frozenset[Candidate]
    before: float
    guess: bool
    serving: Mapping[int, list[Candidate]]
    written: float = 0.0

    def is_worth(self, wanted: float, hit: Hit) -> bool:
        """Whether it saves this share of the cost, and more than an index scan may cost."""
        whole = any(scan.reads_all_rows for scan in hit.suspicion.scans) or not hit.suspicion.scans
        if not whole and self.before - self.attempt.cost < MIN_INDEX_SCAN_COST:
            return False
        return saving(self.before, self.attempt.cost) >= wanted


@dataclass
class IndexSet:
    """Advises on the hits of one statement that ask for an index or for another comparison."""

    case: Case
    _searched: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.drafts = Drafts(self.case)
        self._rewritten = Rewritten(self.case, self.drafts)

    @property
    def tried(self) -> bool:
        """Whether the planner was asked."""
        return self._searched or self._rewritten.tried

    def advise(self, hits: Sequence[Hit]) -> list[Answer]:
        """Return the advice on each hit, or Declined if the planner prefers the plan as it is.

        Raises ServerError if the connection fails.
        """
        answers = {id(hit): self._rewritten.advise(hit) for hit in hits}
        for search in self._searches([hit for hit in hits if answers[id(hit)] is None]):
            answers |= zip(map(id, search.hits), self._on(search), strict=True)
        return [answer for hit in hits if (answer := answers[id(hit)]) is not None]

    def _searches(self, hits: Sequence[Hit]) -> Iterator[_Search]:
        """Yield the statement with its hits, and the check of each foreign key with its own."""
        own = tuple(hit for hit in hits if hit.suspicion.scans)
        if own:
            asked = accesses(self.case.plan, self.case.schema)
            yield _Search(self.case.query, tuple(map(self._without_values, asked)), own)
        for hit in hits:
            suspicion = hit.suspicion
            if not suspicion.scans:
                access = reference_access(suspicion.relation, suspicion.keys)
                yield _Search(reference_query(suspicion), (access,), (hit,))

    def _without_values(self, access: Access) -> Access:
        """Leave out the conditions whose value has changed: a partial index holds one value."""
        kept = [text for text in access.conditions if mask(text) not in self.case.varying]
        return replace(access, conditions=tuple(kept))

    def _on(self, search: _Search) -> list[Answer]:
        """Return the answer to each hit of a search."""
        guesses = [self._guess(hit, search) for hit in search.hits]
        answered = list(zip(search.hits, guesses, strict=True))
        candidates: list[Candidate] = []
        if self.case.verify != VERIFY_OFF and any(not hit.small for hit in search.hits):
            candidates = self.drafts.candidates(search.accesses, search.hits)
        try:
            with self.case.trials(search.query, [*candidates, *filter(None, guesses)]) as trials:
                self._searched = True
                chosen = self._choose(trials, search, candidates)
                progress = _progress(trials, candidates)
                worthy = self._worthy(trials, chosen, search.hits)
                kept = self._without_unworthy(trials, chosen, worthy)
                return [
                    self._answer(trials, kept if hit in worthy else chosen, hit, guess, progress)
                    for hit, guess in answered
                ]
        except (whatif.Untestable, whatif.Blocked) as error:
            reason, blocked = why_untested(error)
            return [self._untested(hit, guess, reason, blocked=blocked) for hit, guess in answered]

    def _guess(self, hit: Hit, search: _Search) -> Candidate | None:
        """Return the index for a hit by itself, of a small table one that other statements need."""
        guess = self.drafts.best_guess(hit, search.accesses, search.hits)
        if guess is None or not hit.small:
            return guess
        return stand_in(guess, self.case.known([guess.relation]))

    def _choose(
        self, trials: whatif.Trials, search: _Search, candidates: Sequence[Candidate]
    ) -> _Chosen | None:
        """Return the smallest set of candidates that is nearly the best, None if none is used."""
        if not candidates:
            return None
        asked = {
            (candidate.relation.key, key)
            for candidate in candidates
            for key in candidate.expressions
        }
        own = {index: index for index in candidates}
        known = [
            # The same index as a candidate of this statement, whose keys may have any order.
            own.get(index, index)
            for index in self.case.known([access.relation for access in search.accesses])
            # Another one could not serve, and to build it takes time.
            if (index.relation.key, index.expressions[0]) in asked
        ]
        # Of what it writes, an index saves nothing.
        written = cost_of_writes(search.query.text, trials.before)
        before = full_cost(trials.before, search.hits) + written
        # What serves other statements on the table is tried first.
        in_order = sorted(candidates, key=lambda index: index not in known)
        best = trials.most([*in_order, *known])
        tried, shared = (
            [index for index in indexes if index not in trials.untried]
            for indexes in (in_order, known)
        )

        def serves(index: Candidate) -> bool:
            return any(self.drafts.serves(index, hit) for hit in search.hits if not hit.small)

        passing = partial(passing_in_order, schema=self.case.schema)
        found = smallest_set(best, tried, shared, trials.attempt, before, serves, passing)
        attempt = self._with_invalid(found.attempt, trials)
        if not attempt.used:
            return None
        guess = not all(trials.is_measured(index) for index in attempt.used)
        serving = self._serving(attempt.used, search.hits)
        return _Chosen(attempt, found.unproved, before, guess, serving, written)

    def _worthy(
        self, trials: whatif.Trials, chosen: _Chosen | None, hits: Sequence[Hit]
    ) -> list[Hit]:
        """Return the hits for which the chosen set saves as much as is wanted."""
        if chosen is None:
            return []
        return [hit for hit in hits if chosen.is_worth(_wanted(trials, chosen, hit), hit)]

    def _without_unworthy(
        self, trials: whatif.Trials, chosen: _Chosen | None, worthy: Sequence[Hit]
    ) -> _Chosen | None:
        """Return the set as it is advised: without the indexes that serve declined hits only.

        What it saves with these is no promise of what it saves without.
        """
        if chosen is None:
            return None
        served = {index for hit in worthy for index in chosen.serving.get(id(hit), ())}
        kept = [index for index in chosen.attempt.used if index in served]
        if not kept or len(kept) == len(chosen.attempt.used):
            return chosen
        try:
            attempt = trials.attempt(kept)
        except OutOfTime:
            return replace(chosen, unproved=frozenset(kept))
        serving = self._serving(attempt.used, worthy)
        unproved = chosen.unproved.intersection(attempt.used)
        return replace(chosen, attempt=attempt, serving=serving, unproved=unproved)

    def _serving(
        self, used: Sequence[Candidate], hits: Sequence[Hit]
    ) -> dict[int, list[Candidate]]:
        """Return which indexes serve each hit, by its id(), as far as there are any.

        One that serves no hit by itself comes with the first.
        """
        serving = {
            id(hit): [index for index in used if self.drafts.serves(index, hit)]
            for hit in hits
            if not hit.small
        }
        # What serves a certain hit proves nothing of a doubtful one beside it.
        certain = {index for hit in hits if hit.doubt is None for index in serving.get(id(hit), [])}
        for hit in hits:
            if hit.doubt is not None and certain.issuperset(serving.get(id(hit), [])):
                serving.pop(id(hit), None)
        serving = {hit: indexes for hit, indexes in serving.items() if indexes}
        if serving:
            owned = {index for indexes in serving.values() for index in indexes}
            next(iter(serving.values())).extend(index for index in used if index not in owned)
        return serving

    def _with_invalid(self, attempt: Attempt, trials: whatif.Trials) -> Attempt:
        """Put invalid indexes that exist in the place of candidates that would be the same."""
        repaired = []
        for index in attempt.used:
            invalid = invalid_index(index)
            if invalid is not None:
                keys = tuple(column_key(index.relation, name) for name in invalid.keys)
                plain = all(index.relation.column(name) for name in invalid.keys)
                index = replace(index, keys=keys if plain else index.keys, include=())
            repaired.append(index)
        if repaired != list(attempt.used):
            with suppress(OutOfTime):
                return trials.attempt(list(dict.fromkeys(repaired)))
        return attempt

    def _answer(
        self,
        trials: whatif.Trials,
        chosen: _Chosen | None,
        hit: Hit,
        guess: Candidate | None,
        progress: str,
    ) -> Answer:
        """Return what is advised on a hit, and nothing that was not tried as if it had been.

        `progress` tells how many candidates were tried, if not all.
        """
        try:
            answer = self._judged(trials, chosen, hit, guess, progress)
        except OutOfTime:
            return self._late(hit, guess, progress or whatif.TOOK_TOO_LONG)
        late = any(self.drafts.serves(index, hit) for index in trials.untried)
        if not late or isinstance(answer, Advised):
            return answer
        if guess not in trials.sizes:
            return self._late(hit, guess, progress)
        return replace(answer, reason=say(_SO_FAR, reason=answer.reason, progress=progress))

    def _judged(
        self,
        trials: whatif.Trials,
        chosen: _Chosen | None,
        hit: Hit,
        guess: Candidate | None,
        progress: str,
    ) -> Answer:
        """Return what is advised on a hit, from the chosen set or with an index of its own."""
        if hit.small or chosen is None:
            return self._on_its_own(trials, hit, guess)
        wanted = _wanted(trials, chosen, hit)
        worth = chosen.is_worth(wanted, hit)
        serving = chosen.serving.get(id(hit), [])
        if not serving:
            refused = guess is not None and guess.method != "btree" and guess in trials.refused
            if refused or not worth:
                return self._on_its_own(trials, hit, guess)
            others = [index.shown for index in chosen.attempt.used]
            return Declined(say(_ENOUGH, others=others, least=MIN_MEMBER_SAVING))
        method, guessed = trials.method, chosen.guess
        if worth:
            verdict = verified(
                hit.suspicion,
                trials.before,
                chosen.attempt,
                method=method,
                guess=guessed,
                progress=progress,
            )
            if reason := self._looked_up(trials, chosen, hit):
                against = Verdict(VerdictStatus.REJECTED, reason, method=method)
                return rejected(self.case, serving[0], against, trials)
            verdict = self._unless_by_chance(verdict, chosen.attempt, hit)
            return self._verified(trials, chosen, serving, verdict, progress)
        verdict = too_little(
            chosen.before - chosen.written,
            chosen.attempt.plan.total_cost,
            wanted,
            method=method,
            guess=guessed,
            writes=(chosen.written, chosen.attempt.writes),
        )
        if guessed and hit.doubt is None:
            return advised(self.case, serving, verdict, trials)
        return rejected(self.case, serving[0], verdict, trials)

    def _looked_up(self, trials: whatif.Trials, chosen: _Chosen, hit: Hit) -> str:
        """Return that look-ups cost too much until a LIMIT has its rows, or nothing."""
        plan, schema, wanted = chosen.attempt.plan, self.case.schema, _wanted(trials, chosen, hit)
        before, after = hidden_look_ups(trials.before, schema), hidden_look_ups(plan, schema)
        if not after or not plan.limits(hit.suspicion.scans):
            return ""
        cost = [sum(look_ups.hidden_cost for look_ups in found) for found in (before, after)]
        if saving(chosen.before + cost[0], chosen.attempt.cost + cost[1]) >= wanted:
            return ""
        worst = max(after, key=lambda look_ups: look_ups.hidden_cost)
        return say(_LOOKED_UP, rows=worst.runs, table=worst.relation.display, wanted=wanted)

    def _unless_by_chance(self, verdict: Verdict, attempt: Attempt, hit: Hit) -> Verdict:
        """Return a verdict as untested if few rows pass of those that a LIMIT stops to read.

        The planner takes them for evenly spread.
        """
        passing = passing_in_order(attempt.plan, self.case.schema)
        # A partial index holds none but those that pass.
        partial_index = any(index.predicate for index in attempt.used)
        stopped = attempt.plan.limits(hit.suspicion.scans)
        if passing > MAX_USEFUL_SHARE or partial_index or not stopped:
            return verdict
        reason = say(_BY_CHANCE, passing=passing, reason=verdict.reason)
        return Verdict(VerdictStatus.UNTESTED, reason, method=verdict.method)

    def _verified(
        self,
        trials: whatif.Trials,
        chosen: _Chosen,
        serving: Sequence[Candidate],
        verdict: Verdict,
        progress: str,
    ) -> Advised:
        """Return the indexes for a hit, as verified if it is known that each pays for itself."""
        proved = [index for index in serving if index not in chosen.unproved]
        unproved = [index for index in serving if index in chosen.unproved]
        if chosen.unproved:
            # The cost is that with all of them.
            verdict = replace(verdict, cost_before=None, cost_after=None, guess=False)
        answer = advised(self.case, proved, verdict, trials)
        reason = say(_UNPROVED, progress=progress or None)
        doubtful = Verdict(VerdictStatus.UNTESTED, reason, method=trials.method)
        others = advised(self.case, unproved, doubtful, trials)
        return replace(
            answer,
            advice=(*answer.advice, *others.advice),
            remark=sentences(answer.remark, others.remark),
            indexes=tuple(proved),
            late=bool(unproved),
        )

    def _on_its_own(self, trials: whatif.Trials, hit: Hit, guess: Candidate | None) -> Answer:
        """Return what the planner does with the index for one hit that no chosen index serves."""
        if hit.doubt is not None or guess is None:
            return _without_proof(hit)
        attempt = trials.attempt([guess])
        if (refusal := trials.refused.get(guess)) is not None:
            if isinstance(refusal, whatif.TooLong):
                return Declined(str(refusal))
            if isinstance(refusal, whatif.NotImmutable):
                return self._not_immutable(hit)
            return self._untested(hit, guess, str(refusal))
        trial = Trial(
            trials.method,
            attempt,
            trials.attempt([guess], seqscan=False),
            trials.is_measured(guess),
            trials.alone(guess, hit.suspicion),
        )
        answer = verdict_on_one(trial, hit.suspicion, small=hit.small)
        if isinstance(answer, Declined):
            return answer
        if answer.status is VerdictStatus.REJECTED and _is_plain(guess):
            # Nothing about a plain column could be misread: the comparison is not indexable.
            return Declined(_NOT_INDEXABLE)
        proposed = () if answer.status is VerdictStatus.REJECTED else (guess,)
        return replace(advised(self.case, [guess], answer, trials), indexes=proposed)

    def _not_immutable(self, hit: Hit) -> Answer:
        facts = self.drafts.describe(hit.suspicion.relation, hit.suspicion.keys[0])
        facts = replace(facts, volatility=Volatility.STABLE, reason=_NOT_IMMUTABLE)
        return self._rewritten.other_form(hit, facts)

    def _late(self, hit: Hit, guess: Candidate | None, reason: str) -> Answer:
        """Return the index that would serve, which there was no time to try."""
        answer = self._untested(hit, guess, reason)
        return replace(answer, late=True) if isinstance(answer, Advised) else answer

    def _writes_too_much(self, index: Candidate) -> bool:
        """Whether the statement would write too much to save a fifth, if all else were free."""
        text, plan = self.case.query.text, self.case.plan
        before = plan.total_cost + cost_of_writes(text, plan)
        writes = cost_of_writes(text, plan, [index])
        return writes > 0 and saving(before, writes) < MIN_SAVING

    def _untested(
        self, hit: Hit, guess: Candidate | None, reason: str, *, blocked: bool = False
    ) -> Answer:
        """Return the index that would serve, with the reason why the planner was not asked."""
        if hit.doubt is not None or guess is None or is_covered(guess):
            return _without_proof(hit)
        if hit.suspicion.scans and self._writes_too_much(guess):
            return Declined(say(_OWN_WRITES, least=MIN_SAVING))
        facts = [self.drafts.describe(guess.relation, key) for key in hit.suspicion.keys]
        unknown = [fact.reason for fact in facts if fact.volatility is Volatility.UNKNOWN]
        if _COLLATE.search(self.case.query.text):
            reason = say(_COLLATED, reason=reason)
        if unknown:
            reason = say(_UNKNOWN, unknown=unknown[0], reason=reason)
        missing = self.drafts.extension(guess.extension).missing if guess.extension else ""
        verdict = Verdict(VerdictStatus.UNTESTED, missing or reason)
        return untested(self.case, guess, verdict, blocked=blocked)


def _wanted(trials: whatif.Trials, chosen: _Chosen, hit: Hit) -> float:
    """Return the share of the cost that indexes have to save for a hit."""
    much = hit.most_pass or passes_much(trials.before, hit)
    # That they are many is then no reason against an index, but for it.
    much = much and not spares_sort_and_table(trials.before, chosen.attempt.plan, hit)
    return MIN_SAVING_IN_DOUBT if much else MIN_SAVING


def _progress(trials: whatif.Trials, candidates: Sequence[Candidate]) -> str:
    """Return how many of the candidates were tried, nothing if all were."""
    tried = [index for index in candidates if index not in trials.untried]
    if len(tried) == len(candidates):
        return ""
    return say(_TRIED, tried=len(tried), candidates=len(candidates))


def _without_proof(hit: Hit) -> Declined:
    """Return why nothing is advised on a hit that no trial confirms."""
    if hit.doubt is not None:
        return Declined(hit.doubt.reason, by_parameters=hit.doubt.by_parameters)
    return Declined(FEW_LEFT)


def _is_plain(index: Candidate) -> bool:
    return index.on_columns and not any(key.operator_class for key in index.keys)
