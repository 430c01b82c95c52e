"""Every fault of an endpoint is an error, and never a wrong answer."""

import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tasks.domain.errors import EndpointUnavailable, InputError, ModelRefused, PipelineError, UnknownBenchmark
from tasks.domain.models import Score
from tasks.harness.run import evaluate
from tasks.harness.suite import Cost, cost_of

Stub = Callable[..., AbstractContextManager[tuple[str, "subprocess.Popen[bytes]"]]]


@pytest.fixture
def ask(stub_server: Stub, model_folder: Path, suites: Path) -> Callable[..., tuple[Score, ...]]:
    def run(fault: str, *benchmarks: str, timeout_seconds: float = 20, wait_seconds: float = 0) -> tuple[Score, ...]:
        with stub_server(fault) as (url, _):
            return evaluate(
                base_url=url,
                model="stub",
                folder=model_folder,
                benchmarks=benchmarks or ("eu_mc", "eu_chat", "eu_bpb"),
                suites=suites,
                batch_size=8,
                timeout_seconds=timeout_seconds,
                wait_seconds=wait_seconds,
            )

    return run


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("500", EndpointUnavailable, "HTTP 500: EngineCore encountered an issue"),
        ("abort-scores", EndpointUnavailable, "abort"),
        ("abort-chat", EndpointUnavailable, "abort"),
        ("partial", EndpointUnavailable, "expected 8 finished choices, got 7"),
        ("slow", EndpointUnavailable, "TimeoutError"),
        ("400", InputError, "HTTP 400: maximum context length"),
        ("no-echo", InputError, "does not echo prompts"),
        ("nan", ModelRefused, "not finite"),
        ("equal", ModelRefused, "tokens got the same log-likelihood -1"),
    ],
)
def test_a_fault_is_an_error_and_not_a_wrong_answer(
    ask: Callable[..., tuple[Score, ...]], fault: str, error: type[PipelineError], said: str
) -> None:
    with pytest.raises(error, match=said):
        ask(fault, timeout_seconds=1 if fault == "slow" else 20)


def test_a_server_without_faults_is_scored(ask: Callable[..., tuple[Score, ...]]) -> None:
    mc, strict, lenient, bits, text = ask("none", "eu_mc", "eu_chat", "eu_bpb", "eu_text")
    assert (mc.n, strict.n, lenient.n, bits.n, text.n) == (24, 12, 12, 8, 10)
    assert {i.answer for i in strict.items} == {"bai"}
    assert strict.value == 0
    # Each text's continuation is its own, although ten are asked in requests of eight and answered in any order.
    assert [i.answer for i in text.items] == [f"bai {k % 8}" for k in range(10)]
    assert (text.metric, text.value) == ("in_language", 0)  # too few letters to be in any language


def test_what_is_sent_is_counted_by_benchmark(stub_server: Stub, model_folder: Path, suites: Path) -> None:
    sent: dict[str, Cost] = {}
    benchmarks = ["eu_mc", "eu_chat", "eu_bpb", "eu_text"]
    with stub_server() as (url, _):
        evaluate(
            base_url=url,
            model="stub",
            folder=model_folder,
            benchmarks=benchmarks,
            suites=suites,
            on_sent=sent.update,
        )
    assert sent == {name: cost_of(name, folder=suites) for name in benchmarks}
    assert sent == {"eu_mc": (72, 2), "eu_chat": (12, 12), "eu_bpb": (8, 1), "eu_text": (10, 1)}


@pytest.mark.parametrize("fault", ["busy", "torn"])
def test_a_request_that_is_sent_again_is_counted_again(
    fault: str, stub_server: Stub, model_folder: Path, suites: Path
) -> None:
    sent: dict[str, Cost] = {}
    with stub_server(fault) as (url, _):
        evaluate(
            base_url=url, model="stub", folder=model_folder, benchmarks=["eu_chat"], suites=suites, on_sent=sent.update
        )
    assert sent == {"eu_chat": (12, 13)}


def test_a_server_that_dies_in_the_middle_is_unavailable(stub_server: Stub, model_folder: Path, suites: Path) -> None:
    with stub_server("dying") as (url, process), pytest.raises(EndpointUnavailable, match="did not answer for stub"):
        evaluate(
            base_url=url,
            model="stub",
            folder=model_folder,
            benchmarks=["eu_mc"],
            suites=suites,
            batch_size=8,
            on_progress=lambda _: process.kill(),
        )


def test_nobody_listening_is_unavailable(model_folder: Path, suites: Path) -> None:
    with pytest.raises(EndpointUnavailable, match=r"127\.0\.0\.1:9"):
        evaluate(base_url="http://127.0.0.1:9/v1", model="m", folder=model_folder, benchmarks=["eu_mc"], suites=suites)


def test_a_model_that_is_staged_a_little_later_is_waited_for(ask: Callable[..., tuple[Score, ...]]) -> None:
    with pytest.raises(EndpointUnavailable, match="HTTP 404"):
        ask("late", "eu_bpb")
    assert ask("late", "eu_bpb", wait_seconds=20)[0].n == 8


def test_an_unknown_benchmark_is_refused_before_anything_is_sent(model_folder: Path, suites: Path) -> None:
    with pytest.raises(UnknownBenchmark, match=r"ca_mc.*Known: eu_bpb, eu_chat, eu_mc"):
        evaluate(base_url="http://127.0.0.1:9/v1", model="m", folder=model_folder, benchmarks=["ca_mc"], suites=suites)


@pytest.mark.parametrize("missing", ["tokenizer.json", "config.json"])
def test_a_folder_that_is_no_model_is_refused_by_the_file(missing: str, tmp_path: Path, suites: Path) -> None:
    for name in {"tokenizer.json", "config.json"} - {missing}:
        (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=missing):
        evaluate(base_url="http://127.0.0.1:9/v1", model="m", folder=tmp_path, benchmarks=["eu_mc"], suites=suites)


def test_a_family_without_bos_must_name_its_prefix_token(tmp_path: Path, suites: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text('{"eos_token_id": 2, "max_position_embeddings": 128}')
    with pytest.raises(InputError, match=r"bos_token_id is None.*prefix_token_id"):
        evaluate(base_url="http://127.0.0.1:9/v1", model="m", folder=tmp_path, benchmarks=["eu_mc"], suites=suites)
