"""Moving a channel: what happens when the gateway never says yes, when a claim is stale, when there is no way back."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from tasks import doors
from tasks.domain.errors import InputError, ModelRefused, PromotionFailed
from tasks.domain.jobs import PublishRequest
from tasks.domain.models import ModelRef
from tasks.forms import forms_now
from tasks.publish import choose_previous, confirm_visible, switch_channel
from tasks.references import references
from tasks.settings import settings
from tasks.store import garbage

V1 = ModelRef(repo_id="demo/instruct-v1", revision="1" * 40)
V2 = ModelRef(repo_id="demo/instruct-v2", revision="2" * 40)
JOB = "e" * 64
DIGESTS: dict[str, str] = {}


@pytest.fixture(autouse=True)
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A ledger and nothing else: no agent, no gateway."""
    monkeypatch.setenv("EMPELT_HOME", str(tmp_path))
    monkeypatch.setenv("EMPELT_VISIBLE_DEADLINE_SECONDS", "1")
    monkeypatch.setenv("EMPELT_FAMILIES", "llama-tiny")
    doors.forget()
    with disable_run_logger():
        yield
    doors.forget()


@pytest.fixture(autouse=True)
def stored(installation: None, tmp_path: Path) -> dict[str, str]:
    """Three artifacts in the store: letter -> digest."""

    def made(letter: str) -> str:
        folder = tmp_path / "made" / letter
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(letter.encode() * 100)
        (folder / "config.json").write_bytes(b"{}")
        return doors.open_store().adopt(folder).digest

    DIGESTS.update({letter: made(letter) for letter in "abc"})
    return DIGESTS


def request(release: ModelRef, digest: str, generation: int, **more: object) -> PublishRequest:
    return PublishRequest(
        family="demo", target="eu", channel="eu", artifact_digest=DIGESTS[digest], release=release,
        expected_generation=generation, **more,
    )  # fmt: skip


def test_a_switch_that_nobody_confirms_is_taken_back():
    switch_channel.fn(request(V1, "a", 0))
    state = switch_channel.fn(request(V2, "b", 1))
    with pytest.raises(PromotionFailed) as failure:
        confirm_visible.fn(state)
    now = doors.open_ledger().channel("eu")
    assert now is not None
    assert (now.artifact_digest, now.release, now.generation) == (DIGESTS["a"], V1, 3)
    assert "never been heard of" in str(failure.value)  # the agent's last heartbeat is named
    assert str(V1) in str(failure.value)


def test_the_first_occupant_that_nobody_confirms_stays_since_there_is_nothing_to_return_to():
    state = switch_channel.fn(request(V1, "a", 0))
    with pytest.raises(PromotionFailed, match="Nothing was served before"):
        confirm_visible.fn(state)


def test_a_candidate_judged_against_an_older_generation_is_not_published():
    switch_channel.fn(request(V1, "a", 0))
    switch_channel.fn(request(V2, "b", 1))
    with pytest.raises(PromotionFailed, match="judge again") as refusal:
        switch_channel.fn(request(V1, "c", 1))
    assert "generation 2" in str(refusal.value)
    assert "1 was expected" in str(refusal.value)
    assert len(doors.open_ledger().promotions("eu")) == 2


def test_a_stale_attempt_cannot_publish():
    ledger = doors.open_ledger()
    old = ledger.claim(JOB, owner="run:old", lease_seconds=0.01)
    new = ledger.claim(JOB, owner="run:old", lease_seconds=60)
    assert old is not None
    assert new is not None
    with pytest.raises(PromotionFailed) as refusal:
        switch_channel.fn(request(V1, "a", 0, fence=old.fence, claim_key=JOB))
    assert str(old.fence) in str(refusal.value)
    assert str(new.fence) in str(refusal.value)
    assert ledger.channel("eu") is None
    switch_channel.fn(request(V1, "a", 0, fence=new.fence, claim_key=JOB))


def test_rolling_back_names_what_it_leaves_and_why():
    switch_channel.fn(request(V1, "a", 0))
    switch_channel.fn(request(V2, "b", 1))
    back = choose_previous.fn("eu", "previous", "too chatty")
    assert (back.artifact_digest, back.release, back.expected_generation) == (DIGESTS["a"], V1, 2)
    assert str(V2) in back.reason
    assert "too chatty" in back.reason
    assert choose_previous.fn("eu", DIGESTS["b"][:8], "again").artifact_digest == DIGESTS["b"]


@pytest.mark.parametrize(
    ("channel", "to", "named"), [("gl", "previous", "['eu']"), ("eu", "no-digest", "generation 1")]
)
def test_a_rollback_to_nowhere_lists_what_there_is(channel: str, to: str, named: str):
    switch_channel.fn(request(V1, "a", 0))
    with pytest.raises(InputError) as refusal:
        choose_previous.fn(channel, to, "by hand")
    assert named in str(refusal.value)


def test_a_channel_with_one_promotion_has_no_previous():
    switch_channel.fn(request(V1, "a", 0))
    with pytest.raises(InputError, match="it has served only this"):
        choose_previous.fn("eu", "previous", "by hand")


def remove(letter: str) -> None:
    """As a collection of garbage would, were it used long ago."""
    assert garbage.remove(doors.open_store(), DIGESTS[letter], datetime.now(UTC) + timedelta(days=1))


def test_a_rollback_to_what_was_removed_is_refused_before_anything_moves():
    for generation, letter in enumerate("abc"):
        switch_channel.fn(request(V1 if letter == "a" else V2, letter, generation))
    remove("a")
    with pytest.raises(ModelRefused, match="is not in the store any more") as refusal:
        choose_previous.fn("eu", DIGESTS["a"], "by hand")
    assert DIGESTS["a"] in str(refusal.value)
    assert f"{DIGESTS['b'][:12]} ({V2}, generation 2)" in refusal.value.problems
    with pytest.raises(ModelRefused, match="is not in the store any more"):
        switch_channel.fn(request(V1, "a", 3))
    assert len(doors.open_ledger().promotions("eu")) == 3


def test_what_a_rollback_has_chosen_is_not_collected_before_it_is_served():
    store = doors.open_store()
    switch_channel.fn(request(V1, "a", 0))
    switch_channel.fn(request(V2, "b", 1))
    os.utime(store.manifest_of(DIGESTS["a"]), (0, 0))
    then = datetime.now(UTC) - timedelta(minutes=1)
    choose_previous.fn("eu", "previous", "by hand")
    assert not garbage.remove(store, DIGESTS["a"], then)


def test_a_switch_that_nobody_confirms_is_not_taken_back_to_what_was_removed():
    switch_channel.fn(request(V1, "a", 0))
    state = switch_channel.fn(request(V2, "b", 1))
    remove("a")
    with pytest.raises(PromotionFailed, match=r"instruct-v1@1+, is not in the store any more"):
        confirm_visible.fn(state)
    now = doors.open_ledger().channel("eu")
    assert now is not None
    assert (now.artifact_digest, now.generation) == (DIGESTS["b"], 2)


def test_previous_is_what_was_served_and_not_what_never_came_up():
    ledger = doors.open_ledger()
    for generation, letter in enumerate("ab"):
        switch_channel.fn(request(V1, letter, generation))
        ledger.acknowledge("eu", generation + 1)
    with pytest.raises(PromotionFailed, match="Switched back"):
        confirm_visible.fn(switch_channel.fn(request(V2, "c", 2)))
    ledger.acknowledge("eu", 4)
    assert [p.artifact_digest for p in ledger.served_before("eu")] == [DIGESTS["a"]]
    assert choose_previous.fn("eu", "previous", "by hand").artifact_digest == DIGESTS["a"]
    assert references()[DIGESTS["a"]] == "eu served it before, and may be rolled back to it"
    assert DIGESTS["c"] not in references()


def test_what_a_switch_may_be_taken_back_to_is_kept_until_it_is_confirmed():
    ledger = doors.open_ledger()
    for generation, letter in enumerate("abc"):
        switch_channel.fn(request(V1, letter, generation))
    ledger.acknowledge("eu", 1)  # the gateway has slept through the second
    assert references()[DIGESTS["b"]] == "eu goes back to it if the switch is not confirmed"
    assert references()[DIGESTS["a"]].startswith("eu served it before")


def test_the_form_of_a_rollback_offers_only_what_is_there():
    switch_channel.fn(request(V1, "a", 0))
    switch_channel.fn(request(V2, "b", 1))
    remove("a")
    form = forms_now(settings())["rollback-channel/by-hand"]({})
    told = form["properties"]["to"]["description"]
    assert DIGESTS["b"][:12] in told
    assert DIGESTS["a"][:12] not in told
