"""The card of a merged folder: what the Hub reads of it, what people read, and what it must not make up."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import yaml

from tasks.domain.card import CARD, card_files, merge_config
from tasks.domain.licences import LICENCE_FILE, Ancestor, Stated
from tasks.domain.lineage import Ingredient, Lineage, content_digest
from tasks.domain.models import FileDigest, ModelRef

REPORT: Mapping[str, Any] = {
    "event": "report",
    "files": {
        "model.safetensors": {"sha256": "a" * 64, "size": 5_000_000},
        "config.json": {"sha256": "b" * 64, "size": 700},
        "LICENSE": {"sha256": "c" * 64, "size": 11_000},
    },
    "coefficients": {"a": 1.0, "b": {"eu": 0.85}},
    "norms": {"tau_I/base": 0.123456, "cos(tau_I,tau_eu)": 0.01},
}


@pytest.fixture
def merge(lineage: Callable[..., Lineage]) -> Lineage:
    return lineage("eu")


def ancestor(name: str, licence: str, *languages: str, read: str = "its card at 123") -> Ancestor:
    return Ancestor(name=f"lab/{name}", stated=Stated(licence=licence), read=read, languages=languages)


def family(base: str = "apache-2.0", instruct: str = "apache-2.0", eu: str = "apache-2.0") -> list[Ancestor]:
    return [ancestor("base", base), ancestor("instruct-v2", instruct, "en", "no"), ancestor("eu_base", eu, "en", "eu")]


def card_of(merge: Lineage, ancestors: list[Ancestor], report: Mapping[str, Any] = REPORT) -> str:
    return card_files(merge, ancestors, report)[CARD]


def head_of(card: str) -> dict[str, Any]:
    start, head, _ = card.split("---\n", 2)
    assert start == ""
    found: dict[str, Any] = yaml.safe_load(head)
    return found


def blocks(card: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)


def test_the_head_is_what_the_hub_reads(merge: Lineage) -> None:
    assert head_of(card_of(merge, family())) == {
        "base_model": ["lab/base", "lab/instruct-v2", "lab/eu_base"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "language": ["en", "no", "eu"],  # Norwegian is no False
        "license": "apache-2.0",
        "tags": ["merge", "empelt", "task_arithmetic"],
    }


def test_every_parent_stands_there_with_revision_and_digest(merge: Lineage) -> None:
    lines = card_of(merge, family()).splitlines()
    assert len(merge.ingredients) == 3
    for part in merge.ingredients:
        place = lines.index(f"- **{part.role}** {part.ref.repo_id}")
        assert lines[place + 1 : place + 3] == [f"  - revision `{part.ref.revision}`", f"  - content `{part.digest}`"]


def test_the_recipe_is_the_one_of_the_lineage_and_the_config_that_of_the_engine(merge: Lineage) -> None:
    recipe, config = (yaml.safe_load(block) for block in blocks(card_of(merge, family()), "yaml"))
    assert recipe == merge.recipe
    places = {"base": "parents/base", "instruct": "parents/instruct", "tuned:eu": "parents/tuned-eu"}
    assert config == merge_config(merge.recipe, places)


def test_a_config_names_each_language_and_the_parent_that_was_stated() -> None:
    folders = {"base": "/b", "instruct": "/i", "tuned:eu": "/eu", "parent:eu": "/p", "tuned:gl": "/gl"}
    assert merge_config({"method": "linear"}, folders) == {
        "recipe": {"method": "linear"},
        "base": "/b",
        "instruct": "/i",
        "tuned": {"eu": {"path": "/eu", "parent": "/p"}, "gl": {"path": "/gl", "parent": None}},
    }


def test_the_commands_fetch_every_parent_as_it_was(merge: Lineage) -> None:
    (commands,) = blocks(card_of(merge, family()), "sh")
    *fetches, last = commands.splitlines()
    expected = [
        f"hf download {part.ref.repo_id} --revision {part.ref.revision} --local-dir parents/{part.role.replace(':', '-')}"
        for part in merge.ingredients
    ]
    assert (fetches, last) == (expected, "empelt merge merge.yaml merged")


def test_the_content_digest_is_that_of_the_files_that_the_engine_wrote(merge: Lineage) -> None:
    files = [FileDigest(path=path, **told) for path, told in REPORT["files"].items()]
    assert f"`{content_digest(files)}`" in card_of(merge, family())


def test_engine_and_what_it_found_out_stand_there(merge: Lineage) -> None:
    report = {**REPORT, "warnings": ["tau_eu is *long*", {"message": "cos is near 1", "kind": "lineage"}]}
    lines = card_of(merge, family(), report).splitlines()
    for line in (
        "- engine version: `1`",
        "- coefficient of each delta: instruct `1.0`, eu `0.85`",
        "- tau_I/base: `0.1235`",
        "- cos(tau_I,tau_eu): `0.01`",
        r"- **warning**: tau_eu is \*long\*",
        "- **warning**: cos is near 1",
    ):
        assert line in lines


def test_what_the_engine_did_not_tell_is_left_out(merge: Lineage) -> None:
    card = card_of(merge, family(), {"event": "report"})
    for word in ("coefficient", "## Deltas", "The content digest of"):
        assert word not in card


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ({"method": "dare_linear", "seed": 42}, "- seed: `42`"),
        ({"method": "dare_ties", "seed": 0}, "- seed: `0`"),
        ({"method": "della"}, "- seed: not recorded, though the method draws at random"),
        ({"method": "ties"}, "- seed: none, since nothing is drawn at random"),
        ({"method": "linear", "seed": None}, "- seed: none, since nothing is drawn at random"),
    ],
)
def test_the_seed_is_told_and_not_made_up(merge: Lineage, recipe: dict[str, Any], told: str) -> None:
    assert told in card_of(merge.model_copy(update={"recipe": recipe}), family()).splitlines()


def test_a_licence_that_covers_all_is_the_only_file_of_its_kind(merge: Lineage) -> None:
    files = card_files(merge, family(base="llama3.1"), REPORT, licence_file="Apache")
    assert list(files) == [CARD]
    head = head_of(files[CARD])
    assert (head["license"], "license_name" in head) == ("llama3.1", False)
    lines = files[CARD].splitlines()
    assert lines[lines.index("# Llama-instruct-v2-eu") + 2] == "**Built with Llama**"
    assert "## Before it is passed on" not in lines
    assert any(line.startswith("- Its NOTICE file says: “Llama 3.1 is licensed under") for line in lines)


def test_a_name_that_no_licence_prescribes_is_that_of_release_and_target(merge: Lineage) -> None:
    assert "# instruct-v2-eu" in card_of(merge, family()).splitlines()


def test_licences_that_do_not_go_together_are_warned_of_and_have_a_file(merge: Lineage) -> None:
    files = card_files(merge, family(base="llama3.1", eu="cc-by-sa-4.0"), REPORT)
    head, card = head_of(files[CARD]), files[CARD]
    assert (head["license"], head["license_name"]) == ("other", "llama3.1-and-apache-2.0-and-cc-by-sa-4.0")
    assert head["license_link"] == LICENCE_FILE == "LICENSE.md"
    assert card.index("## Before it is passed on") < card.index("cannot meet both") < card.index("## Recipe")
    licence = files[LICENCE_FILE]
    for told in ("- llama3.1 (lab/base): Pass on", "- cc-by-sa-4.0 (lab/eu_base): Name", "no legal advice"):
        assert told in licence
        assert told in card


def test_the_instruct_models_own_licence_file_is_kept_below_ours(merge: Lineage) -> None:
    theirs = "THE LAB'S AGREEMENT\n\n1. Keep this.\n"
    files = card_files(merge, family(instruct="gemma", eu="llama3.2"), REPORT, licence_file=theirs)
    assert files[LICENCE_FILE].startswith("# Licence of Llama-instruct-v2-eu")
    assert files[LICENCE_FILE].endswith(theirs)


def test_every_ancestor_is_listed_with_what_it_states_and_where_that_was_read(merge: Lineage) -> None:
    unknown = Ancestor(name="lab/older", read="nowhere: gated; the card of lab/eu_base names it")
    own = Ancestor(
        name="lab/oldest",
        stated=Stated(licence="other", name="lab-terms", link="https://lab/terms"),
        read="its card at 9",
    )
    card = card_of(merge, [*family(), unknown, own])
    lines = card.splitlines()
    assert "- lab/base: apache-2.0; read from its card at 123" in lines
    assert "- lab/older: no licence; read from nowhere: gated; the card of lab/eu_base names it" in lines
    assert "- lab/oldest: other, lab-terms, https://lab/terms; read from its card at 9" in lines
    assert "- Licences are not known: unknown (lab/older)." in lines
    assert head_of(card)["license_name"] == "apache-2.0-and-unknown-and-lab-terms"


def test_what_others_wrote_cannot_change_the_card(merge: Lineage) -> None:
    evil = Ancestor(
        name="x\n## Licence\n<script>alert(1)</script>[a](javascript:b)",
        stated=Stated(licence="mit\nlicense: apache-2.0", name="`n`", link="'\n---\n# Mine"),
        read="its card",
        languages=("eu\ntags: [safe]",),
    )
    instruct = ancestor("instruct-v2", "apache-2.0", "en\nlicense: mit")
    card = card_of(merge, [instruct, evil])
    assert head_of(card)["license"] == "other"
    assert head_of(card)["tags"] == ["merge", "empelt", "task_arithmetic"]
    assert card.count("\n## Licence") == 1
    assert "<script" not in card
    assert not re.search(r"(?<!\\)\[a", card)


def test_a_control_without_languages_says_so(merge: Lineage) -> None:
    alone = merge.model_copy(update={"ingredients": merge.ingredients[:2], "target": "control"})
    card = card_of(alone, [ancestor("base", "mit"), ancestor("instruct-v2", "mit")])
    assert "language" not in head_of(card)
    assert "The instruct model lab/instruct-v2 put together from its parts alone." in card


def test_the_same_facts_give_the_same_card(merge: Lineage) -> None:
    assert card_of(merge, family()) == card_of(merge, family())


def test_two_models_of_one_repository_are_named_once_and_fetched_twice(merge: Lineage) -> None:
    parent = Ingredient(role="parent:eu", ref=ModelRef(repo_id="lab/base", revision="9" * 40), digest="9" * 64)
    card = card_of(merge.model_copy(update={"ingredients": (*merge.ingredients, parent)}), family())
    assert head_of(card)["base_model"].count("lab/base") == 1
    assert f"hf download lab/base --revision {'9' * 40} --local-dir parents/parent-eu" in card
    assert yaml.safe_load(blocks(card, "yaml")[1])["tuned"]["eu"]["parent"] == "parents/parent-eu"
