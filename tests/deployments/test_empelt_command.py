"""The `empelt` command as a shell sees it: exit codes, one JSON object on stdout, one clear message on stderr."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tasks.domain.gate import parse_gate
from tasks.domain.keys import verdict_key
from tasks.domain.models import ChannelState, Evaluation, Item, ModelRef, Score
from tasks.domain.verdict import judge
from tasks.store.ledger import Ledger

ROOT = Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
RELEASE = ModelRef(repo_id="lab/instruct-v2", revision="1" * 40)


COMMANDS = (
    "demo",
    "up",
    "status",
    "plan",
    "explain",
    "retry",
    "base",
    "backfill",
    "merge",
    "rollback",
    "doctor",
    "publish",
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def environment(home: Path, tmp_path: Path) -> dict[str, str]:
    """As in a new shell; what the command would reach on the network is closed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EMPELT_", "PREFECT_"))}
    return {
        **kept,
        "EMPELT_HOME": str(home),
        "EMPELT_PREFECT_PORT": str(free_port()),
        "EMPELT_GATEWAY_PORT": str(free_port()),
        "EMPELT_HUB_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "EMPELT_SERVING_PYTHON": str(tmp_path / "no-vllm" / "python"),
        "EMPELT_FAMILIES": "llama-tiny",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "COLUMNS": "200",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def empelt(environment: dict[str, str]) -> Run:
    def run(*arguments: object, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "deployments", *map(str, arguments)],
            cwd=ROOT,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=200,
        )

    return run


def refused(done: "subprocess.CompletedProcess[str]", code: int = 2) -> str:
    """The message of a refusal: on stderr alone, and no traceback."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def make_ledger(home: Path) -> ChannelState:
    """A channel that was switched twice, the verdict about what it serves, a hold and a running job."""
    gate = parse_gate(
        {
            "name": "eu",
            "rule": "point",
            "checks": [{"benchmark": "b", "metric": "acc", "floor": 0.5, "critical": True}],
        },
        "eu.yaml",
    )
    items = tuple(Item(item_id=f"q{k}", value=float(k < 8)) for k in range(10))
    score = Score(benchmark="b", metric="acc", value=0.8, stderr=0.1, n=10, items=items)
    verdict = judge(gate, Evaluation(eval_key="e" * 64, artifact_digest="c" * 64, scores=(score,)), {}, None)
    home.mkdir()
    with Ledger.open(f"sqlite:///{home / 'ledger.db'}") as ledger:
        ledger.record_verdict(
            verdict_key(artifact="c" * 64, gate=gate.digest(), references={}),
            "a" * 64,
            verdict.outcome,
            verdict.model_dump(mode="json"),
            family="llama-tiny",
            target="eu",
        )
        old = ModelRef(repo_id="lab/instruct-v1", revision="0" * 40)
        common = {"target": "eu", "family": "llama-tiny"}
        ledger.switch_channel("eu", digest="b" * 64, release=old, expected_generation=0, reason="first", **common)
        state = ledger.switch_channel(
            "eu", digest="c" * 64, release=RELEASE, expected_generation=1, reason="Stronger than live.", **common
        )
        ledger.acknowledge("eu", 1)
        ledger.record_hold("d" * 64, "the disk is full")
        ledger.claim("f" * 64, owner="run:x", lease_seconds=600, description={"name": "instruct-v3 x eu"})
    return state


def test_help_names_every_command_and_the_exit_codes(empelt: Run) -> None:
    done = empelt("--help")
    assert done.returncode == 0
    for word in (*COMMANDS, "Exit codes: 0 done, 1 failed, 2 refused"):
        assert word in done.stdout
    for hidden in ("agent", "gateway"):
        assert f"\n│ {hidden}" not in done.stdout


@pytest.mark.parametrize("arguments", [["statsu"], ["status", "--jsno"], ["merge", "only-one"], ["rollback"]])
def test_a_command_that_cannot_be_read_is_refused(empelt: Run, arguments: list[str]) -> None:
    refused(empelt(*arguments))


def test_a_setting_that_cannot_be_read_is_refused_by_its_name(empelt: Run) -> None:
    told = refused(empelt("status", EMPELT_WATCH_INTERVAL_SECONDS="soon", EMPELT_DEVICE="tpu"))
    assert "EMPELT_WATCH_INTERVAL_SECONDS" in told
    assert "EMPELT_DEVICE" in told
    assert "'cpu' or 'gpu'" in told


# --- status ---------------------------------------------------------------------------------------------------------


def test_status_without_a_ledger_is_refused_in_one_sentence(empelt: Run, home: Path) -> None:
    told = refused(empelt("status", "--json"))
    assert told.count("\n") == 1
    for words in (f"no ledger in {home}", "`empelt up`", "EMPELT_HOME"):
        assert words in told
    assert not home.exists()


def test_status_tells_what_serves_since_when_by_which_verdict_what_runs_and_what_waits(empelt: Run, home: Path) -> None:
    began = datetime.now(UTC)
    make_ledger(home)
    done = empelt("status", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    (channel,) = found["channels"]
    since = datetime.fromisoformat(channel.pop("since"))
    assert abs((since - began).total_seconds()) < 60
    assert channel == {
        "channel": "eu",
        "release": str(RELEASE),
        "artifact": "c" * 64,
        "generation": 2,
        "visible": False,
        "verdict": "passed",
        "instance": "none",
        "why": "Stronger than live.",
    }
    (running,) = found["running"]
    assert (running["job"], running["attempt"]) == ("instruct-v3 x eu", 1)
    assert 500 < running["lease_seconds_left"] <= 600
    assert found["waiting"] == [{"what": "d" * 64, "why": "the disk is full"}]
    assert found["verdicts"][0]["outcome"] == "passed"
    assert found["agent_heard_seconds"] is None


def test_status_for_people_says_the_same(empelt: Run, home: Path) -> None:
    make_ledger(home)
    done = empelt("status")
    assert done.returncode == 0, done.stderr
    for words in (
        str(RELEASE),
        "c" * 12,
        "2 (not visible yet)",
        "passed",
        "running  instruct-v3 x eu, attempt 1",
        "the disk is full",
        "agent    never heard of",
    ):
        assert words in done.stdout


# --- doctor ---------------------------------------------------------------------------------------------------------


def test_doctor_names_what_is_missing_and_what_is_well(empelt: Run, environment: dict[str, str]) -> None:
    done = empelt("doctor", "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is False
    findings = {finding["check"]: finding for finding in report["findings"]}
    serving = findings["serving environment"]
    assert serving["ok"] is False
    assert environment["EMPELT_SERVING_PYTHON"] in serving["found"]
    assert "`make setup`" in serving["found"]
    assert findings["Hub"]["ok"] is False
    assert environment["EMPELT_HUB_ENDPOINT"] in findings["Hub"]["found"]
    assert [name for name, finding in findings.items() if not finding["ok"]] == ["serving environment", "Hub"]
    assert "llama-tiny" in findings["catalog"]["found"]


def test_doctor_shows_no_token(empelt: Run) -> None:
    done = empelt("doctor", EMPELT_HUB_TOKEN="hf_secret")
    assert done.returncode == 1
    assert "MEND serving environment" in done.stdout
    assert "hf_secret" not in done.stdout + done.stderr


# --- rollback -------------------------------------------------------------------------------------------------------


def test_rollback_without_a_ledger_is_refused_and_makes_none(empelt: Run, home: Path) -> None:
    assert f"no ledger in {home}" in refused(empelt("rollback", "eu"))
    assert not home.exists()


def test_rollback_of_an_unknown_channel_is_refused_with_the_known(empelt: Run, home: Path) -> None:
    make_ledger(home)
    told = refused(empelt("rollback", "nope", "--json"))
    assert "channel 'nope' has never served anything" in told
    assert "['eu']" in told


def test_rollback_while_nothing_is_up_may_be_tried_again(empelt: Run, home: Path, environment: dict[str, str]) -> None:
    state = make_ledger(home)
    told = refused(empelt("rollback", "eu"), code=3)
    assert f"no Prefect server at http://127.0.0.1:{environment['EMPELT_PREFECT_PORT']}" in told
    assert "`empelt up`" in told
    with Ledger.open(f"sqlite:///{home / 'ledger.db'}") as ledger:
        now = ledger.channel("eu")
    assert now is not None
    assert now.generation == state.generation


# --- merge ----------------------------------------------------------------------------------------------------------


def write_model(folder: Path, seed: int, *, words: int = 8) -> Path:
    """The smallest checkpoint that has all that a merge looks at; nothing can run it."""
    folder.mkdir()
    numbers = np.random.default_rng(seed)
    tensors = {"model.embed_tokens.weight": (8, 4), "model.norm.weight": (4,)}
    save_file(
        {name: numbers.standard_normal(shape).astype(np.float32) for name, shape in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4, "vocab_size": 8}
    config |= {"tie_word_embeddings": True, "num_hidden_layers": 0, "num_attention_heads": 1}
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = {f"{'w' if words == 8 else 'v'}{number}": number for number in range(8)}
    tokenizer = {"model": {"type": "BPE", "vocab": vocabulary, "merges": []}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A merge of base, instruct and eu, as YAML."""
    folders = {name: write_model(tmp_path / name, seed) for seed, name in enumerate(("base", "instruct", "eu"))}
    path = tmp_path / "merge.yaml"
    path.write_text(
        f"recipe: {{method: task_arithmetic, tuned_weight: 0.5, out_dtype: float32, special_rows: merge}}\n"
        f"base: {folders['base']}\ninstruct: {folders['instruct']}\ntuned:\n  eu: {{path: {folders['eu']}}}\n"
    )
    return path


def test_merge_of_folders_needs_no_ledger_and_no_server(empelt: Run, config: Path, tmp_path: Path, home: Path) -> None:
    from safetensors.numpy import load_file

    done = empelt("merge", config, tmp_path / "out", "--allow-foreign-parent", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["event"], report["tensors"]) == ("report", 2)
    base, instruct, tuned, out = (
        load_file(tmp_path / n / "model.safetensors") for n in ("base", "instruct", "eu", "out")
    )
    for name, theta in base.items():
        np.testing.assert_allclose(out[name], instruct[name] + 0.5 * (tuned[name] - theta), rtol=1e-5, atol=1e-6)
    assert not home.exists()


def test_merge_reads_json_too_and_says_what_it_wrote(empelt: Run, config: Path, tmp_path: Path) -> None:
    import yaml

    as_json = tmp_path / "merge.json"
    as_json.write_text(json.dumps(yaml.safe_load(config.read_text())))
    done = empelt("merge", as_json, tmp_path / "out", "--allow-foreign-parent")
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'out'}: " in done.stdout
    assert (tmp_path / "out" / "model.safetensors").exists()


def nothing_written(folder: Path) -> bool:
    return not [path.name for path in folder.iterdir() if path.name.startswith(("out", ".out"))]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "No such file"),
        ("recipe: [\n", "is no YAML"),
        ("just words", "expected a mapping"),
        ("recipe: {method: linear}\nbase: a\n", "missing keys ['instruct', 'tuned']"),
        ("recipe: {method: tyes}\nbase: a\ninstruct: b\ntuned: {}\n", "'tyes'"),
    ],
)
def test_a_merge_that_cannot_be_read_is_refused_by_its_file(
    empelt: Run, tmp_path: Path, text: str | None, says: str
) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    told = refused(empelt("merge", path, tmp_path / "out", "--json"))
    assert str(path) in told
    assert says in told
    assert nothing_written(tmp_path)


def test_a_base_with_another_vocabulary_is_refused_and_nothing_is_written(
    empelt: Run, config: Path, tmp_path: Path
) -> None:
    write_model(tmp_path / "wrong", 9, words=9)
    config.write_text(config.read_text().replace(str(tmp_path / "eu"), str(tmp_path / "wrong")))
    told = refused(empelt("merge", config, tmp_path / "out", "--json"))
    assert "VocabularyMismatch: the tokenizer of tuned base eu is not the instruct model's: 8 of 8 ids differ" in told
    assert nothing_written(tmp_path)


def test_a_folder_that_exists_is_not_overwritten(empelt: Run, config: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    told = refused(empelt("merge", config, tmp_path / "out", "--allow-foreign-parent"))
    assert str(tmp_path / "out") in told
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious"]


# --- up -------------------------------------------------------------------------------------------------------------


def test_up_with_an_unknown_family_is_refused_with_the_known(empelt: Run, home: Path) -> None:
    told = refused(empelt("up", "--families", "llama-huge"))
    assert "['llama-huge']" in told
    assert "'llama-tiny'" in told
    assert not home.exists()
