"""From lm-eval's samples to scores, and the marking of answers."""

import math
from typing import Any

import pytest

from tasks.domain.errors import ModelRefused
from tasks.harness.results import scores_of


def choice_sample(k: int, likelihoods: list[float]) -> dict[str, Any]:
    doc = {"id": f"m{k}", "choices": ["aa", "bb", "cc", "dd"], "answer": k % 4}
    right = likelihoods.index(max(likelihoods)) == k % 4
    return {"doc": doc, "filtered_resps": [(v, False) for v in likelihoods], "acc_bytes": float(right)}


def test_a_model_that_always_says_a_is_refused_and_not_scored_at_chance() -> None:
    samples = [choice_sample(k, [-1.0, -2.0 - k, -3.0, -4.0]) for k in range(40)]
    with pytest.raises(
        ModelRefused, match=r"eu_mc: choice 0 was picked on all 40 items, whose answers are \[0, 1, 2, 3\]"
    ):
        scores_of("eu_mc", samples)


def test_equal_log_likelihoods_of_all_choices_are_refused() -> None:
    with pytest.raises(ModelRefused, match="all choices of all 40 items got the same log-likelihood"):
        scores_of("eu_mc", [choice_sample(k, [0.0] * 4) for k in range(40)])


def test_a_model_that_is_right_each_time_is_not_suspect() -> None:
    samples = [choice_sample(k, [-1.0 if c == k % 4 else -2.0 for c in range(4)]) for k in range(40)]
    (score,) = scores_of("eu_mc", samples)
    assert (score.metric, score.value, score.n) == ("acc", 1.0, 40)
    assert [item.answer for item in score.items[:5]] == ["aa", "bb", "cc", "dd", "aa"]  # what it chose, for people


def test_bits_per_byte_are_bits_over_bytes_of_all_texts_together() -> None:
    samples = [
        {"doc": {"id": "a"}, "bits_per_byte": (-100 * math.log(2), 50)},
        {"doc": {"id": "b"}, "bits_per_byte": (-30 * math.log(2), 10)},
    ]
    (score,) = scores_of("eu_bpb", samples)
    assert score.value == pytest.approx(130 / 60)
    assert not score.higher_is_better
    assert [(i.item_id, i.weight) for i in score.items] == [("a", 50), ("b", 10)]


def test_strict_comes_before_lenient_and_long_answers_are_cut() -> None:
    samples = [{"doc": {"id": "a"}, "filtered_resps": ["x" * 500], "strict": 0.0, "lenient": 1.0}] * 1
    strict, lenient = scores_of("eu_chat", samples)
    assert (strict.metric, strict.value, lenient.metric, lenient.value) == ("strict", 0.0, "lenient", 1.0)
    assert len(strict.items[0].answer) == 200


def test_a_continuation_is_scored_by_its_language_and_kept() -> None:
    samples = [
        {"doc": {"id": f"p{k}"}, "filtered_resps": ["gaur euria"], "in_language": float(k < 3)} for k in range(4)
    ]
    (score,) = scores_of("eu_text", samples)
    assert (score.metric, score.value, score.n) == ("in_language", 0.75, 4)
    assert score.items[0].answer == "gaur euria"
