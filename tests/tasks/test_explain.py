"""The decision page, from what the ledger has: with pictures, and as a file beside the store."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from tasks import doors
from tasks.domain.jobs import Candidate, Job
from tasks.domain.lineage import Ingredient, Lineage
from tasks.domain.models import Artifact, Evaluation, FileDigest, Item, ModelRef, Release, Score
from tasks.domain.verdict import Verdict, judge
from tasks.domain.verdict_document import SCHEMA_FILE, VerdictDocument, verdict_schema
from tasks.explained import explained, report_path
from tasks.settings import settings

FAMILY = """
family: tiny
architectures: [LlamaForCausalLM]
base: {repo: lab/base}
instruct: {organizations: [lab], pattern: 'lab/instruct-v\\d+'}
tuned_bases: {eu: {repo: lab/eu_base}}
targets:
  eu: {languages: [eu], channel: eu, recipe: {method: linear}, gate: small}
"""
GATE = """
name: small
checks:
  - {benchmark: eu_mc, metric: acc, max_drop: {tuned: 0.1}, critical: true}
  - {benchmark: en_mc, metric: acc, max_drop: {instruct: 0.1}}
"""
DIGESTS = {"candidate": "c" * 64, "instruct": "a" * 64, "tuned": "d" * 64, "live": "b" * 64}
AT = datetime(2026, 5, 1, tzinfo=UTC)
V1, V2 = (ModelRef(repo_id=f"lab/instruct-v{k}", revision=str(k) * 40) for k in (1, 2))


@pytest.fixture(autouse=True)
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "catalog" / "gates").mkdir(parents=True)
    (tmp_path / "catalog" / "tiny.yaml").write_text(FAMILY)
    (tmp_path / "catalog" / "gates" / "small.yaml").write_text(GATE)
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))  # explain sets it where nobody has
    for name, value in (("HOME", tmp_path / "home"), ("CATALOG", tmp_path / "catalog"), ("FAMILIES", "tiny")):
        monkeypatch.setenv(f"EMPELT_{name}", str(value))
    doors.forget()
    with disable_run_logger():
        yield
    doors.forget()


def measured(role: str, eu: int, en: int) -> Evaluation:
    scores = []
    for name, right in (("eu_mc", eu), ("en_mc", en)):
        items = tuple(Item(item_id=f"q{k}", value=float(k < right)) for k in range(100))
        scores.append(Score(benchmark=name, metric="acc", value=right / 100, stderr=0.03, n=100, items=items))
    return Evaluation(eval_key=DIGESTS[role][::-1][:63] + "e", artifact_digest=DIGESTS[role], scores=tuple(scores))


@pytest.fixture
def job() -> Job:
    roles = {"base": "base", "instruct": "instruct-v2", "tuned:eu": "eu_base"}
    refs = {role: ModelRef(repo_id=f"lab/{name}", revision="2" * 40) for role, name in roles.items()}
    parts = tuple(Ingredient(role=role, ref=ref, digest="a" * 64) for role, ref in refs.items())
    catalog = doors.open_catalog()
    return Job(
        release=Release(family="tiny", ref=V2, content_digest="a" * 64, released_at=AT, seen_at=AT),
        target="eu",
        channel="eu",
        gate_digest=catalog.gate_of(catalog.target("tiny", "eu")).digest(),
        lineage=Lineage(family="tiny", target="eu", ingredients=parts, recipe={"method": "linear"}, engine_version="1"),
    )


@pytest.fixture
def verdict(job: Job) -> Verdict:
    """v1 is live as generation 1; v2 is stronger, and has become generation 2."""
    catalog, ledger = doors.open_catalog(), doors.open_ledger()
    found = {role: measured(role, *right) for role, right in
             {"candidate": (95, 90), "instruct": (40, 92), "tuned": (96, 60), "live": (80, 88)}.items()}  # fmt: skip
    for one in found.values():
        for number, score in enumerate(one.scores):  # one benchmark each, as they are measured
            ledger.record_evaluation(
                one.model_copy(update={"scores": (score,), "eval_key": one.eval_key[:-1] + str(number)})
            )
    for ref, digest, generation in ((V1, DIGESTS["live"], 0), (V2, DIGESTS["candidate"], 1)):
        ledger.switch_channel(
            "eu", digest=digest, release=ref, target="eu", family="tiny", expected_generation=generation, reason="test"
        )
    parents = {role: found[role] for role in ("instruct", "tuned")}
    return judge(catalog.gate_of(catalog.target("tiny", "eu")), found["candidate"], parents, found["live"])


CANDIDATE = Candidate(digest=DIGESTS["candidate"], folder="/x", model="eu@cc", serving={"device": "cpu"}, staged_at=AT)


def test_a_published_candidate_has_a_page_with_pictures_and_a_file(job: Job, verdict: Verdict) -> None:
    page = explained(job, verdict, CANDIDATE, "Published", 2)
    assert verdict.passed
    assert "channel eu serves it as generation 2" in page
    assert "| release | instruct-v1 | instruct-v2 |" in page
    assert r"| eu_mc \* | 0.800 | 0.950 |" in page
    assert len(re.findall(r"\(data:image/svg\+xml;base64,", page)) == 2
    path = report_path(settings().home, job, verdict)
    assert str(path) in page.splitlines()
    assert path.is_relative_to(settings().home / "reports")
    written = path.read_text(encoding="utf-8")
    assert "channel eu serves it as generation 2" in written
    assert written.count("<figure>") == 2
    assert {p.name for p in path.parent.iterdir()} == {path.name, f"{path.stem}.json"}  # nothing half written is left
    document, schema = (json.loads(p.read_text()) for p in (path.with_suffix(".json"), path.parents[1] / SCHEMA_FILE))
    assert schema == verdict_schema()
    assert (document["document"], document["version"], document["generation"]) == ("empelt.verdict", 1, 2)
    assert VerdictDocument.model_validate(document).verdict == verdict
    assert set(document) == set(schema["required"])
    assert explained(job, verdict, CANDIDATE, "Published", 2) == page
    assert path.read_text(encoding="utf-8") == written


def test_a_page_tells_what_the_merge_took_as_the_ledger_has_it(job: Job, verdict: Verdict) -> None:
    before = explained(job, verdict, CANDIDATE, "Published", 2)
    made = FileDigest(path="model.safetensors", sha256="e" * 64, size=5)
    artifact = Artifact(digest=CANDIDATE.digest, folder="/x", files=(made,))
    doors.open_ledger().record_artifact(job.merge_key, artifact, job.lineage, 75.0, 310_000_000)
    assert "merged in" not in before
    page = explained(job, verdict, CANDIDATE, "Published", 2)
    assert "- merged in: 75 s, peak 310 MB" in page.splitlines()
    assert "75 s, peak 310 MB" in report_path(settings().home, job, verdict).read_text(encoding="utf-8")


def test_a_gate_that_was_changed_since_draws_no_limits_of_its_own(job: Job, verdict: Verdict) -> None:
    old = verdict.model_copy(update={"gate_digest": "0" * 64})
    page = explained(job, old, CANDIDATE, "Rejected", None)
    assert "data:image" not in page
    assert r"| eu_mc \* | 0.950" in page


def test_a_file_that_cannot_be_written_does_not_hide_the_decision(job: Job, verdict: Verdict) -> None:
    (settings().home / "reports").write_text("not a folder")
    page = explained(job, verdict, CANDIDATE, "Published", 2)
    assert "As a file" not in page
    assert "channel eu serves it as generation 2" in page
