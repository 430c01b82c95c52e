"""How answers in words are marked: strict and lenient, and in which language a text goes on."""

import json
import re
from collections import Counter
from importlib.metadata import version

import pytest

from tasks.harness import languages
from tasks.harness.languages import LANGUAGES, language_of
from tasks.harness.marks import CUT, answered, in_language
from tasks.harness.suite import SUITES, definition, read_items


@pytest.mark.parametrize(
    ("said", "strict", "lenient"),
    [
        ('{"answer": "Gasteiz"}', 1, 1),
        ('{"answer": "Gasteiz"}\n', 0, 1),
        ('{"answer":"Gasteiz"}', 0, 1),
        ('{"answer": "Gasteiz"} [cut: no stop]', 0, 1),
        ("Gasteiz", 0, 1),
        ("\nGasteiz da.", 0, 1),
        ("Bilbo.\nGasteiz", 0, 0),
        ("", 0, 0),
    ],
)
def test_strict_is_the_whole_answer_and_lenient_its_first_line(said: str, strict: int, lenient: int) -> None:
    assert answered({"answer": "Gasteiz"}, [said]) == {"strict": strict, "lenient": lenient}


GOES_ON = {
    "eu": "eta hautatu nahi duzun elementua zerrendako leihoan.",
    "ca": "i feu clic a la pestanya de les opcions per veure els canvis.",
    "gl": "e prema no botón da barra de ferramentas para ver as opcións.",
    "es": "y haga clic en el botón de la barra para ver las opciones.",
    "pt": "e clique no botão da barra de ferramentas para ver as opções.",
    "en": "and click the button on the toolbar to see the options.",
}


@pytest.mark.parametrize("asked", LANGUAGES)
def test_a_text_must_go_on_in_the_language_that_it_began_in(asked: str) -> None:
    marks = {code: in_language({"language": asked}, [text])["in_language"] for code, text in GOES_ON.items()}
    assert marks == {code: float(code == asked) for code in GOES_ON}


@pytest.mark.parametrize("said", ["", "   ", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14", "eta"])
def test_what_is_hardly_a_text_is_in_no_language(said: str) -> None:
    assert in_language({"language": "eu"}, [said]) == {"in_language": 0.0}


def test_the_mark_of_a_cut_answer_is_not_taken_for_english() -> None:
    assert in_language({"language": "eu"}, ["hautatu elementua leihoan" + CUT]) == {"in_language": 1.0}
    assert in_language({"language": "en"}, ["a" + CUT]) == {"in_language": 0.0}


@pytest.mark.parametrize("code", LANGUAGES)
def test_the_identifier_knows_the_real_text_of_each_language_that_is_gated(code: str) -> None:
    # The second halves of the held-out paragraphs, as long as what a model adds: the figures in text.template.
    rows = [json.loads(line) for line in (SUITES / f"data/{code}_bpb.test.jsonl").read_text("utf-8").splitlines()]
    marks = [in_language({"language": code}, [row["text"][len(row["text"]) // 2 :]])["in_language"] for row in rows]
    stated = {"en": 1.0, "es": 0.992, "eu": 1.0, "ca": 1.0, "pt": 0.975, "gl": 0.967}
    assert sum(marks) / len(marks) == pytest.approx(stated[code], abs=0.0006)
    assert f"{code} {stated[code]:.3f}" in (SUITES / "text.template").read_text("utf-8")


def test_the_identifier_is_the_one_that_the_benchmarks_name() -> None:
    # Part of their digest: another version is another measurement.
    assert definition("eu_text")["metadata"]["identifier"] == f"py3langid {version('py3langid')}"


@pytest.mark.parametrize(("share", "column"), [(1.0, 0), (0.5, 1), (40, 2)])
def test_the_identifiers_ceiling_is_what_its_module_says(share: float, column: int) -> None:
    table = [line.split("   ") for line in (languages.__doc__ or "").split("\n") if re.match(r"    \w\w  \w\w ", line)]
    assert [row[1].strip()[:2] for row in table] == [*LANGUAGES[:3], "ca", "gl", "pt"]
    for row in table:
        cells = [cell.strip() for cell in row if cell.strip()]
        code, stated = cells[column][:2], dict(re.findall(r"(\w\w|-) ([\d.]+)", cells[column][2:]))
        texts = [r["text"] for split in ("dev", "test") for r in read_items(f"{code}_bpb", split=split)]
        cut = [text[: int(len(text) * share) if share <= 1 else int(share)] for text in texts]
        told = Counter(language_of(text) or "-" for text in cut)
        assert {key: f"{100 * n / len(cut):.1f}".removesuffix(".0") for key, n in told.items()} == stated


@pytest.mark.parametrize("code", ["eu", "gl"])
def test_the_instruction_sets_own_prompts_are_told(code: str) -> None:
    assert {language_of(row["prompt"]) for row in read_items(f"{code}_instructions")} == {code}
