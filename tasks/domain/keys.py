"""The keys that decide what is due. A thing is due when its key has no fact in the ledger.

Shas and the engine's version are recorded beside a fact but are not part of its key: a new commit with the same files,
or a faster engine, makes nothing due (ARCHITECTURE.md, "Identity").
"""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from tasks.domain.adapters import AdapterRule
from tasks.domain.lineage import Lineage, canonical, fingerprint
from tasks.domain.models import Digest
from tasks.engine.recipe import Recipe


def merge_key(lineage: Lineage) -> Digest:
    """Digests of base, parents, tuned bases and instruct; the target; the recipe; what kind of adapter, if it is one.

    The recipe enters by its own digest, which leaves defaults out: a parameter added later makes no stored merge due.
    """
    digests = {i.role: i.digest for i in lineage.ingredients}
    recipe = _recipe_digest(canonical(dict(lineage.recipe)))
    return merge_key_of(lineage.target, digests, recipe, lineage.adapter)


def merge_key_of(
    target: str, ingredients: Mapping[str, Digest], recipe: Digest, adapter: AdapterRule | None = None
) -> Digest:
    """The same from its parts: role -> digest, the recipe's digest, which many merges share, and how it is adapted."""
    more = {"adapter": adapter.model_dump()} if adapter else {}  # left out, so that other merges keep their keys
    return fingerprint(kind="merge", target=target, ingredients=dict(ingredients), recipe=recipe, **more)


@lru_cache(maxsize=1024)
def _recipe_digest(text: bytes) -> Digest:
    """Once for each recipe: a plan asks for the keys of hundreds of releases, and the recipe is most of the work."""
    return Recipe.model_validate(json.loads(text)).digest()


def eval_key(*, artifact: Digest, template: str, serving: Mapping[str, Any], suite: Digest, lm_eval: str) -> Digest:
    """What the measurement of one benchmark depends on.

    Args:
        artifact: content digest of the model that answers.
        template: sha256 of the chat template used, or "" where none is.
        serving: serving image (engine and version), flags, device class.
        suite: digest over the benchmark's YAML, data, shots and the permutation of items.
        lm_eval: version of lm-eval; scores moved between its patch releases (#3508, #3509, #3732).
    """
    return fingerprint(
        kind="eval", artifact=artifact, template=template, serving=dict(serving), suite=suite, lm_eval=lm_eval
    )


def joined_key(parts: Iterable[Digest]) -> Digest:
    """Several measurements of one model, put together: H of their eval_keys. Nothing is stored under it."""
    return fingerprint(kind="evals", parts=sorted(parts))


def verdict_key(*, artifact: Digest, gate: Digest, references: Mapping[str, Digest]) -> Digest:
    """The artifact, the gate file, and the eval_keys' artifacts that it is compared with (parents, live)."""
    return fingerprint(kind="verdict", artifact=artifact, gate=gate, references=dict(references))


def job_key(
    *, family: str, release: Digest, target: str, merge: Digest, gate: Digest, search: Digest | None = None
) -> Digest:
    """One job of ``remerge_release``: this release, this target, this merge, this gate, this search if any."""
    more = {} if search is None else {"search": search}
    return fingerprint(kind="job", family=family, release=release, target=target, merge=merge, gate=gate, **more)
