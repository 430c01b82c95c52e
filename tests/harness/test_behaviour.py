"""How a served model behaves, from its answers: what is wrong is told, and what is only its parent's way is not."""

import pytest

from tasks.domain.errors import InputError
from tasks.harness.behaviour import Answer, Behaviour, behaviour_of, leaks, loops, misbehaves
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


def told(*texts: str, reason: str = "stop") -> Behaviour:
    return behaviour_of([Answer("eu", text, reason) for text in texts])


def test_shares_are_of_all_answers_and_languages_of_those_that_can_be_told() -> None:
    found = behaviour_of(
        [
            Answer("eu", GOOD, "stop"),
            Answer("eu", SPANISH, "length"),
            Answer("eu", " \n", "stop"),
            Answer("eu", "<think>" + SPANISH + "</think>" + GOOD, "stop"),
        ]
    )
    assert found == Behaviour(n=4, empty=0.25, endless=0.25, loops=0.0, leaks=0.0, wrong_language=1 / 3, thinks=0.25)


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        (told(GOOD, ""), "empty: 0.50 of 2 answers, its parent 0.00"),
        (told(GOOD, GOOD, reason="length"), "endless: 1.00"),
        (told(GOOD, SENTENCE * 6), "loops: 0.50"),
        (told(GOOD, GOOD + "<|im_end|>"), "leaks: 0.50"),
        (told(GOOD, SPANISH), "wrong_language: 0.50 of the answers; at most 0.05"),
        (told(GOOD, "hm</think>" + GOOD), "thinks: </think> in 0.50 of the answers, in 0.00"),
    ],
)
def test_each_fault_is_told_with_its_share(candidate: Behaviour, said: str) -> None:
    (problem,) = misbehaves(candidate, told(GOOD, GOOD))
    assert problem.startswith(said)


def test_what_the_parent_does_as_well_is_no_fault() -> None:
    both = told(GOOD, "hm</think>" + GOOD + SENTENCE * 6, reason="length")
    assert misbehaves(both, both) == []
    assert misbehaves(told(GOOD, GOOD), told("", SPANISH)) == []


def test_a_parent_that_does_not_speak_the_language_is_no_excuse() -> None:
    (problem,) = misbehaves(told(SPANISH, SPANISH), told(SPANISH, SPANISH))
    assert problem.startswith("wrong_language: 1.00")


def test_the_identifiers_own_errors_are_allowed_for() -> None:
    candidate, parent = (Behaviour(20, 0, 0, 0, 0, wrong, 0) for wrong in (0.14, 0.0))
    assert misbehaves(candidate, parent)
    assert not misbehaves(candidate, parent, ceiling=0.9)


def test_other_prompts_and_unfinished_answers_are_refused() -> None:
    with pytest.raises(InputError, match="answered 1 prompts and its parent 2"):
        misbehaves(told(GOOD), told(GOOD, GOOD))
    with pytest.raises(InputError, match=r"finish reasons \['abort'\]"):
        told(GOOD, reason="abort")
    with pytest.raises(InputError, match="0 answers"):
        behaviour_of([])
