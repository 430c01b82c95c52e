"""What a decision cost, stage by stage: seconds, bytes and requests, and the requests that early looks saved."""

from collections.abc import Mapping, Sequence
from datetime import datetime

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
    "search": "search for another recipe",
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


def seconds_by_stage(runs: Sequence[tuple[str, datetime, datetime]]) -> dict[str, float]:
    """Seconds of each stage, from name, begin and end of a job's ended task runs; what was not run is not there.

    ``stage`` is what lies between the end of fetching, merging and reading the files and the first question to a
    candidate. Several questionings count together, and what ran at once counts once.
    """
    kinds: dict[str, list[tuple[datetime, datetime]]] = {}
    asked: list[datetime] = []
    made: list[datetime] = []
    for name, began, ended in runs:
        if (kind := _stage_of(name)) is None:
            continue
        kinds.setdefault(kind, []).append((began, ended))
        if kind in ("evaluate", "checks") and "(candidate" in name:
            asked.append(began)
        elif kind in ("fetch", "merge", "checks"):
            made.append(ended)
    found = {kind: _together(spans) for kind, spans in kinds.items() if kind != "merge"}
    first = min(asked, default=None)
    before = [ended for ended in made if first is not None and ended <= first]  # a search makes others later
    if first is not None and before:
        found["stage"] = (first - max(before)).total_seconds()
    return found


def _stage_of(name: str) -> str | None:
    """The stage that a task run of this name belongs to, if any; a search is a run of its own within the job's."""
    word, _, label = name.partition(" ")
    if word in ("fetch", "merge"):
        return word
    if word in ("evaluate", "reference"):
        return "evaluate" if "(candidate" in label else "references"
    return "checks" if word in ("examine", "A/A") else "search" if word.startswith("search-recipe") else None


def _together(spans: Sequence[tuple[datetime, datetime]]) -> float:
    """Seconds in which at least one of ``spans`` lasted."""
    total, until = 0.0, None
    for began, ended in sorted(spans):
        start = began if until is None else max(began, until)
        total += max(0.0, (ended - start).total_seconds())
        until = ended if until is None else max(until, ended)
    return total


def _live(evidence: Evidence) -> Sequence[Evaluation]:
    return [evidence.live] if evidence.live else []


def _requests(facts: Mapping[str, str]) -> int:
    return sum(int(value) for name, value in facts.items() if name.startswith("requests:"))
