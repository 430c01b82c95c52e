"""What a job needs and where it fits: never less for more, never below the engine's own figure, refused with figures."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.domain.errors import CatalogError, InputError
from tasks.domain.sizing import (
    ITEM_BYTES,
    DeviceClass,
    Weights,
    class_for_merge,
    class_for_serving,
    load_classes,
    merge_gib,
    serving_gib,
)
from tasks.endpoints.profile import ServingProfile
from tasks.engine.merge_config import names
from tasks.engine.methods.operation import BLOCK_ELEMENTS as ENGINE_BLOCK
from tasks.engine.methods.table import TABLE
from tasks.engine.plan import plan_merge
from tasks.engine.recipe import Recipe

parameters = st.integers(1, 10**12)
dtypes = st.sampled_from(sorted(ITEM_BYTES))
methods = st.sampled_from(sorted(TABLE))
models = st.integers(2, 20)
threads = st.integers(1, 256)
kv = st.integers(0, 1 << 20)

CPU = DeviceClass(name="cpu", memory_gib=16, cores=16)
L40S = DeviceClass(name="l40s", memory_gib=64, cores=8, device_gib=44, gpus=1)
H100 = DeviceClass(name="h100", memory_gib=200, cores=16, device_gib=75, gpus=1)
EIGHT_B = Weights(8_030_261_248, "bfloat16")


@given(parameters, parameters, dtypes, methods, models, threads)
def test_a_larger_model_never_takes_less_to_merge(
    one: int, other: int, dtype: str, method: str, count: int, cores: int
) -> None:
    less, more = sorted((one, other))
    needs = [merge_gib(Weights(n, dtype), method, models=count, threads=cores) for n in (less, more)]  # type: ignore[arg-type]
    assert needs[0] <= needs[1]


@given(parameters, methods, st.lists(dtypes, min_size=2, max_size=2), st.lists(models, min_size=2, max_size=2))
def test_a_wider_dtype_or_one_more_model_or_thread_never_takes_less(
    size: int, method: str, dtypes_: list[str], counts: list[int]
) -> None:
    narrow, wide = sorted(dtypes_, key=lambda d: ITEM_BYTES[d])
    fewer, more = sorted(counts)

    def need(dtype: str, count: int, cores: int) -> float:
        return merge_gib(Weights(size, dtype), method, models=count, threads=cores)  # type: ignore[arg-type]

    assert need(narrow, fewer, 2) <= need(wide, fewer, 2)
    assert need(narrow, fewer, 2) < need(narrow, fewer, 3)
    assert (need(narrow, fewer, 2) < need(narrow, more, 2)) == (fewer < more)


@given(parameters, dtypes, models, threads)
def test_a_method_that_ranks_takes_more_than_one_that_adds(size: int, dtype: str, count: int, cores: int) -> None:
    model = Weights(size, dtype)  # type: ignore[arg-type]
    linear = merge_gib(model, "linear", models=count, threads=cores)
    ties = merge_gib(model, "ties", models=count, threads=cores)
    assert linear < ties < merge_gib(model, "breadcrumbs", models=count, threads=cores)


@given(st.lists(parameters, min_size=2, max_size=2), st.lists(dtypes, min_size=2, max_size=2), st.lists(kv, min_size=2))
def test_serving_never_takes_less_for_more(sizes: list[int], kinds: list[str], caches: list[int]) -> None:
    (small, large), (little, much) = sorted(sizes), sorted(caches)[:2]
    narrow, wide = sorted(kinds, key=lambda d: ITEM_BYTES[d])
    least = serving_gib(small, narrow, kv_mib=little)  # type: ignore[arg-type]
    assert least <= serving_gib(large, narrow, kv_mib=little)  # type: ignore[arg-type]
    assert least <= serving_gib(small, wide, kv_mib=little)  # type: ignore[arg-type]
    assert least <= serving_gib(small, narrow, kv_mib=much)  # type: ignore[arg-type]


@given(st.integers(1, 10**11), st.sampled_from(["bfloat16", "float32"]), st.integers(32, 1 << 17))
def test_serving_is_sized_as_the_agent_places_it(size: int, dtype: str, cache: int) -> None:
    profile = ServingProfile(dtype=dtype, kv_mib=cache)
    placed = profile.memory_bytes(weights_bytes=2 * size)  # stored in bfloat16
    assert serving_gib(size, dtype, kv_mib=cache) == pytest.approx(placed / 2**30)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "della"])
def test_the_bound_is_not_below_the_engines_own_figure(method: str) -> None:
    from tasks.engine.checkpoint import Checkpoint

    folder = Path(__file__).parents[2] / "infra" / "demo_family" / "models"
    recipe = Recipe(method=method, parameters={"density": 0.5} if method in ("ties", "della") else {})
    roles = {"base": "llama-tiny", "instruct": "llama-tiny-instruct-v1", "eu": "eu_llama-tiny"}
    paths = {role: str(folder / name) for role, name in roles.items()}
    config = recipe.config(paths["base"], paths["instruct"], {"eu": _tuned(paths["eu"])})
    opened = {path: Checkpoint.open(Path(path)) for path in names(config)}
    plan = plan_merge(config, opened)
    size = sum(spec.tensor.elements for spec in plan.tensors.values())
    for cores in (1, 2, 64):
        bound = merge_gib(Weights(size, "bfloat16"), method, models=len(plan.sources), threads=cores)
        assert plan.memory_bytes(cores) / 2**30 <= bound
        assert bound - plan.memory_bytes(cores) / 2**30 < 4  # and not so far above that it says nothing


def _tuned(path: str) -> object:
    from tasks.engine.recipe import Tuned

    return Tuned(path)


def test_the_engines_block_is_the_one_counted_with() -> None:
    from tasks.domain.sizing import BLOCK_ELEMENTS

    assert BLOCK_ELEMENTS == ENGINE_BLOCK


def test_a_merge_goes_to_the_least_class_and_an_instance_to_the_least_device() -> None:
    classes = (H100, L40S, CPU)
    assert class_for_merge(classes, EIGHT_B, "task_arithmetic", models=3) is CPU
    assert class_for_serving(classes, EIGHT_B.parameters, "bfloat16", kv_mib=4096) is L40S
    assert class_for_serving(classes, 30_000_000_000, "bfloat16", kv_mib=4096) is H100


def test_a_merge_that_fits_nowhere_is_refused_with_every_figure() -> None:
    small = (CPU.model_copy(update={"memory_gib": 1.0}), L40S.model_copy(update={"memory_gib": 1.1}))
    with pytest.raises(InputError) as refusal:
        class_for_merge(small, EIGHT_B, "ties", models=6)
    told = str(refusal.value)
    assert "a ties merge of 6 models of 8.03 B parameters in bfloat16 fits no class" in told
    assert [problem.split(":")[0] for problem in refusal.value.problems] == ["cpu", "l40s"]
    assert all("GiB needed in" in p and "GiB there" in p for p in refusal.value.problems)


def test_a_model_that_no_device_holds_is_refused_with_every_figure() -> None:
    with pytest.raises(InputError) as refusal:
        class_for_serving((CPU, L40S, H100), 70_000_000_000, "bfloat16", kv_mib=8192)
    # 70e9 x 2 bytes = 130.4 GiB, and 8 of cache, and 1.5
    assert "needs 139.9 GiB on a device (weights 130.4, KV cache 8.0, overhead 1.5)" in str(refusal.value)
    assert refusal.value.problems == ("cpu: 0 GiB there", "l40s: 44 GiB there", "h100: 75 GiB there")


def test_classes_are_read_from_the_catalog_and_a_wrong_key_is_named_by_file_and_line(tmp_path: Path) -> None:
    assert load_classes(tmp_path) == ()
    folder = tmp_path / "classes"
    folder.mkdir()
    (folder / "h100.yaml").write_text("name: h100\nmemory_gib: 200\ndevice_gib: 75\ngpus: 1\nworkers: 2\n")
    (folder / "cpu.yaml").write_text("name: cpu\nmemory_gib: 32\n")
    assert [(one.name, one.workers) for one in load_classes(tmp_path)] == [("cpu", 1), ("h100", 2)]
    (folder / "cpu.yaml").write_text("name: other\nmemory_gib: 32\n")
    (folder / "h100.yaml").write_text("name: h100\nmemory_gib: 0\nmemory: 3\n")
    with pytest.raises(CatalogError) as refusal:
        load_classes(tmp_path)
    told = "\n".join(refusal.value.problems)
    assert "cpu.yaml:1: name: 'other' must equal the file's name 'cpu'" in told
    assert "h100.yaml:2: memory_gib" in told
    assert "h100.yaml:3: memory" in told
