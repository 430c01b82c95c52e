"""What a listing tells of a model, read from its files: card, config, parameter totals, tags."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

CONFIG_KEYS = ("architectures", "model_type", "auto_map", "quantization_config")
"""The part of config.json that the real Hub's API repeats, as far as a watcher uses it."""
HEADER_BYTES = 25_000_000
"""The client's own cap on a safetensors header."""


def read_card(files: Mapping[str, Path]) -> dict[str, Any]:
    """The YAML front matter of README.md; empty when there is none or it does not parse, as on the real Hub.

    Args:
        files: path in the repository -> where its bytes are.
    """
    if "README.md" not in files:
        return {}
    lines = files["README.md"].read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in (line.strip() for line in lines[1:]):
        return {}
    end = next(i for i, line in enumerate(lines[1:], start=1) if line.strip() == "---")
    try:
        card = yaml.safe_load("\n".join(lines[1:end]))
    except yaml.YAMLError:
        return {}
    return card if isinstance(card, dict) else {}


def read_config(files: Mapping[str, Path]) -> dict[str, Any]:
    """The told part of config.json; empty when it is missing or broken, since a Hub takes any file."""
    try:
        config = json.loads(files["config.json"].read_bytes())
    except (KeyError, ValueError):
        return {}
    return {key: config[key] for key in CONFIG_KEYS if key in config} if isinstance(config, dict) else {}


def read_safetensors_totals(files: Mapping[str, Path]) -> dict[str, Any] | None:
    """Parameters per dtype and in all, from the headers of the top-level shards; None without readable weights."""
    per_dtype: dict[str, int] = {}
    for path in sorted(files):
        if "/" in path or not path.endswith(".safetensors"):
            continue
        try:
            with files[path].open("rb") as reader:
                (length,) = struct.unpack("<Q", reader.read(8))
                if length > HEADER_BYTES:
                    return None
                header = json.loads(reader.read(length))
            for name, tensor in header.items():
                if name != "__metadata__":
                    per_dtype[tensor["dtype"]] = per_dtype.get(tensor["dtype"], 0) + math.prod(tensor["shape"])
        except (struct.error, ValueError, KeyError, TypeError, AttributeError):
            return None
    return {"parameters": per_dtype, "total": sum(per_dtype.values())} if per_dtype else None


def base_models(card: dict[str, Any]) -> list[str]:
    """``base_model`` of a card, which may be one id or a list."""
    value = card.get("base_model") or []
    return [str(item) for item in (value if isinstance(value, list) else [value])]


def tags_of(card: dict[str, Any], config: dict[str, Any], paths: list[str]) -> list[str]:
    """The tags that the Hub computes: library, format, architecture, lineage, licence and language."""
    tags = [str(card["library_name"])] if "library_name" in card else []
    tags += ["safetensors"] if any(path.endswith(".safetensors") for path in paths) else []
    tags += [str(config["model_type"])] if "model_type" in config else []
    tags += [str(card["pipeline_tag"])] if "pipeline_tag" in card else []
    for key in ("tags", "language"):
        value = card.get(key) or []
        tags += [str(item) for item in (value if isinstance(value, list) else [value])]
    parents = base_models(card)
    relation = card.get("base_model_relation") or ("merge" if len(parents) > 1 else "finetune")
    tags += [f"base_model:{parent}" for parent in parents]
    tags += [f"base_model:{relation}:{parent}" for parent in parents]
    tags += [f"license:{card['license']}"] if "license" in card else []
    return list(dict.fromkeys(tags))
