"""An installation may run some targets of its families only."""

from pathlib import Path

import pytest

from tasks.domain.catalog import Catalog, load_catalog
from tasks.domain.errors import CatalogError

SHIPPED = Path(__file__).parents[2] / "deployments" / "catalog"


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog(SHIPPED, ["llama-3.1-8b", "qwen3-8b"])


def test_only_the_targets_named_are_left_and_all_of_them_if_none_is(catalog: Catalog) -> None:
    chosen = catalog.only(["eu", "gl"])
    assert [sorted(family.targets) for family in chosen.families.values()] == [["eu", "gl"]] * 2
    assert catalog.only([]) == catalog


def test_the_tuned_bases_stay_since_another_target_may_need_them(catalog: Catalog) -> None:
    family = catalog.only(["eu"]).family("qwen3-8b")
    assert family.tuned_bases == catalog.family("qwen3-8b").tuned_bases


def test_a_target_that_is_none_and_a_family_without_any_are_refused_together(catalog: Catalog) -> None:
    with pytest.raises(CatalogError) as caught:
        catalog.only(["xx"])
    first, *others = caught.value.problems
    assert "no family has a target 'xx'" in first
    assert "'eu'" in first
    assert [name for name in catalog.families if any(f"family '{name}'" in line for line in others)] == [
        "llama-3.1-8b",
        "qwen3-8b",
    ]
