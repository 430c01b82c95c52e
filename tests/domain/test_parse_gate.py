"""Reading a gate file: what is refused, and that the message names file and key."""

from pathlib import Path
from typing import Any

import pytest

from tasks.domain.errors import CatalogError, UnknownBenchmark
from tasks.domain.gate import parse_gate

GOOD: dict[str, Any] = {
    "name": "eu",
    "checks": [
        {"benchmark": "eu_chat", "metric": "strict", "floor": 0.3, "max_drop": {"tuned": 0.05}, "critical": True},
        {"benchmark": "eu_bpb", "metric": "bits_per_byte", "ceiling": 2.0},
    ],
}


def with_check(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "checks": [{**GOOD["checks"][0], **changes}]}


def test_a_gate_is_read_with_its_defaults() -> None:
    gate = parse_gate(GOOD, "gates/eu.yaml")
    assert gate.rule == "confident"
    assert gate.benchmarks == ("eu_chat", "eu_bpb")
    assert gate.roles == ("tuned",)
    assert [check.tolerance for check in gate.checks] == [0.03, 0.02]
    assert gate.checks[0].limit == ">= 0.3; tuned: at most 0.05 worse"


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ([], "mapping"),
        ({"name": "eu"}, "checks: Field required"),
        ({"name": "eu", "checks": []}, "let everything through"),
        ({**GOOD, "rules": "point"}, "rules: unknown key"),
        (with_check(flor=0.2), r"checks\[0\].flor: unknown key"),
        (with_check(metric="lenient"), r"checks\[0\].metric"),
        (with_check(floor=30), r"checks\[0\].*30"),
        (with_check(ceiling=0.9), r"checks\[0\].*ceiling with metric strict"),
        (with_check(max_drop={"instruct": -0.1}), r"checks\[0\].*max_drop.instruct"),
        (with_check(floor=float("nan")), r"checks\[0\].*nan"),
        (with_check(floor=None, max_drop={}), r"checks\[0\].*no limit at all"),
        (with_check(keep_gain=75), r"checks\[0\].keep_gain"),
        (with_check(keep_gain=0), r"checks\[0\].keep_gain"),
        (with_check(critical=False), "no check is critical"),
        ({**GOOD, "checks": GOOD["checks"] * 2}, "checked twice: eu_bpb/bits_per_byte, eu_chat/strict"),
    ],
)
def test_a_bad_gate_is_refused_by_file_and_key(mapping: Any, said: str) -> None:
    with pytest.raises(CatalogError, match=said) as refused:
        parse_gate(mapping, "gates/eu.yaml")
    assert "gates/eu.yaml" in str(refused.value)


def test_all_problems_of_a_gate_are_named_at_once() -> None:
    bad = {"name": "eu", "checks": [{"benchmark": "a", "metric": "acc", "flor": 1}, {"benchmark": "b", "metric": "f1"}]}
    with pytest.raises(CatalogError) as refused:
        parse_gate(bad, "gates/eu.yaml")
    assert len(refused.value.problems) == 2


def test_an_unknown_benchmark_is_refused_and_the_known_ones_are_listed() -> None:
    with pytest.raises(UnknownBenchmark, match=r"eu_bpb.*Known: en_chat, eu_chat") as refused:
        parse_gate(GOOD, "gates/eu.yaml", known=["eu_chat", "en_chat"])
    assert refused.value.problems == ("checks[1].benchmark: eu_bpb",)


def test_a_caller_that_knows_lines_gets_them_into_the_message(tmp_path: Path) -> None:
    with pytest.raises(CatalogError) as refused:
        parse_gate(with_check(flor=1), lambda loc: f"eu.yaml:7: {'.'.join(map(str, loc))}")
    assert refused.value.problems[0].startswith("eu.yaml:7: checks.0.flor: unknown key")


def test_a_gain_to_keep_is_a_limit_and_is_said_in_words() -> None:
    (check,) = parse_gate(with_check(floor=None, max_drop={}, keep_gain=0.75), "eu.yaml").checks
    assert check.limit == "keeps 75% of tuned's gain on instruct"
    assert check.roles == {"instruct", "tuned"}


def test_what_is_stated_as_the_default_changes_no_digest() -> None:
    gate = parse_gate(GOOD, "eu.yaml")
    assert parse_gate(with_check(min_items=1, keep_gain=None), "eu.yaml").checks[0] == gate.checks[0]
    stated = {**GOOD, "checks": [{**check, "min_items": 1, "language": None} for check in GOOD["checks"]]}
    assert parse_gate(stated, "eu.yaml").digest() == gate.digest()


def test_the_digest_moves_with_a_limit_and_not_with_the_order_of_checks() -> None:
    gate = parse_gate(GOOD, "eu.yaml")
    assert gate.digest() == parse_gate({**GOOD, "checks": GOOD["checks"][::-1]}, "eu.yaml").digest()
    assert gate.digest() != parse_gate({**GOOD, "rule": "point"}, "eu.yaml").digest()
    assert gate.digest() != parse_gate(with_check(floor=0.31), "eu.yaml").digest()
