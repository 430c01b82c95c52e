"""What the card of an adapter says beyond that of a merge: what it is served over, and what its rank keeps. Pure text.

Energy is the sum of squares of the change that the full merge would make to the instruct model. It says how much of the
weights is kept, and nothing of what the model still can: that is measured.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.domain.lineage import Lineage
from tasks.domain.report_text import plain

Report = Mapping[str, Any]
OUTSIDE = "outside the layers"


def about_adapter(lineage: Lineage, tuned: str) -> list[str]:
    """What it is, for whoever opens the folder."""
    rank = lineage.adapter.rank if lineage.adapter else 0
    instruct, digest = lineage.ref_of("instruct").repo_id, lineage.digest_of("instruct")
    return [
        f"What {tuned} learnt, as a low-rank adapter (LoRA, PEFT's format, rank {rank}) over the instruct model "
        f"{instruct}. Nothing was trained: it is the nearest matrix of this rank to the change that the full merge "
        "would make, tensor by tensor. Configuration, tokenizer and chat template are the instruct model's.",
        "",
        f"It is for one model alone, that with the content digest `{digest}`.",
    ]


def energy_kept(report: Report) -> list[str]:
    """The section about energy: by layer, and what is left out; nothing where the report has none."""
    adapter = report.get("adapter")
    if not isinstance(adapter, Mapping):
        return []
    tensors = [one for one in adapter["tensors"] if one["energy"]]
    whole = sum(one["energy"] for one in tensors)
    lines = [
        "## Energy kept",
        "",
        f"Rank {adapter['rank']} keeps **{adapter['kept']:.1%}** of the energy of the change (its sum of squares); "
        f"a full rank would keep {adapter['carried']:.1%}, since no adapter carries the rest.",
        "",
        "| layer | share of the change | kept |",
        "|---|---|---|",
    ]
    for layer, ones in _by_layer(tensors).items():
        energy = sum(one["energy"] for one in ones)
        kept = sum(one["energy"] * one["kept"] for one in ones)
        lines.append(f"| {layer} | {energy / whole:.1%} | {kept / energy:.1%} |")
    left = [one for one in tensors if one["why"]]
    lines += [""] if left else []
    lines += [f"- not carried: {plain(str(one['tensor']))} ({plain(str(one['why']))})" for one in left]
    return [*lines, "", "Each tensor is in `energy.json`.", ""]


def _by_layer(tensors: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for one in tensors:
        numbers = [part for part in str(one["tensor"]).split(".") if part.isdigit()]
        found[numbers[0] if numbers else OUTSIDE].append(one)
    return dict(
        sorted(found.items(), key=lambda item: (not item[0].isdigit(), int(item[0]) if item[0].isdigit() else 0))
    )
