"""Instructions that a program can check: each kind with an answer that follows it and one that does not."""

import json
import shutil
import subprocess
import unicodedata
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tasks.domain.errors import InputError
from tasks.harness.instructions import COUNTED, HELD, contradictions, follows, refuse_impossible
from tasks.harness.marks import CUT, followed
from tasks.harness.results import scores_of
from tasks.harness.run import evaluate
from tasks.harness.suite import SUITES, chosen, load

Stub = Callable[..., AbstractContextManager[tuple[str, "subprocess.Popen[bytes]"]]]

BASQUE = "Mendian euria ari du eta gu etxean gaude. Bihar itsasora joango gara goizean goiz."
GALICIAN = "Hoxe chove moito na aldea e ninguén saíu á rúa. Mañá imos ver o mar coas nenas."
PORTUGUESE = "Hoje chove muito na aldeia e ninguém saiu à rua. Amanhã vamos ver o mar com as meninas."
SPANISH = "Hoy llueve mucho en la aldea y nadie ha salido a la calle. Mañana vamos a ver el mar."

CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"kind": "words", "exactly": 3}, "Gaur ez-ohiko eguna", "Gaur ez ohiko eguna"),
    ({"kind": "words", "at_most": 2}, "l'hora, ja", "una hora més"),
    ({"kind": "sentences", "exactly": 2}, "XX. mendean hasi zen. Amaitu da?", "Bat. Bi. Hiru."),
    ({"kind": "paragraphs", "exactly": 2}, "Bat.\n \nBi.", "Bat.\nBi."),
    ({"kind": "lines", "at_least": 3}, "a\nb\n\nc", "a\n\n\nb"),
    ({"kind": "bullets", "exactly": 2}, "Hona:\n- bat\n- bi", "-bat\n-bi"),
    ({"kind": "numbered", "exactly": 2}, "1. bat\n2) bi", "1. bat\n3. bi"),
    ({"kind": "headings", "exactly": 1}, "## Lur\ntestua", "##Lur\ntestua"),
    ({"kind": "table_rows", "at_least": 1}, "| a | b |\n|---|---|\n| 1 | 2 |", "| a | b |\n| 1 | 2 |\n| 3 | 4 |"),
    ({"kind": "table_rows", "exactly": 1}, "|a|\n|:---:|\n|1|", "|a|\n|---|\n|1|2|"),
    ({"kind": "bold", "exactly": 2}, "**bat** eta **bi**", "*bat* eta **bi**"),
    ({"kind": "placeholders", "at_least": 2}, "[izena] [data]", "[izena] []"),
    ({"kind": "questions", "at_least": 2}, "Nor? Non?", "Nor? Non."),
    ({"kind": "numbers", "at_least": 2}, "12,5 euro, 3 egun", "12,5 euro"),
    ({"kind": "parts", "exactly": 2, "separator": "***"}, "bat\n***\nbi", "***\nbat"),
    ({"kind": "occurs", "word": "mar", "exactly": 1}, "O Mar é frío en marzo.", "O mar e o mar."),
    (
        {"kind": "occurs", "word": "mendi", "endings": True, "exactly": 2},
        "Mendian eta mendiak",
        "Mendian eta arkamendi",
    ),
    ({"kind": "json_list", "exactly": 2}, '```json\n["a", "b"]\n```', '{"a": "b"}'),
    ({"kind": "contains", "words": ["hórreo", "nai"]}, "A nai e o Hórreo", "As naipes e o hórreo"),
    ({"kind": "contains", "words": ["labe"], "endings": True}, "Labean", "alabe"),
    ({"kind": "excludes", "words": ["gol"]}, "golear", "Un gol."),
    ({"kind": "excludes", "words": ["gol"], "endings": True}, "mugola", "golak"),
    ({"kind": "json", "keys": ["título"]}, '{"título": "Fóra"}', 'Aquí vai: {"título": "Fóra"}'),
    ({"kind": "json", "keys": ["a"]}, '{"a": 0}', '{"a": 1, "b": 2}'),
    ({"kind": "json", "keys": ["a", "b"]}, '{"b": [1], "a": 2}', '{"a": 1, "b": ""}'),
    ({"kind": "starts_with", "phrase": "Nire iritziz"}, "\nNire iritziz bai", "Bai, Nire iritziz"),
    ({"kind": "ends_with", "phrase": "Queda claro?"}, "Si. Queda claro?\n", "Queda claro? Si."),
    ({"kind": "letters", "case": "upper"}, "ÁNIMO, Ñ 3", "ÁNIMo"),
    ({"kind": "letters", "case": "lower"}, "así vai", "Así vai"),
    ({"kind": "postscript", "marker": "P.D."}, "Carta\n\nP.D. Ata logo", "P.D. Ata logo\n\nCarta"),
    ({"kind": "title"}, "<<Itsasoa>>\nBazen behin", "Itsasoa\nBazen behin"),
    ({"kind": "quoted"}, "«Si»", '"Si'),
    ({"kind": "no_commas"}, "bat eta bi", "bat, bi"),
    ({"kind": "no_digits"}, "hiru", "h1ru"),
    ({"kind": "no_exclamations"}, "Zorionak.", "¡Zorionak"),
    ({"kind": "one_of", "options": ["Egia", "Gezurra"]}, "Egia\n", "Egia."),
    ({"kind": "acrostic", "word": "mar"}, "Moito\nAnda\nRibeira", "Moito\nAnda"),
    ({"kind": "code", "code": "python"}, "Velaquí:\n```python\nx = 1\n```", "```\nx = 1\n```"),
    ({"kind": "language", "language": "gl"}, GALICIAN, PORTUGUESE),
    ({"kind": "language", "language": "eu"}, BASQUE, SPANISH),
]


@pytest.mark.parametrize(("check", "good", "bad"), CASES, ids=lambda value: str(value)[:40])
def test_each_kind_tells_an_answer_that_follows_from_one_that_does_not(check: Any, good: str, bad: str) -> None:
    assert follows(good, check)
    assert not follows(bad, check)
    assert not follows(" \n", check)


def test_every_kind_is_tested() -> None:
    assert {case[0]["kind"] for case in CASES} == {*COUNTED, *HELD}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_composed_and_decomposed_accents_are_the_same(form: Any) -> None:
    text = unicodedata.normalize(form, "O hórreo está alí, mañá.")
    asked = unicodedata.normalize("NFC" if form == "NFD" else "NFD", "hórreo")
    assert follows(text, {"kind": "contains", "words": [asked]})
    assert follows(text, {"kind": "words", "exactly": 5})
    assert follows(text, {"kind": "ends_with", "phrase": unicodedata.normalize("NFD", "mañá.")})


def test_an_answer_is_strict_only_in_the_language_and_with_everything_done() -> None:
    checks = [{"kind": "sentences", "exactly": 2, "words": None}, {"kind": "excludes", "words": ["elur"]}]
    doc = {"id": "a", "language": "eu", "checks": checks}
    assert followed(doc, [BASQUE]) == {"strict": 1.0, "followed": (2, 2), "in_language": 1.0}
    assert followed(doc, [SPANISH]) == {"strict": 0.0, "followed": (2, 2), "in_language": 0.0}
    assert followed(doc, [BASQUE + " Elur."]) == {"strict": 0.0, "followed": (0, 2), "in_language": 1.0}
    assert followed(doc, [BASQUE + CUT]) == {"strict": 0.0, "followed": (0, 2), "in_language": 1.0}
    assert followed(doc, [""]) == {"strict": 0.0, "followed": (0, 2), "in_language": 0.0}


def test_scores_are_by_prompt_by_instruction_and_by_language() -> None:
    docs: list[dict[str, Any]] = [
        {"id": "a", "language": "eu", "checks": [{"kind": "sentences", "exactly": 2}, {"kind": "no_commas"}]},
        {"id": "b", "language": "", "checks": [{"kind": "one_of", "options": ["Egia"]}]},
        {"id": "c", "language": "gl", "checks": [{"kind": "no_digits"}]},
    ]
    answers = [BASQUE + " Bai, bai.", "Egia", PORTUGUESE]
    samples = [
        {"doc": doc, "filtered_resps": [said], **followed(doc, [said])} for doc, said in zip(docs, answers, strict=True)
    ]
    strict, parts, fluent = scores_of("eu_instructions", samples)
    assert [score.metric for score in (strict, parts, fluent)] == ["strict", "followed", "in_language"]
    assert (strict.value, strict.n, parts.value) == (1 / 3, 3, 0.5)
    assert [(i.value, i.weight) for i in parts.items] == [(0, 2), (1, 1), (1, 1)]
    assert (fluent.value, [i.item_id for i in fluent.items]) == (0.5, ["a", "c"])


IMPOSSIBLE: list[list[dict[str, Any]]] = [
    [{"kind": "words", "at_least": 9, "at_most": 3}],
    [{"kind": "words", "exactly": 2}, {"kind": "sentences", "at_least": 3}],
    [{"kind": "contains", "words": ["sol"]}, {"kind": "excludes", "words": ["Sol"]}],
    [{"kind": "ends_with", "phrase": "O sol."}, {"kind": "excludes", "words": ["sol"]}],
    [{"kind": "json", "keys": ["a"]}, {"kind": "bullets", "exactly": 3}],
    [{"kind": "json", "keys": ["a"]}, {"kind": "one_of", "options": ["a"]}],
    [{"kind": "json", "keys": ["a", "b"]}, {"kind": "no_commas"}],
    [{"kind": "numbered", "exactly": 3}, {"kind": "no_digits"}],
    [{"kind": "letters", "case": "upper"}, {"kind": "starts_with", "phrase": "Ola"}],
    [{"kind": "letters", "case": "upper"}, {"kind": "letters", "case": "lower"}],
    [{"kind": "paragraphs", "exactly": 0}],
    [{"kind": "words", "at_most": 2}, {"kind": "contains", "words": ["a", "b", "c"]}],
]


@pytest.mark.parametrize("checks", IMPOSSIBLE, ids=str)
def test_checks_that_exclude_each_other_are_refused(checks: list[dict[str, Any]]) -> None:
    assert contradictions(checks)
    with pytest.raises(InputError, match="no answer can be judged by") as refused:
        refuse_impossible("x", [{"id": "x-1", "language": "", "checks": checks}])
    assert refused.value.problems[0].startswith("x-1: ")


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ({"kind": "wrods", "at_least": 1}, "unknown kind 'wrods'"),
        ({"kind": "words"}, "give at_least, at_most or both"),
        ({"kind": "words", "exactly": 1, "at_least": 1}, "exactly alone"),
        ({"kind": "occurs", "at_least": 1}, "occurs: lacks word"),
        ({"kind": "no_commas", "at_least": 1}, "no_commas: unknown at_least"),
        ({"kind": "language", "language": "en"}, r"language 'eu', and the checks ask \['en'\]"),
    ],
)
def test_a_check_with_the_wrong_shape_is_refused_by_item(check: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        refuse_impossible("x", [{"id": "x-1", "language": "eu", "checks": [check]}])


def test_the_loader_refuses_what_nobody_can_follow_naming_all_items(suites: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "x.yaml").write_text("task: x\ndataset_kwargs: {benchmark: x}\n")
    rows = [{"id": f"x-{k}", "prompt": "?", "language": "", "checks": IMPOSSIBLE[k]} for k in range(2)]
    (tmp_path / "data/x.test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="x: 2 items or checks") as refused:
        chosen("x", folder=tmp_path)
    assert len(refused.value.problems) == 2


# ---- every item that ships can be followed: an answer is built from its checks, and passes them all

FILLER = {
    "eu": "gaur goizean etxetik irten gara eta mendira joan gara lagunekin batera egun osoa han pasatzeko asmoz baina",
    "gl": "hoxe pola mañá saímos da casa e fomos ao monte coas amigas para pasar alí o día enteiro aínda que chovía",
    "en": "this morning we left the house and went to the mountain with our friends to spend the whole day there but",
    "es": "esta mañana hemos salido de la casa y fuimos al monte con los amigos para pasar allí el día entero aunque",
    "ca": "aquest matí hem sortit de la casa i hem anat a la muntanya amb els amics per passar-hi tot el dia però",
    "pt": "esta manhã saímos de casa e fomos ao monte com as amigas para passar lá o dia inteiro não obstante a chuva",
}
PIECES = (
    "sentences",
    "paragraphs",
    "lines",
    "bullets",
    "numbered",
    "headings",
    "parts",
    "table_rows",
    "questions",
    "bold",
)


def bounds(check: dict[str, Any]) -> tuple[int, int]:
    low = check.get("exactly", check.get("at_least", 0))
    return low, check.get("exactly", check.get("at_most", 10**6))


def answer_for(item: dict[str, Any]) -> str:
    checks = {check["kind"]: check for check in item["checks"]}
    if "one_of" in checks:
        return str(checks["one_of"]["options"][0])
    if "json" in checks:
        return json.dumps(dict.fromkeys(checks["json"]["keys"], "bai"), ensure_ascii=False)
    if "json_list" in checks:
        return json.dumps(["x"] * bounds(checks["json_list"])[0])
    acrostic = checks.get("acrostic", {}).get("word", "")
    count = max(1, len(acrostic), *(bounds(checks[kind])[0] for kind in PIECES if kind in checks))
    low, high = bounds(checks.get("words", {}))
    size = low or min(high - 8, 9 * count)
    filler = FILLER[item["language"] or item["id"][:2]].split()
    wanted = list(checks.get("contains", {}).get("words", []))
    wanted += [checks["occurs"]["word"]] * bounds(checks["occurs"])[0] if "occurs" in checks else []
    wanted += [f"[{k}x]" for k in range(bounds(checks.get("placeholders", {}))[0])]
    wanted += ["12"] * bounds(checks.get("numbers", {}))[0]
    pieces, place = [], 0
    for k in range(count):
        some = [filler[(place + i) % len(filler)] for i in range(max(1, size // count + (k < size % count)))]
        place += len(some)
        if k == 0:
            some = (
                some + wanted if low == 0 or low > len(wanted) + len(some) else some[: len(some) - len(wanted)] + wanted
            )
        if acrostic:
            some[0] = acrostic[k] + some[0]
        if k < bounds(checks.get("bold", {}))[0]:
            some[0] = f"**{some[0]}**"
        text = " ".join(some) + ("?" if "questions" in checks else ".")
        pieces.append(text if text.startswith("*") else text[0].upper() + text[1:])
    return dressed("".join(laid_out(pieces, checks)), checks)


def laid_out(pieces: list[str], checks: dict[str, Any]) -> str:
    if "table_rows" in checks:
        return "| a | b |\n|---|---|\n" + "\n".join(f"| {piece} | x |" for piece in pieces)
    if "bullets" in checks:
        pieces = [f"- {piece}" for piece in pieces]
    if "numbered" in checks:
        pieces = [f"{k}. {piece}" for k, piece in enumerate(pieces, 1)]
    if "headings" in checks:
        pieces = [f"## X\n{piece}" for piece in pieces]
    between = "\n\n" if "paragraphs" in checks else " "
    if {"bullets", "numbered", "headings", "lines", "acrostic"} & checks.keys():
        between = "\n"
    return (f"\n{checks['parts']['separator']}\n" if "parts" in checks else between).join(pieces)


def dressed(text: str, checks: dict[str, Any]) -> str:
    if "starts_with" in checks:
        text = f"{checks['starts_with']['phrase']} {text}"
    if "ends_with" in checks:
        text += f" {checks['ends_with']['phrase']}"
    if "title" in checks:
        text = f"<<X>>\n{text}"
    if "code" in checks:
        text += f"\n```{checks['code']['code']}\nx\n```"
    if "postscript" in checks:
        text += f"\n\n{checks['postscript']['marker']} x"
    if "letters" in checks:
        text = text.upper() if checks["letters"]["case"] == "upper" else text.lower()
    return f"«{text}»" if "quoted" in checks else text


@pytest.mark.parametrize("benchmark", ["eu_instructions", "gl_instructions"])
def test_every_item_that_ships_can_be_followed(benchmark: str) -> None:
    failed = []
    for item in chosen(benchmark):
        answer = answer_for(item)
        marks = followed(item, [answer])
        if marks["strict"] != 1.0:
            failed.append((item["id"], item["checks"], answer, marks))
    assert not failed


@pytest.mark.parametrize("benchmark", ["eu_instructions", "gl_instructions"])
def test_no_empty_and_no_foreign_answer_follows_an_item(benchmark: str) -> None:
    for item in chosen(benchmark):
        assert followed(item, [""])["strict"] == 0.0
        if item["language"]:
            other = dict(item, language="en" if item["language"] != "en" else "es")
            assert followed(other, [answer_for(item)])["strict"] == 0.0


def test_a_served_model_is_asked_and_marked(stub_server: Stub, model_folder: Path, tmp_path: Path) -> None:
    # 1,024 tokens of an answer do not fit the 128 of this model: half of its context is what it is given.
    (tmp_path / "data").mkdir()
    for name in ("instructions.template", "eu_instructions.yaml", "data/eu_instructions.test.jsonl"):
        shutil.copy(SUITES / name, tmp_path / name)
    with stub_server() as (url, _):
        scores = evaluate(
            base_url=url, model="stub", folder=model_folder, benchmarks=["eu_instructions"], suites=tmp_path
        )
    strict, parts, fluent = scores  # "bai" has few words and no comma, and no letters to tell its language by
    told = sum(bool(item["language"]) for item in chosen("eu_instructions"))
    assert (strict.value, strict.n, fluent.value, fluent.n) == (0.0, 120, 0.0, told)
    assert 0 < parts.value < 0.4


def test_lm_eval_is_given_the_checks_as_they_are_written() -> None:
    from_file = {row["id"]: row for row in chosen("gl_instructions")}
    for row in load("gl_instructions", items=120)["test"]:
        given = [{k: v for k, v in check.items() if v is not None} for check in row["checks"]]
        assert given == from_file[row["id"]]["checks"]


def test_the_sets_say_that_nobody_who_speaks_the_language_has_read_them() -> None:
    for place in ("instructions.template", "eu_instructions.yaml", "gl_instructions.yaml", "data/README.md"):
        assert "reviewed by native speakers" in (SUITES / place).read_text("utf-8")
    for code in ("eu", "gl"):
        assert not any(row["reviewed_by_native_speaker"] for row in chosen(f"{code}_instructions"))
