"""The judgement of one repository, without a Hub: same arguments, same answer."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tasks.domain.models import ModelRef
from tasks.domain.records import RepoState as Seen
from tasks.sources.parentage import Proof
from tasks.sources.protocol import RepoState
from tasks.sources.recognition import Findings, Memory, Rule, recognise
from tasks.sources.stated import stated_parents

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RULE = Rule(base="lab/base", pattern=r"lab/instruct-v\d+", deny=("GGUF",), settle_seconds=3600)
SHA, DIGEST = "a" * 40, "d" * 64


def state(**changes: Any) -> RepoState:
    values: dict[str, Any] = {
        "repo_id": "lab/instruct-v1",
        "internal_id": "1" * 24,
        "sha": SHA,
        "last_modified": NOW - timedelta(hours=2),
        "created_at": NOW - timedelta(days=300),
        "private": False,
        "gated": False,
        "disabled": False,
        "tags": ("base_model:lab/base", "base_model:finetune:lab/base"),
        "architectures": (),
        "parameters": None,
    }
    return RepoState(**values | changes)


def seen(**changes: Any) -> Seen:
    values: dict[str, Any] = {"repo_id": "lab/instruct-v1", "internal_id": "1" * 24, "revision": SHA, "at": NOW}
    return Seen(**values | {"content_digest": DIGEST} | changes)


def proof(distance: float) -> Proof:
    base = ModelRef(repo_id="lab/base", revision="b" * 40)
    return Proof(
        model=state().ref,
        distances={f"lab/base@{'b' * 40}": distance},
        incomparable={},
        winner=base,
        margin=None,
        sigmas=None,
        elements=1,
        bytes_read=1,
    )


SOUND = Findings(digest=DIGEST, proof=proof(0.03))
KNOWN = frozenset({DIGEST})
SEEN = Memory(by_name=seen(content_digest=None))
"""An earlier watch saw this very state; its files were not read."""

CASES: list[tuple[dict[str, Any], Memory, Findings | None, str, str, str]] = [
    ({}, SEEN, None, "release", "new", "as far as its listing tells"),
    ({}, SEEN, SOUND, "release", "new", "relative distance 0.030"),
    ({"repo_id": "lab/base"}, Memory(), None, "ignored", "name", "does not match"),
    ({"disabled": True}, Memory(), SOUND, "held", "disabled", "disabled at its source"),
    ({"private": True}, Memory(), SOUND, "waits", "private", "has not released it yet"),
    ({"last_modified": NOW}, SEEN, SOUND, "waits", "settling", "settles at 3600 s"),
    ({}, Memory(), SOUND, "waits", "settling", "seen for the first time"),
    ({"sha": "b" * 40}, SEEN, SOUND, "waits", "settling", "seen for the first time"),
    ({}, SEEN, Findings(digest=DIGEST, licence="X states y"), "held", "licence", "licence: lab/instruct-v1@"),
    ({}, SEEN, SOUND.model_copy(update={"triggers": ("t: 'pay'",)}), "held", "template", "t: 'pay'. Such conditions"),
    ({}, SEEN, Findings(unfinished=("weights",)), "waits", "unfinished", "lacks weights"),
    ({}, SEEN, Findings(denied="licence"), "held", "gated", "gated: licence"),
    ({}, SEEN, Findings(refused="wrong shape"), "held", "preflight", "wrong shape"),
    ({}, SEEN, Findings(digest=DIGEST, proof=proof(1.4)), "held", "lineage", "lie 1.40 from those of lab/base"),
    ({}, Memory(by_name=seen(), released=KNOWN), None, "release", "known", "is on record"),
    # Its files were read as a parent of something, which makes it no release.
    ({}, Memory(by_name=seen()), None, "release", "new", "listing"),
    (
        {"sha": "b" * 40},
        Memory(by_name=seen(revision="b" * 40, content_digest=None), released=KNOWN),
        Findings(digest=DIGEST),
        "release",
        "known",
        "commit",
    ),
    ({"internal_id": "2" * 24}, Memory(by_name=seen()), SOUND, "held", "identity", "registered again"),
    (
        {"internal_id": "2" * 24},
        Memory(by_name=seen(), by_id=seen(internal_id="2" * 24, content_digest=None), trusted=True),
        SOUND,
        "release",
        "new",
        "descends",
    ),
    ({"internal_id": ""}, Memory(by_name=seen()), SOUND, "release", "new", "descends"),
]


@pytest.mark.parametrize(("changes", "memory", "findings", "verdict", "cause", "told"), CASES)
def test_a_repository_is_what_its_state_and_findings_make_it(
    changes: dict[str, Any], memory: Memory, findings: Findings | None, verdict: str, cause: str, told: str
) -> None:
    found = recognise(state(**changes), RULE, memory, NOW, findings)
    assert (found.verdict, found.cause) == (verdict, cause)
    assert told in found.reason
    assert found.content_digest is None or verdict == "release"


def test_a_rename_keeps_what_is_known_and_is_noted() -> None:
    memory = Memory(by_id=seen(repo_id="lab/instruct-v0"), released=KNOWN)
    found = recognise(state(), RULE, memory, NOW)
    assert (found.verdict, found.cause, found.content_digest) == ("release", "known", DIGEST)
    assert found.notes == ("renamed from lab/instruct-v0",)


def test_a_way_that_the_cards_tell_is_noted_in_place_of_their_silence() -> None:
    tags = ("base_model:lab/sft", "base_model:finetune:lab/sft")
    told = SOUND.model_copy(update={"stated": ("lab/sft", "lab/base"), "oddities": ("template holds the address x",)})
    found = recognise(state(tags=tags), RULE, SEEN, NOW, told)
    assert found.notes == ("its template holds the address x", "its card leads to lab/base by lab/sft, lab/base")


def test_a_template_that_a_person_has_read_and_one_that_need_not_settle_are_taken() -> None:
    told = SOUND.model_copy(update={"triggers": ("t",)})
    assert recognise(state(), RULE, SEEN.model_copy(update={"trusted": True}), NOW, told).verdict == "release"
    at_once = RULE.model_copy(update={"settle_seconds": 0})
    assert recognise(state(), at_once, Memory(), NOW, SOUND).verdict == "release"


def test_a_person_may_name_any_repository_but_not_one_that_was_replaced() -> None:
    by_hand = Rule(base="lab/base", pattern=None)
    odd = {"repo_id": "lab/odd", "private": True, "last_modified": NOW}
    assert recognise(state(**odd), by_hand, Memory(), NOW, SOUND).verdict == "release"
    replaced = Memory(by_name=seen(repo_id="lab/odd", internal_id="9" * 24))
    assert recognise(state(**odd), by_hand, replaced, NOW, SOUND).cause == "identity"


@pytest.mark.parametrize(
    ("tags", "note"),
    [
        ((), "its card names no base_model"),
        (
            ("base_model:lab/sft", "base_model:finetune:lab/sft"),
            "its card names lab/sft as base_model, not lab/base",
        ),
    ],
)
def test_a_silent_or_partial_card_is_noted_and_the_weights_decide(tags: tuple[str, ...], note: str) -> None:
    near = recognise(state(tags=tags), RULE, SEEN, NOW, SOUND)
    assert (near.verdict, near.notes) == ("release", (note,))
    far = recognise(state(tags=tags), RULE, SEEN, NOW, Findings(digest=DIGEST, proof=proof(1.3)))
    assert (far.verdict, far.cause) == ("held", "lineage")


def test_the_relations_of_a_card_are_no_parents() -> None:
    tags = ("base_model:lab/a", "base_model:merge:lab/a", "base_model:lab/b", "base_model:merge:lab/b", "eu")
    assert stated_parents(tags) == ("lab/a", "lab/b")
