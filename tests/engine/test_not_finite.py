"""NaN, Inf and what a type cannot hold: told with file, tensor, element and value, wherever it is met."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from tasks.engine.errors import CheckpointError
from tasks.engine.merge import merge_configs
from tests.engine.folders import BLOCK_ELEMENTS, tensors, write_folder
from tests.engine.refusals import LAST, SHAPES, SINGLE, Place

METHODS = [
    "task_arithmetic",
    "linear",
    "ties",
    "dare_linear",
    "della",
    "slerp",
    "model_stock",
    "nearswap",
    "layer_swap",
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "BF16"), (np.inf, "F32"), (-np.inf, "F16"), (np.nan, "F64")])
def test_what_is_not_finite_is_told_with_file_tensor_and_element(root, method, value, dtype):
    place = Place(root, dtype)
    wrong = tensors(1, SHAPES)
    element = 2 * BLOCK_ELEMENTS + 4321
    wrong[LAST].reshape(-1)[element] = value
    shutil.rmtree(place.one)
    write_folder(place.one, wrong, dtype)
    config = place.recipe(method, parameters={"bottom": 0, "top": 0} if method == "layer_swap" else {})
    place.refused(CheckpointError, place.one / SINGLE, f"{LAST} has {value} at element {element}", config=config)


def test_what_is_not_finite_is_seen_in_rows_and_tensors_that_are_copied(place):
    wrong = tensors(1, SHAPES)
    wrong["model.embed_tokens.weight"][20, 3] = np.nan
    shutil.rmtree(place.one)
    write_folder(place.one, wrong, "BF16")
    for folder in (place.base, place.one, place.two):  # rows 20 to 23 have no token
        vocab = {f"w{number}": number for number in range(20)}
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": []}))
    (place.one / "chat_template.jinja").write_text("{{ messages }}")
    # The embeddings are the language model's; only the copied rows come from the instruct model.
    config = place.recipe("layer_swap", special_rows="instruct")
    place.refused(
        CheckpointError, place.one / SINGLE, "model.embed_tokens.weight has nan at element 163", config=config
    )


def test_what_is_not_finite_is_told_with_its_element_by_the_check_of_parents_too(place):
    wrong = tensors(1, SHAPES)
    wrong[LAST][:] = np.inf
    shutil.rmtree(place.one)
    write_folder(place.one, wrong, "BF16")
    config = place.recipe(allow_foreign_parent=False)
    place.refused(CheckpointError, place.one / SINGLE, f"{LAST} has inf at element", config=config)


def test_a_number_beyond_float32_is_told_as_such(root):
    place = Place(root, "F64")
    wrong = {name: tensor.astype(np.float64) for name, tensor in tensors(1, SHAPES).items()}
    wrong[LAST].reshape(-1)[5] = -1e300
    shutil.rmtree(place.one)
    write_folder(place.one, wrong, "F64")
    place.refused(CheckpointError, f"{LAST} has -inf at element 5", "beyond float32")


@pytest.mark.parametrize(
    ("dtype", "value", "weight", "result"), [("F16", 60000.0, 2.0, 120000.0), ("BF16", 3e38, 3.0, np.inf)]
)
def test_a_result_that_its_type_cannot_hold_is_told_with_element_and_value(root, dtype, value, weight, result):
    place = Place(root, "F32")
    large = {name: np.zeros_like(tensor) for name, tensor in tensors(0, SHAPES).items()}
    shutil.rmtree(place.base)
    write_folder(place.base, large, "F32")
    large[LAST].reshape(-1)[BLOCK_ELEMENTS + 7] = value
    shutil.rmtree(place.one)
    write_folder(place.one, large, "F32")
    out_dtype = {"F16": "float16", "BF16": "bfloat16"}[dtype]
    config = place.recipe(out_dtype=out_dtype, parameters={"weights": [weight, 0.0]})
    words = f"{LAST}: the merged value at element {BLOCK_ELEMENTS + 7} is {result}, expected a finite {dtype}"
    place.refused(CheckpointError, words, config=config)


@pytest.mark.parametrize("backwards", [False, True])
def test_what_one_of_several_outputs_does_not_read_is_looked_at_for_the_others(place, backwards):
    wrong = tensors(2, SHAPES)
    wrong[LAST].reshape(-1)[7] = np.nan
    shutil.rmtree(place.two)
    write_folder(place.two, wrong, "BF16")
    # slerp reads base and one, all of them and first; the elements of two are read for ties alone, which would drop them.
    configs = [
        (place.root / method, replace(place.recipe(method), instruct=str(place.two))) for method in ("slerp", "ties")
    ]
    with pytest.raises(CheckpointError, match=f"{LAST} has nan at element 7"):
        merge_configs(dict(configs[::-1] if backwards else configs))
    assert not (place.root / "ties").exists()
    assert not (place.root / "slerp").exists()
