"""`empelt base add` refuses what it cannot prove, tells all that is wrong at once, and then has written nothing."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.adding import add
from deployments.catalog_file import CatalogFile
from tasks.domain.errors import CatalogError, HubUnavailable, InputError
from tasks.doors import open_source
from tasks.settings import Settings, settings

SHA = "12345678" * 5
WISH = {"family": "llama-tiny", "language": "pt", "repository": "empelt-demo/pt_llama-tiny", "like": "", "gate": ""}
FLAT = """name: flat
checks:
  - {benchmark: eu_mc, metric: acc, floor: 0.8, critical: true}
"""


def refused(installation: Settings, **changed: str) -> str:
    """The message; the catalog is as it was."""
    path = installation.catalog / "llama-tiny.yaml"
    before = path.read_bytes()
    wish = {**WISH, **changed}
    with pytest.raises(InputError) as refusal:
        add(installation, wish.pop("family"), wish.pop("language"), wish.pop("repository"), **wish, dry_run=False)
    assert path.read_bytes() == before
    assert sorted(p.name for p in installation.catalog.iterdir()) == ["gates", "llama-tiny.yaml"]
    return str(refusal.value)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"language": "PT", "repository": "pt"}, ["LANGUAGE 'PT'", "REPO 'pt'", "owner/name"]),
        ({"repository": "a/b@"}, ["nothing after the @"]),
        ({"family": "llama-huge"}, ["llama-huge.yaml does not exist", "['llama-tiny']"]),
        ({"repository": ""}, ["no tuned base 'pt'", "['eu']", "empelt base add llama-tiny pt OWNER/NAME"]),
        ({"repository": "empelt-demo/nowhere"}, ["empelt-demo/nowhere", "no such repository"]),
        ({"repository": "empelt-demo/llama-tiny"}, ["is the base of llama-tiny itself"]),
        ({"repository": "empelt-demo/eu_llama-tiny"}, ["is the tuned base 'eu'"]),
        ({"repository": "empelt-demo/llama-tiny-instruct-v1"}, ["is an instruct release"]),
        ({"language": "eu"}, ["tuned_bases.eu is empelt-demo/eu_llama-tiny, not empelt-demo/pt_llama-tiny"]),
        ({"like": "es"}, ["--like 'es'", "['eu']"]),
        ({"gate": "nope"}, ["targets.pt.gate", "nope.yaml", "['language']"]),
        ({"language": "fr"}, ["no suite defines fr_mc", "language.yaml"]),
    ],
    ids=lambda value: None if isinstance(value, list) else ", ".join(value.values()) or "no repository",
)
def test_what_cannot_be_meant_is_refused_by_name(installation: Settings, changed: dict[str, str], named: list[str]):
    told = refused(installation, **changed)
    for words in named:
        assert words in told


def test_a_parent_that_is_not_the_stated_one_is_refused_with_the_distances(installation: Settings):
    told = refused(installation, repository="empelt-demo/pt_from_instruct")
    for words in (
        "nearest is empelt-demo/llama-tiny-instruct-v1@",
        "without a stated parent it is the base, empelt-demo/llama-tiny@",
        "distance to empelt-demo/llama-tiny-instruct-v1 0.1",
        "parent: {repo: empelt-demo/llama-tiny-instruct-v1}",
    ):
        assert words in told


def test_a_stated_parent_is_proven_and_may_be_the_instruct_model(installation: Settings):
    path = installation.catalog / "llama-tiny.yaml"
    parent = "{repo: empelt-demo/llama-tiny-instruct-v1}"
    entry = f"  pt:\n    repo: empelt-demo/pt_from_instruct\n    parent: {parent}\ntargets:\n"
    path.write_text(path.read_text().replace("targets:\n", entry))
    report = add(installation, "llama-tiny", "pt", "", like="eu", gate="", dry_run=False)
    assert report["parent"]["repo"] == "empelt-demo/llama-tiny-instruct-v1"
    assert yaml.safe_load(path.read_text())["tuned_bases"]["pt"] == {
        **{"repo": "empelt-demo/pt_from_instruct", "revision": report["revision"]},
        "parent": {"repo": "empelt-demo/llama-tiny-instruct-v1"},
    }


def test_all_that_is_wrong_is_told_at_once(installation: Settings):
    told = refused(installation, language="fr", repository="empelt-demo/foreign")
    for words in ("MistralForCausalLM", "LlamaForCausalLM", "no suite defines fr_mc", "nothing was written"):
        assert words in told


def test_a_gate_that_asks_another_language_only_is_not_copied(installation: Settings):
    path = installation.catalog / "llama-tiny.yaml"
    (installation.catalog / "gates" / "flat.yaml").write_text(FLAT)
    path.write_text(path.read_text().replace("gate: language", "gate: flat"))
    told = refused(installation, like="eu")
    for words in ("gate 'flat'", "asks eu_mc, and nothing in 'pt'", "--gate"):
        assert words in told
    report = add(installation, **{**WISH, "gate": "language"}, dry_run=True)
    assert report["gate"] == "language"


def test_a_dry_run_shows_the_lines_and_writes_nothing(installation: Settings):
    before = (installation.catalog / "llama-tiny.yaml").read_bytes()
    report = add(installation, **WISH, dry_run=True)
    assert not report["written"]
    assert "+  pt: {repo: empelt-demo/pt_llama-tiny" in report["changes"]
    assert (installation.catalog / "llama-tiny.yaml").read_bytes() == before


def test_a_hub_that_is_down_may_be_tried_again(installation: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EMPELT_HUB_ENDPOINT", "http://127.0.0.1:9")
    settings.cache_clear()
    open_source.cache_clear()
    with pytest.raises(HubUnavailable, match=r"127\.0\.0\.1:9"):
        add(installation, **WISH, dry_run=False)


# --- the file ---------------------------------------------------------------------------------------------------------
PLAIN = "family: x\ntuned_bases:\n  eu: {repo: a/b}  # seen\ntargets:\n  eu: {languages: [eu]}\n"
LAYOUTS = {
    "comments between": "family: x\ntuned_bases:\n  eu: {repo: a/b}\n\n  # ca\n  ca: {repo: a/c}  # last\n# now\ntargets:\n"
    "    eu:\n        languages: [eu]\n        # why\n        gate: eu  # of eu\n\n# below\npublish: never\n",
    "one line each": "family: x\ntuned_bases: {eu: {repo: a/b}}\ntargets: {eu: {languages: [eu]}}\n",
    "lists in blocks": "family: x\ntuned_bases: {eu: {repo: a/b}}\ntargets:\n  eu:\n    languages:\n      - eu\n      - ca\n# after\n",
    "no newline at the end": "family: x\ntuned_bases:\n  eu:\n    repo: a/b\ntargets:\n  eu:\n    languages: [eu]",
    "carriage returns": PLAIN.replace("\n", "\r\n"),
}


def file_with(folder: Path, text: str) -> CatalogFile:
    (folder / "x.yaml").write_bytes(text.encode())
    return CatalogFile(folder, "x")


@pytest.mark.parametrize("text", LAYOUTS.values(), ids=LAYOUTS)
def test_an_edit_adds_its_lines_and_changes_no_other_byte(tmp_path: Path, text: str):
    file = file_with(tmp_path, text)
    target: dict[str, Any] = {"languages": ["pt"], "recipe": {"method": "linear", "tuned_weight": 0.5}, "gate": "eu"}
    file.pin("pt", "a/pt", SHA)
    file.add_target("pt", target)
    wanted = yaml.safe_load(text)
    wanted["tuned_bases"]["pt"] = {"repo": "a/pt", "revision": SHA}
    wanted["targets"]["pt"] = target
    assert yaml.safe_load(file.text) == wanted
    rest = iter(file.text)
    assert all(letter in rest for letter in text)  # what was there is there, in its order
    assert file.save()
    assert (tmp_path / "x.yaml").read_bytes() == file.text.encode()


@pytest.mark.parametrize("entry", ["{repo: a/b}", "{repo: a/b, revision: " + "0" * 40 + "}", "\n    repo: a/b  # seen"])
def test_a_pin_is_set_or_moved(tmp_path: Path, entry: str):
    file = file_with(tmp_path, f"tuned_bases:\n  eu: {entry}\n\n# more\ntargets: {{}}\n")
    file.pin("eu", "a/b", SHA)
    assert yaml.safe_load(file.text)["tuned_bases"]["eu"] == {"repo": "a/b", "revision": SHA}
    assert "# more" in file.text


def test_a_file_that_somebody_changed_meanwhile_is_left_as_it_is(tmp_path: Path):
    file = file_with(tmp_path, PLAIN)
    file.pin("pt", "a/pt", SHA)
    (tmp_path / "x.yaml").write_text(f"{PLAIN}# mine\n")
    with pytest.raises(InputError, match="changed by somebody else"):
        file.save()
    assert (tmp_path / "x.yaml").read_text() == f"{PLAIN}# mine\n"
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


def test_a_link_stays_a_link(tmp_path: Path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "x.yaml").write_text(PLAIN)
    (tmp_path / "x.yaml").symlink_to(tmp_path / "kept" / "x.yaml")
    file = CatalogFile(tmp_path, "x")
    file.pin("pt", "a/pt", SHA)
    file.save()
    assert (tmp_path / "x.yaml").is_symlink()
    assert "a/pt" in (tmp_path / "kept" / "x.yaml").read_text()


def test_a_section_that_is_no_mapping_is_refused_by_its_name(tmp_path: Path):
    file = file_with(tmp_path, "targets: [eu]\n")
    with pytest.raises(CatalogError, match="targets must be a mapping"):
        file.add_target("pt", {"languages": ["pt"]})


def test_a_layout_that_would_be_edited_wrongly_is_refused(tmp_path: Path):
    aliased = "tuned_bases:\n  eu: &one {repo: a/b}\n  ca: *one\ntargets:\n  eu: {languages: [eu]}\n"
    file = file_with(tmp_path, aliased)
    file.pin("ca", "a/b", SHA)
    with pytest.raises(CatalogError, match="add the lines by hand"):
        file.check([])
