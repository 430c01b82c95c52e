"""The demo ships its parents' scores. They are of these very weights, suites and serving flags, or they are not used."""

import hashlib
import json
from functools import cache
from pathlib import Path

import pytest

from deployments.demo_story import LLAMA
from infra.demo_family.releases import RELEASES
from tasks.domain.catalog import load_catalog
from tasks.domain.lineage import content_digest, fingerprint
from tasks.domain.models import Artifact, Evaluation, FileDigest
from tasks.endpoints.profile import ServingProfile
from tasks.harness.questions import Source, sources_of
from tasks.heard import key_of_answers
from tasks.scores import key_of

ROOT = Path(__file__).parents[2]
FAMILY = ROOT / "infra" / "demo_family"
MODELS = sorted(path.stem for path in (FAMILY / "evaluations").glob("*.json"))
RECORD = "measure them again: empelt demo --record"


@cache
def shipped(model: str) -> tuple[Evaluation, ...]:
    rows = json.loads((FAMILY / "evaluations" / f"{model}.json").read_text(encoding="utf-8"))
    return tuple(Evaluation.model_validate(row) for row in rows)


def artifact_of(folder: Path) -> Artifact:
    files = tuple(
        FileDigest(path=p.name, sha256=hashlib.sha256(p.read_bytes()).hexdigest(), size=p.stat().st_size)
        for p in sorted(folder.iterdir())
    )
    return Artifact(digest=content_digest(files), folder=str(folder), files=files)


def folder_of(model: str, scratch: Path) -> Path:
    """Where a model is committed, or derived as the demo derives it."""
    derived = LLAMA.derive.get(model)
    return RELEASES[derived](scratch / model) if derived else FAMILY / "models" / model


def sources(family: str) -> list[Source]:
    catalog = load_catalog(ROOT / "deployments" / "catalog", [family])
    targets = catalog.family(family).targets.values()
    return [source for one in targets for source in sources_of(catalog.gate_of(one), one.languages)]


def family_of(model: str) -> str:
    return "qwen3-tiny" if "qwen3" in model else "llama-tiny"


@pytest.mark.parametrize("model", MODELS)
def test_shipped_scores_are_of_the_shipped_weights_suites_and_flags(model: str, tmp_path: Path):
    family = load_catalog(ROOT / "deployments" / "catalog", [family_of(model)]).family(family_of(model))
    artifact = artifact_of(folder_of(model, tmp_path))
    asked = {source.name: source for source in sources(family_of(model))}
    for found in shipped(model):
        assert found.artifact_digest == artifact.digest
        if found.scores[0].metric == "norm":
            assert found.eval_key == fingerprint(kind="norms", artifact=artifact.digest)
            continue
        if found.scores[0].metric == "share":  # what it said when it was examined
            (name,) = {score.benchmark.removeprefix("examined_").partition(":")[0] for score in found.scores}
            serving = ServingProfile(**family.serving.model_dump()).facts(image=found.facts["image"])
            assert found.eval_key == key_of_answers(artifact, serving, asked[name]), f"{name}: {RECORD}"
            continue
        (benchmark,) = {score.benchmark for score in found.scores}
        serving = ServingProfile(**family.serving.model_dump()).facts(image=found.facts["image"])
        key, facts = key_of(artifact, serving, benchmark)
        assert facts.items() <= found.facts.items()
        assert found.eval_key == key, f"{benchmark}: {RECORD}"
        assert all(len(score.items) == score.n for score in found.scores)


@pytest.mark.parametrize(
    ("model", "role"),
    [("eu_llama-tiny", "tuned"), ("llama-tiny-instruct-v1", "instruct"), ("llama-tiny-instruct-v2", "instruct")],
)
def test_the_demos_first_target_finds_its_parents_measured(model: str, role: str):
    catalog = load_catalog(ROOT / "deployments" / "catalog", ["llama-tiny"])
    wanted = catalog.gate_of(catalog.target("llama-tiny", "eu")).benchmarks_of(role)
    assert set(wanted) <= {score.benchmark for found in shipped(model) for score in found.scores}, RECORD


def test_the_image_that_scores_were_measured_on_is_the_one_that_is_pinned():
    lock = (ROOT / "infra" / "serving" / "cpu" / "requirements.lock").read_text(encoding="utf-8")
    images = {found.facts["image"] for model in MODELS for found in shipped(model) if found.facts}
    assert images
    assert all(image.replace(" ", "==") in lock for image in images)
