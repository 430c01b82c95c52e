"""A promotion as people read it: each step with its seconds, what the canary answered beside the live one, and why."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.domain.jobs import PublishRequest
from tasks.domain.models import ChannelState
from tasks.domain.records import PromotionStep
from tasks.domain.report_text import markdown_table, plain
from tasks.domain.words import moment

COLUMNS = ("requests", "errors", "refused", "empty", "foreign", "sampled", "p95")


def promotion_page(request: PublishRequest, steps: Sequence[PromotionStep], now: ChannelState | None) -> str:
    """The page.

    Args:
        request: what was to become live.
        steps: all that were recorded for it, oldest first, of several runs where one crashed.
        now: what the channel serves.
    """
    refusal = next((step for step in reversed(steps) if step.ended == "refused"), None)
    serves = now is not None and now.artifact_digest == request.artifact_digest
    if serves and now is not None:
        head = f"serves it as generation {now.generation}, since {moment(now.switched_at)}"
    elif refusal is not None:
        head = f"refused at {refusal.step}: the channel never moved"
    else:
        head = "under way, or broken off: the channel has not moved"
    lines = [f"# `{request.channel}`: {plain(str(request.release))}", "", f"**{head}**", ""]
    lines += [f"- artifact: `{request.artifact_digest}`", f"- why: {plain(request.reason)}"]
    lines += [f"- now: {plain(str(now.release))}, generation {now.generation}" if now else "- now: nothing", ""]
    if refusal is not None and not serves:
        lines += ["## Why it was refused", "", *(f"- {plain(reason)}" for reason in refusal.said.split("; ")), ""]
    if steps:
        lines += ["## Steps", "", *markdown_table([_row(step) for step in steps]), ""]
    if tried := [step for step in steps if "canary" in step.figures]:
        lines += ["## Canary", "", *markdown_table([row for step in tried for row in _figures(step)]), ""]
    if times := _times(steps):
        lines += ["## Times", "", *(f"- {what}: {seconds:.3f} s" for what, seconds in times.items()), ""]
    return "\n".join(lines)


def _row(step: PromotionStep) -> dict[str, Any]:
    return {"step": step.step, "ended": step.ended, "seconds": f"{step.seconds:.2f}", "what was seen": step.said}


def _figures(step: PromotionStep) -> list[dict[str, Any]]:
    return [
        {"step": step.step, "version": version, **{name: _shown(step.figures[version].get(name)) for name in COLUMNS}}
        for version in ("canary", "live")
        if isinstance(step.figures.get(version), Mapping)
    ]


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _times(steps: Sequence[PromotionStep]) -> dict[str, float]:
    figures = {name: value for step in steps if step.step == "confirm" for name, value in step.figures.items()}
    names = {
        "acknowledged_seconds": "from the last check's end to the gateway's acknowledgement",
        "switch_seconds": "from the routes' writing to their first use by the gateway",
    }
    return {told: float(figures[name]) for name, told in names.items() if figures.get(name) is not None}
