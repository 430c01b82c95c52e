"""Our engine against mergekit 0.1.5: the same models, the same YAML, stored results (see parity/README.md).

Float32 results: at most 2 units in the last place, at the size of the tensor's largest input, for each element, and 1e-5
by norm. Results of 16 bits: neighbours at most, in at most 0.1 % of all elements; where a sum cancels to almost nothing,
neighbours of a 16-bit type lie closer together than what float32 allows, and its limit holds instead.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.engine.config import parse_config
from tasks.engine.merge import merge_config
from tests.engine.parity import golden as goldens
from tests.engine.parity.cases import Case, all_cases
from tests.engine.parity.golden import Golden, Tensor, read_folder, read_golden
from tests.engine.parity.models import ARCHITECTURES, weights, write_family
from tests.engine.parity.random_numpy import key_of, uniform

CASES = {case.name: case for case in all_cases()}
BY_NORM, ULPS, DIFFERING = 1e-5, 2, 1e-3
MIXTRAL_EXPERTS = ".block_sparse_moe.experts."


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Path]]:
    """The models of an architecture, written when they are first asked for."""
    root, written = tmp_path_factory.mktemp("parity"), dict[str, dict[str, Path]]()

    def of(architecture: str) -> dict[str, Path]:
        if architecture not in written:
            written[architecture] = write_family(root, architecture)
        return written[architecture]

    return of


@pytest.fixture(scope="module")
def largest_inputs() -> Callable[[Case], dict[str, float]]:
    """The largest magnitude of each tensor over the models of a case."""
    largest: dict[tuple[str, str], dict[str, float]] = {}

    def of(case: Case) -> dict[str, float]:
        for role in case.roles:
            if (case.architecture, role) not in largest:
                tensors = weights(ARCHITECTURES[case.architecture], role)
                largest[case.architecture, role] = {name: float(np.abs(t).max()) for name, t in tensors.items()}
        models = [largest[case.architecture, role] for role in case.roles]
        return {name: max(model[name] for model in models) for name in models[0]}

    return of


@pytest.fixture(scope="module")
def merge() -> Callable[[Mapping[str, Any], Path], dict[str, Tensor]]:
    """Our engine: from a mapping to the tensors of the output folder."""

    def merged(mapping: Mapping[str, Any], out: Path) -> dict[str, Tensor]:
        merge_config(parse_config(mapping, "parity"), out)
        return read_folder(out)

    return merged


def check_names(case: Case, ours: Mapping[str, Tensor], golden: Golden) -> None:
    """Same tensors with the same shapes and dtypes, but for what mergekit loses or computes otherwise."""
    extra = set(ARCHITECTURES[case.architecture].extra)
    if not case.experts:
        extra |= {name for name in ours if MIXTRAL_EXPERTS in name}
    assert set(ours) == set(golden.tensors) | extra
    for name, expected in golden.tensors.items():
        assert (ours[name].dtype, ours[name].stored.shape) == expected, name


def check_elements(name: str, ours: NDArray[np.float32], theirs: NDArray[np.float32], largest: float) -> None:
    """Float32 elements of one tensor: each within ``ULPS``, all within ``BY_NORM``."""
    difference = ours.astype(np.float64) - theirs
    unit = np.spacing(np.float32(largest))
    worst = float(np.abs(difference).max()) / unit
    assert worst <= ULPS, f"{name}: an element is {worst:.1f} units of {unit:.2e} off"
    apart = np.linalg.norm(difference) / (np.linalg.norm(theirs) or 1.0)
    assert apart <= BY_NORM, f"{name}: {apart:.2e} by norm"


def check_statistics(name: str, ours: Tensor, golden: Golden, largest: float) -> None:
    """What the elements that are not stored add up to: as much as ``ULPS`` for each of them allows."""
    values = ours.values
    allowed = values.size * ULPS * float(np.spacing(np.float32(largest)))
    limits = np.array([allowed, 2 * allowed * largest, allowed])
    off = np.abs(goldens.statistics(values) - golden.statistics[name]) / limits
    assert (off <= 1).all(), f"{name}: sum, sum of squares, projection are {off} times the limit off"


def check_float32(ours: Mapping[str, Tensor], golden: Golden, largest: Mapping[str, float]) -> None:
    for name, expected in golden.samples.items():
        check_elements(name, goldens.sample(ours[name].values), expected, largest[name])
        check_statistics(name, ours[name], golden, largest[name])
    for name, tensor in golden.whole.items():
        check_elements(name, ours[name].values, tensor.values, largest[name])


def check_sixteen_bits(ours: Mapping[str, Tensor], golden: Golden, largest: Mapping[str, float]) -> None:
    """Neighbouring numbers of the output's type at most, and few of them."""
    differing = size = 0
    for name, whole in golden.whole.items():
        steps = np.abs(ours[name].ordered_bits() - whole.ordered_bits())
        apart = np.abs(ours[name].values.astype(np.float64) - whole.values)
        far = (steps > 1) & (apart > ULPS * np.spacing(np.float32(largest[name])))
        assert not far.any(), f"{name}: {np.count_nonzero(far)} elements are up to {steps[far].max()} units off"
        differing, size = differing + int(np.count_nonzero(steps)), size + steps.size
    assert differing <= DIFFERING * size, f"{differing} of {size} elements differ"


def check(case: Case, ours: Mapping[str, Tensor], golden: Golden, largest: Mapping[str, float]) -> None:
    check_names(case, ours, golden)
    if golden.samples:
        check_float32(ours, golden, largest)
    else:
        check_sixteen_bits(ours, golden, largest)


@pytest.mark.parametrize("name", CASES)
def test_our_engine_gives_what_mergekit_gives(
    name: str,
    folders: Callable[[str], dict[str, Path]],
    largest_inputs: Callable[[Case], dict[str, float]],
    merge: Callable[[Mapping[str, Any], Path], dict[str, Tensor]],
    tmp_path: Path,
):
    case = CASES[name]
    ours = merge(case.for_engine(folders(case.architecture)), tmp_path / "out")
    check(case, ours, read_golden(name), largest_inputs(case))


def test_the_goldens_are_those_of_the_cases():
    stored = {path.stem for path in goldens.FOLDER.glob("*.safetensors")}
    assert stored == set(CASES)
    older = [name for name, case in CASES.items() if read_golden(name).text != case.text]
    assert not older, f"the YAML of {older} changed after the goldens were made: run make_goldens"
    assert sum(path.stat().st_size for path in goldens.FOLDER.iterdir()) < 3e6
    assert "mergekit==0.1.5" in (goldens.FOLDER / "FREEZE.txt").read_text().splitlines()


@pytest.mark.parametrize(("steps", "elements"), [(2, 1), (1, 28)])
def test_a_result_of_16_bits_with_more_or_larger_differences_is_refused(
    steps: int, elements: int, largest_inputs: Callable[[Case], dict[str, float]]
):
    golden, largest = read_golden("llama_linear_bfloat16"), largest_inputs(CASES["llama_linear_bfloat16"])
    ours = dict(golden.whole)
    check_sixteen_bits(ours, golden, largest)
    name = "model.embed_tokens.weight"
    changed = ours[name].stored.copy()
    changed.reshape(-1)[:elements] += np.uint16(steps)
    ours[name] = Tensor("BF16", changed)
    with pytest.raises(AssertionError, match=r"units off|elements differ"):
        check_sixteen_bits(ours, golden, largest)


def test_one_lost_delta_is_seen_in_a_tensor_that_is_not_stored_whole(
    largest_inputs: Callable[[Case], dict[str, float]],
):
    case = CASES["llama_passthrough_plain"]
    base, instruct = (weights(ARCHITECTURES["llama"], role) for role in ("base", "instruct"))
    golden, largest = read_golden(case.name), largest_inputs(case)
    check(case, {name: Tensor("F32", tensor) for name, tensor in instruct.items()}, golden, largest)
    name = "model.layers.2.mlp.down_proj.weight"
    changed = instruct[name].copy()
    changed[3, 5] = base[name][3, 5]
    with pytest.raises(AssertionError, match="projection"):
        check_statistics(name, Tensor("F32", changed), golden, largest[name])


def test_a_missing_tensor_and_another_dtype_are_seen():
    case, golden = CASES["llama_linear_bfloat16"], read_golden("llama_linear_bfloat16")
    ours = dict(golden.whole)
    check_names(case, ours, golden)
    name = "model.norm.weight"
    with pytest.raises(AssertionError, match=name):
        check_names(case, ours | {name: dataclasses.replace(ours[name], dtype="F16")}, golden)
    del ours[name]
    with pytest.raises(AssertionError):
        check_names(case, ours, golden)


def hashed(key: int, place: int) -> float:
    """The generator's formula on Python's integers, one element at a time."""
    whole = 2**32
    mixed = (place % whole) ^ (key % whole)
    mixed ^= mixed >> 16
    mixed = mixed * 0x7FEB352D % whole
    mixed ^= mixed >> 15
    mixed = (mixed + ((key >> 32) ^ ((place >> 32) * 0x9E3779B9 % whole))) % whole
    for factor, shift in ((0x846CA68B, 16), (0x7FEB352D, 15), (0x846CA68B, 16)):
        mixed = mixed * factor % whole
        mixed ^= mixed >> shift
    return (mixed >> 8) / 2**24


def test_the_masks_fed_to_mergekit_are_those_of_the_formula():
    key = key_of(0, "model.norm.weight", 1)
    assert key == int.from_bytes(hashlib.sha256(b"0\x00model.norm.weight\x001").digest()[:8], "little")
    assert uniform(0, "model.norm.weight", 1, 300).tolist() == [hashed(key, place) for place in range(300)]
    many = uniform(3, "model.embed_tokens.weight", 0, 1 << 20)
    assert abs(float(many.mean(dtype=np.float64)) - 0.5) < 4 / np.sqrt(12 * many.size)
