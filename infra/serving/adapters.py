"""Adapters that one instance serves over its model: several languages, one set of weights. Fixed for its life.

Each is a folder in PEFT's format and answers under a name of its own. They are named when the instance starts and never
later: loading one over HTTP is switched off (`serving_environment`), since a restart would forget it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
CODE_OR_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py", ".pyc", ".so")
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank."""
MOST = 64
_MODULE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}\Z")
REFUSED_MODULES = {
    "lm_head": "two requests for log-probabilities of their prompts in one batch end vLLM's engine (0.32, on a CPU): "
    "extract it without the output layer"
}
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Adapter(NamedTuple):
    """One adapter of a start request that passed `check_adapters`."""

    name: str
    """What requests call it, as ``eu@abcdef123456``."""
    path: Path
    rank: int
    modules: tuple[str, ...]
    """Ends of the names of the modules that it changes, as ``q_proj``."""


def adapter_arguments(adapters: list[Adapter]) -> list[str]:
    """Flags for them; none without adapters.

    Modules are named, so that no others are wrapped: the output layer ends the engine once it is (`REFUSED_MODULES`).
    There is one place more than adapters: on a CPU, vLLM 0.32 adds what is in the last place to requests for the model
    itself whenever a batch holds both, and so that place must stay empty (run: log-probabilities off by 0.77).
    """
    if not adapters:
        return []
    rank = next(rank for rank in RANKS if rank >= max(adapter.rank for adapter in adapters))
    # As JSON, since ``name=path`` breaks at a comma in the path.
    modules = [json.dumps({"name": adapter.name, "path": str(adapter.path)}) for adapter in adapters]
    places = str(len(adapters) + 1)
    sizes = ["--max-lora-rank", str(rank), "--max-loras", places, "--max-cpu-loras", places]
    targets = sorted({module for adapter in adapters for module in adapter.modules})
    return ["--enable-lora", *sizes, "--lora-target-modules", *targets, "--lora-modules", *modules]


def check_adapters(asked: Any, served_names: list[str]) -> tuple[list[Adapter], list[str]]:
    """The adapters of a request, and every reason why one is refused.

    Args:
        asked: ``[{"name", "path"}]``, as it came over the socket.
        served_names: names that the model itself answers to.
    """
    if not isinstance(asked, list) or len(asked) > MOST:
        return [], [f"adapters {asked!r}: expected a list of at most {MOST} objects with name and path"]
    found: list[Adapter] = []
    problems: list[str] = []
    taken = list(served_names)
    for one in asked:
        if not isinstance(one, dict) or set(one) != {"name", "path"}:
            problems.append(f"adapter {one!r} was refused: expected an object with name and path")
            continue
        name, path = one["name"], one["path"]
        if not isinstance(name, str) or not NAME.fullmatch(name):
            problems.append(f"adapter name {name!r} was refused: expected 1 to 100 letters, digits and . _ @ -")
        elif name in taken:
            problems.append(f"adapter name {name} was refused: it is taken in this request; give each its own")
        else:
            taken.append(name)
        read, wrong = _read(path)
        problems += wrong
        if read is not None and isinstance(name, str):
            found.append(Adapter(name, Path(path), *read))
    return found, problems


def _read(path: Any) -> tuple[tuple[int, tuple[str, ...]] | None, list[str]]:
    """Rank and modules of the adapter in a folder, or every reason why it is not served."""
    if not isinstance(path, str) or not Path(path).is_absolute() or not Path(path).is_dir():
        return None, [f"adapter {path!r} was refused: expected the absolute path of a folder on this host"]
    folder = Path(path)
    files = sorted(file for file in folder.rglob("*") if not file.is_dir())
    problems = [
        f"adapter {folder} was refused: it contains {file.relative_to(folder)}, and {file.suffix} can run code when "
        f"loaded; expected {CONFIG} and {WEIGHTS}"
        for file in files
        if file.suffix.lower() in CODE_OR_PICKLES
    ]
    if not (folder / WEIGHTS).is_file():
        problems.append(f"adapter {folder} was refused: it has no {WEIGHTS}")
    try:
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        rank, modules = settings["r"], settings["target_modules"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = f"no `r` and `target_modules` in {CONFIG} ({type(error).__name__})"
        return None, [*problems, f"adapter {folder} was refused: {said}"]
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= RANKS[-1]:
        problems.append(f"adapter {folder} was refused: rank {rank!r}; expected 1 to {RANKS[-1]}")
    if not isinstance(modules, list) or not modules or not all(_MODULE.match(str(module)) for module in modules):
        problems.append(f"adapter {folder} was refused: target_modules {modules!r}; expected names, as q_proj")
    else:
        problems += [
            f"adapter {folder} was refused: it changes {module}: {why}"
            for module, why in REFUSED_MODULES.items()
            if module in modules
        ]
    if settings.get("auto_mapping"):
        problems.append(f"adapter {folder} was refused: its {CONFIG} has 'auto_mapping', which names Python code")
    return (None, problems) if problems else ((rank, tuple(modules)), [])
