"""From facts on record to a repository on a Hub: what is due, what is held and why, what its files say."""

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from huggingface_hub import hf_hub_download
from referencing import Registry, Resource

from tasks import doors
from tasks.domain.bom import BOM
from tasks.domain.card import CARD
from tasks.domain.errors import InputError, ModelRefused
from tasks.domain.models import Artifact
from tasks.domain.publication import MARKER, Upload, read_marker
from tasks.publications import due, upload_of
from tasks.published_files import NOTICE, carry_out, described
from tests.local_hub.hub_fixtures import RunningHub
from tests.publishing.conftest import TOKEN
from tests.publishing.installed import Installed, installation_on

SCHEMAS: dict[str, Any] = json.loads((Path(__file__).parent / "schemas" / "cyclonedx-1.6.json").read_text())


@pytest.fixture
def here(
    hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Installed]:
    licences = getattr(request, "param", {})
    with installation_on(hub, f"lab-{uuid.uuid4().hex[:8]}", tmp_path, monkeypatch, **licences) as installed:
        yield installed


@pytest.fixture
def served(here: Installed) -> Artifact:
    artifact = here.merged()
    here.switched(artifact)
    return artifact


def text_on_the_hub(here: Installed, name: str, tmp_path: Path) -> str:
    place = hf_hub_download(
        here.repo_id,
        name,
        revision=next(iter(here.tags())),
        endpoint=here.hub.endpoint,
        token=TOKEN,
        local_dir=tmp_path,
    )
    return Path(place).read_text()


def test_what_a_channel_visibly_serves_is_due_once(here: Installed) -> None:
    artifact = here.merged()
    assert due("tiny") == []  # nothing serves
    here.switched(artifact, visible=False)
    assert due("tiny") == []
    doors.open_ledger().acknowledge("eu", 1)
    (upload,) = due("tiny")
    assert (upload.digest, upload.repo_id, upload.private) == (artifact.digest, here.repo_id, True)
    done = carry_out(upload)
    assert (done.how, done.digest, doors.open_ledger().publications()) == ("uploaded", artifact.digest, [done])
    assert here.tags() == {f"merge-{upload.merge_key[:12]}": done.commit}
    assert due("tiny") == []
    assert carry_out(upload).how == "adopted"
    assert len(doors.open_ledger().publications()) == 1


def test_a_target_without_publish_to_and_a_family_that_never_publishes_have_nothing_due(
    here: Installed, served: Artifact
) -> None:
    here.edit_catalog(None)
    assert due("tiny") == []
    with pytest.raises(InputError, match="states no publish_to"):
        upload_of("tiny", "eu")
    here.edit_catalog({"repo": here.repo_id}, publish="never")
    assert due("tiny") == []
    here.edit_catalog({"repo": here.repo_id}, publish="ask")
    assert len(due("tiny")) == 1  # it serves, so a person has said yes


def test_what_passed_no_gate_is_never_published(here: Installed) -> None:
    artifact = here.merged(judged=False)
    here.switched(artifact)
    assert due("tiny") == []
    with pytest.raises(ModelRefused, match="has passed no gate"):
        carry_out(upload_of("tiny", "eu"))


def test_without_a_token_it_is_refused_before_anything_is_done(
    here: Installed, served: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    (upload,) = due("tiny")
    monkeypatch.delenv("EMPELT_PUBLISH_TOKEN")
    doors.forget()
    here.hub.pull("requests")
    with pytest.raises(InputError, match="EMPELT_PUBLISH_TOKEN"):
        carry_out(upload)
    assert here.hub.answered() == []


def test_an_artifact_that_was_damaged_on_disk_is_not_published(here: Installed, served: Artifact) -> None:
    path = Path(served.folder) / "config.json"
    path.chmod(0o644)
    path.write_text("{}")
    here.hub.pull("requests")
    with pytest.raises(ModelRefused, match="is not what was stored"):
        carry_out(due("tiny")[0])
    assert here.hub.answered() == []


def test_nothing_of_an_upload_is_left_in_the_store(here: Installed, served: Artifact) -> None:
    carry_out(due("tiny")[0])
    assert list((doors.open_store().root / "scratch").iterdir()) == []
    assert doors.open_store().verify(served.digest)


def test_the_card_has_what_the_hub_reads_scores_with_intervals_lineage_and_every_digest(
    here: Installed, served: Artifact, tmp_path: Path
) -> None:
    carry_out(due("tiny")[0])
    card = text_on_the_hub(here, CARD, tmp_path / "got")
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["base_model"] == [f"{here.org}/base", f"{here.org}/instruct-v1", f"{here.org}/eu"]
    wanted = {"base_model_relation": "merge", "license": "apache-2.0", "language": ["en", "eu"]}
    assert wanted | {"pipeline_tag": "text-generation"} == {key: head[key] for key in (*wanted, "pipeline_tag")}
    (first, _) = head["model-index"][0]["results"]
    assert (first["dataset"]["type"], first["metrics"][0]["value"]) == ("eu_mc", 0.9)
    # Wilson's interval of 90 of 100: 0.826 to 0.945.
    assert "| eu_mc | acc | 0.900 | 0.826 to 0.945 | 100 | 0.500 | 0.920 |" in card
    assert "it has no scores" not in card
    assert "coefficient of each delta: instruct `1.0`, eu `0.55`" in card  # of the card that was written at the merge
    for sha in here.shas.values():
        assert f"- revision `{sha}`" in card
    for file in served.files:
        assert file.path == CARD or f"| {file.path} | `{file.sha256}` | {file.size} |" in card
    assert card.index("## Scores") < card.index("## Digests") < card.index("## Licence")
    upload = upload_of("tiny", "eu")
    assert f"- merge key: `{upload.merge_key}`" in card


def test_a_card_of_another_version_is_written_anew(here: Installed, served: Artifact) -> None:
    path = Path(served.folder) / CARD
    path.chmod(0o644)
    path.write_text("---\nlicense: apache-2.0\n---\n# By an older version\n")
    card = described(upload_of("tiny", "eu"), served)[CARD]
    assert "## Scores" in card
    assert f"{here.org}/base" in card


def test_the_bill_of_materials_is_valid_by_the_official_schema(
    here: Installed, served: Artifact, tmp_path: Path
) -> None:
    carry_out(due("tiny")[0])
    bill = json.loads(text_on_the_hub(here, BOM, tmp_path / "got"))
    schemas = {name: schema for name, schema in SCHEMAS.items() if isinstance(schema, dict)}
    resources = [(schema["$id"], Resource.from_contents(schema)) for schema in schemas.values()]
    validator = jsonschema.Draft7Validator(
        schemas["bom-1.6.schema.json"], registry=Registry().with_resources(resources)
    )
    assert [error.message for error in validator.iter_errors(bill)] == []
    assert list(validator.iter_errors(bill | {"specVersion": 7}))  # the schema does refuse
    model = bill["metadata"]["component"]
    assert (model["type"], len(model["pedigree"]["ancestors"])) == ("machine-learning-model", 3)
    (metric, _) = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert metric == {
        "type": "acc",
        "value": "0.900000",
        "slice": "eu_mc",
        # By hand: (0.9 + z²/200 ± z sqrt(0.0009 + z²/40000)) / (1 + z²/100) with z = 1.959964.
        "confidenceInterval": {"lowerBound": "0.825634", "upperBound": "0.944771"},
    }
    digests = {part["name"]: part["hashes"][0]["content"] for part in model["components"]}
    assert digests == {file.path: file.sha256 for file in served.files if file.path != CARD}
    refs = [model["bom-ref"], *(parent["bom-ref"] for parent in bill["components"])]
    assert bill["dependencies"] == [{"ref": refs[0], "dependsOn": refs[1:]}]


def test_the_same_artifact_is_described_in_the_same_words_and_the_marker_is_read_back(
    here: Installed, served: Artifact
) -> None:
    upload = upload_of("tiny", "eu")
    texts = described(upload, served)
    assert described(upload, served) == texts
    marker = read_marker(texts[MARKER].encode())
    assert marker is not None
    assert (marker.artifact, marker.merge_key, marker.target) == (served.digest, upload.merge_key, "eu")
    assert not set(texts) & {file.path for file in marker.files}


HELD: list[Any] = [
    pytest.param({"eu": "cc-by-nc-nd-4.0"}, "does not let changed versions be passed on", id="no changed versions"),
    pytest.param({"eu": "cc-by-nc-4.0"}, "rules out commercial use", id="not commercial"),
    pytest.param({"eu": "made-up-1.0"}, "not among the rules", id="no rule"),
    pytest.param({"eu": "other"}, "is not known", id="unknown"),
    pytest.param({"base": "llama3.1"}, "begins with 'Llama'", id="a name is prescribed"),
    pytest.param({"base": "gpl-3.0", "eu": "cc-by-sa-4.0"}, "cannot meet both", id="excluding each other"),
]


@pytest.mark.parametrize(("here", "why"), HELD, indirect=["here"])
def test_a_licence_that_speaks_against_it_holds_it_and_nothing_is_sent(
    here: Installed, served: Artifact, why: str
) -> None:
    here.hub.pull("requests")
    with pytest.raises(ModelRefused, match="is held: licences speak against it") as refusal:
        carry_out(due("tiny")[0])
    assert any(why in problem for problem in refusal.value.problems)
    assert {one["method"] for one in here.hub.answered()} <= {"GET", "HEAD"}
    assert doors.open_ledger().publications() == []


@pytest.mark.parametrize("here", [{"eu": "cc-by-nc-4.0", "base": "cc-by-nd-4.0"}], indirect=True)
def test_a_person_may_accept_a_licence_but_not_for_what_nobody_can(here: Installed, served: Artifact) -> None:
    here.edit_catalog({"repo": here.repo_id, "accept": ["cc-by-nc-4.0", "cc-by-nd-4.0"]})
    with pytest.raises(ModelRefused) as refusal:
        described(upload_of("tiny", "eu"), served)
    (problem,) = refusal.value.problems
    assert problem.startswith("cc-by-nd-4.0")


@pytest.mark.parametrize("here", [{"eu": "cc-by-nc-4.0"}], indirect=True)
def test_an_accepted_licence_is_published_under_it(here: Installed, served: Artifact) -> None:
    here.edit_catalog({"repo": here.repo_id, "accept": ["cc-by-nc-4.0"]})
    assert carry_out(due("tiny")[0]).how == "uploaded"


@pytest.mark.parametrize("here", [{"base": "llama3.1"}], indirect=True)
def test_naming_and_notice_of_a_licence_are_obeyed(here: Installed, served: Artifact) -> None:
    owner = here.repo_id.partition("/")[0]
    here.edit_catalog({"repo": f"{owner}/Llama-tiny-eu"})
    texts = described(upload_of("tiny", "eu"), served)
    assert re.search(r"^Llama 3.1 is licensed under the Llama 3.1 Community License", texts[NOTICE])


def test_an_upload_is_named_by_place_and_content(here: Installed, served: Artifact) -> None:
    upload: Upload = upload_of("tiny", "eu")
    assert upload.key == upload_of("tiny", "eu").key
    assert upload.key != upload_of("tiny", "eu", repo_id="acme/elsewhere").key
    assert upload.name == f"instruct-v1 x eu to {here.repo_id}"
