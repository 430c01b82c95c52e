"""What a decision cost, stage by stage: seconds, bytes and requests, and the requests that early looks saved."""

from collections.abc import Mapping, Sequence

from tasks.domain.evidence import Evidence
from tasks.domain.models import Evaluation, Noun
from tasks.domain.records import MergeCost
from tasks.domain.verdict import Verdict
from tasks.domain.words import duration, size

STAGES: Mapping[str, str] = {
    "fetch": "bring the models",
    "merge": "merge them",
    "stage": "put the candidate up",
    "checks": "check it before benchmarks",
    "evaluate": "ask it",
    "references": "ask its references",
    "looks": "saved by early looks",
}
"""Stage -> in words, in order."""


class StageCost(Noun):
    """One stage of one job."""

    stage: str
    seconds: float | None = None
    """None where it was not timed."""
    requests: int | None = None
    """HTTP requests sent, or for ``looks`` not sent."""
    said: str = ""

    @property
    def words(self) -> str:
        """The stage in words."""
        return STAGES.get(self.stage, self.stage)

    @property
    def took(self) -> str:
        """``12 s``, or a dash."""
        return "–" if self.seconds is None else duration(self.seconds)


def costs(
    verdict: Verdict, evidence: Evidence | None, merge: MergeCost | None, seconds: Mapping[str, float]
) -> tuple[StageCost, ...]:
    """The stages that something is known of, in order; ``seconds`` by stage, where they were timed."""
    found = {name: StageCost(stage=name, seconds=took) for name, took in seconds.items() if name in STAGES}
    if merge is not None:
        peak = f"peak {size(merge.peak_bytes)} of memory" if merge.peak_bytes else ""
        found["merge"] = StageCost(stage="merge", seconds=merge.seconds, said=peak)
    asked = _requests(evidence.candidate.facts) if evidence else 0
    if verdict.stop is not None:
        asked = sum(verdict.stop.requests)
        saved = max(0, verdict.stop.planned - asked)
        share = f"{saved / verdict.stop.planned:.0%} of {verdict.stop.planned}" if verdict.stop.planned else ""
        told = f"decided at look {verdict.stop.look} of {verdict.stop.of}"
        found["looks"] = StageCost(stage="looks", requests=saved, said=f"{told}: {share}" if share else told)
    if evidence is not None:
        items = sum(score.n for score in evidence.candidate.scores if score.metric != "lenient")
        took = seconds.get("evaluate")
        found["evaluate"] = StageCost(stage="evaluate", seconds=took, requests=asked, said=f"{items} outcomes")
        theirs = [_requests(one.facts) for one in (*evidence.parents.values(), *_live(evidence))]
        said = f"{len(theirs)} models, each measured once for all that compares with it"
        took = seconds.get("references")
        found["references"] = StageCost(stage="references", seconds=took, requests=sum(theirs), said=said)
    return tuple(found[name] for name in STAGES if name in found)


def _live(evidence: Evidence) -> Sequence[Evaluation]:
    return [evidence.live] if evidence.live else []


def _requests(facts: Mapping[str, str]) -> int:
    return sum(int(value) for name, value in facts.items() if name.startswith("requests:"))
