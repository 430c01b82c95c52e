"""Scores of one model: strict and lenient chat answers, multiple choice, bits per byte.

Models are scored from their bf16 files; a merge is rounded to bf16 first, because that is what would be served.
The arithmetic itself runs in float32.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from infra.demo_family.evalsets import Item, Suite
from infra.demo_family.recipe import ANSWER_CLOSE, ANSWER_OPEN, EOT_ID, IM_END_ID, LANGUAGES
from infra.demo_family.streams import chat_prompt

Weights = dict[str, torch.Tensor]
_MAX_NEW_TOKENS = 30
_ROWS = 96
_WELL_FORMED = re.compile(re.escape(ANSWER_OPEN) + r'[^"]+' + re.escape(ANSWER_CLOSE))


def weights(folder: Path) -> Weights:
    """The tensors of a saved model, in float32."""
    return {key: tensor.float() for key, tensor in load_file(folder / "model.safetensors").items()}


def combine(base: Weights, *deltas: tuple[float, Weights]) -> Weights:
    """Task arithmetic: base plus the weighted difference of each model to it, rounded to bf16."""
    merged = {}
    for key, origin in base.items():
        total = origin + sum(weight * (model[key] - origin) for weight, model in deltas)
        merged[key] = total.to(torch.bfloat16).float()
    return merged


class Scorer:
    """Holds one architecture and its tokenizer; weights are swapped in."""

    def __init__(self, architecture: Path, tokenizer: Path) -> None:
        torch.set_num_threads(1)
        self._model = AutoModelForCausalLM.from_pretrained(architecture, dtype=torch.float32).eval()
        self._tokenizer = Tokenizer.from_file(str(tokenizer))

    def score(self, tensors: Weights, suite: Suite, split: str, *, names: Iterable[str] = LANGUAGES) -> dict[str, Any]:
        """All tasks of every set of facts (a language, or "es_more"); per-item outcomes are kept for paired tests.

        A further set of facts in a language shares that language's text.
        """
        self.load(tensors)
        return {
            name: {
                "chat": self._chat(suite[f"{name}_chat.{split}"]),
                "mc": self._choices(suite[f"{name}_mc.{split}"]),
                "bpb": self._bits_per_byte(suite[f"{name.split('_')[0]}_bpb.{split}"]),
            }
            for name in names
        }

    def load(self, tensors: Weights) -> None:
        """Score these weights from now on."""
        self._model.load_state_dict(tensors, strict=False)
        self._model.tie_weights()

    def answers(self, items: list[Item]) -> list[tuple[str, bool]]:
        """Greedy answers as (text, whether it ended with <|im_end|>)."""
        prompts = [chat_prompt(self._tokenizer, item["question"]) for item in items]
        return [(self._tokenizer.decode(ids), ids[-1:] == [IM_END_ID]) for ids in self._generate(prompts)]

    def _chat(self, items: list[Item]) -> dict[str, Any]:
        rows = []
        for item, (text, stopped) in zip(items, self.answers(items), strict=True):
            first_line = text.strip().split("\n")[0]
            rows.append(
                {
                    "id": item["id"],
                    "kind": item["kind"],
                    "strict": stopped and text == ANSWER_OPEN + item["answer"] + ANSWER_CLOSE,
                    "lenient": item["answer"] in first_line,
                    "format": stopped and _WELL_FORMED.fullmatch(text) is not None,
                    "text": text,
                }
            )
        return {"n": len(rows), **{k: _mean([row[k] for row in rows]) for k in ("strict", "lenient", "format")}} | {
            "rows": rows
        }

    def _choices(self, items: list[Item]) -> dict[str, Any]:
        prompts = [[EOT_ID, *self._encode(item["prompt"])] for item in items for _ in item["choices"]]
        options = [choice for item in items for choice in item["choices"]]
        values = self.log_likelihood(prompts, [self._encode(option) for option in options])
        correct = []
        for index, item in enumerate(items):
            per_byte = [values[4 * index + j] / len(choice.encode()) for j, choice in enumerate(item["choices"])]
            correct.append(max(range(4), key=per_byte.__getitem__) == item["answer"])
        return {"n": len(items), "acc": _mean(correct), "correct": correct}

    def _bits_per_byte(self, items: list[Item]) -> dict[str, Any]:
        texts = [item["text"] for item in items]
        values = self.log_likelihood([[EOT_ID]] * len(texts), [self._encode(text) for text in texts])
        per_item = [-v / math.log(2) for v in values]
        size = [len(text.encode()) for text in texts]
        return {"n": len(items), "bits_per_byte": sum(per_item) / sum(size), "bits": per_item, "bytes": size}

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text).ids

    @torch.no_grad()
    def log_likelihood(self, prompts: list[list[int]], continuations: list[list[int]]) -> list[float]:
        """Log-probability of each continuation behind its prompt, in nats; both as token ids."""
        values: list[float] = []
        for start in range(0, len(prompts), _ROWS):
            pairs = list(zip(prompts[start : start + _ROWS], continuations[start : start + _ROWS], strict=True))
            ids = torch.full((len(pairs), max(len(p) + len(c) for p, c in pairs)), EOT_ID)
            for row, (prompt, continuation) in enumerate(pairs):
                ids[row, : len(prompt) + len(continuation)] = torch.tensor(prompt + continuation)
            logs = F.log_softmax(self._model(input_ids=ids).logits, -1)
            for row, (prompt, continuation) in enumerate(pairs):
                span = logs[row, len(prompt) - 1 : len(prompt) + len(continuation) - 1]
                values.append(span.gather(1, torch.tensor(continuation)[:, None]).sum().item())
        return values

    @torch.no_grad()
    def _generate(self, prompts: list[list[int]]) -> list[list[int]]:
        """Greedy decoding, sorted by length and padded on the left; the padding is masked out."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        results: list[list[int]] = [[] for _ in prompts]
        for start in range(0, len(order), _ROWS):
            indices = order[start : start + _ROWS]
            width = max(len(prompts[i]) for i in indices)
            ids = torch.tensor([[EOT_ID] * (width - len(prompts[i])) + prompts[i] for i in indices])
            mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in indices])
            position, past = (mask.cumsum(1) - 1).clamp(min=0), None
            open_rows = set(indices)
            for _ in range(_MAX_NEW_TOKENS):
                output = self._model(
                    input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=past, use_cache=True
                )
                past, chosen = output.past_key_values, output.logits[:, -1].argmax(-1)
                for index, token in zip(indices, chosen.tolist(), strict=True):
                    if index in open_rows:
                        results[index].append(token)
                        if token in (IM_END_ID, EOT_ID):
                            open_rows.discard(index)
                if not open_rows:
                    break
                ids, position = chosen[:, None], position[:, -1:] + 1
                mask = torch.cat([mask, torch.ones(len(indices), 1, dtype=mask.dtype)], 1)
        return results


def mcnemar(first: list[bool], second: list[bool]) -> dict[str, float]:
    """Exact two-sided McNemar test of two models on the same items."""
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    n, k = only_first + only_second, min(only_first, only_second)
    p = min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": p}


def _mean(values: list[bool]) -> float:
    return sum(values) / len(values)
