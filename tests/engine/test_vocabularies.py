"""Tokenizers that differ: refused, matched by token, or left to the instruct model. A row means its token, not its place."""

import json

import numpy as np
import pytest
import torch

from tasks.engine.errors import CheckpointError, RecipeError
from tasks.engine.merge import TunedPaths, by_roles, merge, merge_configs
from tasks.engine.recipe import Recipe
from tasks.engine.token_rows import match_rows
from tasks.engine.vocabulary import read_vocabulary

SIZE, SPECIAL = 40, 36
EXTRA = 3
"""Tokens that the tuned base has and the others lack."""
NAMES = ("model.embed_tokens.weight", "lm_head.weight")


def tuned_vocabulary():
    """The same words in another order, one of them missing, others added."""
    order = np.random.default_rng(3).permutation(SPECIAL)
    words = {f"w{word}": int(place) for place, word in enumerate(order) if word != 7}
    free = sorted(set(range(SPECIAL)) - set(words.values()))
    added = {"new0": free[0], **{f"new{n}": SIZE + n - 1 for n in range(1, EXTRA + 1)}}
    return words | added


@pytest.fixture
def other_words(make_family, checkpoint_writer, make_model):
    """A family whose tuned base has another tokenizer; its rows follow that tokenizer. Returns it and the plain rows."""
    family = make_family(tied=False)
    vocabulary = tuned_vocabulary()
    plain = make_model(2, tied=False)
    shuffled = dict(plain)
    for name in NAMES:
        rows = torch.full((SIZE + EXTRA, plain[name].shape[1]), 9.0, dtype=plain[name].dtype)
        rows[SPECIAL:SIZE] = plain[name][SPECIAL:]
        for word, place in vocabulary.items():
            if word.startswith("w"):
                rows[place] = plain[name][int(word[1:])]
        shuffled[name] = rows
    folder = family.root / "other-words"
    checkpoint_writer(folder, shuffled, vocab=vocabulary, config={"vocab_size": SIZE + EXTRA})
    family.tuned = {"eu": TunedPaths(folder)}
    return family, plain


def test_another_tokenizer_is_refused_by_default(other_words):
    family, _ = other_words
    with pytest.raises(CheckpointError, match="VocabularyMismatch: the tokenizer of tuned base eu"):
        merge(Recipe(method="task_arithmetic"), **family.inputs, out=family.out)
    assert family.leftovers() == []


@pytest.mark.parametrize("method", ["task_arithmetic", "linear", "ties", "slerp"])
def test_rows_are_matched_by_their_token(other_words, checkpoint_writer, load, method):
    family, plain = other_words
    parameters = {"ties": {"density": 0.5}, "slerp": {"t": 0.4}}.get(method, {})
    recipe = Recipe(method=method, vocabulary="match_tokens", parameters=parameters)
    merge(recipe, **family.inputs, out=family.out, allow_foreign_parent=True)
    same = {"eu": TunedPaths(checkpoint_writer(family.root / "same-words", plain))}
    straight = Recipe(method=method, parameters=parameters)
    merge(straight, **{**family.inputs, "tuned": same}, out=family.root / "out-2", allow_foreign_parent=True)
    found, expected = load(family.out), load(family.root / "out-2")
    instruct = load(family.instruct)
    for name, tensor in found.items():
        assert tensor.shape == instruct[name].shape
        if name not in NAMES:
            assert torch.equal(tensor, expected[name])
            continue
        assert torch.equal(tensor[7], instruct[name][7])  # the token that the tuned base lacks
        assert not torch.equal(expected[name][7], instruct[name][7])
        rest = [row for row in range(SIZE) if row != 7]
        if method in ("task_arithmetic", "linear"):  # the others take statistics over a row that differs
            assert torch.equal(tensor[rest], expected[name][rest])
        assert not (tensor > 1).any()  # rows of tokens that only the tuned base has


def test_the_instruct_models_rows_are_kept_whole(other_words, load):
    family, _ = other_words
    recipe = Recipe(method="task_arithmetic", vocabulary="keep_instruct")
    merge(recipe, **family.inputs, out=family.out, allow_foreign_parent=True)
    found, instruct = load(family.out), load(family.instruct)
    for name, tensor in found.items():
        assert torch.equal(tensor, instruct[name]) is (name in NAMES)


def test_outputs_of_one_reading_have_one_policy(family):
    configs = {}
    for number, policy in enumerate(("match_tokens", "keep_instruct")):
        recipe = Recipe(method="task_arithmetic", vocabulary=policy)
        configs[family.root / f"out-{number}"], _ = by_roles(recipe, family.base, family.instruct, family.tuned)
    with pytest.raises(RecipeError, match=r"keep_instruct.*match_tokens"):
        merge_configs(configs)
    assert family.leftovers() == []


def test_a_token_that_one_model_lacks_is_the_instruct_models_in_all():
    ours = {0: "a", 1: "b", 2: "c"}
    first, second = match_rows(ours, 5, [{0: "c", 1: "b", 2: "a"}, {0: "a", 1: "c", 9: "b"}], [3, 2])
    assert first.tolist() == [2, -1, 0, -1, -1]
    assert second.tolist() == [0, -1, 1, -1, -1]


def test_the_same_tokenizer_of_several_models_is_read_once_and_a_changed_one_anew(tmp_path):
    def write(name, token):
        (tmp_path / name).mkdir(exist_ok=True)
        content = {"model": {"vocab": {"a": 0, token: 1}}, "added_tokens": []}
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(content))
        return read_vocabulary(tmp_path / name)

    assert write("base", "b") is write("child", "b")
    assert write("other", "c") == {0: "a", 1: "c"}
    assert write("base", "longer") == {0: "a", 1: "longer"}
    assert read_vocabulary(tmp_path / "child") == {0: "a", 1: "b"}
