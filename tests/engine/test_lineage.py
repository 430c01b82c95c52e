"""Whose child is it? Models whose parents are known, since they are made here; and the demo family's real ones."""

import json
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tasks.engine.checkpoint import Checkpoint
from tasks.engine.deltas import DeltaFigures, LanguageFigures, delta_figures, warnings
from tasks.engine.errors import CheckpointError, ForeignParent, UndecidedParent
from tasks.engine.header import TensorSpec
from tasks.engine.lineage import Comparison, prove_parent
from tasks.engine.parents import check_parents
from tasks.engine.sampling import ELEMENTS, as_floats, choose_slices, pick, place_of

DEMO = Path(__file__).parents[2] / "infra" / "demo_family" / "models"
HIDDEN, INNER, VOCAB, LAYERS = 64, 96, 200, 3
Weights = dict[str, np.ndarray]
Open = Callable[..., Checkpoint]


def random(seed: int, scale: float = 0.02) -> Weights:
    """Independent normal numbers under the names of a small Llama; norms about 1."""
    generator = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"model.layers.{layer}.self_attn.{name}.weight"] = (HIDDEN, HIDDEN)
        for name in ("gate_proj", "up_proj"):
            shapes[f"model.layers.{layer}.mlp.{name}.weight"] = (INNER, HIDDEN)
        shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = (HIDDEN, INNER)
        shapes[f"model.layers.{layer}.input_layernorm.weight"] = (HIDDEN,)
    return {name: generator.normal(float(len(shape) == 1), scale, shape) for name, shape in shapes.items()}


BASE = random(0)


def moved(parent: Weights, seed: int, length: float, *, like: Weights | None = None, cosine: float = 0.0) -> Weights:
    """A child of ``parent``: ``length`` of the base's scale away, in a direction of its own or partly in that of ``like``."""
    own = random(seed)
    found = {}
    for name, weight in parent.items():
        step = own[name] - own[name].mean()
        if like is not None:
            other = like[name] - BASE[name]
            step = (1 - cosine**2) ** 0.5 * step / step.std() + cosine * other / other.std()
        found[name] = weight + 0.02 * length * step / step.std()
    return found


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def open_(name: str, weights: Mapping[str, np.ndarray], dtype: torch.dtype = torch.bfloat16) -> Checkpoint:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
        save_file({k: torch.from_numpy(w).to(dtype) for k, w in weights.items()}, folder / "model.safetensors")
        return Checkpoint.open(folder)

    return open_


# --- one model and its candidates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("instruct_length", [0.05, 0.01], ids=["equal lengths", "instruct delta 10 times smaller"])
@pytest.mark.parametrize("parent", ["base", "instruct"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_parent_is_named(opened: Open, parent: str, instruct_length: float, dtype: torch.dtype):
    language_length = 0.05 if instruct_length == 0.05 else 0.1
    models = {"base": BASE, "instruct": moved(BASE, 1, instruct_length)}
    tuned = opened("tuned", moved(models[parent], 2, language_length), dtype)
    found = prove_parent(tuned, {name: opened(name, weights, dtype) for name, weights in models.items()})
    assert found.parent == parent
    assert found.sigmas is not None
    assert found.sigmas >= 3
    first, second = found.distances.values()
    assert list(found.distances) == [parent, next(name for name in models if name != parent)]
    assert found.margin == pytest.approx(1 - first / second)
    assert first == pytest.approx(language_length, rel=0.05)
    assert second == pytest.approx(np.hypot(language_length, instruct_length), rel=0.05)
    assert (found.incomparable, found.same) == ({}, ())


def test_the_distance_is_that_of_the_elements_that_were_read(opened: Open):
    one, other = opened("one", BASE, torch.float32), opened("other", moved(BASE, 1, 0.3), torch.float32)
    layers = [spec for name, spec in one.tensors.items() if ".layers." in name and len(spec.shape) > 1]
    slices = choose_slices(layers)
    flat = [
        np.concatenate([weights[piece.name].astype(np.float32).ravel()[piece.start : piece.stop] for piece in slices])
        for weights in (BASE, moved(BASE, 1, 0.3))
    ]
    assert np.array_equal(pick(one, slices).values, flat[0])
    expected = np.linalg.norm(flat[0].astype(float) - flat[1]) / np.linalg.norm(flat[0].astype(float))
    assert prove_parent(one, {"other": other}).distances["other"] == pytest.approx(expected)


def test_a_candidate_that_equals_the_model_is_told_to_be_the_same(opened: Open):
    copy = opened("copy", BASE)
    found = prove_parent(opened("model", BASE), {"far": opened("far", moved(BASE, 1, 0.05)), "copy": copy})
    assert found.same == ("copy",)
    assert found.parent == "copy"
    assert "same model as copy" in found.reason
    assert found.distances["copy"] == 0.0
    assert found.margin == 1.0


def test_of_two_candidates_with_the_same_weights_none_is_named(opened: Open):
    twins = {"one": opened("one", BASE), "other": opened("other", BASE)}
    found = prove_parent(opened("tuned", moved(BASE, 1, 0.05)), twins)
    assert found.parent is None
    assert (found.margin, found.sigmas) == (0.0, 0.0)
    assert "one and other are equal" in found.reason


def test_a_model_half_way_between_two_candidates_is_undecided(opened: Open):
    instruct = moved(BASE, 1, 0.05)
    half = {name: (BASE[name] + instruct[name]) / 2 for name in BASE}
    candidates = {"base": opened("base", BASE), "instruct": opened("instruct", instruct)}
    found = prove_parent(opened("half", moved(half, 2, 0.05)), candidates)
    assert found.parent is None
    assert found.sigmas is not None
    assert found.sigmas < 3
    assert re.search(r"cannot be told apart: its place between them is 0\.[45]\d \+- 0\.0\d", found.reason)


def test_the_mean_of_two_models_is_undecided_though_it_is_nearer_to_one_by_rounding(opened: Open):
    instruct = moved(BASE, 1, 0.05)
    mean = {name: (BASE[name].astype(np.float32) + instruct[name].astype(np.float32)) / 2 for name in BASE}
    candidates = {name: opened(name, w, torch.float32) for name, w in (("base", BASE), ("instruct", instruct))}
    found = prove_parent(opened("mean", mean, torch.float32), candidates)
    assert found.parent is None
    assert found.distances["base"] == pytest.approx(found.distances["instruct"], rel=1e-6)


def test_a_delta_40_times_as_long_as_what_tells_the_candidates_apart_is_undecided(opened: Open):
    instruct = moved(BASE, 1, 0.005)
    candidates = {
        "base": opened("base", BASE, torch.float32),
        "instruct": opened("instruct", instruct, torch.float32),
    }
    found = prove_parent(opened("tuned", moved(BASE, 2, 0.2), torch.float32), candidates)
    assert found.parent is None
    assert re.search(r"lies (39|40|41) times as far", found.reason)


@pytest.mark.parametrize(("ratio", "parent"), [(4.7, "base"), (10.0, None)])
def test_deltas_that_agree_a_little_by_nature_do_not_name_a_wrong_parent(
    opened: Open, ratio: float, parent: str | None
):
    # As measured between the demo family's deltas. At 10 times the length such a child of the base lies nearer to the
    # instruct model, with many standard errors.
    instruct = moved(BASE, 1, 0.02)
    tuned = opened("tuned", moved(BASE, 2, 0.02 * ratio, like=instruct, cosine=0.065), torch.float32)
    candidates = {
        "base": opened("base", BASE, torch.float32),
        "instruct": opened("instruct", instruct, torch.float32),
    }
    found = prove_parent(tuned, candidates)
    assert (next(iter(found.distances)) == "instruct") == (ratio == 10.0)
    assert found.parent == parent


def test_an_unrelated_model_is_no_parent(opened: Open):
    found = prove_parent(opened("model", BASE), {"stranger": opened("stranger", random(7))})
    assert found.parent is None
    assert found.distances["stranger"] == pytest.approx(2**0.5, rel=0.02)
    assert "no candidate is a relative" in found.reason


def test_what_cannot_be_compared_is_told_and_the_rest_is_compared(opened: Open):
    narrow = {name: weight[..., : HIDDEN // 2] for name, weight in BASE.items()}
    broken = {name: np.full_like(weight, np.nan) for name, weight in BASE.items()}
    candidates = {
        "narrow": opened("narrow", {name: np.ascontiguousarray(weight) for name, weight in narrow.items()}),
        "broken": opened("broken", broken),
        "base": opened("base", BASE),
    }
    model = opened("model", moved(BASE, 1, 0.05))
    found = prove_parent(model, candidates)
    assert found.parent == "base"
    assert found.incomparable.keys() == {"narrow", "broken"}
    assert "0 of 22 matrices" in found.incomparable["narrow"]
    assert re.search(r"broken/model\.safetensors: model\.layers\.\d.* not finite", found.incomparable["broken"])
    none = prove_parent(model, {"narrow": candidates["narrow"]})
    assert (none.parent, none.margin, none.sigmas, none.distances) == (None, None, None, {})
    assert "0 of 22 matrices" in none.reason


def test_a_model_that_is_broken_itself_is_an_error(opened: Open):
    broken = {name: np.full_like(weight, np.inf) for name, weight in BASE.items()}
    with pytest.raises(CheckpointError, match=r"model/model\.safetensors: model\.layers\..* not finite"):
        prove_parent(opened("model", broken), {"base": opened("base", BASE)})


def test_a_file_that_was_cut_after_it_was_opened_is_an_error(opened: Open):
    model, base = opened("model", moved(BASE, 1, 0.05)), opened("base", BASE)
    with (model.path / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(CheckpointError, match=r"ends \d+ bytes early"):
        prove_parent(model, {"base": base})


@pytest.mark.parametrize(
    ("model", "base", "others"),
    [
        ("eu_llama-tiny", "llama-tiny", ["llama-tiny-instruct-v1", "llama-tiny-instruct-v2", "ca_llama-tiny"]),
        ("ca_llama-tiny", "llama-tiny", ["llama-tiny-instruct-v1", "llama-tiny-instruct-v2"]),
        ("gl_llama-tiny", "llama-tiny", ["llama-tiny-instruct-v1", "llama-tiny-instruct-v2"]),
        ("es_llama-tiny", "llama-tiny", ["llama-tiny-instruct-v1", "llama-tiny-instruct-v2"]),
        ("llama-tiny-instruct-v2", "llama-tiny", ["llama-tiny-instruct-v1", "eu_llama-tiny"]),
        ("eu_qwen3-tiny", "qwen3-tiny", ["qwen3-tiny-instruct-v1", "qwen3-tiny-instruct-v2"]),
    ],
)
def test_the_demo_family_has_the_parents_that_it_was_trained_from(model: str, base: str, others: list[str]):
    candidates = {name: Checkpoint.open(DEMO / name) for name in (*others, base)}
    found = prove_parent(Checkpoint.open(DEMO / model), candidates)
    assert found.parent == base
    assert found.sigmas is not None
    assert found.sigmas > 5
    assert found.elements == ELEMENTS


# --- what a merge states --------------------------------------------------------------------------------------------------


class Family:
    """A base, an instruct model, and a tuned base of each origin."""

    def __init__(self, opened: Open, instruct_length: float = 0.05, language_length: float = 0.05) -> None:
        instruct = moved(BASE, 1, instruct_length)
        self.weights = {"instruct": instruct, "tuned": moved(BASE, 2, language_length)}
        self.base, self.instruct = opened("base", BASE), opened("instruct", instruct)
        self.of_base = opened("of-base", self.weights["tuned"])
        self.of_instruct = opened("of-instruct", moved(instruct, 3, language_length))


LENGTHS = [(0.05, 0.05), (0.01, 0.1)]


@pytest.mark.parametrize(("instruct_length", "language_length"), LENGTHS)
def test_what_is_stated_rightly_passes(opened: Open, instruct_length: float, language_length: float):
    family = Family(opened, instruct_length, language_length)
    tuned = {
        "eu": (family.of_base, None),
        "gl": (family.of_base, family.base),
        "ca": (family.of_instruct, family.instruct),
    }
    assert check_parents(family.base, family.instruct, tuned) == []


@pytest.mark.parametrize(("instruct_length", "language_length"), LENGTHS)
def test_a_child_of_the_instruct_model_stated_as_the_bases_is_refused(
    opened: Open, instruct_length: float, language_length: float
):
    family = Family(opened, instruct_length, language_length)
    (problem,) = check_parents(family.base, family.instruct, {"eu": (family.of_instruct, None)})
    assert isinstance(problem, ForeignParent)
    told = str(problem)
    assert "tuned base eu is stated to come from base" in told
    assert "count the instruct delta twice" in told
    assert f"State `parent: {family.instruct.path}`" in told
    assert "--allow-foreign-parent" in told
    distances = {label: float(found) for found, label in re.findall(r"(\d\.\d{4}) from (\w+) \(", told)}
    assert distances["base"] == pytest.approx(np.hypot(instruct_length, language_length), rel=0.05)
    assert distances["instruct"] == pytest.approx(language_length, rel=0.05)
    projection, stderr = map(float, re.search(r"delta (-?\d\.\d\d) \+- (\d\.\d\d)", told).groups())
    assert abs(projection - 1) <= max(3 * stderr, 0.02)


@pytest.mark.parametrize(("instruct_length", "language_length"), LENGTHS)
def test_a_child_of_the_base_stated_as_the_instruct_models_is_refused(
    opened: Open, instruct_length: float, language_length: float
):
    family = Family(opened, instruct_length, language_length)
    (problem,) = check_parents(family.base, family.instruct, {"eu": (family.of_base, family.instruct)})
    told = str(problem)
    assert isinstance(problem, ForeignParent)
    assert "tuned base eu is stated to come from instruct" in told
    assert "with a minus sign, and the merge would delete it" in told
    assert f"State `parent: {family.base.path}`" in told
    projection, stderr = map(float, re.search(r"delta (-?\d\.\d\d) \+- (\d\.\d\d)", told).groups())
    assert abs(projection) <= max(3 * stderr, 0.02)


def test_the_wrong_parent_counts_the_instruct_delta_twice_or_deletes_it(opened: Open):
    # What the check is for: theta_0 + tau_I + tau_L, measured along tau_I, is 1 where the parent is right.
    family = Family(opened)
    along = {
        (of, parent.path.name): 1
        + (delta_figures(family.base, family.instruct, {"eu": (model, parent)}).languages["eu"].projection or 0)
        for of, model in (("base", family.of_base), ("instruct", family.of_instruct))
        for parent in (family.base, family.instruct)
    }
    assert along["base", "base"] == pytest.approx(1, abs=0.05)
    assert along["instruct", "instruct"] == pytest.approx(1, abs=0.05)
    assert along["instruct", "base"] == pytest.approx(2, abs=0.05)
    assert along["base", "instruct"] == pytest.approx(0, abs=0.05)


def test_what_cannot_be_decided_is_told_as_such(opened: Open):
    family = Family(opened, 0.005, 0.2)
    problems = check_parents(
        family.base, family.instruct, {"eu": (family.of_base, None), "ca": (family.of_instruct, family.instruct)}
    )
    assert [type(problem) for problem in problems] == [UndecidedParent, UndecidedParent]
    for problem in problems:
        assert "undecided" in str(problem)
        assert "3 standard errors" in str(problem)


def test_base_and_instruct_model_that_have_changed_places_are_noticed_by_a_tuned_base(opened: Open):
    family = Family(opened)
    (problem,) = check_parents(family.instruct, family.base, {"eu": (family.of_base, None)})
    assert "If base and instruct model have changed places" in str(problem)


def test_an_instruct_model_given_as_a_tuned_base_is_refused(opened: Open):
    family = Family(opened)
    (problem,) = check_parents(family.base, family.instruct, {"eu": (family.instruct, None)})
    assert "count the instruct delta twice" in str(problem)
    assert "0.0000 from instruct" in str(problem)


@pytest.mark.parametrize("language_length", [0.03, 0.05, 0.1])
def test_an_instruct_model_trained_from_the_tuned_base_is_refused(opened: Open, language_length: float):
    tuned = moved(BASE, 2, language_length)
    base, of_tuned = opened("base", BASE), opened("instruct", moved(tuned, 4, 0.05))
    problems = check_parents(base, of_tuned, {"eu": (opened("tuned", tuned), None)})
    assert any("count the language delta twice" in str(problem) for problem in problems)
    assert all(isinstance(problem, ForeignParent) for problem in problems)


def test_a_child_of_the_instruct_model_is_told_once_and_the_instruct_model_is_not_blamed(opened: Open):
    family = Family(opened, 0.1, 0.02)
    (problem,) = check_parents(family.base, family.instruct, {"eu": (family.of_instruct, None)})
    assert "tuned base eu is stated" in str(problem)


def test_a_language_on_an_older_instruct_model_is_sound(opened: Open):
    # base -> v1 -> v2, and eu from v1: v2 lies nearer to v1, and to eu, than to the base. Nothing is counted twice.
    first = moved(BASE, 1, 0.08)
    v1, v2 = opened("v1", first), opened("v2", moved(first, 5, 0.03))
    assert check_parents(opened("base", BASE), v2, {"eu": (opened("eu", moved(first, 2, 0.03)), v1)}) == []


def test_a_parent_stated_for_another_language_is_a_candidate(opened: Open):
    family = Family(opened)
    further = opened("further", moved(family.weights["tuned"], 6, 0.05))
    tuned = {"es": (family.of_base, None), "gl": (further, family.of_base)}
    assert check_parents(family.base, family.instruct, tuned) == []
    third = opened("third", moved(family.weights["tuned"], 8, 0.05))
    (problem,) = check_parents(family.base, family.instruct, {**tuned, "pt": (third, None)})
    assert "tuned base pt is stated to come from base" in str(problem)
    assert f"State `parent: {family.of_base.path}`" in str(problem)


def test_a_copy_of_the_parent_is_as_good_as_the_parent(opened: Open):
    family = Family(opened)
    copy = opened("copy", BASE)
    assert check_parents(family.base, family.instruct, {"eu": (family.of_base, copy)}) == []
    assert check_parents(family.base, opened("no-delta", BASE), {"eu": (family.of_base, None)}) == []
    assert check_parents(family.base, family.instruct, {"eu": (copy, None)}) == []


def test_everything_unrelated_is_told_at_once(opened: Open):
    stranger = opened("stranger", random(7))
    family = Family(opened)
    problems = check_parents(
        family.base, stranger, {"eu": (family.of_base, None), "ca": (opened("x", random(8)), None)}
    )
    assert [type(problem) for problem in problems] == [ForeignParent, ForeignParent]
    assert "tuned base ca has nothing to do with its stated parent base" in str(problems[0])
    assert "instruct has nothing to do with its stated parent base" in str(problems[1])
    assert "1.4" in str(problems[0])


def test_a_parent_of_another_shape_is_refused(opened: Open):
    family = Family(opened)
    narrow = opened("narrow", {name: np.ascontiguousarray(weight[..., :8]) for name, weight in BASE.items()})
    (problem,) = check_parents(family.base, family.instruct, {"eu": (family.of_base, narrow)})
    assert "0 of 22 matrices have the same name and shape" in str(problem)


def test_the_demo_familys_merges_pass_and_its_wrong_statements_do_not():
    demo = {name: Checkpoint.open(DEMO / name) for name in ("llama-tiny", "llama-tiny-instruct-v2", "eu_llama-tiny")}
    base, instruct, tuned = demo.values()
    assert check_parents(base, instruct, {"eu": (tuned, None)}) == []
    (problem,) = check_parents(base, instruct, {"eu": (tuned, instruct)})
    assert "delete" in str(problem)


# --- the deltas' figures --------------------------------------------------------------------------------------------------


def test_figures_are_those_of_all_matrices(opened: Open):
    instruct, tuned = moved(BASE, 1, 0.03), moved(BASE, 2, 0.12)
    taus = [
        np.concatenate([(model[name] - BASE[name]).ravel() for name in BASE if BASE[name].ndim > 1])
        for model in (instruct, tuned)
    ]
    length = np.linalg.norm(np.concatenate([BASE[name].ravel() for name in BASE if BASE[name].ndim > 1]))
    models = [opened(f"m{k}", weights, torch.float32) for k, weights in enumerate((BASE, instruct, tuned))]
    found = delta_figures(models[0], models[1], {"eu": (models[2], None)})
    eu = found.languages["eu"]
    assert found.instruct == pytest.approx(np.linalg.norm(taus[0]) / length, rel=0.02)
    assert eu.length == pytest.approx(np.linalg.norm(taus[1]) / length, rel=0.02)
    assert eu.to_instruct == pytest.approx(4, rel=0.02)
    assert eu.cosine == pytest.approx(0, abs=0.02)
    assert eu.projection == pytest.approx(4 * (eu.cosine or 0), rel=0.02)
    assert found.together == eu.length
    assert warnings(found) == []


def test_kinds_of_which_less_is_sampled_count_for_what_they_are(opened: Open):
    # Half of the elements lie in an embedding that moved ten times as far; the sample has as many of each kind.
    base = {"embed.weight": np.full((512, 512), 1.0), "layers.0.up.weight": np.full((64, 64), 1.0)}
    tuned = {"embed.weight": base["embed.weight"] * 1.5, "layers.0.up.weight": base["layers.0.up.weight"] * 1.05}
    models = [opened(f"m{k}", weights, torch.float32) for k, weights in enumerate((base, tuned))]
    found = delta_figures(models[0], models[1], {}, elements=8192)
    exact = np.sqrt((512**2 * 0.5**2 + 64**2 * 0.05**2) / (512**2 + 64**2))
    assert found.instruct == pytest.approx(exact, rel=1e-3)


def test_a_language_counted_twice_is_seen_between_languages(opened: Open):
    family = Family(opened)
    near = opened("near", moved(family.weights["tuned"], 9, 0.01))
    found = delta_figures(family.base, family.instruct, {"es": (family.of_base, None), "gl": (near, None)})
    assert (found.cosines["es,gl"] or 0) > 0.9
    assert any("es and gl are near-duplicates" in told for told in warnings(found))


def test_without_any_delta_there_is_nothing_to_divide_by(opened: Open):
    base = opened("base", BASE)
    found = delta_figures(base, base, {"eu": (base, None)})
    assert found.languages["eu"] == LanguageFigures(length=0.0, to_instruct=None, cosine=None, projection=None)
    assert len(warnings(found)) == 2


QUIET = LanguageFigures(length=0.12, to_instruct=4.0, cosine=0.1, projection=0.4)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"length": 0.25}, "is 0.25 of the base's length"),
        ({"to_instruct": 12.0}, "is 12.0 times as long as the instruct delta"),
        ({"cosine": 0.6, "projection": 2.4}, "counts what they share twice"),
        ({"cosine": -0.6, "projection": -2.4}, "takes it away"),
        ({"cosine": 0.2, "projection": 0.8}, "holds 0.80 times the instruct delta"),
        ({"cosine": -0.2, "projection": -0.8}, "holds -0.80 times the instruct delta"),
    ],
)
def test_each_warning_has_its_figure(change: dict[str, float], told: str | None):
    one = LanguageFigures(**{**vars(QUIET), **change})
    found = warnings(DeltaFigures(instruct=0.03, languages={"eu": one}, together=one.length, cosines={}, elements=1))
    assert found == [] if told is None else len(found) == 1 and told in found[0]


def test_languages_that_are_too_long_together_are_warned_of():
    figures = DeltaFigures(0.03, {"eu": QUIET, "ca": QUIET}, together=0.28, cosines={"eu,ca": 0.1}, elements=1)
    (told,) = warnings(figures)
    assert "together are 0.28 of the base's length" in told


# --- the sample -----------------------------------------------------------------------------------------------------------


def test_a_sample_of_a_large_model_is_small_and_reaches_every_kind_from_first_to_last_layer():
    shapes = {"q_proj": (8192, 8192), "k_proj": (1024, 8192), "down_proj": (8192, 28672), "router": (8, 8192)}
    specs = [
        TensorSpec(f"model.layers.{layer}.{kind}.weight", "BF16", shape, Path("x"), 0, 0)
        for layer in range(80)
        for kind, shape in shapes.items()
    ]
    slices = choose_slices(specs)
    assert sum(piece.stop - piece.start for piece in slices) <= ELEMENTS
    assert len({piece.name for piece in slices}) == len(slices) == 128
    for kind in shapes:
        layers = sorted(place_of(piece.name).layer or 0 for piece in slices if kind in piece.name)
        assert len(layers) == 32
        assert layers[0] <= 3
        assert layers[-1] >= 76
        assert all(after - before <= 3 for before, after in pairwise(layers))
    assert len({place_of(piece.name).layer for piece in slices}) > 60, "the kinds are read in layers of their own"
    assert choose_slices(list(reversed(specs))) == slices


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 80), st.integers(1, 80)), min_size=1, max_size=40),
    layers=st.integers(1, 9),
    elements=st.integers(1, 20_000),
)
def test_slices_lie_inside_their_tensors_do_not_overlap_and_leave_no_kind_out(
    shapes: list[tuple[int, int]], layers: int, elements: int
):
    specs = [
        TensorSpec(f"a.{layer}.m{kind}", "F32", shape, Path("x"), 0, 0)
        for layer in range(layers)
        for kind, shape in enumerate(shapes)
    ]
    sizes = {spec.name: spec.elements for spec in specs}
    slices = sorted(choose_slices(specs, elements))
    assert {place_of(piece.name).kind for piece in slices} == {place_of(spec.name).kind for spec in specs}
    assert all(0 <= piece.start < piece.stop <= sizes[piece.name] for piece in slices)
    assert all(a.name != b.name or a.stop <= b.start for a, b in pairwise(slices))
    stands_for = sum(piece.weight * (piece.stop - piece.start) for piece in slices)
    assert stands_for == pytest.approx(sum(sizes.values()))


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("model.layers.12.mlp.up_proj.weight", 12, "model.layers.mlp.up_proj.weight"),
        ("model.layers.3.mlp.experts.17.up_proj.weight", 3, "model.layers.mlp.experts.*.up_proj.weight"),
        ("transformer.h.0.attn.c_attn.weight", 0, "transformer.h.attn.c_attn.weight"),
        ("0.weight", 0, "weight"),
        ("lm_head.weight", None, "lm_head.weight"),
        ("conv2d.w4.weight", None, "conv2d.w4.weight"),
    ],
)
def test_a_name_tells_layer_and_kind(name: str, layer: int | None, kind: str):
    assert place_of(name) == (layer, kind)


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("BF16", torch.bfloat16), ("F16", torch.float16), ("F32", torch.float32), ("F64", torch.float64)],
)
def test_stored_numbers_are_read_exactly(dtype: str, stored: torch.dtype):
    values = torch.cat([torch.randn(500, dtype=torch.float64), torch.tensor([0.0, -0.0, 1e-40, torch.inf, torch.nan])])
    given = values.to(stored)
    found = as_floats(given.view(torch.uint8).numpy().tobytes(), dtype)
    assert np.array_equal(found.astype(np.float64), given.double().numpy(), equal_nan=True)


def test_standard_errors_are_as_large_as_the_spread_between_samples(opened: Open):
    # Rows of a matrix move together, as training moves them: elements that were taken to be independent would promise
    # an error many times too small.
    generator = np.random.default_rng(3)

    def by_rows(parent: Weights, length: float) -> Weights:
        return {
            name: w + 0.02 * length * generator.normal(size=(w.shape[0], *[1] * (w.ndim - 1)))
            for name, w in parent.items()
        }

    found = []
    for number in range(30):
        instruct = by_rows(BASE, 0.05)
        models = {"base": BASE, "instruct": instruct, "tuned": by_rows(BASE, 0.2)}
        made = {name: opened(f"{name}-{number}", w, torch.float32) for name, w in models.items()}
        place = Comparison(made.pop("tuned"), made).between("base", "instruct")
        assert place is not None
        found.append(place)
    spread = float(np.std([place.projection for place in found]))
    assert np.mean([place.stderr for place in found]) == pytest.approx(spread, rel=0.5)
