"""Judging again from stored items: another gate for verdicts on record, and looks as a run would have taken them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

from tasks.domain.gate import Gate
from tasks.domain.looks import Stop, cut_to, items_at
from tasks.domain.models import Digest, Evaluation, Item, Noun, Score
from tasks.domain.repeats import held_to
from tasks.domain.verdict import SAME_SETTINGS, Verdict, is_final, judge, with_examined

Order = Callable[[Iterable[str]], Sequence[str]]
"""The order in which items are asked: the ids in, the ids out."""


class Replayed(Noun):
    """One verdict on record, and what another gate says of the same candidate."""

    family: str
    target: str
    verdict_key: str
    candidate: Digest
    before: str
    after: str
    stronger_before: bool | None
    stronger_after: bool | None
    reasons: tuple[str, ...]
    unmeasured: tuple[str, ...]
    """Benchmarks of the new gate that the candidate was never asked: they fail, and need a measurement to say more."""
    stop: Stop | None = None

    @property
    def changes(self) -> bool:
        """Whether it would have been decided otherwise."""
        return (self.before, self.stronger_before) != (self.after, self.stronger_after)


def first_items(evaluation: Evaluation, share: float, order: Order) -> Evaluation:
    """``evaluation`` with the first ``share`` of each score's items; scores without items are left out."""
    scores = tuple(_first(score, share, order) for score in evaluation.scores if score.items)
    return evaluation.model_copy(update={"scores": scores})


def _first(score: Score, share: float, order: Order) -> Score:
    by_id: Mapping[str, Item] = {item.item_id: item for item in score.items}
    kept = tuple(by_id[key] for key in order(by_id)[: items_at(share, len(by_id))])
    return cut_to(score, score.model_copy(update={"items": kept, "n": len(kept)}))


def judge_in_looks(
    gate: Gate,
    candidate: Evaluation,
    parents: Mapping[str, Evaluation],
    live: Evaluation | None,
    order: Order,
    requests_of: Callable[[str], int] | None = None,
) -> Verdict:
    """The verdict at the first look that decides, as in a run; of all items for a gate without looks."""
    if gate.sequential is None:
        return judge(gate, candidate, parents, live)
    looks = gate.sequential.levels
    for number, levels in enumerate(looks, start=1):
        part = candidate if levels.is_last else first_items(candidate, levels.share, order)
        verdict = judge(gate, part, parents, live, levels)
        if levels.is_last or is_final(verdict):
            planned = sum(requests_of(name) for name in gate.benchmarks) if requests_of else 0
            parts = [0.0, *(one.share for one in looks[:number])]
            stop = Stop(
                look=number,
                of=len(looks),
                share=levels.share,
                requests=tuple(round(planned * (b - a)) for a, b in pairwise(parts)),
                planned=planned,
                items={score.benchmark: score.n for score in part.scores},
            )
            return verdict.model_copy(update={"stop": stop})
    raise AssertionError("the last look decides")  # Sequential sees to it that there is one


def joined_for(gate: Gate, evaluations: Sequence[Evaluation], like: Mapping[str, str]) -> Evaluation | None:
    """The scores of one model on the gate's benchmarks, from ``evaluations``, oldest first; None if there are none.

    Of several measurements of one benchmark the one with most items counts that agrees with ``like`` in all facts that
    a verdict compares, and the newest of those.
    """
    chosen: dict[str, tuple[int, Evaluation]] = {}
    for one in evaluations:
        for score in one.scores:
            name = score.benchmark
            same = (*SAME_SETTINGS, f"benchmark:{name}")
            unlike = any(like.get(fact, one.facts.get(fact)) != one.facts.get(fact) for fact in same)
            if name in gate.benchmarks and not unlike and score.n >= chosen.get(name, (0, one))[0]:
                chosen[name] = (score.n, one)
    parts = [one for _, one in chosen.values()]
    if not parts:
        return None
    facts = {name: value for one in parts for name, value in one.facts.items()}
    scores = tuple(s for name, (_, one) in chosen.items() for s in one.scores if s.benchmark == name)
    return parts[0].model_copy(update={"scores": scores, "facts": facts})


def replay(
    gate: Gate,
    before: Verdict,
    evaluations_of: Callable[[Digest], Sequence[Evaluation]],
    order: Order,
    *,
    family: str,
    target: str,
    verdict_key: str,
    requests_of: Callable[[str], int] | None = None,
) -> Replayed | None:
    """What ``gate`` says of the candidate of ``before``; None where nothing of the candidate's is stored."""
    candidate = joined_for(gate, evaluations_of(before.candidate_digest), {})
    if candidate is None:
        return None
    parents = {
        role: found
        for role, digest in before.parent_digests.items()
        if (found := joined_for(gate, evaluations_of(digest), candidate.facts)) is not None
    }
    live = before.live_digest and joined_for(gate, evaluations_of(before.live_digest), candidate.facts)
    after = judge_in_looks(gate, candidate, parents, live or None, order, requests_of)
    after = with_examined(after, held_to(gate, before.examined))
    measured = {score.benchmark for score in candidate.scores}
    return Replayed(
        family=family,
        target=target,
        verdict_key=verdict_key,
        candidate=before.candidate_digest,
        before=before.outcome,
        after=after.outcome,
        stronger_before=before.stronger_than_live,
        stronger_after=after.stronger_than_live,
        reasons=after.reasons,
        unmeasured=tuple(name for name in gate.benchmarks if name not in measured),
        stop=after.stop,
    )
