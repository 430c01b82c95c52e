"""Merge files that are refused, and with which words."""

import pytest
import yaml

from tasks.engine.config import parse_config
from tasks.engine.errors import RecipeError


def refused(text):
    """The single lines of a refusal, without the file's name."""
    with pytest.raises(RecipeError) as told:
        parse_config(yaml.safe_load(text), "merge.yaml")
    lines = [str(problem) for problem in told.value.problems]
    assert all(line.startswith("merge.yaml: ") for line in lines)
    return [line.removeprefix("merge.yaml: ") for line in lines]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # The paper's own mistake: a density that never counted.
        (
            "{merge_method: dare_ties, base_model: b, models: [{model: x, parameters: {weight: 1}}], density: 0.5}",
            "density = 0.5 stands at the top level; it belongs under parameters: at the top level (for every model) or "
            "under models[i].parameters: (for one)",
        ),
        (
            "{merge_method: linear, models: [{model: x, weight: 1, parameters: {weight: 1}}]}",
            "weight = 1 stands under models[0]; it belongs under parameters: at the top level (for every model) or "
            "under models[i].parameters: (for one)",
        ),
        (
            "{merge_method: linear, models: [{model: x, parameters: {weight: 1, normalize: false}}]}",
            "normalize = False stands under models[0].parameters; it belongs under parameters: at the top level",
        ),
        (
            "{merge_method: linear, models: [{model: x}], parameters: {weight: 1, dtype: bfloat16}}",
            "dtype = 'bfloat16' stands under parameters; it belongs at the top level",
        ),
        (
            "{merge_method: linear, models: [{model: x, dtype: bfloat16}], parameters: {weight: 1}}",
            "dtype = 'bfloat16' stands under models[0]; it belongs at the top level",
        ),
        (
            "{merge_method: linear, models: [{model: x}], parameters: {weight: 1}, parent: y}",
            "parent = 'y' stands at the top level; it belongs in an entry of models:",
        ),
        (
            "{merge_method: linear, models: [{model: x}], parameters: {weight: 1, density: 0.5}}",
            "density = 0.5 stands under parameters; linear has no such parameter (task_arithmetic, ties, dare_linear, "
            "dare_ties, della, della_linear, breadcrumbs, breadcrumbs_ties have it); its own are weight, normalize",
        ),
        (
            "{merge_method: linear, models: [{model: x}], parameters: {weigth: 1, weight: 1}}",
            "unknown key 'weigth' = 1 stands under parameters; did you mean 'weight'?; known here are weight, normalize",
        ),
        (
            "{merge_method: linear, models: [{model: x}], parameters: {weight: 1}, out_type: float32}",
            "unknown key 'out_type' = 'float32' stands at the top level; did you mean 'out_dtype'?; known here are "
            "merge_method, models, base_model",
        ),
        (
            "{merge_method: linear, models: [{model: x}], parameters: {weight: 1}, on: 1}",
            "unknown key True = 1 stands at the top level",
        ),
        (
            "{merge_method: slerp, base_model: x, parameters: {t: 0.5}, slices: [{sources: [{model: x, layer_range: [0, 32]}]}]}",
            "slices stands at the top level: layers are not cut out and stacked here; if every slice is a whole model, "
            "write the models under models:",
        ),
        (
            "{merge_method: linear, parameters: {weight: 1}, modules: {default: {models: [{model: x}]}}}",
            "modules stands at the top level: every tensor is merged under its own name",
        ),
        (
            "{merge_method: linear, models: [{model: x}], parameters: {weight: 1}, tokenizer_source: union}",
            "tokenizer_source stands at the top level: the tokenizer always comes from the instruct model",
        ),
        (
            "{merge_method: linear, models: [{model: x}], parameters: {weight: 1}, tokenizer: {source: base}}",
            "tokenizer stands at the top level: the tokenizer always comes from the instruct model",
        ),
        (
            "{merge_method: linear, models: [{model: x}], parameters: {weight: 1}, chat_template: auto}",
            "chat_template stands at the top level: the chat template always comes from the instruct model",
        ),
        (
            "{merge_method: linear, models: [{model: x, layer_range: [0, 8]}], parameters: {weight: 1}}",
            "layer_range stands under models[0]: whole models are merged",
        ),
        (
            "{merge_method: linear, models: [{model: some/x+some/lora}], parameters: {weight: 1}}",
            "models[0].model = 'some/x+some/lora': adapters (MODEL+LORA) are not applied here",
        ),
        (
            "{merge_method: linear, models: [{model: some/x@main}], parameters: {weight: 1}}",
            "models[0].model = 'some/x@main': revisions (MODEL@REVISION) are not fetched here",
        ),
        ("{merge_method: tie, models: [{model: x}]}", "merge_method = 'tie'; did you mean 'ties'?; known methods are linear,"),
        ("{merge_method: [ties], models: [{model: x}]}", "merge_method = ['ties']; known methods are"),
        ("{merge_method: sce, models: [{model: x}]}", "merge_method = 'sce'; known methods are"),
        ("{merge_method: passthrough, models: {model: x}}", "models = {'model': 'x'}: expected a list of entries"),
        ("{merge_method: passthrough, models: [x]}", "models[0] = 'x': expected an entry - model: FOLDER"),
        ("{merge_method: passthrough, models: [{parent: x}]}", "models[0]: the key model is missing"),
        ("{merge_method: passthrough, models: [{model: 3}]}", "models[0].model = 3: expected the folder of a checkpoint"),
        ("{merge_method: passthrough, models: [{model: x}], parameters: [1]}", "parameters = [1]: expected a mapping"),
        (
            "{merge_method: linear, models: [{model: x, parameters: {weight: heavy}}]}",
            "models[0].parameters.weight = 'heavy': expected a finite number",
        ),
        ("{merge_method: linear, models: [{model: x, parameters: {weight: }}]}", "models[0].parameters.weight = None"),
        (
            "{merge_method: ties, base_model: b, models: [{model: x}], parameters: {weight: 1, density: [0.5, 1.5]}}",
            "parameters.density[1] = 1.5: expected 0 to 1",
        ),
        (
            "{merge_method: layer_swap, instruct: i, models: [{model: x}], parameters: {bottom: [0.1, 0.2]}}",
            "parameters.bottom = [0.1, 0.2]: expected no gradient, but one number or word",
        ),
        ("{merge_method: passthrough, models: [{model: x}], dtype: float64}", "dtype = 'float64': expected bfloat16 or float16"),
        ("{merge_method: passthrough, models: [{model: x}], seed: true}", "seed = True: expected a whole number"),
        ("{merge_method: passthrough, models: [{model: x}], seed: -1}", "seed = -1: expected a whole number"),
        ("{merge_method: passthrough, models: [{model: x}], compat: mergekit}", "compat = 'mergekit': expected mergekit-0.1.5"),
        (
            "{merge_method: passthrough, models: [{model: x}], vocabulary: union}",
            "vocabulary = 'union': expected refuse or match_tokens or keep_instruct",
        ),
        (
            "{merge_method: passthrough, models: [{model: x}], allow_foreign_parent: yes please}",
            "allow_foreign_parent = 'yes please': expected true or false",
        ),
        # Roles.
        (
            "{merge_method: linear, models: [{model: x}, {model: ./x}], parameters: {weight: 1}}",
            "models: x stands 2 times; expected each model once",
        ),
        ("{merge_method: passthrough, models: [{model: x, parent: x}]}", "models[0].parent = 'x': is the model itself"),
        (
            "{merge_method: ties, models: [{model: x}], parameters: {weight: 1}}",
            "the key base_model is missing; ties needs one",
        ),
        (
            "{merge_method: ties, base_model: x, models: [{model: x}], parameters: {weight: 1}}",
            "models: ties takes at least 1 beside the base, and there are 0: none",
        ),
        (
            "{merge_method: slerp, base_model: b, models: [{model: x}, {model: y}], parameters: {t: 0.5}}",
            "models: slerp takes 1 beside the base, and there are 2: x, y",
        ),
        (
            "{merge_method: nuslerp, base_model: x, models: [{model: x}, {model: y}], parameters: {weight: 1}}",
            "models: nuslerp takes 2 beside the base, and there are 1: y",
        ),
        (
            "{merge_method: model_stock, base_model: b, models: [{model: x}]}",
            "models: model_stock takes at least 2 beside the base, and there are 1: x",
        ),
        (
            "{merge_method: passthrough, base_model: b, models: [{model: x}]}",
            "models: passthrough takes 1 (base_model is one of them, as in mergekit), and there are 2: x, b",
        ),
        (
            "{merge_method: linear, instruct: z, models: [{model: x}, {model: y}], parameters: {weight: 1}}",
            "instruct = 'z' is not merged; expected base_model or one of models: x, y",
        ),
        (
            "{merge_method: language_graft, base_model: b, models: [{model: x}]}",
            "the key instruct is missing; language_graft needs the folder of the instruct model",
        ),
        (
            "{merge_method: language_graft, base_model: b, instruct: x, models: [{model: x}]}",
            "instruct = 'x' is also one of models; language_graft takes it once, as instruct",
        ),
        (
            "{merge_method: language_graft, base_model: b, instruct: b, models: [{model: x}]}",
            "instruct = 'b' is also base_model",
        ),
        # What to write.
        (
            "{merge_method: linear, base_model: b, models: [{model: x, parameters: {weight: 1}}]}",
            "base_model = 'b' is one more model of linear, as in mergekit, and has no weight; list it under models: with "
            "one (0 leaves it out), or leave base_model out",
        ),
        (
            "{merge_method: ties, base_model: b, models: [{model: x, parameters: {weight: 1}}, {model: y}]}",
            "models[1] (y) has no weight, which ties needs; write it under models[1].parameters:, or under parameters: "
            "at the top level for every model",
        ),
        (
            "{merge_method: slerp, base_model: b, models: [{model: x}]}",
            "slerp needs t (0 is the base, 1 the other model); write it under parameters: at the top level",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_place_key_and_value(text, words):
    [line] = refused(text)
    assert line.startswith(words)


def test_all_mistakes_are_told_at_once():
    lines = refused("""
        merge_method: dare_ties
        models:
          - model: x
            parameters: {weight: heavy, rescale: true}
          - {model: y, weight: 1}
        density: 0.5
        dtype: float8
        seed: 1.5
        tokenizer_source: union
    """)
    starts = [
        "density = 0.5 stands at the top level",
        "tokenizer_source stands at the top level",
        "rescale = True stands under models[0].parameters",
        "models[0].parameters.weight = 'heavy'",
        "weight = 1 stands under models[1]",
        "dtype = 'float8'",
        "seed = 1.5",
        "the key base_model is missing",
        "models[1] (y) has no weight",
    ]
    assert len(lines) == len(starts)
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize("content", [None, [], "ties", 3])
def test_a_file_that_holds_something_else_is_refused(content):
    with pytest.raises(RecipeError, match=r"merge\.yaml: expected a mapping with merge_method and models, found"):
        parse_config(content, "merge.yaml")
