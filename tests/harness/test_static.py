"""A merge's folder beside its instruct parent's, and templates that are up to no good."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.domain.errors import InputError, ModelRefused
from tasks.harness.rendering import render
from tasks.harness.static import differs, weighs

USER = [{"role": "user", "content": "Kaixo"}]


@pytest.fixture
def merge(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "merge"))


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    found = json.loads(path.read_text("utf-8"))
    edit(found)
    path.write_text(json.dumps(found), "utf-8")


def test_a_copy_of_the_parents_files_differs_in_nothing(merge: Path, model_folder: Path) -> None:
    assert differs(merge, model_folder) == []


def test_a_tokenizer_that_is_off_by_one_is_told_by_id(merge: Path, model_folder: Path) -> None:
    def shift(tokenizer: dict[str, Any]) -> None:
        vocabulary = tokenizer["model"]["vocab"]
        ordinary = sorted(number for number in vocabulary.values() if number > 2)
        tokenizer["model"]["vocab"] = {
            token: (number if number <= 2 else ordinary[(ordinary.index(number) + 1) % len(ordinary)])
            for token, number in vocabulary.items()
        }

    change(merge / "tokenizer.json", shift)
    (problem,) = differs(merge, model_folder)
    assert problem.startswith("tokenizer.json: ")
    assert "tokens are not the instruct parent's: id 3 is " in problem


def test_other_merges_of_the_same_tokens_are_told(merge: Path, model_folder: Path) -> None:
    change(merge / "tokenizer.json", lambda tokenizer: tokenizer["model"]["merges"].pop())
    assert differs(merge, model_folder) == [
        "tokenizer.json: the same tokens, but another model: texts may be cut otherwise"
    ]


def test_the_bases_stop_token_is_told(merge: Path, model_folder: Path) -> None:
    change(merge / "config.json", lambda config: config.update(eos_token_id=0))
    assert differs(merge, model_folder) == ["config.json: eos_token_id is 0, the instruct parent's [2, 0]"]
    (merge / "generation_config.json").write_text('{"eos_token_id": [0, 2]}')
    change(merge / "config.json", lambda config: config.update(eos_token_id=[0, 2]))
    assert differs(merge, model_folder) == [
        "generation_config.json: eos_token_id is [0, 2], the instruct parent's None"
    ]


def test_a_template_is_compared_by_what_it_lays_out(merge: Path, model_folder: Path) -> None:
    template = json.loads((merge / "tokenizer_config.json").read_text())["chat_template"]
    (merge / "chat_template.jinja").write_text("{# the same #}" + template)
    assert differs(merge, model_folder) == []
    (merge / "chat_template.jinja").write_text(template.replace("assistant", "asistente"))
    assert [problem[:46] for problem in differs(merge, model_folder)] == [
        f"chat template: conversation {k} of 2 is laid out" for k in (1, 2)
    ]
    change(merge / "tokenizer_config.json", lambda told: told.pop("chat_template"))
    (merge / "chat_template.jinja").unlink()
    assert differs(merge, model_folder) == ["chat template: there is none"]


def test_a_folder_without_a_tokenizer_is_refused_by_name(merge: Path, model_folder: Path) -> None:
    (merge / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"merge/tokenizer\.json: missing"):
        differs(merge, model_folder)


def test_a_template_is_rendered_as_servers_do() -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}\n  {% if m.role == 'user' %}\n<{{ m['content'] | tojson }}>"
        "{% break %}{% endif %}\n{% endfor %}{{ strftime_now('%Y') }}"
    )
    assert render(template, [{"role": "user", "content": "«é»"}], {"bos_token": "<s>"}) == '<s><"«é»">2026'


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "was not rendered within 2 s",
        ),
        ("{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", "bytes of text"),
        ("{{ 'x' * 2000000000 }}", "cannot be rendered: MemoryError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ range(999999999) | list }}", "OverflowError"),
    ],
)
def test_a_template_that_is_up_to_no_good_is_refused(template: str, said: str) -> None:
    with pytest.raises(ModelRefused, match=said):
        render(template, USER, whose="the merge")


def test_a_template_sees_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPELT_API_KEY", "key-of-this-test")
    with pytest.raises(ModelRefused, match="'os' is undefined"):
        render("{{ os.environ }}", USER)


PARENTS = {"instruct": {"a": 1.0, "b": 4.0}, "tuned": {"a": 2.0, "b": 4.0}}


@pytest.mark.parametrize(
    ("norms", "said"),
    [
        ({"a": 1.5, "b": 4.0}, []),
        ({"a": 0.5, "b": 8.0}, []),
        ({"a": 0.4, "b": 4.0}, ["a: norm 0.4, its parents' 1 to 2"]),
        ({"a": 1.5, "b": 8.1}, ["b: norm 8.1, its parents' 4 to 4"]),
        ({"a": math.nan, "b": 0.0}, ["a: its norm is nan: NaN or infinity", "b: norm 0, its parents' 4 to 4"]),
        ({"a": math.inf, "b": 4.0}, ["a: its norm is inf"]),
    ],
)
def test_norms_outside_of_the_parents_are_told(norms: dict[str, float], said: list[str]) -> None:
    found = weighs(norms, PARENTS)
    assert len(found) == len(said)
    assert all(problem.startswith(start) for problem, start in zip(found, said, strict=True))


def test_norms_of_other_tensors_are_refused() -> None:
    with pytest.raises(InputError, match=r"do not have the same tensors: \{'instruct': \['b'\], 'tuned': \['b'\]\}"):
        weighs({"a": 1.0}, PARENTS)
    with pytest.raises(InputError, match="none was given"):
        weighs({"a": 1.0}, {})
