"""What is due next, by table: each line is one release, newest first, with what the ledger knows of its job."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.domain.due import JobStanding, PlanRow, order_releases, plan_target
from tasks.domain.models import Digest, ModelRef, Release

NAMES = ("v4", "v3", "v2", "v1")
"""Released on days 4, 3, 2 and 1."""


@pytest.fixture(scope="session")
def plan(release: Callable[..., Release], digest: Callable[[str], Digest]) -> Callable[..., list[PlanRow]]:
    """Plans the newest ``len(known)`` of NAMES for one target."""

    def make(known: Sequence[str], live: str | None = None) -> list[PlanRow]:
        names = NAMES[-len(known) :] if known else ()
        releases = [release(name, days=int(name[1])) for name in names]
        standings = {digest(f"job {name}"): word for name, word in zip(names, known, strict=True)}
        live_release = next((r for r in releases if r.ref.slug == live), None)
        return plan_target(
            family="llama-tiny",
            target="eu",
            channel="eu",
            releases=list(reversed(releases)),
            live_since=live_release.released_at if live_release else None,
            keys={r.content_digest: digest(f"job {r.ref.slug}") for r in releases},
            standing_of=lambda key: JobStanding(standing=standings[key], reason=f"the ledger says {standings[key]}"),
        )

    return make


@pytest.mark.parametrize(
    ("known", "live", "expected"),
    [
        pytest.param([], None, [], id="no release, nothing to do"),
        pytest.param(["open"], None, ["due"], id="the first release is due"),
        pytest.param(
            ["waiting", "open"], None, ["waiting", "superseded"], id="what waits for a person holds older ones back"
        ),
        pytest.param(["open", "waiting"], None, ["due", "waiting"], id="and not newer ones"),
        pytest.param(["open", "open", "open"], None, ["due", "superseded", "superseded"], id="three cost one merge"),
        pytest.param(["open", "published"], "v1", ["due", "done"], id="newer than live is due"),
        pytest.param(["published", "open"], "v2", ["done", "superseded"], id="older than what is published is not"),
        pytest.param(["rejected", "open", "open"], None, ["done", "due", "superseded"], id="rejected: the next older"),
        pytest.param(["rejected", "rejected", "open"], None, ["done", "done", "due"], id="and the next"),
        pytest.param(["rejected", "open", "published", "open"], "v2", ["done", "due", "done", "superseded"], id="fill"),
        pytest.param(["rejected", "published", "open"], "v2", ["done", "done", "superseded"], id="never below live"),
        pytest.param(["rejected", "rejected"], None, ["done", "done"], id="all rejected: nothing"),
        pytest.param(["running", "open"], None, ["running", "superseded"], id="while the newest runs, nothing older"),
        pytest.param(["open", "running"], None, ["due", "running"], id="a newer one does not wait for an older run"),
        pytest.param(["held", "open"], None, ["held", "due"], id="a hold lets the next older one through"),
        pytest.param(["held", "published"], "v1", ["held", "done"], id="a hold on the newest keeps what is live"),
        pytest.param(["exhausted", "open"], None, ["exhausted", "due"], id="after too many attempts: the next older"),
        pytest.param(["kept", "open"], None, ["done", "superseded"], id="kept is settled like published"),
        pytest.param(["kept", "published"], "v1", ["done", "done"], id="kept: the channel stays where it is"),
        pytest.param(["published", "published"], "v1", ["done", "done"], id="after a rollback nothing is due"),
        pytest.param(["published", "open", "published"], "v1", ["done", "superseded", "done"], id="nor in between"),
        pytest.param(["open", "published", "published"], "v1", ["due", "done", "done"], id="but a newer release is"),
    ],
)
def test_what_is_due(
    plan: Callable[..., list[PlanRow]], known: list[str], live: str | None, expected: list[str]
) -> None:
    rows = plan(known, live)
    assert [row.standing for row in rows] == expected
    assert [row.release.ref.slug for row in rows] == list(NAMES[-len(known) :] if known else ())


def test_a_release_older_than_the_live_one_is_never_due_by_itself(plan: Callable[..., list[PlanRow]]) -> None:
    # The live one was published under another gate: its job of today is open, but was refused by hand.
    rows = plan(["rejected", "open"], "v2")
    assert [row.standing for row in rows] == ["done", "older"]
    assert rows[1].reason == "the channel has served one of 2026-05-03 12:00"


def test_the_live_release_itself_is_due_again_when_its_job_is_open(plan: Callable[..., list[PlanRow]]) -> None:
    # A changed gate or recipe makes a new job of the same release.
    assert [row.standing for row in plan(["open", "published"], "v2")] == ["due", "done"]


def test_a_row_says_why(plan: Callable[..., list[PlanRow]]) -> None:
    rows = plan(["running", "held", "open"])
    assert [row.reason for row in rows] == ["the ledger says running", "the ledger says held", "v3 is newer"]
    assert plan(["open"])[0].reason == "not merged yet"


def test_a_row_names_family_target_channel_and_job(
    plan: Callable[..., list[PlanRow]], digest: Callable[[str], Digest]
) -> None:
    (row,) = plan(["open"])
    assert (row.family, row.target, row.channel, row.job_key) == ("llama-tiny", "eu", "eu", digest("job v1"))


def test_releases_are_ordered_by_when_they_were_released_not_by_when_they_were_seen(
    release: Callable[..., Release],
) -> None:
    older = release("v9", days=1, seen_days=9)
    newer = release("v2", days=2, seen_days=3)
    assert order_releases([older, newer]) == [newer, older]


def test_releases_of_one_moment_are_ordered_alike_on_every_host(release: Callable[..., Release]) -> None:
    one, other = release("a", days=1), release("b", days=1)
    later = release("a", days=1).model_copy(update={"seen_at": one.seen_at + timedelta(seconds=1)})
    assert order_releases([one, other]) == order_releases([other, one]) == [other, one]
    assert order_releases([other, later]) == [later, other]


@given(known=st.lists(st.sampled_from(get_args(JobStanding.model_fields["standing"].annotation)), max_size=4))
def test_at_most_one_release_is_due_and_no_newer_one_is_open(
    plan: Callable[..., list[PlanRow]], known: list[str]
) -> None:
    standings = [row.standing for row in plan(known)]
    due = [k for k, standing in enumerate(standings) if standing == "due"]
    assert len(due) <= 1
    for k in due:
        assert known[k] == "open"
        assert not {"open", "running", "published", "kept"} & set(known[:k])


def test_after_a_rollback_only_a_newer_release_is_due_whatever_else_has_changed() -> None:
    """The channel was taken back from the newest release; a changed gate has opened every job again."""
    day = datetime(2026, 5, 3, 12, tzinfo=UTC)
    releases = [
        Release(
            family="f",
            ref=ModelRef(repo_id=f"lab/v{n}", revision=f"{n}" * 40),
            content_digest=f"{n}" * 64,
            released_at=day + timedelta(days=n),
            seen_at=day,
        )
        for n in (1, 2, 3)
    ]
    keys = {r.content_digest: "9" * 63 + r.content_digest[0] for r in releases}

    def standings(known: list[Release]) -> list[str]:
        rows = plan_target(
            family="f",
            target="eu",
            channel="eu",
            releases=known,
            live_since=releases[1].released_at,
            rolled_back=True,
            keys=keys,
            standing_of=lambda _: JobStanding(standing="open"),
        )
        return [row.standing for row in rows]

    assert standings(releases[:2]) == ["older", "older"]
    assert standings(releases) == ["due", "superseded", "superseded"]
