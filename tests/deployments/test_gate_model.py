"""`empelt gate MODEL` as a shell sees it, as far as it goes without a server: exit codes, the report, what is refused."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from deployments.command import app
from tasks import doors
from tasks.domain.verdict import Verdict

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "infra" / "demo_family" / "models"
PARENTS = (
    *("--parent", f"instruct={MODELS / 'llama-tiny-instruct-v2'}"),
    *("--parent", f"tuned={MODELS / 'eu_llama-tiny'}"),
)
EU = ("--family", "llama-tiny", "--target", "eu")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("EMPELT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_COLOR", "1")
    doors.forget()
    yield tmp_path
    doors.forget()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_broken_weights_are_rejected_before_anything_is_started(home: Path) -> None:
    broken = Path(shutil.copytree(MODELS / "llama-tiny-instruct-v2", home / "broken"))
    weights = load_file(broken / "model.safetensors")
    name = next(one for one in sorted(weights) if "down_proj" in one)
    weights[name].fill_(float("nan"))
    save_file(weights, broken / "model.safetensors")
    before = sorted(path.name for path in broken.iterdir())

    done = run("gate", broken, *EU, *PARENTS, "--json")
    assert done.exit_code == 1, done.output
    told = json.loads(done.stdout)
    assert (told["outcome"], told["exit_code"], told["family"], told["target"]) == ("rejected", 1, "llama-tiny", "eu")
    assert told["requests"] == {"examination": 0, "benchmarks": 0, "planned": 478}
    verdict = Verdict.model_validate(told["verdict"])
    assert [one.name for one in verdict.examined if not one.ok] == ["norms"]
    assert verdict.reasons[0].startswith(f"Examined, norms: {name}: its norm is nan")
    assert {row.score for row in verdict.rows} == {None}
    assert sorted(path.name for path in broken.iterdir()) == before, "what is judged is a copy"

    read = run("gate", broken, "--family", ROOT / "deployments/catalog/llama-tiny.yaml", "--target", "eu", *PARENTS)
    assert read.exit_code == 1
    assert "FAIL" in read.stdout
    assert "REJECTED by gate demo-language for llama-tiny/eu" in read.stdout


def test_a_gate_that_names_the_control_judges_nothing_without_it(home: Path) -> None:
    stated = "name: g\nchecks:\n  - {benchmark: eu_mc, metric: acc, min_gain: {control: 0.02}, critical: true}\n"
    (home / "g.yaml").write_text(stated)
    asked = (MODELS / "eu_llama-tiny", *EU, *PARENTS, "--gate", home / "g.yaml")
    done = run("gate", *asked)
    assert done.exit_code == 3, "it is no rejection"
    assert "the gate compares with the control" in done.output
    assert "--parent control=FOLDER" in done.output
    broken = Path(shutil.copytree(MODELS / "llama-tiny-instruct-v2", home / "broken"))
    weights = load_file(broken / "model.safetensors")
    weights[sorted(weights)[0]].fill_(float("nan"))
    save_file(weights, broken / "model.safetensors")
    with_one = run("gate", broken, *asked[1:], "--parent", f"control={MODELS / 'llama-tiny-instruct-v2'}", "--json")
    assert with_one.exit_code == 1, with_one.output
    assert set(json.loads(with_one.stdout)["verdict"]["parent_digests"]) == {"control", "instruct", "tuned"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none", *EU), "'none' is no folder, no artifact's digest and no owner/name of a repository"),
        (("0123456789", *EU), "begins 0 of the artifacts"),
        ((MODELS / "eu_llama-tiny", "--family", "nobody", "--target", "eu"), "nobody"),
        ((MODELS / "eu_llama-tiny", "--family", "x.yaml", "--target", "eu"), "x.yaml is no file"),
        ((MODELS / "eu_llama-tiny", "--family", "llama-tiny", "--target", "xx"), "xx"),
        (
            (MODELS / "eu_llama-tiny", *EU, "--parent", "base=x"),
            "no parent base of this target; it has instruct, tuned",
        ),
        ((MODELS / "eu_llama-tiny", *EU, "--parent", "x"), "--parent x: expected ROLE=VALUE"),
        ((MODELS / "eu_llama-tiny", *EU, "--url", "http://127.0.0.1:1"), "--url and --name belong together"),
        ((MODELS / "eu_llama-tiny", *EU, "--gate", "none.yaml"), "none.yaml is no file"),
    ],
)
def test_what_cannot_be_judged_is_broken_and_never_a_pass(arguments: tuple[object, ...], said: str) -> None:
    done = run("gate", *arguments, "--json")
    assert done.exit_code == 3
    told = json.loads(done.stdout)
    assert (told["outcome"], told["verdict"]) == ("broken", None)
    assert said in told["error"]


def test_a_server_that_is_not_there_is_broken() -> None:
    model = MODELS / "llama-tiny-instruct-v2"
    done = run("gate", model, *EU, *PARENTS, "--url", "http://127.0.0.1:9/v1", "--name", "m", "--json")
    assert done.exit_code == 3
    assert "EndpointUnavailable: http://127.0.0.1:9" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize("wrong", [("--target", "eu"), (*EU, "--nonsense")])
def test_wrong_usage_is_not_undecided(wrong: tuple[str, ...]) -> None:
    assert run("gate", "model", *wrong).exit_code == 3


def test_the_other_commands_of_the_group_are_found_by_name() -> None:
    assert "gate judge" not in run("gate", "lint", "--help").stdout
    assert run("gate", "lint", "none.yaml").exception is not None
    assert "--family" in run("gate", "model", "--help").stdout
