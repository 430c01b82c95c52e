"""Benchmarks of others: each YAML reads rows of its data set's shape, from parquet, with the library that is installed.

No row here is from a real data set: they were written for these tests, with the fields that the real ones are known to have.
"""

import json
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.domain.errors import InputError
from tasks.harness.marks import named, solved
from tasks.harness.prepare import main, prepare
from tasks.harness.run import evaluate
from tasks.harness.suite import SUITES, chosen, cost_of, definition, shots_of, suite_digest, upstream_benchmarks
from tasks.harness.upstream import item_of

Stub = Callable[..., AbstractContextManager[tuple[str, "subprocess.Popen[bytes]"]]]
Row = dict[str, Any]
ROWS = 14


def belebele(k: int) -> Row:
    answers = {f"mc_answer{i}": f"erantzuna {i} {k}" for i in range(1, 5)}
    asked = {
        "link": f"https://x/{k // 2}",
        "flores_passage": f"Pasarte bat, eta nahiko luzea gainera: {k // 2}.",
        "question": f"Zer da {k}?",
    }
    return {**asked, **answers, "question_number": k % 2 + 1, "correct_answer_num": str(k % 4 + 1), "dialect": "x"}


def candidates(count: int) -> Callable[[int], Row]:
    def row(k: int) -> Row:
        texts = [f"aukera {i}" for i in range(count)]
        return {
            "id": k,
            "question": f"Galdera {k}?",
            "candidates": texts,
            "answer": k % count,
            "context": f"T {k // 3}",
        }

    return row


def exams(k: int) -> Row:
    row = candidates(4)(k)
    return {**row, "answer": None if k == 0 else row["answer"], "candidates": [""] * 4 if k == 1 else row["candidates"]}


def lettered_choices(stem: str, end: str = "") -> Callable[[int], Row]:
    labels = ["A", "B", "C", "D"]
    return lambda k: {
        "id": f"q{k}",
        stem: f"Pregunta {k}",
        "choices": {"text": [f"opció {i}" for i in range(4)], "label": labels},
        "answerKey": labels[k % 4] + end,
    }


def story(k: int) -> Row:
    told = {f"input_sentence_{i}": f"Esaldia {i}." for i in range(1, 5)}
    ends = {"sentence_quiz1": f"Amaiera {k}.", "sentence_quiz2": f"Beste {k}."}
    return {"story_id": str(k), **told, **ends, "answer_right_ending": k % 2 + 1}


def galician_story(k: int) -> Row:
    told = {f"InputSentence{i}": f"Frase {i}." for i in range(1, 5)}
    ends = {"RandomFifthSentenceQuiz1": f"Final {k}.", "RandomFifthSentenceQuiz2": f"Outro {k}."}
    return {"InputStoryid": str(k), **told, **ends, "AnswerRightEnding": k % 2 + 1}


def copa(k: int) -> Row:
    asked = {"premise": f"Premisa {k}.", "question": ("cause", "effect")[k % 2]}
    return {**asked, "choice1": f"bat {k}", "choice2": f"bi {k}", "label": k % 2, "idx": k}


def piqa(k: int) -> Row:
    return {"goal": f"Helburua {k}", "sol1": f"a {k}", "sol2": f"a {k}" if k == 2 else f"b {k}", "label": k % 2}


def pair(first: str, second: str, label: str, values: tuple[Any, ...]) -> Callable[[int], Row]:
    return lambda k: {first: f"Unha {k}.", second: f"Dúas {k}.", label: values[k % len(values)]}


def truthful(k: int) -> Row:
    several = {"choices": ["right", f"wrong {k}", "false"], "labels": [1, 0, 0]}
    return {"question": f"Q {k}?", "mc1_targets": several, "mc2_targets": several}


THREE = (0, 1, 2)
SHAPES: dict[str, Callable[[int], Row]] = {
    "belebele": belebele,
    "eu_reading": candidates(3),
    "eu_trivia": candidates(4),
    "eu_proficiency": candidates(4),
    "eu_exams": exams,
    "bertaqa": candidates(3),
    "arc_easy": lettered_choices("question"),
    "arc_challenge": lettered_choices("question"),
    "openbookqa": lettered_choices("question_stem", " "),
    "xstorycloze": story,
    "gl_xstorycloze": galician_story,
    "xcopa": copa,
    "copa": copa,
    "piqa": piqa,
    "ca_siqa": lambda k: {
        "context": "C",
        "question": f"Q {k}",
        **{f"answer{a}": f"{a} {k}" for a in "ABC"},
        "label": "2",
    },
    "xnli": pair("premise", "hypothesis", "label", THREE),
    "xnli_native": pair("premise", "hypothesis", "label", THREE),
    "gl_xnli": pair("sentence1", "sentence2", "gold_label", ("entailment", "neutral", "contradiction")),
    "ca_teca": pair("premise", "hypothesis", "label", THREE),
    "paws": pair("sentence1", "sentence2", "label", (0, 1)),
    "ca_parafraseja": pair("sentence1", "sentence2", "label", (0, 1)),
    "gl_parafrases": pair("Frase", "Paráfrase", "Avaliación", (0, 1, 2)),
    "ca_catcola": lambda k: {"Sentence": f"Frase {k}", "Label": k % 2},
    "es_escola": lambda k: {"Sentence": f"Frase {k}", "Label": k % 2},
    "gl_galcola": lambda k: {"sentence": f"Frase {k}", "label": k % 2},
    "multiblimp": lambda k: {"sen": f"Ona {k}", "wrong_sen": f"Txarra {k}", "phenomenon": "SV-#"},
    "truthfulqa": truthful,
    "mgsm": lambda k: {"question": f"Zenbat da {k}?", "answer": None, "answer_number": k, "equation_solution": None},
    "ca_catalanqa": lambda k: {
        "id": f"i{k}",
        "context": "C",
        "question": f"Q {k}",
        "answers": [{"text": "Olot", "answer_start": 1}],
    },
}


def shape(benchmark: str) -> Callable[[int], Row]:
    return SHAPES.get(benchmark) or SHAPES[benchmark.split("_", 1)[1]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The definitions alone, without any data that somebody has prepared."""
    place = tmp_path / "suites"
    shutil.copytree(SUITES / "upstream", place / "upstream", ignore=shutil.ignore_patterns("data"))
    return place


def make_copy(root: Path, benchmark: str, rows: Callable[[int], Row] | None = None) -> None:
    """A data set's repository of parquet files, with the card that names its configurations."""
    from datasets import Dataset

    source = definition(benchmark)["metadata"]["source"]
    place, configs = root / source["repo"], []
    splits = [split for split in (source["split"], source.get("shots_split")) if split]
    for config in source.get("configs", [source.get("config") or "default"]):
        files = []
        for split in splits:
            path = place / config / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            Dataset.from_list([(rows or shape(benchmark))(k) for k in range(ROWS)]).to_parquet(path)
            files.append({"split": split, "path": str(path.relative_to(place))})
        configs.append({"config_name": config, "data_files": files})
    (place / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")


@pytest.mark.parametrize("benchmark", upstream_benchmarks())
def test_each_definition_reads_rows_of_its_data_sets_shape(benchmark: str) -> None:
    known = definition(benchmark)
    source = known["metadata"]["source"]
    fields = {**shape(benchmark)(3), "config": source.get("config", "")}
    item = item_of(source, "a", fields)
    assert item["prompt"] or "multiblimp" in benchmark
    if "choices" in item:
        assert known["output_type"] == "multiple_choice"
        assert known["num_fewshot"] == known["dataset_kwargs"].get("shots", 0)
    assert "None" not in item["prompt"]
    assert set(source) <= {
        *("repo", "config", "configs", "split", "shots_split", "revision", "licence"),
        *("where", "id", "cluster", "prompt", "choices", "answer", "answers"),
    }


@pytest.mark.parametrize(
    "benchmark",
    [
        "eu_belebele",
        "gl_belebele",
        "ca_arc_easy",
        "es_copa",
        "eu_piqa",
        "gl_xnli",
        "es_paws",
        "en_truthfulqa",
        "eu_mgsm",
    ],
)
def test_a_data_set_of_that_shape_is_prepared_and_read(benchmark: str, folder: Path, tmp_path: Path) -> None:
    make_copy(tmp_path, benchmark)
    done = prepare(benchmark, folder=folder, root=tmp_path)
    items, shots = chosen(benchmark, folder=folder), shots_of(benchmark, folder)
    source = definition(benchmark)["metadata"]["source"]
    left = ROWS - (benchmark == "eu_piqa") - (0 if source.get("shots_split") else done.shots)
    assert (len(items), len(shots)) == (done.test, done.shots) == (left, definition(benchmark)["num_fewshot"])
    assert not {item["prompt"] for item in items} & {item["prompt"] for item in shots} or source.get("shots_split")
    assert cost_of(benchmark, folder=folder).prompts == sum(len(item.get("choices", "1")) for item in items)


def test_all_exams_are_read_and_rows_without_an_answer_left_out(folder: Path, tmp_path: Path) -> None:
    small = folder / "upstream/eu_exams.yaml"
    text = small.read_text().replace(", items: 3000", "")
    small.write_text("\n".join(x for x in text.split("\n") if "- eu_" not in x or "osakidetza1e" in x or "ejtek" in x))
    make_copy(tmp_path, "eu_exams")
    done = prepare("eu_exams", folder=folder, root=tmp_path)
    items = chosen("eu_exams", folder=folder)
    assert (done.test, done.shots) == (2 * (ROWS - 2) - 5, 5)
    assert {item["cluster"] for item in items} == {"eu_osakidetza1e", "eu_ejteknikari"}
    assert all(item["id"].startswith(item["cluster"]) for item in items)


def test_prepared_benchmarks_are_measured_through_lm_eval(
    folder: Path, tmp_path: Path, stub_server: Stub, model_folder: Path
) -> None:
    wide = Path(shutil.copytree(model_folder, tmp_path / "wide"))
    config = json.loads((wide / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    names = ["eu_belebele", "gl_xstorycloze", "ca_multiblimp", "eu_mgsm", "ca_catalanqa"]
    for name in names:
        yaml_file = folder / f"upstream/{name}.yaml"
        yaml_file.write_text(yaml_file.read_text().replace(", items: 1000", ""))
        make_copy(tmp_path, name)
        prepare(name, folder=folder, root=tmp_path)
    with stub_server() as (url, _):
        scores = evaluate(base_url=url, model="stub", folder=wide, benchmarks=names, suites=folder)
    found = [(score.benchmark, score.metric, score.n) for score in scores]
    assert len({item.cluster for item in scores[0].items}) == 6  # of seven passages; both questions on one are shots
    assert {len(item.cluster) for item in scores[0].items} == {16}
    assert {item.cluster for item in scores[1].items} == {""}
    assert found == [
        ("eu_belebele", "acc", ROWS - 5),
        ("gl_xstorycloze", "acc", ROWS),
        ("ca_multiblimp", "acc", ROWS),
        ("eu_mgsm", "strict", ROWS),
        ("eu_mgsm", "lenient", ROWS),
        ("ca_catalanqa", "strict", ROWS),
        ("ca_catalanqa", "lenient", ROWS),
    ]


def test_other_wording_or_other_shots_are_another_benchmark(folder: Path, tmp_path: Path) -> None:
    make_copy(tmp_path, "eu_trivia")
    prepare("eu_trivia", folder=folder, root=tmp_path)
    before = suite_digest(["eu_trivia"], folder=folder)
    definition.cache_clear()
    path = folder / "upstream/eu_trivia.yaml"
    path.write_text(path.read_text().replace("Galdera:", "Itauna:"))
    reworded = suite_digest(["eu_trivia"], folder=folder)
    shots = folder / "upstream/data/eu_trivia.shots.jsonl"
    shots.write_text(shots.read_text().replace('"answer": 0', '"answer": 1'))
    assert len({before, reworded, suite_digest(["eu_trivia"], folder=folder)}) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"correct_answer_num": "5"}, "answer 4 of 4 choices"),
        ({"correct_answer_num": "A"}, r"rows of facebook/belebele do not have the expected shape\n.*answer -1 of 4"),
        ({"question": None}, "a field of the prompt is empty"),
    ],
)
def test_a_row_of_another_shape_is_refused_and_nothing_is_written(
    change: Row, said: str, folder: Path, tmp_path: Path
) -> None:
    fixed = {**belebele(0), **change}
    make_copy(tmp_path, "eu_belebele", lambda k: fixed)
    with pytest.raises(InputError, match=said):
        prepare("eu_belebele", folder=folder, root=tmp_path)
    assert not (folder / "upstream/data").exists()


def test_a_field_that_is_not_there_is_named_with_those_that_are(folder: Path, tmp_path: Path) -> None:
    make_copy(tmp_path, "eu_belebele", candidates(4))
    with pytest.raises(InputError, match="'flores_passage' is undefined; fields: answer, candidates, config, context"):
        prepare("eu_belebele", folder=folder, root=tmp_path)


def test_without_data_a_benchmark_says_how_to_get_them(folder: Path) -> None:
    with pytest.raises(InputError, match=r"python -m tasks\.harness\.prepare eu_belebele"):
        chosen("eu_belebele", folder=folder)


def test_without_a_pinned_revision_nothing_is_fetched(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="pins no revision of HiTZ/EusReading"):
        prepare("eu_reading", folder=folder)
    assert main(["eu_mc"]) == 2
    assert "eu_mc: part of this repository" in capsys.readouterr().err


def test_every_definition_is_in_the_table_with_its_data_set() -> None:
    table = (SUITES / "upstream/README.md").read_text("utf-8")
    listed = [line.split(" | ")[:2] for line in table.split("\n") if line.startswith("| ") and line.count(" | ") == 6]
    expected = [[f"| {name}", definition(name)["metadata"]["source"]["repo"]] for name in upstream_benchmarks()]
    assert listed[1:] == expected


def test_a_missing_copy_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="HiTZ/EusTrivia: no such folder"):
        prepare("eu_trivia", folder=folder, root=tmp_path)


@pytest.mark.parametrize(
    ("said", "strict", "lenient"),
    [
        ("3 + 4 = 7", 1, 1),
        ("7 dira, ez 8", 0, 1),
        ("Erantzuna 7.", 1, 1),
        ("7,0", 1, 1),
        ("-7", 0, 0),
        ("", 0, 0),
        ("7 [cut: no stop]", 1, 1),
    ],
)
def test_the_last_number_is_the_answer(said: str, strict: int, lenient: int) -> None:
    assert solved({"answers": ["7"]}, [said]) == {"strict": strict, "lenient": lenient}


@pytest.mark.parametrize("said", ["1.234", "1,234", "1234", "1234,0", "1.234,00"])
def test_thousands_are_read_in_either_style(said: str) -> None:
    assert solved({"answers": ["1234"]}, [said])["strict"] == 1.0


@pytest.mark.parametrize(
    ("said", "strict", "lenient"), [("«Olot».", 1, 1), ("A Olot.", 0, 1), ("Oloti", 0, 0), ("", 0, 0)]
)
def test_the_words_of_the_text_are_the_answer(said: str, strict: int, lenient: int) -> None:
    assert named({"answers": ["olot", ""]}, [said]) == {"strict": strict, "lenient": lenient}
