"""From stored models to a queue: what is read from their files, what is handed to the run, what is refused before it."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from tasks import doors
from tasks.domain.errors import InputError
from tasks.domain.jobs import Job
from tasks.domain.models import Artifact
from tasks.sizes import run_options, weights_of

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "infra" / "demo_family" / "models"
CATALOG = ROOT / "deployments" / "catalog"
ROLES = {"base": "llama-tiny", "instruct": "llama-tiny-instruct-v1", "tuned:eu": "eu_llama-tiny"}


@pytest.fixture
def classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the classes of an installation of the demo's family; there are none yet."""
    catalog = tmp_path / "catalog"
    shutil.copytree(CATALOG / "gates", catalog / "gates")
    shutil.copy(CATALOG / "llama-tiny.yaml", catalog)
    (catalog / "classes").mkdir()
    values = {"HOME": tmp_path / "home", "CATALOG": catalog, "FAMILIES": "llama-tiny", "TARGETS": ""}
    for name, value in values.items():
        monkeypatch.setenv(f"EMPELT_{name}", str(value))
    doors.forget()
    with disable_run_logger():
        yield catalog / "classes"
    doors.forget()


@pytest.fixture
def stored(classes: Path, tmp_path: Path) -> dict[str, Artifact]:
    """Three real models in the store, by role."""
    doors.settings().home.mkdir(parents=True)
    found = {}
    for role, name in ROLES.items():
        found[role] = doors.open_store().adopt(Path(shutil.copytree(MODELS / name, tmp_path / "made" / name)))
    return found


@pytest.fixture
def job() -> Job:
    """Only what the sizing looks at: the family and the method."""
    from tests.domain.conftest import digest_named, lineage_for, release_named

    release = release_named("instruct-v2")
    return Job(release=release, target="eu", channel="eu", gate_digest=digest_named("gate"), lineage=lineage_for("eu"))


def test_parameters_are_counted_by_the_weights_and_the_dtype(stored: dict[str, Artifact]) -> None:
    size = (MODELS / "llama-tiny" / "model.safetensors").stat().st_size
    found = weights_of(stored["base"])
    assert found.dtype == "bfloat16"
    assert found.parameters == size // 2


def test_without_classes_nothing_is_chosen(job: Job, stored: dict[str, Artifact]) -> None:
    assert run_options(job, {role: one.digest for role, one in stored.items()}) == {}


def test_the_least_class_is_handed_over_with_what_its_file_adds(
    job: Job, stored: dict[str, Artifact], classes: Path
) -> None:
    (classes / "big.yaml").write_text("name: big\nmemory_gib: 64\ndevice_gib: 80\ngpus: 1\n")
    (classes / "cpu.yaml").write_text("name: cpu\nmemory_gib: 4\ncores: 2\njob_variables: {image: 'x:1'}\n")
    options = run_options(job, {role: one.digest for role, one in stored.items()})
    assert options["work_queue_name"] == "cpu"
    assert options["job_variables"] == {
        "gpu_class": "cpu",
        "gpu_count": 0,
        "memory": "2Gi",
        "deadline_seconds": doors.settings().evaluate_deadline_seconds + 1800,
        "image": "x:1",
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "name: only\nmemory_gib: 1\ndevice_gib: 80\n",
            r"a task_arithmetic merge of 3 models .* only: 1\.\d GiB needed",
        ),
        (
            "name: only\nmemory_gib: 64\ndevice_gib: 1\n",
            r"an instance of .* needs 1\.6 GiB on a device.*only: 1 GiB there",
        ),
    ],
)
def test_what_fits_nowhere_is_refused_before_anything_runs(
    text: str, told: str, job: Job, stored: dict[str, Artifact], classes: Path
) -> None:
    (classes / "only.yaml").write_text(text)
    with pytest.raises(InputError) as refusal:
        run_options(job, {role: one.digest for role, one in stored.items()})
    assert re.search(told, str(refusal.value), re.DOTALL), str(refusal.value)
