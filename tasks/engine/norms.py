"""How long the deltas are, and whether they agree: the numbers that the literature ties to a merge that collapses.

Sampled, since the exact figures would read every input once more: up to 2^15 elements from the middle of each tensor,
weighted by the tensor's size.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from .plan import MergePlan, TunedInput

_SAMPLE = 1 << 15


def delta_norms(plan: MergePlan, tuned: Mapping[str, TunedInput]) -> dict[str, float]:
    """Ratios and cosines of the deltas, estimated.

    Returns:
        ``tau_I/base`` and ``tau_<language>/base``: norm of the delta over the norm of the base;
        ``cos(tau_I,tau_<language>)``: 0 for unrelated deltas, near 1 for a language model that was tuned from the
        instruct model while its parent is said to be the base. A ratio with a zero below is left out.
    """
    dots: dict[tuple[str, str], float] = defaultdict(float)
    for step in plan.steps.values():
        count = min(step.elements, _SAMPLE)
        if not count:
            continue
        start = (step.elements - count) // 2
        sample = partial(_sample, plan, step.name, start, start + count)
        theta = sample("base")
        vectors = {"base": theta, "tau_I": sample("instruct") - theta}
        for language, source in tuned.items():
            parent = theta if source.parent is None else sample(f"parent of {language}")
            vectors[f"tau_{language}"] = sample(f"tuned base {language}") - parent
        scale = step.elements / count
        for one, vector in vectors.items():
            dots[one, one] += scale * float(torch.dot(vector, vector))
            if one not in ("base", "tau_I"):
                dots["tau_I", one] += scale * float(torch.dot(vectors["tau_I"], vector))
    return _ratios(dots, [f"tau_{language}" for language in tuned])


def _sample(plan: MergePlan, name: str, start: int, stop: int, label: str) -> Tensor:
    checkpoint = plan.checkpoints[label]
    chunk = checkpoint.read(name, start, stop).double()
    checkpoint.forget(name, start, stop)
    return chunk


def _ratios(dots: Mapping[tuple[str, str], float], languages: list[str]) -> dict[str, float]:
    norms = {one: math.sqrt(value) for (one, other), value in dots.items() if one == other}
    found = {f"{name}/base": norms[name] / norms["base"] for name in ["tau_I", *languages] if norms["base"]}
    found |= {
        f"cos(tau_I,{name})": dots["tau_I", name] / (norms["tau_I"] * norms[name])
        for name in languages
        if norms["tau_I"] and norms[name]
    }
    return found
