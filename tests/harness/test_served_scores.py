"""What a real vLLM server is measured at, against transformers and against itself."""

import math
from pathlib import Path

import pytest

from tasks.domain.errors import InputError
from tasks.domain.models import Score
from tasks.harness.run import Progress, evaluate
from tasks.harness.suite import chosen

pytestmark = pytest.mark.serving
ALL = ("eu_mc", "eu_chat", "eu_bpb", "eu_text")
TOLERANCE = 2e-3
"""In nats or bits per sequence: float32 on both sides, other kernels and another order of sums."""


def log_likelihood(folder: Path, given: list[int], rest: list[int]) -> float:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logs = torch.log_softmax(model(torch.tensor([given + rest])).logits[0], -1)
    return float(sum(logs[len(given) - 1 + k, token] for k, token in enumerate(rest)))


@pytest.fixture(scope="module")
def measured(vllm_url: str, tiny_model: Path, suites: Path) -> dict[tuple[str, str], Score]:
    progress: list[Progress] = []
    scores = evaluate(
        base_url=vllm_url,
        model="tiny",
        folder=tiny_model,
        benchmarks=ALL,
        suites=suites,
        batch_size=16,
        on_progress=progress.append,
    )
    assert [p.done for p in progress] == sorted(p.done for p in progress)
    assert (progress[-1].done, progress[-1].total) == (24 * 3 + 12 + 8 + 10, 24 * 3 + 12 + 8 + 10)
    return {(s.benchmark, s.metric): s for s in scores}


def test_every_item_has_its_outcome(measured: dict[tuple[str, str], Score], suites: Path) -> None:
    assert list(measured) == [
        ("eu_mc", "acc"),
        ("eu_chat", "strict"),
        ("eu_chat", "lenient"),
        ("eu_bpb", "bits_per_byte"),
        ("eu_text", "in_language"),
    ]
    for (benchmark, _), score in measured.items():
        assert [i.item_id for i in score.items] == [row["id"] for row in chosen(benchmark, folder=suites)]
    assert all(item.answer for item in measured["eu_chat", "strict"].items)
    assert all(item.answer for item in measured["eu_text", "in_language"].items)


def test_batches_of_one_give_the_same_scores(
    measured: dict[tuple[str, str], Score], vllm_url: str, tiny_model: Path, suites: Path
) -> None:
    one = evaluate(
        base_url=vllm_url, model="tiny", folder=tiny_model, benchmarks=ALL, suites=suites, batch_size=1, concurrency=1
    )
    for score in one:
        other = measured[score.benchmark, score.metric]
        assert [i.answer for i in score.items] == [i.answer for i in other.items]
        assert [i.value for i in score.items] == pytest.approx([i.value for i in other.items], abs=TOLERANCE)


def test_multiple_choice_picks_what_transformers_finds_likeliest_per_byte(
    measured: dict[tuple[str, str], Score], tiny_model: Path, suites: Path
) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    outcome = {i.item_id: i.value for i in measured["eu_mc", "acc"].items}
    for row in chosen("eu_mc", folder=suites)[:6]:
        given = [0, *tokenizer.encode(row["prompt"]).ids]
        per_byte = []
        for choice in row["choices"]:
            rest = [0, *tokenizer.encode(row["prompt"] + choice).ids][len(given) :]
            per_byte.append(log_likelihood(tiny_model, given, rest) / len(choice.encode()))
        assert outcome[row["id"]] == float(per_byte.index(max(per_byte)) == row["answer"])


def test_bits_are_those_of_transformers_after_the_fixed_prefix_token_and_not_after_eos(
    measured: dict[tuple[str, str], Score], tiny_model: Path, suites: Path
) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    items = {i.item_id: i for i in measured["eu_bpb", "bits_per_byte"].items}
    for row in [r for r in chosen("eu_bpb", folder=suites) if len(tokenizer.encode(r["text"]).ids) < 126][:3]:
        tokens = tokenizer.encode(row["text"]).ids
        bits = -log_likelihood(tiny_model, [0], tokens) / math.log(2)
        assert items[row["id"]].value == pytest.approx(bits, abs=TOLERANCE)
        assert items[row["id"]].weight == len(row["text"].encode())
        after_eos = -log_likelihood(tiny_model, [2], tokens) / math.log(2)
        assert abs(after_eos - bits) > 100 * TOLERANCE


def test_another_prefix_token_is_another_measurement(
    measured: dict[tuple[str, str], Score], vllm_url: str, tiny_model: Path, suites: Path
) -> None:
    (other,) = evaluate(
        base_url=vllm_url, model="tiny", folder=tiny_model, benchmarks=["eu_bpb"], suites=suites, prefix_token_id=2
    )
    assert other.value != pytest.approx(measured["eu_bpb", "bits_per_byte"].value, abs=1e-3)


def test_a_model_without_a_template_is_asked_in_plain_text(vllm_url: str, tiny_model: Path, suites: Path) -> None:
    asked = {"base_url": vllm_url, "model": "tiny", "folder": tiny_model, "benchmarks": ["eu_chat"], "suites": suites}
    plain, _ = evaluate(**asked, chat_template=False)  # type: ignore[arg-type]
    chat, _ = evaluate(**asked)  # type: ignore[arg-type]
    assert plain.n == chat.n
    assert [i.answer for i in plain.items] != [i.answer for i in chat.items]


def test_an_item_that_does_not_fit_is_refused_and_not_cut(
    vllm_url: str, tiny_model: Path, suites: Path, tmp_path: Path
) -> None:
    import json
    import shutil

    longer = tmp_path / "suites"
    shutil.copytree(suites, longer)
    row = {"id": "m", "kind": "w", "prompt": "mendi " * 200, "choices": ["bat", "bi", "hiru", "lau"], "answer": 0}
    (longer / "data/eu_mc.test.jsonl").write_text(json.dumps(row), "utf-8")
    with pytest.raises(InputError, match=r"eu_mc: an item has \d+ tokens, tiny takes 127"):
        evaluate(base_url=vllm_url, model="tiny", folder=tiny_model, benchmarks=["eu_mc"], suites=longer)
