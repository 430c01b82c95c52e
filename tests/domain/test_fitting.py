"""One gate file for many languages: what `{language}` becomes, and what is refused for one target only, by file and line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.domain.catalog import Catalog, load_catalog
from tasks.domain.errors import CatalogError

KNOWN = {"eu_chat": 300, "eu_mc": 15, "gl_chat": 300, "gl_mc": 15, "en_mc": 15}
CHAT: dict[str, Any] = {"benchmark": "{language}_chat", "metric": "strict", "floor": 0.35, "critical": True}
GAIN: dict[str, Any] = {"benchmark": "{language}_mc", "metric": "acc", "keep_gain": 0.75}
RETENTION: dict[str, Any] = {"benchmark": "en_mc", "metric": "acc", "max_drop": {"instruct": 0.1}}
Load = Callable[..., Catalog]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Writes a family with targets eu, gl and both, and the gate that all three use; reads them as the command does."""

    def run(*checks: dict[str, Any], languages: tuple[str, ...] = ("eu", "gl"), **more: Any) -> Catalog:
        target = {"recipe": {"method": "linear"}, "gate": "shared"}
        targets = {code: {**target, "languages": [code], "channel": code} for code in languages}
        targets["both"] = {**target, "languages": list(languages), "channel": "both"}
        family = {
            "family": "tiny",
            "architectures": ["LlamaForCausalLM"],
            "base": {"repo": "lab/tiny"},
            "instruct": {"organizations": ["lab"], "pattern": "lab/tiny-.*"},
            "tuned_bases": {code: {"repo": f"lab/{code}_tiny"} for code in languages},
            "targets": targets,
        }
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(family, sort_keys=False), "utf-8")
        (tmp_path / "gates").mkdir(exist_ok=True)
        lines = [f"{key}: {value}" for key, value in {"name": "shared", **more}.items()] + ["checks:"]
        lines += [f"  - {yaml.safe_dump(check, default_flow_style=True, width=999).strip()}" for check in checks]
        (tmp_path / "gates" / "shared.yaml").write_text("\n".join(lines) + "\n", "utf-8")
        return load_catalog(tmp_path, known=KNOWN, requests_of=KNOWN.__getitem__)

    return run


def gate_for(catalog: Catalog, target: str) -> Any:
    return catalog.gate_of(catalog.target("tiny", target))


def test_each_language_of_the_target_stands_for_the_placeholder(load: Load) -> None:
    catalog = load(CHAT, GAIN, RETENTION)
    assert gate_for(catalog, "eu").benchmarks == ("eu_chat", "eu_mc", "en_mc")
    both = gate_for(catalog, "both")
    assert both.benchmarks == ("eu_chat", "gl_chat", "eu_mc", "gl_mc", "en_mc")
    assert [check.language for check in both.checks] == ["eu", "gl", "eu", "gl", None]
    assert {check.keep_gain for check in both.checks if check.benchmark.endswith("_mc")} == {0.75, None}


def test_the_gate_of_each_target_has_a_digest_of_its_own(load: Load) -> None:
    catalog = load(CHAT, GAIN, RETENTION)
    digests = {gate_for(catalog, target).digest() for target in ("eu", "gl", "both")}
    assert len(digests) == 3
    assert gate_for(load(CHAT, GAIN, RETENTION), "eu").digest() in digests
    assert gate_for(load({**CHAT, "floor": 0.36}, GAIN, RETENTION), "eu").digest() not in digests


def test_a_parent_is_measured_on_what_is_compared_with_it(load: Load) -> None:
    catalog = load(CHAT, GAIN, RETENTION)
    both = gate_for(catalog, "both")
    assert both.benchmarks_of("instruct") == both.benchmarks
    assert both.benchmarks_of("tuned:gl") == ("gl_chat", "gl_mc")
    assert both.benchmarks_of("tuned:ca") == ()
    assert gate_for(catalog, "eu").benchmarks_of("tuned") == ("eu_chat", "eu_mc")


def refused(load: Load, tmp_path: Path, *checks: dict[str, Any], **more: Any) -> list[str]:
    with pytest.raises(CatalogError) as caught:
        load(*checks, **more)
    return [problem.removeprefix(f"{tmp_path}/gates/shared.yaml:") for problem in caught.value.problems]


def test_a_language_without_a_suite_is_refused_by_line_and_language(load: Load, tmp_path: Path) -> None:
    (problem,) = refused(load, tmp_path, CHAT, RETENTION, languages=("eu", "oc"))
    assert problem.startswith("3: checks.0: no suite defines oc_chat (that is {language}_chat for 'oc')")
    assert "Known: en_mc, eu_chat" in problem


def test_another_placeholder_is_refused_with_the_known_one(load: Load, tmp_path: Path) -> None:
    (problem,) = refused(load, tmp_path, RETENTION, {**CHAT, "benchmark": "{lang}_chat"})
    assert problem == "4: checks.1: unknown placeholder {lang} in benchmark; known here: {language}"


def test_a_language_beside_the_placeholder_is_refused(load: Load, tmp_path: Path) -> None:
    (problem,) = refused(load, tmp_path, {**CHAT, "language": "eu"})
    assert problem == "3: checks.0: language is filled in by {language}; leave it out"


def test_a_placeholder_that_meets_a_written_check_is_refused(load: Load, tmp_path: Path) -> None:
    (problem,) = refused(load, tmp_path, CHAT, {**CHAT, "benchmark": "eu_chat"})
    assert problem == "2: checks: checked twice: eu_chat/strict. Join their limits in one check"


def test_tuned_is_not_guessed_where_there_are_several(load: Load, tmp_path: Path) -> None:
    (problem,) = refused(load, tmp_path, CHAT, {**GAIN, "benchmark": "eu_mc"})
    assert problem.startswith("4: checks.1: eu_mc is compared with the tuned base, and the target has several (eu, gl)")


def test_a_language_that_a_target_lacks_is_refused(load: Load, tmp_path: Path) -> None:
    (problem,) = refused(load, tmp_path, CHAT, {**GAIN, "benchmark": "eu_mc", "language": "eu"})
    assert problem == "4: checks.1: language 'eu' is none of the target's: gl"


def test_more_requests_than_the_budget_are_refused_and_the_dearest_named(load: Load, tmp_path: Path) -> None:
    (problem,) = refused(load, tmp_path, CHAT, GAIN, RETENTION, max_requests=600)
    assert problem.startswith(
        "3: checks: its suites and 130 questions of the examination and of A/A need 775 requests for one candidate,"
        " 600 are allowed;"
    )
    assert "eu_chat (300), gl_chat (300), eu_mc (15)" in problem
    assert gate_for(load(CHAT, GAIN, RETENTION, max_requests=775), "both").max_requests == 775


def test_the_budget_is_1500_requests_if_none_is_stated(load: Load) -> None:
    assert gate_for(load(CHAT), "eu").max_requests == 1500
