"""What a lab does on the Hub, and what the watch makes of each: recognised, waited for, or held with a reason."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.planning import plan_family, releases_now
from tasks import doors
from tasks.admission import examine, resolve
from tasks.backfill import plan_steps
from tasks.domain.errors import HubUnavailable, ModelRefused
from tasks.domain.models import Release
from tasks.jobs import open_job
from tasks.pages import views_of
from tasks.plan import plan_due
from tasks.sources.failures import HubBusy
from tests.local_hub.hub_fixtures import RunningHub, TinyModel, run_hub, trained
from tests.tasks.lab import FAMILY, TOKEN, Lab, lab_on

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with run_hub(tmp_path_factory.mktemp("hub"), write_token=TOKEN) as running:
        yield running


@pytest.fixture
def lab(hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    with lab_on(hub, tmp_path, monkeypatch) as there:
        yield there
    hub.pull("failures")


def test_new_weights_in_a_known_repository_are_a_new_release(lab: Lab) -> None:
    old = lab.release("instruct-v1", steps=1)
    first = lab.watch()
    assert list(first.values()) == [f"instruct-v1@{old}"]
    new = lab.release("instruct-v1", steps=2)
    second = lab.watch()
    assert list(second.values()) == [f"instruct-v1@{old}", f"instruct-v1@{new}"]
    assert len(second) == 2
    assert lab.holds() == {}


def test_a_commit_to_the_card_alone_is_no_release_and_costs_no_weights(lab: Lab) -> None:
    lab.release("instruct-v1", steps=1)
    before = lab.watch()
    sha = lab.add("instruct-v1", "README.md", b"# A better text\n")
    lab.hub.pull("requests")
    assert lab.watch() == before
    seen = doors.open_ledger().repo_seen(lab.repo("instruct-v1"))
    assert seen is not None
    assert (seen.revision, [seen.content_digest]) == (sha, list(before))
    asked = lab.hub.answered()
    assert not [request for request in asked if request["path"].endswith(".safetensors")]
    assert sum(request["bytes"] for request in asked) < 20_000
    lab.hub.pull("requests")
    assert lab.watch() == before  # and from now on it costs the listing alone
    assert [request["path"] for request in lab.hub.answered()] == ["/api/models"]


def test_an_upload_in_stages_waits_with_its_reason_until_it_is_whole(lab: Lab) -> None:
    folder = lab.folder(TinyModel(values=trained(1, steps=3)))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    lab.api.create_repo(lab.repo("instruct-v1"))
    stages = [
        ((), "weights; config.json"),
        (("model.safetensors.index.json", FIRST), f"{SECOND}: named by"),
        ((SECOND,), "config.json; tokenizer.json; a chat template"),
        (("config.json", "tokenizer.json", "tokenizer_config.json"), "lacks a chat template"),
    ]
    for paths, missing in stages:
        for path in paths:
            lab.add("instruct-v1", path, files[path])
        assert lab.watch() == {}
        ((key, reason),) = lab.holds().items()
        assert key == f"instruct-v1@{lab.api.model_info(lab.repo('instruct-v1')).sha}"
        assert reason.startswith("unfinished: ")
        assert missing in reason
    lab.watch()
    assert len(lab.holds()) == 1
    sha = lab.add("instruct-v1", "chat_template.jinja", files["chat_template.jinja"])
    assert list(lab.watch().values()) == [f"instruct-v1@{sha}"]
    assert lab.holds() == {}


def test_a_repository_that_was_private_is_recognised_though_it_is_old(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is due, though what is served changed after it: nobody could have had it before."""
    newer = lab.release("instruct-v1", steps=1)
    lab.api.create_repo(lab.repo("instruct-v2"), private=True)
    hidden = lab.release("instruct-v2", steps=2)
    made = lab.api.model_info(lab.repo("instruct-v2")).created_at
    third = lab.release("instruct-v3", steps=3)
    assert sorted(lab.watch().values()) == sorted([f"instruct-v1@{newer}", f"instruct-v3@{third}"])
    lab.watch_as(TOKEN, monkeypatch)  # who may see it still waits: its owner has not released it
    assert len(lab.watch()) == 2
    lab.watch_as("", monkeypatch)
    serve(lab, "instruct-v3")
    lab.api.update_repo_settings(lab.repo("instruct-v2"), private=False)
    assert lab.api.model_info(lab.repo("instruct-v2")).created_at == made
    (planned,) = [release for release in releases_now(doors.open_catalog().family(FAMILY))[0] if is_v2(release)]
    assert f"instruct-v2@{hidden}" in lab.watch().values()
    assert lab.holds() == {}
    (release,) = [release for release in doors.open_ledger().releases(FAMILY) if is_v2(release)]
    changed = lab.api.model_info(lab.repo("instruct-v3")).last_modified
    assert release.released_at == planned.released_at  # `empelt plan` dates alike
    assert changed is not None
    assert changed < release.released_at < release.seen_at
    assert standings() == {"instruct-v1": "superseded", "instruct-v2": "due", "instruct-v3": "done"}


def is_v2(release: Release) -> bool:
    return release.ref.slug == "instruct-v2"


def serve(lab: Lab, name: str) -> None:
    """The release of this name becomes what channel eu serves."""
    ledger = doors.open_ledger()
    plan_due.fn(FAMILY, ledger.releases(FAMILY))
    (fact,) = [fact for fact in ledger.jobs(FAMILY) if fact.job.release.ref.slug == name]
    names = {"target": "eu", "family": FAMILY, "reason": "test"}
    ledger.switch_channel("eu", digest="a" * 64, release=fact.job.release.ref, expected_generation=0, **names)
    ledger.record_job_end(fact.job_key, "published", "Stronger.", "a" * 64)


def standings() -> dict[str, str]:
    """Name of each release on record -> how it stands."""
    rows = plan_due.fn(FAMILY, doors.open_ledger().releases(FAMILY))
    return {row.release.ref.slug: row.standing for row in rows}


def test_what_is_found_late_for_another_reason_keeps_its_own_date(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first watch, one that was broken off, a wider pattern: old releases do not become new by them."""
    lab.release("instruct-v1", steps=1)
    lab.release("other-v2", steps=2)
    lab.release("instruct-v3", steps=3)
    lab.hub.pull("failures", status=429, count=1, path="/instruct-v3/", retry_after=290)
    monkeypatch.setattr("tasks.hub.LONGEST_PAUSE_SECONDS", 0.0)  # a limit of time, as short as a test may take
    with pytest.raises(HubBusy):
        lab.watch()
    assert len(doors.open_ledger().releases(FAMILY)) == 1
    lab.watch()
    serve(lab, "instruct-v3")
    catalog = lab.tmp_path / "catalog" / f"{FAMILY}.yaml"
    catalog.write_text(catalog.read_text().replace("/instruct-v", "/(instruct|other)-v"))
    doors.open_catalog.cache_clear()
    assert len(lab.watch()) == 3
    for release in doors.open_ledger().releases(FAMILY):
        assert release.released_at == lab.api.model_info(release.ref.repo_id).last_modified
    assert standings() == {"instruct-v1": "superseded", "other-v2": "superseded", "instruct-v3": "done"}


def test_a_release_that_waited_is_dated_by_its_first_sight(lab: Lab) -> None:
    """Two come between two watches, the older one is mended by access alone: it stays the older one."""
    lab.release("instruct-v1", steps=1)
    lab.watch()
    lab.release("instruct-v2", steps=2)
    lab.api.update_repo_settings(lab.repo("instruct-v2"), gated="auto")
    lab.release("instruct-v3", steps=3)
    assert len(lab.watch()) == 2
    lab.release("instruct-v4", steps=4)
    lab.watch()
    lab.api.update_repo_settings(lab.repo("instruct-v2"), gated=False)
    assert len(lab.watch()) == 4
    order = [release.ref.slug for release in doors.open_ledger().releases(FAMILY)]
    assert order == ["instruct-v1", "instruct-v2", "instruct-v3", "instruct-v4"]


def test_a_renamed_repository_is_known_under_its_new_name(lab: Lab) -> None:
    sha = lab.release("instruct-v1", steps=1)
    before = lab.watch()
    lab.api.move_repo(lab.repo("instruct-v1"), lab.repo("instruct-v1-2512"))
    lab.hub.pull("requests")
    assert lab.watch() == before
    assert [request["path"] for request in lab.hub.answered()] == ["/api/models"]
    seen = doors.open_ledger().repo_seen(lab.repo("instruct-v1-2512"))
    assert seen is not None
    assert (seen.revision, [seen.content_digest]) == (sha, list(before))
    # The release on record has the old name: it still leads to the files.
    (release,) = doors.open_ledger().releases(FAMILY)
    digests = doors.open_source().fetch(release.ref, lab.tmp_path / "fetched")
    assert FIRST in [file.path for file in digests]
    lab.release("instruct-v1-2512", steps=2)
    assert len(lab.watch()) == 2


def test_a_name_that_was_registered_again_is_held_until_a_person_trusts_it(lab: Lab) -> None:
    first = lab.release("instruct-v1", steps=1)
    before = lab.watch()
    lab.api.delete_repo(lab.repo("instruct-v1"))
    assert lab.watch() == before
    assert lab.holds()[f"instruct-v1@{first}"].startswith("vanished: ")
    sha = lab.release("instruct-v1", steps=7)
    for full_rescan in (False, False, True):
        assert lab.watch(full_rescan=full_rescan) == before
        assert set(lab.holds()) == {f"instruct-v1@{first}", f"instruct-v1@{sha}"}
        reason = lab.holds()[f"instruct-v1@{sha}"]
        assert reason.startswith("identity: ")
        assert "registered again" in reason
    # A further commit, or hiding it for a while, does not launder it.
    sha = lab.add("instruct-v1", "README.md", b"# Trust me\n")
    lab.api.update_repo_settings(lab.repo("instruct-v1"), private=True)
    lab.watch()
    lab.api.update_repo_settings(lab.repo("instruct-v1"), private=False)
    assert lab.watch() == before
    assert lab.holds()[f"instruct-v1@{sha}"].startswith("identity: ")
    doors.open_ledger().lift(f"release:{lab.repo('instruct-v1')}@{sha}", "the lab says that it is theirs")
    assert f"instruct-v1@{sha}" in lab.watch().values()
    assert lab.holds() == {}


def test_a_base_that_was_registered_again_is_not_followed(lab: Lab) -> None:
    sha = lab.release("instruct-v1", steps=1)
    family = doors.open_catalog().family(FAMILY)
    ref = resolve(family.base)
    state = doors.open_source().state(lab.repo("base"))
    doors.open_ledger().record_repo_state(lab.repo("base"), state.internal_id, state.sha)
    lab.api.delete_repo(lab.repo("base"))
    lab.hub.push(lab.repo("base"), lab.folder(TinyModel(values=trained(1))), when="2026-11-21T09:00:00Z")
    with pytest.raises(ModelRefused, match=r"registered again.*pin it in the catalog"):
        resolve(family.base)
    assert lab.watch() == {}
    assert lab.holds()[f"instruct-v1@{sha}"].startswith(f"base: {lab.repo('base')} was deleted")
    assert resolve(family.base.model_copy(update={"revision": ref.revision})) == ref


def card(base_model: str) -> str:
    return f"---\nbase_model: {base_model}\n---\n"


def test_the_weights_prove_the_parent_where_the_card_does_not(lab: Lab) -> None:
    lab.release("sft", steps=4)
    silent = lab.release("instruct-v1", steps=1)
    one_back = lab.release("instruct-v2", steps=2, card=card(lab.repo("sft")))
    wrong = lab.release("instruct-v3", steps=3, card=card(lab.repo("base")), origin=2)
    no_card = lab.release("instruct-v4", steps=4, origin=3)
    assert sorted(lab.watch().values()) == sorted([f"instruct-v1@{silent}", f"instruct-v2@{one_back}"])
    held = lab.holds()
    assert sorted(held) == sorted([f"instruct-v3@{wrong}", f"instruct-v4@{no_card}"])
    assert all(reason.startswith("lineage: ") for reason in held.values())
    assert f"its card names {lab.repo('base')} as base_model, and its weights lie 1." in held[f"instruct-v3@{wrong}"]
    assert "its card names no base_model" in held[f"instruct-v4@{no_card}"]
    family, source = doors.open_catalog().family(FAMILY), doors.open_source()
    state = source.state(lab.repo("instruct-v2"))
    told = examine(family, state, state.last_modified, rescan=True)
    assert told.notes == (f"its card names {lab.repo('sft')} as base_model, not {lab.repo('base')}",)


def test_a_gated_release_is_held_and_taken_up_once_access_is_granted(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    sha = lab.release("instruct-v1", steps=1)
    lab.api.update_repo_settings(lab.repo("instruct-v1"), gated="manual")
    lab.watch_as("hf_empelt", monkeypatch)
    assert lab.watch() == {}
    reason = lab.holds()[f"instruct-v1@{sha}"]
    assert reason.startswith("gated: ")
    assert "Accept the licence there, and set EMPELT_HUB_TOKEN" in reason
    lab.api.grant_access(lab.repo("instruct-v1"), "empelt")
    assert list(lab.watch().values()) == [f"instruct-v1@{sha}"]
    assert lab.holds() == {}


def test_a_gated_base_holds_its_releases_and_not_for_their_own_sake(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    sha = lab.release("instruct-v1", steps=1)
    lab.api.update_repo_settings(lab.repo("base"), gated="auto")
    assert lab.watch() == {}
    reason = lab.holds()[f"instruct-v1@{sha}"]
    assert reason.startswith("gated: ")
    assert lab.repo("base") in reason
    lab.watch_as("hf_empelt", monkeypatch)
    assert list(lab.watch().values()) == [f"instruct-v1@{sha}"]


def test_a_short_refusal_is_waited_out_and_a_long_one_is_left_to_the_next_try(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = lab.release("instruct-v1", steps=1)
    lab.hub.pull("failures", status=503, count=1)
    lab.hub.pull("failures", status=429, count=1, path="/resolve/", retry_after=1, limit=True)
    assert list(lab.watch().values()) == [f"instruct-v1@{sha}"]
    sha = lab.release("instruct-v1", steps=2)
    monkeypatch.setattr("tasks.hub.LONGEST_PAUSE_SECONDS", 2.0)  # not 60: the same limit, in the time of a test
    lab.hub.pull("failures", status=429, count=1, path="/resolve/", retry_after=290)
    begun = time.monotonic()
    with pytest.raises(HubBusy, match="come back in 290 s") as busy:
        lab.watch()
    assert isinstance(busy.value, HubUnavailable)  # which Prefect tries again
    assert time.monotonic() - begun >= 2
    assert lab.holds() == {}
    assert f"instruct-v1@{sha}" in lab.watch().values()


def test_a_run_by_hand_of_another_repository_is_planned_nowhere_and_supersedes_nothing(lab: Lab) -> None:
    lab.release("instruct-v1", steps=1)
    lab.watch()
    lab.release("sft", steps=4)
    job = open_job.fn(FAMILY, lab.repo("sft"), "eu")
    family, ledger = doors.open_catalog().family(FAMILY), doors.open_ledger()
    assert job.release in ledger.releases(FAMILY)
    ledger.record_job_end(job.key, "kept", "not stronger")  # which would supersede whatever is older

    def planned() -> list[tuple[str, str]]:
        return [(row.release.ref.slug, row.standing) for row in plan_due.fn(FAMILY, ledger.releases(FAMILY))]

    assert planned() == [("instruct-v1", "due")]
    releases, _ = releases_now(family)
    assert [release.ref.slug for release in releases] == ["instruct-v1"]
    assert [row.row.release.ref.slug for row in plan_family(family, offline=True).rows] == ["instruct-v1"]
    assert [step.row.release.ref.slug for step in plan_steps(FAMILY, ("eu",), 9)] == ["instruct-v1"]
    shown = {view.row.release.ref.slug: view.row.standing for view in views_of(family, {})}
    assert shown == {"instruct-v1": "due", "sft": "done"}
    # The same files under a name that the rule knows are a release, also from the copy that is on record.
    lab.api.move_repo(lab.repo("sft"), lab.repo("instruct-v2"))
    lab.watch()
    assert planned() == [("sft", "done"), ("instruct-v1", "superseded")]


def test_a_run_by_hand_at_a_newer_card_or_name_is_of_the_release_on_record(lab: Lab) -> None:
    lab.release("instruct-v1", steps=1)
    lab.watch()
    (release,) = doors.open_ledger().releases(FAMILY)
    lab.add("instruct-v1", "README.md", b"# A better text\n")
    assert open_job.fn(FAMILY, lab.repo("instruct-v1"), "eu").release == release
    lab.api.move_repo(lab.repo("instruct-v1"), lab.repo("instruct-v1-2512"))
    assert open_job.fn(FAMILY, lab.repo("instruct-v1-2512"), "eu").release == release
    assert doors.open_ledger().releases(FAMILY) == [release]


def test_a_week_of_a_lab(lab: Lab) -> None:
    first = lab.release("instruct-v1", steps=1, card=card(lab.repo("base")))
    assert list(lab.watch().values()) == [f"instruct-v1@{first}"]
    # Tuesday: a better card, a quantised sibling, and v2 prepared in private.
    lab.add("instruct-v1", "README.md", b"# Now with a picture\n")
    lab.release("instruct-v1-GGUF", steps=1)
    lab.api.create_repo(lab.repo("instruct-v2"), private=True)
    second = lab.release("instruct-v2", steps=2)
    assert (len(lab.watch()), lab.holds()) == (1, {})
    # Wednesday: v2 opens, behind a licence; the watch has no token.
    lab.api.update_repo_settings(lab.repo("instruct-v2"), private=False, gated="auto")
    assert len(lab.watch()) == 1
    assert lab.holds()[f"instruct-v2@{second}"].startswith("gated: ")
    # Thursday: the licence is dropped, v1 mended in place, and v3 begins to arrive.
    lab.api.update_repo_settings(lab.repo("instruct-v2"), gated=False)
    mended = lab.release("instruct-v1", steps=3)
    folder = lab.folder(TinyModel(values=trained(1, steps=4)))
    lab.api.create_repo(lab.repo("instruct-v3"))
    lab.api.upload_file(path_or_fileobj=folder / FIRST, path_in_repo=FIRST, repo_id=lab.repo("instruct-v3"))
    releases = [f"instruct-v1@{first}", f"instruct-v2@{second}", f"instruct-v1@{mended}"]
    assert sorted(lab.watch().values()) == sorted(releases)
    ((key, reason),) = lab.holds().items()
    assert key.startswith("instruct-v3@")
    assert reason.startswith("unfinished: ")
    # Friday: v3 is whole and gets a date in its name before anybody looks; v1 goes.
    third = lab.api.upload_folder(repo_id=lab.repo("instruct-v3"), folder_path=folder).oid
    lab.api.move_repo(lab.repo("instruct-v3"), lab.repo("instruct-v3-2512"))
    lab.api.delete_repo(lab.repo("instruct-v1"))
    assert sorted(lab.watch().values()) == sorted([*releases, f"instruct-v3-2512@{third}"])
    assert set(lab.holds()) == {f"instruct-v1@{first}", f"instruct-v1@{mended}"}
    assert all(reason.startswith("vanished: ") for reason in lab.holds().values())
    # Sunday: somebody takes the free name. The nightly full rescan finds nothing else to do.
    taken = lab.release("instruct-v1", steps=5)
    shutil.rmtree(lab.tmp_path / "models")
    assert len(lab.watch(full_rescan=True)) == 4
    assert set(lab.holds()) == {f"instruct-v1@{first}", f"instruct-v1@{mended}", f"instruct-v1@{taken}"}
    assert lab.holds()[f"instruct-v1@{taken}"].startswith("identity: ")
