"""What labs do to their repositories, each once: the real client, a Hub over HTTP, and what the ledger says afterwards.

Everything that a lab pushes here is two hours old, so it settles by age; a second watch must still find it unchanged.
"""

from pathlib import Path

import pytest

from tasks import doors
from tasks.domain.models import Release
from tasks.jobs import build_job
from tasks.plan import plan_due
from tests.local_hub.hub_fixtures import TinyModel, trained
from tests.tasks.lab import CARD, FAMILY, Lab

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def releases() -> list[Release]:
    return doors.open_ledger().releases(FAMILY)


def standing(lab: Lab) -> dict[str, tuple[str, str]]:
    """Name of each release on record -> how it stands, and why."""
    return {row.release.ref.slug: (row.standing, row.reason) for row in plan_due.fn(FAMILY, releases())}


def silent_card(steps: int, origin: int = 1) -> TinyModel:
    return TinyModel(values=trained(origin, steps), card="# Nothing stated\n")


def test_two_watches_must_see_the_same_state(lab: Lab) -> None:
    lab.push("instruct-v1", steps=1)
    assert lab.watch() == {}
    found = lab.find("instruct-v1")
    assert (found.verdict, found.cause) == ("release", "new")  # the next watch would take it
    sha = lab.push("instruct-v1", steps=2, minutes_ago=90)  # but it finds another one
    found = lab.find("instruct-v1")
    assert (found.verdict, found.cause) == ("waits", "settling")
    assert found.reason.endswith("is seen for the first time; it settles when the next watch finds it unchanged")
    assert lab.watch() == {}
    assert list(lab.watch().values()) == [f"instruct-v1@{sha}"]


def test_a_commit_of_just_now_waits_for_its_age(lab: Lab) -> None:
    lab.push("instruct-v1", minutes_ago=59)
    assert lab.settle() == {}
    found = lab.find("instruct-v1")
    assert (found.verdict, found.cause) == ("waits", "settling")
    assert "it settles at 3600 s" in found.reason
    assert lab.holds() == {}


def test_flip_from_private_to_public(lab: Lab) -> None:
    sha = lab.push("instruct-v1", minutes_ago=60 * 24 * 9)
    lab.api.update_repo_settings(lab.repo("instruct-v1"), private=True)
    assert lab.settle() == {}
    lab.api.update_repo_settings(lab.repo("instruct-v1"), private=False)
    assert lab.watch() == {}  # neither date of the repository says that it is new: the full set of ids does
    assert list(lab.watch().values()) == [f"instruct-v1@{sha}"]
    assert lab.holds() == {}


def test_staged_upload_with_half_an_index(lab: Lab) -> None:
    def without(*names: str) -> str:
        return lab.push("instruct-v1", change=lambda folder: [(folder / name).unlink() for name in names])

    sha = without(SECOND)
    assert lab.settle() == {}
    assert list(lab.holds()) == [f"instruct-v1@{sha}"]
    assert lab.holds()[f"instruct-v1@{sha}"].startswith(
        f"unfinished: {lab.repo('instruct-v1')}@{sha[:12]} lacks {SECOND}: named"
    )
    sha = lab.push("instruct-v1", minutes_ago=100)
    assert list(lab.settle().values()) == [f"instruct-v1@{sha}"]
    assert lab.holds() == {}


def test_readme_only_commit(lab: Lab) -> None:
    lab.push("instruct-v1")
    before = lab.settle()
    (fact,) = [release.content_digest for release in releases()]
    sha = lab.push("instruct-v1", change=lambda folder: (folder / "README.md").write_text("# Better\n"), minutes_ago=90)
    lab.watch()
    lab.hub.pull("requests")
    assert lab.watch() == before
    assert not [asked for asked in lab.hub.answered() if asked["path"].endswith(".safetensors")]
    seen = doors.open_ledger().repo_seen(lab.repo("instruct-v1"))
    assert seen is not None
    assert (seen.revision, seen.content_digest) == (sha, fact)
    assert len(plan_due.fn(FAMILY, releases())) == 1


def test_v1_1_in_place(lab: Lab) -> None:
    old = lab.push("instruct-v1", steps=1)
    lab.settle()
    new = lab.push("instruct-v1", steps=2, minutes_ago=90)
    assert list(lab.settle().values()) == [f"instruct-v1@{old}", f"instruct-v1@{new}"]
    rows = {row.release.ref.revision: row.standing for row in plan_due.fn(FAMILY, releases())}
    assert rows == {old: "superseded", new: "due"}


def test_rename(lab: Lab) -> None:
    lab.push("instruct-v1")
    before = lab.settle()
    lab.api.move_repo(lab.repo("instruct-v1"), lab.repo("instruct-v1-hf"))
    assert lab.settle() == before
    found = lab.find("instruct-v1-hf")
    assert (found.verdict, found.cause) == ("release", "known")
    assert lab.holds() == {}
    assert standing(lab)["instruct-v1"][0] == "due"  # its old name still leads to the files


def test_delete_and_create_again(lab: Lab) -> None:
    old = lab.push("instruct-v1", steps=1)
    before = lab.settle()
    lab.api.delete_repo(lab.repo("instruct-v1"))
    new = lab.push("instruct-v1", steps=7)
    assert lab.settle() == before
    reason = lab.holds()[f"instruct-v1@{new}"]
    assert reason.startswith(
        f"identity: {lab.repo('instruct-v1')} was deleted and registered again: its internal id is"
    )
    assert lab.holds()[f"instruct-v1@{old}"].startswith("vanished: ")
    assert [row.standing for row in plan_due.fn(FAMILY, releases())] == ["held"]


def test_base_model_by_an_old_id_that_redirects(lab: Lab) -> None:
    """Llama 3.1's card was given a base_model that named the base by what it was called before."""
    lab.hub.push(lab.repo("Meta-base"), lab.folder(TinyModel(values=trained(1))))
    lab.api.delete_repo(lab.repo("base"))
    lab.api.move_repo(lab.repo("Meta-base"), lab.repo("base"))
    model = TinyModel(values=trained(1, 1), card=CARD.format(base=lab.repo("Meta-base")))
    sha = lab.push("instruct-v1", model=model)
    lab.watch()
    found = lab.find("instruct-v1")
    assert (found.verdict, found.cause) == ("release", "new")
    old = lab.repo("Meta-base")
    assert found.notes == (f"its card leads to {lab.repo('base')} by {old} (now {lab.repo('base')})",)
    assert list(lab.watch().values()) == [f"instruct-v1@{sha}"]


def test_missing_metadata_and_the_weights_decide(lab: Lab) -> None:
    ours = lab.push("instruct-v1", model=silent_card(1))
    foreign = lab.push("instruct-v2", model=silent_card(1, origin=2))
    assert list(lab.settle().values()) == [f"instruct-v1@{ours}"]
    assert lab.find("instruct-v1").notes == ("its card names no base_model",)
    (reason,) = [lab.holds()[f"instruct-v2@{foreign}"]]
    assert reason.startswith("lineage: ")
    assert (
        f"not shown to descend from {lab.repo('base')}: its card names no base_model, and its weights lie 1." in reason
    )


def test_transitive_lineage(lab: Lab) -> None:
    lab.push("sft", 2)
    lab.push("dpo", model=TinyModel(values=trained(1, 3), card=CARD.format(base=lab.repo("sft"))))
    sha = lab.push("instruct-v1", model=TinyModel(values=trained(1, 4), card=CARD.format(base=lab.repo("dpo"))))
    lab.watch()
    chain = ", ".join(lab.repo(name) for name in ("dpo", "sft", "base"))
    assert lab.find("instruct-v1").notes == (f"its card leads to {lab.repo('base')} by {chain}",)
    assert list(lab.watch().values()) == [f"instruct-v1@{sha}"]


def test_a_circle_of_cards_ends(lab: Lab) -> None:
    lab.push("sft", model=TinyModel(values=trained(1, 2), card=CARD.format(base=lab.repo("dpo"))))
    lab.push("dpo", model=TinyModel(values=trained(1, 3), card=CARD.format(base=lab.repo("sft"))))
    lab.push("instruct-v1", model=TinyModel(values=trained(1, 4), card=CARD.format(base=lab.repo("dpo"))))
    lab.watch()
    note = f"its card names {lab.repo('dpo')} as base_model, not {lab.repo('base')}"
    assert lab.find("instruct-v1").notes == (note,)
    assert len(lab.watch()) == 1


def test_dated_suffix(lab: Lab) -> None:
    first, dated = lab.push("instruct-v1", steps=1), lab.push("instruct-v1-2512", steps=2, minutes_ago=100)
    assert list(lab.settle().values()) == [f"instruct-v1@{first}", f"instruct-v1-2512@{dated}"]
    assert standing(lab)["instruct-v1-2512"][0] == "due"
    assert standing(lab)["instruct-v1"][0] == "superseded"


def test_gguf_sibling_is_ignored(lab: Lab) -> None:
    sha = lab.push("instruct-v1", steps=1)
    lab.push("instruct-v1-GGUF", steps=2)
    assert list(lab.settle().values()) == [f"instruct-v1@{sha}"]
    found = lab.find("instruct-v1-GGUF")
    assert (found.verdict, found.cause) == ("ignored", "name")
    assert found.reason == f"{lab.repo('instruct-v1-GGUF')} is ruled out by the word 'GGUF'"
    assert lab.holds() == {}


def test_gated_403(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    sha = lab.push("instruct-v1")
    lab.api.update_repo_settings(lab.repo("instruct-v1"), gated="manual")
    lab.watch_as("hf_empelt", monkeypatch)
    assert lab.settle() == {}
    reason = lab.holds()[f"instruct-v1@{sha}"]
    assert reason.startswith("gated: ")
    assert f"{lab.repo('instruct-v1')}@{sha[:12]}: gated at {lab.hub.endpoint} (HTTP 403)" in reason
    lab.api.grant_access(lab.repo("instruct-v1"), "empelt")
    assert list(lab.watch().values()) == [f"instruct-v1@{sha}"]
    assert lab.holds() == {}


def test_disabled(lab: Lab) -> None:
    sha = lab.push("instruct-v1")
    lab.hub.pull("repos", repo=lab.repo("instruct-v1"), disabled=True)
    assert lab.settle() == {}
    assert lab.holds()[f"instruct-v1@{sha}"] == f"disabled: {lab.repo('instruct-v1')} is disabled at its source"
    lab.hub.pull("repos", repo=lab.repo("instruct-v1"), disabled=False)
    assert list(lab.settle().values()) == [f"instruct-v1@{sha}"]
    assert lab.holds() == {}


def test_vanished_and_back(lab: Lab) -> None:
    """Nothing is dispatched for what cannot be fetched, and the hold ends by itself."""
    sha = lab.push("instruct-v1")
    before = lab.settle()
    assert standing(lab)["instruct-v1"][0] == "due"
    lab.api.update_repo_settings(lab.repo("instruct-v1"), private=True)
    assert lab.settle() == before  # the record stays
    reason = lab.holds()[f"instruct-v1@{sha}"]
    assert reason.startswith(f"vanished: {lab.repo('instruct-v1')} was deleted, hidden or replaced: {lab.hub.endpoint}")
    assert standing(lab)["instruct-v1"] == ("held", reason)
    lab.hub.pull("requests")
    lab.watch()
    assert [asked["path"] for asked in lab.hub.answered()] == ["/api/models"]  # it is asked for once, not for ever
    lab.api.update_repo_settings(lab.repo("instruct-v1"), private=False)
    lab.watch()
    assert (lab.holds(), standing(lab)["instruct-v1"][0]) == ({}, "due")


def test_moved_to_another_organisation_has_not_vanished(lab: Lab) -> None:
    lab.push("instruct-v1")
    before = lab.settle()
    lab.api.move_repo(lab.repo("instruct-v1"), f"{lab.org}-new/instruct-v1")
    assert lab.settle() == before
    assert lab.holds() == {}
    (release,) = releases()
    family = doors.open_catalog().family(FAMILY)
    assert build_job(family, "eu", release).lineage.ref_of("instruct") == release.ref
    assert doors.open_source().fetch(release.ref, Path(lab.tmp_path / "there"))
