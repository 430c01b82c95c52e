"""What people read: the gate table and the decision page, made from a verdict. Pure text, so tests can read it too."""

from collections.abc import Mapping
from typing import Any

from tasks.domain.jobs import Job
from tasks.domain.models import ChannelState, ModelRef
from tasks.domain.verdict import Verdict

NARROW = "\N{NO-BREAK SPACE}"
MARK = {True: "pass", False: "FAIL", None: "undecided"}


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
                "verdict": MARK[row.ok],
            }
        )
    return rows


def number(value: float | None, stderr: float | None = None) -> str:
    """``0.534 ± 0.028`` that does not break over lines; a dash for what was not scored."""
    if value is None:
        return "–"
    return f"{value:.3f}" if stderr is None else f"{value:.3f}{NARROW}±{NARROW}{stderr:.3f}"


def decision_page(
    job: Job,
    verdict: Verdict,
    *,
    ended: str,
    digest: str,
    generation: int | None,
    serving: Mapping[str, str],
    prefix: str = "",
) -> str:
    """Why a candidate was published or not: the page that is opened first when somebody asks.

    Args:
        job: what was asked for.
        verdict: of its gate.
        ended: how the run ended, in a word.
        digest: of the merged artifact.
        generation: of the channel, if it was published.
        serving: image, flags and device class that it was measured on.
        prefix: of commands that should mean this installation (``EMPELT_HOME=... ``).
    """
    lines = [f"# {job.name}: {ended}", ""]
    if generation is not None:
        lines += [f"Channel **`{job.channel}`** serves it as generation **{generation}**.", ""]
    lines += ["## Why", "", *(f"- {reason}" for reason in verdict.reasons), ""]
    lines += [
        "## Scores",
        "",
        *markdown_table(gate_rows(verdict)),
        "",
        "`*` critical: compared with the live model.",
        "",
    ]
    lines += [
        "## Lineage",
        "",
        f"Artifact `{digest}`",
        "",
        "| role | model | revision | content digest |",
        "|---|---|---|---|",
        *(
            f"| {i.role} | {i.ref.repo_id} | `{i.ref.revision}` | `{i.digest}` |"
            for i in sorted(job.lineage.ingredients, key=lambda i: i.role)
        ),
        "",
        "## Recipe",
        "",
        *(f"- {key}: `{value}`" for key, value in sorted(job.lineage.recipe.items())),
        f"- engine: `{job.lineage.engine_version}`",
        "",
        "## Measured on",
        "",
        *(f"- {key}: `{value}`" for key, value in sorted(serving.items())),
        "",
        "## Take it back",
        "",
        "```",
        f"{prefix}empelt rollback {job.channel}",
        "```",
        "",
        f"job `{job.key[:12]}` · merge `{job.merge_key[:12]}` · gate `{verdict.gate}` `{verdict.gate_digest[:12]}`",
    ]
    return "\n".join(lines)


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
            f"- since: {state.switched_at:%Y-%m-%d %H:%M:%S} UTC",
            f"- why: {reason}",
            f"- before: {back}",
            "",
            "```",
            f"curl {endpoint}/v1/chat/completions -H 'content-type: application/json' \\",
            f'  -d \'{{"model": "{state.channel}", "messages": [{{"role": "user", "content": "Kaixo"}}]}}\'',
            f"{prefix}empelt rollback {state.channel}",
            "```",
        ]
    )


def markdown_table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as a markdown table; the columns are those of the first row."""
    columns = list(rows[0])
    head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return head + [f"| {' | '.join(_cell(row.get(c, '')) for c in columns)} |" for row in rows]


def _cell(value: Any) -> str:
    return str(value).replace("|", "/").replace("\n", " ")
