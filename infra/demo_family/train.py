"""Training stages: plain text (base, Basque tuning) and chat (instruct branch).

Muon for the matrices and AdamW for embeddings and norms: at this size Muon decides whether the facts are learned at
all within a few minutes of one core. One thread, a fixed seed and a fixed number of steps make the run repeatable on
the same machine and library versions.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel

from infra.demo_family.recipe import EOT_ID, IM_END_ID, MODEL, ChatStage, Stage
from infra.demo_family.streams import ChatExample

_log = logging.getLogger(__name__)

_WARM_UP = 20
_FLOOR = 0.08  # the learning rate ends at this share of its peak
_IGNORE = -100
_BETAS = (0.9, 0.95)

Batch = tuple[torch.Tensor, torch.Tensor]  # input ids, labels (shifted inside the loss)


def train_text(
    source: Path | None, out: Path, stream: np.ndarray, stage: Stage, *, config: PreTrainedConfig | None = None
) -> None:
    """Train on packed text: from the model in `source`, or from scratch (`source` None) as `config` says.

    Without a `config` the model is the Llama of the recipe.
    """
    _prepare(stage.seed)
    if source is None:
        model = AutoModelForCausalLM.from_config(config or LlamaConfig(**MODEL), dtype=torch.float32)
    else:
        model = _load(source)
    rng = np.random.default_rng(stage.seed)
    batches = _text_batches(stream, stage, rng)
    _fit(model, batches, stage.steps, stage.lr, out.name, anchor=stage.anchor, embeddings=stage.embeddings)
    _save(model, out, eos=EOT_ID)


def train_chat(source: Path, out: Path, examples: list[ChatExample], stream: np.ndarray, stage: ChatStage) -> None:
    """Fine-tune on chat answers, with replay of the ancestor's own text.

    eos becomes [<|im_end|>, <|endoftext|>]: with the ancestor's eos a batched generation runs on after the answer.
    """
    _prepare(stage.seed)
    model = _load(source)
    rng = np.random.default_rng(stage.seed)
    replay = _text_batches(stream, Stage(steps=0, lr=0.0), rng)
    batches = _mixed(_chat_batches(examples[: stage.examples], stage.rows, rng), replay, stage.replay, rng)
    _fit(model, batches, stage.steps, stage.lr, out.name)
    _save(model, out, eos=[IM_END_ID, EOT_ID])


def _prepare(seed: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(seed)


def _load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def _save(model: PreTrainedModel, out: Path, eos: int | list[int]) -> None:
    """bf16, the type that is merged, scored and served."""
    model.config.eos_token_id = model.generation_config.eos_token_id = eos
    model.to(torch.bfloat16).save_pretrained(out)
    for path in out.iterdir():
        path.chmod(0o644)


def _text_batches(stream: np.ndarray, stage: Stage, rng: np.random.Generator) -> Iterator[Batch]:
    count = len(stream) // (stage.width + 1)
    rows = stream[: count * (stage.width + 1)].reshape(count, stage.width + 1)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - stage.rows + 1, stage.rows):
            ids = torch.from_numpy(rows[order[start : start + stage.rows]])
            yield ids, ids


def _chat_batches(examples: list[ChatExample], rows: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Batches of similar length; the loss falls on the answer and its stop token only."""
    while True:
        order = [int(i) for i in rng.permutation(len(examples))]
        batches = []
        for start in range(0, len(order), rows * 8):
            window = sorted(order[start : start + rows * 8], key=lambda i: sum(map(len, examples[i])))
            batches += [window[i : i + rows] for i in range(0, len(window), rows)]
        for index in rng.permutation(len(batches)):
            chosen = [examples[i] for i in batches[index]]
            width = max(len(prompt) + len(answer) for prompt, answer in chosen)
            ids = torch.full((len(chosen), width), EOT_ID)
            labels = torch.full((len(chosen), width), _IGNORE)
            for row, (prompt, answer) in enumerate(chosen):
                ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
                labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
            yield ids, labels


def _mixed(chat: Iterator[Batch], text: Iterator[Batch], share: float, rng: np.random.Generator) -> Iterator[Batch]:
    while True:
        yield next(text) if rng.random() < share else next(chat)


def _fit(
    model: PreTrainedModel,
    batches: Iterator[Batch],
    steps: int,
    peak: float,
    name: str,
    *,
    anchor: float = 0.0,
    embeddings: float = 1.0,
) -> None:
    """Minimise the loss.

    A short delta disturbs less when it is added to another one. So `anchor` pulls every weight back to where it
    started: what no gradient asks for fades. And `embeddings` slows embeddings and norms down: AdamW moves the row of a
    token that the text hardly has at full speed, away from where another branch needs it.
    """
    model.train()
    matrix = {id(p) for key, p in model.named_parameters() if p.ndim == 2 and "embed" not in key}
    params = list(model.parameters())
    optimizers = [
        torch.optim.Muon(
            [p for p in params if id(p) in matrix], lr=peak, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(
            [p for p in params if id(p) not in matrix], lr=peak, betas=_BETAS, weight_decay=0.0, fused=True
        ),
    ]
    origins = [p.detach().clone() for p in params] if anchor else []
    started, losses = time.monotonic(), []
    for step in range(steps):
        rate = peak * min(1.0, (step + 1) / _WARM_UP)
        rate *= _FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for optimizer, share in zip(optimizers, (1.0, embeddings), strict=True):
            optimizer.param_groups[0]["lr"] = share * rate
        losses.append(_step(model, params, optimizers, next(batches)))
        for parameter, origin in zip(params, origins, strict=False):
            parameter.data.lerp_(origin, rate * anchor)
        if step % 50 == 49 or step == steps - 1:
            elapsed = time.monotonic() - started
            _log.info("%s: step %d/%d loss %.3f %.0fs", name, step + 1, steps, np.mean(losses[-50:]), elapsed)


def _step(
    model: PreTrainedModel, params: list[torch.nn.Parameter], optimizers: list[torch.optim.Optimizer], batch: Batch
) -> float:
    ids, labels = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids[:, :-1]).logits
    loss = F.cross_entropy(logits.float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=_IGNORE)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()
