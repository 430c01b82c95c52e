"""Where each key of a merge file stands, and what is said about one that stands elsewhere or is not known."""

import difflib
from collections.abc import Iterable, Mapping

from .methods.spec import MethodSpec
from .methods.table import TABLE

TOP_KEYS = (
    "merge_method", "models", "base_model", "parameters", "dtype", "out_dtype", "instruct", "compat", "seed",
    "special_rows", "routers", "vocabulary", "allow_foreign_parent",
)  # fmt: skip
ENTRY_KEYS = ("model", "parent", "parameters")

_TOKENIZER = "the tokenizer always comes from the instruct model; leave the key out (vocabulary: says what to do when "
_OTHERWISE: Mapping[str, str] = {
    "slices": "layers are not cut out and stacked here; if every slice is a whole model, write the models under "
    "models: (filters and gradients give layers values of their own)",
    "modules": "every tensor is merged under its own name; write models: (filters give a tower values of its own)",
    "tokenizer_source": f"{_TOKENIZER}the tokenizers differ)",
    "tokenizer": f"{_TOKENIZER}the tokenizers differ)",
    "chat_template": "the chat template always comes from the instruct model; leave the key out",
    "layer_range": "whole models are merged; leave the key out (filters and gradients give layers values of their own)",
    "lora": "adapters are not applied here; merge the adapter into its model first, and write that folder",
}
"""mergekit's keys that have no place here, each with what is done instead."""


def short(value: object) -> str:
    """A value as Python writes it, cut where it gets long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def nearest(word: object, known: Iterable[str]) -> str:
    """``; did you mean 'weight'?``, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1) if isinstance(word, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""


def unknown_key(key: object, value: object, place: str, known: Iterable[str], spec: MethodSpec | None) -> str:
    """What is wrong with a key that is not known where it stands.

    Args:
        key: The key; YAML allows others than text.
        value: What stands under it.
        place: Where it stands: ``parameters``, ``models[0]``, ``models[0].parameters``, or nothing for the top level.
        known: Keys that are known there.
        spec: The method, if that was understood.
    """
    stands = f"stands under {place}" if place else "stands at the top level"
    if key in _OTHERWISE and not place.endswith("parameters"):
        return f"{key} {stands}: {_OTHERWISE[str(key)]}"
    if home := _home(key, spec):
        return f"{key} = {short(value)} {stands}; it belongs {home}"
    owners = [name for name, other in TABLE.items() if key in other.parameters]
    if owners and spec:
        own = ", ".join(spec.parameters) or "none"
        has = f"{spec.name} has no such parameter ({', '.join(owners)} have it); its own are {own}"
        return f"{key} = {short(value)} {stands}; {has}"
    everywhere = [*known, *TOP_KEYS, *ENTRY_KEYS, *(spec.parameters if spec else ())]
    return f"unknown key {key!r} = {short(value)} {stands}{nearest(key, everywhere)}; known here are {', '.join(known)}"


def _home(key: object, spec: MethodSpec | None) -> str | None:
    """Where this key would be right; None if nowhere."""
    for method in [spec] if spec else TABLE.values():
        if key in method.parameters:
            if method.parameters[str(key)].scope == "global":
                return "under parameters: at the top level"
            return "under parameters: at the top level (for every model) or under models[i].parameters: (for one)"
    if key in TOP_KEYS and key != "parameters":
        return "at the top level"
    return "in an entry of models:" if key in ENTRY_KEYS and key != "parameters" else None
