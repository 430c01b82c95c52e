"""What holds for every method of the table, so that a new one is tested the moment it is listed.

Whole merges of models with tensors of every form (`folders.ODD_SHAPES`); test_operations.py has single tensors.
"""

import shutil

import numpy as np
import pytest

from tasks.engine.merge import merge_config
from tasks.engine.methods.registry import METHODS
from tasks.engine.methods.table import TABLE
from tests.engine.folders import (
    NAMES,
    ODD_SHAPES,
    model_count,
    recipe_for,
    scratch,
    stated,
    tensors,
    write_folder,
)
from tests.engine.parity.golden import read_folder

ROLES = ("base", "instruct", "one", "two")
TYPES = ("F32", "BF16", "F16")
WEIGHED = [name for name, spec in TABLE.items() if "weight" in spec.of_models and spec.most is None]
"""Methods in which a model of weight 0 is as good as none."""
THINNED = [name for name, spec in TABLE.items() if "density" in spec.of_models]


@pytest.fixture(scope="module")
def place():
    with scratch() as folder:
        yield folder


@pytest.fixture(scope="module")
def written(place):
    """Folders by role, type and seed, each written once."""
    known = {}

    def of(role, dtype="F32", *, seed=None):
        number = ROLES.index(role) if seed is None else seed
        if (role, dtype, number) not in known:
            folder = place / f"{role}-{dtype}-{number}"
            known[role, dtype, number] = write_folder(folder, tensors(number), dtype)
        return known[role, dtype, number]

    return of


@pytest.fixture
def merged(place):
    """The tensors of a merge: by a method, of folders, with parameters."""

    def of(method, base, instruct, models, parameters, **more):
        out = place / "out"
        spec = TABLE[method]
        report = merge_config(recipe_for(spec, base, instruct, models[: model_count(spec)], parameters, **more), out)
        try:
            found = read_folder(out)
        finally:
            shutil.rmtree(out)
        assert report.tensors == len(found)
        assert {name: tensor.stored.shape for name, tensor in found.items()} == ODD_SHAPES
        return found

    return of


def same(one, other):
    """Bit for bit, the types included."""
    return all(one[n].dtype == other[n].dtype and one[n].stored.tobytes() == other[n].stored.tobytes() for n in one)


def values(model):
    return {name: tensor.values.astype(np.float64) for name, tensor in model.items()}


def close(found, expected, ulps=4):
    """Within so many units of the last place of the largest expected element."""
    for name, tensor in found.items():
        unit = np.spacing(np.abs(expected[name]).max(initial=1e-3).astype(np.float32))
        np.testing.assert_allclose(tensor.values, expected[name], rtol=0, atol=ulps * unit, err_msg=name)


def test_methods_and_table_have_the_same_names():
    assert list(METHODS) == list(TABLE)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("busy", [False, True], ids=["plain", "busy"])
@pytest.mark.parametrize("method", TABLE)
def test_models_that_are_equal_give_that_model_bit_for_bit(written, merged, method, busy, dtype):
    # Where there is no base, other parameters than the defaults may scale the whole: normalize, scale.
    parameters = stated(TABLE[method], busy=busy and TABLE[method].base != "unused")
    folders = [written(role, dtype, seed=0) for role in ROLES]
    found = merged(method, folders[0], folders[1], folders[2:], parameters)
    assert {tensor.dtype for tensor in found.values()} == {dtype}
    assert same(found, read_folder(folders[0]))


@pytest.mark.parametrize("busy", [False, True], ids=["plain", "busy"])
@pytest.mark.parametrize("method", WEIGHED)
def test_a_model_of_weight_0_is_as_good_as_none(written, merged, place, method, busy):
    parameters = stated(TABLE[method], busy=busy)
    base, instruct, one, two = (written(role) for role in ROLES)
    both = merged(method, base, instruct, [one, two], {**parameters, "weights": [0.7, 0.0]})
    config = recipe_for(TABLE[method], base, instruct, [one], {**parameters, "weights": [0.7]})
    merge_config(config, place / "alone")
    alone = read_folder(place / "alone")
    shutil.rmtree(place / "alone")
    assert same(both, alone)


@pytest.mark.parametrize("out_dtype", TYPES)
@pytest.mark.parametrize("method", TABLE)
def test_inputs_may_be_of_four_types_and_the_result_is_of_the_one_asked_for(written, merged, method, out_dtype):
    parameters = {**stated(TABLE[method], busy=True)}
    mixed = [written(role, dtype) for role, dtype in zip(ROLES, ("BF16", "F16", "F32", "F64"), strict=True)]
    other = [written(role, dtype) for role, dtype in zip(ROLES, ("F64", "F32", "BF16", "F16"), strict=True)]
    alike = [written(role) for role in ROLES]
    asked = {"out_dtype": NAMES[out_dtype]}
    expected = merged(method, alike[0], alike[1], alike[2:], parameters, **asked)
    assert {tensor.dtype for tensor in expected.values()} == {out_dtype}
    for folders in (mixed, other):
        assert same(merged(method, folders[0], folders[1], folders[2:], parameters, **asked), expected)


@pytest.mark.parametrize("method", TABLE)
def test_the_type_is_the_instruct_models_unless_stated(written, merged, method):
    for dtype, other in (("BF16", "F32"), ("F16", "BF16"), ("F64", "F16")):
        apart = TABLE[method].instruct_apart
        folders = [written(role, dtype if role == ("instruct" if apart else "one") else other) for role in ROLES]
        found = merged(method, folders[0], folders[1], folders[2:], stated(TABLE[method], busy=False))
        assert {tensor.dtype for tensor in found.values()} == {"F32" if dtype == "F64" else dtype}


def test_sums_are_those_of_float64(written, merged):
    base, instruct, one, two = (values(read_folder(written(role))) for role in ROLES)
    folders = [written(role) for role in ROLES]
    a, b, c = 0.625, 1.7, -0.4

    def check(method, formula, parameters):
        found = merged(method, folders[0], folders[1], folders[2:], parameters)
        close(found, {name: formula(name) for name in found})

    mean = {"weights": [a, b]}
    check("linear", lambda n: (a * one[n] + b * two[n]) / (a + b), mean)
    check("linear", lambda n: a * one[n] + c * two[n], {"weights": [a, c], "normalize": False})
    check("task_arithmetic", lambda n: base[n] + a * (one[n] - base[n]) + c * (two[n] - base[n]), {"weights": [a, c]})
    scaled = {"weights": [a, b], "lambda": 1.5, "normalize": True}
    check(
        "task_arithmetic",
        lambda n: base[n] + 1.5 * (a * (one[n] - base[n]) + b * (two[n] - base[n])) / (a + b),
        scaled,
    )
    check(
        "language_graft",
        lambda n: base[n] + c**2 * (instruct[n] - base[n]) + a * (one[n] - base[n]) + b * (two[n] - base[n]),
        {"weights": [a, b], "instruct_weight": c**2},
    )
    check("passthrough", lambda n: -1.25 * one[n], {"scale": -1.25})
    check("nearswap", lambda n: base[n] + np.clip(one[n] - base[n], -0.02, 0.02), {"t": 0.02})


@pytest.mark.parametrize("dtype", TYPES)
def test_language_graft_with_a_of_1_is_task_arithmetic_with_the_instruct_model_first(written, place, dtype):
    base, instruct, one, two = (written(role, dtype) for role in ROLES)
    weights = [0.7, 1.3]
    graft = recipe_for(TABLE["language_graft"], base, instruct, [one, two], {"weights": weights})
    sums = recipe_for(TABLE["task_arithmetic"], base, instruct, [instruct, one, two], {"weights": [1.0, *weights]})
    digests = []
    for number, config in enumerate((graft, sums)):
        digests.append(merge_config(config, place / f"graft-{number}").files)
        shutil.rmtree(place / f"graft-{number}")
    assert digests[0] == digests[1]


def test_layer_swap_has_the_language_outside_the_instruct_model_inside_and_the_mean_between(written, merged):
    base, instruct, one, two = (written(role) for role in ROLES)
    found = merged("layer_swap", base, instruct, [one, two], {"bottom": 2, "top": 1, "blend": 1})
    language, talker = read_folder(one), read_folder(instruct)
    for name in found:
        layer = int(name.split(".")[2]) if name.startswith("model.layers.") else None
        if layer in (None, 0, 1, 5):
            assert found[name].stored.tobytes() == language[name].stored.tobytes(), name
        elif layer == 3:
            assert found[name].stored.tobytes() == talker[name].stored.tobytes(), name
        else:
            mean = (language[name].values.astype(np.float64) + talker[name].values) / 2
            np.testing.assert_allclose(found[name].values, mean, atol=1e-8)


@pytest.mark.parametrize("method", THINNED)
def test_a_density_of_1_keeps_the_whole_delta(written, merged, method):
    base, instruct, one, two = (written(role) for role in ROLES)
    parameters = {"weight": 0.75, "density": 1.0, "normalize": False, "rescale": True}
    found = merged(
        method, base, instruct, [one, two][: model_count(TABLE[method])], {**parameters, "weights": [0.75, 0]}
    )
    theta, tuned = values(read_folder(base)), values(read_folder(one))
    close(found, {name: theta[name] + 0.75 * (tuned[name] - theta[name]) for name in found}, ulps=2)
