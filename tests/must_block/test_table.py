"""The table's word: a wrong end, a wrong reason and too many requests are violations."""

import json

from tests.must_block.__main__ import chosen, read_results
from tests.must_block.cases import CASES, Case
from tests.must_block.proxy import without_logprobs
from tests.must_block.table import Finding, Result, as_json, mean_share, problems_of, table

LOOPS = Case("loops", "rejected", r"^Examined, loops:")
GOOD = Case("good", "passed", r"^All", clear=False)


def result(name="loops", outcome="rejected", reasons=("Examined, loops: 24 of 24 answers.",), requests=30):
    return Result(name, outcome, reasons, requests, 478, "examination", 12.0)


def test_the_right_end_for_the_right_reason_is_no_violation():
    findings = [Finding(LOOPS, result()), Finding(GOOD, result("good", "passed", ("All 6 passed.",), 500))]
    assert problems_of(findings) == []
    shown = table(findings, 60)
    assert "1 clear ones: 30 requests, 6.3% of a full run's 478 on the mean, 93.7% saved" in shown
    assert shown.endswith("2 cases in 60 s: no violation\n")


def test_a_wrong_end_and_a_wrong_reason_are_told():
    passed = Finding(LOOPS, result(outcome="passed", reasons=("All 6 checks passed.",)))
    other = Finding(LOOPS, result(reasons=("Examined, tokenizer: another one.",)))
    assert problems_of([passed]) == ["loops: passed, expected rejected; it said: All 6 checks passed."]
    assert "no reason is '^Examined, loops:'" in problems_of([other])[0]
    assert "NO" in table([passed], 1)


def test_the_mean_is_that_of_all_clear_ones_and_has_a_limit():
    few, many = Finding(LOOPS, result(requests=0)), Finding(LOOPS, result(requests=400))
    assert mean_share([few, many]) == 400 / 478 / 2
    assert "41.8% of a full run's requests on the mean, at most 40%" in problems_of([few, many])[0]
    assert mean_share([Finding(GOOD, result("good"))]) is None


def test_json_has_every_case_and_every_violation():
    told = as_json([Finding(LOOPS, result(outcome="broken"))], 3.0)
    assert told["cases"][0]["problems"] == told["problems"]
    assert told["cases"][0]["outcome"] == "broken"


def test_a_sample_has_the_good_one_and_so_many_that_must_be_blocked():
    some = chosen(None, 4, 1)
    assert [case.name for case in some if not case.blocks] == ["good"]
    assert len(some) == 5
    assert some == chosen(None, 4, 1)
    assert chosen(["NaN layer"], None, 0) == [case for case in CASES if case.name == "NaN layer"]


def test_a_mute_server_says_everything_but_log_probabilities():
    told = {"choices": [{"text": "Kaixo", "logprobs": {"token_logprobs": [-1.0]}, "prompt_logprobs": [None]}]}
    assert without_logprobs(told) == {"choices": [{"text": "Kaixo", "logprobs": None, "prompt_logprobs": None}]}


def test_what_was_judged_before_a_run_was_cut_off_is_read_again(tmp_path):
    kept = tmp_path / "results.jsonl"
    assert read_results(kept) == {}
    told = [result(requests=3), result(requests=5), result("good", "passed")]
    kept.write_text("".join(json.dumps(one._asdict()) + "\n" for one in told))
    assert read_results(kept) == {"loops": told[1], "good": told[2]}
