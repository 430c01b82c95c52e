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
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Adapter(NamedTuple):
    """One adapter of a start request that passed `check_adapters`."""

    name: str
    """What requests call it, as ``eu@abcdef123456``."""
    path: Path
    rank: int


def adapter_arguments(adapters: list[Adapter]) -> list[str]:
    """Flags for them; none without adapters. As JSON, since ``name=path`` breaks at a comma in the path."""
    if not adapters:
        return []
    rank = next(rank for rank in RANKS if rank >= max(adapter.rank for adapter in adapters))
    modules = [json.dumps({"name": adapter.name, "path": str(adapter.path)}) for adapter in adapters]
    count = str(len(adapters))
    sizes = ["--max-lora-rank", str(rank), "--max-loras", count, "--max-cpu-loras", count]
    return ["--enable-lora", *sizes, "--lora-modules", *modules]


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
        rank, wrong = _rank_of(path)
        problems += wrong
        if rank is not None and isinstance(name, str):
            found.append(Adapter(name, Path(path), rank))
    return found, problems


def _rank_of(path: Any) -> tuple[int | None, list[str]]:
    """The rank of the adapter in a folder, or every reason why it is not served."""
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
        rank = settings["r"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, [*problems, f"adapter {folder} was refused: no rank `r` in {CONFIG} ({type(error).__name__})"]
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= RANKS[-1]:
        problems.append(f"adapter {folder} was refused: rank {rank!r}; expected 1 to {RANKS[-1]}")
    if settings.get("auto_mapping"):
        problems.append(f"adapter {folder} was refused: its {CONFIG} has 'auto_mapping', which names Python code")
    return (None, problems) if problems else (rank, [])
