"""The run forms, as Prefect's server judges by them: what is offered is taken, what is not is refused by name."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tasks.domain.errors import InputError
from tasks.domain.forms import approve_form, publish_form, remerge_form, rollback_form
from tasks.domain.jobs import parse_release

FAMILIES = {"llama-tiny": ["eu", "gl", "iberian"], "qwen3-tiny": ["eu"]}
SHA = "0123456789abcdef0123456789abcdef01234567"
ASKED: dict[str, Any] = {"family": "llama-tiny", "target": "gl", "release": f"lab/instruct-v2@{SHA}"}


def errors(form: dict[str, Any], **parameters: Any) -> list[str]:
    return [error.message for error in Draft202012Validator(form).iter_errors(parameters)]


@pytest.fixture
def remerge() -> dict[str, Any]:
    made_by_prefect = {
        "title": "Parameters",
        "type": "object",
        "properties": {"family": {"type": "string"}, "claim": {"$ref": "#/definitions/ClaimTicket"}},
        "definitions": {"ClaimTicket": {"type": "object"}},
    }
    return remerge_form(made_by_prefect, FAMILIES, [f"lab/instruct-v2@{SHA}"])


@pytest.mark.parametrize(
    "release", ["lab/instruct-v2", f"lab/instruct-v2@{SHA}", "lab/instruct-v2@main", "lab/x@refs/pr/1", "Qwen/Qwen3-8B"]
)
def test_a_release_may_be_named_in_several_ways(remerge: dict[str, Any], release: str):
    assert errors(remerge, **{**ASKED, "release": release}) == []
    assert parse_release(release)[0] == release.split("@")[0]


@pytest.mark.parametrize(
    "release", ["", "instruct-v2", "lab/", "/x", "lab/x@", "lab/x y", "lab/x@-b", "https://hub/lab/x"]
)
def test_what_names_no_release_is_refused_by_form_and_by_flow(remerge: dict[str, Any], release: str):
    assert any(repr(release) in told for told in errors(remerge, **{**ASKED, "release": release}))
    with pytest.raises(InputError) as refusal:
        parse_release(release)
    assert repr(release) in str(refusal.value)
    assert "owner/name@" in str(refusal.value)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"family": "llama-huge"}, "'llama-huge' is not one of ['llama-tiny', 'qwen3-tiny']"),
        ({"target": "tlh"}, "'tlh' is not one of ['eu', 'gl', 'iberian']"),
        ({"family": "qwen3-tiny"}, "'gl' is not one of ['eu']"),
    ],
    ids=["unknown family", "unknown target", "a target of another family"],
)
def test_only_the_catalogs_families_and_targets_are_offered(
    remerge: dict[str, Any], changed: dict[str, str], named: str
):
    assert named in errors(remerge, **{**ASKED, **changed})


def test_the_form_shows_known_releases_and_hides_the_claim(remerge: dict[str, Any]):
    assert sorted(remerge["properties"]) == ["family", "release", "target"]
    assert f"lab/instruct-v2@{SHA}" in remerge["properties"]["release"]["description"]
    assert remerge["properties"]["release"]["examples"] == [f"lab/instruct-v2@{SHA}"]
    # The watch's ticket passes: it is not offered, and not forbidden.
    assert errors(remerge, **ASKED, claim={"job_key": "a" * 64, "attempt": 1, "fence": 1}) == []


def test_laying_a_form_over_itself_changes_nothing(remerge: dict[str, Any]):
    assert remerge_form(remerge, FAMILIES, [f"lab/instruct-v2@{SHA}"]) == remerge


def test_an_approval_offers_what_waits_and_asks_for_a_name():
    form = approve_form({}, ["v2 x eu (3f2a00112233)"])
    wanted = {"candidate": "v2 x eu (3f2a00112233)", "decision": "publish", "by": "Ane"}
    assert errors(form, **wanted) == []
    assert errors(form, **{**wanted, "by": ""}) != []
    assert "'perhaps' is not one of ['publish', 'reject']" in errors(form, **{**wanted, "decision": "perhaps"})
    assert "'v9 x eu' is not one of ['v2 x eu (3f2a00112233)']" in errors(form, **{**wanted, "candidate": "v9 x eu"})
    assert "by" in errors(form, candidate="v2 x eu (3f2a00112233)", decision="reject")[0]


def test_with_nothing_waiting_the_form_says_so():
    assert "Nothing waits" in approve_form({}, [])["properties"]["candidate"]["description"]


def test_a_rollback_offers_channels_and_shows_what_they_served():
    form = rollback_form({}, ["eu", "gl"], ["eu 3f2a00112233 (instruct-v1, generation 1)"])
    assert errors(form, channel="eu") == []
    assert "'fr' is not one of ['eu', 'gl']" in errors(form, channel="fr")
    assert "3f2a00112233" in form["properties"]["to"]["description"]


def test_a_publication_offers_the_catalogs_names():
    text = {"type": "string"}
    request = {"type": "object", "properties": {"family": text, "target": text, "channel": text}}
    schema = {
        "properties": {"request": {"$ref": "#/definitions/PublishRequest"}},
        "definitions": {"PublishRequest": request},
    }
    form = publish_form(schema, ["eu", "gl"], FAMILIES)
    assert errors(form, request={"family": "llama-tiny", "target": "eu", "channel": "eu"}) == []
    assert "'fr' is not one of ['eu', 'gl']" in errors(form, request={"channel": "fr"})
