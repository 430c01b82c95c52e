"""Do these checkpoints belong together? Configurations, tensors and types, held against the instruct model's.

Only what changes the meaning of the weights counts. ``max_position_embeddings`` does not (Qwen3-8B-Base says 32768,
Qwen3-8B 40960, and they are parent and child); ``rope_theta`` does.
"""

from collections.abc import Mapping
from typing import Any

from .checkpoint import Checkpoint
from .equal import whole_number_problems
from .errors import ConfigMismatch, MergeError, MissingTensor, ShapeMismatch
from .header import TensorSpec
from .rows import is_token_tensor

_COMPARED = (
    "architectures", "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "layer_norm_eps", "vocab_size", "rope_theta",
    "rope_scaling", "sliding_window", "use_sliding_window", "attention_bias", "num_experts", "num_local_experts",
    "num_experts_per_tok", "moe_intermediate_size", "tie_word_embeddings",
)  # fmt: skip


def config_problems(
    instruct: Checkpoint, others: Mapping[str, Checkpoint], vocabulary: str = "refuse"
) -> list[MergeError]:
    """Every difference that matters between the configurations, and everything that no merge can carry.

    Args:
        instruct: The model whose ``config.json`` the output gets.
        others: The other inputs by label: ``tuned base eu``.
        vocabulary: The recipe's policy; all but ``refuse`` allow another number of rows.
    """
    problems: list[MergeError] = []
    for label, checkpoint in {"instruct": instruct, **others}.items():
        if checkpoint.config.get("quantization_config"):
            problems.append(
                ConfigMismatch(
                    f"{checkpoint.path}: {label} is quantized (quantization_config "
                    f"{checkpoint.config['quantization_config']!r}); expected full weights; use the release in bf16"
                )
            )
        if checkpoint.config.get("auto_map"):
            problems.append(
                ConfigMismatch(
                    f"{checkpoint.path}: {label} needs code of its own (auto_map {checkpoint.config['auto_map']!r}); "
                    "expected an architecture that the serving side knows"
                )
            )
    ours = _meaning(instruct)
    for label, checkpoint in others.items():
        theirs = _meaning(checkpoint)
        problems += [
            ConfigMismatch(
                f"{key} is {theirs[key]!r} in {label} ({checkpoint.path / 'config.json'}) and {ours[key]!r} in "
                "instruct; expected the same, or the weights mean something else"
            )
            for key in _COMPARED
            if theirs[key] != ours[key] and (vocabulary == "refuse" or key != "vocab_size")
        ]
    return problems


def _meaning(checkpoint: Checkpoint) -> dict[str, Any]:
    """The compared keys, with what is left unsaid written out, and transformers 4 and 5 spelt alike."""
    config = checkpoint.config
    if "hidden_size" not in config and isinstance(config.get("text_config"), dict):
        config = {**config["text_config"], "architectures": config.get("architectures")}
    meaning = {key: config.get(key) for key in _COMPARED}
    heads = config.get("num_attention_heads")
    meaning["num_key_value_heads"] = config.get("num_key_value_heads") or heads
    hidden = config.get("hidden_size")
    if not meaning["head_dim"] and isinstance(hidden, int) and isinstance(heads, int) and heads:
        meaning["head_dim"] = hidden // heads
    # transformers 5 writes rope_theta and rope_scaling as one rope_parameters.
    stated = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = stated if isinstance(stated, dict) else {"rope_type": stated}
    scaling = {("rope_type" if key == "type" else key): value for key, value in rope.items() if key != "rope_theta"}
    # Left out it means 10000, in every architecture that rotates; older exports of Llama 2 leave it out.
    theta = config.get("rope_theta") or rope.get("rope_theta") or 10000
    meaning["rope_theta"] = float(theta) if isinstance(theta, int) and theta < 2**63 else theta
    # Layers of two kinds have a mapping each: Gemma 3 as transformers 5 writes it.
    of_kinds = any(isinstance(value, dict) for value in scaling.values())
    meaning["rope_scaling"] = scaling if of_kinds or scaling.get("rope_type", "default") != "default" else None
    # Absent means True in some architectures and False in others; then the weights themselves say it.
    if meaning["tie_word_embeddings"] is None:
        meaning["tie_word_embeddings"] = not any(name.startswith("lm_head.") for name in checkpoint.tensors)
    meaning["use_sliding_window"] = bool(config.get("use_sliding_window"))
    meaning["attention_bias"] = bool(config.get("attention_bias"))
    return meaning


def tensor_problems(
    instruct: Checkpoint, others: Mapping[str, Checkpoint], vocabulary: str = "refuse"
) -> list[MergeError]:
    """Every tensor that is missing, extra, of another shape, or of a type that can neither be added nor copied.

    Names are the checkpoint's own and any architecture is welcome; in return nothing is skipped. A head that one input
    stores and another does not is a difference as well, unless it repeats the embeddings (``equal``).
    """
    problems: list[MergeError] = []
    for label, checkpoint in others.items():
        for name in sorted(instruct.tensors.keys() | checkpoint.tensors.keys()):
            ours, theirs = instruct.tensors.get(name), checkpoint.tensors.get(name)
            if theirs is None and ours is not None:
                problems.append(
                    MissingTensor(f"{name} {ours.shape} is in instruct but not in {label} ({checkpoint.path})")
                )
            elif ours is None and theirs is not None:
                problems.append(
                    MissingTensor(f"{name} {theirs.shape} is in {label} ({checkpoint.path}) but not in instruct")
                )
            elif ours is not None and theirs is not None and not _same_shape(ours, theirs, vocabulary):
                problems.append(
                    ShapeMismatch(f"{name} is {theirs.shape} in {label} ({theirs.shard}) but {ours.shape} in instruct")
                )
    return problems + whole_number_problems(instruct, others)


def _same_shape(ours: TensorSpec, theirs: TensorSpec, vocabulary: str) -> bool:
    """Whether two tensors can be merged; rows of tokens may differ in number where a policy says what to do."""
    if vocabulary != "refuse" and is_token_tensor(ours.name):
        return ours.shape[1:] == theirs.shape[1:] and len(ours.shape) == len(theirs.shape)
    return ours.shape == theirs.shape
