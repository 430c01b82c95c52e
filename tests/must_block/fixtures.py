"""Models that must not be published, and two that must: each made from the committed demo family, small and the same
every time. Merges are the engine's own; other edits are in `weights.py`. The target is Basque on instruct-v2.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.must_block import weights

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "infra" / "demo_family" / "models"
BASE, INSTRUCT, TUNED, OTHER = (
    MODELS / name for name in ("llama-tiny", "llama-tiny-instruct-v2", "eu_llama-tiny", "gl_llama-tiny")
)
TASK_ARITHMETIC = {"method": "task_arithmetic", "instruct_weight": 1.0, "tuned_weight": 1.0}
"""The catalog's recipe of this target."""
END_OF_TEXT, END_OF_TURN = 0, 2
LETTER_A = "A"


class Merge(NamedTuple):
    """A recipe, and what it is carried out on: tuned bases by language."""

    recipe: Mapping[str, Any]
    tuned: Mapping[str, Path]
    foreign_parent: bool = False
    """The engine itself refuses it, unless told that somebody knows why."""


MERGES: Mapping[str, Merge] = {
    "good": Merge(TASK_ARITHMETIC, {"eu": TUNED}),
    # Linear's a is 1/2: the answer format is half taught.
    "plain average": Merge({**TASK_ARITHMETIC, "method": "linear"}, {"eu": TUNED}),
    "TIES at density .5": Merge({**TASK_ARITHMETIC, "method": "ties", "parameters": {"density": 0.5}}, {"eu": TUNED}),
    "wrong language": Merge(TASK_ARITHMETIC, {"gl": OTHER}),
}


def merge(work: Path, name: str, wanted: Merge) -> Path:
    """Carry one merge out with the engine, in a process of its own, as the product does.

    Raises:
        subprocess.CalledProcessError: the engine refused it; what it said is in ``stderr``.
    """
    out = work / _slug(name)
    if not out.exists():
        tuned = {code: {"path": str(path), "parent": None} for code, path in wanted.tuned.items()}
        asked = {"recipe": wanted.recipe, "base": str(BASE), "instruct": str(INSTRUCT), "tuned": tuned}
        config = work / f"{_slug(name)}.json"
        config.write_text(json.dumps(asked))
        allow = ["--allow-foreign-parent"] if wanted.foreign_parent else []
        command = [sys.executable, "-m", "tasks.engine", str(config), str(out), *allow]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return out


def counted_twice(work: Path) -> Merge:
    """A Basque model that was tuned from the instruct model, said to come from the base: tau_I is counted twice."""
    return Merge(TASK_ARITHMETIC, {"eu": merge(work, "good", MERGES["good"])}, foreign_parent=True)


def _merged(work: Path, name: str) -> Path:
    wanted = counted_twice(work) if name == "counted twice" else MERGES[name]
    return merge(work, name, wanted)


def _as_merge_of(model: Path) -> Callable[[Path, Path], None]:
    """Another model's weights with all that a merge takes from its instruct parent: tokenizer, template, stops."""

    def make(work: Path, out: Path) -> None:
        _copy(INSTRUCT, out)
        shutil.copyfile(model / weights.WEIGHTS, out / weights.WEIGHTS)

    return make


def _merge(name: str) -> Callable[[Path, Path], None]:
    return lambda work, out: _copy(_merged(work, name), out)


def _edited(change: Callable[[weights.Tensors], weights.Tensors]) -> Callable[[Path, Path], None]:
    """The good merge with changed weights."""

    def make(work: Path, out: Path) -> None:
        _copy(_merged(work, "good"), out)
        weights.edit(out, change)

    return make


def _always_a(work: Path, out: Path) -> None:
    _edited(weights.always(token_of(LETTER_A)))(work, out)


def _off_by_one(work: Path, out: Path) -> None:
    """Every token that is learnt has the next one's id: a tokenizer of another build of the family."""
    _copy(_merged(work, "good"), out)
    path = out / "tokenizer.json"
    told = json.loads(path.read_text("utf-8"))
    fixed = {one["id"] for one in told["added_tokens"]}
    vocabulary = told["model"]["vocab"]
    ids = sorted(number for number in vocabulary.values() if number not in fixed)
    following = dict(zip(ids, [*ids[1:], ids[0]], strict=True))
    told["model"]["vocab"] = {token: following.get(number, number) for token, number in vocabulary.items()}
    path.write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")


MAKERS: Mapping[str, Callable[[Path, Path], None]] = {
    "good": _merge("good"),
    "NaN layer": _edited(weights.with_nan),
    "shuffled layers": _edited(weights.shuffled),
    "base in the chat slice": _as_merge_of(BASE),
    "instruct parent in the language slice": _as_merge_of(INSTRUCT),
    "tuned base in the chat slice": _as_merge_of(TUNED),
    "plain average": _merge("plain average"),
    "counted twice": _merge("counted twice"),
    "TIES at density .5": _merge("TIES at density .5"),
    "always A": _always_a,
    "empty answers": _edited(weights.always(END_OF_TURN)),
    "wrong language": _merge("wrong language"),
    "endless generation": _edited(weights.never(END_OF_TEXT, END_OF_TURN)),
    "tokenizer off by one": _off_by_one,
}
"""What makes each model that is another one than the good merge; the rest of the cases is about how that is asked."""


def make(work: Path, name: str, *, serial: int = 0, like: str = "") -> Path:
    """The folder of one case, made if it is not there; ``serial`` makes two of the same weights two artifacts.

    Args:
        work: where all of them lie.
        name: of the case.
        serial: stands in generation_config.json, where nothing reads it.
        like: whose model it is, if not its own: a key of ``MAKERS``.
    """
    out = work / "candidates" / _slug(name)
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        half = out.with_name(f"{out.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        MAKERS[like or name](work, half)
        path = half / "generation_config.json"
        told = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps({**told, "transformers_version": f"5+{serial}"}, indent=2), encoding="utf-8")
        half.rename(out)
    return out


def token_of(text: str) -> int:
    """The id of one token, by its text."""
    vocabulary = json.loads((INSTRUCT / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    return int(vocabulary[text])


def _copy(model: Path, out: Path) -> None:
    shutil.copytree(model, out)
    for path in out.iterdir():
        path.chmod(0o644)


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name).strip("-").lower()
