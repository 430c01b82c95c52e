"""How a served model behaves, from its answers: what is wrong is told, and what is only its parent's way is not."""

import pytest

from tasks.domain.errors import InputError
from tasks.harness.behaviour import Answer, Marks, leaks, loops, marks_of
from tasks.harness.suite import read_items

GOOD = "Gaur goizean mendira joan gara lagunekin, eta eguraldi ederra egin du egun osoan zehar."
SPANISH = "Esta mañana hemos subido al monte con los amigos y ha hecho un día precioso de principio a fin."
SENTENCE = "Mendira joan gara lagunekin eta oso ondo pasa dugu. "


@pytest.mark.parametrize(
    "text",
    [
        SENTENCE * 6,
        GOOD + " ja" * 30,
        GOOD + "\n" + "eta orduan\n" * 9,
        "aaaaaaaaaaaaaaaaaaaaaaaa",
        " ".join(f"{k}. Urratsa: egin ezazu berriro eta berriro gauza bera." for k in range(1, 30)),
    ],
)
def test_what_says_the_same_again_and_again_is_a_loop(text: str) -> None:
    assert loops(text)


@pytest.mark.parametrize(
    "text", ["", "Bai, bai, bai.", GOOD, "| a | b |\n|----------|----------|\n| 1 | 2 |", "Goiburua\n" + "=" * 40]
)
def test_what_is_short_or_a_rule_is_no_loop(text: str) -> None:
    assert not loops(text)


@pytest.mark.parametrize("code", ["en", "es", "eu", "ca", "gl", "pt"])
def test_no_real_paragraph_is_a_loop_or_a_leak(code: str) -> None:
    paragraphs = [row["text"] for split in ("dev", "test") for row in read_items(f"{code}_bpb", split=split)]
    assert not [text for text in paragraphs if loops(text) or leaks(text)]


@pytest.mark.parametrize(
    ("text", "special", "leaked"),
    [
        ("Kaixo<|im_end|>", (), True),
        ("<|start_header_id|>assistant", (), True),
        ("[INST] kaixo", (), True),
        ("Kaixo</s>", (), True),
        ("assistant\nKaixo", (), True),
        ("Kaixo <bukaera>", ("<bukaera>",), True),
        ("<think>hm</think>Kaixo", ("<think>", "</think>"), False),
        ("Erabili <s2> eta a|b.", (), False),
        ("Assistant bat da.", (), False),
        ("System call bat da.", (), False),
    ],
)
def test_marks_of_a_template_are_leaks(text: str, special: tuple[str, ...], leaked: bool) -> None:
    assert leaks(text, special) is leaked


def test_each_fault_is_marked() -> None:
    fine = Marks(empty=False, endless=False, loops=False, leaks=False, thinks=False, language="eu")
    assert marks_of(Answer("eu", GOOD, "stop")) == fine
    assert marks_of(Answer("eu", " \n", "stop")) == fine._replace(empty=True, language="")
    assert marks_of(Answer("eu", GOOD, "length")) == fine._replace(endless=True)
    assert marks_of(Answer("eu", SENTENCE * 6, "stop")) == fine._replace(loops=True)
    assert marks_of(Answer("eu", GOOD + "<|im_end|>", "stop")) == fine._replace(leaks=True)
    assert marks_of(Answer("eu", SPANISH, "stop")) == fine._replace(language="es")
    thought = marks_of(Answer("eu", "<think>" + SPANISH + "</think>" + GOOD, "stop"))
    assert thought == fine._replace(thinks=True), "the language is that of what was said after thinking"


def test_an_answer_that_broke_off_is_refused() -> None:
    with pytest.raises(InputError, match="finish reason 'abort'"):
        marks_of(Answer("eu", GOOD, "abort"))
