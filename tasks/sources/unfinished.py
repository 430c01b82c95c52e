"""Is an upload under way? Labs push in several commits: weights in batches, then configuration, then the template."""

import json
from typing import Any

from tasks.domain.errors import ModelRefused
from tasks.domain.models import ModelRef
from tasks.sources.detection import INDEX, complete
from tasks.sources.download import FORBIDDEN_SUFFIXES
from tasks.sources.facts import JSON_BYTES
from tasks.sources.protocol import Source

NEEDED = ("config.json", "tokenizer.json")
TEMPLATES = ("chat_template.jinja", "chat_template.json")


def unfinished_parts(source: Source, ref: ModelRef) -> tuple[str, ...]:
    """What a complete instruct release would have and ``ref`` has not, one line each.

    A repository whose weights are in another format is not unfinished: the pre-flight refuses it.

    Raises:
        ModelRefused: the files may not be read.
        HubUnavailable: the source did not answer.
    """
    files = {file.path: file for file in source.files(ref)}
    weights = [path for path in files if path.endswith((".safetensors", *FORBIDDEN_SUFFIXES)) and "/" not in path]
    found: list[str] = []
    if not weights:
        found.append("weights")
    elif any(path.endswith(".safetensors") for path in weights):
        index = _json(source, ref, INDEX) if INDEX in files else None
        found += complete(files.values(), index)
    found += [path for path in NEEDED if path not in files]
    if not any(path in files for path in TEMPLATES):
        settings = _json(source, ref, "tokenizer_config.json") if "tokenizer_config.json" in files else {}
        found += [] if "chat_template" in settings else ["a chat template"]
    if "config.json" in files:
        source.read_small(ref, "config.json", JSON_BYTES)  # listings of gated models are open, their files are not
    return tuple(found)


def _json(source: Source, ref: ModelRef, path: str) -> dict[str, Any]:
    """A parsed file; one that is not sound is refused here and not waited for."""
    try:
        parsed = json.loads(source.read_small(ref, path, JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise ModelRefused(f"{path} of {ref}: not sound JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ModelRefused(f"{path} of {ref}: a {type(parsed).__name__}, expected an object")
    return parsed
