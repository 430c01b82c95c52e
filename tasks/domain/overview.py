"""Two pages for the UI: the matrix of a release (its targets side by side), and the overview of a family.

Pure text, made from what the ledger has recorded. Links are relative to the UI, so that they also work through a
tunnel; figures that were not recorded are a dash.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from tasks.domain.due import PlanRow
from tasks.domain.models import ChannelState, Release
from tasks.domain.publication import Publication
from tasks.domain.records import Approval, Hold, StageTimes
from tasks.domain.report_text import number, plain
from tasks.domain.verdict import Row, Verdict
from tasks.domain.words import duration, moment

STAGES = ("seen", "started", "fetched", "merged", "evaluated", "judged", "approved", "switched", "visible")
MOST_WORDS = 240
"""Characters of a reason in a table; the whole of it is a click away, on the run's page."""


class JobView(NamedTuple):
    """What a page tells of one release for one target."""

    row: PlanRow
    outcome: str
    """How the job ended last; empty if it never did."""
    verdict: Verdict | None
    generation: int | None
    """That its switch made, if it was published."""
    serves: bool
    """Whether the channel serves it now."""
    run: str | None
    """Id of its newest flow run."""
    times: StageTimes
    languages: tuple[str, ...]
    published: tuple[Publication, ...] = ()
    """Where the artifact of its switch stands on a Hub."""


def matrix_page(release: Release, views: Sequence[JobView]) -> str:
    """One line for each target of the family: where it stands, verdict, scores, the run."""
    lines = [
        f"# {release.ref.slug}: {len(views)} target{'' if len(views) == 1 else 's'}",
        "",
        f"`{release.ref.repo_id}@{release.ref.revision}`, a release of **{release.family}**. "
        f"Released {moment(release.released_at)}, seen {moment(release.seen_at)}.",
        "",
        "| target | stands | verdict | in its language (strict) | other critical slices | run |",
        "|---|---|---|---|---|---|",
    ]
    for view in views:
        verdict = view.verdict
        lines.append(
            f"| **{view.row.target}** | {_stands(view)} | {verdict.outcome.upper() if verdict else '–'} "
            f"| {_own(view)} | {_critical(view)} | {_link(view.run)} |"
        )
    lines += ["", "## Why", ""]
    lines += [f"- **{view.row.target}**: {_short(view.row.reason)}" for view in views]
    if any(view.published for view in views):
        lines += ["", "## Published to a Hub", ""]
        lines += [f"- **{view.row.target}**: {_published(one)}" for view in views for one in view.published]
    lines += ["", "Scores are the candidate's; in brackets what the channel served then. `±` is the standard error."]
    return "\n".join(lines)


def refused_page(repo_id: str, revision: str, hold: Hold) -> str:
    """The matrix of a release that never became a job: it was refused before anything was downloaded."""
    return "\n".join(
        [
            f"# {repo_id.split('/')[-1]}: held before it was fetched",
            "",
            f"`{repo_id}@{revision}` is on hold since {moment(hold.at)}; no target was merged.",
            "",
            f"> {plain(_one_line(hold.reason))}",
        ]
    )


def overview_page(
    family: str,
    *,
    channels: Sequence[tuple[str, ChannelState | None]],
    waiting: Sequence[tuple[str, Approval]],
    held: Iterable[Hold],
    views: Sequence[JobView],
    approve_link: str,
    published: Sequence[Publication] = (),
) -> str:
    """What a family serves, what waits or is held and why, and how long its releases took.

    Args:
        family: its name.
        channels: target and what its channel serves, None if nothing.
        waiting: name and wish of each candidate that waits for a person.
        held: holds on releases and targets; those on jobs are in ``views``.
        views: of the jobs to tell about, newest release first.
        approve_link: where the form is.
        published: what stands on a Hub of what the family serves now.
    """
    lines = [f"# Family {family}", "", "## Serving", ""]
    lines += ["| target | channel | release | generation | since | visible |", "|---|---|---|---|---|---|"]
    for target, state in channels:
        if state is None:
            lines.append(f"| **{target}** | – | nothing yet | – | – | – |")
            continue
        visible = "yes" if state.acknowledged_generation >= state.generation else "not yet"
        page = f"[{state.channel}](/v2/artifacts/key/{page_key('channel', state.channel)})"
        told = (
            f"{state.release.slug} `{state.release.revision[:12]}` | {state.generation} | {moment(state.switched_at)}"
        )
        lines.append(f"| **{target}** | {page} | {told} | {visible} |")
    if published:
        lines += ["", "## Published to a Hub", ""]
        lines += [f"- **{one.target}**: {_published(one)}" for one in published]
    lines += ["", "## Waiting for approval", ""]
    lines += [f"- **{name}** since {moment(w.at)}: {_short(w.reason)} [Decide]({approve_link})" for name, w in waiting]
    lines += [] if waiting else ["Nothing."]
    lines += ["", "## Under way, due and held", ""]
    open_jobs = [v for v in views if v.row.standing in ("due", "running", "held", "exhausted")]
    lines += [
        f"- **{v.row.release.ref.slug} x {v.row.target}**: {v.row.standing}. {_short(v.row.reason)} {_link(v.run, '')}"
        for v in open_jobs
    ]
    told_holds = [f"- **{_held_name(hold.key)}**: held since {moment(hold.at)}. {_short(hold.reason)}" for hold in held]
    lines += told_holds
    lines += [] if open_jobs or told_holds else ["Nothing."]
    return "\n".join([*lines, "", "## From release to served", "", *_durations(views)])


def _durations(views: Sequence[JobView]) -> list[str]:
    ended = [view for view in views if view.outcome]
    if not ended:
        return ["No job has come to an end yet."]
    asked = [s for s in STAGES if s != "approved" or any(v.times.approved for v in ended)]
    lines: list[str] = []
    # A table for each release: with its name in a column the figures would not fit beside it.
    for release in {view.row.release.content_digest: view.row.release for view in ended}.values():
        lines += [f"**{release.ref.slug}**, released {moment(release.released_at)}", ""]
        lines += [f"| target | ended | {' | '.join(asked)} | total |", f"|---|---|{'---|' * len(asked)}---|"]
        lines += [_duration(view, asked) for view in ended if view.row.release == release]
        lines.append("")
    return [
        *lines,
        "Each figure is the time since the step before it, by the moments that the ledger has recorded; a dash is a "
        "step that was not made, or was made earlier (a model fetched, merged or measured once is not done again). "
        "`released` is when the Hub says that the repository last changed, or, of one that was opened later, the last "
        "watch that did not find it; `visible` when the gateway routed by it.",
    ]


def _duration(view: JobView, asked: Sequence[str]) -> str:
    spans, times = stage_seconds(view.times), view.times
    cells = " | ".join(duration(spans.get(stage), none="–") for stage in asked)
    total = duration((times.visible - times.released).total_seconds()) if times.visible else "–"
    target = _link(view.run, view.row.target, view.row.target)
    return f"| {target} | {view.outcome} | {cells} | {f'**{total}**' if times.visible else total} |"


def stage_seconds(times: StageTimes) -> dict[str, float]:
    """Seconds from each recorded step to the one before it; steps that were done earlier are left out."""
    found: dict[str, float] = {}
    before = times.released
    for stage in STAGES:
        at: datetime | None = getattr(times, stage)
        if at is not None and at >= before:
            found[stage], before = (at - before).total_seconds(), at
    return found


def page_key(*words: str) -> str:
    """A key that Prefect takes for an artifact: lower-case letters, digits and dashes."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in "-".join(words).lower())
    return "-".join(part for part in plain.split("-") if part)


def _stands(view: JobView) -> str:
    if view.serves:
        return f"**serves `{view.row.channel}`**, generation {view.generation}"
    if view.outcome == "published":
        return f"published as generation {view.generation}, since replaced"
    if view.row.standing == "waiting":
        return "**waits for approval**"
    if view.row.standing == "done":
        return {"rejected": "refused", "kept": "kept: not stronger"}.get(view.outcome, view.outcome)
    return view.row.standing


def _published(one: Publication) -> str:
    return f"[{one.repo_id} `{one.tag}`]({one.url}), {moment(one.at)}"


def _own(view: JobView) -> str:
    return "<br>".join(_scored(row) for row in _rows(view) if _is_own(row, view)) or "–"


def _critical(view: JobView) -> str:
    rows = [row for row in _rows(view) if row.critical and not _is_own(row, view)]
    return "<br>".join(_scored(row, stderr=False) for row in rows) or "–"


def _rows(view: JobView) -> tuple[Row, ...]:
    return view.verdict.rows if view.verdict else ()


def _is_own(row: Row, view: JobView) -> bool:
    return row.metric == "strict" and row.benchmark in {f"{language}_chat" for language in view.languages}


def _scored(row: Row, *, stderr: bool = True) -> str:
    mark = {True: "", False: " **FAIL**", None: " undecided"}[row.ok]
    live = f" ({number(row.live)})" if row.live is not None else ""
    return f"{row.benchmark} {number(row.score, row.stderr if stderr else None)}{live}{mark}"


def _link(run: str | None, text: str = "run", otherwise: str = "–") -> str:
    return f"[{text or 'run'}](/v2/runs/flow-run/{run})" if run else otherwise if text else ""


def _held_name(key: str) -> str:
    """``owner/name@<12 digits>`` of a release, ``family x target`` of a target."""
    kind, _, rest = key.partition(":")
    name, _, revision = rest.partition("@")
    return f"{name}@{revision[:12]}" if kind == "release" else name.replace("/", " x ")


def _one_line(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def _short(text: str) -> str:
    told = _one_line(text)
    # Cut first: a cut through an escape would let the rest of it speak.
    return plain(told if len(told) <= MOST_WORDS else f"{told[: MOST_WORDS - 1]}…")
