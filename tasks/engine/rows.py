"""Tensors that have one row per token, and routers: what is taken from the instruct model whatever the method says."""

import re

from .checkpoint import Checkpoint
from .errors import ConfigMismatch
from .vocabulary import chat_token_ids, read_vocabulary

_TOKEN_TENSORS = (
    "embed_tokens.weight", "lm_head.weight", "wte.weight", "embed_in.weight", "embed_out.weight",
    "word_embeddings.weight", "tok_embeddings.weight",
)  # fmt: skip
"""Endings of the tensors that have one row per token."""

_ROUTERS = re.compile(
    r"\.(mlp|block_sparse_moe|feed_forward|moe)\.(gate|router|router\.layer|shared_expert_gate)\.(weight|bias|wg\.weight)$"
    r"|\.e_score_correction_bias$"
)
"""What decides which experts see a token: Mixtral, Qwen2 and Qwen3 MoE, DeepSeek, GLM, GPT-OSS, OLMoE, Llama 4. (A
dense
MLP has a `gate_proj`, which is none.)"""


def is_token_tensor(name: str) -> bool:
    """Whether it has one row per token."""
    return name.endswith(_TOKEN_TENSORS)


def is_router(name: str) -> bool:
    """Whether it chooses experts."""
    return _ROUTERS.search(name) is not None


def instruct_rows(instruct: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Rows that stay as the instruct model has them, for each tensor with one row per token, ascending.

    Those of the chat template's special tokens: the base and the tuned base never trained them, and averaging
    halves what the instruct model learnt. And those behind the last token, which pad the matrix: nothing has trained
    them anywhere.

    Raises:
        CheckpointError: The model has no chat template, or no tensor with a row per token.
    """
    tensors = [
        (name, spec.shape[0])
        for name, spec in instruct.tensors.items()
        if is_token_tensor(name) and len(spec.shape) == 2
    ]
    if not tensors:
        raise ConfigMismatch(
            f"{instruct.path}: no tensor ends in one of {', '.join(_TOKEN_TENSORS)}, so special_rows: instruct finds "
            "no rows; set special_rows: merge"
        )
    chat, known = chat_token_ids(instruct.path), read_vocabulary(instruct.path)
    found = {}
    for name, height in tensors:
        padding = range(max(known, default=height) + 1, height)
        rows = tuple(sorted({row for row in chat if row < height} | set(padding)))
        if rows:
            found[name] = rows
    return found
