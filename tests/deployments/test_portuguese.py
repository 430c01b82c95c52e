"""A person adds Portuguese: a few lines of one YAML, and one command. The base is made on the spot, the Hub is real."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from prefect.logging import disable_run_logger
from safetensors.torch import load_file

from deployments.adding import add, as_text
from infra.demo_family import portuguese
from tasks.backfill import plan_steps, turn
from tasks.domain.card import merge_config
from tasks.domain.due import PlanRow
from tasks.domain.jobs import run_name
from tasks.doors import forget, open_catalog, open_ledger, open_store
from tasks.engine.__main__ import main as engine
from tasks.hub import fetch_model, find_releases
from tasks.plan import plan_due
from tasks.settings import Settings, settings
from tests.deployments.conftest import FAMILY_FILE, LAB, MODELS
from tests.local_hub.hub_fixtures import RunningHub, run_hub

PORTUGUESE = "empelt-demo/pt_llama-tiny"
LINES = {
    "targets:\n": f"  pt: {{repo: {PORTUGUESE}}}\ntargets:\n",
    "\n# How it is served.": "  pt: {languages: [pt], channel: pt, recipe: {method: linear}, gate: language}\n\n# How it is served.",
}
ROOT = Path(__file__).parents[2]
WATCH = "from tasks.doors import open_catalog; print(sorted(open_catalog().family('llama-tiny').targets))"


def watched() -> dict[str, PlanRow]:
    """What a watch finds and plans, by run name. Each run of it is a process of its own, with a catalog of its own."""
    open_catalog.cache_clear()
    with disable_run_logger():
        rows = plan_due.fn("llama-tiny", find_releases.fn("llama-tiny"))
    return {run_name(row.release.ref, row.target): row for row in rows}


@pytest.mark.parametrize("by_hand", [False, True], ids=["the command adds all", "a person wrote the lines"])
def test_portuguese_is_one_yaml_and_one_command(installation: Settings, tiny_hub: RunningHub, by_hand: bool):
    path, before = installation.catalog / "llama-tiny.yaml", watched()
    written = FAMILY_FILE
    if by_hand:
        for place, lines in LINES.items():
            written = written.replace(place, lines)
        path.write_text(written)
    report = add(installation, "llama-tiny", "pt", "" if by_hand else PORTUGUESE, like="", gate="", dry_run=False)

    revision = (tiny_hub.root / "repos" / PORTUGUESE / "main").read_text()
    assert (report["written"], report["revision"], report["target"], report["channel"]) == (True, revision, "pt", "pt")
    assert report["parent"]["repo"] == "empelt-demo/llama-tiny"
    assert report["parent"]["sigmas"] > 3
    assert [(row["standing"], row["release"].split("@")[0][-2:]) for row in report["due"]] == [
        ("due", "v2"),
        ("superseded", "v1"),
    ]
    text = path.read_text()
    assert f'pt: {{repo: {PORTUGUESE}, revision: "{revision}"}}' in text
    for line in written.splitlines():  # comments, order and layout of what a person wrote are as they were
        assert line in text or f"pt: {{repo: {PORTUGUESE}}}" in line
    assert "wrote " in as_text(report)

    rows = watched()
    assert rows["llama-tiny-instruct-v2 x pt"].standing == "due"
    for name, row in before.items():  # and nothing else became due again
        assert (rows[name].job_key, rows[name].standing) == (row.job_key, row.standing)
    seen = subprocess.run([sys.executable, "-c", WATCH], cwd=ROOT, capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "['eu', 'pt']"


def test_the_same_command_again_changes_nothing(installation: Settings):
    add(installation, "llama-tiny", "pt", PORTUGUESE, like="", gate="", dry_run=False)
    text = (installation.catalog / "llama-tiny.yaml").read_text()
    report = add(installation, "llama-tiny", "pt", "", like="", gate="", dry_run=False)
    assert (report["written"], report["changes"]) == (False, "")
    assert (installation.catalog / "llama-tiny.yaml").read_text() == text


def test_a_backfill_brings_older_releases_first_and_none_that_is_older_than_what_is_served(installation: Settings):
    add(installation, "llama-tiny", "pt", PORTUGUESE, like="", gate="", dry_run=False)
    watched()

    def brought(most: int) -> list[tuple[str, bool]]:
        return [(step.row.release.ref.slug[-2:], not step.why_not) for step in plan_steps("llama-tiny", ["pt"], most)]

    assert brought(1) == [("v2", True)]
    assert brought(5) == [("v1", True), ("v2", True)]
    older, _ = plan_steps("llama-tiny", ["pt"], 5)
    with disable_run_logger(), turn(older) as mine:
        assert mine
    newest = watched()["llama-tiny-instruct-v2 x pt"]
    taken = open_ledger().claim(newest.job_key, owner="watch", lease_seconds=60)
    assert taken is not None
    assert brought(5) == [("v1", False), ("v2", False)]  # the newest is under way
    open_ledger().release(taken)
    names = {"target": "pt", "family": "llama-tiny", "reason": "test"}
    open_ledger().switch_channel("pt", digest="a" * 64, release=newest.release.ref, expected_generation=0, **names)
    open_ledger().record_job_end(newest.job_key, "published", "Stronger.", "a" * 64, at=datetime.now(UTC))
    assert brought(5) == [("v1", False), ("v2", False)]
    with disable_run_logger(), turn(older) as mine:  # planned before, and now something newer is served
        assert not mine
    # A changed gate makes the newest due again; what is older than it still may not take its place.
    gate = installation.catalog / "gates" / "language.yaml"
    gate.write_text(gate.read_text().replace("0.05", "0.06"))
    open_catalog.cache_clear()
    assert brought(5) == [("v1", False), ("v2", True)]


# --- the shipped family, with a fifth base that was really trained ------------------------------------------------------
STEPS = 8
"""Enough to differ from the base as training does; what `portuguese.make` makes by itself takes 400."""


@pytest.fixture(scope="module")
def shipped_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """What the shipped catalog names, with its newest release, and pt_llama-tiny trained on the spot."""
    made = portuguese.make(tmp_path_factory.mktemp("trained") / "pt_llama-tiny", steps=STEPS)
    tuned = [f"{code}_llama-tiny" for code in ("eu", "ca", "gl", "es")]
    with run_hub(tmp_path_factory.mktemp("shipped-hub")) as hub:
        for name in ("llama-tiny", *tuned, "llama-tiny-instruct-v2"):
            hub.push(f"{LAB}/{name}", MODELS / name)
        hub.push(PORTUGUESE, made)
        yield hub


@pytest.fixture
def shipped(
    installation: Settings, shipped_hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """The installation with a copy of the catalog that is shipped."""
    catalog = shutil.copytree(ROOT / "deployments" / "catalog", tmp_path / "shipped")
    monkeypatch.setenv("EMPELT_CATALOG", str(catalog))
    monkeypatch.setenv("EMPELT_HUB_ENDPOINT", shipped_hub.endpoint)
    forget()
    return settings()


def test_a_fifth_language_joins_the_shipped_family_and_merges(
    shipped: Settings, shipped_hub: RunningHub, tmp_path: Path
):
    path, before = shipped.catalog / "llama-tiny.yaml", watched()
    written = path.read_text()
    assert {row.target for row in before.values()} == {"eu", "ca", "gl", "es", "iberian"}
    report = add(shipped, "llama-tiny", "pt", PORTUGUESE, like="eu", gate="", dry_run=False)

    revision = (shipped_hub.root / "repos" / PORTUGUESE / "main").read_text()
    assert (report["written"], report["parent"]["repo"]) == (True, f"{LAB}/llama-tiny")
    assert report["parent"]["sigmas"] > 3
    family = open_catalog().family("llama-tiny")
    assert (family.tuned_bases["pt"].repo, family.tuned_bases["pt"].revision) == (PORTUGUESE, revision)
    like, target = family.targets["eu"], family.targets["pt"]
    assert (target.languages, target.channel) == (("pt",), "pt")
    assert (target.recipe, target.gate) == (like.recipe, like.gate)
    assert {"pt_chat", "pt_mc", "pt_bpb", "pt_text"} <= set(open_catalog().gate_of(target).benchmarks)
    rest = iter(path.read_text())
    assert all(letter in rest for letter in written)  # what was there is there, in its order

    rows = watched()
    new = rows.pop("llama-tiny-instruct-v2 x pt")
    assert new.standing == "due"
    assert {name: row.job_key for name, row in rows.items()} == {name: row.job_key for name, row in before.items()}

    (fact,) = [fact for fact in open_ledger().jobs("llama-tiny") if fact.job_key == new.job_key]
    with disable_run_logger():
        parts = {i.role: fetch_model.fn(i.role, i.ref, i.digest) for i in fact.job.lineage.ingredients}
    folders = {role: str(open_store().get(digest).folder) for role, digest in parts.items()}
    (tmp_path / "merge.json").write_text(json.dumps(merge_config(fact.job.lineage.recipe, folders)))
    assert engine([str(tmp_path / "merge.json"), str(tmp_path / "merged")]) == 0
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    instruct = load_file(MODELS / "llama-tiny-instruct-v2" / "model.safetensors")
    assert {k: (t.shape, t.dtype) for k, t in merged.items()} == {k: (t.shape, t.dtype) for k, t in instruct.items()}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in merged.values())
    for name, tensor in merged.items():
        if tensor.ndim > 1:  # moved towards Portuguese, and not far from where it was
            assert 0 < (tensor.float() - instruct[name].float()).norm() < instruct[name].float().norm(), name
