"""Targets that are served as adapters: what a catalog may ask for, and what is refused when it is read."""

import copy
import shutil
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from tasks.domain.adapters import AdapterRule, base_name, model_under
from tasks.domain.catalog import Catalog, Family, load_catalog
from tasks.domain.errors import CatalogError, ModelRefused
from tasks.domain.keys import merge_key_of

SHIPPED = Path(__file__).parents[2] / "deployments" / "catalog"
ADAPTERS = {"endpoint": "adapters", "adapter": {"rank": 64}}


FAMILY = yaml.safe_load((SHIPPED / "llama-tiny.yaml").read_text(encoding="utf-8"))


def read(*, family=None, **targets) -> Family:
    """The demo's family with changes: of itself, and by target."""
    data = copy.deepcopy(FAMILY) | (family or {})
    for name, change in targets.items():
        data["targets"][name] |= change
    return Family.model_validate(data)


def refused(**changes):
    with pytest.raises(ValidationError) as caught:
        read(**changes)
    return "\n".join(one["msg"] for one in caught.value.errors())


def test_a_target_is_a_model_of_its_own_unless_it_or_its_family_says_otherwise():
    family = read(eu=ADAPTERS)
    assert family.adapter_of("eu") == AdapterRule(rank=64, carry="input")
    assert family.adapter_of("gl") is None
    family = read(family=ADAPTERS, eu={"adapter": {"rank": 16, "carry": "layers"}}, ca={"endpoint": "models"})
    rules = {
        name: rule and (rule.rank, rule.carry) for name, rule in ((n, family.adapter_of(n)) for n in ("eu", "gl", "ca"))
    }
    assert rules == {"eu": (16, "layers"), "gl": (64, "input"), "ca": None}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"endpoint": "adapters"}, "target 'eu': endpoint: adapters needs a rank"),
        ({"adapter": {"rank": 64}}, "target 'eu': adapter has no effect with endpoint: models"),
        ({**ADAPTERS, "recipe": {"method": "linear"}}, "linear does not leave the instruct model as it is"),
        ({**ADAPTERS, "recipe": {"method": "ties"}}, "ties does not leave the instruct model as it is"),
        (
            {**ADAPTERS, "recipe": {"method": "task_arithmetic", "instruct_weight": 0.8}},
            "instruct_weight 0.8 makes another instruct model",
        ),
        (
            {**ADAPTERS, "recipe": {"method": "language_graft", "instruct_weight": 0.5}},
            "instruct_weight 0.5 makes another instruct model",
        ),
        ({**ADAPTERS, "publish_to": {"repo": "lab/eu"}}, "an adapter is not published to a Hub"),
        ({"endpoint": "adapters", "adapter": {"rank": 0}}, "greater than or equal to 1"),
        ({"endpoint": "adapters", "adapter": {"rank": 1024}}, "less than or equal to 512"),
        ({"endpoint": "adapters", "adapter": {"rank": 64.0}}, "valid integer"),
        ({"endpoint": "adapters", "adapter": {"rank": 64, "carry": "all"}}, "'layers' or 'input'"),
        ({"endpoint": "lora"}, "'models' or 'adapters'"),
    ],
)
def test_what_cannot_be_made_or_served_is_refused(change, says):
    assert says in refused(eu=change)


def test_a_misspelt_key_is_refused_with_its_line_and_the_known_ones(tmp_path):
    shutil.copytree(SHIPPED, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "qwen3-tiny.yaml"
    with path.open("a", encoding="utf-8") as out:
        out.write("endpoint: adapters\nadapter: {rang: 64}\n")
    line = len(path.read_text(encoding="utf-8").splitlines())
    with pytest.raises(CatalogError) as caught:
        load_catalog(tmp_path, ["qwen3-tiny"])
    told = "\n".join(caught.value.problems)
    assert f"qwen3-tiny.yaml:{line}: adapter.rang: unknown key 'rang'; known here: carry, rank" in told


def test_a_search_beside_an_adapter_is_refused_with_file_line_and_key(tmp_path):
    shutil.copytree(SHIPPED, tmp_path, dirs_exist_ok=True)
    data = copy.deepcopy(FAMILY)
    search = {"search": {"grid": [{"tuned_weight": [0.5, 0.75]}], "answers": ["en"]}}
    data["targets"]["eu"] = data["targets"]["eu"] | ADAPTERS | search
    path = tmp_path / "llama-tiny.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    line = next(n for n, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if "    search:" in text)
    with pytest.raises(CatalogError) as caught:
        load_catalog(tmp_path, ["llama-tiny"])
    told = f"llama-tiny.yaml:{line}: targets.eu.search: its candidates are merged as models of their own"
    assert [told in one for one in caught.value.problems] == [True]


def test_every_target_of_a_family_that_cannot_be_an_adapter_is_named():
    told = refused(family=ADAPTERS, eu={"recipe": {"method": "linear"}}, gl={"recipe": {"method": "ties"}})
    assert "target 'eu': linear" in told
    assert "target 'gl': ties" in told
    assert "adapter is stated, and no target has endpoint: adapters" in refused(family={"adapter": {"rank": 8}})


def test_an_endpoint_that_serves_no_adapters_refuses_the_catalog_and_names_the_targets():
    catalog = Catalog(families={"llama-tiny": read(eu=ADAPTERS, gl=ADAPTERS)}, gates={})
    assert catalog.require_servable("local", {"local"}) is catalog
    with pytest.raises(CatalogError, match="adapters are not served at endpoint 'kubernetes'") as caught:
        catalog.require_servable("kubernetes", {"local"})
    assert [line.split(" has ")[0] for line in caught.value.problems] == [
        "llama-tiny: target 'eu'", "llama-tiny: target 'gl'",
    ]  # fmt: skip
    plain = Catalog(families={"llama-tiny": read()}, gates={})
    assert plain.require_servable("kubernetes", {"local"}) is plain


def test_another_rank_is_another_merge_and_a_model_of_its_own_keeps_its_key():
    parts = ("eu", {"base": "a" * 64, "instruct": "b" * 64}, "c" * 64)
    keys = {merge_key_of(*parts, rule) for rule in (None, AdapterRule(rank=8), AdapterRule(rank=16))}
    keys |= {merge_key_of(*parts, AdapterRule(rank=8, carry="layers"))}
    assert len(keys) == 4
    assert merge_key_of(*parts) == merge_key_of(*parts, None)


def test_an_adapter_names_its_model_by_digest_and_nothing_else_will_do():
    assert model_under({"base_model_name_or_path": base_name("d" * 64)}, "here") == "d" * 64
    for named in (None, "lab/instruct", "sha256:abc", "sha256:" + "X" * 64):
        with pytest.raises(ModelRefused, match="expected sha256: and the content digest of the instruct model"):
            model_under({"base_model_name_or_path": named}, "here")
