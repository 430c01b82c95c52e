"""The licence of a merged model: which one covers the others, what is inherited, what contradicts, what is unknown."""

import pytest

from tasks.domain.licences import LICENCE_FILE, Ancestor, Inherited, Stated, covers, inherit, rules, titled


def ancestor(name: str, licence: str = "", *, called: str = "", link: str = "") -> Ancestor:
    return Ancestor(name=f"lab/{name}", stated=Stated(licence=licence, name=called, link=link), read="from its card")


def of(*licences: str) -> Inherited:
    """The licence inherited from models ``lab/m0``, ``lab/m1``, ... under these."""
    return inherit([ancestor(f"m{k}", licence) for k, licence in enumerate(licences)])


def test_the_rules_name_each_licence_once_and_cover_only_what_they_name() -> None:
    listed = [key for terms in dict.fromkeys(rules().values()) for key in terms.ids]
    assert len(listed) == len(set(listed)) == len(rules())
    assert {other for terms in rules().values() for other in terms.covers} <= set(listed)


def test_the_rules_hold_the_licences_that_families_come_under() -> None:
    llama = {"llama2", "llama3", "llama3.1", "llama3.2", "llama3.3"}
    assert {"apache-2.0", "mit", "bsd-3-clause", "gemma", "qwen", "qwen-research", "mpl-2.0"} | llama <= rules().keys()
    assert {rules()[key].kind for key in llama | {"gemma", "qwen"}} == {"restricted"}
    assert {rules()[f"cc-by-nc-{v}"].kind for v in ("2.0", "3.0", "4.0")} == {"non-commercial"}


@pytest.mark.parametrize(
    ("licences", "whole"),
    [
        (("mpl-2.0", "mpl-2.0", "mpl-2.0"), "mpl-2.0"),
        (("mit", "apache-2.0", "bsd-3-clause"), "apache-2.0"),
        (("cc0-1.0", "mit"), "mit"),
        (("apache-2.0", "llama3.1", "llama3.1"), "llama3.1"),
        (("gemma", "apache-2.0", "mit"), "gemma"),
        (("apache-2.0", "cc-by-nc-4.0"), "cc-by-nc-4.0"),
        (("cc-by-sa-4.0", "apache-2.0"), "cc-by-sa-4.0"),
        (("cc-by-nc-4.0", "cc-by-nc-sa-4.0"), "cc-by-nc-sa-4.0"),
        (("mpl-2.0", "gpl-3.0"), "gpl-3.0"),
        (("Apache-2.0 ", "apache-2.0"), "apache-2.0"),
    ],
)
def test_the_licence_that_covers_all_others_is_that_of_the_whole(licences: tuple[str, ...], whole: str) -> None:
    for order in (licences, licences[::-1]):
        found = of(*order)
        assert (found.licence, found.name, found.link) == (whole, "", "")


@pytest.mark.parametrize(
    ("licences", "name"),
    [
        (("llama3.1", "llama3.3"), "llama3.1-and-llama3.3"),
        (("gemma", "llama3.2", "apache-2.0"), "gemma-and-llama3.2-and-apache-2.0"),
        (("llama3.1", "cc-by-nc-4.0"), "llama3.1-and-cc-by-nc-4.0"),
        (("apache-2.0", "cc-by-4.0"), "apache-2.0-and-cc-by-4.0"),
        (("cc-by-nc-4.0", "cc-by-nc-sa-3.0"), "cc-by-nc-4.0-and-cc-by-nc-sa-3.0"),
    ],
)
def test_where_none_covers_the_others_all_of_them_count(licences: tuple[str, ...], name: str) -> None:
    found = of(*licences)
    assert (found.licence, found.name, found.link) == ("other", name, LICENCE_FILE)
    assert [(c.licence, c.names) for c in found.conditions] == [(key, f"lab/m{k}") for k, key in enumerate(licences)]
    assert all(c.words == rules()[c.licence].words for c in found.conditions)
    assert all(f"{key} (lab/m{k})" in found.reason for k, key in enumerate(licences))


def test_permissive_licences_never_cover_a_restriction() -> None:
    for one, its in rules().items():
        for other, theirs in rules().items():
            if its.kind in ("free", "permissive") and theirs.kind not in ("free", "permissive"):
                assert not covers(one, other)


def test_a_condition_names_every_ancestor_that_asks_for_it_once() -> None:
    found = inherit(
        [ancestor("base", "mit"), ancestor("eu", "apache-2.0"), ancestor("base", "mit"), ancestor("v2", "mit")]
    )
    assert [(c.licence, c.names) for c in found.conditions] == [("mit", "lab/base, lab/v2"), ("apache-2.0", "lab/eu")]
    assert found.reason.startswith("apache-2.0 (lab/eu) counts for the whole")
    assert found.warnings == ()


@pytest.mark.parametrize("stated", ["", "unknown", "other", "  "])
def test_what_is_not_stated_is_unknown_and_not_guessed(stated: str) -> None:
    some = inherit([ancestor("base", "apache-2.0"), ancestor("eu", stated)])
    assert (some.licence, some.name, some.link) == ("other", "apache-2.0-and-unknown", LICENCE_FILE)
    assert some.warnings == ("Licences are not known: unknown (lab/eu).",)
    none = inherit([ancestor("base", stated), ancestor("eu", stated)])
    assert (none.licence, none.name, none.link) == ("unknown", "", "")
    assert none.reason == "No licence of any ancestor is known."
    assert inherit([]).licence == "unknown"


def test_a_licence_that_the_rules_do_not_name_is_to_be_read() -> None:
    alike = of("etalab-2.0", "etalab-2.0")
    assert (alike.licence, alike.reason) == ("etalab-2.0", "Every ancestor states etalab-2.0.")
    mixed = of("etalab-2.0", "apache-2.0")
    assert (mixed.licence, mixed.name) == ("other", "etalab-2.0-and-apache-2.0")
    for found in (alike, mixed):
        assert any("etalab-2.0" in told and told.endswith("not among the rules: read it.") for told in found.warnings)


def test_a_licence_without_an_id_on_the_hub_keeps_its_name_and_its_link() -> None:
    link = "https://huggingface.co/Qwen/Qwen2.5-72B/blob/main/LICENSE"
    found = inherit([ancestor("base", "other", called="Qwen", link=link), ancestor("eu", "apache-2.0")])
    assert (found.licence, found.name, found.link) == ("other", "qwen", link)
    assert found.shows == ("Built with Qwen",)
    unlinked = inherit([ancestor("base", "other", called="qwen", link="LICENSE")])
    assert (unlinked.name, unlinked.link) == ("qwen", rules()["qwen"].link)
    own = inherit([ancestor("base", "other", called="lab-terms", link="javascript:alert(1)")])
    assert (own.licence, own.name, own.link) == ("other", "lab-terms", LICENCE_FILE)


def test_a_licence_that_has_an_id_now_is_known_by_its_name_too() -> None:
    found = inherit([ancestor("base", "other", called="llama3"), ancestor("v2", "llama3")])
    assert (found.licence, found.name) == ("llama3", "")


@pytest.mark.parametrize(
    ("licences", "begins", "shows"),
    [
        (("llama2",), "", ()),
        (("llama3",), "Llama 3", ("Built with Meta Llama 3",)),
        (("llama3.1", "mit"), "Llama", ("Built with Llama",)),
        (("llama3.1", "llama3.2", "llama3.3"), "Llama", ("Built with Llama",)),
        (("llama3.1", "llama3"), "Llama 3", ("Built with Llama", "Built with Meta Llama 3")),
        (("gemma", "apache-2.0"), "", ()),
    ],
)
def test_names_and_words_that_a_licence_prescribes(
    licences: tuple[str, ...], begins: str, shows: tuple[str, ...]
) -> None:
    found = of(*licences)
    assert (found.begins, found.shows) == (begins, shows)
    assert len(found.notices) == len([key for key in licences if rules()[key].notice])


@pytest.mark.parametrize(
    ("name", "begins", "told"),
    [
        ("Llama-3.1-8B-Instruct-eu", "Llama", "Llama-3.1-8B-Instruct-eu"),
        ("llama-tiny-instruct-v2-eu", "Llama", "Llama-tiny-instruct-v2-eu"),
        ("Latxa-8B-eu", "Llama", "Llama-Latxa-8B-eu"),
        ("Meta-Llama-3-8B-Instruct-eu", "Llama 3", "Llama-3-8B-Instruct-eu"),
        ("Metaphor-8B-eu", "Llama 3", "Llama-3-Metaphor-8B-eu"),
        ("Latxa-8B-eu", "", "Latxa-8B-eu"),
    ],
)
def test_a_name_begins_as_the_licence_wants(name: str, begins: str, told: str) -> None:
    assert titled(name, begins) == told


@pytest.mark.parametrize("other", ["llama3.1", "cc-by-nc-4.0", "gemma", "mpl-2.0", "cc-by-sa-3.0", "cc-by-nd-4.0"])
def test_share_alike_and_what_it_does_not_allow_contradict_each_other(other: str) -> None:
    found = of("cc-by-sa-4.0", other, "apache-2.0")
    (told,) = [told for told in found.warnings if "cannot meet both" in told]
    assert "cc-by-sa-4.0 (lab/m0)" in told
    assert f"{other} (lab/m1)" in told
    assert "apache-2.0" not in told


@pytest.mark.parametrize("licences", [("cc-by-sa-4.0", "apache-2.0"), ("gpl-3.0", "mpl-2.0"), ("llama3.1", "gemma")])
def test_what_can_be_met_together_is_no_contradiction(licences: tuple[str, ...]) -> None:
    assert not [told for told in of(*licences).warnings if "cannot meet both" in told]


def test_what_forbids_a_use_is_a_warning() -> None:
    assert of("apache-2.0", "cc-by-nc-4.0").warnings == ("cc-by-nc-4.0 (lab/m1) rules out commercial use.",)
    assert of("cc-by-nc-nd-4.0", "mit").warnings == (
        "cc-by-nc-nd-4.0 (lab/m0) does not let changed versions be passed on.",
        "cc-by-nc-nd-4.0 (lab/m0) rules out commercial use.",
    )
    assert of("qwen-research").warnings == ("qwen-research (lab/m0) rules out commercial use.",)
