"""What can be known of a model before it is downloaded: its listing, its JSON files and its headers."""

import json
from collections.abc import Mapping
from typing import Any

from tasks.domain.errors import ModelRefused
from tasks.domain.models import ModelRef
from tasks.sources.detection import INDEX, SINGLE, complete
from tasks.sources.headers import Header, Tensor
from tasks.sources.protocol import Source

JSON_BYTES = 64 * 1024 * 1024
"""The largest JSON file in use, Gemma 3's tokenizer.json of 262 k tokens, has 33 MB."""


class ModelFacts:
    """One model as far as it can be read. A part that cannot be read is a problem here, and empty."""

    def __init__(self, source: Source, ref: ModelRef) -> None:
        """Read listing, config, index and headers; a repository that is not there is refused at once."""
        self.ref = ref
        self.problems: list[str] = []
        self._source = source
        self._parsed: dict[str, Any] = {}
        self.files = {file.path: file for file in source.files(ref)}
        self.config = _text_config(self.json_object("config.json"))
        self.headers = self._read_headers()
        self.tensors: dict[str, Tensor] = {}
        for header in self.headers:
            self.tensors |= header.tensors

    @property
    def architectures(self) -> tuple[str, ...]:
        """As config.json names them; empty if it names none."""
        stated = self.config.get("architectures")
        return tuple(map(str, stated)) if isinstance(stated, list) else ()

    def json_object(self, path: str) -> dict[str, Any]:
        """A parsed JSON file, read once; empty, with a problem, if it is not there or not a sound object."""
        if path not in self._parsed:
            self._parsed[path] = self._read_json(path)
        found = self._parsed[path]
        return found if isinstance(found, dict) else {}

    def _read_json(self, path: str) -> Any:
        if path not in self.files:
            self.problems.append(f"{path} of {self.ref}: not there")
            return None
        try:
            found = json.loads(self._source.read_small(self.ref, path, JSON_BYTES))
        except ModelRefused as refusal:
            self.problems.append(str(refusal))
            return None
        except (ValueError, RecursionError) as error:
            self.problems.append(f"{path} of {self.ref}: not sound JSON: {error}")
            return None
        if not isinstance(found, dict):
            self.problems.append(f"{path} of {self.ref}: a {type(found).__name__}, expected an object")
        return found

    def _read_headers(self) -> list[Header]:
        index = self.json_object(INDEX) if INDEX in self.files else None
        missing = complete(self.files.values(), index)
        self.problems += [f"weights of {self.ref}: {line}" for line in missing]
        weight_map = _weight_map(index)
        named = {SINGLE} if index is None else set(weight_map.values())
        headers: list[Header] = []
        for shard in sorted(named & self.files.keys()):
            try:
                headers.append(self._source.read_header(self.ref, shard))
            except ModelRefused as refusal:
                self.problems.append(str(refusal))
        if index is not None and not missing and len(headers) == len(named):
            self._check_index(weight_map, headers)
        return headers

    def _check_index(self, weight_map: Mapping[str, str], headers: list[Header]) -> None:
        """Index and headers name the same tensors in the same shards, else two readers see two models."""
        held = {(name, header.path) for header in headers for name in header.tensors}
        promised = set(weight_map.items())
        for pairs, told in ((promised - held, "in the index but not in"), (held - promised, "not in the index but in")):
            if pairs:
                name, shard = min(pairs)
                self.problems.append(f"{INDEX} of {self.ref}: {len(pairs)} tensors, the first {name}, {told} {shard}")


def _weight_map(index: Mapping[str, Any] | None) -> dict[str, str]:
    weight_map = (index or {}).get("weight_map")
    return {str(k): str(v) for k, v in weight_map.items()} if isinstance(weight_map, dict) else {}


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the language model, which multimodal families nest."""
    nested = config.get("text_config")
    return config | nested if isinstance(nested, dict) else config
