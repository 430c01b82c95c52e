"""A candidate asked look by look: what was asked is not asked again, and what is enough ends it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from tasks.domain.errors import EndpointUnavailable, InputError
from tasks.domain.jobs import Job
from tasks.domain.lineage import Ingredient, Lineage
from tasks.domain.models import Artifact, ModelRef, Release
from tasks.domain.replay import first_items
from tasks.domain.verdict import judge_at
from tasks.engine.recipe import Recipe
from tasks.evaluate import evaluate_model, gate_of
from tasks.harness.suite import permuted, requests_of, spanned
from tasks.scores import key_of, requests_in, stored
from tasks.taking_looks import take_looks
from tests.tasks.measuring import ROOT, SERVING, Serve, ready

NAMES = ("en_bpb_short", "eu_text_short")
LOOKS = (0.1, 0.35, 1.0)


@pytest.fixture(autouse=True)
def catalog_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the one family, which each test writes itself."""
    monkeypatch.setenv("EMPELT_CATALOG", str(tmp_path / "catalog"))
    monkeypatch.setenv("EMPELT_FAMILIES", "llama-tiny")


def job_with(tmp_path: Path, **limits: float) -> Job:
    """A job of the demo's family, whose target `eu` is judged in looks by a floor of its text and a ceiling of its bits."""
    gates = tmp_path / "catalog" / "gates"
    gates.mkdir(parents=True)
    family = yaml.safe_load((ROOT / "deployments/catalog/llama-tiny.yaml").read_text("utf-8"))
    family["targets"] = {"eu": {**family["targets"]["eu"], "gate": "small"}}
    (gates.parent / "llama-tiny.yaml").write_text(yaml.safe_dump(family), "utf-8")
    checks = [
        {"benchmark": "en_bpb_short", "metric": "bits_per_byte", "ceiling": limits["ceiling"], "critical": True},
        {"benchmark": "eu_text_short", "metric": "in_language", "floor": limits["floor"]},
    ]
    (gates / "small.yaml").write_text(yaml.safe_dump({"name": "small", "checks": checks, "sequential": {}}), "utf-8")
    ref, moment = ModelRef(repo_id="lab/one", revision="1" * 40), datetime(2026, 5, 1, tzinfo=UTC)
    release = Release(family="llama-tiny", ref=ref, content_digest="2" * 64, released_at=moment, seen_at=moment)
    parts = (Ingredient(role="instruct", ref=ref, digest="2" * 64),)
    recipe = Recipe(method="task_arithmetic", tuned_weight=0.85).model_dump(mode="json")
    lineage = Lineage(family="llama-tiny", target="eu", ingredients=parts, recipe=recipe, engine_version="1")
    return Job(release=release, target="eu", channel="eu", gate_digest="3" * 64, lineage=lineage)


def test_what_a_look_asked_is_not_asked_again_and_the_whole_is_that_of_one_measurement(
    artifact: Artifact, serve: Serve
) -> None:
    nobody = ready(artifact, 9)
    with serve() as up:
        first = evaluate_model.fn("look 1", up, NAMES, LOOKS[:1])
        # A part that is on record needs no server; the next one does.
        assert evaluate_model.fn("again", nobody, NAMES, LOOKS[:1]).scores == first.scores
        with pytest.raises(EndpointUnavailable):
            evaluate_model.fn("look 2", nobody, NAMES, LOOKS[:2])
        second = evaluate_model.fn("look 2", up, NAMES, LOOKS[:2])
        whole = evaluate_model.fn("look 3", up, NAMES, LOOKS)
        once = evaluate_model.fn("at once", up, ("en_bpb_short",))
    assert [(one.score("en_bpb_short").n, one.score("eu_text_short").n) for one in (first, second, whole)] == [  # type: ignore[union-attr]
        (5, 3),
        (18, 9),
        (50, 25),
    ]
    # Each look begins with what the look before it has, in the order of the permutation.
    for part, share in ((first, 0.1), (second, 0.35)):
        assert first_items(whole, share, permuted).scores == part.scores
    # The whole is on record under the key of a measurement at once, and was not asked again for `at once`.
    assert once.scores == (whole.score("en_bpb_short"),)
    assert whole.facts["prompts:eu_text_short"] == "25"
    assert requests_in(second, NAMES) > requests_in(first, NAMES)
    keys = {key_of(artifact, SERVING, "eu_text_short", share)[0] for share in LOOKS}
    assert len(keys) == 3
    assert stored(artifact, SERVING, NAMES).keys() == set(NAMES)


def test_a_look_at_what_was_measured_at_once_costs_nothing(artifact: Artifact, serve: Serve) -> None:
    with serve() as up:
        whole = evaluate_model.fn("at once", up, ("eu_text_short",))
    part = evaluate_model.fn("look", ready(artifact, 9), ("eu_text_short",), LOOKS[:1])
    assert part.scores == first_items(whole, 0.1, permuted).scores
    assert requests_in(part, NAMES) == 0


def test_a_candidate_that_fails_is_asked_no_more(artifact: Artifact, serve: Serve, tmp_path: Path) -> None:
    job = job_with(tmp_path, floor=0.99, ceiling=0.001)
    with serve() as up:
        first = evaluate_model.fn("candidate", up, NAMES, gate_of(job).shares[:1])
    scores, stop = take_looks(job, ready(artifact, 9), first, {}, None)
    assert stop is not None
    assert (stop.look, stop.share, stop.items) == (1, 0.1, {"en_bpb_short": 5, "eu_text_short": 3})
    assert stop.planned == sum(map(requests_of, NAMES))
    assert stop.requests == (requests_in(first, NAMES),)
    verdict = judge_at(gate_of(job), scores, {}, None, stop)
    assert (verdict.outcome, verdict.stop) == ("rejected", stop)
    assert stop.sentence in " ".join(verdict.reasons)


def test_a_candidate_that_passes_is_asked_until_a_look_may_say_so(
    artifact: Artifact, serve: Serve, tmp_path: Path
) -> None:
    job = job_with(tmp_path, floor=0.0, ceiling=1000.0)
    with serve() as up:
        first = evaluate_model.fn("candidate", up, NAMES, gate_of(job).shares[:1])
        scores, stop = take_looks(job, up, first, {}, None)
    assert stop is not None
    assert (stop.look, len(stop.requests)) == (2, 2)
    assert judge_at(gate_of(job), scores, {}, None, stop).outcome == "passed"
    # An attempt that was cut off after its second look finds both on record.
    again = take_looks(job, ready(artifact, 9), first, {}, None)
    assert again == (scores, stop)


@pytest.mark.parametrize("span", ["", "0.1", "0.5:0.2", "-1:1", "0:2", "a:b"])
def test_a_span_that_means_no_items_is_refused(span: str) -> None:
    with pytest.raises(InputError, match="span"):
        spanned(span, 10)
