"""What of a merge's folder must be its instruct parent's: tokenizer, stop tokens, template. And what its weights weigh.

No model is run and no server asked. Everything that is wrong is told at once; an empty list is a folder that may be
staged. Weights are read by the engine, which refuses NaN and infinity where it writes; here their norms are compared.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.domain.errors import InputError
from tasks.harness.rendering import render

LEAST_RATIO, MOST_RATIO = 0.5, 2.0
"""Of a tensor's norm to the larger and smaller of its parents'; a sum of two deltas stays far inside."""
_SHOWN = 5
_STOPS = ("eos_token_id", "bos_token_id")
CONVERSATIONS: tuple[tuple[Mapping[str, str], ...], ...] = (
    ({"role": "user", "content": "Kaixo, zer moduz?"},),
    (
        {"role": "user", "content": "Cal é a capital?"},
        {"role": "assistant", "content": "Compostela."},
        {"role": "user", "content": "E a de Asturias, «por favor»?\n"},
    ),
)
"""What both templates are asked to lay out: one turn, and several."""


def differs(candidate: Path, instruct: Path) -> list[str]:
    """Why a server would read prompts or end answers otherwise for ``candidate`` than for its instruct parent.

    Raises:
        InputError: if a folder lacks what is compared.
        ModelRefused: if a template cannot be rendered within its limits.
    """
    return [problem for found in compared(candidate, instruct).values() for problem in found]


def compared(candidate: Path, instruct: Path) -> dict[str, list[str]]:
    """``differs`` by what differs: ``tokenizer``, ``stop_tokens``, ``template``; raises as that does."""
    return {
        "tokenizer": _tokens(candidate, instruct),
        "stop_tokens": _stops(candidate, instruct),
        "template": _templates(candidate, instruct),
    }


def weighs(
    norms: Mapping[str, float],
    parents: Mapping[str, Mapping[str, float]],
    *,
    low: float = LEAST_RATIO,
    high: float = MOST_RATIO,
) -> list[str]:
    """Which tensors of a merge cannot be right by their Euclidean norms alone.

    Args:
        norms: tensor name to norm, of the merge.
        parents: role to the same, of each parent; all of them have the merge's tensors.
        low: least ratio to the smallest parent's norm.
        high: greatest ratio to the largest parent's.

    Raises:
        InputError: if a parent lacks tensors, or there is no parent.
    """
    if not parents:
        raise InputError("norms are compared with those of parents, and none was given")
    absent = {
        role: sorted(norms.keys() ^ theirs.keys())[:_SHOWN]
        for role, theirs in parents.items()
        if norms.keys() ^ theirs.keys()
    }
    if absent:
        raise InputError(f"the merge and its parents do not have the same tensors: {absent}")
    found = []
    for name, norm in norms.items():
        theirs = [parent[name] for parent in parents.values()]
        if not math.isfinite(norm):
            found.append(f"{name}: its norm is {norm}: NaN or infinity among its values, or they overflow")
        elif not low * min(theirs) <= norm <= high * max(theirs):
            found.append(f"{name}: norm {norm:.4g}, its parents' {min(theirs):.4g} to {max(theirs):.4g}")
    return found


def adds(norms: Mapping[str, float], parents: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Which weights an adapter over the instruct parent cannot be right for, by the norm of what it adds to each.

    The two may lie any way to each other: what is told is out of the limits of ``weighs`` however they do.

    Args:
        norms: name of a weight to the norm of what is added.
        parents: role to tensor name to norm; ``instruct`` is the model that the adapter is served over.
    """
    found, instruct = [], parents["instruct"]
    for name, norm in norms.items():
        theirs = [parent[name] for parent in parents.values() if name in parent]
        if name not in instruct:
            found.append(f"{name}: an adapter's weight that the instruct parent does not have")
        elif not math.isfinite(norm):
            found.append(f"{name}: what the adapter adds has norm {norm}: NaN or infinity, or it overflows")
        elif norm - instruct[name] > MOST_RATIO * max(theirs):
            found.append(
                f"{name}: the adapter adds {norm:.4g}, its parents' norms are {min(theirs):.4g} to {max(theirs):.4g}"
            )
    return found


def _json(folder: Path, name: str, *, needed: bool = False) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        if needed:
            raise InputError(f"{path}: missing; expected a model's folder")
        return {}
    found = json.loads(path.read_text("utf-8"))
    if not isinstance(found, dict):
        raise InputError(f"{path}: {type(found).__name__}, expected an object")
    return found


def _tokens(candidate: Path, instruct: Path) -> list[str]:
    """By id: which tokens differ; and whether texts would be cut into them otherwise."""
    ours, theirs = (_json(folder, "tokenizer.json", needed=True) for folder in (candidate, instruct))
    if ours == theirs:
        return []
    mine, parents = _ids(ours), _ids(theirs)
    wrong = [number for number in sorted({*mine, *parents}) if mine.get(number) != parents.get(number)]
    if wrong:
        shown = "; ".join(f"id {k} is {mine.get(k)!r}, its parent's {parents.get(k)!r}" for k in wrong[:_SHOWN])
        return [f"tokenizer.json: {len(wrong)} of {len(parents)} tokens are not the instruct parent's: {shown}"]
    parts = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
    return [f"tokenizer.json: the same tokens, but another {', '.join(parts)}: texts may be cut otherwise"]


def _ids(tokenizer: Mapping[str, Any]) -> dict[int, str]:
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    by_id = enumerate(entry[0] for entry in vocabulary) if isinstance(vocabulary, list) else ()
    known = dict(by_id) if isinstance(vocabulary, list) else {number: token for token, number in vocabulary.items()}
    return known | {entry["id"]: entry["content"] for entry in tokenizer.get("added_tokens") or []}


def _stops(candidate: Path, instruct: Path) -> list[str]:
    """Stop tokens: a merge that takes them from its base never ends an answer."""
    found = []
    for name in ("generation_config.json", "config.json"):
        ours, theirs = _json(candidate, name), _json(instruct, name)
        for key in _STOPS:
            if _as_set(ours.get(key)) != _as_set(theirs.get(key)):
                found.append(f"{name}: {key} is {ours.get(key)}, the instruct parent's {theirs.get(key)}")
    return found


def _as_set(ids: Any) -> frozenset[Any]:
    return frozenset(ids if isinstance(ids, list) else () if ids is None else (ids,))


def _templates(candidate: Path, instruct: Path) -> list[str]:
    ours, theirs = _template(candidate), _template(instruct)
    if not ours or not theirs:
        return [] if ours == theirs else [f"chat template: {'there is none' if not ours else 'its parent has none'}"]
    found = []
    for number, messages in enumerate(CONVERSATIONS, 1):
        mine = render(ours, messages, _named(candidate), whose="the merge")
        if mine != render(theirs, messages, _named(instruct), whose="the instruct parent"):
            found.append(
                f"chat template: conversation {number} of {len(CONVERSATIONS)} is laid out as {mine[:80]!r}..."
            )
    return found


def _template(folder: Path) -> str:
    own = folder / "chat_template.jinja"
    stated = own.read_text("utf-8") if own.is_file() else _json(folder, "tokenizer_config.json").get("chat_template")
    if isinstance(stated, list):  # several, by name: the one that chats use
        stated = next((one["template"] for one in stated if one.get("name") == "default"), "")
    return str(stated or "")


def _named(folder: Path) -> dict[str, str]:
    told = _json(folder, "tokenizer_config.json")
    tokens = {key: told.get(key) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
    texts = {key: value.get("content") if isinstance(value, dict) else value for key, value in tokens.items()}
    return {key: value for key, value in texts.items() if isinstance(value, str)}
