"""What counts as reached, on made-up scores: gains are judged only where the parents differ."""

from typing import Any

import pytest

from infra.demo_family import criteria
from infra.demo_family.recipe import TARGETS

TARGET = TARGETS["gl"]
SIZE = 100


def scores(strict: float, acc: float, bits: float, spread: float = 1.0) -> dict[str, Any]:
    """One model on one set: 100 items, paragraphs of 10 bytes whose bits vary by `spread`."""
    right = round(acc * SIZE)
    return {
        "chat": {"strict": strict},
        "mc": {"acc": acc, "correct": [index < right for index in range(SIZE)]},
        "bpb": {
            "bits_per_byte": bits,
            "bits": [10 * bits + (spread if index % 2 else -spread) for index in range(SIZE)],
            "bytes": [10] * SIZE,
        },
    }


def family(merged_strict: float, tuned_bits: float, spread: float = 0.0) -> tuple[dict[str, Any], dict[str, Any]]:
    plain = {"en": scores(0.9, 1.0, 1.5), "es": scores(0.9, 1.0, 1.5)}
    roles = {
        "v1": plain | {"gl": scores(0.0, 0.3, 3.0)},
        "v2": plain | {"gl": scores(0.02, 0.3, 3.0)},
        "gl": plain | {"gl": scores(0.0, 0.9, tuned_bits, spread=1.0 + spread)},
        "merged v2": plain | {"gl": scores(merged_strict, 0.8, 3.0 - 0.8 * (3.0 - tuned_bits))},
    }
    paired = {name: {"p": 0.001, "only_first": 2, "only_second": 30} for name in ("alone, en + es", "merged, all")}
    return roles, paired


def met(roles: dict[str, Any], paired: dict[str, Any]) -> dict[str, bool | None]:
    names = {"v2": "v2", "gl": "gl base"}
    return {row["criterion"]: row["met"] for row in criteria.rows(TARGET, names, roles, paired)}


def test_a_merge_that_keeps_everything_meets_every_criterion():
    assert set(met(*family(merged_strict=0.5, tuned_bits=2.0)).values()) == {True}


def test_a_merge_that_cannot_answer_in_the_language_is_told():
    found = met(*family(merged_strict=0.3, tuned_bits=2.0))
    assert [name for name, value in found.items() if not value] == ["c: merged v2 strict gl"]


def test_a_gain_within_three_standard_errors_is_not_judged():
    found = met(*family(merged_strict=0.5, tuned_bits=2.99, spread=5.0))
    assert found["b: kept gain in gl bits per byte"] is None
    assert found["b: kept gain in gl multiple choice"] is True


def test_the_kept_share_is_of_the_gain_over_the_instruct_parent():
    roles, _ = family(merged_strict=0.5, tuned_bits=2.0)
    shares = {ratio.name: ratio.value for ratio in criteria.ratios(TARGET, roles["merged v2"], roles)}
    assert shares["b: kept gain in gl bits per byte"] == pytest.approx(0.8)
    assert shares["b: kept gain in gl multiple choice"] == pytest.approx(5 / 6)


def test_a_parent_that_answers_alone_spoils_the_test():
    roles, paired = family(merged_strict=0.5, tuned_bits=2.0)
    roles["v2"]["gl"]["chat"]["strict"] = 0.2
    assert met(roles, paired)["c: v2 strict gl"] is False


def test_the_newer_release_has_to_win():
    roles, paired = family(merged_strict=0.5, tuned_bits=2.0)
    paired["merged, all"] = {"p": 0.001, "only_first": 30, "only_second": 2}
    assert met(roles, paired)["d: v2 over v1, merged, all"] is False
