"""The files beside the weights: the instruct parent's, always.

An output with the base's files has no chat template and does not know where a turn ends: it talks for ever. That is
what the field's tools produce by default, and what people then repair by hand.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from .checkpoint import Checkpoint, read_json
from .errors import RecipeError
from .merge_config import MergeConfig
from .vocabulary import chat_template

_DONATED = re.compile(
    r"generation_config\.json|special_tokens_map\.json|added_tokens\.json|tokenizer[\w.-]*\.(json|model)|tokenizer"
    r"|vocab\.(json|txt)|merges\.txt|chat_template[\w.-]*\.(jinja|json)|(LICENSE|NOTICE)([.\w-]*(\.txt|\.md)?)?"
)
"""Nothing else is taken: neither code nor optimizer states, nor a README that describes another model."""


def donor_files(folder: Path) -> list[Path]:
    """Files that are copied byte for byte, by name. ``config.json`` is not among them: `donor_config` writes it."""
    return sorted(path for path in folder.iterdir() if path.is_file() and _DONATED.fullmatch(path.name))


def donor_config(folder: Path, out_dtype: str) -> bytes:
    """``config.json`` with the output's dtype, and nothing else changed.

    transformers 4 calls the key torch_dtype, 5 calls it dtype: what is there is set, torch_dtype if neither is.

    Raises:
        CheckpointError: It is not a JSON object.
    """
    config = read_json(folder / "config.json")
    for part in [config, config.get("text_config"), config.get("vision_config")]:
        if isinstance(part, dict):
            part.update({key: out_dtype for key in ("dtype", "torch_dtype") if key in part})
    if "dtype" not in config:
        config["torch_dtype"] = out_dtype
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def find_instruct(config: MergeConfig, opened: Mapping[str, Checkpoint]) -> str:
    """The instruct model of a merge that does not name it: the one with a chat template.

    Where several have one, or none has: the one whose template or ``generation_config.json`` is not the base's.

    Raises:
        RecipeError: None, or more than one; the key `instruct:` then says which.
    """
    base, models = config.base_model, list(dict.fromkeys(entry.model for entry in config.models))
    everyone = list(dict.fromkeys([*models, *([base] if base else [])]))
    if len(everyone) == 1:
        return everyone[0]
    found = [model for model in everyone if chat_template(opened[model].path)]
    if len(found) != 1 and base is not None:
        found = [model for model in models if model != base and _talk(opened[model].path) != _talk(opened[base].path)]
    if len(found) == 1:
        return found[0]
    what = "differs from the base's" if base is not None else "is there at all"
    seen = f"{', '.join(found)} each do" if found else f"none of {', '.join(models)} does"
    raise RecipeError(
        f"{config.where}: which model is the instruct model? Expected one whose chat template or "
        f"generation_config.json {what}; {seen}. Write instruct: FOLDER; configuration, tokenizer and "
        "template come from it"
    )


def _talk(folder: Path) -> tuple[str, object]:
    path = folder / "generation_config.json"
    generation = read_json(path) if path.is_file() else {}
    return chat_template(folder), {key: value for key, value in generation.items() if key != "transformers_version"}
