"""Runs mergekit over every case and stores the goldens. Started by ``make_goldens``, in mergekit's environment.

mergekit draws its masks with ``torch.bernoulli``; here it is handed the masks of our generator instead, for the tensor
and the model that it is working on.
"""

import importlib.metadata
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.merge_methods import generalized_task_arithmetic
from mergekit.options import MergeOptions

from tests.engine.parity import random_numpy
from tests.engine.parity.cases import SEED, Case, all_cases
from tests.engine.parity.golden import FOLDER, Tensor, read_folder, write_golden
from tests.engine.parity.models import ARCHITECTURES, Architecture, write_family

OPTIONS = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)


class Masks:
    """Which tensor and model are being worked on, and how many masks were drawn."""

    def __init__(self) -> None:
        self.tensor = ""
        self.model_index = -1
        self.drawn = 0

    def bernoulli(self, probabilities: torch.Tensor) -> torch.Tensor:
        """The mask of the present tensor and model, in the type of the probabilities."""
        if probabilities.dtype != torch.float32:
            raise TypeError(f"a mask of {self.tensor} was asked for in {probabilities.dtype}, not in float32")
        self.drawn += 1
        flat = probabilities.contiguous().reshape(-1).numpy()
        kept = random_numpy.kept(SEED, self.tensor, self.model_index, flat, flat.size)
        return torch.from_numpy(kept).reshape(probabilities.shape).to(probabilities.dtype)

    @contextmanager
    def given_to_mergekit(self) -> Iterator[None]:
        """In this block mergekit draws our masks: one call of its sparsification is one non-base model, in order."""
        merging = generalized_task_arithmetic.GeneralizedTaskArithmeticMerge
        saved = merging.merge_group, generalized_task_arithmetic.sparsify, torch.bernoulli

        def merge_group(method: Any, group: Any, /, **parameters: Any) -> torch.Tensor:
            self.tensor, self.model_index = name_in_checkpoint(group.metadata.name), -1
            return saved[0](method, group, **parameters)

        def sparsify(*arguments: Any, **keywords: Any) -> torch.Tensor:
            self.model_index += 1
            return saved[1](*arguments, **keywords)

        merging.merge_group, generalized_task_arithmetic.sparsify = merge_group, sparsify
        torch.bernoulli = self.bernoulli
        try:
            yield
        finally:
            merging.merge_group, generalized_task_arithmetic.sparsify, torch.bernoulli = saved


def name_in_checkpoint(name: str) -> str:
    """Transformers 5 renames the router of a Mixtral; the key of a mask is made of the checkpoint's own name."""
    return name.replace(".mlp.gate.weight", ".block_sparse_moe.gate.weight")


def unfused(tensors: dict[str, Tensor], architecture: Architecture, *, experts: bool) -> dict[str, Tensor]:
    """Tensors under the checkpoint's names: fused experts cut apart again, or left out where they cannot be compared."""
    found = {}
    for name, tensor in tensors.items():
        prefix, fused, projection = name.partition(".mlp.experts.")
        if not fused:
            found[name_in_checkpoint(name)] = tensor
            continue
        for number in range(architecture.experts if experts else 0):
            own = f"{prefix}.block_sparse_moe.experts.{number}."
            part = tensor.stored[number]
            if projection == "down_proj":
                found[own + "w2.weight"] = Tensor(tensor.dtype, part)
            else:
                middle = part.shape[0] // 2
                found[own + "w1.weight"] = Tensor(tensor.dtype, part[:middle])
                found[own + "w3.weight"] = Tensor(tensor.dtype, part[middle:])
    return found


def run(case: Case, folders: dict[str, Path], out: Path) -> None:
    """Merge one case and store its golden."""
    masks = Masks()
    configuration = MergeConfiguration.model_validate(case.for_mergekit(folders))
    with masks.given_to_mergekit():
        run_merge(configuration, str(out), OPTIONS)
    random = configuration.merge_method.startswith(("dare", "della")) and "density" in case.text
    if random != bool(masks.drawn):
        raise RuntimeError(f"{case.name}: {masks.drawn} masks were drawn; expected {'some' if random else 'none'}")
    tensors = unfused(read_folder(out), ARCHITECTURES[case.architecture], experts=case.experts)
    write_golden(case.name, case.text, dict(sorted(tensors.items())))


def main() -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.safetensors"):
        old.unlink()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        families = {name: write_family(root, name) for name in ARCHITECTURES}
        for case in all_cases():
            run(case, families[case.architecture], root / "out" / case.name)
    installed = {f"{each.name}=={each.version}" for each in importlib.metadata.distributions()}
    header = f"# Python {sys.version.split()[0]}, {sys.platform}; kernels of torch for {torch.backends.cpu.get_cpu_capability()}\n"
    (FOLDER / "FREEZE.txt").write_text(header + "\n".join(sorted(installed, key=str.lower)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
