"""An installation that has merged, judged and switched: all facts of a target whose artifact is to be published."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi
from prefect.logging import disable_run_logger

from tasks import doors
from tasks.domain.card import card_files
from tasks.domain.keys import merge_key
from tasks.domain.licences import Ancestor, Stated
from tasks.domain.lineage import Ingredient, Lineage
from tasks.domain.models import Artifact, Evaluation, Item, ModelRef, Score
from tasks.domain.verdict import judge
from tests.local_hub.hub_fixtures import RunningHub, TinyModel
from tests.publishing.conftest import TOKEN

AT = datetime(2026, 11, 20, tzinfo=UTC)
GATE = {
    "name": "small",
    "checks": [
        {"benchmark": "eu_mc", "metric": "acc", "max_drop": {"tuned": 0.1}, "critical": True},
        {"benchmark": "en_mc", "metric": "acc", "max_drop": {"instruct": 0.1}},
    ],
}


@dataclass
class Installed:
    """Where it publishes to, and what."""

    hub: RunningHub
    org: str
    repo_id: str
    tmp_path: Path

    @property
    def api(self) -> HfApi:
        return HfApi(endpoint=self.hub.endpoint, token=TOKEN)

    def edit_catalog(self, publish_to: dict[str, Any] | None, **family: Any) -> None:
        path = self.tmp_path / "catalog" / "tiny.yaml"
        found = yaml.safe_load(path.read_text()) | family
        found["targets"]["eu"].pop("publish_to", None)
        if publish_to is not None:
            found["targets"]["eu"]["publish_to"] = publish_to
        path.write_text(yaml.safe_dump(found))
        doors.open_catalog.cache_clear()

    def merged(self, fill: int = 5, *, judged: bool = True) -> Artifact:
        """An artifact with its card, merged from what the Hub holds, and passed by the gate."""
        parts = [
            Ingredient(
                role=role, ref=ModelRef(repo_id=f"{self.org}/{name}", revision=self.shas[name]), digest=digest * 64
            )
            for role, name, digest in (("base", "base", "a"), ("instruct", "instruct-v1", "b"), ("tuned:eu", "eu", "d"))
        ]
        recipe = {"method": "task_arithmetic", "tuned_weight": 0.5 + fill / 100}
        lineage = Lineage(family="tiny", target="eu", ingredients=tuple(parts), recipe=recipe, engine_version="1")
        folder = TinyModel(fill=fill).write(self.tmp_path / "made" / str(fill))
        ancestors = [
            Ancestor(name=p.ref.repo_id, stated=Stated(licence="apache-2.0"), read="its card", languages=("en",))
            for p in parts
        ]
        for name, text in card_files(lineage, ancestors, {"coefficients": {"a": 1.0, "b": {"eu": 0.55}}}).items():
            (folder / name).write_text(text)
        artifact = doors.open_store().adopt(folder)
        ledger = doors.open_ledger()
        ledger.record_artifact(merge_key(lineage), artifact, lineage, seconds=1.0)
        if judged:
            candidate = evaluation("c", artifact.digest, eu=90, en=80)
            parents = {
                "instruct": evaluation("b", "b" * 64, eu=50, en=82),
                "tuned": evaluation("d", "d" * 64, eu=92, en=40),
            }
            for one in (candidate, *parents.values()):
                if ledger.evaluation(one.eval_key) is None:
                    ledger.record_evaluation(one)
            verdict = judge(
                doors.open_catalog().gate_of(doors.open_catalog().target("tiny", "eu")), candidate, parents, None
            )
            assert verdict.passed, verdict.reasons
            payload = verdict.model_dump(mode="json")
            ledger.record_verdict("v" + artifact.digest, "job", "passed", payload, family="tiny", target="eu")
        return artifact

    def switched(self, artifact: Artifact, *, visible: bool = True) -> None:
        """Make the channel serve it."""
        state = doors.open_ledger().channel("eu")
        generation = state.generation if state else 0
        ref = ModelRef(repo_id=f"{self.org}/instruct-v1", revision=self.shas["instruct-v1"])
        doors.open_ledger().switch_channel(
            "eu", digest=artifact.digest, release=ref, target="eu", family="tiny", expected_generation=generation
        )
        if visible:
            doors.open_ledger().acknowledge("eu", generation + 1)

    @property
    def shas(self) -> dict[str, str]:
        return {name: self.api.model_info(f"{self.org}/{name}").sha or "" for name in ("base", "instruct-v1", "eu")}

    def tags(self) -> dict[str, str]:
        return {ref.name: ref.target_commit for ref in self.api.list_repo_refs(self.repo_id).tags}


def evaluation(key: str, digest: str, *, eu: int, en: int) -> Evaluation:
    scores = []
    for name, right in (("eu_mc", eu), ("en_mc", en)):
        items = tuple(Item(item_id=f"q{k}", value=float(k < right)) for k in range(100))
        scores.append(Score(benchmark=name, metric="acc", value=right / 100, stderr=0.03, n=100, items=items))
    return Evaluation(eval_key=(key + digest)[:64], artifact_digest=digest, scores=tuple(scores))


@contextmanager
def installation_on(
    hub: RunningHub, org: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **licences: str
) -> Iterator[Installed]:
    """A home, a catalog whose target states ``publish_to``, and the three parents on the Hub, under these licences."""
    repo_id = f"acme-{org}/tiny-eu"
    target = {"languages": ["eu"], "channel": "eu", "recipe": {"method": "task_arithmetic"}, "gate": "small"}
    family = {
        "family": "tiny",
        "architectures": ["LlamaForCausalLM"],
        "base": {"repo": f"{org}/base"},
        "instruct": {"organizations": [org], "pattern": rf"{org}/instruct-v\d+"},
        "tuned_bases": {"eu": {"repo": f"{org}/eu"}},
        "targets": {"eu": target | {"publish_to": {"repo": repo_id}}},
    }
    (tmp_path / "catalog" / "gates").mkdir(parents=True)
    (tmp_path / "catalog" / "tiny.yaml").write_text(yaml.safe_dump(family))
    (tmp_path / "catalog" / "gates" / "small.yaml").write_text(yaml.safe_dump(GATE))
    for number, name in enumerate(("base", "instruct-v1", "eu")):
        licence = licences.get(name.partition("-")[0], "apache-2.0")
        card = f"---\nlicense: {licence}\nlanguage: [en]\n---\n# {name}\n"
        hub.push(f"{org}/{name}", TinyModel(fill=number, card=card).write(tmp_path / "parents" / name))
    values = {
        "HOME": tmp_path / "home",
        "CATALOG": tmp_path / "catalog",
        "FAMILIES": "tiny",
        "HUB_ENDPOINT": hub.endpoint,
    }
    values |= {"PUBLISH_ENDPOINT": hub.endpoint, "PUBLISH_TOKEN": TOKEN}
    for name, value in values.items():
        monkeypatch.setenv(f"EMPELT_{name}", str(value))
    monkeypatch.delenv("EMPELT_HUB_TOKEN", raising=False)
    doors.forget()
    try:
        with disable_run_logger():
            yield Installed(hub, org, repo_id, tmp_path)
    finally:
        doors.forget()
