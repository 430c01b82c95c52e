"""Identity of model folders, and the lineage that a merge carries with it.

A content digest is sha256 over the sorted (path, sha256) of the files that decide what a model says: weights, config,
tokenizer, template, generation defaults. A README or a licence may change without making a new model.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from tasks.domain.adapters import AdapterRule
from tasks.domain.models import Digest, FileDigest, ModelRef, Noun

MATTERS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "adapter_config.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.*",
    "merges.txt",
)
"""Only files at the top of a model folder count: what a sub-folder holds (``original/``, ``onnx/``) is not served."""


def matters(path: str) -> bool:
    """Whether the file at ``path`` (relative, with ``/``) is part of a model's identity."""
    return "/" not in path and any(fnmatchcase(path, pattern) for pattern in MATTERS)


def content_digest(files: Iterable[FileDigest]) -> Digest:
    """Digest of a model: sha256 over its sorted ``path NUL sha256 LF`` lines, of files that matter.

    Raises:
        ValueError: if no weights are among the files, since every empty folder would then be the same model.
    """
    chosen = sorted((f.path, f.sha256) for f in files if matters(f.path))
    if not any(path.endswith(".safetensors") for path, _ in chosen):
        raise ValueError("no *.safetensors among the files: there is nothing to identify")
    return hashlib.sha256("".join(f"{path}\0{sha}\n" for path, sha in chosen).encode()).hexdigest()


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces, so that equal values hash equally on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def fingerprint(**parts: Any) -> Digest:
    """sha256 of the canonical JSON of ``parts``. Names are part of the hash, so (a=1, b=2) is not (b=1, a=2)."""
    return hashlib.sha256(canonical(parts)).hexdigest()


class Ingredient(Noun):
    """One model that went into a merge."""

    role: str
    """``base``, ``instruct``, ``tuned:eu`` or ``parent:eu``."""
    ref: ModelRef
    digest: Digest


class Lineage(Noun):
    """Where a merged artifact comes from: enough to make it again."""

    family: str
    target: str
    ingredients: tuple[Ingredient, ...]
    recipe: Mapping[str, Any]
    engine_version: str
    """Recorded, not keyed: a new engine alone makes nothing due."""
    adapter: AdapterRule | None = None
    """The language part alone, as an adapter over the instruct model; None for a merge that is a model of its own."""

    def digest_of(self, role: str) -> Digest:
        """The content digest of the ingredient with ``role``; KeyError if there is none."""
        return {i.role: i.digest for i in self.ingredients}[role]

    def ref_of(self, role: str) -> ModelRef:
        """The ModelRef of the ingredient with ``role``; KeyError if there is none."""
        return {i.role: i.ref for i in self.ingredients}[role]


def parent_roles(lineage: Lineage) -> dict[str, Digest]:
    """The parents that a gate compares with: ``instruct`` and ``tuned`` (``tuned:eu``, ... where there are several)."""
    tuned = {i.role: i.digest for i in lineage.ingredients if i.role.startswith("tuned:")}
    if len(tuned) == 1:
        tuned = {"tuned": next(iter(tuned.values()))}
    return {"instruct": lineage.digest_of("instruct"), **tuned}
