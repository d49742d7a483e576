"""What to do about the hits of one statement, and what the planner says to that.

Each hit gets a rewrite, or the index that serves it out of the one set that is chosen for the whole
statement.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from .advice.candidates import Shape
from .advice.containment import containment
from .advice.index import Candidate, Key, column_key
from .advice.own_type import own_type
from .advice.proposal import declared_candidates, invalid_index, is_covered, remark
from .advice.rewrite import is_refused, rewrite, rewrite_with_value
from .advice.search import MIN_SAVING, MIN_SAVING_IN_DOUBT, Attempt, smallest_set
from .advice.verdict import (
    Advised,
    Answer,
    Declined,
    Trial,
    passes_much,
    saving,
    too_little,
    verdict_on_one,
    verified,
)
from .drafting import Drafts
from .finding import Advice, Verdict, VerdictStatus
from .plan.access import Access, accesses, reference_access
from .plan.comparison import MIN_INDEX_SCAN_COST
from .plan.evidence import Hit, Remedy
from .plan.schema import Volatility
from .plan.scrub import mask
from .remedies.case import Case
from .server import whatif
from .server.explain import Query, reference_query
from .settings import VERIFY_OFF

_COLLATE = re.compile(r"\bCOLLATE\b", re.IGNORECASE)


@dataclass(frozen=True)
class _Ground:
    """What indexes are tried for: a statement, and what it asks of its relations."""

    query: Query
    accesses: tuple[Access, ...]
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class _Chosen:
    """The set that serves a statement best, and what it saves; `guess` if that is not measured.

    `serving` are the indexes for each hit, by its id(); one that serves no hit by itself comes with
    the first.
    """

    attempt: Attempt
    before: float
    guess: bool
    serving: Mapping[int, list[Candidate]]

    def is_worth(self, wanted: float, hit: Hit) -> bool:
        """Whether it saves this share of the cost, and more than an index scan may cost."""
        whole = any(scan.reads_all_rows for scan in hit.suspicion.scans) or not hit.suspicion.scans
        if not whole and self.before - self.attempt.cost < MIN_INDEX_SCAN_COST:
            return False
        return saving(self.before, self.attempt.cost) >= wanted


@dataclass
class Adviser:
    """Advises on the hits of one statement that ask for an index or for another comparison.

    `proposed` are the indexes that are proposed for other statements already; `chosen` collects
    those of this one, and `tried` becomes True once the planner was asked.
    """

    case: Case
    proposed: Sequence[Candidate] = ()
    chosen: list[Candidate] = field(default_factory=list)
    tried: bool = False

    def __post_init__(self) -> None:
        self.drafts = Drafts(self.case.session, self.case.schema, self.case.mapped, self.proposed)

    def advise(self, hits: Sequence[Hit]) -> list[Answer]:
        """Return the advice on each hit, or Declined if the planner prefers the plan as it is.

        Raises ServerError if the connection fails.
        """
        answers = {id(hit): self._without_index(hit) for hit in hits}
        open_hits = [hit for hit in hits if answers[id(hit)] is None]
        for ground in self._grounds(open_hits):
            for hit, answer in zip(ground.hits, self._on(ground), strict=True):
                answers[id(hit)] = answer
        return [_known(answers[id(hit)]) for hit in hits]

    def _without_index(self, hit: Hit) -> Answer | None:
        """Return the advice on a hit that no index would answer, else None."""
        suspicion = hit.suspicion
        mapped = self.case.mapped(suspicion.relation)
        if suspicion.holds_value:
            return Advised((rewrite_with_value(hit),))
        if hit.remedy is Remedy.OWN_TYPE:
            return Advised((own_type(hit, mapped),))
        if hit.remedy is Remedy.CONTAINMENT:
            return self._rewritten(hit, containment(hit, mapped))
        described = [self.drafts.describe(suspicion.relation, key) for key in suspicion.keys]
        refused = [facts for facts in described if is_refused(facts)]
        if len(refused) < len(described):
            return None
        if not suspicion.comparisons:
            return Declined(f"no index can have that order, because {refused[0].reason}")
        return Advised((rewrite(hit, refused[0], mapped),))

    def _rewritten(self, hit: Hit, first: Advice) -> Advised:
        """Return a rewrite with the index that serves the statement once it is rewritten."""
        suspicion = hit.suspicion
        # One whose key holds a value does not come here.
        key = Key(suspicion.shown_keys[0], suspicion.comparison.column, suspicion.operator_class)
        shape = Shape((key,), suspicion.method, extension=suspicion.extension)
        index = self.drafts.candidate(suspicion.relation, shape)
        if is_covered(index):
            return Advised((first,))
        reason = "an index can answer only the rewritten statement"
        verdict = Verdict(VerdictStatus.UNTESTED, reason)
        return Advised((first, self.case.index_advice(index, verdict, None)))

    def _grounds(self, hits: Sequence[Hit]) -> list[_Ground]:
        """Return the statement with its hits, and the check of each foreign key with its own."""
        own = tuple(hit for hit in hits if hit.suspicion.scans)
        checks = [hit for hit in hits if not hit.suspicion.scans]
        asked = (
            tuple(map(self._without_values, accesses(self.case.plan, self.case.schema)))
            if own
            else ()
        )
        grounds = [_Ground(self.case.query, asked, own)] if own else []
        for hit in checks:
            suspicion = hit.suspicion
            access = reference_access(suspicion.relation, suspicion.keys)
            grounds.append(_Ground(reference_query(suspicion), (access,), (hit,)))
        return grounds

    def _without_values(self, access: Access) -> Access:
        """Leave out the conditions whose value has changed: no partial index could follow."""
        kept = [one for one in access.conditions if mask(one) not in self.case.varying]
        return replace(access, conditions=tuple(kept))

    def _on(self, ground: _Ground) -> list[Answer]:
        """Return the answer to each hit of a ground."""
        guesses = {
            id(hit): self.drafts.best_guess(hit, ground.accesses, ground.hits)
            for hit in ground.hits
        }
        if self.case.verify == VERIFY_OFF:
            reason = 'PLANWATCH_VERIFY is "off"'
            return [self._untested(hit, guesses[id(hit)], reason) for hit in ground.hits]
        candidates: list[Candidate] = []
        if any(not hit.small for hit in ground.hits):
            candidates = self.drafts.candidates(ground.accesses, ground.hits)
        guessed = [guess for guess in guesses.values() if guess is not None]
        try:
            with self.case.bench(ground.query, [*candidates, *guessed]) as bench:
                self.tried = True
                chosen = self._choose(bench, ground, candidates)
                return [self._answer(bench, chosen, hit, guesses[id(hit)]) for hit in ground.hits]
        except whatif.Untestable as untestable:
            reason = str(untestable)
            return [self._untested(hit, guesses[id(hit)], reason) for hit in ground.hits]
        except whatif.Blocked:
            reason = "the table was locked, most likely by the request's own transaction"
            return [
                self._untested(hit, guesses[id(hit)], reason, blocked=True) for hit in ground.hits
            ]

    def _choose(
        self, bench: whatif.Bench, ground: _Ground, candidates: Sequence[Candidate]
    ) -> _Chosen | None:
        """Return the smallest set of candidates that is nearly the best, None if none is used."""
        if not candidates:
            return None
        relations = {access.relation.key for access in ground.accesses}
        known = [
            replace(one, relation=self.case.schema.relations[one.relation.key])
            for one in self.proposed
            if one.relation.key in relations
        ]
        known += [
            one
            for access in ground.accesses
            for one in declared_candidates(
                access.relation, self.case.schema, self.case.mapped(access.relation)
            )
        ]
        known = [one for one in dict.fromkeys(known) if not is_covered(one)]
        before = bench.before.total_cost
        if bench.before.limited:
            # A LIMIT hides what a scan costs that has to go on to its end.
            scans = [scan.total_cost for hit in ground.hits for scan in hit.suspicion.scans]
            before = max([before, *scans])
        attempt = smallest_set(candidates, known, bench.attempt, before)
        attempt = self._with_broken(attempt, bench)
        if not attempt.used:
            return None
        guess = not all(bench.is_measured(one) for one in attempt.used)
        serving = {
            id(hit): held
            for hit in ground.hits
            if not hit.small
            and (held := [one for one in attempt.used if self.drafts.serves(one, hit)])
        }
        # What serves a certain hit proves nothing of a doubtful one beside it.
        certain = {
            one for hit in ground.hits if hit.doubt is None for one in serving.get(id(hit), [])
        }
        for hit in ground.hits:
            if hit.doubt is not None and certain.issuperset(serving.get(id(hit), [])):
                serving.pop(id(hit), None)
        owned = {one for held in serving.values() for one in held}
        for first in list(serving.values())[:1]:
            first += [one for one in attempt.used if one not in owned]
        return _Chosen(attempt, before, guess, serving)

    def _with_broken(self, attempt: Attempt, bench: whatif.Bench) -> Attempt:
        """Put the index that exists but is invalid in the place of one that it would be."""
        mended = []
        for index in attempt.used:
            broken = invalid_index(index)
            if broken is not None:
                keys = tuple(column_key(index.relation, name) for name in broken.keys)
                plain = all(index.relation.column(name) for name in broken.keys)
                index = replace(index, keys=keys if plain else index.keys, include=())
            mended.append(index)
        if mended == list(attempt.used):
            return attempt
        return bench.attempt(list(dict.fromkeys(mended)))

    def _answer(
        self, bench: whatif.Bench, chosen: _Chosen | None, hit: Hit, guess: Candidate | None
    ) -> Answer:
        if hit.small or chosen is None:
            return self._on_its_own(bench, hit, guess)
        much = hit.most_pass or passes_much(bench.before, hit)
        wanted = MIN_SAVING_IN_DOUBT if much else MIN_SAVING
        serving = chosen.serving.get(id(hit), [])
        if not serving:
            if guess is not None and guess.method != "btree" and guess in bench.refused:
                return self._on_its_own(bench, hit, guess)
            if chosen.is_worth(wanted, hit):
                others = " and ".join(one.shown for one in chosen.attempt.used)
                return Declined(f"an index {others} serves the statement better")
            return self._on_its_own(bench, hit, guess)
        if not chosen.is_worth(wanted, hit):
            verdict = too_little(
                chosen.before,
                chosen.attempt.cost,
                wanted,
                method=bench.method,
                guess=chosen.guess,
            )
            if chosen.guess and hit.doubt is None:
                return self._advised(hit, serving, verdict, bench)
            best = self.case.index_advice(serving[0], verdict, bench)
            rejected = replace(verdict, status=VerdictStatus.REJECTED)
            best = replace(best, verdict=rejected)
            return Declined(f"{best.summary}: {rejected.reason}", best)
        verdict = verified(
            hit.suspicion,
            bench.before,
            chosen.attempt,
            method=bench.method,
            guess=chosen.guess,
        )
        self.chosen += serving
        return self._advised(hit, serving, verdict, bench)

    def _on_its_own(self, bench: whatif.Bench, hit: Hit, guess: Candidate | None) -> Answer:
        """Return what the planner does with the index for one hit that no chosen index serves."""
        if hit.doubt is not None or guess is None:
            return _without_proof(hit)
        attempt = bench.attempt([guess])
        if (refusal := bench.refused.get(guess)) is not None:
            if isinstance(refusal, whatif.TooLong):
                return Declined(str(refusal))
            if isinstance(refusal, whatif.NotImmutable):
                return self._not_immutable(hit)
            return self._untested(hit, guess, str(refusal))
        trial = Trial(
            bench.method,
            attempt,
            bench.attempt([guess], seqscan=False),
            bench.is_measured(guess),
            bench.alone(guess, hit.suspicion),
        )
        answer = verdict_on_one(trial, hit.suspicion, small=hit.small)
        if isinstance(answer, Declined):
            return answer
        if answer.status is VerdictStatus.REJECTED and _is_plain(guess):
            # Nothing about a plain column could be misread: the comparison is not indexable.
            return Declined("no index can answer it, not even with sequential scans off")
        return self._advised(hit, [guess], answer, bench)

    def _not_immutable(self, hit: Hit) -> Answer:
        facts = self.drafts.describe(hit.suspicion.relation, hit.suspicion.keys[0])
        reason = "the server says that it is not IMMUTABLE"
        facts = replace(facts, volatility=Volatility.STABLE, reason=reason)
        return Advised((rewrite(hit, facts, self.case.mapped(hit.suspicion.relation)),))

    def _untested(
        self, hit: Hit, guess: Candidate | None, reason: str, *, blocked: bool = False
    ) -> Answer:
        """Return the index that would serve, with the reason why the planner was not asked."""
        if hit.doubt is not None or guess is None or is_covered(guess):
            return _without_proof(hit)
        facts = [self.drafts.describe(guess.relation, key) for key in hit.suspicion.keys]
        unknown = [one.reason for one in facts if one.volatility is Volatility.UNKNOWN]
        if _COLLATE.search(self.case.query.text):
            reason = (
                "the statement has a COLLATE, which EXPLAIN does not print and the index may "
                f"need, and {reason}"
            )
        if unknown:
            reason = f"whether it may be indexed is not known ({unknown[0]}), and {reason}"
        missing = self.drafts.extension(guess.extension).missing if guess.extension else ""
        verdict = Verdict(VerdictStatus.UNTESTED, missing or reason)
        return replace(self._advised(hit, [guess], verdict, None), blocked=blocked)

    def _advised(
        self,
        hit: Hit,
        indexes: Sequence[Candidate],
        verdict: Verdict,
        bench: whatif.Bench | None,
    ) -> Advised:
        said = [remark(one, self.case.mapped(one.relation)) for one in indexes]
        return Advised(
            tuple(self.case.index_advice(one, verdict, bench) for one in indexes),
            remark=" ".join(filter(None, said)),
        )


def _without_proof(hit: Hit) -> Declined:
    """Return why nothing is said of a hit without the planner's word."""
    if hit.doubt is not None:
        return Declined(hit.doubt.reason, by_parameters=hit.doubt.by_parameters)
    return Declined("an index on other columns of the statement leaves few rows to test")


def _known(answer: Answer | None) -> Answer:
    assert answer is not None
    return answer


def _is_plain(index: Candidate) -> bool:
    return index.on_columns and not any(key.operator_class for key in index.keys)
