"""The files beside the weights: the instruct parent's, always.

An output with the base's files has no chat template and does not know where a turn ends: it talks for ever. That is
what the field's tools produce by default, and what people then repair by hand.
"""

import json
import re
from pathlib import Path

from .checkpoint import read_json

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
