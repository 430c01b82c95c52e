"""One case, judged as `empelt gate MODEL` judges any checkpoint: files, behaviour, looks, verdict."""

import time
from functools import cache
from pathlib import Path

from deployments.judging import Asked, judge_model
from tasks.domain.errors import PipelineError
from tasks.domain.gate import parse_gate
from tasks.domain.verdict import Verdict
from tasks.domain.yaml_lines import Document
from tasks.harness.suite import known_benchmarks, requests_of
from tests.must_block.cases import CASES, Case
from tests.must_block.fixtures import INSTRUCT, ROOT, TUNED, make
from tests.must_block.proxy import mute
from tests.must_block.serving import Site
from tests.must_block.table import Result

FAMILY = ROOT / "deployments" / "catalog" / "llama-tiny.yaml"
GATE = Path(__file__).with_name("gate.yaml")
TARGET = "eu"
UNHEARD_OF = "eu_belebele"
"""A benchmark that is defined, and whose data nobody has fetched here."""


def judged(case: Case, site: Site, work: Path) -> Result:
    """Make the model and judge it; what cannot be judged is a result too."""
    began = time.monotonic()
    candidate = site.adopt(make(work, case.name, serial=CASES.index(case), like=case.maker))
    asked = Asked(
        model=candidate.digest,
        family=str(FAMILY),
        target=TARGET,
        gate=_without_data(work) if case.how == "missing benchmark" else GATE,
        parents={"instruct": str(INSTRUCT), "tuned": str(TUNED)},
    )
    if case.how == "beside itself":
        asked = asked._replace(live=str(make(work, "good", serial=0)))
    outcome, reasons, decided = "broken", [""], "nothing"
    try:
        if case.how == "without logprobs":
            with site.staged(candidate) as ready, mute(ready.base_url) as url:
                found = judge_model(asked._replace(url=url, name=ready.model), _say)
        else:
            found = judge_model(asked, _say)
        outcome, reasons = found.verdict.outcome, list(found.verdict.reasons)
        decided = decided_by(found.verdict)
    except PipelineError as error:
        reasons = [str(error), *error.problems]
    return Result(
        name=case.name,
        outcome=outcome,
        reasons=tuple(reasons),
        requests=site.requests_to(candidate),
        planned=full_run(),
        decided=decided,
        seconds=time.monotonic() - began,
    )


@cache
def full_run() -> int:
    """HTTP requests that all items of the gate take, by the product's own count of its benchmarks."""
    document = Document(GATE)
    gate = parse_gate(document.data, document.where, known=known_benchmarks()).expanded([TARGET])
    return sum(requests_of(name) for name in gate.benchmarks)


def decided_by(verdict: Verdict) -> str:
    """Up to where the run got."""
    failed = [one.stage for one in verdict.examined if one.ok is False]
    if failed:
        return "files" if "files" in failed else "examination"
    return f"look {verdict.stop.look} of {verdict.stop.of}" if verdict.stop else "all items"


def _without_data(work: Path) -> Path:
    """The gate with one more check, on a benchmark that cannot be asked."""
    path = work / "missing-benchmark.yaml"
    path.write_text(f"{GATE.read_text('utf-8')}  - {{benchmark: {UNHEARD_OF}, metric: acc, floor: 0.3}}\n", "utf-8")
    return path


def _say(told: str) -> None:
    print(f"    {told}", flush=True)
