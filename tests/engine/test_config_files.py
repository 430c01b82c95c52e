"""Merge files on disk: their folders, keys that stand twice, and what is no YAML."""

import pytest

from tasks.engine.config import names, read_config, resolved
from tasks.engine.errors import RecipeError

GATE = "model.layers.3.mlp.gate_proj.weight"


@pytest.fixture
def folders(tmp_path):
    for name in ("base", "chat", "eu", "with@sign"):
        (tmp_path / "models" / name).mkdir(parents=True)
    return tmp_path


def write(folder, text):
    path = folder / "recipes" / "merge.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_folders_start_at_the_files_own_folder(folders, monkeypatch):
    path = write(
        folders,
        f"""
        merge_method: task_arithmetic
        base_model: ../models/base
        models: [{{model: ../models/eu/}}, {{model: {folders}/models/base}}, {{model: ../models/with@sign}}]
        parameters: {{weight: 1}}
        """,
    )
    config = read_config(path)
    assert names(config) == [str(folders / "models" / name) for name in ("base", "eu", "with@sign")]
    assert len(config.inputs) == 2
    monkeypatch.chdir(path.parent)
    assert read_config(path.relative_to(path.parent)) == config


def test_folders_that_are_not_there_are_told_all_at_once_with_what_to_do(folders):
    path = write(
        folders,
        """
        merge_method: task_arithmetic
        base_model: meta-llama/Llama-3.1-8B
        models: [{model: ../models/eus}, {model: ../models/eu, parent: some/thing@main}, {model: org/x+org/y}]
        parameters: {weight: 1}
        """,
    )
    with pytest.raises(RecipeError) as told:
        read_config(path)
    lines = sorted(str(problem).removeprefix(f"{path}: ") for problem in told.value.problems)
    assert [line.split(":")[0] for line in lines] == [
        "base_model = 'meta-llama/Llama-3.1-8B'",
        "models[0].model = '../models/eus'",
        "models[1].parent = 'some/thing@main'",
        "models[2].model = 'org/x+org/y'",
    ]
    assert "hf download meta-llama/Llama-3.1-8B --local-dir FOLDER" in lines[0]
    assert f"{folders}/models/eus is no folder" in lines[1]
    assert "fetch it, write the folder" in lines[2]
    assert "merge it into its model first" in lines[3]


def test_keys_that_stand_twice_are_told_with_their_lines(folders):
    path = write(
        folders,
        "merge_method: linear\nmodels:\n  - model: a\n    parameters: {weight: 1, weight: 2}\nmodels:\n  - model: b\n",
    )
    with pytest.raises(RecipeError) as told:
        read_config(path)
    assert [str(problem) for problem in told.value.problems] == [
        f"{path}: line 4: the key 'weight' stands twice, first in line 4; keep one",
        f"{path}: line 5: the key 'models' stands twice, first in line 2; keep one",
    ]


def test_anchors_and_merge_keys_are_no_keys_that_stand_twice(folders):
    path = write(
        folders,
        """
        merge_method: ties
        base_model: ../models/base
        models:
          - model: ../models/eu
            parameters: &same {weight: 1, density: 0.5}
          - model: ../models/chat
            parameters: {<<: *same, density: 0.25}
        """,
    )
    assert [values["density"] for values in resolved(read_config(path), GATE, 0).per_model] == [0.5, 0.25]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a mapping with merge_method and models, found None"),
        ("a: [1", "is no YAML: while parsing"),
        ("a: !!python/object:os.system {}", "is no YAML: could not determine a constructor"),
        ("a: 1\n---\nb: 2", "is no YAML: expected a single document"),
        ("[" * 5000, "is no YAML"),
        ("a: &a [*a]\nmerge_method: linear", "unknown key 'a'"),
        ("a: 2026-02-45", "is no YAML: day is out of range"),
    ],
)
def test_files_that_are_no_yaml_are_refused(folders, text, words):
    path = write(folders, text)
    with pytest.raises(RecipeError) as told:
        read_config(path)
    assert str(path) in str(told.value)
    assert words in str(told.value)


def test_files_that_cannot_be_read_are_refused(folders):
    path = write(folders, "merge_method: linear")
    path.write_bytes(b"merge_method: \xff")
    for unreadable in (path, folders / "no.yaml", folders):
        with pytest.raises(RecipeError, match=f"{unreadable}: cannot be read.*expected a YAML file in UTF-8"):
            read_config(unreadable)
