"""A target with endpoint: adapters, by the merge run of a job: what is made, described, recorded and kept."""

import json
from pathlib import Path

import yaml
from prefect.logging import disable_run_logger

from tasks import doors
from tasks.domain.adapters import base_name
from tasks.domain.lineage import content_digest
from tasks.hub import fetch_model
from tasks.jobs import job_keys, look_once, open_job
from tasks.references import references
from tasks.settings import Settings

V2 = "empelt-demo/llama-tiny-instruct-v2"


def test_a_job_makes_an_adapter_that_names_its_model_and_says_what_it_keeps(
    prefect_server: int, installation: Settings
) -> None:
    from flows.merge_candidate import merge_candidate

    with disable_run_logger():
        plain = open_job.fn("llama-tiny", V2, "eu")
        path = installation.catalog / "llama-tiny.yaml"
        path.write_text(path.read_text() + "endpoint: adapters\nadapter: {rank: 16}\n")
        doors.forget()
        job = open_job.fn("llama-tiny", V2, "eu")
        inputs = {part.role: fetch_model.fn(part.role, part.ref, part.digest) for part in job.lineage.ingredients}
    family = doors.open_catalog().family("llama-tiny")
    assert job_keys(family, "eu", [job.release], look_once(family)) == {job.release.content_digest: job.key}
    assert plain.merge_key != job.merge_key, "what was merged whole is no adapter"
    digest = merge_candidate(job, inputs)

    artifact, instruct = doors.open_store().get(digest), inputs["instruct"]
    folder = Path(artifact.folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (16, base_name(instruct))
    theirs = Path(doors.open_store().get(instruct).folder)
    for name in ("tokenizer.json", "chat_template.jinja", "config.json"):
        assert (folder / name).read_bytes() == (theirs / name).read_bytes()
    assert not (folder / "model.safetensors").exists()
    assert content_digest(artifact.files) == digest

    recorded = doors.open_ledger().artifact_for(job.merge_key)
    assert recorded is not None
    assert (recorded.digest, recorded.lineage.adapter) == (digest, family.adapter_of("eu"))
    check_card((folder / "README.md").read_text(encoding="utf-8"), instruct)
    doors.open_ledger().want_staged(digest, "eu", owner="test", lease_seconds=60)
    assert references()[digest] == "wanted beside eu by test"
    assert instruct in references(), "what an adapter is served over is kept with it"


def check_card(card: str, instruct: str) -> None:
    head = yaml.safe_load(card.split("---\n")[1])
    assert (head["base_model_relation"], head["base_model"], head["library_name"]) == ("adapter", [V2], "peft")
    assert f"that with the content digest `{instruct}`" in card
    section = card.split("## Energy kept\n")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == ["| 0", "| 1", "| 2", "| outside the layers"]
    assert all(0 < float(row[2].strip(" %|")) < 100 for row in rows)
    assert "- not carried: model.norm.weight (no matrix)" in section
    assert "empelt adapter merge.yaml adapter --rank 16 --carry input" in card
