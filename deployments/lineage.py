"""`empelt lineage`: which of several folders a model was trained from, by its weights. No ledger, server or network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deployments.showing import table

DIRECTION = (
    "A distance has no direction: a candidate that was trained from the model looks like a parent. Offer possible "
    "parents only."
)


def read_lineage(model: Path, candidates: Sequence[Path]) -> dict[str, Any]:
    """What the weights say, as in the report of the command; ``parent`` is None where they do not say enough.

    Candidates that cannot be opened are told under ``incomparable``.

    Raises:
        MergeError: The model itself cannot be opened or sampled.
    """
    from tasks.engine.checkpoint import Checkpoint
    from tasks.engine.errors import MergeError
    from tasks.engine.lineage import prove_parent

    opened: dict[str, Checkpoint] = {}
    closed: dict[str, str] = {}
    seen: dict[Path, str] = {}
    for folder in candidates:
        label = str(folder)
        if label in seen.values():
            continue
        if folder.resolve() in seen:
            closed[label] = f"the same folder as {seen[folder.resolve()]}"
            continue
        seen[folder.resolve()] = label
        try:
            opened[label] = Checkpoint.open(folder)
        except MergeError as error:
            closed[label] = str(error)
    found = prove_parent(Checkpoint.open(model), opened)
    incomparable = {**found.incomparable, **closed}
    none = "; ".join(f"{label}: {why}" for label, why in incomparable.items())
    return {
        "model": str(model),
        "parent": found.parent,
        "margin": found.margin,
        "sigmas": found.sigmas,
        "distances": found.distances,
        "incomparable": incomparable,
        "same": list(found.same),
        "elements": found.elements,
        "reason": found.reason if found.distances else f"no candidate could be compared ({none})",
    }


def as_text(found: dict[str, Any]) -> str:
    """Candidates from near to far, then the parent if there is one; why there is none is said elsewhere."""
    rows = [
        (label, f"{distance:.5f}", "the same model" if label in found["same"] else "")
        for label, distance in found["distances"].items()
    ]
    rows += [(label, "", why) for label, why in found["incomparable"].items()]
    lines = [table(("candidate", "|model - candidate| / |model|", "note"), rows)]
    if found["parent"]:
        margin = "" if found["margin"] is None else f", nearer than the next by {found['margin']:.1%}"
        lines.append(f"parent: {found['parent']}{margin}\n{found['reason']}")
    return "\n".join([*lines, f"{found['elements']:,} weights of each were compared. {DIRECTION}"])
