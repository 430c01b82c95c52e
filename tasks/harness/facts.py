"""What of a model's folder a measurement depends on. Light: flows read it without importing lm-eval (6 s)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tasks.domain.errors import InputError
from tasks.harness.suite import benchmark_digest, lm_eval_version


class Described(NamedTuple):
    """What of a model's folder a measurement depends on."""

    prefix_token_id: int
    max_length: int
    chat_template: bool


def describe(folder: Path, *, prefix_token_id: int | None = None, chat_template: bool | None = None) -> Described:
    """Read what is needed of a model's folder; the arguments override what is found there.

    Raises:
        InputError: if files are missing, or no prefix token or context length is stated.
    """
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} has no {' and no '.join(missing)}; expected a model's folder")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    # Never eos: base and instruct differ there, and the same weights score 2.005 or 2.123 bits per byte by it.
    prefix = config.get("bos_token_id") if prefix_token_id is None else prefix_token_id
    longest = config.get("max_position_embeddings")
    if not isinstance(prefix, int) or not isinstance(longest, int):
        raise InputError(
            f"{folder}/config.json: bos_token_id is {prefix!r}, max_position_embeddings {longest!r}; expected two"
            " numbers. Give prefix_token_id if the family has no bos: the id of its base's <|endoftext|>"
        )
    if chat_template is None:
        path = folder / "tokenizer_config.json"
        stated = path.is_file() and json.loads(path.read_text("utf-8")).get("chat_template")
        chat_template = bool(stated) or (folder / "chat_template.jinja").is_file()
    return Described(prefix, longest, chat_template)


def facts_of(benchmarks: Sequence[str], folder: Path, *, prefix_token_id: int | None = None) -> dict[str, str]:
    """The harness's part of ``Evaluation.facts``; ``judge`` compares all but ``max_length`` and ``chat_template``."""
    described = describe(folder, prefix_token_id=prefix_token_id)
    return {
        "lm_eval": lm_eval_version(),
        "prefix_token_id": str(described.prefix_token_id),
        "max_length": str(described.max_length),
        "chat_template": "server" if described.chat_template else "none",
        **{f"benchmark:{name}": benchmark_digest(name) for name in sorted(benchmarks)},
    }
