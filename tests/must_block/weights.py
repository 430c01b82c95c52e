"""Edits of a small Llama's weights that leave every tensor's name, shape and (but for NaN) size as it was.

So a header, a digest and a look at the norms see nothing: only asking the model shows what is wrong. Deterministic.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"
EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
Tensors = dict[str, torch.Tensor]


def edit(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    """Change the weights of a folder in place."""
    path = folder / WEIGHTS
    changed = {name: tensor.contiguous() for name, tensor in change(load_file(path)).items()}
    path.unlink()  # it may be a link to a file of somebody else's
    save_file(changed, path, metadata={"format": "pt"})


def with_nan(tensors: Tensors) -> Tensors:
    """Every number of the second layer's attention output is NaN, as after an overflow in a merge."""
    name = "model.layers.1.self_attn.o_proj.weight"
    return {**tensors, name: torch.full_like(tensors[name], math.nan)}


def shuffled(tensors: Tensors) -> Tensors:
    """Layers 0, 1, 2 stand as 1, 2, 0."""
    count = len({_layer(name) for name in tensors} - {None})
    return {name: tensors[_renumbered(name, count)] for name in tensors}


def _layer(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[2]) if parts[:2] == ["model", "layers"] else None


def _renumbered(name: str, count: int) -> str:
    number = _layer(name)
    return name if number is None else name.replace(f".{number}.", f".{(number + 1) % count}.", 1)


def always(token: int) -> Callable[[Tensors], Tensors]:
    """The same next token after whatever was said.

    A Llama has no bias, but its last MLP can make one: with gate and up rows +e_i and -e_i the products are
    a * silu(a) and (-a) * silu(-a), whose sum is a^2, and all of them together are the squared length of what comes in,
    which a norm has made constant. Every column of the down projection is then the direction in which the final norm
    finds the token's own row. All three matrices keep their norms.
    """

    def change(tensors: Tensors) -> Tensors:
        width = tensors[EMBEDDING].shape[1]
        mlp = f"model.layers.{_last(tensors)}.mlp"
        gate, down = tensors[f"{mlp}.gate_proj.weight"].float(), tensors[f"{mlp}.down_proj.weight"].float()
        rows = torch.zeros_like(gate)
        place = torch.arange(width)
        rows[place, place], rows[width + place, place] = 1.0, -1.0
        row = tensors[EMBEDDING][token].float()
        toward = (row / tensors[FINAL_NORM].float())[:, None].expand_as(down)
        made = {
            f"{mlp}.gate_proj.weight": rows,
            f"{mlp}.up_proj.weight": rows,
            f"{mlp}.down_proj.weight": toward,
        }
        return tensors | {name: _as_long_as(tensors[name], tensor) for name, tensor in made.items()}

    return change


def never(*tokens: int) -> Callable[[Tensors], Tensors]:
    """Nothing speaks for these tokens: their rows are 0, and so are their logits, which the best one is far above.

    The other way round, a row of -1 times itself, ends answers elsewhere: where it used to be least likely.
    """

    def change(tensors: Tensors) -> Tensors:
        embedding = tensors[EMBEDDING].clone()
        for token in tokens:
            embedding[token] = 0
        return {**tensors, EMBEDDING: embedding}

    return change


def _last(tensors: Tensors) -> int:
    return max(number for name in tensors if (number := _layer(name)) is not None)


def _as_long_as(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    return (new * (old.float().norm() / new.norm())).to(old.dtype)
