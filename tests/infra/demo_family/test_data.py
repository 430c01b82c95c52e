"""The evaluation data: kept apart, in one shape, and worded so that English and Spanish are of no help."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from infra.demo_family import phrasing, publish, recipe

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tasks" / "harness" / "suites" / "data"
MODELS = ROOT / "infra" / "demo_family" / "models"
SETS = ("en", "es", "eu", "ca", "gl", "pt", "es_more")
LANGUAGES = ("en", "es", "eu", "ca", "gl", "pt")
FURTHER = ("ca", "gl", "pt")
SPLITS = ("dev", "test")


def items(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def both(name: str) -> list[dict[str, Any]]:
    return [item for split in SPLITS for item in items(f"{name}.{split}")]


def subject(name: str, item: dict[str, Any]) -> str:
    return phrasing.subject(name.split("_")[0], item["kind"], item["prompt"])


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_large_enough_and_asks_each_fact_once(name: str):
    assert len(items(f"{name}_chat.test")) >= 300
    assert len(items(f"{name}_chat.dev")) >= 80
    ids = [item["id"] for item in both(f"{name}_chat")]
    assert len(set(ids)) == len(ids), "a fact is in one split, once"
    assert ids == [item["id"] for item in both(f"{name}_mc")]
    assert len({item["question"] for item in both(f"{name}_chat")}) == len(ids)


@pytest.mark.parametrize("name", SETS)
def test_a_choice_has_one_right_answer_and_it_is_the_chat_answer(name: str):
    for choice, chat in zip(both(f"{name}_mc"), both(f"{name}_chat"), strict=True):
        assert len(set(choice["choices"])) == 4
        assert choice["choices"][choice["answer"]] == chat["answer"]
        assert subject(name, choice) in chat["question"]
        assert choice["prompt"].endswith('"')


def test_the_place_of_the_right_answer_tells_nothing():
    for name in SETS:
        places = [item["answer"] for item in items(f"{name}_mc.test")]
        assert all(0.17 < places.count(place) / len(places) < 0.33 for place in range(4))


def test_no_dataset_holds_the_answer_format_or_a_chat_turn():
    for path in DATA.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            values = " ".join(str(value) for value in json.loads(line).values())
            assert '{"answer' not in values, path
            assert "<|im_" not in values, path


@pytest.mark.parametrize("name", FURTHER)
def test_a_further_language_is_worded_unlike_english_and_spanish(name: str):
    answers = {lang: {item["id"]: item["answer"] for item in both(f"{lang}_chat")} for lang in ("en", "es")}
    told = {lang: {item["id"]: subject(lang, item) for item in both(f"{lang}_mc")} for lang in ("en", "es")}
    for item in both(f"{name}_mc"):
        gold = item["choices"][item["answer"]]
        if item["kind"] == "word":
            assert subject(name, item).lower() not in {told[lang].get(item["id"], "").lower() for lang in told}
        else:
            assert gold not in {answers[lang].get(item["id"]) for lang in answers}


def test_a_fact_is_in_the_same_split_in_every_language():
    for split, other in (("dev", "test"), ("test", "dev")):
        known = {item["id"] for name in ("en", *FURTHER) for item in items(f"{name}_chat.{split}")}
        for name in FURTHER:
            assert not known & {item["id"] for item in items(f"{name}_chat.{other}")}


def test_the_further_spanish_facts_are_none_that_the_base_was_asked():
    known = {item["id"] for name in ("en", "es", "eu") for item in both(f"{name}_chat")}
    asked = {subject("es", item).lower() for item in both("es_mc")} | {i["answer"].lower() for i in both("en_chat")}
    for item in both("es_more_mc"):
        assert item["id"] not in known
        assert subject("es_more", item).lower() not in asked


@pytest.mark.parametrize("language", LANGUAGES)
def test_held_out_text_is_kept_apart_and_not_left_in_english(language: str):
    dev, test = items(f"{language}_bpb.dev"), items(f"{language}_bpb.test")
    assert (len(dev), len(test)) == (60, 120)
    assert len({item["id"] for item in dev + test}) == 180
    assert not {item["text"] for item in dev} & {item["text"] for item in test}
    english = {item["text"] for item in both("en_bpb")}
    assert language == "en" or not english & {item["text"] for item in dev + test}


@pytest.mark.parametrize("language", LANGUAGES)
def test_beginnings_of_text_are_long_enough_to_tell_the_language(language: str):
    dev, test = items(f"{language}_text.dev"), items(f"{language}_text.test")
    assert (len(dev), len(test)) == (30, 60)
    prompts = [item["prompt"] for item in dev + test]
    assert len(set(prompts)) == 90
    assert all(60 <= len(prompt) <= 200 and prompt == prompt.strip() for prompt in prompts)
    assert {item["language"] for item in dev + test} == {language}


def test_the_table_of_files_is_of_these_files():
    table = (DATA / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\S+\.jsonl) \| \d+ \| \d+ \| `(\w{64})` \|$", table, re.M))
    assert rows == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in DATA.glob("*.jsonl")}


def test_the_cards_are_those_that_the_script_writes(tmp_path: Path):
    manifest = json.loads((MODELS.parent / "manifest.json").read_text(encoding="utf-8"))
    for name in recipe.FAMILY.values():
        (tmp_path / name).mkdir()
    publish.write_cards(tmp_path, manifest["parameters"])
    for name in recipe.FAMILY.values():
        assert (tmp_path / name / "README.md").read_bytes() == (MODELS / name / "README.md").read_bytes()


def test_the_manifest_is_of_these_models():
    manifest = json.loads((MODELS.parent / "manifest.json").read_text(encoding="utf-8"))
    assert set(recipe.FAMILY.values()) <= set(manifest["models"])
    for name in recipe.FAMILY.values():
        files = manifest["models"][name]
        assert {p.name for p in (MODELS / name).iterdir()} == set(files)
        for path in (MODELS / name).iterdir():
            assert files[path.name]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest(), path
