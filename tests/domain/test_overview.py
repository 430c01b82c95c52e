"""The matrix of a release and the overview of a family: what they say about each way in which a job can stand."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tasks.domain.due import PlanRow
from tasks.domain.jobs import PublishRequest
from tasks.domain.models import ChannelState, Digest, Release
from tasks.domain.overview import MOST_WORDS, JobView, matrix_page, overview_page, page_key, refused_page, stage_seconds
from tasks.domain.publication import Publication
from tasks.domain.records import Approval, Hold, StageTimes
from tasks.domain.verdict import Row, Verdict


@pytest.fixture
def view(release: Callable[..., Release], digest: Callable[[str], Digest]) -> Callable[..., JobView]:
    def make(target: str, standing: str, outcome: str = "", *, name: str = "instruct-v2", **more: Any) -> JobView:
        found = release(name)
        row = PlanRow(
            family="llama-tiny",
            target=target,
            channel=target,
            release=found,
            job_key=digest(f"{name} {target}"),
            standing=standing,
            reason=more.pop("reason", f"the reason of {target}"),
        )
        times = more.pop("times", StageTimes(released=found.released_at, seen=found.seen_at))
        told = {"verdict": None, "generation": None, "serves": False, "run": None, "languages": (target,), **more}
        return JobView(row=row, outcome=outcome, times=times, **told)

    return make


def verdict(outcome: str, *rows: tuple[str, str, float, float | None, bool | None]) -> Verdict:
    made = [
        Row.model_construct(
            benchmark=name, metric=metric, critical=True, score=score, stderr=0.01, n=300, live=live, ok=ok, reason=""
        )
        for name, metric, score, live, ok in rows
    ]
    return Verdict.model_construct(outcome=outcome, rows=tuple(made))


def line_of(page: str, start: str) -> str:
    (line,) = [line for line in page.splitlines() if line.startswith(start)]
    return line


def test_a_matrix_has_a_line_for_each_target_and_says_how_it_stands(view, release):
    passed = verdict("passed", ("eu_chat", "strict", 0.534, 0.41, True), ("en_chat", "strict", 0.83, None, True))
    failed = verdict("rejected", ("gl_chat", "strict", 0.1, None, False))
    views = [
        view("eu", "done", "published", serves=True, generation=2, run="run-1", verdict=passed),
        view("gl", "done", "rejected", verdict=failed, reason="gl_chat: 0.100 is below the floor 0.4."),
        view("ca", "running"),
        view("es", "held", reason="cancelled in the UI at 2026-11-23 10:00:00 UTC"),
        view("iberian", "waiting", "awaiting"),
        view("pt", "due"),
        view("fr", "done", "published", generation=1),
        view("it", "done", "kept"),
    ]
    page = matrix_page(release("instruct-v2"), views)
    eu = line_of(page, "| **eu**")
    assert "**serves `eu`**, generation 2" in eu
    assert "PASSED" in eu
    assert "eu_chat 0.534" in eu
    assert "(0.410)" in eu
    assert "en_chat 0.830" in eu
    assert "[run](/v2/runs/flow-run/run-1)" in eu
    gl = line_of(page, "| **gl**")
    assert "refused" in gl
    assert "REJECTED" in gl
    assert "**FAIL**" in gl
    assert "- **gl**: gl_chat: 0.100 is below the floor 0.4." in page
    assert "running" in line_of(page, "| **ca**")
    assert "held" in line_of(page, "| **es**")
    assert "cancelled in the UI" in line_of(page, "- **es**")
    assert "waits for approval" in line_of(page, "| **iberian**")
    assert "due" in line_of(page, "| **pt**")
    assert "generation 1, since replaced" in line_of(page, "| **fr**")
    assert "kept" in line_of(page, "| **it**")
    assert release("instruct-v2").ref.revision in page


def test_a_multilingual_target_shows_each_of_its_languages(view, release):
    scores = verdict("passed", *((f"{code}_chat", "strict", 0.5, None, True) for code in ("eu", "gl", "en")))
    page = matrix_page(release("instruct-v2"), [view("iberian", "done", verdict=scores, languages=("eu", "gl"))])
    cells = line_of(page, "| **iberian**").split("|")
    assert "eu_chat" in cells[4]
    assert "gl_chat" in cells[4]
    assert "en_chat" in cells[5]


def test_nothing_in_a_reason_can_break_a_table(view, release):
    page = matrix_page(release("instruct-v2"), [view("eu", "held", reason="a | b\nc" + " long" * 200)])
    line = line_of(page, "- **eu**")
    assert "a / b c" in line
    assert line.endswith("…")


HOSTILE = "its card names [Decide](https://evil) ![x](http://z) as base_model\n\r# **Approved** `x` <b> | more"
HARMLESS = (
    r"its card names \[Decide\](https://evil) !\[x\](http://z) as base_model # \*\*Approved\*\* \`x\` &lt;b> / more"
)


def test_what_the_hub_or_a_person_wrote_is_no_markup_on_any_page(view, release):
    """Hold reasons carry card tags and file names, a rejection the comment of whoever made it."""
    found = release("instruct-v2")
    hold = Hold(key="release:lab/instruct-v9@abc", reason=HOSTILE, at=found.seen_at)
    request = PublishRequest(
        family="llama-tiny",
        target="eu",
        channel="eu",
        artifact_digest="a" * 64,
        release=found.ref,
        expected_generation=0,
        claim_key=None,
    )
    wish = Approval(
        job_key="b" * 64, state="waiting", request=request, by="", reason=HOSTILE, flow_run_id=None, at=found.seen_at
    )
    held = view("eu", "held", reason=HOSTILE)
    overview = overview_page(
        "llama-tiny", channels=[], waiting=[("x", wish)], held=[hold], views=[held], approve_link="/v2/approve"
    )
    pages = {
        "refused": (refused_page("lab/instruct-v9", "a" * 40, hold), 1),
        "matrix": (matrix_page(found, [held]), 1),
        "overview": (overview, 3),
    }
    for name, (page, times) in pages.items():
        assert page.count(HARMLESS) == times, name
        assert page.count("Decide") == times + (name == "overview"), name  # the link to the form is ours
    # A reason that is too long is not cut inside an escape.
    cut = matrix_page(found, [view("eu", "held", reason="x" * (MOST_WORDS - 2) + "[y](z)")])
    assert r"x\[…" in cut


def test_a_release_that_was_refused_before_its_download_has_a_page_too(release):
    hold = Hold(
        key="release:lab/instruct-v9@abc", reason="MistralForCausalLM is not LlamaForCausalLM", at=release("x").seen_at
    )
    page = refused_page("lab/instruct-v9", "a" * 40, hold)
    assert "held before it was fetched" in page
    assert "MistralForCausalLM" in page


def test_an_overview_tells_what_serves_what_waits_and_how_long_it_took(view, release, digest):
    found = release("instruct-v2")
    steps = ("started", "fetched", "merged", "evaluated", "judged", "switched", "visible")
    at = {name: found.seen_at + timedelta(seconds=10 * (i + 1)) for i, name in enumerate(steps)}
    times = StageTimes(released=found.released_at, seen=found.seen_at, **at)
    state = ChannelState(
        channel="eu",
        generation=2,
        artifact_digest=digest("merged"),
        release=found.ref,
        target="eu",
        family="llama-tiny",
        switched_at=at["switched"],
        acknowledged_generation=2,
    )
    hold = Hold(key="release:lab/instruct-v9@abc", reason="foreign architecture", at=found.seen_at)
    views = [view("eu", "done", "published", serves=True, generation=2, times=times, run="run-1"), view("gl", "due")]
    page = overview_page(
        "llama-tiny", channels=[("eu", state), ("gl", None)], waiting=[], held=[hold], views=views, approve_link="/x"
    )
    assert "instruct-v2" in line_of(page, "| **eu**")
    assert line_of(page, "| **eu**").endswith("| yes |")
    assert "nothing yet" in line_of(page, "| **gl**")
    assert "**lab/instruct-v9@abc**: held since" in page
    assert "foreign architecture" in page
    assert "**instruct-v2 x gl**: due" in page
    durations = line_of(page, "| [eu](/v2/runs/flow-run/run-1)")
    assert durations.count("| 10 s ") == len(steps)
    assert "60 min" in durations  # from the release to the first sight
    assert "**61 min**" in durations
    assert "**instruct-v2**, released" in page
    assert "| approved |" not in page  # nobody was asked


def test_a_step_that_was_made_earlier_has_no_duration_and_does_not_shorten_the_next(release):
    found = release("instruct-v2")
    start = found.seen_at
    times = StageTimes(
        released=found.released_at,
        seen=start,
        started=start + timedelta(seconds=5),
        merged=start - timedelta(days=3),
        judged=start + timedelta(seconds=65),
    )
    assert stage_seconds(times) == {"seen": 3600.0, "started": 5.0, "judged": 60.0}


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("matrix", "llama-tiny-instruct-v2"), "matrix-llama-tiny-instruct-v2"),
        (("overview", "llama-3.1-8b"), "overview-llama-3-1-8b"),
        (("matrix", "Qwen3_8B--Ünï."), "matrix-qwen3-8b-n"),
    ],
)
def test_a_page_key_is_one_that_prefect_takes(words: tuple[str, ...], key: str):
    assert page_key(*words) == key


def test_what_stands_on_a_hub_is_told_on_both_pages_and_nothing_where_there_is_none(view, release, digest):
    done = Publication(
        endpoint="https://hub", repo_id="acme/tiny-eu", merge_key=digest("m"), digest=digest("a"), family="llama-tiny",
        target="eu", commit="c" * 40, tag="merge-abc", how="uploaded", private=True, bytes=7, seconds=1.0,
        flow_run_id=None, at=release("v1").seen_at,
    )  # fmt: skip
    nothing = matrix_page(release("instruct-v2"), [view("eu", "done")])
    assert "Published" not in nothing
    told = "- **eu**: [acme/tiny-eu `merge-abc`](https://hub/acme/tiny-eu/tree/merge-abc), 2026-"
    assert told in matrix_page(release("instruct-v2"), [view("eu", "done", published=(done,))])
    shown = {"channels": [], "waiting": [], "held": [], "views": [], "approve_link": ""}
    assert told in overview_page("llama-tiny", published=[done], **shown)
    assert "Published" not in overview_page("llama-tiny", **shown)
