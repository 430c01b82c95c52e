"""What the pre-flight says of the derived releases: one is refused there, the other two only later."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.demo_family import releases
from tasks.domain.errors import ModelRefused
from tasks.domain.models import ModelRef
from tasks.sources.hub import HubSource
from tasks.sources.preflight import PreflightReport, preflight
from tests.local_hub.hub_fixtures import RunningHub, run_hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with run_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


def looked_over(hub: RunningHub, folder: Path) -> PreflightReport:
    base, release = (
        ModelRef(repo_id=f"empelt-demo/{path.name}", revision=hub.push(f"empelt-demo/{path.name}", path))
        for path in (releases.MODELS / "llama-tiny", folder)
    )
    source = HubSource(hub.endpoint, timeout_seconds=10)
    return preflight(source, release, base, allowed_architectures=["LlamaForCausalLM"])


def test_the_foreign_architecture_is_refused_before_any_download(hub: RunningHub, tmp_path: Path):
    folder = releases.foreign_architecture(tmp_path / "llama-tiny-instruct-v3")
    with pytest.raises(ModelRefused, match="GPT2LMHeadModel"):
        looked_over(hub, folder)


@pytest.mark.parametrize("name", ["bad_chat", "weaker"])
def test_what_only_benchmarks_can_refuse_passes(hub: RunningHub, tmp_path: Path, name: str):
    report = looked_over(hub, releases.RELEASES[name](tmp_path / f"llama-tiny-instruct-{name}"))
    assert report.architectures == ("LlamaForCausalLM",)
    assert len(report.shards) == (2 if name == "weaker" else 1)
