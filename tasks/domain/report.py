"""What people read: the gate table and the decision page, made from a verdict. Pure text, so tests can read it too."""

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

from tasks.domain.decision import Decision, mark
from tasks.domain.evidence import Change
from tasks.domain.examination import Examined
from tasks.domain.models import ChannelState, ModelRef
from tasks.domain.publication import Publication, summary
from tasks.domain.verdict import Verdict
from tasks.domain.words import moment

NARROW = "\N{NO-BREAK SPACE}"


class Picture(NamedTuple):
    """A plot on a page, with what a reader needs to read it."""

    heading: str
    caption: str
    svg: str


def gate_rows(verdict: Verdict) -> list[dict[str, Any]]:
    """The gate as a table: the verdict, then one row for each check.

    The verdict stands first since the UI shows ten rows, and alone, since a sentence in it pushes columns out of sight.
    """
    roles = sorted(verdict.parent_digests)
    columns = ("metric", "score", "n", "limit", *roles, "live")
    rows: list[dict[str, Any]] = []
    rows.append({"benchmark": "VERDICT", **dict.fromkeys(columns, ""), "verdict": verdict.outcome.upper()})
    for row in verdict.rows:
        rows.append(
            {
                "benchmark": f"{row.benchmark}{' *' if row.critical else ''}",
                "metric": row.metric,
                "score": number(row.score, row.stderr),
                "n": row.n,
                "limit": row.limit,
                **{role: number(row.parents.get(role)) for role in roles},
                "live": number(row.live),
                "verdict": mark(row),
            }
        )
    return [*rows, *(examined_row(one, columns) for one in verdict.examined if one.ok is not True)]


def examined_row(one: Examined, columns: Sequence[str]) -> dict[str, Any]:
    """What was found before the benchmarks, as a row of the gate table."""
    told = {"metric": "examined", "score": number(one.value), "n": one.n, "limit": number(one.limit)}
    told |= {"instruct": number(one.parent), "verdict": "FAIL" if one.ok is False else "UNDECIDED"}
    return {"benchmark": one.name, **dict.fromkeys(columns, ""), **told}


def number(value: float | None, stderr: float | None = None) -> str:
    """``0.534 ± 0.028`` that does not break over lines; a dash for what was not scored."""
    if value is None:
        return "–"
    return f"{value:.3f}" if stderr is None else f"{value:.3f}{NARROW}±{NARROW}{stderr:.3f}"


def decision_page(decision: Decision, pictures: Sequence[Picture] = (), *, report: str = "") -> str:
    """Why a candidate was published or not: the page that is opened first when somebody asks.

    Args:
        decision: what was decided.
        pictures: its plots. They go into the page itself: Prefect's UI shows images with ``data:`` addresses.
        report: path of the same page as a file, which also has the items that changed.
    """
    job, verdict = decision.job, decision.verdict
    lines = [f"# {job.name}: {decision.ended}", "", f"**{plain(decision.sentence)}**", ""]
    head, *body = decision.comparison
    lines += [_line(head), _line(["---"] * 3), *(_line([first, *rest]) for first, *rest in body), ""]
    if decision.take_back:
        lines += ["## Take it back", "", "```", decision.take_back, "```", ""]
    if decision.changes:
        lines += [f"## {decision.beside}", "", *markdown_table(change_rows(decision.changes)), "", STARRED, ""]
    for picture in pictures:
        data = base64.b64encode(picture.svg.encode()).decode()
        lines += [f"## {picture.heading}", "", f"![{picture.heading}](data:image/svg+xml;base64,{data})", ""]
        lines += [picture.caption, ""]
    lines += ["## Why", "", *(f"- {plain(reason)}" for reason in verdict.reasons), ""]
    lines += ["## Scores", "", *markdown_table(score_rows(verdict)), "", STARRED, ""]
    lines += ["## Lineage", "", f"Artifact `{decision.digest}`, merged from", ""]
    for part in sorted(job.lineage.ingredients, key=lambda i: i.role):  # a list: two digests are wider than a table
        lines += [f"- **{part.role}** {part.ref.repo_id}", f"  - revision `{part.ref.revision}`"]
        lines += [f"  - content `{part.digest}`"]
    lines += ["", "## Recipe", "", *(f"- {key}: `{value}`" for key, value in sorted(job.lineage.recipe.items()))]
    lines += [f"- engine: `{job.lineage.engine_version}`"]
    lines += [f"- merged in: {decision.took}"] if decision.took else []
    lines += ["", "## Measured on", ""]
    lines += [*(f"- {key}: `{value}`" for key, value in sorted(decision.serving.items())), ""]
    if report:
        lines += ["## As a file", "", "This page with the items that changed, to print or to send:", ""]
        lines += ["```", report, "```", ""]
    lines += [
        f"job `{job.key[:12]}` · merge `{job.merge_key[:12]}` · gate `{verdict.gate}` `{verdict.gate_digest[:12]}`"
    ]
    return "\n".join(lines)


STARRED = "`*` critical: compared with the live model."


def change_rows(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """The candidate against the live model, one row for each benchmark that both were scored on."""
    return [
        {
            "benchmark": f"{change.check.benchmark}{' *' if change.check.critical else ''}",
            "live": number(change.before),
            "candidate": number(change.after),
            "gain (95 % bounds)": f"{change.gain.mean:+.3f} ({change.gain.lower():+.3f} to {change.gain.upper():+.3f})",
            "items won / lost": f"{len(change.won)} / {len(change.lost)}" if change.won or change.lost else "–",
            "": change.word,
        }
        for change in changes
    ]


def score_rows(verdict: Verdict) -> list[dict[str, Any]]:
    """The gate table for a narrow page: one column for all tuned parents, of which a row seldom has two."""
    rows = []
    for row in verdict.rows:
        tuned = {role.partition(":")[2]: value for role, value in row.parents.items() if role != "instruct"}
        scored = {code: value for code, value in sorted(tuned.items()) if value is not None}
        told = [f"{code} {number(value)}" if len(scored) > 1 else number(value) for code, value in scored.items()]
        rows.append(
            {
                "benchmark": f"{row.benchmark}{' *' if row.critical else ''}",
                "score": number(row.score, row.stderr),
                "n": row.n,
                "limit": row.limit,
                "instruct": number(row.parents.get("instruct")),
                "tuned": ", ".join(told) or number(None),
                "live": number(row.live),
                "verdict": mark(row),
            }
        )
    return rows


def channel_page(
    state: ChannelState, *, endpoint: str, reason: str, previous: ModelRef | None, prefix: str = ""
) -> str:
    """What a channel serves now, and how to change that."""
    back = (
        f"`{state.previous_digest[:12]}`" + (f" ({previous})" if previous else "")
        if state.previous_digest
        else "nothing"
    )
    return "\n".join(
        [
            f"# Channel `{state.channel}`: generation {state.generation}",
            "",
            f"- release: **{state.release}**",
            f"- artifact: `{state.artifact_digest}`",
            f"- since: {moment(state.switched_at)}",
            f"- why: {plain(reason)}",
            f"- before: {back}",
            "",
            "```",
            f"curl {endpoint}/v1/chat/completions -H 'content-type: application/json' \\",
            f'  -d \'{{"model": "{state.channel}", "messages": [{{"role": "user", "content": "Kaixo"}}]}}\'',
            f"{prefix}empelt rollback {state.channel}",
            "```",
        ]
    )


def publication_page(done: Publication) -> str:
    """What was published, and where."""
    rows = {"family": done.family, "target": done.target, **summary(done), "private if made": done.private}
    return "\n".join(
        [f"# published: {plain(done.repo_id)} `{done.tag}`", "", *(f"- {k}: `{v}`" for k, v in rows.items())]
    )


def markdown_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Rows as a markdown table; the columns are those of the first row."""
    columns = list(rows[0])
    return [_line(columns), _line(["---"] * len(columns)), *(_line([row.get(c, "") for c in columns]) for row in rows)]


def plain(text: str) -> str:
    """Text that markdown shows as it is: no HTML, no code, no links or images, on one line."""
    for character in "\\`*[]":
        text = text.replace(character, f"\\{character}")
    # Only these end a line in markdown; other white space stays, since numbers are held together by it.
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace("\r", "\n").split("\n"))


def _line(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(plain(str(cell)).replace('|', '/') for cell in cells)} |"
