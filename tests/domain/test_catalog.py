"""The catalog as people write it: the files that ship load, and a slip is refused with file, key and line."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.domain.catalog import Family, load_catalog
from tasks.domain.errors import CatalogError
from tasks.domain.yaml_lines import Document
from tasks.harness.suite import known_benchmarks

SHIPPED = Path(__file__).parents[2] / "deployments" / "catalog"
FAMILY: dict[str, Any] = {
    "family": "tiny",
    "architectures": ["LlamaForCausalLM"],
    "base": {"repo": "lab/tiny"},
    "instruct": {"organizations": ["lab"], "pattern": r"lab/tiny-instruct-v\d+"},
    "tuned_bases": {"eu": {"repo": "lab/eu_tiny"}},
    "targets": {"eu": {"languages": ["eu"], "channel": "eu", "recipe": {"method": "linear"}, "gate": "small"}},
}
GATE: dict[str, Any] = {
    "name": "small",
    "checks": [{"benchmark": "eu_mc", "metric": "acc", "floor": 0.5, "critical": True}],
}


def write(folder: Path, name: str, content: Any) -> Path:
    """A file of the catalog; text is written as it is."""
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def family(**changes: Any) -> dict[str, Any]:
    return {**FAMILY, **changes}


def target(**changes: Any) -> dict[str, Any]:
    return {**FAMILY["targets"]["eu"], **changes}


def line_of(path: Path, words: str) -> int:
    """Number of the only line of ``path`` that holds ``words``."""
    found = [number for number, line in enumerate(path.read_text().splitlines(), start=1) if words in line]
    assert len(found) == 1
    return found[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "tiny", FAMILY)
    write(tmp_path, "gates/small", GATE)
    return tmp_path


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_a_family_that_ships_loads_and_every_target_has_its_gate(name: str) -> None:
    catalog = load_catalog(SHIPPED, [name], known=known_benchmarks())
    found = catalog.family(name)
    for target_name in found.targets:
        assert catalog.gate_of(catalog.target(name, target_name)).checks


def test_the_families_that_ship_load_together() -> None:
    catalog = load_catalog(SHIPPED, known=known_benchmarks())
    assert set(catalog.families) == {path.stem for path in SHIPPED.glob("*.yaml")}


def test_every_gate_that_ships_is_used_by_some_target() -> None:
    used = set(load_catalog(SHIPPED).gates)
    offered = {f"{code}-8b" for code in ("eu", "ca", "gl", "es")}  # their data have to be prepared first
    assert used == {path.stem for path in (SHIPPED / "gates").glob("*.yaml")} - offered


def test_only_the_families_asked_for_are_read(folder: Path) -> None:
    write(folder, "broken", "family: [")
    assert set(load_catalog(folder, ["tiny"]).families) == {"tiny"}


def test_a_family_file_that_is_not_there_is_refused_with_those_that_are(folder: Path) -> None:
    with pytest.raises(CatalogError) as caught:
        load_catalog(folder, ["tiny", "llama"])
    assert "['llama']" in str(caught.value)
    assert "there are ['tiny']" in str(caught.value)


def test_a_name_that_the_catalog_lacks_is_refused_with_the_known(folder: Path) -> None:
    catalog = load_catalog(folder)
    with pytest.raises(CatalogError, match=r"unknown family 'llama'.*\['tiny'\]"):
        catalog.family("llama")
    with pytest.raises(CatalogError, match=r"unknown target 'ca' of family 'tiny'.*\['eu'\]"):
        catalog.target("tiny", "ca")


@pytest.mark.parametrize(
    ("change", "key", "known"),
    [
        ({"chanel": "eu"}, "chanel", Family),
        ({"targets": {"eu": target(chanel="eu")}}, "targets.eu.chanel", "languages"),
        ({"tuned_bases": {"eu": {"repo": "lab/eu_tiny", "chanel": 1}}}, "tuned_bases.eu.chanel", "parent"),
        (
            {"targets": {"eu": target(recipe={"method": "linear", "chanel": 1})}},
            "targets.eu.recipe.chanel",
            "tuned_weight",
        ),
        ({"serving": {"chanel": 1}}, "serving.chanel", "max_model_len"),
        (
            {"instruct": {"organizations": ["lab"], "pattern": "lab/.*", "chanel": 1}},
            "instruct.chanel",
            "organizations",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_file_key_line_and_the_known_keys(
    folder: Path, change: dict[str, Any], key: str, known: Any
) -> None:
    path = write(folder, "tiny", family(**change))
    with pytest.raises(CatalogError) as caught:
        load_catalog(folder)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}:{line_of(path, 'chanel')}: {key}: unknown key 'chanel'; known here: ")
    listed = problem.split("known here: ")[1].split(", ")
    if known is Family:
        assert listed == sorted(Family.model_fields)
    else:
        assert known in listed


def test_a_key_that_stands_twice_is_refused_with_its_second_line(folder: Path) -> None:
    path = write(folder, "tiny", yaml.safe_dump(FAMILY, sort_keys=False) + "publish: auto\npublish: never\n")
    with pytest.raises(CatalogError) as caught:
        load_catalog(folder)
    second = len(path.read_text().splitlines())
    assert f"{path}:{second}: key 'publish' stands twice; keep one" in str(caught.value)


def test_a_key_that_stands_twice_deep_inside_is_seen_too(folder: Path) -> None:
    path = write(folder, "gates/small", "name: small\nchecks:\n- {benchmark: eu_mc, floor: 0.9,\n   floor: 0.1}\n")
    with pytest.raises(CatalogError) as caught:
        load_catalog(folder)
    assert f"{path}:4: key 'floor' stands twice" in str(caught.value)


def test_a_gate_file_that_is_not_there_is_refused_with_those_that_are(folder: Path) -> None:
    path = write(folder, "tiny", family(targets={"eu": target(gate="strict")}))
    with pytest.raises(CatalogError) as caught:
        load_catalog(folder)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}:{line_of(path, 'gate: strict')}: targets.eu.gate: ")
    assert str(folder / "gates" / "strict.yaml") in problem
    assert "there are ['small']" in problem


def test_an_unknown_benchmark_in_a_gate_is_named_with_the_known(folder: Path) -> None:
    write(folder, "gates/small", {**GATE, "checks": [{**GATE["checks"][0], "benchmark": "eu_mcc"}]})
    with pytest.raises(CatalogError) as caught:
        load_catalog(folder, known={"eu_mc", "en_mc"})
    assert "no suite defines eu_mcc" in str(caught.value)
    assert "Known: en_mc, eu_mc" in str(caught.value)
    assert str(folder / "gates" / "small.yaml") in str(caught.value)


def test_an_unknown_key_of_a_gate_is_refused_with_file_key_line_and_the_known_keys(folder: Path) -> None:
    path = write(folder, "gates/small", {**GATE, "checks": [{**GATE["checks"][0], "max_dorp": {"instruct": 0.1}}]})
    with pytest.raises(CatalogError) as caught:
        load_catalog(folder)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}:{line_of(path, 'max_dorp')}: checks.0.max_dorp: unknown key")
    assert "max_drop" in problem.split("known here: ")[1]


def test_a_target_for_a_language_without_tuned_base_is_refused(folder: Path) -> None:
    path = write(folder, "tiny", family(targets={"iberian": target(languages=["eu", "gl", "ca"])}))
    with pytest.raises(CatalogError) as caught:
        load_catalog(folder)
    assert "target 'iberian' asks for ['gl', 'ca'], but tuned_bases has only ['eu']" in str(caught.value)
    assert str(path) in str(caught.value)


def test_two_targets_on_one_channel_are_refused_within_a_family(folder: Path) -> None:
    write(folder, "tiny", family(targets={"eu": target(), "other": target()}))
    with pytest.raises(CatalogError, match=r"tiny\.targets\.other: channel 'eu' is taken by tiny\.targets\.eu"):
        load_catalog(folder)


def test_two_targets_on_one_channel_are_refused_across_families(folder: Path) -> None:
    write(folder, "zwei", family(family="zwei"))
    with pytest.raises(CatalogError, match=r"zwei\.targets\.eu: channel 'eu' is taken by tiny\.targets\.eu"):
        load_catalog(folder)


def test_a_family_must_be_called_like_its_file(folder: Path) -> None:
    path = write(folder, "tiny", family(family="big"))
    with pytest.raises(CatalogError) as caught:
        load_catalog(folder)
    assert f"{path}:1: family: 'big' must equal the file's name 'tiny'" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("family: tiny\nbase: [lab\n", ":3: not YAML"),
        ("family: tiny\n\tbase: x\n", ":2: not YAML"),
        ("family: tiny\nbase: \x00\n", ":1: not YAML: unacceptable character"),
        ("", ":1: expected a mapping of keys, found nothing"),
        ("- a\n- b\n", ":1: expected a mapping of keys, found something else"),
        ("family: tiny\ndescription: !!python/name:os.system\n", ":2: not YAML"),
        ("family: tiny\ndescription: 2026-13-45\n", ":2: not YAML"),
    ],
)
def test_what_is_no_mapping_in_yaml_is_refused_with_its_line(folder: Path, text: str, says: str) -> None:
    path = write(folder, "tiny", text)
    with pytest.raises(CatalogError) as caught:
        load_catalog(folder)
    assert f"{path}{says}" in str(caught.value)


def test_a_file_in_another_encoding_is_refused(folder: Path) -> None:
    path = folder / "tiny.yaml"
    path.write_bytes("description: Español\n".encode("latin-1"))
    with pytest.raises(CatalogError) as caught:
        load_catalog(folder)
    assert f"{path}:1: not UTF-8" in str(caught.value)


def test_a_wrong_value_is_refused_with_its_line_and_what_was_expected(folder: Path) -> None:
    path = write(folder, "tiny", family(targets={"eu": target(recipe={"method": "tyes"})}))
    with pytest.raises(CatalogError) as caught:
        load_catalog(folder)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}:{line_of(path, 'method: tyes')}: targets.eu.recipe.method: ")
    assert "did you mean 'ties'" in problem


def test_a_pattern_that_is_no_regular_expression_is_refused(folder: Path) -> None:
    path = write(folder, "tiny", family(instruct={"organizations": ["lab"], "pattern": "lab/(tiny"}))
    with pytest.raises(CatalogError) as caught:
        load_catalog(folder)
    assert f"{path}:{line_of(path, 'pattern')}: instruct.pattern: " in str(caught.value)
    assert "not a regular expression" in str(caught.value)


def test_a_missing_key_is_refused_at_the_key_above_it(folder: Path) -> None:
    broken = target()
    del broken["gate"]
    path = write(folder, "tiny", family(targets={"eu": broken}))
    with pytest.raises(CatalogError) as caught:
        load_catalog(folder)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}:")
    assert "targets.eu.gate: Field required" in problem


def test_all_problems_of_all_files_are_listed_at_once(folder: Path) -> None:
    first = write(
        folder,
        "tiny",
        family(chanel=1, publish="always", base={"repo": "no-organization"}, tuned_bases={}),
    )
    second = write(folder, "zwei", family(family="drei", targets={"a": target(gate="x"), "b": target(gate="y")}))
    third = write(folder, "vier", "family: [\n")
    with pytest.raises(CatalogError) as caught:
        load_catalog(folder)
    problems = caught.value.problems
    assert [sum(str(path) in p for p in problems) for path in (first, second, third)] == [4, 3, 1]
    assert any("channel 'eu' is taken" in p for p in problems)
    for words in ("chanel", "publish", "base.repo", "tuned_bases", "x.yaml", "y.yaml", "must equal", "not YAML"):
        assert any(words in p for p in problems), words


def test_a_bad_gate_that_many_targets_use_is_told_once(folder: Path) -> None:
    write(folder, "tiny", family(targets={"a": target(channel="a"), "b": target(channel="b")}))
    write(folder, "gates/small", {**GATE, "rule": "sure"})
    with pytest.raises(CatalogError) as caught:
        load_catalog(folder)
    assert len(caught.value.problems) == 1


def test_a_place_that_is_not_in_the_file_is_told_by_the_nearest_key_above_it(folder: Path) -> None:
    document = Document(folder / "tiny.yaml")
    line = line_of(document.path, "targets:")
    assert document.where(("targets", "ca", "gate")) == f"{document.path}:{line}: targets.ca.gate"
    assert document.where(()) == f"{document.path}:1: the file"
