"""What simulated repositories hold: small files for real, weights as seeded values that can be sampled by range.

A model has two layers of tiny matrices in two shards. A child of a base has the base's values with the last two bits
of each mantissa changed, which is about 0.01 away from it; two models of other seeds are about 1.4 apart, as real
ones of unrelated origin are. Nothing here imports the product: the oracle's digests are its own.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from random import Random
from typing import Any, Literal

SHAPE = (32, 32)
MATRICES = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
SHARD_BYTES = 4_000_000_000
"""As listed: what an 8B model's shards have."""
INDEX = "model.safetensors.index.json"
Label = Literal["good", "unfinished", "lineage", "preflight"]
"""What the generator means by a content; the oracle goes by it."""


@dataclass(frozen=True)
class Blob:
    """One file: its bytes, or for weights the seeds that they are made from."""

    path: str
    data: bytes = b""
    weights: str = ""
    """Seed of a shard's values; "" for a plain file."""
    matters: bool = True
    """Whether it is part of the model's identity, by what DESIGN says: a README is not."""

    @cached_property
    def sha256(self) -> str:
        """Of the bytes, or for weights of what they are made from: as unique."""
        return hashlib.sha256(self.data or f"{self.weights}/{self.path}".encode()).hexdigest()

    @cached_property
    def blob_id(self) -> str:
        """git's sha1."""
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data + self.weights.encode()).hexdigest()


@dataclass(frozen=True)
class Content:
    """The files of a repository at one commit, and what they amount to."""

    blobs: tuple[Blob, ...]
    label: Label
    architecture: str
    parents: tuple[str, ...]
    """That its card names as ``base_model``."""

    @cached_property
    def by_path(self) -> dict[str, Blob]:
        return {blob.path: blob for blob in self.blobs}

    @cached_property
    def identity(self) -> str:
        """Content digest as DESIGN.md defines it, computed here again: sha256 over sorted (path, sha256)."""
        lines = sorted(f"{blob.path}\0{blob.sha256}\n" for blob in self.blobs if blob.matters)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def with_readme(self, text: str) -> "Content":
        """The same model under another card."""
        kept = [blob for blob in self.blobs if blob.path != "README.md"]
        return Content((*kept, _readme(text)), self.label, self.architecture, self.parents)

    def without(self, *paths: str) -> "Content":
        """As it is half way through an upload."""
        kept = tuple(blob for blob in self.blobs if blob.path not in paths)
        return Content(kept, "unfinished", self.architecture, self.parents)


def model(
    seed: str, base: str, *, label: Label = "good", parents: tuple[str, ...] = (), template: str = "v1"
) -> Content:
    """A model trained from the base of seed ``base``; its own seed makes it unlike every other child.

    Args:
        seed: of the values that training has changed; the base itself if it equals ``base``.
        base: seed of the base. Of a label ``lineage`` the values come from elsewhere.
        label: what is wrong with it, if anything is.
        parents: for its card.
        template: names the chat template.
    """
    architecture = "LlamaForCausalLM"
    config: dict[str, Any] = {
        **{"architectures": [architecture], "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"intermediate_size": 32, "vocab_size": 512, "rope_theta": 10000.0, "torch_dtype": "bfloat16"},
    }
    if label == "preflight":
        config["auto_map"] = {"AutoModelForCausalLM": "modeling_own.OwnModel"}
    origin = f"foreign {seed}" if label == "lineage" else base
    blobs = [
        Blob("config.json", _json(config)),
        Blob("generation_config.json", _json({"do_sample": True})),
        Blob("tokenizer.json", _json({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}})),
        Blob("tokenizer_config.json", _json({"chat_template": template})),
        Blob(
            INDEX, _json({"weight_map": {name: SHARDS[name.startswith("model.layers.1")] for name in tensor_names()}})
        ),
        *(Blob(shard, weights=f"{origin}|{seed}") for shard in SHARDS),
        _readme(f"# {seed}"),
    ]
    return Content(tuple(blobs), label, architecture, parents)


def tensor_names() -> list[str]:
    """Of both shards."""
    return [f"model.layers.{layer}.{name}.weight" for layer in range(2) for name in MATRICES]


@lru_cache(maxsize=4096)
def values(seeds: str, tensor: str) -> bytes:
    """One matrix as bfloat16: of ``<origin>|<own seed>``, the origin's values with the own seed's small changes."""
    origin, _, own = seeds.partition("|")
    size = 2 * SHAPE[0] * SHAPE[1]
    base = bytearray(Random(f"{origin}/{tensor}").randbytes(size))
    base[1::2] = base[1::2].translate(_SIGN_AND_EXPONENT)
    if own != origin:
        noise = bytearray(Random(f"{own}/{tensor}").randbytes(size // 2)).translate(_LAST_BITS)
        base[0::2] = bytes(a ^ b for a, b in zip(base[0::2], noise, strict=True))
    return bytes(base)


_SIGN_AND_EXPONENT = bytes((value & 0x80) | 0x3D for value in range(256))
_LAST_BITS = bytes(value & 0x03 for value in range(256))


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _readme(text: str) -> Blob:
    return Blob("README.md", text.encode(), matters=False)
