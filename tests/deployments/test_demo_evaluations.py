"""The demo ships its parents' scores. They are of these very weights, suites and serving flags, or they are not used."""

import hashlib
from pathlib import Path

import pytest

from tasks.domain.catalog import load_catalog
from tasks.domain.lineage import content_digest
from tasks.domain.models import Artifact, Evaluation, FileDigest
from tasks.endpoints.profile import ServingProfile
from tasks.evaluate import key_of

ROOT = Path(__file__).parents[2]
FAMILY = ROOT / "infra" / "demo_family"
PARENTS = ("eu_llama-tiny", "llama-tiny-instruct-v1", "llama-tiny-instruct-v2")


def artifact_of(folder: Path) -> Artifact:
    files = tuple(
        FileDigest(path=p.name, sha256=hashlib.sha256(p.read_bytes()).hexdigest(), size=p.stat().st_size)
        for p in sorted(folder.iterdir())
    )
    return Artifact(digest=content_digest(files), folder=str(folder), files=files)


@pytest.mark.parametrize("model", PARENTS)
def test_shipped_scores_are_of_the_shipped_weights_suites_and_flags(model: str):
    shipped = Evaluation.model_validate_json((FAMILY / "evaluations" / f"{model}.json").read_text(encoding="utf-8"))
    catalog = load_catalog(ROOT / "deployments" / "catalog", ["llama-tiny"])
    family = catalog.family("llama-tiny")
    gate = catalog.gate_of(family.targets["eu"])
    serving = ServingProfile(**family.serving.model_dump()).facts(image=shipped.facts["image"])
    artifact = artifact_of(FAMILY / "models" / model)
    key, facts = key_of(artifact, serving, gate.benchmarks)
    assert shipped.artifact_digest == artifact.digest
    assert shipped.facts == facts
    assert shipped.eval_key == key, "measure them again: empelt demo --record"
    assert {s.benchmark for s in shipped.scores} == set(gate.benchmarks)
    assert all(len(s.items) == s.n for s in shipped.scores)


def test_the_image_that_scores_were_measured_on_is_the_one_that_is_pinned():
    lock = (ROOT / "infra" / "serving" / "cpu" / "requirements.lock").read_text(encoding="utf-8")
    for model in PARENTS:
        shipped = Evaluation.model_validate_json((FAMILY / "evaluations" / f"{model}.json").read_text(encoding="utf-8"))
        assert shipped.facts["image"].replace(" ", "==") in lock
