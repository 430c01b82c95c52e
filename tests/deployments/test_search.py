"""A search on the demo's real models: merged from one reading, heard by real likelihoods, cut off, taken up, chosen.

The serving side is another endpoint: it puts a model up in this process, computed by transformers. Prefect's tasks run
without a server, as functions.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.logging import disable_run_logger

from tasks import candidates, doors, hearing, search
from tasks.domain.errors import CatalogError, EndpointUnavailable
from tasks.domain.jobs import Job
from tasks.domain.models import Artifact, Digest
from tasks.domain.search import Asked, Tried
from tasks.endpoints.protocol import Ready
from tasks.hub import fetch_model
from tasks.jobs import job_keys, look_once, open_job
from tasks.settings import Settings
from tests.deployments.model_server import serve

V2 = "empelt-demo/llama-tiny-instruct-v2"
SERVING = {"image": "transformers", "flags": "--dtype float32", "device": "cpu"}
SEARCH = {
    "grid": [
        {"tuned_weight": [0.25, 1.0], "tuned_depth": [[], [1.0, 0.5, 1.0]]},
        {"method": ["linear"], "tuned_weight": [1.0]},
    ],
    "answers": ["en"],
    "items": [6, 12],
}


class HereEndpoint:
    """Puts artifacts up in this process; ``seen`` has every request, ``broken_after`` so many of them it is gone."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.broken_after = 10**6
        self.up: dict[str, Any] = {}

    def stage(self, artifact: Artifact, *, channel: str, owner: str, lease_seconds: float, **_: Any) -> Any:
        return doors.open_ledger().want_staged(artifact.digest, channel, owner=owner, lease_seconds=lease_seconds)

    def wait_ready(self, wanted: Any, *, deadline_seconds: float) -> Ready:
        if len(self.seen) >= self.broken_after:
            raise EndpointUnavailable("the host is gone")
        opened = serve(Path(doors.open_store().get(wanted.digest).folder), self.seen)
        self.up[wanted.digest] = opened
        return Ready(opened.__enter__(), "m", wanted.digest, SERVING)

    def unstage(self, wanted: Any) -> None:
        if opened := self.up.pop(wanted.digest, None):
            opened.__exit__(None, None, None)
        doors.open_ledger().unstage(wanted.digest, wanted.channel, wanted.owner)


@pytest.fixture
def endpoint(installation: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[HereEndpoint]:
    here = HereEndpoint()
    monkeypatch.setattr("tasks.stage.open_endpoint", lambda family: here)
    state_search(installation, SEARCH)
    with disable_run_logger():
        yield here
    assert here.up == {}


def state_search(installation: Settings, stated: dict[str, Any] | None) -> None:
    path = installation.catalog / "llama-tiny.yaml"
    family = yaml.safe_load(path.read_text())
    family["targets"]["eu"]["recipe"]["tuned_weight"] = 2.0
    family["targets"]["eu"].pop("search", None)
    family["targets"]["eu"] |= {"search": stated} if stated else {}
    path.write_text(yaml.safe_dump(family))
    doors.open_catalog.cache_clear()


class Quiet:
    """Stands for the progress artifact, which needs a Prefect server."""

    def __init__(self, *_: Any) -> None:
        self.told: list[str] = []

    def __call__(self, event: Any) -> None:
        pass

    def end(self, told: str) -> None:
        self.told.append(told)


def carried_out(job: Job, made: dict[Digest, tuple[Job, Digest]]) -> dict[Digest, Tried]:
    """What the flow does between merging and choosing."""
    parents, left, tried = hearing.hear_parents(job, SERVING), list(made), {}
    for number in range(1, candidates.rounds_of(job) + 1):
        heard = hearing.hear_round(job, {key: made[key] for key in left}, parents, number, SERVING)
        tried |= heard
        left = search.left_of(heard)
    return tried


def test_a_search_finds_the_good_recipe_and_goes_on_where_it_was_cut_off(
    endpoint: HereEndpoint, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "ProgressBar", Quiet)
    monkeypatch.setattr(search, "create_table_artifact", lambda *_, **__: None)  # needs a Prefect server
    monkeypatch.setattr(hearing, "hear", hearing.hear.fn)
    job = open_job.fn("llama-tiny", V2, "eu")
    inputs = {part.role: fetch_model.fn(part.role, part.ref, part.digest) for part in job.lineage.ingredients}
    tries = candidates.tries(job)
    recipes = tuple(dict(one.lineage.recipe) for one in tries)
    assert [len(some) for some in candidates.readings(tries)] == [4, 1]  # linear reads no base
    digests = candidates.graft_candidates.fn(job, inputs, recipes)
    assert len(set(digests)) == len(tries) == 5
    assert candidates.graft_candidates.fn(job, inputs, recipes) == []  # all of them are on record
    made = {one.merge_key: (one, digest) for one in tries if (digest := candidates._made(one))}

    for broken_after in (3, 14, 20):  # among the answers, among the first candidates, later
        endpoint.broken_after = broken_after
        with pytest.raises(EndpointUnavailable, match="the host is gone"):
            carried_out(job, made)
    endpoint.broken_after = 10**6
    tried = carried_out(job, made)
    asked = [str(sorted(one.items(), key=str)) for one in endpoint.seen]
    # 12 answers; the instruct parent's texts and answers, the tuned base's texts; 5 candidates, then 3, on two sets each.
    assert len(asked) == 12 + 2 + 1 + 5 * 2 + 3 * 2

    fact = search.choose.fn(job, tried, SERVING)
    best = {one.merge_key: one for one in fact.tried}[str(fact.chosen)]
    assert (best.recipe["method"], best.recipe["tuned_weight"]) == ("task_arithmetic", 1.0)
    assert [one.round for one in fact.tried] == [2, 2, 2, 1, 1]
    linear = next(one for one in fact.tried if one.recipe["method"] == "linear")
    assert (linear.drift or 0) > (best.drift or 0) + 0.2
    assert search.chosen_before(job, SERVING) == fact
    assert search.choose.fn(job, {}, SERVING) == fact  # what was chosen first stays

    # The winner is the merge of its recipe, whoever asks for it: a target that states it has nothing to merge.
    found = candidates.trying(job, str(fact.chosen))
    assert (found.merge_key, found.key, found.planned) == (fact.chosen, job.key, job.merge_key)
    assert doors.open_ledger().artifact_for(found.merge_key).digest in digests  # type: ignore[union-attr]
    card = (Path(doors.open_store().get(made[str(fact.chosen)][1]).folder) / "README.md").read_text()
    assert "one of the recipes of a search" in card


def test_where_a_tuned_base_gains_nothing_no_candidate_is_put_up_and_none_is_chosen(
    endpoint: HereEndpoint, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "create_table_artifact", lambda *_, **__: None)  # needs a Prefect server
    monkeypatch.setattr(hearing, "hear", hearing.hear.fn)
    job = open_job.fn("llama-tiny", V2, "eu")
    sets = {"text eu": tuple(Asked(text="Kaixo") for _ in range(12)), "answers en": (Asked(text="Hi", tokens=(1, 2)),)}
    bits = {"text eu": (1.0,) * 12, "answers en": (1.0,)}
    parents = hearing.Parents(sets, bits, {"eu": (2.0,) * 12})
    made = {one.merge_key: (one, "d" * 64) for one in candidates.tries(job)}
    tried = hearing.hear_round(job, made, parents, 1, SERVING)
    assert {one.score for one in tried.values()} == {None}
    assert search.left_of(tried) == []
    fact = search.choose.fn(job, tried, SERVING)
    assert fact.chosen is None
    assert fact.said.startswith("none of 5 candidates could be heard: the tuned base of eu needs 0.4000 bits per byte")


def test_a_search_makes_another_job_and_none_leaves_the_key_as_it_was(
    endpoint: HereEndpoint, installation: Settings
) -> None:
    with_search = open_job.fn("llama-tiny", V2, "eu")
    family = doors.open_catalog().family("llama-tiny")
    assert job_keys(family, "eu", [with_search.release], look_once(family)) == {
        with_search.release.content_digest: with_search.key
    }
    state_search(installation, None)
    without = open_job.fn("llama-tiny", V2, "eu")
    assert (without.merge_key, without.search) == (with_search.merge_key, None)
    assert without.key != with_search.key
    assert candidates.tries(without) == []
    state_search(installation, {**SEARCH, "answers": ["fr"]})
    with pytest.raises(CatalogError, match="no dev questions in 'fr'"):
        doors.open_catalog()
